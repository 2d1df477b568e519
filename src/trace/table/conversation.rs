//! A conversation: one 5-tuple in both directions, one incarnation of it.

use super::{NONE, PacketKind, Sighting, UDP_TIMEOUT};
use crate::packet::TcpFlags;
use crate::trace::tuple::Tuple;

/// One incarnation of a 5-tuple, both directions.
#[derive(Clone, Copy, Debug)]
pub(in crate::trace) struct Conversation {
    /// In canonical order: `src` is "side A", `dst` "side B".
    pub(in crate::trace) tuple: Tuple,
    /// The incarnation before this one.
    pub(in crate::trace) older: u32,
    /// Its latest leg; the others follow by `Leg::next`.
    pub(in crate::trace) legs: u32,
    /// The conversation that speaks for the whole flow, once joined (a forest of parents).
    pub(in crate::trace) parent: u32,
    /// TCP: initial sequence number of the client, or the first one seen of it. SCTP: its initiate tag.
    pub(in crate::trace) client_seq: u32,
    /// The same of the server.
    pub(in crate::trace) server_seq: u32,
    /// Its latest note.
    pub(in crate::trace) notes: u32,
    /// When its last packet was seen, see [`Table::tick`].
    pub(in crate::trace) last_tick: u32,
    pub(in crate::trace) known: Known,
    pub(in crate::trace) note_count: u8,
    pub(in crate::trace) leg_count: u8,
    /// Number of samples it left; and in the highest bits: a FIN or a reset was seen, a leg has been put to rest.
    pub(super) samples: u8,
}

/// What is known of a conversation, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::trace) struct Known(u8);

impl Known {
    /// `client_seq` is the SYN's: the handshake was seen.
    pub(in crate::trace) const CLIENT_ISN: Known = Known(1);
    /// `server_seq` is the SYN-ACK's.
    pub(in crate::trace) const SERVER_ISN: Known = Known(2);
    /// The client is side B.
    pub(in crate::trace) const CLIENT_IS_B: Known = Known(4);
    /// Which side is the client is certain (a SYN, a SYN-ACK), not guessed from the first packet.
    pub(in crate::trace) const ORIENTED: Known = Known(8);
    /// `client_seq` holds a number, be it the ISN or the first one seen.
    pub(in crate::trace) const CLIENT_SEQ: Known = Known(16);
    /// The same for `server_seq`.
    pub(in crate::trace) const SERVER_SEQ: Known = Known(32);
    /// Joined with a conversation on the other side of a rewrite.
    pub(in crate::trace) const JOINED: Known = Known(64);
    /// Part of a join that was refused because several fitted equally well.
    pub(in crate::trace) const AMBIGUOUS: Known = Known(128);

    pub(in crate::trace) fn has(self, other: Known) -> bool {
        self.0 & other.0 == other.0
    }

    pub(in crate::trace) fn set(&mut self, other: Known) {
        self.0 |= other.0;
    }

    pub(in crate::trace) fn put(&mut self, other: Known, on: bool) {
        self.0 = if on { self.0 | other.0 } else { self.0 & !other.0 };
    }
}

/// In [`Conversation::samples`]: a FIN or a reset was seen.
pub(super) const ENDED: u8 = 0x80;
/// In [`Conversation::samples`]: a leg has been put to rest.
pub(super) const RESTED: u8 = 0x40;

impl Conversation {
    /// Begins one; whoever speaks first is taken for the client until more is known.
    pub(super) fn new(tuple: Tuple, from_b: bool, number: u32, older: u32) -> Self {
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
    pub(in crate::trace) fn samples(&self) -> u8 {
        self.samples & !(ENDED | RESTED)
    }

    /// Counts a sample.
    pub(in crate::trace) fn sampled(&mut self) {
        self.samples += 1;
    }

    pub(in crate::trace) fn has_ended(&self) -> bool {
        self.samples & ENDED != 0
    }

    /// True when a packet whose tuple had to be flipped (`from_b`) comes from the client.
    #[expect(clippy::wrong_self_convention, reason = "where a packet comes from, not a conversion")]
    pub(in crate::trace) fn from_client(&self, from_b: bool) -> bool {
        self.known.has(Known::CLIENT_IS_B) == from_b
    }

    /// Says which side is the client; what was known of each side stays with it.
    pub(super) fn orient(&mut self, client_is_b: bool) {
        if self.known.has(Known::CLIENT_IS_B) != client_is_b {
            self.turn_around();
        }
    }

    /// Exchanges client and server.
    pub(in crate::trace) fn turn_around(&mut self) {
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
    pub(super) fn may_begin_with(&self, isn: u32, client: bool) -> bool {
        let (seq, seen, sure) = if client {
            (self.client_seq, Known::CLIENT_SEQ, Known::CLIENT_ISN)
        } else {
            (self.server_seq, Known::SERVER_SEQ, Known::SERVER_ISN)
        };
        !self.known.has(seen) || seq == isn || (!self.known.has(sure) && (1..1 << 16).contains(&seq.wrapping_sub(isn)))
    }

    /// Sequence numbers and direction, as far as this packet tells.
    pub(super) fn learn(&mut self, s: &Sighting, kind: PacketKind, from_b: bool) {
        if !s.is_tcp() && (!s.has_handshake() || !matches!(kind, PacketKind::Syn | PacketKind::SynAck)) {
            return;
        }
        match kind {
            PacketKind::Syn => {
                self.orient(from_b);
                self.known.set(Known::ORIENTED);
                self.client_seq = s.seq;
                self.known.set(Known::CLIENT_ISN);
                self.known.set(Known::CLIENT_SEQ);
            }
            PacketKind::SynAck => {
                self.orient(!from_b);
                self.known.set(Known::ORIENTED);
                self.server_seq = s.seq;
                self.known.set(Known::SERVER_ISN);
                self.known.set(Known::SERVER_SEQ);
                if !self.known.has(Known::CLIENT_ISN) {
                    self.client_seq = s.ack.wrapping_sub(1);
                    self.known.set(Known::CLIENT_ISN);
                    self.known.set(Known::CLIENT_SEQ);
                }
            }
            PacketKind::Reset if s.seq == 0 && !self.known.has(Known::CLIENT_SEQ) => {
                self.orient(!from_b);
                self.known.set(Known::ORIENTED);
                self.client_seq = s.ack.wrapping_sub(1);
                self.known.set(Known::CLIENT_ISN);
                self.known.set(Known::CLIENT_SEQ);
            }
            _ => {
                let client = self.from_client(from_b);
                if client && !self.known.has(Known::CLIENT_SEQ) {
                    self.client_seq = s.seq;
                    self.known.set(Known::CLIENT_SEQ);
                } else if !client && !self.known.has(Known::SERVER_SEQ) && s.seq != 0 {
                    self.server_seq = s.seq;
                    self.known.set(Known::SERVER_SEQ);
                }
            }
        }
    }

    /// Whether a packet's numbers fit this incarnation. `now` is the packet's tick.
    pub(super) fn takes(&self, s: &Sighting, from_b: bool, now: u32) -> bool {
        let kind = s.kind();
        if !s.is_tcp() && (!s.has_handshake() || !matches!(kind, PacketKind::Syn | PacketKind::SynAck)) {
            // IPVS forgets a UDP conversation after 300 s of silence; what comes then is a new one.
            return now.saturating_sub(self.last_tick) < UDP_TIMEOUT;
        }
        let of_client = self.from_client(from_b);
        if kind == PacketKind::Syn {
            return self.may_begin_with(s.seq, of_client);
        }
        if s.seq == 0 && s.flags.has(TcpFlags::RST) {
            // A refusal has no sequence number of its own, but acknowledges the SYN.
            return !self.known.has(Known::CLIENT_ISN) || s.ack.wrapping_sub(1) == self.client_seq;
        }
        let (base, known) = if of_client { (self.client_seq, Known::CLIENT_SEQ) } else { (self.server_seq, Known::SERVER_SEQ) };
        let near = |seq: u32, base: u32| (-(1 << 20)..1 << 30).contains(&seq.wrapping_sub(base).cast_signed());
        !self.known.has(known) || near(s.seq, base)
    }

    /// The tuple as the client's packets have it.
    pub(in crate::trace) fn request(&self) -> Tuple {
        if self.known.has(Known::CLIENT_IS_B) { self.tuple.reversed() } else { self.tuple }
    }
}
