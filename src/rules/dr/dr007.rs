//! A destination port that direct routing cannot deliver to.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::{ForwardingMethod, Match, VirtualService};
use crate::net::Endpoint;
use crate::trace::{Flow, FlowState, Method, PacketKind};
use std::collections::{BTreeMap, BTreeSet};

rule! {
    /// # What it sees
    /// The director's rules (`--ipvs`) give a real server of a DR or tunnel service another port than the service's. In packets: the request
    /// arrives at the real server with the service's port, and is refused from there when nothing listens on it.
    ///
    /// # Why it breaks
    /// Direct routing and tunnels change nothing in the packet, ports included. `ipvsadm` corrects such a port silently; keepalived and
    /// other programs that speak netlink do not, so the table may show a port that is never used.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -ln`: do the ports of a Route or Tunnel destination equal the service's?
    ///
    /// # Remedy
    /// The same port on both sides, or a REDIRECT on the real server, or NAT mode.
    ///
    /// # When it is not a fault
    /// Services by firewall mark, and services with port 0.
    ///
    /// # Reproduce
    /// keepalived with `lb_kind DR`, a `real_server` with port 8080 in a `virtual_server` with port 80.
    ///
    /// # References
    /// ipvsadm `ipvsadm.c`, `parse_service` and its port check; kernel `ip_vs_xmit.c`, `ip_vs_dr_xmit`.
    DR007 "dr-port-remap" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: Vec<Finding> = facts.hints.rules.iter().filter_map(|service| finding(facts, service)).collect();
    let need = || "the director's rules: `--ipvs FILE`, from `ipvsadm -Sn`".to_string();
    if facts.hints.rules.is_empty() {
        found.extend(checked(facts));
    }
    Outcome::or_need(found, facts.hints.rules.is_empty().then(need))
}

/// A connection that a flow's director opened to its server's own address at another port, and that was accepted: it asks there whether the
/// server lives, and nowhere else. Health checkers try the port that the table names.
pub(in crate::rules) fn checked_elsewhere<'a>(facts: &Facts<'a>, flow: &Flow) -> Option<&'a Flow> {
    if !matches!(flow.method, Method::DirectRouting | Method::Tunnel) || flow.state != FlowState::Refused {
        return None;
    }
    let (director, server, vip) = (flow.director?, flow.server_host?, flow.vip?);
    let to_server = |f: &&Flow| {
        let own = f.director.is_none() && f.client_host == Some(director) && f.protocol == flow.protocol && f.service.addr != vip.addr;
        own && f.request.last().is_some_and(|hop| hop.to == Some(server))
    };
    // Another service of the same server has its own checks.
    let is_service = |port: u16| {
        facts.flows().any(|f| f.director == Some(director) && f.server_host == Some(server) && f.vip.is_some_and(|v| v.port == port))
    };
    let mut checks = facts.flows().filter(to_server).peekable();
    let first = *checks.peek()?;
    let elsewhere = |f: &Flow| f.service.port == first.service.port && f.service.port != vip.port && f.state.is_complete();
    (checks.all(elsewhere) && !is_service(first.service.port)).then_some(first)
}

/// Servers that refuse what the director hands on to the service's port, and are looked after at another one.
fn checked(facts: &Facts<'_>) -> Vec<Finding> {
    let refused: Vec<(&Flow, &Flow)> = facts.flows().filter_map(|f| Some((f, checked_elsewhere(facts, f)?))).collect();
    let mut by_service: BTreeMap<Option<Endpoint>, Vec<(&Flow, &Flow)>> = BTreeMap::new();
    for (flow, check) in refused {
        by_service.entry(flow.vip).or_default().push((flow, check));
    }
    by_service.into_iter().filter_map(|(vip, flows)| of_checks(facts, vip?, &flows)).collect()
}

fn of_checks(facts: &Facts<'_>, vip: Endpoint, flows: &[(&Flow, &Flow)]) -> Option<Finding> {
    let (flow, check) = flows.first()?;
    let names = facts.names(flows.iter().filter_map(|(f, _)| f.server_host));
    let director = facts.name(flow.director);
    let port = check.service.port;
    let summary = format!(
        "{director} looks after {names} at port {port} and hands requests on at port {}, where they are refused: only NAT changes ports.",
        vip.port
    );
    let reset = flow.reply.first()?;
    let accepted = check.reply.first().map(|hop| facts.seen_with(hop, &format!("port {port} is served")));
    let method = if flow.method == Method::Tunnel { "-i" } else { "-g" };
    let option = if flow.protocol == crate::net::Protocol::Udp { "-u" } else { "-t" };
    let line = |port: u16| {
        let servers: BTreeSet<String> = flows.iter().map(|(_, check)| Endpoint::new(check.service.addr, port).to_string()).collect();
        servers.iter().map(|at| format!("ipvsadm -a {option} {vip} -r {at} {method}")).collect::<Vec<_>>().join("; ")
    };
    let out = |port: u16| line(port).replace("ipvsadm -a", "ipvsadm -d").replace(&format!(" {method}"), "");
    let keep = "the port in keepalived.conf or in the saved rules, and a listener on it";
    let mended = Remedy::new(director, format!("{}; {}", out(port), line(vip.port)), keep, format!("{}; {}", out(vip.port), line(port)));
    Some(
        Finding::new(&names, Severity::Broken, Confidence::Likely, summary, facts.seen(reset))
            .and(accepted)
            .unless(&["DR012", "SVC004"], format!("on {director}: `ipvsadm -ln`: which ports have the real servers of {vip}?"))
            .mend([mended])
            .on(flows.iter().map(|(f, _)| f.id)),
    )
}

fn finding(facts: &Facts<'_>, service: &VirtualService) -> Option<Finding> {
    let Match::Endpoint(protocol, vip) = service.matches else { return None };
    let direct = |m: ForwardingMethod| matches!(m, ForwardingMethod::DirectRouting | ForwardingMethod::Tunnel);
    let server = service.real_servers.iter().find(|rs| direct(rs.method) && rs.port != vip.port && vip.port != 0)?;
    let of_service = |f: &&Flow| f.protocol == protocol && f.vip == Some(vip);
    let refused: Vec<&Flow> = facts.flows().filter(of_service).filter(|f| f.state == FlowState::Refused).collect();
    let served = facts.flows().filter(of_service).any(|f| f.state.is_complete());
    let severity = match (refused.is_empty(), served) {
        (false, _) => Severity::Broken,
        (true, true) => Severity::Note,
        (true, false) => Severity::Risky,
    };
    let kind = if server.method == ForwardingMethod::Tunnel { "tunnels" } else { "direct routing" };
    let summary = format!("{} is listed with port {}, but {kind} delivers to port {}.", server.addr, server.port, vip.port);
    let said = Evidence::Statement {
        by: "the director's rules".to_string(),
        what: format!("{vip} > {} {}", server.endpoint(), server.method.option()),
    };
    let reset = refused.first().and_then(|f| f.reply.hops.iter().find(|h| h.first == PacketKind::Reset));
    let option = if protocol == crate::net::Protocol::Udp { "-u" } else { "-t" };
    let (is, should) = (server.endpoint(), crate::net::Endpoint::new(server.addr, vip.port));
    let command = |old, new| format!("ipvsadm -d {option} {vip} -r {old}; ipvsadm -a {option} {vip} -r {new} {}", server.method.option());
    let keep = "the port in keepalived.conf or in the saved rules, and a listener on it";
    let mended = Remedy::new("the director", command(is, should), keep, command(should, is));
    let found = Finding::new(vip.to_string(), severity, Confidence::Certain, summary, said);
    Some(found.and(reset.map(|hop| facts.seen(hop))).mend([mended]).on(ids(&refused)))
}

/// In the table: a real server's port is not the service's, and only NAT can change it.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let Some(asked) = service.address.filter(|e| e.port != 0) else { continue };
        for d in service.destinations.iter().filter(|d| matches!(d.forwarding(), Some(m) if m != crate::ipvs::ForwardingMethod::Nat)) {
            if d.address.port == asked.port {
                checks.passed(&host.name, format!("{} keeps port {}", d.address.addr, asked.port));
                continue;
            }
            let protocol = service.protocol.unwrap_or(crate::net::Protocol::Tcp);
            let owner = site.fleet.owners(d.address.addr).first().map(|at| site.host(*at));
            let listens = |at| owner.and_then(|o| o.sockets.as_ref()).is_some_and(|all| all.iter().any(|s| s.accepts(protocol, at)));
            let (there, elsewhere) = (listens(asked), listens(d.address));
            let duty = site.duties.iter().find(|duty| duty.rip == Some(d.address.addr) && duty.service == service.name());
            if duty.zip(owner).is_some_and(|(duty, owner)| super::super::answers::redirects(owner, duty)) {
                checks.passed(&host.name, format!("{} translates port {} itself", d.address.addr, asked.port));
                continue;
            }
            if let Some(why) = duty.zip(owner).and_then(|(duty, owner)| super::super::answers::may_redirect(owner, duty)) {
                checks.needs(&host.name, why);
                continue;
            }
            let severity = if there { Severity::Note } else { Severity::Broken };
            let summary = format!(
                "{} is meant to serve {} at port {}, but packets arrive at port {}: only NAT changes ports.",
                d.address.addr,
                service.name(),
                d.address.port,
                asked.port
            );
            let option = service.option();
            let (right, method) = (crate::net::Endpoint::new(d.address.addr, asked.port), if d.method == "tun" { "-i" } else { "-g" });
            let remedy = match owner.filter(|_| elsewhere && !there) {
                // Nobody waits at the service's port: the real server itself can translate.
                Some(owner) => {
                    let tables = if asked.addr.is_ipv6() { "ip6tables" } else { "iptables" };
                    let rule =
                        format!("PREROUTING -d {} -p {protocol} --dport {} -j DNAT --to-destination {}", asked.addr, asked.port, d.address);
                    crate::finding::Remedy::new(
                        &owner.name,
                        format!("{tables} -t nat -A {rule}"),
                        format!("a server that listens at {asked}, and that port in keepalived.conf"),
                        format!("{tables} -t nat -D {rule}"),
                    )
                }
                None => crate::finding::Remedy::new(
                    &host.name,
                    format!("ipvsadm -d {option} -r {}; ipvsadm -a {option} -r {right} {method} -w {}", d.address, d.weight),
                    format!("the same port in keepalived.conf, and a server that listens at {}", asked.port),
                    format!("ipvsadm -d {option} -r {right}"),
                ),
            };
            checks.failed(
                &host.name,
                proven(host, severity, summary, format!("-a {option} -r {} {method}", d.address), "ipvsadm -Sn").mend([remedy]),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{REFUSE, World};
    use super::*;

    fn world(rules: &str) -> World {
        let mut w = World::dr().ipvs(rules);
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router director web1", 1);
        w.carry(&c, true, REFUSE, b"", "web1 router client");
        w
    }

    #[test]
    fn the_rules_name_another_port() {
        let found = world("-A -t 10.2.0.100:80 -s rr\n-a -t 10.2.0.100:80 -r 10.2.0.11:8080 -g -w 1\n").expect(
            &DR007,
            Confidence::Certain,
            "10.2.0.100:80",
        );
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Broken, &[1][..]));
    }

    #[test]
    fn the_same_port_is_right() {
        world("-A -t 10.2.0.100:80 -s rr\n-a -t 10.2.0.100:80 -r 10.2.0.11:80 -g -w 1\n").deny(&DR007);
    }

    #[test]
    fn without_rules_nothing_is_said() {
        let w = world("");
        assert!(w.cannot_judge(&DR007));
    }

    #[test]
    fn the_director_looks_after_another_port() {
        let mut w = world("");
        w.talk(&World::tcp("10.2.0.100:50001", "10.2.0.11:8080"), "director web1", "web1 director");
        let found = w.expect(&DR007, Confidence::Likely, "web1");
        assert_eq!(
            found.remedy[0].command,
            "ipvsadm -d -t 10.2.0.100:80 -r 10.2.0.11:8080; ipvsadm -a -t 10.2.0.100:80 -r 10.2.0.11:80 -g"
        );
        w.deny(&super::super::dr012::DR012);
        w.deny(&super::super::super::svc::svc004::SVC004);
        let mut same = w.clone();
        // It looks after that of the service, too: two services.
        same.talk(&World::tcp("10.2.0.100:50002", "10.2.0.11:80"), "director web1", "web1 director");
        same.deny(&DR007);
        // Somebody else may ask for anything.
        let mut other = world("");
        other.talk(&World::tcp("10.2.0.1:50001", "10.2.0.11:8080"), "router web1", "web1 router");
        other.deny(&DR007);
    }
}
