//! A frame at the network card has not been accepted yet.

use super::super::{Facts, rule};
use super::{at_most_one, note};
use crate::finding::{Finding, Outcome};
use crate::trace::{Flow, Hop};

rule! {
    /// # What it sees
    /// A server at whose interface a request was captured, and that stays silent. Said beside findings about such a server.
    ///
    /// # Why it breaks
    /// The capture sits before the packet filter, the check of source addresses and the routing: a frame that it shows may be dropped right
    /// after. Outgoing packets are captured behind the packet filter: what is not shown may have been dropped before. So "arrived" is not
    /// "accepted", and silence does not say which part of the kernel dropped it.
    ///
    /// # Confirm it by hand
    /// On the server: `nstat -az | grep -E 'InAddrErrors|ReversePathFilter|OutNoRoutes|ListenDrops'`, `nft list ruleset` with counters, before
    /// and after a request.
    ///
    /// # Remedy
    /// None; a snapshot of the server settles what packets cannot.
    ///
    /// # When it is not a fault
    /// It is never one by itself.
    ///
    /// # Reproduce
    /// `nft add rule inet filter input tcp dport 80 drop` on the server: its capture shows the SYN all the same.
    ///
    /// # References
    /// kernel `net/core/dev.c`, `__netif_receive_skb_core`, `dev_queue_xmit_nit`.
    CAP007 "tap-before-netfilter" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    // Behind a tunnel device, or on a mirror port, it is another matter.
    let silent: Vec<(&Flow, &Hop)> = facts
        .flows()
        .filter_map(|f| facts.silent_server(f).map(|hop| (f, hop)))
        .filter(|(f, hop)| hop.at_sender == Some(false) && hop.at == f.server_host)
        .collect();
    let (_, hop) = *silent.first()?;
    let names = facts.names(silent.iter().filter_map(|(f, _)| f.server_host));
    let summary =
        format!("That packets were captured at {names} does not prove that they were accepted there: filters come after the capture.");
    Some(note(names.clone(), summary, facts.seen_with(hop, "at the network card")).on(silent.iter().map(|(f, _)| f.id)))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn beside_a_silent_server() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.syn(&c, "client director web1", 3);
        w.expect(&CAP007, Confidence::Certain, "web1");
        // Not where nobody looked at the server.
        w.without(&["web1"]).deny(&CAP007);
    }

    #[test]
    fn not_beside_one_that_answers() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.deny(&CAP007);
    }
}
