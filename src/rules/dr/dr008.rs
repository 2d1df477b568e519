//! The director asks for its real servers with the VIP as its own address.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::trace::{Flow, HostId, Question, Way};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// The director asks `who has RIP, tell VIP`, again and again, and the real server never answers, although it is alive. Requests wait at
    /// the director and are dropped.
    ///
    /// # Why it breaks
    /// The real server has the VIP, too. A question whose sender address is one of its own fails its input route check, and it stays silent.
    /// The director uses the VIP as sender because it has no other address in that network, or because the VIP is its primary one there.
    ///
    /// # Confirm it by hand
    /// On the director: `ip route get RIP` shows `src VIP`; `ip neigh show RIP` says INCOMPLETE or FAILED.
    ///
    /// # Remedy
    /// An address of its own for the director in that network, primary, and the VIP as /32 beside it. Until then a static neighbour entry for
    /// each real server.
    ///
    /// # When it is not a fault
    /// With static neighbour entries the director never asks. Pings between director and real servers fail then all the same.
    ///
    /// # Reproduce
    /// A DR service whose director has only the VIP on its interface, no static neighbours.
    ///
    /// # References
    /// kernel `net/ipv4/arp.c`, `arp_solicit` and `arp_process`; `net/ipv4/fib_frontend.c`, `fib_validate_source`.
    DR008 "director-dip-equals-vip" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: BTreeMap<HostId, (Vec<&Flow>, Vec<&Question>)> = BTreeMap::new();
    for flow in facts.flows() {
        let Some(unresolved) = facts.unresolved(flow, Way::Request) else { continue };
        // A server behind a director has the address that it is asked under, and no other.
        if flow.director.is_some_and(|director| director != unresolved.host) {
            continue;
        }
        // Neighbour discovery answers whoever asks (measured: a server with the VIP on lo advertises to it).
        let as_vip = |q: &&Question| q.target.is_ipv4() && q.asker == Some(unresolved.hop.dst.addr);
        let with_vip: Vec<&Question> = unresolved.questions.into_iter().filter(as_vip).collect();
        if !with_vip.is_empty() {
            let entry = found.entry(unresolved.host).or_default();
            entry.0.push(flow);
            entry.1.extend(with_vip);
        }
    }
    found.into_iter().map(|(director, (flows, questions))| finding(facts, director, &flows, &questions)).collect::<Vec<_>>().into()
}

fn finding(facts: &Facts<'_>, director: HostId, flows: &[&Flow], questions: &[&Question]) -> Finding {
    let (name, first) = (facts.name(Some(director)), questions[0]);
    let vip = first.asker.map_or_else(|| "the VIP".to_string(), |a| a.to_string());
    // Heard at another host's interface: then it is not the wire that loses it.
    let heard = |q: &&Question| {
        (q.target, q.mac, q.asker) == (first.target, first.mac, first.asker) && facts.trace.host_at(q.point).is_some_and(|h| h != director)
    };
    let heard = facts.trace.claims.questions.iter().find(heard);
    let confidence = if heard.is_some() { Confidence::Certain } else { Confidence::Likely };
    let mut targets: Vec<String> = questions.iter().map(|q| q.target.to_string()).collect();
    targets.sort_unstable();
    targets.dedup();
    let summary = format!(
        "{name} asks for {} with the VIP {vip} as its own address; a host that has the VIP, too, never answers that.",
        super::list(&targets)
    );
    let interface = facts.interface(Some(director), &flows[0].request);
    let mut finding = Finding::new(name, Severity::Broken, confidence, summary, facts.question(first))
        .and(heard.map(|q| facts.question(q)))
        .and(flows[0].request.last().map(|hop| facts.seen(hop)))
        .mend([Remedy::new(
            name,
            format!(
                "ip addr del {vip}/MASK dev {interface}; ip addr add DIP/MASK dev {interface}; ip addr add {vip}/32 dev {interface}; ip route add default via GATEWAY"
            ),
            "DIP as the first address of the interface, the VIP as /32 after it; until then `ip neigh replace RIP lladdr MAC nud permanent`",
            format!("ip addr del DIP/MASK dev {interface}; ip addr add {vip}/MASK dev {interface}"),
        )])
        .on(ids(flows));
    if confidence == Confidence::Likely {
        finding = finding.unless(&["ARP011"], format!("a capture on a real server: does the question for {} arrive?", first.target));
    }
    finding
}

/// On the director: the address that it asks for neighbours with is the VIP, and nobody typed the neighbour in.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        for d in service.destinations.iter().filter(|d| d.forwarding().is_some_and(|m| m != crate::ipvs::ForwardingMethod::Nat)) {
            let rip = d.address.addr;
            if host.neighbours.is_none() || host.routes.is_none() {
                checks.needs(&host.name, "routes and neighbours");
                continue;
            }
            if !super::asks_as_vip(site, host, service, rip) {
                checks.passed(&host.name, format!("{rip} can be resolved"));
                continue;
            }
            let vip = service.vip().map_or_else(|| "VIP".to_string(), |a| a.to_string());
            let state = host.neighbours.iter().flatten().find(|n| n.addr == rip).map_or("no entry", |n| n.state.as_str());
            let summary =
                format!("The director asks for its real servers with {vip} as sender; hosts that have {vip}, too, do not answer that.");
            let length = host.address(vip.parse().unwrap_or(rip)).map_or(24, |a| a.addr.len());
            let link = host.address(vip.parse().unwrap_or(rip)).map_or("IF", |a| a.link.as_str());
            let remedy = crate::finding::Remedy::new(
                &host.name,
                format!(
                    "ip addr del {vip}/{length} dev {link}; ip addr add DIP/{length} dev {link}; ip addr add {vip}/32 dev {link}; ip route add default via GATEWAY"
                ),
                "the DIP as the interface's address, and the VIP as /32 beside it (keepalived: virtual_ipaddress)",
                format!("ip addr add {vip}/{length} dev {link}; ip addr del DIP/{length} dev {link}"),
            );
            let found = proven(host, Severity::Broken, summary, format!("src {vip}"), format!("ip route get {rip}"))
                .and([crate::finding::Evidence::host(&host.name, format!("{rip} {state}"), format!("ip neigh show {rip}"))])
                .mend([remedy]);
            checks.failed(&host.name, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    fn world(tell: &str) -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router director", 1);
        for server in ["10.2.0.11", "10.2.0.12"] {
            for _ in 0..3 {
                w.who_has_tell("director", "int", server, tell.parse().expect("an address"), &[]);
                w.wait(1.0);
            }
            w.syn(&c, "client router director", 2);
        }
        w
    }

    #[test]
    fn the_vip_asks_in_vain() {
        let found = world("10.2.0.100").expect(&DR008, Confidence::Certain, "director");
        assert_eq!(found.flows, [1]);
        let found = world("10.2.0.100").without(&["web1", "web2", "router"]).expect(&DR008, Confidence::Likely, "director");
        assert_eq!(found.alternatives, ["ARP011"]);
    }

    /// A real server behind NAT that asks for a gateway which is not there.
    #[test]
    fn a_server_is_no_director() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        for _ in 0..3 {
            w.who_has("web1", "int", "10.2.0.99", &[]);
            w.wait(1.0);
        }
        w.syn(&c, "client director web1", 2);
        w.deny(&DR008);
    }

    #[test]
    fn another_address_that_asks_in_vain_is_not_this() {
        world("10.2.0.9").deny(&DR008);
    }

    #[test]
    fn questions_that_are_answered_are_right() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.talk(&c, "client router director web1", "web1 router client");
        w.deny(&DR008);
    }
}
