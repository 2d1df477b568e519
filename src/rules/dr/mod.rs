//! LVS-DR: only MACs change, and the answer goes past the director. Most of it holds for tunnels too.

pub(super) mod dr001;
pub(super) mod dr002;
pub(super) mod dr003;
pub(super) mod dr004;
pub(super) mod dr005;
pub(super) mod dr006;
pub(super) mod dr007;
pub(super) mod dr008;
pub(super) mod dr009;
pub(super) mod dr010;
pub(super) mod dr011;
pub(super) mod dr012;
pub(super) mod dr013;
pub(super) mod dr014;
pub(super) mod dr016;
pub(super) mod dr017;
pub(super) mod dr018;
pub(super) mod dr019;
pub(super) mod dr020;
pub(super) mod dr021;
pub(super) mod dr022;

use super::facts::{ids, list};
use super::{Facts, Site};
use crate::finding::{Confidence, Finding, Severity};
use crate::host::{Ask, Host, Service};
use crate::ipvs::{ForwardingMethod, Role};
use crate::net::Timestamp;
use crate::trace::{Flow, Hop, HostId, Method, NoteKind};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Flows whose answer goes straight to the client: direct routing, tunnels.
fn answered_directly<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a Flow> + use<'a> {
    facts.flows().filter(|f| f.director.is_some() && matches!(f.method, Method::DirectRouting | Method::Tunnel))
}

const DIRECT: [Method; 2] = [Method::DirectRouting, Method::Tunnel];

/// The VIP of a flow in words.
fn vip(flow: &Flow) -> String {
    flow.vip.map_or_else(|| "the VIP".to_string(), |vip| vip.addr.to_string())
}

/// A packet that two hosts hand to each other until its TTL is used up. Each rule about loops has its own kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Round {
    /// The other one is a router: the real server is behind it.
    Router,
    /// The other one balances, too.
    Director,
    /// The other one is a real server that does not know the VIP.
    Server,
}

struct Loop<'a> {
    flow: &'a Flow,
    /// Handed on by the director …
    there: &'a Hop,
    /// … and handed back, where that is not the way by which it came first.
    back: Option<&'a Hop>,
    director: HostId,
    other: HostId,
    /// Nothing but the loop says what the other one is.
    unsure: bool,
}

/// Loops of one kind, by the host that hands the packet back.
fn loops<'a>(facts: &Facts<'a>, wanted: Round) -> BTreeMap<HostId, Vec<Loop<'a>>> {
    let all: Vec<Loop> = facts.flows().filter_map(loop_of).collect();
    let begun: Vec<(HostId, Timestamp)> = all.iter().map(|l| (l.other, l.flow.first)).collect();
    let enters: Vec<HostId> = all.iter().map(|l| l.director).collect();
    let mut found: BTreeMap<HostId, Vec<Loop>> = BTreeMap::new();
    for mut l in all {
        let before = l.flow.request.hops.iter().any(|h| h.from == Some(l.other) && h.to == Some(l.director) && h.ttl > l.there.ttl);
        let balances =
            || enters.contains(&l.other) || facts.flows().any(|f| f.director == Some(l.other) && f.server_host != Some(l.director));
        let kind = match facts.role(Some(l.other)) {
            _ if before => Round::Router,
            Role::Director => Round::Director,
            // It was handed a packet as a real server is; its name says what else it is.
            _ if facts.is_called(l.other) == Role::Director => Round::Director,
            _ if balances() => Round::Director,
            // It has the address, for it serves; so it is not by its routes that it hands packets back.
            _ if served(facts, &l).next().is_some() => {
                l.unsure = !by_turns(facts, &l, &begun);
                Round::Director
            }
            Role::Router if !facts.is_real_server(l.other) => {
                // Handing the packet back is all that makes it a router, unless it routes for others: a server that forwards does so, too.
                let routes = |f: &Flow| f.routers.contains(&l.other) && loop_of(f).is_none();
                l.unsure = facts.is_called(l.other) != Role::Router && !facts.flows().any(routes);
                if l.unsure { Round::Server } else { Round::Router }
            }
            _ => Round::Server,
        };
        // Where nobody was heard to have the address, only their names would say whose it is, and so who sends the packet back.
        let called = |host| facts.is_called(host) != Role::Unknown;
        let unheard = facts.claimants(l.there.dst.addr).is_empty();
        l.unsure |= kind == Round::Router && unheard && !called(l.director) && !called(l.other);
        if kind == wanted {
            found.entry(l.other).or_default().push(l);
        }
    }
    found
}

/// Connections to the same address that the host which handed one back served as a real server.
fn served<'a>(facts: &Facts<'a>, l: &Loop<'a>) -> impl Iterator<Item = &'a Flow> + use<'a> {
    let (other, vip) = (l.other, l.there.dst);
    facts.flows().filter(move |f| {
        f.server_host == Some(other) && f.director.is_some_and(|d| d != other) && f.vip == Some(vip) && f.state.is_complete()
    })
}

/// True when it did both by turns: an address that came or went meanwhile would show one after the other.
fn by_turns(facts: &Facts<'_>, l: &Loop<'_>, begun: &[(HostId, Timestamp)]) -> bool {
    let loops = || begun.iter().filter(|(other, _)| *other == l.other).map(|(_, at)| *at);
    let (first, last) = (loops().min(), loops().max());
    let after = |f: &Flow| first.is_some_and(|first| first < f.first);
    let before = |f: &Flow| last.is_some_and(|last| f.first < last);
    served(facts, l).any(after) && served(facts, l).any(before)
}

/// The request went from one host to another and back again, with a lower TTL each time and its addresses as they were.
fn loop_of(flow: &Flow) -> Option<Loop<'_>> {
    let links: Vec<&Hop> = flow.request.hops.iter().chain(&flow.request.strays).collect();
    for (i, there) in links.iter().enumerate() {
        let (Some(from), Some(to)) = (there.from, there.to) else { continue };
        let returns = |h: &&&Hop| {
            (h.from, h.to, h.src, h.dst) == (Some(to), Some(from), there.src, there.dst) && h.ttl < there.ttl && h.outer == there.outer
        };
        if let Some(back) = links[i..].iter().find(returns)
            && from != to
        {
            // Seen from the director: it may have had the packet from whom it hands it to.
            return Some(match flow.director == Some(to) {
                true => Loop { flow, there: back, back: None, director: to, other: from, unsure: false },
                false => Loop { flow, there, back: Some(back), director: from, other: to, unsure: false },
            });
        }
    }
    None
}

impl Loop<'_> {
    /// The finding about loops with one host, with its proof.
    fn finding(loops: &[Loop<'_>], facts: &Facts<'_>, confidence: Confidence, summary: String) -> Finding {
        let first = &loops[0];
        let flows: Vec<&Flow> = loops.iter().map(|l| l.flow).collect();
        let rounds: Vec<_> = first.flow.noted(NoteKind::Loop).collect();
        let again = rounds.first().map(|note| {
            let frames = rounds.iter().filter(|n| n.point == note.point).map(|n| n.frame).collect();
            let ttls: Vec<String> = rounds.iter().filter(|n| n.point == note.point).take(4).map(|n| n.ttl.to_string()).collect();
            crate::finding::Evidence::frames(note.point, frames, format!("the same packet again, with TTL {}", list(&ttls)))
        });
        let expired = first.flow.errors.iter().find(|e| e.kind == crate::packet::IcmpKind::TimeExceeded).map(|e| facts.error(e));
        Finding::new(
            facts.name(Some(first.other)),
            Severity::Broken,
            confidence,
            summary,
            facts.seen_with(first.there, &format!("TTL {}", first.there.ttl)),
        )
        .and(first.back.map(|back| facts.seen_with(back, &format!("back again, TTL {}", back.ttl))))
        .and(again)
        .and(expired)
        .on(ids(&flows))
    }
}

/// Methods that hand packets on with their destination as it was.
pub(super) static FORWARDED_WHOLE: [ForwardingMethod; 2] = [ForwardingMethod::DirectRouting, ForwardingMethod::Tunnel];

/// True when a director asks for a real server with the service's address as sender, and such a question cannot be answered: the server has
/// that address itself. An entry that somebody typed in needs no question.
pub(super) fn asks_as_vip(site: &Site<'_>, director: &Host, service: &Service, rip: IpAddr) -> bool {
    let Some(vip) = service.vip().filter(IpAddr::is_ipv4) else { return false };
    let Ok(way) = director.way(&Ask::to(rip)) else { return false };
    let next = way.gateways().first().copied().unwrap_or(rip);
    let known = director.neighbours.iter().flatten().any(|n| n.addr == next && n.is_static());
    // The sender of a question for a packet from elsewhere is chosen by arp_announce; without another address on the card it is this one.
    let link = way.link().unwrap_or_default();
    let sender = director.source_on(link, next);
    let answered = site.fleet.owners(rip).iter().any(|at| {
        let server = site.host(*at);
        let accepts = || server.address(rip).is_some_and(|a| server.effective("accept_local", &a.link) == Some(1));
        (server.addresses.is_some() && !server.has(vip)) || accepts()
    });
    sender == Some(vip) && !known && next == rip && !answered && !way.is_local()
}
