//! A real server speaks as the VIP when it speaks for itself.

use super::super::facts::is_initial;
use super::super::remedy::ip_for;
use super::super::site::{elsewhere, proven};
use super::super::{Checks, Facts, Site, rule};
use super::answered_directly;
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::host::{Ask, NoRoute};
use crate::net::Protocol;
use crate::trace::{Flow, Hop, HostId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// A real server whose own connections to other networks leave with the VIP as source: in captures a SYN of its own, and answers that
    /// go to the director; in a snapshot the route that suggests it.
    ///
    /// # Why it breaks
    /// A connection that a real server opens itself (updates, name servers, a database) takes the source address that its route suggests,
    /// or the first of the card. Is that the VIP, answers go to the director, which knows no such connection.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get 192.0.2.1` says `src VIP`.
    ///
    /// # Remedy
    /// The real server's own address first on its card, and the VIP as /32 on lo; a route that says `src VIP` without it.
    ///
    /// # When it is not a fault
    /// Answers to clients: their source is the VIP, and has to be.
    ///
    /// # Reproduce
    /// `ip route change default via GATEWAY src VIP`.
    ///
    /// # References
    /// kernel `net/ipv4/devinet.c`, `inet_select_addr`; ip-route(8), src.
    DR011 "vip-chosen-as-source" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut served: BTreeMap<(HostId, IpAddr), &Flow> = BTreeMap::new();
    for flow in answered_directly(facts) {
        if let (Some(server), Some(vip)) = (flow.server_host, flow.vip) {
            served.entry((server, vip.addr)).or_insert(flow);
        }
    }
    let balancers: BTreeSet<HostId> = answered_directly(facts).filter_map(|flow| flow.director).collect();
    served.retain(|(server, _), _| !balancers.contains(server));
    let mut own: BTreeMap<(HostId, IpAddr), Vec<(&Flow, &Hop)>> = BTreeMap::new();
    for flow in facts.flows() {
        if let Some((server, hop)) = spoken(flow).filter(|(server, hop)| served.contains_key(&(*server, hop.src.addr))) {
            own.entry((server, hop.src.addr)).or_default().push((flow, hop));
        }
    }
    let found = own.iter().map(|((server, vip), flows)| finding(facts, *server, *vip, served[&(*server, *vip)], flows)).collect();
    Outcome::or_need(found, served.is_empty().then(|| "a snapshot of the real servers".to_string()))
}

/// A connection that a host opens itself, and of which no answer came back to it. What answers with a datagram looks like that as well, but
/// nobody answers an answer.
fn spoken(flow: &Flow) -> Option<(HostId, &Hop)> {
    let hop = flow.request.first().filter(|hop| is_initial(hop.ttl) && hop.dst_mac.is_some())?;
    let server = hop.from?;
    let begun = match flow.protocol {
        Protocol::Tcp => flow.from_start,
        _ => !flow.reply.is_empty(),
    };
    (begun && flow.director.is_none() && flow.reply.towards(server).next().is_none()).then_some((server, hop))
}

fn finding(facts: &Facts<'_>, server: HostId, vip: IpAddr, served: &Flow, flows: &[(&Flow, &Hop)]) -> Finding {
    let ((flow, hop), name, director) = (flows[0], facts.name(Some(server)), facts.name(served.director));
    let misled = flows.iter().find_map(|(f, _)| served.director.and_then(|d| f.reply.towards(d).next()));
    let confidence = if misled.is_some() { Confidence::Certain } else { Confidence::Likely };
    let summary = format!("{name} opens connections of its own as {vip}: answers go to {director}, and never come back.");
    let rip = served.real_server.map_or_else(|| "RIP".to_string(), |rip| rip.addr.to_string());
    let gateway = facts.address_on(hop.to, hop.dst_mac, &[flow.service.addr], "GATEWAY");
    let route = |source: &str| format!("{} route replace default via {gateway} src {source}", ip_for(&vip.to_string()));
    Finding::new(name, Severity::Degraded, confidence, summary, facts.seen_with(hop, &facts.to_whom(hop)))
        .and(misled.map(|hop| facts.seen_with(hop, &facts.to_whom(hop))))
        .mend([Remedy::new(name, route(&rip), KEEP, route(&vip.to_string()))])
        .on(flows.iter().map(|(f, _)| f.id))
}

const KEEP: &str = "the real server's own address as the first one of its card, and the VIP on lo";

/// On real servers that have the VIP.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&super::FORWARDED_WHOLE) {
        let host = site.host(duty.member);
        let Some(vip) = duty.vip.filter(|vip| host.address(*vip).is_some()) else { continue };
        let far = elsewhere(vip.is_ipv6());
        let way = match host.way(&Ask::to(far)) {
            Ok(way) if !way.is_local() => way,
            Err(NoRoute::Unknown(why)) => {
                checks.needs(&host.name, why);
                continue;
            }
            _ => continue,
        };
        let Some(source) = way.source else { continue };
        if source != vip {
            checks.passed(&host.name, format!("it speaks for itself as {source}"));
            continue;
        }
        let rip = duty.rip.map_or_else(|| "RIP".to_string(), |rip| rip.to_string());
        let ip = ip_for(&vip.to_string());
        let (link, said) = (way.link().unwrap_or("IF"), way.route.source == Some(vip));
        let hop = way.gateways().first().map_or_else(String::new, |g| format!(" via {g}"));
        let route = |source: &str| format!("{ip} route replace default{hop} dev {link} src {source}");
        let undo = if said { route(&vip.to_string()) } else { format!("{ip} route replace default{hop} dev {link}") };
        let summary = format!("Its own connections to other networks leave as {vip}: answers go to the director, and never come back.");
        let remedy = Remedy::new(&host.name, route(&rip), KEEP, undo);
        let found = proven(host, Severity::Degraded, summary, format!("{} src {vip}", way.words()), format!("{ip} route get {far}"));
        checks.failed(&host.name, found.mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, dr_with};
    use super::super::super::testing::{RST, SYN, SYN_ACK, World};
    use super::*;

    /// web1 serves, and asks the client's host something of its own, from `source`.
    fn asks(source: &str) -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.talk(&World::tcp("10.1.0.100:40001", "10.2.0.100:80"), "client router director web1", "web1 router client");
        w.carry(&World::tcp(&format!("{source}:50001"), "10.1.0.100:443"), false, SYN, b"", "web1 router client");
        w
    }

    #[test]
    fn a_server_that_speaks_as_the_vip() {
        let mut w = asks("10.2.0.100");
        // Sent, and nothing is known of an answer.
        w.expect(&DR011, Confidence::Likely, "web1");
        let c = World::tcp("10.2.0.100:50001", "10.1.0.100:443");
        w.carry(&c, true, SYN_ACK, b"", "client router director");
        w.carry(&c, false, RST, b"", "director router client");
        let found = w.expect(&DR011, Confidence::Certain, "web1");
        assert_eq!(found.remedy[0].command, "ip route replace default via 10.2.0.1 src 10.2.0.11");
        assert_eq!(found.flows, [2]);
    }

    #[test]
    fn speaking_for_oneself_and_answering_are_right() {
        asks("10.2.0.11").deny(&DR011);
        // An answer to a datagram that nobody saw.
        let mut w = asks("10.2.0.11");
        w.carry(&World::udp("10.2.0.100:53", "10.1.0.100:50001"), false, 0, b"answer", "web1 router client");
        w.deny(&DR011);
        // Who balances may speak as the VIP.
        let mut w = World::dr();
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.talk(&World::tcp("10.1.0.100:40001", "10.2.0.100:80"), "client router director web1", "web1 router client");
        w.carry(&World::tcp("10.2.0.100:50001", "10.1.0.100:443"), false, SYN, b"", "director router client");
        w.deny(&DR011);
        // Whoever gets its answer.
        let mut w = asks("10.2.0.100");
        w.carry(&World::tcp("10.2.0.100:50001", "10.1.0.100:443"), true, SYN_ACK, b"", "client router web1");
        w.deny(&DR011);
    }

    #[test]
    fn a_route_that_suggests_the_vip() {
        let suggests = |web: sketch::Sketch| {
            web.with(|h| {
                let defaults = h.routes.iter_mut().flatten().filter(|r| r.hops[0].gateway.is_some());
                defaults.for_each(|r| r.source = "10.0.0.100".parse().ok());
            })
        };
        let found = sketch::expect(&dr_with("web1", suggests), &DR011, Severity::Degraded, Confidence::Certain, "web1");
        assert_eq!(found.remedy[0].command, "ip route replace default via 10.0.0.1 dev eth0 src 10.0.0.11");
        sketch::passes(&sketch::dr(), &DR011, "web1");
    }
}
