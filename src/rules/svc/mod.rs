//! Services, scheduling, persistence, and the table of connections: what goes wrong with a path that is right.

mod affinity;
mod checker;
pub(super) mod svc001;
pub(super) mod svc002;
pub(super) mod svc003;
pub(super) mod svc004;
pub(super) mod svc005;
pub(super) mod svc006;
pub(super) mod svc007;
pub(super) mod svc008;
pub(super) mod svc010;
pub(super) mod svc011;
pub(super) mod svc012;
pub(super) mod svc013;
pub(super) mod svc014;
pub(super) mod svc015;
pub(super) mod svc016;
pub(super) mod svc018;
pub(super) mod svc019;
pub(super) mod svc020;
pub(super) mod svc021;
pub(super) mod svc022;
pub(super) mod svc027;

use super::Checks;
use super::Facts;
use super::facts::is_initial;
use super::site::{Duty, Site};
use crate::finding::Finding;
use crate::finding::{Confidence, Evidence};
use crate::host::{Connection, Destination, Host, IpvsTable, Service};
use crate::ipvs::ForwardingMethod;
use crate::ipvs::{Match, Role, VirtualService};
use crate::net::{Endpoint, Protocol};
use crate::trace::{Flow, FlowError, FlowState, Hop, HostId, Method, PacketKind, Way};

/// Connections that a director handed on and that the real server itself refused: a reset, or for UDP a port unreachable, from its own
/// MAC. To TCP a kernel without a listener answers with a reset; port unreachable is a packet filter's word (NET008), or, about the outer
/// packet of a tunnel, that of a server which does not unpack it (TUN001).
pub(super) fn refusals<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a Flow> + use<'a> {
    let handed = |f: &&Flow| f.director.is_some() && f.server_host.is_some() && f.server_host != f.director;
    facts.flows().filter(handed).filter(|f| f.state == FlowState::Refused).filter(|f| {
        let reset = f.reply.first().is_some_and(|hop| hop.first == PacketKind::Reset && hop.from == f.server_host);
        let udp = f.protocol == Protocol::Udp;
        reset
            || (udp && f.errors.iter().any(|e| e.refuses() && !e.tunnelled && e.from == f.server_host && (e.type_number, e.code) != (3, 2)))
    })
}

/// A request that a host turned away with ICMP port unreachable, in its own name and with the service's address.
struct TurnedAway<'a> {
    flow: &'a Flow,
    host: HostId,
    /// Where the host received it.
    hop: &'a Hop,
    error: &'a FlowError,
    confidence: Confidence,
    /// What the host is: a director, or not to be told.
    role: Role,
}

/// Ports below belong to services (RFC 6335, section 6).
const WELL_KNOWN: u16 = 1024;

/// Requests that no director handed on, and that a host answered with ICMP port unreachable from the address that was asked for.
///
/// IPVS answers so when a service has no usable server. A socket that is missing does the same for UDP, but never for TCP.
fn turned_away<'a>(facts: &Facts<'a>) -> Vec<TurnedAway<'a>> {
    let refused = |f: &&Flow| f.director.is_none() && f.state == FlowState::Refused && f.reply.is_empty();
    let found = facts.flows().filter(refused).filter_map(|flow| {
        let hop = flow.request.last()?;
        let host = hop.to?;
        // From a well-known port to another one: an answer that nobody waits for any more, and whose question was not captured.
        if flow.protocol == Protocol::Udp && hop.src.port < WELL_KNOWN && hop.dst.port >= WELL_KNOWN {
            return None;
        }
        let own = |e: &&FlowError| {
            let port = (e.type_number, e.code) == (3, 3) || (e.type_number, e.code) == (1, 4);
            let its_own = e.from == Some(host) && is_initial(e.ttl) && e.src == hop.dst.addr;
            port && its_own && e.about == Way::Request && e.quoted_dst == hop.dst
        };
        let error = flow.errors.iter().find(own)?;
        // A director passes on what a real server says of its tunnel, in its own name (kernel ip_vs_core.c, ip_vs_in_icmp).
        let tunnels = |f: &Flow| f.vip == Some(hop.dst) && f.method == Method::Tunnel;
        if facts.is_contested(host, hop) || facts.flows().any(tunnels) || facts.ftp_control(flow).is_some() {
            return None;
        }
        let role = facts.role_in(host, hop);
        let confidence = match role {
            Role::Director => Confidence::Likely,
            Role::Unknown if facts.is_expected_further(host) => Confidence::Likely,
            Role::Unknown => Confidence::Possible,
            _ => return None,
        };
        Some(TurnedAway { flow, host, hop, error, confidence, role })
    });
    found.collect()
}

/// A connection of another client that the same service served while these were turned away, where which of them are served goes by the client
/// alone: each of these is turned away every time, and more than once.
fn served_instead<'a>(facts: &Facts<'a>, turned: &[TurnedAway<'_>]) -> Option<&'a Flow> {
    let (first, last) = (turned.first()?, turned.last()?);
    let served: Vec<&Flow> =
        facts.flows().filter(|f| f.vip == Some(first.hop.dst) && f.director == Some(first.host) && f.state.is_complete()).collect();
    let client = |f: &Flow| f.request.towards(first.host).next().map_or(f.client.addr, |hop| hop.src.addr);
    let times = |t: &TurnedAway<'_>| turned.iter().filter(|other| other.hop.src.addr == t.hop.src.addr).count();
    let always = |t: &TurnedAway<'_>| times(t) > 1 && served.iter().all(|f| client(f) != t.hop.src.addr);
    // In turns: one is served between two that are turned away, or the other way round.
    let meanwhile = |f: &&Flow| (first.flow.first..=last.flow.first).contains(&f.first);
    let before = |t: &TurnedAway<'_>| served.iter().copied().rfind(|f| f.first < t.flow.first);
    let after = |t: &TurnedAway<'_>| served.iter().any(|f| f.first > t.flow.first);
    if !turned.iter().all(always) {
        return None;
    }
    served.iter().copied().find(meanwhile).or_else(|| turned.iter().filter(|t| after(t)).find_map(before))
}

/// True when it is known that a director has a virtual service at an address: it hands connections on, or the user says so.
fn is_service(facts: &Facts<'_>, protocol: Protocol, vip: Endpoint) -> bool {
    rule_for(facts, protocol, vip).is_some() || facts.flows().any(|f| f.director.is_some() && (f.protocol, f.vip) == (protocol, Some(vip)))
}

/// The rule that the user gave for a virtual service.
fn rule_for<'a>(facts: &Facts<'a>, protocol: Protocol, vip: Endpoint) -> Option<&'a VirtualService> {
    let fits = |e: &Endpoint| e.addr == vip.addr && (e.port == vip.port || e.port == 0);
    facts.hints.rules.iter().find(|rule| matches!(&rule.matches, Match::Endpoint(p, e) if *p == protocol && fits(e)))
}

/// What the user's rules say, as evidence.
fn stated(what: String) -> Evidence {
    Evidence::Statement { by: "--ipvs".to_string(), what }
}

/// The same for TCP.
pub(super) fn option_of(vip: Endpoint) -> String {
    service_option(Protocol::Tcp, vip)
}

/// `-t 192.0.2.1:80`: a virtual service as ipvsadm(8) takes it.
fn service_option(protocol: Protocol, vip: Endpoint) -> String {
    let option = match protocol {
        Protocol::Udp => "-u",
        Protocol::Sctp => "--sctp-service",
        _ => "-t",
    };
    format!("{option} {vip}")
}

/// The option of ipvsadm(8) for a method; without one ipvsadm takes `-g`.
fn method_option(method: Method) -> &'static str {
    match method {
        Method::Nat | Method::FullNat => "-m",
        Method::Tunnel => "-i",
        _ => "-g",
    }
}

/// Connections that a director hands to a real server which no service has any more.
fn orphans(table: &IpvsTable) -> impl Iterator<Item = &Connection> {
    let known = |c: &Connection| {
        let is = |d: &Destination| d.address.addr == c.destination.addr && (d.address.port == 0 || d.address.port == c.destination.port);
        table.services.iter().flat_map(|s| &s.destinations).any(is)
    };
    table.connections.iter().flatten().filter(move |c| c.client.port != 0 && !known(c))
}

/// Looks for connections of a protocol whose real server is in no service, where the director is not told to end them. `finding` makes the
/// finding of a host, the servers in words, and how many there are.
fn forgotten(site: &Site<'_>, checks: &mut Checks, protocol: Protocol, finding: impl Fn(&Host, &str, u64) -> Finding) {
    for (_, host) in site.playing(Role::Director) {
        let Some(table) = host.ipvs.as_ref() else { continue };
        if table.connections.is_none() {
            need_connections(host, checks);
            continue;
        }
        let mut servers: Vec<String> = Vec::new();
        let mut count = 0;
        for connection in orphans(table).filter(|c| c.protocol == protocol && matches!(c.state.as_str(), "ESTABLISHED" | "UDP")) {
            count += 1;
            let name = connection.destination.to_string();
            if !servers.contains(&name) {
                servers.push(name);
            }
        }
        let key = "net.ipv4.vs.expire_nodest_conn";
        match (count, host.sysctl(key)) {
            (0, _) => checks.passed(&host.name, "every connection's real server is in the table"),
            (_, None) => checks.needs(&host.name, key),
            (_, Some(0)) => {
                let words = super::facts::list(&servers);
                let remedy = super::remedy::set(host, &[(key.to_string(), "1")]);
                let fact = Evidence::host(&host.name, format!("{key}=0"), format!("sysctl {key}"));
                checks.failed(&host.name, finding(host, &words, count).and([fact]).mend([remedy]));
            }
            (_, Some(_)) => checks.passed(&host.name, "connections end with their real server"),
        }
    }
}

/// Connections that a director has for a real server of a service.
fn connections_of<'a>(table: &'a IpvsTable, service: &'a Service, rip: Endpoint) -> impl Iterator<Item = &'a Connection> {
    let fits = move |c: &&Connection| {
        let port = |ours: Endpoint, theirs: Endpoint| ours.addr == theirs.addr && (ours.port == 0 || ours.port == theirs.port);
        let asked = service.address.is_none_or(|at| port(at, c.service)) && service.protocol.is_none_or(|p| p == c.protocol);
        c.client.port != 0 && asked && port(rip, c.destination)
    };
    table.connections.iter().flatten().filter(fits)
}

/// `ipvsadm -e -t VIP:PORT -r RIP:PORT -g -w WEIGHT`.
fn weigh(service: &Service, destination: &Destination, weight: u32) -> String {
    let method = destination.forwarding().map_or(String::new(), |m| format!("{} ", m.option()));
    format!("ipvsadm -e {} -r {} {method}-w {weight}", service.option(), destination.address)
}

/// What the connection table would need to be read.
fn need_connections(host: &Host, checks: &mut Checks) {
    checks.needs(&host.name, format!("its connection table: {}", host.why_absent("ipvs.connections")));
}

/// Looks whether something listens where a real server is asked; `code` is DR012 where the port is served at other addresses alone, else
/// SVC004. `finding` makes the finding of where it should, and those other addresses.
pub(super) fn listening(site: &Site<'_>, checks: &mut Checks, code: &str, finding: impl Fn(&Host, &Duty, Endpoint, &[String]) -> Finding) {
    for duty in &site.duties {
        let (host, Some((protocol, at))) = (site.host(duty.member), duty.accepts) else { continue };
        let direct = duty.method != ForwardingMethod::Nat;
        if code == "DR012" && !direct {
            continue;
        }
        let Some(sockets) = host.sockets.as_deref() else {
            checks.needs(&host.name, format!("its listening sockets: {}", host.why_absent("sockets")));
            continue;
        };
        if sockets.iter().any(|s| s.accepts(protocol, at)) {
            checks.passed(&host.name, format!("something listens at {at}"));
            continue;
        }
        // Stopped on purpose, as it seems.
        if duty.drained {
            checks.passed(&host.name, format!("nothing listens at {at}, and the director sends nothing there (weight 0)"));
            continue;
        }
        // A translation on the server itself, or another director behind it, may lead elsewhere.
        if super::answers::redirects(host, duty) || host.ipvs.as_ref().is_some_and(|t| t.services.iter().any(|s| s.address == Some(at))) {
            checks.passed(&host.name, format!("{at} is translated here"));
            continue;
        }
        if let Some(why) = super::answers::may_redirect(host, duty) {
            checks.needs(&host.name, why);
            continue;
        }
        // It waits at the port that the table names, and direct routing does not go there.
        if direct && site.named_port(duty).is_some_and(|named| named.port != at.port && sockets.iter().any(|s| s.accepts(protocol, named)))
        {
            checks.passed(&host.name, "see DR007");
            continue;
        }
        if !sockets.iter().any(|s| s.protocol == protocol)
            && protocol != Protocol::Tcp
            && host.left_out.iter().any(|l| l.section == "sockets")
        {
            checks.needs(&host.name, host.why_absent("sockets").to_string());
            continue;
        }
        let others: Vec<String> =
            sockets.iter().filter(|s| s.protocol == protocol && s.local.port == at.port).map(|s| s.local.to_string()).collect();
        let mine = if direct && !others.is_empty() { "DR012" } else { "SVC004" };
        match mine == code {
            true => checks.failed(&host.name, finding(host, duty, at, &others)),
            false => checks.passed(&host.name, format!("see {mine}")),
        }
    }
    site.need_servers(checks, if code == "DR012" { &super::dr::FORWARDED_WHOLE } else { &ANY });
}

const ANY: [ForwardingMethod; 3] = [ForwardingMethod::Nat, ForwardingMethod::DirectRouting, ForwardingMethod::Tunnel];
