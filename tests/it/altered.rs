//! Healthy cases as other people would have captured them: with a filter, cut, doubled, with losses, too late or not to the end. Whatever
//! is missing then, nobody is accused.

use crate::support::{Random, fixtures, plain, point, records};
use lvscope::case::{self, CaptureArg, Case, Limits, accuses};
use lvscope::host::Fleet;
use lvscope::rules::{Facts, diagnose};
use lvscope::trace::{Hints, Options};
use std::collections::BTreeMap;

/// A packet of a pcap file: its record header, and its bytes.
type Packet<'a> = (&'a [u8], &'a [u8]);

/// What becomes of the packets of one file.
type Alteration = (&'static str, for<'a> fn(&mut Random, Vec<Packet<'a>>) -> Vec<Packet<'a>>);

/// EtherType and IP protocol, behind VLAN tags.
fn kind(frame: &[u8]) -> (u16, u8) {
    let mut at = 12;
    let word = |at: usize| frame.get(at..at + 2).map_or(0, |w| u16::from_be_bytes([w[0], w[1]]));
    while word(at) == 0x8100 {
        at += 4;
    }
    let protocol = if word(at) == 0x86dd { 8 } else { 11 };
    (word(at), frame.get(at + protocol).copied().unwrap_or(0))
}

fn thinned<'a>(random: &mut Random, packets: Vec<Packet<'a>>, percent: u64) -> Vec<Packet<'a>> {
    packets.into_iter().filter(|_| random.below(100) >= percent).collect()
}

fn cut(packets: Vec<Packet<'_>>, len: usize) -> Vec<Packet<'_>> {
    packets.into_iter().map(|(header, bytes)| (header, &bytes[..bytes.len().min(len)])).collect()
}

const ALTERATIONS: [Alteration; 9] = [
    ("without ARP", |_, packets| packets.into_iter().filter(|(_, frame)| kind(frame).0 != 0x0806).collect()),
    ("TCP and UDP alone", |_, packets| packets.into_iter().filter(|(_, frame)| matches!(kind(frame).1, 6 | 17)).collect()),
    ("96 bytes of each", |_, packets| cut(packets, 96)),
    ("68 bytes of each", |_, packets| cut(packets, 68)),
    ("doubled", |_, packets| packets.into_iter().flat_map(|packet| [packet; 2]).collect()),
    ("3 in 100 lost", |random, packets| thinned(random, packets, 3)),
    ("10 in 100 lost", |random, packets| thinned(random, packets, 10)),
    ("the first half", |_, mut packets| packets.drain(..packets.len() / 2).collect()),
    ("the last half", |_, mut packets| packets.drain(packets.len() / 2..).collect()),
];

fn altered(pcap: &[u8], alteration: &Alteration, random: &mut Random) -> Vec<u8> {
    let packets = records(pcap).windows(2).map(|ends| pcap[ends[0]..ends[1]].split_at(16)).collect();
    let mut out = pcap[..24].to_vec();
    for (header, bytes) in alteration.1(random, packets) {
        out.extend(&header[..8]);
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(&header[12..]);
        out.extend(bytes);
    }
    out
}

/// Who is accused of what.
fn accused(captures: &[CaptureArg]) -> Vec<String> {
    let trace = case::read(captures, Options::default(), Limits::default(), |_| {}).trace;
    let (hints, fleet) = (Hints::default(), Fleet::default());
    let findings = diagnose(&Facts { trace: &trace, hints: &hints, fleet: &fleet }).findings;
    findings.iter().filter(|f| accuses(f)).map(|f| format!("{} {} {}: {}", f.code, f.severity, f.confidence, f.summary)).collect()
}

#[test]
fn healthy_captures_accuse_nobody_however_they_were_made() {
    let (mut wrong, mut judged) = (String::new(), 0);
    for folder in fixtures().into_iter().filter(|folder| folder.parent().is_some_and(|parent| parent.ends_with("healthy"))) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let case = Case::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        for alteration in &ALTERATIONS {
            let (away, mut random) = (tempfile::tempdir().unwrap(), Random::of(20_261_127, &name));
            let mut hosts: BTreeMap<String, Vec<CaptureArg>> = BTreeMap::new();
            for capture in &case.captures {
                let (point, pcap) = (point(&capture.path), plain(&capture.path));
                let ethernet = pcap[20..24] == [1, 0, 0, 0];
                let path = away.path().join(format!("{point}.pcap"));
                std::fs::write(&path, if ethernet { altered(&pcap, alteration, &mut random) } else { pcap }).unwrap();
                let host = point.split('.').next().unwrap_or_default().to_string();
                hosts.entry(host).or_default().push(CaptureArg { path, point: capture.point.clone() });
            }
            let all: Vec<CaptureArg> = hosts.values().flatten().cloned().collect();
            let alone = hosts.iter().map(|(host, captures)| (format!("{host} alone"), captures.clone()));
            for (whose, captures) in alone.chain([("all hosts".to_string(), all)]) {
                judged += 1;
                wrong.extend(accused(&captures).into_iter().map(|what| format!("{name}, {}, {whose}: {what}\n", alteration.0)));
            }
        }
    }
    assert!(judged > 1000, "only {judged} sets of captures");
    assert!(wrong.is_empty(), "\n{wrong}");
}
