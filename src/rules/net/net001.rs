//! A router that does not forward.

use super::super::facts::ids;
use super::super::remedy::forward;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{half_seen_router, keeps_answers, knows_nothing_of};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::ipvs::Role;
use crate::trace::{Flow, Hop, HostId, Method, NoteKind, Way};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// Packets for somebody else arrive at one interface of a router, and none leaves by another: no RST, no ICMP error, and no ARP question
    /// for the next hop, which would mean that it tried. It is the same for every connection that comes in there. Requests or answers.
    ///
    /// # Why it breaks
    /// Linux forwards a packet only if `forwarding` is on for the interface by which it **arrives**. `ip_forward` sets it for all interfaces
    /// at the moment when it is written; an interface may differ, and it is off after a reboot unless a file under /etc/sysctl.d says so.
    ///
    /// # Confirm it by hand
    /// On the router: `sysctl net.ipv4.ip_forward net.ipv4.conf.IF.forwarding`; `nstat -az IpInAddrErrors IpForwDatagrams`: the first counts
    /// up, the second does not.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.ip_forward=1`, and the same in /etc/sysctl.d.
    ///
    /// # When it is not a fault
    /// When a filter in the FORWARD chain drops the packets on purpose (NET008): packets look the same. A host that is no router and got the
    /// packets by mistake forwards nothing, rightly.
    ///
    /// # Reproduce
    /// A healthy service behind a router; on the router `sysctl -w net.ipv4.ip_forward=0`.
    ///
    /// # References
    /// kernel `net/ipv4/route.c`, `ip_route_input_slow`; `Documentation/networking/ip-sysctl.rst`: ip_forward.
    NET001 "router-forwarding-off" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: Vec<Finding> = Vec::new();
    for loss in facts.losses("NET001") {
        let name = facts.name(Some(loss.host));
        let summary = format!("{name} receives requests for {}, which is not its own, and hands none on.", loss.service());
        let settle = settle(name, loss.hop);
        found.push(loss.finding(facts, summary, &settle).mend([forward(
            name,
            loss.hop.dst.addr.is_ipv6(),
            facts.entrance(loss.host, loss.hop),
        )]));
    }
    let mut stuck: BTreeMap<HostId, Vec<&Flow>> = BTreeMap::new();
    for flow in facts.flows() {
        // Where the server chose another card and another router than the request's, that choice is the fault (NET015).
        let by_another_card = |router| super::net015::explains(facts, flow) && knows_nothing_of(flow, router);
        if let Some((router, hop)) = keeps_answers(facts, flow)
            && !by_another_card(router)
            && !facts.forwards(router, hop, false)
        {
            stuck.entry(router).or_default().push(flow);
        }
    }
    found.extend(stuck.into_iter().filter_map(|(router, flows)| answers(facts, router, &flows)));
    Outcome::or_need(found, half_seen_router(facts))
}

fn answers<'a>(facts: &Facts<'a>, router: HostId, flows: &[&'a Flow]) -> Option<Finding> {
    let flow = *flows.first()?;
    let (name, swallowed) = (facts.name(Some(router)), facts.swallowed(flow, Way::Reply)?);
    let hop = swallowed.hop;
    let summary = format!("Answers from {} arrive at {name} and do not leave it.", hop.src);
    let silence = facts.nowhere(&swallowed.watched, &format!("no answer to {}", flow.client));
    // A filter by state drops an answer to a question that it never saw.
    // So it does, or its provider, where a director with two uplinks sends it the answers of the other one.
    let translated = flow.method == Method::Nat && hop.from == flow.director;
    let open: &[&str] = match (knows_nothing_of(flow, router), translated) {
        (true, true) => &["NET006", "NAT014", "NET008", "NET004"],
        (true, false) => &["NET006", "NET008", "NET004"],
        (false, _) => &["NET008", "NET004"],
    };
    Some(
        Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.seen(hop))
            .and(facts.repeats(flow, hop, NoteKind::SynAckRepeat))
            .and(silence)
            .unless(open, settle(name, hop))
            .mend([forward(name, hop.dst.addr.is_ipv6(), facts.entrance(router, hop))])
            .on(ids(flows)),
    )
}

fn key(hop: &Hop) -> &'static str {
    if hop.dst.addr.is_ipv6() { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" }
}

fn settle(name: &str, hop: &Hop) -> String {
    format!("on {name}: `sysctl {}`, `nft list ruleset` (counters of drops in FORWARD), or a snapshot", key(hop))
}

/// On a router: forwarding at each card.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (at, host) in site.playing(Role::Router) {
        // A translator, or the next hop of somebody else's answers.
        let needed = site.duties.iter().any(|d| site.translators(d).contains(&at)) || site.is_gateway(at);
        if !needed {
            continue;
        }
        // A card of which none of these hosts is a neighbour is for something else, perhaps on purpose.
        let others = || site.fleet.members.iter().map(|m| &m.host).filter(|other| other.name != host.name);
        let near = |a: &crate::host::Address| {
            let inside = |b: &crate::host::Address| b.is_global() && a.addr.contains(b.addr.addr());
            a.is_global() && a.addr.addr().is_ipv4() && others().any(|other| other.addresses().iter().any(inside))
        };
        let faces = |host: &crate::host::Host, link: &str| host.addresses().iter().any(|a| a.link == link && near(a));
        let cards = host.links().iter().filter(|l| l.speaks_arp() && l.is_up() && faces(host, &l.name));
        let levels: Option<Vec<(&str, i64)>> = cards.map(|l| Some((l.name.as_str(), host.effective("forwarding", &l.name)?))).collect();
        match levels {
            None => checks.needs(&host.name, "net.ipv4.conf.*.forwarding"),
            Some(levels) => match levels.iter().find(|(_, value)| *value == 0) {
                None => checks.passed(&host.name, "every card forwards"),
                Some((link, _)) => {
                    let whole = levels.iter().all(|(_, value)| *value == 0);
                    let key = crate::host::Sysctls::name4(link, "forwarding");
                    let summary = match whole {
                        true => "This router does not forward.".to_string(),
                        false => format!("This router does not forward what arrives at {link}."),
                    };
                    let setting = if whole { "net.ipv4.ip_forward".to_string() } else { key.clone() };
                    let found = proven(host, Severity::Broken, summary, format!("{key}=0"), "sysctl")
                        .mend([super::super::remedy::set(host, &[(setting, "1")])]);
                    checks.failed(&host.name, found);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::*;

    fn requests_end() -> World {
        let mut w = World::dr();
        w.who_has("client", "ext", "10.1.0.1", &["router"]);
        for port in [40001, 40002] {
            w.syn(&World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80"), "client router", 3);
        }
        w
    }

    #[test]
    fn requests_end_at_the_router() {
        let found = requests_end().expect(&NET001, Confidence::Likely, "router");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.ext.forwarding=1");
        assert_eq!(found.flows, [1, 2]);
        assert!(found.alternatives.contains(&"NET008"));
    }

    #[test]
    fn one_side_of_the_router_is_not_enough() {
        let w = requests_end().without(&["router.int", "director", "web1", "web2"]);
        w.deny(&NET001);
        assert!(w.cannot_judge(&NET001));
    }

    #[test]
    fn answers_end_at_the_router() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for _ in 0..3 {
            w.syn(&c, "client router director web1", 1);
            w.carry(&c, true, SYN_ACK, b"", "web1 router");
            w.wait(1.0);
        }
        let found = w.expect(&NET001, Confidence::Likely, "router");
        assert!(found.summary.starts_with("Answers"), "{}", found.summary);
        assert_eq!(found.alternatives, ["NET008", "NET004"]);
    }

    #[test]
    fn a_router_that_forwards_others_forwards() {
        let mut w = requests_end();
        let c = World::tcp("10.1.0.100:40009", "10.2.0.100:22");
        w.talk(&c, "client router director", "director router client");
        w.deny(&NET001);
    }

    #[test]
    fn a_router_that_looks_for_the_next_hop_forwards() {
        let mut w = World::dr();
        w.who_has("client", "ext", "10.1.0.1", &["router"]);
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, "client router", 1);
        for _ in 0..3 {
            w.who_has("router", "int", "10.2.0.100", &[]);
            w.wait(1.0);
        }
        w.syn(&c, "client router", 2);
        w.deny(&NET001);
    }
}
