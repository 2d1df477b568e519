//! Packets cut into fragments or segments, and put together again.

use super::header::{IpHeader, seal};
use crate::packet::checksum::{fold, pseudo_sum, sum};
use crate::packet::ip::{TCP, UDP};

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
