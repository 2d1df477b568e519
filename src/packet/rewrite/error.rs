//! ICMP errors: made, and translated with what they quote.

use super::header::{IpHeader, Side, seal};
use super::translate::put_address;
use crate::net::Endpoint;
use crate::packet::build::{self, IpFields};
use crate::packet::checksum::{fold, pseudo_sum, sum};
use crate::packet::ip::{ICMP, ICMPV6, SCTP, TCP, UDP};
use std::net::IpAddr;

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
