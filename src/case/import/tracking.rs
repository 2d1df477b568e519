//! What `conntrack -L` prints.

use crate::host::{Tracked, Tracking};
use crate::net::{Endpoint, Protocol};
use std::net::IpAddr;

/// Reads the table; lines that are no connection are passed over.
pub(super) fn tracking(text: &str) -> Tracking {
    let mut table = Tracking { count: Some(0), ..Tracking::default() };
    text.lines().filter_map(connection).for_each(|connection| table.add(connection));
    table
}

/// `tcp 6 112 TIME_WAIT src=… dst=… sport=… dport=… [UNREPLIED] src=… dst=… sport=… dport=… [ASSURED] mark=0 use=1`, perhaps behind the
/// family, as /proc/net/nf_conntrack has it.
fn connection(line: &str) -> Option<Tracked> {
    let mut words = line.split_whitespace().peekable();
    if matches!(words.peek(), Some(&("ipv4" | "ipv6"))) {
        words.nth(1);
    }
    words.next()?;
    let protocol = Protocol::from(words.next()?.parse::<u8>().ok()?);
    let (mut ends, mut state, mut unreplied): (Vec<(IpAddr, u16)>, _, _) = (Vec::new(), None, false);
    for word in words {
        match word.split_once('=') {
            Some(("src" | "dst", addr)) => ends.push((addr.parse().ok()?, 0)),
            // Ports follow their addresses, both of them.
            Some(("sport", port)) => ends.iter_mut().rev().nth(1)?.1 = port.parse().ok()?,
            Some(("dport", port)) => ends.last_mut()?.1 = port.parse().ok()?,
            Some(_) => {}
            None if word == "[UNREPLIED]" => unreplied = true,
            None if ends.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c == '2') && word.len() > 3 => {
                state = Some(word.to_string());
            }
            None => {}
        }
    }
    let [from, to, answers_from, answers_to] = ends[..] else { return None };
    let end = |(addr, port)| Endpoint::new(addr, port);
    Some(Tracked { protocol, from: end(from), to: end(to), answers_from: end(answers_from), answers_to: end(answers_to), state, unreplied })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_conntrack_lists() {
        let text = "tcp      6 112 TIME_WAIT src=192.168.2.100 dst=192.168.2.59 sport=41046 dport=80 src=192.168.224.13 dst=192.168.224.10 sport=80 dport=1041 [ASSURED] mark=0 use=1\n\
            udp      17 29 src=10.0.0.7 dst=10.0.0.13 sport=4000 dport=53 [UNREPLIED] src=10.0.0.13 dst=10.0.0.7 sport=53 dport=4000 mark=0 use=1\n\
            ipv6     10 tcp      6 299 ESTABLISHED src=2001:db8::7 dst=2001:db8::13 sport=4000 dport=80 src=2001:db8::13 dst=2001:db8::7 sport=80 dport=4000 [ASSURED] use=2\n\
            conntrack v1.4.7 (conntrack-tools): 3 flow entries have been shown.\n";
        let table = tracking(text);
        assert_eq!((table.count, table.connections.len()), (Some(3), 2), "one is neither translated nor unanswered");
        let [nat, udp] = &table.connections[..] else { panic!() };
        assert_eq!((nat.answers_to.to_string().as_str(), nat.state.as_deref()), ("192.168.224.10:1041", Some("TIME_WAIT")));
        assert_eq!((udp.protocol, udp.unreplied, udp.state.as_deref()), (Protocol::Udp, true, None));
        assert_eq!(tracking("tcp 6 src=nonsense").count, Some(0));
    }
}
