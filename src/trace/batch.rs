//! The way of plain packets: noticed one by one, taken to the table in batches.
//!
//! In a large capture each look-up is a cache miss. A batch of packets makes its misses all at once, and then finds everything in the
//! cache; one by one they would add up to more than all other work together. Of a packet that is noticed only what its leg wants to see
//! is kept ([`Glimpse`]), and where its headers stand; few are looked at again.

use super::journal::segment_mark;
use super::live::leg_hash;
use super::point::Span;
use super::sample::{DIGESTED, handshake_key, payload_digest};
use super::table::{Glimpse, Look, Sighting, gate};
use super::tracer::{Features, Tracer, narrow, when};
use super::tuple::Tuple;
use crate::net::Timestamp;
use crate::packet::{Frame, Glance, LinkType, TcpFlags, TcpOptions, glance, glance_tcp, is_partial};

/// Plain packets whose look-up has not been made yet.
#[derive(Clone)]
pub(super) struct Batch {
    waiting: Vec<Waiting>,
    /// The beginnings of those that were noticed one by one.
    heads: Vec<u8>,
    /// Those of the batch that have to be looked at.
    closer: Vec<(Sighting, Waiting)>,
}

/// A plain packet, waiting for its look-up in the table.
#[derive(Clone, Copy)]
struct Waiting {
    glimpse: Glimpse,
    wire: u32,
    frame: u32,
    /// Where it begins in the bytes that the batch was made from.
    at: u32,
    len: u32,
}

impl Waiting {
    /// What of the packet is there.
    fn head<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let at = self.at as usize;
        bytes.get(at..at + self.len as usize).unwrap_or_default()
    }

    /// Its headers, once more.
    fn plain<'a>(&self, bytes: &'a [u8]) -> Option<Glance<'a>> {
        glance(&Frame::whole(LinkType::ETHERNET, self.head(bytes)))
    }

    fn sighting(&self, tuple: Tuple, plain: &Glance<'_>) -> Sighting {
        let Glimpse { hash, time, seq, payload_len, id, gate, .. } = self.glimpse;
        let (_, ack, flags) = plain.sequence();
        let (wire, frame, ttl) = (self.wire, self.frame, plain.ttl());
        Sighting { tuple, wire, hash, time, frame, seq, ack, flags, payload_len, ttl, id, gate }
    }

    /// What a close look at it shows. Of ordinary segments in the middle of a connection that is nothing.
    fn features(&self, s: &Sighting, bytes: &[u8], marked: bool) -> Features {
        let tcp = self.glimpse.tcp;
        let plain = self.plain(bytes).filter(|plain| !tcp || marked || s.flags.has(TcpFlags::SYN) || plain.odd_options());
        let Some(plain) = plain else { return Features::default() };
        let (head, at) = (self.head(bytes), plain.transport_at);
        let word = |at: usize| head.get(at..at + 2).map_or(0, |w| u16::from_be_bytes([w[0], w[1]]));
        let header_len = if tcp { head.get(at + 12).map_or(20, |b| usize::from(b >> 4) * 4) } else { 8 };
        let options = head.get(at + 20..at + header_len).filter(|_| tcp);
        let addresses = head.get(at.saturating_sub(if s.tuple.v6() { 32 } else { 8 })..at);
        let checksum = word(at + if tcp { 16 } else { 6 });
        let window = if tcp { word(at + 14) } else { 0 };
        Features {
            options: options.map(TcpOptions::read).unwrap_or_default(),
            window,
            digest: head.get(at + header_len..).and_then(|payload| payload_digest(payload, s.payload_len)),
            echo: None,
            unfinished: addresses.is_some_and(|a| is_partial(checksum, a, s.tuple.protocol(), header_len as u32 + s.payload_len)),
            mark: if marked && tcp { segment_mark(window, options.unwrap_or_default()) } else { 0 },
        }
    }
}

/// Ethernet with a tag, IPv6, the longest TCP header, and the payload bytes that a digest is made of.
const HEAD: usize = 14 + 4 + 40 + 60 + DIGESTED;
const BATCH: usize = 32;

impl Default for Batch {
    fn default() -> Self {
        Batch { waiting: Vec::with_capacity(BATCH), heads: Vec::with_capacity(BATCH * HEAD), closer: Vec::with_capacity(BATCH) }
    }
}

impl Tracer {
    /// Takes in one packet seen at `point`.
    #[inline(always)]
    pub fn observe(&mut self, point: u32, frame: &Frame<'_>) {
        self.packets += 1;
        match glance_tcp(frame).or_else(|| glance(frame)) {
            Some(plain) if frame.heading.is_none() => {
                let time = when(frame);
                self.points.saw(point, time);
                let at = self.batch.heads.len();
                self.batch.heads.extend_from_slice(&frame.bytes[..frame.bytes.len().min(HEAD)]);
                self.notice(point, time, frame.number, &plain, at, frame.bytes.len().min(HEAD));
                if self.batch.waiting.len() == BATCH {
                    self.look_up();
                }
            }
            _ => self.not_plain(point, frame),
        }
    }

    /// Takes in packets seen at `point` that lie one after the other in `window`: none of their bytes need be copied. Gives their number.
    #[inline(always)]
    pub fn observe_all<'a>(&mut self, point: u32, window: &'a [u8], frames: impl Iterator<Item = Frame<'a>>) -> u64 {
        self.look_up();
        let (mut span, before) = (Span::NOTHING, self.packets);
        for frame in frames {
            self.packets += 1;
            // Most packets are IPv4 and TCP: their way is free of all questions of what else they might be.
            match glance_tcp(&frame) {
                Some(plain) if frame.heading.is_none() => {
                    let time = when(&frame);
                    span.saw(time);
                    let at = frame.bytes.as_ptr().addr().wrapping_sub(window.as_ptr().addr());
                    self.notice(point, time, frame.number, &plain, at, frame.bytes.len());
                }
                // By value: passing its address on would have every frame written to memory (nine instructions for each).
                _ => self.observe_other(point, window, frame),
            }
            if self.batch.waiting.len() == BATCH {
                self.look_up_in(window);
            }
        }
        self.look_up_in(window);
        self.points.saw_all(point, span);
        self.packets - before
    }

    #[inline(never)]
    fn observe_other(&mut self, point: u32, window: &[u8], frame: Frame<'_>) {
        match glance(&frame) {
            Some(plain) if frame.heading.is_none() => {
                let time = when(&frame);
                self.points.saw(point, time);
                let at = frame.bytes.as_ptr().addr().wrapping_sub(window.as_ptr().addr());
                self.notice(point, time, frame.number, &plain, at, frame.bytes.len());
            }
            _ => {
                self.look_up_in(window);
                self.not_plain(point, &frame);
            }
        }
    }

    #[inline(always)]
    fn notice(&mut self, point: u32, time: Timestamp, number: u64, plain: &Glance<'_>, at: usize, len: usize) {
        let wire = self.wires.of_glance(point, plain.macs, plain.vlan);
        self.wires.count(wire);
        let tuple = self.addresses.tuple_of(plain);
        let (seq, _, flags) = plain.sequence();
        self.batch.waiting.push(Waiting {
            glimpse: Glimpse {
                hash: leg_hash(tuple, wire),
                time: time.0,
                seq,
                payload_len: plain.payload_len,
                id: plain.id(),
                gate: gate(plain.ttl(), flags, plain.odd_options()),
                tcp: tuple.protocol() == 6,
            },
            wire,
            frame: narrow(number),
            at: at as u32,
            len: len as u32,
        });
    }

    /// Takes the packets that were noticed one by one to the table.
    pub(super) fn look_up(&mut self) {
        let mut heads = std::mem::take(&mut self.batch.heads);
        self.look_up_in(&heads);
        heads.clear();
        self.batch.heads = heads;
    }

    /// Takes the waiting packets, which begin in `bytes`, to the table: first those that can be passed over, then, in their order, the others.
    #[inline(never)]
    fn look_up_in(&mut self, bytes: &[u8]) {
        let Batch { waiting, closer, .. } = &mut self.batch;
        self.table.warm(waiting.iter().map(|waiting| waiting.glimpse.hash));
        // What comes behind a packet of its own leg that has to be looked at waits for it. Of each leg's hash six bits are enough to know it
        // by: mistaken for another one, a packet waits in vain.
        let mut held = 0u64;
        for waiting in &*waiting {
            let leg = 1 << (waiting.glimpse.hash >> 58);
            if held & leg != 0 || self.journal.wanted() || !self.table.pass(&waiting.glimpse) {
                held |= leg;
                if let Some(plain) = waiting.plain(bytes) {
                    closer.push((waiting.sighting(self.addresses.tuple_of(&plain), &plain), *waiting));
                }
            }
        }
        waiting.clear();
        let mut closer = std::mem::take(closer);
        self.table.warm_records(closer.iter().map(|(sighting, _)| sighting));
        let opening = closer.iter().filter(|(s, _)| s.flags.opens());
        self.samples.warm(opening.map(|(s, _)| handshake_key(s.tuple.protocol(), s.seq)));
        for (sighting, waiting) in &closer {
            match self.table.see(sighting) {
                Look::Done if !self.journal.wanted() => {}
                look => {
                    let features = waiting.features(sighting, bytes, self.journal.wanted());
                    self.closer(look, sighting, &features);
                }
            }
        }
        closer.clear();
        self.batch.closer = closer;
    }
}
