//! Two hosts that should be on one network, and are not: another VLAN, a port of another bridge.

use super::super::facts::Between;
use super::super::remedy::look;
use super::super::{Facts, rule};
use crate::finding::{Finding, Outcome};
use crate::trace::Way;

rule! {
    /// # What it sees
    /// A host sends frames to the MAC of another one; both interfaces were captured, and nothing of the first arrives at the second, though
    /// others do.
    ///
    /// # Why it breaks
    /// The two ports are in different VLANs, or one of them expects tags that the other does not send; or a bridge between them filters.
    /// Neighbours found by ARP cannot come to this; entries that somebody made by hand, or kept from before, can.
    ///
    /// # Confirm it by hand
    /// `bridge vlan show`, `ip -d link show`, the switch's configuration of both ports; `tcpdump -eni eth0 -Q in` on the receiver.
    ///
    /// # Remedy
    /// The same VLAN on both ports; `net.bridge.bridge-nf-call-iptables=0` where a bridge filters by iptables.
    ///
    /// # When it is not a fault
    /// When the capture on the receiver had a filter, or was taken on another interface. When ARP passes and only packets with the addresses
    /// of others do not, the network drops these (DR021).
    ///
    /// # Reproduce
    /// A bridge with `vlan_filtering 1`, the ports in two VLANs, and `ip neigh replace … nud permanent`.
    ///
    /// # References
    /// bridge(8); kernel `Documentation/networking/bridge.rst`.
    NET009 "vlan-or-bridge-mismatch" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    facts.lost_between("NET009").iter().map(|lost| finding(facts, lost)).collect::<Vec<_>>().into()
}

fn finding(facts: &Facts<'_>, lost: &Between<'_>) -> Finding {
    let ((from, to), first) = (lost.ends(facts), &lost.pairs[0]);
    let what = if lost.way == Way::Request { "Requests" } else { "Answers" };
    let summary = format!("{what} leave {from} for {to}, and do not arrive there: the network between them does not carry them.");
    let seen = format!("tcpdump -eni {} -Q in", facts.device(first.at));
    lost.finding(facts, &format!("{from}, {to}"), summary, &["DR021"]).mend([look(
        &to,
        seen,
        "then put both ports into one VLAN: `bridge vlan show`",
    )])
}

#[cfg(test)]
mod tests {
    use super::super::super::dr::dr021::DR021;
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::{Confidence, Severity};

    /// web1 hears its neighbour, and never the director, which has its MAC from somebody.
    fn world(director_is_heard: bool) -> World {
        let mut w = World::nat().cut_off("web1.eth0");
        w.who_has("web2", "int", "10.2.0.1", &["director"]);
        w.who_has("web1", "int", "10.2.0.12", &["web2"]);
        if director_is_heard {
            w.who_has("director", "int", "10.2.0.11", &["web1"]);
        }
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 3);
        w
    }

    #[test]
    fn nothing_of_the_director_arrives() {
        let w = world(false);
        let found = w.expect(&NET009, Confidence::Possible, "director, web1");
        assert_eq!((found.severity, found.alternatives.as_slice()), (Severity::Broken, &["DR021"][..]));
        w.deny(&DR021);
        // Where ARP arrives, packets with the client's source are what is not carried.
        world(true).deny(&NET009);
        world(true).expect(&DR021, Confidence::Likely, "director");
    }
}
