//! A forwarder with one arm shows each packet twice.

use super::super::{Facts, rule};
use super::{at_most_one, note, pairs};
use crate::finding::{Finding, Outcome};

rule! {
    /// # What it sees
    /// The same packet twice at one interface: as it arrives, and as the host sends it on, with other MACs, a TTL lower by one, and for NAT
    /// with another address.
    ///
    /// # Why it breaks
    /// It does not: that is how forwarding looks on a host with one interface. It is no retransmission, no duplicate and no loop, although
    /// Wireshark may say so.
    ///
    /// # Confirm it by hand
    /// Compare the MACs of both frames: the first is for the host, the second is from it.
    ///
    /// # Remedy
    /// None.
    ///
    /// # When it is not a fault
    /// Never is it one. A packet that comes back again and again with a smaller TTL is a loop (DR016).
    ///
    /// # Reproduce
    /// Capture on a director for direct routing.
    ///
    /// # References
    /// LVS-HOWTO, "LVS-DR".
    CAP004 "one-arm-double" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let doubles = || {
        pairs(facts).filter(|(_, a, b)| {
            a.point == b.point
                && a.transit != b.transit
                && a.to.is_some()
                && a.to == b.from
                && a.dst_mac.is_some()
                && a.dst_mac == b.src_mac
        })
    };
    let (_, arrives, leaves) = doubles().next()?;
    let name = facts.name(arrives.to);
    let summary = format!("{name} receives and sends on by one interface: each packet stands there twice, which is no retransmission.");
    let proof = facts.seen_with(arrives, &format!("arrives, TTL {}", arrives.ttl));
    let second = facts.seen_with(leaves, &format!("the same packet sent on, TTL {}", leaves.ttl));
    Some(note(name, summary, proof).and([second]).on(doubles().map(|(flow, ..)| flow.id)))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn one_arm_and_two() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w.expect(&CAP004, Confidence::Certain, "director");
        w.healthy();
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.deny(&CAP004);
    }
}
