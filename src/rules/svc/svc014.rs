//! UDP that goes on to a server which is no more.

use super::super::remedy::sysctl;
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Severity};
use crate::net::Protocol;
use crate::trace::{Flow, Hop};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// In packets: datagrams of one client port that the director handed on go on arriving, and do not leave it any more, without an error;
    /// other ports are served. On the director: entries of UDP in the director's table whose real server is in no service any more, with `expire_nodest_conn` off: packets from
    /// those client ports vanish.
    ///
    /// # Why it breaks
    /// UDP has no end that IPVS could see: an entry lives as long as packets come, and each packet renews it (300 s by default). A client
    /// that always sends from one port (a resolver, syslog, SIP) stays with its first server for ever, also when that is gone.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -Lnc | grep UDP` shows servers that `ipvsadm -Ln` does not.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.vs.expire_nodest_conn=1`; for services of one packet each, one-packet scheduling (`ipvsadm -A -u … -o`); a
    /// shorter timeout (`ipvsadm --set 0 0 30`).
    ///
    /// # When it is not a fault
    /// Entries that run out because nobody sends any more.
    ///
    /// # Reproduce
    /// A UDP service; a client that sends each second from one port; `ipvsadm -d` of its server.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_in_hook`; `Documentation/networking/ipvs-sysctl.rst`: expire_nodest_conn;
    /// ipvsadm(8), `--ops`.
    SVC014 "udp-affinity-blackhole" check hosts
}

/// So long a client has to go on in vain.
const IN_VAIN: i64 = 300_000_000;

/// Datagrams of a port that the director handed on, and then did not any more, while they went on arriving.
fn check(facts: &Facts<'_>) -> Outcome {
    let swallowed = facts.flows().filter_map(|flow| Some((flow, swallowed(facts, flow)?)));
    let mut by: BTreeMap<_, Vec<Lost<'_>>> = BTreeMap::new();
    for (flow, hops) in swallowed {
        by.entry((flow.director, flow.server_host)).or_default().push((flow, hops));
    }
    let found: Vec<Finding> = by.into_values().map(|flows| forgotten(facts, &flows)).collect();
    Outcome::or_need(found, Some("a snapshot of the director".to_string()))
}

/// A flow, where its datagrams arrive at the director, and where they left it before.
type Lost<'a> = (&'a Flow, (&'a Hop, &'a Hop));

/// Where the datagrams of a flow arrive at its director, and where they left it before.
fn swallowed<'a>(facts: &Facts<'a>, flow: &'a Flow) -> Option<(&'a Hop, &'a Hop)> {
    let director = flow.director.filter(|d| flow.protocol == Protocol::Udp && Some(*d) != flow.server_host && flow.errors.is_empty())?;
    let arrived = flow.request.received_by(director)?;
    let sent = flow.request.sent_by(director).filter(|hop| hop.at == Some(director))?;
    let (came, left) = (facts.trace.common_time(arrived.point, arrived.last), facts.trace.common_time(sent.point, sent.last));
    let gone = arrived.packets >= sent.packets + 2 && came - left >= IN_VAIN && facts.is_whole(arrived.point) && facts.is_whole(sent.point);
    // It works for others, and looks for no neighbour meanwhile.
    let works = |f: &Flow| f.director == Some(director) && f.id != flow.id && facts.trace.common_time(sent.point, sent.last) < f.last;
    let on = facts.flows().any(|f| works(f) && f.is_answered()) || facts.goes_on_after(sent.point, left);
    (gone && on && facts.asks_in_vain(director, flow, arrived).next().is_none()).then_some((arrived, sent))
}

fn forgotten(facts: &Facts<'_>, flows: &[Lost<'_>]) -> Finding {
    let (flow, (arrived, sent)) = flows[0];
    let (name, server) = (facts.name(flow.director), facts.name(flow.server_host));
    let summary = format!(
        "{name} swallows datagrams of {} that it had handed to {server}: its entry outlives the server, and each datagram renews it.",
        arrived.src
    );
    let lost = arrived.packets - sent.packets;
    Finding::new(name, Severity::Degraded, Confidence::Likely, summary, facts.seen_with(sent, "handed on, before"))
        .and([facts.seen(arrived)])
        .and([Evidence::absence(sent.point, format!("the last {lost} datagrams from {}", arrived.src))])
        .unless(&["NAT008"], format!("on {name}: `ipvsadm -Lnc` (the entry is there), `ipvsadm -Ln` (its server is not), or a snapshot"))
        .mend([sysctl(name, &[("net.ipv4.vs.expire_nodest_conn", "1", "0")])])
        .on(flows.iter().map(|(f, _)| f.id))
}

/// In the connection table.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::forgotten(site, checks, Protocol::Udp, |host, servers, count| {
        let summary = format!(
            "{} of UDP lead to {servers}, which is in no service any more: what those clients send vanishes, and renews them.",
            if count == 1 { "1 entry".to_string() } else { format!("{count} entries") }
        );
        proven(host, Severity::Degraded, summary, format!("{count} of UDP to {servers}"), "ipvsadm -Lnc; ipvsadm -Ln")
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, dr_with};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn udp_of_a_removed_server() {
        let rules = "-A -u 10.0.0.100:53 -s rr\n-a -u 10.0.0.100:53 -r 10.0.0.11:53 -g\n";
        let with = |rip: &str, key: &str| {
            let line = format!("udp 10.9.0.7:40001 10.0.0.100:53 {rip}:53 UDP 250");
            dr_with("director", |d| d.ipvs(rules).connections(&[&line]).set("net.ipv4.vs.expire_nodest_conn", key))
        };
        let found = sketch::expect(&with("10.0.0.13", "0"), &SVC014, Severity::Degraded, Confidence::Certain, "director");
        assert!(found.summary.starts_with("1 entry of UDP"), "{}", found.summary);
        sketch::passes(&with("10.0.0.11", "0"), &SVC014, "director");
        sketch::passes(&with("10.0.0.13", "1"), &SVC014, "director");
    }

    /// A port that is sent to again and again, and from some time on in vain, while another one is served.
    #[test]
    fn datagrams_that_are_handed_on_no_more() {
        use super::super::super::testing::World;
        let talk = |w: &mut World, c: &super::super::super::testing::Conn, web: &str| {
            w.carry(c, false, 0, b"question", &format!("client director {web}"));
            w.carry(c, true, 0, b"answer", &format!("{web} director client"));
        };
        let one = World::udp("10.1.0.100:40001", "10.1.0.1:53").dnat("director", "10.2.0.11:53");
        let other = World::udp("10.1.0.100:40002", "10.1.0.1:53").dnat("director", "10.2.0.12:53");
        let mut w = World::nat();
        talk(&mut w, &one, "web1");
        talk(&mut w, &other, "web2");
        for turn in 0..3 {
            w.wait(0.4);
            w.carry(&one, false, 0, b"question", "client director");
            talk(&mut w, &other, "web2");
            // One may be lost.
            if turn == 0 {
                w.deny(&SVC014);
            }
        }
        let found = w.expect(&SVC014, Confidence::Likely, "director");
        assert_eq!((found.severity, found.alternatives.as_slice()), (Severity::Degraded, &["NAT008"][..]));
        let mut w = World::nat();
        for _ in 0..4 {
            talk(&mut w, &one, "web1");
            talk(&mut w, &other, "web2");
            w.wait(0.4);
        }
        w.healthy();
    }
}
