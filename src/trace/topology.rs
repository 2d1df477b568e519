//! Whose interface each capture point is, and which MACs belong to one host. From packets alone.
//!
//! - A point belongs to the MAC that (nearly) all its unicast frames are from or to, and whose frames are nowhere seen more completely. A
//!   point without such a MAC is a mirror port or a merged capture: it belongs to nobody.
//! - On a link of two hosts captured at both ends each frame has the same two MACs. Then the answer decides: seen from the asking end, more
//!   time passes between question and answer. That needs no common clock.
//! - MACs belong to one host when a packet that arrived for one left again from the other, with the TTL one lower.

use super::balance::role_of_name;
use super::claims::{ClaimKind, Claims};
use super::clock::{Clocks, Passage};
use super::point::CapturePoint;
use super::store::{Spot, Store};
use super::table::{NoteKind, PacketKind};
use super::wire::Wire;
use crate::ipvs::Role;
use crate::net::MacAddr;
use crate::packet::Heading;
use hashbrown::{HashMap, HashSet};
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

/// Hosts, points and clocks.
pub(super) struct Topology {
    /// The MAC that each point belongs to.
    own: Vec<Option<MacAddr>>,
    /// Sets of MACs that belong together, as parents; named hosts take part under made-up numbers.
    parents: HashMap<Node, Node>,
    names: HashMap<Node, String>,
    /// Of two points on a link, which one is nearer to a MAC: votes for the first.
    nearer: HashMap<(u32, u32, MacAddr), i32>,
    pub(super) clocks: Clocks,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Node {
    Mac(MacAddr),
    Named(u32),
}

/// So many flows, spread evenly, are enough to learn hosts and clocks from.
const SAMPLE: usize = 500;

impl Topology {
    pub(super) fn new(store: &Store, points: &[CapturePoint], claims: &Claims) -> Self {
        let mut topology = Topology {
            own: vec![None; points.len()],
            parents: HashMap::new(),
            names: HashMap::new(),
            nearer: HashMap::new(),
            clocks: Clocks::raw(points.iter().map(|p| p.file).collect()),
        };
        let step = store.flows().div_ceil(SAMPLE).max(1);
        let sample: Vec<Sampled> = (0..store.flows()).step_by(step).map(|flow| Sampled::new(store, flow as u32)).collect();
        topology.vote(store, &sample, claims);
        let frames = Frames::count(store, points.len());
        let mut candidates = topology.candidates(&frames, points);
        heed_siblings(store, &sample, points, &mut candidates);
        topology.settle_owners(points, &candidates);
        for _ in 0..3 {
            let united = topology.unite_forwarders(store, &sample);
            let settled = topology.settle_owners(points, &candidates);
            if !united && !settled {
                break;
            }
        }
        topology.settle_insides(store, &sample, points, &candidates);
        topology.settle_askers(points, claims);
        topology.settle_searchers(points, &candidates, claims);
        topology.clocks =
            Clocks::estimate(points.iter().map(|p| p.file).collect(), &topology.passages(store, &sample, &topology.doubtful(&frames)));
        topology
    }

    /// The MAC that a point belongs to.
    pub(super) fn own(&self, point: u32) -> Option<MacAddr> {
        self.own.get(point as usize).copied().flatten()
    }

    /// True when the point's interface received or sent nothing of this: a learning bridge flooded the frame, or the interface was
    /// promiscuous on a shared wire.
    pub(super) fn is_bystander(&self, wire: &Wire) -> bool {
        let (Some(own), Some(src), Some(dst)) = (self.own(wire.point), wire.src, wire.dst) else {
            return wire.heading == Some(Heading::OtherHost);
        };
        let ours = |mac: MacAddr| mac == own || self.same_host(mac, own);
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
        let ours = |mac: Option<MacAddr>| mac.is_some_and(|mac| mac == own || self.same_host(mac, own));
        match (ours(wire.src), ours(wire.dst)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            _ => None,
        }
    }

    /// `Less` when point `a` is nearer to `src` than point `b`.
    pub(super) fn link_order(&self, a: u32, b: u32, src: Option<MacAddr>) -> Ordering {
        let Some(src) = src else { return Ordering::Equal };
        let votes = |a, b| self.nearer.get(&(a, b, src)).copied().unwrap_or(0);
        (votes(b, a) - votes(a, b)).cmp(&0)
    }

    pub(super) fn same_host(&self, a: MacAddr, b: MacAddr) -> bool {
        a == b || (self.parents.contains_key(&Node::Mac(a)) && self.find(Node::Mac(a)) == self.find(Node::Mac(b)))
    }

    /// The name that the user gave to the host that a MAC belongs to.
    pub(super) fn given_name(&self, mac: MacAddr) -> Option<&str> {
        self.names.get(&self.find(Node::Mac(mac))).map(String::as_str)
    }

    /// A MAC that stands for the whole host.
    pub(super) fn representative(&self, mac: MacAddr) -> MacAddr {
        let root = self.find(Node::Mac(mac));
        let members = self.parents.keys().filter_map(|node| match node {
            Node::Mac(mac) if self.find(*node) == root => Some(*mac),
            _ => None,
        });
        members.min().unwrap_or(mac)
    }

    fn find(&self, mut node: Node) -> Node {
        while let Some(&parent) = self.parents.get(&node) {
            if parent == node {
                break;
            }
            node = parent;
        }
        node
    }

    /// Puts two nodes into one host, unless the user named them as two. True when they were not in one yet.
    fn unite(&mut self, a: Node, b: Node) -> bool {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return false;
        }
        let (name_a, name_b) = (self.names.get(&a).cloned(), self.names.get(&b).cloned());
        if name_a.is_some() && name_b.is_some() && name_a != name_b {
            return false;
        }
        let (parent, child) = (a.min(b), a.max(b));
        self.parents.insert(parent, parent);
        self.parents.insert(child, parent);
        if let Some(name) = name_a.or(name_b) {
            self.names.insert(parent, name);
        }
        true
    }

    /// Question and answer on a link seen at two points: who is nearer to whom.
    fn vote(&mut self, store: &Store, sample: &[Sampled], claims: &Claims) {
        for Sampled { request, reply, .. } in sample {
            for (i, a) in request.iter().enumerate() {
                for b in &request[i + 1..] {
                    if a.point == b.point || a.tuple != b.tuple || a.ttl != b.ttl || a.first != b.first {
                        continue;
                    }
                    let wire = store.wire(a.wire);
                    let (Some(src), Some(dst)) = (wire.src, wire.dst) else { continue };
                    if (store.wire(b.wire).src, store.wire(b.wire).dst) != (wire.src, wire.dst) {
                        continue;
                    }
                    let answer = |point: u32| {
                        reply.iter().find(|s| {
                            s.point == point
                                && s.tuple == a.tuple.reversed()
                                && store.wire(s.wire).src == Some(dst)
                                && store.wire(s.wire).dst == Some(src)
                        })
                    };
                    if let (Some(answer_a), Some(answer_b)) = (answer(a.point), answer(b.point))
                        && answer_a.first == answer_b.first
                    {
                        self.answered((a.point, b.point), (src, dst), answer_a.time - a.time, answer_b.time - b.time);
                    }
                }
            }
        }
        for question in &claims.questions {
            let Some(asker) = question.asker else { continue };
            let said = claims
                .claims
                .iter()
                .filter(|c| c.kind == ClaimKind::Reply && c.addr == question.target && c.about == Some(asker) && c.point == question.point);
            for reply in said {
                for other in claims.questions.iter().filter(|q| {
                    q.point > question.point
                        && (q.target, q.mac, q.asker, q.unicast, q.times.count)
                            == (question.target, question.mac, question.asker, question.unicast, question.times.count)
                }) {
                    let there = claims.claims.iter().find(|c| {
                        c.point == other.point
                            && (c.kind, c.addr, c.mac, c.about, c.times.count)
                                == (reply.kind, reply.addr, reply.mac, reply.about, reply.times.count)
                    });
                    if let Some(there) = there {
                        let (here, there) = (reply.times.since() - question.times.since(), there.times.since() - other.times.since());
                        self.answered((question.point, other.point), (question.mac, reply.mac), here, there);
                    }
                }
            }
        }
    }

    /// At the first point `here` passed between question (from `src`) and answer (from `dst`), at the second `there`.
    fn answered(&mut self, points: (u32, u32), (src, dst): (MacAddr, MacAddr), here: i64, there: i64) {
        let sign = match here.cmp(&there) {
            Ordering::Greater => 1,
            Ordering::Less => -1,
            Ordering::Equal => return,
        };
        *self.nearer.entry((points.0, points.1, src)).or_insert(0) += sign;
        *self.nearer.entry((points.0, points.1, dst)).or_insert(0) -= sign;
    }

    /// Which of two MACs, both seen in every frame of point `a`, is its own: the one it is nearer to than point `b` is.
    fn nearer_than(&self, a: u32, b: u32, mac: MacAddr) -> i32 {
        let votes = |a, b| self.nearer.get(&(a, b, mac)).copied().unwrap_or(0);
        votes(a, b) - votes(b, a)
    }

    /// Gives each point its MAC where that can be told by now; true when it could for any.
    fn settle_owners(&mut self, points: &[CapturePoint], candidates: &[Vec<MacAddr>]) -> bool {
        let mut any = false;
        loop {
            let mut changed = false;
            for point in 0..points.len() as u32 {
                if self.own[point as usize].is_some() {
                    continue;
                }
                if let Some(mac) = self.choose(point, points, candidates) {
                    self.take(points, point as usize, mac);
                    changed = true;
                }
            }
            if !changed {
                return any;
            }
            any = true;
        }
    }

    /// A host that never says a word on its network cannot be told from its neighbours, to whom a bridge floods the same frames. But when
    /// what came for a MAC is then seen inside a host, on its loopback or behind its tunnel, the MAC is that host's.
    fn settle_insides(&mut self, store: &Store, sample: &[Sampled], points: &[CapturePoint], candidates: &[Vec<MacAddr>]) {
        let unicast = |mac: Option<MacAddr>| mac.filter(|mac| mac.is_unicast());
        let mut seen: HashMap<&str, HashSet<MacAddr>> = HashMap::new();
        for Sampled { request, reply, .. } in sample {
            let lowest = request.iter().filter(|s| unicast(store.wire(s.wire).dst).is_some()).map(|s| s.ttl).min();
            let last: HashSet<MacAddr> =
                request.iter().filter(|s| Some(s.ttl) == lowest).filter_map(|s| unicast(store.wire(s.wire).dst)).collect();
            if last.len() != 1 {
                continue;
            }
            for spot in request.iter().chain(reply).filter(|s| unicast(store.wire(s.wire).dst).is_none()) {
                if let Some(host) = &points[spot.point as usize].host {
                    seen.entry(host).or_default().extend(&last);
                }
            }
        }
        for (at, point) in points.iter().enumerate() {
            let Some(macs) = point.host.as_deref().and_then(|host| seen.get(host)) else { continue };
            let shared = |mac: &MacAddr| seen.iter().any(|(host, macs)| Some(*host) != point.host.as_deref() && macs.contains(mac));
            let fitting: Vec<MacAddr> = macs.iter().copied().filter(|mac| candidates[at].contains(mac) && !shared(mac)).collect();
            if let (None, [mac]) = (self.own[at], &fitting[..]) {
                self.take(points, at, *mac);
            }
        }
    }

    /// An interface on which nothing happens but ARP that nobody answers belongs to who asks there, when the user says that it is on a host
    /// whose other interfaces are busy, and the asker is nobody else: a forwarder that looks for its next hop.
    fn settle_askers(&mut self, points: &[CapturePoint], claims: &Claims) {
        let busy = |t: &Self, p: usize| {
            points[p].host.is_some() && (0..points.len()).any(|q| points[q].host == points[p].host && t.own(q as u32).is_some())
        };
        let open: Vec<usize> = (0..points.len()).filter(|&p| self.own[p].is_none() && busy(self, p)).collect();
        for &point in &open {
            let strangers = |p: usize| -> HashSet<MacAddr> {
                let asks = claims.questions.iter().filter(|q| q.point as usize == p).map(|q| q.mac);
                asks.filter(|mac| !self.own.iter().flatten().any(|own| own == mac || self.same_host(*own, *mac))).collect()
            };
            let here = strangers(point);
            let rivals = open.iter().any(|&q| q != point && points[q].host != points[point].host && !strangers(q).is_disjoint(&here));
            if let (1, false, Some(mac)) = (here.len(), rivals, here.iter().next().copied()) {
                self.take(points, point, mac);
            }
        }
    }

    /// At the end of a link of two hosts, on a machine that is called a director and has no other capture: the one of both that asks for
    /// several neighbours, and gets no answer here. A router asks for the director alone, and the answers that a router's point misses go
    /// to somebody else.
    fn settle_searchers(&mut self, points: &[CapturePoint], candidates: &[Vec<MacAddr>], claims: &Claims) {
        for (point, macs) in candidates.iter().enumerate().filter(|(_, macs)| macs.len() > 1) {
            let alone = |host: &String| points.iter().filter(|p| p.host.as_ref() == Some(host)).count() == 1;
            let director = points[point].host.as_ref().is_some_and(|host| role_of_name(host) == Role::Director && alone(host));
            if self.own[point].is_some() || !director {
                continue;
            }
            let searches = |mac: &&MacAddr| {
                let asked = claims.questions.iter().filter(|q| q.point as usize == point && q.mac == **mac && q.asker.is_some());
                let answered =
                    |addr| claims.claims.iter().any(|c| c.addr == addr && c.point as usize == point && c.kind == ClaimKind::Reply);
                asked.map(|q| q.target).filter(|addr| !answered(*addr)).collect::<HashSet<_>>().len() > 1
            };
            let mut searchers = macs.iter().filter(searches);
            if let (Some(mac), None) = (searchers.next().copied(), searchers.next()) {
                self.take(points, point, mac);
            }
        }
    }

    /// Makes a MAC a point's own, and the point's host its host.
    fn take(&mut self, points: &[CapturePoint], point: usize, mac: MacAddr) {
        self.own[point] = Some(mac);
        if let Some(host) = &points[point].host {
            let number = points.iter().position(|p| p.host.as_ref() == Some(host)).unwrap_or(0) as u32;
            self.names.entry(self.find(Node::Named(number))).or_insert_with(|| host.clone());
            self.unite(Node::Named(number), Node::Mac(mac));
        }
    }

    /// The MACs that each point may belong to. Where two points could both belong to one MAC, the one that is nearer to it keeps it.
    fn candidates(&self, frames: &Frames, points: &[CapturePoint]) -> Vec<Vec<MacAddr>> {
        let mut dropped: Vec<HashSet<MacAddr>> = vec![HashSet::new(); points.len()];
        loop {
            let candidates: Vec<Vec<MacAddr>> = (0..points.len()).map(|p| frames.candidates(p, &dropped[p])).collect();
            let mut changed = false;
            for (p, macs) in candidates.iter().enumerate() {
                for q in (0..points.len()).filter(|&q| q != p && (points[q].host.is_none() || points[q].host != points[p].host)) {
                    for mac in macs.iter().filter(|mac| candidates[q].contains(mac)) {
                        if self.nearer_than(p as u32, q as u32, *mac) > 0 && !frames.differ_in_tags(p, q, *mac) {
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

    /// The own MAC of a point, if by now it can be told.
    fn choose(&self, point: u32, points: &[CapturePoint], candidates: &[Vec<MacAddr>]) -> Option<MacAddr> {
        let host = &points[point as usize].host;
        let of_another = |mac: &MacAddr| {
            let other = |p: usize| points[p].host.is_some() && points[p].host != *host;
            host.is_some() && (0..points.len()).any(|p| p != point as usize && self.own[p] == Some(*mac) && other(p))
        };
        let open: Vec<MacAddr> = candidates[point as usize].iter().copied().filter(|mac| !of_another(mac)).collect();
        let sibling = |mac: &&MacAddr| {
            let same = |p: usize| points[p].host == *host && self.own[p].is_some_and(|own| own == **mac || self.same_host(own, **mac));
            host.is_some() && (0..points.len()).any(same)
        };
        match open[..] {
            [only] => Some(only),
            [..] => open.iter().find(sibling).copied().or_else(|| {
                // Two interfaces of one machine, neither of them settled: what came for one of these MACs went on from one of those.
                let joined = |mac: &&MacAddr| {
                    let other = |p: usize| p != point as usize && points[p].host == *host && self.own[p].is_none();
                    let pair = |p: usize| candidates[p].iter().any(|m| m != *mac && self.same_host(*m, **mac));
                    host.is_some() && (0..points.len()).any(|p| other(p) && pair(p))
                };
                let mut joined = open.iter().filter(joined);
                joined.next().copied().filter(|_| joined.next().is_none())
            }),
        }
    }

    /// A packet that came for one MAC and went on from another, one hop later. True when that showed anything new.
    fn unite_forwarders(&mut self, store: &Store, sample: &[Sampled]) -> bool {
        let mut pairs: HashMap<(MacAddr, MacAddr), u32> = HashMap::new();
        for Sampled { request, reply, .. } in sample {
            for spots in [request, reply] {
                for (came, went) in self.handovers(store, spots) {
                    *pairs.entry((came, went)).or_insert(0) += 1;
                }
            }
        }
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_by_key(|(macs, count)| (Reverse(*count), *macs));
        pairs.into_iter().fold(false, |any, ((came, went), _)| self.unite(Node::Mac(came), Node::Mac(went)) || any)
    }

    /// In one direction of one flow: the MAC that a packet came for, and the one it went on from. Only where one link alone has a TTL can
    /// it be told who is next to whom.
    fn handovers(&self, store: &Store, spots: &[Spot]) -> Vec<(MacAddr, MacAddr)> {
        let first = spots.iter().map(|s| s.first).min();
        let mut links: Vec<(u8, (MacAddr, MacAddr))> = Vec::with_capacity(spots.len());
        for spot in spots.iter().filter(|s| Some(s.first) == first) {
            let wire = store.wire(spot.wire);
            if let (Some(src), Some(dst)) = (wire.src, wire.dst)
                && src.is_unicast()
                && dst.is_unicast()
                && !self.is_bystander(wire)
            {
                let link = (spot.ttl, (src, dst));
                if !links.contains(&link) {
                    links.push(link);
                }
            }
        }
        links.sort_by_key(|(ttl, _)| Reverse(*ttl));
        let mut handovers = Vec::new();
        let mut before: Option<(u8, MacAddr)> = None;
        for level in links.chunk_by(|a, b| a.0 == b.0) {
            let ttl = level[0].0;
            // A director that leaves the TTL alone makes two links with one TTL; the one that goes on from the host before comes first.
            let (into, out_of) = match *level {
                [(_, only)] => (only, only),
                [(_, a), (_, b)] => match before.filter(|(t, _)| t.wrapping_sub(ttl) == 1) {
                    Some((_, mac)) if a.0 == mac || self.same_host(a.0, mac) => (a, b),
                    Some((_, mac)) if b.0 == mac || self.same_host(b.0, mac) => (b, a),
                    _ => {
                        before = None;
                        continue;
                    }
                },
                _ => {
                    before = None;
                    continue;
                }
            };
            if let Some((_, came)) = before.filter(|(t, _)| t.wrapping_sub(ttl) == 1) {
                handovers.push((came, into.0));
            }
            if into != out_of {
                handovers.push((into.1, out_of.0));
            }
            before = Some((ttl, out_of.1));
        }
        handovers.retain(|(came, went)| came != went);
        handovers
    }

    /// Points that seem to belong to a MAC of which another point of the same MAC has seen twice as much. Likelier a bridge flooded to a
    /// bystander what little was seen there, and when it did so proves nothing about clocks.
    fn doubtful(&self, frames: &Frames) -> Vec<bool> {
        let seen = |point: usize, mac: &MacAddr| frames.by_point[point].get(mac).copied().unwrap_or(0);
        let outdone = |p: usize, mac: &MacAddr| {
            let rival = |q: usize| q != p && self.own[q] == Some(*mac) && !frames.differ_in_tags(p, q, *mac);
            (0..self.own.len()).any(|q| rival(q) && seen(q, mac) >= 2 * seen(p, mac))
        };
        self.own.iter().enumerate().map(|(p, own)| own.as_ref().is_some_and(|mac| outdone(p, mac))).collect()
    }

    /// Packets seen at two files' points in a known order.
    fn passages(&self, store: &Store, sample: &[Sampled], doubtful: &[bool]) -> Vec<Passage> {
        let mut passages = Vec::new();
        // Packets that only seem to be the same one, for want of an IP-ID: for files that have nothing better in common.
        let mut guesses = Vec::new();
        for Sampled { request, reply, repeated } in sample {
            for spots in [request, reply] {
                for a in spots {
                    for b in spots {
                        let (from, to) = (self.clocks_file(a.point), self.clocks_file(b.point));
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

    fn clocks_file(&self, point: u32) -> usize {
        self.clocks.file_of(point)
    }
}

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

/// Whether the first packets of both legs are the same one, as far as counts can tell: a leg that missed some may begin later.
fn seems_first(a: &Spot, b: &Spot, repeated: bool) -> bool {
    (matches!(a.first, PacketKind::Syn | PacketKind::SynAck) && !repeated) || a.packets == b.packets
}

/// A neighbour that every packet goes through, and whose own frames a bridge floods back, has a part in more frames of a forwarder's
/// interface than the forwarder itself. But what came in by another interface of the same machine leaves by this one, one hop on, and its
/// sender is the machine: when that is always another MAC than the one that seems to be the interface's, it is the interface's.
fn heed_siblings(store: &Store, sample: &[Sampled], points: &[CapturePoint], candidates: &mut [Vec<MacAddr>]) {
    for out in 0..points.len() {
        let [seems] = candidates[out][..] else { continue };
        let mut senders: HashSet<MacAddr> = HashSet::new();
        let sibling = |p: usize| p != out && points[p].host.is_some() && points[p].host == points[out].host;
        for into in (0..points.len()).filter(|&p| sibling(p)) {
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

/// Unicast frames by point and MAC.
struct Frames {
    by_point: Vec<HashMap<MacAddr, u64>>,
    by_wire: Vec<HashMap<(MacAddr, MacAddr), u64>>,
    total: Vec<u64>,
    /// The MAC that the capture itself says is the point's.
    stated: Vec<HashMap<MacAddr, u64>>,
    /// Number of VLAN tags on a MAC's frames, plus one.
    tags: Vec<HashMap<MacAddr, usize>>,
}

impl Frames {
    fn count(store: &Store, points: usize) -> Self {
        let mut frames = Frames {
            by_point: vec![HashMap::new(); points],
            by_wire: vec![HashMap::new(); points],
            total: vec![0; points],
            stated: vec![HashMap::new(); points],
            tags: vec![HashMap::new(); points],
        };
        for (wire, count) in store.wires.iter() {
            let point = wire.point as usize;
            match (wire.heading, wire.src, wire.dst) {
                (Some(Heading::Out), Some(src), _) => *frames.stated[point].entry(src).or_insert(0) += count,
                (Some(Heading::In), _, Some(dst)) if dst.is_unicast() => *frames.stated[point].entry(dst).or_insert(0) += count,
                _ => {}
            }
            let (Some(src), Some(dst)) = (wire.src, wire.dst) else { continue };
            if !src.is_unicast() || !dst.is_unicast() {
                continue;
            }
            frames.total[point] += count;
            for mac in [src, dst] {
                frames.tags[point].insert(mac, wire.vlans.ids().len() + 1);
            }
            *frames.by_wire[point].entry((src, dst)).or_insert(0) += count;
            *frames.by_point[point].entry(src).or_insert(0) += count;
            if src != dst {
                *frames.by_point[point].entry(dst).or_insert(0) += count;
            }
        }
        frames
    }

    /// The MACs that may be a point's own, apart from those ruled out: one where it is clear, two at the end of a link between two hosts,
    /// none at a mirror.
    fn candidates(&self, point: usize, ruled_out: &HashSet<MacAddr>) -> Vec<MacAddr> {
        if let Some((mac, _)) = self.stated[point].iter().max_by_key(|(mac, count)| (**count, **mac)) {
            return vec![*mac];
        }
        let total = self.total[point].max(1) as f64;
        // How much of the point is this MAC's, times how completely this MAC's frames are seen here.
        let score = |mac: &MacAddr, count: u64| {
            let most = self.by_point.iter().filter_map(|p| p.get(mac)).max().copied().unwrap_or(count).max(1);
            (count as f64 / total) * (count as f64 / most as f64)
        };
        let mut scored: Vec<(f64, MacAddr)> = self.by_point[point]
            .iter()
            .filter(|(mac, _)| !ruled_out.contains(*mac))
            .map(|(mac, count)| (score(mac, *count), *mac))
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let Some(&(best, _)) = scored.first() else { return Vec::new() };
        scored.into_iter().filter(|(score, mac)| *score >= 0.95 * best && self.is_plausible(point, *mac)).map(|(_, mac)| mac).collect()
    }

    /// True when two points see the same MAC with different VLAN tags: an interface and a VLAN device on it, which share their MAC.
    fn differ_in_tags(&self, p: usize, q: usize, mac: MacAddr) -> bool {
        let tags = |point: usize| self.tags[point].get(&mac).copied().unwrap_or(0);
        tags(p) != tags(q)
    }

    /// A point may see frames that are not its own: a few, flooded. Many such frames mean a mirror port, unless other points show that
    /// here was only a part of them.
    fn is_plausible(&self, point: usize, mac: MacAddr) -> bool {
        let own = self.by_point[point].get(&mac).copied().unwrap_or(0);
        let foreign = self.total[point] - own;
        if foreign < 10 || foreign as f64 <= 0.1 * self.total[point] as f64 {
            return true;
        }
        let elsewhere = |pair: &(MacAddr, MacAddr)| {
            (0..self.total.len()).filter(|p| *p != point).filter_map(|p| self.by_wire[p].get(pair)).max().copied().unwrap_or(0)
        };
        let partial: u64 = self.by_wire[point]
            .iter()
            .filter(|((s, d), count)| *s != mac && *d != mac && elsewhere(&(*s, *d)) > **count * 3 / 2)
            .map(|(_, count)| count)
            .sum();
        partial as f64 >= 0.8 * foreign as f64
    }
}
