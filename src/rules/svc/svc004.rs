//! Nobody listens on the port at a real server.

use super::super::dr::dr007::checked_elsewhere;
use super::super::dr::dr012::is_bound_elsewhere;
use super::super::facts::{by_server, ids, plural, seconds};
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::refusals;
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::net::Protocol;
use crate::trace::{Flow, Method};

rule! {
    /// # What it sees
    /// The request reaches the real server, and the real server answers at once with a reset (TCP) or with ICMP port unreachable (UDP). The
    /// reset comes from its MAC with its own TTL, and with direct routing from the VIP.
    ///
    /// # Why it breaks
    /// No socket listens on that port: the program was not started, crashed, or is not enabled after a reboot. IPVS checks nothing by itself
    /// and keeps sending connections there.
    ///
    /// # Confirm it by hand
    /// On the real server: `ss -ltn 'sport = :PORT'` shows nothing.
    ///
    /// # Remedy
    /// Start the program and enable it; until then take the server out with weight 0.
    ///
    /// # When it is not a fault
    /// The program listens, but on another address (DR012), or a firewall rejects with a reset (NET008): `ss -ltn` tells.
    ///
    /// # Reproduce
    /// Two real servers; stop the web server on one.
    ///
    /// # References
    /// RFC 9293 section 3.10.7.1 (a reset where there is no listener); kernel `net/ipv4/tcp_ipv4.c`, `tcp_v4_send_reset`.
    SVC004 "service-not-running-on-rs" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let refused: Vec<&Flow> = refusals(facts).filter(|f| !is_bound_elsewhere(facts, f) && checked_elsewhere(facts, f).is_none()).collect();
    by_server(refused).into_values().filter_map(|flows| finding(facts, &flows)).collect::<Vec<_>>().into()
}

fn finding(facts: &Facts<'_>, flows: &[&Flow]) -> Option<Finding> {
    let flow = *flows.first()?;
    let name = facts.name(flow.server_host);
    let reset = flow.reply.first().map(|hop| facts.seen_with(hop, &format!("from {name} itself, TTL {}", hop.ttl)));
    let error = flow.errors.iter().find(|e| e.refuses() && e.from == flow.server_host).map(|e| facts.error(e));
    let proof: Evidence = reset.or(error)?;
    let received = flow.server_host.and_then(|s| facts.reached(&flow.request, s)).map(|hop| facts.seen(hop));
    let port = flow.real_server.map_or(flow.service.port, |rs| rs.port);
    let (list, how) = if flow.protocol == Protocol::Udp { ("ss -lun", "an ICMP error") } else { ("ss -ltn", "a reset") };
    let severity = if facts.others_serve(flow) { Severity::Degraded } else { Severity::Broken };
    // It was not yet started, or started anew.
    let last = flows.iter().map(|f| f.last).max()?;
    let serves =
        |f: &&Flow| f.first > last && f.protocol == flow.protocol && (f.service == flow.service || f.real_server == flow.real_server);
    let later = facts.served_elsewhere(flow).find(serves);
    let (summary, severity) = match later {
        Some(served) => (
            format!(
                "{name} answered {} for port {port} with {how}; {} later it serves.",
                plural(flows.len(), "request"),
                seconds(served.first - last)
            ),
            Severity::Risky,
        ),
        None => (format!("{name} answers requests for port {port} with {how}: nothing listens there."), severity),
    };
    let direct = matches!(flow.method, Method::DirectRouting | Method::Tunnel);
    let alternatives: &[&str] = if direct { &["DR012", "NET008"] } else { &["NET008"] };
    let mended = Remedy::new(
        name,
        "systemctl start SERVICE",
        "systemctl enable SERVICE; a health check in front (keepalived), so that a dead server gets no connections",
        "systemctl stop SERVICE",
    );
    let found = Finding::new(name, severity, Confidence::Likely, summary, proof).and(received);
    Some(found.unless(alternatives, format!("on {name}: `{list} 'sport = :{port}'`, or a snapshot")).mend([mended]).on(ids(flows)))
}

/// On the host: nothing listens at the port.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::listening(site, checks, "SVC004", |host, duty, at, _| {
        let summary = format!("Nothing listens at {at}: requests for {} are refused.", duty.service);
        let remedy = crate::finding::Remedy::new(
            &host.name,
            "systemctl start SERVICE",
            "systemctl enable SERVICE",
            "systemctl disable --now SERVICE",
        );
        proven(host, Severity::Broken, summary, format!("no socket at port {}", at.port), "ss -lntu").mend([remedy])
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{REFUSE, World};
    use super::*;

    fn refused(w: &mut World, port: u16) {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        w.carry(&c, true, REFUSE, b"", "web1 director client");
    }

    #[test]
    fn one_of_two_refuses() {
        let mut w = World::nat();
        refused(&mut w, 40001);
        let c = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("director", "10.2.0.12:80");
        w.talk(&c, "client director web2", "web2 director client");
        let found = w.expect(&SVC004, Confidence::Likely, "web1");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[1][..]));
    }

    /// A service that was started a moment later is no fault that lasts.
    #[test]
    fn a_server_that_serves_later() {
        let mut w = World::nat();
        refused(&mut w, 40001);
        w.wait(0.5);
        let c = World::tcp("10.1.0.100:40003", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        assert_eq!(w.expect(&SVC004, Confidence::Likely, "web1").severity, Severity::Risky);
        w.healthy();
        // Before its end it proves nothing.
        refused(&mut w, 40004);
        assert_eq!(w.expect(&SVC004, Confidence::Likely, "web1").severity, Severity::Broken);
    }

    #[test]
    fn the_only_server_refuses() {
        let mut w = World::nat();
        refused(&mut w, 40001);
        refused(&mut w, 40003);
        assert_eq!(w.expect(&SVC004, Confidence::Likely, "web1").severity, Severity::Broken);
    }

    #[test]
    fn a_refusal_of_the_director_is_not_the_servers() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80");
        w.syn(&c, "client director", 1);
        w.carry(&c, true, REFUSE, b"", "director client");
        w.deny(&SVC004);
    }
}
