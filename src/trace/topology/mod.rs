//! Whose interface each capture point is, and which MACs belong to one host. From packets alone.
//!
//! - A point belongs to the MAC that (nearly) all its unicast frames are from or to, and whose frames are nowhere seen more completely
//!   ([`frames`], [`candidates()`], [`owners`]). A point without such a MAC is a mirror port or a merged capture: it belongs to nobody.
//! - On a link of two hosts captured at both ends each frame has the same two MACs. Then the answer decides: seen from the asking end, more
//!   time passes between question and answer. That needs no common clock ([`nearness`]).
//! - MACs belong to one host when a packet that arrived for one left again from the other, with the TTL one lower ([`forwarders`],
//!   [`machines`]).
//! - A packet was at one of two points first by TTL, or by the ends of a link: that bounds how far their clocks are apart ([`passages`]).

mod candidates;
mod forwarders;
mod frames;
mod machines;
mod nearness;
mod owners;
mod passages;

use super::claims::Claims;
use super::clock::Clocks;
use super::point::CapturePoint;
use super::store::{Spot, Store};
use super::table::NoteKind;
use super::wire::Wire;
use crate::net::MacAddr;
use crate::packet::Heading;
use candidates::{candidates, heed_siblings, heed_speakers};
use frames::Frames;
use hashbrown::HashSet;
use machines::Machines;
use nearness::Nearness;
use std::cmp::Ordering;

/// Hosts, points and clocks.
pub(super) struct Topology {
    /// The MAC that each point belongs to.
    own: Vec<Option<MacAddr>>,
    pub(super) machines: Machines,
    nearness: Nearness,
    /// MACs from which anything was heard.
    spoken: HashSet<MacAddr>,
    pub(super) clocks: Clocks,
}

/// So many flows, spread evenly, are enough to learn hosts and clocks from.
const SAMPLE: usize = 500;

/// The sightings of one flow, for learning from.
struct Sampled {
    request: Vec<Spot>,
    reply: Vec<Spot>,
    /// A SYN or SYN-ACK was sent more than once.
    repeated: bool,
}

impl Sampled {
    fn new(store: &Store, flow: u32) -> Self {
        let (request, reply) = store.spots(flow);
        let repeat = |kind| matches!(kind, NoteKind::SynRepeat | NoteKind::SynAckRepeat);
        let repeated = store.members(flow).iter().any(|c| store.notes(*c).any(|note| repeat(note.kind)));
        Sampled { request, reply, repeated }
    }
}

impl Topology {
    pub(super) fn new(store: &Store, points: &[CapturePoint], claims: &Claims) -> Self {
        let step = store.flows().div_ceil(SAMPLE).max(1);
        let sample: Vec<Sampled> = (0..store.flows()).step_by(step).map(|flow| Sampled::new(store, flow as u32)).collect();
        let mut topology = Topology {
            own: vec![None; points.len()],
            machines: Machines::default(),
            nearness: Nearness::new(store, &sample, claims),
            spoken: store.wires.iter().filter_map(|(wire, _)| wire.src).chain(claims.speakers()).collect(),
            clocks: Clocks::default(),
        };
        let frames = Frames::count(store, points.len());
        let mut candidates = candidates(&frames, &topology.nearness, points);
        heed_siblings(store, &sample, points, &mut candidates);
        heed_speakers(&frames, &topology.nearness, &topology.spoken, &mut candidates);
        topology.settle_owners(points, &candidates);
        // Who forwards says more of whose the points are, and the other way round.
        for _ in 0..3 {
            let united = topology.unite_forwarders(store, &sample);
            let settled = topology.settle_owners(points, &candidates);
            if !united && !settled {
                break;
            }
        }
        topology.settle_insides(store, &sample, points, &candidates);
        topology.settle_askers(&frames, points, claims);
        topology.settle_searchers(points, &candidates, claims);
        let passages = topology.passages(store, &sample, points, &topology.doubtful(&frames));
        topology.clocks = Clocks::estimate(points.iter().map(|p| p.file).collect(), &passages);
        topology
    }

    /// The MAC that a point belongs to.
    pub(super) fn own(&self, point: u32) -> Option<MacAddr> {
        self.own.get(point as usize).copied().flatten()
    }

    /// True when anything was heard from a MAC.
    pub(super) fn has_spoken(&self, mac: MacAddr) -> bool {
        self.spoken.contains(&mac)
    }

    /// True when the point's interface received or sent nothing of this: a learning bridge flooded the frame, or the interface was
    /// promiscuous on a shared wire.
    pub(super) fn is_bystander(&self, wire: &Wire) -> bool {
        let (Some(own), Some(src), Some(dst)) = (self.own(wire.point), wire.src, wire.dst) else {
            return wire.heading == Some(Heading::OtherHost);
        };
        let ours = |mac: MacAddr| self.machines.same(mac, own);
        src.is_unicast() && dst.is_unicast() && dst.vrid().is_none() && !ours(src) && !ours(dst)
    }

    /// Whether the wire's point is at its sender's end (`true`), at its receiver's (`false`), or at neither as far as known.
    pub(super) fn end_of(&self, wire: &Wire) -> Option<bool> {
        match wire.heading {
            Some(Heading::Out) => return Some(true),
            Some(Heading::In) => return Some(false),
            _ => {}
        }
        let own = self.own(wire.point)?;
        let ours = |mac: Option<MacAddr>| mac.is_some_and(|mac| self.machines.same(mac, own));
        match (ours(wire.src), ours(wire.dst)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            _ => None,
        }
    }

    /// `Less` when point `a` is nearer to `src` than point `b`.
    pub(super) fn link_order(&self, a: u32, b: u32, src: Option<MacAddr>) -> Ordering {
        src.map_or(Ordering::Equal, |src| self.nearness.lead(b, a, src).cmp(&0))
    }
}
