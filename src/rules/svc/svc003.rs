//! A dead real server that goes on getting connections.

use super::super::dr::dr012::is_bound_elsewhere;
use super::super::facts::{ids, plural, seconds};
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use super::{connections_of, method_option, need_connections, refusals, rule_for, service_option, stated, weigh};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::{ForwardingMethod, Role};
use crate::net::{Endpoint, Protocol, Timestamp};
use crate::packet::IcmpKind;
use crate::trace::{Flow, FlowState, Hop, HostId, Method, NoteKind, TracedHost, Way};
use std::collections::BTreeMap;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// A share of the connections goes to one server that is dead, while other servers of the same service serve. Dead is a server that the
    /// director asks for by ARP in vain, or for which it sends ICMP host unreachable, that refuses every connection, or whose MAC is sent
    /// requests and never says a word, not even ARP. Or it served, and then fell silent for good: requests leave for it and do not arrive.
    /// On a director itself: that no health checker runs; that keepalived has this table in its configuration and does not run.
    ///
    /// # Why it breaks
    /// IPVS itself checks nothing. A server keeps its weight, and its share of the connections, until somebody takes it out: a health check
    /// (keepalived, ldirectord), or the administrator. Why the server is dead is another finding (ARP011, SVC004).
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -ln` shows the dead server with a weight above 0; `systemctl status keepalived ldirectord`.
    ///
    /// # Remedy
    /// Take it out now (weight 0), and let a health check do that from now on.
    ///
    /// # When it is not a fault
    /// Within the first seconds: a health check needs some attempts to notice. It is only called likely when a connection went there more
    /// than 3 s after another one had been lost, and not when only the others got connections in the end.
    ///
    /// # Reproduce
    /// Two servers and no health check; stop one.
    ///
    /// # References
    /// keepalived.conf(5), real_server: TCP_CHECK, delay_loop, retry; ldirectord(8).
    SVC003 "dead-rs-still-scheduled" check hosts
}

/// A connection that was begun so long after another one had been lost was given to a server known to be dead.
const PATIENCE: i64 = 3_000_000_000;
/// So many connections to other servers in a row, and the dead one has probably been taken out.
const IN_A_ROW: usize = 4;

/// What is known of the server that connections were lost to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Server {
    Host(HostId),
    /// An address that the director asks for in vain.
    Address(IpAddr),
    /// Only that the director could not reach it.
    Somewhere,
}

/// Director, protocol, service, server.
type Story = (Option<HostId>, Protocol, Endpoint, Server);
/// The same, to sort by.
type Key = (Option<HostId>, u8, Endpoint, Server);

fn check(facts: &Facts<'_>) -> Outcome {
    let mut lost: BTreeMap<Key, Vec<(&Flow, Evidence)>> = BTreeMap::new();
    let refused = refusals(facts).filter(|f| !is_bound_elsewhere(facts, f)).filter_map(|flow| {
        let (server, vip) = (flow.server_host?, flow.vip?);
        let proof = flow.reply.first().map(|hop| facts.seen_with(hop, "refused by the server"));
        let proof = proof.or_else(|| flow.errors.iter().find(|e| e.refuses()).map(|e| facts.error(e)))?;
        Some(((flow.director, flow.protocol.number(), vip, Server::Host(server)), (flow, proof)))
    });
    let unreached = facts.flows().filter_map(|flow| unreached(facts, flow));
    for (key, loss) in refused.chain(unreached) {
        lost.entry(key).or_default().push(loss);
    }
    let found = lost
        .iter()
        .filter_map(|(&(director, protocol, vip, server), flows)| finding(facts, (director, Protocol::from(protocol), vip, server), flows));
    Outcome::or_need(found.collect(), need(facts))
}

/// A story's key, and one connection of it with its proof.
type Loss<'a> = (Key, (&'a Flow, Evidence));

/// A connection that a director could not hand on, because it found no neighbour for it.
fn unreached<'a>(facts: &Facts<'a>, flow: &'a Flow) -> Option<Loss<'a>> {
    if !matches!(flow.state, FlowState::Unanswered | FlowState::Unreachable) || flow.is_answered() {
        return None;
    }
    let director = flow.director.or_else(|| flow.request.last()?.to)?;
    let hop = facts.at_director(flow).or_else(|| flow.request.last())?;
    let vip = hop.dst;
    let clients = |addr: IpAddr| addr == flow.client.addr || addr == hop.src.addr;
    let of_director = facts.is_director(director) || facts.role(Some(director)) == Role::Director;
    // Addresses that a server was reached at are a server's; a gateway would be every server's.
    if of_director && let Some(question) = facts.asks_in_vain(director, flow, hop).find(|q| !clients(q.target)) {
        let server = facts.owner(question.target).map_or(Server::Address(question.target), Server::Host);
        return Some(((Some(director), flow.protocol.number(), vip, server), (flow, facts.question(question))));
    }
    let host = |e: &&crate::trace::FlowError| {
        let unreachable = e.kind == IcmpKind::Unreachable && matches!((e.type_number, e.code), (3, 1) | (1, 3));
        unreachable && e.about == Way::Request && e.src == vip.addr && e.from == Some(director)
    };
    if let Some(error) = flow.errors.iter().find(host) {
        return Some(((Some(director), flow.protocol.number(), vip, Server::Somewhere), (flow, facts.error(error))));
    }
    // Handed to a MAC that never speaks, or not any more.
    let (server, sent) = (flow.server_host?, flow.request.sent_by(director)?);
    let repeats = flow.noted(NoteKind::SynRepeat).any(|n| n.point == sent.point) || facts.waited(flow, sent);
    let mute = || is_mute(facts, server) && would_show(facts, flow, sent);
    let is_test = facts.self_addressed(flow).is_some(); // of which its server's silence says nothing (DR014)
    if flow.director.is_none()
        || is_test
        || !flow.errors.is_empty()
        || !repeats
        || !(mute() || has_fallen_silent(facts, flow, server, sent))
    {
        return None;
    }
    let what = format!("{}, and no answer", facts.to_whom(sent));
    Some(((Some(director), flow.protocol.number(), vip, Server::Host(server)), (flow, facts.seen_with(sent, &what))))
}

/// True when nobody ever heard a word of a host, and nobody captured on it.
fn is_mute(facts: &Facts<'_>, host: HostId) -> bool {
    let known = &facts.trace.hosts[host];
    let speaks = |f: &Flow| {
        let paths = [&f.request, &f.reply];
        paths.into_iter().flat_map(|p| p.hops.iter().chain(&p.strays)).any(|hop| hop.from == Some(host))
            || f.errors.iter().any(|e| e.from == Some(host))
    };
    let claims = &facts.trace.claims;
    known.points.is_empty()
        && !claims.claims.iter().any(|c| known.macs.contains(&c.mac))
        && !claims.questions.iter().any(|q| known.macs.contains(&q.mac))
        && !facts.flows().any(speaks)
}

/// True when a server had served, and was not heard again once this request had left for it, nor did that arrive at its own interface.
fn has_fallen_silent(facts: &Facts<'_>, flow: &Flow, server: HostId, sent: &Hop) -> bool {
    let at = facts.trace.common_time(sent.point, sent.time);
    let silent = facts.trace.last_heard(server).is_some_and(|last| last < at);
    silent && facts.reached(&flow.request, server).is_none() && served_before(facts, flow, server).is_some()
}

/// The answer of an earlier connection of the same service by which a server showed that it was alive, at a place where it would be seen
/// again.
fn served_before<'a>(facts: &Facts<'a>, flow: &Flow, server: HostId) -> Option<&'a Hop> {
    let served = |f: &&Flow| f.server_host == Some(server) && f.vip == flow.vip && f.state.is_complete() && f.first < flow.first;
    let shows = |hop: &&Hop| hop.from == Some(server) && facts.is_whole(hop.point) && facts.goes_on_after(hop.point, flow.first);
    facts.flows().filter(served).find_map(|f| f.reply.hops.iter().find(shows))
}

/// True when an answer would have been seen: answers of other servers were, at a place that was captured then too.
fn would_show(facts: &Facts<'_>, flow: &Flow, sent: &Hop) -> bool {
    let served = |f: &&Flow| f.vip == flow.vip && f.server_host != flow.server_host && f.state.is_complete();
    let shows = |hop: &Hop| facts.is_whole(hop.point) && facts.covers(hop.point, sent);
    facts.flows().filter(served).any(|f| f.reply.hops.iter().any(shows))
}

/// The one real server, by its name, on which a capture ran and shows nothing at all.
fn empty_capture<'a>(facts: &Facts<'a>) -> Option<(&'a str, u32)> {
    let points = |host: &TracedHost| host.points.iter().all(|p| facts.trace.points[*p as usize].frames == 0);
    let empty = |host: &&TracedHost| host.macs.is_empty() && host.role == Role::RealServer && !host.points.is_empty() && points(host);
    let mut found = facts.trace.hosts.iter().filter(empty);
    let (host, mutes) = (found.next()?, (0..facts.trace.hosts.len()).filter(|h| facts.is_real_server(*h) && is_mute(facts, *h)).count());
    (found.next().is_none() && mutes == 1).then(|| (host.name.as_str(), host.points[0]))
}

fn finding(facts: &Facts<'_>, story: Story, lost: &[(&Flow, Evidence)]) -> Option<Finding> {
    let (director, protocol, vip, server) = story;
    let (first, proof) = lost.first()?;
    let (began, last) = (first.first, lost.iter().map(|(f, _)| f.first).max()?);
    let served: Vec<&Flow> =
        facts.flows().filter(|f| (f.protocol, f.vip) == (protocol, Some(vip)) && f.state.is_complete() && is_other(f, server)).collect();
    // Others must have served while this one did not, or it must have served itself before; and it must not have come back.
    let meanwhile = served.iter().find(|f| f.last >= began);
    let before = match server {
        Server::Host(host) if !first.is_answered() && facts.reached(&first.request, host).is_none() => served_before(facts, first, host),
        _ => None,
    };
    if meanwhile.is_none() && before.is_none() {
        return None;
    }
    if came_back(facts, story, began) {
        return None;
    }
    let name = facts.name(director);
    let who = match server {
        Server::Host(host) => match empty_capture(facts).filter(|_| is_mute(facts, host)) {
            Some((name, _)) => name.to_string(),
            None => facts.name(Some(host)).to_string(),
        },
        Server::Address(addr) => addr.to_string(),
        Server::Somewhere => "a server that cannot be reached".to_string(),
    };
    let address = address(facts, server, lost);
    let weight = rule_for(facts, protocol, vip).and_then(|rule| {
        let addr = address.parse::<IpAddr>().ok()?;
        rule.real_servers.iter().find(|rs| rs.addr == addr).map(|rs| rs.weight)
    });
    let checked = director.is_some_and(|d| facts.flows().any(|f| f.client_host == Some(d) && is_to(f, server)));
    let afterwards = served.iter().filter(|f| f.first > last).count();
    // A server that nobody heard of may be silent for other reasons, unless its own capture is empty.
    let mute = matches!(server, Server::Host(host) if is_mute(facts, host));
    let empty = if mute { empty_capture(facts) } else { None };
    let known = server != Server::Somewhere && (!mute || empty.is_some());
    let confidence = match weight {
        Some(0) => Confidence::Possible,
        // Nobody being served at all may have other reasons than one dead server.
        _ if last - began >= PATIENCE && known && !checked && afterwards < IN_A_ROW && meanwhile.is_some() => Confidence::Likely,
        _ => Confidence::Possible,
    };
    let mut open = match weight {
        Some(0) => vec!["SVC010", "SVC011"],
        _ if checked => vec!["SVC024", "SVC010"],
        _ => vec!["SVC010"],
    };
    if mute {
        open.extend(match first.method {
            Method::Nat => ["NAT001", "NET008"],
            Method::Tunnel => ["TUN001", "NET008"],
            _ => ["DR001", "NET008"],
        });
        // Its MAC may be somebody's who is no more.
        open.push("DR009");
    }
    if before.is_some() && matches!(server, Server::Host(host) if facts.trace.hosts[host].points.is_empty()) {
        open.push("NET008");
    }
    if mute || before.is_some() || server == Server::Somewhere {
        open.insert(0, "ARP011");
    }
    let times = plural(lost.len(), "connection");
    let span = if lost.len() > 1 { format!(" within {}", seconds(last - began)) } else { String::new() };
    let dead = if before.is_some() { "has fallen silent" } else { "is dead" };
    let others = if meanwhile.is_some() { format!(", while others serve {vip}") } else { String::new() };
    let summary = format!("{name} gives {times}{span} to {who}, which {dead}{others}: nothing has taken it out.");
    let service = service_option(protocol, vip);
    let port = first.real_server.or(meanwhile.and_then(|f| f.real_server)).map_or(vip.port, |rs| rs.port);
    let target = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    let option = method_option(meanwhile.map_or(first.method, |f| f.method));
    let mend = Remedy::new(
        name,
        format!("ipvsadm -e {service} -r {target} {option} -w 0"),
        "a real_server with TCP_CHECK or HTTP_GET in keepalived.conf, or ldirectord",
        format!("ipvsadm -e {service} -r {target} {option} -w 1"),
    );
    let flows: Vec<&Flow> = lost.iter().map(|(f, _)| *f).collect();
    let found = Finding::new(name, Severity::Degraded, confidence, summary, proof.clone())
        .and(lost.iter().skip(1).map(|(_, proof)| proof.clone()).filter(|p| p != proof).take(2))
        .and(meanwhile.and_then(|f| f.reply.first()).map(|hop| facts.seen_with(hop, "another server serves meanwhile")))
        .and(before.map(|hop| facts.seen_with(hop, "it served before")))
        .and(empty.map(|(_, point)| Evidence::absence(point, "no frame at all")))
        .and(weight.map(|w| stated(format!("{service}: server {target} has weight {w}"))))
        .unless(&open, format!("on {name}: `ipvsadm -ln` (its weight), `systemctl status keepalived ldirectord`, or a snapshot"));
    Some(found.mend([mend]).on(ids(&flows)))
}

/// The dead server's address, as the director's table has it; or a word for it.
fn address(facts: &Facts<'_>, server: Server, lost: &[(&Flow, Evidence)]) -> String {
    match server {
        Server::Address(addr) => addr.to_string(),
        Server::Host(_) => lost.iter().map(|(f, _)| facts.server_address(f)).find(|a| a != "RIP").unwrap_or_else(|| "RIP".to_string()),
        Server::Somewhere => "RIP".to_string(),
    }
}

/// True for a connection to another server than this one.
fn is_other(flow: &Flow, server: Server) -> bool {
    match server {
        Server::Host(host) => flow.server_host.is_some() && flow.server_host != Some(host),
        Server::Address(addr) => flow.real_server.is_none_or(|rs| rs.addr != addr),
        Server::Somewhere => true,
    }
}

/// True for a connection addressed to this server itself.
fn is_to(flow: &Flow, server: Server) -> bool {
    match server {
        Server::Host(host) => flow.server_host == Some(host) || flow.request.last().is_some_and(|hop| hop.to == Some(host)),
        Server::Address(addr) => flow.service.addr == addr,
        Server::Somewhere => false,
    }
}

/// True when the server served a connection that began after the first loss: it was being restarted.
fn came_back(facts: &Facts<'_>, (_, protocol, vip, server): Story, since: Timestamp) -> bool {
    let serves = |f: &Flow| (f.protocol, f.vip) == (protocol, Some(vip)) && f.state.is_complete() && f.first > since;
    server != Server::Somewhere && facts.flows().any(|f| serves(f) && !is_other(f, server))
}

/// Connections that a director handed to a server on which nobody looked, and that stayed unanswered while others were served.
fn need(facts: &Facts<'_>) -> Option<String> {
    let open = |f: &&Flow| f.director.is_some() && f.state == FlowState::Unanswered && !f.is_answered() && facts.others_serve(f);
    let unseen = facts.flows().filter(open).find(|f| f.server_host.is_some_and(|s| facts.reached(&f.request, s).is_none()));
    unseen.map(|f| format!("a capture on {}, or the director's table (`ipvsadm -ln`)", facts.name(f.server_host)))
}

/// So many connections begun with each, and what the others complete tells of the one that completes none.
const ENOUGH: usize = 5;

/// In the connection table: a real server with which no connection gets beyond its first packet, while others have theirs.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::checker::hosts(site, checks);
    for (host, service) in site.directed().filter(|(_, s)| s.protocol == Some(Protocol::Tcp)) {
        let Some(table) = host.ipvs.as_ref().filter(|t| t.connections.is_some()) else {
            need_connections(host, checks);
            continue;
        };
        // Refused connections do not stay so: the client's answer to a reset is none, and the entry waits as one that got no answer at all.
        let begun = |d: &crate::host::Destination| {
            let (open, all) = connections_of(table, service, d.address)
                .fold((0, 0), |(open, all), c| (open + usize::from(c.state == "SYN_RECV"), all + 1));
            (open, all)
        };
        let serves = |d: &crate::host::Destination| {
            let (open, all) = begun(d);
            all >= ENOUGH && open * 2 < all
        };
        for destination in service.destinations.iter().filter(|d| d.weight > 0) {
            let (open, all) = begun(destination);
            let other = service.destinations.iter().find(|d| d.address != destination.address && serves(d));
            // Its own snapshot, or the neighbour's entry, shows the cause.
            let known = !site.fleet.owners(destination.address.addr).is_empty();
            let failed = host.neighbours.iter().flatten().any(|n| n.addr == destination.address.addr && n.is_failed());
            let Some(other) = other.filter(|_| all >= ENOUGH && open == all && !known && !failed) else {
                checks.passed(&host.name, format!("{}: connections get beyond their first packet", service.name()));
                continue;
            };
            let summary = format!(
                "None of {} to {} of {} gets beyond its first packet, those to {} do; it goes on getting its share.",
                plural(all, "connection"),
                destination.address,
                service.name(),
                other.address
            );
            let remedy = Remedy::new(
                &host.name,
                weigh(service, destination, 0),
                "a health checker (keepalived, ldirectord) that does so by itself",
                weigh(service, destination, destination.weight),
            );
            let fact = format!("{open} of {all} connections to {} in SYN_RECV", destination.address);
            let mut found = proven(host, Severity::Degraded, summary, fact, "ipvsadm -Lnc").mend([remedy]);
            found.confidence = Confidence::Likely;
            if let Some(managers) = &host.managers {
                let who = if managers.is_empty() { "no health checker".to_string() } else { managers.join(", ") };
                found = found.and([Evidence::host(&host.name, who, "ps -eo comm")]);
            }
            let causes: &[&'static str] = match destination.forwarding() {
                Some(ForwardingMethod::Nat) => &["NAT001", "NAT002", "NET008"],
                Some(ForwardingMethod::Tunnel) => &["TUN001", "TUN002", "DR004", "NET008"],
                _ if destination.address.addr.is_ipv6() => &["DR001", "DR004", "NET008"],
                _ => &["DR001", "DR004", "DR018", "NET008"],
            };
            let settle = format!("a snapshot of {}, or a capture there", destination.address.addr);
            checks.failed(&host.name, found.unless(causes, settle));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch;
    use super::super::super::testing::{REFUSE, World};
    use super::*;

    fn served(w: &mut World, port: u16) {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.12:80");
        w.talk(&c, "client director web2", "web2 director client");
    }

    /// A connection for which the director finds no neighbour: it asks three times, and says so to the client.
    fn nobody_there(w: &mut World, port: u16) {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80");
        w.syn(&c, "client director", 1);
        for _ in 0..3 {
            w.who_has("director", "int", "10.2.0.11", &[]);
            w.wait(1.0);
        }
        w.icmp(&c, false, (3, 1, 0), "10.1.0.1", "10.1.0.100", "director", "director client");
    }

    /// Connections in the director's table: so many to each server, in a state.
    fn table(of: &[(&str, &str, usize)]) -> [sketch::Sketch; 1] {
        let line = |n: usize, rip: &str, state: &str| format!("tcp 10.9.0.7:{} 10.0.0.100:80 {rip}:80 {state} 50", 40000 + n);
        let lines: Vec<String> = of.iter().flat_map(|(rip, state, times)| (0..*times).map(move |n| line(n, rip, state))).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        [sketch::dr()[1].clone().connections(&lines)]
    }

    #[test]
    fn a_server_that_completes_nothing() {
        let (one, two) = ("10.0.0.11", "10.0.0.12");
        let dead = table(&[(one, "SYN_RECV", 6), (two, "ESTABLISHED", 4), (two, "SYN_RECV", 1)]);
        let found = sketch::expect(&dead, &SVC003, Severity::Degraded, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 0");
        // All are flooded, or it is too early to say.
        sketch::passes(&table(&[(one, "SYN_RECV", 60), (two, "SYN_RECV", 60), (two, "ESTABLISHED", 9)]), &SVC003, "director");
        sketch::passes(&table(&[(one, "SYN_RECV", 4), (two, "ESTABLISHED", 9)]), &SVC003, "director");
        sketch::passes(&table(&[(one, "SYN_RECV", 60), (one, "FIN_WAIT", 1), (two, "ESTABLISHED", 9)]), &SVC003, "director");
        let unread = sketch::dr_with("director", |d| d.with(|h| h.ipvs.as_mut().unwrap().connections = None));
        sketch::cannot_judge(&unread, &SVC003, "director");
    }

    #[test]
    fn a_server_that_is_gone_keeps_its_share() {
        let mut w = World::nat();
        for port in 0..4 {
            nobody_there(&mut w, 40001 + 2 * port);
            served(&mut w, 40002 + 2 * port);
            w.wait(4.0);
        }
        let found = w.expect(&SVC003, Confidence::Likely, "director");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[1, 3, 5, 7][..]));
        assert_eq!(found.remedy[0].command, "ipvsadm -e -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 0");
        // Weight 0 is taken out already: then something pins its clients.
        let w = w
            .ipvs("-A -t 10.1.0.1:80 -s rr -p 300\n-a -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 0\n-a -t 10.1.0.1:80 -r 10.2.0.12:80 -m -w 1\n");
        assert!(w.expect(&SVC003, Confidence::Possible, "director").alternatives.contains(&"SVC010"));
    }

    #[test]
    fn the_first_seconds_prove_nothing() {
        let mut w = World::nat();
        served(&mut w, 40001);
        nobody_there(&mut w, 40002);
        served(&mut w, 40003);
        w.expect(&SVC003, Confidence::Possible, "director");
    }

    fn refused(w: &mut World, port: u16) {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        w.carry(&c, true, REFUSE, b"", "web1 director client");
    }

    #[test]
    fn a_server_that_refuses_keeps_its_share() {
        let mut w = World::nat();
        for port in 0..3 {
            refused(&mut w, 40001 + 2 * port);
            served(&mut w, 40002 + 2 * port);
            w.wait(8.0);
        }
        w.expect(&SVC003, Confidence::Likely, "director");
    }

    #[test]
    fn a_health_check_that_looks_makes_it_less_likely() {
        let mut w = World::nat();
        for port in 0..3 {
            refused(&mut w, 40001 + 2 * port);
            served(&mut w, 40002 + 2 * port);
            let check = World::tcp(&format!("10.2.0.1:{}", 50000 + port), "10.2.0.11:8080");
            w.talk(&check, "director web1", "web1 director");
            w.wait(8.0);
        }
        assert!(w.expect(&SVC003, Confidence::Possible, "director").alternatives.contains(&"SVC024"));
    }

    #[test]
    fn a_server_that_was_taken_out_in_the_end() {
        let mut w = World::nat();
        for port in 0..3 {
            refused(&mut w, 40001 + 2 * port);
            served(&mut w, 40002 + 2 * port);
            w.wait(2.0);
        }
        for port in 0..4 {
            served(&mut w, 41000 + port);
        }
        w.expect(&SVC003, Confidence::Possible, "director");
    }

    #[test]
    fn a_mac_that_never_speaks() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("web2", "int", "10.2.0.1", &["router"]);
        for (port, web) in [(40001, 2), (40003, 1), (40005, 2), (40007, 1)] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
            match web {
                2 => w.talk(&c, "client router director web2", "web2 router client"),
                _ => w.syn(&c, "client router director web1", 2),
            }
            w.wait(2.0);
        }
        // Nothing was captured on web1: it may be alive and silent.
        let unplugged = w.clone().unplugged("web1.eth0");
        let w = w.without(&["web1"]);
        let found = w.expect(&SVC003, Confidence::Possible, "director");
        assert!(found.alternatives.contains(&"ARP011") && found.alternatives.contains(&"DR001"));
        // Its own capture is empty: nothing came there.
        let found = unplugged.expect(&SVC003, Confidence::Likely, "director");
        assert!(found.summary.contains("to web1, which is dead"), "{}", found.summary);
    }

    #[test]
    fn a_server_that_falls_silent() {
        let story = |others: bool| {
            let mut w = World::dr();
            w.who_has("router", "int", "10.2.0.100", &["director"]);
            let c = |port: u16| World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
            w.talk(&c(40001), "client router director web1", "web1 router client");
            w.talk(&c(40002), "client router director web2", "web2 router client");
            for port in [40003, 40005] {
                w.wait(4.0);
                w.syn(&c(port), "client router director web1", 2);
                if others {
                    w.talk(&c(port + 1), "client router director web2", "web2 router client");
                }
            }
            w
        };
        let found = story(true).without(&["web1"]).expect(&SVC003, Confidence::Likely, "director");
        assert!(found.summary.contains("rs1, which has fallen silent, while others"), "{}", found.summary);
        assert_eq!((found.flows.as_slice(), found.alternatives.contains(&"NET008")), (&[3, 5][..], true));
        // Nobody served meanwhile: it may be the network.
        story(false).without(&["web1"]).expect(&SVC003, Confidence::Possible, "director");
        // Requests do arrive there: why it is silent is for others to say.
        story(true).deny(&SVC003);
        // It goes on being heard, by its ARP.
        let mut w = story(true);
        w.who_has("web1", "int", "10.2.0.1", &["router"]);
        w.without(&["web1"]).deny(&SVC003);
    }

    #[test]
    fn a_restart_and_a_service_that_is_down_altogether() {
        let mut w = World::nat();
        refused(&mut w, 40001);
        served(&mut w, 40002);
        w.wait(12.0);
        refused(&mut w, 40003);
        let c = World::tcp("10.1.0.100:40005", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.deny(&SVC003);
        let mut w = World::nat();
        refused(&mut w, 40001);
        w.wait(20.0);
        refused(&mut w, 40003);
        w.deny(&SVC003);
    }
}
