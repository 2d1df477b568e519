//! The IPv6 VIP is on a real server's network card.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::Role;
use crate::trace::{Claim, ClaimKind, Flow, HostId};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// A real server advertises the IPv6 VIP as its neighbour's (neighbour advertisement), or asks whether it may have it (duplicate address
    /// detection) and is told by the director that it is taken.
    ///
    /// # Why it breaks
    /// IPv6 has no `arp_ignore`, and needs none: a question is answered only for addresses of the device at which it arrives. A VIP on `lo`
    /// never leaks. On the network card it collides: the kernel marks it `dadfailed tentative`, and it cannot be used; or, with DAD switched
    /// off, the real server takes the VIP's packets away. The last advertisement wins, so connections change sides in the middle.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip -6 addr show to VIP` must name `lo`, without `tentative` or `dadfailed`.
    ///
    /// # Remedy
    /// The VIP with /128 on `lo`.
    ///
    /// # When it is not a fault
    /// Two directors, of which one takes over. A router that answers for others (`proxy_ndp`).
    ///
    /// # Reproduce
    /// A DR service over IPv6; on a real server `ip -6 addr add VIP/128 dev eth0`.
    ///
    /// # References
    /// kernel `net/ipv6/ndisc.c`, `ndisc_recv_ns`; `net/ipv6/addrconf.c`, `addrconf_dad_failure`; RFC 4862, section 5.4.
    IP6001 "vip6-on-ethernet-dad" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let hood = facts.neighbourhood();
    let mut found = Vec::new();
    let vips: Vec<IpAddr> = facts.service_addresses().into_iter().filter(IpAddr::is_ipv6).collect();
    for &vip in &vips {
        let mut told: Vec<HostId> = Vec::new();
        for claim in facts.trace.claims.claims.iter().filter(|c| c.addr == vip && c.kind != ClaimKind::Sender && c.mac.vrid().is_none()) {
            let Some(host) = facts.trace.host_of(claim.mac).filter(|h| !told.contains(h)) else { continue };
            let server = hood.standing(host, vip) == Role::RealServer;
            if server && let Some(owner) = owner(&hood, vip, host, claim) {
                told.push(host);
                found.push(finding(facts, vip, host, claim, owner));
            }
        }
    }
    let heard = facts.trace.claims.claims.iter().any(|c| vips.contains(&c.addr));
    let need = || "a capture on the servers' network with neighbour discovery, or a snapshot of a real server".to_string();
    Outcome::or_need(found, (!heard && !facts.vips().iter().all(IpAddr::is_ipv4)).then(need))
}

/// What makes the address another's: a director hands on what is for it, or another host claims it as well. `Some(None)` where it is known
/// without another's words.
fn owner<'a>(hood: &super::super::facts::Neighbourhood<'a>, vip: IpAddr, host: HostId, claim: &Claim) -> Option<Option<&'a Claim>> {
    let facts = hood.facts;
    let others = facts.claimants(vip).into_iter().filter(|c| c.host != host && hood.standing(c.host, vip) != Role::Router);
    let other = others.filter_map(|c| c.answers()).find(|c| hood.on_one_link(c.point, claim.point));
    let handed = facts.flows().any(|f| f.vip.is_some_and(|v| v.addr == vip) && f.director.is_some_and(|d| d != host));
    let director = other.and_then(|c| facts.trace.host_of(c.mac)).is_some_and(|h| hood.standing(h, vip) == Role::Director);
    (handed || director || facts.answers_for_another(host, vip).is_some()).then_some(other)
}

fn finding(facts: &Facts<'_>, vip: IpAddr, host: HostId, claim: &Claim, owner: Option<&Claim>) -> Finding {
    let name = facts.name(Some(host));
    let probe = claim.kind == ClaimKind::Probe;
    let collides = probe && owner.is_some();
    let past = facts.past_the_director(host, vip);
    // With the address refused to it, the real server has none; where it serves all the same, no harm is done yet.
    let own = |f: &&Flow| f.server_host == Some(host) && f.vip.is_some_and(|v| v.addr == vip) && !f.state.is_complete();
    let silent: Vec<&Flow> = facts.flows().filter(own).collect();
    let failed = !silent.is_empty() || past.iter().any(|f| !f.state.is_complete());
    let severity = match (failed, past.is_empty()) {
        (true, _) => Severity::Broken,
        (false, false) => Severity::Degraded,
        (false, true) => Severity::Risky,
    };
    let summary = match (collides, probe) {
        (true, _) => format!("{name} wants {vip} on its network card; it is taken, so the kernel does not let it use the address."),
        (false, true) => format!("{name} puts {vip} on its network card: it asks whether it may have it."),
        (false, false) => format!("{name} is a real server and advertises {vip} as its own."),
    };
    let interface = facts.trace.hosts[host].points.first().map_or("eth0", |p| facts.device(*p));
    let confidence = if facts.is_real_server(host) { Confidence::Certain } else { Confidence::Likely };
    let astray = past.iter().filter_map(|f| f.request.last()).take(2).map(|h| facts.seen_with(h, &facts.to_whom(h)));
    let found = Finding::new(name, severity, confidence, summary, facts.claim(claim))
        .and(owner.map(|c| facts.claim(c)))
        .and(astray)
        .mend([Remedy::new(
            name,
            format!("ip -6 addr del {vip}/128 dev {interface}; ip -6 addr add {vip}/128 dev lo"),
            format!("{vip}/128 on lo in netplan, networkd or NetworkManager, and nowhere else"),
            format!("ip -6 addr del {vip}/128 dev lo; ip -6 addr add {vip}/128 dev {interface}"),
        )])
        .on(ids(&silent).into_iter().chain(ids(&past)));
    match confidence {
        Confidence::Certain => found,
        _ => found.unless(&["HA001"], format!("is {name} a real server, or a second director? `ip -6 addr show to {vip}` there")),
    }
}

/// On hosts: a VIP on a real server's card, or an address that lost against another host.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in &site.duties {
        let host = site.host(duty.member);
        let Some(vip) = duty.vip.filter(|v| v.is_ipv6() && duty.method != crate::ipvs::ForwardingMethod::Nat) else { continue };
        let Some(address) = host.address(vip) else { continue };
        let card = host.link(&address.link).is_some_and(|l| l.speaks_arp() && l.is_up());
        let failed = address.has("dadfailed");
        if !card && !failed {
            checks.passed(&host.name, format!("{vip} is on {}", address.link));
            continue;
        }
        if let Some(why) = super::super::arp::unasked(site, duty, vip).filter(|_| !failed) {
            checks.needs(&host.name, why);
            continue;
        }
        let what = if failed {
            "duplicate address detection has failed: it cannot be used"
        } else {
            "neighbour discovery answers for it, and it is announced"
        };
        let summary = format!("{vip} is on the card {}; {what}.", address.link);
        let link = address.link.as_str();
        let remedy = crate::finding::Remedy::new(
            &host.name,
            format!("ip -6 addr del {} dev {link}; ip -6 addr add {vip}/128 dev lo", address.addr),
            super::super::remedy::keep_on_lo(host, &vip.to_string()),
            format!("ip -6 addr del {vip}/128 dev lo; ip -6 addr add {} dev {link}", address.addr),
        );
        let fact = format!("{} dev {link} {}", address.addr, address.flags.join(" "));
        checks.failed(
            &host.name,
            proven(host, Severity::Broken, summary, fact.trim().to_string(), format!("ip -6 addr show to {vip}")).mend([remedy]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    const VIP: &str = "2001:db8:2::100";

    fn world() -> World {
        let mut w = World::dr6();
        w.neighbour("director", "int", VIP, true);
        w.solicit("router", "int", VIP);
        w.neighbour("director", "int", VIP, false);
        for (port, web) in [(40001, "web1"), (40002, "web2")] {
            let c = World::tcp(&format!("[2001:db8:1::100]:{port}"), "[2001:db8:2::100]:80");
            w.talk(&c, &format!("client router director {web}"), &format!("{web} router client"));
        }
        w
    }

    #[test]
    fn a_real_server_advertises_the_vip() {
        let mut w = world();
        w.neighbour("web1", "int", VIP, false);
        let c = World::tcp("[2001:db8:1::100]:40003", "[2001:db8:2::100]:80");
        w.talk(&c, "client router web1", "web1 router client");
        let found = w.expect(&IP6001, Confidence::Certain, "web1");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[3][..]));
        assert_eq!(found.remedy[0].command, "ip -6 addr del 2001:db8:2::100/128 dev eth0; ip -6 addr add 2001:db8:2::100/128 dev lo");
        w.deny(&super::super::super::ha::ha001::HA001);
    }

    #[test]
    fn a_collision_leaves_the_server_without_it() {
        let mut w = world();
        w.neighbour("web1", "int", VIP, true);
        w.neighbour("director", "int", VIP, false);
        let found = w.expect(&IP6001, Confidence::Certain, "web1");
        assert!(found.summary.contains("taken"), "{}", found.summary);
        assert_eq!(found.severity, Severity::Risky);
    }

    #[test]
    fn the_director_may_probe_and_advertise_and_servers_their_own() {
        let mut w = world();
        w.neighbour("web1", "int", "2001:db8:2::11", true);
        w.neighbour("web1", "int", "2001:db8:2::11", false);
        w.deny(&IP6001);
        w.healthy();
    }

    #[test]
    fn a_second_director_takes_over() {
        let mut w = world().plug("lb2.eth0", "int", "2001:db8:2::3");
        w.wait(5.0);
        w.neighbour("lb2", "int", VIP, false);
        w.wait(1.0);
        let c = World::tcp("[2001:db8:1::100]:40004", "[2001:db8:2::100]:80");
        w.talk(&c, "client router lb2 web1", "web1 router client");
        w.deny(&IP6001);
        w.healthy();
    }
}
