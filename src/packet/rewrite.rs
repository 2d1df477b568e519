//! Changing packets in place, as a router, a NAT or a tunnel does: addresses, ports, TTL, outer headers, fragments, ICMP errors.
//!
//! [`super::dissect`] reads for people; this reads just what has to be changed, and where it stands. Everything here takes an IP packet
//! without its link header.

use super::build::{self, IpFields};
use super::checksum::{adjust, checksum, fold, pseudo_sum, sum};
use super::ip::{ICMP, ICMPV6, SCTP, TCP, UDP};
use crate::net::Endpoint;
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
    fragment_at: Option<usize>,
    /// Where the number of the header behind it stands.
    next_at: usize,
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
fn seal(bytes: &mut [u8]) {
    let len = usize::from(bytes[0] & 15) * 4;
    if bytes[0] >> 4 == 4 && len >= 20 && bytes.len() >= len {
        bytes[10..12].fill(0);
        let sum = checksum(&bytes[..len]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Where an address stands.
fn address_at(header: &IpHeader, side: Side) -> std::ops::Range<usize> {
    match (header.is_ipv6(), side) {
        (false, Side::Source) => 12..16,
        (false, Side::Destination) => 16..20,
        (true, Side::Source) => 8..24,
        (true, Side::Destination) => 24..40,
    }
}

/// Replaces an address and leaves every transport checksum alone. Nothing happens when the families differ.
fn put_address(bytes: &mut [u8], header: &IpHeader, side: Side, addr: IpAddr) {
    match addr {
        IpAddr::V4(a) if !header.is_ipv6() => bytes[address_at(header, side)].copy_from_slice(&a.octets()),
        IpAddr::V6(a) if header.is_ipv6() => bytes[address_at(header, side)].copy_from_slice(&a.octets()),
        _ => {}
    }
}

/// Replaces one end of a packet, address and port, and mends its checksums without reading the payload (RFC 1624). `partial` says that the
/// transport checksum is but the sum of the pseudo-header, which the network card completes: then the sum changes with the addresses,
/// with the opposite sign, and not with the ports. An SCTP checksum is computed anew.
pub fn translate(bytes: &mut [u8], header: &IpHeader, side: Side, to: Endpoint, partial: bool) {
    if to.addr.is_ipv6() != header.is_ipv6() {
        return;
    }
    let address = address_at(header, side);
    let old_address = sum(0, &bytes[address.clone()]);
    put_address(bytes, header, side, to.addr);
    let new_address = sum(0, &bytes[address]);
    seal(bytes);
    let later = header.fragment.is_some_and(|(offset, _)| offset != 0);
    let (checksum_at, len) = match header.protocol {
        TCP => (16, 20),
        UDP => (6, 8),
        SCTP => (8, 12),
        _ => return,
    };
    let total = header.total.min(bytes.len());
    if later || total < header.transport + 4 {
        return;
    }
    let segment = &mut bytes[header.transport..total];
    let port_at = if side == Side::Source { 0 } else { 2 };
    let old_port = u64::from(u16::from_be_bytes([segment[port_at], segment[port_at + 1]]));
    segment[port_at..port_at + 2].copy_from_slice(&to.port.to_be_bytes());
    if segment.len() < len {
        return;
    }
    if header.protocol == SCTP {
        // The checksum of SCTP covers no addresses.
        if old_port != u64::from(to.port) {
            segment[8..12].fill(0);
            let crc = crc32c(segment);
            segment[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        return;
    }
    let old = u16::from_be_bytes([segment[checksum_at], segment[checksum_at + 1]]);
    let new = if partial {
        fold(u64::from(old) + u64::from(!fold(old_address)) + new_address)
    } else if header.protocol == UDP && old == 0 {
        0
    } else {
        match adjust(old, old_address + old_port, new_address + u64::from(to.port)) {
            // In UDP a checksum of 0 says that there is none.
            0 if header.protocol == UDP => 0xffff,
            sum => sum,
        }
    };
    segment[checksum_at..checksum_at + 2].copy_from_slice(&new.to_be_bytes());
}

/// One hop less.
pub fn decrement_ttl(bytes: &mut [u8]) {
    let at = if bytes[0] >> 4 == 6 { 7 } else { 8 };
    bytes[at] = bytes[at].saturating_sub(1);
    seal(bytes);
}

/// CRC32c, the checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut value = at as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The packet that an ICMP error quotes, and where it begins in the error.
pub fn quoted(bytes: &[u8], header: &IpHeader) -> Option<(usize, IpHeader)> {
    let kind = *header.segment(bytes).first()?;
    let is_error = match header.protocol {
        // Unreachable, source quench, time exceeded: what IPVS handles.
        ICMP => matches!(kind, 3 | 4 | 11),
        ICMPV6 => kind < 128,
        _ => return None,
    };
    if !is_error || header.fragment.is_some() {
        return None;
    }
    let at = header.transport + 8;
    let inner = bytes.get(at..header.total)?;
    // The quotation is cut: its own length says more than is there.
    let mut whole = inner.to_vec();
    let claimed = match inner.first()? >> 4 {
        4 => usize::from(u16::from_be_bytes([*inner.get(2)?, *inner.get(3)?])),
        6 => 40 + usize::from(u16::from_be_bytes([*inner.get(4)?, *inner.get(5)?])),
        _ => return None,
    };
    whole.resize(claimed.max(inner.len()), 0);
    let quoted = IpHeader::read(&whole)?;
    // Ports have to be there.
    (quoted.transport + 4 <= inner.len()).then_some((at, quoted))
}

/// Translates an ICMP error and what it quotes (`ip_vs_nat_icmp`): of the error the end `side`, of the quotation, whose ends stand the
/// other way round, the other one.
pub fn translate_error(bytes: &mut [u8], header: &IpHeader, at: usize, inner: &IpHeader, side: Side, to: Endpoint) {
    put_address(bytes, header, side, to.addr);
    seal(bytes);
    let total = header.total.min(bytes.len());
    let other = if side == Side::Source { Side::Destination } else { Side::Source };
    let quotation = &mut bytes[at..total];
    put_address(quotation, inner, other, to.addr);
    seal(quotation);
    let port_at = inner.transport + if other == Side::Source { 0 } else { 2 };
    if matches!(inner.protocol, TCP | UDP | SCTP)
        && let Some(port) = quotation.get_mut(port_at..port_at + 2)
    {
        port.copy_from_slice(&to.port.to_be_bytes());
    }
    let source = if side == Side::Source { to.addr } else { header.src };
    let destination = if side == Side::Destination { to.addr } else { header.dst };
    let message = &mut bytes[header.transport..total];
    message[2..4].fill(0);
    let pseudo = if header.is_ipv6() { pseudo_sum(source, destination, ICMPV6, message.len() as u32) } else { 0 };
    let value = !fold(sum(pseudo, message));
    message[2..4].copy_from_slice(&value.to_be_bytes());
}

/// An ICMP error that a host makes (`icmp_send`, `icmpv6_send`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// Nobody serves this port: 3/3, or 1/4.
    PortUnreachable,
    /// The host does not answer: 3/1, or 1/3.
    HostUnreachable,
    /// The TTL ran out: 11/0, or 3/0.
    TimeExceeded,
    /// Too long for the way on, which takes this many bytes: 3/4, or 2/0.
    TooBig(u32),
}

/// The error that `from` sends to the source of `about`. `None` where none may be sent: about an ICMP error, a later fragment, a packet
/// to or from everyone.
pub fn icmp_error(kind: IcmpError, from: IpAddr, about: &[u8], id: u16) -> Option<Vec<u8>> {
    let header = IpHeader::read(about)?;
    let everyone = |addr: IpAddr| match addr {
        IpAddr::V4(a) => a.is_broadcast() || a.is_multicast() || a.is_unspecified(),
        IpAddr::V6(a) => a.is_multicast() || a.is_unspecified(),
    };
    let icmp = match header.protocol {
        ICMP => header.segment(about).first().is_none_or(|kind| !matches!(kind, 0 | 8 | 13..=18)),
        ICMPV6 => header.segment(about).first().is_none_or(|kind| *kind < 128),
        _ => false,
    };
    if icmp || everyone(header.src) || everyone(header.dst) || header.fragment.is_some_and(|(offset, _)| offset != 0) {
        return None;
    }
    let (type_number, code, rest) = match (kind, header.is_ipv6()) {
        (IcmpError::PortUnreachable, false) => (3, 3, 0),
        (IcmpError::PortUnreachable, true) => (1, 4, 0),
        (IcmpError::HostUnreachable, false) => (3, 1, 0),
        (IcmpError::HostUnreachable, true) => (1, 3, 0),
        (IcmpError::TimeExceeded, false) => (11, 0, 0),
        (IcmpError::TimeExceeded, true) => (3, 0, 0),
        (IcmpError::TooBig(mtu), false) => (3, 4, mtu & 0xffff),
        (IcmpError::TooBig(mtu), true) => (2, 0, mtu),
    };
    let (protocol, room) = if header.is_ipv6() { (ICMPV6, 1280 - 48) } else { (ICMP, 576 - 28) };
    let body = &about[..header.total.min(room)];
    let message = build::icmp(from, header.src, type_number, code, rest, body);
    let mut packet = build::ip(from, header.src, protocol, IpFields { ttl: 64, id, flags: 0 }, &message);
    if !header.is_ipv6() {
        // Precedence "internetwork control", and the type of service that was asked for.
        packet[1] = header.tos & 0x1e | 0xc0;
        seal(&mut packet);
    }
    Some(packet)
}

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

/// Cuts a packet into fragments of at most `mtu` bytes; one that fits stays as it is. `id` is for IPv6, where the source gives it.
pub fn fragment(packet: &[u8], mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let Some(header) = IpHeader::read(packet).filter(|h| h.total > mtu) else { return vec![packet.to_vec()] };
    let ipv6 = header.is_ipv6();
    // IPv6: what routers read stays in each fragment; here that is the fixed header alone.
    let kept = if ipv6 { 40 } else { header.transport };
    let room = mtu.saturating_sub(kept + if ipv6 { 8 } else { 0 }) & !7;
    if room == 0 {
        return Vec::new();
    }
    let body = &packet[kept..header.total];
    let (first_offset, last_more) = header.fragment.unwrap_or((0, false));
    let mut out = Vec::new();
    for (at, part) in body.chunks(room).enumerate() {
        let offset = first_offset + at * room;
        let more = last_more || at * room + part.len() < body.len();
        let mut bytes = packet[..kept].to_vec();
        if ipv6 {
            let word = offset as u16 & !7 | u16::from(more);
            let next = std::mem::replace(&mut bytes[6], 44);
            bytes.extend([next, 0]);
            bytes.extend(word.to_be_bytes());
            bytes.extend(id.to_be_bytes());
            bytes[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        } else {
            let word = (offset / 8) as u16 & 0x1fff | if more { 0x2000 } else { 0 } | if header.dont_fragment { 0x4000 } else { 0 };
            bytes[2..4].copy_from_slice(&((kept + part.len()) as u16).to_be_bytes());
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            seal(&mut bytes);
        }
        bytes.extend(part);
        out.push(bytes);
    }
    out
}

/// Bytes of the headers of a packet that can be cut into segments: TCP, or UDP.
fn head_len(packet: &[u8], header: &IpHeader) -> Option<usize> {
    let len = match header.protocol {
        TCP => usize::from(*packet.get(header.transport + 12)? >> 4) * 4,
        UDP => 8,
        _ => return None,
    };
    let least = if header.protocol == TCP { 20 } else { 8 };
    (header.fragment.is_none() && len >= least && header.transport + len <= header.total).then_some(header.transport + len)
}

/// The longest packet that [`segments`] makes.
pub fn segment_len(packet: &[u8], size: usize) -> usize {
    let cut = || {
        let header = IpHeader::read(packet).filter(|_| size > 0)?;
        Some(head_len(packet, &header)?.saturating_add(size).min(header.total))
    };
    cut().unwrap_or(packet.len())
}

/// Cuts a merged TCP or UDP packet into segments with `size` bytes of data each, every checksum in full: what a network card does (TSO, USO).
/// Anything else comes back as it is.
pub fn segments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let cut = || {
        let header = IpHeader::read(packet).filter(|_| size > 0)?;
        let data_at = head_len(packet, &header)?;
        let (head, data) = (packet.get(..data_at)?, packet.get(data_at..header.total)?);
        let t = header.transport;
        let seq = u32::from_be_bytes([head[t + 4], head[t + 5], head[t + 6], head[t + 7]]);
        let count = data.len().div_ceil(size).max(1);
        let mut out = Vec::with_capacity(count);
        for at in 0..count {
            let part = &data[at * size..data.len().min((at * size).saturating_add(size))];
            let mut bytes = head.to_vec();
            bytes.extend(part);
            if header.is_ipv6() {
                let len = (bytes.len() - 40) as u16;
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
            } else {
                let len = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[4..6].copy_from_slice(&(header.id as u16).wrapping_add(at as u16).to_be_bytes());
                seal(&mut bytes);
            }
            let sum_at = if header.protocol == TCP {
                bytes[t + 4..t + 8].copy_from_slice(&seq.wrapping_add((at * size) as u32).to_be_bytes());
                // FIN and PSH belong to the last segment, CWR to the first.
                let keep = if at + 1 == count { 0xff } else { !0x09 } & if at == 0 { 0xff } else { !0x80 };
                bytes[t + 13] &= keep;
                t + 16
            } else {
                let len = (bytes.len() - t) as u16;
                bytes[t + 4..t + 6].copy_from_slice(&len.to_be_bytes());
                t + 6
            };
            bytes[sum_at..sum_at + 2].fill(0);
            let pseudo = pseudo_sum(header.src, header.dst, header.protocol, (bytes.len() - t) as u32);
            let value = !fold(sum(pseudo, &bytes[t..]));
            // For UDP 0 is no checksum at all.
            let value = if value == 0 && header.protocol == UDP { 0xffff } else { value };
            bytes[sum_at..sum_at + 2].copy_from_slice(&value.to_be_bytes());
            out.push(bytes);
        }
        Some(out)
    };
    cut().unwrap_or_else(|| vec![packet.to_vec()])
}

/// A whole packet from the header of its first fragment and its payload put together.
pub fn reassembled(first: &[u8], header: &IpHeader, payload: &[u8], dont_fragment: bool) -> Option<Vec<u8>> {
    let mut bytes;
    if let Some(at) = header.fragment_at {
        bytes = first.get(..at)?.to_vec();
        // The header before the fragment header names what followed that.
        let before = before_fragment(first, at)?;
        bytes[before] = first[at];
        let len = u16::try_from(bytes.len() - 40 + payload.len()).ok()?;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
    } else {
        bytes = first.get(..header.transport)?.to_vec();
        let total = u16::try_from(bytes.len() + payload.len()).ok()?;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[6..8].copy_from_slice(&(if dont_fragment { 0x4000u16 } else { 0 }).to_be_bytes());
        seal(&mut bytes);
    }
    bytes.extend(payload);
    Some(bytes)
}

/// Where the number of the fragment header stands that begins at `at`.
fn before_fragment(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut number_at, mut next) = (6, 40);
    while next < at {
        let len = (usize::from(*bytes.get(next + 1)?) + 1) * 8;
        (number_at, next) = (next, next + len);
    }
    (next == at).then_some(number_at)
}

/// Where the payload of a fragment begins.
pub fn fragment_payload<'b>(bytes: &'b [u8], header: &IpHeader) -> &'b [u8] {
    let from = header.fragment_at.map_or(header.transport, |at| at + 8);
    bytes.get(from..header.total).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{ChecksumState, Frame, LinkType, Transport, checksum_state, dissect};
    use super::*;
    use crate::net::Timestamp;
    use crate::packet::build::TcpFields;
    use proptest::prelude::*;

    fn state(packet: &[u8]) -> ChecksumState {
        checksum_state(&dissect(&frame(packet)))
    }

    fn frame(packet: &[u8]) -> Frame<'_> {
        Frame {
            bytes: packet,
            wire_len: packet.len() as u32,
            link_type: LinkType::RAW,
            time: Timestamp::default(),
            number: 1,
            interface: 0,
            heading: None,
        }
    }

    fn endpoint() -> impl Strategy<Value = (Endpoint, Endpoint, Endpoint)> {
        let v4 = any::<([u8; 4], u16)>().prop_map(|(a, p)| Endpoint::new(IpAddr::from(a), p));
        let v6 = any::<([u8; 16], u16)>().prop_map(|(a, p)| Endpoint::new(IpAddr::from(a), p));
        prop_oneof![(v4.clone(), v4.clone(), v4), (v6.clone(), v6.clone(), v6)]
    }

    fn packet((src, dst): (Endpoint, Endpoint), tcp: bool, payload: &[u8]) -> Vec<u8> {
        let segment = if tcp { build::tcp(src, dst, &TcpFields::default(), payload) } else { build::udp(src, dst, payload) };
        build::ip(src.addr, dst.addr, if tcp { TCP } else { UDP }, IpFields::default(), &segment)
    }

    proptest! {
        #[test]
        fn translated_checksums_are_right((src, dst, to) in endpoint(), tcp: bool, side: bool, payload in proptest::collection::vec(any::<u8>(), 0..99)) {
            let mut bytes = packet((src, dst), tcp, &payload);
            let header = IpHeader::read(&bytes).unwrap();
            let side = if side { Side::Source } else { Side::Destination };
            translate(&mut bytes, &header, side, to, false);
            let after = IpHeader::read(&bytes).unwrap();
            prop_assert!(header_checksum_is_good(&bytes, &after));
            let ends = after.endpoints(&bytes).unwrap();
            prop_assert_eq!(if side == Side::Source { ends.0 } else { ends.1 }, to);
            // A right checksum may happen to be the partial one as well.
            prop_assert!(state(&bytes) != ChecksumState::Bad);
            // And the same as when it is built anew, but for the two zeros of one's complement.
            let anew = packet(ends, tcp, &payload);
            let at = header.transport + if tcp { 16 } else { 6 };
            let (a, b) = (u16::from_be_bytes([bytes[at], bytes[at + 1]]), u16::from_be_bytes([anew[at], anew[at + 1]]));
            prop_assert!(a == b || a ^ b == 0xffff && (a == 0 || b == 0));
        }

        #[test]
        fn partial_checksums_stay_partial((src, dst, to) in endpoint(), tcp: bool) {
            let mut bytes = packet((src, dst), tcp, b"payload");
            let header = IpHeader::read(&bytes).unwrap();
            let len = header.segment(&bytes).len() as u32;
            let at = header.transport + if tcp { 16 } else { 6 };
            let partial = fold(pseudo_sum(src.addr, dst.addr, header.protocol, len));
            bytes[at..at + 2].copy_from_slice(&partial.to_be_bytes());
            translate(&mut bytes, &header, Side::Destination, to, true);
            let expected = fold(pseudo_sum(src.addr, to.addr, header.protocol, len));
            let got = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            prop_assert!(got == expected || got ^ expected == 0xffff);
        }

        #[test]
        fn what_is_wrapped_is_unwrapped((src, dst, _) in endpoint(), (from, to, _) in endpoint(), how in 0..5, payload in proptest::collection::vec(any::<u8>(), 0..99)) {
            let inner = packet((src, dst), true, &payload);
            let kind = match how {
                0 => OuterKind::Ipip,
                1 | 2 => OuterKind::Gre { checksum: how == 2 },
                _ => OuterKind::Gue { src_port: 50_000, dst_port: 6080, checksum: how == 4 },
            };
            let outer = Outer { src: from.addr, dst: to.addr, kind, ttl: 63, tos: 0x28, dont_fragment: true, id: 7 };
            let wrapped = encapsulate(&inner, &outer).unwrap();
            let header = IpHeader::read(&wrapped).unwrap();
            prop_assert_eq!((header.src, header.dst, header.ttl, header.tos), (from.addr, to.addr, 63, 0x28));
            prop_assert!(header_checksum_is_good(&wrapped, &header));
            prop_assert_eq!(&header.segment(&wrapped)[kind.shim()..], &inner[..]);
            let seen = dissect(&frame(&wrapped));
            prop_assert_eq!(seen.tunnels.len(), 1, "{:?}", seen.stop);
            prop_assert_eq!(seen.tunnels[0].ends(), (from.addr, to.addr));
            prop_assert_eq!(seen.five_tuple().map(|t| (t.src, t.dst)), Some((src, dst)));
            prop_assert_eq!(seen.payload, &payload[..]);
        }

        #[test]
        fn fragments_put_together_are_the_packet((src, dst, _) in endpoint(), mtu in 100usize..600, payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let whole = packet((src, dst), false, &payload);
            let parts = fragment(&whole, mtu, 99);
            let mut body = vec![0; 3000];
            let mut end = 0;
            for part in &parts {
                let header = IpHeader::read(part).unwrap();
                prop_assert!(part.len() <= mtu && header_checksum_is_good(part, &header));
                let (offset, more) = header.fragment.unwrap_or((0, false));
                let from = fragment_payload(part, &header);
                body[offset..offset + from.len()].copy_from_slice(from);
                if !more {
                    end = offset + from.len();
                }
            }
            let first = IpHeader::read(&parts[0]).unwrap();
            if parts.len() == 1 {
                prop_assert_eq!(&parts[0], &whole);
                return Ok(());
            }
            prop_assert_eq!(reassembled(&parts[0], &first, &body[..end], true).unwrap(), whole);
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()], protocol: u8) {
            let mut bytes = bytes;
            if bytes.len() > 40 {
                bytes[0] = first;
                let len = bytes.len();
                if first >> 4 == 4 {
                    bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                    bytes[9] = protocol;
                } else {
                    bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
                    bytes[6] = protocol;
                }
            }
            let Some(header) = IpHeader::read(&bytes) else { return Ok(()) };
            let to: Endpoint = if header.is_ipv6() { "[::1]:80" } else { "10.0.0.1:80" }.parse().unwrap();
            let _ = (header.endpoints(&bytes), header_checksum_is_good(&bytes, &header), fragment(&bytes, 64, 1), fragment_payload(&bytes, &header));
            let _ = (icmp_error(IcmpError::PortUnreachable, to.addr, &bytes, 1), reassembled(&bytes, &header, b"x", false));
            if let Some((at, inner)) = quoted(&bytes, &header) {
                translate_error(&mut bytes.clone(), &header, at, &inner, Side::Source, to);
            }
            translate(&mut bytes.clone(), &header, Side::Destination, to, false);
            decrement_ttl(&mut bytes);
        }
    }

    #[test]
    fn an_error_about_a_translated_packet_is_translated() {
        let (client, vip, rip): (Endpoint, Endpoint, Endpoint) =
            ("192.168.2.100:40002".parse().unwrap(), "192.168.2.59:80".parse().unwrap(), "192.168.224.11:8080".parse().unwrap());
        // The real server says that nobody listens.
        let request = packet((client, rip), false, b"question");
        let mut error = icmp_error(IcmpError::PortUnreachable, rip.addr, &request, 5).unwrap();
        let header = IpHeader::read(&error).unwrap();
        let (at, inner) = quoted(&error, &header).unwrap();
        translate_error(&mut error, &header, at, &inner, Side::Source, vip);
        let seen = dissect(&frame(&error));
        let Transport::Icmp(icmp) = &seen.transport else { panic!("{:?}", seen.transport) };
        let quoted = icmp.quoted.as_ref().unwrap().five_tuple().unwrap();
        assert_eq!((seen.ip().unwrap().src, quoted.src, quoted.dst), (vip.addr, client, vip));
        assert_eq!(fold(sum(0, &error[20..])), 0xffff);
        assert!(header_checksum_is_good(&error, &IpHeader::read(&error).unwrap()));
    }

    #[test]
    fn merged_packets_are_cut_as_a_card_cuts_them() {
        let (src, dst): (Endpoint, Endpoint) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let data: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
        let fields = TcpFields { seq: u32::MAX - 99, flags: crate::packet::TcpFlags(0x19), ..TcpFields::default() };
        let whole = build::ip(src.addr, dst.addr, TCP, IpFields { id: 7, ..IpFields::default() }, &build::tcp(src, dst, &fields, &data));
        let parts = segments(&whole, 1400);
        assert_eq!(parts.len(), 3);
        let mut joined: Vec<u8> = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let seen = dissect(&frame(part));
            let Transport::Tcp(tcp) = &seen.transport else { panic!() };
            assert_eq!(tcp.seq, (u32::MAX - 99).wrapping_add(at as u32 * 1400));
            assert_eq!((tcp.flags.0, seen.ip().unwrap().id), (if at == 2 { 0x19 } else { 0x10 }, 7 + at as u32));
            assert_eq!(checksum_state(&seen), ChecksumState::Good);
            joined.extend(seen.payload);
        }
        assert_eq!(joined, data);
    }

    #[test]
    fn merged_datagrams_are_cut_too() {
        for (src, dst) in [("10.0.0.1:1000", "10.0.0.2:53"), ("[2001:db8::1]:1000", "[2001:db8::2]:53")] {
            let (src, dst): (Endpoint, Endpoint) = (src.parse().unwrap(), dst.parse().unwrap());
            let data: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
            let whole = build::ip(src.addr, dst.addr, UDP, IpFields::default(), &build::udp(src, dst, &data));
            let parts = segments(&whole, 1000);
            assert_eq!(parts.iter().map(Vec::len).max(), Some(segment_len(&whole, 1000)));
            let joined: Vec<u8> = parts.iter().flat_map(|part| dissect(&frame(part)).payload.to_vec()).collect();
            assert_eq!((parts.len(), joined), (3, data));
            assert!(parts.iter().all(|part| state(part) == ChecksumState::Good));
            // Nothing to cut, or nothing that can be.
            assert_eq!((segments(&whole, 0), segments(&parts[2], usize::MAX)), (vec![whole.clone()], vec![parts[2].clone()]));
            assert_eq!(segment_len(&whole[..30], 1000), 30);
        }
    }

    #[test]
    fn crc32c_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
