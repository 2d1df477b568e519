//! Each slave of a bond shows a part.

use super::super::{Facts, rule};
use super::{at_most_one, note, paths, points};
use crate::finding::{Finding, Outcome};
use crate::net::MacAddr;
use crate::trace::{Flow, Hop, HostId};
use std::collections::{BTreeMap, BTreeSet};

rule! {
    /// # What it sees
    /// Frames between the same two MACs at two capture points of one host: some only at one, some only at the other, none at both.
    ///
    /// # Why it breaks
    /// It does not. A bond spreads connections over its slaves, and an answer may come by another slave than its question. A capture on one
    /// slave alone shows half of the connections, or half of each, and looks like loss.
    ///
    /// # Confirm it by hand
    /// `cat /proc/net/bonding/bond0`; `ip link show master bond0`.
    ///
    /// # Remedy
    /// Capture on the bond itself (`tcpdump -i bond0`), or on all of its slaves.
    ///
    /// # When it is not a fault
    /// Never is it one.
    ///
    /// # Reproduce
    /// A bond with two slaves in balance-xor or 802.3ad; capture on each.
    ///
    /// # References
    /// kernel `Documentation/networking/bonding.rst`, xmit_hash_policy.
    CAP014 "bond-slave-half" check
}

/// A flow, and where it was seen.
type Seen<'a> = (&'a Flow, &'a Hop);

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let mut links: BTreeMap<(HostId, MacAddr, MacAddr), Vec<Seen<'_>>> = BTreeMap::new();
    for (flow, path) in paths(facts) {
        for hop in path.hops.iter().filter(|hop| hop.at_sender.is_some()) {
            if let (Some(host), Some(src), Some(dst)) = (hop.at, hop.src_mac, hop.dst_mac) {
                links.entry((host, src.min(dst), src.max(dst))).or_default().push((flow, hop));
            }
        }
    }
    let (host, hops, first, second) = links.iter().find_map(|((host, ..), hops)| split(hops).map(|(a, b)| (*host, hops, a, b)))?;
    let (name, slaves) = (facts.name(Some(host)), points(facts, hops.iter().map(|(_, hop)| hop.point)));
    let summary = format!("{slaves} share the frames of {name} between them, like slaves of a bond: only together they are complete.");
    let other = facts.seen_with(second, "between the same MACs, at the other device only");
    Some(note(name, summary, facts.seen(first)).and([other]).on(hops.iter().map(|(flow, _)| flow.id)))
}

/// Two hops of one link at different points, if no packet of that link was seen at both.
fn split<'a>(hops: &[Seen<'a>]) -> Option<(&'a Hop, &'a Hop)> {
    let first = hops.first()?.1;
    let second = hops.iter().map(|(_, hop)| *hop).find(|hop| hop.point != first.point && hop.vlans == first.vlans)?;
    let mut seen: BTreeMap<(u32, MacAddr, u8), BTreeSet<u32>> = BTreeMap::new();
    for (flow, hop) in hops {
        // One direction of a flow with one TTL: the same packet.
        seen.entry((flow.id, hop.src_mac?, hop.ttl)).or_default().insert(hop.point);
    }
    seen.values().all(|points| points.len() == 1).then_some((first, second))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn answers_come_by_the_other_slave() {
        let mut w = World::nat().bonded("director.int", "director.slave2");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        for port in 40001..40005 {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
            w.talk(&c, "client director web1", "web1 director client");
        }
        w.expect(&CAP014, Confidence::Certain, "director");
        w.healthy();
    }

    #[test]
    fn one_interface_and_a_bridge() {
        let mut w = World::nat().stacked("director.int", "director.br0");
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.deny(&CAP014);
    }
}
