//! The tunnel makes full segments too long for the link.

use super::super::facts::{by_director, ids};
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use super::{vip, wrapped};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::trace::{Flow, Method};

rule! {
    /// # What it sees
    /// Handshakes and short requests pass. A full segment of a client is dropped by the director, which says ICMP "fragmentation needed"
    /// with the VIP as source and the MTU of the tunnel: 1480 for IPIP, 1476 for GRE, less for GUE. The client goes on with shorter
    /// segments.
    ///
    /// # Why it breaks
    /// The outer header takes 20 bytes (IPIP), 24 (GRE) or 32 and more (GUE) of each packet. The real server does not know of it and
    /// announces a maximum segment size of 1460 in its SYN-ACK, which goes past the director. Each client must learn it by losing a packet,
    /// and one that never hears the message hangs (TUN005).
    ///
    /// # Confirm it by hand
    /// `curl -T FILE http://VIP/` with some kilobytes; on the director `nstat -az IcmpOutDestUnreachs`, on the client `ip route get VIP` shows
    /// the MTU that was learned.
    ///
    /// # Remedy
    /// A smaller MSS in the real servers' SYN-ACK (TCPMSS, or `advmss` on their route), or a larger MTU between director and real servers,
    /// or `net.ipv4.vs.pmtu_disc=0`, so that the director fragments.
    ///
    /// # When it is not a fault
    /// Clients that go on with shorter segments are served: this is only a note then. Captured frames longer than the MTU are the work of
    /// the network card (CAP002).
    ///
    /// # Reproduce
    /// A TUN service, MTU 1500 everywhere; a POST of some kilobytes.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_xmit.c`, `ip_vs_tunnel_xmit`; `Documentation/networking/ipvs-sysctl.rst`: pmtu_disc; RFC 1191.
    TUN004 "tun-mtu-mss" check hosts
}

/// What tunnels take from a packet: IPIP, GRE, GRE with checksum, GUE, GUE with checksum and options, the same over IPv6.
const OVERHEADS: [u32; 9] = [20, 24, 28, 32, 36, 40, 44, 48, 52];

fn check(facts: &Facts<'_>) -> Outcome {
    let told: Vec<&Flow> = facts.balanced(Method::Tunnel).filter(|f| facts.too_big(f).is_some()).collect();
    let mut found: Vec<Finding> = by_director(told).into_values().filter_map(|flows| finding(facts, &flows)).collect();
    // Without captures at the director the MTU that it names gives the tunnel away.
    let names_tunnel = |mtu: u32| [1500, 9000].iter().any(|link| OVERHEADS.contains(&(link - mtu.min(*link))));
    let heard = |f: &&Flow| f.director.is_none() && facts.too_big(f).is_some_and(|(_, mtu)| names_tunnel(mtu));
    let heard: Vec<&Flow> = facts.flows().filter(heard).collect();
    if found.is_empty() && !heard.is_empty() {
        found.extend(finding(facts, &heard));
    }
    found.into()
}

fn finding<'a>(facts: &Facts<'a>, flows: &[&'a Flow]) -> Option<Finding> {
    let flow = *flows.first()?;
    let (error, mtu) = facts.too_big(flow)?;
    let known = flow.director.is_some();
    let subject = if known { facts.name(flow.director).to_string() } else { flow.service.to_string() };
    let headers = if flow.service.addr.is_ipv6() { 60 } else { 40 };
    let (mss, vip) = (mtu.saturating_sub(headers), vip(flow));
    let stuck = flows.iter().any(|f| facts.stuck(f).is_some());
    let end = if stuck { "; a client goes on sending longer ones" } else { ", and clients learn it by losing one" };
    let summary = format!("Requests to {} have {mtu} bytes at most in the tunnel{end}.", flow.service);
    let announced = flow.reply.hops.iter().find(|hop| hop.mss.is_some_and(|announced| u32::from(announced) > mss));
    let announced = announced.and_then(|hop| hop.mss.map(|m| facts.seen_with(hop, &format!("announces an MSS of {m}, {mss} would fit"))));
    let inside: Option<Evidence> = wrapped(flow).map(|(hop, _)| facts.seen_with(hop, "shorter packets pass"));
    let servers = facts.names(flows.iter().filter_map(|f| f.server_host));
    let servers = if servers.is_empty() { "each real server".to_string() } else { servers };
    let confidence = if known { Confidence::Certain } else { Confidence::Likely };
    let found = Finding::new(subject, Severity::Note, confidence, summary, facts.error(error)).and(announced).and(inside);
    let found = found.mend([clamp(servers, headers, &vip, mss)]).on(ids(flows));
    Some(if known { found } else { found.unless(&["NET014"], "a capture at the director: does it use a tunnel?") })
}

/// A real server asks clients for segments that fit; `headers` are those of IP and TCP.
fn clamp(server: impl Into<String>, headers: u32, vip: &str, mss: u32) -> Remedy {
    let tables = if headers == 60 { "ip6tables" } else { "iptables" };
    let rule = format!("OUTPUT -p tcp --tcp-flags SYN,RST SYN -s {vip} -j TCPMSS --set-mss {mss}");
    Remedy::new(
        server,
        format!("{tables} -t mangle -A {rule}"),
        format!("the same rule in the saved rules ({tables}-save), on every real server"),
        format!("{tables} -t mangle -D {rule}"),
    )
}

/// On the director, the tunnel; on the real server, what it asks clients for.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for narrow in super::narrow(site, checks) {
        let (director, fits) = (&narrow.director.name, narrow.fits());
        let vip = narrow.service.vip().map_or_else(|| "VIP".to_string(), |vip| vip.to_string());
        let summary = format!(
            "Requests to {} have {} bytes at most in the tunnel; {} asks clients for segments of {}, {fits} would fit: each client learns it by losing one.",
            narrow.service.name(),
            narrow.room,
            narrow.server.name,
            narrow.announced
        );
        let mended = clamp(&narrow.server.name, narrow.headers, &vip, fits);
        let fact = format!("{} mtu {}, towards {}", narrow.link, narrow.mtu, narrow.rip);
        let found = proven(narrow.director, Severity::Note, summary, fact, format!("ip link show {}", narrow.link)).mend([mended]);
        checks.failed(director, found);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::super::super::testing::{ACK, Conn, PSH, SYN_ACK, World};
    use super::super::tun005::TUN005;
    use super::*;

    /// A tunnel to a real server in another network, and a router between all.
    pub(in super::super) fn site(change: impl Fn(Sketch) -> Sketch) -> [Sketch; 4] {
        let forwards = |s: Sketch| ["ext", "int", "back"].iter().fold(s, |s, link| s.set(&format!("net.ipv4.conf.{link}.forwarding"), "1"));
        let router = Sketch::new("router").card("ext", "10.9.0.1/24").card("int", "10.0.0.1/24").card("back", "10.7.0.1/24");
        let director =
            Sketch::new("director").card("eth0", "10.0.0.10/24").addr("eth0", "10.0.0.100/32").via("default", "10.0.0.1", "eth0");
        let tunnel =
            crate::host::Link { name: "tunl0".into(), hardware: "ipip".into(), mtu: 1480, flags: vec!["UP".into()], ..Default::default() };
        let web = Sketch::new("web1").card("eth0", "10.7.0.11/24").device(tunnel).addr("tunl0", "10.0.0.100/32");
        [
            forwards(router),
            director.ipvs("-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.7.0.11:80 -i\n"),
            web.via("default", "10.7.0.1", "eth0").listens("0.0.0.0:80"),
            Sketch::new("client").card("eth0", "10.9.0.7/24").via("default", "10.9.0.1", "eth0"),
        ]
        .map(change)
    }

    fn named(name: &'static str, change: impl Fn(Sketch) -> Sketch) -> impl Fn(Sketch) -> Sketch {
        move |s| if s.is(name) { change(s) } else { s }
    }

    #[test]
    fn what_real_servers_ask_for() {
        let found = sketch::expect(&site(|s| s), &TUN004, Severity::Note, Confidence::Certain, "director");
        let clamp = "iptables -t mangle -A OUTPUT -p tcp --tcp-flags SYN,RST SYN -s 10.0.0.100 -j TCPMSS --set-mss 1440";
        assert_eq!((found.remedy[0].command.as_str(), found.remedy[0].host.as_str()), (clamp, "web1"));
        let routed = |mss| named("web1", move |s| s.with(|h| h.routes.iter_mut().flatten().for_each(|r| r.advmss = Some(mss))));
        sketch::passes(&site(routed(1440)), &TUN004, "director");
        sketch::expect(&site(routed(1441)), &TUN004, Severity::Note, Confidence::Certain, "director");
        let clamped = crate::host::FilterRule { verdict: crate::host::FilterVerdict::Mss(Some(1400)), ..Default::default() };
        sketch::passes(&site(named("web1", |s| s.rule(crate::host::Hook::Output, clamped.clone()))), &TUN004, "director");
        let jumbo = named("director", |s| s.with(|h| h.links.iter_mut().flatten().for_each(|l| l.mtu = 9000)));
        sketch::passes(&site(jumbo), &TUN004, "director");
        sketch::passes(&site(named("director", |s| s.set("net.ipv4.vs.pmtu_disc", "0"))), &TUN004, "director");
        let alone = site(|s| s);
        sketch::cannot_judge(&alone[..2], &TUN004, "director");
    }

    const THERE: &str = "client router director web1";
    const BACK: &str = "web1 router client";

    fn opened() -> (World, Conn) {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80").tunnel("director", 4, "10.2.0.99", "10.2.0.11");
        w.syn(&c, THERE, 1);
        w.carry(&c, true, SYN_ACK, b"", BACK);
        w.carry(&c, false, ACK, b"", THERE);
        (w, c)
    }

    #[test]
    fn a_client_that_learns_is_served() {
        let (mut w, c) = opened();
        w.carry(&c, false, PSH, &[b'x'; 1460], "client router director");
        w.icmp(&c, false, (3, 4, 1480), "10.2.0.100", "10.1.0.100", "director", "director router client");
        w.carry(&c, false, PSH, &[b'x'; 1428], THERE);
        w.carry(&c, true, PSH, b"200 OK", BACK);
        let found = w.expect(&TUN004, Confidence::Certain, "director");
        assert_eq!(found.severity, Severity::Note);
        let clamp = "iptables -t mangle -A OUTPUT -p tcp --tcp-flags SYN,RST SYN -s 10.2.0.100 -j TCPMSS --set-mss 1440";
        assert_eq!((found.remedy[0].command.as_str(), found.remedy[0].host.as_str()), (clamp, "web1"));
        w.deny(&TUN005);
        w.healthy();
        // The client alone: an MTU that a tunnel makes, from the address that it dialled.
        let w = w.without(&["router", "director", "web1", "web2"]);
        w.expect(&TUN004, Confidence::Likely, "10.2.0.100:80");
        w.healthy();
    }

    #[test]
    fn merged_segments_are_no_violation() {
        let (mut w, c) = opened();
        w.carry(&c, false, PSH, &[b'x'; 2856], THERE);
        w.carry(&c, true, PSH, b"200 OK", BACK);
        w.deny(&TUN004);
        w.healthy();
    }

    #[test]
    fn a_router_in_front_with_a_small_link_is_no_tunnel() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, THERE, 1);
        w.carry(&c, true, SYN_ACK, b"", BACK);
        w.carry(&c, false, PSH, &[b'x'; 1460], "client router");
        w.icmp(&c, false, (3, 4, 1480), "10.1.0.1", "10.1.0.100", "client", "router client");
        w.carry(&c, false, PSH, &[b'x'; 1440], THERE);
        w.deny(&TUN004);
    }
}
