//! What other programs write into captures, and few of them do: in bytes, for no tool here writes it.

use super::{CaptureFile, Merged};
use crate::capture::Burst;
use std::io::Cursor;

fn open(bytes: Vec<u8>) -> CaptureFile {
    CaptureFile::from_reader("odd", Box::new(Cursor::new(bytes))).expect("a capture")
}

/// Lengths (captured, on the wire) of all frames, one at a time.
fn lengths(bytes: &[u8]) -> (Vec<(usize, u32)>, CaptureFile) {
    let mut file = open(bytes.to_vec());
    let mut all = Vec::new();
    while file.advance() {
        let frame = file.frame().expect("a frame");
        all.push((frame.bytes.len(), frame.wire_len));
    }
    (all, file)
}

/// The same, read in bursts as a trace does.
fn in_bursts(bytes: &[u8]) -> Vec<(usize, u32)> {
    let mut all = Vec::new();
    Merged::new(vec![open(bytes.to_vec())]).for_each(|_, _, burst| {
        match burst {
            Burst::One(frame) => all.push((frame.bytes.len(), frame.wire_len)),
            Burst::Window(records) => all.extend(records.map(|frame| (frame.bytes.len(), frame.wire_len))),
        }
        true
    });
    all
}

/// A pcap file: version, the word with the link type, and records of (first length, second length, bytes).
fn pcap(version: (u16, u16), network: u32, records: &[(u32, u32, usize)]) -> Vec<u8> {
    let mut out = 0xa1b2_c3d4u32.to_le_bytes().to_vec();
    out.extend(version.0.to_le_bytes());
    out.extend(version.1.to_le_bytes());
    out.extend([0; 8]);
    out.extend(65_535u32.to_le_bytes());
    out.extend(network.to_le_bytes());
    for (first, second, len) in records {
        out.extend([0; 8]);
        out.extend(first.to_le_bytes());
        out.extend(second.to_le_bytes());
        out.extend(vec![7; *len]);
    }
    out
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = (12 + body.len() as u32).to_le_bytes();
    [&kind.to_le_bytes()[..], &len, body, &len].concat()
}

fn section() -> Vec<u8> {
    let body = [&0x1a2b_3c4du32.to_le_bytes()[..], &1u16.to_le_bytes(), &0u16.to_le_bytes(), &u64::MAX.to_le_bytes()].concat();
    block(0x0a0d_0d0a, &body)
}

/// An Ethernet interface with a snap length and options.
fn interface(snap_len: u32, options: &[u8]) -> Vec<u8> {
    block(1, &[&1u16.to_le_bytes()[..], &[0; 2], &snap_len.to_le_bytes(), options].concat())
}

fn enhanced(interface: u32, len: u32) -> Vec<u8> {
    block(6, &[&interface.to_le_bytes()[..], &[0; 8], &len.to_le_bytes(), &len.to_le_bytes(), &vec![7; len as usize]].concat())
}

/// Statistics of an interface: so many packets dropped by it.
fn statistics(interface: u32, dropped: u64) -> Vec<u8> {
    block(5, &[&interface.to_le_bytes()[..], &[0; 8], &[5, 0, 8, 0], &dropped.to_le_bytes(), &[0; 4]].concat())
}

/// A frame check sequence at the end of each frame is none of its bytes.
#[test]
fn frames_with_their_checksum() {
    let in_pcap = pcap((2, 4), 1 | 0x0400_0000 | 2 << 28, &[(64, 64, 64), (60, 1518, 60)]);
    assert_eq!(lengths(&in_pcap).0, [(60, 60), (60, 1514)]);
    assert_eq!(in_bursts(&in_pcap), [(60, 60), (60, 1514)]);
    let unsaid = pcap((2, 4), 1 | 2 << 28, &[(64, 64, 64)]);
    assert_eq!((lengths(&unsaid).0, in_bursts(&unsaid)), (vec![(64, 64)], vec![(64, 64)]));
    let in_pcapng = [section(), interface(0, &[13, 0, 1, 0, 4, 0, 0, 0]), enhanced(0, 64)].concat();
    assert_eq!(lengths(&in_pcapng).0, [(60, 60)]);
}

/// Around version 2.3 programs disagreed about which length comes first; before it they did not.
#[test]
fn lengths_in_either_order() {
    for (version, record) in
        [((2, 4), (60, 1514)), ((2, 3), (60, 1514)), ((2, 3), (1514, 60)), ((2, 2), (1514, 60)), ((543, 0), (1514, 60))]
    {
        let bytes = pcap(version, 1, &[(record.0, record.1, 60)]);
        assert_eq!(lengths(&bytes).0, [(60, 1514)], "{version:?} {record:?}");
        assert_eq!(in_bursts(&bytes), [(60, 1514)], "{version:?} {record:?}");
    }
}

/// A simple packet says only how long it was; what is there is bounded by the snap length of its interface.
#[test]
fn simple_packets() {
    let simple = |original: u32, kept: usize| block(3, &[&original.to_le_bytes()[..], &vec![7; kept]].concat());
    let bytes = [section(), interface(96, &[]), simple(1514, 96), simple(60, 60)].concat();
    let (found, file) = lengths(&bytes);
    assert_eq!((found, file.damage()), (vec![(96, 1514), (60, 60)], &[][..]));
    let bytes = [section(), interface(0, &[]), simple(60, 60)].concat();
    assert_eq!(lengths(&bytes).0, [(60, 60)]);
}

/// Files written one after the other: the numbers of interfaces begin anew.
#[test]
fn sections_number_their_own_interfaces() {
    let one = |dropped| [section(), interface(0, &[]), enhanced(0, 60), statistics(0, dropped)].concat();
    let (found, file) = lengths(&[one(3), one(5)].concat());
    assert_eq!(found.len(), 2);
    let drops: Vec<Option<u64>> = file.interfaces().iter().map(|i| i.drops.and_then(|d| d.by_interface)).collect();
    assert_eq!(drops, [Some(3), Some(5)]);
}

/// Damage is not the end of a file, and is said to be damage.
#[test]
fn damaged_or_cut_short() {
    let good = [section(), interface(0, &[]), enhanced(0, 60)].concat();
    let mut tail = enhanced(0, 60);
    let end = tail.len();
    tail[end - 4..].copy_from_slice(&96u32.to_le_bytes());
    let huge = [&6u32.to_le_bytes()[..], &(64u32 << 20).to_le_bytes(), &[0; 64]].concat();
    let short = enhanced(0, 60)[..40].to_vec();
    for (more, cut_short, says) in [(tail, false, "at its end"), (huge, false, "67,108,864 bytes"), (short, true, "are there")] {
        let (found, file) = lengths(&[&good[..], &more].concat());
        let [damage] = file.damage() else { panic!("{says}: {:?}", file.damage()) };
        assert_eq!((found.len(), damage.packet, damage.cut_short), (1, 2, cut_short), "{damage}");
        assert!(damage.what.contains(says), "{damage}");
    }
}

/// Who has seen enough gets no more.
#[test]
fn a_reader_that_has_enough() {
    let bytes = [section(), interface(0, &[]), enhanced(0, 60), enhanced(0, 64), enhanced(0, 68)].concat();
    for files in [1, 2] {
        let mut seen = 0;
        Merged::new((0..files).map(|_| open(bytes.clone())).collect()).for_each(|_, _, _| {
            seen += 1;
            seen < 2
        });
        assert_eq!(seen, 2);
    }
}

/// A packed file that ends too early was cut short, and what is there is read.
#[test]
fn packed_and_cut() {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    packed.write_all(&pcap((2, 4), 1, &[(60, 60, 60); 100])).expect("memory");
    let packed = packed.finish().expect("memory");
    let (found, file) = lengths(&packed[..packed.len() / 2]);
    let [damage] = file.damage() else { panic!("{:?}", file.damage()) };
    assert!((10..100).contains(&found.len()) && damage.cut_short, "{} {damage}", found.len());
    assert!(damage.what.contains("gzip"), "{damage}");
}
