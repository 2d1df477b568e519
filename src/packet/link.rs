//! Link-layer headers: Ethernet with VLAN tags, cooked captures, raw IP, loopback, PPP.

use super::dissect::{Dissector, StopReason};
use super::frame::{Heading, LinkType};
use crate::net::MacAddr;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const ARP: u16 = 0x0806;
/// An 802.3 length instead of an EtherType: LLC follows.
const FIRST_ETHER_TYPE: u16 = 0x0600;

/// The link-layer header of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Source MAC; `None` where the link type has none, or where it is not an Ethernet address.
    pub src: Option<MacAddr>,
    /// Destination MAC; cooked headers never have one.
    pub dst: Option<MacAddr>,
    /// 802.1Q and 802.1ad tags, outermost first.
    pub vlans: Vlans,
    /// Interface index of the capturing host (LINUX_SLL2).
    pub interface: Option<u32>,
    /// Which way it went, as a cooked header says.
    pub heading: Option<Heading>,
    /// EtherType of what follows; 0 where there is none.
    pub ether_type: u16,
}

/// Up to four VLAN identifiers, outermost first; a fifth and later tags are read but not kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Vlans {
    ids: [u16; 4],
    count: u8,
}

impl Vlans {
    /// The identifiers (12 bits each), outermost first.
    pub fn ids(&self) -> &[u16] {
        &self.ids[..usize::from(self.count)]
    }

    /// Adds an inner tag; a fifth is not kept.
    pub fn push(&mut self, id: u16) {
        if let Some(slot) = self.ids.get_mut(usize::from(self.count)) {
            *slot = id & 0x0fff;
            self.count += 1;
        }
    }

    /// All of it in one word, for hashing.
    pub fn as_bits(&self) -> u64 {
        self.ids.iter().fold(u64::from(self.count), |bits, id| bits << 12 | u64::from(*id))
    }
}

impl<'a> Dissector<'a> {
    pub(super) fn link_layer(&mut self, link_type: LinkType, bytes: &'a [u8]) {
        match link_type {
            LinkType::ETHERNET => {
                if let Some((link, rest)) = self.ethernet(bytes) {
                    let ether_type = link.ether_type;
                    self.packet.link = link;
                    self.by_ether_type(ether_type, rest);
                }
            }
            LinkType::LINUX_SLL => self.cooked(bytes),
            LinkType::LINUX_SLL2 => self.cooked_v2(bytes),
            LinkType::RAW | LinkType::RAW_BSD | LinkType::RAW_OPENBSD | LinkType::IPV4 | LinkType::IPV6 => self.raw(bytes),
            LinkType::NULL | LinkType::LOOP => self.loopback(link_type, bytes),
            LinkType::PPP | LinkType::PPP_HDLC => self.ppp(bytes),
            other => self.stop("link", StopReason::Unsupported(other.0.into()), bytes),
        }
    }

    /// Ethernet II and its VLAN tags; what follows, and the EtherType in the header returned.
    pub(super) fn ethernet(&mut self, bytes: &'a [u8]) -> Option<(Link, &'a [u8])> {
        let Some((header, mut rest)) = bytes.split_first_chunk::<14>() else {
            self.stop("Ethernet", StopReason::Truncated, bytes);
            return None;
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let mut link = Link {
            src: Some(MacAddr([s0, s1, s2, s3, s4, s5])),
            dst: Some(MacAddr([d0, d1, d2, d3, d4, d5])),
            ether_type: u16::from_be_bytes([t0, t1]),
            ..Link::default()
        };
        while matches!(link.ether_type, 0x8100 | 0x88a8 | 0x9100 | 0x9200) {
            let Some(([a, b, t0, t1], inner)) = rest.split_first_chunk::<4>() else {
                self.stop("VLAN", StopReason::Truncated, rest);
                return Some((Link { ether_type: 0, ..link }, &[]));
            };
            link.vlans.push(u16::from_be_bytes([*a, *b]));
            link.ether_type = u16::from_be_bytes([*t0, *t1]);
            rest = inner;
        }
        Some((link, rest))
    }

    /// <https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html>: 16 bytes.
    fn cooked(&mut self, bytes: &'a [u8]) {
        let Some((h, rest)) = bytes.split_first_chunk::<16>() else {
            return self.stop("Linux cooked", StopReason::Truncated, bytes);
        };
        let protocol = u16::from_be_bytes([h[14], h[15]]);
        self.packet.link = Link {
            src: cooked_address(u16::from_be_bytes([h[2], h[3]]), u16::from_be_bytes([h[4], h[5]]), &h[6..14]),
            heading: cooked_heading(u16::from_be_bytes([h[0], h[1]])),
            ether_type: protocol,
            ..Link::default()
        };
        self.cooked_payload(protocol, rest);
    }

    /// <https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html>: 20 bytes.
    fn cooked_v2(&mut self, bytes: &'a [u8]) {
        let Some((h, rest)) = bytes.split_first_chunk::<20>() else {
            return self.stop("Linux cooked v2", StopReason::Truncated, bytes);
        };
        let protocol = u16::from_be_bytes([h[0], h[1]]);
        self.packet.link = Link {
            src: cooked_address(u16::from_be_bytes([h[8], h[9]]), u16::from(h[11]), &h[12..20]),
            interface: Some(u32::from_be_bytes([h[4], h[5], h[6], h[7]])),
            heading: cooked_heading(u16::from(h[10])),
            ether_type: protocol,
            ..Link::default()
        };
        self.cooked_payload(protocol, rest);
    }

    /// Cooked headers carry VLAN tags after the protocol field as Ethernet does.
    fn cooked_payload(&mut self, mut protocol: u16, mut rest: &'a [u8]) {
        while matches!(protocol, 0x8100 | 0x88a8) {
            let Some(([a, b, t0, t1], inner)) = rest.split_first_chunk::<4>() else {
                return self.stop("VLAN", StopReason::Truncated, rest);
            };
            self.packet.link.vlans.push(u16::from_be_bytes([*a, *b]));
            protocol = u16::from_be_bytes([*t0, *t1]);
            self.packet.link.ether_type = protocol;
            rest = inner;
        }
        self.by_ether_type(protocol, rest);
    }

    fn raw(&mut self, bytes: &'a [u8]) {
        match bytes.first().map(|b| b >> 4) {
            Some(4) => self.by_ether_type(IPV4, bytes),
            Some(6) => self.by_ether_type(IPV6, bytes),
            Some(version) => self.stop("IP", StopReason::Unsupported(version.into()), bytes),
            None => self.stop("IP", StopReason::Truncated, bytes),
        }
    }

    /// The family number differs between systems: 2 is AF_INET everywhere; AF_INET6 is 10 on Linux, 24, 28 or 30 on the BSDs and macOS.
    /// NULL is in the byte order of the capturing host, LOOP in network byte order; both orders are tried.
    fn loopback(&mut self, link_type: LinkType, bytes: &'a [u8]) {
        let Some((family, rest)) = bytes.split_first_chunk::<4>() else {
            return self.stop("loopback", StopReason::Truncated, bytes);
        };
        let big = u32::from_be_bytes(*family);
        let family = if link_type == LinkType::LOOP || big < 0x1_0000 { big } else { big.swap_bytes() };
        match family {
            2 => self.by_ether_type(IPV4, rest),
            10 | 24 | 28 | 30 => self.by_ether_type(IPV6, rest),
            other => self.stop("loopback", StopReason::Unsupported(other), bytes),
        }
    }

    /// RFC 1661/1662: an optional address and control field (ff 03; Cisco HDLC 0f 00), then a protocol of one or two bytes.
    fn ppp(&mut self, bytes: &'a [u8]) {
        let (rest, cisco) = match bytes {
            [0xff, 0x03, rest @ ..] => (rest, false),
            [0x0f | 0x8f, 0x00, rest @ ..] => (rest, true),
            _ => (bytes, false),
        };
        let (protocol, rest) = match rest {
            [odd, rest @ ..] if odd & 1 == 1 && !cisco => (u16::from(*odd), rest),
            [a, b, rest @ ..] => (u16::from_be_bytes([*a, *b]), rest),
            _ => return self.stop("PPP", StopReason::Truncated, bytes),
        };
        match protocol {
            0x0021 => self.by_ether_type(IPV4, rest),
            0x0057 => self.by_ether_type(IPV6, rest),
            IPV4 | IPV6 if cisco => self.by_ether_type(protocol, rest),
            other => self.stop("PPP", StopReason::Unsupported(other.into()), rest),
        }
    }

    pub(super) fn by_ether_type(&mut self, ether_type: u16, rest: &'a [u8]) {
        match ether_type {
            IPV4 => self.ipv4(rest),
            IPV6 => self.ipv6(rest),
            ARP => self.arp(rest),
            0 => {}
            llc if llc < FIRST_ETHER_TYPE => self.stop("802.3", StopReason::Unsupported(llc.into()), rest),
            other => self.stop("link", StopReason::Unsupported(other.into()), rest),
        }
    }
}

/// Only hardware types with Ethernet addresses count: ARPHRD_ETHER 1, ARPHRD_LOOPBACK 772 (if_arp.h).
fn cooked_address(hardware: u16, len: u16, field: &[u8]) -> Option<MacAddr> {
    let bytes = field.first_chunk::<6>()?;
    (len == 6 && matches!(hardware, 1 | 772)).then_some(MacAddr(*bytes))
}

/// PACKET_HOST 0, PACKET_BROADCAST 1, PACKET_MULTICAST 2, PACKET_OTHERHOST 3, PACKET_OUTGOING 4 (if_packet.h).
fn cooked_heading(packet_type: u16) -> Option<Heading> {
    match packet_type {
        0..=2 => Some(Heading::In),
        3 => Some(Heading::OtherHost),
        4 => Some(Heading::Out),
        _ => None,
    }
}
