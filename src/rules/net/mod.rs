//! The path between clients, routers and servers.

pub(super) mod net001;
pub(super) mod net002;
pub(super) mod net003;
pub(super) mod net004;
pub(super) mod net005;
pub(super) mod net006;
pub(super) mod net007;
pub(super) mod net008;
pub(super) mod net009;
pub(super) mod net010;
pub(super) mod net011;
pub(super) mod net013;
pub(super) mod net014;
pub(super) mod net015;
pub(super) mod net016;

use super::Facts;
use super::facts::is_initial;
use crate::ipvs::Role;
use crate::packet::IcmpKind;
use crate::trace::{Flow, FlowError, FlowState, Hop, HostId, Method, Way};

/// What a rule about routers lacks: a request was last seen on its way into a host that may be one, and not all around it was captured.
fn half_seen_router(facts: &Facts<'_>) -> Option<String> {
    let lost = |f: &&Flow| f.director.is_none() && f.state == FlowState::Unanswered && f.errors.is_empty();
    let may_route = |host: HostId| matches!(facts.role(Some(host)), Role::Router | Role::Unknown);
    let host = facts
        .flows()
        .filter(lost)
        .filter(|f| facts.swallowed(f, Way::Request).is_none())
        .filter_map(|f| f.request.last()?.to)
        .find(|host| may_route(*host))?;
    Some(format!("captures on all interfaces of {}, and behind it", facts.name(Some(host))))
}

/// The router into which the answers of a flow go and do not come out of, and where they arrive there.
fn keeps_answers<'a>(facts: &Facts<'a>, flow: &'a Flow) -> Option<(HostId, &'a Hop)> {
    let swallowed = facts.swallowed(flow, Way::Reply)?;
    let (router, hop) = (swallowed.host, swallowed.hop);
    let no_router = Some(router) == flow.director
        || Some(router) == flow.server_host
        || Some(router) == flow.client_host
        || matches!(facts.role(Some(router)), Role::RealServer | Role::Client | Role::Director)
        || facts.is_director(router)
        || facts.trace.hosts[router].addresses.contains(&hop.dst.addr);
    // An answer that has to pass somebody else first is lost for that reason (NAT002, NAT003, DR005).
    let behind_director = !matches!(flow.method, Method::Nat | Method::FullNat)
        || flow.director.is_some_and(|director| flow.reply.sent_by(director).is_some());
    let on_its_way = facts.translation(flow).is_none_or(|(translator, ..)| translator == router);
    (!no_router && behind_director && on_its_way).then_some((router, hop))
}

/// True when no request packet of a flow was seen to come by a host: whoever filters by state there takes the answer for a stray.
fn knows_nothing_of(flow: &Flow, host: HostId) -> bool {
    let touches = |hop: &Hop| [hop.from, hop.to, hop.at].contains(&Some(host));
    !flow.request.is_empty() && !flow.request.hops.iter().chain(&flow.request.strays).any(touches)
}

/// The word of a packet filter that rejects a request, at the host that says it. A kernel without a listener answers TCP with a reset, so
/// "port unreachable" to TCP is a filter's word, but also that of a director without usable real servers.
fn rejection<'a>(facts: &Facts<'_>, flow: &'a Flow) -> Option<&'a FlowError> {
    let prohibited = |e: &FlowError| matches!((e.type_number, e.code), (3, 9 | 10 | 13) | (1, 1));
    let port = |e: &FlowError| {
        let by_server = e.from == flow.server_host && e.from != flow.director && e.from.is_some();
        let by_router = e.from.is_some_and(|h| flow.routers.contains(&h) || facts.role(Some(h)) == Role::Router);
        flow.protocol == crate::net::Protocol::Tcp && matches!((e.type_number, e.code), (3, 3) | (1, 4)) && (by_server || by_router)
    };
    let own = |e: &&FlowError| {
        let word = e.kind == IcmpKind::Unreachable && e.about == Way::Request && !e.tunnelled && is_initial(e.ttl);
        word && e.from.is_some() && (prohibited(e) || port(e))
    };
    // The server's own word goes before what others made of it.
    let mut words = flow.errors.iter().filter(own);
    words.clone().find(|e| e.from == flow.server_host).or_else(|| words.next())
}
