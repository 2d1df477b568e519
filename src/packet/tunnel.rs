//! Encapsulations: IP in IP, GRE, GUE and FOU, VXLAN, Geneve.

use super::dissect::{Dissector, StopReason};
use super::ip::{IPIP, IPV6, Ip, Network};
use super::{checksum, link};
use crate::net::MacAddr;
use std::fmt;
use std::net::IpAddr;

/// The outer header around a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// How it is wrapped.
    pub kind: TunnelKind,
    /// Outer IP header.
    pub outer: Ip,
    /// Outer UDP ports, source and destination; 0 where the tunnel has none.
    pub ports: (u16, u16),
    /// VXLAN or Geneve network identifier, GRE key; 0 where there is none.
    pub key: u32,
    /// Inner Ethernet addresses, source and destination, where the tunnel carries Ethernet.
    pub inner: Option<(MacAddr, MacAddr)>,
}

impl Tunnel {
    /// Outer source and destination.
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        (self.outer.src, self.outer.dst)
    }
}

/// How a packet is wrapped. The first three are what IPVS sends (`ipvsadm --tun-type`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TunnelKind {
    /// IPv4 or IPv6 in IPv4 or IPv6 (RFC 2003, RFC 2473, RFC 4213).
    IpIp,
    /// Generic routing encapsulation (RFC 2784, RFC 2890).
    Gre,
    /// Generic UDP encapsulation, or plain foo-over-UDP.
    Gue,
    /// VXLAN (RFC 7348).
    Vxlan,
    /// Geneve (RFC 8926).
    Geneve,
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            TunnelKind::IpIp => "ipip",
            TunnelKind::Gre => "gre",
            TunnelKind::Gue => "gue",
            TunnelKind::Vxlan => "vxlan",
            TunnelKind::Geneve => "geneve",
        })
    }
}

/// VXLAN and Geneve by their IANA ports; Linux's VXLAN default before 2013 was 8472.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
const GENEVE_PORT: u16 = 6081;

impl<'a> Dissector<'a> {
    /// An IP packet directly inside an IP packet.
    pub(super) fn encapsulated(&mut self, kind: TunnelKind, outer: Ip, inner: &'a [u8]) {
        if self.wrap(Tunnel { kind, outer, ports: (0, 0), key: 0, inner: None }, inner) {
            self.inner_ip(inner);
        }
    }

    fn inner_ip(&mut self, inner: &'a [u8]) {
        match inner.first().map(|b| b >> 4) {
            Some(4) => self.ipv4(inner),
            Some(6) => self.ipv6(inner),
            Some(_) => self.stop("tunnel", StopReason::Malformed("no IP packet inside"), inner),
            None => self.stop("tunnel", StopReason::Truncated, inner),
        }
    }

    fn inner_ethernet(&mut self, inner: &'a [u8]) {
        if let Some((header, rest)) = self.ethernet(inner) {
            if let (Some(tunnel), Some(src), Some(dst)) = (self.packet.tunnels.last_mut(), header.src, header.dst) {
                tunnel.inner = Some((src, dst));
            }
            self.by_ether_type(header.ether_type, rest);
        }
    }

    /// Enters a tunnel unless a hostile packet nests too deep.
    fn wrap(&mut self, tunnel: Tunnel, inner: &'a [u8]) -> bool {
        if self.packet.tunnels.len() == Self::MAX_TUNNELS {
            self.stop("tunnel", StopReason::Malformed("nested too deep"), inner);
            return false;
        }
        self.packet.tunnels.push(tunnel);
        self.packet.network = Network::None;
        true
    }

    pub(super) fn gre(&mut self, outer: Ip, bytes: &'a [u8], len: usize) {
        let Some(([f0, f1, p0, p1], _)) = bytes.split_first_chunk::<4>() else {
            return self.stop("GRE", StopReason::Truncated, bytes);
        };
        let (flags, version) = (*f0, *f1 & 7);
        let protocol = u16::from_be_bytes([*p0, *p1]);
        if version != 0 || flags & 0x40 != 0 {
            return self.opaque(bytes, len); // PPTP's version 1, or the routing field that RFC 2784 dropped
        }
        let (checksum, key, sequence) = (flags & 0x80 != 0, flags & 0x20 != 0, flags & 0x10 != 0);
        let header = 4 + 4 * (usize::from(checksum) + usize::from(key) + usize::from(sequence));
        let Some(inner) = bytes.get(header..) else {
            return self.stop("GRE", StopReason::Truncated, bytes);
        };
        let key_at = 4 + 4 * usize::from(checksum);
        let key = if key { bytes.get(key_at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b)) } else { 0 };
        let tunnel = Tunnel { kind: TunnelKind::Gre, outer, ports: (0, 0), key, inner: None };
        match protocol {
            link::IPV4 | link::IPV6 if self.wrap(tunnel, inner) => self.inner_ip(inner),
            0x6558 if self.wrap(tunnel, inner) => self.inner_ethernet(inner),
            link::IPV4 | link::IPV6 | 0x6558 => {}
            other => self.stop("GRE", StopReason::Unsupported(other.into()), inner),
        }
    }

    /// A UDP datagram that is a tunnel: true when it was one.
    ///
    /// VXLAN and Geneve go by port. GUE and FOU may use any port, so what is inside must prove itself: a whole IP header whose length
    /// fills the datagram and, for IPv4, whose checksum is right.
    pub(super) fn udp_tunnel(&mut self, ports: (u16, u16), payload: &'a [u8], len: usize) -> bool {
        let Network::Ip(outer) = self.packet.network else { return false };
        let tunnel = |kind, key| Tunnel { kind, outer, ports, key, inner: None };
        match payload {
            [0x08, _, _, _, a, b, c, _, inner @ ..] if VXLAN_PORTS.contains(&ports.1) => {
                if self.wrap(tunnel(TunnelKind::Vxlan, u32::from_be_bytes([0, *a, *b, *c])), inner) {
                    self.inner_ethernet(inner);
                }
                true
            }
            [flags, _, p0, p1, a, b, c, _, rest @ ..] if ports.1 == GENEVE_PORT && flags >> 6 == 0 => {
                let Some(inner) = rest.get(usize::from(flags & 0x3f) * 4..) else { return false };
                if self.wrap(tunnel(TunnelKind::Geneve, u32::from_be_bytes([0, *a, *b, *c])), inner) {
                    match u16::from_be_bytes([*p0, *p1]) {
                        0x6558 => self.inner_ethernet(inner),
                        link::IPV4 | link::IPV6 => self.inner_ip(inner),
                        other => self.stop("Geneve", StopReason::Unsupported(other.into()), inner),
                    }
                }
                true
            }
            _ => match gue_payload(payload, len) {
                Some(inner) => {
                    if self.wrap(tunnel(TunnelKind::Gue, 0), inner) {
                        self.inner_ip(inner);
                    }
                    true
                }
                None => false,
            },
        }
    }
}

/// False when a datagram to this port with this payload is certainly no tunnel: the cheap half of [`Dissector::udp_tunnel`].
#[inline]
pub(super) fn may_be_udp_tunnel(dst_port: u16, payload: &[u8]) -> bool {
    match *payload {
        [] => false,
        [first, ..] if matches!(first >> 4, 4 | 6) => true,
        [first, protocol, ..] if first >> 5 == 0 && matches!(protocol, IPIP | IPV6) => true,
        _ => VXLAN_PORTS.contains(&dst_port) || dst_port == GENEVE_PORT,
    }
}

/// The IP packet inside a GUE (version 0 data message) or FOU datagram.
///
/// GUE version 0: 2 bits version, 1 bit control, 5 bits header length in words beyond the first, then the IP protocol number
/// (draft-ietf-intarea-gue-09; Linux net/ipv4/fou_core.c). GUE version 1 and FOU have no header at all.
fn gue_payload(payload: &[u8], len: usize) -> Option<&[u8]> {
    match *payload {
        [first, ..] if matches!(first >> 4, 4 | 6) && fills(payload, len) => Some(payload),
        [first, protocol, _, _, ..] if first >> 5 == 0 && matches!(protocol, IPIP | IPV6) => {
            let header = 4 + usize::from(first & 31) * 4;
            let inner = payload.get(header..)?;
            fills(inner, len.checked_sub(header)?).then_some(inner)
        }
        _ => None,
    }
}

/// True when `bytes` begin with an IP header that says it is `len` bytes long (for IPv4 with a right checksum).
fn fills(bytes: &[u8], len: usize) -> bool {
    match bytes.first().map(|b| b >> 4) {
        Some(4) => {
            let Some(h) = bytes.get(..usize::from(bytes[0] & 15) * 4).filter(|h| h.len() >= 20) else { return false };
            usize::from(u16::from_be_bytes([h[2], h[3]])) == len && checksum::fold(checksum::sum(0, h)) == 0xffff
        }
        Some(6) => {
            let Some(h) = bytes.first_chunk::<40>() else { return false };
            usize::from(u16::from_be_bytes([h[4], h[5]])) + 40 == len && matches!(h[6], 0 | 6 | 17 | 43 | 44 | 50 | 51 | 58 | 60 | 132)
        }
        _ => false,
    }
}
