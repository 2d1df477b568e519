//! One end of a packet replaced, its checksums mended.

use super::header::{IpHeader, Side, seal};
use crate::net::Endpoint;
use crate::packet::checksum::{adjust, fold, sum};
use crate::packet::ip::{SCTP, TCP, UDP};
use std::net::IpAddr;

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
pub(super) fn put_address(bytes: &mut [u8], header: &IpHeader, side: Side, addr: IpAddr) {
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
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
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
