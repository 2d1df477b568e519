//! ICMP, ICMPv6, and the packets that their errors quote.

use super::dissect::{Dissector, Packet, StopReason};
use super::transport::Transport;
use crate::net::MacAddr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An ICMP or ICMPv6 message.
#[derive(Clone, PartialEq, Debug)]
pub struct Icmp<'a> {
    /// What it says.
    pub kind: IcmpKind,
    /// Type number.
    pub type_number: u8,
    /// Code number.
    pub code: u8,
    /// The beginning of the packet that an error is about.
    pub quoted: Option<Box<Packet<'a>>>,
}

/// What an ICMP or ICMPv6 message says, in the words of RFC 792, RFC 4443 and RFC 4861.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpKind {
    /// Echo request or reply with identifier and sequence number.
    Echo {
        /// Reply, not request.
        reply: bool,
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
    },
    /// Destination unreachable; the code says why.
    Unreachable,
    /// Fragmentation needed, or packet too big, with the MTU of the next hop in bytes (0 from very old routers).
    TooBig {
        /// MTU in bytes.
        mtu: u32,
    },
    /// Time exceeded.
    TimeExceeded,
    /// A better first hop for a destination.
    Redirect {
        /// The router to use; for IPv6 the target, which is the destination itself when it is on the link.
        gateway: IpAddr,
    },
    /// Neighbour solicitation.
    Solicitation(Neighbour),
    /// Neighbour advertisement.
    Advertisement(Neighbour),
    /// Anything else.
    Other,
}

/// A neighbour solicitation or advertisement, RFC 4861, sections 4.3 and 4.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// The address asked for, or claimed.
    pub target: Ipv6Addr,
    /// The link-layer address in its option.
    pub mac: Option<MacAddr>,
    /// The override bit of an advertisement.
    pub overrides: bool,
}

impl Icmp<'_> {
    /// True for messages about another packet.
    pub fn is_error(&self) -> bool {
        matches!(self.kind, IcmpKind::Unreachable | IcmpKind::TooBig { .. } | IcmpKind::TimeExceeded | IcmpKind::Redirect { .. })
    }

    /// Identifier and sequence number of an echo.
    pub fn echo(&self) -> Option<(u16, u16)> {
        match self.kind {
            IcmpKind::Echo { id, seq, .. } => Some((id, seq)),
            _ => None,
        }
    }
}

impl fmt::Display for Icmp<'_> {
    /// The words that tcpdump uses; an error's words go on with what it quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            IcmpKind::Echo { reply, id, seq } => write!(f, "echo {}, id {id}, seq {seq}", if reply { "reply" } else { "request" }),
            IcmpKind::TooBig { mtu } => write!(f, "unreachable - need to frag (mtu {mtu})"),
            IcmpKind::TimeExceeded if self.code == 1 => f.write_str("ip reassembly time exceeded"),
            IcmpKind::TimeExceeded => f.write_str("time exceeded in-transit"),
            IcmpKind::Redirect { gateway } => write!(f, "redirect to {gateway}"),
            IcmpKind::Solicitation(n) => write!(f, "neighbor solicitation, who has {}", n.target),
            IcmpKind::Advertisement(n) => write!(f, "neighbor advertisement, tgt is {}", n.target),
            IcmpKind::Unreachable => write!(f, "unreachable - {}", self.unreachable_word()),
            IcmpKind::Other => write!(f, "type-{} code-{}", self.type_number, self.code),
        }
    }
}

impl Icmp<'_> {
    /// The reason of a destination-unreachable message in one or two words.
    pub fn unreachable_word(&self) -> String {
        match (self.type_number, self.code) {
            (3, 0) => "net".to_string(),
            (3, 1) | (1, 3) => "host".to_string(),
            (3, 2) => "protocol".to_string(),
            (3, 3) | (1, 4) => "port".to_string(),
            (3, 5) => "source route failed".to_string(),
            (3, 9 | 10 | 13) | (1, 1) => "admin prohibited".to_string(),
            (1, 0) => "no route".to_string(),
            (_, code) => format!("code {code}"),
        }
    }
}

impl<'a> Dissector<'a> {
    pub(super) fn icmp(&mut self, bytes: &'a [u8], len: usize) {
        self.opaque(bytes, len);
        let Some((&[type_number, code, _, _, a, b, c, d], rest)) = bytes.split_first_chunk::<8>() else {
            return self.stop("ICMP", StopReason::Truncated, bytes);
        };
        let kind = match (type_number, code) {
            (0 | 8, _) => IcmpKind::Echo { reply: type_number == 0, id: u16::from_be_bytes([a, b]), seq: u16::from_be_bytes([c, d]) },
            (3, 4) => IcmpKind::TooBig { mtu: u32::from(u16::from_be_bytes([c, d])) },
            (3, _) => IcmpKind::Unreachable,
            (11, _) => IcmpKind::TimeExceeded,
            (5, _) => IcmpKind::Redirect { gateway: Ipv4Addr::new(a, b, c, d).into() },
            _ => IcmpKind::Other,
        };
        self.icmp_message(kind, type_number, code, rest, len.saturating_sub(8));
    }

    pub(super) fn icmp6(&mut self, bytes: &'a [u8], len: usize) {
        self.opaque(bytes, len);
        let Some((&[type_number, code, _, _, a, b, c, d], rest)) = bytes.split_first_chunk::<8>() else {
            return self.stop("ICMPv6", StopReason::Truncated, bytes);
        };
        let kind = match type_number {
            128 | 129 => IcmpKind::Echo { reply: type_number == 129, id: u16::from_be_bytes([a, b]), seq: u16::from_be_bytes([c, d]) },
            1 => IcmpKind::Unreachable,
            2 => IcmpKind::TooBig { mtu: u32::from_be_bytes([a, b, c, d]) },
            3 => IcmpKind::TimeExceeded,
            135 | 136 => match rest.split_first_chunk::<16>() {
                Some((target, options)) => {
                    let (wanted, advertisement) = if type_number == 135 { (1, false) } else { (2, true) };
                    let n = Neighbour {
                        target: Ipv6Addr::from(*target),
                        mac: link_option(options, wanted),
                        overrides: advertisement && a & 0x20 != 0,
                    };
                    if advertisement { IcmpKind::Advertisement(n) } else { IcmpKind::Solicitation(n) }
                }
                None => {
                    self.stop("ICMPv6", StopReason::Truncated, bytes);
                    IcmpKind::Other
                }
            },
            137 => rest.first_chunk::<16>().map_or(IcmpKind::Other, |t| IcmpKind::Redirect { gateway: Ipv6Addr::from(*t).into() }),
            _ => IcmpKind::Other,
        };
        // A redirect quotes in an option of its own; what it is about stands in its destination field, which nobody here needs.
        let rest = if type_number == 137 { &rest[rest.len()..] } else { rest };
        self.icmp_message(kind, type_number, code, rest, len.saturating_sub(8));
    }

    fn icmp_message(&mut self, kind: IcmpKind, type_number: u8, code: u8, rest: &'a [u8], len: usize) {
        let mut icmp = Icmp { kind, type_number, code, quoted: None };
        if icmp.is_error() {
            icmp.quoted = self.quoted(rest);
        }
        self.packet.transport = Transport::Icmp(icmp);
        self.packet.payload = rest;
        self.packet.payload_len = len as u32;
    }
}

/// The first option of the wanted type: 1 source, 2 target link-layer address (RFC 4861, section 4.6.1); lengths count 8 bytes.
fn link_option(mut options: &[u8], wanted: u8) -> Option<MacAddr> {
    while let [kind, len, rest @ ..] = options {
        if *kind == wanted {
            return rest.first_chunk::<6>().map(|mac| MacAddr(*mac));
        }
        options = options.get(usize::from(*len).max(1) * 8..)?;
    }
    None
}
