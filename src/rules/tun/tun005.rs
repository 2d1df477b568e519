//! A client that goes on sending packets that are too long, because it is not told, or does not listen.

use super::super::facts::{Vanished, by_director, ids};
use super::super::remedy::look;
use super::super::site::{filter_words, proven};
use super::super::{Checks, Facts, Site, rule};
use super::vip;
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::host::{Ask, Fate, Hook, Host, Passing};
use crate::ipvs::Role as Part;
use crate::net::Protocol;
use crate::packet::IcmpKind;
use crate::trace::{Flow, HostId, Method, Way};
use std::collections::BTreeMap;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// Handshake and short requests pass. A long segment arrives at the director, is not handed on, and comes again in the same length,
    /// again and again. The director says ICMP "fragmentation needed", which never reaches the client; or it reaches it and changes nothing;
    /// or the director says nothing. The same at a router, or between two machines on one link, and of the answers: long segments are
    /// seen up to one place, again and again, and not at the next, where shorter ones pass.
    ///
    /// # Why it breaks
    /// Further on packets must be shorter (a tunnel, TUN004; a smaller MTU, NET014). Their sender can only know from that ICMP
    /// message. Filters that drop all ICMP lose it, a director without a route to the client cannot send it (NET004), and a client's own
    /// filter may drop it. Small transfers work, large ones hang.
    ///
    /// # Confirm it by hand
    /// `tcpdump -n 'icmp[0] = 3 and icmp[1] = 4'` at the director, at each firewall and at the client: where is it seen last?
    ///
    /// # Remedy
    /// Let ICMP type 3 code 4 (IPv6: type 2) pass everywhere: out of the host that sends it, through routers, into the client. And announce
    /// a smaller MSS from the real servers, which helps even so.
    ///
    /// # When it is not a fault
    /// A client that goes on with shorter segments after one message has understood. Single losses of long segments are ordinary loss: what
    /// counts is the same segment in the same length at least three times, while shorter ones pass.
    ///
    /// # Reproduce
    /// A TUN service; on the router `iptables -A FORWARD -p icmp --icmp-type fragmentation-needed -j DROP`; a POST of some kilobytes.
    ///
    /// # References
    /// RFC 2923 section 2.1 (black holes); RFC 4890 section 4.3.1; kernel `net/netfilter/ipvs/ip_vs_xmit.c`, `ensure_mtu_is_adequate`.
    TUN005 "frag-needed-lost" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let methods = [Method::DirectRouting, Method::Tunnel, Method::Nat, Method::FullNat];
    let balanced = methods.into_iter().flat_map(|method| facts.balanced(method));
    let stuck: Vec<&Flow> = balanced.filter(|f| facts.stuck(f).is_some()).collect();
    let known: Vec<u32> = stuck.iter().map(|f| f.id).collect();
    let mut found: Vec<Finding> = by_director(stuck).into_iter().filter_map(|(director, flows)| finding(facts, director, &flows)).collect();
    // Elsewhere on the way, flows that lose their segments at one place together.
    let mut places: BTreeMap<(Way, Option<HostId>, Option<HostId>), Vec<Lost>> = BTreeMap::new();
    for flow in facts.flows().filter(|f| !known.contains(&f.id)) {
        if let Some(lost) = facts.vanished(flow) {
            places.entry((lost.way, lost.hop.to, lost.after.from)).or_default().push((flow, lost));
        }
    }
    found.extend(places.values().map(|lost| on_the_way(facts, lost)));
    found.into()
}

/// A flow, and where its long segments are lost.
type Lost<'a> = (&'a Flow, Vanished<'a>);

/// Long segments that a host on the way, or a link, does not pass on.
fn on_the_way(facts: &Facts<'_>, lost: &[Lost<'_>]) -> Finding {
    let (flow, first) = &lost[0];
    let (hop, after, len) = (first.hop, first.after, first.repeats[0].len);
    let (tables, kind) = icmp_match(hop.src.addr.is_ipv6());
    let of = if first.way == Way::Request { "requests" } else { "answers" };
    let forwarder = hop.to.filter(|host| after.from == Some(*host) && after.transit != hop.transit);
    let word = flow.errors.iter().find(|e| e.about == first.way && matches!(e.kind, IcmpKind::TooBig { .. }));
    let tells = if word.is_some() { "its ICMP message about that changes nothing" } else { "no ICMP message says so" };
    let (subject, summary, mended) = match forwarder {
        Some(host) => {
            let name = facts.name(Some(host)).to_string();
            let summary = format!("{name} does not hand on {of} in segments of {len} bytes, shorter ones pass, and {tells}.");
            let pass = Remedy::new(
                &name,
                format!("{tables} -I OUTPUT 1 {kind} -j ACCEPT"),
                "the same rule in the saved rules; a filter drops the message",
                format!("{tables} -D OUTPUT {kind} -j ACCEPT"),
            );
            let clamp = "FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu";
            let smaller = Remedy::new(
                &name,
                format!("{tables} -t mangle -A {clamp}"),
                format!("the same rule in the saved rules ({tables}-save)"),
                format!("{tables} -t mangle -D {clamp}"),
            );
            (name, summary, vec![pass, smaller])
        }
        None => {
            let ends = facts.names([hop.from, after.to].into_iter().flatten());
            let (from, to) = (&facts.trace.points[hop.point as usize].name, &facts.trace.points[after.point as usize].name);
            let summary = format!("Segments of {len} bytes are lost between {from} and {to}, shorter ones pass, and {tells}.");
            let look = look(&ends, "ip link show", "the same MTU on every interface and switch port of the link, in their configuration");
            (ends, summary, vec![look])
        }
    };
    let frames = first.repeats.iter().map(|n| n.frame).collect();
    let again = Evidence::frames(hop.point, frames, format!("the same segment of {len} bytes, again and again"));
    Finding::new(&subject, Severity::Broken, Confidence::Likely, summary, again)
        .and([facts.seen_with(after, "shorter packets pass"), Evidence::absence(after.point, "this segment")])
        .and(word.map(|error| facts.error(error)))
        .unless(&["NET014", "NET008"], format!("on {subject}: `ip link show` (the MTU on both sides), `nft list ruleset`"))
        .mend(mended)
        .on(lost.iter().map(|(flow, _)| flow.id))
}

/// The table of filter rules for a family, and what matches the message that a packet is too big.
fn icmp_match(v6: bool) -> (&'static str, &'static str) {
    match v6 {
        true => ("ip6tables", "-p icmpv6 --icmpv6-type packet-too-big"),
        false => ("iptables", "-p icmp --icmp-type fragmentation-needed"),
    }
}

fn finding<'a>(facts: &Facts<'a>, director: HostId, flows: &[&'a Flow]) -> Option<Finding> {
    // A flow about which the director said something proves more.
    let flow = flows.iter().copied().find(|f| facts.too_big(f).is_some()).or_else(|| flows.first().copied())?;
    let stuck = facts.stuck(flow)?;
    let (word, told) = (facts.too_big(flow), facts.is_told(flow));
    let (name, client) = (facts.name(Some(director)), flow.client.addr);
    let behind = if flow.method == Method::Tunnel { "TUN004" } else { "NET014" };
    let length = stuck.repeats[0].len;
    let (summary, confidence, others): (String, Confidence, Vec<&'static str>) = match (word, told) {
        (Some((_, mtu)), Some(false)) => (
            format!("{name} tells {client} to send at most {mtu} bytes; the message is lost on the way, and long requests hang."),
            Confidence::Certain,
            vec![],
        ),
        (Some((_, mtu)), Some(true)) => {
            (format!("{client} is told to send at most {mtu} bytes and does not: long requests hang."), Confidence::Likely, vec!["NET008"])
        }
        (Some((_, mtu)), None) => (
            format!("{name} tells {client} to send at most {mtu} bytes, and it goes on sending longer ones: long requests hang."),
            Confidence::Likely,
            vec!["NET008"],
        ),
        (None, _) => (
            format!("{name} does not hand on segments of {length} bytes, shorter ones pass, and it says nothing to {client}."),
            Confidence::Likely,
            vec![behind, "NET004", "NET008"],
        ),
    };
    let frames: Vec<u64> = stuck.repeats.iter().map(|n| n.frame).collect();
    let again = Evidence::frames(stuck.hop.point, frames, format!("the same segment of {length} bytes, again and again"));
    let silence = match (stuck.after, told, flow.request.first()) {
        (Some(after), ..) => Some(Evidence::absence(after.point, "this segment, while shorter ones pass")),
        (None, Some(false), Some(first)) => Some(Evidence::absence(first.point, "any ICMP \"fragmentation needed\"")),
        _ => None,
    };
    let v6 = flow.service.addr.is_ipv6();
    let (tables, kind) = icmp_match(v6);
    let mss = word.map(|(_, mtu)| mtu.saturating_sub(if v6 { 60 } else { 40 })).map_or_else(|| "MSS".to_string(), |mss| mss.to_string());
    // Behind a director that translates, servers answer from their own addresses.
    let own = match (flow.method, flow.real_server) {
        (Method::Nat | Method::FullNat, Some(server)) => format!("--sport {} --tcp-flags SYN,RST SYN", server.port),
        _ => format!("--tcp-flags SYN,RST SYN -s {}", vip(flow)),
    };
    let clamp = format!("OUTPUT -p tcp {own} -j TCPMSS --set-mss {mss}");
    let servers = facts.names(flows.iter().filter_map(|f| f.server_host));
    let mended = Remedy::new(
        servers,
        format!("{tables} -t mangle -A {clamp}"),
        format!("the same rule in the saved rules ({tables}-save), on every real server"),
        format!("{tables} -t mangle -D {clamp}"),
    );
    // The director sends the message, routers pass it on, and the client receives it.
    let routers = facts.names(flow.routers.iter().copied());
    let (filter, chain) = match told {
        Some(true) => (facts.name(flow.client_host).to_string(), "INPUT"),
        _ if routers.is_empty() => (name.to_string(), "OUTPUT"),
        _ => (routers, "FORWARD"),
    };
    let pass =
        look(&filter, format!("{tables} -I {chain} 1 {kind} -j ACCEPT"), "the same rule in the saved rules; a filter drops the message");
    let found = Finding::new(name, Severity::Broken, confidence, summary, again)
        .and(word.map(|(error, _)| facts.error(error)))
        .and(stuck.after.map(|hop| facts.seen_with(hop, "shorter packets pass")))
        .and(silence)
        .mend([mended, Remedy { undo: format!("{tables} -D {chain} {kind} -j ACCEPT"), ..pass }])
        .on(ids(flows));
    let settle = format!("captures of ICMP at {name} and at the client; on {name}: `ip route get {client}`, `nft list ruleset`");
    Some(if others.is_empty() { found } else { found.unless(&others, settle) })
}

/// On directors and routers: filters that drop the word of it, where tunnels are too narrow.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    // What is wide enough, TUN004 says.
    let mut said = Checks::default();
    for narrow in super::narrow(site, &mut said) {
        let Some(vip) = narrow.service.vip() else { continue };
        let (tables, kind) = icmp_match(vip.is_ipv6());
        let fate = |host: &Host, hook, iif: Option<&str>, oif: Option<&str>| {
            let protocol = if vip.is_ipv6() { Protocol::Icmp6 } else { Protocol::Icmp };
            let icmp = Some(if vip.is_ipv6() { (2, 0) } else { (3, 4) });
            let packet = Passing { src: Some(vip), iif, oif, icmp, state: "RELATED", ..Passing::to(narrow.source, protocol) };
            match host.netfilter.as_ref().map(|filter| filter.fate(hook, &packet)) {
                None => Err(format!("its packet filters: {}", host.why_absent("netfilter"))),
                Some(Fate::Unsure(rule)) => Err(format!("whether this rule holds: {}", rule.text)),
                Some(fate) => Ok(filter_words(&fate)),
            }
        };
        let out = |host: &Host, to: IpAddr| host.way(&Ask::to(to)).ok().and_then(|way| way.link().map(str::to_string));
        let mut places =
            vec![(narrow.director, "OUTPUT", fate(narrow.director, Hook::Output, None, out(narrow.director, narrow.source).as_deref()))];
        for (_, router) in site.playing(Part::Router) {
            let (inner, outer) = (out(router, vip), out(router, narrow.source));
            if inner != outer && inner.is_some() && outer.is_some() {
                places.push((router, "FORWARD", fate(router, Hook::Forward, inner.as_deref(), outer.as_deref())));
            }
        }
        for (host, chain, fate) in places {
            match fate {
                Err(why) => checks.needs(&host.name, why),
                Ok(None) => checks.passed(&host.name, "it lets the word pass that a packet is too big"),
                Ok(Some(words)) => {
                    let summary = format!(
                        "Requests to {} have {} bytes at most in the tunnel, and {} drops the word of it to clients: longer ones hang.",
                        narrow.service.name(),
                        narrow.room,
                        host.name
                    );
                    let remedy = Remedy::new(
                        &host.name,
                        format!("{tables} -I {chain} 1 {kind} -j ACCEPT"),
                        format!("the same rule in the saved rules ({tables}-save); nobody should drop that message"),
                        format!("{tables} -D {chain} {kind} -j ACCEPT"),
                    );
                    let mtu = Evidence::host(
                        &narrow.director.name,
                        format!("{} mtu {}, towards {}", narrow.link, narrow.mtu, narrow.rip),
                        format!("ip link show {}", narrow.link),
                    );
                    let mut found = proven(host, Severity::Broken, summary, words, "nft list ruleset").and([mtu]).mend([remedy]);
                    // It is the director's tunnel, whoever drops its word.
                    found.subject.clone_from(&narrow.director.name);
                    checks.failed(&host.name, found);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch;
    use super::super::super::testing::{ACK, Conn, PSH, SYN_ACK, World};
    use super::super::tun004::tests::site;
    use super::*;

    const THERE: &str = "client router director web1";
    const BACK: &str = "web1 router client";

    /// Through a director that translates: an upload in `lengths`, of which the long segments come four times and never pass.
    fn upload(long: usize, short: usize, told: bool) -> World {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 director client");
        w.carry(&c, false, ACK, b"", "client director web1");
        w.carry(&c, false, PSH, &vec![b'x'; long], "client director");
        w.carry(&c.later(long as u32), false, PSH, &vec![b'y'; short], "client director web1");
        for pause in [0.3, 0.6, 1.2] {
            w.wait(pause);
            w.carry(&c, false, PSH, &vec![b'x'; long], "client director");
            if told {
                w.icmp(&c, false, (3, 4, 1400), "10.1.0.1", "10.1.0.100", "director", "director client");
            }
        }
        w
    }

    #[test]
    fn a_filter_drops_the_word() {
        use crate::host::{FilterRule, FilterVerdict};
        let drops = |kind, code| FilterRule {
            text: "icmp drop".into(),
            protocol: Some((Protocol::Icmp, false)),
            icmp: Some(((kind, code), false)),
            verdict: FilterVerdict::Drop,
            ..FilterRule::default()
        };
        let with = |name: &'static str, hook, rule: FilterRule| site(move |s| if s.is(name) { s.rule(hook, rule.clone()) } else { s });
        let found =
            sketch::expect(&with("router", Hook::Forward, drops(3, None)), &TUN005, Severity::Broken, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "iptables -I FORWARD 1 -p icmp --icmp-type fragmentation-needed -j ACCEPT");
        assert_eq!(found.remedy[0].host, "router");
        sketch::expect(&with("director", Hook::Output, drops(3, Some(4))), &TUN005, Severity::Broken, Confidence::Certain, "director");
        sketch::passes(&with("router", Hook::Forward, drops(8, None)), &TUN005, "router");
        let unknown = FilterRule { unknown: Some("limit".into()), ..drops(3, None) };
        sketch::cannot_judge(&with("router", Hook::Forward, unknown), &TUN005, "router");
        sketch::passes(&site(|s| s), &TUN005, "director");
    }

    #[test]
    fn a_short_last_segment_overtakes_the_long_ones() {
        let found = upload(1448, 300, true).expect(&TUN005, Confidence::Likely, "director");
        assert!(found.summary.contains("at most 1400"), "{}", found.summary);
        let clamp = "iptables -t mangle -A OUTPUT -p tcp --sport 80 --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1360";
        assert_eq!(found.remedy[0].command, clamp);
        let found = upload(1448, 300, false).expect(&TUN005, Confidence::Likely, "director");
        assert_eq!(found.alternatives[0], "NET014");
    }

    fn opened(tunnel: bool) -> (World, Conn) {
        let mut w = World::dr();
        let mut c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        if tunnel {
            c = c.tunnel("director", 4, "10.2.0.99", "10.2.0.11");
        } else {
            w.who_has("router", "int", "10.2.0.100", &["director"]);
        }
        w.syn(&c, THERE, 1);
        w.carry(&c, true, SYN_ACK, b"", BACK);
        w.carry(&c, false, ACK, b"", THERE);
        (w, c)
    }

    /// A long segment four times, and what the director says to it on the way `told`.
    fn hangs(tunnel: bool, told: Option<&str>) -> World {
        let (mut w, c) = opened(tunnel);
        for pause in [0.0, 0.3, 0.6, 1.2] {
            w.wait(pause);
            w.carry(&c, false, PSH, &[b'x'; 1460], "client router director");
            if let Some(route) = told {
                w.icmp(&c, false, (3, 4, 1480), "10.2.0.100", "10.1.0.100", "director", route);
            }
        }
        w
    }

    #[test]
    fn the_message_is_lost() {
        let w = hangs(true, Some("director router"));
        let found = w.expect(&TUN005, Confidence::Certain, "director");
        assert_eq!((found.severity, found.remedy[0].host.as_str()), (Severity::Broken, "web1"));
        assert!(found.remedy[0].command.ends_with("--set-mss 1440"));
        w.without(&["client"]).expect(&TUN005, Confidence::Likely, "director");
    }

    #[test]
    fn the_client_does_not_listen() {
        let found = hangs(true, Some("director router client")).expect(&TUN005, Confidence::Likely, "director");
        assert!(found.summary.contains("is told"), "{}", found.summary);
    }

    #[test]
    fn the_director_says_nothing() {
        for tunnel in [true, false] {
            let found = hangs(tunnel, None).expect(&TUN005, Confidence::Likely, "director");
            assert_eq!(found.alternatives[0], if tunnel { "TUN004" } else { "NET014" });
        }
    }

    /// Answers whose long segments pass `there` and go no further, and a short last one that passes everywhere.
    fn answers_vanish(there: &str, all: &str) -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, THERE, 1);
        w.carry(&c, true, SYN_ACK, b"", all);
        w.carry(&c, false, ACK, b"", THERE);
        w.carry(&c, false, PSH, b"GET /", THERE);
        for pause in [0.0, 0.3, 0.6, 1.2] {
            w.wait(pause);
            w.carry(&c, true, PSH, &[b'x'; 1460], there);
        }
        w.carry(&c.answered(1460), true, PSH, &[b'y'; 300], all);
        w
    }

    #[test]
    fn a_router_that_says_nothing_about_long_answers() {
        let w = answers_vanish("web1 router", BACK);
        assert_eq!(w.trace().flows[0].stalled, Some(Way::Reply));
        let found = w.expect(&TUN005, Confidence::Likely, "router");
        assert_eq!(found.remedy[0].command, "iptables -I OUTPUT 1 -p icmp --icmp-type fragmentation-needed -j ACCEPT");
        w.without(&["router"]).finding(&TUN005);
        // Where the answers were seen once only, nothing says that they did not arrive.
        answers_vanish("web1 router", BACK).without(&["router", "client"]).deny(&TUN005);
    }

    #[test]
    fn answers_that_arrive_and_are_not_heard_of_are_another_story() {
        let w = answers_vanish(BACK, BACK);
        assert_eq!(w.trace().flows[0].stalled, None);
        w.deny(&TUN005);
        w.healthy();
    }

    #[test]
    fn who_may_drop_the_message() {
        let chain = |w: World| w.finding(&TUN005).remedy[1].clone();
        let dropped = chain(hangs(true, Some("director router")));
        assert_eq!((dropped.host.as_str(), dropped.command.contains("FORWARD")), ("router", true));
        let ignored = chain(hangs(true, Some("director router client")));
        assert_eq!((ignored.host.as_str(), ignored.command.contains("INPUT")), ("client", true));
        let kept = chain(upload(1448, 300, false));
        assert_eq!((kept.host.as_str(), kept.command.contains("OUTPUT")), ("director", true));
    }

    #[test]
    fn a_lost_segment_is_loss() {
        let (mut w, c) = opened(true);
        w.carry(&c, false, PSH, &[b'x'; 1400], "client router director");
        w.wait(0.3);
        w.carry(&c, false, PSH, &[b'x'; 1400], "client router director");
        w.wait(0.6);
        w.carry(&c, false, PSH, &[b'x'; 1400], THERE);
        w.carry(&c, true, PSH, b"200 OK", BACK);
        w.deny(&TUN005);
        w.healthy();
    }

    #[test]
    fn a_slow_server_is_not_a_short_link() {
        let (mut w, c) = opened(true);
        for pause in [0.0, 0.3, 0.6, 1.2] {
            w.wait(pause);
            w.carry(&c, false, PSH, &[b'x'; 1400], THERE);
        }
        w.deny(&TUN005);
    }
}
