//! The loopback device has lost its own address.

use super::super::facts::{ids, is_initial};
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::net::MacAddr;
use crate::trace::{Flow, Hop, HostId};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// lo has no 127.0.0.1/8. In packets: what a program sends to 127.0.0.1 leaves by the network card, towards the default gateway.
    ///
    /// # Why it breaks
    /// Somebody wrote the virtual address into the file of lo itself (`ifcfg-lo`) instead of one of its own (`ifcfg-lo:0`). Everything
    /// on the host that talks to itself by 127.0.0.1 fails, health checks and databases among them.
    ///
    /// # Confirm it by hand
    /// `ip addr show lo`.
    ///
    /// # Remedy
    /// `ip addr add 127.0.0.1/8 dev lo`, the old contents of ifcfg-lo, and the virtual address in a file of its own.
    ///
    /// # When it is not a fault
    /// A network namespace in which nobody has ever switched lo on.
    ///
    /// # Reproduce
    /// `ip addr del 127.0.0.1/8 dev lo` on a real server.
    ///
    /// # References
    /// The initscripts' sysconfig.txt.
    DR019 "ifcfg-lo-overwritten" check hosts
}

/// Packets to a loopback address on a link: whoever made them has no loopback of his own to send them to.
fn check(facts: &Facts<'_>) -> Outcome {
    let mut lost: BTreeMap<HostId, (Vec<&Flow>, &Hop)> = BTreeMap::new();
    for flow in facts.flows() {
        let left = |hop: &&Hop| hop.dst.addr.is_loopback() && hop.src.addr.is_ipv4() && !hop.src.addr.is_loopback() && is_initial(hop.ttl);
        let on_wire = |hop: &&Hop| hop.dst_mac.is_some_and(|mac| mac != MacAddr::ZERO) && hop.outer.is_none();
        if let Some((hop, host)) = flow.request.hops.iter().filter(left).find(on_wire).and_then(|hop| Some((hop, hop.from?))) {
            lost.entry(host).or_insert_with(|| (Vec::new(), hop)).0.push(flow);
        }
    }
    let found: Vec<Finding> = lost.into_iter().map(|(host, (flows, hop))| sent(facts, host, &flows, hop)).collect();
    Outcome::or_need(found, Some("a snapshot of the real servers".to_string()))
}

fn sent(facts: &Facts<'_>, host: HostId, flows: &[&Flow], hop: &Hop) -> Finding {
    let name = facts.name(Some(host));
    let summary = format!("{name} sends packets for {} to its network: it has no loopback address any more.", hop.dst);
    Finding::new(name, Severity::Degraded, Confidence::Likely, summary, facts.seen_with(hop, &facts.to_whom(hop)))
        .unless(&[], format!("on {name}: `ip addr show lo`, `ip route get {}`", hop.dst.addr))
        .mend([remedy(name)])
        .on(ids(flows))
}

fn remedy(host: &str) -> Remedy {
    Remedy::new(
        host,
        "ip addr add 127.0.0.1/8 dev lo",
        "IPADDR=127.0.0.1 NETMASK=255.0.0.0 in ifcfg-lo, the virtual address in ifcfg-lo:0",
        "ip addr del 127.0.0.1/8 dev lo",
    )
}

/// On any host.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for member in site.fleet.members.iter().filter(|m| m.same_as.is_none()) {
        let host = &member.host;
        let Some(lo) = host.links().iter().find(|l| l.is_loopback() && l.is_up()) else { continue };
        let Some(addresses) = host.addresses.as_ref() else { continue };
        let own = |a: &&crate::host::Address| a.link == lo.name;
        let loopback = addresses.iter().filter(own).any(|a| a.addr.addr().is_loopback() && a.addr.addr().is_ipv4());
        if loopback || !addresses.iter().filter(own).any(|a| a.addr.addr().is_ipv4()) {
            checks.passed(&host.name, "lo has 127.0.0.1");
            continue;
        }
        let summary = "lo has lost 127.0.0.1: what talks to itself on this host fails.";
        checks.failed(
            &host.name,
            proven(host, Severity::Degraded, summary, "no 127.0.0.1/8 on lo", "ip addr show lo").mend([remedy(&host.name)]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    #[test]
    fn packets_for_the_own_loopback_leave() {
        let mut w = World::nat();
        w.talk(&World::tcp("10.2.0.11:50001", "10.2.0.12:3306"), "web1 web2", "web2 web1");
        w.deny(&DR019);
        w.syn(&World::tcp("10.2.0.11:50002", "127.0.0.1:3306"), "web1 director", 3);
        let found = w.expect(&DR019, Confidence::Likely, "web1");
        assert_eq!(found.remedy[0].command, "ip addr add 127.0.0.1/8 dev lo");
    }
}
