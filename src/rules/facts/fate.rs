//! Where a packet's way ends, and what packets say of why.

use super::Facts;
use crate::net::{Protocol, Timestamp};
use crate::packet::IcmpKind;
use crate::trace::{Flow, FlowState, Hop, HostId, NoteKind, Path, Question, Way};
use std::collections::BTreeSet;

/// An answer comes within a second, or the question is asked again.
const PATIENCE: i64 = 1_000_000_000;
/// A question for a neighbour belongs to a packet that came so long before it at most.
const ASKS_WITHIN: i64 = 4_000_000_000;
/// A host that has something to send asks for the next hop as soon as this.
const PROMPT: i64 = 50_000_000;
/// Captures so far apart were not taken together.
const OTHER_TIME: i64 = 60_000_000_000;

/// A host on the way received a packet and did not hand it on.
pub(in crate::rules) struct Swallowed<'a> {
    /// The host.
    pub(in crate::rules) host: HostId,
    /// Where it received the packet.
    pub(in crate::rules) hop: &'a Hop,
    /// Where the packet should have been seen leaving, or arriving further on.
    pub(in crate::rules) watched: Vec<u32>,
}

/// A host on the way received a packet and found no neighbour to hand it to.
pub(in crate::rules) struct Unresolved<'a> {
    /// The host that asks.
    pub(in crate::rules) host: HostId,
    /// Where it received the packet.
    pub(in crate::rules) hop: &'a Hop,
    /// What it asked in vain.
    pub(in crate::rules) questions: Vec<&'a Question>,
}

impl<'a> Facts<'a> {
    /// How long the capture at a hop's point went on after that hop, in nanoseconds.
    pub fn watched(&self, hop: &Hop) -> i64 {
        self.trace.points[hop.point as usize].last - hop.time
    }

    /// True when an answer to this hop should have been seen by now at the same point: the capture went on for long enough, or the question
    /// was repeated there, and the capture itself lost nothing.
    pub fn waited(&self, flow: &Flow, hop: &Hop) -> bool {
        let repeats = |kind| matches!(kind, NoteKind::SynRepeat | NoteKind::SynAckRepeat);
        let repeated = flow.notes.iter().any(|note| note.point == hop.point && repeats(note.kind))
            || (flow.protocol == Protocol::Udp && hop.packets > 1);
        (repeated || self.watched(hop) >= PATIENCE) && self.is_whole(hop.point)
    }

    /// True when the capture at a point lost nothing, as far as it says, and kept enough of each frame.
    pub fn is_whole(&self, point: u32) -> bool {
        let point = &self.trace.points[point as usize];
        point.dropped.unwrap_or(0) == 0 && point.cut == 0
    }

    /// Where a host's silence can be seen: the hop at its own interface, or at a mirror port that also shows what the host sends, or at one
    /// of several interfaces of which one must be its own.
    pub fn reached(&self, path: &'a Path, host: HostId) -> Option<&'a Hop> {
        let mirrored = || path.towards(host).find(|hop| hop.at_sender.is_none() && self.speaks_at(host, hop.point));
        path.received_by(host).or_else(mirrored).or_else(|| self.flooded_to(path, host))
    }

    /// Hosts that never say a word look alike: a bridge that does not know their MACs floods what is for one of them to all, and no capture
    /// shows whose it is. But where there are as many interfaces with such frames as silent hosts, one of them is this host's, and at none
    /// did anybody answer.
    fn flooded_to(&self, path: &'a Path, host: HostId) -> Option<&'a Hop> {
        let nobodys = |point: u32| self.trace.host_at(point).is_none_or(|at| self.trace.hosts[at].macs.is_empty());
        let mute = |h: HostId| self.trace.hosts[h].points.is_empty() && !self.trace.hosts[h].macs.is_empty();
        if !mute(host) {
            return None;
        }
        let hops = |f: &'a Flow| f.request.hops.iter().filter(|h| h.at_sender.is_none() && nobodys(h.point));
        let silent: BTreeSet<HostId> = self.flows().flat_map(hops).filter_map(|h| h.to).filter(|to| mute(*to)).collect();
        let here: Vec<&Hop> = path.towards(host).filter(|h| h.at_sender.is_none() && nobodys(h.point)).collect();
        let speaks = here.iter().any(|h| silent.iter().any(|host| self.speaks_at(*host, h.point)));
        (here.len() > 1 && here.len() >= silent.len() && !speaks).then(|| here[0])
    }

    /// True when any frame of the host was seen at the point.
    pub fn speaks_at(&self, host: HostId, point: u32) -> bool {
        let claims = &self.trace.claims;
        let macs = &self.trace.hosts[host].macs;
        claims.claims.iter().any(|c| c.point == point && macs.contains(&c.mac))
            || claims.questions.iter().any(|q| q.point == point && macs.contains(&q.mac))
            || self.trace.sent_at(host, point)
    }

    /// The hop at which a server received the request, if it then stayed silent: no packet of the connection, no ICMP error, no question for
    /// a neighbour through which it could answer.
    pub fn silent_server(&self, flow: &'a Flow) -> Option<&'a Hop> {
        let server = flow.server_host.filter(|server| Some(*server) != flow.director)?;
        // Its own address as a source is all that it needs to drop a packet (DR014).
        let answered = flow.is_answered()
            || self.self_addressed(flow).is_some()
            || flow.errors.iter().any(|e| e.from == Some(server) || e.kind == IcmpKind::Unreachable);
        if answered || flow.state != FlowState::Unanswered {
            return None;
        }
        // The last place on the server: behind its tunnel, where that was captured, and for as long.
        let inside = flow.request.hops.iter().rev().find(|hop| hop.at == Some(server) && hop.dst_mac.is_none());
        let hop = inside.filter(|hop| self.waited(flow, hop)).or_else(|| self.reached(&flow.request, server)).or(inside)?;
        let later = |h: &Hop| h.from == Some(server) && h.dst_mac.is_some() && h.ttl < hop.ttl;
        let hands_on = || flow.request.hops.iter().chain(&flow.request.strays).any(later);
        let silent = self.answer_of_its_own_address(flow).is_none() && self.waited(flow, hop) && !hands_on();
        (silent && !self.wants_to_answer(server, flow, hop)).then_some(hop)
    }

    /// Where a request whose source is the very address that it asks for was sent over a link: made by the host that has this address, and
    /// dropped by every other one that has it, too.
    pub(in crate::rules) fn self_addressed(&self, flow: &'a Flow) -> Option<&'a Hop> {
        let inside = |hop: &Hop| hop.dst_mac == Some(crate::net::MacAddr::ZERO);
        let own = flow.client.addr == flow.service.addr;
        flow.request.hops.iter().find(|hop| own && hop.src.addr == hop.dst.addr && !inside(hop))
    }

    /// True when a host that received a packet asks for a neighbour: it has an answer to send.
    pub(in crate::rules) fn wants_to_answer(&self, host: HostId, flow: &Flow, hop: &Hop) -> bool {
        self.asks_in_vain(host, flow, hop).next().is_some() || self.asks_as(host, hop) || self.asks_at_once(host, hop)
    }

    /// A server's answer to a datagram from its own address instead of the one that was asked, which looks like a connection of its own: from
    /// the service's port to the client's port.
    pub(in crate::rules) fn answer_of_its_own_address(&self, flow: &Flow) -> Option<&'a Hop> {
        let (asked, server) = (flow.request.last()?, flow.server_host?);
        let other = |f: &&Flow| f.protocol == Protocol::Udp && f.id != flow.id;
        let own = |h: &&Hop| h.from == Some(server) && h.src.port == asked.dst.port && h.src.addr != asked.dst.addr && h.dst == asked.src;
        let hops = |f: &'a Flow| f.request.hops.iter().chain(&f.reply.hops);
        (flow.protocol == Protocol::Udp).then(|| self.flows().filter(other).flat_map(hops).find(own)).flatten()
    }

    /// True when a host, having received a packet, asks for a neighbour with the packet's destination as its own address: it wants to answer.
    fn asks_as(&self, host: HostId, hop: &Hop) -> bool {
        let since = self.trace.common_time(hop.point, hop.time);
        let macs = &self.trace.hosts[host].macs;
        // A neighbour that it knows is asked for again by unicast now and then, whatever it wants to send.
        let asks = |q: &&Question| macs.contains(&q.mac) && !q.unicast && q.asker == Some(hop.dst.addr) && self.last_asked(q) >= since;
        self.trace.claims.questions.iter().any(|q| asks(&q) && !self.is_for_the_neighbour(host, hop, q, q.times.last.1))
    }

    /// True when a host asked for a neighbour because this neighbour itself had just sent it something else, a health check say.
    fn is_for_the_neighbour(&self, host: HostId, hop: &Hop, question: &Question, at: Timestamp) -> bool {
        let asked = self.trace.common_time(question.point, at);
        let just = |h: &Hop| (0..=PROMPT).contains(&(asked - self.trace.common_time(h.point, h.time)));
        let hops = |f: &'a Flow| f.request.hops.iter().chain(&f.reply.hops);
        question.target != hop.src.addr
            && self.flows().flat_map(hops).any(|h| h.to == Some(host) && h.src.addr == question.target && just(h))
    }

    /// True when a host asks for a neighbour right after it received a packet, or insists on one, wherever that was heard: it has an answer
    /// to send. Whether it is told, only its own interface would show.
    fn asks_at_once(&self, host: HostId, hop: &Hop) -> bool {
        let received = self.trace.common_time(hop.point, hop.time);
        let macs = &self.trace.hosts[host].macs;
        let after = |q: &Question, at: Timestamp| self.trace.common_time(q.point, at) - received;
        let at_once = |q: &Question, at: Timestamp| (0..=PROMPT).contains(&after(q, at)) && !self.is_for_the_neighbour(host, hop, q, at);
        let prompt = |q: &Question| q.times.first.iter().any(|(_, at)| at_once(q, *at));
        let insists = |q: &Question| q.times.count >= 2 && after(q, q.times.last.1) >= 0 && !self.is_answered(q);
        let asks = |q: &&Question| macs.contains(&q.mac) && !q.unicast && q.asker.is_some();
        self.trace.claims.questions.iter().filter(asks).any(|q| prompt(q) || insists(q))
    }

    /// Questions of a host, asked while packets of a flow wanted to be handed on, to which nobody answered.
    pub fn asks_in_vain(&self, host: HostId, flow: &Flow, hop: &Hop) -> impl Iterator<Item = &'a Question> + use<'a> {
        let facts = *self;
        let (since, until) = (self.trace.common_time(hop.point, hop.time), flow.last);
        self.unanswered_questions(host).filter(move |q| {
            let asked = facts.trace.common_time(q.point, q.times.since());
            facts.last_asked(q) >= since && asked - until <= ASKS_WITHIN
        })
    }

    /// The host that received a direction's first packet and handed it on to nobody, although somebody watched. Not for the host that the
    /// packet was for in the end.
    pub(in crate::rules) fn swallowed(&self, flow: &'a Flow, way: Way) -> Option<Swallowed<'a>> {
        let (path, other) = match way {
            Way::Request => (&flow.request, &flow.reply),
            Way::Reply => (&flow.reply, &flow.request),
        };
        let hop = path.last()?;
        let host = hop.to?;
        let done = match way {
            Way::Request => flow.server_host == Some(host) || !other.is_empty(),
            Way::Reply => flow.client_host == Some(host) || flow.state.is_complete(),
        };
        if done || !self.waited(flow, hop) || self.trace.host_at(hop.point) != Some(host) {
            return None;
        }
        // The other direction came past these places on its way to the host, so this one would leave by them.
        let beyond = other.hops.iter().filter(|h| way == Way::Reply && h.to == Some(host) && h.point != hop.point).map(|h| h.point);
        let mut watched: Vec<u32> = self.exits(flow, host, hop).into_iter().chain(beyond).collect();
        // A host with one interface that was asked for its own address hands the request to somebody beside it.
        if way == Way::Request
            && watched.is_empty()
            && self.trace.hosts[host].points.len() == 1
            && self.holds(host, hop)
            && self.is_expected_further(host)
        {
            watched = self.idle_beside(hop);
        }
        watched.sort_unstable();
        watched.dedup();
        let unresolved = self.asks_in_vain(host, flow, hop).next().is_some();
        (!watched.is_empty() && !unresolved && watched.iter().all(|p| self.is_whole(*p))).then_some(Swallowed { host, hop, watched })
    }

    /// Points at which a packet that a host received at `hop` would have been seen leaving: its other interfaces, or the same one where the
    /// host is known to send on by the interface by which it receives.
    fn exits(&self, flow: &Flow, host: HostId, hop: &Hop) -> Vec<u32> {
        let others: Vec<u32> = self.trace.hosts[host].points.iter().copied().filter(|p| *p != hop.point).collect();
        let returns = |f: &Flow, path: &Path| {
            let comes = path.hops.iter().any(|h| h.point == hop.point && h.to == Some(host));
            f.id != flow.id && comes && path.hops.iter().any(|h| h.point == hop.point && h.from == Some(host) && h.to.is_some())
        };
        if others.is_empty() && self.flows().any(|f| returns(f, &f.request) || returns(f, &f.reply)) {
            return vec![hop.point];
        }
        let service = |p: &u32| !is_for_management(self.device(*p));
        others.into_iter().filter(service).filter(|p| self.covers(*p, hop)).collect()
    }

    /// Points on the link of a hop, on machines that no connection reached, though somebody thought them worth capturing on: what a host
    /// with one interface hands on arrives there.
    fn idle_beside(&self, hop: &Hop) -> Vec<u32> {
        let hood = self.neighbourhood();
        let idle = |p: &u32| self.is_idle(*p) && hood.on_one_link(*p, hop.point) && *p != hop.point;
        (0..self.trace.points.len() as u32).filter(idle).filter(|p| self.is_whole(*p) && self.covers(*p, hop)).collect()
    }

    /// False for a point that was captured at another time than a packet. An interface on which nothing happens has no frames to show when
    /// its capture began and ended, so only a long gap says that.
    pub fn covers(&self, point: u32, hop: &Hop) -> bool {
        let at = self.trace.common_time(hop.point, hop.time);
        let p = &self.trace.points[point as usize];
        let time = |t| self.trace.common_time(point, t);
        p.frames == 0 || (time(p.first) - at <= OTHER_TIME && at - time(p.last) <= OTHER_TIME)
    }

    /// True when frames were captured at a point after this time of the common clock.
    pub fn goes_on_after(&self, point: u32, at: Timestamp) -> bool {
        self.trace.common_time(point, self.trace.points[point as usize].last) > at
    }

    /// The host at which a request waits for a neighbour that does not answer.
    pub(in crate::rules) fn unresolved(&self, flow: &'a Flow, way: Way) -> Option<Unresolved<'a>> {
        let (path, answered) = match way {
            Way::Request => (&flow.request, flow.is_answered()),
            Way::Reply => (&flow.reply, flow.state.is_complete()),
        };
        let hop = path.last()?;
        let host = hop.to?;
        if answered {
            return None;
        }
        let mut questions: Vec<&Question> = self.asks_in_vain(host, flow, hop).filter(|q| q.times.count > 1 || q.unicast).collect();
        if questions.is_empty() {
            questions = self.asks_in_vain(host, flow, hop).collect();
        }
        (!questions.is_empty()).then_some(Unresolved { host, hop, questions })
    }
}

/// Interfaces by whose name no service is behind them.
fn is_for_management(device: &str) -> bool {
    ["mgmt", "mgt", "management", "oob", "ipmi"].iter().any(|word| device.starts_with(word))
}
