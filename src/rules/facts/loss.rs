//! A request that a host on the way received and neither handed on nor refused by itself, and one that it refused. Which fault that is
//! depends on what the host is; packets do not always tell.

use super::Facts;
use crate::finding::{Confidence, Finding, Severity};
use crate::ipvs::Role;
use crate::net::Protocol;
use crate::trace::{Flow, FlowState, Hop, HostId, Method, NoteKind, PacketKind, Way};
use std::collections::BTreeMap;

/// Requests that ended at one host, with the cause that packets suggest first, and those that they leave open.
pub(in crate::rules) struct Loss<'a> {
    /// Codes of other causes.
    pub(in crate::rules) others: Vec<&'static str>,
    pub(in crate::rules) confidence: Confidence,
    pub(in crate::rules) host: HostId,
    pub(in crate::rules) flows: Vec<&'a Flow>,
    /// Where the host received the first of them.
    pub(in crate::rules) hop: &'a Hop,
    /// Where they should have been seen leaving.
    pub(in crate::rules) watched: Vec<u32>,
    /// The host's own refusal, if it did refuse.
    pub(in crate::rules) refusal: Option<&'a Hop>,
}

impl Loss<'_> {
    /// The finding about it, with proof and alternatives; `settle` tells them apart.
    pub(in crate::rules) fn finding(&self, facts: &Facts<'_>, summary: String, settle: &str) -> Finding {
        let (name, flow) = (facts.name(Some(self.host)), self.flows[0]);
        let silence = match self.refusal {
            None => facts.nowhere(&self.watched, &format!("no packet from {}", self.hop.src)),
            Some(_) => facts.nowhere(&self.watched, "nothing of it handed on"),
        };
        Finding::new(name, Severity::Broken, self.confidence, summary, facts.seen(self.hop))
            .and(self.refusal.map(|hop| facts.seen_with(hop, &format!("from {name} itself, TTL {}", hop.ttl))))
            .and(facts.repeats(flow, self.hop, NoteKind::SynRepeat))
            .and(silence)
            .unless(&self.others, settle)
            .on(super::ids(&self.flows))
    }

    /// `192.168.2.59:80`: what the first of the connections wanted, as the host saw it.
    pub(in crate::rules) fn service(&self) -> String {
        self.hop.dst.to_string()
    }
}

type Verdict = (&'static str, Vec<&'static str>, Confidence);

impl<'a> Facts<'a> {
    /// Requests that ended at a host on the way, of which `code` is the likeliest cause; those with the same story together.
    pub(in crate::rules) fn losses(&self, code: &str) -> Vec<Loss<'a>> {
        let mut stories: BTreeMap<(HostId, Vec<&'static str>, Confidence), Loss> = BTreeMap::new();
        for flow in self.flows().filter(|f| f.director.is_none()) {
            let Some((host, hop, watched, refusal)) = self.ended_at(flow) else { continue };
            if self.is_contested(host, hop) {
                continue;
            }
            let verdict = match refusal {
                None => self.swallowed_by(flow, host, hop),
                Some(_) => self.refused_by(host, hop),
            };
            let Some((_, others, confidence)) = verdict.filter(|(cause, ..)| *cause == code) else { continue };
            let new = || Loss { others: others.clone(), confidence, host, flows: Vec::new(), hop, watched, refusal };
            stories.entry((host, others.clone(), confidence)).or_insert_with(new).flows.push(flow);
        }
        stories.into_values().collect()
    }

    /// The host at which a request ended, where, what was watched, and how it refused.
    fn ended_at(&self, flow: &'a Flow) -> Option<(HostId, &'a Hop, Vec<u32>, Option<&'a Hop>)> {
        if let Some(swallowed) = self.swallowed(flow, Way::Request) {
            // Of a connection that began before the capture: data again and again, and nothing came back.
            let repeats = || flow.noted(NoteKind::DataRepeat).filter(|n| n.point == swallowed.hop.point).count() >= 2;
            let unanswered = (flow.state == FlowState::Unanswered || !flow.from_start && repeats()) && flow.errors.is_empty();
            return unanswered.then_some((swallowed.host, swallowed.hop, swallowed.watched, None));
        }
        let hop = flow.request.last()?;
        let refusal = flow.reply.first().filter(|r| r.first == PacketKind::Reset && r.from.is_some() && r.from == hop.to)?;
        let own = refusal.src == hop.dst && is_initial(refusal.ttl);
        let host = hop.to?;
        let others = self.trace.hosts[host].points.iter().copied().filter(|p| *p != hop.point).collect();
        (own && flow.state == FlowState::Refused && flow.protocol == Protocol::Tcp).then_some((host, hop, others, Some(refusal)))
    }

    fn swallowed_by(&self, flow: &Flow, host: HostId, hop: &Hop) -> Option<Verdict> {
        let owns = self.holds(host, hop);
        let verdict = match (self.role_in(host, hop), owns) {
            (Role::RealServer | Role::Client, _) => return None,
            // A director that does not know a connection resets it; it knows this one, and its server is gone.
            (Role::Director, true) if !flow.from_start => ("SVC012", vec!["NAT008", "SVC013"], Confidence::Likely),
            _ if !flow.from_start => return None,
            (Role::Director, true) => ("NAT008", vec!["HA003", "SVC001", "NET007"], Confidence::Likely),
            (Role::Director, false) => ("SVC001", vec!["NAT008", "HA003"], Confidence::Likely),
            (Role::Router, true) => ("NET002", vec!["NET008", "NET001"], Confidence::Likely),
            (Role::Router, false) => ("NET001", vec!["NET008", "NET007"], Confidence::Likely),
            (Role::Unknown, true) => ("NAT008", vec!["NET002", "HA003", "SVC001", "NET008"], Confidence::Likely),
            (Role::Unknown, false) => ("NET001", vec!["NET008", "SVC001", "NET002"], Confidence::Likely),
        };
        Some(verdict)
    }

    fn refused_by(&self, host: HostId, hop: &Hop) -> Option<Verdict> {
        let verdict = match self.role_in(host, hop) {
            Role::RealServer | Role::Client => return None,
            Role::Router => ("NET002", vec!["SVC027"], Confidence::Likely),
            Role::Director => ("SVC027", vec!["SVC022", "SVC001", "SVC015", "SVC005"], Confidence::Likely),
            // Captures of machines that no connection reached: somebody expected it to go further than to this host.
            Role::Unknown => {
                let confidence = if self.is_expected_further(host) { Confidence::Likely } else { Confidence::Possible };
                ("SVC027", vec!["NET002", "SVC022", "SVC001", "SVC015", "SVC005", "SVC004"], confidence)
            }
        };
        Some(verdict)
    }

    /// What a host is with regard to a service: the user's word, then what it did, then its name.
    pub fn role_in(&self, host: HostId, hop: &Hop) -> Role {
        let said =
            self.hints.services.iter().any(|e| e.addr == hop.dst.addr) || self.hints.rules.iter().any(|rule| rule.is_for(hop.dst.addr));
        if said || self.is_director(host) {
            return Role::Director;
        }
        let routes = |f: &Flow| f.director.is_some() && f.routers.contains(&host);
        if self.flows().any(routes) { Role::Router } else { self.role(Some(host)) }
    }

    /// True when the address that a packet is for belongs to the host.
    fn holds(&self, host: HostId, hop: &Hop) -> bool {
        let neighbours = self.claimants(hop.dst.addr);
        neighbours.iter().any(|c| c.host == host) || self.trace.hosts[host].addresses.contains(&hop.dst.addr)
    }

    /// True when another host claims the address that a packet was for: it came to the wrong one, and that is the story.
    pub fn is_contested(&self, host: HostId, hop: &Hop) -> bool {
        self.claimants(hop.dst.addr).iter().any(|c| c.host != host && c.answers().is_some())
    }

    /// True when there are captures of at least one other machine that no connection reached.
    pub fn is_expected_further(&self, host: HostId) -> bool {
        let touched = |h: HostId| {
            self.flows().any(|f| f.request.hops.iter().chain(&f.reply.hops).any(|hop| hop.from == Some(h) || hop.to == Some(h)))
        };
        let used = |point: u32| self.flows().any(|f| f.request.hops.iter().chain(&f.reply.hops).any(|hop| hop.point == point));
        let idle = |point: u32| !used(point) && self.trace.host_at(point).is_none_or(|h| h != host && !touched(h));
        self.trace.hosts[host].points.len() > 1 && (0..self.trace.points.len() as u32).any(idle)
            || (0..self.trace.points.len() as u32).filter(|p| idle(*p)).count() > 1
    }

    /// The name of a host at which unanswered requests ended, if not all of its interfaces were watched: whether it handed them on is open.
    pub fn half_seen_director(&self) -> Option<&'a str> {
        let lost = |f: &&Flow| f.director.is_none() && f.state == FlowState::Unanswered && f.errors.is_empty();
        let unwatched = self.flows().filter(lost).filter(|f| self.swallowed(f, Way::Request).is_none());
        unwatched.filter_map(|f| f.request.last()?.to).next().map(|host| self.name(Some(host)))
    }

    /// True for a flow that no director took part in and that nobody refused or swallowed: an ordinary connection.
    pub fn is_direct(&self, flow: &Flow) -> bool {
        flow.director.is_none() && matches!(flow.method, Method::Direct | Method::Unknown)
    }
}

/// A TTL that a host sets itself; forwarded packets have less.
pub(in crate::rules) fn is_initial(ttl: u8) -> bool {
    matches!(ttl, 32 | 64 | 128 | 255)
}
