//! Clients whose connections all go to one server.

use super::super::Facts;
use super::rule_for;
use crate::ipvs::VirtualService;
use crate::net::{Endpoint, Protocol};
use crate::trace::{Flow, FlowState, HostId};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A service that keeps each of its clients at one server.
pub(super) struct Affinity<'a> {
    pub(super) director: HostId,
    pub(super) protocol: Protocol,
    pub(super) vip: Endpoint,
    /// Clients that came more than once, as the director sees them, with their connections in the order of time.
    pub(super) clients: Vec<(IpAddr, Vec<&'a Flow>)>,
    /// How improbable that is where servers are chosen anew for each connection: halvings.
    pub(super) surprise: f64,
    /// The user's rule for it.
    pub(super) rule: Option<&'a VirtualService>,
}

/// A change of servers within so short a time is no expired persistence.
const AT_ONCE: i64 = 5_000_000_000;
/// So improbable a distribution is not left to chance: one in 23.
const SURPRISING: f64 = 4.5;

impl Affinity<'_> {
    pub(super) fn is_persistent(&self) -> bool {
        self.rule.is_some_and(|rule| rule.persistence.is_some())
    }

    /// A scheduler that hashes the client's address.
    pub(super) fn is_hashed(&self) -> bool {
        self.rule.is_some_and(|rule| rule.persistence.is_none() && matches!(rule.scheduler.as_str(), "sh" | "mh"))
    }

    /// A client that came back several times to a server that served it never: its number in `clients`. Only where others are served.
    pub(super) fn stuck(&self, facts: &Facts<'_>) -> Option<usize> {
        let lost = |f: &Flow| matches!(f.state, FlowState::Refused | FlowState::Unanswered);
        self.clients.iter().position(|(_, flows)| flows.len() >= 2 && flows.iter().all(|f| lost(f) && facts.others_serve(f)))
    }
}

/// A client, as the director sees it, and its connection.
type Visit<'a> = (IpAddr, &'a Flow);

/// The services whose clients stay where they are. Empty when only examples of the connections were put together: what is said here is
/// said of all connections of a client.
pub(super) fn affinities<'a>(facts: &Facts<'a>) -> Vec<Affinity<'a>> {
    if facts.trace.flow_count() > facts.trace.flows.len() {
        return Vec::new();
    }
    let mut services: BTreeMap<(HostId, u8, Endpoint), Vec<Visit<'_>>> = BTreeMap::new();
    for flow in facts.flows() {
        let seen = facts.at_director(flow).map(|hop| hop.src.addr);
        if let (Some(director), Some(vip), Some(client), Some(_)) = (flow.director, flow.vip, seen, server(flow)) {
            services.entry((director, flow.protocol.number(), vip)).or_default().push((client, flow));
        }
    }
    let found =
        services.into_iter().filter_map(|((director, protocol, vip), flows)| affinity(facts, director, protocol.into(), vip, &flows));
    found.collect()
}

fn affinity<'a>(facts: &Facts<'a>, director: HostId, protocol: Protocol, vip: Endpoint, flows: &[Visit<'a>]) -> Option<Affinity<'a>> {
    let rule = rule_for(facts, protocol, vip);
    let mut load: BTreeMap<(Option<HostId>, Option<Endpoint>), usize> = BTreeMap::new();
    let mut clients: BTreeMap<IpAddr, Vec<&Flow>> = BTreeMap::new();
    for (client, flow) in flows {
        *load.entry(server(flow)?).or_default() += 1;
        clients.entry(*client).or_default().push(flow);
    }
    let listed = rule.map_or(0, |rule| rule.real_servers.iter().filter(|rs| rs.weight > 0).count());
    if load.len().max(listed) < 2 {
        return None;
    }
    clients.values_mut().for_each(|flows| flows.sort_by_key(|f| f.first));
    let moves = |pair: &[&Flow]| server(pair[0]) != server(pair[1]) && pair[1].first - pair[0].first < AT_ONCE;
    if clients.values().any(|flows| flows.windows(2).any(moves)) {
        return None;
    }
    let share = |flow: &Flow| {
        let mine = server(flow).and_then(|s| load.get(&s)).copied().unwrap_or(0);
        // Where the rules list servers that nobody came to, each has an equal claim.
        if load.len() > 1 { mine as f64 / flows.len() as f64 } else { 1.0 / listed as f64 }
    };
    let surprise = clients.values().map(|flows| -(flows.len() as f64 - 1.0) * share(flows[0]).log2()).sum();
    let clients: Vec<(IpAddr, Vec<&Flow>)> = clients.into_iter().filter(|(_, flows)| flows.len() > 1).collect();
    let affinity = Affinity { director, protocol, vip, clients, surprise, rule };
    let told = affinity.is_persistent() || affinity.is_hashed();
    (!affinity.clients.is_empty() && (told || affinity.surprise >= SURPRISING)).then_some(affinity)
}

/// Which server a connection went to.
fn server(flow: &Flow) -> Option<(Option<HostId>, Option<Endpoint>)> {
    (flow.server_host.is_some() || flow.real_server.is_some()).then_some((flow.server_host, flow.real_server))
}
