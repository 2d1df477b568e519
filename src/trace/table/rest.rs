//! What goes out of the table: legs that are quiet, conversations that are forgotten.

use super::conversation::RESTED;
use super::leg::{Leg, Note, PacketKind, Seen};
use super::{NONE, SECOND, Table};
use crate::trace::live::{Live, LiveLegs};
use hashbrown::hash_table::Entry;

/// A leg that has been quiet for so long is put to rest when room is needed.
const IDLE: u32 = 10 * SECOND;
/// The same for one that has ended. Stragglers wake it again, which costs little.
const LINGER: u32 = SECOND / 100;

impl Table {
    /// Makes room among the live legs before their table would grow: what has ended or been quiet for long is put to rest.
    #[cold]
    pub(super) fn make_room(&mut self, now: i64) {
        let now = self.tick(now);
        let (idle, ended) = (now.saturating_sub(IDLE), now.saturating_sub(LINGER));
        let mut from = 0;
        loop {
            // What a leg saw itself needs no look at two other records; but often the other side alone ended the connection.
            let (legs, conversations) = (&self.legs, &self.conversations);
            let other_side = |leg: &Live| conversations[legs[leg.leg as usize].conversation as usize].has_ended();
            let has_ended = |leg: &Live| leg.seen.has(PacketKind::Fin) || leg.seen.has(PacketKind::Reset) || other_side(leg);
            let over = |leg: &Live| leg.last_tick < idle || (leg.last_tick < ended && has_ended(leg));
            let Some(at) = self.live.next(from, over) else { break };
            self.rest(at);
            from = at;
        }
        self.live.settle_for_size();
    }

    /// Writes a live leg back to its record and gives its place away.
    pub(super) fn rest(&mut self, at: usize) {
        let live = self.live.remove(at);
        self.write_back(&live);
    }

    fn write_back(&mut self, live: &Live) {
        let leg = &mut self.legs[live.leg as usize];
        leg.packets = leg.packets.saturating_add(live.packets.into());
        leg.high_seq = live.high_seq;
        leg.last_tick = leg.last_tick.max(live.last_tick);
        leg.seen = Seen(leg.seen.0 | live.seen.0);
        leg.repeats = live.repeats;
        leg.longest = live.longest;
        let c = &mut self.conversations[leg.conversation as usize];
        c.last_tick = c.last_tick.max(live.last_tick);
        c.samples |= RESTED;
    }

    /// Takes out the conversations that are not kept, with all they have, and says where each has gone ([`NONE`]: it is no more).
    pub(in crate::trace) fn retain(&mut self, kept: &[bool]) -> Vec<u32> {
        // Where each record goes: the number of kept ones before it.
        let places = |kept: &[bool]| {
            let place = |next: &mut u32, kept: &bool| Some(if *kept { std::mem::replace(next, *next + 1) } else { NONE });
            kept.iter().scan(0, place).collect::<Vec<u32>>()
        };
        let moved = places(kept);
        let leg_kept: Vec<bool> = self.legs.iter().map(|leg| kept[leg.conversation as usize]).collect();
        let mut note_kept = vec![false; self.notes.len()];
        for (c, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
            let mut at = self.conversations[c].notes;
            while let Some(note) = self.notes.get(at as usize) {
                note_kept[at as usize] = true;
                at = note.next;
            }
        }
        let (legs_moved, notes_moved) = (places(&leg_kept), places(&note_kept));
        let to = |moved: &[u32], at: u32| moved.get(at as usize).copied().unwrap_or(NONE);
        let old = std::mem::take(&mut self.conversations);
        self.index.clear();
        for (mut c, kept) in old.into_iter().zip(kept) {
            if !kept {
                continue;
            }
            let number = self.conversations.len() as u32;
            (c.legs, c.notes) = (to(&legs_moved, c.legs), to(&notes_moved, c.notes));
            // Joined conversations stay or go together; whoever lost its parent all the same speaks for itself.
            c.parent = Some(to(&moved, c.parent)).filter(|parent| *parent != NONE).unwrap_or(number);
            let conversations = &self.conversations;
            let tuple_of = |at: u32| if at == number { c.tuple } else { conversations[at as usize].tuple };
            c.older = match self.index.entry(c.tuple.hash(), |&at| tuple_of(at) == c.tuple, |&at| tuple_of(at).hash()) {
                Entry::Occupied(mut newest) => std::mem::replace(newest.get_mut(), number),
                Entry::Vacant(entry) => {
                    entry.insert(number);
                    NONE
                }
            };
            self.conversations.push(c);
        }
        let legs = std::mem::take(&mut self.legs).into_iter().zip(leg_kept).filter(|(_, kept)| *kept);
        self.legs =
            legs.map(|(leg, _)| Leg { next: to(&legs_moved, leg.next), conversation: to(&moved, leg.conversation), ..leg }).collect();
        let notes = std::mem::take(&mut self.notes).into_iter().zip(note_kept).filter(|(_, kept)| *kept);
        self.notes = notes.map(|(note, _)| Note { next: to(&notes_moved, note.next), ..note }).collect();
        let live = std::mem::replace(&mut self.live, LiveLegs::new());
        for leg in live.iter() {
            let at = to(&legs_moved, leg.leg);
            if at != NONE {
                self.live.insert(Live { leg: at, ..*leg });
            }
        }
        moved
    }

    /// Writes everything back: the table is complete.
    pub(in crate::trace) fn settle(&mut self) {
        let live = std::mem::replace(&mut self.live, LiveLegs::new());
        for leg in live.iter() {
            self.write_back(leg);
        }
    }
}
