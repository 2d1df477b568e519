//! A request that a host on the way received and neither handed on nor refused by itself, and one that it refused. Which fault that is
//! depends on what the host is; packets do not always tell.

use super::Facts;
use crate::finding::{Confidence, Finding, Severity};
use crate::ipvs::Role;
use crate::net::Protocol;
use crate::trace::{Flow, FlowState, Hop, HostId, Method, NoteKind, PacketKind, Path, Question, Way};
use std::collections::BTreeMap;

/// Who has an address answers a question for it within this time.
const ANSWERS_WITHIN: i64 = 100_000_000;

/// Requests that ended at one host, with the cause that packets suggest first, and those that they leave open.
pub(in crate::rules) struct Loss<'a> {
    /// Codes of other causes.
    pub(in crate::rules) others: Vec<&'static str>,
    /// Less than broken where it may be meant so: another port of a service that works, an address of no service.
    pub(in crate::rules) severity: Severity,
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
        Finding::new(name, self.severity, self.confidence, summary, facts.seen(self.hop))
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
        let mut stories: BTreeMap<(HostId, Vec<&'static str>, Severity, Confidence), Loss> = BTreeMap::new();
        for flow in self.flows() {
            let Some((host, hop, watched, refusal)) = self.ended_at(flow) else { continue };
            // A router translates for those outside; a test from inside (NET005), or from the director (DR014), proves nothing. Data
            // connections of FTP have their own story (NAT012).
            let is_test =
                self.tested_from_inside(flow).is_some() || self.self_addressed(flow).is_some() || self.ftp_control(flow).is_some();
            if (flow.director.is_none() && self.is_contested(host, hop)) || is_test {
                continue;
            }
            let verdict = match (refusal, flow.director) {
                (None, None) => self.swallowed_by(flow, host, hop),
                (Some(_), None) => self.refused_by(flow, host, hop),
                (None, Some(director)) if director != host => self.swallowed_behind(host, hop),
                (_, Some(_)) => None,
            };
            let Some((_, others, mut confidence)) = verdict.filter(|(cause, ..)| *cause == code) else { continue };
            let mut severity = Severity::Broken;
            if code == "DR022" {
                severity = Severity::Degraded; // others are served
            } else if !self.concerns_a_service(flow, hop) {
                (severity, confidence) = (Severity::Note, Confidence::Possible);
            } else if matches!(code, "NET002" | "NET008" | "SVC027") && self.serves_other_port(flow, hop) {
                (severity, confidence) = (Severity::Risky, Confidence::Possible);
            }
            let new = || Loss { others: others.clone(), severity, confidence, host, flows: Vec::new(), hop, watched, refusal };
            stories.entry((host, others.clone(), severity, confidence)).or_insert_with(new).flows.push(flow);
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
        let served = self.serves_around(host, hop);
        let owns = self.holds(host, hop) || served == (true, true);
        let mut verdict = match (self.role_in(host, hop), owns) {
            (Role::RealServer | Role::Client, _) => return None,
            // It waits for one of its servers, and nobody heard it ask.
            (Role::Director, true) if served == (true, true) && flow.from_start && self.is_deaf() => {
                ("ARP011", vec!["SVC003", "NAT008"], Confidence::Likely)
            }
            // It had the address, or never had it: nobody heard who has it now.
            (Role::Director, false) if (served.0 || served.1) && flow.from_start && self.is_deaf() => {
                ("SVC001", vec!["ARP007", "ARP011", "NAT008"], Confidence::Possible)
            }
            // A director that does not know a connection resets it; it knows this one, and its server is gone.
            (Role::Director, true) if !flow.from_start => ("SVC012", vec!["NAT008", "SVC013"], Confidence::Likely),
            _ if !flow.from_start => return None,
            // It had the address, and then did not answer for it any more: somebody else may have it, and the sender not know.
            (Role::Director | Role::Unknown, true) if self.gave_up(host, hop) => ("SVC001", vec!["ARP007", "NAT008"], Confidence::Possible),
            (Role::Director, true) => ("NAT008", vec!["SVC002", "HA003", "SVC001", "NET007"], Confidence::Likely),
            (Role::Director, false) => ("SVC001", vec!["NAT008", "HA003"], Confidence::Likely),
            (Role::Router, true) => ("NET002", vec!["NET008", "NET001"], Confidence::Likely),
            // Forwarding is a property of the interface by which packets arrive: what it does for others, it can do.
            (Role::Router | Role::Unknown, false) if self.forwards(host, hop, true) => ("NET008", vec!["NET007"], Confidence::Possible),
            (Role::Router | Role::Unknown, false) if self.forwards(host, hop, false) => ("NET008", vec!["NET007"], Confidence::Likely),
            (Role::Router, false) => ("NET001", vec!["NET008", "NET007"], Confidence::Likely),
            (Role::Unknown, true) if self.trace.hosts[host].points.len() == 1 && !self.is_dialled(flow) => {
                ("NAT008", vec!["NET002", "SVC002", "HA003", "SVC001", "NET008"], Confidence::Possible)
            }
            (Role::Unknown, true) => ("NAT008", vec!["NET002", "SVC002", "HA003", "SVC001", "NET008"], Confidence::Likely),
            (Role::Unknown, false) => ("NET001", vec!["NET008", "SVC001", "NET002"], Confidence::Likely),
        };
        // Who cannot ask for the next neighbour says nothing for some seconds.
        if verdict.0 == "NAT008" && hop.dst.addr.is_ipv6() {
            verdict.1.push("IP6004");
        }
        Some(verdict)
    }

    /// Whether a director handed on other connections for the address and port that a request is for: before it, and after it.
    fn serves_around(&self, host: HostId, hop: &Hop) -> (bool, bool) {
        let at = self.trace.common_time(hop.point, hop.time);
        let begun = self.flows().filter(|f| f.director == Some(host) && f.vip == Some(hop.dst)).map(|f| f.first);
        begun.fold((false, false), |(before, after), first| (before || first < at, after || first > at))
    }

    /// On the way from the director to a real server that is not its neighbour.
    fn swallowed_behind(&self, host: HostId, hop: &Hop) -> Option<Verdict> {
        if self.holds(host, hop) || !matches!(self.role(Some(host)), Role::Router | Role::Unknown) {
            return None;
        }
        let verdict = match (hop.outer.is_some(), self.forwards(host, hop, false)) {
            (true, true) => ("TUN007", vec!["NET008", "NET007"]),
            (true, false) => ("NET001", vec!["TUN007", "NET008"]),
            (false, true) => ("NET008", vec!["NET007"]),
            (false, false) => ("NET001", vec!["NET008", "NET007"]),
        };
        Some((verdict.0, verdict.1, Confidence::Likely))
    }

    /// True when the client itself sent the request to the host at which it ended: no forwarder whose choice is not known stands between.
    fn is_dialled(&self, flow: &Flow) -> bool {
        flow.client_host.is_some() && flow.request.links().count() == 1
    }

    fn refused_by(&self, flow: &'a Flow, host: HostId, hop: &Hop) -> Option<Verdict> {
        let translated = self.translation(flow).is_some();
        let verdict = match self.role_in(host, hop) {
            Role::RealServer | Role::Client => return None,
            Role::Router => ("NET002", vec!["SVC027"], Confidence::Likely),
            Role::Director if self.refuses_some(host, flow, hop) => ("DR022", vec!["SVC027", "SVC005"], Confidence::Likely),
            // Another one serves the address: it is here as well, or was.
            Role::Director | Role::Unknown if self.is_served_elsewhere(host, hop) => {
                ("SVC027", vec!["HA001", "ARP007", "SVC022", "SVC001", "SVC015", "SVC005"], Confidence::Possible)
            }
            // A router in front may translate to a port that was never meant.
            Role::Director if translated => ("SVC027", vec!["NET002", "SVC022", "SVC001", "SVC015", "SVC005"], Confidence::Likely),
            Role::Director => ("SVC027", vec!["SVC022", "SVC001", "SVC015", "SVC005"], Confidence::Likely),
            // Captures of machines that no connection reached: somebody expected it to go further than to this host.
            Role::Unknown => {
                // Who else answers for the address is heard by who asks for it.
                let asker_seen = hop.from.is_some() && flow.request.hops.iter().any(|h| h.from == hop.from && h.at == hop.from);
                let chosen = asker_seen || self.is_dialled(flow) || self.trace.hosts[host].points.len() > 1;
                let confidence = if chosen && self.is_expected_further(host) { Confidence::Likely } else { Confidence::Possible };
                ("SVC027", vec!["NET002", "SVC022", "SVC001", "SVC015", "SVC005", "SVC004"], confidence)
            }
        };
        Some(verdict)
    }

    /// True when another host is the director of connections for the address and port that a request is for, or is called one where nobody
    /// heard who answers for the address.
    fn is_served_elsewhere(&self, host: HostId, hop: &Hop) -> bool {
        let called = |other: HostId| other != host && self.is_called(other) == Role::Director;
        let named = || self.is_deaf() && self.is_called(host) != Role::Director && (0..self.trace.hosts.len()).any(called);
        self.flows().any(|f| f.director.is_some_and(|d| d != host) && f.vip == Some(hop.dst)) || named()
    }

    /// True when a director refused some connections for an address and port itself, more than once, and handed on others in between, which were
    /// served: no service that came late, or went, or was loaded anew meanwhile.
    fn refuses_some(&self, director: HostId, flow: &Flow, hop: &Hop) -> bool {
        let served = |f: &Flow| f.director == Some(director) && f.vip == Some(hop.dst) && f.state.is_complete();
        let own = |f: &Flow| f.reply.first().is_some_and(|r| r.first == PacketKind::Reset && r.from == Some(director) && r.src == hop.dst);
        let refused = |f: &Flow| f.director.is_none() && f.state == FlowState::Refused && own(f);
        let same = self.flows().filter(|f| f.protocol == flow.protocol);
        // In the order in which they began.
        let turns: Vec<bool> = same.filter_map(|f| if served(f) { Some(true) } else { refused(f).then_some(false) }).collect();
        turns.windows(2).filter(|pair| pair[0] && !pair[1]).count() >= 2
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

    /// True when a request is for an address of a known service; or no service is known, and it may be what the captures were taken for. Where
    /// services are known, what else ends at a router is nobody's fault so far.
    pub(in crate::rules) fn concerns_a_service(&self, flow: &Flow, hop: &Hop) -> bool {
        let vips = self.vips();
        let dialled = |f: &Flow| f.director.is_some() && f.service.addr == flow.service.addr;
        vips.is_empty() || vips.contains(&hop.dst.addr) || vips.contains(&flow.service.addr) || self.flows().any(dialled)
    }

    /// True when the address is served, on another port than the one that a request is for: that one may be closed on purpose.
    pub(in crate::rules) fn serves_other_port(&self, flow: &Flow, hop: &Hop) -> bool {
        let served = |f: &Flow| f.director.is_some() && f.state.is_complete();
        let same = |f: &Flow| f.service == flow.service || f.vip == Some(hop.dst);
        let near = |f: &Flow| f.service.addr == flow.service.addr || f.vip.is_some_and(|vip| vip.addr == hop.dst.addr);
        self.flows().any(|f| served(f) && near(f)) && !self.flows().any(|f| served(f) && same(f))
    }

    /// True when the host was seen to forward packets that it received by the interface at which `hop` shows it; with `alike` only those
    /// for the same address and port count.
    pub(in crate::rules) fn forwards(&self, host: HostId, hop: &Hop, alike: bool) -> bool {
        let comes = |h: &Hop| h.to == Some(host) && h.dst_mac.is_some() && h.dst_mac == hop.dst_mac && (!alike || h.dst == hop.dst);
        let passes = |path: &Path| {
            let arrived = path.hops.iter().find(|h| comes(h));
            arrived.is_some_and(|a| path.hops.iter().any(|h| h.from == Some(host) && h.transit > a.transit))
        };
        self.flows().any(|f| passes(&f.request) || passes(&f.reply))
    }

    /// A router's translation of a request's destination, in front of the director: the router, where it received the request, and where it
    /// sent it on.
    pub(in crate::rules) fn translation(&self, flow: &'a Flow) -> Option<(HostId, &'a Hop, &'a Hop)> {
        let links: Vec<&Hop> = flow.request.links().collect();
        links.windows(2).find_map(|pair| {
            let router = pair[1].from.filter(|r| Some(*r) != flow.director && Some(*r) == pair[0].to)?;
            (pair[0].dst != pair[1].dst && !self.is_director(router)).then_some((router, pair[0], pair[1]))
        })
    }

    /// The router whose translation, made for clients outside, a connection missed because it was opened on the router itself, or inside:
    /// it came by the interface by which theirs leave, or from one of the machines that the translation leads to.
    pub(in crate::rules) fn tested_from_inside(&self, flow: &Flow) -> Option<HostId> {
        if flow.state.is_complete() || flow.service.addr.is_loopback() {
            return None;
        }
        let reached = |router: HostId| flow.request.hops.iter().find(|hop| hop.to == Some(router) && hop.dst == flow.service);
        // By the interface through which the others' requests leave the router, which is not the one by which they enter it.
        let by_other_side = |router: HostId, outside: &Hop, inside: &Hop| {
            let entered = |hop: &Hop| hop.dst_mac.is_some() && hop.dst_mac == inside.src_mac && hop.dst_mac != outside.dst_mac;
            reached(router).is_some_and(entered) || flow.client_host == Some(router)
        };
        let others = self.flows().filter(|f| f.id != flow.id && (f.protocol, f.service) == (flow.protocol, flow.service));
        let missed = others.filter_map(|f| self.translation(f)).find(|(router, outside, inside)| by_other_side(*router, outside, inside));
        // It may have been translated, too, and be answered past the router: then the answer comes from an address that was not dialled.
        let answered = flow.reply.first().is_some_and(|hop| hop.first != PacketKind::Reset && hop.to != flow.client_host);
        if let Some((router, ..)) = missed.filter(|_| !answered) {
            return Some(router);
        }
        let inside =
            flow.client_host.is_some_and(|c| self.is_real_server(c) || self.is_director(c) || self.role(Some(c)) == Role::Director);
        let router = flow.request.last()?.to.filter(|_| inside && flow.director.is_none())?;
        let is_its = self.trace.hosts[router].addresses.contains(&flow.service.addr) || flow.request.links().count() == 1;
        (is_its && self.role(Some(router)) == Role::Router).then_some(router)
    }

    /// True when the address that a packet is for belongs to the host.
    pub(in crate::rules) fn holds(&self, host: HostId, hop: &Hop) -> bool {
        let neighbours = self.claimants(hop.dst.addr);
        neighbours.iter().any(|c| c.host == host) || self.trace.hosts[host].addresses.contains(&hop.dst.addr)
    }

    /// True when a host answered for an address before, and then left a question for it unanswered that its own interface heard.
    fn gave_up(&self, host: HostId, hop: &Hop) -> bool {
        let (addr, macs) = (hop.dst.addr, &self.trace.hosts[host].macs);
        let claims = self.trace.claims.claims.iter().filter(|c| c.addr == addr && c.is_earnest() && macs.contains(&c.mac));
        let Some(last) = claims.map(|c| self.trace.common_time(c.point, c.times.last.1)).max() else { return false };
        let heard = |q: &&Question| q.target == addr && !macs.contains(&q.mac) && q.point == hop.point;
        let goes_on = |q: &Question| self.trace.points[q.point as usize].last - q.times.last.1 > ANSWERS_WITHIN;
        let unanswered = |q: &Question| self.last_asked(q) - last > ANSWERS_WITHIN && goes_on(q);
        let own = self.trace.host_at(hop.point) == Some(host) && self.is_whole(hop.point);
        own && self.trace.claims.questions.iter().filter(heard).any(unanswered)
    }

    /// True when another host claims the address that a packet was for: it came to the wrong one, and that is the story.
    pub fn is_contested(&self, host: HostId, hop: &Hop) -> bool {
        self.claimants(hop.dst.addr).iter().any(|c| c.host != host && c.answers().is_some())
    }

    /// True when there are captures of at least one other machine that no connection reached.
    pub fn is_expected_further(&self, host: HostId) -> bool {
        let idle = |point: u32| self.is_idle(point) && self.trace.host_at(point) != Some(host);
        self.trace.hosts[host].points.len() > 1 && (0..self.trace.points.len() as u32).any(idle)
            || (0..self.trace.points.len() as u32).filter(|p| idle(*p)).count() > 1
    }

    /// True for a capture on a machine that no connection reached.
    pub(in crate::rules) fn is_idle(&self, point: u32) -> bool {
        let hops = |f: &'a Flow| f.request.hops.iter().chain(&f.reply.hops);
        let host = self.trace.host_at(point);
        let touched = |hop: &Hop| hop.point == point || host.is_some() && (hop.from == host || hop.to == host);
        !self.flows().flat_map(hops).any(touched)
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
