//! Frames for others.

use super::super::{Facts, rule};
use super::{at_most_one, note, points};
use crate::finding::{Evidence, Finding, Outcome};

rule! {
    /// # What it sees
    /// Frames at a host's interface whose destination MAC is another host's, and whose source is not its own either.
    ///
    /// # Why it breaks
    /// It does not. A switch or bridge that has not learnt a MAC yet sends the frame to all ports, and a capture in promiscuous mode shows
    /// it. The host did not receive it: its kernel throws it away. Such sightings are no hops of a packet's way.
    ///
    /// # Confirm it by hand
    /// Compare the frame's destination MAC with `ip link show IF`.
    ///
    /// # Remedy
    /// None. `tcpdump -p` leaves them out on most interfaces.
    ///
    /// # When it is not a fault
    /// Seldom is it one: all frames of a host flooded all the time mean that its switch never learns its MAC, because it only receives
    /// (unicast flooding).
    ///
    /// # Reproduce
    /// The first packet to a host over a bridge that has just been made.
    ///
    /// # References
    /// IEEE 802.1D, 7.7: flooding; kernel `net/bridge/br_forward.c`, `br_flood`.
    CAP008 "promiscuous-otherhost" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let flooded = || facts.flows().filter_map(|f| f.flooded_at.map(|(point, frame, time)| (f, point, frame, time)));
    let (flow, point, frame, time) = flooded().next()?;
    let where_seen = points(facts, flooded().map(|(_, point, ..)| point));
    let summary = format!("{where_seen} also shows frames for other hosts: flooded by a bridge, not received.");
    let what = format!("a frame of {} > {} for another MAC than this host's", flow.client, flow.service);
    let more = flooded().find(|(_, other, ..)| *other != point);
    let more = more.map(|(_, point, frame, time)| Evidence::frame(point, frame, time, "and here"));
    Some(note(where_seen.clone(), summary, Evidence::frame(point, frame, time, what)).and(more).on(flooded().map(|(f, ..)| f.id)))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    fn talk(mut w: World) -> World {
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.who_has("director", "int", "10.2.0.12", &["web2"]);
        for (port, web) in [(40001, 1), (40002, 2)] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("10.2.0.1{web}:80"));
            w.talk(&c, &format!("client director web{web}"), &format!("web{web} director client"));
        }
        w
    }

    #[test]
    fn a_bridge_that_floods() {
        let w = talk(World::nat().flooding("int"));
        let found = w.expect(&CAP008, Confidence::Certain, "web1.eth0, web2.eth0");
        assert_eq!(found.flows, [1, 2]);
        w.healthy();
        assert_eq!(w.trace().flows[0].request.hops.len(), 4, "no hop of the way");
        talk(World::nat()).deny(&CAP008);
    }
}
