//! LVS-NAT: the answer must come back through the director.

pub(super) mod nat001;
pub(super) mod nat002;
pub(super) mod nat003;
pub(super) mod nat004;
pub(super) mod nat005;
pub(super) mod nat006;
pub(super) mod nat007;
pub(super) mod nat008;
pub(super) mod nat009;
pub(super) mod nat010;
pub(super) mod nat011;
pub(super) mod nat012;
pub(super) mod nat013;
pub(super) mod nat014;

use super::Facts;
use super::facts::list;
use crate::finding::{Confidence, Evidence, Finding, Severity};
use crate::ipvs::Role;
use crate::trace::{Flow, FlowState, Hop, HostId, Method, Question, Rewrite};
use std::collections::BTreeMap;

/// Where a real server sent its answer instead of to its director. Each rule about answers that bypass the director has its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Bypass {
    /// To the client, which is a real server itself.
    Hairpin,
    /// To the client, on the server's own link.
    Client,
    /// To another director.
    Peer,
    /// To some router, but other answers of the same server take the right way.
    Part,
    /// To the router in front of a director that shares the servers' link: prepared for direct routing.
    InFront,
    /// To some router.
    Router,
}

/// Answers that take one wrong way.
struct Bypassed<'a> {
    servers: Vec<HostId>,
    flows: Vec<&'a Flow>,
    /// The first answer, where its server sent it.
    hop: &'a Hop,
}

/// The connections whose answers take a wrong way of this kind, servers that do the same together.
fn bypassed<'a>(facts: &Facts<'a>, wanted: Bypass) -> Vec<Bypassed<'a>> {
    let mut found: BTreeMap<Option<HostId>, Bypassed<'a>> = BTreeMap::new();
    for flow in facts.balanced(Method::Nat).filter(|f| !f.state.is_complete()) {
        let Some((way, hop)) = bypass(facts, flow) else { continue };
        if way == wanted {
            let same = found.entry(hop.to).or_insert_with(|| Bypassed { servers: Vec::new(), flows: Vec::new(), hop });
            same.servers.extend(flow.server_host.filter(|s| !same.servers.contains(s)));
            same.flows.push(flow);
        }
    }
    found.into_values().collect()
}

fn bypass<'a>(facts: &Facts<'a>, flow: &'a Flow) -> Option<(Bypass, &'a Hop)> {
    let (director, server) = (flow.director?, flow.server_host?);
    let hop = flow.reply.first().filter(|hop| hop.from == Some(server) && hop.dst_mac.is_some())?;
    let next = hop.to?;
    // What goes to nobody at all goes there by a neighbour entry, not by a route (DR009).
    if hop.dst_mac.is_some_and(|mac| !facts.trace.has_spoken(mac) && facts.trace.is_flooded(mac)) {
        return None;
    }
    if next == director || flow.reply.towards(director).next().is_some() || !facts.is_work_seen(flow) {
        return None;
    }
    // An answer to the director's own address comes back by itself: it says nothing of the way to clients.
    let translated = |f: &Flow| f.request.sent_by(director).is_some_and(|hop| hop.rewrites.contains(&Rewrite::SrcIp));
    let before = |f: &Flow| f.director == Some(director) && f.vip == flow.vip && f.client.addr == flow.client.addr && f.state.is_complete();
    if !translated(flow) && facts.flows().any(|f| before(f) && translated(f)) {
        // It worked for this very client as long as its source was translated (NAT009).
        return None;
    }
    let client_mac = flow.request.first().filter(|_| flow.client_host.is_some()).and_then(|first| first.src_mac);
    let to_client = flow.client_host == Some(next) || (client_mac.is_some() && client_mac == hop.dst_mac);
    let way = if facts.is_hairpin(flow) {
        Bypass::Hairpin
    } else if to_client {
        Bypass::Client
    } else if facts.is_director(next) || facts.role(Some(next)) == Role::Director || speaks_vrrp(facts, next) {
        Bypass::Peer
    } else if facts
        .flows()
        .any(|f| f.server_host == Some(server) && f.vip == flow.vip && f.reply.towards(director).next().is_some() && !translated(f))
    {
        Bypass::Part
    } else if facts.is_one_armed(flow) == Some(true) && flow.request.towards(director).any(|h| h.from == Some(next)) {
        Bypass::InFront
    } else {
        Bypass::Router
    };
    Some((way, hop))
}

type DeadEnd<'a> = (Vec<&'a Flow>, &'a Question);

/// Servers that have an answer, and ask in vain for whom they want to send it to: a gateway which does not exist, or (`neighbour`) the client
/// itself, as if it were on their link.
fn dead_ends<'a>(facts: &Facts<'a>, neighbour: bool) -> BTreeMap<HostId, DeadEnd<'a>> {
    let mut found: BTreeMap<HostId, DeadEnd> = BTreeMap::new();
    for flow in facts.balanced(Method::Nat).filter(|f| f.state == FlowState::Unanswered && !f.is_answered()) {
        let (Some(server), Some(director)) = (flow.server_host, flow.director) else { continue };
        let Some(hop) = facts.reached(&flow.request, server) else { continue };
        let of_director = |q: &&Question| facts.trace.hosts[director].addresses.contains(&q.target);
        let mut asked = facts.asks_in_vain(server, flow, hop).filter(|q| !of_director(q));
        if let Some(question) = asked.find(|q| (q.target == hop.src.addr) == neighbour) {
            found.entry(server).or_insert_with(|| (Vec::new(), question)).0.push(flow);
        }
    }
    found
}

fn speaks_vrrp(facts: &Facts<'_>, host: HostId) -> bool {
    facts.trace.claims.advertisers.iter().any(|a| a.mac.is_some_and(|mac| facts.trace.hosts[host].macs.contains(&mac)))
}

impl Bypassed<'_> {
    fn names(&self, facts: &Facts<'_>) -> String {
        facts.names(self.servers.iter().copied())
    }

    /// The director's address that the servers should use as their gateway.
    fn gateway(&self, facts: &Facts<'_>) -> String {
        gateway(facts, self.flows[0])
    }

    /// Who got the answers instead.
    fn next(&self, facts: &Facts<'_>) -> String {
        match self.hop.to {
            Some(host) => facts.name(Some(host)).to_string(),
            None => self.hop.dst_mac.map_or_else(|| "?".to_string(), |mac| mac.to_string()),
        }
    }

    /// The next hop's address, for the way back to how it was.
    fn next_address(&self, facts: &Facts<'_>) -> String {
        facts.address_on(self.hop.to, self.hop.dst_mac, &[], "the gateway before")
    }

    /// The finding, with its proof: the answer, and that the director never saw it.
    fn finding(&self, facts: &Facts<'_>, severity: Severity, confidence: Confidence, summary: String) -> Finding {
        let flow = self.flows[0];
        let handed = flow.director.and_then(|d| flow.request.sent_by(d));
        let unseen: Vec<Evidence> = flow
            .director
            .map(|d| &facts.trace.hosts[d].points)
            .into_iter()
            .flatten()
            .map(|point| Evidence::absence(*point, format!("no packet from {} to {}", self.hop.src, self.hop.dst)))
            .collect();
        Finding::new(self.names(facts), severity, confidence, summary, facts.seen_with(self.hop, &facts.to_whom(self.hop)))
            .and(handed.map(|hop| facts.seen_with(hop, "handed on by the director")))
            .and(unseen)
            .on(super::facts::ids(&self.flows))
    }

    /// Addresses of the clients concerned: the first few.
    fn clients(&self) -> String {
        let mut clients: Vec<String> = self.flows.iter().map(|f| f.client.addr.to_string()).collect();
        clients.sort_unstable();
        clients.dedup();
        clients.truncate(3);
        list(&clients)
    }
}

/// The address of a flow's director on the real servers' side.
fn gateway(facts: &Facts<'_>, flow: &Flow) -> String {
    if flow.director.is_none() {
        let last = flow.request.last();
        return facts.address_on(last.and_then(|hop| hop.from), last.and_then(|hop| hop.src_mac), &[], "DIP");
    }
    let handed = flow.director.and_then(|d| flow.request.sent_by(d));
    let mut not = vec![flow.service.addr];
    if facts.is_one_armed(flow) != Some(true) {
        not.extend(flow.vip.map(|vip| vip.addr));
    }
    facts.address_on(flow.director, handed.and_then(|hop| hop.src_mac), &not, "DIP")
}
