//! Who has which address: what ARP and neighbour discovery tell rules.

use super::Facts;
use crate::net::Timestamp;
use crate::trace::{Claim, ClaimKind, Hop, HostId, Question};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// An answer comes within a second, or the question is asked again.
const PATIENCE: i64 = 1_000_000_000;

/// A host that claims an address, and how.
pub(in crate::rules) struct Claimant<'a> {
    pub(in crate::rules) host: HostId,
    pub(in crate::rules) claims: Vec<&'a Claim>,
}

impl<'a> Claimant<'a> {
    /// Its claims of one kind.
    pub(in crate::rules) fn by(&self, kind: ClaimKind) -> Option<&'a Claim> {
        self.claims.iter().copied().find(|claim| claim.kind == kind)
    }

    /// What it said when asked, or unasked; not the sender address of its own questions.
    pub(in crate::rules) fn answers(&self) -> Option<&'a Claim> {
        self.by(ClaimKind::Reply).or_else(|| self.by(ClaimKind::Announcement))
    }
}

impl<'a> Facts<'a> {
    /// Who claims an address, host by host, in whatever way but by a mere probe.
    pub(in crate::rules) fn claimants(&self, addr: IpAddr) -> Vec<Claimant<'a>> {
        let mut claimants: BTreeMap<HostId, Vec<&Claim>> = BTreeMap::new();
        for claim in self.trace.claims.claims.iter().filter(|c| c.addr == addr && c.is_earnest()) {
            if let Some(host) = self.trace.host_of(claim.mac) {
                claimants.entry(host).or_default().push(claim);
            }
        }
        claimants.into_iter().map(|(host, claims)| Claimant { host, claims }).collect()
    }

    /// True when the host answered for the address, or announced it.
    pub fn answers_for(&self, host: HostId, addr: IpAddr) -> bool {
        self.claimants(addr).iter().any(|c| c.host == host && c.answers().is_some())
    }

    /// Questions of a host that nobody answered. Only where the answer would have been seen: at the host's own interface, or at a mirror
    /// port; the answer is for the asker alone, others on the link hear only the question.
    pub fn unanswered_questions(&self, host: HostId) -> impl Iterator<Item = &'a Question> + use<'a> {
        let facts = *self;
        let macs = &self.trace.hosts[host].macs;
        let shows = move |q: &Question| facts.trace.host_at(q.point).is_none_or(|at| at == host);
        let questions = self.trace.claims.questions.iter().filter(move |q| macs.contains(&q.mac) && q.asker.is_some() && shows(q));
        questions.filter(move |q| !facts.is_answered(q))
    }

    /// True when no capture has a question for a neighbour or an answer, be it ARP or neighbour discovery: they were made with a filter
    /// (`port 80`), or all were known already. That nobody was heard to ask proves nothing then.
    pub fn is_deaf(&self) -> bool {
        self.trace.claims.claims.is_empty() && self.trace.claims.questions.is_empty()
    }

    /// A question counts as answered when the address was claimed while it was being asked, or later, wherever on its link that was seen.
    /// Who has it on another link does not hear the question.
    pub(in crate::rules) fn is_answered(&self, question: &Question) -> bool {
        let asked = self.trace.common_time(question.point, question.times.since());
        let about = |c: &&Claim| c.addr == question.target && c.is_earnest() && c.mac != question.mac;
        let claims = self.trace.claims.claims.iter().filter(about);
        let mut late = claims.filter(|c| self.trace.common_time(c.point, c.times.last.1) + PATIENCE >= asked);
        late.any(|c| (c.kind == ClaimKind::Reply && c.about == question.asker) || self.is_audible(c, question))
    }

    /// True when a claim was made on the link of a question: where it was asked, where it was heard, or by somebody who is heard there.
    fn is_audible(&self, claim: &Claim, question: &Question) -> bool {
        let (claims, questions) = (&self.trace.claims.claims, &self.trace.claims.questions);
        claim.point == question.point
            || questions.iter().any(|q| q.point == claim.point && (q.mac, q.target) == (question.mac, question.target))
            || claims.iter().any(|c| c.point == question.point && c.mac == claim.mac)
            || questions.iter().any(|q| q.point == question.point && q.mac == claim.mac)
    }

    /// True when any host but the one that asks claims the address, anywhere.
    pub fn is_claimed(&self, addr: IpAddr) -> bool {
        self.trace.claims.claims.iter().any(|c| c.addr == addr && c.is_earnest())
    }

    /// The host that an address belongs to: it answers for it, speaks from it as its own, or is reached at it.
    pub fn owner(&self, addr: IpAddr) -> Option<HostId> {
        let claimed = self.claimants(addr);
        let by_claim = claimed.iter().find(|c| c.answers().is_some()).or_else(|| claimed.first()).map(|c| c.host);
        by_claim.or_else(|| self.trace.hosts.iter().position(|host| host.addresses.contains(&addr)))
    }

    /// True when `addr`, as a server sees its client, is on the server's own link: somebody there says that he has it, or a host on that
    /// link put it into the packets as their source.
    pub fn is_on_link(&self, addr: IpAddr, hop: &Hop) -> bool {
        let claims = &self.trace.claims.claims;
        claims.iter().any(|c| c.addr == addr && c.is_earnest() && Some(c.mac) != hop.dst_mac && self.hears(c.point, hop))
    }

    /// True when a point hears the link of a hop: it is the hop's point, or it heard the receiver's broadcasts.
    fn hears(&self, point: u32, hop: &Hop) -> bool {
        let claims = &self.trace.claims;
        let about = |mac| Some(mac) == hop.dst_mac || Some(mac) == hop.src_mac;
        point == hop.point
            || claims.claims.iter().any(|c| c.point == point && about(c.mac))
            || claims.questions.iter().any(|q| q.point == point && about(q.mac))
    }

    /// The latest time at which a question was asked, on the common clock.
    pub fn last_asked(&self, question: &Question) -> Timestamp {
        self.trace.common_time(question.point, question.times.last.1)
    }
}
