//! Sightings of one direction of a flow, at several stations of its way → packets, each with its own sightings.
//!
//! What survives every rewrite is a packet's **key**: TCP numbers, window, timestamps; or length and digest of what it carries. Mostly a
//! key is seen once at a station, and that is all. A segment that is sent again can have the same key (and a UDP datagram that says the same
//! again always has); those are different packets. Then the IP-ID tells which copy is which, as long as nobody rewrites it; and where there
//! is none, the time that packets take on this way ([`super::pace`]). Counting copies decides nothing by itself: what one station lost would
//! shift all that follows. A copy that could be either of two is left alone.

use super::journal::{DIGEST, Entry, Journal};
use super::pace::{Gap, Learner, Pace};
use super::topology::Topology;

/// A wire with a tuple, in the order of the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Station {
    pub(super) wire: u32,
    pub(super) point: u32,
}

/// What a packet has at every station.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key(u64, u64, u8);

/// A packet at a station.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    key: Key,
    pub(super) station: u32,
    /// On the common clock.
    pub(super) time: i64,
    /// Number in the journal.
    pub(super) entry: u32,
}

/// One passing of a packet at a station: an item, or several where the capture has it more than once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    pub(super) station: u32,
    pub(super) time: i64,
    id: u16,
    /// The first item, and the one behind the last.
    pub(super) from: u32,
    pub(super) to: u32,
}

/// A packet with all its passes, in the order of the stations.
#[derive(Clone, Debug, Default)]
pub(super) struct Packet {
    pub(super) passes: Vec<Pass>,
    /// Pieces of different sizes, put together by [`super::segments`].
    pub(super) pieces: bool,
}

impl Packet {
    pub(super) fn id(&self) -> u16 {
        self.passes.iter().map(|pass| pass.id).find(|id| *id != 0).unwrap_or(0)
    }
}

/// One direction of a flow while its packets are found.
pub(super) struct Direction<'a> {
    pub(super) journal: &'a Journal,
    pub(super) stations: &'a [Station],
    /// Sorted by key, station and time.
    pub(super) items: Vec<Item>,
    tcp: bool,
}

/// The capture's own copies of a packet follow it at once.
const COPY: i64 = 2_000_000;
/// A packet that goes round in a loop comes again within this time.
const ROUND: i64 = 1_000_000_000;
/// A packet with the right key and the right IP-ID is the same one, however slow it was: until IP-IDs can have come round again.
const SURE: i64 = 30_000_000_000;

impl<'a> Direction<'a> {
    /// Sorts the packets `numbers` of the journal; `legs` says the station of each leg.
    pub(super) fn new(
        journal: &'a Journal,
        stations: &'a [Station],
        legs: &[(u32, u32)],
        topology: &Topology,
        numbers: &[u32],
        tcp: bool,
    ) -> Self {
        // A digest that one station could not make, because it kept too little of each frame, compares with nothing.
        let blind = !tcp && numbers.iter().any(|n| journal.packets[*n as usize].mark & DIGEST == 0);
        let item = |number: &u32| {
            let entry = &journal.packets[*number as usize];
            let found = legs.binary_search_by_key(&entry.leg, |(leg, _)| *leg).ok()?;
            let station = legs[found].1;
            let time = topology.clocks.common(stations[station as usize].point, entry.time);
            Some(Item { key: key(entry, blind), station, time, entry: *number })
        };
        let mut items: Vec<Item> = numbers.iter().filter_map(item).collect();
        items.sort_by_key(|item| (item.key, item.station, item.time));
        Direction { journal, stations, items, tcp }
    }

    pub(super) fn entry(&self, item: &Item) -> &Entry {
        &self.journal.packets[item.entry as usize]
    }

    /// Calls `each` with the passes of one key after the other.
    fn for_each_key(&self, pace: &Pace, mut each: impl FnMut(&[Pass])) {
        let mut passes: Vec<Pass> = Vec::new();
        let mut from = 0;
        for run in self.items.chunk_by(|a, b| a.key == b.key) {
            passes.clear();
            for item in run {
                let entry = self.entry(item);
                match passes.last_mut() {
                    Some(pass) if pass.station == item.station && self.is_copy(pass, item, pace) => pass.to = from + 1,
                    _ => passes.push(Pass { station: item.station, time: item.time, id: entry.id, from, to: from + 1 }),
                }
                from += 1;
            }
            each(&passes);
        }
    }

    /// Whether an item is not another packet but the last one again: copied by the capture, or gone round in a loop.
    fn is_copy(&self, pass: &Pass, item: &Item, pace: &Pace) -> bool {
        let before = &self.items[pass.to as usize - 1];
        let (old, new, after) = (self.entry(before), self.entry(item), item.time - before.time);
        let looped = new.ttl < old.ttl && after < ROUND;
        let twice = || pass.to - pass.from == 1 && pace.doubles(self.stations[pass.station as usize].wire);
        old.id == new.id && (looped || (after < COPY && (new.id != 0 || twice())))
    }

    /// Learns from the packets that were seen once at each of two stations.
    pub(super) fn teach(&self, learner: &mut Learner) {
        self.for_each_key(&Pace::none(), |passes| {
            for here in passes.chunk_by(|a, b| a.station == b.station) {
                let wire = self.stations[here[0].station as usize].wire;
                let copies = here.windows(2).filter(|pair| pair[1].time - pair[0].time < COPY && pair[0].id == pair[1].id).count();
                learner.wire(wire, here.len() as u64, copies as u64);
            }
            let once = |at: usize| {
                let here = passes[at].station;
                (at == 0 || passes[at - 1].station != here) && passes.get(at + 1).is_none_or(|next| next.station != here)
            };
            for (i, a) in passes.iter().enumerate().filter(|(i, _)| once(*i)) {
                for (_, b) in passes.iter().enumerate().skip(i + 1).filter(|(j, _)| once(*j)) {
                    let (from, to) = (self.stations[a.station as usize], self.stations[b.station as usize]);
                    learner.pair(from, to, b.time - a.time, (a.id, b.id));
                }
            }
        });
    }

    /// The packets.
    pub(super) fn packets(&self, pace: &Pace) -> Vec<Packet> {
        let mut packets: Vec<Packet> = Vec::new();
        self.for_each_key(pace, |passes| {
            let first = packets.len();
            for here in passes.chunk_by(|a, b| a.station == b.station) {
                let pairs = self.pairs(&packets[first..], here, pace);
                let mut taken = vec![false; here.len()];
                for (packet, pass) in pairs {
                    packets[first + packet].passes.push(here[pass]);
                    taken[pass] = true;
                }
                let new = here.iter().zip(taken).filter(|(_, taken)| !taken).map(|(pass, _)| Packet { passes: vec![*pass], pieces: false });
                packets.extend(new);
            }
        });
        packets
    }

    /// Which packets known from earlier stations pass here, as places in `known` and `here`.
    fn pairs(&self, known: &[Packet], here: &[Pass], pace: &Pace) -> Vec<(usize, usize)> {
        let station = self.stations[here[0].station as usize];
        let mut faithful = true;
        let mut spread = 0;
        let mut vague = false;
        let mut expected: Vec<Expected> = Vec::with_capacity(known.len());
        for (at, packet) in known.iter().enumerate() {
            let Some(last) = packet.passes.last() else { continue };
            let gap = pace.between(self.stations[last.station as usize], station);
            faithful &= gap.faithful;
            (spread, vague) = (spread.max(gap.spread), vague || gap.vague);
            expected.push(Expected { id: packet.id(), time: last.time.saturating_add(gap.center), at });
        }
        let gap = Gap { center: 0, spread, faithful, vague };
        let mut seen: Vec<Expected> = here.iter().enumerate().map(|(at, p)| Expected { id: p.id, time: p.time, at }).collect();
        if !faithful {
            expected.iter_mut().chain(&mut seen).for_each(|e| e.id = 0);
        }
        expected.sort_unstable_by_key(|e| (e.id, e.time));
        seen.sort_unstable_by_key(|e| (e.id, e.time));
        let mut pairs = Vec::new();
        let mut rest = &seen[..];
        for left in expected.chunk_by(|a, b| a.id == b.id) {
            let id = left[0].id;
            rest = &rest[rest.partition_point(|e| e.id < id)..];
            let right = &rest[..rest.partition_point(|e| e.id == id)];
            match (left, right) {
                ([l], [r]) if id != 0 => pairs.extend(((r.time - l.time).abs() <= SURE).then_some((l.at, r.at))),
                _ => align(left, right, &gap, self.tcp, &mut pairs),
            }
        }
        pairs
    }
}

fn key(entry: &Entry, blind: bool) -> Key {
    let (seq, ack, mark) = if blind { (0, 0, entry.mark & !DIGEST) } else { (entry.seq, entry.ack, entry.mark) };
    Key(u64::from(seq) << 32 | u64::from(ack), u64::from(mark) << 32 | u64::from(entry.len()), entry.flags.0)
}

/// A packet that may be seen here, or is.
#[derive(Clone, Copy, Debug)]
struct Expected {
    id: u16,
    time: i64,
    at: usize,
}

/// Pairs what is expected with what is seen, both in the order of time, where only the time can tell.
fn align(expected: &[Expected], seen: &[Expected], gap: &Gap, tcp: bool, pairs: &mut Vec<(usize, usize)>) {
    let tight = gap.tight(tcp);
    let (mut left, mut right): (Vec<Expected>, Vec<Expected>) = (Vec::new(), Vec::new());
    // Stretches without a pause, one after the other. Where as many are seen as were expected, each at about its time, they are those.
    let (mut i, mut j) = (0, 0);
    while i < expected.len() || j < seen.len() {
        let (from_i, from_j) = (i, j);
        let mut end = i64::MIN;
        loop {
            let next = match (expected.get(i), seen.get(j)) {
                (Some(l), Some(r)) if l.time <= r.time => l.time,
                (Some(l), None) => l.time,
                (_, Some(r)) => r.time,
                (None, None) => break,
            };
            if end != i64::MIN && next.saturating_sub(end) > tight {
                break;
            }
            end = next;
            if expected.get(i).is_some_and(|l| l.time == next) { i += 1 } else { j += 1 }
        }
        let (l, r) = (&expected[from_i..i], &seen[from_j..j]);
        if l.len() == r.len() && l.iter().zip(r).all(|(l, r)| (r.time - l.time).abs() <= tight) {
            pairs.extend(l.iter().zip(r).map(|(l, r)| (l.at, r.at)));
        } else {
            left.extend(l);
            right.extend(r);
        }
    }
    // The others only where each is the other's nearest, and nothing else is nearly as near. One that has no others beside it may be late.
    let open: hashbrown::HashSet<usize> = right.iter().map(|r| r.at).collect();
    let late = if expected.len() == 1 && seen.len() == 1 { gap.late(tcp) } else { tight };
    for l in &left {
        let (Some((r, off)), next) = nearest(l, seen) else { continue };
        let (Some((back, _)), back_next) = nearest(&r, expected) else { continue };
        let clear = off.saturating_add(gap.spread);
        if back.at == l.at && off <= late && next > clear && back_next > clear && open.contains(&r.at) {
            pairs.push((l.at, r.at));
        }
    }
}

/// The one nearest in time and its distance, and the distance of the second.
fn nearest(to: &Expected, among: &[Expected]) -> (Option<(Expected, i64)>, i64) {
    let at = among.partition_point(|e| e.time < to.time);
    let mut best: Option<(Expected, i64)> = None;
    let mut second = i64::MAX;
    for candidate in &among[at.saturating_sub(2)..(at + 2).min(among.len())] {
        let off = (candidate.time - to.time).abs();
        if best.is_none_or(|(_, least)| off < least) {
            second = best.map_or(second, |(_, least)| least);
            best = Some((*candidate, off));
        } else {
            second = second.min(off);
        }
    }
    (best, second)
}
