//! Open connections that a director resets, for it has no entry for them: another one had them before, or it had them itself.

use super::super::Facts;
use super::super::facts::is_initial;
use crate::ipvs::Role;
use crate::net::Protocol;
use crate::trace::{Claim, ClaimKind, Flow, FlowNote, FlowState, Hop, HostId, NoteKind, PacketKind, Way};

/// No timeout that people set is shorter, in nanoseconds.
const OLD: i64 = 5_000_000_000;

/// Such a connection.
pub(in crate::rules) struct Orphan<'a> {
    pub(in crate::rules) flow: &'a Flow,
    /// Who handed it on before; not known when the capture shows only what came later.
    pub(in crate::rules) before: Option<HostId>,
    /// Who resets it.
    pub(in crate::rules) by: HostId,
    /// The client's packets where they reached the one that resets them.
    pub(in crate::rules) asked: Option<&'a Hop>,
    pub(in crate::rules) reset: &'a FlowNote,
    /// For how long nothing of it had been handed on, in nanoseconds.
    pub(in crate::rules) silent: i64,
}

impl Orphan<'_> {
    /// It was this host's own connection.
    pub(in crate::rules) fn is_its_own(&self) -> bool {
        self.before == Some(self.by)
    }

    /// It was silent for so long that its entry may have been too old: timeouts can be set to seconds.
    pub(in crate::rules) fn may_be_old(&self) -> bool {
        self.silent >= OLD
    }
}

/// All of them.
pub(in crate::rules) fn orphans<'a>(facts: &Facts<'a>) -> Vec<Orphan<'a>> {
    facts.flows().filter(|f| f.protocol == Protocol::Tcp && f.state == FlowState::Reset).filter_map(|f| orphan(facts, f)).collect()
}

fn orphan<'a>(facts: &Facts<'a>, flow: &'a Flow) -> Option<Orphan<'a>> {
    let hops = || flow.request.hops.iter().chain(&flow.request.strays);
    // A reset that was passed on has a TTL that nobody begins with, or the one that other answers over that link have.
    let passed_on = |n: &FlowNote| flow.reply.hops.iter().any(|h| h.from == n.from && h.ttl == n.ttl && h.seen.has(PacketKind::SynAck));
    let ends = |host: HostId| Some(host) == flow.server_host || Some(host) == flow.client_host || flow.routers.contains(&host);
    let own = |n: &&FlowNote| n.way == Way::Reply && is_initial(n.ttl) && n.from.is_some_and(|h| !ends(h)) && !passed_on(n);
    let reset = flow.noted(NoteKind::Reset).find(own)?;
    let by = reset.from?;
    // Its server reset it, and this is somebody's word about that.
    if flow.server_host.is_some() && flow.noted(NoteKind::Reset).any(|n| n.way == Way::Reply && n.from == flow.server_host) {
        return None;
    }
    let asked = hops().find(|h| h.to == Some(by) && h.first != PacketKind::Syn);
    let answered = flow.reply.hops.iter().find(|h| h.seen.has(PacketKind::SynAck));
    // Where no director shows, the one to which the client's first packets went: others answered them, or answers came back through it.
    let first = flow.request.last().filter(|h| h.first == PacketKind::Syn && answered.is_some()).and_then(|h| h.to);
    let before = flow.director.or(first);
    // Whoever answered by itself is a server: clients that then come to a director were its own before a neighbour changed its mind (ARP001).
    if flow.director.is_none() && answered.is_some_and(|h| h.from == first && is_initial(h.ttl)) {
        return None;
    }
    if asked.is_none() && before != Some(by) {
        return None;
    }
    if before == Some(by) && (flow.director.is_none() || flow.request.sent_by(by).is_none()) {
        return None;
    }
    // Only what is handed on tells when it was last alive; the reset stands beside the answers on the client's side.
    let handed = hops().filter(|h| before.is_some() && h.from == before).chain(flow.reply.hops.iter().filter(|h| h.to == before));
    let alive = handed.map(|h| facts.trace.common_time(h.point, h.last)).max();
    let silent = alive.map_or(0, |alive| facts.trace.common_time(reset.point, reset.time) - alive);
    Some(Orphan { flow, before, by, asked, reset, silent })
}

/// What a host said of an address of which it is a director: that it has it now, or an answer.
pub(super) fn word<'a>(facts: &Facts<'a>, orphan: &Orphan<'a>) -> Option<&'a Claim> {
    let claims = || words(facts, orphan);
    claims().find(|c| c.kind == ClaimKind::Announcement).or_else(|| claims().find(|c| c.kind == ClaimKind::Reply))
}

fn words<'a>(facts: &Facts<'a>, orphan: &Orphan<'a>) -> impl Iterator<Item = &'a Claim> {
    let (macs, addr) = (&facts.trace.hosts[orphan.by].macs, orphan.reset.src.addr);
    facts.trace.claims.claims.iter().filter(move |c| c.addr == addr && macs.contains(&c.mac) && c.is_earnest())
}

/// The announcement by which a host took an address over: its first word about it, before the connection came to it.
pub(super) fn took_over<'a>(facts: &Facts<'a>, orphan: &Orphan<'a>) -> Option<&'a Claim> {
    let since = |c: &&Claim| facts.trace.common_time(c.point, c.times.since());
    let first = words(facts, orphan).min_by_key(since)?;
    let reset = facts.trace.common_time(orphan.reset.point, orphan.reset.time);
    (first.kind == ClaimKind::Announcement && since(&first) <= reset).then_some(first)
}

/// The later packets of a connection came to another director, and not to a real server that answers for the VIP, or a stranger.
pub(super) fn is_takeover(facts: &Facts<'_>, orphan: &Orphan<'_>) -> bool {
    let (hood, addr) = (facts.neighbourhood(), orphan.reset.src.addr);
    let quarrels = || {
        hood.quarrel(addr).is_some_and(|(a, b, _)| a == orphan.by || b == orphan.by)
            || super::pairs(facts).iter().any(|p| p.goes_on() && p.addresses.contains(&addr))
    };
    let known = match hood.standing(orphan.by, addr) {
        Role::Director => true,
        Role::Unknown => word(facts, orphan).is_some() || (orphan.before.is_some() && orphan.flow.director == orphan.before),
        _ => false,
    };
    // A router that handed packets to one after the other looks like a director; it does not say that it has the address.
    let has = |host: HostId| facts.claimants(addr).iter().any(|c| c.host == host);
    let routed = orphan.before.is_some_and(|before| facts.is_called(before) == Role::Router && !has(before));
    !orphan.is_its_own() && known && !routed && !quarrels()
}

/// The first request that the one before handed on after the other one had reset a connection of its: both are at work.
pub(super) fn goes_on<'a>(facts: &Facts<'a>, orphan: &Orphan<'_>) -> Option<&'a Hop> {
    let before = orphan.before?;
    let since = facts.trace.common_time(orphan.reset.point, orphan.reset.time);
    let later = |h: &&Hop| h.from == Some(before) && h.first == PacketKind::Syn && facts.trace.common_time(h.point, h.time) - since > LATER;
    let same = facts.flows().filter(|f| f.vip == orphan.flow.vip && f.director == Some(before));
    same.flat_map(|f| &f.request.hops).filter(later).min_by_key(|h| facts.trace.common_time(h.point, h.time))
}

/// What is on its way when an address moves has arrived by then.
const LATER: i64 = 1_000_000_000;
