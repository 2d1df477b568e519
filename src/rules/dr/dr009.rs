//! A static neighbour entry that is out of date.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::net::MacAddr;
use crate::trace::{Claim, Flow, Hop};
use std::collections::BTreeMap;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// Frames for a real server carry another MAC than the one that the real server itself claims. Nobody answers them, and their sender
    /// never asks who has that address.
    ///
    /// # Why it breaks
    /// A permanent neighbour entry (`arp -s`, `ip neigh … nud permanent`) is never checked. After the real server's network card was
    /// exchanged, frames go to a MAC that no longer exists.
    ///
    /// # Confirm it by hand
    /// On the sender: `ip neigh show RIP` says PERMANENT; compare with `ip link` on the real server.
    ///
    /// # Remedy
    /// Delete the entry, or correct it. The need for such entries usually has a better cure (DR008).
    ///
    /// # When it is not a fault
    /// Never while frames go nowhere.
    ///
    /// # Reproduce
    /// A healthy service; on the director `ip neigh replace RIP lladdr 02:00:00:00:00:01 nud permanent dev eth0`.
    ///
    /// # References
    /// ip-neighbour(8); arp(7).
    DR009 "static-neighbour-stale" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut stale: BTreeMap<(IpAddr, MacAddr), (Vec<&Flow>, &Hop, &Claim)> = BTreeMap::new();
    for flow in facts.flows().filter(|f| f.director.is_some() && !f.state.is_complete()) {
        let Some((hop, addr)) = handed(flow) else { continue };
        let Some(mac) = hop.dst_mac.filter(|mac| mac.is_unicast()) else { continue };
        let claims = || facts.trace.claims.claims.iter().filter(|c| c.addr == addr && c.is_earnest());
        let silent = flow.reply.is_empty() && !facts.trace.claims.claims.iter().any(|c| c.mac == mac);
        let asked = facts.trace.claims.questions.iter().any(|q| q.target == addr && Some(q.mac) == hop.src_mac);
        if let Some(claim) = claims().next().filter(|_| silent && !asked && claims().all(|c| c.mac != mac)) {
            stale.entry((addr, mac)).or_insert_with(|| (Vec::new(), hop, claim)).0.push(flow);
        }
    }
    let finding = |((addr, mac), (flows, hop, claim)): ((IpAddr, MacAddr), (Vec<&Flow>, &Hop, &Claim))| {
        let name = facts.name(hop.from);
        let summary = format!("{name} sends packets for {addr} to {mac}; that address is at {}.", claim.mac);
        Finding::new(name, Severity::Broken, Confidence::Certain, summary, facts.seen_with(hop, &format!("to {mac}")))
            .and([facts.claim(claim)])
            .mend([Remedy::new(
                name,
                format!("ip neigh del {addr} dev IF"),
                "remove the static entry from the start-up files",
                format!("ip neigh replace {addr} lladdr {mac} nud permanent dev IF"),
            )])
            .on(ids(&flows))
    };
    stale.into_iter().map(finding).collect::<Vec<_>>().into()
}

/// The hop by which the director handed a request on, and the address that the frame is for: the real server's.
fn handed(flow: &Flow) -> Option<(&Hop, IpAddr)> {
    let hop = flow.request.sent_by(flow.director?)?;
    let translated = flow.vip.is_some_and(|vip| vip.addr != hop.dst.addr);
    let addr = hop.outer.map(|(_, _, dst)| dst).or(translated.then_some(hop.dst.addr));
    Some((hop, addr?))
}

/// On hosts: what somebody typed in against the cards that there are.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for member in site.fleet.members.iter().filter(|m| m.same_as.is_none()) {
        let host = &member.host;
        for entry in host.neighbours.iter().flatten().filter(|n| n.is_static()) {
            let (Some(mac), owners) = (entry.mac, site.fleet.owners(entry.addr)) else { continue };
            if owners.is_empty() {
                checks.needs(&host.name, format!("a snapshot of {}, which has a static entry", entry.addr));
                continue;
            }
            let macs: Vec<crate::net::MacAddr> = owners.iter().flat_map(|at| site.host(*at).links()).filter_map(|l| l.mac).collect();
            if macs.is_empty() || macs.contains(&mac) {
                checks.passed(&host.name, format!("static entry of {} is right", entry.addr));
                continue;
            }
            let owner = site.host(owners[0]);
            let right = owner.address(entry.addr).and_then(|a| owner.link(&a.link)?.mac).map_or("MAC".to_string(), |m| m.to_string());
            let summary = format!("{} is typed in at {mac}; {} is at {right}: packets for it go nowhere.", entry.addr, owner.name);
            let ip = super::super::remedy::ip_for(&entry.addr.to_string());
            let line = |mac: &str| format!("{ip} neigh replace {} lladdr {mac} dev {} nud permanent", entry.addr, entry.link);
            let remedy = crate::finding::Remedy::new(
                &host.name,
                line(&right),
                "the same where the entry is made at boot (/etc/ethers, rc.local); better none at all",
                line(&mac.to_string()),
            );
            let found = proven(
                host,
                Severity::Broken,
                summary,
                format!("{} lladdr {mac} PERMANENT", entry.addr),
                format!("ip neigh show {}", entry.addr),
            )
            .and([crate::finding::Evidence::host(&owner.name, right, "ip link")])
            .mend([remedy]);
            checks.failed(&host.name, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    #[test]
    fn frames_go_to_a_mac_that_is_no_more() {
        let mut w = World::nat().plug("gone.eth0", "int", "10.2.0.99");
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.who_has("web1", "int", "10.2.0.1", &["director"]);
        w.syn(&c, "client director gone", 3);
        let w = w.without(&["gone"]);
        let found = w.expect(&DR009, Confidence::Certain, "director");
        assert!(found.remedy[0].command.starts_with("ip neigh del 10.2.0.11"));
    }

    #[test]
    fn frames_to_the_claimed_mac_are_right() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.who_has("web1", "int", "10.2.0.1", &["director"]);
        w.syn(&c, "client director web1", 3);
        w.deny(&DR009);
    }
}
