//! Requests that are too big for the link behind a director, what the director says to that, and what the client makes of it; and long
//! segments that are lost anywhere else on the way.
//!
//! The length of a captured frame alone says nothing: network cards and kernels merge and split segments (CAP002). What counts is the
//! director's own word, ICMP "fragmentation needed", and data that is sent again and again and never handed on while shorter packets are.

use super::{Facts, is_initial};
use crate::packet::IcmpKind;
use crate::trace::{Flow, FlowError, FlowNote, Hop, NoteKind, PacketKind, Way};
use std::collections::BTreeMap;

/// Data shorter than this fits everywhere.
const SMALL: u32 = 500;
/// So many repeats of the same bytes, each after twice the time, are not loss.
const STUBBORN: usize = 2;

/// A request whose data does not get past the director.
pub(in crate::rules) struct Stuck<'a> {
    /// Where the data arrives, again and again.
    pub(in crate::rules) hop: &'a Hop,
    /// The repeats of one segment there.
    pub(in crate::rules) repeats: Vec<&'a FlowNote>,
    /// Where shorter packets of the flow leave the director.
    pub(in crate::rules) after: Option<&'a Hop>,
}

/// Long segments that get so far and no further, while shorter ones pass; in either direction, at a director or not.
pub(in crate::rules) struct Vanished<'a> {
    pub(in crate::rules) way: Way,
    /// The last place that shows them, again and again.
    pub(in crate::rules) hop: &'a Hop,
    /// Their repeats there.
    pub(in crate::rules) repeats: Vec<&'a FlowNote>,
    /// The next place, which shows only shorter ones.
    pub(in crate::rules) after: &'a Hop,
}

impl<'a> Facts<'a> {
    /// The director's word that a packet of the client is too big, and the MTU that it names. It comes from the address that the client
    /// speaks to, as no router's does.
    pub fn too_big(&self, flow: &'a Flow) -> Option<(&'a FlowError, u32)> {
        let mut words = flow.errors.iter().filter(|e| e.about == Way::Request && !e.tunnelled).filter_map(|error| match error.kind {
            IcmpKind::TooBig { mtu } => Some((error, mtu)),
            _ => None,
        });
        let own = |e: &FlowError| flow.director.is_some() && e.from == flow.director && is_initial(e.ttl);
        let served = |e: &FlowError| e.src == flow.service.addr || flow.vip.is_some_and(|vip| vip.addr == e.src);
        words.clone().find(|(e, _)| own(e)).or_else(|| words.find(|(e, _)| served(e)))
    }

    /// Whether the client was told: its own capture shows the director's ICMP error, or shows none. `None` without such a capture.
    pub fn is_told(&self, flow: &Flow) -> Option<bool> {
        let client = flow.client_host?;
        let told = |e: &FlowError| e.about == Way::Request && matches!(e.kind, IcmpKind::TooBig { .. }) && e.to == Some(client);
        if flow.errors.iter().any(told) {
            return Some(true);
        }
        let first = flow.request.first()?;
        (self.trace.host_at(first.point) == Some(client) && self.is_whole(first.point)).then_some(false)
    }

    /// The request's data that arrives at the director over and over and is never handed on, although shorter packets are; or, where
    /// nobody watched behind the director, of which it says that it is too big.
    pub(in crate::rules) fn stuck(&self, flow: &'a Flow) -> Option<Stuck<'a>> {
        let mtu = self.too_big(flow).map(|(_, mtu)| mtu);
        let after = flow.director.and_then(|director| flow.request.sent_by(director));
        if after.is_none() && mtu.is_none() || after.is_some_and(|hop| !self.is_whole(hop.point)) {
            return None;
        }
        // A filter that lets only the SYN pass is another story (NET006).
        let passes = |hop: &Hop| hop.seen.has(PacketKind::Ack) || hop.seen.has(PacketKind::Data);
        let hop = if flow.director.is_some() { self.at_director(flow)? } else { flow.request.last()? };
        let headers = if flow.service.addr.is_ipv6() { 60 } else { 40 };
        let is_big = |note: &FlowNote| match (mtu, after) {
            (Some(mtu), _) => note.len + headers > mtu,
            (None, Some(after)) => note.len >= SMALL && note.len > u32::from(after.longest),
            (None, None) => false,
        };
        let here = |n: &&FlowNote| n.way == Way::Request && (n.point, n.src, n.dst, n.from) == (hop.point, hop.src, hop.dst, hop.from);
        // A short last segment overtakes long ones that are dropped. So later bytes behind the director prove that a segment passed only
        // where it may be among them: another of its length, the same bytes again, or bytes that the client sent again in shorter pieces.
        // What is longer than any segment was merged (CAP002), and leaves the director in pieces.
        let mss = flow.reply.hops.iter().chain(&flow.reply.strays).filter_map(|hop| hop.mss).max().unwrap_or(1460);
        let again = |note: &FlowNote| {
            let elsewhere = |n: &FlowNote| after.is_some_and(|after| n.point == after.point && n.from == after.from);
            flow.noted(NoteKind::DataRepeat)
                .any(|n| n.way == Way::Request && n.seq == note.seq && (elsewhere(n) || here(&n) && n.len < note.len))
        };
        let handed_on = |note: &FlowNote| {
            let Some(after) = after.filter(|after| after.high_seq.wrapping_sub(note.seq).cast_signed() > 0) else { return false };
            let is_one = note.len <= u32::from(mss);
            !is_one || note.len <= u32::from(after.longest) || again(note)
        };
        let mut by_seq: BTreeMap<u32, Vec<&FlowNote>> = BTreeMap::new();
        for note in flow.noted(NoteKind::DataRepeat).filter(here).filter(|n| is_big(n) && !handed_on(n)) {
            by_seq.entry(note.seq).or_default().push(note);
        }
        let repeats = by_seq.into_values().max_by_key(Vec::len).filter(|repeats| repeats.len() >= STUBBORN)?;
        after.is_none_or(passes).then_some(Stuck { hop, repeats, after })
    }

    /// Where a flow's long segments are lost, when their sender goes on sending them: between a place that shows them over and over and
    /// the next one on the way.
    pub(in crate::rules) fn vanished(&self, flow: &'a Flow) -> Option<Vanished<'a>> {
        let way = flow.stalled?;
        let path = if way == Way::Request { &flow.request } else { &flow.reply };
        // Another way for a part of the packets would explain it, too.
        if !path.strays.is_empty() {
            return None;
        }
        let passes = |hop: &Hop| hop.seen.has(PacketKind::Ack) || hop.seen.has(PacketKind::Data);
        path.hops.windows(2).enumerate().rev().find_map(|(at, pair)| {
            let (hop, after) = (&pair[0], &pair[1]);
            let here = |n: &&FlowNote| n.way == way && (n.point, n.src, n.dst, n.from) == (hop.point, hop.src, hop.dst, hop.from);
            let last = flow.noted(NoteKind::DataRepeat).filter(here).last()?;
            let repeats: Vec<&FlowNote> = flow.noted(NoteKind::DataRepeat).filter(here).filter(|n| n.seq == last.seq).collect();
            let beyond = path.hops[at + 1..].iter().all(|h| self.is_whole(h.point) && u32::from(h.longest) < last.len);
            let fits = last.len >= SMALL && beyond && passes(after) && self.covers(after.point, hop);
            (repeats.len() > STUBBORN && fits).then_some(Vanished { way, hop, repeats, after })
        })
    }
}
