//! Real servers whose gateway is one director's own address, not the floating one.

use super::super::remedy::replace_default_route;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Bypass, bypassed};
use crate::finding::{Confidence, Outcome, Severity};
use crate::trace::Method;

rule! {
    /// # What it sees
    /// After a takeover requests come from the new director, and the real servers' answers still go to the other one.
    ///
    /// # Why it breaks
    /// The gateway of the real servers is an address of one node, not the floating inside address that VRRP moves together with the VIP. Or
    /// it is the floating one, and nobody announced that it moved. The other director has no entry for these connections.
    ///
    /// # Confirm it by hand
    /// On a real server: `ip route show default`, `ip neigh show GATEWAY`. On the directors: `ip addr`: which addresses move?
    ///
    /// # Remedy
    /// A floating inside address in the same VRRP group as the VIP, as the real servers' gateway.
    ///
    /// # When it is not a fault
    /// Two active directors, each with real servers of its own.
    ///
    /// # Reproduce
    /// Two directors, one VIP; move only the VIP.
    ///
    /// # References
    /// Red Hat, Load Balancer Administration, "NAT floating IP"; keepalived.conf(5): vrrp_sync_group.
    NAT013 "rs-gateway-not-floating" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let strays = bypassed(facts, Bypass::Peer);
    let found = strays.iter().map(|b| {
        let (names, next) = (b.names(facts), b.next(facts));
        let director = facts.name(b.flows[0].director);
        let verb = if b.servers.len() == 1 { "answers" } else { "answer" };
        let summary = format!("{director} hands on requests, and {names} {verb} to {next}, another director.");
        b.finding(facts, Severity::Broken, Confidence::Certain, summary).mend([replace_default_route(
            &names,
            "FLOATING_INSIDE_ADDRESS",
            &b.next_address(facts),
        )])
    });
    Outcome::or_need(found.collect(), facts.unwatched_server(&[Method::Nat]))
}

/// On the hosts: answers go to an address that stays with one director when the role moves.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&[crate::ipvs::ForwardingMethod::Nat]) {
        let (Some(at), host) = (duty.director, site.host(duty.member)) else { continue };
        let director = site.host(at);
        let vrrp: Vec<_> = director.saved.iter().flat_map(|s| &s.vrrp).flat_map(|v| &v.addresses).copied().collect();
        let pair = (0..site.fleet.members.len()).any(|other| site.is_peer(at, other));
        if vrrp.is_empty() && !pair {
            continue;
        }
        let Ok(way) = host.way(&duty.answer(duty.answered()[0].0)) else { continue };
        let shared = |g: &std::net::IpAddr| site.fleet.owners(*g).len() > 1 || vrrp.contains(g);
        match way.gateways().iter().find(|g| director.address(**g).is_some() && !shared(g)) {
            Some(gateway) => {
                let inside = vrrp.iter().find(|v| host.addresses().iter().any(|a| !a.addr.is_host() && a.addr.contains(**v)));
                let floating = inside.map_or_else(|| "FLOATING-DIP".to_string(), |a| a.to_string());
                let summary = format!("Answers go to {gateway}, which stays with {} when the other director takes over.", director.name);
                let device = duty.arrives(host).unwrap_or("IF");
                let found = proven(host, Severity::Risky, summary, way.words(), "ip route")
                    .mend([super::super::remedy::route_through(host, &floating, device)]);
                checks.failed(&host.name, found);
            }
            None => checks.passed(&host.name, "its gateway moves with the role"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::super::nat002::NAT002;
    use super::*;

    #[test]
    fn answers_go_to_the_director_before() {
        let mut w = World::nat().plug("standby.ext", "ext", "10.1.0.2").plug("standby.int", "int", "10.2.0.2");
        let before = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&before, "client director web1", "web1 director client");
        let after = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("standby", "10.2.0.11:80");
        w.announce("standby", "ext", "10.1.0.1");
        w.syn(&after, "client standby web1", 1);
        w.carry(&after, true, SYN_ACK, b"", "web1 director");
        w.syn(&after, "client standby web1", 2);
        let found = w.expect(&NAT013, Confidence::Certain, "web1");
        assert_eq!(found.flows, [2]);
        w.deny(&NAT002);
    }

    #[test]
    fn answers_follow_the_takeover() {
        let mut w = World::nat().plug("standby.ext", "ext", "10.1.0.2").plug("standby.int", "int", "10.2.0.2");
        let before = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&before, "client director web1", "web1 director client");
        let after = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("standby", "10.2.0.11:80");
        w.talk(&after, "client standby web1", "web1 standby client");
        w.deny(&NAT013);
    }
}
