//! LVS-TUN: the request travels inside another packet, and the answer goes past the director.

pub(super) mod tun001;
pub(super) mod tun002;
pub(super) mod tun003;
pub(super) mod tun004;
pub(super) mod tun005;
pub(super) mod tun006;
pub(super) mod tun007;
pub(super) mod tun009;
pub(super) mod tun011;

use super::site::{Duty, Site};
use super::{Checks, Facts};
use crate::host::{Ask, Destination, FilterVerdict, Hook, Host, Passing, Service};
use crate::ipvs::ForwardingMethod;
use crate::net::Protocol;
use crate::packet::TunnelKind;
use crate::trace::{Flow, FlowError, Hop, Method, Way};
use std::net::IpAddr;

/// The VIP of a flow in words.
fn vip(flow: &Flow) -> String {
    flow.vip.map_or_else(|| "VIP".to_string(), |vip| vip.addr.to_string())
}

/// The hop at which a flow's request is inside a tunnel: kind, outer source, outer destination.
fn wrapped(flow: &Flow) -> Option<(&Hop, (TunnelKind, IpAddr, IpAddr))> {
    flow.request.hops.iter().find_map(|hop| hop.outer.map(|outer| (hop, outer)))
}

/// Kernel module and device that unpack a tunnel at its end.
fn decapsulator(flow: &Flow) -> (&'static str, &'static str) {
    let inner_v6 = flow.vip.is_some_and(|vip| vip.addr.is_ipv6());
    match wrapped(flow).map(|(_, outer)| outer) {
        Some((TunnelKind::Gre, ..)) => ("ip_gre", "gre0"),
        Some((TunnelKind::IpIp, IpAddr::V6(_), _)) => ("ip6_tunnel", "ip6tnl0"),
        Some((TunnelKind::IpIp, IpAddr::V4(_), _)) if inner_v6 => ("sit", "sit0"),
        _ => ("ipip", "tunl0"),
    }
}

/// The tunnel device of a flow's server: as its capture point has it, or as the kernel calls it.
fn device(facts: &Facts<'_>, flow: &Flow) -> String {
    let inside = flow.request.hops.iter().find(|hop| hop.dst_mac.is_none() && hop.at.is_some() && hop.at == flow.server_host);
    let name = inside.and_then(|hop| facts.trace.points[hop.point as usize].name.strip_prefix(facts.name(flow.server_host)));
    let name = name.and_then(|rest| rest.strip_prefix('.')).filter(|name| !name.contains('.'));
    name.unwrap_or(decapsulator(flow).1).to_string()
}

/// The server's word that it does not take the outer packet: protocol or port unreachable, about the packet in the tunnel.
fn refused_outer(flow: &Flow) -> Option<&FlowError> {
    let about = |e: &&FlowError| e.tunnelled && e.about == Way::Request && e.refuses() && (e.from != flow.director || e.from.is_none());
    flow.errors.iter().find(about)
}

/// The director of a flow by name, where it is known.
fn director<'a>(facts: &Facts<'a>, flow: &Flow) -> &'a str {
    if flow.director.is_some() { facts.name(flow.director) } else { "the director" }
}

/// Flows through a tunnel whose server did not take the outer packet, server by server.
fn refused<'a>(facts: &Facts<'a>, wanted: impl Fn(&Flow, &FlowError) -> bool) -> Vec<Vec<&'a Flow>> {
    let fits = |f: &&Flow| !f.state.is_complete() && refused_outer(f).is_some_and(|e| wanted(f, e));
    super::facts::by_server(facts.flows().filter(|f| f.method == Method::Tunnel).filter(fits)).into_values().collect()
}

/// Outer protocol by its number in the IP header.
fn protocol_number(kind: TunnelKind) -> &'static str {
    match kind {
        TunnelKind::IpIp => "protocol 4 (IPIP)",
        TunnelKind::Gre => "protocol 47 (GRE)",
        _ => "UDP (GUE)",
    }
}

/// A tunnel through which full segments of clients do not fit, though their servers ask for them.
struct Narrow<'a> {
    director: &'a Host,
    service: &'a Service,
    /// The real server, and the host that it is.
    rip: IpAddr,
    server: &'a Host,
    /// What fits into the tunnel: bytes of a packet.
    room: u32,
    /// The largest segment that the server asks for.
    announced: u32,
    /// The device on which the tunnel leaves, and its MTU.
    link: String,
    mtu: u32,
    /// Headers of IP and TCP.
    headers: u32,
    /// A client's address, and how it is known.
    source: IpAddr,
}

impl Narrow<'_> {
    /// The largest segment that fits.
    fn fits(&self) -> u32 {
        self.room.saturating_sub(self.headers)
    }
}

/// What the outer header takes (kernel ip_vs_xmit.c): by the kind of tunnel, and the family of the real server.
fn overhead(destination: &Destination) -> u32 {
    let outer = if destination.address.addr.is_ipv6() { 40 } else { 20 };
    outer
        + match destination.tunnel.as_deref() {
            Some("gre") => 4,
            Some("gue") => 12,
            _ => 0,
        }
}

/// Tunnels that are too narrow. What is fine, and what would have to be known, is said by `checks`.
fn narrow<'a>(site: &Site<'a>, checks: &mut Checks) -> Vec<Narrow<'a>> {
    let mut found = Vec::new();
    for (director, service) in site.directed().filter(|(_, s)| s.protocol != Some(Protocol::Udp)) {
        for destination in service.destinations.iter().filter(|d| d.forwarding() == Some(ForwardingMethod::Tunnel)) {
            let rip = destination.address.addr;
            let Ok(way) = director.way(&Ask::to(rip)) else { continue };
            let Some(link) = way.link().and_then(|l| director.link(l)).filter(|l| l.mtu > 0 && !l.is_loopback()) else { continue };
            if director.sysctl("net.ipv4.vs.pmtu_disc") == Some(0) {
                checks.passed(&director.name, "the director fragments what does not fit into the tunnel");
                continue;
            }
            let mtu = way.route.mtu.unwrap_or(link.mtu).min(link.mtu);
            let room = mtu.saturating_sub(overhead(destination));
            let headers = if service.v6 { 60 } else { 40 };
            let Some(duty) = site.duties.iter().find(|d| d.rip == Some(rip) && d.service == service.name()) else {
                if room < 1500 {
                    checks.needs(&director.name, format!("a snapshot of the real server {rip}: the segment size that it asks for"));
                }
                continue;
            };
            let (source, _) = duty.answered().remove(0);
            let server = site.host(duty.member);
            match announced(server, duty, source) {
                None => checks.needs(&server.name, "its routes and devices"),
                Some(announced) if announced + headers <= room => checks
                    .passed(&director.name, format!("{rip} asks for segments of {announced} bytes, {} fit", room.saturating_sub(headers))),
                Some(announced) => {
                    found.push(Narrow { director, service, rip, server, room, announced, link: link.name.clone(), mtu, headers, source })
                }
            }
        }
    }
    found
}

/// The largest segment that a real server asks a client for, in its SYN-ACK: what its way allows, or its filters make of it.
fn announced(server: &Host, duty: &Duty, source: IpAddr) -> Option<u32> {
    let way = server.way(&duty.answer(source)).ok()?;
    let link = server.link(way.link()?).filter(|l| l.mtu > 0)?;
    let headers = if source.is_ipv6() { 60 } else { 40 };
    let mtu = way.route.mtu.unwrap_or(link.mtu).min(link.mtu);
    let by_way = way.route.advmss.unwrap_or(u32::MAX).min(mtu.saturating_sub(headers));
    let ports = (duty.accepts.map(|(_, at)| at.port), None);
    let packet = Passing { src: duty.speaks_as(), ports, oif: way.link(), state: "ESTABLISHED", ..Passing::to(source, Protocol::Tcp) };
    let lowers = |hook| {
        let rule = server.netfilter.as_ref()?.may_do(hook, &packet, |verdict| matches!(verdict, FilterVerdict::Mss(_)))?;
        match rule.verdict {
            FilterVerdict::Mss(mss) => mss.map(u32::from),
            _ => None,
        }
    };
    Some([lowers(Hook::Output), lowers(Hook::Postrouting)].into_iter().flatten().fold(by_way, u32::min))
}
