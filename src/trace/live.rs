//! The legs that packets are being seen on: a hash table whose records are cache lines.
//!
//! Every packet of a capture looks its leg up here, and in a capture with many connections that look-up is a cache miss. So the record
//! itself sits in the table (open addressing, linear probing, deletion by shifting back): one miss a packet, where an index of numbers
//! into a list of records would cost two or three.

use super::table::Seen;
use super::tuple::{Tuple, mix};

/// What following a leg needs. One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Live {
    pub(super) tuple: Tuple,
    pub(super) wire: u32,
    pub(super) leg: u32,
    pub(super) conversation: u32,
    pub(super) packets: u32,
    pub(super) bytes: u32,
    pub(super) high_seq: u32,
    pub(super) last_time: i64,
    pub(super) last_seq: u32,
    pub(super) last_id: u16,
    pub(super) ttl: u8,
    pub(super) seen: Seen,
    pub(super) repeats: u8,
    /// Packets still to be looked at closely: options, payload digest.
    pub(super) close_looks: u8,
    pub(super) long_noted: bool,
    pub(super) in_use: bool,
}

const EMPTY: Live = Live {
    tuple: Tuple { src: 0, dst: 0, src_port: 0, dst_port: 0, protocol: 0, v6: false },
    wire: 0,
    leg: 0,
    conversation: 0,
    packets: 0,
    bytes: 0,
    high_seq: 0,
    last_time: 0,
    last_seq: 0,
    last_id: 0,
    ttl: 0,
    seen: Seen(0),
    repeats: 0,
    close_looks: 0,
    long_noted: false,
    in_use: false,
};

pub(super) struct LiveLegs {
    /// A power of two.
    slots: Vec<Live>,
    used: usize,
}

/// The hash of a leg: its 5-tuple, in this direction, on this wire.
#[inline]
pub(super) fn leg_hash(tuple: Tuple, wire: u32) -> u64 {
    mix(tuple.hash(), u64::from(wire))
}

fn home(leg: &Live) -> usize {
    leg_hash(leg.tuple, leg.wire) as usize
}

impl LiveLegs {
    pub(super) fn new() -> Self {
        LiveLegs { slots: vec![EMPTY; 256], used: 0 }
    }

    /// Reads from where the leg with this hash should be, so that the cache has it.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> usize {
        usize::from(self.slots[hash as usize & (self.slots.len() - 1)].in_use)
    }

    /// Where the leg of `tuple` on `wire` is.
    #[inline]
    pub(super) fn find(&self, hash: u64, tuple: Tuple, wire: u32) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = &self.slots[at];
            if !slot.in_use {
                return None;
            }
            if slot.tuple == tuple && slot.wire == wire {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    pub(super) fn get(&mut self, at: usize) -> &mut Live {
        &mut self.slots[at]
    }

    /// Adds a leg that is not there yet; its place holds until the next insertion or removal.
    pub(super) fn insert(&mut self, leg: Live) -> usize {
        if self.used * 2 >= self.slots.len() {
            let bigger = vec![EMPTY; self.slots.len() * 2];
            for leg in std::mem::replace(&mut self.slots, bigger).into_iter().filter(|leg| leg.in_use) {
                self.place(leg);
            }
        }
        self.used += 1;
        self.place(leg)
    }

    fn place(&mut self, leg: Live) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = home(&leg) & mask;
        while self.slots[at].in_use {
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
        while self.slots[at].in_use {
            let home = home(&self.slots[at]) & mask;
            // It may move back only if its home is not behind the hole, going round.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.slots[hole].in_use = false;
        removed
    }

    /// A leg for which `test` holds, at or behind `from`. Removing one moves others only to places not before it.
    pub(super) fn next(&self, from: usize, test: impl Fn(&Live) -> bool) -> Option<usize> {
        (from..self.slots.len()).find(|at| self.slots[*at].in_use && test(&self.slots[*at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn leg(n: u32) -> Live {
        Live {
            tuple: Tuple { src: n % 7, dst: n % 3, src_port: 0, dst_port: 0, protocol: 6, v6: false },
            wire: n / 21,
            leg: n,
            in_use: true,
            ..EMPTY
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((0u32..2000, any::<bool>()), 1..3000)) {
            let (mut table, mut map) = (LiveLegs::new(), HashMap::new());
            for (n, insert) in steps {
                let leg = leg(n);
                let found = table.find(leg_hash(leg.tuple, leg.wire), leg.tuple, leg.wire);
                prop_assert_eq!(found.is_some(), map.contains_key(&(leg.tuple.src, leg.tuple.dst, leg.wire)));
                match found {
                    Some(at) => {
                        prop_assert_eq!(table.remove(at).leg, map.remove(&(leg.tuple.src, leg.tuple.dst, leg.wire)).unwrap());
                    }
                    None if insert => {
                        let at = table.insert(leg);
                        prop_assert_eq!(table.get(at).leg, n);
                        map.insert((leg.tuple.src, leg.tuple.dst, leg.wire), n);
                    }
                    None => {}
                }
            }
            let mut rest = 0;
            let mut at = 0;
            while let Some(found) = table.next(at, |_| true) {
                (rest, at) = (rest + 1, found + 1);
            }
            prop_assert_eq!(rest, map.len());
        }
    }
}
