//! Transport headers: UDP, SCTP, VRRP, and what is left of them when a packet was cut.

use super::dissect::{Dissector, StopReason};
use super::icmp::Icmp;
use super::ip::Ip;
use super::tcp::Tcp;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The transport layer of a packet.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Transport<'a> {
    /// None, a later fragment, or a protocol that is not read (its number is in the IP header).
    #[default]
    None,
    /// TCP.
    Tcp(Tcp<'a>),
    /// UDP.
    Udp(Udp),
    /// SCTP.
    Sctp(Sctp),
    /// ICMP and ICMPv6.
    Icmp(Icmp<'a>),
    /// VRRP.
    Vrrp(Vrrp),
    /// Of TCP, UDP or SCTP only the ports (and of TCP the sequence number) were captured: a quoted packet, a short snap length.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
        /// TCP sequence number.
        seq: Option<u32>,
    },
}

impl Transport<'_> {
    /// Source and destination port; for an ICMP echo its identifier twice.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self {
            Transport::Tcp(tcp) => Some((tcp.src_port, tcp.dst_port)),
            Transport::Udp(udp) => Some((udp.src_port, udp.dst_port)),
            Transport::Sctp(sctp) => Some((sctp.src_port, sctp.dst_port)),
            Transport::Ports { src, dst, .. } => Some((*src, *dst)),
            Transport::Icmp(icmp) => icmp.echo().map(|(id, _)| (id, id)),
            Transport::Vrrp(_) | Transport::None => None,
        }
    }
}

/// A UDP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Udp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Checksum as captured; 0 means none was computed (IPv4).
    pub checksum: u16,
}

/// An SCTP common header and the beginning of its first chunk, RFC 9260.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sctp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Verification tag.
    pub tag: u32,
    /// Type of the first chunk: 0 DATA, 1 INIT, 2 INIT ACK, 6 ABORT …
    pub chunk: Option<u8>,
    /// Initiate tag of an INIT or INIT ACK chunk.
    pub initiate_tag: Option<u32>,
}

/// A VRRP advertisement, versions 2 and 3 (RFC 3768, RFC 5798).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vrrp {
    /// Protocol version.
    pub version: u8,
    /// Virtual router identifier.
    pub vrid: u8,
    /// Priority of the sender: 255 owns the addresses, 0 gives up.
    pub priority: u8,
    /// The addresses it backs up, as far as captured.
    pub addresses: Vec<IpAddr>,
}

impl<'a> Dissector<'a> {
    /// Of a cut transport header, what there is.
    pub(super) fn cut_transport(&mut self, layer: &'static str, bytes: &'a [u8], len: usize, has_seq: bool) {
        if let Some([a, b, c, d]) = bytes.first_chunk::<4>() {
            let seq = bytes.get(4..8).and_then(|s| s.first_chunk::<4>()).filter(|_| has_seq).map(|s| u32::from_be_bytes(*s));
            self.packet.transport = Transport::Ports { src: u16::from_be_bytes([*a, *b]), dst: u16::from_be_bytes([*c, *d]), seq };
        }
        self.packet.segment = bytes;
        let reason = if bytes.len() < len { StopReason::Truncated } else { StopReason::Malformed("shorter than its header") };
        self.stop(layer, reason, bytes);
    }

    pub(super) fn udp(&mut self, bytes: &'a [u8], len: usize) {
        let Some(([s0, s1, d0, d1, l0, l1, c0, c1], rest)) = bytes.split_first_chunk::<8>() else {
            return self.cut_transport("UDP", bytes, len, false);
        };
        let udp = Udp {
            src_port: u16::from_be_bytes([*s0, *s1]),
            dst_port: u16::from_be_bytes([*d0, *d1]),
            checksum: u16::from_be_bytes([*c0, *c1]),
        };
        // The shorter of both lengths: a first fragment carries less than the UDP header says; 0 is a jumbogram or offload.
        let declared = usize::from(u16::from_be_bytes([*l0, *l1]));
        let payload_len = if declared < 8 { len - 8 } else { declared.min(len) - 8 };
        let payload = &rest[..payload_len.min(rest.len())];
        if self.udp_tunnel((udp.src_port, udp.dst_port), payload, payload_len) {
            return;
        }
        self.packet.transport = Transport::Udp(udp);
        self.packet.payload = payload;
        self.packet.payload_len = payload_len as u32;
        self.packet.segment = &bytes[..8 + payload.len()];
    }

    pub(super) fn sctp(&mut self, bytes: &'a [u8], len: usize) {
        let Some((h, rest)) = bytes.split_first_chunk::<12>() else {
            return self.cut_transport("SCTP", bytes, len, false);
        };
        let chunk = rest.first().copied();
        let initiate_tag = match (chunk, rest.get(4..8).and_then(|t| t.first_chunk::<4>())) {
            (Some(1 | 2), Some(tag)) => Some(u32::from_be_bytes(*tag)),
            _ => None,
        };
        self.packet.transport = Transport::Sctp(Sctp {
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            tag: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            chunk,
            initiate_tag,
        });
        self.packet.payload = rest;
        self.packet.payload_len = (len - 12) as u32;
        self.packet.segment = bytes;
    }

    pub(super) fn vrrp(&mut self, ip: Ip, bytes: &'a [u8], len: usize) {
        self.opaque(bytes, len);
        let Some((h, rest)) = bytes.split_first_chunk::<8>() else {
            return self.stop("VRRP", StopReason::Truncated, bytes);
        };
        let count = usize::from(h[3]);
        let addresses = match ip.src {
            IpAddr::V4(_) => {
                rest.chunks_exact(4).take(count).filter_map(|a| a.first_chunk::<4>()).map(|a| Ipv4Addr::from(*a).into()).collect()
            }
            IpAddr::V6(_) => {
                rest.chunks_exact(16).take(count).filter_map(|a| a.first_chunk::<16>()).map(|a| Ipv6Addr::from(*a).into()).collect()
            }
        };
        self.packet.transport = Transport::Vrrp(Vrrp { version: h[0] >> 4, vrid: h[1], priority: h[2], addresses });
    }
}
