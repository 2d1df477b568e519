//! TCP as the director sees it: both directions (NAT), or the client's alone (DR, TUN). `net/netfilter/ipvs/ip_vs_proto_tcp.c`.

use super::Direction;
use crate::director::settings::Settings;
use crate::packet::TcpFlags;

/// Names by number, as `ipvsadm -lnc` prints them.
pub(super) const NAMES: [&str; 11] =
    ["NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "SYNACK"];

pub(super) const NONE: u8 = 0;
pub(super) const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
pub(super) const FIN_WAIT: u8 = 4;
pub(super) const TIME_WAIT: u8 = 5;
pub(super) const CLOSE: u8 = 6;
const SYNACK: u8 = 10;

/// `tcp_timeouts`, in seconds.
const TIMEOUTS: [u32; 11] = [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120];

type Table = [[[u8; 11]; 4]; 3];

#[rustfmt::skip]
mod tables {
    use super::Table;
    const NO: u8 = 0; const ES: u8 = 1; const SS: u8 = 2; const SR: u8 = 3; const FW: u8 = 4; const TW: u8 = 5;
    const CL: u8 = 6; const CW: u8 = 7; const LA: u8 = 8; const LI: u8 = 9; const SA: u8 = 10;
    const _: u8 = NO;

    /// `tcp_states`: input, output, input only; SYN, FIN, ACK, RST; the present state.
    pub(super) const USUAL: Table = [[
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
    ], [
        [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
    ], [
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ]];

    /// `tcp_states_dos`, with `secure_tcp`.
    pub(super) const SECURE: Table = [[
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA],
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA],
        [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ], [
        [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA],
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
    ], [
        [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA],
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ]];
}

/// The state after a segment. A segment without any of the four flags closes (`set_tcp_state`).
pub(super) fn next(state: u8, direction: Direction, flags: TcpFlags, settings: &Settings) -> u8 {
    let event = if flags.has(TcpFlags::RST) {
        3
    } else if flags.has(TcpFlags::SYN) {
        0
    } else if flags.has(TcpFlags::FIN) {
        1
    } else if flags.has(TcpFlags::ACK) {
        2
    } else {
        return CLOSE;
    };
    let table = if settings.secure_tcp { &tables::SECURE } else { &tables::USUAL };
    table[direction as usize][event].get(usize::from(state)).copied().unwrap_or(CLOSE)
}

/// Seconds that a connection may stay in `state` without a packet.
pub(super) fn timeout(state: u8, settings: &Settings) -> u32 {
    match state {
        ESTABLISHED => settings.timeouts[0],
        FIN_WAIT => settings.timeouts[1],
        other => TIMEOUTS.get(usize::from(other)).copied().unwrap_or(2),
    }
}

/// True when a connection in `state` counts as active (`tcp_state_active`).
pub(super) fn is_active(state: u8, settings: &Settings) -> bool {
    state == ESTABLISHED || settings.kernel.counts_half_open() && matches!(state, SYN_SENT | SYN_RECV | SYNACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(direction_and_flags: &[(Direction, TcpFlags)]) -> &'static str {
        let settings = Settings::default();
        let state = direction_and_flags.iter().fold(NONE, |state, (direction, flags)| next(state, *direction, *flags, &settings));
        NAMES[usize::from(state)]
    }

    #[test]
    fn life_of_a_connection_seen_both_ways() {
        use Direction::{Input, Output};
        let (syn, ack, fin, rst) = (TcpFlags::SYN, TcpFlags::ACK, TcpFlags(0x11), TcpFlags::RST);
        let mut events = vec![(Input, syn)];
        assert_eq!(walk(&events), "SYN_RECV");
        events.push((Output, TcpFlags(0x12)));
        assert_eq!(walk(&events), "SYN_RECV");
        events.push((Input, ack));
        assert_eq!(walk(&events), "ESTABLISHED");
        let open = events.clone();
        events.push((Input, fin));
        assert_eq!(walk(&events), "CLOSE_WAIT");
        events.push((Output, fin));
        assert_eq!(walk(&events), "TIME_WAIT");
        let mut events = open.clone();
        events.push((Output, fin));
        assert_eq!(walk(&events), "FIN_WAIT");
        events.push((Input, fin));
        assert_eq!(walk(&events), "TIME_WAIT");
        let mut events = open;
        events.push((Input, rst));
        assert_eq!(walk(&events), "CLOSE");
        assert_eq!(walk(&[(Input, syn), (Input, rst)]), "SYN_RECV");
        assert_eq!(walk(&[(Input, syn), (Output, rst)]), "CLOSE");
    }

    #[test]
    fn life_of_a_connection_seen_one_way() {
        use Direction::InputOnly;
        let (syn, ack, fin) = (TcpFlags::SYN, TcpFlags::ACK, TcpFlags(0x11));
        assert_eq!(walk(&[(InputOnly, syn), (InputOnly, ack)]), "ESTABLISHED");
        assert_eq!(walk(&[(InputOnly, syn), (InputOnly, ack), (InputOnly, fin)]), "FIN_WAIT");
        assert_eq!(walk(&[(InputOnly, syn), (InputOnly, ack), (InputOnly, fin), (InputOnly, ack)]), "FIN_WAIT");
    }

    #[test]
    fn half_open_counts_since_4_8() {
        let mut settings = Settings::default();
        assert!(is_active(SYN_RECV, &settings) && !is_active(TIME_WAIT, &settings));
        settings.kernel = crate::director::settings::Kernel::new(4, 7);
        assert!(!is_active(SYN_RECV, &settings) && is_active(ESTABLISHED, &settings));
    }
}
