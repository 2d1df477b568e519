//! Captures without destination MACs.

use super::super::{Facts, rule};
use super::{at_most_one, note, paths, points};
use crate::finding::{Finding, Outcome};
use crate::packet::LinkType;

rule! {
    /// # What it sees
    /// Cooked captures (`tcpdump -i any`): their frames have the sender's MAC and no receiver's.
    ///
    /// # Why it breaks
    /// It does not, but with direct routing the destination MAC is all that a director changes. Without it the trace goes by addresses, TTLs
    /// and directions alone, and cannot say which host a frame was for.
    ///
    /// # Confirm it by hand
    /// `tcpdump -r FILE -c 1` says `link-type LINUX_SLL` or `LINUX_SLL2`.
    ///
    /// # Remedy
    /// Capture on each interface by its name: `tcpdump -i eth0 -w HOST.eth0.pcap`, or `lvscope capture -i eth0 -i eth1`.
    ///
    /// # When it is not a fault
    /// For NAT and tunnels addresses tell enough.
    ///
    /// # Reproduce
    /// `tcpdump -i any -w director.pcap`.
    ///
    /// # References
    /// www.tcpdump.org/linktypes: LINKTYPE_LINUX_SLL, LINKTYPE_LINUX_SLL2.
    CAP003 "any-device-cooked" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let is_cooked = |point: u32| {
        facts.trace.points.get(point as usize).is_some_and(|p| matches!(p.link_type, LinkType::LINUX_SLL | LinkType::LINUX_SLL2))
    };
    let hops = || paths(facts).flat_map(|(flow, path)| path.hops.iter().chain(&path.strays).map(move |hop| (flow, hop)));
    let mut cooked = hops().filter(|(_, hop)| is_cooked(hop.point) && hop.dst_mac.is_none());
    let (_, hop) = cooked.next()?;
    let where_seen = points(facts, hops().filter(|(_, hop)| is_cooked(hop.point)).map(|(_, hop)| hop.point));
    let summary = format!("{where_seen}: captured with -i any, so no frame says which MAC it was for; direct routing hardly shows.");
    let flows = hops().filter(|(_, hop)| is_cooked(hop.point)).map(|(flow, _)| flow.id);
    Some(note(where_seen.clone(), summary, facts.seen_with(hop, "no destination MAC")).on(flows))
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
    fn cooked_frames() {
        let w = talk(World::nat().cooked("director.ext").cooked("director.int"));
        w.expect(&CAP003, Confidence::Certain, "director.ext, director.int");
        w.healthy();
        assert_eq!(w.trace().flows[0].real_server.map(|rs| rs.to_string()).as_deref(), Some("10.2.0.11:80"));
        talk(World::nat()).deny(&CAP003);
    }
}
