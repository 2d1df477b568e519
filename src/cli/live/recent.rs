//! The latest packets, as many as fit into a fixed room: for whoever wants to keep some of them after all.

use crate::net::Timestamp;
use crate::packet::{Frame, Heading, LinkType};
use std::collections::VecDeque;

/// Bytes of packets.
const ROOM: usize = 64 << 20;

/// A window over the packets of all points.
#[derive(Default)]
pub(in crate::cli) struct Recent {
    frames: VecDeque<Kept>,
    bytes: usize,
    lost: u64,
}

struct Kept {
    point: u32,
    number: u64,
    time: Timestamp,
    wire_len: u32,
    link_type: LinkType,
    heading: Option<Heading>,
    bytes: Box<[u8]>,
}

/// What a packet takes beside its bytes.
const BESIDE: usize = size_of::<Kept>();

impl Recent {
    /// Keeps a packet, and gives up the oldest where there is no room for it.
    pub(in crate::cli) fn push(&mut self, point: u32, frame: &Frame<'_>) {
        self.bytes += frame.bytes.len() + BESIDE;
        self.frames.push_back(Kept {
            point,
            number: frame.number,
            time: frame.time,
            wire_len: frame.wire_len,
            link_type: frame.link_type,
            heading: frame.heading,
            bytes: frame.bytes.into(),
        });
        while self.bytes > ROOM
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.bytes.len() + BESIDE;
            self.lost += 1;
        }
    }

    /// Nothing had to be given up.
    pub(in crate::cli) fn is_whole(&self) -> bool {
        self.lost == 0
    }

    /// The packets with their points, the oldest first.
    pub(in crate::cli) fn frames(&self) -> impl Iterator<Item = (u32, Frame<'_>)> {
        self.frames.iter().map(|kept| {
            let frame = Frame {
                bytes: &kept.bytes,
                wire_len: kept.wire_len,
                link_type: kept.link_type,
                time: kept.time,
                number: kept.number,
                interface: kept.point,
                heading: kept.heading,
            };
            (kept.point, frame)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let mut recent = Recent::default();
        let bytes = vec![7; 1 << 20];
        for number in 1..=100 {
            let frame = Frame { number, ..Frame::whole(LinkType::ETHERNET, &bytes) };
            recent.push(3, &frame);
            assert!(recent.bytes <= ROOM);
        }
        let numbers: Vec<u64> = recent.frames().map(|(point, frame)| frame.number * u64::from(point == 3)).collect();
        assert_eq!((numbers.first(), numbers.last(), numbers.len()), (Some(&38), Some(&100), 63));
        assert!(!recent.is_whole());
    }
}
