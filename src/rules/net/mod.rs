//! The path between clients, routers and servers.

pub(super) mod net001;
pub(super) mod net002;
pub(super) mod net003;
pub(super) mod net004;
pub(super) mod net005;
pub(super) mod net006;
pub(super) mod net007;
pub(super) mod net008;
pub(super) mod net010;
pub(super) mod net011;
pub(super) mod net014;
pub(super) mod net015;
pub(super) mod net016;

use super::Facts;
use super::facts::is_initial;
use crate::ipvs::Role;
use crate::packet::IcmpKind;
use crate::trace::{Flow, FlowError, FlowState, HostId, Way};

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
