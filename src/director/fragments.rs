//! Fragments put together before anything is decided, as the kernel does (`ip_defrag`, `nf_ct_frag6_gather`).

use crate::net::Timestamp;
use crate::packet::{IpHeader, fragment_payload, reassembled};
use std::collections::HashMap;
use std::net::IpAddr;

/// The kernel waits this long for the rest (`net.ipv4.ipfrag_time`; IPv6 has 60).
const PATIENCE: i64 = 30_000_000_000;
/// More bytes than this in waiting packets: the oldest go (`ipfrag_high_thresh`).
const HIGH: usize = 4 << 20;
/// A packet has no more.
const LONGEST: usize = 0xffff;

type Key = (IpAddr, IpAddr, u32, u8);

#[derive(Debug, Default)]
struct Waiting {
    /// Offset and bytes, in order, not overlapping.
    parts: Vec<(usize, Vec<u8>)>,
    first: Option<(Vec<u8>, IpHeader)>,
    end: Option<usize>,
    since: Timestamp,
    bytes: usize,
    longest: usize,
    longest_df: usize,
}

/// Packets of which something is missing.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    waiting: HashMap<Key, Waiting>,
    bytes: usize,
}

/// A packet that is whole again.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Vec<u8>,
    /// The longest fragment: none that is sent on may be longer.
    pub(super) longest: usize,
}

impl Fragments {
    /// Takes a fragment; `Some` when its packet is whole.
    pub(super) fn take(&mut self, bytes: &[u8], header: &IpHeader, now: Timestamp) -> Option<Whole> {
        let (offset, more) = header.fragment?;
        self.forget(now);
        let key = (header.src, header.dst, header.id, header.protocol);
        let key = if header.is_ipv6() { (key.0, key.1, key.2, 0) } else { key };
        let payload = fragment_payload(bytes, header);
        let waiting = self.waiting.entry(key).or_insert_with(|| Waiting { since: now, ..Waiting::default() });
        let end = offset + payload.len();
        let overlaps = waiting.parts.iter().any(|(at, part)| *at < end && offset < at + part.len());
        let exact = waiting.parts.iter().any(|(at, part)| *at == offset && part.len() == payload.len());
        let wrong = end > LONGEST
            || more && !payload.len().is_multiple_of(8)
            || payload.is_empty()
            || waiting.end.is_some_and(|known| end > known || !more && end != known);
        if exact && !wrong {
            return None;
        }
        if wrong || overlaps {
            // RFC 5722, and since Linux 4.19 for IPv4 too: the whole packet is given up.
            self.drop_packet(&key);
            return None;
        }
        if !more {
            waiting.end = Some(end);
        }
        if offset == 0 {
            waiting.first = Some((bytes[..header.total].to_vec(), *header));
        }
        waiting.longest = waiting.longest.max(header.total);
        if header.dont_fragment && !header.is_ipv6() {
            waiting.longest_df = waiting.longest_df.max(header.total);
        }
        waiting.parts.push((offset, payload.to_vec()));
        waiting.parts.sort_by_key(|(at, _)| *at);
        waiting.bytes += payload.len();
        self.bytes += payload.len();
        if waiting.end == Some(waiting.bytes) && waiting.first.is_some() {
            let waiting = self.drop_packet(&key)?;
            let (first, header) = waiting.first?;
            let body: Vec<u8> = waiting.parts.into_iter().flat_map(|(_, part)| part).collect();
            let dont_fragment = waiting.longest_df == waiting.longest;
            return Some(Whole { bytes: reassembled(&first, &header, &body, dont_fragment)?, longest: waiting.longest });
        }
        None
    }

    fn drop_packet(&mut self, key: &Key) -> Option<Waiting> {
        let waiting = self.waiting.remove(key)?;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }

    fn forget(&mut self, now: Timestamp) {
        if self.waiting.is_empty() {
            return;
        }
        let old: Vec<Key> = self.waiting.iter().filter(|(_, w)| now - w.since > PATIENCE).map(|(key, _)| *key).collect();
        old.iter().for_each(|key| _ = self.drop_packet(key));
        while self.bytes > HIGH {
            let Some(oldest) = self.waiting.iter().min_by_key(|(_, w)| w.since).map(|(key, _)| *key) else { return };
            self.drop_packet(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::build::{IpFields, ip, udp};
    use crate::packet::fragment;

    #[test]
    fn in_any_order_and_not_for_ever() {
        for (src, dst) in [("10.0.0.1:5", "10.0.0.2:6"), ("[::1]:5", "[::2]:6")] {
            let (src, dst): (crate::net::Endpoint, crate::net::Endpoint) = (src.parse().unwrap(), dst.parse().unwrap());
            let whole = ip(src.addr, dst.addr, 17, IpFields { flags: 0, ..IpFields::default() }, &udp(src, dst, &[7; 3000]));
            let mut parts = fragment(&whole, 1400, 9);
            parts.reverse();
            let mut fragments = Fragments::default();
            let mut take = |part: &Vec<u8>, now| fragments.take(part, &IpHeader::read(part).unwrap(), Timestamp(now));
            assert!(take(&parts[0], 0).is_none() && take(&parts[0], 0).is_none() && take(&parts[1], 0).is_none());
            let made = take(&parts[2], 1).unwrap();
            assert_eq!((made.bytes, made.longest), (whole.clone(), parts[2].len()));
            assert!(take(&parts[0], 2).is_none() && take(&parts[1], 3).is_none());
            assert!(take(&parts[2], PATIENCE + 4).is_none(), "the others are forgotten");
            assert!(fragments.bytes < 1400);
        }
    }

    fn parts(flags: u16, id: u16, len: usize) -> Vec<Vec<u8>> {
        let (src, dst): (crate::net::Endpoint, crate::net::Endpoint) = ("10.0.0.1:5".parse().unwrap(), "10.0.0.2:6".parse().unwrap());
        let whole = ip(src.addr, dst.addr, 17, IpFields { flags, id, ..IpFields::default() }, &udp(src, dst, &vec![7; len]));
        fragment(&whole, 1400, id.into())
    }

    #[test]
    fn the_oldest_make_room() {
        let mut fragments = Fragments::default();
        let mut take = |part: &Vec<u8>, now| fragments.take(part, &IpHeader::read(part).unwrap(), Timestamp(now)).is_some();
        for id in 0..4000 {
            assert!(!take(&parts(0, id, 3000)[0], i64::from(id)));
        }
        assert!(!take(&parts(0, 1, 3000)[1], 5000) && !take(&parts(0, 1, 3000)[2], 5000), "its first part had to go");
        assert!(!take(&parts(0, 3999, 3000)[1], 5000) && take(&parts(0, 3999, 3000)[2], 5000));
        assert!(fragments.bytes <= HIGH + 1400 && fragments.bytes > HIGH / 2, "{}", fragments.bytes);
    }

    /// Parts that overlap are an attack (RFC 5722): the whole packet goes.
    #[test]
    fn parts_that_overlap() {
        let mut fragments = Fragments::default();
        let mut take = |part: &Vec<u8>| fragments.take(part, &IpHeader::read(part).unwrap(), Timestamp(0)).is_some();
        let whole = parts(0, 9, 3000);
        let mut moved = whole[1].clone();
        let offset = u16::from_be_bytes([moved[6], moved[7]]) - 1;
        moved[6..8].copy_from_slice(&offset.to_be_bytes());
        assert!(!take(&whole[0]) && !take(&moved) && !take(&whole[1]) && !take(&whole[2]), "the first part is gone");
        assert!(take(&whole[0]), "and comes again");
    }

    /// Only what came in parts that must not be cut further must not be cut when it is whole: the longest of them decides.
    #[test]
    fn whether_the_whole_may_be_cut() {
        for (first, others, kept) in [(0x4000, 0x4000, true), (0, 0x4000, false), (0x4000, 0, true), (0, 0, false)] {
            let mut fragments = Fragments::default();
            let (free, fixed) = (parts(0, 9, 2000), parts(0x4000, 9, 2000));
            let of = |flags, at: usize| if flags == 0 { free[at].clone() } else { fixed[at].clone() };
            let mut take = |part: Vec<u8>| fragments.take(&part, &IpHeader::read(&part).unwrap(), Timestamp(0));
            assert!(take(of(first, 0)).is_none());
            let whole = take(of(others, 1)).expect("two parts");
            assert_eq!(IpHeader::read(&whole.bytes).unwrap().dont_fragment, kept, "{first:x} {others:x}");
        }
    }
}
