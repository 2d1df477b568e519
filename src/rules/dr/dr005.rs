//! A real server answers through another router than the one that translated the request.

use super::super::answers::answer_through;
use super::super::facts::{by_server, ids};
use super::super::remedy::replace_default_route;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{DIRECT, answered_directly};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::trace::{Flow, Hop, HostId, NoteKind, Rewrite};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// The router translates the client's destination to the VIP. The real server's answer goes to another router, or straight to the
    /// client, which sees the VIP as its source instead of the address that it dialled. It resets the answer, or ignores it. Or, translated
    /// or not, it goes to a host that is no router at all.
    ///
    /// # Why it breaks
    /// Only the router that translated the request can translate the answer back. It never sees it; its connection tracking stays at
    /// SYN_SENT, and it may drop the client's later packets as invalid.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get CLIENT from VIP` names another next hop. On the router: `conntrack -L -d ADDRESS` says UNREPLIED.
    ///
    /// # Remedy
    /// The real servers' default route through the router that translates, or a policy rule for packets from the VIP.
    ///
    /// # When it is not a fault
    /// Without translation answers may take any router: the client sees the address that it dialled. A client on the servers' own link
    /// that dials the router's address is a test from the wrong place (NET005).
    ///
    /// # Reproduce
    /// A DR service behind a router with DNAT, a second router on the servers' network as their gateway.
    ///
    /// # References
    /// kernel `net/netfilter/nf_nat_core.c`; conntrack(8).
    DR005 "reply-via-other-router" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let strays = |f: &&Flow| !f.state.is_complete() && other_way(f).is_some() && facts.tested_from_inside(f).is_none();
    let stray: Vec<&Flow> = answered_directly(facts).filter(strays).collect();
    let found: Vec<Finding> = by_server(stray)
        .into_iter()
        .filter_map(|(server, flows)| {
            let (flow, name) = (flows[0], facts.name(Some(server)));
            let translator = other_way(flow)?;
            let (sent, translated) = (flow.reply.first()?, flow.request.sent_by(translator)?);
            let (next, router) = (facts.name(sent.to), facts.name(Some(translator)));
            let gateway = facts.address_on(Some(translator), translated.src_mac, &[flow.client.addr, flow.service.addr], "ROUTER");
            let before = facts.address_on(sent.to, sent.dst_mac, &[], "the gateway before");
            let summary =
                format!("{name} answers through {next}; only {router}, which translated the request, can translate the answer back.");
            let arrived =
                flow.reply.hops.iter().find(|hop| hop.dst == flow.client && hop.to == flow.client_host && hop.src != flow.service);
            Some(
                Finding::new(name, Severity::Broken, Confidence::Certain, summary, facts.seen_with(sent, &facts.to_whom(sent)))
                    .and([facts.seen_with(translated, &format!("translated by {router}"))])
                    .and(arrived.map(|hop| facts.seen_with(hop, &format!("the client dialled {}", flow.service))))
                    .mend([replace_default_route(name, &gateway, &before)])
                    .on(ids(&flows)),
            )
        })
        .collect();
    let mut lost: BTreeMap<(HostId, HostId), Vec<(&Flow, &Hop)>> = BTreeMap::new();
    for flow in answered_directly(facts) {
        if let Some((server, next, hop)) = kept(facts, flow) {
            lost.entry((server, next)).or_default().push((flow, hop));
        }
    }
    let kept = lost.iter().map(|((server, next), flows)| no_router(facts, *server, *next, flows));
    Outcome::or_need(found.into_iter().chain(kept).collect(), facts.unwatched_server(&DIRECT))
}

/// Another real server, to which a server gives its answers as if it were a router, and which keeps them.
fn kept<'a>(facts: &Facts<'a>, flow: &'a Flow) -> Option<(HostId, HostId, &'a Hop)> {
    let hop = flow.reply.last().filter(|hop| hop.from == flow.server_host && hop.dst_mac.is_some())?;
    let (server, next) = (hop.from?, hop.to?);
    let own = [flow.director, flow.client_host, flow.server_host].contains(&Some(next)) || flow.routers.contains(&next);
    let passes = |f: &Flow| f.reply.sent_by(next).is_some() && f.server_host != Some(next);
    let ends = !flow.state.is_complete() && facts.waited(flow, hop) && facts.is_real_server(next) && !facts.flows().any(passes);
    (!own && ends && facts.owner(flow.client.addr) != Some(next)).then_some((server, next, hop))
}

fn no_router(facts: &Facts<'_>, server: HostId, next: HostId, flows: &[(&Flow, &Hop)]) -> Finding {
    let ((flow, hop), name, keeper) = (flows[0], facts.name(Some(server)), facts.name(Some(next)));
    let summary = format!("{name} answers through {keeper}, which is a real server and hands nothing on.");
    let handed = facts.at_director(flow);
    let not = [flow.client.addr, flow.service.addr, hop.src.addr];
    let gateway = handed.map_or_else(|| "ROUTER".to_string(), |h| facts.address_on(h.from, h.src_mac, &not, "ROUTER"));
    let before = facts.address_on(Some(next), hop.dst_mac, &not, "the gateway before");
    let severity = if facts.others_serve(flow) { Severity::Degraded } else { Severity::Broken };
    Finding::new(name, severity, Confidence::Likely, summary, facts.seen_with(hop, &facts.to_whom(hop)))
        .and(facts.repeats(flow, hop, NoteKind::SynAckRepeat))
        .unless(&["DR009"], format!("on {name}: `ip route get {}`, `ip neigh show`", flow.client.addr))
        .mend([replace_default_route(name, &gateway, &before)])
        .on(flows.iter().map(|(f, _)| f.id))
}

/// The router that translated the request's destination in front of the director, if the answer goes elsewhere, and not to the director.
fn other_way(flow: &Flow) -> Option<HostId> {
    let vip = flow.vip?;
    let translated = flow.request.hops.iter().find(|hop| hop.rewrites.contains(&Rewrite::DstIp) && hop.dst == vip)?;
    let router = translated.from.filter(|router| Some(*router) != flow.director)?;
    let sent = flow.reply.first().filter(|hop| hop.from == flow.server_host && hop.src == vip && hop.dst_mac.is_some())?;
    let elsewhere = sent.to != Some(router) && sent.to != flow.director && sent.to.is_some();
    (elsewhere && flow.reply.towards(router).next().is_none()).then_some(router)
}

/// On the hosts: the answers' next hop is not the router that translates to the virtual address.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.answers(checks, "DR005", |host, duty, story| {
        let gateway = site.router_of(duty);
        let gateways = host.way(&duty.answer(story.source)).map(|way| way.gateways()).unwrap_or_default();
        let summary = match gateways.iter().find_map(|g| site.no_router(*g)) {
            Some(other) => format!("Answers to {} leave {}: that is {}, which forwards nothing.", story.source, story.way, other.name),
            None => format!(
                "Answers to {} leave {}; the router that translates to {} is {gateway}, and alone can translate back.",
                story.source, story.way, duty.service
            ),
        };
        story.fault(host, Severity::Broken, summary).mend([answer_through(host, duty, &gateway)])
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch;
    use super::super::super::testing::{RST, SYN, SYN_ACK, World};
    use super::*;

    #[test]
    fn the_answer_takes_another_router() {
        let mut w = World::dr().plug("gw.int", "int", "10.2.0.254").plug("gw.ext", "ext", "10.1.0.254");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router director web1", 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 gw client");
        let direct = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.carry(&direct, false, RST, b"", "client gw");
        w.syn(&c, "client router director web1", 2);
        let found = w.expect(&DR005, Confidence::Certain, "web1");
        assert_eq!(found.remedy[0].command, "ip route replace default via 10.2.0.1");
        assert!(found.summary.contains("only router"), "{}", found.summary);
    }

    /// A server keeps what is sent to its MAC for somebody else; only a router hands it on.
    fn through_a_server(hands_on: bool) -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = |port: u16| World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
        w.talk(&c(40001), "client router director web2", "web2 router client");
        for _ in 0..3 {
            w.carry(&c(40002), false, SYN, b"", "client router director web1");
            w.carry(&c(40002), true, SYN_ACK, b"", if hands_on { "web1 web2 router client" } else { "web1 web2" });
            w.wait(1.0);
        }
        w
    }

    #[test]
    fn a_server_is_no_router() {
        let found = through_a_server(false).expect(&DR005, Confidence::Likely, "web1");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[2][..]));
        assert!(found.remedy[0].command.starts_with("ip route replace default via"), "{:?}", found.remedy);
        through_a_server(true).deny(&DR005);
    }

    #[test]
    fn the_gateway_is_a_server_that_forwards_nothing() {
        let through = |gateway: &str| {
            sketch::dr_with("web1", |s| s.with(|h| h.routes.as_mut().unwrap().retain(|r| !r.is_default())).via("default", gateway, "eth0"))
        };
        let found = sketch::expect(&through("10.0.0.12"), &DR005, Severity::Broken, Confidence::Certain, "web1");
        assert!(found.summary.contains("that is web2, which forwards nothing"), "{}", found.summary);
        sketch::passes(&through("10.0.0.1"), &DR005, "web1");
    }

    #[test]
    fn without_translation_any_router_will_do() {
        let mut w = World::dr().plug("gw.int", "int", "10.2.0.254").plug("gw.ext", "ext", "10.1.0.254");
        for (port, web) in [(40001, "web1"), (40002, "web2")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
            w.talk(&c, &format!("client router director {web}"), &format!("{web} gw client"));
        }
        w.deny(&DR005);
        w.healthy();
    }

    #[test]
    fn through_the_translating_router_is_right() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w.deny(&DR005);
    }
}
