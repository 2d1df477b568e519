//! The table of conversations: what is kept of each while packets stream by, in a few hundred bytes.
//!
//! A **conversation** is one 5-tuple in both directions, one incarnation of it (a port that is used again is a new one). A **leg** is one
//! direction of a conversation on one [`super::wire::Wire`]: a MAC pair at a capture point. What is kept of a leg for good is 48 bytes;
//! what following its packets needs beside that (a *live* leg, one cache line) is given back when the leg has been quiet. Nothing is
//! kept per packet, so memory grows with connections and not with bytes; packets that matter for a diagnosis (repeats, resets, loops)
//! leave bounded [`Note`]s.

use super::live::{Live, LiveLegs};
use super::tuple::{Tuple, mix};
use crate::packet::TcpFlags;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

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
    /// See [`gate`].
    pub(super) gate: u16,
}

/// What tells whether a packet can be passed over, and no more: of nearly all packets the table needs nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glimpse {
    /// [`leg_hash`](super::live::leg_hash).
    pub(super) hash: u64,
    /// Nanoseconds on the capture point's clock.
    pub(super) time: i64,
    pub(super) seq: u32,
    pub(super) payload_len: u32,
    pub(super) id: u16,
    /// See [`gate`].
    pub(super) gate: u16,
    pub(super) tcp: bool,
}

/// A packet's TTL, and in the upper half whatever makes it more than an ordinary segment: SYN, FIN, RST, odd options. One comparison with
/// what its leg expects tells whether the packet can be passed over.
#[inline(always)]
pub(super) fn gate(ttl: u8, flags: TcpFlags, odd_options: bool) -> u16 {
    u16::from(ttl) | u16::from(flags.0 & 0x07) << 12 | u16::from(odd_options) << 15
}

impl Sighting {
    fn glimpse(&self) -> Glimpse {
        let Sighting { hash, time, seq, payload_len, id, gate, .. } = *self;
        Glimpse { hash, time, seq, payload_len, id, gate, tcp: self.is_tcp() }
    }

    fn is_tcp(&self) -> bool {
        self.tuple.protocol() == 6
    }

    /// TCP, and SCTP, whose initiate tags stand in for sequence numbers.
    fn has_handshake(&self) -> bool {
        matches!(self.tuple.protocol(), 6 | 132)
    }

    /// A fingerprint: the IP-ID in the lower half, numbers and length in the upper.
    fn print(&self) -> u32 {
        let numbers = mix(u64::from(self.seq) << 32 | u64::from(self.ack), u64::from(self.payload_len) << 8 | u64::from(self.flags.0));
        (numbers as u32) << 16 | u32::from(self.id)
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
    /// When its last packet was seen, see [`Table::tick`].
    pub(super) last_tick: u32,
    pub(super) known: Known,
    pub(super) note_count: u8,
    pub(super) leg_count: u8,
    /// Number of samples it left; and in the highest bits: a FIN or a reset was seen, a leg has been put to rest.
    samples: u8,
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

const ENDED: u8 = 0x80;
const RESTED: u8 = 0x40;

impl Conversation {
    /// Begins one; whoever speaks first is taken for the client until more is known.
    fn new(tuple: Tuple, from_b: bool, number: u32, older: u32) -> Self {
        let mut known = Known::default();
        known.put(Known::CLIENT_IS_B, from_b);
        let (legs, notes) = (NONE, NONE);
        Conversation {
            tuple,
            older,
            legs,
            parent: number,
            client_seq: 0,
            server_seq: 0,
            notes,
            last_tick: 0,
            known,
            note_count: 0,
            leg_count: 0,
            samples: 0,
        }
    }

    /// Number of samples it left.
    pub(super) fn samples(&self) -> u8 {
        self.samples & !(ENDED | RESTED)
    }

    /// Counts a sample.
    pub(super) fn sampled(&mut self) {
        self.samples += 1;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.samples & ENDED != 0
    }

    /// True when a packet whose tuple had to be flipped (`from_b`) comes from the client.
    #[expect(clippy::wrong_self_convention, reason = "where a packet comes from, not a conversion")]
    pub(super) fn from_client(&self, from_b: bool) -> bool {
        self.known.has(Known::CLIENT_IS_B) == from_b
    }

    /// Says which side is the client; what was known of each side stays with it.
    fn orient(&mut self, client_is_b: bool) {
        if self.known.has(Known::CLIENT_IS_B) != client_is_b {
            self.turn_around();
        }
    }

    /// Exchanges client and server.
    pub(super) fn turn_around(&mut self) {
        self.known.put(Known::CLIENT_IS_B, !self.known.has(Known::CLIENT_IS_B));
        std::mem::swap(&mut self.client_seq, &mut self.server_seq);
        for (of_client, of_server) in [(Known::CLIENT_SEQ, Known::SERVER_SEQ), (Known::CLIENT_ISN, Known::SERVER_ISN)] {
            let (client, server) = (self.known.has(of_client), self.known.has(of_server));
            self.known.put(of_client, server);
            self.known.put(of_server, client);
        }
    }

    /// Whether a SYN with this number, from the client or from the other side, can be its own. Where the first packet seen was one in
    /// the middle, the SYN may come behind it (the capture missed it, and now it is sent again): its number is a little smaller.
    fn may_begin_with(&self, isn: u32, client: bool) -> bool {
        let (seq, seen, sure) = if client {
            (self.client_seq, Known::CLIENT_SEQ, Known::CLIENT_ISN)
        } else {
            (self.server_seq, Known::SERVER_SEQ, Known::SERVER_ISN)
        };
        !self.known.has(seen) || seq == isn || (!self.known.has(sure) && (1..1 << 16).contains(&seq.wrapping_sub(isn)))
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
    /// When its first packet was seen, in nanoseconds on that point's clock, as two halves: the record stays at 48 bytes.
    first_time: [u32; 2],
    /// When its last packet was seen, see [`Table::tick`].
    pub(super) last_tick: u32,
    /// Frame number of its first packet.
    pub(super) first_frame: u32,
    pub(super) packets: u32,
    pub(super) conversation: u32,
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
    /// Payload bytes of the longest packet.
    pub(super) longest: u16,
    /// What tells its first packet from others, see [`Sighting::print`].
    pub(super) print: u32,
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
    /// A FULLNAT balancer's option with the client's address was seen.
    const TOA: Seen = Seen(64);

    pub(super) fn has(self, kind: PacketKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    fn add(&mut self, kind: PacketKind) {
        self.0 |= 1 << kind as u8;
    }

    #[expect(clippy::wrong_self_convention, reason = "where a packet comes from, not a conversion")]
    pub(super) fn from_b(self) -> bool {
        self.0 & Self::FROM_B.0 != 0
    }

    pub(super) fn toa(self) -> bool {
        self.0 & Self::TOA.0 != 0
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
    /// Another leg has the same hash: the packet was not placed.
    Clash,
}

/// Ticks are 2^20 ns long.
const TICK: u32 = 20;
const SECOND: u32 = 1_000_000_000 >> TICK;
/// A leg that has been quiet for so long is put to rest when room is needed.
const IDLE: u32 = 10 * SECOND;
/// The same for one that has ended. Stragglers wake it again, which costs little.
const LINGER: u32 = SECOND / 100;
/// A silence worth noting: IPVS forgets an established TCP connection after 900 s, a UDP one after 300 s.
const SILENCE: u32 = 120 * SECOND;
const UDP_TIMEOUT: u32 = 300 * SECOND;
/// Bounds for hostile captures; real connections stay far below.
const MAX_LEGS: u8 = 200;
const MAX_NOTES: u8 = 48;
const MAX_INCARNATIONS: usize = 8;
/// Data repeats noted for each leg; further ones are counted.
const MAX_REPEAT_NOTES: u8 = 4;
/// The same packet again within this time, where there is no IP-ID to tell: a copy made by the capture, not a retransmission.
const COPY: u32 = SECOND / 50;

/// How many packets of a new leg are looked at closely.
pub(super) const CLOSE_LOOKS_TCP: u8 = 1;
pub(super) const CLOSE_LOOKS_MIDSTREAM: u8 = 5;
pub(super) const CLOSE_LOOKS_OTHER: u8 = 8;

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
            conversations: Vec::new(),
            index: HashTable::new(),
            legs: Vec::new(),
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

    /// A packet of a known leg that may mean something.
    #[cold]
    fn unusual(&mut self, s: &Sighting, at: usize) -> Look {
        let (leg, now) = (*self.live.get(at), self.tick(s.time));
        let record = &mut self.legs[leg.leg as usize];
        let (conversation, from_b) = (record.conversation, s.tuple.canonical().1);
        if record.wire != s.wire || self.conversations[conversation as usize].tuple != s.tuple.canonical().0 {
            return Look::Clash;
        }
        let first = record.packets == 0 && leg.packets == 0;
        record.packets = record.packets.saturating_add(u32::from(leg.packets) + 1);
        let kind = kind_of(s);
        if kind == PacketKind::Syn && self.opens_again(s, conversation) {
            self.legs[leg.leg as usize].packets -= 1;
            self.rest(at);
            return self.first_of_leg(s);
        }
        if matches!(kind, PacketKind::Syn | PacketKind::SynAck) {
            self.learn(conversation, s, kind, from_b);
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
    fn first_of_leg(&mut self, s: &Sighting) -> Look {
        if self.conversations.is_empty() {
            self.epoch = s.time;
        }
        let (canonical, from_b) = s.tuple.canonical();
        let Some(conversation) = self.conversation_of(s, canonical, from_b) else { return Look::Full };
        let kind = kind_of(s);
        self.learn(conversation, s, kind, from_b);
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
            if belongs(c, s, from_b, now) {
                return Some(at);
            }
            at = c.older;
        }
        if kind_of(s) != PacketKind::Syn {
            return Some(newest);
        }
        if self.conversations.len() >= self.max_conversations {
            return None;
        }
        *entry.get_mut() = new;
        self.conversations.push(Conversation::new(canonical, from_b, new, newest));
        Some(new)
    }

    /// Sequence numbers and direction, as far as this packet tells.
    fn learn(&mut self, conversation: u32, s: &Sighting, kind: PacketKind, from_b: bool) {
        let c = &mut self.conversations[conversation as usize];
        if !s.is_tcp() && (!s.has_handshake() || !matches!(kind, PacketKind::Syn | PacketKind::SynAck)) {
            return;
        }
        match kind {
            PacketKind::Syn => {
                c.orient(from_b);
                c.known.set(Known::ORIENTED);
                c.client_seq = s.seq;
                c.known.set(Known::CLIENT_ISN);
                c.known.set(Known::CLIENT_SEQ);
            }
            PacketKind::SynAck => {
                c.orient(!from_b);
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
                c.orient(!from_b);
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

    /// Makes room among the live legs before their table would grow: what has ended or been quiet for long is put to rest.
    #[cold]
    fn make_room(&mut self, now: i64) {
        let now = self.tick(now);
        let (idle, ended) = (now.saturating_sub(IDLE), now.saturating_sub(LINGER));
        let mut from = 0;
        // The other direction may have ended a connection as well; to ask for that, two records would have to be read for every leg.
        let has_ended = |leg: &Live| leg.seen.has(PacketKind::Fin) || leg.seen.has(PacketKind::Reset);
        let over = |leg: &Live| leg.last_tick < idle || (leg.last_tick < ended && has_ended(leg));
        while let Some(at) = self.live.next(from, over) {
            self.rest(at);
            from = at;
        }
        self.live.settle_for_size();
    }

    /// Writes a live leg back to its record and gives its place away.
    fn rest(&mut self, at: usize) {
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
    pub(super) fn retain(&mut self, kept: &[bool]) -> Vec<u32> {
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
    pub(super) fn settle(&mut self) {
        let live = std::mem::replace(&mut self.live, LiveLegs::new());
        for leg in live.iter() {
            self.write_back(leg);
        }
    }
}

/// Whether a packet's numbers fit an incarnation. `now` is the packet's tick.
fn belongs(c: &Conversation, s: &Sighting, from_b: bool, now: u32) -> bool {
    let kind = kind_of(s);
    if !s.is_tcp() && (!s.has_handshake() || !matches!(kind, PacketKind::Syn | PacketKind::SynAck)) {
        // IPVS forgets a UDP conversation after 300 s of silence; what comes then is a new one.
        return now.saturating_sub(c.last_tick) < UDP_TIMEOUT;
    }
    let of_client = c.from_client(from_b);
    if kind == PacketKind::Syn {
        return c.may_begin_with(s.seq, of_client);
    }
    if s.seq == 0 && s.flags.has(TcpFlags::RST) {
        // A refusal has no sequence number of its own, but acknowledges the SYN.
        return !c.known.has(Known::CLIENT_ISN) || s.ack.wrapping_sub(1) == c.client_seq;
    }
    let (base, known) = if of_client { (c.client_seq, Known::CLIENT_SEQ) } else { (c.server_seq, Known::SERVER_SEQ) };
    let near = |seq: u32, base: u32| (-(1 << 20)..1 << 30).contains(&seq.wrapping_sub(base).cast_signed());
    !c.known.has(known) || near(s.seq, base)
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
