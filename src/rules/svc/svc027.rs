//! The director has no virtual service for what clients ask.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{TurnedAway, is_service, rule_for, service_option, stated, turned_away};
use crate::finding::{Evidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::Role;
use crate::net::{Endpoint, Protocol};
use crate::trace::{Flow, FlowState, HostId, PacketKind};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// The director itself refuses the request: a reset (TCP) or ICMP port unreachable (UDP) from its own MAC, with the VIP as source and a
    /// fresh TTL. Nothing goes on to a real server.
    ///
    /// # Why it breaks
    /// The table of virtual services has no entry for this address, port and protocol, nor for the packet's mark. The packet is for the
    /// director then, and there nobody listens.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -ln`. Empty: SVC005 (rules not loaded) or SVC022 (module missing). Another port, protocol, or a mark:
    /// SVC015.
    ///
    /// # Remedy
    /// Add the service and its servers, save the rules, enable the unit that loads them.
    ///
    /// # When it is not a fault
    /// When this port is not to be served. When the host is a router that should translate the address (NET002).
    ///
    /// # Reproduce
    /// A healthy service; `ipvsadm -C` on the director.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_in_hook`; ipvsadm(8).
    SVC027 "no-virtual-service" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: Vec<Finding> = facts
        .losses("SVC027")
        .into_iter()
        .map(|loss| {
            let (protocol, vip) = (loss.flows[0].protocol, loss.hop.dst);
            let router = facts.translation(loss.flows[0]).map(|(router, ..)| facts.name(Some(router)));
            let also = router.map_or_else(String::new, |router| format!("; on {router}: to which port does it translate?"));
            let finding = loss.finding(facts, summary(facts, loss.host, vip, "a reset"), &format!("{}{also}", settle(facts, loss.host)));
            complete(facts, finding, loss.host, protocol, vip).on(ids(&loss.flows))
        })
        .collect();
    let mut silent: BTreeMap<(HostId, String), Vec<TurnedAway<'_>>> = BTreeMap::new();
    for turned in turned_away(facts) {
        if turned.flow.protocol == Protocol::Udp && !is_service(facts, Protocol::Udp, turned.hop.dst) {
            silent.entry((turned.host, turned.hop.dst.to_string())).or_default().push(turned);
        }
    }
    found.extend(silent.values().filter_map(|turned| udp(facts, turned)));
    Outcome::or_need(found, need(facts))
}

fn udp(facts: &Facts<'_>, turned: &[TurnedAway<'_>]) -> Option<Finding> {
    let first = turned.first()?;
    let (name, vip) = (facts.name(Some(first.host)), first.hop.dst);
    let mut open = vec!["SVC002", "SVC022", "SVC001", "SVC015", "SVC005"];
    if first.role == Role::Unknown {
        open.extend(["NET002", "SVC004"]);
    }
    let summary = summary(facts, first.host, vip, "ICMP port unreachable");
    let finding = Finding::new(name, Severity::Broken, first.confidence, summary, facts.error(first.error))
        .and([facts.seen(first.hop)])
        .unless(&open, settle(facts, first.host))
        .on(turned.iter().map(|t| t.flow.id));
    Some(complete(facts, finding, first.host, Protocol::Udp, vip))
}

fn summary(facts: &Facts<'_>, host: HostId, vip: Endpoint, how: &str) -> String {
    format!("{} refuses requests for {vip} itself, with {how}: no virtual service there takes them.", facts.name(Some(host)))
}

fn settle(facts: &Facts<'_>, host: HostId) -> String {
    format!("on {}: `ipvsadm -ln`, or a snapshot", facts.name(Some(host)))
}

/// Adds what the user's rules say, and the remedy.
fn complete(facts: &Facts<'_>, finding: Finding, host: HostId, protocol: Protocol, vip: Endpoint) -> Finding {
    let service = service_option(protocol, vip);
    let said: Option<Evidence> = (!facts.hints.rules.is_empty()).then(|| match rule_for(facts, protocol, vip) {
        Some(_) => stated(format!("{service} is among the rules: are they loaded?")),
        None => stated(format!("there is no rule for {service}")),
    });
    let mend = Remedy::new(
        facts.name(Some(host)),
        format!("ipvsadm -A {service} -s rr && ipvsadm -a {service} -r RIP:{} -m  # -g for direct routing, -i for a tunnel", vip.port),
        "ipvsadm-save -n > /etc/sysconfig/ipvsadm && systemctl enable ipvsadm (Debian: /etc/ipvsadm.rules), or keepalived.conf",
        format!("ipvsadm -D {service}"),
    );
    finding.and(said).mend([mend])
}

/// A refusal whose origin was not captured.
fn need(facts: &Facts<'_>) -> Option<String> {
    let refused = |f: &&Flow| f.director.is_none() && f.protocol == Protocol::Tcp && f.state == FlowState::Refused;
    let from_afar =
        |f: &Flow| f.reply.first().is_some_and(|hop| hop.first == PacketKind::Reset && !super::super::facts::is_initial(hop.ttl));
    facts.flows().filter(refused).any(from_afar).then(|| "a capture on the director".to_string())
}

/// On the director: an empty table, or none for an address that real servers hold.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (at, host) in site.playing(Role::Director) {
        let Some(table) = host.ipvs.as_ref() else {
            checks.needs(&host.name, format!("its IPVS table: {}", host.why_absent("ipvs")));
            continue;
        };
        if !table.services.is_empty() {
            // Whether they are those that clients ask for, packets tell: nothing is excluded.
            continue;
        }
        // One that waits may be loaded with nothing until its turn.
        let waits = site.playing(Role::Director).any(|(other, h)| other != at && h.ipvs.as_ref().is_some_and(|t| !t.services.is_empty()));
        if waits {
            checks.passed(&host.name, "another director has the services");
            continue;
        }
        let held = site
            .fleet
            .members
            .iter()
            .filter(|m| m.role == Role::RealServer)
            .flat_map(|m| m.host.aside())
            .map(|a| a.addr.addr())
            .find(|a| host.address(*a).is_some());
        let what = held.map_or_else(
            || "requests are refused by its own TCP".to_string(),
            |vip| format!("requests for {vip}, which real servers hold, are refused"),
        );
        let vip = held.map_or_else(|| "VIP".to_string(), |a| a.to_string());
        let method = if held.is_some() { "-g" } else { "-m" };
        let saved = host.saved.as_ref().and_then(|s| s.services_file.clone());
        let now = match &saved {
            Some(file) if file.contains("keepalived") => "systemctl restart keepalived".to_string(),
            Some(file) => format!("ipvsadm -R < {file}"),
            None => format!("ipvsadm -A -t {vip}:PORT -s rr; ipvsadm -a -t {vip}:PORT -r RIP:PORT {method}"),
        };
        let remedy = crate::finding::Remedy::new(
            &host.name,
            now,
            "`ipvsadm -Sn > /etc/sysconfig/ipvsadm` and its unit enabled, or keepalived",
            "ipvsadm -C",
        );
        let summary = format!("The IPVS table is empty: {what}.");
        checks.failed(&host.name, proven(host, Severity::Broken, summary, "no service", "ipvsadm -Sn").mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{REFUSE, World};
    use super::*;
    use crate::finding::Confidence;

    /// A machine that is no director's has no services.
    #[test]
    fn a_check_of_a_stopped_server_is_no_outage() {
        let served = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        let mut w = World::nat();
        w.talk(&served, "client director web1", "web1 director client");
        let check = World::tcp("10.2.0.1:50001", "10.2.0.12:80");
        w.syn(&check, "director web2", 1);
        w.carry(&check, true, REFUSE, b"", "web2 director");
        w.healthy();
    }

    #[test]
    fn the_director_resets() {
        let mut w = World::nat();
        for port in [40001, 40002] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80");
            w.syn(&c, "client director", 1);
            w.carry(&c, true, REFUSE, b"", "director client");
        }
        let found = w.expect(&SVC027, Confidence::Likely, "director");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Broken, &[1, 2][..]));
        assert!(found.alternatives.contains(&"SVC005"));
        let w = w.ipvs("-A -t 10.1.0.1:8080 -s rr\n");
        let found = w.finding(&SVC027);
        assert!(found.evidence().iter().any(|e| matches!(e, Evidence::Statement { what, .. } if what.contains("no rule"))));
    }

    #[test]
    fn a_router_that_translates_to_the_wrong_port() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:8080");
        w.syn(&c, "client router director", 1);
        w.carry(&c, true, REFUSE, b"", "director router client");
        let found = w.expect(&SVC027, Confidence::Likely, "director");
        assert_eq!(found.alternatives[0], "NET002");
        assert!(found.settle.is_some_and(|settle| settle.contains("on router")));
    }

    /// Captured without names, with two machines beside it: nothing says that it was meant to balance.
    #[test]
    fn a_stranger_that_refuses() {
        let mut w = World::dr().plug("other.eth0", "int", "10.2.0.66");
        w.who_has("router", "int", "10.2.0.100", &["other"]);
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, "client router other", 1);
        w.carry(&c, true, REFUSE, b"", "other router client");
        w.without(&["client", "router", "director"]).expect(&SVC027, Confidence::Possible, "10.2.0.100");
    }

    /// Without ARP nobody knows which of both has the address by right.
    #[test]
    fn an_address_that_another_director_serves() {
        let mut w = World::dr().plug("backup.eth0", "int", "10.2.0.66");
        let c = |port: u16| World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
        w.talk(&c(40001), "client router director web1", "web1 router client");
        w.syn(&c(40002), "client router backup", 1);
        w.carry(&c(40002), true, REFUSE, b"", "backup router client");
        let found = w.expect(&SVC027, Confidence::Possible, "backup");
        assert_eq!(found.alternatives[..2], ["HA001", "ARP007"]);
    }

    #[test]
    fn a_service_for_another_port() {
        let mut w = World::nat();
        let served = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&served, "client director web1", "web1 director client");
        let c = World::tcp("10.1.0.100:40002", "10.1.0.1:443");
        w.syn(&c, "client director", 1);
        w.carry(&c, true, REFUSE, b"", "director client");
        // It may be closed on purpose.
        let found = w.expect(&SVC027, Confidence::Possible, "director");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Risky, &[2][..]));
    }

    #[test]
    fn nobody_listens_for_udp() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let c = World::udp("10.1.0.100:40001", "10.1.0.1:53");
        w.carry(&c, false, 0, b"question", "client director");
        w.icmp(&c, false, (3, 3, 0), "10.1.0.1", "10.1.0.100", "director", "director client");
        let found = w.expect(&SVC027, Confidence::Likely, "director");
        assert!(found.alternatives.contains(&"SVC002") && found.remedy[0].command.contains("-u 10.1.0.1:53"));
    }

    /// The question was asked before the capture began; its answer looks like one.
    #[test]
    fn a_client_that_refuses_a_late_answer() {
        let mut w = World::nat();
        w.who_has("director", "ext", "10.1.0.100", &["client"]);
        let c = World::udp("10.1.0.77:53", "10.1.0.100:40001");
        w.carry(&c, false, 0, b"answer", "director client");
        w.icmp(&c, false, (3, 3, 0), "10.1.0.100", "10.1.0.77", "client", "client director");
        w.deny(&SVC027);
        w.unnamed().deny(&SVC027);
    }

    #[test]
    fn a_foreign_host_with_the_same_address_is_another_story() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w.who_has("web2", "int", "10.1.0.1", &["web1"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80");
        w.syn(&c, "client director", 1);
        w.carry(&c, true, REFUSE, b"", "director client");
        w.deny(&SVC027);
    }

    #[test]
    fn a_server_that_refuses_through_the_director() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        w.carry(&c, true, REFUSE, b"", "web1 director client");
        w.deny(&SVC027);
        // At the client alone the reset has come from further away; whose it was is open.
        let w = w.without(&["director", "web1", "web2"]);
        w.deny(&SVC027);
        assert!(w.cannot_judge(&SVC027));
    }
}
