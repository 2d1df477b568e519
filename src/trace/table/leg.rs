//! A leg: one direction of a conversation on one wire; and what is noted on the way.

/// One direction of a conversation on one wire.
#[derive(Clone, Copy, Debug)]
pub(in crate::trace) struct Leg {
    pub(in crate::trace) wire: u32,
    pub(in crate::trace) next: u32,
    /// When its first packet was seen, in nanoseconds on that point's clock, as two halves: the record stays at 48 bytes.
    pub(super) first_time: [u32; 2],
    /// When its last packet was seen, see [`Table::tick`].
    pub(in crate::trace) last_tick: u32,
    /// Frame number of its first packet.
    pub(in crate::trace) first_frame: u32,
    pub(in crate::trace) packets: u32,
    pub(in crate::trace) conversation: u32,
    /// TCP: the sequence number after the last byte seen.
    pub(in crate::trace) high_seq: u32,
    pub(in crate::trace) ttl: u8,
    /// What the first packet was.
    pub(in crate::trace) first: PacketKind,
    /// Kinds of packets seen, as `PacketKind` bits; and the direction.
    pub(in crate::trace) seen: Seen,
    /// Data packets seen again with a sequence number already passed.
    pub(in crate::trace) repeats: u8,
    /// Maximum segment size that its SYN or SYN-ACK announced; 0: none seen.
    pub(in crate::trace) mss: u16,
    /// Payload bytes of the longest packet.
    pub(in crate::trace) longest: u16,
    /// What tells its first packet from others, see [`Sighting::print`].
    pub(in crate::trace) print: u32,
}

impl Leg {
    pub(in crate::trace) fn first_time(&self) -> i64 {
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
pub(in crate::trace) struct Seen(pub(in crate::trace) u8);

impl Seen {
    pub(in crate::trace) const FROM_B: Seen = Seen(128);
    /// A FULLNAT balancer's option with the client's address was seen.
    pub(super) const TOA: Seen = Seen(64);

    pub(in crate::trace) fn has(self, kind: PacketKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    pub(super) fn add(&mut self, kind: PacketKind) {
        self.0 |= 1 << kind as u8;
    }

    #[expect(clippy::wrong_self_convention, reason = "where a packet comes from, not a conversion")]
    pub(in crate::trace) fn from_b(self) -> bool {
        self.0 & Self::FROM_B.0 != 0
    }

    pub(in crate::trace) fn toa(self) -> bool {
        self.0 & Self::TOA.0 != 0
    }
}

/// A packet that a diagnosis may need: kept with its frame number, a bounded number for each conversation.
#[derive(Clone, Copy, Debug)]
pub(in crate::trace) struct Note {
    pub(in crate::trace) next: u32,
    pub(in crate::trace) wire: u32,
    pub(in crate::trace) time: i64,
    pub(in crate::trace) frame: u32,
    pub(in crate::trace) seq: u32,
    pub(in crate::trace) len: u32,
    pub(in crate::trace) ttl: u8,
    pub(in crate::trace) kind: NoteKind,
    pub(in crate::trace) from_b: bool,
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
    /// A SYN-ACK that echoes the timestamp of a SYN that came again: it answers that one, and the server had not taken the one before. Of a
    /// SYN-ACK that got lost and is sent again the echo is that of the first (RFC 7323; kernel `net/ipv4/tcp_minisocks.c`, `tcp_check_req`).
    LateSynAck,
}
