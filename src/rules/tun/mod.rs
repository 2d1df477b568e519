//! LVS-TUN: the request travels inside another packet, and the answer goes past the director.

pub(super) mod tun001;
pub(super) mod tun002;
pub(super) mod tun003;
pub(super) mod tun004;
pub(super) mod tun005;
pub(super) mod tun007;
pub(super) mod tun009;
pub(super) mod tun011;

use super::Facts;
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
