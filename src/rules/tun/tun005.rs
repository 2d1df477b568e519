//! A client that goes on sending packets that are too long, because it is not told, or does not listen.

use super::super::facts::{by_director, ids};
use super::super::remedy::look;
use super::super::{Facts, rule};
use super::vip;
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::trace::{Flow, HostId, Method};

rule! {
    /// # What it sees
    /// Handshake and short requests pass. A long segment arrives at the director, is not handed on, and comes again in the same length,
    /// again and again. The director says ICMP "fragmentation needed", which never reaches the client; or it reaches it and changes nothing;
    /// or the director says nothing.
    ///
    /// # Why it breaks
    /// Behind the director packets must be shorter (a tunnel, TUN004; a smaller MTU, NET014). The client can only know from that ICMP
    /// message. Filters that drop all ICMP lose it, a director without a route to the client cannot send it (NET004), and a client's own
    /// filter may drop it. Small transfers work, large ones hang.
    ///
    /// # Confirm it by hand
    /// `tcpdump -n 'icmp[0] = 3 and icmp[1] = 4'` at the director, at each firewall and at the client: where is it seen last?
    ///
    /// # Remedy
    /// Let ICMP type 3 code 4 (IPv6: type 2) pass everywhere, and announce a smaller MSS from the real servers, which helps even so.
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
    TUN005 "frag-needed-lost" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    let methods = [Method::DirectRouting, Method::Tunnel, Method::Nat, Method::FullNat];
    let balanced = methods.into_iter().flat_map(|method| facts.balanced(method));
    let stuck: Vec<&Flow> = balanced.filter(|f| facts.stuck(f).is_some()).collect();
    by_director(stuck).into_iter().filter_map(|(director, flows)| finding(facts, director, &flows)).collect::<Vec<_>>().into()
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
    let tables = if v6 { "ip6tables" } else { "iptables" };
    let kind = if v6 { "-p icmpv6 --icmpv6-type packet-too-big" } else { "-p icmp --icmp-type fragmentation-needed" };
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
    let filter = match facts.names(flow.routers.iter().copied()) {
        routers if !routers.is_empty() => routers,
        _ => name.to_string(),
    };
    let pass =
        look(&filter, format!("{tables} -I FORWARD 1 {kind} -j ACCEPT"), "the same rule in the saved rules; a filter drops the message");
    let found = Finding::new(name, Severity::Broken, confidence, summary, again)
        .and(word.map(|(error, _)| facts.error(error)))
        .and(stuck.after.map(|hop| facts.seen_with(hop, "shorter packets pass")))
        .and(silence)
        .mend([mended, Remedy { undo: format!("{tables} -D FORWARD {kind} -j ACCEPT"), ..pass }])
        .on(ids(flows));
    let settle = format!("captures of ICMP at {name} and at the client; on {name}: `ip route get {client}`, `nft list ruleset`");
    Some(if others.is_empty() { found } else { found.unless(&others, settle) })
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ACK, Conn, PSH, SYN_ACK, World};
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
