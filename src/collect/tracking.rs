//! Connection tracking over netlink: translations and counters (linux/netfilter/nfnetlink_conntrack.h).

use super::proc;
use crate::host::{Tracked, Tracking};
use crate::net::{Endpoint, Protocol};
use crate::netlink::{Attrs, Family, NetlinkError as Error, Socket};
use std::net::IpAddr;

const GET: u16 = 1 << 8 | 1;
const GET_STATS_CPU: u16 = 1 << 8 | 4;

/// A larger table is not listed: that would take too long, and too much memory.
const MANY: u64 = 200_000;

/// `IPS_SEEN_REPLY`.
const REPLIED: u32 = 1 << 1;

/// `CTA_STATS_…` that tell something.
const COUNTERS: [(u16, &str); 6] =
    [(4, "invalid"), (9, "insert_failed"), (10, "drop"), (11, "early_drop"), (12, "error"), (15, "chaintoolong")];

const STATES: [&str; 10] =
    ["NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"];

/// The table; `None` where nothing is tracked. What is not listed is told by the second.
pub(super) fn tracking() -> Result<Option<(Tracking, Option<String>)>, Error> {
    // The kernel would load the module if it were asked for what it does not have: this shows whether it is there.
    let count = proc::read("/proc/sys/net/netfilter/nf_conntrack_count").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let Some(count) = count else { return Ok(None) };
    let mut socket = Socket::open(Family::Netfilter)?;
    let mut table = Tracking { count: Some(count), ..Tracking::default() };
    for message in socket.dump(GET_STATS_CPU, &[0; 4])? {
        let attrs = Attrs::after(&message.body, 4);
        for (kind, name) in COUNTERS {
            table.counted(name, u64::from(attrs.be32(kind).unwrap_or(0)));
        }
    }
    if count > MANY {
        return Ok(Some((table, Some(format!("{count} connections are tracked: too many to list")))));
    }
    table.count = None;
    for message in socket.dump(GET, &[0; 4])? {
        if let Some(connection) = connection(Attrs::after(&message.body, 4)) {
            table.add(connection);
        }
    }
    table.count = table.count.or(Some(0));
    Ok(Some((table, None)))
}

/// Both ends of a tuple, and its protocol.
fn tuple(attrs: Attrs<'_>) -> Option<(Protocol, Endpoint, Endpoint)> {
    let (ip, proto) = (attrs.nested(1), attrs.nested(2));
    let addr = |v4: u16, v6: u16| -> Option<IpAddr> { ip.addr(v4).or_else(|| ip.addr(v6)) };
    let port = |kind: u16| proto.be16(kind).unwrap_or(0);
    Some((Protocol::from(proto.u8(1)?), Endpoint::new(addr(1, 3)?, port(2)), Endpoint::new(addr(2, 4)?, port(3))))
}

fn connection(attrs: Attrs<'_>) -> Option<Tracked> {
    let (protocol, from, to) = tuple(attrs.nested(1))?;
    let (_, answers_from, answers_to) = tuple(attrs.nested(2))?;
    let state = attrs.nested(4).nested(1).u8(1).and_then(|state| STATES.get(usize::from(state)));
    let unreplied = attrs.be32(3).is_some_and(|status| status & REPLIED == 0);
    Some(Tracked { protocol, from, to, answers_from, answers_to, state: state.map(|s| (*s).to_string()), unreplied })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Attributes;

    #[test]
    fn a_translated_connection() {
        let tuple = |src: &str, dst: &str, ports: [u16; 2]| {
            let ip = Attributes::new().addr(1, src.parse().unwrap()).addr(2, dst.parse().unwrap());
            let proto = Attributes::new().u8(1, 6).bytes(2, &ports[0].to_be_bytes()).bytes(3, &ports[1].to_be_bytes());
            Attributes::new().nested(1, &ip).nested(2, &proto)
        };
        let state = Attributes::new().nested(1, &Attributes::new().u8(1, 1));
        let body = Attributes::new()
            .nested(1, &tuple("192.168.2.100", "192.168.2.59", [40000, 80]))
            .nested(2, &tuple("192.168.224.13", "192.168.224.10", [80, 40000]))
            .bytes(3, &0x30_u32.to_be_bytes())
            .nested(4, &state)
            .behind(&[]);
        let found = connection(Attrs::after(&body, 0)).unwrap();
        assert_eq!(
            (found.from.to_string().as_str(), found.answers_to.to_string().as_str()),
            ("192.168.2.100:40000", "192.168.224.10:40000")
        );
        assert_eq!((found.state.as_deref(), found.unreplied, found.is_translated()), (Some("SYN_SENT"), true, true));
        for len in 0..body.len() {
            let _ = connection(Attrs::after(&body[..len], 0));
        }
    }
}
