//! A frame as captured.

use crate::net::Timestamp;
use std::fmt;

/// A link-layer header type: a LINKTYPE_ number of the tcpdump.org registry, as found in capture files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: a 4-byte address family in the byte order of the capturing host.
    pub const NULL: LinkType = LinkType(0);
    /// Ethernet.
    pub const ETHERNET: LinkType = LinkType(1);
    /// PPP, RFC 1661.
    pub const PPP: LinkType = LinkType(9);
    /// Raw IP: DLT_RAW as some systems wrote it into files (12 and 14 besides the registered 101).
    pub const RAW_BSD: LinkType = LinkType(12);
    /// Raw IP, OpenBSD's number.
    pub const RAW_OPENBSD: LinkType = LinkType(14);
    /// Raw IPv4 or IPv6.
    pub const RAW: LinkType = LinkType(101);
    /// OpenBSD loopback: a 4-byte address family in network byte order.
    pub const LOOP: LinkType = LinkType(108);
    /// Linux cooked capture, version 1 (`tcpdump -i any`): no destination address.
    pub const LINUX_SLL: LinkType = LinkType(113);
    /// PPP with a Cisco-like HDLC header (also what pppd's captures use).
    pub const PPP_HDLC: LinkType = LinkType(50);
    /// Raw IPv4.
    pub const IPV4: LinkType = LinkType(228);
    /// Raw IPv6.
    pub const IPV6: LinkType = LinkType(229);
    /// Linux cooked capture, version 2: with the interface index.
    pub const LINUX_SLL2: LinkType = LinkType(276);

    /// True when [`super::dissect`] knows the header.
    pub fn is_supported(self) -> bool {
        matches!(self.0, 0 | 1 | 9 | 12 | 14 | 50 | 101 | 108 | 113 | 228 | 229 | 276)
    }
}

impl fmt::Display for LinkType {
    /// The name of the registry without LINKTYPE_, as `tcpdump` and `capinfos` say it; else the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "NULL",
            1 => "EN10MB",
            9 => "PPP",
            12 | 14 | 101 => "RAW",
            50 => "PPP_HDLC",
            105 => "IEEE802_11",
            108 => "LOOP",
            113 => "LINUX_SLL",
            127 => "IEEE802_11_RADIO",
            189 => "USB_LINUX",
            220 => "USB_LINUX_MMAPPED",
            228 => "IPV4",
            229 => "IPV6",
            239 => "NFLOG",
            253 => "NETLINK",
            276 => "LINUX_SLL2",
            other => return f.pad(&other.to_string()),
        };
        f.pad(name)
    }
}

/// Which way a frame went, as the capturing host said (cooked headers, `epb_flags`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Heading {
    /// Addressed to the capturing host, or to a group it belongs to.
    In,
    /// Sent by the capturing host.
    Out,
    /// For another host, seen because the interface was promiscuous.
    OtherHost,
}

/// One packet of a capture, before anything is understood. Borrowed from the reader's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The bytes that were kept, without a trailing frame check sequence.
    pub bytes: &'a [u8],
    /// How long it was on the wire, in bytes.
    pub wire_len: u32,
    /// What the bytes begin with.
    pub link_type: LinkType,
    /// When it was captured.
    pub time: Timestamp,
    /// Its number in its file, from 1, as Wireshark counts.
    pub number: u64,
    /// The number of its interface in its file, from 0.
    pub interface: u32,
    /// Which way it went, where the file says so.
    pub heading: Option<Heading>,
}

impl<'a> Frame<'a> {
    /// A frame of which nothing is missing, and that no capture told anything else of.
    pub fn whole(link_type: LinkType, bytes: &'a [u8]) -> Self {
        Frame { bytes, wire_len: bytes.len() as u32, link_type, time: Timestamp(0), number: 1, interface: 0, heading: None }
    }
}
