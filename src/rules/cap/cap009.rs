//! Clocks that disagree.

use super::super::facts::seconds;
use super::super::{Facts, rule};
use super::{at_most_one, note, paths, point};
use crate::finding::{Evidence, Finding, Outcome};
use crate::trace::{ClockOffset, Hop};

rule! {
    /// # What it sees
    /// The clocks of two captures are apart by more than 5 ms, beyond what the time on the way explains. Measured from packets that crossed
    /// both ways; the offset and its bound stand under `clocks` in the report.
    ///
    /// # Why it breaks
    /// It does not, but times of different captures must not be compared as they are: answers seem to come before questions. The trace
    /// corrects the clocks, and takes order from TTLs and MACs first.
    ///
    /// # Confirm it by hand
    /// `chronyc tracking` or `timedatectl` on both hosts.
    ///
    /// # Remedy
    /// NTP on all hosts. For the captures at hand nothing: they are corrected.
    ///
    /// # When it is not a fault
    /// Virtual machines differ by milliseconds all the time.
    ///
    /// # Reproduce
    /// Capture on two hosts, one with `date -s` changed.
    ///
    /// # References
    /// chronyc(1); RFC 5905.
    CAP009 "clock-skew" check
}

/// Smaller differences do not disturb a reader.
const NOTICEABLE: i64 = 5_000_000;

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let apart = |clock: &&ClockOffset| clock.offset.saturating_abs().saturating_sub(clock.bound.saturating_abs()) > NOTICEABLE;
    let mut clocks: Vec<&ClockOffset> = facts.trace.clocks.iter().filter(apart).collect();
    clocks.sort_by_key(|clock| std::cmp::Reverse(clock.offset.saturating_abs()));
    let worst = clocks.first()?;
    let (here, reference) = example(facts, worst)?;
    let word = if worst.offset > 0 { "ahead of" } else { "behind" };
    let ahead = seconds(worst.offset.saturating_abs());
    let name = point(facts, here.point);
    let more = if clocks.len() > 1 { format!(", and {} more are off", clocks.len() - 1) } else { String::new() };
    let summary = format!(
        "The clock at {name} is {ahead} {word} the one at {}{more}: times are compared after correction.",
        point(facts, reference.point)
    );
    let proof = Evidence::frame(here.point, here.frame, here.time, format!("{} at {}", facts.describe(here), here.time));
    let other = Evidence::frame(reference.point, reference.frame, reference.time, format!("the same packet at {}", reference.time));
    Some(note(name, summary, proof).and([other]))
}

/// A packet that was seen by both clocks: by the one that is off, and by its reference.
fn example<'a>(facts: &Facts<'a>, clock: &ClockOffset) -> Option<(&'a Hop, &'a Hop)> {
    let of = |hop: &Hop, file: usize| facts.trace.points.get(hop.point as usize).is_some_and(|p| p.file == file);
    paths(facts).find_map(|(_, path)| {
        let here = path.hops.iter().find(|hop| of(hop, clock.file))?;
        let reference = path.hops.iter().find(|hop| of(hop, clock.reference))?;
        Some((here, reference))
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    fn talk(mut w: World) -> World {
        for port in 40001..40004 {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
            w.talk(&c, "client director web1", "web1 director client");
        }
        w
    }

    #[test]
    fn a_clock_that_is_off() {
        let w = talk(World::nat().ahead("web1.eth0", 0.4));
        let found = w.expect(&CAP009, Confidence::Certain, "web1.eth0");
        assert!(found.summary.contains("400 ms ahead of"), "{}", found.summary);
        w.healthy();
        let hops: Vec<String> = w.trace().flows[0].request.hops.iter().map(|h| w.trace().points[h.point as usize].name.clone()).collect();
        assert_eq!(hops, ["client.eth0", "director.ext", "director.int", "web1.eth0"], "order is not taken from clocks");
        talk(World::nat().ahead("web1.eth0", 0.001)).deny(&CAP009);
        talk(World::nat()).deny(&CAP009);
    }
}
