//! A real server answers some of its clients past the director.

use super::super::remedy::look;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Bypass, bypassed};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::trace::Method;

rule! {
    /// # What it sees
    /// The same real server answers some clients through the director, and others through another gateway or another interface. Or it
    /// serves some clients and is silent towards others.
    ///
    /// # Why it breaks
    /// A route that is more specific than the default route, a policy rule, or a second interface in the clients' network wins. These
    /// answers keep the real server's address, as in NAT002.
    ///
    /// # Confirm it by hand
    /// On the real server: compare `ip route get CLIENT from RIP` for a client that works and one that does not; `ip rule`, `ip route`.
    ///
    /// # Remedy
    /// Remove the specific route, or add a rule for the real server's own address: `ip rule add from RIP table 100` with a default route
    /// through the director in that table.
    ///
    /// # When it is not a fault
    /// Routes to management networks, from which nobody uses the service.
    ///
    /// # Reproduce
    /// A NAT service; on a real server `ip route add CLIENT/32 via OTHER_ROUTER`.
    ///
    /// # References
    /// ip-rule(8), ip-route(8).
    NAT006 "rs-specific-route-bypass" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: Vec<Finding> = Vec::new();
    for b in bypassed(facts, Bypass::Part) {
        let (names, next, gateway, clients) = (b.names(facts), b.next(facts), b.gateway(facts), b.clients());
        let verb = if b.servers.len() == 1 { "answers" } else { "answer" };
        let summary = format!("{names} {verb} {clients} through {next}, and other clients through the director ({gateway}).");
        let finding = b.finding(facts, Severity::Broken, Confidence::Certain, summary);
        // Each server by its own address.
        let mut each: Vec<_> = b.flows.iter().map(|f| (facts.name(f.server_host), facts.server_address(f))).collect();
        each.sort_unstable();
        each.dedup();
        found.push(finding.mend(each.iter().map(|(name, rip)| bypass_remedy(name, rip, &gateway))));
    }
    for silence in facts.silences("NAT006") {
        let (flow, names) = (silence.flows[0], silence.names(facts));
        let command = format!("ip route get {} from {}", flow.client.addr, facts.server_address(flow));
        let mut finding = silence.finding(facts, Severity::Broken, &format!("`{command}`"));
        finding.summary = format!("{names} serves some clients and is silent towards {}.", flow.client.addr);
        found.push(finding.mend([look(&names, command, "then mend the route it shows")]));
    }
    Outcome::or_need(found, facts.unwatched_server(&[Method::Nat]))
}

fn bypass_remedy(host: &str, rip: &str, gateway: &str) -> Remedy {
    Remedy::new(
        host,
        format!("ip rule add from {rip} table 100; ip route add default via {gateway} table 100"),
        "the rule and the route in the network configuration; or remove the more specific route",
        format!("ip rule del from {rip} table 100; ip route flush table 100"),
    )
}

/// On the host: a more specific route, or a rule, wins over the default one that is right.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.answers(checks, "NAT006", |host, duty, story| {
        let summary =
            format!("A specific route takes answers to {} {}, past the director; all others go through it.", story.source, story.way);
        let ip = super::super::remedy::ip_for(&story.source.to_string());
        let gateway = site.gateway_of(duty);
        // Only a rule wins over a rule.
        let rip = duty.rip.map_or_else(|| "RIP".to_string(), |rip| rip.to_string());
        let remedy = crate::finding::Remedy::new(
            &host.name,
            format!("{ip} rule add from {rip} table 100; {ip} route add default via {gateway} table 100"),
            "the rule and the route in the network configuration; or take the specific route or rule out of it",
            format!("{ip} rule del from {rip} table 100; {ip} route flush table 100"),
        );
        story.fault(host, Severity::Degraded, summary).mend([remedy])
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::super::nat002::NAT002;
    use super::*;

    #[test]
    fn one_client_is_answered_past_the_director() {
        let mut w =
            World::nat().plug("gw.int", "int", "10.2.0.254").plug("gw.ext", "ext", "10.1.0.254").plug("other.eth0", "ext", "10.1.0.101");
        let good = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&good, "client director web1", "web1 director client");
        let bad = World::tcp("10.1.0.101:40002", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&bad, "other director web1", 1);
        w.carry(&bad, true, SYN_ACK, b"", "web1 gw other");
        w.syn(&bad, "other director web1", 2);
        let found = w.expect(&NAT006, Confidence::Certain, "web1");
        assert_eq!(found.flows, [2]);
        assert!(found.remedy[0].command.starts_with("ip rule add from 10.2.0.11 table 100"));
        w.deny(&NAT002);
        // The other server does the same: each gets its own rule.
        let bad = World::tcp("10.1.0.101:40003", "10.1.0.1:80").dnat("director", "10.2.0.12:80");
        w.syn(&bad, "other director web2", 1);
        w.carry(&bad, true, SYN_ACK, b"", "web2 gw other");
        w.syn(&bad, "other director web2", 2);
        let fine = World::tcp("10.1.0.100:40004", "10.1.0.1:80").dnat("director", "10.2.0.12:80");
        w.talk(&fine, "client director web2", "web2 director client");
        let found = w.diagnose().findings.into_iter().filter(|f| f.code == "NAT006").flat_map(|f| f.remedy).collect::<Vec<_>>();
        for (host, rip) in [("web1", "10.2.0.11"), ("web2", "10.2.0.12")] {
            assert!(found.iter().any(|r| r.host == host && r.command.starts_with(&format!("ip rule add from {rip} "))), "{found:?}");
        }
    }

    #[test]
    fn two_ways_that_both_work_are_no_fault() {
        let mut w = World::nat();
        for port in 40001..40004 {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
            w.talk(&c, "client director web1", "web1 director client");
        }
        w.deny(&NAT006);
    }
}
