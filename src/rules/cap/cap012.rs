//! A host that forwards what its capture does not show.

use super::super::{Facts, rule};
use super::{at_most_one, note, points};
use crate::finding::{Evidence, Finding, Outcome};
use crate::net::MacAddr;
use crate::trace::{Flow, Hop, HostId};
use std::collections::BTreeSet;

rule! {
    /// # What it sees
    /// Connections that were served, and whose packets were addressed to the MAC of a host with a capture, which shows other frames of that
    /// time and none of these.
    ///
    /// # Why it breaks
    /// It does not. A datapath in the card or beside the kernel (DPDK, XDP, hardware offload of OVS or of flow tables) forwards packets
    /// that tcpdump never gets. Or the capture had a filter.
    ///
    /// # Confirm it by hand
    /// `ethtool -k IF | grep hw-tc-offload`; `ip link show IF` (xdp); `ovs-appctl dpctl/dump-flows type=offloaded`.
    ///
    /// # Remedy
    /// None. Capture on the hosts before and behind it, or switch the offload off meanwhile.
    ///
    /// # When it is not a fault
    /// Never is it one: the connections were served.
    ///
    /// # Reproduce
    /// An XDP program that forwards; tcpdump on its interface.
    ///
    /// # References
    /// kernel `Documentation/networking/af_xdp.rst`; `net/core/dev.c`: XDP runs before the taps.
    CAP012 "datapath-invisible" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    // The interface of a MAC is known by what was said from it there.
    let said: BTreeSet<(u32, MacAddr)> = facts.trace.claims.claims.iter().map(|c| (c.point, c.mac)).collect();
    let unseen: Vec<(&Flow, &Hop, HostId, u32)> =
        facts.flows().filter(|f| f.state.is_complete()).filter_map(|f| invisible(facts, &said, f)).collect();
    let (_, hop, host, blind) = *unseen.first()?;
    let (name, where_blind) = (facts.name(Some(host)), points(facts, unseen.iter().map(|(.., point)| *point)));
    let summary = format!(
        "{where_blind} shows nothing of connections that went to {name} and were served: a filter, or a datapath outside the kernel."
    );
    let proof = facts.seen_with(hop, &facts.to_whom(hop));
    Some(note(name, summary, proof).and([Evidence::absence(blind, "no packet of it")]).on(unseen.iter().map(|(f, ..)| f.id)))
}

/// A hop towards a host whose own capture, on the interface with that MAC, shows nothing of the flow.
fn invisible<'a>(facts: &Facts<'a>, said: &BTreeSet<(u32, MacAddr)>, flow: &'a Flow) -> Option<(&'a Flow, &'a Hop, HostId, u32)> {
    let hops = || [&flow.request, &flow.reply].into_iter().flat_map(|path| path.hops.iter().chain(&path.strays));
    hops().find_map(|hop| {
        let (host, mac) = (hop.to?, hop.dst_mac?);
        let blind = facts.trace.hosts[host].points.iter().copied().find(|point| {
            said.contains(&(*point, mac)) && facts.is_whole(*point) && facts.covers(*point, hop) && hops().all(|h| h.point != *point)
        })?;
        let elsewhere = hops().all(|h| facts.trace.host_at(h.point) != Some(host));
        elsewhere.then_some((flow, hop, host, blind))
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn a_director_without_frames() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.deny(&CAP012);
        let w = w.blind("director");
        w.expect(&CAP012, Confidence::Certain, "director");
        w.healthy();
    }
}
