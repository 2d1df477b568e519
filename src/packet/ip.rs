//! Network layer: IPv4, IPv6 with extension headers, ARP.

use super::dissect::{Dissector, StopReason};
use super::tunnel::TunnelKind;
use crate::net::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers used in this room.
pub(super) const ICMP: u8 = 1;
pub(super) const IPIP: u8 = 4;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const IPV6: u8 = 41;
pub(super) const GRE: u8 = 47;
pub(super) const ICMPV6: u8 = 58;
pub(super) const VRRP: u8 = 112;
pub(super) const SCTP: u8 = 132;

/// The network layer of a packet: the innermost one, when tunnels are around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Network {
    /// Nothing was understood.
    #[default]
    None,
    /// IPv4 or IPv6.
    Ip(Ip),
    /// Address resolution for IPv4 over Ethernet.
    Arp(Arp),
}

/// The fields of an IP header that this tool uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// The protocol above, past any IPv6 extension headers (IANA protocol numbers).
    pub protocol: u8,
    /// IPv4 identification; for IPv6 that of the fragment header, else 0.
    pub id: u32,
    /// IPv4 DF; always true for IPv6, whose routers never fragment.
    pub dont_fragment: bool,
    /// Set for every fragment, the first one too.
    pub fragment: Option<Fragment>,
    /// Length of the whole IP packet in bytes as its header says; where it says 0 (segmentation offload) the length on the wire.
    pub total_len: u32,
    /// Header length in bytes with options or extension headers, as far as captured.
    pub header_len: u16,
}

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Offset of this part in the payload, in bytes.
    pub offset: u32,
    /// More fragments follow.
    pub more: bool,
}

/// An ARP packet for IPv4 over Ethernet, RFC 826.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// 1 request, 2 reply; others exist.
    pub operation: u16,
    /// Who speaks: its MAC.
    pub sender_mac: MacAddr,
    /// Who speaks: its IPv4 address; 0.0.0.0 in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// Whom it is for; zero in a request.
    pub target_mac: MacAddr,
    /// The address asked for, or answered to.
    pub target: Ipv4Addr,
}

impl Arp {
    /// An announcement of the own address: sender and target address are the same (RFC 5227, section 3).
    pub fn is_gratuitous(&self) -> bool {
        self.sender == self.target && !self.sender.is_unspecified()
    }
}

impl<'a> Dissector<'a> {
    pub(super) fn ipv4(&mut self, bytes: &'a [u8]) {
        let Some(h) = bytes.first_chunk::<20>() else {
            return self.stop("IPv4", StopReason::Truncated, bytes);
        };
        let header_len = usize::from(h[0] & 15) * 4;
        if h[0] >> 4 != 4 || header_len < 20 {
            return self.stop("IPv4", StopReason::Malformed("version or header length"), bytes);
        }
        let available = self.wire_left(bytes);
        let declared = usize::from(u16::from_be_bytes([h[2], h[3]]));
        // Segmentation offload leaves the length 0 for packets over 64 KiB (skb "BIG TCP"); a length shorter than the header is nonsense.
        let total = if declared == 0 { available } else { declared };
        if total < header_len {
            return self.stop("IPv4", StopReason::Malformed("total length shorter than the header"), bytes);
        }
        let flags = u16::from_be_bytes([h[6], h[7]]);
        let (offset, more) = (u32::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
        let ip = Ip {
            src: IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
            dst: IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19])),
            ttl: h[8],
            tos: h[1],
            protocol: h[9],
            id: u32::from(u16::from_be_bytes([h[4], h[5]])),
            dont_fragment: flags & 0x4000 != 0,
            fragment: (offset != 0 || more).then_some(Fragment { offset, more }),
            total_len: total as u32,
            header_len: header_len as u16,
        };
        self.packet.network = Network::Ip(ip);
        let end = total.min(bytes.len());
        let Some(payload) = bytes.get(header_len..end) else {
            return self.stop("IPv4 options", StopReason::Truncated, bytes);
        };
        self.above_ip(ip, payload, total - header_len);
    }

    pub(super) fn ipv6(&mut self, bytes: &'a [u8]) {
        let Some((h, rest)) = bytes.split_first_chunk::<40>() else {
            return self.stop("IPv6", StopReason::Truncated, bytes);
        };
        if h[0] >> 4 != 6 {
            return self.stop("IPv6", StopReason::Malformed("version"), bytes);
        }
        let declared = usize::from(u16::from_be_bytes([h[4], h[5]]));
        // 0 with a jumbogram option, or left so by segmentation offload.
        let payload_len = if declared == 0 { self.wire_left(rest) } else { declared };
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&h[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        let mut ip = Ip {
            src: address(8),
            dst: address(24),
            ttl: h[7],
            tos: (u16::from_be_bytes([h[0], h[1]]) >> 4) as u8,
            protocol: h[6],
            id: 0,
            dont_fragment: true,
            fragment: None,
            total_len: (40 + payload_len) as u32,
            header_len: 40,
        };
        let payload = &rest[..payload_len.min(rest.len())];
        if matches!(ip.protocol, TCP | UDP | ICMPV6) {
            self.packet.network = Network::Ip(ip);
            return self.above_ip(ip, payload, payload_len);
        }
        let (extensions, next, after, stopped) =
            etherparse::Ipv6ExtensionsSlice::from_slice_lax(etherparse::IpNumber(ip.protocol), payload);
        // etherparse's iterator (0.21) trusts the last header's word for what comes next, and reads on behind the slice when the lax reader
        // stopped there: it is asked for no more than there is.
        let (mut left, mut walk) = (extensions.slice().len(), extensions.into_iter());
        while left > 0
            && let Some(extension) = walk.next()
        {
            use etherparse::Ipv6ExtensionSlice as Extension;
            left = left.saturating_sub(match &extension {
                Extension::HopByHop(header) | Extension::Routing(header) | Extension::DestinationOptions(header) => header.slice().len(),
                Extension::Fragment(header) => header.slice().len(),
                Extension::Authentication(header) => header.slice().len(),
            });
            if let Extension::Fragment(part) = extension {
                ip.id = part.identification();
                ip.fragment = Some(Fragment { offset: u32::from(part.fragment_offset().byte_offset()), more: part.more_fragments() });
            }
        }
        let skipped = payload.len() - after.len();
        ip.protocol = next.0;
        ip.header_len = (40 + skipped) as u16;
        self.packet.network = Network::Ip(ip);
        if stopped.is_some() {
            let reason = if payload.len() < payload_len { StopReason::Truncated } else { StopReason::Malformed("extension header") };
            return self.stop("IPv6 extension", reason, after);
        }
        self.above_ip(ip, after, payload_len - skipped);
    }

    /// What an IP header carries; `len` is the length of it all on the wire, `bytes` what was captured of it.
    fn above_ip(&mut self, ip: Ip, bytes: &'a [u8], len: usize) {
        if ip.fragment.is_some_and(|part| part.offset > 0) {
            return self.opaque(bytes, len);
        }
        match ip.protocol {
            TCP => self.tcp(bytes, len),
            UDP => self.udp(bytes, len),
            ICMP => self.icmp(bytes, len),
            ICMPV6 => self.icmp6(bytes, len),
            IPIP if bytes.first().is_none_or(|b| b >> 4 == 4) => self.encapsulated(TunnelKind::IpIp, ip, bytes),
            IPV6 => self.encapsulated(TunnelKind::IpIp, ip, bytes),
            GRE => self.gre(ip, bytes, len),
            SCTP => self.sctp(bytes, len),
            VRRP => self.vrrp(ip, bytes, len),
            _ => self.opaque(bytes, len),
        }
    }

    pub(super) fn arp(&mut self, bytes: &'a [u8]) {
        let Some(h) = bytes.first_chunk::<28>() else {
            return self.stop("ARP", StopReason::Truncated, bytes);
        };
        if h[..6] != [0, 1, 8, 0, 6, 4] {
            return self.stop("ARP", StopReason::Malformed("not IPv4 over Ethernet"), bytes);
        }
        let mac = |at: usize| MacAddr([h[at], h[at + 1], h[at + 2], h[at + 3], h[at + 4], h[at + 5]]);
        let ip = |at: usize| Ipv4Addr::new(h[at], h[at + 1], h[at + 2], h[at + 3]);
        self.packet.network = Network::Arp(Arp {
            operation: u16::from_be_bytes([h[6], h[7]]),
            sender_mac: mac(8),
            sender: ip(14),
            target_mac: mac(18),
            target: ip(24),
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::packet::{Frame, LinkType, StopReason, dissect};

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
        bytes.extend([0x20, 1, 0xd, 0xb8].repeat(8));
        bytes.extend(payload);
        bytes
    }

    /// An extension header that promises another one, which is not there or may not stand there. In a debug build an access behind the
    /// end is noticed.
    #[test]
    fn extension_headers_that_promise_too_much() {
        let header = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let fragment = [60, 0, 0, 8, 0, 0, 0, 9];
        for (next, payload, id) in [
            (0, header(0).to_vec(), 0),
            (60, header(43).to_vec(), 0),
            (60, header(51).to_vec(), 0),
            (60, [header(44), header(0)].concat()[..12].to_vec(), 0),
            (44, fragment.to_vec(), 9),
            (44, [fragment, header(0)].concat(), 9),
        ] {
            let bytes = ipv6(next, &payload);
            let packet = dissect(&Frame::whole(LinkType::RAW, &bytes));
            let stop = packet.stop.map(|stop| (stop.layer, stop.reason));
            assert_eq!(stop, Some(("IPv6 extension", StopReason::Malformed("extension header"))), "{next} {payload:?}");
            assert_eq!(packet.ip().map(|ip| ip.id), Some(id), "{next} {payload:?}");
        }
    }
}
