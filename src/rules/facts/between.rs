//! A packet that left the interface of one host and did not come to that of the next, though both were captured: the network between them
//! dropped it. Switches carry what they are given; the networks of clouds and hypervisors look at addresses first.

use super::{Facts, is_initial};
use crate::finding::{Confidence, Evidence, Finding, Severity};
use crate::net::Protocol;
use crate::trace::{Claims, Flow, Hop, HostId, NoteKind, Way};
use std::collections::BTreeMap;

/// So many pairs of hosts prove it as well as all of them.
const MOST: usize = 4;

/// Packets of one direction that left one host and did not come to another.
pub(in crate::rules) struct Lost<'a> {
    pub(in crate::rules) from: HostId,
    pub(in crate::rules) to: HostId,
    /// Where the packet was seen leaving.
    pub(in crate::rules) hop: &'a Hop,
    /// Where it should have been seen arriving.
    pub(in crate::rules) at: u32,
    flow: &'a Flow,
    /// Other frames of the same sender were seen to arrive there.
    carries_others: bool,
}

/// What one host sent to some others, or got from none of them: one story.
pub(in crate::rules) struct Between<'a> {
    pub(in crate::rules) way: Way,
    /// One packet of each pair of hosts.
    pub(in crate::rules) pairs: Vec<Lost<'a>>,
    pub(in crate::rules) flows: Vec<&'a Flow>,
}

impl Lost<'_> {
    /// The fault that it is most likely to be.
    fn cause(&self, way: Way) -> &'static str {
        // Its sender is not its source, or it speaks as an address that it shares with others.
        let foreign = match way {
            Way::Request => !is_initial(self.hop.ttl),
            Way::Reply => self.flow.director.is_some(),
        };
        match (self.hop.outer.is_some(), foreign && self.carries_others) {
            (true, _) => "TUN007",
            (false, true) => "DR021",
            (false, false) => "NET009",
        }
    }
}

impl Between<'_> {
    /// The names of those that sent, and of those that got nothing: `director` and `web1, web2`.
    pub(in crate::rules) fn ends(&self, facts: &Facts<'_>) -> (String, String) {
        (facts.names(self.pairs.iter().map(|p| p.from)), facts.names(self.pairs.iter().map(|p| p.to)))
    }

    /// The finding about it, about `subject`, with proof; `others` are what else it may be.
    pub(in crate::rules) fn finding(&self, facts: &Facts<'_>, subject: &str, summary: String, others: &[&'static str]) -> Finding {
        let (first, (_, to)) = (&self.pairs[0], self.ends(facts));
        let hop = first.hop;
        let severity = if facts.others_serve(first.flow) { Severity::Degraded } else { Severity::Broken };
        let confidence = if first.carries_others { Confidence::Likely } else { Confidence::Possible };
        let (again, filter) = match (self.way, hop.outer) {
            (Way::Request, Some((_, _, to))) => (NoteKind::SynRepeat, format!("host {to}")),
            (Way::Request, None) => (NoteKind::SynRepeat, format!("dst host {}", hop.dst.addr)),
            (Way::Reply, _) => (NoteKind::SynAckRepeat, format!("src host {}", hop.src.addr)),
        };
        let device = facts.device(first.at);
        let look = format!("on {to}, while a client asks: `tcpdump -eni {device} '{filter}'`; the captures there may have had a filter");
        let mut found = Finding::new(subject, severity, confidence, summary, facts.seen_with(hop, &facts.to_whom(hop)));
        for lost in self.pairs.iter().take(MOST) {
            let left = (!std::ptr::eq(lost.hop, hop)).then(|| facts.seen_with(lost.hop, &facts.to_whom(lost.hop)));
            found = found
                .and(left)
                .and(facts.repeats(lost.flow, lost.hop, again))
                .and([Evidence::absence(lost.at, format!("no packet {} > {}", lost.hop.src, lost.hop.dst))]);
        }
        found.unless(others, look).on(super::ids(&self.flows))
    }
}

impl<'a> Facts<'a> {
    /// What was lost between two captured interfaces, as far as `code` is what to think of first.
    pub(in crate::rules) fn lost_between(&self, code: &str) -> Vec<Between<'a>> {
        let mut pairs: BTreeMap<(Way, HostId, HostId), Vec<Lost>> = BTreeMap::new();
        for flow in self.flows() {
            if let Some((way, lost)) = [Way::Request, Way::Reply].into_iter().find_map(|way| Some((way, self.left_and_lost(flow, way)?))) {
                pairs.entry((way, lost.from, lost.to)).or_default().push(lost);
            }
        }
        let mut stories: BTreeMap<(Way, HostId), Between> = BTreeMap::new();
        for ((way, from, to), mut all) in pairs {
            // One datagram, or one SYN that nobody repeated, is a loss like others.
            let insists = all.len() > 1 || all[0].flow.attempts() > 1 || all[0].hop.packets > 2;
            if insists && all[0].cause(way) == code {
                let one = if way == Way::Request { from } else { to };
                let story = stories.entry((way, one)).or_insert_with(|| Between { way, pairs: Vec::new(), flows: Vec::new() });
                story.flows.extend(all.iter().map(|lost| lost.flow));
                story.pairs.push(all.swap_remove(0));
            }
        }
        stories.into_values().collect()
    }

    /// A direction's last packet that was seen leaving, and not seen to arrive where somebody watched.
    fn left_and_lost(&self, flow: &'a Flow, way: Way) -> Option<Lost<'a>> {
        let (path, done) = match way {
            Way::Request => (&flow.request, flow.is_answered()),
            Way::Reply => (&flow.reply, flow.state.is_complete()),
        };
        let hop = path.last().filter(|hop| hop.at_sender == Some(true) && !done)?;
        let (from, to) = (hop.from?, hop.to?);
        let repeated = || flow.notes.iter().any(|n| n.point == hop.point && n.time > hop.time);
        let waited = self.waited(flow, hop) || (flow.protocol == Protocol::Tcp && repeated());
        let at = *self.trace.hosts[to].points.iter().find(|p| self.trace.mac_at(**p) == hop.dst_mac)?;
        // Whose interface a capture shows is inferred; it is right if all is there that the host sends.
        let sure = hop.dst_mac.is_some_and(|mac| self.trace.shows_all_of(at, mac));
        let watched = sure && self.is_whole(at) && self.covers(at, hop) && self.takes_in(at);
        let arrived = |h: &&Hop| self.trace.hosts[to].points.contains(&h.point);
        let elsewhere = path.hops.iter().chain(&path.strays).any(|h| arrived(&h));
        let lost = waited && watched && !elsewhere && !self.passes(way, at, hop);
        lost.then(|| Lost { from, to, hop, at, flow, carries_others: self.carries(at, hop) })
    }

    /// True when other packets for the same address (or answers from it) came this way: what did not is merely lost.
    fn passes(&self, way: Way, at: u32, hop: &Hop) -> bool {
        let alike = |h: &&Hop| {
            let same = match way {
                Way::Request => h.dst.addr == hop.dst.addr,
                Way::Reply => h.src.addr == hop.src.addr,
            };
            h.point == at && h.src_mac == hop.src_mac && same && h.outer.is_some() == hop.outer.is_some()
        };
        self.flows().flat_map(|f| f.request.hops.iter().chain(&f.reply.hops)).any(|h| alike(&h))
    }

    /// True when anything that the sender of a packet sent was seen at a point.
    fn carries(&self, at: u32, hop: &Hop) -> bool {
        let Claims { claims, questions, .. } = &self.trace.claims;
        let sent = |h: &Hop| h.point == at && h.src_mac == hop.src_mac;
        claims.iter().any(|c| c.point == at && Some(c.mac) == hop.src_mac)
            || questions.iter().any(|q| q.point == at && Some(q.mac) == hop.src_mac)
            || self.flows().flat_map(|f| f.request.hops.iter().chain(&f.reply.hops)).any(sent)
    }

    /// True when the capture at a point shows what others send to it, and not only what its host sends.
    fn takes_in(&self, at: u32) -> bool {
        let (Claims { claims, questions, .. }, own) = (&self.trace.claims, self.trace.mac_at(at));
        claims.iter().any(|c| c.point == at && Some(c.mac) != own)
            || questions.iter().any(|q| q.point == at && Some(q.mac) != own)
            || self.flows().flat_map(|f| f.request.hops.iter().chain(&f.reply.hops)).any(|h| h.point == at && h.at_sender == Some(false))
    }
}
