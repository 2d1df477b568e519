//! The director's forwarding method does not fit the real servers.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Bypass, bypassed};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::ForwardingMethod;
use crate::net::{Endpoint, Protocol};
use crate::trace::{Flow, Method};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// One of three. Masquerading towards real servers that are prepared for direct routing: the request is translated, and the answer
    /// goes straight to the router in front of the director. Direct routing towards real servers that are prepared for NAT: the request
    /// arrives with the VIP still in it, and all of them stay silent. Or both methods in one service: connections fail in turn.
    ///
    /// # Why it breaks
    /// The method is a property of each destination in the director's table; the real servers need the VIP on `lo` for one and a gateway
    /// for the other. `ipvsadm -a` without `-g`, `-i` or `-m` means `-g`, direct routing.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -ln`, column Forward (Masq, Route, Tunnel). On a real server: `ip addr show dev lo`, `ip route`.
    ///
    /// # Remedy
    /// Set the method that the servers are prepared for: `ipvsadm -e … -m` or `-g`.
    ///
    /// # When it is not a fault
    /// Services with mixed methods on purpose, where each server is prepared for its own: then no connection fails.
    ///
    /// # Reproduce
    /// A NAT lab, `ipvsadm -a -t VIP:80 -r RIP` without `-m`.
    ///
    /// # References
    /// ipvsadm(8): packet-forwarding-method; kernel `include/uapi/linux/ip_vs.h`, `IP_VS_CONN_F_FWD_MASK`.
    NAT007 "forward-method-mismatch" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found = mixed(facts);
    for b in bypassed(facts, Bypass::InFront) {
        let (names, next, flow) = (b.names(facts), b.next(facts), b.flows[0]);
        let director = facts.name(flow.director);
        let (are, verb) = if b.servers.len() == 1 { ("is", "sends its") } else { ("are", "send their") };
        let summary = format!(
            "{director} masquerades, but {names} {verb} answers straight to {next}, as for direct routing: {names} {are} not prepared for NAT, or the method is wrong."
        );
        let finding = b.finding(facts, Severity::Broken, Confidence::Likely, summary);
        let settle = format!("on {director}: `ipvsadm -ln`; on {names}: is {} on lo?", vip(flow));
        found.push(finding.unless(&["NAT002", "DR005"], settle).mend(edits(facts, &b.flows, "-g", "-m")));
    }
    for silence in facts.silences("NAT007") {
        let (flow, names) = (silence.flows[0], silence.names(facts));
        let director = facts.name(flow.director);
        let (get, stay) = if silence.servers.len() == 1 { ("gets", "stays") } else { ("get", "stay") };
        let mut finding = silence.finding(facts, Severity::Broken, &format!("`ip addr show dev lo`; on {director}: `ipvsadm -ln`"));
        finding.summary = format!(
            "{names} {get} packets to {} (direct routing) from a director between two networks, and {stay} silent, as servers prepared for NAT do.",
            vip(flow)
        );
        found.push(finding.mend(edits(facts, &silence.flows, "-m", "-g")));
    }
    found.into()
}

/// Services whose director translates some connections and not others, of which some fail.
fn mixed(facts: &Facts<'_>) -> Vec<Finding> {
    let mut services: BTreeMap<(Protocol, Endpoint), Vec<&Flow>> = BTreeMap::new();
    for flow in facts.flows().filter(|f| f.director.is_some()) {
        if let Some(vip) = flow.vip {
            services.entry((flow.protocol, vip)).or_default().push(flow);
        }
    }
    let of = |flows: &[&'_ Flow], method: Method| -> Option<u32> { flows.iter().find(|f| f.method == method).map(|f| f.id) };
    let mixed = services.into_values().filter(|flows| of(flows, Method::Nat).is_some() && of(flows, Method::DirectRouting).is_some());
    let findings = mixed.filter_map(|flows| {
        let failing: Vec<&Flow> = flows.iter().copied().filter(|f| !f.state.is_complete()).collect();
        let wrong = failing.first()?;
        let right = flows.iter().find(|f| f.method != wrong.method)?;
        let hop = |f: &Flow| f.director.and_then(|d| f.request.sent_by(d)).map(|hop| facts.seen(hop));
        let (option, before) = if wrong.method == Method::Nat { ("-g", "-m") } else { ("-m", "-g") };
        let summary = format!("{} has destinations with different methods; those with {} fail.", vip_port(wrong), wrong.method);
        let found = Finding::new(facts.name(wrong.director), Severity::Broken, Confidence::Certain, summary, hop(wrong)?);
        Some(found.and(hop(right)).mend([edit(facts, wrong, option, before)]).on(ids(&failing)))
    });
    findings.collect()
}

fn vip(flow: &Flow) -> String {
    flow.vip.map_or_else(|| "the VIP".to_string(), |vip| vip.addr.to_string())
}

fn vip_port(flow: &Flow) -> String {
    flow.vip.map_or_else(|| "the service".to_string(), |vip| vip.to_string())
}

/// Each server of some flows, once.
fn edits(facts: &Facts<'_>, flows: &[&Flow], method: &str, before: &str) -> Vec<Remedy> {
    let mut all: Vec<Remedy> = flows.iter().map(|flow| edit(facts, flow, method, before)).collect();
    all.sort_unstable_by(|a, b| a.command.cmp(&b.command));
    all.dedup();
    all
}

fn edit(facts: &Facts<'_>, flow: &Flow, method: &str, before: &str) -> Remedy {
    let kind = if flow.protocol == Protocol::Udp { "-u" } else { "-t" };
    let server = flow.real_server.map_or_else(|| format!("{}:{}", facts.server_address(flow), flow.service.port), |rs| rs.to_string());
    let command = |method: &str| format!("ipvsadm -e {kind} {} -r {server} {method}", vip_port(flow));
    let keep = "the same for each server, then `ipvsadm -Sn > /etc/sysconfig/ipvsadm`; with keepalived `lb_kind NAT|DR`";
    Remedy::new(facts.name(flow.director), command(method), keep, command(before))
}

/// On the hosts: the director's method is not the one that the real server was made for.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let mut methods: Vec<ForwardingMethod> = service.destinations.iter().filter_map(|d| d.forwarding()).collect();
        methods.sort_unstable();
        methods.dedup();
        // A server that was made for another method says which one is wrong, below.
        if methods.len() < 2 || service.destinations.iter().any(|d| site.is_mismatched(service, d.address.addr)) {
            continue;
        }
        let summary =
            format!("{} has real servers of different methods: each wants another gateway, and one is easily forgotten.", service.name());
        let lines: Vec<String> =
            service.destinations.iter().map(|d| format!("-r {} {}", d.address, d.forwarding().map_or("", |m| m.option()))).collect();
        let odd = service.destinations.iter().find(|d| d.forwarding() != service.destinations[0].forwarding());
        let line = |option: &str| {
            odd.map_or_else(String::new, |d| format!("ipvsadm -e {} -r {} {option} -w {}", service.option(), d.address, d.weight))
        };
        let first = service.destinations[0].forwarding().map_or("-g", |m| m.option());
        let remedy = crate::finding::Remedy::new(
            &host.name,
            format!("{} # if {} is meant for all", line(first), first),
            "one lvs_method for the service in keepalived.conf, or `ipvsadm -Sn > /etc/sysconfig/ipvsadm`",
            line(odd.and_then(|d| d.forwarding()).map_or("-g", |m| m.option())),
        );
        let mut found = proven(host, Severity::Risky, summary, lines.join(", "), "ipvsadm -Sn").mend([remedy]);
        found.confidence = crate::finding::Confidence::Likely;
        checks.failed(&host.name, found);
    }
    site.answers(checks, "NAT007", |host, duty, story| {
        let nat = duty.method == ForwardingMethod::Nat;
        let (is, has, wanted) = match nat {
            true => ("-m (NAT)", "has the VIP beside its cards and does not answer through the director, as for direct routing", "-g"),
            false => ("-g (direct routing)", "does not have the VIP, and answers through the director, as for NAT", "-m"),
        };
        let summary = format!("The director hands {} on with {is}, but the real server {has}.", duty.service);
        let director = duty.director.map_or("the director", |at| site.host(at).name.as_str());
        let service = site
            .directed()
            .find(|(d, s)| d.name == director && s.name() == duty.service)
            .map_or("-t VIP:PORT".to_string(), |(_, s)| s.option());
        let server = site.destination_of(duty);
        let was = if nat { "-m" } else { "-g" };
        let remedy = crate::finding::Remedy::new(
            director,
            format!("ipvsadm -e {service} -r {server} {wanted}"),
            "the same method in keepalived.conf (lb_kind), or `ipvsadm -Sn > /etc/sysconfig/ipvsadm`",
            format!("ipvsadm -e {service} -r {server} {was}"),
        );
        story.fault(host, Severity::Broken, summary).mend([remedy])
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::*;

    #[test]
    fn masquerading_towards_servers_that_answer_directly() {
        let mut w = World::dr();
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80")
                .dnat("router", "10.2.0.100:80")
                .dnat("director", &format!("{rip}:80"));
            w.who_has("router", "int", "10.2.0.100", &["director"]);
            w.syn(&c, &format!("client router director {web}"), 1);
            w.carry(&c, true, SYN_ACK, b"", &format!("{web} router"));
            w.syn(&c, &format!("client router director {web}"), 2);
        }
        let found = w.expect(&NAT007, Confidence::Likely, "web1, web2");
        assert!(found.alternatives.contains(&"NAT002"));
        assert!(found.remedy[0].command.ends_with("-g"), "{}", found.remedy[0].command);
    }

    #[test]
    fn direct_routing_towards_servers_prepared_for_nat() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            w.who_has("director", "int", rip, &[web]);
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80");
            w.syn(&c, &format!("client director {web}"), 3);
        }
        let found = w.expect(&NAT007, Confidence::Likely, "web1, web2");
        assert!(found.alternatives.contains(&"DR001"));
        assert!(found.remedy[0].command.ends_with("-m"));
    }

    #[test]
    fn two_methods_in_one_service() {
        let mut w = World::nat();
        let good = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&good, "client director web1", "web1 director client");
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let bad = World::tcp("10.1.0.100:40002", "10.1.0.1:80");
        w.syn(&bad, "client director web2", 3);
        let found = w.diagnose().findings.into_iter().find(|f| f.code == "NAT007").expect("mixed methods");
        assert_eq!((found.confidence, found.subject.as_str()), (Confidence::Certain, "director"));
        assert!(found.remedy[0].command.ends_with("-m"), "{}", found.remedy[0].command);
    }

    #[test]
    fn two_methods_that_both_serve() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let nat = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&nat, "client director web1", "web1 director client");
        let dr = World::tcp("10.1.0.100:40002", "10.1.0.1:80");
        w.talk(&dr, "client director web2", "web2 director client");
        w.deny(&NAT007);
    }
}
