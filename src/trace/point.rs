//! Capture points: whose interface a packet was seen on.

use super::role::role_of_name;
use crate::ipvs::Role;
use crate::net::Timestamp;
use crate::packet::LinkType;
use hashbrown::HashMap;

/// Whose which interface packets were captured on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturePoint {
    /// As the report calls it: `director.eth0`. Given by the user, taken from the file, or inferred.
    pub name: String,
    /// Where the name comes from.
    pub naming: Naming,
    /// The host's name in it, when the user or the file gave one.
    pub host: Option<String>,
    /// Number of the input file, in the order given.
    pub file: usize,
    /// The name of that file.
    pub file_name: String,
    /// What its frames begin with.
    pub link_type: LinkType,
    /// At most this many bytes of a frame were kept; 0: all.
    pub snap_len: u32,
    /// Frames seen.
    pub frames: u64,
    /// Time of the earliest frame, on this point's own clock.
    pub first: Timestamp,
    /// Time of the latest frame, on this point's own clock.
    pub last: Timestamp,
    /// Frames that the capture itself lost, where it says so.
    pub dropped: Option<u64>,
    /// Frames of which too little was kept to tell whose packets they are.
    pub cut: u64,
}

impl CapturePoint {
    /// Their names say that both are on one host.
    pub(super) fn is_beside(&self, other: &CapturePoint) -> bool {
        self.host.is_some() && self.host == other.host
    }

    /// Their names say that they are on two hosts.
    pub(super) fn is_apart_from(&self, other: &CapturePoint) -> bool {
        self.host.is_some() && other.host.is_some() && self.host != other.host
    }
}

/// Where a point's name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The user wrote `POINT=FILE`, or the file is called `HOST.IFACE.pcap`, or the interface has a name of that form.
    Given,
    /// The file's name says nothing about the host; the host is inferred from the packets.
    Inferred,
}

/// What is known of an interface of an input before its packets are read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Number of the input file, in the order given.
    pub file: usize,
    /// Its name as given, for messages.
    pub file_name: String,
    /// The name that the user gave this file with `POINT=FILE`.
    pub given: Option<String>,
    /// Name of the interface in the file (pcapng).
    pub interface_name: Option<String>,
    /// True when the file has other interfaces beside this one.
    pub one_of_several: bool,
    /// True when the file is one of several of a rotated capture; `file` is the number of the first one of them.
    pub part: bool,
    /// Link type.
    pub link_type: LinkType,
    /// Snap length.
    pub snap_len: u32,
}

impl Source {
    /// What the point is called as long as nothing is known of its packets.
    pub fn point_name(&self) -> String {
        name(self).0
    }
}

/// Frames of one point, before they are counted there.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) frames: u64,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

impl Span {
    pub(super) const NOTHING: Span = Span { frames: 0, first: Timestamp(i64::MAX), last: Timestamp(i64::MIN) };

    #[inline(always)]
    pub(super) fn saw(&mut self, time: Timestamp) {
        (self.frames, self.first, self.last) = (self.frames + 1, self.first.min(time), self.last.max(time));
    }
}

/// The points of a trace, each with its number.
#[derive(Clone, Default)]
pub(super) struct Points {
    pub(super) points: Vec<CapturePoint>,
    /// For cooked captures of several interfaces: the point of each interface index.
    by_index: HashMap<(u32, u32), u32>,
}

impl Points {
    pub(super) fn add(&mut self, source: &Source) -> u32 {
        let (name, host, naming) = name(source);
        // A rotated or concatenated file describes the same interface again.
        let again = |p: &&CapturePoint| {
            let described_again = source.part || source.interface_name.is_some();
            described_again && p.file == source.file && p.name == name && p.link_type == source.link_type
        };
        if let Some(at) = self.points.iter().position(|p| again(&p)) {
            return at as u32;
        }
        self.points.push(CapturePoint {
            name,
            naming,
            host,
            file: source.file,
            file_name: source.file_name.clone(),
            link_type: source.link_type,
            snap_len: source.snap_len,
            frames: 0,
            first: Timestamp(i64::MAX),
            last: Timestamp(i64::MIN),
            dropped: None,
            cut: 0,
        });
        self.points.len() as u32 - 1
    }

    #[inline]
    pub(super) fn saw(&mut self, point: u32, time: Timestamp) {
        self.saw_all(point, Span { frames: 1, first: time, last: time });
    }

    #[inline]
    pub(super) fn saw_all(&mut self, point: u32, span: Span) {
        let point = &mut self.points[point as usize];
        point.frames += span.frames;
        point.first = point.first.min(span.first);
        point.last = point.last.max(span.last);
    }

    pub(super) fn cut(&mut self, point: u32) {
        self.points[point as usize].cut += 1;
    }

    /// The point of one interface of a LINUX_SLL2 capture.
    pub(super) fn of_interface_index(&mut self, point: u32, index: u32) -> u32 {
        if let Some(known) = self.by_index.get(&(point, index)) {
            return *known;
        }
        let whole = &self.points[point as usize];
        let part = CapturePoint {
            name: format!("{}.if{index}", whole.name),
            frames: 0,
            first: Timestamp(i64::MAX),
            last: Timestamp(i64::MIN),
            ..whole.clone()
        };
        self.points.push(part);
        let number = self.points.len() as u32 - 1;
        self.by_index.insert((point, index), number);
        number
    }

    /// Makes every name say one point only.
    pub(super) fn settle(&mut self) {
        let mut seen: HashMap<String, u32> = HashMap::new();
        for point in &mut self.points {
            let count = seen.entry(point.name.clone()).and_modify(|n| *n += 1).or_insert(1);
            if *count > 1 {
                point.name = format!("{}#{count}", point.name);
            }
        }
    }
}

/// The point's name, the host in it, and what it is worth.
fn name(source: &Source) -> (String, Option<String>, Naming) {
    if let Some(given) = &source.given {
        let host = given.split('.').next().unwrap_or(given).to_string();
        let name = match &source.interface_name {
            Some(interface) if source.one_of_several => format!("{host}.{}", strip_host(interface, &host)),
            _ => given.clone(),
        };
        return (name, Some(host), Naming::Given);
    }
    let stem = stem(&source.file_name);
    match (&source.interface_name, stem.split_once('.')) {
        (Some(interface), _) if source.one_of_several => {
            let host = interface.split('.').next().unwrap_or(interface);
            if !is_interface(host) {
                return (interface.clone(), Some(host.to_string()), Naming::Given);
            }
            if says_nothing(&stem) {
                return (interface.clone(), None, Naming::Inferred);
            }
            (format!("{stem}.{interface}"), Some(stem.split('.').next().unwrap_or(&stem).to_string()), Naming::Given)
        }
        (_, Some((host, _))) if host.len() > 1 && !means_no_host(host) => (stem.clone(), Some(host.to_string()), Naming::Given),
        (Some(interface), _) if !says_nothing(&stem) => (format!("{stem}.{interface}"), Some(stem), Naming::Given),
        (_, None) if !says_nothing(&stem) => (stem.clone(), Some(stem), Naming::Given),
        _ => (stem, None, Naming::Inferred),
    }
}

fn strip_host<'a>(interface: &'a str, host: &str) -> &'a str {
    interface.strip_prefix(host).and_then(|rest| rest.strip_prefix('.')).unwrap_or(interface)
}

/// The file's name without folders and without `.pcap`, `.pcapng`, `.cap`, `.gz`, `.zst`.
fn stem(file_name: &str) -> String {
    let base = file_name.rsplit('/').next().unwrap_or(file_name);
    let whole = unrotated(base);
    let mut stem = whole.as_deref().unwrap_or(base);
    for extension in [".gz", ".zst", ".zstd", ".pcapng", ".pcap", ".cap", ".dmp", ".ntar"] {
        stem = stem.strip_suffix(extension).unwrap_or(stem);
    }
    if stem.is_empty() { base.to_string() } else { stem.to_string() }
}

/// What a file of a rotated capture would be called without its number: `web1.pcapng` for `web1_00001.pcapng` (dumpcap, which may add the
/// time, and `lvscope capture`), `web1.pcap` for `web1.pcap3` (tcpdump -C). `None` for a file without such a number. Times in a name
/// (tcpdump -G) are whatever the user made them, and stay.
pub fn unrotated(file_name: &str) -> Option<String> {
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let bare = [".gz", ".zst", ".zstd"].iter().find_map(|packed| file_name.strip_suffix(packed)).unwrap_or(file_name);
    let unnumbered = bare.trim_end_matches(|c: char| c.is_ascii_digit());
    if unnumbered.len() < bare.len() && [".pcapng", ".pcap", ".cap", ".dmp"].iter().any(|end| unnumbered.ends_with(end)) {
        return Some(unnumbered.to_string());
    }
    let (name, extension) = bare.rsplit_once('.').filter(|(_, end)| matches!(*end, "pcapng" | "pcap" | "cap" | "dmp"))?;
    let name = name.rsplit_once('_').filter(|(_, time)| time.len() == 14 && numeric(time)).map_or(name, |(name, _)| name);
    let (name, _) = name.rsplit_once('_').filter(|(name, number)| number.len() == 5 && numeric(number) && !name.is_empty())?;
    (!name.ends_with('/')).then(|| format!("{name}.{extension}"))
}

/// File names that people give to captures without thinking of a host: one or two letters, numbers, `capture3`, `eth0`.
fn says_nothing(stem: &str) -> bool {
    (stem.len() <= 2 && role_of_name(stem) == Role::Unknown) || means_no_host(stem)
}

/// Words that are no host's name, however long: also where an interface's name follows.
fn means_no_host(stem: &str) -> bool {
    let word: String =
        stem.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '-' | '_' | '.' | ':' | 'T' | 'Z')).to_ascii_lowercase();
    word.is_empty()
        || is_interface(stem)
        || matches!(
            word.as_str(),
            "-" | "capture" | "cap" | "dump" | "tcpdump" | "trace" | "out" | "output" | "test" | "file" | "pcap" | "merged"
        )
}

/// Names that Linux and its distributions give to interfaces.
fn is_interface(word: &str) -> bool {
    let prefixes = [
        "eth", "ens", "eno", "enp", "enx", "em", "wlan", "wlp", "bond", "br", "veth", "vlan", "tun", "tunl", "tap", "gre", "lo", "any",
        "dummy", "vmbr",
    ];
    let letters = word.trim_end_matches(|c: char| c.is_ascii_digit() || c == 's' || c == 'f' || c == 'p');
    prefixes
        .iter()
        .any(|p| word == *p || letters == *p || (word.starts_with(p) && word[p.len()..].starts_with(|c: char| c.is_ascii_digit())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: &str, interface: Option<&str>, several: bool) -> Source {
        Source {
            file: 0,
            file_name: file.to_string(),
            given: None,
            interface_name: interface.map(str::to_string),
            one_of_several: several,
            part: false,
            link_type: LinkType::ETHERNET,
            snap_len: 0,
        }
    }

    #[test]
    fn names_of_files() {
        let cases = [
            ("captures/director.eth0.pcap", None, false, "director.eth0", Some("director")),
            ("router.int.224.pcap.gz", None, false, "router.int.224", Some("router")),
            ("web1.pcapng", Some("eth0"), false, "web1.eth0", Some("web1")),
            ("web1.eth0.pcapng", Some("eth0"), false, "web1.eth0", Some("web1")),
            ("web1.pcapng", Some("eth1"), true, "web1.eth1", Some("web1")),
            ("all.pcapng", Some("director.eth0"), true, "director.eth0", Some("director")),
            ("all.pcapng", Some("client"), true, "client", Some("client")),
            ("director.pcap", None, false, "director", Some("director")),
            ("a.pcap", None, false, "a", None),
            ("w1.eth0.pcap", None, false, "w1.eth0", Some("w1")),
            ("d.eth0.pcap", None, false, "d.eth0", None),
            ("10.eth0.pcap", None, false, "10.eth0", None),
            ("w1.pcap", None, false, "w1", None),
            ("7.pcap.zst", None, false, "7", None),
            ("eth0.pcap", None, false, "eth0", None),
            ("gw.int.pcap", None, false, "gw.int", Some("gw")),
            ("lb.pcap", None, false, "lb", Some("lb")),
            ("capture-2024.pcap", None, false, "capture-2024", None),
            ("-", None, false, "-", None),
            ("web1_00001.pcapng", Some("eth0"), false, "web1.eth0", Some("web1")),
            ("d/web1.eth0_00012_20261126184000.pcapng.gz", Some("eth0"), false, "web1.eth0", Some("web1")),
            ("web1.eth0.pcap10", None, false, "web1.eth0", Some("web1")),
            ("web1_20261126.pcap", None, false, "web1_20261126", Some("web1_20261126")),
        ];
        for (file, interface, several, expect, host) in cases {
            let (found, found_host, _) = name(&source(file, interface, several));
            assert_eq!((found.as_str(), found_host.as_deref()), (expect, host), "{file}");
        }
    }

    #[test]
    fn files_of_a_rotated_capture() {
        let cases = [
            ("d/web1_00001.pcapng", Some("d/web1.pcapng")),
            ("web1_00002_20261126184000.pcap.gz", Some("web1.pcap")),
            ("d/web1.pcap7", Some("d/web1.pcap")),
            ("web1.pcap007.zst", Some("web1.pcap")),
            ("web1.pcap", None),
            ("web1_2026.pcap", None),
            ("web1_2026-11-26_18:40:00.pcap", None),
            ("d/_00001.pcap", None),
            ("_00001.pcap", None),
            ("notes_00001.txt", None),
            ("web2", None),
            ("-", None),
        ];
        for (name, expect) in cases {
            assert_eq!(unrotated(name).as_deref(), expect, "{name}");
        }
    }

    #[test]
    fn parts_are_one_point() {
        let mut points = Points::default();
        let part = |file: &str, of: usize| Source { file: of, part: true, ..source(file, None, false) };
        let found: Vec<u32> = [part("web1.pcap", 0), part("web1.pcap1", 0), part("web2.pcap1", 2), part("web2.pcap2", 2)]
            .iter()
            .map(|source| points.add(source))
            .collect();
        assert_eq!(found, [0, 0, 1, 1]);
        let other = Source { link_type: LinkType::RAW, ..part("web1.pcap2", 0) };
        assert_eq!(points.add(&other), 2, "another kind of frames is another place");
        assert_eq!(points.add(&source("web1.pcap", None, false)), 3, "the same name does not make it the same capture");
    }

    #[test]
    fn a_given_name_wins() {
        let given = Source { given: Some("lb1".into()), ..source("x.pcap", None, false) };
        assert_eq!(name(&given), ("lb1".into(), Some("lb1".into()), Naming::Given));
        let several = Source { given: Some("lb1".into()), ..source("x.pcapng", Some("eth0"), true) };
        assert_eq!(name(&several).0, "lb1.eth0");
    }

    #[test]
    fn interfaces() {
        for yes in ["eth0", "ens33", "enp0s3", "lo", "any", "tunl0", "br0", "bond0", "eno1", "enp4s0f1"] {
            assert!(is_interface(yes), "{yes}");
        }
        for no in ["director", "web1", "loadbalancer", "brussels", "lb"] {
            assert!(!is_interface(no), "{no}");
        }
    }

    #[test]
    fn names_are_made_to_differ() {
        let mut points = Points::default();
        for file in 0..3 {
            points.add(&Source { file, ..source("web1.pcap", None, false) });
        }
        points.settle();
        let names: Vec<&str> = points.points.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["web1", "web1#2", "web1#3"]);
    }
}
