//! A capture that lost packets, or kept too little of them.

use super::super::facts::plural;
use super::super::{Facts, rule};
use super::{at_most_one, note, points};
use crate::finding::{Evidence, Finding, Outcome};

rule! {
    /// # What it sees
    /// The capture file says that frames were dropped while capturing, or frames were cut inside their headers by the snap length.
    ///
    /// # Why it breaks
    /// What is missing in such a capture need not have been missing on the wire. Silence at such a point proves nothing: rules that rest on
    /// something not seen do not judge there.
    ///
    /// # Confirm it by hand
    /// tcpdump's last lines: `N packets dropped by kernel`; `capinfos FILE` (packet size limit, interface statistics).
    ///
    /// # Remedy
    /// Capture again with a larger buffer (`tcpdump -B 65536`), a filter, a snap length of 128 bytes or more, and onto a fast disk.
    ///
    /// # When it is not a fault
    /// A few drops in a large capture do not matter to connections that were seen whole.
    ///
    /// # Reproduce
    /// `tcpdump -s 40 -w short.pcap`.
    ///
    /// # References
    /// tcpdump(1), `-B`, `-s`; pcapng, Interface Statistics Block, `isb_ifdrop`.
    CAP010 "capture-loss-or-snaplen" check
}

/// Ethernet with a tag, the longest usual IP header and TCP with its options fit into so much.
const ENOUGH: u32 = 128;

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let all = || (0..).zip(&facts.trace.points);
    let lossy = || all().filter_map(|(number, p)| p.dropped.filter(|n| *n > 0).map(|n| (number, n)));
    let cut: u64 = facts.trace.unplaced.iter().filter(|(reason, _)| reason.contains("cut short")).map(|(_, count)| *count).sum();
    let short = || all().filter(|(_, p)| cut > 0 && (1..ENOUGH).contains(&p.snap_len)).map(|(number, p)| (number, p.snap_len));
    let lost =
        lossy().map(|(number, n)| Evidence::absence(number, format!("the capture says that it lost {}", plural(n as usize, "frame"))));
    let kept = short().map(|(number, n)| Evidence::absence(number, format!("only {n} bytes of each frame were kept")));
    let mut proofs = lost.chain(kept);
    let where_seen = points(facts, lossy().map(|(number, _)| number).chain(short().map(|(number, _)| number)));
    let summary = match (lossy().next().is_some(), short().next().is_some()) {
        (true, _) => format!("The capture at {where_seen} lost frames: what is missing there may have been on the wire."),
        (false, _) => {
            format!("The capture at {where_seen} cut frames inside their headers; {} could not be read.", plural(cut as usize, "packet"))
        }
    };
    Some(note(where_seen.clone(), summary, proofs.next()?).and(proofs.take(7)))
}

#[cfg(test)]
mod tests {
    use super::super::super::nat::nat001::NAT001;
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    fn silent(mut w: World) -> World {
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.syn(&c, "client director web1", 3);
        w
    }

    #[test]
    fn a_lossy_capture_proves_no_silence() {
        let w = silent(World::nat().lossy("web1.eth0", 12));
        w.expect(&CAP010, Confidence::Certain, "web1.eth0");
        w.deny(&NAT001);
        let w = silent(World::nat());
        w.deny(&CAP010);
        w.finding(&NAT001);
    }

    #[test]
    fn headers_that_were_cut() {
        let w = silent(World::nat().snapped("director.ext", 44));
        let found = w.expect(&CAP010, Confidence::Certain, "director.ext");
        assert!(found.summary.contains("inside their headers"));
        // Where the request would be seen leaving, nothing can be told apart.
        let mut blind = World::nat().snapped("director.int", 44);
        blind.who_has("client", "ext", "10.1.0.1", &["director"]);
        let blind = silent(blind).without(&["web1", "web2"]);
        let accused: Vec<_> = blind.diagnose().findings.into_iter().filter(|f| f.confidence == Confidence::Likely).collect();
        assert!(accused.is_empty(), "{accused:?}");
        // Payload may be cut off without harm.
        silent(World::nat().snapped("director.ext", 100)).deny(&CAP010);
    }
}
