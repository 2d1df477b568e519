//! The clocks of the capturing hosts, and how far they are apart.
//!
//! No packet arrives before it was sent. So each packet seen at point *i* and later on its way at point *j* says: `clock j` is ahead of
//! `clock i` by at most `time j - time i`. Packets one way bound the difference from above, packets the other way from below; the
//! tightest bounds over any chain of points are shortest paths in the graph of these differences. The estimate is the middle of both
//! bounds, and half their distance is the error that remains. A point that packets cross in one direction only has no lower bound:
//! then nothing is claimed.
//!
//! All points of one file share one clock. A slow drift is fitted first, where both directions were seen over time.

use crate::net::Timestamp;

/// How far the clock of a point is from the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockOffset {
    /// Number of the input file whose clock it is.
    pub file: usize,
    /// Number of the file whose clock is the reference.
    pub reference: usize,
    /// Nanoseconds that this clock is ahead, at the middle of the capture.
    pub offset: i64,
    /// The offset is right to so many nanoseconds.
    pub bound: i64,
    /// Nanoseconds gained in each second, that is parts per billion.
    pub drift: f64,
}

/// Translates the times of all files to one clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Clocks {
    /// File of each point.
    file_of: Vec<usize>,
    files: Vec<Correction>,
    pub(super) offsets: Vec<ClockOffset>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Correction {
    offset: i64,
    drift: f64,
    middle: i64,
}

/// A packet at two points of its way, in that order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) from_file: usize,
    pub(super) to_file: usize,
    pub(super) left: i64,
    pub(super) arrived: i64,
}

/// Pieces of time in which the offset is looked at on its own, to see a drift.
const PIECES: usize = 64;
/// Nanoseconds a second. Computers' clocks stay within 500 ppm of the right pace (the kernel's `MAXFREQ`, include/linux/timex.h), so two of them
/// within twice that of each other; what seems to be more is stamps that came late.
const MAX_DRIFT: f64 = 1e6;
/// No bound: the points were never crossed that way.
const OPEN: i64 = i64::MAX / 4;

/// The latest time that is believed, in the year 2116. Damaged files hold any number; of times up to here any two have a distance.
pub(super) const LATEST: i64 = (1 << 62) - 1;

impl Clocks {
    /// Without corrections.
    fn raw(file_of: Vec<usize>) -> Self {
        let files = file_of.iter().max().map_or(0, |max| max + 1);
        Clocks { file_of, files: vec![Correction::default(); files], offsets: Vec::new() }
    }

    pub(super) fn estimate(file_of: Vec<usize>, passages: &[Passage]) -> Self {
        let mut clocks = Self::raw(file_of);
        let files = clocks.files.len();
        if files < 2 || passages.is_empty() {
            return clocks;
        }
        let begin = passages.iter().map(|p| p.left).min().unwrap_or(0);
        let end = passages.iter().map(|p| p.left).max().unwrap_or(0);
        let middle = begin + (end - begin) / 2;
        // Who is seen with whom most often is the reference: its bounds are the tightest.
        let mut weight = vec![0usize; files];
        for p in passages {
            weight[p.from_file] += 1;
            weight[p.to_file] += 1;
        }
        let reference = (0..files).max_by_key(|&f| (weight[f], std::cmp::Reverse(f))).unwrap_or(0);
        let drifts = drifts(files, reference, passages, begin, end);
        for (correction, drift) in clocks.files.iter_mut().zip(&drifts) {
            (correction.drift, correction.middle) = (*drift, middle);
        }
        let straight = |file: usize, time: i64| time.saturating_sub(slide(drifts[file], time, middle));
        let ahead = |p: &Passage| straight(p.to_file, p.arrived).saturating_sub(straight(p.from_file, p.left));
        let mut most = bounds(files, passages, ahead);
        shortest(&mut most);
        for file in (0..files).filter(|&file| file != reference) {
            let (upper, lower) = (most[reference][file], most[file][reference]);
            if upper >= OPEN / 2 || lower >= OPEN / 2 {
                // One direction alone: a point in time on one side is all there is. Put it where the fastest packet took no time.
                let guess = match (upper < OPEN / 2, lower < OPEN / 2) {
                    (true, false) => upper,
                    (false, true) => -lower,
                    _ => 0,
                };
                clocks.files[file].offset = guess;
                continue;
            }
            let offset = (upper - lower) / 2;
            clocks.files[file].offset = offset;
            clocks.offsets.push(ClockOffset { file, reference, offset, bound: ((upper + lower) / 2).abs(), drift: drifts[file] });
        }
        clocks
    }

    /// A time on the clock of `point`, on the common clock.
    pub(super) fn common(&self, point: u32, time: i64) -> i64 {
        let Some(correction) = self.file_of.get(point as usize).and_then(|file| self.files.get(*file)) else { return time };
        time.saturating_sub(correction.offset).saturating_sub(slide(correction.drift, time, correction.middle)).clamp(-LATEST, LATEST)
    }

    /// The same for a [`Timestamp`].
    pub(super) fn at(&self, point: u32, time: Timestamp) -> Timestamp {
        Timestamp(self.common(point, time.0))
    }
}

/// How much each clock is ahead of each other one at most, by direct passages.
///
/// A packet that arrives before it left was taken for another one (the capture missed the first, and what was seen was the repeat). One
/// such error would spoil the tightest bound. Both ways together can take no negative time: until that holds, what lies farthest off
/// is left out.
fn bounds(files: usize, passages: &[Passage], ahead: impl Fn(&Passage) -> i64) -> Vec<Vec<i64>> {
    let mut all: std::collections::BTreeMap<(usize, usize), Vec<i64>> = std::collections::BTreeMap::new();
    for p in passages {
        all.entry((p.from_file, p.to_file)).or_default().push(ahead(p));
    }
    all.values_mut().for_each(|values| values.sort_unstable());
    let mut most = vec![vec![OPEN; files]; files];
    for (&(from, to), there) in &all {
        let back = all.get(&(to, from)).map_or(&[][..], Vec::as_slice);
        let (mut i, mut j) = (0, 0);
        let off = |values: &[i64], at: usize| values[values.len() / 2].saturating_sub(values[at]);
        while i < there.len() / 2 && j < back.len() / 2 && there[i].saturating_add(back[j]) < 0 {
            if off(there, i) >= off(back, j) { i += 1 } else { j += 1 }
        }
        most[from][to] = there[i];
    }
    most
}

fn slide(drift: f64, time: i64, middle: i64) -> i64 {
    if drift == 0.0 { 0 } else { (drift * (time.saturating_sub(middle)) as f64 / 1e9) as i64 }
}

/// Floyd and Warshall: bounds over any chain of points. Repeated until nothing improves is not needed; a cycle that a wrong passage made
/// negative only loosens the result.
fn shortest(most: &mut [Vec<i64>]) {
    let n = most.len();
    // With hundreds of captures the cube is still small; beyond that direct bounds must do.
    if n > 400 {
        return;
    }
    for via in 0..n {
        for from in 0..n {
            if most[from][via] >= OPEN / 2 {
                continue;
            }
            for to in 0..n {
                if most[via][to] < OPEN / 2 {
                    let sum = most[from][via].saturating_add(most[via][to]).max(-OPEN);
                    if sum < most[from][to] {
                        most[from][to] = sum;
                    }
                }
            }
        }
    }
}

/// The drift of each file's clock against the reference, nanoseconds a second. Found along chains of files that packets crossed both
/// ways in several pieces of time; zero where there is too little to say.
fn drifts(files: usize, reference: usize, passages: &[Passage], begin: i64, end: i64) -> Vec<f64> {
    let mut drifts = vec![0.0; files];
    let length = (end - begin).max(1);
    if length < 1_000_000_000 {
        return drifts;
    }
    let piece = |time: i64| (((time - begin) as i128 * PIECES as i128 / (length as i128 + 1)) as usize).min(PIECES - 1);
    let mut bounds: std::collections::BTreeMap<(usize, usize), Vec<i64>> = std::collections::BTreeMap::new();
    for p in passages.iter().filter(|p| p.from_file != p.to_file) {
        let cells = bounds.entry((p.from_file, p.to_file)).or_insert_with(|| vec![OPEN; PIECES]);
        let cell = &mut cells[piece(p.left)];
        *cell = (*cell).min(p.arrived - p.left);
    }
    let mut known = vec![false; files];
    known[reference] = true;
    let mut waiting = std::collections::VecDeque::from([reference]);
    while let Some(from) = waiting.pop_front() {
        for to in 0..files {
            let (Some(there), Some(back)) = (bounds.get(&(from, to)), bounds.get(&(to, from))) else { continue };
            if known[to] {
                continue;
            }
            known[to] = true;
            waiting.push_back(to);
            drifts[to] = drifts[from] + slope(there, back, length);
        }
    }
    drifts
}

/// The median slope of the offset over the pieces of time that were crossed both ways (Theil and Sen), if it is larger than the
/// uncertainty of the offset itself.
fn slope(there: &[i64], back: &[i64], length: i64) -> f64 {
    let seconds = length as f64 / 1e9 / PIECES as f64;
    let points: Vec<(f64, f64, f64)> = there
        .iter()
        .zip(back)
        .enumerate()
        .filter(|(_, (t, b))| **t < OPEN && **b < OPEN)
        .map(|(i, (t, b))| (i as f64 * seconds, (t - b) as f64 / 2.0, (t + b) as f64 / 2.0))
        .collect();
    if points.len() < 4 {
        return 0.0;
    }
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (i, a) in points.iter().enumerate() {
        slopes.extend(points[i + 1..].iter().map(|b| (b.1 - a.1) / (b.0 - a.0)));
    }
    slopes.sort_by(f64::total_cmp);
    let slope = slopes[slopes.len() / 2];
    let mut widths: Vec<f64> = points.iter().map(|p| p.2.abs()).collect();
    widths.sort_by(f64::total_cmp);
    let span = points[points.len() - 1].0 - points[0].0;
    let outgrows = (slope * span).abs() > 2.0 * widths[widths.len() / 2].max(10_000.0);
    if outgrows && slope.abs() <= MAX_DRIFT { slope } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// Packets between two files every 100 ms for a minute, both ways, 50 to 90 µs on the way; `ahead` is clock 1 less clock 0.
    fn crossing(ahead: impl Fn(i64) -> i64) -> Vec<Passage> {
        let mut all = Vec::new();
        for i in 0..600i64 {
            let (t, delay) = (i * SECOND / 10, 50_000 + (i * 7919 % 40) * 1000);
            all.push(Passage { from_file: 0, to_file: 1, left: t, arrived: t + delay + ahead(t) });
            all.push(Passage { from_file: 1, to_file: 0, left: t + 1_000_000 + ahead(t), arrived: t + 1_000_000 + delay });
        }
        all
    }

    #[test]
    fn no_clock_runs_that_wrong() {
        let clocks = Clocks::estimate(vec![0, 1], &crossing(|t| t / 500));
        assert_eq!(clocks.offsets[0].drift, 0.0, "{:?}", clocks.offsets);
    }

    #[test]
    fn an_offset_is_found_within_its_bound() {
        for true_offset in [0, 400_000_000, -2 * SECOND, 3600 * SECOND] {
            let clocks = Clocks::estimate(vec![0, 1], &crossing(|_| true_offset));
            let found = clocks.offsets[0];
            let sign = if found.file == 1 { 1 } else { -1 };
            assert!((found.offset - sign * true_offset).abs() <= found.bound && found.bound <= 60_000, "{found:?}");
            assert_eq!(found.drift, 0.0);
        }
    }

    #[test]
    fn a_drift_is_taken_out() {
        // 80 ppm: almost 5 ms in a minute, a hundred times the time on the way.
        let clocks = Clocks::estimate(vec![0, 1], &crossing(|t| SECOND + t * 80 / 1_000_000));
        let found = clocks.offsets[0];
        assert!((found.drift.abs() - 80_000.0).abs() < 500.0, "{found:?}");
        for t in [0, 30 * SECOND, 59 * SECOND] {
            let other = t + SECOND + t * 80 / 1_000_000;
            assert!((clocks.common(1, other) - clocks.common(0, t)).abs() < 200_000, "{t}");
        }
    }

    #[test]
    fn a_mistaken_packet_does_no_harm() {
        let mut passages = crossing(|_| SECOND);
        for early in [250_000_000, 3_000_000, SECOND] {
            passages.push(Passage { from_file: 0, to_file: 1, left: SECOND, arrived: 2 * SECOND - early });
            passages.push(Passage { from_file: 1, to_file: 0, left: 3 * SECOND, arrived: 2 * SECOND - early / 2 });
        }
        let found = Clocks::estimate(vec![0, 1], &passages).offsets[0];
        assert!((found.offset.abs() - SECOND).abs() < 60_000 && found.bound < 100_000, "{found:?}");
    }

    #[test]
    fn one_direction_claims_nothing() {
        for from in [0, 1] {
            let there: Vec<Passage> = crossing(|_| SECOND).into_iter().filter(|p| p.from_file == from).collect();
            let clocks = Clocks::estimate(vec![0, 1], &there);
            assert!(clocks.offsets.is_empty());
            assert!((clocks.common(1, 2 * SECOND) - clocks.common(0, SECOND)).abs() < 100_000, "good enough to order by");
        }
    }

    #[test]
    fn bounds_go_through_a_third_point() {
        // Direct routing: the director (1) gets packets from the router (0) and sends them to the server (2); answers go 2 → 0.
        let passages = [
            Passage { from_file: 0, to_file: 1, left: 0, arrived: 5 * SECOND + 100 },
            Passage { from_file: 1, to_file: 2, left: 5 * SECOND + 200, arrived: 9 * SECOND + 300 },
            Passage { from_file: 2, to_file: 0, left: 9 * SECOND + 400, arrived: 500 },
        ];
        let clocks = Clocks::estimate(vec![0, 1, 2], &passages);
        assert_eq!(clocks.offsets.len(), 2);
        for offset in clocks.offsets {
            let truth = [0, 5 * SECOND, 9 * SECOND];
            assert!((offset.offset - (truth[offset.file] - truth[offset.reference])).abs() <= offset.bound + 1, "{offset:?}");
        }
    }

    #[test]
    fn absurd_times_overflow_nothing() {
        let times = [0, 1, SECOND, 60 * SECOND, LATEST / 2, LATEST];
        let mut passages = Vec::new();
        for (i, left) in times.into_iter().enumerate() {
            for (j, arrived) in times.into_iter().enumerate() {
                passages.push(Passage { from_file: i % 3, to_file: j % 3, left, arrived });
            }
        }
        let clocks = Clocks::estimate(vec![0, 1, 2], &passages);
        for time in [i64::MIN, 0, LATEST, i64::MAX] {
            assert!((0..3).all(|point| clocks.common(point, time).unsigned_abs() <= LATEST.unsigned_abs()));
        }
    }
}
