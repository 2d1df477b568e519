//! What a rule may look at, and the questions that rules ask all day.

mod between;
mod fate;
mod ftp;
mod late;
mod lone;
mod loss;
mod near;
mod neighbours;
mod rivals;
mod silence;
mod size;
mod words;

pub(super) use between::Between;
pub(super) use late::Late;
pub(super) use lone::Lone;
pub(super) use loss::{Loss, is_initial};
pub(super) use neighbours::Claimant;
pub(super) use rivals::Neighbourhood;
pub(super) use size::Vanished;
pub(super) use words::{list, plural, seconds};

use crate::host::Fleet;
use crate::ipvs::{Match, Role};
use crate::net::MacAddr;
use crate::trace::{Flow, Hints, Hop, HostId, Method, Trace};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything that is known: what packets tell, and what the user said.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The flows, hosts and claims that packets tell of.
    pub trace: &'a Trace,
    /// Services and rules that the user named.
    pub hints: &'a Hints,
    /// Snapshots of hosts; empty where there are none.
    pub fleet: &'a Fleet,
}

impl<'a> Facts<'a> {
    /// The flows, or examples of each kind where there are thousands.
    pub fn flows(&self) -> impl Iterator<Item = &'a Flow> + use<'a> {
        self.trace.flows.iter()
    }

    /// Flows that a director handed on by `method`.
    pub fn balanced(&self, method: Method) -> impl Iterator<Item = &'a Flow> + use<'a> {
        self.trace.flows.iter().filter(move |flow| flow.method == method && flow.director.is_some())
    }

    /// A host's name, or `?`.
    pub fn name(&self, host: Option<HostId>) -> &'a str {
        self.trace.host_name(host)
    }

    /// Names of several hosts, each once, in order: `web1, web2`.
    pub fn names(&self, hosts: impl IntoIterator<Item = HostId>) -> String {
        let mut names: Vec<&str> = hosts.into_iter().map(|host| self.name(Some(host))).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }

    /// What a host is: by what it did, or by its name.
    pub fn role(&self, host: Option<HostId>) -> Role {
        host.map_or(Role::Unknown, |host| self.trace.hosts[host].role)
    }

    /// The addresses of virtual services: of balanced flows, and those that the user named.
    pub fn vips(&self) -> Vec<IpAddr> {
        let balanced = self.flows().filter(|f| f.director.is_some()).filter_map(|f| f.vip).map(|vip| vip.addr);
        let named = self.hints.services.iter().map(|e| e.addr);
        let ruled = self.hints.rules.iter().filter_map(|rule| match rule.matches {
            Match::Endpoint(_, e) => Some(e.addr),
            Match::Mark(..) => None,
        });
        let mut vips: Vec<IpAddr> = balanced.chain(named).chain(ruled).collect();
        vips.sort_unstable();
        vips.dedup();
        vips
    }

    /// True for a host that packets were handed to by a director, or that is called a real server.
    pub fn is_real_server(&self, host: HostId) -> bool {
        let handed = |f: &Flow| f.director.is_some() && f.server_host == Some(host) && f.director != Some(host);
        !self.is_director(host) && (self.flows().any(handed) || self.is_called(host) == Role::RealServer)
    }

    /// The role that the user's name for a host asserts.
    pub fn is_called(&self, host: HostId) -> Role {
        self.trace.hosts[host].called()
    }

    /// True for a host that balances.
    pub fn is_director(&self, host: HostId) -> bool {
        self.flows().any(|f| f.director == Some(host))
    }

    /// An address of `host` on the link where it speaks to others with `mac`, other than `not`; or a word for it.
    pub fn address_on(&self, host: Option<HostId>, mac: Option<MacAddr>, not: &[IpAddr], word: &str) -> String {
        let claims = self.trace.claims.claims.iter().filter(|c| Some(c.mac) == mac && c.is_earnest() && !not.contains(&c.addr));
        let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        let claimed = claims.map(|c| c.addr).find(|a| !link_local(a));
        let known = || host.and_then(|h| self.trace.hosts[h].addresses.iter().rev().copied().find(|a| !not.contains(a) && !link_local(a)));
        claimed.or_else(known).map_or_else(|| word.to_string(), |a| a.to_string())
    }

    /// Flows of the same service that came to the same server host and were served.
    pub fn served_elsewhere(&self, flow: &Flow) -> impl Iterator<Item = &'a Flow> + use<'a> {
        let (id, server, vip) = (flow.id, flow.server_host, flow.vip);
        self.flows().filter(move |f| f.id != id && f.server_host == server && f.vip == vip && f.state.is_complete())
    }

    /// True when another server of the flow's service serves.
    pub fn others_serve(&self, flow: &Flow) -> bool {
        self.flows().any(|f| f.vip == flow.vip && f.server_host.is_some() && f.server_host != flow.server_host && f.state.is_complete())
    }

    /// The address by which a server is known to its director: the real server of its flows, or one that it speaks from.
    pub fn server_address(&self, flow: &Flow) -> String {
        let vip = flow.vip.map(|vip| vip.addr);
        let own = || flow.server_host.and_then(|h| self.trace.hosts[h].addresses.iter().find(|a| Some(**a) != vip).copied());
        flow.real_server.map(|e| e.addr).or_else(own).map_or_else(|| "RIP".to_string(), |a| a.to_string())
    }

    /// True when the director receives and sends on by one interface.
    pub fn is_one_armed(&self, flow: &Flow) -> Option<bool> {
        let director = flow.director?;
        let arrived = flow.request.towards(director).next()?.dst_mac?;
        Some(arrived == flow.request.sent_by(director)?.src_mac?)
    }

    /// True when the director of a flow may as well be a router in front of one: it translates to a single machine, which never served, and
    /// neither its name nor the user says what it is.
    pub fn may_be_a_router(&self, flow: &Flow) -> bool {
        let Some(director) = flow.director.filter(|_| flow.method == Method::Nat) else { return false };
        let told = !self.hints.services.is_empty() || !self.hints.rules.is_empty() || self.is_called(director) == Role::Director;
        let works = |f: &Flow| f.director == Some(director) && (f.state.is_complete() || f.real_server != flow.real_server);
        // The machine serves through somebody else: that it is a real server is known.
        let serves = |f: &Flow| f.method == Method::Nat && f.real_server == flow.real_server && f.state.is_complete();
        !told && !self.flows().any(|f| works(f) || serves(f))
    }

    /// True when no other forwarder fits between the place where a request was seen before its director and the one behind it. Where
    /// several fit, a translation may be the work of another one, and the method is a guess.
    pub fn is_work_seen(&self, flow: &Flow) -> bool {
        let Some(at) = flow.request.hops.iter().position(|hop| hop.from.is_some() && hop.from == flow.director) else { return false };
        let (before, sent) = (flow.request.hops[..at].last(), &flow.request.hops[at]);
        before.is_none_or(|hop| hop.to == flow.director || hop.ttl.saturating_sub(sent.ttl) <= 1)
    }

    /// The hop that brought the request to its director, at the place nearest to it.
    pub fn at_director(&self, flow: &'a Flow) -> Option<&'a Hop> {
        let director = flow.director?;
        flow.request.received_by(director).or_else(|| flow.request.towards(director).last())
    }
}

/// The flows of each server, by host.
pub(super) fn by_server<'a>(flows: impl IntoIterator<Item = &'a Flow>) -> BTreeMap<HostId, Vec<&'a Flow>> {
    by(flows, |flow| flow.server_host)
}

/// The flows of each director, by host.
pub(super) fn by_director<'a>(flows: impl IntoIterator<Item = &'a Flow>) -> BTreeMap<HostId, Vec<&'a Flow>> {
    by(flows, |flow| flow.director)
}

fn by<'a>(flows: impl IntoIterator<Item = &'a Flow>, host: impl Fn(&Flow) -> Option<HostId>) -> BTreeMap<HostId, Vec<&'a Flow>> {
    let mut sorted: BTreeMap<HostId, Vec<&Flow>> = BTreeMap::new();
    for flow in flows {
        if let Some(host) = host(flow) {
            sorted.entry(host).or_default().push(flow);
        }
    }
    sorted
}

/// Numbers of flows.
pub(super) fn ids<'a>(flows: impl IntoIterator<Item = &'a &'a Flow>) -> Vec<u32> {
    flows.into_iter().map(|flow| flow.id).collect()
}
