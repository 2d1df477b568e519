//! Where the headers of an IP packet stand.

use crate::net::Endpoint;
use crate::packet::checksum::{checksum, fold, sum};
use crate::packet::ip::{SCTP, TCP, UDP};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which end of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Where the headers of an IP packet stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpHeader {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The protocol above, past IPv6 extension headers.
    pub protocol: u8,
    /// Where that protocol's header begins.
    pub transport: usize,
    /// Length of the packet; what follows is padding.
    pub total: usize,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// IPv4 identification, or that of an IPv6 fragment header.
    pub id: u32,
    /// IPv4 DF.
    pub dont_fragment: bool,
    /// Offset in bytes, and whether more fragments follow; of fragments only.
    pub fragment: Option<(usize, bool)>,
    /// Where the IPv6 fragment header stands.
    pub(super) fragment_at: Option<usize>,
    /// Where the number of the header behind it stands.
    pub(super) next_at: usize,
}

impl IpHeader {
    /// Reads the headers; `None` when they are not whole, or contradict the number of bytes.
    pub fn read(bytes: &[u8]) -> Option<IpHeader> {
        match bytes.first()? >> 4 {
            4 => Self::v4(bytes),
            6 => Self::v6(bytes),
            _ => None,
        }
    }

    fn v4(bytes: &[u8]) -> Option<IpHeader> {
        let h = bytes.first_chunk::<20>()?;
        let (transport, total) = (usize::from(h[0] & 15) * 4, usize::from(u16::from_be_bytes([h[2], h[3]])));
        if transport < 20 || total < transport || bytes.len() < total {
            return None;
        }
        let flags = u16::from_be_bytes([h[6], h[7]]);
        let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
        Some(IpHeader {
            src: IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
            dst: IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19])),
            protocol: h[9],
            transport,
            total,
            ttl: h[8],
            tos: h[1],
            id: u32::from(u16::from_be_bytes([h[4], h[5]])),
            dont_fragment: flags & 0x4000 != 0,
            fragment: (offset != 0 || more).then_some((offset, more)),
            fragment_at: None,
            next_at: 9,
        })
    }

    fn v6(bytes: &[u8]) -> Option<IpHeader> {
        let h = bytes.first_chunk::<40>()?;
        let total = 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
        if bytes.len() < total {
            return None;
        }
        let address = |at: usize| h[at..at + 16].first_chunk().map(|a: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*a)));
        let mut header = IpHeader {
            src: address(8)?,
            dst: address(24)?,
            protocol: h[6],
            transport: 40,
            total,
            ttl: h[7],
            tos: h[0] << 4 | h[1] >> 4,
            id: 0,
            dont_fragment: true,
            fragment: None,
            fragment_at: None,
            next_at: 6,
        };
        // Hop-by-hop, routing, fragment, authentication, destination options.
        while matches!(header.protocol, 0 | 43 | 44 | 51 | 60) {
            let at = header.transport;
            let e = bytes.get(..total)?.get(at..at + 8)?;
            let len = match header.protocol {
                44 => 8,
                51 => (usize::from(e[1]) + 2) * 4,
                _ => (usize::from(e[1]) + 1) * 8,
            };
            if header.protocol == 44 {
                let word = u16::from_be_bytes([e[2], e[3]]);
                let (offset, more) = (usize::from(word & !7), word & 1 != 0);
                header.id = u32::from_be_bytes([e[4], e[5], e[6], e[7]]);
                header.fragment = (offset != 0 || more).then_some((offset, more));
                header.fragment_at = Some(at);
            }
            (header.next_at, header.protocol, header.transport) = (at, e[0], at + len);
            if header.transport > total {
                return None;
            }
            // What follows the header of a later fragment is no header.
            if header.fragment.is_some_and(|(offset, _)| offset != 0) {
                break;
            }
        }
        Some(header)
    }

    /// True for IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.src.is_ipv6()
    }

    /// The transport header and what follows.
    pub fn segment<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(self.transport..self.total).unwrap_or_default()
    }

    /// Source and destination with their ports; `None` for a later fragment, and where the transport has none.
    pub fn endpoints(&self, bytes: &[u8]) -> Option<(Endpoint, Endpoint)> {
        if !matches!(self.protocol, TCP | UDP | SCTP) || self.fragment.is_some_and(|(offset, _)| offset != 0) {
            return None;
        }
        let [a, b, c, d] = *self.segment(bytes).first_chunk::<4>()?;
        Some((Endpoint::new(self.src, u16::from_be_bytes([a, b])), Endpoint::new(self.dst, u16::from_be_bytes([c, d]))))
    }
}

/// True when the header checksum of an IPv4 packet is right; IPv6 has none.
pub fn header_checksum_is_good(bytes: &[u8], header: &IpHeader) -> bool {
    header.is_ipv6() || fold(sum(0, &bytes[..header.transport])) == 0xffff
}

/// Writes the checksum of an IPv4 header anew (the kernel's `ip_send_check`).
pub(super) fn seal(bytes: &mut [u8]) {
    let len = usize::from(bytes[0] & 15) * 4;
    if bytes[0] >> 4 == 4 && len >= 20 && bytes.len() >= len {
        bytes[10..12].fill(0);
        let sum = checksum(&bytes[..len]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}
