//! Source hashing: a client stays with its server for good.

use super::super::facts::list;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::affinity::{Affinity, affinities};
use super::svc002::refusals;
use super::svc008::stays;
use super::{TurnedAway, served_instead, service_option, stated};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::trace::Flow;

rule! {
    /// # What it sees
    /// The director refuses some clients each time, with ICMP port unreachable, while it serves others at the same service. Or all
    /// connections of a client go to one server, and the director's rules (`--ipvs`) say that the scheduler is sh or mh. Without the
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
    let stories = refusals(facts);
    let shares = stories.values().filter_map(|turned| served_instead(facts, turned).map(|served| lost_share(facts, turned, served)));
    let hashed: Vec<Affinity> = affinities(facts).into_iter().filter(Affinity::is_hashed).collect();
    let found = shares.chain(hashed.iter().map(|a| finding(facts, a))).collect();
    let unknown = facts.hints.rules.is_empty() && facts.flows().any(|f| f.director.is_some());
    Outcome::or_need(found, unknown.then(|| "the director's rules: `ipvsadm -Sn > rules.txt`, then --ipvs rules.txt".to_string()))
}

/// Clients whose server is out of use.
fn lost_share(facts: &Facts<'_>, turned: &[TurnedAway<'_>], served: &Flow) -> Finding {
    let (first, name) = (&turned[0], facts.name(Some(turned[0].host)));
    let (vip, service) = (first.hop.dst, service_option(first.flow.protocol, first.hop.dst));
    let mut clients: Vec<String> = turned.iter().map(|t| t.hop.src.addr.to_string()).collect();
    clients.sort_unstable();
    clients.dedup();
    let of = if clients.len() > 3 { format!("{} clients", clients.len()) } else { list(&clients) };
    let summary = format!(
        "{name} refuses {of} each time and serves others at {vip}: as source hashing does with the share of a server without weight."
    );
    let scheduler = super::rule_for(facts, first.flow.protocol, vip).map_or("sh", |rule| rule.scheduler.as_str());
    let proof = served.request.towards(first.host).next().map(|hop| facts.seen_with(hop, "is served meanwhile"));
    Finding::new(name, Severity::Degraded, first.confidence.min(Confidence::Likely), summary, facts.error(first.error))
        .and([facts.seen(first.hop)])
        .and(proof)
        .unless(&["SVC002", "SVC018", "NAT008"], format!("on {name}: `ipvsadm -ln` (the scheduler, weights), or a snapshot"))
        .mend([Remedy::new(
            name,
            format!("ipvsadm -E {service} -s {scheduler} -b {scheduler}-fallback"),
            "lvs_sched sh and sh-fallback in keepalived.conf, or `ipvsadm -Sn > /etc/sysconfig/ipvsadm`",
            format!("ipvsadm -E {service} -s {scheduler}"),
        )])
        .on(turned.iter().map(|t| t.flow.id))
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
    use super::super::svc002::SVC002;
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

    fn refused(w: &mut World, client: u8, port: u16) {
        let (conn, to) = (World::tcp(&format!("10.1.0.{client}:{port}"), "10.1.0.1:80"), format!("10.1.0.{client}"));
        w.syn(&conn, "client director", 1);
        w.icmp(&conn, false, (3, 3, 0), "10.1.0.1", &to, "director", "director client");
    }

    #[test]
    fn a_hash_refuses_the_share_of_a_server_without_weight() {
        let mut w = World::nat();
        for port in 0..2 {
            refused(&mut w, 100, 40000 + port);
            served(&mut w, 101, 42000 + port, 2);
        }
        let found = w.expect(&SVC006, Confidence::Likely, "director");
        assert_eq!((found.flows.as_slice(), found.evidence().len()), (&[1, 3][..], 3));
        assert_eq!(found.remedy[0].command, "ipvsadm -E -t 10.1.0.1:80 -s sh -b sh-fallback");
        w.deny(&SVC002);
        // In turns, whoever comes first.
        let mut w = World::nat();
        served(&mut w, 101, 42000, 2);
        (0..2).for_each(|port| refused(&mut w, 100, 40000 + port));
        served(&mut w, 101, 42001, 2);
        w.expect(&SVC006, Confidence::Likely, "director");
        // Each at another time.
        let mut w = World::nat();
        (0..2).for_each(|port| refused(&mut w, 100, 40000 + port));
        (0..2).for_each(|port| served(&mut w, 101, 42000 + port, 2));
        w.deny(&SVC006);
        // Whoever is served at times is not turned away by a hash.
        let mut w = World::nat();
        for port in 0..2 {
            refused(&mut w, 100, 40000 + port);
            served(&mut w, 100, 42000 + port, 2);
        }
        w.deny(&SVC006);
        // Once tells nothing of a next time.
        let mut w = World::nat();
        for client in [100, 102] {
            refused(&mut w, client, 40000);
            served(&mut w, 101, 42000 + u16::from(client), 2);
        }
        w.deny(&SVC006);
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
