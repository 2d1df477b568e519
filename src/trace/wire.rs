//! Wires: who hands frames to whom, at which capture point.

use super::tuple::mix;
use crate::net::MacAddr;
use crate::packet::{Heading, Link, Tunnel, TunnelKind, Vlans};
use hashbrown::HashMap;
use std::net::IpAddr;

/// A MAC pair (one direction of it), with VLAN tags and tunnel, at one capture point. There are few of them however many connections
/// a capture has, so a connection's records hold a number instead of all this.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Wire {
    /// Number of the capture point.
    pub point: u32,
    /// Source MAC; `None` where the link type has none.
    pub src: Option<MacAddr>,
    /// Destination MAC; `None` where the link type has none.
    pub dst: Option<MacAddr>,
    /// VLAN tags, outermost first.
    pub vlans: Vlans,
    /// Around the packets: kind, outer source, outer destination of the innermost tunnel.
    pub tunnel: Option<(TunnelKind, IpAddr, IpAddr)>,
    /// The direction that the capture itself recorded.
    pub heading: Option<Heading>,
}

/// All wires of a trace, numbered as they were first seen.
#[derive(Clone, Default)]
pub(super) struct Wires {
    numbers: HashMap<Wire, u32>,
    wires: Vec<Wire>,
    /// Frames on each wire.
    frames: Vec<u64>,
    /// The last wires looked up, by a few bits of their addresses: nearly every frame finds its wire here.
    recent: Vec<Recent>,
}

#[derive(Clone, Copy)]
struct Recent {
    /// Both MACs, the tag and the point, in two words.
    key: (u64, u64),
    wire: u32,
}

const RECENT: usize = 4096;

impl Wires {
    /// The wire of a plain Ethernet frame: `macs` is destination then source, `vlan` has bit 12 set when there is a tag.
    #[inline]
    pub(super) fn of_glance(&mut self, point: u32, macs: &[u8; 12], vlan: u16) -> u32 {
        let head = macs.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
        let tail = macs.last_chunk().map_or(0, |tail| u32::from_le_bytes(*tail));
        let key = (head, u64::from(tail) << 32 | u64::from(vlan) << 16 | u64::from(point as u16));
        let slot = mix(key.0, key.1) as usize % RECENT;
        match self.recent.get(slot) {
            // More points than a word has room for are looked up the long way.
            Some(recent) if recent.key == key && point <= u32::from(u16::MAX) => recent.wire,
            _ => self.find_glance(slot, key, point, macs, vlan),
        }
    }

    #[cold]
    fn find_glance(&mut self, slot: usize, key: (u64, u64), point: u32, macs: &[u8; 12], vlan: u16) -> u32 {
        let (dst, src) = macs.split_at(6);
        let mac = |bytes: &[u8]| bytes.first_chunk::<6>().map(|mac| MacAddr(*mac));
        let mut vlans = Vlans::default();
        if vlan >= 0x1000 {
            vlans.push(vlan);
        }
        let wire = self.number(Wire { point, src: mac(src), dst: mac(dst), vlans, tunnel: None, heading: None });
        if self.recent.is_empty() {
            // No frame has this key: a tag's number never has its highest bits set.
            self.recent = vec![Recent { key: (0, u64::MAX), wire: 0 }; RECENT];
        }
        self.recent[slot] = Recent { key, wire };
        wire
    }

    pub(super) fn of_packet(&mut self, point: u32, link: &Link, heading: Option<Heading>, tunnels: &[Tunnel]) -> u32 {
        let tunnel = tunnels.last().map(|t| (t.kind, t.outer.src, t.outer.dst));
        self.number(Wire { point, src: link.src, dst: link.dst, vlans: link.vlans, tunnel, heading: link.heading.or(heading) })
    }

    fn number(&mut self, wire: Wire) -> u32 {
        *self.numbers.entry(wire).or_insert_with(|| {
            self.wires.push(wire);
            self.frames.push(0);
            self.wires.len() as u32 - 1
        })
    }

    #[inline]
    pub(super) fn count(&mut self, wire: u32) {
        self.frames[wire as usize] += 1;
    }

    pub(super) fn get(&self, wire: u32) -> &Wire {
        &self.wires[wire as usize]
    }

    /// Each wire with its number of frames.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Wire, u64)> {
        self.wires.iter().zip(self.frames.iter().copied())
    }
}
