//! Source hashing: a client stays with its server for good.

use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::affinity::{Affinity, affinities};
use super::svc008::stays;
use super::{service_option, stated};
use crate::finding::{Confidence, Finding, Need, Outcome, Remedy, Severity};

rule! {
    /// # What it sees
    /// All connections of a client go to one server, and the director's rules (`--ipvs`) say that the scheduler is sh or mh. Without the
    /// rules that looks like persistence: SVC008, with this as its alternative.
    ///
    /// # Why it breaks
    /// As long as all servers live, nothing breaks. sh and mh hash the client's address to a server. If that server is dead or has weight
    /// 0, its clients are not moved: they get no answer, a refusal, or ICMP port unreachable (SVC002). Behind a router that hides its
    /// clients all of them are one address, and one server gets all the load. Kernels before 4.18 hashed only the last byte.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -ln` shows scheduler `sh`, and flags such as `(flag-1)` or `sh-fallback`.
    ///
    /// # Remedy
    /// The flag sh-fallback (mh-fallback) together with a health check that sets weight 0; or persistence, which forgets.
    ///
    /// # When it is not a fault
    /// When affinity is wanted, and servers that die are taken out.
    ///
    /// # Reproduce
    /// `ipvsadm -A -t VIP:80 -s sh`, two servers, one client; stop its server.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_sh.c`; ipvsadm(8), `-b`.
    SVC006 "sh-sticks-or-skews" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    if facts.hints.rules.is_empty() && facts.flows().any(|f| f.director.is_some()) {
        return Outcome::NotJudged(Need("the director's rules: `ipvsadm -Sn > rules.txt`, then --ipvs rules.txt".to_string()));
    }
    affinities(facts).iter().filter(|a| a.is_hashed()).map(|a| finding(facts, a)).collect::<Vec<_>>().into()
}

fn finding(facts: &Facts<'_>, affinity: &Affinity<'_>) -> Finding {
    let name = facts.name(Some(affinity.director));
    let scheduler = affinity.rule.map_or("sh", |rule| rule.scheduler.as_str());
    let falls_back = affinity.rule.is_some_and(|rule| rule.flags.iter().any(|flag| flag.ends_with("-fallback")));
    let stuck = affinity.stuck(facts);
    let service = service_option(affinity.protocol, affinity.vip);
    let (severity, confidence) = match stuck {
        Some(_) => (Severity::Degraded, Confidence::Likely),
        None => (Severity::Note, Confidence::Certain),
    };
    let summary = match stuck {
        Some(at) => format!(
            "{} comes to {} again and again, which does not serve it: {scheduler} never moves a client.",
            affinity.clients[at].0,
            facts.name(affinity.clients[at].1[0].server_host)
        ),
        None => format!("Each client of {} stays with one server: {scheduler} hashes its address.", affinity.vip),
    };
    let flags = affinity.rule.map_or_else(String::new, |rule| rule.flags.join(","));
    let flags = if flags.is_empty() { String::new() } else { format!(" with {flags}") };
    let shown = stuck.unwrap_or(0);
    let mut found = Finding::new(name, severity, confidence, summary, stays(facts, affinity, shown))
        .and((0..affinity.clients.len()).filter(|at| *at != shown).take(2).map(|at| stays(facts, affinity, at)))
        .and([stated(format!("{service} is scheduled by {scheduler}{flags}"))]);
    if stuck.is_some() {
        let settle = format!("on {name}: `ipvsadm -ln` (the weight of the dead server, the scheduler's flags), or a snapshot");
        let fallback = format!("ipvsadm -E {service} -s {scheduler} -b {scheduler}-fallback");
        let now = if falls_back { "ipvsadm -ln  # then give the dead server weight 0".to_string() } else { fallback };
        let undo = if falls_back { "nothing to undo".to_string() } else { format!("ipvsadm -E {service} -s {scheduler}") };
        found = found.unless(&["SVC003"], settle).mend([Remedy::new(
            name,
            now,
            "a health check in keepalived.conf that sets weight 0 (inhibit_on_failure); the fallback acts on servers with weight 0",
            undo,
        )]);
    }
    found.on(affinity.clients.iter().flat_map(|(_, flows)| flows.iter().map(|f| f.id)))
}

/// In the table: source hashing whose share of a server without weight is lost.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed().filter(|(_, s)| s.scheduler == "sh") {
        let fallback = service.flags.iter().any(|f| matches!(f.as_str(), "sh-fallback" | "flag-1"));
        let Some(idle) =
            service.destinations.iter().find(|d| d.weight == 0).filter(|_| !fallback && service.destinations.iter().any(|d| d.weight > 0))
        else {
            checks.passed(&host.name, format!("{}: each client finds a server", service.name()));
            continue;
        };
        let summary =
            format!("{} hashes clients, {} has weight 0 and keeps its share of them: those are refused.", service.name(), idle.address);
        let option = service.option();
        let remedy = crate::finding::Remedy::new(
            &host.name,
            format!("ipvsadm -E {option} -s sh -b sh-fallback"),
            "lvs_sched sh and sh-fallback in keepalived.conf, or `ipvsadm -Sn > /etc/sysconfig/ipvsadm`",
            format!("ipvsadm -E {option} -s sh"),
        );
        checks.failed(
            &host.name,
            proven(host, Severity::Degraded, summary, format!("-s sh, {} -w 0", idle.address), "ipvsadm -Sn").mend([remedy]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{REFUSE, World};
    use super::*;

    const RULES: &str = "-A -t 10.1.0.1:80 -s sh\n-a -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 1\n-a -t 10.1.0.1:80 -r 10.2.0.12:80 -m -w 1\n";

    fn served(w: &mut World, client: u8, port: u16, web: u8) {
        let c = World::tcp(&format!("10.1.0.{client}:{port}"), "10.1.0.1:80").dnat("director", &format!("10.2.0.1{web}:80"));
        w.talk(&c, &format!("client director web{web}"), &format!("web{web} director client"));
    }

    #[test]
    fn a_hash_keeps_its_clients() {
        let mut w = World::nat();
        for port in 0..3 {
            served(&mut w, 100, 40000 + port, 1);
            served(&mut w, 101, 42000 + port, 2);
        }
        assert!(w.cannot_judge(&SVC006), "the scheduler is not in the packets");
        let w = w.ipvs(RULES);
        assert_eq!(w.expect(&SVC006, Confidence::Certain, "director").severity, Severity::Note);
        w.healthy();
    }

    #[test]
    fn a_hash_keeps_them_at_a_dead_server() {
        let mut w = World::nat();
        for port in 0..3 {
            served(&mut w, 101, 40000 + port, 2);
            let c = World::tcp(&format!("10.1.0.100:{}", 41000 + port), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
            w.syn(&c, "client director web1", 1);
            w.carry(&c, true, REFUSE, b"", "web1 director client");
        }
        let w = w.ipvs(RULES);
        let found = w.expect(&SVC006, Confidence::Likely, "director");
        assert_eq!(
            (found.severity, found.remedy[0].command.as_str()),
            (Severity::Degraded, "ipvsadm -E -t 10.1.0.1:80 -s sh -b sh-fallback")
        );
    }

    #[test]
    fn round_robin_is_no_hash() {
        let mut w = World::nat();
        for port in 0..6u16 {
            served(&mut w, 100, 40000 + port, 1 + (port % 2) as u8);
        }
        w.ipvs(&RULES.replace("sh", "rr")).deny(&SVC006);
    }
}
