//! An address that several hosts speak for. Which of them is what, and whether they really do so at the same time: a takeover, a second
//! network card, a router that answers for others and a virtual MAC look much the same.

use super::Facts;
use super::neighbours::Claimant;
use crate::ipvs::Role;
use crate::net::MacAddr;
use crate::trace::{Advertiser, Claim, ClaimKind, Flow, HostId, Method, Occurrences, PacketKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Two answers to one question come so close together. Nobody asks again as soon as that.
const TOGETHER: i64 = 200_000_000;
/// A host that answers for others takes its time (`proxy_delay`, up to 0.8 s), and who has one answer does not ask again meanwhile.
const BY_PROXY: i64 = 1_000_000_000;
/// Addresses that change hands to and fro within such a time are not taken over, but fought for.
const QUARREL: i64 = 30_000_000_000;
/// More hosts than this do not claim one address in earnest; a hostile capture may say so.
const MOST: usize = 16;

/// What is known of hosts as each other's neighbours; worked out once for all the addresses that a rule looks at.
pub(in crate::rules) struct Neighbourhood<'a> {
    pub(in crate::rules) facts: Facts<'a>,
    /// Link of each capture point.
    links: Vec<usize>,
    /// Hosts that speak VRRP.
    speakers: BTreeSet<HostId>,
}

impl<'a> Facts<'a> {
    /// Hosts as each other's neighbours.
    pub(in crate::rules) fn neighbourhood(&self) -> Neighbourhood<'a> {
        let speakers = self.trace.claims.advertisers.iter().filter_map(|a| self.speaker(a)).collect();
        Neighbourhood { facts: *self, links: self.links(), speakers }
    }

    /// Addresses that clients dial: virtual services, and wherever else requests ended; not the addresses of real servers.
    pub fn service_addresses(&self) -> Vec<IpAddr> {
        let real: BTreeSet<IpAddr> = self.flows().filter_map(|f| f.real_server).map(|e| e.addr).collect();
        let checks = |f: &&Flow| f.client_host.is_some_and(|h| self.role(Some(h)) == Role::Director || self.is_director(h));
        let ends = self.flows().filter(|f| f.method != Method::Nat && f.method != Method::FullNat && !checks(f));
        let dialled = ends.filter_map(|f| f.request.last()).map(|hop| hop.dst.addr).filter(|addr| !real.contains(addr));
        let mut addresses: Vec<IpAddr> = self.vips().into_iter().chain(dialled).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// A flow whose answers a host sends from an address by itself: their TTL is as hosts set it.
    pub fn serves(&self, host: HostId, addr: IpAddr) -> Option<&'a Flow> {
        self.flows().find(|f| {
            let own = |h: &crate::trace::Hop| h.from == Some(host) && h.src.addr == addr && super::is_initial(h.ttl);
            f.reply.first().is_some_and(|h| own(h) && h.first != PacketKind::Reset)
        })
    }

    /// A flow that a host answers although its request went to another one: that one handed it over, seen or not.
    pub fn answers_for_another(&self, host: HostId, addr: IpAddr) -> Option<&'a Flow> {
        self.flows().find(|f| {
            let (Some(asked), Some(answer)) = (f.request.last(), f.reply.first()) else { return false };
            let own =
                answer.from == Some(host) && answer.src.addr == addr && super::is_initial(answer.ttl) && answer.first != PacketKind::Reset;
            own && asked.dst == answer.src && asked.to.is_some_and(|to| to != host)
        })
    }

    /// Flows for an address that came to a host without a director.
    pub fn past_the_director(&self, host: HostId, addr: IpAddr) -> Vec<&'a Flow> {
        let ends = |f: &&Flow| {
            // Who answers to another neighbour than the one that handed it over was given it by a director, seen or not.
            let back = |from: Option<HostId>| f.reply.first().and_then(|h| h.to).is_none_or(|to| from == Some(to) || from.is_none());
            f.request.last().is_some_and(|h| h.to == Some(host) && h.dst.addr == addr && back(h.from))
        };
        self.flows().filter(|f| f.director.is_none()).filter(ends).collect()
    }

    /// The host that speaks VRRP: by its MAC, or, where that is the virtual one, by its own address.
    pub fn speaker(&self, advertiser: &Advertiser) -> Option<HostId> {
        let own = advertiser.mac.filter(|mac| mac.vrid().is_none());
        own.map_or_else(|| self.owner(advertiser.addr), |mac| self.trace.host_of(mac))
    }

    /// Links by capture point: points that heard the same words of the same host are on one.
    fn links(&self) -> Vec<usize> {
        let claims = &self.trace.claims;
        let mut link: Vec<usize> = (0..self.trace.points.len()).collect();
        if link.len() < 2 {
            return link; // nothing to compare, and a large capture may hold thousands of words
        }
        let mut heard: HashMap<(MacAddr, IpAddr, Option<IpAddr>, bool), usize> = HashMap::new();
        let words = claims.claims.iter().map(|c| (c.point, (c.mac, c.addr, c.about, false)));
        let asked = claims.questions.iter().map(|q| (q.point, (q.mac, q.target, q.asker, true)));
        for (point, word) in words.chain(asked) {
            let here = link[point as usize];
            let there = *heard.entry(word).or_insert(here);
            let (there, here) = (link[there], here);
            if there != here {
                link.iter_mut().filter(|l| **l == here).for_each(|l| *l = there);
            }
        }
        link
    }

    /// The words by which two hosts contradict each other: both answered one question, or the address went to and fro between them.
    pub(in crate::rules) fn contradiction(&self, a: &Claimant<'a>, b: &Claimant<'a>) -> Option<[&'a Claim; 2]> {
        let replies = |r: &Claimant<'a>| r.claims.iter().copied().filter(|c| c.kind == ClaimKind::Reply).collect::<Vec<_>>();
        for ours in replies(a) {
            for theirs in replies(b).into_iter().filter(|c| c.about == ours.about) {
                let one_question = |t: i64, u: i64| (u - t).abs() <= BY_PROXY && self.asked_once(ours, t.min(u), t.max(u));
                let close = |t: i64| self.moments(theirs).any(|u: i64| (u - t).abs() <= TOGETHER || one_question(t, u));
                if self.moments(ours).any(close) {
                    return Some([ours, theirs]);
                }
            }
        }
        let said = |r: &Claimant<'a>| -> Vec<&'a Claim> {
            r.claims.iter().copied().filter(|c| matches!(c.kind, ClaimKind::Reply | ClaimKind::Announcement)).collect()
        };
        let (ours, theirs) = (said(a), said(b));
        let mut words: Vec<(i64, bool)> = ours.iter().flat_map(|c| self.moments(c).map(|t| (t, true))).collect();
        words.extend(theirs.iter().flat_map(|c| self.moments(c).map(|t| (t, false))));
        words.sort_unstable();
        let changes: Vec<i64> = words.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| pair[1].0).collect();
        let quarrel = changes.windows(3).any(|three| three[2] - three[0] <= QUARREL);
        // A takeover and its return are two changes.
        (quarrel && !ours.is_empty() && !theirs.is_empty()).then(|| [ours[0], theirs[0]])
    }

    /// True when a question was just asked at the first of two moments, and none was between them.
    fn asked_once(&self, answer: &Claim, first: i64, second: i64) -> bool {
        let questions = self.trace.claims.questions.iter().filter(|q| q.target == answer.addr && q.asker == answer.about);
        let (mut before, mut between) = (false, false);
        for question in questions {
            // Of many only the first ones are known, and when.
            between |= question.times.count as usize > question.times.first.len() + 1;
            for asked in self.at(question.point, &question.times) {
                before |= (first - TOGETHER..=first).contains(&asked);
                between |= asked > first && asked <= second;
            }
        }
        before && !between
    }

    /// When something was claimed, on the common clock.
    fn moments(&self, claim: &'a Claim) -> impl Iterator<Item = i64> + use<'a> {
        self.at(claim.point, &claim.times)
    }

    fn at(&self, point: u32, times: &'a Occurrences) -> impl Iterator<Item = i64> + use<'a> {
        let facts = *self;
        let times = times.first.iter().map(|(_, t)| *t).chain([times.last.1]);
        times.map(move |t| facts.trace.common_time(point, t).0)
    }

    /// True when two MACs may well be two cards of one machine, which answers by either for all its addresses, or when one of them answers
    /// for so many that it does so for others.
    pub fn may_be_one_machine(&self, a: HostId, b: HostId) -> bool {
        let spoken = |host: HostId| -> BTreeSet<IpAddr> {
            let macs = &self.trace.hosts[host].macs;
            let mine = self.trace.claims.claims.iter().filter(|c| macs.contains(&c.mac));
            mine.filter(|c| matches!(c.kind, ClaimKind::Reply | ClaimKind::Announcement)).map(|c| c.addr).collect()
        };
        let (ours, theirs) = (spoken(a), spoken(b));
        let shared = ours.intersection(&theirs).count();
        shared >= 2 && (shared == ours.len() || shared == theirs.len()) || shared >= 3
    }

    /// Addresses that several MACs answer for or announce.
    pub fn claimed_twice(&self) -> Vec<IpAddr> {
        let mut macs: BTreeMap<IpAddr, MacAddr> = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for claim in self.trace.claims.claims.iter().filter(|c| matches!(c.kind, ClaimKind::Reply | ClaimKind::Announcement)) {
            if *macs.entry(claim.addr).or_insert(claim.mac) != claim.mac {
                twice.insert(claim.addr);
            }
        }
        // So many are no fault of single hosts; looking at each would take long.
        twice.into_iter().take(200).collect()
    }
}

impl<'a> Neighbourhood<'a> {
    /// What a host is with regard to an address: what it did in flows, that it speaks VRRP, its name, and at last that it serves the address
    /// itself.
    pub(in crate::rules) fn standing(&self, host: HostId, addr: IpAddr) -> Role {
        let name = self.facts.is_called(host);
        if self.facts.is_director(host) || self.speakers.contains(&host) {
            return Role::Director;
        }
        let handed = self.facts.flows().any(|f| f.director.is_some() && f.server_host == Some(host));
        if handed || self.facts.answers_for_another(host, addr).is_some() {
            return Role::RealServer;
        }
        if name != Role::Unknown {
            return name;
        }
        if self.facts.flows().any(|f| f.routers.contains(&host)) {
            return Role::Router;
        }
        if self.facts.serves(host, addr).is_some() { Role::RealServer } else { Role::Unknown }
    }

    /// Who answers for an address, or announces it, where another host on the same link does, too. Virtual MACs and routers are none of
    /// these: their answers are meant to stand beside others.
    pub(in crate::rules) fn rivals(&self, addr: IpAddr) -> Vec<Claimant<'a>> {
        let mut rivals: Vec<Claimant> = self.facts.claimants(addr);
        rivals.truncate(MOST);
        for rival in &mut rivals {
            rival.claims.retain(|c| c.mac.vrid().is_none());
        }
        rivals.retain(|r| r.answers().is_some() && self.standing(r.host, addr) != Role::Router);
        let places: Vec<BTreeSet<usize>> =
            rivals.iter().map(|r| r.claims.iter().filter_map(|c| self.links.get(c.point as usize).copied()).collect()).collect();
        let shared = |i: usize| (0..places.len()).any(|j| i != j && !places[i].is_disjoint(&places[j]));
        let keep: Vec<bool> = (0..rivals.len()).map(shared).collect();
        rivals.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(rival, _)| rival).collect()
    }

    /// Two hosts that contradict each other about an address, with their words.
    pub(in crate::rules) fn quarrel(&self, addr: IpAddr) -> Option<(HostId, HostId, [&'a Claim; 2])> {
        let (facts, rivals) = (&self.facts, self.rivals(addr));
        rivals.iter().enumerate().find_map(|(i, a)| {
            let mut others = rivals[i + 1..].iter().filter(|b| !facts.may_be_one_machine(a.host, b.host));
            others.find_map(|b| Some((a.host, b.host, facts.contradiction(a, b)?)))
        })
    }

    /// True when two capture points are on one link, as far as known.
    pub(in crate::rules) fn on_one_link(&self, a: u32, b: u32) -> bool {
        a == b || self.links.get(a as usize) == self.links.get(b as usize)
    }
}
