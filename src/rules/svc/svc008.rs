//! Persistence: a client comes to the same server again, which is meant so.

use super::super::facts::{list, plural};
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use super::affinity::{Affinity, affinities};
use super::{service_option, stated};
use crate::finding::{Confidence, Evidence, Finding, Need, Outcome, Remedy, Severity};
use crate::net::Protocol;

rule! {
    /// # What it sees
    /// All connections of a client go to one server, although the service has several; each new connection of another client may go
    /// elsewhere. With the director's rules (`--ipvs`) it says whether the service is persistent.
    ///
    /// # Why it breaks
    /// Nothing breaks. A persistent service (`-p`, keepalived's persistence_timeout) keeps a client at its server for the timeout, whatever
    /// the scheduler. One who tests with one client takes that for a scheduler that does not balance. It hurts when the server is dead: the
    /// client stays with it until the timeout is over, or the server is taken out.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -ln` shows `persistent N`; `ipvsadm -lnc` shows a template, the row with client port 0.
    ///
    /// # Remedy
    /// None, if it is wanted. Without it: `ipvsadm -E` with the same scheduler and no `-p`, or drop persistence_timeout. Against dead
    /// servers: a health check, and `net.ipv4.vs.expire_quiescent_template=1`.
    ///
    /// # When it is not a fault
    /// Almost always. With a router in front that hides its clients behind one address, all of them are one client to the director (NET003).
    ///
    /// # Reproduce
    /// `ipvsadm -A -t VIP:80 -s rr -p 50`, two servers, several requests from one client.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_sched_persist`; ipvsadm(8), `-p`.
    SVC008 "persistence-looks-like-broken-rr" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    if facts.trace.flow_count() > facts.trace.flows.len() && facts.flows().any(|f| f.director.is_some()) {
        return Outcome::NotJudged(Need("fewer connections: a filter for one client, `host CLIENT`".to_string()));
    }
    affinities(facts).iter().filter(|a| !a.is_hashed()).map(|a| finding(facts, a)).collect::<Vec<_>>().into()
}

fn finding(facts: &Facts<'_>, affinity: &Affinity<'_>) -> Finding {
    let (name, told) = (facts.name(Some(affinity.director)), affinity.is_persistent());
    let stuck = affinity.stuck(facts).filter(|_| told);
    let confidence = match (told, stuck) {
        (true, None) => Confidence::Certain,
        (true, Some(_)) => Confidence::Likely,
        (false, _) if affinity.surprise >= 8.0 => Confidence::Likely,
        (false, _) => Confidence::Possible,
    };
    let severity = if stuck.is_some() { Severity::Degraded } else { Severity::Note };
    let service = service_option(affinity.protocol, affinity.vip);
    let summary = match stuck {
        Some(at) => format!(
            "{} comes to {} again and again, which does not serve it: persistence holds it there.",
            affinity.clients[at].0,
            facts.name(affinity.clients[at].1[0].server_host)
        ),
        None => format!("Each client of {} stays with one server: that is persistence, not a scheduler that fails.", affinity.vip),
    };
    let said = affinity.rule.map(|rule| match rule.persistence {
        Some(timeout) => stated(format!("{service} is persistent for {timeout} s")),
        None => stated(format!("{service} is scheduled by {}", rule.scheduler)),
    });
    let mut found = Finding::new(name, severity, confidence, summary, stays(facts, affinity, stuck.unwrap_or(0)))
        .and((0..affinity.clients.len()).filter(|at| *at != stuck.unwrap_or(0)).take(2).map(|at| stays(facts, affinity, at)))
        .and(said);
    if !told {
        found = found.unless(&["SVC006"], format!("on {name}: `ipvsadm -ln` (persistent, or scheduler sh), or a snapshot"));
    } else if stuck.is_some() {
        found = found.unless(&["SVC010"], format!("on {name}: `ipvsadm -ln` (the weight of the dead server), or a snapshot"));
    }
    if stuck.is_some() {
        let setting = "net.ipv4.vs.expire_quiescent_template";
        found = found.mend([Remedy::new(
            name,
            format!("sysctl -w {setting}=1  # then give the dead server weight 0"),
            format!("{setting} = 1 in /etc/sysctl.d/90-lvs.conf, and a health check in keepalived.conf"),
            format!("sysctl -w {setting}=0"),
        )]);
    }
    found.on(affinity.clients.iter().flat_map(|(_, flows)| flows.iter().map(|f| f.id)))
}

/// The connections of one client as evidence.
pub(super) fn stays(facts: &Facts<'_>, affinity: &Affinity<'_>, at: usize) -> Evidence {
    let (client, flows) = &affinity.clients[at];
    let server = facts.name(flows[0].server_host);
    let hops: Vec<&crate::trace::Hop> = flows.iter().filter_map(|f| facts.at_director(f)).collect();
    let point = hops.first().map_or(0, |hop| hop.point);
    let frames: Vec<u64> = hops.iter().filter(|hop| hop.point == point).map(|hop| hop.frame).take(8).collect();
    let ports: Vec<String> = flows.iter().take(4).map(|f| f.client.port.to_string()).collect();
    let more = if flows.len() > 4 { " and more" } else { "" };
    let kind = if affinity.protocol == Protocol::Udp { "conversation" } else { "connection" };
    Evidence::frames(point, frames, format!("{client}: {} (ports {}{more}), all to {server}", plural(flows.len(), kind), list(&ports)))
}

/// So many connections of one client alone, and one may wonder why the other servers get none.
const WONDROUS: usize = 8;

/// In the connection table: a persistent service all of whose connections are one client's, at one of several servers.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let Some(timeout) = service.persistence else {
            checks.passed(&host.name, format!("{} is not persistent", service.name()));
            continue;
        };
        let Some(table) = host.ipvs.as_ref().filter(|t| t.connections.is_some()) else {
            super::need_connections(host, checks);
            continue;
        };
        let servers: Vec<_> = service.destinations.iter().filter(|d| d.weight > 0).collect();
        let all: Vec<_> = service.destinations.iter().flat_map(|d| super::connections_of(table, service, d.address)).collect();
        let Some(first) = all.first().filter(|first| {
            let same = all.iter().all(|c| (c.client.addr, c.destination) == (first.client.addr, first.destination));
            same && all.len() >= WONDROUS && servers.len() > 1
        }) else {
            checks.passed(&host.name, format!("{} keeps a client at its server for {timeout} s", service.name()));
            continue;
        };
        let summary = format!(
            "All {} connections to {} are at {}: they are one client's, {}, and persistence keeps it there for {timeout} s.",
            all.len(),
            service.name(),
            first.destination,
            first.client.addr
        );
        let option = service.option();
        let flags = if service.flags.is_empty() { String::new() } else { format!(" -b {}", service.flags.join(",")) };
        let remedy = Remedy::new(
            &host.name,
            format!("ipvsadm -E {option} -s {}{flags}", service.scheduler),
            "no persistence_timeout in keepalived.conf, or `ipvsadm -Sn > /etc/sysconfig/ipvsadm`; nothing, if it is wanted",
            format!("ipvsadm -E {option} -s {}{flags} -p {timeout}", service.scheduler),
        );
        let found = proven(host, Severity::Note, summary, format!("{option} -s {} -p {timeout}", service.scheduler), "ipvsadm -Sn");
        checks.failed(&host.name, found.mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::super::super::testing::{REFUSE, World};
    use super::*;

    fn served(w: &mut World, client: u8, port: u16, web: u8) {
        let c = World::tcp(&format!("10.1.0.{client}:{port}"), "10.1.0.1:80").dnat("director", &format!("10.2.0.1{web}:80"));
        w.talk(&c, &format!("client director web{web}"), &format!("web{web} director client"));
    }

    fn rules(options: &str) -> String {
        let server = |web: u8| format!("-a -t 10.1.0.1:80 -r 10.2.0.1{web}:80 -m -w 1\n");
        format!("-A -t 10.1.0.1:80 {options}\n{}{}", server(1), server(2))
    }

    #[test]
    fn one_client_in_the_table() {
        let with = |client: &str, times: usize| -> [Sketch; 1] {
            let line = |n: usize| format!("tcp 10.9.0.7:{} 10.0.0.100:80 10.0.0.11:80 FIN_WAIT 50", 40000 + n);
            let mut lines: Vec<String> = (0..times).map(line).collect();
            lines.push(format!("tcp {client}:40100 10.0.0.100:80 10.0.0.11:80 FIN_WAIT 50"));
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let rules = "-A -t 10.0.0.100:80 -s rr -p 50\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g\n-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g\n";
            [sketch::dr()[1].clone().ipvs(rules).connections(&lines)]
        };
        let found = sketch::expect(&with("10.9.0.7", 8), &SVC008, Severity::Note, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "ipvsadm -E -t 10.0.0.100:80 -s rr");
        sketch::passes(&with("10.9.0.8", 8), &SVC008, "director");
        sketch::passes(&with("10.9.0.7", 3), &SVC008, "director");
        sketch::passes(&sketch::dr(), &SVC008, "director");
    }

    #[test]
    fn clients_that_stay() {
        let mut w = World::nat();
        for round in 0..5 {
            for client in [100, 101, 102] {
                served(&mut w, client, 40000 + round * 10 + u16::from(client - 100), 1 + client % 2);
            }
        }
        let found = w.expect(&SVC008, Confidence::Likely, "director");
        assert_eq!((found.severity, found.alternatives.as_slice()), (Severity::Note, &["SVC006"][..]));
        w.healthy();
        let w = w.ipvs(&rules("-s rr -p 50"));
        assert!(w.expect(&SVC008, Confidence::Certain, "director").alternatives.is_empty());
    }

    #[test]
    fn one_client_needs_the_rules() {
        let mut w = World::nat();
        for port in 0..4 {
            served(&mut w, 100, 40000 + port, 1);
        }
        // One server is all that packets show.
        w.deny(&SVC008);
        let w = w.ipvs(&rules("-s rr -p 50"));
        assert_eq!(w.expect(&SVC008, Confidence::Certain, "director").severity, Severity::Note);
    }

    #[test]
    fn a_scheduler_at_work_is_no_persistence() {
        let mut w = World::nat();
        for port in 0..12u16 {
            served(&mut w, 100 + (port % 3) as u8, 40000 + port, 1 + (port % 2) as u8);
        }
        w.deny(&SVC008);
    }

    #[test]
    fn a_client_held_at_a_dead_server() {
        let mut w = World::nat();
        for port in 0..3 {
            served(&mut w, 101, 40000 + port, 2);
            let c = World::tcp(&format!("10.1.0.100:{}", 41000 + port), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
            w.syn(&c, "client director web1", 1);
            w.carry(&c, true, REFUSE, b"", "web1 director client");
            w.wait(1.0);
        }
        let w = w.ipvs(&rules("-s rr -p 300"));
        let found = w.expect(&SVC008, Confidence::Likely, "director");
        assert_eq!(found.severity, Severity::Degraded);
        assert!(found.summary.contains("10.1.0.100"), "{}", found.summary);
    }
}
