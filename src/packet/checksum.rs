//! The Internet checksum: full (RFC 1071), incremental (RFC 1624), and what a captured one is worth.

use super::dissect::Packet;
use super::ip::{Ip, TCP, UDP};
use super::transport::Transport;
use std::net::IpAddr;

/// Adds the big-endian 16-bit words of `bytes` to `sum`; an odd last byte counts as the high half of a word.
pub fn sum(sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let total = words.iter().fold(sum, |s, w| s + u64::from(u16::from_be_bytes(*w)));
    total + rest.first().map_or(0, |b| u64::from(*b) << 8)
}

/// Folds a sum of words to 16 bits, adding the carries back in.
pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum field for `bytes` whose own field is zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(0, bytes))
}

/// The sum of the pseudo-header: addresses, protocol, length of the transport segment in bytes (RFC 9293, section 3.1).
pub fn pseudo_sum(src: IpAddr, dst: IpAddr, protocol: u8, len: u32) -> u64 {
    address_sum(src) + address_sum(dst) + u64::from(protocol) + u64::from(len >> 16) + u64::from(len & 0xffff)
}

fn address_sum(addr: IpAddr) -> u64 {
    match addr {
        IpAddr::V4(a) => sum(0, &a.octets()),
        IpAddr::V6(a) => sum(0, &a.octets()),
    }
}

/// The checksum after the words that summed to `old` were replaced by words that sum to `new`: RFC 1624, equation 3.
pub fn adjust(checksum: u16, old: u64, new: u64) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!fold(old)) + new)
}

/// What a captured TCP or UDP checksum is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChecksumState {
    /// Right.
    Good,
    /// Only the pseudo-header is summed: the capturing host left the rest to its network card. Not a fault (CAP001).
    Partial,
    /// Wrong.
    Bad,
    /// Cannot be told: not TCP or UDP, cut by the snap length, a fragment, or a UDP datagram without checksum.
    Unknown,
}

/// Judges the checksum of a TCP or UDP packet. Reads the whole segment.
pub fn checksum_state(packet: &Packet<'_>) -> ChecksumState {
    let (Some(ip), Some((stored, _))) = (packet.ip(), stored(packet)) else { return ChecksumState::Unknown };
    let len = segment_len(packet);
    let pseudo = pseudo_sum(ip.src, ip.dst, ip.protocol, len);
    if stored == fold(pseudo) {
        return ChecksumState::Partial;
    }
    if packet.segment.len() < len as usize || ip.fragment.is_some() || (stored == 0 && ip.protocol == UDP) {
        return ChecksumState::Unknown;
    }
    // All words with their checksum sum to minus zero; a UDP checksum of zero is sent as ffff.
    if fold(sum(pseudo, packet.segment)) == 0xffff { ChecksumState::Good } else { ChecksumState::Bad }
}

/// True when a TCP or UDP checksum is no more than the sum of the pseudo-header: [`ChecksumState::Partial`]. `addresses` are the bytes of
/// source and destination address, `len` is the length of the segment in bytes.
pub fn is_partial(checksum: u16, addresses: &[u8], protocol: u8, len: u32) -> bool {
    checksum == fold(sum(u64::from(protocol) + u64::from(len >> 16) + u64::from(len & 0xffff), addresses))
}

/// A 16-bit digest of a whole TCP or UDP segment that address and port translation leave alone: its checksum, less the pseudo-header
/// addresses and ports. It covers the payload even where the snap length cut it off. `None` where the checksum is absent or partial.
pub fn rewrite_invariant(packet: &Packet<'_>) -> Option<u16> {
    let ip = packet.ip()?;
    let (stored, ports) = stored(packet)?;
    if stored == 0 && ip.protocol == UDP {
        return None;
    }
    let addresses = address_sum(ip.src) + address_sum(ip.dst);
    if stored == fold(addresses + u64::from(ip.protocol) + u64::from(segment_len(packet))) {
        return None;
    }
    let digest = fold(u64::from(!stored) + u64::from(!fold(addresses + ports)));
    Some(if digest == 0xffff { 0 } else { digest })
}

/// The checksum field and the sum of the ports.
fn stored(packet: &Packet<'_>) -> Option<(u16, u64)> {
    match &packet.transport {
        Transport::Tcp(tcp) if packet.segment.len() >= 18 => Some((tcp.checksum, u64::from(tcp.src_port) + u64::from(tcp.dst_port))),
        Transport::Udp(udp) => Some((udp.checksum, u64::from(udp.src_port) + u64::from(udp.dst_port))),
        _ => None,
    }
}

/// Length of the transport segment on the wire.
fn segment_len(packet: &Packet<'_>) -> u32 {
    match (packet.ip(), &packet.transport) {
        (Some(Ip { total_len, header_len, protocol: TCP, .. }), _) => total_len.saturating_sub(u32::from(*header_len)),
        (_, Transport::Udp(_)) => packet.payload_len + 8,
        _ => packet.segment.len() as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(0, &bytes)), 0xddf2);
        assert_eq!(checksum(&bytes), !0xddf2);
        assert_eq!(fold(sum(0, &[0x12])), 0x1200);
    }

    proptest! {
        #[test]
        fn incremental_is_full(mut bytes in proptest::collection::vec(any::<u8>(), 8..64), new in any::<[u8; 4]>()) {
            let before = checksum(&bytes);
            let old = sum(0, &bytes[2..6]);
            bytes[2..6].copy_from_slice(&new);
            let (incremental, full) = (adjust(before, old, sum(0, &new)), checksum(&bytes));
            // 0 and ffff are the same number in one's complement.
            prop_assert!(incremental == full || (incremental ^ full) == 0xffff && (full == 0 || full == 0xffff));
        }
    }
}
