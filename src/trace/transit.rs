//! Sightings of one direction → the links that the packet crossed, in order.
//!
//! A **transit** is a packet on one link: one MAC pair, one set of addresses, one TTL. It may have been seen at several capture points
//! (both ends of the link, a mirror port), and by a learning bridge it may have been flooded to points that it does not concern.
//!
//! Order comes first from the TTL, which every forwarder lowers; then from MAC adjacency (who received it sends it on); then, for old
//! directors that left the TTL alone, from encapsulation and time.

use super::path::HostId;
use super::place::Place;
use super::store::{Spot, Store};
use super::table::PacketKind;
use super::topology::Topology;
use super::tuple::Tuple;
use crate::net::MacAddr;
use crate::packet::TunnelKind;
use std::cmp::Ordering;
use std::net::IpAddr;

/// A packet on one link, and where it was seen there.
#[derive(Clone, Debug)]
pub(super) struct Transit {
    pub(super) src: Option<MacAddr>,
    pub(super) dst: Option<MacAddr>,
    from: Option<HostId>,
    to: Option<HostId>,
    pub(super) tunnel: Option<(TunnelKind, IpAddr, IpAddr)>,
    pub(super) tuple: Tuple,
    pub(super) ttl: u8,
    /// Sightings at points that it concerns, in the order of their places: the sender's, those between, the receiver's.
    pub(super) spots: Vec<Spot>,
    /// Earliest sighting, on the common clock.
    pub(super) time: i64,
}

/// One direction of a flow.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    /// The way of the first packet.
    pub(super) main: Vec<Transit>,
    /// Ways that other packets took: after a cache changed, a redirect, a failover.
    pub(super) strays: Vec<Transit>,
    /// Sightings of flooded frames, at hosts that are neither sender nor receiver.
    pub(super) flooded: usize,
    /// The first of those: point, frame, time on that point's clock.
    pub(super) flooded_at: Option<(u32, u32, i64)>,
}

/// Groups, orders and sorts out the sightings of one direction.
pub(super) fn course(store: &Store, topology: &Topology, places: &[Place], spots: &[Spot]) -> Course {
    let mut course = Course::default();
    let mut transits: Vec<Transit> = Vec::with_capacity(spots.len());
    // A connection begins with a SYN or its answer; where those were seen, a reset on another wire is another story.
    let begins = spots.iter().any(|s| matches!(s.first, PacketKind::Syn | PacketKind::SynAck));
    let mut resets = Vec::new();
    for spot in spots {
        let (wire, place) = (store.wire(spot.wire), &places[spot.wire as usize]);
        if place.bystander {
            course.flooded += 1;
            course.flooded_at = course.flooded_at.or(Some((spot.point, spot.frame, spot.time)));
            continue;
        }
        let time = topology.clocks.common(spot.point, spot.time);
        // Without both MACs a sighting is a place of its own: tunnel devices, cooked captures, the loopback.
        let anchored = wire.src.is_some_and(MacAddr::is_unicast) && wire.dst.is_some_and(MacAddr::is_unicast);
        let same = |t: &&mut Transit| {
            t.tuple == spot.tuple
                && t.ttl == spot.ttl
                && (t.src, t.dst, t.tunnel) == (wire.src, wire.dst, wire.tunnel)
                && (anchored || t.spots[0].wire == spot.wire)
        };
        let into = if begins && spot.first == PacketKind::Reset { &mut resets } else { &mut transits };
        match into.iter_mut().find(same) {
            Some(transit) => {
                transit.time = transit.time.min(time);
                transit.spots.push(*spot);
            }
            None => into.push(Transit {
                src: wire.src,
                dst: wire.dst,
                from: place.from,
                to: place.to,
                tunnel: wire.tunnel,
                tuple: spot.tuple,
                ttl: spot.ttl,
                spots: vec![*spot],
                time,
            }),
        }
    }
    for transit in transits.iter_mut().chain(&mut resets) {
        order_spots(topology, places, transit);
    }
    split(order(transits), &mut course);
    course.strays.extend(order(resets));
    course
}

/// Sender's points first, then those that are neither's, then the receiver's; among one host's the time decides.
fn order_spots(topology: &Topology, places: &[Place], transit: &mut Transit) {
    if transit.spots.len() < 2 {
        return;
    }
    let place = |spot: &Spot| match places[spot.wire as usize].at_sender {
        Some(true) => 0,
        None => 1,
        Some(false) => 2,
    };
    transit.spots.sort_by(|a, b| {
        let time = |s: &Spot| topology.clocks.common(s.point, s.time);
        place(a).cmp(&place(b)).then_with(|| topology.link_order(a.point, b.point, transit.src)).then_with(|| time(a).cmp(&time(b)))
    });
}

/// True when what arrives by `a` is what `b` sends on.
fn leads(a: &Transit, b: &Transit) -> bool {
    (a.to.is_some() && a.to == b.from) || (a.dst.is_some() && a.dst == b.src)
}

fn order(mut transits: Vec<Transit>) -> Vec<Transit> {
    transits.sort_by(|a, b| b.ttl.cmp(&a.ttl).then_with(|| a.time.cmp(&b.time)));
    let mut ordered: Vec<Transit> = Vec::with_capacity(transits.len());
    while !transits.is_empty() {
        let level = transits.iter().take_while(|t| t.ttl == transits[0].ttl).count();
        // Of those with one TTL: whom no other one leads to; a packet enters its tunnel before it leaves it.
        let first = (0..level).find(|&i| (0..level).all(|j| i == j || precedes(&transits[j], &transits[i]) != Ordering::Less)).unwrap_or(0);
        ordered.push(transits.remove(first));
    }
    ordered
}

/// `Less` when `a` must come before `b`, of two transits with the same TTL.
fn precedes(a: &Transit, b: &Transit) -> Ordering {
    match (leads(a, b), leads(b, a)) {
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        _ => match (a.tunnel.is_some(), b.tunnel.is_some(), a.dst.is_some(), b.dst.is_some()) {
            // Wrapped, then bare on a tunnel device that has no MACs.
            (true, false, _, false) => Ordering::Less,
            (false, true, false, _) => Ordering::Greater,
            _ => Ordering::Equal,
        },
    }
}

/// Separates the way of the first packet from ways that later packets took.
fn split(ordered: Vec<Transit>, course: &mut Course) {
    // The same packet from the same sender to two neighbours, or over one link with two sets of addresses: only the earlier one can be the
    // first packet's way.
    let forks = |a: &Transit, b: &Transit| {
        let macs = a.src.is_some() && a.dst.is_some() && b.dst.is_some();
        let (same_way, same_addresses) = (a.dst == b.dst, a.tuple == b.tuple);
        macs && (a.src, a.ttl, a.tunnel) == (b.src, b.ttl, b.tunnel) && (same_way != same_addresses)
    };
    let later: Vec<bool> = ordered.iter().map(|t| ordered.iter().any(|other| forks(t, other) && other.time < t.time)).collect();
    for (transit, later) in ordered.into_iter().zip(later) {
        let after_stray = course.strays.iter().any(|s| leads(s, &transit));
        let after_main = course.main.iter().any(|m| leads(m, &transit));
        if later || (after_stray && !after_main) { course.strays.push(transit) } else { course.main.push(transit) }
    }
}
