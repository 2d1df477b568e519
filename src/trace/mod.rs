//! One packet, seen many times, made one again.
//!
//! Packets of several capture points go into a [`Tracer`], in any order of points, with whatever clocks; out comes a [`Trace`]: flows with
//! the way of their packets, hop by hop, and what each hop rewrote; the hosts and their roles; who claimed which address; how far the
//! clocks are apart; and what could not be placed, with the reason.
//!
//! # How packets find each other
//!
//! 1. Each packet belongs to a **conversation**, one 5-tuple in both directions, and there to a **leg**, one direction on one wire (MAC
//!    pair, VLAN, tunnel) at one point. That is a table look-up ([`table`]); nothing is kept per packet.
//! 2. A balancer rewrites the 5-tuple. What it cannot rewrite (sequence numbers, payload) joins conversations into flows
//!    ([`sample`], [`correlate`]), only when marks of different kinds agree.
//! 3. The MACs say which point is on which host and which MACs belong to one host ([`topology`]); questions and answers say how far the
//!    clocks are apart ([`clock`]).
//! 4. The legs of a flow, in the order of their TTLs and MACs, are its way ([`transit`], [`path`]). The way, and the ways of the other
//!    flows of the same service, say who balances and how ([`balance`]).
//!
//! # What is never done
//!
//! Order is never taken from clocks where TTL or MACs decide. Packets are never joined by an address, a port or a time alone. A frame
//! that a bridge flooded to a host is not taken for one that the host received.
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

mod assemble;
mod balance;
mod batch;
mod claims;
mod clock;
mod correlate;
mod delivery;
mod error;
mod flow;
mod group;
mod heard;
mod host;
#[cfg(test)]
mod joins;
mod journal;
mod journey;
mod live;
#[cfg(test)]
mod natbox;
mod ongoing;
mod pace;
mod pairing;
mod path;
mod place;
mod point;
mod role;
mod sample;
mod segments;
mod stall;
mod store;
mod table;
mod topology;
mod tracer;
mod transit;
mod tuple;
mod wire;

pub use balance::Hints;
pub use claims::{Advertiser, Claim, ClaimKind, Claims, Occurrences, Question};
pub use clock::ClockOffset;
pub use flow::{Flow, FlowError, FlowNote, FlowState, Method, Way};
pub use group::Group;
pub use host::TracedHost;
pub use journey::{Journey, Part, Sighting as JourneySighting};
pub use ongoing::Spent;
pub use path::{Hop, HostId, PacketKinds, Path, Rewrite};
pub use point::{CapturePoint, Naming, Source, unrotated};
pub use role::role_of_name;
pub use table::{NoteKind, PacketKind};
pub use tracer::Tracer;

use crate::net::Timestamp;
use assemble::{Assembler, Draft};
use balance::Balance;
use hashbrown::{HashMap, HashSet};
use host::Hosts;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use store::Store;
use topology::Topology;

/// How to trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the user said about services.
    pub hints: Hints,
    /// Keep every packet, for [`Trace::journeys`]. Memory then grows with packets.
    pub packets: bool,
    /// Conversations that are followed at most; the packets of further ones are counted as unplaced.
    pub max_connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { hints: Hints::default(), packets: false, max_connections: 20_000_000 }
    }
}

/// Everything that the packets of all capture points tell together.
pub struct Trace {
    /// The capture points.
    pub points: Vec<CapturePoint>,
    /// The hosts.
    pub hosts: Vec<TracedHost>,
    /// Flows that were put together whole: all of them, or of each group a few examples where there are thousands.
    pub flows: Vec<Flow>,
    /// Flows that differ in nothing but their client.
    pub groups: Vec<Group>,
    /// What was heard about addresses.
    pub claims: Claims,
    /// How far the clocks are apart, where both directions were seen.
    pub clocks: Vec<ClockOffset>,
    /// Packets that belong to no connection, by reason.
    pub unplaced: BTreeMap<String, u64>,
    /// Packets seen, at all points together.
    pub packets: u64,
    /// Frames whose checksum was left to the sender's network card (CAP001): seen among the packets that were looked at closely.
    pub unfinished_checksums: u64,
    /// The same by capture point, with frame numbers.
    pub unfinished: BTreeMap<u32, Occurrences>,
    assembler: Assembler,
    /// Group of each flow.
    group_of: Vec<u32>,
    journal: journal::Journal,
    /// By host, when somebody asks.
    heard: OnceLock<Vec<Option<Timestamp>>>,
}

impl Trace {
    fn new(tracer: Tracer) -> Self {
        let Tracer { options, mut points, addresses, wires, table, claims, errors, journal, mut unplaced, unfinished, packets, .. } =
            tracer;
        let store = Store::new(table, addresses, wires);
        let topology = Topology::new(&store, &points.points, &claims);
        let hosts = Hosts::new(&store, &topology, &points.points, &claims);
        let places = place::places(&store, &topology, &hosts);
        let balance = Balance::new(&options.hints, &claims, &hosts);
        let ends = (0..).zip(&points.points).map(|(at, p)| topology.clocks.common(at, p.last.0)).collect();
        let mut errors_of: HashMap<u32, Vec<usize>> = HashMap::new();
        let mut homeless = errors.left_out;
        for (at, error) in errors.errors.iter().enumerate() {
            match store.flow_with(error.quoted) {
                Some(flow) => errors_of.entry(flow).or_default().push(at),
                None => homeless += error.times.count,
            }
        }
        if homeless > 0 {
            unplaced.insert("ICMP errors about connections that were not captured".to_string(), homeless);
        }
        let ears = delivery::ears(&store, &places, &hosts, &claims, points.points.len());
        let mut assembler = Assembler { store, topology, hosts, places, balance, errors: errors.errors, errors_of, ends, ears };
        let (mut groups, group_of) = group::group(&assembler);
        let drafts: Vec<Draft> = group::examples(&groups, &group_of).iter().map(|flow| assembler.draft(*flow)).collect();
        assembler.learn(&drafts);
        let flows: Vec<Flow> = drafts
            .into_iter()
            .map(|draft| (group_of[draft.flow as usize], draft))
            .map(|(group, draft)| assembler.flow(draft, group as usize))
            .collect();
        assembler.hosts.give_roles(&flows);
        assembler.hosts.learn_addresses(&flows);
        assembler.hosts.name_the_rest();
        name_points(&mut points.points, &assembler.hosts);
        for flow in &flows {
            groups[flow.group].examples.push(flow.id);
        }
        let clocks = assembler.topology.clocks.offsets.clone();
        Trace {
            points: points.points,
            hosts: assembler.hosts.list.clone(),
            flows,
            groups,
            claims,
            clocks,
            unplaced,
            packets,
            unfinished_checksums: unfinished.values().map(|times| times.count).sum(),
            unfinished,
            assembler,
            group_of,
            journal,
            heard: OnceLock::new(),
        }
    }

    /// How many flows there are in all.
    pub fn flow_count(&self) -> usize {
        self.group_of.len()
    }

    /// Any flow by its number, from 1; put together anew if it is not among `flows`.
    pub fn flow(&self, id: u32) -> Option<Cow<'_, Flow>> {
        let at = id.checked_sub(1)?;
        let group = *self.group_of.get(at as usize)? as usize;
        Some(match self.flows.binary_search_by_key(&id, |flow| flow.id) {
            Ok(found) => Cow::Borrowed(&self.flows[found]),
            Err(_) => Cow::Owned(self.assembler.flow(self.assembler.draft(at), group)),
        })
    }

    /// Every flow, in order, each put together when it is its turn.
    pub fn all_flows(&self) -> impl Iterator<Item = Cow<'_, Flow>> {
        (1..=self.group_of.len() as u32).filter_map(|id| self.flow(id))
    }

    /// The number of a flow's group in `groups`.
    pub fn group_of(&self, id: u32) -> Option<usize> {
        id.checked_sub(1).and_then(|at| self.group_of.get(at as usize)).map(|group| *group as usize)
    }

    /// Numbers of the flows of some groups, in order.
    pub fn flows_of(&self, groups: &HashSet<usize>) -> Vec<u32> {
        (1..).zip(&self.group_of).filter(|(_, group)| groups.contains(&(**group as usize))).map(|(id, _)| id).collect()
    }

    /// A time of one point's clock, on the common clock.
    pub fn common_time(&self, point: u32, time: Timestamp) -> Timestamp {
        self.assembler.topology.clocks.at(point, time)
    }

    /// A host's name, or `?`.
    pub fn host_name(&self, host: Option<HostId>) -> &str {
        host.and_then(|h| self.hosts.get(h)).map_or("?", |h| h.name.as_str())
    }

    /// The host that a MAC belongs to.
    pub fn host_of(&self, mac: crate::net::MacAddr) -> Option<HostId> {
        self.assembler.hosts.of_mac(Some(mac))
    }

    /// The MAC of the interface that a point is on, as far as it shows.
    pub fn mac_at(&self, point: u32) -> Option<crate::net::MacAddr> {
        self.assembler.topology.own(point)
    }

    /// True when what a MAC was seen to send anywhere was seen at this point too: an interface shows all that it sends itself.
    pub fn shows_all_of(&self, point: u32, mac: crate::net::MacAddr) -> bool {
        let sent = |wire: &wire::Wire| wire.src == Some(mac) && wire.dst.is_some_and(|dst| dst.is_unicast());
        let mut here: HashMap<_, u64> = HashMap::new();
        let mut elsewhere: HashMap<_, u64> = HashMap::new();
        for (wire, count) in self.assembler.store.wires.iter().filter(|(wire, _)| sent(wire)) {
            if wire.point == point {
                *here.entry(wire.dst).or_default() += count;
            } else {
                *elsewhere.entry((wire.point, wire.dst)).or_default() += count;
            }
        }
        // Captures do not begin and end all at once.
        elsewhere.iter().all(|((_, dst), count)| here.get(dst).copied().unwrap_or(0) * 2 >= *count)
    }

    /// True when anything was heard from a MAC, anywhere.
    pub fn has_spoken(&self, mac: crate::net::MacAddr) -> bool {
        self.assembler.topology.has_spoken(mac)
    }

    /// True when frames for a MAC were seen at an interface that has another one and did not send them, or at several machines that did not:
    /// a bridge that does not know it floods them.
    pub fn is_flooded(&self, mac: crate::net::MacAddr) -> bool {
        let to = |wire: &wire::Wire| wire.dst == Some(mac) && self.mac_at(wire.point) != wire.src;
        let points: Vec<u32> =
            self.assembler.store.wires.iter().map(|(wire, _)| wire).filter(|wire| to(wire)).map(|wire| wire.point).collect();
        let machines: HashSet<_> = points.iter().map(|p| self.points[*p as usize].host.clone().ok_or(*p)).collect();
        machines.len() > 1 || points.iter().any(|p| self.mac_at(*p).is_some_and(|own| own != mac))
    }

    /// The host that a point is on.
    pub fn host_at(&self, point: u32) -> Option<HostId> {
        self.assembler.hosts.of_point(point)
    }

    /// True when any frame of a host, of whatever kind, was seen at a point.
    pub fn sent_at(&self, host: HostId, point: u32) -> bool {
        let wires = self.assembler.store.wires.iter().map(|(wire, _)| wire.point);
        wires.zip(&self.assembler.places).any(|(at, place)| at == point && place.from == Some(host))
    }

    /// Every packet's way (only with [`Options::packets`]).
    pub fn journeys(&self) -> impl Iterator<Item = Journey> {
        journey::journeys(&self.journal, &self.assembler)
    }
}

/// Names the points whose files say nothing: the host that was inferred, and the file.
fn name_points(points: &mut [CapturePoint], hosts: &Hosts) {
    for number in 0..points.len() {
        if points[number].naming == Naming::Given {
            continue;
        }
        let Some(host) = hosts.of_point(number as u32).and_then(|h| hosts.list.get(h)) else { continue };
        let name = format!("{}.{}", host.name, points[number].name);
        if host.name != points[number].name && points.iter().all(|p| p.name != name) {
            points[number].name = name;
        }
    }
}

impl Assembler {
    /// Learns from all examples who balances.
    fn learn(&mut self, examples: &[Draft]) {
        let mut seen: HashSet<HostId> = HashSet::new();
        // Twice: what one flow proves (a virtual service) helps to read another.
        for _ in 0..2 {
            self.balance.count_anew();
            for Draft { protocol, request, reply, .. } in examples {
                for hop in request.hops.iter().chain(&reply.hops) {
                    seen.extend(hop.from);
                    seen.extend(hop.to);
                }
                let served = reply.hops.iter().any(|h| h.first != PacketKind::Reset)
                    && request.hops.iter().any(|h| h.seen.has(PacketKind::Ack) || h.seen.has(PacketKind::Data));
                self.balance.learn(*protocol, request, reply, served);
            }
            let points = self.ends.len() as u32;
            self.balance.set_idle(&self.hosts, points, &seen);
        }
    }
}
