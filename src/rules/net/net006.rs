//! A stateful filter that sees one direction only.

use super::super::facts::ids;
use super::super::site::{Duty, filter_words, proven};
use super::super::{Checks, Facts, Site, rule};
use super::{keeps_answers, knows_nothing_of};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::host::{Ask, Fate, FilterVerdict, Hook, Host, Passing};
use crate::ipvs::{ForwardingMethod, Role};
use crate::net::{Endpoint, Protocol};
use crate::trace::{Flow, FlowNote, Hop, HostId, Method, NoteKind, PacketKind, Way};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// The SYN passes a firewall, or the director. The SYN-ACK takes another way to the client. The client's ACK and data arrive at the same
    /// firewall and do not leave it. The client believes that it is connected; the server repeats its SYN-ACK, the client its data.
    /// Or the SYN-ACK itself ends at a router that forwards others and never saw the SYN.
    ///
    /// # Why it breaks
    /// With direct routing and tunnels, answers do not pass the director, and often not the firewall in front of it. Its connection tracking
    /// never sees the SYN-ACK, stays at SYN_SENT, and calls the ACK INVALID. A rule `ctstate INVALID drop`, or one that accepts only NEW and
    /// ESTABLISHED, drops it.
    ///
    /// # Confirm it by hand
    /// On the firewall: `conntrack -L -d VIP` says SYN_SENT and UNREPLIED, `conntrack -S` counts up under `invalid`.
    ///
    /// # Remedy
    /// Accept packets for the virtual service before the rules that ask for state, or exempt them from tracking (NOTRACK in the raw table).
    ///
    /// # When it is not a fault
    /// A lost ACK: the client's next packet passes, and all is well. This rule asks for a handshake that stays unfinished at the server.
    ///
    /// # Reproduce
    /// A DR service behind a firewall with `ct state invalid drop` in FORWARD; real servers whose gateway is another router.
    ///
    /// # References
    /// kernel `net/netfilter/nf_conntrack_proto_tcp.c`, `tcp_conntracks`; LVS-HOWTO, chapter on filter rules.
    NET006 "conntrack-invalid-drop" check hosts
}

/// A handshake that one host on the way cuts off.
struct Cut<'a> {
    host: HostId,
    flow: &'a Flow,
    before: &'a Hop,
    after: &'a Hop,
    answer: &'a Hop,
    /// Packets sent again because the ACK did not arrive.
    repeats: Vec<&'a FlowNote>,
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut cuts: BTreeMap<HostId, Vec<Cut>> = BTreeMap::new();
    for cut in facts.flows().filter_map(|f| cut(facts, f)) {
        cuts.entry(cut.host).or_default().push(cut);
    }
    let mut found: Vec<Finding> = cuts.values().filter_map(|cuts| finding(facts, cuts)).collect();
    let mut strays: BTreeMap<HostId, Vec<(&Flow, &Hop)>> = BTreeMap::new();
    for flow in facts.flows().filter(|f| f.protocol == Protocol::Tcp && f.from_start) {
        if let Some((router, hop)) = stray(facts, flow) {
            strays.entry(router).or_default().push((flow, hop));
        }
    }
    found.extend(strays.iter().map(|(router, flows)| stray_finding(facts, *router, flows)));
    found.into()
}

/// The router that drops an answer to a question which it never saw, though it forwards others.
fn stray<'a>(facts: &Facts<'a>, flow: &'a Flow) -> Option<(HostId, &'a Hop)> {
    let (router, hop) = keeps_answers(facts, flow).filter(|(router, _)| knows_nothing_of(flow, *router))?;
    let passes = |f: &Flow| knows_nothing_of(f, router) && f.reply.sent_by(router).is_some();
    (facts.forwards(router, hop, false) && !facts.flows().any(passes)).then_some((router, hop))
}

fn stray_finding(facts: &Facts<'_>, router: HostId, flows: &[(&Flow, &Hop)]) -> Finding {
    let (name, (flow, hop)) = (facts.name(Some(router)), flows[0]);
    let summary = format!("{name} drops answers from {}: their SYN took another way, unseen by {name}.", hop.src);
    let swallowed = facts.swallowed(flow, Way::Reply);
    // By which uplink answers leave, is a NAT director's choice.
    let translated = flow.method == Method::Nat && hop.from == flow.director;
    let open: &[&str] = if translated { &["NAT014", "NET008", "NET015"] } else { &["NET008", "NET015"] };
    let watched = swallowed.iter().flat_map(|s| facts.nowhere(&s.watched, &format!("no answer to {}", flow.client)));
    let all: Vec<&Flow> = flows.iter().map(|(f, _)| *f).collect();
    Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.seen(hop))
        .and(facts.repeats(flow, hop, NoteKind::SynAckRepeat))
        .and(watched)
        .unless(open, format!("on {name}: `conntrack -S` (invalid), `nft list ruleset` (counters), or a snapshot"))
        .mend([accept(name, "FORWARD", hop.src, ("-s", "--sport"))])
        .on(ids(&all))
}

/// A rule that lets packets of the service pass without asking for their state.
fn accept(name: &str, chain: &str, service: Endpoint, (address, port): (&str, &str)) -> Remedy {
    let tables = if service.addr.is_ipv6() { "ip6tables" } else { "iptables" };
    let accept = format!("{address} {} -p tcp {port} {} -j ACCEPT", service.addr, service.port);
    Remedy::new(
        name,
        format!("{tables} -I {chain} 1 {accept}"),
        format!("the same rule in front of those that ask for state, in the saved rules ({tables}-save) or in nftables.conf"),
        format!("{tables} -D {chain} {accept}"),
    )
}

/// The host that let the SYN of a flow pass and nothing after it, without having seen the answer.
fn cut<'a>(facts: &Facts<'a>, flow: &'a Flow) -> Option<Cut<'a>> {
    let answer = flow.reply.hops.iter().find(|hop| hop.seen.has(PacketKind::SynAck))?;
    if flow.protocol != Protocol::Tcp || !flow.from_start {
        return None;
    }
    let links: Vec<&Hop> = flow.request.links().collect();
    links.windows(2).find_map(|pair| {
        let host = pair[1].from.filter(|host| Some(*host) == pair[0].to)?;
        // Whoever translates must see the answer; that it does not is the fault then (DR005).
        let alike = (pair[0].src, pair[0].dst) == (pair[1].src, pair[1].dst);
        let before = flow.request.hops.iter().rfind(|hop| hop.transit == pair[0].transit)?;
        let went_on = |hop: &Hop| [PacketKind::Ack, PacketKind::Data, PacketKind::Fin].iter().any(|kind| hop.seen.has(*kind));
        let behind = || flow.request.hops.iter().filter(|hop| hop.transit >= pair[1].transit);
        let nothing = behind().all(|hop| !went_on(hop) && facts.is_whole(hop.point)) && flow.request.strays.iter().all(|hop| !went_on(hop));
        let answers = || flow.reply.hops.iter().chain(&flow.reply.strays);
        let unseen = answers().all(|hop| hop.from != Some(host) && hop.to != Some(host) && hop.at != Some(host));
        let repeats = repeats(facts, flow, before, pair[1]);
        (alike && went_on(before) && nothing && unseen && !repeats.is_empty()).then_some(Cut {
            host,
            flow,
            before,
            after: pair[1],
            answer,
            repeats,
        })
    })
}

/// What shows that the handshake stays unfinished: the server's SYN-ACK again, or the client's data again where it is cut off, twice at
/// least.
fn repeats<'a>(facts: &Facts<'_>, flow: &'a Flow, before: &Hop, after: &Hop) -> Vec<&'a FlowNote> {
    let answers: Vec<&FlowNote> = flow.noted(NoteKind::SynAckRepeat).collect();
    if let Some(first) = answers.first() {
        return answers.iter().copied().filter(|n| n.point == first.point).collect();
    }
    let here =
        |n: &&FlowNote| n.way == Way::Request && (n.point, n.src, n.dst, n.from) == (before.point, before.src, before.dst, before.from);
    let data: Vec<&FlowNote> = flow.noted(NoteKind::DataRepeat).filter(here).collect();
    // The capture behind must have gone on for so long.
    let end = facts.trace.common_time(after.point, facts.trace.points[after.point as usize].last);
    let watched = data.get(1).is_some_and(|second| facts.trace.common_time(second.point, second.time) <= end);
    if watched { data } else { Vec::new() }
}

fn finding(facts: &Facts<'_>, cuts: &[Cut<'_>]) -> Option<Finding> {
    let cut = cuts.first()?;
    let (name, dst) = (facts.name(Some(cut.host)), cut.before.dst);
    let flows: Vec<&Flow> = cuts.iter().map(|c| c.flow).collect();
    let summary = format!("{name} lets the SYN to {dst} pass and drops the client's ACK: the SYN-ACK took another way, unseen by {name}.");
    let repeated = match cut.repeats[0].kind {
        NoteKind::SynAckRepeat => "the same SYN-ACK again",
        _ => "the client's data again",
    };
    let again = Evidence::frames(cut.repeats[0].point, cut.repeats.iter().map(|n| n.frame).collect(), repeated);
    // What the director receives is delivered to it; what a router receives is forwarded.
    let chain = if flows.iter().any(|f| f.director == Some(cut.host)) { "INPUT" } else { "FORWARD" };
    Some(
        Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.seen_with(cut.after, "handed on; nothing after it"))
            .and([
                facts.seen_with(cut.before, "the ACK and data that follow end here"),
                facts.seen_with(cut.answer, "past the firewall"),
                again,
            ])
            .and([Evidence::absence(cut.after.point, "no ACK and no data of the connection")])
            .unless(&["NET008"], format!("on {name}: `conntrack -S` (invalid), `nft list ruleset` (counters), or a snapshot"))
            .mend([accept(name, chain, dst, ("-d", "--dport"))])
            .on(ids(&flows)),
    )
}

/// On directors, through which requests pass alone, and on routers that answers go past.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&[ForwardingMethod::DirectRouting, ForwardingMethod::Tunnel]) {
        let Some(director) = duty.director.map(|at| site.host(at)) else { continue };
        let (Some(vip), true) = (duty.vip, duty.accepts.is_some_and(|(protocol, _)| protocol == Protocol::Tcp)) else { continue };
        let (source, _) = duty.answered().remove(0);
        // What IPVS hands on is not tracked, and each packet is new, unless the director is told to track it.
        let number = |key: &str| director.sysctl(key);
        let loose = number("net.netfilter.nf_conntrack_tcp_loose") != Some(0);
        let later = if number("net.ipv4.vs.conntrack") == Some(1) || !loose { "INVALID" } else { "NEW" };
        let device = director.address(vip).map(|a| a.link.as_str());
        let seen = Seen { hook: Hook::Input, iif: device, oif: None, later, sure: true, answers: false };
        stateful(site, director, duty, source, &seen, checks);
        for (at, router) in site.playing(Role::Router) {
            // Who translates has to see the answer, and that it does not is the fault then (DR005).
            if site.translators(duty).contains(&at) {
                continue;
            }
            let out = |to| router.way(&Ask::to(to)).ok().and_then(|way| way.link().map(str::to_string));
            let (Some(outer), Some(inner)) = (out(source), out(vip)) else { continue };
            let Ok(answer) = site.host(duty.member).way(&duty.answer(source)) else { continue };
            if outer == inner || answer.is_local() || answer.gateways().is_empty() {
                continue;
            }
            let mine = |gateways: Vec<std::net::IpAddr>| gateways.iter().any(|g| router.address(*g).is_some());
            let answers = mine(answer.gateways());
            // Requests come through it when a client's way to the service does.
            let mut clients = site.playing(Role::Client).filter_map(|(_, client)| client.way(&Ask::to(vip)).ok()).peekable();
            let known = clients.peek().is_some();
            let asked = clients.any(|way| mine(way.gateways()));
            let (iif, oif) = if answers { (&inner, &outer) } else { (&outer, &inner) };
            let seen =
                Seen { hook: Hook::Forward, iif: Some(iif), oif: Some(oif), later: "INVALID", sure: known && (asked != answers), answers };
            match (answers, asked) {
                (true, true) => checks.passed(&router.name, "requests and answers come through it"),
                // Where clients are is not known: they may come through it.
                (true, false) if !known => checks.passed(&router.name, "answers come through it"),
                _ => stateful(site, router, duty, source, &seen, checks),
            }
        }
    }
}

/// How a host sees one direction of a connection alone.
struct Seen<'a> {
    hook: Hook,
    iif: Option<&'a str>,
    oif: Option<&'a str>,
    /// What connection tracking calls all packets but the first; of answers the first one, too.
    later: &'a str,
    /// They surely come through it.
    sure: bool,
    /// It sees answers, not requests.
    answers: bool,
}

/// What the filter of such a host makes of packets that fit their connection, and of packets that it takes for others.
fn stateful(site: &Site<'_>, host: &Host, duty: &Duty, source: std::net::IpAddr, seen: &Seen<'_>, checks: &mut Checks) {
    let Seen { hook, iif, oif, later, sure, answers } = *seen;
    let Some((_, at)) = duty.accepts.filter(|_| duty.vip.is_some()) else { return };
    let Some(filter) = host.netfilter.as_ref() else {
        checks.needs(&host.name, format!("its packet filters: {}", host.why_absent("netfilter")));
        return;
    };
    let (src, dst, ports) = match answers {
        true => (at.addr, source, (Some(at.port), None)),
        false => (source, at.addr, (None, Some(at.port))),
    };
    let packet = |state| Passing { src: Some(src), ports, iif, oif, state, ..Passing::to(dst, Protocol::Tcp) };
    let first = if answers { "ESTABLISHED" } else { "NEW" };
    let untracked = filter.may_do(Hook::Prerouting, &packet(first), |verdict| *verdict == FilterVerdict::Untracked).is_some();
    let (first, later) = if untracked { ("UNTRACKED", "UNTRACKED") } else { (first, later) };
    match (filter.fate(hook, &packet(first)), filter.fate(hook, &packet(later))) {
        (Fate::Unsure(rule), _) | (_, Fate::Unsure(rule)) => checks.needs(&host.name, format!("whether this rule holds: {}", rule.text)),
        (Fate::Passes, fate @ Fate::Dropped(..)) => {
            let chain = if hook == Hook::Input { "INPUT" } else { "FORWARD" };
            let state = later.to_lowercase();
            let summary = match answers {
                true => format!(
                    "It drops answers from {at}: requests take another way, and to its connection tracking a SYN-ACK alone is {state}."
                ),
                false => format!(
                    "It lets the first packet of a connection to {at} pass and drops the next: answers take another way, and to its connection tracking the client's ACK is {state}."
                ),
            };
            let severity = if sure { Severity::Broken } else { Severity::Risky };
            let words = filter_words(&fate).unwrap_or_default();
            let unanswered = |t: &crate::host::Tracking| t.connections.iter().filter(|c| c.unreplied && c.to == at).count();
            let waiting = host.conntrack.as_ref().map(unanswered).filter(|n| *n > 0);
            let side = if answers { ("-s", "--sport") } else { ("-d", "--dport") };
            let mut found = proven(host, severity, summary, words, "nft list ruleset")
                .and(site.tracked(host, &["invalid"]))
                .and(waiting.map(|n| Evidence::host(&host.name, format!("{n} to {at} UNREPLIED"), format!("conntrack -L -d {}", at.addr))))
                .mend([accept(&host.name, chain, at, side)]);
            if !sure {
                found.confidence = Confidence::Likely;
                found = found
                    .unless(&[], format!("do requests to {at} come through {}? A capture there, or a client's `ip route get`", host.name));
            }
            checks.failed(&host.name, found);
        }
        _ => checks.passed(&host.name, format!("its filters make no difference between the packets of a connection to {at}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr, dr_with, drops_state};
    use super::super::super::testing::{ACK, PSH, SYN_ACK, World};
    use super::*;

    /// Requests come through fw, answers leave by gw.
    fn world() -> World {
        World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("fw.ext", "ext", "10.1.0.1")
            .plug("fw.int", "int", "10.2.0.1")
            .plug("gw.int", "int", "10.2.0.254")
            .plug("gw.ext", "ext", "10.1.0.254")
            .plug("director.eth0", "int", "10.2.0.100")
            .plug("web1.eth0", "int", "10.2.0.11")
    }

    /// The router drops what is invalid, and web1 answers through another router.
    fn past(change: impl FnOnce(Sketch) -> Sketch) -> Vec<Sketch> {
        let mut site = dr_with("router", |router| change(router.rule(Hook::Forward, drops_state("INVALID")))).to_vec();
        for web in &mut site[2..4] {
            *web = web
                .clone()
                .with(|h| h.routes.iter_mut().flatten().for_each(|r| r.hops[0].gateway = r.hops[0].gateway.and("10.0.0.2".parse().ok())));
        }
        site
    }

    #[test]
    fn a_router_that_answers_go_past() {
        let site = past(|router| router);
        let found = sketch::expect(&site, &NET006, Severity::Broken, Confidence::Certain, "router");
        assert_eq!(found.remedy[0].command, "iptables -I FORWARD 1 -d 10.0.0.100 -p tcp --dport 80 -j ACCEPT");
        // Nobody knows whether requests come through it.
        sketch::expect(&site[..4], &NET006, Severity::Risky, Confidence::Likely, "router");
        // Untracked, nothing is invalid.
        let untracked = crate::host::FilterRule { verdict: FilterVerdict::Untracked, ..Default::default() };
        sketch::passes(&past(|router| router.rule(Hook::Prerouting, untracked)), &NET006, "router");
        let through = dr_with("router", |router| router.rule(Hook::Forward, drops_state("INVALID")));
        sketch::passes(&through, &NET006, "router");
    }

    #[test]
    fn a_router_that_sees_answers_alone() {
        let mut site = past(|router| router).to_vec();
        site[0] = sketch::dr()[0].clone();
        let second =
            Sketch::new("router2").card("in", "10.0.0.2/24").card("out", "10.9.0.2/24").rule(Hook::Forward, drops_state("INVALID"));
        site.push(second);
        let found = sketch::expect(&site, &NET006, Severity::Broken, Confidence::Certain, "router2");
        assert_eq!(found.remedy[0].command, "iptables -I FORWARD 1 -s 10.0.0.100 -p tcp --sport 80 -j ACCEPT");
        // A client behind it, too: then it sees both ways, of that one's connections.
        site[4] = site[4]
            .clone()
            .with(|h| h.routes.iter_mut().flatten().for_each(|r| r.hops[0].gateway = r.hops[0].gateway.and("10.9.0.2".parse().ok())));
        sketch::passes(&site, &NET006, "router2");
    }

    #[test]
    fn a_director_that_tracks_what_it_hands_on() {
        let drops = |director: Sketch| director.rule(Hook::Input, drops_state("INVALID"));
        sketch::passes(&dr_with("director", drops), &NET006, "director");
        let tracks = dr_with("director", |d| drops(d).set("net.ipv4.vs.conntrack", "1"));
        let found = sketch::expect(&tracks, &NET006, Severity::Broken, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "iptables -I INPUT 1 -d 10.0.0.100 -p tcp --dport 80 -j ACCEPT");
        let strict = dr_with("director", |d| drops(d).set("net.netfilter.nf_conntrack_tcp_loose", "0"));
        sketch::expect(&strict, &NET006, Severity::Broken, Confidence::Certain, "director");
        sketch::cannot_judge(&dr_with("director", |d| d.with(|h| h.netfilter = None)), &NET006, "director");
        sketch::passes(&dr(), &NET006, "director");
    }

    fn cut_off(w: &mut World, stop: &str, route: &str) {
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, route, 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 gw client");
        w.carry(&c, false, ACK, b"", stop);
        w.carry(&c, false, PSH, b"GET /", stop);
        w.wait(1.0);
        w.carry(&c, true, SYN_ACK, b"", "web1 gw client");
        w.carry(&c, false, PSH, b"GET /", stop);
        w.wait(2.0);
        w.carry(&c, true, SYN_ACK, b"", "web1 gw client");
        w.carry(&c, false, PSH, b"GET /", stop);
    }

    #[test]
    fn the_ack_ends_at_the_firewall() {
        let mut w = world();
        cut_off(&mut w, "client fw", "client fw director web1");
        let found = w.expect(&NET006, Confidence::Likely, "fw");
        assert_eq!(found.remedy[0].command, "iptables -I FORWARD 1 -d 10.2.0.100 -p tcp --dport 80 -j ACCEPT");
        assert_eq!(found.alternatives, ["NET008"]);
    }

    #[test]
    fn the_answer_ends_at_a_firewall_that_never_saw_the_question() {
        let story = |w: &mut World, port: u16, end: &str| {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
            for _ in 0..3 {
                w.syn(&c, "client fw director web1", 1);
                w.carry(&c, true, SYN_ACK, b"", end);
                w.wait(1.0);
            }
        };
        let mut w = world();
        story(&mut w, 40001, "web1 gw");
        // It may also be no router at all.
        w.deny(&NET006);
        assert_eq!(w.expect(&super::super::net001::NET001, Confidence::Likely, "gw").alternatives, ["NET006", "NET008", "NET004"]);
        // Others pass it, both ways.
        let other = World::tcp("10.1.0.100:50001", "10.2.0.11:22");
        w.talk(&other, "client gw web1", "web1 gw client");
        w.deny(&super::super::net001::NET001);
        let found = w.expect(&NET006, Confidence::Likely, "gw");
        assert_eq!(found.remedy[0].command, "iptables -I FORWARD 1 -s 10.2.0.100 -p tcp --sport 80 -j ACCEPT");
        // An answer of that kind passes: no filter by state.
        let c = World::tcp("10.1.0.100:40009", "10.2.0.100:80");
        w.talk(&c, "client fw director web1", "web1 gw client");
        w.deny(&NET006);
    }

    #[test]
    fn the_ack_ends_at_the_director() {
        let mut w = world();
        cut_off(&mut w, "client fw director", "client fw director web1");
        let found = w.expect(&NET006, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "iptables -I INPUT 1 -d 10.2.0.100 -p tcp --dport 80 -j ACCEPT");
    }

    #[test]
    fn a_lost_ack_is_loss() {
        let mut w = world();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, "client fw director web1", 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 gw client");
        w.carry(&c, false, ACK, b"", "client fw");
        w.wait(1.0);
        w.carry(&c, true, SYN_ACK, b"", "web1 gw client");
        w.carry(&c, false, ACK, b"", "client fw director web1");
        w.carry(&c, false, PSH, b"GET /", "client fw director web1");
        w.carry(&c, true, PSH, b"200 OK", "web1 gw client");
        w.deny(&NET006);
        w.healthy();
    }

    #[test]
    fn answers_that_pass_another_router_are_no_fault() {
        let mut w = world();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.talk(&c, "client fw director web1", "web1 gw client");
        w.deny(&NET006);
        w.healthy();
    }

    #[test]
    fn a_firewall_that_sees_both_directions_has_other_reasons() {
        let mut w = world();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, "client fw director web1", 1);
        for _ in 0..3 {
            w.carry(&c, true, SYN_ACK, b"", "web1 fw client");
            w.carry(&c, false, PSH, b"GET /", "client fw");
            w.wait(1.0);
        }
        w.deny(&NET006);
    }
}
