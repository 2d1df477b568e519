//! The table of conversations: what is kept of each while packets stream by, in a few hundred bytes.
//!
//! A **conversation** is one 5-tuple in both directions, one incarnation of it (a port that is used again is a new one). A **leg** is one
//! direction of a conversation on one [`super::wire::Wire`]: a MAC pair at a capture point. What is kept of a leg for good is 48 bytes;
//! what following its packets needs beside that (a *live* leg, one cache line) is given back when the leg has been quiet. Nothing is
//! kept per packet, so memory grows with connections and not with bytes; packets that matter for a diagnosis (repeats, resets, loops)
//! leave bounded [`Note`]s.

mod close;
mod conversation;
mod leg;
mod rest;
mod sighting;

pub(in crate::trace) use conversation::{Conversation, Known};
pub(in crate::trace) use leg::{Leg, Note, Seen};
pub use leg::{NoteKind, PacketKind};
pub(in crate::trace) use sighting::{Glimpse, Sighting, gate};

use super::live::LiveLegs;
use super::tuple::Tuple;
use hashbrown::HashTable;

/// No record: the end of a list.
pub(in crate::trace) const NONE: u32 = u32::MAX;

/// What the caller has to do after [`Table::see`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// Nothing.
    Done,
    /// Look at the packet closely and hand what it shows to the conversation.
    Closer(u32),
    /// The table is full: the packet was not placed.
    Full,
    /// Another leg has the same hash: the packet was not placed.
    Clash,
}

/// Ticks are 2^20 ns long.
const TICK: u32 = 20;
const SECOND: u32 = 1_000_000_000 >> TICK;
/// A silence worth noting: IPVS forgets an established TCP connection after 900 s.
const SILENCE: u32 = 120 * SECOND;
/// IPVS forgets a UDP conversation after this silence.
const UDP_TIMEOUT: u32 = 300 * SECOND;
/// Records that there is room for from the beginning: so many that the allocator maps pages for them alone. Those are taken when they are
/// written to, and the list grows by moving them, not what is in them.
const ROOM: usize = 1 << 12;

/// All conversations of a trace.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) conversations: Vec<Conversation>,
    index: HashTable<u32>,
    pub(super) legs: Vec<Leg>,
    pub(super) notes: Vec<Note>,
    live: LiveLegs,
    /// Working memory of [`Table::warm_records`].
    warming: Vec<(u32, u32)>,
    /// Time of the trace's first packet.
    epoch: i64,
    max_conversations: usize,
}

impl Table {
    pub(super) fn new(max_conversations: usize) -> Self {
        Table {
            conversations: Vec::with_capacity(ROOM),
            index: HashTable::new(),
            legs: Vec::with_capacity(ROOM),
            notes: Vec::new(),
            live: LiveLegs::new(),
            warming: Vec::new(),
            epoch: i64::MAX,
            max_conversations: max_conversations.min(NONE as usize - 1),
        }
    }

    /// A time as records keep it: units of 2^20 ns, about a millisecond, since the first packet of the trace. Enough for 50 days.
    #[inline(always)]
    fn tick(&self, time: i64) -> u32 {
        // Times are never negative (see [`super::clock::LATEST`]), nor is the epoch: no difference of two overflows.
        let since = time.wrapping_sub(self.epoch).max(0) >> TICK;
        since.min(i64::from(u32::MAX)) as u32
    }

    /// The time that a tick stands for.
    pub(super) fn time_of(&self, tick: u32) -> i64 {
        self.epoch.saturating_add(i64::from(tick) << TICK)
    }

    /// Brings the live legs of these packets into the cache, all at once.
    #[inline(always)]
    pub(super) fn warm(&self, hashes: impl Iterator<Item = u64>) {
        // Independent loads: the processor has them all under way before the first arrives.
        let touched = hashes.fold(0, |touched, hash| touched ^ self.live.touch(hash));
        std::hint::black_box(touched);
    }

    /// The same with what packets need that are not to be passed over: their leg's record and its conversation, or the conversation that
    /// gets a new leg.
    pub(super) fn warm_records<'a>(&mut self, packets: impl Iterator<Item = &'a Sighting>) {
        let mut touched = 0;
        self.warming.clear();
        for s in packets {
            match self.live.find(s.hash) {
                Some(at) => self.warming.push((self.live.leg(at), NONE)),
                None => self.warming.push((NONE, self.index.find(s.tuple.canonical().0.hash(), |_| true).copied().unwrap_or(NONE))),
            }
        }
        // A record of 48 bytes may lie across two cache lines.
        for (leg, conversation) in &mut self.warming {
            if let Some(leg) = self.legs.get(*leg as usize) {
                touched ^= leg.wire ^ leg.print;
                *conversation = leg.conversation;
            }
        }
        let conversations = self.warming.iter().filter_map(|(_, c)| self.conversations.get(*c as usize));
        touched = conversations.fold(touched, |touched, c| touched ^ c.tuple.protocol() as u32 ^ u32::from(c.samples));
        std::hint::black_box(touched);
    }

    /// Takes in one packet.
    pub(super) fn see(&mut self, s: &Sighting) -> Look {
        if self.pass(&s.glimpse()) {
            return Look::Done;
        }
        match self.live.find(s.hash) {
            Some(at) => self.unusual(s, at),
            None => self.first_of_leg(s),
        }
    }

    /// Takes in a packet if it is one of a known leg that means nothing in particular, as nearly all do; false if it has to be looked at.
    #[inline(always)]
    pub(super) fn pass(&mut self, s: &Glimpse) -> bool {
        let Some(at) = self.live.find(s.hash) else { return false };
        let now = self.tick(s.time);
        let leg = self.live.get(at);
        if s.gate != leg.gate || now.wrapping_sub(leg.last_tick) >= SILENCE || leg.packets == u16::MAX {
            return false;
        }
        let end = s.seq.wrapping_add(s.payload_len);
        let ahead = end.wrapping_sub(leg.high_seq).cast_signed();
        if s.payload_len > 0 && ahead <= 0 && s.tcp {
            let again = s.id != 0 && ((ahead == 0 && s.id == leg.last_id) || s.id == leg.other_id);
            if again {
                leg.last_tick = now; // the same packet again: seen on a bridge and its port, or at both ends of a wire
            }
            return again;
        }
        leg.packets += 1;
        leg.longest = leg.longest.max(s.payload_len.min(0xffff) as u16);
        leg.last_tick = now;
        leg.saw_id(s.id);
        leg.high_seq = if ahead > 0 { end } else { leg.high_seq };
        leg.seen.add(if s.payload_len > 0 { PacketKind::Data } else { PacketKind::Ack });
        true
    }

    fn leg_of(&self, conversation: u32, wire: u32, from_b: bool) -> u32 {
        self.legs_of(conversation).find(|(_, leg)| leg.wire == wire && leg.seen.from_b() == from_b).map_or(NONE, |(at, _)| at)
    }

    /// The leg that a packet just taken in was counted to.
    pub(super) fn leg_seen(&self, hash: u64) -> Option<u32> {
        self.live.find(hash).map(|at| self.live.leg(at))
    }

    /// Keeps what a close look at a packet showed of its leg.
    pub(super) fn annotate(&mut self, conversation: u32, s: &Sighting, mss: Option<u16>, toa: bool) {
        let leg = self.leg_of(conversation, s.wire, s.tuple.canonical().1);
        if let Some(leg) = self.legs.get_mut(leg as usize) {
            leg.mss = mss.unwrap_or(leg.mss);
            leg.seen.0 |= if toa { Seen::TOA.0 } else { 0 };
        }
    }

    /// The legs of one conversation, latest first.
    pub(super) fn legs_of(&self, conversation: u32) -> impl Iterator<Item = (u32, &Leg)> {
        let mut at = self.conversations[conversation as usize].legs;
        std::iter::from_fn(move || {
            let leg = self.legs.get(at as usize)?;
            Some((std::mem::replace(&mut at, leg.next), leg))
        })
    }

    /// The notes of one conversation, latest first.
    pub(super) fn notes_of(&self, conversation: u32) -> impl Iterator<Item = &Note> {
        let mut at = self.conversations[conversation as usize].notes;
        std::iter::from_fn(move || {
            let note = self.notes.get(at as usize)?;
            at = note.next;
            Some(note)
        })
    }

    /// The newest conversation of a 5-tuple, in either direction.
    pub(super) fn find(&self, tuple: Tuple) -> Option<u32> {
        let (canonical, _) = tuple.canonical();
        self.index.find(canonical.hash(), |&at| self.conversations[at as usize].tuple == canonical).copied()
    }
}
