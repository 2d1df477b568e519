//! How many frames of whom each point saw, and whose interface that makes it likely to be.

use crate::net::MacAddr;
use crate::packet::Heading;
use crate::trace::store::Store;
use hashbrown::{HashMap, HashSet};

/// Unicast frames by point and MAC.
pub(super) struct Frames {
    by_point: Vec<HashMap<MacAddr, u64>>,
    by_wire: Vec<HashMap<(MacAddr, MacAddr), u64>>,
    total: Vec<u64>,
    /// The MAC that the capture itself says is the point's.
    stated: Vec<HashMap<MacAddr, u64>>,
    /// Number of VLAN tags on a MAC's frames, plus one.
    tags: Vec<HashMap<MacAddr, usize>>,
}

impl Frames {
    pub(super) fn count(store: &Store, points: usize) -> Self {
        let mut frames = Frames {
            by_point: vec![HashMap::new(); points],
            by_wire: vec![HashMap::new(); points],
            total: vec![0; points],
            stated: vec![HashMap::new(); points],
            tags: vec![HashMap::new(); points],
        };
        for (wire, count) in store.wires.iter() {
            let point = wire.point as usize;
            match (wire.heading, wire.src, wire.dst) {
                (Some(Heading::Out), Some(src), _) => *frames.stated[point].entry(src).or_insert(0) += count,
                (Some(Heading::In), _, Some(dst)) if dst.is_unicast() => *frames.stated[point].entry(dst).or_insert(0) += count,
                _ => {}
            }
            let (Some(src), Some(dst)) = (wire.src, wire.dst) else { continue };
            if !src.is_unicast() || !dst.is_unicast() {
                continue;
            }
            frames.total[point] += count;
            for mac in [src, dst] {
                frames.tags[point].insert(mac, wire.vlans.ids().len() + 1);
            }
            *frames.by_wire[point].entry((src, dst)).or_insert(0) += count;
            *frames.by_point[point].entry(src).or_insert(0) += count;
            if src != dst {
                *frames.by_point[point].entry(dst).or_insert(0) += count;
            }
        }
        frames
    }

    /// How many frames of a MAC were seen at a point.
    pub(super) fn seen(&self, point: usize, mac: &MacAddr) -> u64 {
        self.by_point[point].get(mac).copied().unwrap_or(0)
    }

    /// True when no other point saw far more frames of a MAC: an interface shows all of its own. Captures do not begin and end all at once.
    pub(super) fn are_all_at(&self, point: usize, mac: &MacAddr) -> bool {
        (0..self.by_point.len()).all(|other| self.seen(other, mac) <= self.seen(point, mac) * 2)
    }

    /// The MACs that may be a point's own, apart from those ruled out: one where it is clear, two at the end of a link between two hosts,
    /// none at a mirror.
    pub(super) fn likeliest(&self, point: usize, ruled_out: &HashSet<MacAddr>) -> Vec<MacAddr> {
        if let Some((mac, _)) = self.stated[point].iter().max_by_key(|(mac, count)| (**count, **mac)) {
            return vec![*mac];
        }
        let total = self.total[point].max(1) as f64;
        // How much of the point is this MAC's, times how completely this MAC's frames are seen here.
        let score = |mac: &MacAddr, count: u64| {
            let most = self.by_point.iter().filter_map(|p| p.get(mac)).max().copied().unwrap_or(count).max(1);
            (count as f64 / total) * (count as f64 / most as f64)
        };
        let mut scored: Vec<(f64, MacAddr)> = self.by_point[point]
            .iter()
            .filter(|(mac, _)| !ruled_out.contains(*mac))
            .map(|(mac, count)| (score(mac, *count), *mac))
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let Some(&(best, _)) = scored.first() else { return Vec::new() };
        scored.into_iter().filter(|(score, mac)| *score >= 0.95 * best && self.is_plausible(point, *mac)).map(|(_, mac)| mac).collect()
    }

    /// True when two points see the same MAC with different VLAN tags: an interface and a VLAN device on it, which share their MAC.
    pub(super) fn differ_in_tags(&self, p: usize, q: usize, mac: MacAddr) -> bool {
        let tags = |point: usize| self.tags[point].get(&mac).copied().unwrap_or(0);
        tags(p) != tags(q)
    }

    /// A point may see frames that are not its own: a few, flooded. Many such frames mean a mirror port, unless other points show that
    /// here was only a part of them.
    fn is_plausible(&self, point: usize, mac: MacAddr) -> bool {
        let own = self.seen(point, &mac);
        let foreign = self.total[point] - own;
        if foreign < 10 || foreign as f64 <= 0.1 * self.total[point] as f64 {
            return true;
        }
        let elsewhere = |pair: &(MacAddr, MacAddr)| {
            (0..self.total.len()).filter(|p| *p != point).filter_map(|p| self.by_wire[p].get(pair)).max().copied().unwrap_or(0)
        };
        let partial: u64 = self.by_wire[point]
            .iter()
            .filter(|((s, d), count)| *s != mac && *d != mac && elsewhere(&(*s, *d)) > **count * 3 / 2)
            .map(|(_, count)| count)
            .sum();
        partial as f64 >= 0.8 * foreign as f64
    }
}
