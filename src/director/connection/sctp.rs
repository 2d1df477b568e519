//! SCTP as the director sees it. `net/netfilter/ipvs/ip_vs_proto_sctp.c`.

use super::Direction;

/// Names by number, as `ipvsadm -lnc` prints them.
pub(super) const NAMES: [&str; 14] = [
    "NONE",
    "INIT1",
    "INIT",
    "C-SENT",
    "C-REPLIED",
    "C-WAIT",
    "COOKIE",
    "C-ECHOED",
    "ESTABLISHED",
    "S-SENT",
    "S-RECEIVED",
    "S-ACK-SENT",
    "REJECTED",
    "CLOSED",
];

pub(super) const ESTABLISHED: u8 = 8;
pub(super) const CLOSED: u8 = 13;

/// `sctp_timeouts`, in seconds.
const TIMEOUTS: [u32; 14] = [2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61];

/// Chunk types (RFC 9260, section 3.2) that begin and abort an association.
pub(super) const INIT: u8 = 1;
pub(super) const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

#[rustfmt::skip]
mod tables {
    const NO: u8 = 0; const I1: u8 = 1; const IN: u8 = 2; const CS: u8 = 3; const CR: u8 = 4; const CW: u8 = 5; const CO: u8 = 6;
    const CE: u8 = 7; const ES: u8 = 8; const SS: u8 = 9; const SR: u8 = 10; const SA: u8 = 11; const RJ: u8 = 12; const CL: u8 = 13;
    const _: u8 = NO;

    /// `sctp_states`: input, output, input only; events in the order of [`super::event`]; the present state.
    pub(super) const STATES: [[[u8; 14]; 10]; 3] = [[
        [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN],
        [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL],
        [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
        [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL],
        [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL],
        [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL],
        [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
    ], [
        [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW],
        [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL],
        [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL],
        [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL],
        [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL],
        [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL],
    ], [
        [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
        [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN],
        [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL],
        [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
        [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL],
        [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
        [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL],
        [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL],
        [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
    ]];
}

/// `sctp_events`: which row of the table a chunk type is.
fn event(chunk: u8) -> usize {
    match chunk {
        1 => 1,  // INIT
        2 => 2,  // INIT ACK
        10 => 3, // COOKIE ECHO
        11 => 4, // COOKIE ACK
        7 => 5,  // SHUTDOWN
        8 => 6,  // SHUTDOWN ACK
        14 => 7, // SHUTDOWN COMPLETE
        9 => 8,  // ERROR
        6 => 9,  // ABORT
        _ => 0,  // DATA, SACK, HEARTBEAT …
    }
}

/// The chunk that counts: an ABORT right behind a COOKIE ECHO or COOKIE ACK goes before it. `segment` begins with the common header.
pub(super) fn deciding_chunk(segment: &[u8]) -> Option<u8> {
    let first = *segment.get(12)?;
    if matches!(first, COOKIE_ECHO | COOKIE_ACK) {
        let len = usize::from(u16::from_be_bytes([*segment.get(14)?, *segment.get(15)?]));
        if len >= 4 && segment.get(12 + len.next_multiple_of(4)) == Some(&ABORT) {
            return Some(ABORT);
        }
    }
    Some(first)
}

pub(super) fn next(state: u8, direction: Direction, chunk: u8) -> u8 {
    tables::STATES[direction as usize][event(chunk)].get(usize::from(state)).copied().unwrap_or(CLOSED)
}

pub(super) fn timeout(state: u8) -> u32 {
    TIMEOUTS.get(usize::from(state)).copied().unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_association_seen_both_ways() {
        use Direction::{Input, Output};
        let events = [(Input, 1), (Output, 2), (Input, 10), (Output, 11)];
        let state = events.iter().fold(0, |state, (direction, chunk)| next(state, *direction, *chunk));
        assert_eq!(NAMES[usize::from(state)], "ESTABLISHED");
        let state = next(next(next(state, Input, 7), Output, 8), Input, 14);
        assert_eq!(NAMES[usize::from(state)], "CLOSED");
    }

    #[test]
    fn an_abort_behind_a_cookie_counts() {
        let mut segment = vec![0; 12];
        segment.extend([10, 0, 0, 5, 0xaa, 0, 0, 0, 6, 0, 0, 4]);
        assert_eq!(deciding_chunk(&segment), Some(ABORT));
        assert_eq!(deciding_chunk(&segment[..20]), Some(10));
        assert_eq!(deciding_chunk(&segment[..12]), None);
    }
}
