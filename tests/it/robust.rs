//! Damaged, cut, hostile and absurd files: nothing panics, and what precedes the damage is reported.

use crate::support::{Random, fixtures, plain, records};
use flate2::Compression;
use flate2::write::GzEncoder;
use lvscope::capture::{Burst, CaptureFile, Interface, Merged};
use lvscope::case::{self, CaptureArg, Case, Limits, Reading, SourceFile};
use lvscope::net::Timestamp;
use lvscope::packet::{Frame, LinkType, dissect, glance};
use lvscope::rules::{Facts, diagnose};
use lvscope::trace::{Hints, Options};
use proptest::prelude::*;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

/// Reads, traces and judges; what is said is put into words too.
fn judge(paths: &[PathBuf]) -> Reading {
    let captures: Vec<CaptureArg> = paths.iter().map(|path| CaptureArg { path: path.clone(), point: None }).collect();
    let reading = case::read(&captures, Options::default(), Limits::default(), |_| {});
    let diagnosis = diagnose(&Facts { trace: &reading.trace, hints: &Hints::default(), fleet: &lvscope::host::Fleet::default() });
    for finding in &diagnosis.findings {
        assert!(!finding.evidence().is_empty() && !finding.summary.is_empty(), "{}", finding.code);
        assert!(finding.flows.iter().all(|id| reading.trace.flow(*id).is_some()), "{} on flows that are not there", finding.code);
    }
    reading
}

fn captures() -> impl Iterator<Item = PathBuf> {
    let of = |folder: PathBuf| Case::open(&folder).unwrap_or_else(|e| panic!("{e}")).captures;
    fixtures().into_iter().flat_map(of).map(|capture| capture.path)
}

/// A file in `folder` with the name of `like` and other content.
fn put(folder: &Path, like: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join(like.file_name().unwrap());
    std::fs::write(&path, bytes).unwrap();
    path
}

fn said(file: &SourceFile) -> String {
    let damage: Vec<String> = file.damage.iter().map(ToString::to_string).collect();
    file.unreadable.clone().unwrap_or_default() + &damage.join("; ")
}

/// How far apart cuts are: a prime, so that they fall into every part of a record.
const STRIDE: usize = 997;

#[test]
fn a_capture_cut_anywhere() {
    let away = tempfile::tempdir().unwrap();
    for path in captures() {
        let bytes = plain(&path);
        let starts = records(&bytes);
        let name = PathBuf::from(path.file_name().unwrap().to_string_lossy().replace(".gz", "").replace(".zst", ""));
        for cut in (1..bytes.len()).step_by(STRIDE) {
            let reading = judge(&[put(away.path(), &name, &bytes[..cut])]);
            let file = &reading.files[0];
            let whole = starts.iter().filter(|start| **start <= cut).count().saturating_sub(1);
            assert_eq!(file.frames, whole as u64, "{} cut at {cut}: {}", path.display(), said(file));
            let clean = starts.contains(&cut);
            assert_eq!(said(file).is_empty(), clean, "{} cut at {cut}: '{}'", path.display(), said(file));
            assert_eq!(reading.trace.packets, whole as u64);
        }
    }
}

#[test]
fn a_compressed_capture_cut_anywhere() {
    let away = tempfile::tempdir().unwrap();
    let compressed = |path: &PathBuf| path.extension().is_some_and(|e| e == "gz" || e == "zst");
    let mut some = 0;
    for path in captures().filter(compressed) {
        let bytes = std::fs::read(&path).unwrap();
        let all = judge(std::slice::from_ref(&path)).files[0].frames;
        let mut before = 0;
        for cut in (1..bytes.len()).step_by(STRIDE) {
            let reading = judge(&[put(away.path(), &path, &bytes[..cut])]);
            let file = &reading.files[0];
            assert!(!said(file).is_empty(), "{} cut at {cut}: not noticed", path.display());
            assert!((before..=all).contains(&file.frames), "{} cut at {cut}: {} frames after {before}", path.display(), file.frames);
            before = file.frames;
            some += u64::from(file.frames > 0);
        }
    }
    assert!(some > 0, "of no cut file anything was read");
}

/// Wrong bytes, in every file of a case, alone and together.
#[test]
fn captures_with_wrong_bytes() {
    let mut random = Random::new(997);
    let away = tempfile::tempdir().unwrap();
    for folder in fixtures() {
        let originals = Case::open(&folder).unwrap_or_else(|e| panic!("{e}")).captures;
        for round in 0..4 {
            let mut paths = Vec::new();
            for capture in &originals {
                // Every second time inside the compression, where there is one.
                let mut bytes = if round % 2 == 0 { plain(&capture.path) } else { std::fs::read(&capture.path).unwrap() };
                for _ in 0..=bytes.len() / 400 {
                    let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
                    bytes[at] ^= u8::try_from(random.below(255) + 1).unwrap();
                }
                paths.push(put(away.path(), &capture.path, &bytes));
            }
            if round == 0 {
                for path in &paths {
                    judge(std::slice::from_ref(path));
                }
            }
            judge(&paths);
        }
    }
}

/// Wrong bytes behind the record headers only: every frame is read, and few of them make sense.
#[test]
fn captures_with_wrong_frames() {
    let mut random = Random::new(4_711);
    let away = tempfile::tempdir().unwrap();
    for folder in fixtures() {
        let mut paths = Vec::new();
        let mut frames = 0;
        for capture in &Case::open(&folder).unwrap_or_else(|e| panic!("{e}")).captures {
            let mut bytes = plain(&capture.path);
            let starts = records(&bytes);
            frames += starts.len() as u64 - 1;
            for pair in starts.windows(2).filter(|pair| pair[1] - pair[0] > 16) {
                // Headers are where decisions are made.
                let headers = (pair[1] - pair[0] - 16).min(80) as u64;
                for _ in 0..random.below(3) {
                    let at = pair[0] + 16 + usize::try_from(random.below(headers)).unwrap();
                    bytes[at] ^= 1 << random.below(8);
                }
            }
            paths.push(put(away.path(), &capture.path, &bytes));
        }
        let reading = judge(&paths);
        assert_eq!(reading.files.iter().map(|file| file.frames).sum::<u64>(), frames, "{}", folder.display());
        assert_eq!(reading.trace.packets, frames);
    }
}

#[test]
fn what_is_no_capture_is_said() {
    let away = tempfile::tempdir().unwrap();
    let path = |name: &str| away.path().join(name);
    let header = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    std::fs::create_dir(path("folder.pcap")).unwrap();
    let cases: [(&str, &[u8], &str); 9] = [
        ("empty.pcap", b"", "is empty"),
        ("header.pcap", &header, ""),
        ("half-a-header.pcap", &header[..20], "cut short at byte 20 (packet 1): the file header has 24 bytes, 20 are there"),
        ("three-bytes.pcap", &header[..3], "is not a capture file: it has only 3 bytes"),
        ("text.pcap", b"12:00:01 IP 10.0.0.1.40000 > 10.0.0.2.80: Flags [S]\n", "is not a capture file: it is text"),
        ("rules.pcap", b"-A -t 10.0.0.1:80 -s rr\n", "is not a capture file: it looks like an `ipvsadm -Sn` dump"),
        ("garbage.pcap.gz", b"\x1f\x8b\x08\x00garbage that is no deflate stream at all", "begins as gzip data but does not unpack"),
        ("garbage.pcap.zst", b"\x28\xb5\x2f\xfdgarbage that is no zstd frame at all", "begins as zstd data but does not unpack"),
        ("random.pcap", &[7, 99, 200, 3, 1, 0, 0, 0], "is not a capture file: it begins with 07 63 c8 03"),
    ];
    for (name, bytes, message) in cases {
        std::fs::write(path(name), bytes).unwrap();
        let reading = judge(&[path(name)]);
        let said = said(&reading.files[0]);
        assert!(said.contains(message) && said.is_empty() == message.is_empty(), "{name}: {said}");
        assert_eq!(reading.files[0].frames, 0, "{name}");
    }
    let folder = &judge(&[path("folder.pcap")]).files[0];
    assert!(said(folder).contains("it is a directory"), "{}", said(folder));
    let nowhere = &judge(&[path("nowhere.pcap")]).files[0];
    assert_eq!(said(nowhere), "cannot be read: No such file or directory");
}

/// One bad file does not spoil the others.
#[test]
fn the_others_are_read_all_the_same() {
    let away = tempfile::tempdir().unwrap();
    let folder = fixtures().into_iter().find(|folder| folder.ends_with("nat-ok")).unwrap();
    let mut paths: Vec<PathBuf> = Case::open(&folder).unwrap().captures.into_iter().map(|capture| capture.path).collect();
    let flows = judge(&paths).trace.flow_count();
    paths.insert(0, put(away.path(), Path::new("broken.eth0.pcap"), b"nothing"));
    let reading = judge(&paths);
    assert!(reading.files[0].unreadable.is_some());
    assert_eq!(reading.trace.flow_count(), flows);
}

/// All that a reader gives: interface, time and bytes of each packet; and whether it complained.
type Content = (Vec<(u32, i64, u32, Vec<u8>)>, bool);

fn item(frame: &Frame<'_>) -> (u32, i64, u32, Vec<u8>) {
    (frame.interface, frame.time.0, frame.wire_len, frame.bytes.to_vec())
}

/// Reads bytes packet by packet, and in one go; both have to come to the same.
fn content(bytes: &[u8]) -> Option<Content> {
    let open = || CaptureFile::from_reader("any", Box::new(Cursor::new(bytes.to_vec())));
    let mut file = open().ok()?;
    let mut stepped = Vec::new();
    while file.advance() {
        let frame = file.frame().unwrap();
        assert!((frame.interface as usize) < file.interfaces().len());
        assert!(frame.bytes.len() <= frame.wire_len as usize || frame.wire_len == 0);
        stepped.push(item(&frame));
    }
    assert!(!file.advance(), "an end is an end");
    assert_eq!(file.frames(), stepped.len() as u64);
    let complaint = !file.damage().is_empty();
    for damage in file.damage() {
        assert!(damage.packet == file.frames() + 1 && !damage.to_string().is_empty());
    }
    let mut drained = Vec::new();
    let closed = Merged::new(vec![open().ok()?]).for_each(|_, _: &[Interface], burst| {
        match burst {
            Burst::One(frame) => drained.push(item(&frame)),
            Burst::Window(records) => drained.extend(records.map(|frame| item(&frame))),
        }
        true
    });
    assert_eq!(stepped, drained);
    assert_eq!(closed[0].damage(), file.damage());
    Some((stepped, complaint))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// pcap files: a header of any kind, records of any length whose headers may lie.
fn pcap() -> impl Strategy<Value = Vec<u8>> {
    let magic = prop::sample::select(vec![0xa1b2_c3d4u32, 0xa1b2_3c4d, 0xa1b2_cd34]);
    let version = prop_oneof![4 => Just((2u16, 4u16)), 1 => Just((2, 3)), 1 => Just((2, 2)), 1 => Just((543, 0)), 1 => any::<(u16, u16)>()];
    let lie = prop_oneof![12 => Just(0i32), 1 => -40i32..40, 1 => any::<i32>()];
    let record = (any::<[u32; 2]>(), lie, 0u32..64, prop::collection::vec(any::<u8>(), 0..80));
    let header = (magic, any::<bool>(), version, any::<u32>(), any::<u32>());
    (header, prop::collection::vec(record, 0..12), 0usize..30).prop_map(|((magic, big, version, snap, network), records, tail)| {
        let u32 = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let u16 = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut out = Vec::new();
        out.extend(u32(magic));
        out.extend(u16(version.0));
        out.extend(u16(version.1));
        out.extend([0; 8]);
        out.extend(u32(snap));
        out.extend(u32(network));
        for ([seconds, fraction], lie, more, bytes) in records {
            let len = bytes.len() as u32;
            for word in [seconds, fraction, len.wrapping_add_signed(lie), len.wrapping_add(more)] {
                out.extend(u32(word));
            }
            if magic == 0xa1b2_cd34 {
                out.extend([0; 8]);
            }
            out.extend(bytes);
        }
        out.truncate(out.len().saturating_sub(tail));
        out
    })
}

/// pcapng files: blocks of known and unknown kinds, with any content, whose lengths mostly do not lie.
fn pcapng() -> impl Strategy<Value = Vec<u8>> {
    let kind =
        prop_oneof![4 => Just(6u32), 2 => Just(1), 1 => Just(3), 1 => Just(2), 1 => Just(5), 1 => Just(0x0a0d_0d0a), 1 => any::<u32>()];
    let lie = prop_oneof![30 => Just(0u32), 1 => 1u32..9, 1 => any::<u32>()];
    // Small words make plausible interface numbers, lengths and options.
    let word = prop_oneof![3 => 0u32..5, 2 => 0u32..60, 1 => any::<u32>(), 1 => Just(1 << 16), 1 => Just((1 << 16) | 9), 1 => Just((8 << 16) | 14)];
    let block = (kind, prop::collection::vec(word, 0..24), lie);
    (any::<bool>(), prop::collection::vec(block, 0..14), 0usize..30).prop_map(|(big, blocks, tail)| {
        let u32 = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut out = Vec::new();
        let mut put = |kind: u32, words: &[u32], lie: u32| {
            let len = (words.len() as u32 * 4 + 12).wrapping_add(lie);
            out.extend(u32(kind));
            out.extend(u32(len));
            out.extend(words.iter().flat_map(|word| u32(*word)));
            out.extend(u32(len));
        };
        let version = if big { 1 << 16 } else { 1 };
        put(0x0a0d_0d0a, &[0x1a2b_3c4d, version, u32::MAX, u32::MAX], 0);
        put(1, &[if big { 1 << 16 } else { 1 }, 0], 0);
        for (kind, mut words, lie) in blocks {
            match kind {
                0x0a0d_0d0a => words.splice(0..0, [0x1a2b_3c4d, version]).for_each(drop),
                // Interface, time, captured and original length: as an honest writer has them, before they are read as they are.
                6 if words.len() > 5 => {
                    (words[0], words[3]) = (words[0] % 2, words[3] % (4 * (words.len() as u32 - 5) + 1));
                }
                _ => {}
            }
            put(kind, &words, lie);
        }
        out.truncate(out.len().saturating_sub(tail));
        out
    })
}

/// Every link type that is read, and some that are not.
const LINKS: [u16; 14] = [0, 1, 9, 12, 14, 50, 101, 108, 113, 228, 229, 276, 105, 65535];

/// Bytes that begin as frames do, more often than chance would have it.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    // IPv6 extension headers, with the number of what follows: a transport, another one, or one that may not stand there.
    let extension = prop::sample::select(vec![0u8, 6, 43, 44, 51, 58, 59, 60, 135]).prop_map(|next| vec![next, 0, 0, 1, 0, 0, 0, 9]);
    let extensions = prop::collection::vec(extension, 0..4);
    let piece = prop_oneof![
        Just(vec![0x52, 0x54, 0, 0, 1, 1, 0x52, 0x54, 0, 0, 2, 1]),
        Just(vec![8, 0]),
        Just(vec![0x86, 0xdd]),
        Just(vec![0x81, 0, 0, 7]),
        Just(vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 1]),
        prop::sample::select(vec![1u8, 4, 6, 17, 41, 47, 58, 112, 132, 0, 43, 44, 60])
            .prop_map(|protocol| vec![0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]),
        (prop::sample::select(vec![0u8, 4, 6, 17, 41, 43, 44, 47, 58, 60, 112, 132]), extensions).prop_map(|(next, extensions)| {
            let mut header = vec![0x60, 0, 0, 0, 0, 40, next, 64];
            header.extend([0x20, 1, 0xd, 0xb8].repeat(8));
            header.extend(extensions.concat());
            header
        }),
        Just(vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 2, 0xfa, 0xf0, 0, 0, 0, 0, 2, 4, 5, 0xb4, 4, 2, 8, 10]),
        Just(vec![0x9c, 0x40, 0x12, 0xb5, 0, 40, 0, 0]),
        Just(vec![0x20, 0, 8, 0, 0, 0, 0, 7]),
        Just(vec![3, 4, 0, 0, 0, 0, 5, 0x78]),
        prop::collection::vec(any::<u8>(), 0..24),
    ];
    // Every second one is an Ethernet frame at first sight.
    let ethernet = prop::option::of(Just(vec![0x52, 0x54, 0, 0, 1, 1, 0x52, 0x54, 0, 0, 2, 1]));
    (ethernet, prop::collection::vec(piece, 0..9)).prop_map(|(macs, pieces)| macs.into_iter().chain(pieces).collect::<Vec<_>>().concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_as_a_file(magic in prop::sample::select(vec![
        vec![], vec![0xd4, 0xc3, 0xb2, 0xa1], vec![0xa1, 0xb2, 0x3c, 0x4d], vec![0x0a, 0x0d, 0x0d, 0x0a], vec![0x1f, 0x8b, 8, 0],
        vec![0x28, 0xb5, 0x2f, 0xfd], vec![0x50, 0x2a, 0x4d, 0x18],
    ]), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        content(&[magic, bytes].concat());
    }

    #[test]
    fn any_pcap(bytes in pcap()) {
        content(&bytes);
    }

    #[test]
    fn any_pcapng(bytes in pcapng()) {
        content(&bytes);
    }

    /// Compression changes nothing; damage to it is noticed or changes nothing that matters to the reader's soundness.
    #[test]
    fn any_compressed(bytes in prop_oneof![pcap(), pcapng()], at in any::<prop::sample::Index>(), flip in 1u8..) {
        prop_assume!(bytes.len() >= 4);
        let plain = content(&bytes);
        for mut packed in [gzip(&bytes), zstd(&bytes)] {
            prop_assert_eq!(&content(&packed), &plain);
            let two = [packed.clone(), packed.clone()].concat();
            content(&two);
            let at = at.index(packed.len());
            packed[at] ^= flip;
            content(&packed);
            packed.truncate(at);
            content(&packed);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Frames, and what a short snap length leaves of them.
    #[test]
    fn any_frame(bytes in frame(), more in 0u32..3000) {
        for link in LINKS {
            for end in (0..=bytes.len()).rev() {
                if end < bytes.len() && link != 1 && end % 5 != 0 {
                    continue;
                }
                let (cut, link_type, wire_len) = (&bytes[..end], LinkType(link), bytes.len() as u32 + more);
                let frame = Frame { bytes: cut, wire_len, link_type, time: Timestamp(0), number: 1, interface: 0, heading: None };
                let packet = dissect(&frame);
                prop_assert!(!packet.to_string().is_empty());
                prop_assert!(packet.payload.len() <= end);
                if let Some(stop) = packet.stop {
                    prop_assert!(stop.offset <= end, "{:?}", stop);
                }
                let _ = (packet.five_tuple(), glance(&frame));
            }
        }
    }
}
