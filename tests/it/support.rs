//! What several tests need: the recorded cases, and captures changed on purpose.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Folders of all recorded cases.
pub fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let cases = lvscope::case::find(&root).unwrap_or_else(|e| panic!("{e}"));
    assert!(cases.len() > 40, "only {} cases under {}", cases.len(), root.display());
    cases
}

/// A capture file's bytes, decompressed.
pub fn plain(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    match path.extension().and_then(|e| e.to_str()) {
        Some("gz") => flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes),
        Some("zst") => ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_end(&mut bytes),
        _ => { file }.read_to_end(&mut bytes),
    }
    .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes
}

/// `HOST.IFACE` of a file.
pub fn point(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(".pcap").next().unwrap_or_default().to_string()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Where each record of a pcap file begins, and the end of the last one. Little-endian microseconds or nanoseconds: what tcpdump writes here.
pub fn records(pcap: &[u8]) -> Vec<usize> {
    assert!(matches!(word(pcap, 0), 0xa1b2_c3d4 | 0xa1b2_3c4d), "not the kind of pcap that this test can read");
    let mut starts = vec![24];
    while let Some(&at) = starts.last().filter(|at| **at < pcap.len()) {
        starts.push(at + 16 + word(pcap, at + 8) as usize);
    }
    assert_eq!(starts.last(), Some(&pcap.len()), "a whole file");
    starts
}

/// The same capture from a host whose clock is `micros` ahead.
pub fn shift(pcap: &[u8], micros: i64) -> Vec<u8> {
    let scale: i64 = if word(pcap, 0) == 0xa1b2_3c4d { 1_000 } else { 1 };
    let second = 1_000_000 * scale;
    let mut out = pcap.to_vec();
    let starts = records(pcap);
    for &at in &starts[..starts.len() - 1] {
        let time = i64::from(word(pcap, at)) * second + i64::from(word(pcap, at + 4)) + micros * scale;
        out[at..at + 4].copy_from_slice(&u32::try_from(time.div_euclid(second)).unwrap().to_le_bytes());
        out[at + 4..at + 8].copy_from_slice(&u32::try_from(time.rem_euclid(second)).unwrap().to_le_bytes());
    }
    out
}

/// Numbers that are the same in every run (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.max(1))
    }

    /// For one case: what is drawn does not depend on which other cases there are.
    pub fn of(seed: u64, name: &str) -> Self {
        Random::new(name.bytes().fold(seed, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = usize::try_from(self.below(i as u64 + 1)).unwrap();
            items.swap(i, j);
        }
    }
}

/// The program.
pub fn lvscope(words: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lvscope"));
    command.args(words).env("NO_COLOR", "1").env("COLUMNS", "80");
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// False, aloud, where this user may make no namespaces.
pub fn lab_is_possible() -> bool {
    let tried = lvscope(&["lab", "enter", "true"]).output().expect("lvscope");
    if !tried.status.success() {
        eprintln!("skipped: {}", text(&tried.stderr).trim());
    }
    tried.status.success()
}

/// What must depend on neither names nor clocks nor, but for the addresses themselves, on addresses: who talked to whom, by which method, over
/// how many hops. `shown` says what each address is told as.
pub fn story(flow: &lvscope::trace::Flow, shown: impl Fn(lvscope::net::Endpoint) -> lvscope::net::Endpoint) -> String {
    let or_unknown = |end: Option<lvscope::net::Endpoint>| end.map_or("unknown".to_string(), |end| shown(end).to_string());
    format!(
        "{} {} > {} vip {} real server {} {} {}, {} and {} hops",
        flow.protocol,
        shown(flow.client),
        shown(flow.service),
        or_unknown(flow.vip),
        or_unknown(flow.real_server),
        flow.method,
        flow.state,
        flow.request.hops.len(),
        flow.reply.hops.len()
    )
}
