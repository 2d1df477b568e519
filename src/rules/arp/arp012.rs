//! Two hosts have one address.

use super::super::facts::ids;
use super::super::remedy::{ip_for, look};
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::net::MacAddr;
use crate::trace::{Flow, Hop};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// Two MACs answer one question for an address, or announce it in turn, again and again. It is not a service's address (that is ARP001
    /// or HA001). Packets for it go to whichever answered first or last, and the wrong host refuses them or says nothing.
    ///
    /// # Why it breaks
    /// Two machines were given one address: a clone, a lease that overlaps a static address, a server that was replaced and is still on.
    /// Everybody's cache decides by itself which of them is meant, and decides anew when an entry expires.
    ///
    /// # Confirm it by hand
    /// `arping -D -I IF -c 3 ADDRESS` from a third host; the switch's table says behind which ports both MACs are. On both machines:
    /// `ip addr show to ADDRESS`.
    ///
    /// # Remedy
    /// Another address for one of both; then `ip neigh flush to ADDRESS` on the neighbours.
    ///
    /// # When it is not a fault
    /// A takeover, in which one stops and the other begins. One machine with two cards on one network, which answers by both. A router that
    /// answers for others. Bonds that balance by ARP tell different neighbours different MACs.
    ///
    /// # Reproduce
    /// A NAT service; a foreign host on the servers' network with the address of a real server.
    ///
    /// # References
    /// RFC 5227; arping(8).
    ARP012 "duplicate-address" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let hood = facts.neighbourhood();
    let services = facts.service_addresses();
    let twice = facts.claimed_twice();
    let found = twice.into_iter().filter(|a| a.is_ipv4() && !services.contains(a)).filter_map(|addr| finding(&hood, addr));
    let found: Vec<Finding> = found.collect();
    found.into()
}

fn finding(hood: &super::Neighbourhood<'_>, addr: IpAddr) -> Option<Finding> {
    let facts = &hood.facts;
    let (a, b, words) = hood.quarrel(addr)?;
    let names = facts.names([a, b]);
    // With direct routing the packet is for the VIP, and only its MAC says that a director meant this address.
    let macs = words.map(|w| w.mac);
    let handed = |f: &Flow, h: &Hop| f.director.is_some() && h.from == f.director && h.dst_mac.is_some_and(|mac| macs.contains(&mac));
    let meant = |f: &Flow, h: &Hop| h.dst.addr == addr || handed(f, h);
    // Where its packets went, each MAC once.
    let mut met: Vec<(MacAddr, &Hop)> = Vec::new();
    for flow in facts.flows() {
        for hop in flow.request.hops.iter().filter(|h| meant(flow, h)) {
            if let Some(mac) = hop.dst_mac.filter(|mac| mac.is_unicast() && met.iter().all(|(m, _)| m != mac)) {
                met.push((mac, hop));
            }
        }
    }
    let failed: Vec<&Flow> = facts.flows().filter(|f| !f.state.is_complete() && f.request.hops.iter().any(|h| meant(f, h))).collect();
    let severity = if failed.is_empty() { Severity::Degraded } else { Severity::Broken };
    let summary = format!("{names} both say that they have {addr}: {} and {}.", words[0].mac, words[1].mac);
    let seen = met.iter().take(2).map(|(_, hop)| facts.seen_with(hop, &facts.to_whom(hop)));
    let family = ip_for(&addr.to_string());
    let found = Finding::new(&names, severity, Confidence::Likely, summary, facts.claim(words[0]))
        .and([facts.claim(words[1])])
        .and(seen)
        .unless(&["ARP010", "ARP008", "HA001"], format!("`ip addr show to {addr}` on both machines, or their snapshots"))
        .mend([look(&names, format!("{family} addr show to {addr}"), "give one of both another address, in its configuration too")])
        .mend([super::forget("its neighbours", addr)])
        .on(ids(&failed));
    Some(found)
}

/// On hosts: the same address on cards of two of them. Virtual addresses are another matter (HA001).
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    let vips = site.fleet.vips();
    let mut seen: std::collections::BTreeMap<IpAddr, &crate::host::Host> = std::collections::BTreeMap::new();
    for member in site.fleet.members.iter().filter(|m| m.same_as.is_none()) {
        let host = &member.host;
        let cards = |a: &&crate::host::Address| a.is_global() && host.link(&a.link).is_some_and(|l| l.speaks_arp() && l.is_up());
        for address in host.addresses().iter().filter(cards) {
            let addr = address.addr.addr();
            let floats = |h: &crate::host::Host| h.saved.iter().flat_map(|s| &s.vrrp).any(|v| v.addresses.contains(&addr));
            match seen.get(&addr) {
                None => _ = seen.insert(addr, host),
                Some(other) if vips.contains(&addr) || floats(host) || floats(other) => {}
                Some(other) => {
                    let summary = format!("{addr} is also the address of {}: packets for one of them reach the other.", other.name);
                    let fact = format!("{} on {}", address.addr, address.link);
                    let ip = super::super::remedy::ip_for(&addr.to_string());
                    let remedy = crate::finding::Remedy::new(
                        &host.name,
                        format!("{ip} addr del {} dev {}", address.addr, address.link),
                        "another address in the network's configuration",
                        format!("{ip} addr add {} dev {}", address.addr, address.link),
                    );
                    let found = proven(host, Severity::Broken, summary, fact.clone(), "ip addr")
                        .and([crate::finding::Evidence::host(&other.name, addr.to_string(), "ip addr")])
                        .mend([remedy, super::forget("its neighbours", address.addr.addr())]);
                    checks.failed(&host.name, found);
                }
            }
        }
        if site.fleet.members.len() > 1 {
            checks.passed(&host.name, "its addresses are its own");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{REFUSE, World};
    use super::*;

    const RIP: &str = "10.2.0.11";

    fn world() -> World {
        let mut w = World::nat().plug("foreign.eth0", "int", RIP);
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w.who_has("director", "int", "10.2.0.12", &["web2"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.12:80");
        w.talk(&c, "client director web2", "web2 director client");
        w
    }

    #[test]
    fn a_foreign_host_has_a_real_servers_address() {
        let mut w = world();
        w.who_has("director", "int", RIP, &["foreign", "web1"]);
        let c = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director foreign", 1);
        w.carry(&c, true, REFUSE, b"", "foreign director client");
        let found = w.expect(&ARP012, Confidence::Likely, "foreign, web1");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Broken, &[2][..]));
        assert!(found.evidence().len() >= 3);
        w.without(&["foreign", "web1", "web2", "client"]).unnamed().finding(&ARP012);
    }

    #[test]
    fn a_bystander_gets_what_direct_routing_means_for_the_server() {
        let mut w = World::dr().plug("printer.eth0", "int", RIP);
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("director", "int", RIP, &["printer", "web1"]);
        let good = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.talk(&good, "client router director web1", "web1 router client");
        let bad = World::tcp("10.1.0.100:40002", "10.2.0.100:80");
        w.syn(&bad, "client router director printer", 3);
        let found = w.expect(&ARP012, Confidence::Likely, "printer, web1");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Broken, &[2][..]));
        w.deny(&super::super::super::dr::dr001::DR001);
    }

    #[test]
    fn one_after_the_other_is_a_takeover() {
        let mut w = world();
        w.who_has("director", "int", RIP, &["web1"]);
        w.wait(3.0);
        w.announce("foreign", "int", RIP);
        w.wait(1.0);
        w.who_has("director", "int", RIP, &["foreign"]);
        // And back again.
        w.wait(60.0);
        w.announce("web1", "int", RIP);
        w.who_has("director", "int", RIP, &["web1"]);
        w.deny(&ARP012);
        w.healthy();
    }

    #[test]
    fn two_cards_of_one_machine() {
        let mut w = world().plug("other.eth0", "int", "10.2.0.50").plug("other.eth1", "int", "10.2.0.51");
        w.interchange("other", "int", &["10.2.0.50", "10.2.0.51"], "director");
        w.deny(&ARP012);
        w.healthy();
    }

    #[test]
    fn a_router_that_answers_for_others_and_a_virtual_mac() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        // Proxy ARP: the router is as quick as the owner.
        for target in ["10.2.0.11", "10.2.0.12"] {
            let owner = if target.ends_with("11") { "web1" } else { "web2" };
            w.who_has("director", "int", target, &["router", owner]);
        }
        w.deny(&ARP012);
        w.healthy();
    }

    #[test]
    fn one_answer_seen_in_several_places_and_asked_again() {
        let mut w = world();
        for _ in 0..4 {
            w.who_has("director", "int", RIP, &["web1"]);
            w.wait(20.0);
        }
        w.deny(&ARP012);
        w.unnamed().deny(&ARP012);
    }
}
