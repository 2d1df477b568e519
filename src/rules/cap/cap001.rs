//! Checksums that the network card would have filled in.

use super::super::{Facts, rule};
use super::{at_most_one, note, points};
use crate::finding::{Evidence, Finding, Outcome};

rule! {
    /// # What it sees
    /// TCP or UDP checksums that hold only the sum of the pseudo-header. Wireshark calls them incorrect.
    ///
    /// # Why it breaks
    /// It does not. The sending host leaves the rest to its network card, and the capture takes the packet before the card has it. Between
    /// virtual machines and over veth pairs nobody ever fills it in, and the receiver's capture shows the same.
    ///
    /// # Confirm it by hand
    /// `ethtool -k IF | grep checksumming` says `on`. A capture on another physical machine shows the right checksum.
    ///
    /// # Remedy
    /// None. To see real checksums: `ethtool -K IF tx off` while capturing.
    ///
    /// # When it is not a fault
    /// Never is it one. A checksum that is wrong in another way, on frames received over a wire, would be.
    ///
    /// # Reproduce
    /// Capture on the sending host with `tx-checksumming` on, as it is by default.
    ///
    /// # References
    /// kernel `Documentation/networking/checksum-offloads.rst`.
    CAP001 "tx-checksum-partial" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let seen = &facts.trace.unfinished;
    let proof = |(point, times): (&u32, &crate::trace::Occurrences)| {
        Evidence::frames(*point, times.frames().into_iter().take(4).collect(), "the checksum is only the pseudo-header's sum")
    };
    let mut proofs = seen.iter().map(proof);
    let where_seen = points(facts, seen.keys().copied());
    let summary =
        format!("Checksums at {where_seen} were left to the network card: they look wrong in the capture and are right on the wire.");
    Some(note(where_seen.clone(), summary, proofs.next()?).and(proofs.take(2)))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::{Confidence, Severity};

    #[test]
    fn a_card_that_sums() {
        let talk = |mut w: World| {
            let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
            w.talk(&c, "client director web1", "web1 director client");
            w
        };
        let w = talk(World::nat().offloading("client.eth0"));
        assert_eq!(w.expect(&CAP001, Confidence::Certain, "client.eth0").severity, Severity::Note);
        w.healthy();
        assert_eq!(w.trace().flows[0].request.hops.len(), 4, "joined all the same");
        talk(World::nat()).deny(&CAP001);
    }
}
