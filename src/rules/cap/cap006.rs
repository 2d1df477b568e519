//! A VLAN tag that one capture shows and another does not.

use super::super::{Facts, rule};
use super::{at_most_one, note, pairs, points};
use crate::finding::{Finding, Outcome};

rule! {
    /// # What it sees
    /// The same frame with a VLAN tag at one point and without it, or with another one, at the next.
    ///
    /// # Why it breaks
    /// It does not. A VLAN device (`eth0.10`), a switch's access port or the network card takes the tag off; some captures keep it only
    /// beside the packet. A frame without a tag in a capture need not have been untagged on the wire.
    ///
    /// # Confirm it by hand
    /// `ip -d link show` (vlan protocol 802.1Q id N); `ethtool -k IF | grep vlan`.
    ///
    /// # Remedy
    /// None.
    ///
    /// # When it is not a fault
    /// When both ends are meant to be in one VLAN and packets arrive, as here.
    ///
    /// # Reproduce
    /// Capture on `eth0` and on `eth0.10`.
    ///
    /// # References
    /// pcap-filter(7), `vlan`; kernel `net/8021q/vlan_core.c`.
    CAP006 "vlan-stripped" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let changed = || pairs(facts).filter(|(_, a, b)| a.transit == b.transit && a.vlans != b.vlans);
    let (_, a, b) = changed().next()?;
    let tags = |hop: &crate::trace::Hop| match hop.vlans.ids() {
        [] => "no tag".to_string(),
        ids => format!("VLAN {}", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    let both = points(facts, [a.point, b.point]);
    let summary = format!("One of {both} shows the VLAN tag and the other does not: it was taken off on the way, not lost.");
    let proof = facts.seen_with(a, &tags(a));
    Some(
        note(both.clone(), summary, proof)
            .and([facts.seen_with(b, &format!("the same frame, {}", tags(b)))])
            .on(changed().map(|(f, ..)| f.id)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    fn talk(mut w: World) -> World {
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w
    }

    #[test]
    fn a_tag_at_one_end() {
        let w = talk(World::nat().tagged("web1.eth0", 10));
        w.expect(&CAP006, Confidence::Certain, "director.int, web1.eth0");
        w.healthy();
        talk(World::nat()).deny(&CAP006);
        // The tag at both ends is nothing remarkable.
        talk(World::nat().tagged("web1.eth0", 10).tagged("director.int", 10)).deny(&CAP006);
    }
}
