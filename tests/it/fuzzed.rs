//! What the fuzz targets do, done here with recorded captures, whole and spoilt: so they stay buildable, and what they assert holds.

use crate::support::{Random, fixtures, records};
use std::fs;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Some of the recorded captures as they lie on disk, plain or compressed.
fn captures(which: fn(&str) -> bool) -> Vec<Vec<u8>> {
    let folders = fixtures();
    let files = folders.iter().step_by(7).flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let mut files: Vec<_> = files.filter(|path| which(&path.to_string_lossy())).collect();
    files.sort();
    assert!(files.len() > 1, "nothing to spoil");
    files.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target over `seeds`: each as it is, then cut and with bytes flipped.
fn run(target: fn(&[u8]), seeds: impl IntoIterator<Item = Vec<u8>>) {
    let mut random = Random::new(11);
    for seed in seeds {
        target(&seed);
        for _ in 0..4 {
            let mut spoilt = seed.clone();
            for _ in 0..random.below(6) {
                let at = random.below(spoilt.len() as u64) as usize;
                spoilt[at] = random.next() as u8;
            }
            spoilt.truncate(random.below(spoilt.len() as u64 + 1) as usize);
            target(&spoilt);
        }
    }
}

fn behind(head: &[u8], capture: &[u8], skipped: usize) -> Vec<u8> {
    [head, capture.get(skipped..).unwrap_or_default()].concat()
}

/// Where the packets of a capture begin, and how long they are.
fn packets(capture: &[u8]) -> Vec<(usize, usize)> {
    records(capture).windows(2).map(|ends| (ends[0] + 16, ends[1] - ends[0] - 16)).collect()
}

fn pcap(name: &str) -> bool {
    name.ends_with(".pcap")
}

#[test]
fn readers() {
    // The target puts the magic number in front itself.
    run(targets::pcap::run, captures(pcap).iter().map(|capture| behind(&[0], capture, 4)));
    run(targets::pcapng::run, captures(pcap).iter().map(|capture| behind(&[6, 0, 0, 0, 64, 0, 0, 0], capture, 24)));
    run(targets::compressed::run, captures(|name| name.ends_with(".gz")).iter().map(|capture| behind(&[0], capture, 0)));
    run(targets::compressed::run, captures(pcap).iter().map(|capture| behind(&[2], capture, 0)));
}

#[test]
fn decoder() {
    let frames = captures(pcap).into_iter().flat_map(|capture| {
        packets(&capture).into_iter().step_by(5).map(|(at, len)| behind(&[1, 0], &capture[..at + len], at)).collect::<Vec<_>>()
    });
    run(targets::dissect::run, frames);
}

#[test]
fn whole_diagnoses() {
    // The lengths of two captures in front; the second is what is left.
    let captures = captures(pcap);
    let pairs = captures.windows(2).filter(|pair| pair[0].len() < 0xffff);
    run(targets::diagnose::run, pairs.map(|pair| [&(pair[0].len() as u16).to_le_bytes()[..], &pair[0], &[255, 255], &pair[1]].concat()));
}

#[test]
fn director() {
    let streams = captures(pcap).into_iter().map(|capture| {
        let mut stream = Vec::new();
        for (at, len) in packets(&capture) {
            if let Ok(short) = u8::try_from(len) {
                stream.extend([short, 4]);
                stream.extend(&capture[at..at + len]);
            }
        }
        stream
    });
    run(targets::director::run, streams.filter(|stream| !stream.is_empty()));
}
