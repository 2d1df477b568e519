//! Neighbours: who answers for an address, who asks with it, and who still believes what was true before.

pub(super) mod arp001;
pub(super) mod arp002;
pub(super) mod arp003;
pub(super) mod arp004;
pub(super) mod arp005;
pub(super) mod arp006;
pub(super) mod arp007;
pub(super) mod arp010;
pub(super) mod arp011;
pub(super) mod arp012;
mod voice;

pub(in crate::rules) use voice::unasked;

use super::Facts;
use super::facts::{Claimant, Neighbourhood};
use crate::finding::{Evidence, Remedy, Severity};
use crate::ipvs::Role;
use crate::packet::IcmpKind;
use crate::trace::{Claim, ClaimKind, Flow, HostId, Method, Question, Way};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Real servers that speak for a service's address towards their neighbours.
struct Leak<'a> {
    vip: IpAddr,
    /// The servers, each with its words.
    servers: BTreeMap<HostId, Vec<&'a Claim>>,
    /// Flows that came to them without a director.
    past: Vec<&'a Flow>,
    /// That they are real servers is known by what they did or are called, not only by their serving the address.
    known: bool,
}

impl Leak<'_> {
    /// What it does: nothing yet, the wrong distribution, or failures.
    fn severity(&self) -> Severity {
        match &self.past[..] {
            [] => Severity::Risky,
            past if past.iter().all(|f| f.state.is_complete()) => Severity::Degraded,
            _ => Severity::Broken,
        }
    }

    /// `and requests go past the director already`, where they do.
    fn effect(&self) -> &'static str {
        if self.past.is_empty() { "" } else { "; requests go past the director" }
    }
}

/// Real servers that speak for the IPv4 address of a service in one way of `kinds`. Not those that announce it or probe for it as an
/// interface does that has it: with them it is the place of the address that is wrong (DR010).
fn leaks<'a>(hood: &Neighbourhood<'a>, kind: ClaimKind) -> Vec<Leak<'a>> {
    let facts = hood.facts;
    let vips = facts.vips();
    let mut leaks = Vec::new();
    for vip in facts.service_addresses().into_iter().filter(IpAddr::is_ipv4) {
        let claimants = facts.claimants(vip);
        let mut servers: BTreeMap<HostId, Vec<&Claim>> = BTreeMap::new();
        for claimant in claimants.iter().filter(|c| hood.standing(c.host, vip) == Role::RealServer && !facts.is_on_card(c.host, vip)) {
            let words: Vec<&Claim> = claimant.claims.iter().copied().filter(|c| c.kind == kind).collect();
            // An address that nobody else has a right to may well be its own; and of two that served it in turn, one may have taken it over.
            let handed = vips.contains(&vip) && facts.is_handed(claimant.host, vip);
            let director = claimants.iter().any(|c| hood.standing(c.host, vip) == Role::Director && hood.share_a_link(&words, c));
            let denied = || hood.rivals(vip).iter().any(|c| c.host != claimant.host && facts.contradiction(claimant, c).is_some());
            let virtual_here = handed || facts.answers_for_another(claimant.host, vip).is_some() || director;
            if !words.is_empty() && (virtual_here || (kind == ClaimKind::Reply && denied())) {
                servers.insert(claimant.host, words);
            }
        }
        if !servers.is_empty() {
            let past = servers.keys().flat_map(|host| facts.past_the_director(*host, vip)).collect();
            let server = |host: &HostId| facts.is_real_server(*host) || facts.answers_for_another(*host, vip).is_some();
            let known = servers.keys().all(server);
            leaks.push(Leak { vip, servers, past, known });
        }
    }
    leaks
}

impl<'a> Facts<'a> {
    /// True when a real server's interface has the address: it announces it, or asks whether it may have it (DR010).
    pub(in crate::rules) fn is_on_card(&self, host: HostId, addr: IpAddr) -> bool {
        let macs = &self.trace.hosts[host].macs;
        let as_card = |c: &&Claim| c.addr == addr && matches!(c.kind, ClaimKind::Announcement | ClaimKind::Probe);
        self.trace.claims.claims.iter().filter(as_card).any(|c| macs.contains(&c.mac))
    }

    /// True when a director hands on flows for an address, to this host or to its like.
    fn is_handed(&self, host: HostId, addr: IpAddr) -> bool {
        self.flows().any(|f| f.director.is_some_and(|d| d != host) && f.vip.is_some_and(|vip| vip.addr == addr))
    }
}

impl<'a> Neighbourhood<'a> {
    /// True when a claimant's words were heard on the link of others.
    fn share_a_link(&self, words: &[&Claim], claimant: &Claimant<'a>) -> bool {
        words.iter().any(|w| claimant.claims.iter().any(|c| self.on_one_link(w.point, c.point)))
    }
}

/// One piece of evidence for each host: its words where they were heard best, the most telling first.
fn words(facts: &Facts<'_>, claims: &[&Claim]) -> Option<Evidence> {
    claims.iter().max_by_key(|c| (c.times.count, std::cmp::Reverse(c.point))).map(|c| facts.claim(c))
}

/// Makes the neighbours of a link forget who has an address.
fn forget(router: &str, addr: IpAddr) -> Remedy {
    let family = super::remedy::ip_for(&addr.to_string());
    Remedy::new(router, format!("{family} neigh flush to {addr}"), "nothing: it is learnt anew", "nothing to undo")
}

/// Questions within such a time are repetitions of one.
const INSISTS: i64 = 5_000_000_000;

/// A host that asks for a neighbour in vain, while requests wait for it or nothing else is known of anybody.
struct Vain<'a> {
    asker: HostId,
    question: &'a Question,
    /// A host that hears the question at its own interface, and is not the asker; a director first.
    heard: Option<(HostId, &'a Question)>,
    /// Requests that wait for the answer.
    flows: Vec<&'a Flow>,
    /// The address asked for is a service's.
    is_service: bool,
    /// The asker hands requests to servers.
    balances: bool,
    /// The asker is a server that looks for a way for its answer.
    answers: bool,
}

impl Vain<'_> {
    /// Whose fault it is: the director's, which should answer, or a neighbour's that is not there.
    fn code(&self, hood: &Neighbourhood<'_>) -> &'static str {
        if self.is_meant_for_the_asker(hood) {
            return "SVC001";
        }
        let director_hears = self.heard.is_some() && !self.balances && !self.answers;
        if self.question.target.is_ipv4() && (director_hears || self.is_service) { "ARP006" } else { "ARP011" }
    }

    /// True when a director asks for an address that its own client dialled, on the link by which the request came: whoever sent the request
    /// there is on that link, too, and meant the director to have it (SVC001).
    fn is_meant_for_the_asker(&self, hood: &Neighbourhood<'_>) -> bool {
        let came =
            |f: &&Flow| f.request.last().is_some_and(|hop| hop.dst_mac == Some(self.question.mac) && hop.dst.addr == self.question.target);
        let all = !self.flows.is_empty() && self.flows.iter().all(came);
        all && !self.answers && hood.facts.role(Some(self.asker)) == Role::Director && hood.facts.owner(self.question.target).is_none()
    }

    /// `-g `, `-m `, `-i `: how the service hands on, as far as its other flows tell; ipvsadm takes `-g` where nothing is said.
    fn method(&self, facts: &Facts<'_>) -> &'static str {
        let alike = |f: &&Flow| {
            f.director == Some(self.asker)
                && self.flows.first().is_none_or(|mine| mine.request.last().is_some_and(|h| f.vip == Some(h.dst)))
        };
        match facts.flows().find(alike).map(|f| f.method) {
            Some(Method::Nat) => "-m ",
            Some(Method::Tunnel) => "-i ",
            _ => "",
        }
    }

    /// What the asker tells those who wait.
    fn errors(&self, facts: &Facts<'_>) -> Option<Evidence> {
        let error = self.flows.iter().flat_map(|f| &f.errors).find(|e| e.from == Some(self.asker) && e.kind == IcmpKind::Unreachable)?;
        Some(facts.error(error))
    }
}

/// Hosts that ask in vain, with what waits for the answer.
fn in_vain<'a>(hood: &Neighbourhood<'a>) -> Vec<Vain<'a>> {
    let facts = hood.facts;
    let vips = facts.vips();
    let mut found: BTreeMap<(HostId, IpAddr), Vain> = BTreeMap::new();
    let mut add = |asker: HostId, question: &'a Question, flow: Option<&'a Flow>, answers: bool| {
        let vain = found.entry((asker, question.target)).or_insert_with(|| Vain {
            asker,
            question,
            heard: listener(hood, question),
            flows: Vec::new(),
            is_service: vips.contains(&question.target),
            balances: hood.standing(asker, question.target) == Role::Director,
            answers,
        });
        if question.times.count > vain.question.times.count {
            vain.question = question;
        }
        vain.flows.extend(flow);
    };
    for flow in facts.flows() {
        let Some(unresolved) = facts.unresolved(flow, Way::Request) else { continue };
        let served = flow.server_host == Some(unresolved.host) && flow.director.is_some_and(|d| d != unresolved.host);
        // A server behind a translating director that asks for another gateway is another story (NAT002), and so is who asks a living
        // neighbour with the service's address (DR008).
        let translated = served && !matches!(flow.method, Method::DirectRouting | Method::Tunnel);
        let nobodys = |q: &Question| served && facts.owner(q.target).is_none();
        let asks = unresolved.questions.iter().filter(|q| {
            let as_service = q.target.is_ipv4() && q.asker == Some(unresolved.hop.dst.addr) && !nobodys(q);
            insists(q, 2) && !as_service && (served || q.target != unresolved.hop.src.addr)
        });
        if let (false, Some(question)) = (translated, asks.max_by_key(|q| (facts.last_asked(q), q.times.count))) {
            add(unresolved.host, question, Some(flow), served);
        }
    }
    // Where the first hop is unknown, no request is ever sent.
    for (asker, host) in facts.trace.hosts.iter().enumerate() {
        let starts = |f: &Flow| f.request.hops.iter().chain(&f.reply.hops).any(|h| h.from == Some(asker));
        if host.macs.is_empty() || facts.flows().any(starts) {
            continue;
        }
        let director = |q: &&Question| listener(hood, q).is_some_and(|(h, _)| hood.standing(h, q.target) == Role::Director);
        // A point on a machine without a MAC, as far as known, may be the asker's.
        let shows = |q: &&Question| facts.trace.host_at(q.point).is_none_or(|at| at == asker || facts.trace.hosts[at].macs.is_empty());
        let open = |q: &&Question| host.macs.contains(&q.mac) && q.asker.is_some() && insists(q, 3) && !facts.is_answered(q);
        let wanted = |q: &&Question| vips.contains(&q.target) || (facts.trace.flows.is_empty() && director(q));
        let questions = facts.trace.claims.questions.iter().filter(|q| shows(q) && open(q) && wanted(q));
        for question in questions {
            add(asker, question, None, false);
        }
    }
    found.into_values().collect()
}

/// A director that looks for an address on the link by which requests for it came.
pub(super) struct Wanted<'a> {
    pub(super) asker: HostId,
    pub(super) question: &'a Question,
    pub(super) flows: Vec<&'a Flow>,
}

/// Directors that lack the address which others sent them requests for.
pub(super) fn meant_for_askers<'a>(hood: &Neighbourhood<'a>) -> Vec<Wanted<'a>> {
    let vain = in_vain(hood).into_iter().filter(|v| v.code(hood) == "SVC001");
    vain.map(|v| Wanted { asker: v.asker, question: v.question, flows: v.flows }).collect()
}

/// True when a question was repeated at once, so many times: who is answered has no need to.
fn insists(question: &Question, times: usize) -> bool {
    question.times.first.windows(times).any(|t| t[times - 1].1 - t[0].1 <= INSISTS)
}

/// A host that hears a question at its own interface, a director before others.
fn listener<'a>(hood: &Neighbourhood<'a>, question: &Question) -> Option<(HostId, &'a Question)> {
    let facts = hood.facts;
    let same = |q: &&Question| (q.target, q.mac, q.asker) == (question.target, question.mac, question.asker);
    let at = |q: &'a Question| Some((facts.trace.host_at(q.point)?, q));
    let heard = facts.trace.claims.questions.iter().filter(same).filter_map(at);
    let mut others = heard.filter(|(host, _)| !facts.trace.hosts[*host].macs.contains(&question.mac));
    others.find(|(host, _)| hood.standing(*host, question.target) == Role::Director)
}
