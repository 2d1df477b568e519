//! Packets that were at one point before they were at another: what clocks are compared by.

use super::frames::Frames;
use super::{Sampled, Topology};
use crate::net::MacAddr;
use crate::trace::clock::Passage;
use crate::trace::point::CapturePoint;
use crate::trace::store::{Spot, Store};
use crate::trace::table::PacketKind;
use hashbrown::HashSet;
use std::cmp::Ordering;
use std::collections::BTreeMap;

impl Topology {
    /// Points that seem to belong to a MAC of which another point of the same MAC has seen twice as much. Likelier a bridge flooded to a
    /// bystander what little was seen there, and when it did so proves nothing about clocks.
    pub(super) fn doubtful(&self, frames: &Frames) -> Vec<bool> {
        let outdone = |p: usize, mac: &MacAddr| {
            let rival = |q: usize| q != p && self.own[q] == Some(*mac) && !frames.differ_in_tags(p, q, *mac);
            (0..self.own.len()).any(|q| rival(q) && frames.seen(q, mac) >= 2 * frames.seen(p, mac))
        };
        self.own.iter().enumerate().map(|(p, own)| own.as_ref().is_some_and(|mac| outdone(p, mac))).collect()
    }

    /// Packets seen at two files' points in a known order.
    pub(super) fn passages(&self, store: &Store, sample: &[Sampled], points: &[CapturePoint], doubtful: &[bool]) -> Vec<Passage> {
        let mut passages = Vec::new();
        // Packets that only seem to be the same one, for want of an IP-ID: for files that have nothing better in common.
        let mut guesses = Vec::new();
        for Sampled { request, reply, repeated } in sample {
            for spots in [request, reply] {
                for a in spots {
                    for b in spots {
                        let (from, to) = (points[a.point as usize].file, points[b.point as usize].file);
                        let vague = doubtful[a.point as usize] || doubtful[b.point as usize];
                        if from == to || vague || a.first != b.first || a.print >> 16 != b.print >> 16 || !self.precedes(store, a, b) {
                            continue;
                        }
                        let passage = Passage { from_file: from, to_file: to, left: a.time, arrived: b.time };
                        if a.print == b.print && a.print as u16 != 0 {
                            passages.push(passage);
                        } else if seems_first(a, b, *repeated) {
                            guesses.push(passage);
                        }
                    }
                }
            }
        }
        // Where a box writes IP-IDs of its own, two are the same by chance at times: that one packet is no surer than the others.
        let count = |passages: &[Passage], p: &Passage| {
            let same = |q: &&Passage| (q.from_file, q.to_file) == (p.from_file, p.to_file);
            passages.iter().filter(same).count()
        };
        let pairs: BTreeMap<(usize, usize), &Passage> = guesses.iter().map(|p| ((p.from_file, p.to_file), p)).collect();
        let told = |p: &&Passage| count(&passages, p) > 0 && count(&passages, p) >= count(&guesses, p) / 2;
        let sure: HashSet<(usize, usize)> = pairs.iter().filter(|(_, p)| told(p)).map(|(&pair, _)| pair).collect();
        passages.extend(guesses.into_iter().filter(|p| !sure.contains(&(p.from_file, p.to_file))));
        passages
    }

    /// Whether a packet is at `a` before it is at `b`: a higher TTL, or the sender's end of the same link.
    fn precedes(&self, store: &Store, a: &Spot, b: &Spot) -> bool {
        let (from, to) = (store.wire(a.wire), store.wire(b.wire));
        if self.is_bystander(from) || self.is_bystander(to) {
            return false;
        }
        if a.ttl != b.ttl {
            return a.ttl > b.ttl;
        }
        if (from.src, from.dst) != (to.src, to.dst) || a.tuple != b.tuple {
            return false;
        }
        let place = |end: Option<bool>| match end {
            Some(true) => 0,
            None => 1,
            Some(false) => 2,
        };
        match place(self.end_of(from)).cmp(&place(self.end_of(to))) {
            Ordering::Less => true,
            Ordering::Equal => self.link_order(a.point, b.point, from.src) == Ordering::Less,
            Ordering::Greater => false,
        }
    }
}

/// Whether the first packets of both legs are the same one, as far as counts can tell: a leg that missed some may begin later.
fn seems_first(a: &Spot, b: &Spot, repeated: bool) -> bool {
    (matches!(a.first, PacketKind::Syn | PacketKind::SynAck) && !repeated) || a.packets == b.packets
}
