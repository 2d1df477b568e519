//! A static neighbour entry that is out of date.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::net::MacAddr;
use crate::trace::{Claim, Flow, Hop, HostId, Method, NoteKind, Way};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// Frames for a real server carry another MAC than the one that the real server itself claims. Nobody answers them, and their sender
    /// never asks who has that address. Or somebody sends requests for the VIP straight to a real server, past the director, although that
    /// server never said that the VIP was its own.
    ///
    /// # Why it breaks
    /// A permanent neighbour entry (`arp -s`, `ip neigh … nud permanent`) is never checked. After the real server's network card was
    /// exchanged, frames go to a MAC that no longer exists. An entry for the VIP, or a route, that leads to a real server goes round the
    /// scheduler: that server gets all, also when it is taken out.
    ///
    /// # Confirm it by hand
    /// On the sender: `ip neigh show RIP` says PERMANENT; compare with `ip link` on the real server.
    ///
    /// # Remedy
    /// Delete the entry, or correct it. The need for such entries usually has a better cure (DR008).
    ///
    /// # When it is not a fault
    /// Never while frames go nowhere. A test of each real server by hand goes round the director on purpose.
    ///
    /// # Reproduce
    /// A healthy service; on the director `ip neigh replace RIP lladdr 02:00:00:00:00:01 nud permanent dev eth0`.
    ///
    /// # References
    /// ip-neighbour(8); arp(7).
    DR009 "static-neighbour-stale" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut stale: BTreeMap<(IpAddr, MacAddr), (Vec<&Flow>, &Hop, &Claim)> = BTreeMap::new();
    for flow in facts.flows().filter(|f| f.director.is_some() && !f.state.is_complete()) {
        let Some((hop, addr)) = handed(flow) else { continue };
        let Some(mac) = hop.dst_mac.filter(|mac| mac.is_unicast()) else { continue };
        let claims = || facts.trace.claims.claims.iter().filter(|c| c.addr == addr && c.is_earnest());
        let silent = flow.reply.is_empty() && !facts.trace.claims.claims.iter().any(|c| c.mac == mac);
        let asked = facts.trace.claims.questions.iter().any(|q| q.target == addr && Some(q.mac) == hop.src_mac);
        // Whoever takes it further is a router on the way; the address is on another link.
        if flow.request.hops.iter().any(|h| h.from.is_some() && h.from == hop.to && h.to != hop.from) {
            continue;
        }
        if let Some(claim) = claims().next().filter(|_| silent && !asked && claims().all(|c| c.mac != mac)) {
            stale.entry((addr, mac)).or_insert_with(|| (Vec::new(), hop, claim)).0.push(flow);
        }
    }
    let finding = |((addr, mac), (flows, hop, claim)): ((IpAddr, MacAddr), (Vec<&Flow>, &Hop, &Claim))| {
        let name = facts.name(hop.from);
        let summary = format!("{name} sends packets for {addr} to {mac}; that address is at {}.", claim.mac);
        Finding::new(name, Severity::Broken, Confidence::Certain, summary, facts.seen_with(hop, &format!("to {mac}")))
            .and([facts.claim(claim)])
            .mend([Remedy::new(
                name,
                format!("ip neigh del {addr} dev IF"),
                "remove the static entry from the start-up files",
                format!("ip neigh replace {addr} lladdr {mac} nud permanent dev IF"),
            )])
            .on(ids(&flows))
    };
    stale.into_iter().map(finding).chain(shortcuts(facts)).chain(nobodys(facts)).collect::<Vec<_>>().into()
}

/// What goes to a MAC from which nothing was ever heard, and which no bridge knows: it floods such frames.
fn nobodys(facts: &Facts<'_>) -> Vec<Finding> {
    let mut lost: BTreeMap<(MacAddr, HostId, Way), (Vec<&Flow>, &Hop)> = BTreeMap::new();
    for flow in facts.flows().filter(|f| !f.state.is_complete()) {
        // What a director hands on may be for a server that is silent: that is a story of its own, and names this one beside others.
        let request = flow.request.last().filter(|hop| !flow.is_answered() && (flow.director.is_none() || hop.from != flow.director));
        let ways = [(Way::Request, request), (Way::Reply, flow.reply.last())];
        for (way, hop) in ways.into_iter().filter_map(|(way, hop)| Some((way, hop?))) {
            let mac = hop.dst_mac.filter(|mac| mac.is_unicast() && mac.vrid().is_none() && !facts.trace.has_spoken(*mac));
            // Nearest to the sender.
            let hops = if way == Way::Request { &flow.request.hops } else { &flow.reply.hops };
            let hop = hops.iter().find(|h| h.transit == hop.transit && h.at_sender == Some(true)).unwrap_or(hop);
            if let (Some(mac), Some(from)) = (mac.filter(|mac| facts.waited(flow, hop) && facts.trace.is_flooded(*mac)), hop.from) {
                lost.entry((mac, from, way)).or_insert_with(|| (Vec::new(), hop)).0.push(flow);
            }
        }
    }
    lost.into_iter().map(|((mac, _, way), (flows, hop))| nobody(facts, mac, way, &flows, hop)).collect()
}

fn nobody(facts: &Facts<'_>, mac: MacAddr, way: Way, flows: &[&Flow], hop: &Hop) -> Finding {
    let (name, flow) = (facts.name(hop.from), flows[0]);
    // Others send the same to somebody who is there.
    let alike = |f: &&Flow| f.id != flow.id && f.vip == flow.vip && f.state.is_complete();
    let right =
        facts.flows().filter(alike).filter_map(|f| if way == Way::Reply { f.reply.first() } else { None }).find(|h| h.dst_mac.is_some());
    // Who has the address has said so, with another MAC.
    let hood = facts.neighbourhood();
    let mine = |c: &&Claim| c.addr == hop.dst.addr && c.is_earnest() && c.mac != mac && hood.on_one_link(c.point, hop.point);
    // A service's address moves between directors: who still believes in the one that is gone need not have it in writing (ARP007).
    let moves = way == Way::Request && (flow.vip.is_none_or(|vip| vip.addr == hop.dst.addr) && flow.real_server.is_none());
    let owner = facts.trace.claims.claims.iter().filter(|_| !moves).find(mine);
    let (what, addr) = match way {
        Way::Reply if owner.is_some() => (format!("answers for {}", hop.dst.addr), hop.dst.addr.to_string()),
        Way::Request => (format!("requests for {}", hop.dst), hop.dst.addr.to_string()),
        Way::Reply => {
            let handed = flow.request.hops.iter().find(|h| h.to == flow.director && h.src_mac.is_some());
            let not = [flow.client.addr, flow.service.addr, hop.src.addr];
            let gateway = handed.map_or_else(|| "GATEWAY".to_string(), |h| facts.address_on(h.from, h.src_mac, &not, "GATEWAY"));
            (format!("answers from {}", hop.src), gateway)
        }
    };
    // Where ARP was not captured, somebody may have said what nobody heard.
    let told = (right.is_some() || owner.is_some()) && !facts.is_deaf();
    let confidence = if told { Confidence::Likely } else { Confidence::Possible };
    let others: &[&'static str] = match (owner, way) {
        (Some(_), _) => &["ARP007"],
        (None, Way::Reply) => &["DR005"],
        (None, Way::Request) => &["ARP007", "SVC001", "NAT008"],
    };
    let summary = match owner {
        Some(claim) => {
            format!("{name} sends {what} to {mac}, from which nothing was ever heard; that address is at {}.", claim.mac)
        }
        None => format!("{name} sends {what} to {mac}, from which nothing was ever heard: the network floods them, and nobody takes them."),
    };
    let (severity, device) =
        (if facts.others_serve(flow) { Severity::Degraded } else { Severity::Broken }, facts.device(hop.point).to_string());
    let ip = super::super::remedy::ip_for(&addr);
    Finding::new(name, severity, confidence, summary, facts.seen_with(hop, &format!("to {mac}")))
        .and(facts.repeats(flow, hop, if way == Way::Reply { NoteKind::SynAckRepeat } else { NoteKind::SynRepeat }))
        .and(right.map(|hop| facts.seen_with(hop, &facts.to_whom(hop))))
        .and(owner.map(|claim| facts.claim(claim)))
        .unless(others, format!("on {name}: `{ip} neigh show {addr}` says PERMANENT? Is {mac} a card of anybody's?"))
        .mend([Remedy::new(
            name,
            format!("{ip} neigh del {addr} dev {device}"),
            "remove the static entry from the start-up files",
            format!("{ip} neigh replace {addr} lladdr {mac} nud permanent dev {device}"),
        )])
        .on(ids(flows))
}

/// Requests that somebody hands to a real server himself, while others come to it by the director.
fn shortcuts(facts: &Facts<'_>) -> Vec<Finding> {
    let mut taken: BTreeMap<(HostId, HostId, IpAddr), Vec<&Flow>> = BTreeMap::new();
    let balanced: BTreeSet<(HostId, IpAddr)> = facts
        .flows()
        .filter(|f| matches!(f.method, Method::DirectRouting | Method::Tunnel) && f.director.is_some())
        .filter_map(|f| Some((f.server_host?, f.vip?.addr)))
        .collect();
    for &(server, vip) in &balanced {
        // What a server claims by ARP is its own fault (ARP001, ARP002).
        let claims = || facts.trace.claims.claims.iter().filter(|c| c.addr == vip && facts.trace.host_of(c.mac) == Some(server));
        for flow in facts.past_the_director(server, vip).into_iter().filter(|_| claims().next().is_none()) {
            let by = flow.request.last().and_then(|hop| hop.from).filter(|from| !facts.is_director(*from));
            if let Some(by) = by.filter(|_| flow.state.is_complete()) {
                taken.entry((by, server, vip)).or_default().push(flow);
            }
        }
    }
    let finding = |((by, server, vip), flows): ((HostId, HostId, IpAddr), Vec<&Flow>)| {
        let (name, real) = (facts.name(Some(by)), facts.name(Some(server)));
        let hop = flows[0].request.last()?;
        let summary =
            format!("{name} sends packets for {vip} to {real} itself, past the director; {real} never said that it had that address.");
        let proof = Finding::new(name, Severity::Degraded, Confidence::Possible, summary, facts.seen_with(hop, &facts.to_whom(hop)))
            .unless(&["ARP001", "ARP007"], format!("on {name}: `ip neigh show to {vip}`, `ip route get {vip}`"))
            .mend([Remedy::new(
                name,
                format!("ip neigh flush to {vip} nud all"),
                "remove the static entry, or the route, from the start-up files",
                "nothing: it is learnt anew",
            )]);
        Some(proof.on(ids(&flows)))
    };
    taken.into_iter().filter_map(finding).collect()
}

/// The hop by which the director handed a request on, and the address that the frame is for: the real server's.
fn handed(flow: &Flow) -> Option<(&Hop, IpAddr)> {
    let hop = flow.request.sent_by(flow.director?)?;
    let translated = flow.vip.is_some_and(|vip| vip.addr != hop.dst.addr);
    let addr = hop.outer.map(|(_, _, dst)| dst).or(translated.then_some(hop.dst.addr));
    Some((hop, addr?))
}

/// On hosts: what somebody typed in against the cards that there are.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for member in site.fleet.members.iter().filter(|m| m.same_as.is_none()) {
        let host = &member.host;
        for entry in host.neighbours.iter().flatten().filter(|n| n.is_static()) {
            let (Some(mac), owners) = (entry.mac, site.fleet.owners(entry.addr)) else { continue };
            if owners.is_empty() {
                checks.needs(&host.name, format!("a snapshot of {}, which has a static entry", entry.addr));
                continue;
            }
            let macs: Vec<crate::net::MacAddr> = owners.iter().flat_map(|at| site.host(*at).links()).filter_map(|l| l.mac).collect();
            if macs.is_empty() || macs.contains(&mac) {
                checks.passed(&host.name, format!("static entry of {} is right", entry.addr));
                continue;
            }
            let owner = site.host(owners[0]);
            let right = owner.address(entry.addr).and_then(|a| owner.link(&a.link)?.mac).map_or("MAC".to_string(), |m| m.to_string());
            let summary = format!("{} is typed in at {mac}; {} is at {right}: packets for it go nowhere.", entry.addr, owner.name);
            let ip = super::super::remedy::ip_for(&entry.addr.to_string());
            let line = |mac: &str| format!("{ip} neigh replace {} lladdr {mac} dev {} nud permanent", entry.addr, entry.link);
            let remedy = crate::finding::Remedy::new(
                &host.name,
                line(&right),
                "the same where the entry is made at boot (/etc/ethers, rc.local); better none at all",
                line(&mac.to_string()),
            );
            let found = proven(
                host,
                Severity::Broken,
                summary,
                format!("{} lladdr {mac} PERMANENT", entry.addr),
                format!("ip neigh show {}", entry.addr),
            )
            .and([crate::finding::Evidence::host(&owner.name, right, "ip link")])
            .mend([remedy]);
            checks.failed(&host.name, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN, SYN_ACK, World};
    use super::*;

    /// Whose MAC the director uses was known before the capture began; who asked further on was the router.
    #[test]
    fn a_router_on_the_way_to_a_tunnels_end() {
        let mut w = World::dr().plug("router.far", "far", "10.3.0.1").plug("far1.eth0", "far", "10.3.0.11");
        w.who_has("router", "far", "10.3.0.11", &["far1"]);
        let c = World::tcp("10.1.0.100:40002", "10.2.0.100:80").tunnel("director", 4, "10.2.0.99", "10.3.0.11");
        w.syn(&c, "client router director router far1", 3);
        w.deny(&DR009);
    }

    #[test]
    fn frames_go_to_a_mac_that_is_no_more() {
        let mut w = World::nat().plug("gone.eth0", "int", "10.2.0.99");
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.who_has("web1", "int", "10.2.0.1", &["director"]);
        w.syn(&c, "client director gone", 3);
        let w = w.without(&["gone"]);
        let found = w.expect(&DR009, Confidence::Certain, "director");
        assert!(found.remedy[0].command.starts_with("ip neigh del 10.2.0.11"));
    }

    #[test]
    fn requests_go_round_the_director() {
        let c = |port: u16| World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.talk(&c(40001), "client router director web2", "web2 router client");
        w.deny(&DR009);
        w.talk(&c(40002), "client router web2", "web2 router client");
        let found = w.expect(&DR009, Confidence::Possible, "router");
        assert_eq!((found.flows.as_slice(), found.severity), (&[2][..], Severity::Degraded));
        // The server said so itself: that is a leak.
        w.announce("web2", "int", "10.2.0.100");
        w.deny(&DR009);
    }

    /// A router, a director, two real servers on one segment, where what is for `gone` is flooded to all.
    fn flooded() -> World {
        let mut w = unheard();
        for (host, addr) in [("router", "10.2.0.1"), ("director", "10.2.0.100"), ("web1", "10.2.0.11"), ("web2", "10.2.0.12")] {
            w.announce(host, "int", addr);
        }
        w
    }

    fn unheard() -> World {
        World::dr().plug("gone.eth0", "int", "10.2.0.99").flooding("int").without(&["gone"])
    }

    fn dialled(port: u16) -> super::super::super::testing::Conn {
        World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80")
    }

    #[test]
    fn answers_go_to_nobody() {
        let mut w = flooded();
        w.talk(&dialled(40001), "client router director web2", "web2 router client");
        for _ in 0..3 {
            w.carry(&dialled(40002), false, SYN, b"", "client router director web1");
            w.carry(&dialled(40002), true, SYN_ACK, b"", "web1 gone");
            w.wait(1.0);
        }
        let found = w.finding(&DR009);
        assert_eq!(found.confidence, Confidence::Likely);
        assert_eq!((found.flows.as_slice(), found.alternatives.as_slice()), (&[2][..], &["DR005"][..]));
        assert!(found.remedy[0].command.starts_with("ip neigh del 10.2.0.1 dev "), "{:?}", found.remedy);
        // Whoever speaks is somebody: another router, say.
        w.announce("gone", "int", "10.2.0.99");
        w.deny(&DR009);
        // Nor is anybody nobody because a capture filter left out what it said.
        let mut w = unheard();
        w.talk(&dialled(40001), "client router director web2", "web2 router client");
        w.talk(&dialled(40003), "client router director web1", "web1 router client");
        for _ in 0..3 {
            w.carry(&dialled(40002), false, SYN, b"", "client router director web1");
            w.carry(&dialled(40002), true, SYN_ACK, b"", "web1 gone");
            w.wait(1.0);
        }
        assert_eq!(w.finding(&DR009).confidence, Confidence::Possible);
    }

    /// With NAT too: it is no other gateway that the answers go to.
    #[test]
    fn answers_of_a_translated_connection_go_to_nobody() {
        let mut w = World::nat().plug("gone.eth0", "int", "10.2.0.99").flooding("int").without(&["gone"]);
        for (host, addr) in [("director", "10.2.0.1"), ("web1", "10.2.0.11"), ("web2", "10.2.0.12")] {
            w.announce(host, "int", addr);
        }
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        for _ in 0..3 {
            w.carry(&c, false, SYN, b"", "client director web1");
            w.carry(&c, true, SYN_ACK, b"", "web1 gone");
            w.wait(1.0);
        }
        w.finding(&DR009);
        w.deny(&super::super::super::nat::nat002::NAT002);
    }

    #[test]
    fn requests_go_to_nobody() {
        let mut w = flooded();
        w.syn(&World::tcp("10.1.0.100:40001", "10.2.0.100:80"), "client router gone", 3);
        let found = w.expect(&DR009, Confidence::Possible, "router");
        assert_eq!(found.remedy[0].command, "ip neigh del 10.2.0.100 dev int");
        assert!(found.summary.contains("requests for 10.2.0.100:80 to 52:54:00:00:00:07"), "{}", found.summary);
    }

    #[test]
    fn frames_to_the_claimed_mac_are_right() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.who_has("web1", "int", "10.2.0.1", &["director"]);
        w.syn(&c, "client director web1", 3);
        w.deny(&DR009);
    }

    /// The client's own words show that its address is elsewhere.
    #[test]
    fn answers_go_to_a_mac_that_the_client_had() {
        let mut w = World::nat().plug("gone.eth0", "ext", "10.1.0.99").flooding("ext").without(&["gone"]);
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.announce("web1", "int", "10.2.0.11");
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        for _ in 0..3 {
            w.carry(&c, false, SYN, b"", "client director web1");
            w.carry(&c, true, SYN_ACK, b"", "web1 director gone");
            w.wait(1.0);
        }
        let found = w.expect(&DR009, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "ip neigh del 10.1.0.100 dev ext");
    }
}
