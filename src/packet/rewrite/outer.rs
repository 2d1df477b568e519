//! Outer headers: IPIP, GRE and GUE around a packet.

use super::header::seal;
use crate::net::Endpoint;
use crate::packet::build::{self, IpFields};
use crate::packet::checksum::checksum;
use crate::packet::ip::UDP;
use std::net::IpAddr;

/// An outer header around a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// Tunnel source.
    pub src: IpAddr,
    /// Tunnel destination.
    pub dst: IpAddr,
    /// How.
    pub kind: OuterKind,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// IPv4 DF.
    pub dont_fragment: bool,
    /// IPv4 identification.
    pub id: u16,
}

/// The kind of an outer header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OuterKind {
    /// IP in IP.
    Ipip,
    /// Generic routing encapsulation, version 0; perhaps with a checksum.
    Gre {
        /// With a checksum.
        checksum: bool,
    },
    /// Generic UDP encapsulation, variant 0.
    Gue {
        /// UDP source port.
        src_port: u16,
        /// UDP destination port.
        dst_port: u16,
        /// With a UDP checksum.
        checksum: bool,
    },
}

impl OuterKind {
    /// Bytes between the outer IP header and the packet inside.
    pub fn shim(self) -> usize {
        match self {
            OuterKind::Ipip => 0,
            OuterKind::Gre { checksum } => 4 + if checksum { 4 } else { 0 },
            OuterKind::Gue { .. } => 12,
        }
    }
}

/// Puts a packet into another one; `None` when the addresses are of two families or the packet grows too long.
pub fn encapsulate(inner: &[u8], outer: &Outer) -> Option<Vec<u8>> {
    if outer.src.is_ipv6() != outer.dst.is_ipv6() || inner.len() + outer.kind.shim() + 40 > 0xffff {
        return None;
    }
    let inner_is_v6 = inner.first()? >> 4 == 6;
    let inner_protocol = if inner_is_v6 { 41 } else { 4 };
    let (protocol, body) = match outer.kind {
        OuterKind::Ipip => (inner_protocol, inner.to_vec()),
        OuterKind::Gre { checksum: with } => {
            let mut body = vec![if with { 0x80 } else { 0 }, 0];
            body.extend(if inner_is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
            body.extend(if with { &[0; 4][..] } else { &[] });
            body.extend(inner);
            if with {
                let value = checksum(&body);
                body[4..6].copy_from_slice(&value.to_be_bytes());
            }
            (47, body)
        }
        OuterKind::Gue { src_port, dst_port, checksum: with } => {
            let mut payload = vec![0, inner_protocol, 0, 0];
            payload.extend(inner);
            let mut body = build::udp(Endpoint::new(outer.src, src_port), Endpoint::new(outer.dst, dst_port), &payload);
            if !with {
                body[6..8].fill(0);
            }
            (UDP, body)
        }
    };
    let flags = if outer.dont_fragment { 0x4000 } else { 0 };
    let mut packet = build::ip(outer.src, outer.dst, protocol, IpFields { ttl: outer.ttl, id: outer.id, flags }, &body);
    if outer.dst.is_ipv6() {
        packet[0] |= outer.tos >> 4;
        packet[1] |= outer.tos << 4;
    } else {
        packet[1] = outer.tos;
        seal(&mut packet);
    }
    Some(packet)
}
