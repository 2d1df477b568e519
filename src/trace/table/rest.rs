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

#[cfg(test)]
mod tests {
    use super::super::{Sighting, Table, gate};
    use crate::net::{Endpoint, FiveTuple, Protocol};
    use crate::packet::TcpFlags;
    use crate::trace::live::leg_hash;
    use crate::trace::tuple::AddressBook;

    /// Connections of which one side alone is seen to end, ten a millisecond: what they take is given back.
    #[test]
    fn the_other_side_may_have_ended_it() {
        let (mut table, mut book) = (Table::new(1 << 20), AddressBook::default());
        let service: Endpoint = "10.0.0.1:80".parse().unwrap();
        for n in 0..40_000u32 {
            let client = Endpoint::new(std::net::Ipv4Addr::from(0x0a01_0000 + n / 1000).into(), 1024 + (n % 1000) as u16);
            let request = FiveTuple { protocol: Protocol::Tcp, src: client, dst: service };
            let packets = [(request, 2, 0x02, 7, 0), (request.reversed(), 1, 0x12, 9, 8), (request, 2, 0x11, 8, 10)];
            for (at, (tuple, wire, flags, seq, ack)) in packets.into_iter().enumerate() {
                let (tuple, flags) = (book.compact(tuple), TcpFlags(flags));
                let (hash, frame) = (leg_hash(tuple, wire), n * 3 + at as u32 + 1);
                let time = i64::from(n) * 100_000 + at as i64;
                let (payload_len, ttl, id) = (0, 64, frame as u16);
                table.see(&Sighting {
                    tuple,
                    wire,
                    hash,
                    time,
                    frame,
                    seq,
                    ack,
                    flags,
                    payload_len,
                    ttl,
                    id,
                    gate: gate(ttl, flags, false),
                });
            }
        }
        assert_eq!(table.conversations.len(), 40_000);
        assert!(table.live.capacity() <= 1 << 15, "{} places", table.live.capacity());
    }
}
