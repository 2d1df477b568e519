//! A UDP server answers from its own address instead of the VIP.

use super::super::facts::{by_server, ids};
use super::super::{Facts, rule};
use super::{answered_directly, vip};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::net::Protocol;
use crate::trace::Flow;

rule! {
    /// # What it sees
    /// A datagram to the VIP arrives at the real server. Its answer, from the service's port to the client's port, has the real server's own
    /// address as source. The client refuses it with ICMP port unreachable, or ignores it.
    ///
    /// # Why it breaks
    /// A program that listens on all addresses and answers with plain `sendto` leaves the choice of the source address to the kernel, which
    /// takes that of the route: the real server's own. The client waits for an answer from the VIP.
    ///
    /// # Confirm it by hand
    /// On the real server: `ss -lun` shows `0.0.0.0:PORT`; `ip route get CLIENT` shows the source that will be used.
    ///
    /// # Remedy
    /// Let the program listen on the VIP itself, or use IP_PKTINFO (many have an option for it). On the real server an SNAT rule to the VIP
    /// helps for the time being.
    ///
    /// # When it is not a fault
    /// Protocols whose answers come from another address on purpose.
    ///
    /// # Reproduce
    /// A DR service for UDP, on the real server a naive echo program.
    ///
    /// # References
    /// ip(7): IP_PKTINFO; LVS-HOWTO chapter on UDP.
    DR013 "udp-reply-from-rip" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    let unanswered = |f: &&Flow| f.protocol == Protocol::Udp && !f.is_answered();
    let wrong: Vec<&Flow> = answered_directly(facts).filter(unanswered).filter(|f| facts.answer_of_its_own_address(f).is_some()).collect();
    let found: Vec<Finding> = by_server(wrong)
        .into_iter()
        .filter_map(|(server, flows)| {
            let (flow, name) = (flows[0], facts.name(Some(server)));
            let answer = facts.answer_of_its_own_address(flow)?;
            let question = flow.request.last()?;
            let summary = format!("{name} answers datagrams to {} from its own address {}.", vip(flow), answer.src.addr);
            let rule = format!("POSTROUTING -p udp --sport {} -d {} -j SNAT --to-source {}", flow.service.port, answer.dst.addr, vip(flow));
            // As long as conntrack knows the question, the answer's new source would be one that is taken, and it would get another port.
            let untracked = format!("PREROUTING -p udp -d {} --dport {} -j CT --notrack", vip(flow), flow.service.port);
            Some(
                Finding::new(name, Severity::Broken, Confidence::Certain, summary, facts.seen(answer))
                    .and([facts.seen(question)])
                    .mend([Remedy::new(
                        name,
                        format!("iptables -t raw -A {untracked}; iptables -t nat -A {rule}"),
                        format!("let the program listen on {}, or use IP_PKTINFO; that is the real cure", vip(flow)),
                        format!("iptables -t nat -D {rule}; iptables -t raw -D {untracked}"),
                    )])
                    .on(ids(&flows)),
            )
        })
        .collect();
    found.into()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    #[test]
    fn the_answer_has_the_servers_own_address() {
        let mut w = World::dr();
        w.who_has("client", "ext", "10.1.0.1", &["router"]);
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::udp(&format!("10.1.0.100:{port}"), "10.2.0.100:53");
            w.carry(&c, false, 0, b"question", &format!("client router director {web}"));
            let wrong = World::udp(&format!("{rip}:53"), &format!("10.1.0.100:{port}"));
            w.carry(&wrong, false, 0, b"answer", &format!("{web} router client"));
            w.wait(1.5);
            w.carry(&c, false, 0, b"question", &format!("client router director {web}"));
        }
        let diagnosis = w.diagnose();
        let found: Vec<&Finding> = diagnosis.findings.iter().filter(|f| f.code == "DR013").collect();
        assert_eq!(
            found.iter().map(|f| (f.subject.as_str(), f.confidence)).collect::<Vec<_>>(),
            [("web1", Confidence::Certain), ("web2", Confidence::Certain)]
        );
        // Who answers from the wrong address is not silent.
        assert!(diagnosis.findings.iter().all(|f| f.code == "DR013" || f.severity == Severity::Note), "{:?}", diagnosis.findings);
    }

    #[test]
    fn answers_from_the_vip_are_right() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, web) in [(40001, "web1"), (40002, "web2")] {
            let c = World::udp(&format!("10.1.0.100:{port}"), "10.2.0.100:53");
            w.talk(&c, &format!("client router director {web}"), &format!("{web} router client"));
        }
        w.deny(&DR013);
        w.healthy();
    }
}
