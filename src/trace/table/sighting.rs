//! One packet, as the table sees it.

use super::PacketKind;
use crate::packet::TcpFlags;
use crate::trace::tuple::{Tuple, mix};

/// What the table needs to know of one packet.
#[derive(Clone, Copy, Debug)]
pub(in crate::trace) struct Sighting {
    pub(in crate::trace) tuple: Tuple,
    pub(in crate::trace) wire: u32,
    /// [`leg_hash`] of both.
    pub(in crate::trace) hash: u64,
    /// Nanoseconds on the capture point's clock.
    pub(in crate::trace) time: i64,
    pub(in crate::trace) frame: u32,
    pub(in crate::trace) seq: u32,
    pub(in crate::trace) ack: u32,
    pub(in crate::trace) flags: TcpFlags,
    pub(in crate::trace) payload_len: u32,
    pub(in crate::trace) ttl: u8,
    pub(in crate::trace) id: u16,
    /// See [`gate`].
    pub(in crate::trace) gate: u16,
}

/// What tells whether a packet can be passed over, and no more: of nearly all packets the table needs nothing else.
#[derive(Clone, Copy, Debug)]
pub(in crate::trace) struct Glimpse {
    /// [`leg_hash`](super::live::leg_hash).
    pub(in crate::trace) hash: u64,
    /// Nanoseconds on the capture point's clock.
    pub(in crate::trace) time: i64,
    pub(in crate::trace) seq: u32,
    pub(in crate::trace) payload_len: u32,
    pub(in crate::trace) id: u16,
    /// See [`gate`].
    pub(in crate::trace) gate: u16,
    pub(in crate::trace) tcp: bool,
}

/// A packet's TTL, and in the upper half whatever makes it more than an ordinary segment: SYN, FIN, RST, odd options. One comparison with
/// what its leg expects tells whether the packet can be passed over.
#[inline(always)]
pub(in crate::trace) fn gate(ttl: u8, flags: TcpFlags, odd_options: bool) -> u16 {
    u16::from(ttl) | u16::from(flags.0 & 0x07) << 12 | u16::from(odd_options) << 15
}

impl Sighting {
    pub(super) fn glimpse(&self) -> Glimpse {
        let Sighting { hash, time, seq, payload_len, id, gate, .. } = *self;
        Glimpse { hash, time, seq, payload_len, id, gate, tcp: self.is_tcp() }
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.tuple.protocol() == 6
    }

    /// TCP, and SCTP, whose initiate tags stand in for sequence numbers.
    pub(super) fn has_handshake(&self) -> bool {
        matches!(self.tuple.protocol(), 6 | 132)
    }

    /// A fingerprint: the IP-ID in the lower half, numbers and length in the upper.
    pub(super) fn print(&self) -> u32 {
        let numbers = mix(u64::from(self.seq) << 32 | u64::from(self.ack), u64::from(self.payload_len) << 8 | u64::from(self.flags.0));
        (numbers as u32) << 16 | u32::from(self.id)
    }

    /// What it is to its connection.
    pub(super) fn kind(&self) -> PacketKind {
        let flags = self.flags;
        if flags.opens() {
            PacketKind::Syn
        } else if flags.accepts() {
            PacketKind::SynAck
        } else if flags.has(TcpFlags::RST) {
            PacketKind::Reset
        } else if flags.has(TcpFlags::FIN) {
            PacketKind::Fin
        } else if self.payload_len > 0 || !self.is_tcp() {
            PacketKind::Data
        } else {
            PacketKind::Ack
        }
    }

    /// Sequence number after this packet.
    pub(super) fn seq_end(&self) -> u32 {
        let phantom = u32::from(self.flags.0 & (TcpFlags::SYN.0 | TcpFlags::FIN.0) != 0);
        self.seq.wrapping_add(self.payload_len).wrapping_add(phantom)
    }
}
