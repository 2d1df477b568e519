//! Every packet, in 40 bytes: kept only for those who ask for journeys (`trace --packets`).

use super::assemble::Assembler;
use super::table::Sighting;
use super::tuple::mix;
use crate::packet::{TcpFlags, raw_options};

/// A packet at a place. What a forwarder rewrites is in its leg; here is what survives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Nanoseconds on the capture point's clock.
    pub(super) time: i64,
    pub(super) leg: u32,
    pub(super) frame: u32,
    /// TCP: sequence and acknowledgement number. Otherwise a digest of the payload, in two halves.
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// TCP: window, timestamps, SACK blocks ([`segment_mark`]). ICMP echo: what kind, which number. In both other cases: [`DIGEST`].
    pub(super) mark: u32,
    /// Payload bytes; in the highest bit, whether a FULLNAT balancer's option was there.
    len: u32,
    /// IP-ID; 0 tells nothing.
    pub(super) id: u16,
    /// Without PSH, which segmentation moves about.
    pub(super) flags: TcpFlags,
    pub(super) ttl: u8,
}

const TOA: u32 = 1 << 31;
/// In the mark of what is not TCP: enough of the payload was captured for a digest.
pub(super) const DIGEST: u32 = 1;

impl Entry {
    pub(super) fn len(&self) -> u32 {
        self.len & !TOA
    }

    pub(super) fn toa(&self) -> bool {
        self.len & TOA != 0
    }
}

/// What a TCP header tells beside its numbers and survives translation: window, timestamps, SACK blocks. A segment that is sent again
/// mostly has another timestamp, and so another mark. Segments cut from one large frame, or merged into one, share it.
pub(super) fn segment_mark(window: u16, options: &[u8]) -> u32 {
    let mut mark = mix(u64::from(window), 5);
    for (kind, body) in raw_options(options).filter(|(kind, _)| matches!(kind, 5 | 8)) {
        for chunk in body.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mark = mix(mark ^ u64::from(kind), u64::from_le_bytes(word));
        }
    }
    mark as u32
}

/// The packets of a trace, when they are wanted.
#[derive(Clone)]
pub(super) struct Journal {
    wanted: bool,
    pub(super) packets: Vec<Entry>,
}

impl Journal {
    pub(super) fn new(wanted: bool) -> Self {
        Journal { wanted, packets: Vec::new() }
    }

    #[inline]
    pub(super) fn wanted(&self) -> bool {
        self.wanted
    }

    pub(super) fn add(&mut self, leg: u32, seen: &Sighting, digest: Option<u64>, echo: Option<(bool, u16, u16)>, mark: u32, toa: bool) {
        let (seq, ack, mark) = match (seen.tuple.protocol(), echo) {
            (6, _) => (seen.seq, seen.ack, mark),
            // The identifier of an echo is its port, and may be translated like one.
            (_, Some((reply, _, number))) => {
                let had = if digest.is_some() { DIGEST } else { 0 };
                let digest = digest.unwrap_or(0);
                ((digest >> 32) as u32, digest as u32, had | 2 | u32::from(reply) << 2 | u32::from(number) << 16)
            }
            _ => {
                let digest = digest.map(|digest| mix(digest, u64::from(seen.seq)));
                (digest.map_or(0, |d| (d >> 32) as u32), digest.unwrap_or(0) as u32, if digest.is_some() { DIGEST } else { 0 })
            }
        };
        self.packets.push(Entry {
            time: seen.time,
            leg,
            frame: seen.frame,
            seq,
            ack,
            mark,
            len: seen.payload_len.min(TOA - 1) | if toa { TOA } else { 0 },
            id: seen.id,
            flags: TcpFlags(seen.flags.0 & !TcpFlags::PSH.0),
            ttl: seen.ttl,
        });
    }

    /// The packets in the order of their flows; those of one direction of a flow side by side, as they came.
    pub(super) fn by_flow(&self, assembler: &Assembler) -> ByFlow {
        let place = |entry: &Entry| {
            let (flow, request) = assembler.store.flow_of_leg(entry.leg);
            flow as usize * 2 + usize::from(!request)
        };
        let mut starts = vec![0u32; assembler.store.flows() * 2 + 1];
        for entry in &self.packets {
            starts[place(entry) + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut order = vec![0u32; self.packets.len()];
        for (number, entry) in (0..).zip(&self.packets) {
            let at = &mut next[place(entry)];
            order[*at as usize] = number;
            *at += 1;
        }
        ByFlow { starts, order }
    }
}

/// Numbers of packets, sorted by flow and direction.
pub(super) struct ByFlow {
    starts: Vec<u32>,
    order: Vec<u32>,
}

impl ByFlow {
    /// The packets of one direction of a flow.
    pub(super) fn of(&self, flow: u32, request: bool) -> &[u32] {
        let at = flow as usize * 2 + usize::from(!request);
        &self.order[self.starts[at] as usize..self.starts[at + 1] as usize]
    }
}
