//! The table of conversations: what is kept of each while packets stream by, in a few hundred bytes.
//!
//! A **conversation** is one 5-tuple in both directions, one incarnation of it (a port that is used again is a new one). A **leg** is one
//! direction of a conversation on one [`super::wire::Wire`]: a MAC pair at a capture point. What is kept of a leg for good is 44 bytes;
//! what following its packets needs beside that (a *live* leg, one cache line) is given back when the leg has been quiet. Nothing is
//! kept per packet, so memory grows with connections and not with bytes; packets that matter for a diagnosis (repeats, resets, loops)
//! leave bounded [`Note`]s.

use super::live::{Live, LiveLegs, leg_hash};
use super::tuple::Tuple;
use crate::packet::TcpFlags;
use hashbrown::HashTable;
use std::collections::VecDeque;

/// What the table needs to know of one packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    pub(super) tuple: Tuple,
    pub(super) wire: u32,
    /// [`leg_hash`] of both.
    pub(super) hash: u64,
    /// Nanoseconds on the capture point's clock.
    pub(super) time: i64,
    pub(super) frame: u32,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: TcpFlags,
    pub(super) payload_len: u32,
    pub(super) ttl: u8,
    pub(super) id: u16,
}

impl Sighting {
    fn is_tcp(&self) -> bool {
        self.tuple.protocol == 6
    }

    /// TCP, and SCTP, whose initiate tags stand in for sequence numbers.
    fn has_handshake(&self) -> bool {
        matches!(self.tuple.protocol, 6 | 132)
    }

    /// Sequence number after this packet.
    fn seq_end(&self) -> u32 {
        let phantom = u32::from(self.flags.0 & (TcpFlags::SYN.0 | TcpFlags::FIN.0) != 0);
        self.seq.wrapping_add(self.payload_len).wrapping_add(phantom)
    }
}

/// No record: the end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// One incarnation of a 5-tuple, both directions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conversation {
    /// In canonical order: `src` is "side A", `dst` "side B".
    pub(super) tuple: Tuple,
    /// The incarnation before this one.
    pub(super) older: u32,
    /// Its latest leg; the others follow by `Leg::next`.
    pub(super) legs: u32,
    /// The conversation that speaks for the whole flow, once joined (a forest of parents).
    pub(super) parent: u32,
    /// TCP: initial sequence number of the client, or the first one seen of it. SCTP: its initiate tag.
    pub(super) client_seq: u32,
    /// The same of the server.
    pub(super) server_seq: u32,
    /// Its latest note.
    pub(super) notes: u32,
    /// Milliseconds from the trace's first packet to this conversation's last.
    pub(super) last_ms: u32,
    pub(super) known: Known,
    pub(super) note_count: u8,
    pub(super) leg_count: u8,
    pub(super) samples: u8,
}

/// What is known of a conversation, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Known(u8);

impl Known {
    /// `client_seq` is the SYN's: the handshake was seen.
    pub(super) const CLIENT_ISN: Known = Known(1);
    /// `server_seq` is the SYN-ACK's.
    pub(super) const SERVER_ISN: Known = Known(2);
    /// The client is side B.
    pub(super) const CLIENT_IS_B: Known = Known(4);
    /// Which side is the client is certain (a SYN, a SYN-ACK), not guessed from the first packet.
    pub(super) const ORIENTED: Known = Known(8);
    /// `client_seq` holds a number, be it the ISN or the first one seen.
    pub(super) const CLIENT_SEQ: Known = Known(16);
    /// The same for `server_seq`.
    pub(super) const SERVER_SEQ: Known = Known(32);
    /// Joined with a conversation on the other side of a rewrite.
    pub(super) const JOINED: Known = Known(64);
    /// Part of a join that was refused because several fitted equally well.
    pub(super) const AMBIGUOUS: Known = Known(128);

    pub(super) fn has(self, other: Known) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn set(&mut self, other: Known) {
        self.0 |= other.0;
    }

    pub(super) fn put(&mut self, other: Known, on: bool) {
        self.0 = if on { self.0 | other.0 } else { self.0 & !other.0 };
    }
}

impl Conversation {
    /// True when a packet whose tuple had to be flipped (`from_b`) comes from the client.
    pub(super) fn from_client(&self, from_b: bool) -> bool {
        self.known.has(Known::CLIENT_IS_B) == from_b
    }

    /// The tuple as the client's packets have it.
    pub(super) fn request(&self) -> Tuple {
        if self.known.has(Known::CLIENT_IS_B) { self.tuple.reversed() } else { self.tuple }
    }
}

/// One direction of a conversation on one wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    pub(super) wire: u32,
    pub(super) next: u32,
    /// When its first packet was seen, in nanoseconds on that point's clock, as two halves: the record stays at 44 bytes.
    first_time: [u32; 2],
    /// Milliseconds from the trace's first packet to its last one.
    pub(super) last_ms: u32,
    /// Frame number of its first packet.
    pub(super) first_frame: u32,
    pub(super) packets: u32,
    /// Payload bytes, repeats included.
    pub(super) bytes: u32,
    /// TCP: the sequence number after the last byte seen.
    pub(super) high_seq: u32,
    pub(super) ttl: u8,
    /// What the first packet was.
    pub(super) first: PacketKind,
    /// Kinds of packets seen, as `PacketKind` bits; and the direction.
    pub(super) seen: Seen,
    /// Data packets seen again with a sequence number already passed.
    pub(super) repeats: u8,
    /// Maximum segment size that its SYN or SYN-ACK announced; 0: none seen.
    pub(super) mss: u16,
    /// A FULLNAT balancer's option with the client's address was seen.
    pub(super) toa: bool,
}

impl Leg {
    pub(super) fn first_time(&self) -> i64 {
        (u64::from(self.first_time[0]) << 32 | u64::from(self.first_time[1])) as i64
    }
}

/// What a packet is to its connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum PacketKind {
    /// A client opens: SYN; SCTP INIT.
    Syn,
    /// A server accepts: SYN-ACK; SCTP INIT ACK.
    SynAck,
    /// A reset.
    Reset,
    /// The end of one direction.
    Fin,
    /// Payload.
    Data,
    /// A bare acknowledgement.
    Ack,
}

/// Kinds of packets, and a direction, in a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen(pub(super) u8);

impl Seen {
    pub(super) const FROM_B: Seen = Seen(128);

    pub(super) fn has(self, kind: PacketKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    fn add(&mut self, kind: PacketKind) {
        self.0 |= 1 << kind as u8;
    }

    pub(super) fn from_b(self) -> bool {
        self.0 & Self::FROM_B.0 != 0
    }
}

/// A packet that a diagnosis may need: kept with its frame number, a bounded number for each conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    pub(super) next: u32,
    pub(super) wire: u32,
    pub(super) time: i64,
    pub(super) frame: u32,
    pub(super) seq: u32,
    pub(super) len: u32,
    pub(super) ttl: u8,
    pub(super) kind: NoteKind,
    pub(super) from_b: bool,
}

/// Why a packet was noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum NoteKind {
    /// The SYN again.
    SynRepeat,
    /// The SYN-ACK again.
    SynAckRepeat,
    /// Data again that had been sent before.
    DataRepeat,
    /// A reset.
    Reset,
    /// The very same packet on the same wire with a smaller TTL: it goes round.
    Loop,
    /// The TTL of this leg changed.
    TtlChange,
    /// The first packet after a long silence; `len` is the silence in milliseconds.
    AfterSilence,
    /// The first data packet on this leg that is nearly as long as the MTU allows.
    LongData,
}

/// What the caller has to do after [`Table::see`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// Nothing.
    Done,
    /// Look at the packet closely and hand what it shows to the conversation.
    Closer(u32),
    /// The table is full: the packet was not placed.
    Full,
}

/// A leg that is quiet for so long is put to rest.
const IDLE: i64 = 30_000_000_000;
/// How long after its end a conversation is kept live. Stragglers wake it again, which costs little.
const LINGER: i64 = 10_000_000;
/// A silence worth noting: IPVS forgets an established TCP connection after 900 s, a UDP one after 300 s.
const SILENCE: i64 = 120_000_000_000;
/// Segments of at least this many bytes are what a smaller MTU on the way stops.
const LONG: u32 = 1200;
/// Bounds for hostile captures; real connections stay far below.
const MAX_LEGS: u8 = 200;
const MAX_NOTES: u8 = 48;
const MAX_INCARNATIONS: usize = 8;
/// Data repeats noted for each leg; further ones are counted.
const MAX_REPEAT_NOTES: u8 = 4;
/// The same packet again within this time, where there is no IP-ID to tell: a copy made by the capture, not a retransmission.
const COPY: i64 = 20_000_000;

/// How many packets of a new leg are looked at closely.
pub(super) const CLOSE_LOOKS_TCP: u8 = 1;
pub(super) const CLOSE_LOOKS_MIDSTREAM: u8 = 5;
pub(super) const CLOSE_LOOKS_OTHER: u8 = 8;

pub(super) struct Table {
    pub(super) conversations: Vec<Conversation>,
    index: HashTable<u32>,
    pub(super) legs: Vec<Leg>,
    pub(super) notes: Vec<Note>,
    live: LiveLegs,
    /// Conversations that ended, with the time at which to put them to rest.
    ending: VecDeque<(i64, u32)>,
    next_sweep: i64,
    since_sweep: u32,
    /// Time of the trace's first packet.
    epoch: Option<i64>,
    max_conversations: usize,
}

impl Table {
    pub(super) fn new(max_conversations: usize) -> Self {
        Table {
            conversations: Vec::new(),
            index: HashTable::new(),
            legs: Vec::new(),
            notes: Vec::new(),
            live: LiveLegs::new(),
            ending: VecDeque::new(),
            next_sweep: 0,
            since_sweep: 0,
            epoch: None,
            max_conversations: max_conversations.min(NONE as usize - 1),
        }
    }

    /// Milliseconds since the first packet of the trace, as records keep them.
    pub(super) fn ms(&self, time: i64) -> u32 {
        let since = time.saturating_sub(self.epoch.unwrap_or(time)).max(0) / 1_000_000;
        u32::try_from(since).unwrap_or(u32::MAX)
    }

    /// The time on a point's clock that `ms` stands for.
    pub(super) fn from_ms(&self, ms: u32) -> i64 {
        self.epoch.unwrap_or(0).saturating_add(i64::from(ms) * 1_000_000)
    }

    /// Brings the records of these packets into the cache, all at once.
    pub(super) fn warm<'a>(&self, packets: impl Iterator<Item = &'a Sighting>) {
        // Independent loads: the processor has them all under way before the first arrives.
        let touched: usize = packets.map(|s| self.live.touch(s.hash)).sum();
        std::hint::black_box(touched);
    }

    /// Takes in one packet.
    #[inline]
    pub(super) fn see(&mut self, s: &Sighting) -> Look {
        let Some(at) = self.live.find(s.hash, s.tuple, s.wire) else {
            return self.first_of_leg(s);
        };
        let leg = self.live.get(at);
        let quiet = s.time.wrapping_sub(leg.last_time);
        let end = s.seq.wrapping_add(s.payload_len);
        let ahead = end.wrapping_sub(leg.high_seq).cast_signed();
        let unflagged = s.flags.0 & 0x07 == 0 && s.ttl == leg.ttl;
        if unflagged && s.seq == leg.last_seq && s.id == leg.last_id && s.id != 0 && leg.close_looks == 0 {
            leg.last_time = s.time; // the same packet again: seen on a bridge and its port, or at both ends of a wire
            return Look::Done;
        }
        let plain = unflagged
            && leg.close_looks == 0
            && quiet < SILENCE
            && (s.payload_len == 0 || (s.payload_len < LONG || leg.long_noted) && (ahead > 0 || !s.is_tcp()));
        if !plain {
            return self.unusual(s, at);
        }
        leg.packets += 1;
        leg.bytes = leg.bytes.saturating_add(s.payload_len);
        leg.last_time = s.time;
        leg.last_id = s.id;
        leg.last_seq = s.seq;
        if ahead > 0 {
            leg.high_seq = end;
        }
        leg.seen.add(if s.payload_len > 0 { PacketKind::Data } else { PacketKind::Ack });
        self.since_sweep += 1;
        if self.since_sweep >= 1024 {
            self.tidy(s.time);
        }
        Look::Done
    }

    /// A packet of a known leg that may mean something.
    #[cold]
    fn unusual(&mut self, s: &Sighting, at: usize) -> Look {
        let leg = *self.live.get(at);
        let kind = kind_of(s);
        if kind == PacketKind::Syn && self.opens_again(s, leg.conversation) {
            self.rest(at);
            return self.first_of_leg(s);
        }
        if matches!(kind, PacketKind::Syn | PacketKind::SynAck) {
            self.learn(leg.conversation, s, kind, s.tuple.canonical().1);
        }
        let same = leg.last_seq == s.seq && leg.last_id == s.id;
        let copy = same && (s.id != 0 || s.time.abs_diff(leg.last_time) < COPY.unsigned_abs());
        let end = s.seq_end();
        let ahead = end.wrapping_sub(leg.high_seq).cast_signed();
        let passed = s.is_tcp() && ahead <= 0 && leg.packets > 0;
        let note = match kind {
            _ if copy && s.ttl < leg.ttl => Some(NoteKind::Loop),
            _ if copy => None,
            PacketKind::Reset => Some(NoteKind::Reset),
            PacketKind::Syn if leg.seen.has(PacketKind::Syn) => Some(NoteKind::SynRepeat),
            PacketKind::SynAck if leg.seen.has(PacketKind::SynAck) => Some(NoteKind::SynAckRepeat),
            PacketKind::Data if passed && leg.repeats < MAX_REPEAT_NOTES => Some(NoteKind::DataRepeat),
            PacketKind::Data if s.payload_len >= LONG && !leg.long_noted => Some(NoteKind::LongData),
            _ if s.time.saturating_sub(leg.last_time) >= SILENCE => Some(NoteKind::AfterSilence),
            _ if s.ttl != leg.ttl => Some(NoteKind::TtlChange),
            _ => None,
        };
        let silence = s.time.saturating_sub(leg.last_time) / 1_000_000;
        let live = self.live.get(at);
        if kind == PacketKind::Data && passed && !copy {
            live.repeats = live.repeats.saturating_add(1);
        }
        live.long_noted |= note == Some(NoteKind::LongData);
        live.packets += 1;
        live.bytes = live.bytes.saturating_add(s.payload_len);
        live.last_time = s.time;
        live.last_seq = s.seq;
        live.last_id = s.id;
        if note != Some(NoteKind::Loop) {
            live.ttl = s.ttl;
        }
        if ahead > 0 && kind != PacketKind::Reset {
            live.high_seq = end;
        }
        live.seen.add(kind);
        let closer = live.close_looks > 0 || matches!(kind, PacketKind::Syn | PacketKind::SynAck);
        live.close_looks = live.close_looks.saturating_sub(1);
        if let Some(note) = note {
            let len = if note == NoteKind::AfterSilence { u32::try_from(silence).unwrap_or(u32::MAX) } else { s.payload_len };
            self.note(leg.conversation, s, note, len);
        }
        if matches!(kind, PacketKind::Fin | PacketKind::Reset) {
            self.ending.push_back((s.time.saturating_add(LINGER), leg.conversation));
        }
        if closer { Look::Closer(leg.conversation) } else { Look::Done }
    }

    /// A SYN whose sequence number is not the conversation's: the port is used for a new connection.
    fn opens_again(&self, s: &Sighting, conversation: u32) -> bool {
        let c = &self.conversations[conversation as usize];
        let from_b = s.tuple.canonical().1;
        let isn = if c.from_client(from_b) { (c.client_seq, Known::CLIENT_SEQ) } else { (c.server_seq, Known::SERVER_SEQ) };
        s.has_handshake() && c.known.has(isn.1) && isn.0 != s.seq
    }

    #[cold]
    fn first_of_leg(&mut self, s: &Sighting) -> Look {
        self.epoch.get_or_insert(s.time);
        let (canonical, from_b) = s.tuple.canonical();
        let Some(conversation) = self.conversation_of(s, canonical, from_b) else { return Look::Full };
        let kind = kind_of(s);
        self.learn(conversation, s, kind, from_b);
        let mut leg = self.leg_of(conversation, s.wire, from_b);
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
                last_ms: 0,
                first_frame: s.frame,
                packets: 0,
                bytes: 0,
                high_seq: s.seq,
                ttl: s.ttl,
                first: kind,
                seen,
                repeats: 0,
                mss: 0,
                toa: false,
            });
        } else {
            seen = self.legs[leg as usize].seen;
        }
        let rested = self.legs[leg as usize];
        let close_looks = match (s.tuple.protocol, known) {
            (_, true) => 0,
            (6, _) if midstream => CLOSE_LOOKS_MIDSTREAM,
            (6, _) => CLOSE_LOOKS_TCP,
            _ => CLOSE_LOOKS_OTHER,
        };
        let live = Live {
            tuple: s.tuple,
            wire: s.wire,
            leg,
            conversation,
            packets: 0,
            bytes: 0,
            high_seq: rested.high_seq,
            last_time: if known { self.from_ms(rested.last_ms) } else { s.time },
            last_seq: s.seq.wrapping_sub(1),
            last_id: s.id.wrapping_sub(1),
            ttl: rested.ttl,
            seen,
            repeats: rested.repeats,
            close_looks,
            long_noted: known,
            in_use: true,
        };
        self.since_sweep += 1;
        if self.since_sweep >= 1024 {
            self.tidy(s.time);
        }
        let at = self.live.insert(live);
        self.unusual(s, at)
    }

    /// The incarnation that the packet belongs to, made if there is none. `None` when the table is full.
    fn conversation_of(&mut self, s: &Sighting, canonical: Tuple, from_b: bool) -> Option<u32> {
        let hash = canonical.hash();
        let conversations = &self.conversations;
        let newest = self.index.find(hash, |&at| conversations[at as usize].tuple == canonical).copied();
        let mut at = newest.unwrap_or(NONE);
        for _ in 0..MAX_INCARNATIONS {
            let Some(c) = self.conversations.get(at as usize) else { break };
            if self.belongs(c, s, from_b) {
                return Some(at);
            }
            at = c.older;
        }
        if let (Some(newest), false) = (newest, kind_of(s) == PacketKind::Syn) {
            return Some(newest);
        }
        if self.conversations.len() >= self.max_conversations {
            return None;
        }
        let new = self.conversations.len() as u32;
        let mut known = Known::default();
        known.put(Known::CLIENT_IS_B, from_b);
        self.conversations.push(Conversation {
            tuple: canonical,
            older: newest.unwrap_or(NONE),
            legs: NONE,
            parent: new,
            client_seq: 0,
            server_seq: 0,
            notes: NONE,
            last_ms: 0,
            known,
            note_count: 0,
            leg_count: 0,
            samples: 0,
        });
        let conversations = &self.conversations;
        match self.index.find_mut(hash, |&at| conversations[at as usize].tuple == canonical) {
            Some(slot) => *slot = new,
            None => {
                self.index.insert_unique(hash, new, |&at| conversations[at as usize].tuple.hash());
            }
        }
        Some(new)
    }

    /// Whether a packet's numbers fit an incarnation.
    fn belongs(&self, c: &Conversation, s: &Sighting, from_b: bool) -> bool {
        let kind = kind_of(s);
        if !s.is_tcp() && (!s.has_handshake() || !matches!(kind, PacketKind::Syn | PacketKind::SynAck)) {
            // IPVS forgets a UDP conversation after 300 s of silence; what comes then is a new one.
            return self.ms(s.time).saturating_sub(c.last_ms) < 300_000;
        }
        let of_client = c.from_client(from_b);
        if kind == PacketKind::Syn {
            return if of_client {
                !c.known.has(Known::CLIENT_SEQ) || c.client_seq == s.seq
            } else {
                !c.known.has(Known::SERVER_SEQ) || c.server_seq == s.seq
            };
        }
        if s.seq == 0 && s.flags.has(TcpFlags::RST) {
            // A refusal has no sequence number of its own, but acknowledges the SYN.
            return !c.known.has(Known::CLIENT_ISN) || s.ack.wrapping_sub(1) == c.client_seq;
        }
        let (base, known) = if of_client { (c.client_seq, Known::CLIENT_SEQ) } else { (c.server_seq, Known::SERVER_SEQ) };
        let near = |seq: u32, base: u32| (-(1 << 20)..1 << 30).contains(&seq.wrapping_sub(base).cast_signed());
        !c.known.has(known) || near(s.seq, base)
    }

    /// Sequence numbers and direction, as far as this packet tells.
    fn learn(&mut self, conversation: u32, s: &Sighting, kind: PacketKind, from_b: bool) {
        let c = &mut self.conversations[conversation as usize];
        if !s.is_tcp() && (!s.has_handshake() || !matches!(kind, PacketKind::Syn | PacketKind::SynAck)) {
            return;
        }
        match kind {
            PacketKind::Syn => {
                c.known.put(Known::CLIENT_IS_B, from_b);
                c.known.set(Known::ORIENTED);
                c.client_seq = s.seq;
                c.known.set(Known::CLIENT_ISN);
                c.known.set(Known::CLIENT_SEQ);
            }
            PacketKind::SynAck => {
                c.known.put(Known::CLIENT_IS_B, !from_b);
                c.known.set(Known::ORIENTED);
                c.server_seq = s.seq;
                c.known.set(Known::SERVER_ISN);
                c.known.set(Known::SERVER_SEQ);
                if !c.known.has(Known::CLIENT_ISN) {
                    c.client_seq = s.ack.wrapping_sub(1);
                    c.known.set(Known::CLIENT_ISN);
                    c.known.set(Known::CLIENT_SEQ);
                }
            }
            PacketKind::Reset if s.seq == 0 && !c.known.has(Known::CLIENT_SEQ) => {
                c.known.put(Known::CLIENT_IS_B, !from_b);
                c.known.set(Known::ORIENTED);
                c.client_seq = s.ack.wrapping_sub(1);
                c.known.set(Known::CLIENT_ISN);
                c.known.set(Known::CLIENT_SEQ);
            }
            _ => {
                let client = c.from_client(from_b);
                if client && !c.known.has(Known::CLIENT_SEQ) {
                    c.client_seq = s.seq;
                    c.known.set(Known::CLIENT_SEQ);
                } else if !client && !c.known.has(Known::SERVER_SEQ) && s.seq != 0 {
                    c.server_seq = s.seq;
                    c.known.set(Known::SERVER_SEQ);
                }
            }
        }
    }

    fn leg_of(&self, conversation: u32, wire: u32, from_b: bool) -> u32 {
        self.legs_of(conversation).find(|(_, leg)| leg.wire == wire && leg.seen.from_b() == from_b).map_or(NONE, |(at, _)| at)
    }

    /// Keeps what a close look at a packet showed of its leg.
    pub(super) fn annotate(&mut self, conversation: u32, s: &Sighting, mss: Option<u16>, toa: bool) {
        let leg = self.leg_of(conversation, s.wire, s.tuple.canonical().1);
        if let Some(leg) = self.legs.get_mut(leg as usize) {
            leg.mss = mss.unwrap_or(leg.mss);
            leg.toa |= toa;
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

    /// The newest conversation of a 5-tuple, in either direction.
    pub(super) fn find(&self, tuple: Tuple) -> Option<u32> {
        let (canonical, _) = tuple.canonical();
        self.index.find(canonical.hash(), |&at| self.conversations[at as usize].tuple == canonical).copied()
    }

    /// Puts to rest what has ended or been quiet for long.
    #[cold]
    fn tidy(&mut self, now: i64) {
        self.since_sweep = 0;
        while let Some(&(due, conversation)) = self.ending.front() {
            if due > now {
                break;
            }
            self.ending.pop_front();
            self.rest_conversation(conversation, now.saturating_sub(LINGER));
        }
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now.saturating_add(IDLE / 2);
        let mut from = 0;
        while let Some(at) = self.live.next(from, |leg| now.saturating_sub(leg.last_time) > IDLE) {
            self.rest(at);
            from = at;
        }
    }

    /// Rests the legs of a conversation that have been quiet since `since`.
    fn rest_conversation(&mut self, conversation: u32, since: i64) {
        let c = self.conversations[conversation as usize];
        let mut at = c.legs;
        while let Some(leg) = self.legs.get(at as usize) {
            let tuple = if leg.seen.from_b() { c.tuple.reversed() } else { c.tuple };
            let (wire, next) = (leg.wire, leg.next);
            if let Some(found) = self.live.find(leg_hash(tuple, wire), tuple, wire) {
                let live = self.live.get(found);
                if live.conversation == conversation && live.last_time <= since {
                    self.rest(found);
                }
            }
            at = next;
        }
    }

    /// Writes a live leg back to its record and gives its place away.
    fn rest(&mut self, at: usize) {
        let live = self.live.remove(at);
        let ms = self.ms(live.last_time);
        let leg = &mut self.legs[live.leg as usize];
        leg.packets = leg.packets.saturating_add(live.packets);
        leg.bytes = leg.bytes.saturating_add(live.bytes);
        leg.high_seq = live.high_seq;
        leg.last_ms = leg.last_ms.max(ms);
        leg.seen = Seen(leg.seen.0 | live.seen.0);
        leg.repeats = live.repeats;
        let c = &mut self.conversations[live.conversation as usize];
        c.last_ms = c.last_ms.max(ms);
    }

    /// Writes everything back: the table is complete.
    pub(super) fn settle(&mut self) {
        let mut from = 0;
        while let Some(at) = self.live.next(from, |_| true) {
            self.rest(at);
            from = at;
        }
        self.live = LiveLegs::new();
        self.ending = VecDeque::new();
    }
}

fn kind_of(s: &Sighting) -> PacketKind {
    let flags = s.flags;
    if flags.opens() {
        PacketKind::Syn
    } else if flags.accepts() {
        PacketKind::SynAck
    } else if flags.has(TcpFlags::RST) {
        PacketKind::Reset
    } else if flags.has(TcpFlags::FIN) {
        PacketKind::Fin
    } else if s.payload_len > 0 || !s.is_tcp() {
        PacketKind::Data
    } else {
        PacketKind::Ack
    }
}
