//! A real server without the VIP forwards requests back to the director.

use super::super::remedy::vip_on_lo;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Loop, Round, loops, vip};
use crate::finding::Severity;
use crate::finding::{Confidence, Outcome};

rule! {
    /// # What it sees
    /// The real server receives the request and sends the same packet back, with the TTL one lower; the director hands it out again, and so
    /// on, until the TTL is used up: thirty copies and more of one SYN, then ICMP time exceeded.
    ///
    /// # Why it breaks
    /// The real server does not have the VIP, and forwards (hosts of containers do). It routes the packet to where the VIP is: the director.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get VIP` does not say `local`; `sysctl net.ipv4.ip_forward` says 1.
    ///
    /// # Remedy
    /// `ip addr add VIP/32 dev lo`, as for DR001.
    ///
    /// # When it is not a fault
    /// Never.
    ///
    /// # Reproduce
    /// A DR service; on a real server no VIP and `net.ipv4.ip_forward=1`.
    ///
    /// # References
    /// kernel `net/ipv4/ip_forward.c`.
    DR016 "rs-forwards-vip-back" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = loops(facts, Round::Server).into_iter().map(|(server, loops)| {
        let (name, vip) = (facts.name(Some(server)), vip(loops[0].flow));
        let summary = format!(
            "{name} does not know {vip} and forwards its packets back to {}, round and round.",
            facts.name(Some(loops[0].director))
        );
        let unsure = loops.iter().all(|l| l.unsure);
        let confidence = if unsure { Confidence::Possible } else { Confidence::Certain };
        let found = Loop::finding(&loops, facts, confidence, summary).mend([vip_on_lo(name, &vip)]);
        match unsure {
            true => found.unless(&["DR006"], format!("is {name} a real server, or a router before one? `ip route get {vip}` there")),
            false => found,
        }
    });
    found.collect::<Vec<_>>().into()
}

/// On the host: no virtual address, and it forwards.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.answers(checks, "DR016", |host, duty, story| {
        let vip = duty.vip.map_or_else(|| "VIP".to_string(), |a| a.to_string());
        let link = duty.arrives(host).unwrap_or("IF");
        let summary =
            format!("The virtual address {vip} is not on this real server, and it forwards: requests are sent back, round and round.");
        let mut remedy = super::super::remedy::vip_on_lo(&host.name, &vip);
        remedy.permanent = super::super::remedy::keep_on_lo(host, &vip);
        let fact = host.behind("forwarding", link);
        proven(host, Severity::Broken, summary, format!("no address {vip}"), format!("ip addr show to {vip}"))
            .and([crate::finding::Evidence::host(&host.name, fact, "sysctl"), story.evidence(host)])
            .mend([remedy])
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::super::dr001::DR001;
    use super::*;

    #[test]
    fn the_server_sends_it_back() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let good = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&good, "client router director web1", "web1 router client");
        let bad = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&bad, "client router director web2 director web2 director web2", 2);
        let found = w.expect(&DR016, Confidence::Certain, "web2");
        assert_eq!(found.flows, [2]);
        w.deny(&DR001);
        w.unnamed().diagnose().findings.iter().find(|f| f.code == "DR016").expect("also without names");
    }

    #[test]
    fn a_silent_server_is_another_story() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let bad = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&bad, "client router director web2", 3);
        w.deny(&DR016);
    }
}
