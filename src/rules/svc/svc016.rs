//! Two ports of one address, each held to a real server by itself.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Remedy, Severity};
use crate::host::{Host, Service};
use std::collections::BTreeSet;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// Two persistent services with one virtual address and different ports, before the same real servers.
    ///
    /// # Why it breaks
    /// Each service holds a client by its own template. A client may be held to one real server on port 80 and to another one on port 443;
    /// what the first knows of its session, the second does not.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -Lnc | grep ':0 '`: templates of one client with different real servers.
    ///
    /// # Remedy
    /// One persistent service by firewall mark for all ports, or one for port 0; then one template holds the client at one real server.
    ///
    /// # When it is not a fault
    /// Where the ports share no sessions, or the servers keep them together. `sh` and `mh` without their port flags pick the same server for
    /// both by themselves.
    ///
    /// # Reproduce
    /// Two services with `-p`, on ports 80 and 443; a client that uses both.
    ///
    /// # References
    /// ipvsadm(8), section NOTES, firewall marks; LVS-HOWTO, chapter on persistence.
    SVC016 "multi-port-affinity-split" check hosts
}

/// Whether ports share sessions, no packet shows.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// In the table.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    let all: Vec<(&Host, &Service)> = site.directed().filter(|(_, s)| s.persistence.is_some() && s.address.is_some()).collect();
    let mut seen: Vec<(&str, IpAddr)> = Vec::new();
    for (host, service) in &all {
        let Some(vip) = service.vip().filter(|vip| !seen.contains(&(host.name.as_str(), *vip))) else { continue };
        seen.push((&host.name, vip));
        let same = |s: &Service| s.vip() == Some(vip) && s.protocol == service.protocol && servers(s) == servers(service);
        let group: Vec<&Service> = all.iter().filter(|(h, s)| h.name == host.name && same(s)).map(|(_, s)| *s).collect();
        // A service for every port takes what no other one has.
        if group.len() < 2 || servers(service).len() < 2 || group.iter().all(|s| picks_alike(s)) {
            checks.passed(&host.name, format!("clients of {vip} are held to one real server"));
            continue;
        }
        let ports: Vec<String> = group.iter().filter_map(|s| s.address).map(|at| at.port.to_string()).collect();
        let words = super::super::facts::list(&ports);
        let summary = format!("Ports {words} of {vip} hold a client each by itself: it may be at another real server on each.");
        let fact = group.iter().map(|s| format!("{} -p {}", s.option(), s.persistence.unwrap_or(0))).collect::<Vec<_>>().join(", ");
        let found = proven(host, Severity::Note, summary, fact, "ipvsadm -Sn");
        checks.failed(&host.name, found.mend(by_mark(host, vip, &group, &ports)));
    }
}

fn servers(service: &Service) -> BTreeSet<IpAddr> {
    service.destinations.iter().filter(|d| d.weight > 0).map(|d| d.address.addr).collect()
}

/// The client's address alone decides.
fn picks_alike(service: &Service) -> bool {
    matches!(service.scheduler.as_str(), "sh" | "mh") && !service.flags.iter().any(|flag| flag.ends_with("-port"))
}

/// One service by mark. Only where real servers are asked at the ports that were dialled, for a mark has no port to translate to.
fn by_mark(host: &Host, vip: IpAddr, group: &[&Service], ports: &[String]) -> Option<Remedy> {
    let kept = |s: &&Service| s.destinations.iter().all(|d| s.address.is_some_and(|at| at.port == d.address.port));
    let service = group.first().filter(|_| group.iter().all(|s| kept(&s)))?;
    let taken: Vec<u32> = host.ipvs.iter().flat_map(|t| &t.services).filter_map(|s| s.fwmark).collect();
    let mark = (1..).find(|mark| !taken.contains(mark))?;
    let (tables, option) = if vip.is_ipv6() { ("ip6tables", format!("-f {mark} -6")) } else { ("iptables", format!("-f {mark}")) };
    let protocol = service.protocol.map_or_else(|| "tcp".to_string(), |p| p.to_string());
    let rule = format!("PREROUTING -d {vip} -p {protocol} -m multiport --dports {} -j MARK --set-mark {mark}", ports.join(","));
    let persistence = service.persistence.unwrap_or(300);
    let mut commands = vec![format!("ipvsadm -A {option} -s {} -p {persistence}", service.scheduler)];
    for destination in &service.destinations {
        let at = crate::net::Endpoint::new(destination.address.addr, 0);
        let method = destination.forwarding()?.option();
        commands.push(format!("ipvsadm -a {option} -r {at} {method} -w {}", destination.weight));
    }
    commands.push(format!("{tables} -t mangle -A {rule}"));
    Some(Remedy::new(
        &host.name,
        commands.join("; "),
        format!("`virtual_server fwmark {mark}` in keepalived.conf, or the saved rules of ipvsadm; the mark in those of {tables}"),
        format!("{tables} -t mangle -D {rule}; ipvsadm -D {option}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::*;
    use crate::finding::Confidence;

    fn site(rules: &str) -> [Sketch; 5] {
        dr_with("director", |d| d.ipvs(rules))
    }

    fn two(first: &str, second: &str) -> String {
        let service = |port: u16, how: &str| {
            format!(
                "-A -t 10.0.0.100:{port} {how}\n-a -t 10.0.0.100:{port} -r 10.0.0.11:{port} -g\n-a -t 10.0.0.100:{port} -r 10.0.0.12:{port} -g\n"
            )
        };
        service(80, first) + &service(443, second)
    }

    #[test]
    fn two_ports_with_templates_of_their_own() {
        let found = sketch::expect(&site(&two("-s rr -p 300", "-s rr -p 600")), &SVC016, Severity::Note, Confidence::Certain, "director");
        let command = &found.remedy[0].command;
        assert!(command.starts_with("ipvsadm -A -f 1 -s rr -p 300; ipvsadm -a -f 1 -r 10.0.0.11:0 -g -w 1; "), "{command}");
        assert!(command.ends_with("--dports 80,443 -j MARK --set-mark 1"), "{command}");
        // The same server by the client's address alone.
        sketch::passes(&site(&two("-s sh -p 300", "-s sh -p 300")), &SVC016, "director");
        // One server is everybody's; other servers are another application.
        let one = "-A -t 10.0.0.100:80 -s rr -p 300\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g\n\
            -A -t 10.0.0.100:443 -s rr -p 300\n-a -t 10.0.0.100:443 -r 10.0.0.11:443 -g\n";
        sketch::passes(&site(one), &SVC016, "director");
        let none = sketch::audit(&site(&two("-s rr -p 300", "-s rr")));
        assert!(none.findings.iter().all(|f| f.code != "SVC016"));
    }
}
