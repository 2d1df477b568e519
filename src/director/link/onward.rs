//! What becomes of a packet that the engine has judged: on it goes, in fragments where it must be, or its sender is told.

use super::neighbour::Waiting;
use super::sent::{DONE, Offload, Sent, is_partial, merged, moved};
use super::{Director, Fate};
use crate::director::engine::{Arrived, Forwarded, Verdict};
use crate::net::Timestamp;
use crate::packet::{IpHeader, fragment, segment_len, segments};
use std::net::IpAddr;
use std::ops::Range;

/// A packet in the frame that it came in.
#[derive(Clone, Copy)]
pub(super) struct Came<'f> {
    pub(super) frame: &'f [u8],
    pub(super) at: usize,
    /// The frame is there until what comes of it is sent.
    pub(super) kept: bool,
}

/// A packet that goes on: rewritten bytes, and the rest of it in the frame that it came in.
struct Onward<'f> {
    bytes: Vec<u8>,
    rest: Range<usize>,
    frame: &'f [u8],
    /// As it came; its headers are as long as they are now when there is a rest.
    packet: &'f [u8],
}

impl Onward<'_> {
    fn len(&self) -> usize {
        self.bytes.len() + self.rest.len()
    }

    fn segment_len(&self, size: usize) -> usize {
        segment_len(if self.rest.is_empty() { &self.bytes } else { self.packet }, size)
    }

    fn whole(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&self.frame[self.rest.clone()]);
        self.bytes
    }
}

/// Where to, and for whom.
struct Way {
    to: IpAddr,
    request: bool,
    answer: bool,
    longest: Option<usize>,
}

impl Director {
    /// Puts a packet before the engine, and does what it says.
    pub(super) fn packet(&mut self, came: Came<'_>, offload: &Offload, now: Timestamp, out: &mut Vec<Sent>) -> Fate {
        let packet = &came.frame[came.at..];
        let arrived = Arrived { bytes: packet, partial: is_partial(offload), merged: merged(offload), mark: 0, kept: came.kept };
        match self.engine.packet(&arrived, now) {
            Verdict::Forward(forwarded) => {
                let fate = Fate::Forwarded { to: forwarded.to, method: forwarded.method };
                self.forward(came, forwarded, *offload, now, out);
                fate
            }
            Verdict::Answer(packet, reason) => {
                self.tally.told += 1;
                *self.tally.dropped.entry(reason).or_default() += 1;
                if let Some(header) = IpHeader::read(&packet) {
                    let way = Way { to: header.dst, request: false, answer: false, longest: None };
                    self.send(Onward { bytes: packet, rest: 0..0, frame: &[], packet: &[] }, DONE, &way, now, out);
                }
                Fate::Refused(reason)
            }
            Verdict::Drop(reason) => {
                *self.tally.dropped.entry(reason).or_default() += 1;
                Fate::Dropped(reason)
            }
            Verdict::Local => {
                self.tally.passed += 1;
                Fate::Local
            }
            Verdict::Pass => {
                self.tally.passed += 1;
                Fate::Pass
            }
            Verdict::Held => Fate::Held,
        }
    }

    fn forward(&mut self, came: Came<'_>, forwarded: Forwarded, offload: Offload, now: Timestamp, out: &mut Vec<Sent>) {
        let request = forwarded.method.is_some();
        *(if request { &mut self.tally.requests } else { &mut self.tally.answers }) += 1;
        let packet = &came.frame[came.at..];
        let len = forwarded.bytes.len() + forwarded.rest.len();
        let grown = len.saturating_sub(IpHeader::read(packet).map_or(0, |h| h.total));
        let rest = came.at + forwarded.rest.start..came.at + forwarded.rest.end;
        let onward = Onward { bytes: forwarded.bytes, rest, frame: came.frame, packet };
        let way = Way { to: forwarded.to, request, answer: forwarded.answers, longest: forwarded.longest };
        self.send(onward, moved(offload, grown as u16), &way, now, out);
    }

    /// Sends a packet on its way, in fragments where it must be. A merged one is cut by the card, into segments that fit if their sender kept
    /// to the MTU; if not, the kernel cuts it here, and each segment into fragments (`ip_finish_output_gso`).
    fn send(&mut self, onward: Onward<'_>, offload: Offload, way: &Way, now: Timestamp, out: &mut Vec<Sent>) {
        let route = self.engine.routes.to(way.to).copied();
        let next = route.and_then(|route| route.via).unwrap_or(way.to);
        let port = route.map_or(0, |route| route.port);
        let mtu = route.map_or(1500, |route| route.mtu).min(way.longest.unwrap_or(usize::MAX));
        let size = merged(&offload);
        if size.map_or(onward.len(), |size| onward.segment_len(size)) <= mtu {
            let Onward { bytes, rest, frame, .. } = onward;
            let waiting = Waiting { bytes, rest, offload, request: way.request, answer: way.answer };
            return self.deliver(port, next, waiting, frame, now, out);
        }
        let packet = onward.whole();
        // A fragment has no checksum of its own that somebody could complete later.
        let whole = size.is_none() && !is_partial(&offload);
        let parts = if whole { vec![packet] } else { segments(&packet, size.unwrap_or(usize::MAX)) };
        for bytes in parts.iter().flat_map(|part| fragment(part, mtu, now.0 as u32)) {
            let waiting = Waiting { bytes, rest: 0..0, offload: DONE, request: way.request, answer: way.answer };
            self.deliver(port, next, waiting, &[], now, out);
        }
    }
}
