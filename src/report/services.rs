//! What became of the connections to each service. Counted by groups, so that 100,000 connections cost no more than their groups.

use crate::net::{Endpoint, Protocol};
use crate::trace::{Flow, FlowState, Group, HostId, Method, NoteKind, Rewrite, Trace};
use std::collections::HashSet;

/// What became of a connection, as far as it is proven.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// The client got no answer.
    Unanswered,
    /// It was refused: reset, or port or protocol unreachable.
    Refused,
    /// ICMP said that the way ends.
    Unreachable,
    /// It was open, and its data did not get through any more.
    Stalled,
    /// It was open, and was reset.
    Reset,
    /// The captures do not show what became of it.
    Unseen,
    /// The client got what it wanted.
    Complete,
}

impl Outcome {
    /// What the packets prove of a flow. A request without an answer proves a failure only where the answer would have been seen, or where
    /// the client was seen to ask again.
    pub fn of(flow: &Flow) -> Outcome {
        match flow.state {
            _ if flow.stalled.is_some() => Outcome::Stalled,
            FlowState::Established | FlowState::Closed | FlowState::Answered => Outcome::Complete,
            FlowState::Refused => Outcome::Refused,
            FlowState::Unreachable => Outcome::Unreachable,
            FlowState::Reset => Outcome::Reset,
            FlowState::SynOnly | FlowState::HalfOpen => Outcome::Unseen,
            FlowState::Unanswered => {
                let asked_again = flow.noted(NoteKind::SynRepeat).next().is_some();
                let unanswered = asked_again || flow.reply_reached_client() == Some(false);
                if unanswered { Outcome::Unanswered } else { Outcome::Unseen }
            }
        }
    }

    /// True when the client did not get what it wanted.
    pub fn failed(self) -> bool {
        matches!(self, Outcome::Unanswered | Outcome::Refused | Outcome::Unreachable | Outcome::Stalled)
    }

    /// `get no answer`, for several connections or one.
    pub(super) fn words(self, count: u64) -> &'static str {
        match (self, count) {
            (Outcome::Unanswered, 1) => "gets no answer",
            (Outcome::Unanswered, _) => "get no answer",
            (Outcome::Refused, 1) => "is refused",
            (Outcome::Refused, _) => "are refused",
            (Outcome::Unreachable, 1) => "ends in ICMP unreachable",
            (Outcome::Unreachable, _) => "end in ICMP unreachable",
            (Outcome::Stalled, 1) => "stalls",
            (Outcome::Stalled, _) => "stall",
            (Outcome::Reset, 1) => "is reset",
            (Outcome::Reset, _) => "are reset",
            (Outcome::Unseen, 1) => "is left open by the captures",
            (Outcome::Unseen, _) => "are left open by the captures",
            (Outcome::Complete, _) => "complete",
        }
    }
}

/// A server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its address, where packets show it.
    pub address: Option<Endpoint>,
    /// Its host.
    pub host: Option<HostId>,
    /// Connections that it got.
    pub flows: u64,
}

/// The connections to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Transport protocol.
    pub protocol: Protocol,
    /// What clients dial.
    pub service: Endpoint,
    /// The virtual service at the director.
    pub vip: Option<Endpoint>,
    /// How it is handed on; `Unknown` when in different ways.
    pub method: Method,
    /// The servers, the busiest first.
    pub servers: Vec<Server>,
    /// A director took part in some connection.
    pub balanced: bool,
    /// All connections are a director's own, to a real server of its: checks whether that one lives.
    pub checked_by: Option<HostId>,
    /// What a router in front translates: destination, source.
    pub translated: (bool, bool),
    /// Connections that came to each other outcome than [`Outcome::Complete`].
    pub others: Vec<(Outcome, u64)>,
    /// Connections that went well.
    pub complete: u64,
    /// Numbers of its groups in the trace.
    pub groups: Vec<usize>,
}

impl Service {
    /// All connections.
    pub fn total(&self) -> u64 {
        self.complete + self.others.iter().map(|(_, count)| count).sum::<u64>()
    }

    /// Connections of one outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        if outcome == Outcome::Complete {
            return self.complete;
        }
        self.others.iter().find(|(o, _)| *o == outcome).map_or(0, |(_, count)| *count)
    }

    /// Connections that failed.
    pub fn failed(&self) -> u64 {
        self.others.iter().filter(|(outcome, _)| outcome.failed()).map(|(_, count)| count).sum()
    }
}

/// The services of a trace: those with failures first, then by size.
pub fn services(trace: &Trace) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    let first_of = |group: &Group| trace.flow(group.examples.first().copied().unwrap_or(group.first));
    let mut servers: HashSet<(Option<HostId>, HostId)> = HashSet::new();
    let mut ports: HashSet<(Option<HostId>, u16)> = HashSet::new();
    for flow in trace.groups.iter().filter_map(first_of).filter(|flow| flow.director.is_some()) {
        servers.extend(flow.server_host.map(|host| (flow.director, host)));
        ports.extend(flow.real_server.map(|server| (flow.director, server.port)));
    }
    // One that gets no connections is checked as well: a neighbour, at the port of the others.
    let check = |flow: &Flow| {
        let asked = flow.server_host.or_else(|| flow.request.last()?.to)?;
        let near = || ports.contains(&(flow.client_host, flow.service.port)) && flow.request.links().count() == 1;
        let checks = flow.director.is_none() && flow.client_host != Some(asked);
        flow.client_host.filter(|_| checks && (servers.contains(&(flow.client_host, asked)) || near()))
    };
    for (at, group) in trace.groups.iter().enumerate() {
        let Some(flow) = first_of(group) else { continue };
        let count = u64::from(group.count);
        let same = |s: &&mut Service| s.protocol == flow.protocol && s.service == flow.service;
        let service = match services.iter_mut().find(same) {
            Some(known) => known,
            None => {
                services.push(Service {
                    protocol: flow.protocol,
                    service: flow.service,
                    vip: None,
                    method: flow.method,
                    servers: Vec::new(),
                    balanced: false,
                    checked_by: check(&flow),
                    translated: (false, false),
                    others: Vec::new(),
                    complete: 0,
                    groups: Vec::new(),
                });
                let last = services.len() - 1;
                &mut services[last]
            }
        };
        service.groups.push(at);
        service.checked_by = service.checked_by.filter(|by| check(&flow) == Some(*by));
        service.vip = service.vip.or(flow.vip.filter(|_| flow.director.is_some()));
        // A connection past the director says nothing about how the others are handed on.
        match (service.balanced, flow.director.is_some()) {
            (false, true) => (service.balanced, service.method) = (true, flow.method),
            (true, true) if service.method != flow.method => service.method = Method::Unknown,
            _ => {}
        }
        let (dnat, snat) = translations(&flow);
        service.translated = (service.translated.0 || dnat, service.translated.1 || snat);
        if flow.real_server.is_some() || flow.server_host.is_some_and(|_| flow.director.is_some()) {
            let known = service.servers.iter_mut().find(|s| s.address == flow.real_server && s.host == flow.server_host);
            match known {
                Some(server) => server.flows += count,
                None => service.servers.push(Server { address: flow.real_server, host: flow.server_host, flows: count }),
            }
        }
        match Outcome::of(&flow) {
            Outcome::Complete => service.complete += count,
            outcome => match service.others.iter_mut().find(|(o, _)| *o == outcome) {
                Some((_, n)) => *n += count,
                None => service.others.push((outcome, count)),
            },
        }
    }
    for service in &mut services {
        service.servers.sort_by_key(|s| (std::cmp::Reverse(s.flows), s.address));
        service.others.sort_by_key(|(outcome, count)| (std::cmp::Reverse(*count), *outcome));
    }
    services.sort_by_key(|s| (std::cmp::Reverse(s.balanced), s.failed() == 0, std::cmp::Reverse(s.total())));
    services
}

/// Whether somebody before the director translates the destination, the source.
fn translations(flow: &Flow) -> (bool, bool) {
    let before = flow.request.hops.iter().take_while(|hop| hop.from.is_none() || hop.from != flow.director);
    let rewrites: Vec<Rewrite> = before.flat_map(|hop| hop.rewrites.iter().copied()).collect();
    let any = |wanted: &[Rewrite]| flow.director.is_some() && rewrites.iter().any(|r| wanted.contains(r));
    (any(&[Rewrite::DstIp, Rewrite::DstPort]), any(&[Rewrite::SrcIp]))
}
