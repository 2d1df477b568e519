//! A virtual service without a server that may be used.

use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{TurnedAway, is_service, rule_for, served_instead, service_option, stated, turned_away};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::host::Destination;
use crate::ipvs::{Role, VirtualService};
use crate::net::Protocol;
use crate::trace::{FlowState, HostId};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// The director itself answers a request with ICMP port unreachable, from the VIP, and hands nothing on. For TCP too: a host whose
    /// program is missing would send a reset.
    ///
    /// # Why it breaks
    /// The virtual service exists and has no server that it may choose: none was added, all have weight 0, all have reached their upper
    /// threshold, or the one that a hash points to is out of use and there is no fallback (`sh`, `dh`, `mh`).
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -ln`; the kernel's log has `IPVS: rr: TCP VIP:PORT - no destination available`.
    ///
    /// # Remedy
    /// Add the servers, or give them their weight again. If a health check took them out: mend the servers. A `sorry_server` in keepalived
    /// answers in the meantime.
    ///
    /// # When it is not a fault
    /// A packet filter that rejects: iptables' REJECT answers with port unreachable unless told otherwise (NAT008). For UDP a host without
    /// a listener says the same (SVC027).
    ///
    /// # Reproduce
    /// `ipvsadm -A -t VIP:80 -s rr`, and no server.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_leave`; `net/netfilter/ipvs/ip_vs_sched.c`, `ip_vs_scheduler_err`.
    SVC002 "no-usable-destination" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let stories = refusals(facts);
    let all = stories.values().filter(|turned| served_instead(facts, turned).is_none());
    let found: Vec<Finding> = all.filter_map(|turned| finding(facts, turned)).collect();
    Outcome::or_need(found, need(facts))
}

/// What directors turned away, service by service.
pub(super) fn refusals<'a>(facts: &Facts<'a>) -> BTreeMap<(HostId, String), Vec<TurnedAway<'a>>> {
    // A socket that is missing answers UDP in the same way; only a service that is known to exist says more.
    let tells = |t: &TurnedAway<'_>| t.flow.protocol != Protocol::Udp || is_service(facts, t.flow.protocol, t.hop.dst);
    let mut stories: BTreeMap<(HostId, String), Vec<TurnedAway<'a>>> = BTreeMap::new();
    for turned in turned_away(facts).into_iter().filter(tells) {
        stories.entry((turned.host, turned.hop.dst.to_string())).or_default().push(turned);
    }
    stories
}

fn finding(facts: &Facts<'_>, turned: &[TurnedAway<'_>]) -> Option<Finding> {
    let first = turned.first()?;
    let (flow, vip, name) = (first.flow, first.hop.dst, facts.name(Some(first.host)));
    let served = facts.flows().any(|f| f.vip == Some(vip) && f.director == Some(first.host) && f.state.is_complete());
    let rule = rule_for(facts, flow.protocol, vip);
    let said = rule.map(|rule| said(rule, &service_option(flow.protocol, vip)));
    let mut open: Vec<&'static str> = if served { vec!["SVC006", "SVC018"] } else { vec!["NAT008", "SVC006", "SVC018"] };
    if first.role == Role::Unknown {
        open.push("NET002");
    }
    let confidence = match rule {
        Some(rule) if rule.real_servers.iter().all(|server| server.weight == 0) => Confidence::Certain,
        Some(_) => Confidence::Likely,
        None => first.confidence,
    };
    let summary = format!("{name} answers requests for {vip} with ICMP port unreachable: the service has no server that it may use.");
    let severity = if served { Severity::Degraded } else { Severity::Broken };
    let service = service_option(flow.protocol, vip);
    let mend = Remedy::new(
        name,
        format!("ipvsadm -a {service} -r RIP:{} -m -w 1  # -g for direct routing, -i for a tunnel", vip.port),
        "ipvsadm-save -n > /etc/sysconfig/ipvsadm (Debian: /etc/ipvsadm.rules), or the real_server in keepalived.conf; a sorry_server",
        format!("ipvsadm -d {service} -r RIP:{}", vip.port),
    );
    let found = Finding::new(name, severity, confidence, summary, facts.error(first.error)).and([facts.seen(first.hop)]).and(said);
    let found = if confidence == Confidence::Certain { found } else { found.unless(&open, settle(name)) };
    Some(found.mend([mend]).on(turned.iter().map(|t| t.flow.id)))
}

fn settle(name: &str) -> String {
    format!("on {name}: `ipvsadm -ln` (weights, thresholds), `dmesg | grep 'no destination available'`, or a snapshot")
}

/// What the rules say of a service's servers.
fn said(rule: &VirtualService, service: &str) -> Evidence {
    let usable = rule.real_servers.iter().filter(|server| server.weight > 0).count();
    stated(match (rule.real_servers.len(), usable) {
        (0, _) => format!("{service} has no server"),
        (all, 0) => format!("{service}: all {all} servers have weight 0"),
        (all, usable) => format!("{service} ({}): {usable} of {all} servers have a weight", rule.scheduler),
    })
}

/// A refusal by ICMP that was seen only behind the host that said it.
fn need(facts: &Facts<'_>) -> Option<String> {
    let refused = |f: &&crate::trace::Flow| f.director.is_none() && f.protocol == Protocol::Tcp && f.state == FlowState::Refused;
    let unseen = |f: &crate::trace::Flow| f.errors.iter().any(|e| e.refuses() && !super::super::facts::is_initial(e.ttl));
    facts.flows().filter(refused).any(unseen).then(|| "a capture on the director".to_string())
}

/// In the table: a service without a real server that may be chosen.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        if service.destinations.iter().any(|d| d.weight > 0) {
            checks.passed(&host.name, format!("{} has real servers", service.name()));
            continue;
        }
        let option = service.option();
        let (what, now, undo) = match service.destinations.first() {
            None => ("no real server", format!("ipvsadm -a {option} -r RIP:PORT -g"), format!("ipvsadm -d {option} -r RIP:PORT")),
            Some(_) => {
                // All of them: source hashing would go on to refuse the share of each that is left.
                let lines = |weight: u32| {
                    let line = |d: &Destination| {
                        format!("ipvsadm -e {option} -r {} {} -w {weight}", d.address, d.forwarding().map_or("-g", |m| m.option()))
                    };
                    service.destinations.iter().map(line).collect::<Vec<_>>().join("; ")
                };
                ("only real servers of weight 0", lines(1), lines(0))
            }
        };
        let summary = format!("{} has {what}: every connection is refused with ICMP port unreachable.", service.name());
        let remedy =
            crate::finding::Remedy::new(&host.name, now, "the same in keepalived.conf, or `ipvsadm -Sn > /etc/sysconfig/ipvsadm`", undo);
        let fact = format!("-A {option} -s {}: {what}", service.scheduler);
        checks.failed(&host.name, proven(host, Severity::Broken, summary, fact, "ipvsadm -Sn").mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    fn turned_away(w: &mut World, conn: &super::super::super::testing::Conn) {
        w.syn(conn, "client director", 1);
        w.icmp(conn, false, (3, 3, 0), "10.1.0.1", "10.1.0.100", "director", "director client");
    }

    #[test]
    fn a_service_without_servers() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        for port in [40001, 40002] {
            turned_away(&mut w, &World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80"));
        }
        let found = w.expect(&SVC002, Confidence::Likely, "director");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Broken, &[1, 2][..]));
        assert_eq!(found.alternatives, ["NAT008", "SVC006", "SVC018"]);
        // The user's rules prove it.
        let w = w.ipvs("-A -t 10.1.0.1:80 -s rr\n-a -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 0\n");
        assert!(w.expect(&SVC002, Confidence::Certain, "director").alternatives.is_empty());
        // One of two is left: a hash may have pointed to the other.
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        for port in [40001, 40002] {
            turned_away(&mut w, &World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80"));
        }
        let rules = "-A -t 10.1.0.1:80 -s sh\n-a -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 0\n-a -t 10.1.0.1:80 -r 10.2.0.12:80 -m -w 1\n";
        assert!(w.ipvs(rules).expect(&SVC002, Confidence::Likely, "director").alternatives.contains(&"SVC006"));
    }

    #[test]
    fn behind_a_router() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.syn(&c, "client router director", 1);
        w.icmp(&c, false, (3, 3, 0), "10.2.0.100", "10.1.0.100", "director", "director router");
        w.expect(&SVC002, Confidence::Likely, "director");
        // Whose word it is does not show at the client.
        let w = w.without(&["router", "director", "web1", "web2"]);
        w.deny(&SVC002);
    }

    /// The director passes on, in its own name, what a real server says of its tunnel.
    #[test]
    fn a_tunnel_that_is_not_unpacked_is_another_story() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80").tunnel(
                "director",
                4,
                "10.2.0.100",
                rip,
            );
            w.syn(&c, &format!("client router director {web}"), 1);
            w.icmp(&c, false, (3, 3, 0), "10.2.0.100", "10.1.0.100", "director", "director router");
        }
        w.without(&["director", "web2"]).deny(&SVC002);
    }

    #[test]
    fn some_clients_are_turned_away() {
        let mut w = World::nat();
        let served = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&served, "client director web1", "web1 director client");
        turned_away(&mut w, &World::tcp("10.1.0.100:40002", "10.1.0.1:80"));
        let found = w.expect(&SVC002, Confidence::Likely, "director");
        assert_eq!((found.severity, found.alternatives.as_slice()), (Severity::Degraded, &["SVC006", "SVC018"][..]));
    }

    #[test]
    fn a_missing_socket_is_not_a_missing_server() {
        // UDP, at a host that balances nothing: it only has no listener.
        let mut w = World::nat();
        turned_away(&mut w, &World::udp("10.1.0.100:40001", "10.1.0.1:53"));
        w.deny(&SVC002);
        // A real server that refuses is SVC004.
        let mut w = World::nat();
        let c = World::udp("10.1.0.100:40001", "10.1.0.1:53").dnat("director", "10.2.0.11:53");
        w.carry(&c, false, 0, b"question", "client director web1");
        w.icmp(&c, false, (3, 3, 0), "10.2.0.11", "10.1.0.100", "web1", "web1 director");
        w.deny(&SVC002);
    }

    #[test]
    fn an_ordinary_host_with_a_filter_is_no_director() {
        let mut w = World::new().plug("client.eth0", "lan", "10.1.0.100").plug("desk.eth0", "lan", "10.1.0.7");
        let c = World::tcp("10.1.0.100:40001", "10.1.0.7:80");
        w.syn(&c, "client desk", 1);
        w.icmp(&c, false, (3, 3, 0), "10.1.0.7", "10.1.0.100", "desk", "desk client");
        assert_eq!(w.finding(&SVC002).confidence, Confidence::Possible);
    }
}
