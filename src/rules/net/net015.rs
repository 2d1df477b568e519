//! A real server that receives by one interface and answers by another.

use super::super::facts::{by_server, ids};
use super::super::site::{filter_words, proven};
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::host::{Ask, Hook, Host, Passing, SourceCheck};
use crate::ipvs::{ForwardingMethod, Role};
use crate::net::{MacAddr, Protocol};
use crate::trace::{Flow, FlowState, Hop, Method, NoteKind};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// The request arrives at one interface (or VLAN) of a real server, the SYN-ACK leaves by another one. The client does not go on; the
    /// server repeats its SYN-ACK.
    ///
    /// # Why it breaks
    /// With direct routing and tunnels the answer follows the server's routing table, by which it need not leave where the request came in.
    /// The network behind the other interface may not let packets with the VIP as source pass (reverse path filters of routers, anti-spoofing
    /// of switches and clouds), and a stateful firewall there has not seen the request.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get CLIENT from VIP` names another interface than the one by which requests arrive.
    ///
    /// # Remedy
    /// A rule for packets from the VIP, and a table whose default route leads back by the interface of the requests.
    ///
    /// # When it is not a fault
    /// When clients are served, the network takes it, and the way may be meant so: then this is only a note. Behind a router that
    /// translates, what counts is that the answer passes that router (DR005).
    ///
    /// # Reproduce
    /// A DR service; a real server with a second interface whose default route is preferred; a strict filter on that router.
    ///
    /// # References
    /// RFC 3704 section 2; ip-rule(8); LVS-HOWTO, chapter LVS-DR: routing of the answers.
    NET015 "asymmetric-uplinks" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let direct = facts.balanced(Method::DirectRouting).chain(facts.balanced(Method::Tunnel));
    let crossed: Vec<&Flow> = direct.filter(|f| ways(f).is_some()).collect();
    let found: Vec<Finding> = by_server(crossed).into_values().filter_map(|flows| finding(facts, &flows)).collect();
    Outcome::or_need(found, facts.unwatched_server(&[Method::DirectRouting, Method::Tunnel]))
}

/// Where a real server received a request and where its answer left it, if those are different interfaces or VLANs.
fn ways(flow: &Flow) -> Option<(&Hop, &Hop)> {
    let server = flow.server_host?;
    let came = flow.request.towards(server).filter(|hop| hop.dst_mac.is_some_and(|mac| mac.is_unicast())).last()?;
    let left = flow.reply.first().filter(|hop| hop.from == Some(server) && hop.src_mac.is_some())?;
    // The MAC of a virtual router is an address beside the interface's own.
    let virtual_mac = |mac: Option<MacAddr>| mac.is_some_and(|mac| mac.0[..4] == [0, 0, 0x5e, 0]);
    let other_card = came.dst_mac != left.src_mac && !virtual_mac(came.dst_mac) && !virtual_mac(left.src_mac);
    let tagged = |hop: &Hop| !hop.vlans.ids().is_empty();
    let other_vlan = came.point == left.point && tagged(came) && tagged(left) && came.vlans != left.vlans;
    (other_card || other_vlan).then_some((came, left))
}

/// True when an answer's end is laid on the card that it left by.
pub(super) fn explains(facts: &Facts<'_>, flow: &Flow) -> bool {
    let served = |f: &Flow| f.server_host == flow.server_host && f.state.is_complete() && ways(f).is_some();
    ways(flow).is_some() && is_lost(facts, flow) && !facts.flows().any(served)
}

/// The answer went out, again and again, and nobody took it.
fn is_lost(facts: &Facts<'_>, flow: &Flow) -> bool {
    // Past the router that translated the request, an answer is worth nothing wherever it leaves (DR005).
    let past_translator = facts.translation(flow).is_some_and(|(router, ..)| flow.reply.towards(router).next().is_none());
    // A capture that ends behind the SYN-ACK proves nothing: the server must have sent it again.
    let repeated = flow.noted(NoteKind::SynAckRepeat).next().is_some();
    !past_translator && repeated && flow.state != FlowState::Refused
}

fn finding<'a>(facts: &Facts<'a>, flows: &[&'a Flow]) -> Option<Finding> {
    let flow = flows.iter().copied().find(|f| !f.state.is_complete()).or_else(|| flows.first().copied())?;
    let (came, left) = ways(flow)?;
    let (name, vip, client) = (facts.name(flow.server_host), flow.vip?.addr, left.dst.addr);
    let served = flows.iter().any(|f| f.state.is_complete());
    let lost = !served && is_lost(facts, flow);
    let card = |hop: &Hop, at: bool| {
        let point = &facts.trace.points[hop.point as usize].name;
        let named = facts.trace.host_at(hop.point) == flow.server_host;
        let mac = if at { hop.dst_mac } else { hop.src_mac };
        if named { point.clone() } else { mac.map_or_else(|| "another interface".to_string(), |mac| mac.to_string()) }
    };
    let (by, out) = (card(came, true), card(left, false));
    let (severity, confidence, end) = match lost {
        true => (Severity::Broken, Confidence::Likely, "and the client does not go on"),
        false => (Severity::Note, Confidence::Certain, "which a network with strict filters would not let pass"),
    };
    let summary = format!("{name} receives requests by {by} and answers by {out}, {end}.");
    let interface = facts.interface(flow.server_host, &flow.request);
    let ip = if vip.is_ipv6() { "ip -6" } else { "ip" };
    let gateway = came.from.filter(|from| Some(*from) != flow.director);
    let gateway = facts.address_on(gateway, None, &[vip], "GATEWAY");
    let mended = Remedy::new(
        name,
        format!("{ip} route add default via {gateway} dev {interface} table 100; {ip} rule add from {vip} lookup 100"),
        "both in the interface's route- and rule- files, or as routes and routing-policy in netplan or networkd",
        format!("{ip} rule del from {vip} lookup 100; {ip} route del default table 100"),
    );
    let found = Finding::new(name, severity, confidence, summary, facts.seen_with(came, &format!("by {by}")))
        .and([facts.seen_with(left, &format!("by {out}, {}", facts.to_whom(left)))])
        .and(facts.repeats(flow, left, NoteKind::SynAckRepeat))
        .mend([mended])
        .on(ids(flows));
    let settle = format!("a capture behind the router that {name} answers through; on {name}: `{ip} route get {client} from {vip}`");
    Some(if lost { found.unless(&["NET006", "NET008", "NET001"], settle) } else { found })
}

/// On real servers with several cards: the way of answers, and what the next hop thinks of packets that come so.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&[ForwardingMethod::DirectRouting, ForwardingMethod::Tunnel]) {
        let host = site.host(duty.member);
        let (Some(arrives), Some(vip)) = (duty.arrives(host), duty.vip.filter(|vip| host.has(*vip))) else { continue };
        for (source, by) in duty.answered() {
            let Ok(way) = host.way(&duty.answer(source)) else { continue };
            let (Some(link), false) = (way.link(), way.is_local()) else { continue };
            let other = link != arrives && host.link(link).is_some_and(crate::host::Link::speaks_arp);
            // A strict filter does not even let the request in: another fault (DR018).
            let lets_in = host.source_check(source, arrives) == SourceCheck::Accepted || duty.method == ForwardingMethod::Tunnel;
            if !other || !lets_in {
                checks.passed(&host.name, format!("answers leave by {link}"));
                continue;
            }
            let next = way.gateways().first().copied();
            let refusal = next.and_then(|gateway| refuses(site, gateway, vip, source));
            let (severity, end) = match &refusal {
                Some((gateway, _)) => (Severity::Broken, format!("and {} does not let them pass", gateway.name)),
                None => (Severity::Note, "which a network with strict filters would not let pass".to_string()),
            };
            let summary = format!("Requests arrive by {arrives}, answers to {source} ({by}) leave by {link}, {end}.");
            let ip = super::super::remedy::ip_for(&vip.to_string());
            let (gateway, device) = (site.router_of(duty), arrives);
            let remedy = Remedy::new(
                &host.name,
                format!("{ip} route add default via {gateway} dev {device} table 100; {ip} rule add from {vip} lookup 100"),
                "both in the interface's route- and rule- files, or as routes and routing-policy in netplan or networkd",
                format!("{ip} rule del from {vip} lookup 100; {ip} route del default table 100"),
            );
            let found = proven(host, severity, summary, way.words(), format!("{ip} route get {source} from {vip}"));
            checks.failed(&host.name, found.and(refusal.map(|(_, proof)| proof)).mend([remedy]));
        }
    }
}

/// The host of a gateway, if it is known and drops packets that come from the VIP there: its filter of source addresses, or its rules.
fn refuses<'a>(site: &Site<'a>, gateway: IpAddr, vip: IpAddr, source: IpAddr) -> Option<(&'a Host, Evidence)> {
    let host = site.fleet.owners(gateway).first().map(|at| site.host(*at))?;
    let device = host.address(gateway)?.link.as_str();
    let (name, ip) = (&host.name, super::super::remedy::ip_for(&vip.to_string()));
    if let SourceCheck::OtherWay(way) = host.source_check(vip, device) {
        let fact = format!("{}; back to {vip}: {way}", host.behind("rp_filter", device));
        return Some((host, Evidence::host(name, fact, format!("sysctl; {ip} route get {vip}"))));
    }
    let out = host.way(&Ask { iif: Some(device.to_string()), ..Ask::to(source) }).ok()?;
    // Only where requests are known to come by another way it sees answers alone, of connections that it does not know.
    let mut ways = site.playing(Role::Client).filter_map(|(_, client)| client.way(&Ask::to(vip)).ok()).peekable();
    let known = ways.peek().is_none() || ways.flat_map(|way| way.gateways()).any(|g| host.address(g).is_some());
    let state = if known { "ESTABLISHED" } else { "INVALID" };
    let packet = Passing { src: Some(vip), iif: Some(device), oif: out.link(), state, ..Passing::to(source, Protocol::Tcp) };
    let fate = host.netfilter.as_ref()?.fate(Hook::Forward, &packet);
    filter_words(&fate).map(|words| (host, Evidence::host(name, words, "nft list ruleset")))
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::super::super::testing::{SYN_ACK, World};
    use super::*;

    /// web1 has a second card, and its default route leads there.
    fn uplinks(gateway: Sketch) -> Vec<Sketch> {
        let second = |web: Sketch| {
            let moved = |h: &mut Host| {
                for hop in h.routes.iter_mut().flatten().flat_map(|r| &mut r.hops).filter(|hop| hop.gateway.is_some()) {
                    (hop.link, hop.gateway) = (Some("eth1".into()), "10.5.0.1".parse().ok());
                }
            };
            web.card("eth1", "10.5.0.11/24").with(moved)
        };
        let mut site = dr_with("web1", second).to_vec();
        site.push(gateway.card("in", "10.5.0.1/24").card("out", "10.9.0.2/24").set("net.ipv4.conf.in.forwarding", "1"));
        site
    }

    #[test]
    fn the_way_back_and_what_waits_there() {
        let found = sketch::expect(&uplinks(Sketch::new("router2")), &NET015, Severity::Note, Confidence::Certain, "web1");
        assert!(found.summary.starts_with("Requests arrive by eth0, answers to 10.9.0.7"), "{}", found.summary);
        let command = "ip route add default via 10.0.0.1 dev eth0 table 100; ip rule add from 10.0.0.100 lookup 100";
        assert_eq!(found.remedy[0].command, command);
        // The VIP's network is elsewhere for the second router.
        let strict = Sketch::new("router2").via("10.0.0.0/24", "10.9.0.1", "out").set("net.ipv4.conf.all.rp_filter", "1");
        sketch::expect(&uplinks(strict), &NET015, Severity::Broken, Confidence::Certain, "web1");
        let stateful = Sketch::new("router2").rule(Hook::Forward, sketch::drops_state("INVALID"));
        sketch::expect(&uplinks(stateful), &NET015, Severity::Broken, Confidence::Certain, "web1");
        sketch::passes(&sketch::dr(), &NET015, "web1");
    }

    fn world() -> World {
        World::dr().plug("web1.eth1", "second", "10.3.0.11").plug("gw.in", "second", "10.3.0.1").plug("gw.out", "ext", "10.1.0.254")
    }

    fn request(w: &mut World, port: u16) -> super::super::super::testing::Conn {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
        w.syn(&c, "client router director web1", 1);
        c
    }

    #[test]
    fn answers_by_the_other_interface_are_lost() {
        let mut w = world();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("web1", "second", "10.3.0.1", &["gw"]);
        let c = request(&mut w, 40001);
        for _ in 0..3 {
            w.carry(&c, true, SYN_ACK, b"", "web1 gw");
            w.wait(1.0);
            w.syn(&c, "client router director web1", 1);
        }
        let found = w.expect(&NET015, Confidence::Likely, "web1");
        assert_eq!(found.severity, Severity::Broken);
        assert!(found.summary.contains("web1.eth0") && found.summary.contains("web1.eth1"), "{}", found.summary);
        let rule = "ip route add default via GATEWAY dev eth0 table 100; ip rule add from 10.2.0.100 lookup 100";
        assert_eq!(found.remedy[0].command, rule);
    }

    #[test]
    fn answers_by_the_other_interface_arrive() {
        let mut w = world();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 gw client");
        assert_eq!(w.finding(&NET015).severity, Severity::Note);
        w.healthy();
    }

    #[test]
    fn a_capture_that_ends_early_proves_no_loss() {
        let mut w = world();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("web1", "second", "10.3.0.1", &["gw"]);
        let c = request(&mut w, 40001);
        w.carry(&c, true, SYN_ACK, b"", "web1 gw client");
        assert_eq!(w.finding(&NET015).severity, Severity::Note);
        w.healthy();
    }

    #[test]
    fn one_interface_is_right() {
        let mut w = world();
        let own = World::tcp("10.3.0.11:50001", "10.3.0.1:53");
        w.talk(&own, "web1 gw", "gw web1");
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w.deny(&NET015);
        w.healthy();
    }
}
