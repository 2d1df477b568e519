//! The Ethernet header of a frame that came, read no further than the director needs for most of them.

use crate::net::MacAddr;

/// Destination and source.
pub(super) fn macs(bytes: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes.first_chunk::<12>()?;
    Some((MacAddr([a, b, c, d, e, f]), MacAddr([g, h, i, j, k, l])))
}

/// The EtherType behind any VLAN tags, where the packet begins, and the tags.
pub(super) fn ether_type(bytes: &[u8]) -> Option<(u16, usize, Vec<u16>)> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (mut at, mut vlans) = (12, Vec::new());
    while matches!(word(at)?, 0x8100 | 0x88a8) && vlans.len() < 2 {
        vlans.push(word(at + 2)? & 0x0fff);
        at += 4;
    }
    Some((word(at)?, at + 2, vlans))
}
