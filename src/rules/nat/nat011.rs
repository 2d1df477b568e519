//! A real server that is a client of its own service.

use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Bypass, bypassed};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::trace::Flow;

rule! {
    /// # What it sees
    /// A real server connects to the VIP. The director hands the request to another real server, whose answer goes to the first one
    /// directly, on their common link, with its own address. Or the director hands it back to the same server: source and destination are
    /// then one address, and the packet is dropped.
    ///
    /// # Why it breaks
    /// In NAT mode the source stays in the packet. Real servers are each other's neighbours, so no answer passes the director. A packet that
    /// arrives with the receiver's own address as source is martian. For clients elsewhere the same service works.
    ///
    /// # Confirm it by hand
    /// On the real server: `curl http://VIP/` hangs, from another network it works.
    ///
    /// # Remedy
    /// Translate the source of requests from real servers to the VIP (`net.ipv4.vs.conntrack=1` and a MASQUERADE rule with `-m ipvs`), or
    /// let real servers use each other's addresses.
    ///
    /// # When it is not a fault
    /// A test from the wrong place.
    ///
    /// # Reproduce
    /// A NAT service with two real servers; `curl http://VIP/` on one of them.
    ///
    /// # References
    /// kernel `net/ipv4/fib_frontend.c`, `fib_validate_source`; `Documentation/networking/ipvs-sysctl.rst`: conntrack.
    NAT011 "real-server-is-client-of-vip" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: Vec<Finding> = Vec::new();
    for b in bypassed(facts, Bypass::Hairpin) {
        let (names, client) = (b.names(facts), facts.name(b.flows[0].client_host));
        let summary = format!("{client} is a real server and a client of its own service: {names} answers it directly, past the director.");
        found.push(b.finding(facts, Severity::Degraded, Confidence::Certain, summary).mend([remedy(facts, b.flows[0])]));
    }
    for silence in facts.silences("NAT011") {
        let (flow, names) = (silence.flows[0], silence.names(facts));
        let mut finding = silence.finding(facts, Severity::Degraded, "`nstat -az TcpExtIPReversePathFilter`");
        finding.summary = match silence.hop.src.addr == silence.hop.dst.addr {
            true => format!("{names} is handed its own request, with its own address as source, and drops it."),
            false => format!("{} is a real server and a client of its own service.", facts.name(flow.client_host)),
        };
        if silence.hop.src.addr == silence.hop.dst.addr {
            finding.confidence = Confidence::Certain;
        }
        found.push(finding.mend([remedy(facts, flow)]));
    }
    found.into()
}

fn remedy(facts: &Facts<'_>, flow: &Flow) -> Remedy {
    let vip = flow.vip.map_or_else(|| "VIP".to_string(), |vip| vip.addr.to_string());
    let rule = format!("POSTROUTING -m ipvs --vaddr {vip} -s {} -j MASQUERADE", flow.client.addr);
    Remedy::new(
        facts.name(flow.director),
        format!("sysctl -w net.ipv4.vs.conntrack=1; iptables -t nat -A {rule}"),
        "both in /etc/sysctl.d/ and the saved iptables rules",
        format!("iptables -t nat -D {rule}; sysctl -w net.ipv4.vs.conntrack=0"),
    )
}

/// In the connection table: a client that is itself a real server.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.answers(checks, "NAT011", |host, duty, story| {
        let summary = format!(
            "{} asks {} and is a real server itself: the answer reaches it past the director ({}).",
            story.source, duty.service, story.by
        );
        story.fault(host, Severity::Degraded, summary)
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::super::nat003::NAT003;
    use super::*;

    fn served() -> World {
        let mut w = World::nat();
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("{rip}:80"));
            w.talk(&c, &format!("client director {web}"), &format!("{web} director client"));
        }
        w
    }

    #[test]
    fn the_other_server_answers_directly() {
        let mut w = served();
        let c = World::tcp("10.2.0.11:50001", "10.1.0.1:80").dnat("director", "10.2.0.12:80");
        w.syn(&c, "web1 director web2", 1);
        w.carry(&c, true, SYN_ACK, b"", "web2 web1");
        w.syn(&c, "web1 director web2", 2);
        let found = w.expect(&NAT011, Confidence::Certain, "web2");
        assert_eq!(found.flows, [3]);
        w.deny(&NAT003);
    }

    #[test]
    fn handed_back_to_itself() {
        let mut w = served();
        let c = World::tcp("10.2.0.11:50001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "web1 director web1", 3);
        let found = w.expect(&NAT011, Confidence::Certain, "web1");
        assert!(found.summary.contains("its own request"));
    }

    #[test]
    fn clients_elsewhere_are_no_matter() {
        served().deny(&NAT011);
    }
}
