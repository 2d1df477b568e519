//! The VIP on `lo` has another mask than /32.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{DIRECT, answered_directly, vip};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::Role;
use crate::net::MacAddr;
use crate::trace::{ClaimKind, Flow, Hop, HostId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// One of three. Requests from hosts within the prefix (a router that translates sources, the director's checks) arrive and get no
    /// answer, while hosts further away are served. The answer appears on the real server's own `lo`. Or the real server answers ARP for
    /// addresses that belong to its neighbours.
    ///
    /// # Why it breaks
    /// An address on `lo` makes its whole prefix local: with /24 the real server takes every address of the network for its own. Packets to
    /// its neighbours never leave; with `arp_ignore=0` it even answers ARP for all of them. With `rp_filter` on it stops answering ARP.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip addr show dev lo`, `ip route show table local | grep -v /32`. A default route added later says `dev lo`.
    ///
    /// # Remedy
    /// The VIP with /32: delete it, add it with /32, and put the default route back on the interface.
    ///
    /// # When it is not a fault
    /// A whole network on `lo` on purpose, for a transparent cache.
    ///
    /// # Reproduce
    /// A DR service behind a router that translates sources; the VIP with /24 on a real server's `lo`.
    ///
    /// # References
    /// kernel `net/ipv4/fib_frontend.c`, `fib_add_ifaddr`: a loopback device gets a local route for the prefix.
    DR002 "lo-mask-not-32" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found = looped(facts);
    found.extend(hijackers(facts));
    for silence in facts.silences("DR002") {
        let (flow, names) = (silence.flows[0], silence.names(facts));
        let settle = format!("`ip addr show dev lo`, `ip route get {}`", silence.hop.src.addr);
        let mut finding = silence.finding(facts, Severity::Broken, &settle);
        finding.summary = format!("{names} serves hosts further away and is silent towards {} on its own network.", silence.hop.src.addr);
        found.push(finding.mend([remedy(&names, &vip(flow))]));
    }
    Outcome::or_need(found, facts.unwatched_server(&DIRECT))
}

/// The answer stays on the real server's loopback interface.
fn looped(facts: &Facts<'_>) -> Vec<Finding> {
    let mut by_server: BTreeMap<HostId, (Vec<&Flow>, &Hop)> = BTreeMap::new();
    for flow in answered_directly(facts).filter(|f| !f.state.is_complete()) {
        // A loopback that nobody is known to own is the server's, if the server's answer is on it.
        let nobodys = |hop: &Hop| hop.at.is_none_or(|at| facts.trace.hosts[at].macs.is_empty());
        let zero = |hop: &&Hop| {
            (hop.at == flow.server_host || nobodys(hop)) && hop.dst_mac.is_none_or(|mac| mac == MacAddr::ZERO) && hop.outer.is_none()
        };
        let left = flow.reply.hops.iter().any(|hop| hop.from == flow.server_host && hop.dst_mac.is_some_and(|mac| mac != MacAddr::ZERO));
        if let (Some(server), Some(hop), false) = (flow.server_host, flow.reply.hops.iter().find(zero), left) {
            by_server.entry(server).or_insert_with(|| (Vec::new(), hop)).0.push(flow);
        }
    }
    let finding = |(server, (flows, hop)): (HostId, (Vec<&Flow>, &Hop))| {
        let name = facts.name(Some(server));
        let summary = format!("{name} sends its answers to {} to itself: it takes that address for its own.", hop.dst.addr);
        let received = facts.reached(&flows[0].request, server).map(|hop| facts.seen(hop));
        Finding::new(name, Severity::Broken, Confidence::Certain, summary, facts.seen_with(hop, "on the loopback interface"))
            .and(received)
            .mend([remedy(name, &vip(flows[0]))])
            .on(ids(&flows))
    };
    by_server.into_iter().map(finding).collect()
}

/// Real servers that answer ARP for their neighbours' addresses.
fn hijackers(facts: &Facts<'_>) -> Vec<Finding> {
    let mut answers: BTreeMap<HostId, BTreeSet<IpAddr>> = BTreeMap::new();
    for claim in facts.trace.claims.claims.iter().filter(|c| c.kind == ClaimKind::Reply && c.addr.is_ipv4()) {
        if let Some(host) = facts.trace.host_of(claim.mac).filter(|h| facts.is_real_server(*h)) {
            answers.entry(host).or_default().insert(claim.addr);
        }
    }
    let vips = facts.vips();
    let finding = |(host, addresses): (HostId, BTreeSet<IpAddr>)| {
        let foreign = |addr: &&IpAddr| !vips.contains(addr) && facts.claimants(**addr).iter().any(|c| c.host != host);
        let taken: Vec<IpAddr> = addresses.iter().filter(foreign).copied().collect();
        let flow = facts.flows().find(|f| f.server_host == Some(host))?;
        // One address claimed twice is a duplicate (ARP012); several are a prefix.
        let mut proofs =
            taken.iter().filter_map(|a| facts.claimants(*a).into_iter().find(|c| c.host == host)?.answers()).map(|c| facts.claim(c));
        let (first, second) = (proofs.next()?, proofs.next()?);
        let name = facts.name(Some(host));
        let summary = format!("{name} answers ARP for {} and {} other addresses of its neighbours.", taken[0], taken.len() - 1);
        let found = Finding::new(name, Severity::Broken, Confidence::Likely, summary, first).and([second]).and(proofs.take(2));
        Some(
            found
                .unless(&["ARP010"], format!("on {name}: `ip addr show dev lo`, `sysctl net.ipv4.conf.all.proxy_arp`"))
                .mend([remedy(name, &vip(flow))]),
        )
    };
    answers.into_iter().filter_map(finding).collect()
}

fn remedy(host: &str, vip: &str) -> Remedy {
    Remedy::new(
        host,
        format!("ip addr del {vip}/24 dev lo; ip addr add {vip}/32 dev lo; ip route replace default via GATEWAY dev eth0"),
        "NETMASK=255.255.255.255 in ifcfg-lo:0, or /32 in netplan or networkd",
        format!("ip addr del {vip}/32 dev lo; ip addr add {vip}/24 dev lo"),
    )
}

/// On the host: an address on lo whose network is local, too.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (at, member) in site.fleet.members.iter().enumerate() {
        let host = &member.host;
        let duty = site.duties.iter().find(|d| d.member == at && d.method != crate::ipvs::ForwardingMethod::Nat);
        if duty.is_none() && member.role != Role::RealServer {
            continue;
        }
        let on_lo = |a: &&crate::host::Address| a.is_global() && host.link(&a.link).is_some_and(crate::host::Link::is_loopback);
        let Some(address) = host.addresses().iter().filter(on_lo).find(|a| a.addr.addr().is_ipv4() && !a.addr.is_host()) else {
            match host.addresses.is_some() {
                true => checks.passed(&host.name, "addresses on lo are /32"),
                false => checks.needs(&host.name, "the host's addresses"),
            }
            continue;
        };
        let (vip, prefix) = (address.addr.addr(), address.addr);
        let near: Vec<_> = duty.iter().flat_map(|d| &d.sources).filter(|s| prefix.contains(s.addr) && host.is_local(s.addr)).collect();
        let lost = host
            .way(&crate::host::Ask::to(super::super::site::elsewhere(false)))
            .is_ok_and(|w| w.link().and_then(|l| host.link(l)).is_some_and(crate::host::Link::is_loopback));
        let (severity, effect) = match (near.first(), lost) {
            (Some(source), _) => (Severity::Broken, format!("Answers to {} ({}) stay on lo.", source.addr, source.by)),
            (None, true) => (Severity::Broken, "The default route leads to lo.".to_string()),
            (None, false) => (
                Severity::Risky,
                "Clients elsewhere are served; those in that network are not, and a default route added anew would lead to lo.".to_string(),
            ),
        };
        let summary = format!("{prefix} on {} makes the whole network local to this host. {effect}", address.link);
        let other = host.addresses().iter().find(|a| a.addr.contains(vip) && a.addr.addr() != vip).map_or("IF", |a| a.link.as_str());
        let mut now = format!("ip addr add {vip}/32 dev lo; ip addr del {prefix} dev lo");
        if lost {
            now += &format!("; ip route replace default via GATEWAY dev {other}");
        }
        let remedy = crate::finding::Remedy::new(
            &host.name,
            now,
            super::super::remedy::keep_on_lo(host, &vip.to_string()),
            format!("ip addr add {prefix} dev lo; ip addr del {vip}/32 dev lo"),
        );
        let found = proven(host, severity, summary, format!("{prefix} dev {}", address.link), "ip addr show lo")
            .and([crate::finding::Evidence::host(&host.name, format!("local {}", network(prefix)), "ip route show table local")])
            .mend([remedy]);
        checks.failed(&host.name, found);
    }
}

/// `192.168.224.13/24` as its network, `192.168.224.0/24`.
fn network(prefix: crate::net::Prefix) -> String {
    match prefix.addr() {
        std::net::IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.len())).unwrap_or(0);
            format!("{}/{}", std::net::Ipv4Addr::from(u32::from(a) & mask), prefix.len())
        }
        std::net::IpAddr::V6(_) => prefix.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    #[test]
    fn the_neighbours_are_not_answered() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let far = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&far, "client router director web1", "web1 router client");
        let near = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80").snat("router", "10.2.0.1:40002");
        w.syn(&near, "client router director web1", 3);
        let found = w.expect(&DR002, Confidence::Likely, "web1");
        assert_eq!(found.flows, [2]);
        assert!(found.summary.contains("10.2.0.1"));
    }

    #[test]
    fn a_server_that_answers_for_the_whole_network() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        for target in ["10.2.0.12", "10.2.0.1"] {
            w.who_has("director", "int", target, &[if target.ends_with("12") { "web2" } else { "router" }, "web1"]);
        }
        let found = w.finding(&DR002);
        assert_eq!((found.confidence, found.evidence().len()), (Confidence::Likely, 2));
    }

    #[test]
    fn clients_near_and_far_are_served() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, snat) in [(40001, false), (40002, true)] {
            let mut c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
            if snat {
                c = c.snat("router", &format!("10.2.0.1:{port}"));
            }
            w.talk(&c, "client router director web1", "web1 router client");
        }
        w.deny(&DR002);
    }
}
