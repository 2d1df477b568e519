//! An answer that never leaves the host's loopback.

use super::super::{Facts, rule};
use super::{at_most_one, note};
use crate::finding::{Evidence, Finding, Outcome};
use crate::trace::HostId;

rule! {
    /// # What it sees
    /// A silent real server for direct routing or a tunnel, for which a VIP with too wide a mask on `lo` (DR002) is among the causes, and no
    /// capture on its `lo`.
    ///
    /// # Why it breaks
    /// With such a mask the server takes the client's address for its own: the answer is delivered over the loopback, to itself. No capture
    /// on a network card can show it, and none can exclude it.
    ///
    /// # Confirm it by hand
    /// On the server: `tcpdump -ni lo 'port 80'` while a client connects; `ip -4 addr show lo`.
    ///
    /// # Remedy
    /// None; a capture on `lo` of the server, or a snapshot, settles it.
    ///
    /// # When it is not a fault
    /// It is never one by itself.
    ///
    /// # Reproduce
    /// `ip addr add VIP/24 dev lo` on the server; a client in that network.
    ///
    /// # References
    /// kernel `net/ipv4/fib_frontend.c`, `fib_add_ifaddr`: local routes of addresses on `lo`.
    CAP016 "lo-short-circuit" check
}

/// Causes of a silence among which a wide mask may be.
const CAUSES: [&str; 6] = ["DR001", "DR002", "DR004", "DR018", "NAT007", "NET008"];

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let has_loopback = |host: HostId| {
        let name = facts.name(Some(host));
        facts.trace.points.iter().any(|p| p.name.strip_prefix(name).is_some_and(|rest| rest == ".lo"))
    };
    let silences = CAUSES.iter().flat_map(|code| facts.silences(code).into_iter().map(move |silence| (*code, silence)));
    let mut open = silences.filter(|(code, s)| *code == "DR002" || s.others.contains(&"DR002"));
    let (_, silence) = open.find(|(_, s)| s.servers.iter().any(|host| !has_loopback(*host)))?;
    let names = silence.names(facts);
    let summary = format!("An answer of {names} may be on its loopback alone, where nobody captured.");
    let absence = Evidence::absence(silence.hop.point, "no answer at the network card");
    Some(note(names.clone(), summary, facts.seen(silence.hop)).and([absence]).on(silence.flows.iter().map(|f| f.id)))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn a_silence_that_lo_could_explain() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router director web1", 3);
        w.expect(&CAP016, Confidence::Certain, "web1");
    }

    #[test]
    fn nothing_of_that_with_nat() {
        let mut w = World::nat();
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 3);
        w.deny(&CAP016);
    }
}
