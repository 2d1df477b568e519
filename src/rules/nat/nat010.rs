//! The director forwards answers untranslated, because it no longer knows the connection.

use super::super::facts::{by_director, ids};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::trace::{Flow, Hop, Method};

rule! {
    /// # What it sees
    /// In the middle of a connection the director passes an answer on as it is, with the real server's address as its source. The client
    /// does not know that address and resets it.
    ///
    /// # Why it breaks
    /// The director's entry has expired (an established TCP connection: 900 s of silence), or was lost by a restart or a failover without
    /// synchronisation. To a director without the entry the answer is an ordinary packet to forward.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -lnc | grep CLIENT` shows no entry; `ipvsadm -l --timeout`.
    ///
    /// # Remedy
    /// TCP keepalive below the timeout, or a longer timeout: `ipvsadm --set 7500 120 300`. With two directors the synchronisation daemon.
    /// `net.ipv4.vs.nat_icmp_send=1` makes the director tell the real server instead.
    ///
    /// # When it is not a fault
    /// Connections that the real server itself opens outwards (NET016).
    ///
    /// # Reproduce
    /// A NAT service; delete the service and add it again in the middle of a connection.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_out_hook`; `Documentation/networking/ipvs-sysctl.rst`: nat_icmp_send.
    NAT010 "orphan-replies-leak-rip" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    let leaks: Vec<&Flow> = facts.balanced(Method::Nat).filter(|f| leak(f).is_some()).collect();
    let found: Vec<Finding> = by_director(leaks)
        .into_iter()
        .filter_map(|(director, flows)| {
            let (flow, name) = (flows[0], facts.name(Some(director)));
            let hop = leak(flow)?;
            let healthy = flow.reply.hops.iter().find(|h| h.from == Some(director)).map(|hop| facts.seen_with(hop, "translated, before"));
            let summary = format!("{name} forwards answers of {} untranslated: it no longer knows their connections.", hop.src);
            Some(
                Finding::new(
                    name,
                    Severity::Degraded,
                    Confidence::Certain,
                    summary,
                    facts.seen_with(hop, "as it came from the real server"),
                )
                .and(healthy)
                .mend([Remedy::new(
                    name,
                    "ipvsadm --set 7500 120 300",
                    "the same at boot; TCP keepalive under 900 s in the application; `ipvsadm --start-daemon` on both directors",
                    "ipvsadm --set 900 120 300",
                )])
                .on(ids(&flows)),
            )
        })
        .collect();
    found.into()
}

/// A packet that left the director towards the client with the real server's address.
fn leak(flow: &Flow) -> Option<&Hop> {
    let (director, server) = (flow.director?, flow.real_server?);
    let vip = flow.vip?;
    flow.reply
        .strays
        .iter()
        .chain(&flow.reply.hops)
        .find(|hop| hop.from == Some(director) && hop.src == server && server != vip && hop.to != Some(director))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{PSH, RST, World};
    use super::*;

    #[test]
    fn an_answer_leaves_untranslated() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.wait(1000.0);
        let orphan = World::tcp("10.1.0.100:40001", "10.2.0.11:80");
        w.carry(&orphan, true, PSH, b"late", "web1 director client");
        w.carry(&orphan, false, RST, b"", "client director web1");
        let found = w.expect(&NAT010, Confidence::Certain, "director");
        assert_eq!(found.flows, [1]);
    }

    #[test]
    fn translated_answers_are_right() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.wait(1000.0);
        w.carry(&c, true, PSH, b"late", "web1 director client");
        w.deny(&NAT010);
        w.healthy();
    }
}
