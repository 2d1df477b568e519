//! One frame, seen by several devices of one host.

use super::super::{Facts, rule};
use super::{at_most_one, note, pairs, points};
use crate::finding::{Finding, Outcome};

rule! {
    /// # What it sees
    /// The very same frame, with the same MACs and TTL, at several capture points of one host: a bridge and its port, a bond and its slave,
    /// a veth pair's host end, `any`.
    ///
    /// # Why it breaks
    /// It does not. Devices are stacked, and a frame passes each of them. The trace takes them for one place on the way.
    ///
    /// # Confirm it by hand
    /// `ip -d link show`: `master br0`, `master bond0`.
    ///
    /// # Remedy
    /// None; one of the captures is enough.
    ///
    /// # When it is not a fault
    /// Never is it one. The same frame twice at one point is a copy that the capture made.
    ///
    /// # Reproduce
    /// `tcpdump -i br0` and `tcpdump -i eth0` on the host of a bridge.
    ///
    /// # References
    /// kernel `net/core/dev.c`, `__netif_receive_skb_core`: taps before and after the rx handler.
    CAP005 "stacked-device-dup" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let doubles = || {
        pairs(facts).filter(|(_, a, b)| {
            let same_frame = a.transit == b.transit && a.vlans == b.vlans && a.dst_mac.is_some();
            same_frame && a.point != b.point && a.at.is_some() && a.at == b.at && a.at_sender == b.at_sender
        })
    };
    let (_, first, second) = doubles().next()?;
    let name = facts.name(first.at);
    let both = points(facts, [first.point, second.point]);
    let summary = format!("{both} show the same frames: devices of {name} on top of each other, not packets sent twice.");
    Some(note(name, summary, facts.seen(first)).and([facts.seen_with(second, "the same frame")]).on(doubles().map(|(flow, ..)| flow.id)))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn a_bridge_and_its_port() {
        let mut w = World::nat().stacked("web1.eth0", "web1.br0");
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.expect(&CAP005, Confidence::Certain, "web1");
        w.healthy();
        assert_eq!(w.trace().flows[0].method, crate::trace::Method::Nat);
    }

    #[test]
    fn both_ends_of_a_link_are_two_hosts() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.deny(&CAP005);
    }
}
