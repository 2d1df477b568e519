//! Two directors have the VIP at the same time.

use super::super::facts::{Claimant, ids, list, seconds};
use super::super::remedy::{ip_for, look};
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Neighbourhood, Pair, pairs};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::Role;
use crate::trace::{Claim, Flow};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// VRRP advertisements of one virtual router from two sources, for longer than a handover takes. Or two hosts that answer one question
    /// for the VIP, or announce it in turn, none of which is a real server of the service.
    ///
    /// # Why it breaks
    /// Each believes to be master: their advertisements do not reach each other (multicast is filtered, a firewall drops protocol 112,
    /// passwords or versions differ), or somebody configured the address by hand. Each neighbour sends to whom it heard last; connections
    /// move between two tables that do not know of each other, and are reset.
    ///
    /// # Confirm it by hand
    /// On both: `ip addr show to VIP`, `tcpdump -ni IF proto 112` (does each see the other?), `journalctl -u keepalived`.
    ///
    /// # Remedy
    /// Let protocol 112 pass on both sides (`iptables -I INPUT -p vrrp -j ACCEPT`), or use `unicast_peer`; different priorities, one VRID,
    /// one password. If one of both is a stranger: take the address from it.
    ///
    /// # When it is not a fault
    /// A handover: one advertisement more, then silence. Two virtual routers with different addresses. Real servers that leak are ARP001.
    ///
    /// # Reproduce
    /// Two directors with keepalived; `iptables -A INPUT -p vrrp -j DROP` on the backup.
    ///
    /// # References
    /// RFC 5798, section 6.4; keepalived.conf(5); keepalived issues 2370 and 2649.
    HA001 "split-brain-duplicate-vip" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let hood = facts.neighbourhood();
    let pairs = pairs(facts);
    let won = super::ha002::lost(facts, &pairs);
    let mut told: Vec<IpAddr> = pairs.iter().flat_map(|p| p.addresses.iter().copied()).collect();
    let unfinished = pairs.iter().filter(|p| !won.iter().any(|w| std::ptr::eq(w.pair, *p)));
    let mut found: Vec<Finding> = unfinished.map(|pair| by_vrrp(facts, pair)).collect();
    for vip in facts.service_addresses() {
        // Who answers late answers for another (ARP010).
        if !told.contains(&vip)
            && super::super::arp::arp010::by_proxy(&hood, vip).is_none()
            && let Some(finding) = by_claims(&hood, vip)
        {
            told.push(vip);
            found.push(finding);
        }
    }
    let heard = !facts.trace.claims.claims.is_empty() || !facts.trace.claims.advertisers.is_empty();
    Outcome::or_need(found, (!heard).then(|| "a capture on the directors' network with ARP and VRRP (protocol 112)".to_string()))
}

fn by_vrrp(facts: &Facts<'_>, pair: &Pair<'_>) -> Finding {
    let names: Vec<String> = pair.masters.iter().map(|m| m.name(facts)).collect();
    let names = list(&names);
    let vip = pair.addresses.first().copied();
    let vips: Vec<String> = pair.addresses.iter().map(ToString::to_string).collect();
    let what = if vips.is_empty() { format!("virtual router {}", pair.vrid) } else { list(&vips) };
    let failed: Vec<&Flow> = facts.flows().filter(|f| f.vip.is_some_and(|v| Some(v.addr) == vip) && !f.state.is_complete()).collect();
    let severity = match (pair.goes_on(), failed.is_empty()) {
        (true, _) => Severity::Broken,
        (false, false) => Severity::Degraded,
        (false, true) => Severity::Risky,
    };
    let how_long = seconds(pair.overlap);
    let summary = match pair.goes_on() {
        true => format!("{names} are both master of {what}, for {how_long} and still."),
        false => format!("{names} were both master of {what} for {how_long}."),
    };
    let adverts = |m: &super::Master<'_>| {
        let frames = m.adverts.iter().flat_map(|a| a.times.frames()).take(32).collect();
        let what =
            format!("{} is master of virtual router {} with priority {}: {} advertisements", m.addr, pair.vrid, m.priority(), m.count);
        Evidence::frames(pair.point, frames, what)
    };
    let subject = if vips.is_empty() { names.clone() } else { what.clone() };
    Finding::new(subject, severity, Confidence::Certain, summary, adverts(&pair.masters[0]))
        .and([adverts(&pair.masters[1])])
        .mend([pass(&names)])
        .on(ids(&failed))
}

/// Lets advertisements pass.
fn pass(names: &str) -> Remedy {
    Remedy::new(
        names,
        "iptables -I INPUT -p vrrp -j ACCEPT",
        "the same rule in the saved firewall; where the network filters multicast, `unicast_src_ip` and `unicast_peer` in keepalived.conf",
        "iptables -D INPUT -p vrrp -j ACCEPT",
    )
}

/// Two hosts, neither known as a real server, that contradict each other about a service's address.
fn by_claims(hood: &Neighbourhood<'_>, vip: IpAddr) -> Option<Finding> {
    let facts = &hood.facts;
    let rivals = hood.rivals(vip);
    // Who is known to serve the address for others, or was accused of leaking it, is another story (ARP001, IP6001, DR010).
    let open: Vec<&Claimant> = rivals.iter().filter(|r| hood.standing(r.host, vip) != Role::RealServer).collect();
    let (a, b, words) = open.iter().enumerate().find_map(|(i, a)| {
        let directors = |b: &Claimant| [a.host, b.host].iter().all(|h| hood.standing(*h, vip) == Role::Director);
        let others = open[i + 1..].iter().filter(|b| directors(b) || !facts.may_be_one_machine(a.host, b.host));
        others.into_iter().find_map(|b| Some((*a, *b, facts.contradiction(a, b)?)))
    })?;
    if rivals.len() > open.len() && !open.iter().all(|r| hood.standing(r.host, vip) == Role::Director) {
        return None;
    }
    let names = facts.names([a.host, b.host]);
    let directors = [a, b].iter().filter(|c| hood.standing(c.host, vip) == Role::Director).count();
    let flows: Vec<&Flow> = facts.flows().filter(|f| f.vip.is_some_and(|v| v.addr == vip)).collect();
    let failed: Vec<&Flow> = flows.iter().copied().filter(|f| !f.state.is_complete()).collect();
    let severity = if failed.is_empty() { Severity::Degraded } else { Severity::Broken };
    let summary = format!("{names} both say that they have {vip}: {} and {}.", words[0].mac, words[1].mac);
    let met = [a, b].into_iter().filter_map(|c| {
        let hop = flows.iter().flat_map(|f| &f.request.hops).find(|h| h.to == Some(c.host) && h.dst.addr == vip)?;
        Some(facts.seen_with(hop, &facts.to_whom(hop)))
    });
    let refused = failed.iter().filter_map(|f| f.reply.first()).find(|h| [a, b].iter().any(|c| h.from == Some(c.host)));
    let alternatives: &[&'static str] = match (directors, vip.is_ipv4()) {
        (2, true) => &["HA002", "K8S001"],
        (2, false) => &["HA002"],
        (_, true) => &["ARP001", "ARP010", "ARP012", "DR010", "K8S001"],
        (_, false) => &["IP6001"],
    };
    let settle = format!("`ip addr show to {vip}` on both: is one a real server, a second director, or a stranger?");
    let family = ip_for(&vip.to_string());
    let who = [a, b].into_iter().find(|c| directors == 1 && hood.standing(c.host, vip) != Role::Director);
    let remedy = match (directors, who) {
        (2, _) => pass(&names),
        (_, Some(stranger)) => {
            let length = if vip.is_ipv4() { 32 } else { 128 };
            let heard = stranger.answers().filter(|c| facts.trace.host_at(c.point) == Some(stranger.host));
            let device = heard.map_or("IF", |claim| facts.device(claim.point));
            Remedy::new(
                facts.name(Some(stranger.host)),
                format!("{family} addr del {vip}/{length} dev {device}"),
                "the address out of its configuration",
                format!("{family} addr add {vip}/{length} dev {device}"),
            )
        }
        _ => look(
            &names,
            format!("{family} addr show to {vip}"),
            "leave the address to one of both; let VRRP (protocol 112) pass between directors",
        ),
    };
    let spoken: [&Claim; 2] = words;
    Some(
        Finding::new(vip.to_string(), severity, Confidence::Likely, summary, facts.claim(spoken[0]))
            .and([facts.claim(spoken[1])])
            .and(met)
            .and(refused.map(|hop| facts.seen(hop)))
            .unless(alternatives, settle)
            .mend([remedy, forget(vip)])
            .on(ids(&failed)),
    )
}

/// On hosts: a virtual address on cards of two of them.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for vip in site.fleet.vips() {
        // On a real server's card it is a leak, with a page of its own (DR010).
        let serves = |at: usize| site.duties.iter().any(|d| d.member == at && d.vip == Some(vip));
        let up = |at: &usize| site.host(*at).address(vip).and_then(|a| site.host(*at).link(&a.link)).is_some_and(|l| l.has_carrier());
        let owners: Vec<usize> = site.fleet.owners(vip).into_iter().filter(|at| !serves(*at) && up(at)).collect();
        let [first, others @ ..] = owners.as_slice() else { continue };
        let Some(other) = others.first() else {
            checks.passed(&site.host(*first).name, format!("{vip} is here alone"));
            continue;
        };
        let directs = |at: usize| site.fleet.services.iter().any(|s| s.director == Some(at) && s.service.vip() == Some(vip));
        let (a, b) = if directs(*first) { (site.host(*first), site.host(*other)) } else { (site.host(*other), site.host(*first)) };
        let both = directs(*first) && directs(*other);
        let summary = format!(
            "{vip} is on an interface of {} and of {}: neighbours keep whoever spoke last, and connections fail half-way.",
            a.name, b.name
        );
        let fact = |h: &crate::host::Host| h.address(vip).map_or_else(String::new, |x| format!("{} dev {}", x.addr, x.link));
        let remedy = match both {
            true => super::super::remedy::look(
                &b.name,
                "journalctl -u keepalived; tcpdump -ni any vrrp",
                "let VRRP (protocol 112, 224.0.0.18) pass between the directors, or use unicast_peer",
            ),
            // The others have learnt its MAC.
            false => crate::finding::Remedy::new(
                &b.name,
                format!("ip addr del {}", fact(b)),
                "the address out of its network's configuration",
                format!("ip addr add {}", fact(b)),
            ),
        };
        let found = crate::finding::Finding::new(
            format!("{}, {}", a.name, b.name),
            Severity::Broken,
            crate::finding::Confidence::Certain,
            summary,
            crate::finding::Evidence::host(&a.name, fact(a), format!("ip addr show to {vip}")),
        )
        .and([crate::finding::Evidence::host(&b.name, fact(b), format!("ip addr show to {vip}"))])
        .mend(std::iter::once(remedy).chain((!both).then(|| forget(vip))));
        checks.failed(&b.name, found);
    }
}

/// Makes those who have learnt the wrong MAC ask again.
fn forget(vip: IpAddr) -> Remedy {
    let family = ip_for(&vip.to_string());
    Remedy::new("its neighbours", format!("{family} neigh flush to {vip}"), "nothing: it is learnt anew", "nothing to undo")
}

#[cfg(test)]
mod tests {
    use super::super::super::arp::arp001::ARP001;
    use super::super::super::testing::{REFUSE, World};
    use super::*;

    const VIP: &str = "10.2.0.100";

    fn world() -> World {
        World::dr().plug("lb2.eth0", "int", "10.2.0.3")
    }

    fn flow(w: &mut World, port: u16, director: &str) {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, &format!("client router {director} web1"), "web1 router client");
    }

    /// Who answers for others takes its time; a new owner of the address speaks up by itself, or after another question.
    #[test]
    fn a_late_second_answer_to_one_question() {
        let mut w = world().plug("gate.eth0", "int", "10.2.0.9");
        w.who_has("router", "int", VIP, &["director"]);
        flow(&mut w, 40001, "director");
        w.wait(0.6);
        let mut again = w.clone();
        w.has("gate", "int", VIP, "router");
        flow(&mut w, 40002, "director");
        w.deny(&HA001);
        let found = w.expect(&super::super::super::arp::arp010::ARP010, Confidence::Likely, "gate");
        assert!(found.alternatives.contains(&"HA001"), "{:?}", found.alternatives);
        again.who_has("router", "int", VIP, &["gate"]);
        flow(&mut again, 40002, "director");
        again.deny(&HA001);
    }

    #[test]
    fn two_masters_that_do_not_hear_each_other() {
        let mut w = world();
        w.who_has("router", "int", VIP, &["director"]);
        flow(&mut w, 40001, "director");
        for _ in 0..6 {
            w.vrrp("director", "int", 51, 150, VIP);
            w.vrrp("lb2", "int", 51, 100, VIP);
            w.wait(1.0);
        }
        let found = w.expect(&HA001, Confidence::Certain, VIP);
        assert_eq!(found.severity, Severity::Broken);
        assert!(found.summary.contains("10.2.0.3"), "{}", found.summary);
    }

    #[test]
    fn both_answer() {
        let mut w = world();
        w.who_has("router", "int", VIP, &["director", "lb2"]);
        flow(&mut w, 40001, "director");
        w.wait(60.0);
        w.who_has("router", "int", VIP, &["lb2", "director"]);
        flow(&mut w, 40002, "lb2");
        let found = w.expect(&HA001, Confidence::Likely, VIP);
        assert!(found.alternatives.contains(&"HA002"), "{:?}", found.alternatives);
        w.deny(&ARP001);
    }

    #[test]
    fn a_stranger_answers_and_refuses() {
        let mut w = World::dr().plug("printer.eth0", "int", VIP);
        w.who_has("client", "ext", "10.1.0.1", &["router"]);
        for port in [40001, 40002] {
            w.who_has("router", "int", VIP, &["printer", "director"]);
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
            w.syn(&c, "client router printer", 1);
            w.carry(&c, true, REFUSE, b"", "printer router client");
            w.wait(40.0);
        }
        let found = w.expect(&HA001, Confidence::Likely, VIP);
        assert_eq!((found.severity, found.remedy[0].host.as_str()), (Severity::Broken, "printer"));
        assert!(["ARP001", "ARP012"].iter().all(|code| found.alternatives.contains(code)));
        w.without(&["client", "director", "web1", "web2", "printer"]).unnamed().finding(&HA001);
    }

    #[test]
    fn a_handover_is_right() {
        let mut w = world();
        w.who_has("router", "int", VIP, &["director"]);
        for _ in 0..4 {
            w.vrrp("director", "int", 51, 150, VIP);
            w.wait(1.0);
        }
        flow(&mut w, 40001, "director");
        w.wait(3.0);
        for n in 0..4 {
            w.vrrp("lb2", "int", 51, 100, VIP);
            if n == 0 {
                w.announce("lb2", "int", VIP);
                flow(&mut w, 40002, "lb2");
            }
            w.wait(1.0);
        }
        // The first one comes back, and the second steps aside.
        w.vrrp("director", "int", 51, 150, VIP);
        w.vrrp("lb2", "int", 51, 100, VIP);
        w.announce("director", "int", VIP);
        w.vrrp("lb2", "int", 51, 0, VIP);
        for _ in 0..4 {
            w.vrrp("director", "int", 51, 150, VIP);
            w.wait(1.0);
        }
        flow(&mut w, 40003, "director");
        w.deny(&HA001);
        w.healthy();
        w.unnamed().healthy();
    }

    #[test]
    fn two_virtual_routers_may_share_a_number_by_mistake() {
        let mut w = world();
        for _ in 0..6 {
            w.vrrp("director", "int", 51, 150, VIP);
            w.vrrp("lb2", "int", 51, 100, "10.2.0.101");
            w.wait(1.0);
        }
        w.deny(&HA001);
    }
}
