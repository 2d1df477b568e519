//! Whose interface each point is.

use super::{Frames, Sampled, Topology};
use crate::ipvs::Role;
use crate::net::MacAddr;
use crate::trace::claims::{ClaimKind, Claims};
use crate::trace::point::CapturePoint;
use crate::trace::role::role_of_name;
use crate::trace::store::Store;
use hashbrown::{HashMap, HashSet};

impl Topology {
    /// Gives each point its MAC where that can be told by now; true when it could for any.
    pub(super) fn settle_owners(&mut self, points: &[CapturePoint], candidates: &[Vec<MacAddr>]) -> bool {
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

    /// The own MAC of a point, if by now it can be told.
    fn choose(&self, point: u32, points: &[CapturePoint], candidates: &[Vec<MacAddr>]) -> Option<MacAddr> {
        let (at, here) = (point as usize, &points[point as usize]);
        let of_another = |mac: &MacAddr| (0..points.len()).any(|p| self.own[p] == Some(*mac) && points[p].is_apart_from(here));
        let open: Vec<MacAddr> = candidates[at].iter().copied().filter(|mac| !of_another(mac)).collect();
        let sibling = |mac: &&MacAddr| {
            let same = |p: usize| points[p].is_beside(here) && self.own[p].is_some_and(|own| self.machines.same(own, **mac));
            (0..points.len()).any(same)
        };
        match open[..] {
            // What nobody ever heard from, a bridge floods to all: whose it is, if anybody's, cannot be told by who sees it.
            [only] if !self.spoken.contains(&only) => {
                let others = |p: usize| self.own[p].is_none() && p != at && !points[p].is_beside(here) && candidates[p].contains(&only);
                (!(0..points.len()).any(others)).then_some(only)
            }
            [only] => Some(only),
            [..] => open.iter().find(sibling).copied().or_else(|| {
                // Two interfaces of one machine, neither of them settled: what came for one of these MACs went on from one of those.
                let joined = |mac: &&MacAddr| {
                    let other = |p: usize| p != at && points[p].is_beside(here) && self.own[p].is_none();
                    let pair = |p: usize| candidates[p].iter().any(|m| m != *mac && self.machines.same(*m, **mac));
                    (0..points.len()).any(|p| other(p) && pair(p))
                };
                let mut joined = open.iter().filter(joined);
                joined.next().copied().filter(|_| joined.next().is_none())
            }),
        }
    }

    /// A host that never says a word on its network cannot be told from its neighbours, to whom a bridge floods the same frames. But when
    /// what came for a MAC is then seen inside a host, on its loopback or behind its tunnel, the MAC is that host's.
    pub(super) fn settle_insides(&mut self, store: &Store, sample: &[Sampled], points: &[CapturePoint], candidates: &[Vec<MacAddr>]) {
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
    /// whose other interfaces are busy, and the asker is nobody else: a forwarder that looks for its next hop. Not a neighbour that also talks
    /// to others, past this interface.
    pub(super) fn settle_askers(&mut self, frames: &Frames, points: &[CapturePoint], claims: &Claims) {
        let busy = |p: usize| (0..points.len()).any(|q| points[q].is_beside(&points[p]) && self.own[q].is_some());
        let open: Vec<usize> = (0..points.len()).filter(|&p| self.own[p].is_none() && busy(p)).collect();
        for &point in &open {
            let strangers = |p: usize| -> HashSet<MacAddr> {
                let asks = claims.questions.iter().filter(|q| q.point as usize == p).map(|q| q.mac);
                let others = |mac: &MacAddr| self.own.iter().flatten().any(|own| self.machines.same(*own, *mac));
                asks.filter(|mac| !others(mac) && frames.are_all_at(p, mac)).collect()
            };
            let here = strangers(point);
            let rivals = open.iter().any(|&q| points[q].is_apart_from(&points[point]) && !strangers(q).is_disjoint(&here));
            if let (1, false, Some(mac)) = (here.len(), rivals, here.iter().next().copied()) {
                self.take(points, point, mac);
            }
        }
    }

    /// At the end of a link of two hosts, on a machine that is called a director and has no other capture: the one of both that asks for
    /// several neighbours, and gets no answer here. A router asks for the director alone, and the answers that a router's point misses go
    /// to somebody else.
    pub(super) fn settle_searchers(&mut self, points: &[CapturePoint], candidates: &[Vec<MacAddr>], claims: &Claims) {
        for (point, macs) in candidates.iter().enumerate().filter(|(_, macs)| macs.len() > 1) {
            let here = &points[point];
            let alone = points.iter().filter(|p| p.is_beside(here)).count() == 1;
            let director = alone && here.host.as_ref().is_some_and(|host| role_of_name(host) == Role::Director);
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
            self.machines.name(mac, number, host);
        }
    }
}
