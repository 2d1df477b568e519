//! A real server that was captured alone. Who hands requests to it, and whether by balancing or by routing, no packet shows; so what is said of
//! it is possible at most.

use super::silence::{Silence, possible_for};
use super::{Facts, is_initial};
use crate::ipvs::Role;
use crate::trace::{Flow, FlowState, Hop, HostId, Way};

/// A request that some forwarder handed to a host, and that came to nothing there.
pub(in crate::rules) struct Lone<'a> {
    pub(in crate::rules) flow: &'a Flow,
    pub(in crate::rules) host: HostId,
    /// Where the host received it.
    pub(in crate::rules) hop: &'a Hop,
    /// It is for an address that the host answers for, as with NAT.
    own: bool,
}

impl<'a> Facts<'a> {
    /// Requests that came to nothing at machines of which nothing else is known, where no director was seen at all.
    pub(in crate::rules) fn lone_servers(&self) -> Vec<Lone<'a>> {
        if self.flows().any(|f| f.director.is_some()) {
            return Vec::new();
        }
        self.flows().filter_map(|f| self.lone(f)).collect()
    }

    fn lone(&self, flow: &'a Flow) -> Option<Lone<'a>> {
        // Where its server is known, so is what its silence may mean.
        let open = (flow.server_host.is_none() || flow.is_answered()) && self.self_addressed(flow).is_none();
        let lost =
            open && flow.from_start && flow.state == FlowState::Unanswered && flow.errors.is_empty() && flow.request.links().count() == 1;
        // What comes with a TTL that hosts set was sent by the client itself.
        let hop = flow.request.last().filter(|hop| lost && hop.at_sender != Some(true) && !is_initial(hop.ttl) && hop.from.is_some())?;
        let host = hop.to?;
        let called = self.trace.host_at(hop.point).map_or(Role::Unknown, |at| self.is_called(at));
        let other = |role: Role| !matches!(role, Role::Unknown | Role::RealServer);
        if other(called) || other(self.role(Some(host))) || self.is_contested(host, hop) || !self.waited(flow, hop) {
            return None;
        }
        (self.swallowed(flow, Way::Request).is_none()).then(|| Lone { flow, host, hop, own: self.holds(host, hop) })
    }

    /// The silent ones among them, as far as `code` is what to think of first; those with the same story together.
    pub(super) fn lone_silences(&self, code: &str) -> Vec<Silence<'a>> {
        if !matches!(code, "NAT001" | "DR001") {
            return Vec::new();
        }
        let mut found: Vec<Silence> = Vec::new();
        for Lone { flow, host, hop, own } in self.lone_servers() {
            let named = self.trace.host_at(hop.point).is_some_and(|at| self.is_called(at) == Role::RealServer);
            // Some other address of the host shows that it is more than a link-level name.
            let neighbour = own || !self.trace.hosts[host].addresses.is_empty();
            let (cause, mut others) = match own {
                true => ("NAT001", vec!["NET008", "DR018"]),
                false => ("DR001", vec!["DR004", "DR018", "DR002", "NET008"]),
            };
            others.retain(|code| possible_for(flow.client.addr, code));
            if !named {
                others.extend(if own { ["NAT008", "NET002"] } else { ["NET001", "SVC001"] });
            }
            if cause != code || !neighbour || flow.is_answered() || self.wants_to_answer(host, flow, hop) {
                continue;
            }
            match found.iter_mut().find(|s| s.servers == [host] && s.others == others) {
                Some(story) => story.flows.push(flow),
                None => found.push(Silence { others, serves_others: true, servers: vec![host], flows: vec![flow], hop }),
            }
        }
        found
    }

    /// Answers of such servers that they send to another neighbour than the one that handed them the request for their own address: to the
    /// client itself (`direct`), or to another router.
    pub(in crate::rules) fn lone_detours(&self, direct: bool) -> Vec<(Lone<'a>, &'a Hop)> {
        let detour = |lone: Lone<'a>| {
            let hop = lone.flow.reply.first().filter(|h| h.from == Some(lone.host) && h.src == lone.hop.dst && is_initial(h.ttl))?;
            let to_client = self.owner(hop.dst.addr).is_some_and(|owner| hop.to == Some(owner));
            (lone.own && hop.to.is_some() && hop.to != lone.hop.from && to_client == direct).then_some((lone, hop))
        };
        self.lone_servers().into_iter().filter_map(detour).collect()
    }
}
