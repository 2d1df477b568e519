//! Packets that may mean something: the first of a leg, a handshake, a repeat, an end.

use super::conversation::{Conversation, ENDED, RESTED};
use super::leg::{Leg, Note, NoteKind, PacketKind, Seen};
use super::sighting::Sighting;
use super::{Known, Look, NONE, SECOND, SILENCE, TICK, Table};
use crate::trace::live::Live;
use crate::trace::tuple::Tuple;
use hashbrown::hash_table::Entry;

/// Bounds for hostile captures; real connections stay far below.
const MAX_LEGS: u8 = 200;
const MAX_NOTES: u8 = 48;
const MAX_INCARNATIONS: usize = 8;
/// Data repeats noted for each leg; further ones are counted.
const MAX_REPEAT_NOTES: u8 = 4;
/// The same packet again within this time, where there is no IP-ID to tell: a copy made by the capture, not a retransmission.
const COPY: u32 = SECOND / 50;

/// How many packets of a new leg are looked at closely.
const CLOSE_LOOKS_TCP: u8 = 1;
const CLOSE_LOOKS_MIDSTREAM: u8 = 5;
const CLOSE_LOOKS_OTHER: u8 = 8;

impl Table {
    /// A packet of a known leg that may mean something.
    #[cold]
    pub(super) fn unusual(&mut self, s: &Sighting, at: usize) -> Look {
        let (leg, now) = (*self.live.get(at), self.tick(s.time));
        let record = &mut self.legs[leg.leg as usize];
        let (conversation, from_b) = (record.conversation, s.tuple.canonical().1);
        if record.wire != s.wire || self.conversations[conversation as usize].tuple != s.tuple.canonical().0 {
            return Look::Clash;
        }
        let first = record.packets == 0 && leg.packets == 0;
        record.packets = record.packets.saturating_add(u32::from(leg.packets) + 1);
        let kind = s.kind();
        if kind == PacketKind::Syn && self.opens_again(s, conversation) {
            self.legs[leg.leg as usize].packets -= 1;
            self.rest(at);
            return self.first_of_leg(s);
        }
        if matches!(kind, PacketKind::Syn | PacketKind::SynAck) {
            self.conversations[conversation as usize].learn(s, kind, from_b);
        }
        let silence = now.saturating_sub(leg.last_tick);
        let end = s.seq_end();
        let ahead = end.wrapping_sub(leg.high_seq).cast_signed();
        let same = (leg.last_id == s.id && (ahead == 0 || !s.is_tcp())) || (leg.other_id == s.id && s.id != 0 && ahead <= 0 && s.is_tcp());
        let copy = !first && same && (s.id != 0 || silence < COPY);
        let passed = s.is_tcp() && ahead <= 0 && !first;
        let note = match kind {
            _ if copy && s.ttl < leg.ttl() => Some(NoteKind::Loop),
            _ if copy => None,
            PacketKind::Reset => Some(NoteKind::Reset),
            PacketKind::Syn if leg.seen.has(PacketKind::Syn) => Some(NoteKind::SynRepeat),
            PacketKind::SynAck if leg.seen.has(PacketKind::SynAck) => Some(NoteKind::SynAckRepeat),
            PacketKind::Data if passed && leg.repeats < MAX_REPEAT_NOTES => Some(NoteKind::DataRepeat),
            _ if silence >= SILENCE => Some(NoteKind::AfterSilence),
            _ if s.ttl != leg.ttl() => Some(NoteKind::TtlChange),
            _ => None,
        };
        // A FULLNAT balancer writes the client's address into one of the first segments.
        let odd = s.gate >> 15 == 1 && self.legs[leg.leg as usize].packets < 16;
        let closer = !copy && (leg.close_looks() > 0 || odd || matches!(kind, PacketKind::Syn | PacketKind::SynAck));
        let live = self.live.get(at);
        live.packets = 0;
        if kind == PacketKind::Data && passed && !copy {
            live.repeats = live.repeats.saturating_add(1);
        }
        live.longest = live.longest.max(s.payload_len.min(0xffff) as u16);
        live.last_tick = now;
        live.saw_id(s.id);
        let ttl = if note == Some(NoteKind::Loop) { live.ttl() } else { s.ttl };
        if ahead > 0 && kind != PacketKind::Reset {
            live.high_seq = end;
        }
        live.seen.add(kind);
        live.gate = u16::from(live.close_looks().saturating_sub(1)) << 8 | u16::from(ttl);
        if let Some(note) = note {
            let silence_ms = u32::try_from((i64::from(silence) << TICK) / 1_000_000).unwrap_or(u32::MAX);
            let len = if note == NoteKind::AfterSilence { silence_ms } else { s.payload_len };
            self.note(conversation, s, note, len);
        }
        if matches!(kind, PacketKind::Fin | PacketKind::Reset) {
            self.conversations[conversation as usize].samples |= ENDED;
        }
        if closer { Look::Closer(conversation) } else { Look::Done }
    }

    /// A SYN whose sequence number is not the conversation's: the port is used for a new connection.
    fn opens_again(&self, s: &Sighting, conversation: u32) -> bool {
        let c = &self.conversations[conversation as usize];
        let from_b = s.tuple.canonical().1;
        s.has_handshake() && !c.may_begin_with(s.seq, c.from_client(from_b))
    }

    #[cold]
    pub(super) fn first_of_leg(&mut self, s: &Sighting) -> Look {
        if self.conversations.is_empty() {
            self.epoch = s.time;
        }
        let (canonical, from_b) = s.tuple.canonical();
        let Some(conversation) = self.conversation_of(s, canonical, from_b) else { return Look::Full };
        let kind = s.kind();
        self.conversations[conversation as usize].learn(s, kind, from_b);
        // Legs that were never put to rest are in the table of live ones.
        let rested = self.conversations[conversation as usize].samples & RESTED != 0;
        let mut leg = if rested { self.leg_of(conversation, s.wire, from_b) } else { NONE };
        let known = leg != NONE;
        let c = &mut self.conversations[conversation as usize];
        let midstream = s.is_tcp() && !c.known.has(Known::CLIENT_ISN);
        let mut seen = Seen(if from_b { Seen::FROM_B.0 } else { 0 });
        if !known {
            if c.leg_count >= MAX_LEGS {
                return Look::Full;
            }
            c.leg_count += 1;
            leg = self.legs.len() as u32;
            let first = s.time.cast_unsigned();
            self.legs.push(Leg {
                wire: s.wire,
                next: std::mem::replace(&mut c.legs, leg),
                first_time: [(first >> 32) as u32, first as u32],
                last_tick: 0,
                first_frame: s.frame,
                packets: 0,
                conversation,
                high_seq: s.seq,
                ttl: s.ttl,
                first: kind,
                seen,
                repeats: 0,
                mss: 0,
                longest: 0,
                print: s.print(),
            });
        } else {
            seen = self.legs[leg as usize].seen;
        }
        let rested = self.legs[leg as usize];
        let close_looks = match (s.tuple.protocol(), known) {
            (_, true) => 0,
            (6, _) if midstream => CLOSE_LOOKS_MIDSTREAM,
            (6, _) => CLOSE_LOOKS_TCP,
            _ => CLOSE_LOOKS_OTHER,
        };
        let live = Live {
            hash: s.hash,
            leg,
            high_seq: rested.high_seq,
            last_tick: if known { rested.last_tick } else { self.tick(s.time) },
            packets: 0,
            longest: rested.longest,
            last_id: s.id.wrapping_sub(1),
            other_id: s.id.wrapping_sub(1),
            gate: u16::from(close_looks) << 8 | u16::from(rested.ttl),
            seen,
            repeats: rested.repeats,
        };
        if self.live.is_full() {
            self.make_room(s.time);
        }
        let at = self.live.insert(live);
        self.unusual(s, at)
    }

    /// The incarnation that the packet belongs to, made if there is none. `None` when the table is full.
    fn conversation_of(&mut self, s: &Sighting, canonical: Tuple, from_b: bool) -> Option<u32> {
        let (hash, now) = (canonical.hash(), self.tick(s.time));
        let (new, conversations) = (self.conversations.len() as u32, &self.conversations);
        let tuple_of = |at: u32| conversations[at as usize].tuple;
        let mut entry = match self.index.entry(hash, |&at| tuple_of(at) == canonical, |&at| tuple_of(at).hash()) {
            Entry::Vacant(_) if conversations.len() >= self.max_conversations => return None,
            Entry::Vacant(entry) => {
                entry.insert(new);
                self.conversations.push(Conversation::new(canonical, from_b, new, NONE));
                return Some(new);
            }
            Entry::Occupied(entry) => entry,
        };
        let newest = *entry.get();
        let mut at = newest;
        for _ in 0..MAX_INCARNATIONS {
            let Some(c) = self.conversations.get(at as usize) else { break };
            if c.takes(s, from_b, now) {
                return Some(at);
            }
            at = c.older;
        }
        if s.kind() != PacketKind::Syn {
            return Some(newest);
        }
        if self.conversations.len() >= self.max_conversations {
            return None;
        }
        *entry.get_mut() = new;
        self.conversations.push(Conversation::new(canonical, from_b, new, newest));
        Some(new)
    }

    /// What timestamps tell of a handshake whose SYN came again: which of them the SYN-ACK answers.
    pub(in crate::trace) fn stamped(&mut self, conversation: u32, s: &Sighting, (value, echo): (u32, u32)) {
        let mut at = self.conversations[conversation as usize].notes;
        while let Some(note) = self.notes.get_mut(at as usize) {
            at = note.next;
            if note.kind != NoteKind::SynRepeat {
                continue;
            }
            if s.flags.opens() && (note.wire, note.frame) == (s.wire, s.frame) {
                note.len = value;
                return;
            }
            if s.flags.accepts() && note.len == echo && echo != 0 && note.from_b != s.tuple.canonical().1 {
                return self.note(conversation, s, NoteKind::LateSynAck, 0);
            }
        }
    }

    fn note(&mut self, conversation: u32, s: &Sighting, kind: NoteKind, len: u32) {
        let c = &mut self.conversations[conversation as usize];
        if c.note_count >= MAX_NOTES {
            return;
        }
        c.note_count += 1;
        let at = self.notes.len() as u32;
        let from_b = s.tuple.canonical().1;
        let next = std::mem::replace(&mut c.notes, at);
        self.notes.push(Note { next, wire: s.wire, time: s.time, frame: s.frame, seq: s.seq, len, ttl: s.ttl, kind, from_b });
    }
}
