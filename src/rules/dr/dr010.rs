//! The VIP is on a real server's network card instead of `lo`.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::Role;
use crate::trace::{Claim, ClaimKind, Flow};

rule! {
    /// # What it sees
    /// A real server announces the VIP by gratuitous ARP, or asks whether it is taken, as an interface does when it gets an address.
    ///
    /// # Why it breaks
    /// An address on a network card is announced and defended. `arp_ignore=1` does not help: it silences only addresses of other interfaces.
    /// The router's cache then points to the real server, and connections go past the director.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip addr show to VIP` must name `lo`.
    ///
    /// # Remedy
    /// Move the VIP to `lo`, with /32.
    ///
    /// # When it is not a fault
    /// The host is a second director, and takes the VIP over (HA001, HA002).
    ///
    /// # Reproduce
    /// A DR service; on a real server `ip addr add VIP/32 dev eth0`, `arping -U -I eth0 VIP`.
    ///
    /// # References
    /// LVS-HOWTO, the ARP problem; kernel `net/ipv4/devinet.c`, `net/ipv4/arp.c`.
    DR010 "vip-on-real-nic-of-rs" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: Vec<Finding> = Vec::new();
    let hood = facts.neighbourhood();
    for vip in facts.vips().into_iter().filter(|vip| vip.is_ipv4()) {
        let by_interface = |c: &&Claim| c.addr == vip && matches!(c.kind, ClaimKind::Announcement | ClaimKind::Probe);
        let mut claims: Vec<&Claim> = facts.trace.claims.claims.iter().filter(by_interface).collect();
        claims.retain(|c| {
            facts.trace.host_of(c.mac).is_some_and(|host| facts.is_real_server(host) && hood.standing(host, vip) != Role::Director)
        });
        claims.sort_by_key(|c| (facts.trace.host_of(c.mac), c.kind == ClaimKind::Probe, c.point));
        claims.dedup_by_key(|c| facts.trace.host_of(c.mac));
        for claim in claims {
            let host = facts.trace.host_of(claim.mac);
            let name = facts.name(host);
            let flows: Vec<&Flow> = facts.flows().filter(|f| f.vip.is_some_and(|v| v.addr == vip)).collect();
            let failing: Vec<&Flow> = flows.iter().copied().filter(|f| !f.state.is_complete()).collect();
            let past = flows.iter().find(|f| f.director.is_none() && f.server_host == host).and_then(|f| f.request.last());
            let severity = if failing.is_empty() { Severity::Degraded } else { Severity::Broken };
            let summary = format!("{name} is a real server and announces {vip} from its network card.");
            found.push(
                Finding::new(name, severity, Confidence::Certain, summary, facts.claim(claim))
                    .and(past.map(|hop| facts.seen_with(hop, "past the director")))
                    .mend([Remedy::new(
                        name,
                        format!("ip addr del {vip}/32 dev eth0; ip addr add {vip}/32 dev lo"),
                        "the VIP in ifcfg-lo:0, or on lo in netplan or networkd, and nowhere else",
                        format!("ip addr del {vip}/32 dev lo; ip addr add {vip}/32 dev eth0"),
                    )])
                    .on(ids(&failing)),
            );
        }
    }
    found.into()
}

/// On the host: the VIP is on a card.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&super::FORWARDED_WHOLE) {
        let host = site.host(duty.member);
        // IPv6 has no arp_ignore, and its own page (IP6001).
        let Some(vip) = duty.vip.filter(std::net::IpAddr::is_ipv4) else { continue };
        let Some(address) = host.address(vip) else { continue };
        // One of two that serve each other: the master has it on its card, and has to.
        if site.fleet.services.iter().any(|s| s.director == Some(duty.member) && s.service.vip() == Some(vip)) {
            continue;
        }
        let card = host.link(&address.link).is_some_and(|l| l.speaks_arp() && l.is_up());
        if !card {
            checks.passed(&host.name, format!("{vip} is on {}", address.link));
            continue;
        }
        if let Some(why) = super::super::arp::unasked(site, duty, vip) {
            checks.needs(&host.name, why);
            continue;
        }
        let summary = format!("{vip} is on the card {}: it is answered for by ARP whatever arp_ignore says, and announced.", address.link);
        let (prefix, link) = (address.addr, address.link.as_str());
        let remedy = crate::finding::Remedy::new(
            &host.name,
            format!("ip addr del {prefix} dev {link}; ip addr add {vip}/32 dev lo"),
            super::super::remedy::keep_on_lo(host, &vip.to_string()),
            format!("ip addr del {vip}/32 dev lo; ip addr add {prefix} dev {link}"),
        );
        checks.failed(
            &host.name,
            proven(host, Severity::Broken, summary, format!("{prefix} dev {link}"), format!("ip addr show to {vip}")).mend([remedy]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    fn served() -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w
    }

    #[test]
    fn a_real_server_announces_the_vip() {
        let mut w = served();
        w.announce("web1", "int", "10.2.0.100");
        let found = w.expect(&DR010, Confidence::Certain, "web1");
        assert_eq!(found.severity, Severity::Degraded);
    }

    #[test]
    fn a_real_server_that_becomes_master_may_too() {
        let mut w = served();
        w.vrrp("director", "int", 51, 150, "10.2.0.100");
        w.wait(4.0);
        w.vrrp("web1", "int", 51, 100, "10.2.0.100");
        w.announce("web1", "int", "10.2.0.100");
        w.deny(&DR010);
        w.healthy();
    }

    #[test]
    fn the_director_may_announce_it() {
        let mut w = served();
        w.announce("director", "int", "10.2.0.100");
        w.announce("web1", "int", "10.2.0.11");
        w.deny(&DR010);
        w.healthy();
    }
}
