//! How long packets take from one wire to the next, and whether their IP-IDs stay what they are: learned from packets that cannot be
//! mistaken, and then used on those that can.
//!
//! The times are those of the common clock, but the clocks may be off by more than a packet takes: what is learned is the difference that
//! the captures show, so that an error of the clocks does no harm.

use super::pairing::Station;
use hashbrown::{HashMap, HashSet};

/// From one wire to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// What packets mostly take, in nanoseconds.
    pub(super) center: i64,
    /// Of 50 packets 49 take no more longer or less than this, if they are at all alike.
    pub(super) spread: i64,
    /// IP-IDs are left alone.
    pub(super) faithful: bool,
    /// Told by few packets.
    pub(super) vague: bool,
}

const MILLISECOND: i64 = 1_000_000;

impl Gap {
    /// Nothing was learned: both ends are believed to be near each other, as they mostly are.
    const UNKNOWN: Gap = Gap { center: 0, spread: 30 * MILLISECOND, faithful: true, vague: true };

    /// A packet that deviates by more may be another one. Datagrams that say the same can follow each other at once; TCP sends nothing again
    /// sooner than it must.
    pub(super) fn tight(&self, tcp: bool) -> i64 {
        if tcp { 3 * self.spread + MILLISECOND } else { 2 * self.spread + MILLISECOND / 10 }
    }

    /// The same for a packet that has no other of its kind beside it: a segment's timeout is at least 200 ms.
    pub(super) fn late(&self, tcp: bool) -> i64 {
        if tcp { self.tight(true).max(100 * MILLISECOND) } else { self.tight(false) }
    }
}

/// What was learned.
pub(super) struct Pace {
    gaps: HashMap<(u32, u32), Gap>,
    /// Between capture points: for wires that few packets passed.
    points: HashMap<(u32, u32), Gap>,
    doubling: HashSet<u32>,
}

impl Pace {
    /// Nothing, yet.
    pub(super) fn none() -> Self {
        Pace { gaps: HashMap::new(), points: HashMap::new(), doubling: HashSet::new() }
    }

    /// What a packet takes from one wire to another.
    pub(super) fn between(&self, from: Station, to: Station) -> Gap {
        let gap = self.gaps.get(&(from.wire, to.wire)).or_else(|| self.points.get(&(from.point, to.point)));
        gap.copied().unwrap_or(Gap::UNKNOWN)
    }

    /// The capture shows each packet of this wire twice: a mirror port that copies both ways in and out.
    pub(super) fn doubles(&self, wire: u32) -> bool {
        self.doubling.contains(&wire)
    }
}

/// Collects what can be learned.
#[derive(Default)]
pub(super) struct Learner {
    pairs: HashMap<(u32, u32), Pairs>,
    points: HashMap<(u32, u32), Pairs>,
    /// The points of each pair of wires.
    points_of: HashMap<(u32, u32), (u32, u32)>,
    wires: HashMap<u32, (u64, u64)>,
}

/// Packets of which one copy was seen on each of two wires.
#[derive(Default)]
struct Pairs {
    same_id: Thinned,
    no_id: Thinned,
    other_id: Thinned,
}

impl Learner {
    /// One copy at each station, `delay` apart.
    pub(super) fn pair(&mut self, from: Station, to: Station, delay: i64, ids: (u16, u16)) {
        let (wires, points) = ((from.wire, to.wire), (from.point, to.point));
        self.points_of.insert(wires, points);
        for pairs in [self.pairs.entry(wires).or_default(), self.points.entry(points).or_default()] {
            match ids {
                (0, 0) => pairs.no_id.push(delay),
                (a, b) if a == b => pairs.same_id.push(delay),
                _ => pairs.other_id.push(delay),
            }
        }
    }

    /// So many packets on a wire, of which so many look like the one before them.
    pub(super) fn wire(&mut self, wire: u32, packets: u64, copies: u64) {
        let seen = self.wires.entry(wire).or_default();
        *seen = (seen.0 + packets, seen.1 + copies);
    }

    pub(super) fn finish(self) -> Pace {
        // Where each packet is seen twice, half of all are copies.
        let doubling = self.wires.into_iter().filter(|(_, (packets, copies))| *packets >= 10 && copies * 5 >= packets * 2);
        let points: HashMap<(u32, u32), Gap> = self.points.into_iter().map(|(p, pairs)| (p, pairs.gap())).collect();
        // Wires between the same points lead through the same boxes: what few packets do not tell of one, the others do.
        let gap = |wires: &(u32, u32), pairs: Pairs| {
            let own = pairs.gap();
            let all = self.points_of.get(wires).and_then(|p| points.get(p));
            all.filter(|all| own.vague && !all.vague).map_or(own, |all| Gap { faithful: own.faithful, ..*all })
        };
        let gaps = self.pairs.into_iter().map(|(wires, pairs)| (wires, gap(&wires, pairs))).collect();
        Pace { doubling: doubling.map(|(wire, _)| wire).collect(), gaps, points }
    }
}

impl Pairs {
    fn gap(self) -> Gap {
        // One copy here and another copy there do happen, when the original was lost there and the capture lost the repeat here. Not often.
        let faithful = self.other_id.count < 2 || self.other_id.count <= self.same_id.count;
        let mut delays = self.same_id.values;
        if delays.len() < 3 || !faithful {
            delays.extend(self.no_id.values);
        }
        if !faithful {
            delays.extend(self.other_id.values);
        }
        delays.sort_unstable();
        let Some(&center) = delays.get(delays.len() / 2) else { return Gap { faithful, ..Gap::UNKNOWN } };
        let mut deviations: Vec<i64> = delays.iter().map(|delay| delay.saturating_sub(center).saturating_abs()).collect();
        deviations.sort_unstable();
        // Of a few packets nobody knows how the others will be.
        let vague = delays.len() < 20;
        let least = if vague { 20 * MILLISECOND } else { MILLISECOND / 10 };
        // What one loss on each side made look like a pair lies far outside of what the others need, and is not to widen it.
        let (most, half) = (deviations[deviations.len() * 49 / 50], deviations[deviations.len() / 2]);
        Gap { center, spread: most.min(16 * half).max(least), faithful, vague }
    }
}

/// Some of many values, evenly taken.
#[derive(Default)]
struct Thinned {
    values: Vec<i64>,
    /// All but one in `2^skip` are left out.
    skip: u32,
    count: u64,
}

impl Thinned {
    const MOST: usize = 1024;

    fn push(&mut self, value: i64) {
        if self.count.is_multiple_of(1 << self.skip) {
            self.values.push(value);
        }
        self.count += 1;
        if self.values.len() >= Self::MOST {
            let mut nth = 0;
            self.values.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.skip += 1;
        }
    }
}
