//! Connections that came to a standstill: open, and then the same bytes again and again, which do not get through.

use super::assemble::Assembler;
use super::flow::Way;
use super::table::{Leg, NoteKind, PacketKind};

/// So many repeats of the same bytes, each after twice the time, are not loss; and they take so long at least.
const STUBBORN: usize = 3;
const SPAN: i64 = 600_000_000;
/// Somebody who is not heard sends again ever more seldom; more repeats than this belong to a transfer that goes on.
const MANY: u8 = 20;
/// Bytes that were on their way when it stopped; one that has got further has gone on.
const WINDOW: u32 = 1 << 18;
/// A plain Ethernet frame's segment. What is longer than any segment was merged by the capturing host, and is seen in pieces elsewhere.
const SEGMENT: u16 = 1460;

impl Assembler {
    /// The direction in which a connection's data stopped: a segment was sent over and over, and never seen further on, or never answered.
    pub(super) fn stalled(&self, members: &[u32]) -> Option<Way> {
        let legs = || {
            let of = |c: u32| self.store.legs(c).map(move |leg| (c, leg));
            members.iter().flat_map(move |c| of(*c)).filter(|(_, leg)| !self.places[leg.wire as usize].bystander)
        };
        let from_client = |c: u32, leg: &Leg| self.store.conversation(c).from_client(leg.seen.from_b());
        let segment = u32::from(legs().map(|(_, leg)| leg.mss).max().filter(|mss| *mss > 0).unwrap_or(SEGMENT));
        let opened = |leg: &Leg| leg.seen.has(PacketKind::Syn) || leg.seen.has(PacketKind::SynAck);
        let went_on = |leg: &Leg| [PacketKind::Ack, PacketKind::Data, PacketKind::Fin].iter().any(|kind| leg.seen.has(*kind));
        for (c, leg) in legs().filter(|(_, leg)| (STUBBORN..=usize::from(MANY)).contains(&usize::from(leg.repeats))) {
            let Some((seq, len)) = self.hangs_at(c, leg) else { continue };
            let request = from_client(c, leg);
            if leg.high_seq.wrapping_sub(seq) > WINDOW {
                continue;
            }
            let misses = |other: &Leg| other.wire != leg.wire && opened(other) && went_on(other) && u32::from(other.longest) < len;
            let unseen = len <= segment && legs().any(|(d, other)| from_client(d, other) == request && misses(other));
            let mut answers = legs().filter(|(d, other)| from_client(*d, other) != request).peekable();
            let unanswered = request && answers.peek().is_some() && answers.all(|(_, other)| !other.seen.has(PacketKind::Data));
            if unseen || unanswered {
                return Some(if request { Way::Request } else { Way::Reply });
            }
        }
        None
    }

    /// The segment, by sequence number and length, that a leg showed again and again to the end.
    fn hangs_at(&self, conversation: u32, leg: &Leg) -> Option<(u32, u32)> {
        let here = |n: &&super::table::Note| (n.kind, n.wire, n.from_b) == (NoteKind::DataRepeat, leg.wire, leg.seen.from_b());
        let mut repeats = self.store.notes(conversation).filter(here);
        // The latest comes first.
        let last = repeats.next()?;
        let (mut count, mut since) = (1, last.time);
        for note in repeats.filter(|note| note.seq == last.seq) {
            (count, since) = (count + 1, since.min(note.time));
        }
        (count >= STUBBORN && last.time - since >= SPAN).then_some((last.seq, last.len))
    }
}
