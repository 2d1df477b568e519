//! What a test has of captures: of which interfaces, and how they differ from plain and complete ones.

use super::World;
use crate::net::{MacAddr, Timestamp};
use crate::packet::{Frame, LinkType};
use crate::trace::{Options, Source, Trace, Tracer};
use std::collections::BTreeMap;

/// How the capture at an interface differs from a plain and complete one.
#[derive(Clone, Copy, Default)]
pub(super) struct Quirk {
    /// The link type: cooked frames, or bare IP packets of a tunnel device.
    pub(super) link: Option<LinkType>,
    /// Its clock is ahead, in nanoseconds.
    pub(super) ahead: i64,
    /// Packets that the capture says it lost.
    pub(super) lost: u64,
    /// At most this many bytes of a frame are kept.
    pub(super) snap: Option<usize>,
    /// Frames that it sends have only the pseudo-header in their checksum.
    pub(super) unfinished: bool,
    /// The VLAN tag that its frames have.
    pub(super) tag: Option<u16>,
    /// Only broadcasts are captured.
    pub(super) blind: bool,
    /// The network does not carry packets for this MAC, the interface's own; ARP it does.
    pub(super) cut_off: Option<MacAddr>,
}

impl World {
    /// Captures of these hosts or interfaces do not exist.
    pub(in crate::rules) fn without(mut self, places: &[&str]) -> Self {
        self.hidden.extend(places.iter().map(|p| p.to_string()));
        self
    }

    /// Files called a.pcap, b.pcap …: nothing in their names says where they were taken.
    pub(in crate::rules) fn unnamed(mut self) -> Self {
        self.anonymous = true;
        self
    }

    fn quirk(mut self, interface: &str, change: impl Fn(&mut Quirk)) -> Self {
        assert!(self.frames.contains_key(interface), "{interface}");
        change(self.quirks.entry(interface.to_string()).or_default());
        self
    }

    /// Captured with `-i any`: the frames have no destination MAC.
    pub(in crate::rules) fn cooked(self, interface: &str) -> Self {
        self.quirk(interface, |q| q.link = Some(LinkType::LINUX_SLL))
    }

    /// A tunnel device: bare IP packets.
    pub(in crate::rules) fn bare(self, interface: &str) -> Self {
        self.quirk(interface, |q| q.link = Some(LinkType::RAW))
    }

    /// The clock at an interface is ahead.
    pub(in crate::rules) fn ahead(self, interface: &str, seconds: f64) -> Self {
        self.quirk(interface, |q| q.ahead = (seconds * 1e9) as i64)
    }

    /// The capture at an interface says that it lost packets.
    pub(in crate::rules) fn lossy(self, interface: &str, packets: u64) -> Self {
        self.quirk(interface, |q| q.lost = packets)
    }

    /// The capture at an interface kept so many bytes of each frame.
    pub(in crate::rules) fn snapped(self, interface: &str, bytes: usize) -> Self {
        self.quirk(interface, |q| q.snap = Some(bytes))
    }

    /// An interface leaves its checksums to the network card.
    pub(in crate::rules) fn offloading(self, interface: &str) -> Self {
        self.quirk(interface, |q| q.unfinished = true)
    }

    /// The capture at an interface shows a VLAN tag.
    pub(in crate::rules) fn tagged(self, interface: &str, vlan: u16) -> Self {
        self.quirk(interface, |q| q.tag = Some(vlan))
    }

    /// A host forwards outside its kernel: its captures show ARP alone.
    pub(in crate::rules) fn blind(self, host: &str) -> Self {
        let interfaces: Vec<String> = self.frames.keys().filter(|name| name.starts_with(&format!("{host}."))).cloned().collect();
        interfaces.iter().fold(self, |world, interface| world.quirk(interface, |q| q.blind = true))
    }

    /// The network drops packets on their way to an interface, and carries ARP.
    pub(in crate::rules) fn cut_off(self, interface: &str) -> Self {
        let mac = self.interfaces.iter().find(|i| i.full_name() == interface).map(|i| i.mac);
        self.quirk(interface, |q| q.cut_off = mac)
    }

    /// The trace of everything captured.
    pub(in crate::rules) fn trace(&self) -> Trace {
        let mut tracer = Tracer::new(Options { hints: self.hints.clone(), ..Options::default() });
        let mut all: Vec<(i64, u32, u64, Vec<u8>, u32)> = Vec::new();
        let mut links: BTreeMap<u32, LinkType> = BTreeMap::new();
        let shown = |name: &str| !self.hidden.iter().any(|h| name == h || name.starts_with(&format!("{h}.")));
        for (file, (name, frames)) in self.frames.iter().filter(|(name, _)| shown(name)).enumerate() {
            let file_name = if self.anonymous { format!("{}.pcap", char::from(b'a' + file as u8)) } else { format!("{name}.pcap") };
            let quirk = self.quirks.get(name).copied().unwrap_or_default();
            let source = Source {
                file,
                file_name,
                given: None,
                interface_name: None,
                one_of_several: false,
                part: false,
                link_type: quirk.link.unwrap_or(LinkType::ETHERNET),
                snap_len: quirk.snap.unwrap_or(0) as u32,
            };
            let point = tracer.point(&source);
            links.insert(point, source.link_type);
            if quirk.lost > 0 {
                tracer.dropped(point, quirk.lost);
            }
            let lost = |bytes: &[u8]| quirk.blind || quirk.cut_off.is_some_and(|mac| bytes.starts_with(&mac.0));
            let shown = |bytes: &[u8]| !lost(bytes) || bytes.get(12..14) == Some(&[8, 6]);
            all.extend(frames.iter().filter(|(_, bytes)| shown(bytes)).enumerate().map(|(n, (time, bytes))| {
                let whole = captured(bytes, quirk);
                let kept = quirk.snap.unwrap_or(whole.len()).min(whole.len());
                (*time + quirk.ahead, point, n as u64 + 1, whole[..kept].to_vec(), whole.len() as u32)
            }));
        }
        all.sort_by_key(|(time, point, number, ..)| (*time, *point, *number));
        for (time, point, number, bytes, wire_len) in all {
            let link_type = links.get(&point).copied().unwrap_or(LinkType::ETHERNET);
            let frame = Frame { bytes: &bytes, wire_len, link_type, time: Timestamp(time), number, interface: 0, heading: None };
            tracer.observe(point, &frame);
        }
        tracer.finish()
    }
}

/// An Ethernet frame as a capture shows it.
fn captured(frame: &[u8], quirk: Quirk) -> Vec<u8> {
    match quirk.link {
        Some(LinkType::LINUX_SLL) => {
            let mut out = vec![0, 0, 0, 1, 0, 6];
            out.extend(&frame[6..12]);
            out.extend([0, 0]);
            out.extend(&frame[12..]);
            out
        }
        Some(LinkType::RAW) => frame[14..].to_vec(),
        _ => match quirk.tag {
            Some(tag) => [&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat(),
            None => frame.to_vec(),
        },
    }
}
