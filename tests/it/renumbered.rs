//! The recorded cases in another network: other addresses, other MACs, every checksum as right or wrong as it was. The story is the same.

use crate::support::{Random, fixtures, plain, point, records, story};
use lvscope::case::{self, CaptureArg, Case, Limits, accuses};
use lvscope::finding::Finding;
use lvscope::host::Fleet;
use lvscope::net::Endpoint;
use lvscope::packet::{adjust, is_partial, pseudo_sum, sum};
use lvscope::rules::{Facts, diagnose};
use lvscope::trace::{Hints, Options};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// What becomes of each address. Neighbours stay neighbours: /16, /24 and their broadcast addresses.
struct Plan {
    nets: u16,
    third: u8,
    /// Hosts of a /24 are numbered anew: multiplied, then moved on.
    stretch: u64,
    shift: u64,
    prefix: u16,
    mac: u64,
}

impl Plan {
    fn new(random: &mut Random) -> Self {
        Plan {
            nets: random.next() as u16 & 0x1fff,
            third: random.next() as u8,
            // No common factor with the 254 hosts of a /24; 253 turns their order round.
            stretch: [253, 253, 3, 5, 9, 11][random.below(6) as usize],
            shift: random.below(254),
            prefix: random.next() as u16,
            // Whoever had the lower one has the higher one then.
            mac: random.next() | 0xffff_ffff,
        }
    }

    fn v4(&self, a: Ipv4Addr) -> Ipv4Addr {
        let [o0, o1, third, host] = a.octets();
        if matches!(o0, 0 | 127 | 224..) || (o0, o1) == (169, 254) {
            return a;
        }
        let [n0, n1] = ((u16::from_be_bytes([o0, o1]) ^ self.nets) & 0x7fff).to_be_bytes();
        let host = match host {
            0 | 255 => host,
            host => ((u64::from(host - 1) * self.stretch + self.shift) % 254 + 1) as u8,
        };
        // Not into those that mean something else.
        let n0 = if matches!(n0, 0 | 127) { n0 ^ 0x15 } else { n0 };
        Ipv4Addr::new(n0, n1, third ^ self.third, host)
    }

    /// Only the network changes: multicast MACs and addresses are made of the lower half.
    fn v6(&self, a: Ipv6Addr) -> Ipv6Addr {
        let mut words = a.segments();
        if words[0] & 0xe000 == 0x2000 {
            words[1] ^= self.prefix;
        }
        words.into()
    }

    fn ip(&self, a: IpAddr) -> IpAddr {
        match a {
            IpAddr::V4(a) => self.v4(a).into(),
            IpAddr::V6(a) => self.v6(a).into(),
        }
    }

    fn end(&self, e: Endpoint) -> Endpoint {
        Endpoint::new(self.ip(e.addr), e.port)
    }

    fn mac(&self, mac: &mut [u8]) {
        // Groups, nobody, and virtual routers (RFC 9568) say what they are.
        if mac.len() == 6 && mac[0] & 1 == 0 && mac.iter().any(|b| *b != 0) && !mac.starts_with(&[0, 0, 0x5e, 0, 1]) {
            for (byte, other) in mac[1..].iter_mut().zip(&self.mac.to_be_bytes()[3..]) {
                *byte ^= other;
            }
        }
    }

    /// An address of `bytes`, in place; what its words summed to before and after.
    fn address(&self, bytes: &mut [u8]) -> (u64, u64) {
        let before = sum(0, bytes);
        if let Ok(octets) = <[u8; 4]>::try_from(&*bytes) {
            bytes.copy_from_slice(&self.v4(octets.into()).octets());
        } else if let Ok(octets) = <[u8; 16]>::try_from(&*bytes) {
            bytes.copy_from_slice(&self.v6(octets.into()).octets());
        }
        (before, sum(0, bytes))
    }

    fn frame(&self, frame: &mut [u8]) {
        if frame.len() < 14 {
            return;
        }
        self.mac(&mut frame[..6]);
        self.mac(&mut frame[6..12]);
        let mut at = 12;
        while frame.get(at..at + 2) == Some(&[0x81, 0]) {
            at += 4;
        }
        match frame.get(at..at + 2) {
            Some([8, 6]) if frame.len() >= at + 30 => {
                for (mac, address) in [(at + 10, at + 16), (at + 20, at + 26)] {
                    self.mac(&mut frame[mac..mac + 6]);
                    self.address(&mut frame[address..address + 4]);
                }
            }
            Some([8, 0] | [0x86, 0xdd]) => self.packet(&mut frame[at + 2..]),
            _ => {}
        }
    }

    fn packet(&self, packet: &mut [u8]) {
        let (addresses, len, header, protocol) = match packet.first().map(|b| b >> 4) {
            Some(4) if packet.len() >= 20 => {
                (12, 4, usize::from(packet[0] & 15) * 4, if packet[6] & 0x1f == 0 && packet[7] == 0 { packet[9] } else { 255 })
            }
            Some(6) if packet.len() >= 40 => (8, 16, 40, packet[6]),
            _ => return,
        };
        let before = packet[addresses..addresses + 2 * len].to_vec();
        let (mut old, mut new) = (0, 0);
        for at in [addresses, addresses + len] {
            let (was, is) = self.address(&mut packet[at..at + len]);
            (old, new) = (old + was, new + is);
        }
        if len == 4 {
            mend(packet, 10, old, new);
        }
        let Some(segment) = packet.get_mut(header..) else { return };
        let quoted =
            (protocol == 1 && matches!(segment.first(), Some(3 | 5 | 11 | 12))) || (protocol == 58 && segment.first() < Some(&128));
        let (field, inner) = match protocol {
            6 => (Some(16), None),
            17 => (Some(6).filter(|at| segment.get(*at..at + 2) != Some(&[0, 0])), None),
            1 | 58 => (Some(2), quoted.then_some(8)),
            4 | 41 => (None, Some(0)),
            // Without key and checksum.
            47 => (None, Some(4)),
            112 => {
                for address in segment.get_mut(8..).unwrap_or_default().as_chunks_mut::<4>().0 {
                    let (was, is) = self.address(address);
                    (old, new) = (old + was, new + is);
                }
                (Some(6), None)
            }
            _ => (None, None),
        };
        // ICMP has no pseudo-header, ICMPv6 has one.
        if protocol == 1 {
            (old, new) = (0, 0);
        }
        if let Some(at) = inner.filter(|at| *at < segment.len()) {
            let payload = &mut segment[at..];
            old += sum(0, payload);
            self.packet(payload);
            new += sum(0, payload);
        }
        if protocol == 58 && matches!(segment.first(), Some(135 | 136)) && segment.len() >= 24 {
            let was = sum(0, segment);
            self.address(&mut segment[8..24]);
            if let Some(mac) = segment.get_mut(26..32) {
                self.mac(mac);
            }
            (old, new) = (old + was, new + sum(0, segment));
        }
        let Some(at) = field else { return };
        let len = segment.len() as u32;
        let left_to_the_card =
            protocol != 1 && segment.get(at..at + 2).is_some_and(|f| is_partial(u16::from_be_bytes([f[0], f[1]]), &before, protocol, len));
        if left_to_the_card {
            let both = |bytes: &[u8]| pseudo_of(bytes, protocol, len);
            let is = both(&packet[addresses..addresses + before.len()]);
            packet[header + at..header + at + 2].copy_from_slice(&is.to_be_bytes());
        } else {
            mend(segment, at, old, new);
        }
    }
}

/// A checksum that follows what it covers: right if it was right, wrong if it was wrong.
fn mend(bytes: &mut [u8], at: usize, old: u64, new: u64) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        let adjusted = adjust(u16::from_be_bytes([field[0], field[1]]), old, new);
        field.copy_from_slice(&adjusted.to_be_bytes());
    }
}

fn pseudo_of(addresses: &[u8], protocol: u8, len: u32) -> u16 {
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("an address of either family")),
    };
    let (src, dst) = addresses.split_at(addresses.len() / 2);
    lvscope::packet::fold(pseudo_sum(ip(src), ip(dst), protocol, len))
}

/// The stories of the flows, each with its number among its like, and who is accused of what.
fn told(captures: &[CaptureArg], plan: Option<&Plan>) -> BTreeSet<String> {
    let trace = case::read(captures, Options::default(), Limits::default(), |_| {}).trace;
    let (hints, fleet) = (Hints::default(), Fleet::default());
    let findings = diagnose(&Facts { trace: &trace, hints: &hints, fleet: &fleet }).findings;
    let accusation = |f: &Finding| format!("{} {} {} instead of {:?}", f.code, f.severity, f.confidence, f.alternatives);
    let mut alike: BTreeMap<String, usize> = BTreeMap::new();
    let stories = trace.all_flows().map(|flow| story(&flow, |end| plan.map_or(end, |plan| plan.end(end)))).map(|story| {
        let number = alike.entry(story.clone()).and_modify(|n| *n += 1).or_insert(1);
        format!("{story}, no. {number}")
    });
    stories.chain(findings.iter().filter(|f| accuses(f)).map(accusation)).collect()
}

fn host(capture: &CaptureArg) -> String {
    point(&capture.path).split('.').next().unwrap_or_default().to_string()
}

/// The captures that are wanted, without their names where these shall not tell.
fn chosen(all: &[CaptureArg], wanted: &dyn Fn(&CaptureArg) -> bool, away: Option<&Path>) -> Vec<CaptureArg> {
    let unnamed = |(n, capture): (usize, &CaptureArg)| {
        let Some(away) = away else { return capture.clone() };
        let path = away.join(format!("{}.pcap", char::from(b'a' + n as u8)));
        std::fs::write(&path, plain(&capture.path)).unwrap();
        CaptureArg { path, point: None }
    };
    all.iter().filter(|c| wanted(c)).enumerate().map(unnamed).collect()
}

/// In what the renumbered captures tell another story than the others.
fn difference(
    about: &str,
    plan: &Plan,
    (same, other): (&[CaptureArg], &[CaptureArg]),
    wanted: &dyn Fn(&CaptureArg) -> bool,
    named: bool,
) -> String {
    let away = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [same, other] = [(same, &away[0]), (other, &away[1])].map(|(all, away)| chosen(all, wanted, (!named).then_some(away.path())));
    let [known, new] = [told(&same, Some(plan)), told(&other, None)];
    let lost = known.difference(&new).map(|told| format!("    - {told}\n"));
    let added = new.difference(&known).map(|told| format!("    + {told}\n"));
    let lines: String = lost.chain(added).collect();
    if lines.is_empty() { lines } else { format!("{about}\n{lines}") }
}

#[test]
fn addresses_do_not_matter() {
    let mut wrong = String::new();
    for folder in fixtures() {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let case = Case::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        let plan = Plan::new(&mut Random::of(20_261_127, &name));
        let away = tempfile::tempdir().unwrap();
        let (mut same, mut other) = (Vec::new(), Vec::new());
        for capture in &case.captures {
            let mut pcap = plain(&capture.path);
            let path = away.path().join(format!("{}.pcap", point(&capture.path)));
            let ethernet = pcap[20..24] == [1, 0, 0, 0];
            for ends in records(&pcap).windows(2) {
                let bytes = &mut pcap[ends[0] + 16..ends[1]];
                if ethernet { plan.frame(bytes) } else { plan.packet(bytes) }
            }
            assert!(pcap.len() < 100 || pcap != plain(&capture.path), "{}: nothing changed", path.display());
            std::fs::write(&path, &pcap).unwrap();
            same.push(CaptureArg { path: capture.path.clone(), point: capture.point.clone() });
            other.push(CaptureArg { path, point: capture.point.clone() });
        }
        // All captures, with their names and without; those of one host; all but those of one host.
        let both = (&same[..], &other[..]);
        let hosts: BTreeSet<String> = same.iter().map(host).collect();
        wrong += &difference(&format!("{name}, all"), &plan, both, &|_| true, true);
        wrong += &difference(&format!("{name}, unnamed"), &plan, both, &|_| true, false);
        for one in &hosts {
            wrong += &difference(&format!("{name}, only {one}"), &plan, both, &|c| host(c) == *one, true);
            wrong += &difference(&format!("{name}, without {one}"), &plan, both, &|c| host(c) != *one, true);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
