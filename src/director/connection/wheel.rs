//! When entries expire: a wheel of slots with lists through the entries themselves.
//!
//! A timer that is pushed back stays where it is; when its slot comes it is put further on. Only one that is pulled forward moves at once.

use super::{Chunks, NONE};
use crate::net::Timestamp;

/// In no slot.
pub(super) const NOWHERE: u16 = u16::MAX;
const SLOTS: i64 = 8192;
/// A slot is 2^24 ns, 17 ms; the wheel goes round in 137 s.
const SHIFT: u32 = 24;
const LONG_AGO: Timestamp = Timestamp(i64::MIN);

#[derive(Debug)]
pub(super) struct Wheel {
    heads: Vec<u32>,
    /// The slot that is being worked on: all before it are done.
    tick: i64,
    /// Nothing was put in yet.
    fresh: bool,
    /// Nothing of the present slot is due before this.
    earliest: Timestamp,
}

impl Default for Wheel {
    fn default() -> Self {
        Wheel { heads: vec![NONE; SLOTS as usize], tick: 0, fresh: true, earliest: LONG_AGO }
    }
}

impl Wheel {
    pub(super) fn bytes(&self) -> usize {
        self.heads.capacity() * 4
    }

    pub(super) fn link(&mut self, conns: &mut Chunks, at: u32) {
        let due = conns[at].expires.0 >> SHIFT;
        if self.fresh {
            self.fresh = false;
            self.tick = self.tick.max(due - SLOTS + 1);
        }
        let slot = due.clamp(self.tick, self.tick + SLOTS - 1).rem_euclid(SLOTS) as usize;
        let head = self.heads[slot];
        let conn = &mut conns[at];
        (conn.slot, conn.next, conn.previous) = (slot as u16, head, NONE);
        if head != NONE {
            conns[head].previous = at;
        }
        self.heads[slot] = at;
        if due <= self.tick {
            self.earliest = self.earliest.min(conns[at].expires);
        }
    }

    pub(super) fn unlink(&mut self, conns: &mut Chunks, at: u32) {
        let (slot, next, previous) = (conns[at].slot, conns[at].next, conns[at].previous);
        if slot == NOWHERE {
            return;
        }
        match previous {
            NONE => self.heads[usize::from(slot)] = next,
            previous => conns[previous].next = next,
        }
        if next != NONE {
            conns[next].previous = previous;
        }
        conns[at].slot = NOWHERE;
    }

    /// Nothing is in the wheel: it need not turn.
    pub(super) fn skip_to(&mut self, now: Timestamp) {
        let tick = now.0 >> SHIFT;
        if tick > self.tick {
            (self.tick, self.earliest) = (tick, LONG_AGO);
        }
    }

    /// Takes out an entry whose time has come.
    pub(super) fn next_due(&mut self, conns: &mut Chunks, now: Timestamp) -> Option<u32> {
        let end = now.0 >> SHIFT;
        if self.tick == end && now < self.earliest {
            return None;
        }
        while self.tick <= end {
            let slot = self.tick.rem_euclid(SLOTS) as usize;
            let mut at = self.heads[slot];
            let mut earliest = Timestamp(i64::MAX);
            while at != NONE {
                let (next, expires) = (conns[at].next, conns[at].expires);
                if expires.0 >> SHIFT <= self.tick {
                    if expires <= now {
                        self.unlink(conns, at);
                        return Some(at);
                    }
                    earliest = earliest.min(expires);
                }
                at = next;
            }
            if self.tick == end {
                self.earliest = earliest;
                break;
            }
            self.earliest = LONG_AGO;
            // What is left in the slot has its time in another round.
            let mut at = std::mem::replace(&mut self.heads[slot], NONE);
            self.tick += 1;
            while at != NONE {
                let next = conns[at].next;
                self.link(conns, at);
                at = next;
            }
        }
        None
    }
}
