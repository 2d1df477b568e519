//! Frames over a link, and time, which passes as they do.

use super::World;
use super::hosts::{Interface, Stacked};
use crate::net::MacAddr;
use crate::packet::{fold, sum};

impl World {
    /// Time passes.
    pub(in crate::rules) fn wait(&mut self, seconds: f64) {
        self.now += (seconds * 1e9) as i64;
    }

    /// The captures begin only now.
    pub(in crate::rules) fn begin_here(&mut self) {
        self.frames.values_mut().for_each(Vec::clear);
    }

    pub(super) fn seen(&mut self, interface: String, frame: &[u8]) {
        self.now += 20_000;
        self.frames.get_mut(&interface).expect("an interface").push((self.now, frame.to_vec()));
    }

    /// A frame over one link, seen at both ends.
    pub(super) fn cross(&mut self, from: &str, to: &str, frame: impl Fn(MacAddr, MacAddr) -> Vec<u8>) {
        let (sender, receiver) = self.link(from, to);
        let bytes = frame(sender.mac, receiver.mac);
        let (a, b) = (sender.full_name(), receiver.full_name());
        let flooded = self.flooding.contains(&sender.segment);
        let segment = self.interfaces.iter().filter(|i| flooded && i.segment == sender.segment);
        let bystanders: Vec<String> = segment.map(Interface::full_name).filter(|name| *name != a && *name != b).collect();
        let stacked = self.stacked.iter().filter(|s| s.interface == a || s.interface == b).cloned();
        let (bonds, above): (Vec<Stacked>, Vec<Stacked>) = stacked.partition(|s| s.instead);
        let arrives = bonds.into_iter().find(|s| s.interface == b).map_or(b, |s| s.device);
        let unfinished = self.quirks.get(&a).is_some_and(|q| q.unfinished);
        self.seen(a, &if unfinished { unfinish(&bytes) } else { bytes.clone() });
        self.seen(arrives, &bytes);
        for place in above.into_iter().map(|s| s.device).chain(bystanders) {
            self.seen(place, &bytes);
        }
    }

    /// A broadcast, seen by everybody on the segment.
    pub(super) fn shout(&mut self, host: &str, segment: &str, frame: &[u8]) {
        let mut places: Vec<String> = self.interfaces.iter().filter(|i| i.segment == segment).map(Interface::full_name).collect();
        places.sort_by_key(|name| !name.starts_with(&format!("{host}.")));
        for place in places {
            self.seen(place, frame);
        }
    }
}

/// An Ethernet frame with a TCP segment over IPv4 whose checksum covers only the pseudo-header, as it is before the network card's work.
fn unfinish(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame.get(12..15) == Some(&[8, 0, 0x45]) && frame[23] == 6 {
        let len = frame.len() as u64 - 34;
        let checksum = fold(sum(6 + len, &frame[26..34]));
        frame[50..52].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}
