//! A server that receives a request and says nothing. Many faults look so; here stands which of them packets exclude.
//!
//! The server's kernel drops the request before any socket sees it, or drops its own answer, and neither leaves a trace on the wire. What
//! remains open is told by comparison: which servers are silent, towards which clients, and what else they do.

use super::{Facts, by_server};
use crate::finding::{Confidence, Finding, Severity};
use crate::packet::{LinkType, TunnelKind};
use crate::trace::{Flow, FlowState, Hop, HostId, Method, NoteKind, Way};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Silent servers, with the cause that packets suggest first, and those that they leave open.
pub(in crate::rules) struct Silence<'a> {
    /// Codes of others.
    pub(in crate::rules) others: Vec<&'static str>,
    /// The server serves other connections of the same kind: then hardly anything is likely.
    pub(in crate::rules) serves_others: bool,
    /// The servers.
    pub(in crate::rules) servers: Vec<HostId>,
    /// Their silent flows.
    pub(in crate::rules) flows: Vec<&'a Flow>,
    /// Where the first of them was received.
    pub(in crate::rules) hop: &'a Hop,
}

/// False for what cannot befall a client of its address family: only IPv4 knows reverse path filtering.
pub(super) fn possible_for(client: IpAddr, code: &str) -> bool {
    client.is_ipv4() || code != "DR018"
}

impl Silence<'_> {
    /// Names of the silent servers: `web1, web2`.
    pub(in crate::rules) fn names(&self, facts: &Facts<'_>) -> String {
        facts.names(self.servers.iter().copied())
    }

    /// The finding about it, with proof and alternatives; `settle` tells them apart.
    pub(in crate::rules) fn finding(&self, facts: &Facts<'_>, severity: Severity, settle: &str) -> Finding {
        let (names, first) = (self.names(facts), self.flows[0]);
        let (receive, stay) = if self.servers.len() == 1 { ("receives", "stays") } else { ("receive", "stay") };
        let (request, answer) = match first.from_start && first.protocol == crate::net::Protocol::Tcp {
            true => ("SYN", "SYN-ACK"),
            false => ("request", "answer"),
        };
        let arp = if facts.is_deaf() { "; ARP was not captured" } else { ", no ARP for a gateway" };
        let what = format!("{names} {receive} the {request} and {stay} silent: no {answer}{arp}.");
        let confidence = if self.serves_others { Confidence::Possible } else { Confidence::Likely };
        let host = self.servers.first().copied().or(first.server_host).unwrap_or_default();
        let handed = first.request.hops.iter().rev().find(|hop| hop.outer.is_some()).filter(|hop| !std::ptr::eq(*hop, self.hop));
        Finding::new(&names, severity, confidence, what, facts.seen(self.hop))
            .and(handed.map(|hop| facts.seen(hop)))
            .and(facts.repeats(first, self.hop, NoteKind::SynRepeat))
            .and([facts.nothing_from(host, self.hop)])
            .unless(&self.others, format!("on {names}: {settle}, or a snapshot"))
            .on(super::ids(&self.flows))
    }
}

impl<'a> Facts<'a> {
    /// What a rule about silent servers lacks: a server that requests were handed to by one of these methods, without an answer, and on
    /// which nobody looked.
    pub(in crate::rules) fn unwatched_server(&self, methods: &[Method]) -> Option<String> {
        let open = |f: &&Flow| {
            methods.contains(&f.method) && f.state == FlowState::Unanswered && !f.is_answered() && self.self_addressed(f).is_none()
        };
        let unseen = self.flows().filter(open).find(|f| f.server_host.is_some_and(|s| self.reached(&f.request, s).is_none()));
        let unseen = unseen.map(|f| format!("a capture on {}, or a snapshot of it", self.name(f.server_host)));
        unseen.or_else(|| self.unexplained_server())
    }

    /// A machine at which requests end without an answer, while nothing shows who sent them there: it may be a real server or anybody.
    fn unexplained_server(&self) -> Option<String> {
        let lost = |f: &&Flow| f.director.is_none() && f.state == FlowState::Unanswered && !f.is_answered() && f.errors.is_empty();
        let hop = self.flows().filter(lost).find_map(|f| {
            let hop = f.request.last().filter(|hop| hop.at_sender != Some(true) && !super::is_initial(hop.ttl))?;
            (self.waited(f, hop) && self.swallowed(f, Way::Request).is_none()).then_some(hop)
        })?;
        let at = self.trace.host_at(hop.point).or(hop.to);
        Some(format!("a capture on the director, which shows how requests for {} come to {}", hop.dst, self.name(at)))
    }

    /// The silences whose likeliest cause is `code`, servers with the same story together.
    pub(in crate::rules) fn silences(&self, code: &str) -> Vec<Silence<'a>> {
        let mut silent: Vec<(&Flow, &Hop)> = self.flows().filter_map(|f| self.silent_server(f).map(|hop| (f, hop))).collect();
        if !silent.is_empty() {
            let contested = self.contested();
            silent.retain(|(f, _)| f.server_host.is_none_or(|s| !contested.contains(&s)) && !self.is_refused_the_vip(f));
        }
        let servers: Vec<HostId> = by_server(silent.iter().map(|(f, _)| *f)).into_keys().collect();
        let mut stories: BTreeMap<(&'static str, Vec<&'static str>, bool), Silence> = BTreeMap::new();
        for (flow, hop) in silent {
            let (cause, mut others, serves_others) = self.cause(flow, hop, &servers);
            others.retain(|code| possible_for(hop.src.addr, code));
            // Switches flood what they have never heard from: the MAC may be nobody's.
            if hop.dst_mac.is_some_and(|mac| !self.trace.has_spoken(mac)) && !others.contains(&"DR009") {
                others.push("DR009");
            }
            // It may have asked for a neighbour in vain, and nobody heard it.
            if self.is_deaf() {
                let unheard: &[&str] = if flow.method == Method::Nat { &["NAT002", "ARP011"] } else { &["ARP011"] };
                others.extend(unheard.iter().filter(|code| **code != cause));
            }
            if cause != code {
                continue;
            }
            let new = || Silence { others: others.clone(), serves_others, servers: Vec::new(), flows: Vec::new(), hop };
            let story = stories.entry((cause, others.clone(), serves_others)).or_insert_with(new);
            story.servers.extend(flow.server_host.filter(|s| !story.servers.contains(s)));
            story.flows.push(flow);
        }
        stories.into_values().chain(self.lone_silences(code)).collect()
    }

    /// Hosts that quarrel over an address that is no service's: either may have been handed what was meant for the other (ARP012).
    fn contested(&self) -> BTreeSet<HostId> {
        let services = self.service_addresses();
        let twice: Vec<IpAddr> = self.claimed_twice().into_iter().filter(|a| a.is_ipv4() && !services.contains(a)).collect();
        if twice.is_empty() {
            return BTreeSet::new();
        }
        let hood = self.neighbourhood();
        twice.into_iter().filter_map(|addr| hood.quarrel(addr)).flat_map(|(a, b, _)| [a, b]).collect()
    }

    /// True when a server wanted a flow's IPv6 VIP on its network card, where it collides: then it has no VIP (IP6001).
    fn is_refused_the_vip(&self, flow: &Flow) -> bool {
        let (Some(vip), Some(server)) = (flow.vip.filter(|vip| vip.addr.is_ipv6()), flow.server_host) else { return false };
        self.is_on_card(server, vip.addr)
    }

    /// The likeliest cause of a server's silence, the others that remain, and whether it serves connections of the same kind.
    fn cause(&self, flow: &Flow, hop: &Hop, silent: &[HostId]) -> (&'static str, Vec<&'static str>, bool) {
        let on_link = self.is_source_on_link(flow, hop);
        let served: Vec<bool> =
            self.served_elsewhere(flow).map(|f| f.request.last().is_some_and(|h| self.is_source_on_link(f, h))).collect();
        let alike = served.contains(&on_link);
        let own_address = self.own_address_answers(flow, hop);
        match flow.method {
            Method::Nat if self.is_hairpin(flow) => ("NAT011", Vec::new(), false),
            Method::Nat if !self.is_work_seen(flow) => ("NET008", vec!["NAT001", "DR001", "DR004"], true),
            // It lets some wait, and others in vain.
            _ if alike && flow.server_host.is_some_and(|s| self.late_answers().contains_key(&s)) => ("NET013", vec!["NET008"], true),
            _ if alike => ("NET008", vec!["DR018", "NET013"], true),
            // It has the address, and a way back: what is missing is this port.
            _ if self.serves_beside(flow, on_link) => ("NET008", vec!["NET013"], false),
            // A neighbour needs no gateway for its answer, and does not get one either.
            Method::Nat if own_address == Some(false) => ("NET008", vec!["NET013", "NAT001"], false),
            // It was seen to use a route to somewhere; that it has none to this client is less likely.
            Method::Nat if served.is_empty() && flow.server_host.is_some_and(|s| self.sends_off_link(s)) => {
                ("NET008", vec!["NAT001", "DR018"], false)
            }
            Method::Nat if served.is_empty() => ("NAT001", vec!["NET008", "DR018"], false),
            Method::Nat => ("NAT006", vec!["NET008", "DR018"], false),
            Method::FullNat => ("NET008", vec!["SVC025"], false),
            Method::Tunnel => self.cause_in_tunnel(flow, hop, on_link, &served),
            _ => self.cause_in_direct_routing(flow, on_link, own_address, &served, silent),
        }
    }

    fn cause_in_tunnel(&self, flow: &Flow, hop: &Hop, on_link: bool, served: &[bool]) -> (&'static str, Vec<&'static str>, bool) {
        // What its neighbours ask comes out of the tunnel, and is served.
        if !on_link && served.contains(&true) {
            return ("DR004", vec!["DR018", "NET008"], false);
        }
        let outer = flow.request.hops.iter().find_map(|hop| hop.outer);
        if outer.is_some_and(|(_, src, _)| Some(src) == flow.vip.map(|vip| vip.addr)) {
            return ("TUN011", vec!["TUN001", "NET008"], false);
        }
        let plain = outer.is_none_or(|(kind, ..)| kind == TunnelKind::IpIp);
        let inside = |h: &Hop| h.at.is_some() && h.at == flow.server_host && h.dst_mac.is_none() && h.outer.is_none();
        let still_packed = hop.outer.filter(|_| !flow.request.hops.iter().any(inside));
        let (cause, mut others) = match still_packed {
            // Only IPv4 knows reverse path filtering.
            _ if hop.src.addr.is_ipv6() => ("DR001", vec!["NET008", "DR004", "TUN007", "TUN006"]),
            // Seen behind the tunnel: it was unpacked, and then dropped.
            None => ("TUN002", vec!["TUN003", "NET008", "DR001", "DR004"]),
            // The filter looks at packets behind the place where the tunnel device shows them; there is none.
            Some(_) if self.watches_tunnel(flow.server_host, hop) => ("NET008", vec!["TUN007", "TUN006", "TUN001"]),
            Some(_) => ("TUN002", vec!["TUN003", "TUN007", "TUN006", "NET008", "DR001", "DR004"]),
        };
        if self.needs_no_route(flow, on_link) {
            others.retain(|code| *code != "DR004");
        }
        // A GRE key or a GUE checksum that the other end does not expect is dropped without a word.
        if !plain && still_packed.is_some() {
            others.push("TUN009");
        }
        (cause, others, false)
    }

    /// True when a missing route to the client is no explanation: the server sends further away, or is silent towards its neighbours, too.
    fn needs_no_route(&self, flow: &Flow, on_link: bool) -> bool {
        flow.server_host.is_some_and(|s| self.sends_off_link(s)) || (!on_link && self.is_silent_nearby(flow))
    }

    /// True when the server of a flow is silent towards a client on its own link, too.
    fn is_silent_nearby(&self, flow: &Flow) -> bool {
        let alike = |f: &&Flow| f.server_host == flow.server_host && f.vip == flow.vip && f.id != flow.id;
        self.flows().filter(alike).any(|f| self.silent_server(f).is_some_and(|hop| self.is_source_on_link(f, hop)))
    }

    /// True when a tunnel device of the host was captured while it received a packet.
    fn watches_tunnel(&self, host: Option<HostId>, hop: &Hop) -> bool {
        let bare = |point: u32| matches!(self.trace.points[point as usize].link_type, LinkType::RAW | LinkType::RAW_BSD | LinkType::IPV4);
        // A VPN or a modem has bare packets, too.
        let called =
            |point: u32| ["tunl", "ipip", "gre", "ip6tnl", "sit", "ip6gre", "fou"].iter().any(|d| self.device(point).starts_with(d));
        let unpacked = |point: u32| {
            let inside = |f: &Flow| {
                f.request.hops.iter().any(|h| h.outer.is_some()) && f.request.hops.iter().any(|h| h.point == point && h.outer.is_none())
            };
            self.flows().any(inside)
        };
        let tunnel = |point: u32| bare(point) && (called(point) || unpacked(point));
        host.is_some_and(|host| self.trace.hosts[host].points.iter().any(|p| tunnel(*p) && self.is_whole(*p) && self.covers(*p, hop)))
    }

    fn cause_in_direct_routing(
        &self,
        flow: &Flow,
        on_link: bool,
        own_address: Option<bool>,
        served: &[bool],
        silent: &[HostId],
    ) -> (&'static str, Vec<&'static str>, bool) {
        let all_silent = self.flows().filter(|f| f.vip == flow.vip).all(|f| f.server_host.is_none_or(|s| silent.contains(&s)));
        let two_nics = flow.server_host.is_some_and(|s| self.has_two_cards(s));
        let routes_out = self.needs_no_route(flow, on_link);
        // It does not answer its neighbours at its own address either, and the VIP has no part in that.
        if own_address == Some(false) && served.is_empty() {
            let speaks = flow.server_host.is_some_and(|s| self.answers_neighbours(s));
            let lost = flow.server_host.is_some_and(|s| self.sends_off_link(s));
            return match (speaks || flow.client.addr.is_ipv6(), lost) {
                (true, _) => ("NET008", vec!["NET013"], false),
                // What it sends further away comes out, and nothing for its own network does.
                (false, true) => ("DR002", vec!["NET008"], false),
                (false, false) => ("NET008", vec!["DR002", "NET013"], false),
            };
        }
        // What its neighbours meet with as well has no further reason.
        let near = on_link || (served.is_empty() && self.is_silent_nearby(flow));
        let mut open: Vec<&'static str> = match (near, served.is_empty()) {
            // It serves clients that are further away: the route to the near ones is wrong.
            (true, false) => vec!["DR002", "DR018", "NET008"],
            (false, false) => vec!["DR004", "DR018", "NET008"],
            (true, true) => vec!["DR001", "DR002", "DR018", "NET008"],
            (false, true) if all_silent && !routes_out => vec!["DR004", "DR001", "DR018", "DR002", "NET008"],
            (false, true) => vec!["DR001", "DR004", "DR018", "DR002", "NET008"],
        };
        open.retain(|code| possible_for(flow.client.addr, code));
        if routes_out {
            open.retain(|code| *code != "DR004");
        }
        // Its neighbours get answers from it: they are not local to it.
        if own_address == Some(true) && served.is_empty() {
            open.retain(|code| *code != "DR002");
        }
        // Another host that answers for the server's address is heard by the director alone.
        if flow.director.is_some_and(|d| self.trace.hosts[d].points.is_empty()) {
            open.push("ARP012");
        }
        if served.is_empty() && all_silent && self.is_one_armed(flow) == Some(false) && flow.vip == Some(flow.service) {
            open.insert(0, "NAT007");
        } else if two_nics && flow.client.addr.is_ipv4() {
            open.retain(|code| *code != "DR018");
            open.insert(0, "DR018");
        }
        let likeliest = open.remove(0);
        (likeliest, open, false)
    }

    /// True when the client is itself a real server of the service.
    pub fn is_hairpin(&self, flow: &Flow) -> bool {
        let server = |f: &Flow| f.vip == flow.vip && f.real_server.is_some_and(|rs| rs.addr == flow.client.addr);
        self.flows().any(server) || flow.client_host.is_some_and(|h| self.flows().any(|f| f.vip == flow.vip && f.server_host == Some(h)))
    }

    /// Whether the client of a flow, as its server sees it, is on the server's own link.
    pub(super) fn is_source_on_link(&self, flow: &Flow, hop: &Hop) -> bool {
        let (source, translated) = (hop.src.addr, flow.client.addr != hop.src.addr);
        // A tunnel device is on no link; its packets came by one.
        let by_card = || flow.request.hops.iter().rev().find(|h| h.to.is_some() && h.to == flow.server_host && h.dst_mac.is_some());
        let hop = if hop.dst_mac.is_none() { by_card().unwrap_or(hop) } else { hop };
        (translated && self.is_one_armed(flow) != Some(false)) || self.is_on_link(source, hop)
    }
}
