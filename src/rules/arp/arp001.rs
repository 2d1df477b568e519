//! A real server answers ARP for the VIP.

use super::super::facts::{ids, list};
use super::super::remedy::quiet_arp;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Leak, forget, leaks, words};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::ipvs::Role;
use crate::trace::ClaimKind;

rule! {
    /// # What it sees
    /// Somebody asks who has the VIP, and a real server answers, alone or beside the director. The requests that follow may go to the real
    /// server's MAC, past the director: its schedule and its counters know nothing of them, while clients may notice nothing at all.
    ///
    /// # Why it breaks
    /// With direct routing and tunnels every real server has the VIP, too. Linux answers ARP for any local address on any interface, unless
    /// told otherwise. The asker keeps the first answer that arrives; which one that is, is luck, and may change with each expiry of its
    /// cache. Connections then move to a server that does not know them, and are reset.
    ///
    /// # Confirm it by hand
    /// From another host on the link, not from a real server: `arping -I IF -c 3 VIP` shows more than one MAC. On the real server:
    /// `sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.eth0.arp_ignore`: the larger of both counts, for the interface at which the
    /// question arrives.
    ///
    /// # Remedy
    /// `arp_ignore=1` and `arp_announce=2` for `all` (or the interface itself) on the real servers, before the VIP is put on `lo`. Then
    /// make the router forget what it learnt: `ip neigh flush to VIP`, or an announcement by the director.
    ///
    /// # When it is not a fault
    /// When the second host is a director, too: a takeover, or two masters (HA001). When a router answers for others (ARP010).
    ///
    /// # Reproduce
    /// A DR service; on a real server `sysctl -w net.ipv4.conf.all.arp_ignore=0`.
    ///
    /// # References
    /// kernel `Documentation/networking/ip-sysctl.rst`: arp_ignore; `net/ipv4/arp.c`, `arp_ignore`; LVS-HOWTO, the ARP problem.
    ARP001 "vip-arp-reply-leak" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let hood = facts.neighbourhood();
    let found: Vec<Finding> = leaks(&hood, ClaimKind::Reply).iter().filter_map(|leak| finding(&hood, leak)).collect();
    let vips = facts.vips();
    let heard = facts.trace.claims.questions.iter().any(|q| vips.contains(&q.target));
    let need = || "a capture on the servers' network that shows who answers ARP for the VIP, or a snapshot of a real server".to_string();
    Outcome::or_need(found, (!heard).then(need))
}

fn finding(hood: &super::Neighbourhood<'_>, leak: &Leak<'_>) -> Option<Finding> {
    let facts = &hood.facts;
    let (vip, names) = (leak.vip, facts.names(leak.servers.keys().copied()));
    let mut proofs = leak.servers.values().filter_map(|claims| words(facts, claims));
    let first = proofs.next()?;
    let others = facts.claimants(vip).into_iter().filter(|c| !leak.servers.contains_key(&c.host));
    let owner = others.filter_map(|c| Some((c.host, c.answers()?))).max_by_key(|(host, _)| hood.standing(*host, vip) == Role::Director);
    let verb = if leak.servers.len() == 1 { "answers" } else { "answer" };
    let besides = owner.map_or_else(String::new, |(host, _)| format!(" beside {}", facts.name(Some(host))));
    let effect = leak.effect();
    let summary = format!("{names} {verb} ARP for {vip}{besides}{effect}.");
    let also: Vec<&str> = leak.servers.keys().filter(|h| asks_with(facts, **h, vip)).map(|h| facts.name(Some(*h))).collect();
    let spoken = leak.servers.keys().find_map(|h| facts.claimants(vip).iter().find(|c| c.host == *h)?.by(ClaimKind::Sender));
    // An address on the card itself is answered for at any arp_ignore below 8.
    let mut alternatives = vec!["ARP003", "ARP004", "ARP005", "DR010"];
    if !leak.known {
        alternatives.extend(["HA001", "ARP012", "ARP010"]);
    }
    let settle = match leak.known {
        true => format!("on {names}: `sysctl -a -r 'arp_(ignore|announce)'`, `ip addr show to {vip}`, `arptables-save`"),
        false => format!("is {names} a real server of {vip}, or a director? `ip addr show to {vip}` there, or a snapshot"),
    };
    let mut past: Vec<_> = leak.past.iter().filter_map(|f| f.request.last()).map(|h| facts.seen_with(h, &facts.to_whom(h))).collect();
    past.truncate(2);
    let router = leak.past.first().and_then(|f| f.request.last()?.from);
    let remedy = quiet_arp(&names);
    let mut found = Finding::new(&names, leak.severity(), Confidence::Likely, summary, first)
        .and(proofs)
        .and(owner.map(|(_, claim)| facts.claim(claim)))
        .and(past)
        .and(spoken.map(|claim| facts.claim(claim)))
        .unless(&alternatives, settle)
        .mend([remedy, forget(router.map_or("the router", |r| facts.name(Some(r))), vip)])
        .on(ids(&leak.past));
    if !also.is_empty() {
        found.summary = format!("{names} {verb} ARP for {vip}{besides}, and {} asks with it as sender (ARP002){effect}.", list(&also));
        found.alternatives.insert(0, "ARP002");
    }
    if found.severity == Severity::Risky {
        found.summary = format!("{} So far requests reach the director, by luck.", found.summary);
    }
    Some(found)
}

fn asks_with(facts: &Facts<'_>, host: crate::trace::HostId, vip: std::net::IpAddr) -> bool {
    facts.claimants(vip).iter().any(|c| c.host == host && c.by(ClaimKind::Sender).is_some())
}

/// On the host: settings and filters at each card.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::voice::look(site, checks, "ARP001");
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    const VIP: &str = "10.2.0.100";

    /// A connection by way of the director, which makes the real servers known as such.
    fn balanced() -> World {
        let mut w = World::dr();
        w.who_has("router", "int", VIP, &["director"]);
        for (port, web) in [(40001, "web1"), (40002, "web2")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
            w.talk(&c, &format!("client router director {web}"), &format!("{web} router client"));
        }
        w
    }

    fn past(w: &mut World, port: u16, web: &str) {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, &format!("client router {web}"), &format!("{web} router client"));
    }

    #[test]
    fn both_real_servers_answer_beside_the_director() {
        let mut w = balanced();
        w.wait(40.0);
        w.who_has("router", "int", VIP, &["web2", "web1", "director"]);
        past(&mut w, 40003, "web2");
        let found = w.expect(&ARP001, Confidence::Likely, "web1, web2");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[3][..]));
        assert!(found.summary.contains("beside director; requests go past"), "{}", found.summary);
        assert_eq!(found.alternatives, ["ARP003", "ARP004", "ARP005", "DR010"]);
        assert!(found.remedy[0].command.contains("net.ipv4.conf.all.arp_ignore=1"));
        assert_eq!(found.remedy[1].command, "ip neigh flush to 10.2.0.100");
        assert_eq!(w.unnamed().finding(&ARP001).subject, "rs1, rs2");
    }

    #[test]
    fn by_luck_the_director_answers_first() {
        let mut w = balanced();
        w.wait(40.0);
        w.who_has("router", "int", VIP, &["director", "web1"]);
        let found = w.expect(&ARP001, Confidence::Likely, "web1");
        assert_eq!(found.severity, Severity::Risky);
        assert!(found.flows.is_empty());
    }

    #[test]
    fn the_director_never_gets_a_request() {
        let mut w = World::dr();
        for port in [40001, 40002] {
            w.who_has("router", "int", VIP, &["web1", "director"]);
            past(&mut w, port, "web1");
            w.wait(40.0);
        }
        assert_eq!(w.finding(&ARP001).subject, "web1");
        // Without names, and only as the router sees it: who serves the address is the real server, though it may be a second director.
        let found = w.without(&["web1", "web2", "director", "client"]).unnamed().finding(&ARP001);
        assert!(found.alternatives.contains(&"HA001"), "{:?}", found.alternatives);
    }

    #[test]
    fn the_second_owner_does_not_know_the_connection() {
        let mut w = balanced();
        w.wait(40.0);
        w.who_has("router", "int", VIP, &["web2", "director"]);
        let c = World::tcp("10.1.0.100:40009", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router web2", 3);
        assert_eq!(w.finding(&ARP001).severity, Severity::Broken);
    }

    #[test]
    fn one_answer_at_a_time_is_a_takeover() {
        // Two machines that serve by themselves, not balancers: the second takes over.
        let mut w = World::dr();
        w.who_has("router", "int", VIP, &["web1"]);
        past(&mut w, 40001, "web1");
        w.wait(5.0);
        w.announce("web2", "int", VIP);
        w.who_has("router", "int", VIP, &["web2"]);
        past(&mut w, 40002, "web2");
        w.deny(&ARP001);
        w.healthy();
    }

    #[test]
    fn directors_and_routers_may_answer() {
        let mut w = balanced();
        w.wait(40.0);
        // The standby takes over; the router does proxy ARP on its other side.
        let mut w = w.plug("lb2.eth0", "int", "10.2.0.3");
        w.announce("lb2", "int", VIP);
        w.who_has("router", "int", VIP, &["lb2"]);
        w.who_has("client", "ext", VIP, &["router"]);
        w.who_has("web1", "int", "10.1.0.100", &["router"]);
        w.deny(&ARP001);
        w.healthy();
    }

    #[test]
    fn a_router_that_does_not_translate() {
        let mut w = World::dr();
        w.who_has("router", "int", VIP, &["director"]);
        for (port, there) in [(40001, "director web1"), (40002, "director web2"), (40003, "web2"), (40004, "web2")] {
            if port == 40003 {
                w.wait(40.0);
                w.who_has("router", "int", VIP, &["web2", "director"]);
            }
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
            let server = there.rsplit(' ').next().expect("a server");
            w.talk(&c, &format!("client router {there}"), &format!("{server} router client"));
        }
        let found = w.expect(&ARP001, Confidence::Likely, "web2");
        assert_eq!(found.flows, [3, 4]);
    }

    #[test]
    fn nobody_asked() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        assert!(w.cannot_judge(&ARP001));
    }
}
