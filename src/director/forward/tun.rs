//! `-i`: the packet goes into another one, to the real server (`ip_vs_tunnel_xmit`).

use crate::ipvs::{TunnelChecksum, TunnelOptions, TunnelType};
use crate::packet::{IpHeader, Outer, OuterKind};
use std::net::IpAddr;

/// The encapsulation, with the source port that GUE draws from the flow.
pub(in crate::director) fn kind(options: &TunnelOptions, flow: u16) -> OuterKind {
    let checksum = options.checksum == TunnelChecksum::Outer;
    match options.kind {
        TunnelType::Ipip => OuterKind::Ipip,
        TunnelType::Gre => OuterKind::Gre { checksum },
        // `udp_flow_src_port`: from the range of ephemeral ports.
        TunnelType::Gue => OuterKind::Gue { src_port: 32_768 + flow % 28_232, dst_port: options.port, checksum },
    }
}

/// Bytes that the method adds.
pub(in crate::director) fn overhead(kind: OuterKind, server: IpAddr) -> usize {
    kind.shim() + if server.is_ipv6() { 40 } else { 20 }
}

/// The outer header (`ip_vs_prepare_tunneled_skb`): TTL and type of service of the packet inside, as they are after the hop; DF too, where
/// path MTU discovery is on.
pub(in crate::director) fn outer(inner: &IpHeader, src: IpAddr, dst: IpAddr, kind: OuterKind, pmtu_disc: bool, id: u16) -> Outer {
    // Full-functionality ECN: congestion that was experienced inside does not show outside.
    let ecn = if inner.tos & 3 == 3 { 2 } else { inner.tos & 3 };
    let dont_fragment = pmtu_disc && inner.dont_fragment && !inner.is_ipv6();
    Outer { src, dst, kind, ttl: inner.ttl, tos: inner.tos & 0xfc | ecn, dont_fragment, id: if dont_fragment { 0 } else { id } }
}
