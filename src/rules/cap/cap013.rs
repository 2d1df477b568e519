//! A tunnel device shows what is inside.

use super::super::{Facts, rule};
use super::{at_most_one, note, point};
use crate::finding::{Finding, Outcome};
use crate::trace::{Flow, Hop};

rule! {
    /// # What it sees
    /// A packet in its tunnel at a server's interface, and the same packet without MACs and without the outer header at a tunnel device of
    /// that server.
    ///
    /// # Why it breaks
    /// It does not: that is one arrival, seen before and behind the tunnel's end. A packet that is at the interface and not at the tunnel
    /// device was not unpacked (TUN001); one that is at the tunnel device and has no answer was dropped behind it (TUN002).
    ///
    /// # Confirm it by hand
    /// `ip -d link show tunl0`.
    ///
    /// # Remedy
    /// None.
    ///
    /// # When it is not a fault
    /// Never is it one.
    ///
    /// # Reproduce
    /// `tcpdump -i eth0` and `tcpdump -i tunl0` on a real server of LVS-TUN.
    ///
    /// # References
    /// kernel `net/ipv4/ip_tunnel.c`, `ip_tunnel_rcv`.
    CAP013 "tunnel-tap-raw" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let unpacked = || facts.flows().filter_map(|flow| unpacked(flow).map(|(outside, inside)| (flow, outside, inside)));
    let (_, outside, inside) = unpacked().next()?;
    let name = facts.name(inside.at);
    let (before, behind) = (point(facts, outside.point), point(facts, inside.point));
    let summary = format!("{before} and {behind} show one arrival, before and behind the end of the tunnel.");
    Some(note(name, summary, facts.seen(outside)).and([facts.seen_with(inside, "unpacked")]).on(unpacked().map(|(flow, ..)| flow.id)))
}

fn unpacked(flow: &Flow) -> Option<(&Hop, &Hop)> {
    let inside = flow.request.hops.iter().find(|hop| hop.outer.is_none() && hop.dst_mac.is_none() && hop.at.is_some())?;
    let outside = flow.request.hops.iter().find(|hop| hop.outer.is_some() && hop.at == inside.at && hop.at_sender == Some(false))?;
    Some((outside, inside))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ACK, PSH, SYN, SYN_ACK, World};
    use super::*;
    use crate::finding::Confidence;

    fn talk(mut w: World, device: bool) -> World {
        w.who_has("client", "int", "10.2.0.100", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let c = World::tcp("10.2.0.7:40001", "10.2.0.100:80").tunnel("director", 4, "10.2.0.2", "10.2.0.11");
        let there = |w: &mut World, flags: u8, payload: &[u8]| {
            w.carry(&c, false, flags, payload, "client director web1");
            if device {
                w.unpack(&c, flags, payload, "web1.tunl0", 63);
            }
        };
        there(&mut w, SYN, b"");
        w.carry(&c, true, SYN_ACK, b"", "web1 client");
        there(&mut w, ACK, b"");
        there(&mut w, PSH, b"GET /");
        w.carry(&c, true, PSH, b"200 OK", "web1 client");
        w
    }

    fn tunnel() -> World {
        World::new()
            .plug("client.eth0", "int", "10.2.0.7")
            .plug("director.eth0", "int", "10.2.0.100")
            .plug("web1.eth0", "int", "10.2.0.11")
            .plug("web1.tunl0", "inside", "10.2.0.100")
            .bare("web1.tunl0")
    }

    #[test]
    fn two_places_of_one_arrival() {
        let w = talk(tunnel(), true);
        w.expect(&CAP013, Confidence::Certain, "web1");
        w.healthy();
        talk(tunnel(), false).deny(&CAP013);
    }
}
