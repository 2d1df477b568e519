//! The MACs that each point may belong to: one where it is clear, two at the end of a link of two hosts, none at a mirror.

use super::Sampled;
use super::frames::Frames;
use super::nearness::Nearness;
use crate::net::MacAddr;
use crate::trace::point::CapturePoint;
use crate::trace::store::{Spot, Store};
use hashbrown::HashSet;

/// The MACs that each point may belong to. Where two points could both belong to one MAC, the one that is nearer to it keeps it.
pub(super) fn candidates(frames: &Frames, nearness: &Nearness, points: &[CapturePoint]) -> Vec<Vec<MacAddr>> {
    let mut dropped: Vec<HashSet<MacAddr>> = vec![HashSet::new(); points.len()];
    loop {
        let candidates: Vec<Vec<MacAddr>> = (0..points.len()).map(|p| frames.likeliest(p, &dropped[p])).collect();
        let mut changed = false;
        for (p, macs) in candidates.iter().enumerate() {
            for q in (0..points.len()).filter(|&q| q != p && !points[q].is_beside(&points[p])) {
                for mac in macs.iter().filter(|mac| candidates[q].contains(mac)) {
                    if nearness.lead(p as u32, q as u32, *mac) > 0 && !frames.differ_in_tags(p, q, *mac) {
                        changed |= dropped[q].insert(*mac);
                    }
                }
            }
        }
        if !changed {
            return candidates;
        }
    }
}

/// A neighbour that every packet goes through, and whose own frames a bridge floods back, has a part in more frames of a forwarder's
/// interface than the forwarder itself. But what came in by another interface of the same machine leaves by this one, one hop on, and its
/// sender is the machine: when that is always another MAC than the one that seems to be the interface's, it is the interface's.
pub(super) fn heed_siblings(store: &Store, sample: &[Sampled], points: &[CapturePoint], candidates: &mut [Vec<MacAddr>]) {
    for out in 0..points.len() {
        let [seems] = candidates[out][..] else { continue };
        let mut senders: HashSet<MacAddr> = HashSet::new();
        for into in (0..points.len()).filter(|&p| p != out && points[p].is_beside(&points[out])) {
            let own = |mac: MacAddr| mac != seems && candidates[into].contains(&mac);
            for spots in sample.iter().flat_map(|flow| [&flow.request, &flow.reply]) {
                let came = |s: &&Spot| s.point as usize == into && store.wire(s.wire).dst.is_some_and(own);
                for came in spots.iter().filter(came) {
                    let next = |s: &&Spot| s.first == came.first && came.ttl.checked_sub(1) == Some(s.ttl);
                    let went = spots.iter().filter(|s| s.point as usize == out).filter(next);
                    senders.extend(went.filter_map(|s| store.wire(s.wire).src));
                }
            }
        }
        let mut senders = senders.into_iter();
        if let (Some(sender), None) = (senders.next(), senders.next())
            && sender.is_unicast()
        {
            candidates[out] = vec![sender];
        }
    }
}

/// Frames for a MAC that nobody uses, a bridge floods: at the interface of a host that asks much and is answered at a wrong MAC, they may be
/// more than its own. But an interface has the MAC from which it speaks. It is that of a speaker to whom, at this point, more time passes
/// between question and answer than at every other point that shows his frames.
pub(super) fn heed_speakers(frames: &Frames, nearness: &Nearness, spoken: &HashSet<MacAddr>, candidates: &mut [Vec<MacAddr>]) {
    let points = candidates.len();
    for (at, own) in candidates.iter_mut().enumerate() {
        if own.is_empty() || own.iter().any(|mac| spoken.contains(mac)) {
            continue;
        }
        let elsewhere = |mac: &MacAddr| -> Vec<usize> { (0..points).filter(|&p| p != at && frames.seen(p, mac) > 0).collect() };
        let nearest = |mac: &&MacAddr| {
            let others = elsewhere(mac);
            !others.is_empty() && others.iter().all(|p| nearness.lead(at as u32, *p as u32, **mac) > 0)
        };
        let mut near = spoken.iter().filter(|mac| frames.seen(at, mac) > 0).filter(nearest);
        if let (Some(mac), None) = (near.next(), near.next()) {
            *own = vec![*mac];
        }
    }
}
