//! The legs that packets are being seen on: a hash table whose records are half a cache line.
//!
//! Every packet of a capture looks its leg up here, and in a capture with many connections that look-up is a cache miss. So the record
//! itself sits in the table (open addressing, linear probing, deletion by shifting back): one miss a packet, where an index of numbers
//! into a list of records would cost two or three. To keep the record small, 64 bits of hash stand for the 5-tuple and the wire. Every
//! packet that means something (a handshake, a repeat, an end) is held against the real ones, so that a clash, improbable as it is
//! (one in a million captures of ten million legs), would be noticed.

use super::table::Seen;
use super::tuple::Tuple;

/// What following a leg needs. Aligned, or every other record would lie across two cache lines.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
pub(super) struct Live {
    /// [`leg_hash`]; 0 marks a free slot.
    pub(super) hash: u64,
    pub(super) leg: u32,
    pub(super) high_seq: u32,
    /// When its last packet was seen, see [`super::table::Table::tick`].
    pub(super) last_tick: u32,
    /// Packets not yet counted in the leg's own record.
    pub(super) packets: u16,
    pub(super) longest: u16,
    pub(super) last_id: u16,
    /// The IP-ID before that: where both ends of a wire are in one capture, two packets and their copies may come interleaved.
    pub(super) other_id: u16,
    /// What a packet must show to be an ordinary one: the TTL, and nothing else ([`super::table::gate`]). The upper half counts the
    /// packets still to be looked at closely, which makes none of them ordinary.
    pub(super) gate: u16,
    pub(super) seen: Seen,
    pub(super) repeats: u8,
}

#[derive(Clone)]
pub(super) struct LiveLegs {
    /// A power of two.
    slots: Vec<Live>,
    /// The first slot that begins a cache line: 0 or 1.
    first: usize,
    used: usize,
}

/// From this size on (1 MiB) the table is swept before it grows.
const SWEPT: usize = 1 << 15;

/// The hash of a leg: its 5-tuple, in this direction, on this wire. Never 0.
#[inline(always)]
pub(super) fn leg_hash(tuple: Tuple, wire: u32) -> u64 {
    tuple.hash_with(wire).max(1)
}

impl Live {
    pub(super) fn ttl(&self) -> u8 {
        self.gate as u8
    }

    /// Remembers an IP-ID; the two latest different ones are known.
    #[inline(always)]
    pub(super) fn saw_id(&mut self, id: u16) {
        self.other_id = if self.last_id == id { self.other_id } else { self.last_id };
        self.last_id = id;
    }

    pub(super) fn close_looks(&self) -> u8 {
        (self.gate >> 8) as u8
    }
}

impl LiveLegs {
    pub(super) fn new() -> Self {
        Self::with(1 << 12)
    }

    fn with(size: usize) -> Self {
        let slots = vec![Live::default(); size];
        let first = slots.as_ptr().addr() / size_of::<Live>() % 2;
        LiveLegs { slots, first, used: 0 }
    }

    /// Where the leg with this hash should be: in a slot that begins a cache line, so that the second probe costs nothing.
    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        (hash as usize & (self.slots.len() - 2)) | self.first
    }

    /// Reads from where the leg with this hash should be, so that the cache has it.
    #[inline(always)]
    pub(super) fn touch(&self, hash: u64) -> u64 {
        self.slots[self.home(hash)].hash
    }

    /// Where the leg with this hash is.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = self.home(hash);
        loop {
            match self.slots[at].hash {
                found if found == hash => return Some(at),
                0 => return None,
                _ => at = (at + 1) & mask,
            }
        }
    }

    #[inline(always)]
    pub(super) fn get(&mut self, at: usize) -> &mut Live {
        &mut self.slots[at]
    }

    /// The number of the leg at a place.
    pub(super) fn leg(&self, at: usize) -> u32 {
        self.slots[at].leg
    }

    /// Three quarters: two records share a cache line, and few are not found in their first line.
    fn is_crowded(&self) -> bool {
        self.used * 4 >= self.slots.len() * 3
    }

    /// True when the next insertion would make the table grow beyond what a cache holds.
    pub(super) fn is_full(&self) -> bool {
        self.is_crowded() && self.slots.len() >= SWEPT
    }

    /// Grows if making room has won too little: else every few insertions would try again.
    pub(super) fn settle_for_size(&mut self) {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
    }

    /// Makes the table bigger: by much as long as it is small.
    fn grow(&mut self) {
        let factor = if self.slots.len() < SWEPT / 2 { 4 } else { 2 };
        let bigger = LiveLegs { used: self.used, ..Self::with(self.slots.len() * factor) };
        for leg in std::mem::replace(self, bigger).iter() {
            self.place(*leg);
        }
    }

    /// Adds a leg that is not there yet; its place holds until the next insertion or removal.
    pub(super) fn insert(&mut self, leg: Live) -> usize {
        if self.is_crowded() {
            self.grow();
        }
        self.used += 1;
        self.place(leg)
    }

    fn place(&mut self, leg: Live) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.home(leg.hash);
        while self.slots[at].hash != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = leg;
        at
    }

    /// Takes a leg out, and moves those back that had to give way to it.
    pub(super) fn remove(&mut self, mut hole: usize) -> Live {
        let mask = self.slots.len() - 1;
        let removed = self.slots[hole];
        self.used -= 1;
        let mut at = (hole + 1) & mask;
        while self.slots[at].hash != 0 {
            let home = self.home(self.slots[at].hash);
            // It may move back only if its home is not behind the hole, going round.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.slots[hole].hash = 0;
        removed
    }

    /// Places for legs: what memory grows with.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// All legs.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Live> {
        self.slots.iter().filter(|leg| leg.hash != 0)
    }

    /// A leg for which `test` holds, at or behind `from`. Removing one moves others only to places not before it.
    pub(super) fn next(&self, from: usize, test: impl Fn(&Live) -> bool) -> Option<usize> {
        (from..self.slots.len()).find(|at| self.slots[*at].hash != 0 && test(&self.slots[*at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((1u64..8000, any::<bool>()), 1..12000)) {
            assert_eq!(size_of::<Live>(), 32);
            let (mut table, mut map) = (LiveLegs::new(), HashMap::new());
            for (n, insert) in steps {
                // Few homes: long runs of slots that gave way to each other, some going round the end.
                let hash = n << 40 | ((n % 61) * 67 + 4050);
                let found = table.find(hash);
                prop_assert_eq!(found.is_some(), map.contains_key(&hash));
                match found {
                    Some(at) => prop_assert_eq!(table.remove(at).leg, map.remove(&hash).unwrap()),
                    None if insert => {
                        let at = table.insert(Live { hash, leg: n as u32, ..Live::default() });
                        prop_assert_eq!(table.get(at).leg, n as u32);
                        map.insert(hash, n as u32);
                    }
                    None => {}
                }
            }
            prop_assert_eq!(table.iter().count(), map.len());
            let mut at = 0;
            while let Some(found) = table.next(at, |leg| leg.leg % 2 == 0) {
                map.remove(&table.remove(found).hash);
                at = found;
            }
            prop_assert!(table.iter().all(|leg| leg.leg % 2 == 1) && map.values().all(|leg| leg % 2 == 1));
        }
    }
}
