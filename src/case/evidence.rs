//! Captures → trace: opens the files, makes their interfaces capture points, and lets every packet pass the tracer once.

use crate::capture::{Burst, CaptureFile, Damage, Filter, Interface, Merged, Records};
use crate::packet::Frame;
use crate::trace::{Options, Source, Trace, Tracer, unrotated};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A capture as the user names it: `FILE`, or `POINT=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureArg {
    /// The file; `-` is standard input.
    pub path: PathBuf,
    /// The name of its capture point.
    pub point: Option<String>,
}

impl CaptureArg {
    /// Reads `FILE` or `POINT=FILE`. A file whose own name contains `=` wins over the second reading.
    pub fn new(text: &str) -> Self {
        match text.split_once('=') {
            Some((point, file)) if !point.is_empty() && !file.is_empty() && !point.contains('/') && !Path::new(text).exists() => {
                CaptureArg { path: file.into(), point: Some(point.to_string()) }
            }
            _ => CaptureArg { path: text.into(), point: None },
        }
    }
}

/// Of each capture that is one of several files of a rotated one: the first of these. They are read as one: one point, and packets
/// numbered throughout, in the order of their times, as `mergecap` would put them into one file.
pub fn begins(captures: &[CaptureArg]) -> Vec<Option<usize>> {
    let whole = |arg: &CaptureArg| unrotated(&arg.path.to_string_lossy());
    let mut sets: HashMap<(Option<&str>, String), Vec<usize>> = HashMap::new();
    for (at, arg) in captures.iter().enumerate() {
        let name = whole(arg).unwrap_or_else(|| arg.path.to_string_lossy().into_owned());
        sets.entry((arg.point.as_deref(), name)).or_default().push(at);
    }
    let mut begins = vec![None; captures.len()];
    for set in sets.into_values().filter(|set| set.len() > 1 && set.iter().any(|at| whole(&captures[*at]).is_some())) {
        for at in &set {
            begins[*at] = Some(set[0]);
        }
    }
    begins
}

/// What to read, and when to stop.
#[derive(Default)]
pub struct Limits {
    /// Only packets that pass.
    pub filter: Option<Filter>,
    /// After so many packets, of all files together.
    pub count: Option<u64>,
    /// Set by somebody else: stop now, with what has been read.
    pub stop: Option<Arc<AtomicBool>>,
}

/// How far reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Packets of all files.
    pub packets: u64,
    /// Bytes read of the files as they are on disk.
    pub bytes: u64,
    /// Their size on disk, as far as it is known.
    pub size: u64,
}

/// What became of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name as given.
    pub name: String,
    /// Packets read.
    pub frames: u64,
    /// What is wrong with it; everything before that was read.
    pub damage: Vec<Damage>,
    /// Why it could not be read at all.
    pub unreadable: Option<String>,
    /// Numbers of its capture points in the trace.
    pub points: Vec<u32>,
}

/// What all files together came to.
pub struct Reading {
    /// The trace of their packets.
    pub trace: Trace,
    /// The files, in the order given.
    pub files: Vec<SourceFile>,
    /// It was stopped before the end.
    pub interrupted: bool,
}

/// Packets between two reports of progress.
const STRIDE: u64 = 1 << 14;

/// Reads captures into a trace. A file that cannot be opened is named in the result; the others are read all the same.
pub fn read(captures: &[CaptureArg], options: Options, limits: Limits, progress: impl FnMut(Progress)) -> Reading {
    let mut files: Vec<SourceFile> = Vec::with_capacity(captures.len());
    let mut opened = Vec::new();
    // The place in `files` of each opened one.
    let mut place = Vec::new();
    for (at, arg) in captures.iter().enumerate() {
        let mut file =
            SourceFile { name: arg.path.display().to_string(), frames: 0, damage: Vec::new(), unreadable: None, points: Vec::new() };
        match CaptureFile::open(&arg.path) {
            Ok(capture) => {
                opened.push(capture);
                place.push(at);
            }
            Err(e) => file.unreadable = Some(e.to_string()),
        }
        files.push(file);
    }
    let mut intake = Intake {
        captures,
        points: opened.iter().map(|_| Vec::new()).collect(),
        place,
        begins: begins(captures),
        numbers: HashMap::new(),
        tracer: Tracer::new(options),
        meters: opened.iter().map(CaptureFile::meter).collect(),
        size: opened.iter().filter_map(CaptureFile::size).sum(),
        seen: 0,
        pause: STRIDE,
        interrupted: false,
        limits,
        progress,
    };
    for (i, capture) in opened.iter().enumerate() {
        intake.declare(i, capture.interfaces());
    }
    let mut merged = Merged::new(opened);
    let closed = match intake.limits.count {
        None => merged.for_each(|i, interfaces, burst| match burst {
            Burst::One(frame) => intake.take(i, interfaces, &frame),
            Burst::Window(records) => intake.take_all(i, records),
        }),
        // A pipe may have no end: reading stops with the last packet that is wanted, not with the file.
        Some(count) => {
            let mut more = count != 0;
            while more && let Some(i) = merged.advance() {
                let file = &merged.files()[i];
                more = file.frame().is_none_or(|frame| intake.take(i, file.interfaces(), &frame)) && intake.seen < count;
            }
            merged.into_files()
        }
    };
    for (i, capture) in closed.iter().enumerate() {
        intake.declare(i, capture.interfaces());
        for (interface, point) in capture.interfaces().iter().zip(&intake.points[i]) {
            if let Some(drops) = interface.drops {
                intake.tracer.dropped(*point, drops.total());
            }
        }
        let file = &mut files[intake.place[i]];
        file.points = std::mem::take(&mut intake.points[i]);
        file.frames = capture.frames();
        file.damage = capture.damage().to_vec();
    }
    Reading { trace: intake.tracer.finish(), files, interrupted: intake.interrupted }
}

/// What packets pass on their way from the opened files into the tracer.
struct Intake<'a, P> {
    captures: &'a [CaptureArg],
    /// Of each opened file: its place among all captures, and its capture points.
    place: Vec<usize>,
    points: Vec<Vec<u32>>,
    /// See [`begins`].
    begins: Vec<Option<usize>>,
    /// Packets of each rotated capture so far.
    numbers: HashMap<usize, u64>,
    tracer: Tracer,
    meters: Vec<Arc<AtomicU64>>,
    size: u64,
    limits: Limits,
    progress: P,
    /// Packets that passed the filter.
    seen: u64,
    /// When so many are there, progress is due.
    pause: u64,
    interrupted: bool,
}

impl<P: FnMut(Progress)> Intake<'_, P> {
    /// One packet; false: no more are wanted.
    #[inline(never)]
    fn take(&mut self, i: usize, interfaces: &[Interface], frame: &Frame<'_>) -> bool {
        if self.points[i].len() < interfaces.len() {
            self.declare(i, interfaces);
        }
        let mut frame = *frame;
        if let Some(first) = self.begins[self.place[i]] {
            let number = self.numbers.entry(first).or_insert(0);
            *number += 1;
            frame.number = *number;
        }
        let frame = &frame;
        if self.limits.filter.as_mut().is_none_or(|filter| filter.passes(frame)) {
            self.seen += 1;
            if let Some(point) = self.points[i].get(frame.interface as usize) {
                self.tracer.observe(*point, frame);
            }
        }
        self.goes_on()
    }

    /// All that a window holds, of a file with one interface: in a large capture nearly every packet comes this way, so what is the same
    /// for all of them is looked up once.
    fn take_all(&mut self, i: usize, records: &mut Records<'_>) -> bool {
        let Some(&point) = self.points[i].first() else { return false };
        if self.begins[self.place[i]].is_some() {
            return records.all(|frame| self.take(i, &[], &frame));
        }
        let window = records.window();
        self.seen += match &mut self.limits.filter {
            None => self.tracer.observe_all(point, window, records),
            Some(filter) => self.tracer.observe_all(point, window, records.filter(|frame| filter.passes(frame))),
        };
        self.goes_on()
    }

    #[inline]
    fn goes_on(&mut self) -> bool {
        if self.seen >= self.pause {
            self.pause = self.seen + STRIDE;
            let bytes = self.meters.iter().map(|meter| meter.load(Ordering::Relaxed)).sum();
            (self.progress)(Progress { packets: self.seen, bytes, size: self.size });
            self.interrupted = self.limits.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
        }
        !self.interrupted
    }

    #[cold]
    fn declare(&mut self, i: usize, interfaces: &[Interface]) {
        let file = self.place[i];
        declare_part(&mut self.tracer, file, self.begins[file], &self.captures[file], &mut self.points[i], interfaces);
    }
}

/// Makes interfaces that have come up since capture points.
pub fn declare(tracer: &mut Tracer, file: usize, arg: &CaptureArg, points: &mut Vec<u32>, interfaces: &[Interface]) {
    declare_part(tracer, file, None, arg, points, interfaces);
}

/// The same, of a file of a rotated capture that begins with the file numbered `first`.
fn declare_part(tracer: &mut Tracer, file: usize, first: Option<usize>, arg: &CaptureArg, points: &mut Vec<u32>, interfaces: &[Interface]) {
    for interface in &interfaces[points.len().min(interfaces.len())..] {
        points.push(tracer.point(&Source {
            file: first.unwrap_or(file),
            file_name: arg.path.display().to_string(),
            given: arg.point.clone(),
            interface_name: interface.name.clone(),
            one_of_several: interfaces.len() > 1,
            part: first.is_some(),
            link_type: interface.link_type,
            snap_len: interface.snap_len,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe that never ends must not be waited for.
    #[test]
    fn a_count_ends_the_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pcap");
        let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
        for second in 1..=9 {
            bytes.extend([second, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 14, 0, 0, 0]);
            bytes.extend([2; 14]);
        }
        // What nobody gets to read cannot be found wanting.
        bytes.extend([1, 2, 3]);
        std::fs::write(&path, bytes).unwrap();
        let arg = CaptureArg { path, point: None };
        let read = |count| {
            let Reading { trace, files, .. } =
                read(std::slice::from_ref(&arg), Options::default(), Limits { count, ..Limits::default() }, |_| {});
            (trace.packets, files[0].frames, files[0].damage.len())
        };
        assert_eq!([read(Some(0)).0, read(Some(1)).0], [0, 1]);
        assert_eq!([read(Some(3)), read(Some(9)), read(None), read(Some(10))], [(3, 3, 0), (9, 9, 0), (9, 9, 1), (9, 9, 1)]);
    }

    #[test]
    fn rotated_captures_are_one() {
        let args: Vec<CaptureArg> =
            ["w_00001.pcapng", "d.pcap", "w_00002.pcapng", "d.pcap2", "x.pcap", "y.pcap1", "x=w_00003.pcapng", "d.pcap1", "x.pcap"]
                .map(CaptureArg::new)
                .to_vec();
        let (w, d) = (Some(0), Some(1));
        assert_eq!(begins(&args), [w, d, w, d, None, None, None, d, None]);
    }

    #[test]
    fn packets_of_a_rotated_capture_are_numbered_throughout() {
        let folder = tempfile::tempdir().unwrap();
        // ARP questions, one a second, in three files of which the second one is given first.
        let file = |name: &str, seconds: std::ops::Range<u8>| {
            let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
            for second in seconds {
                bytes.extend([second, 0, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 42, 0, 0, 0]);
                bytes.extend([255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1]);
                bytes.extend([10, 0, 0, 99, 0, 0, 0, 0, 0, 0, 10, 0, 0, second]);
            }
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            CaptureArg { path, point: None }
        };
        let args = [file("web1.eth0.pcap1", 4..6), file("web1.eth0.pcap", 1..4), file("web1.eth0.pcap2", 6..9), file("web2.pcap", 5..7)];
        let Reading { trace, files, .. } = read(&args, Options::default(), Limits::default(), |_| {});
        let points: Vec<(&str, u64)> = trace.points.iter().map(|p| (p.name.as_str(), p.frames)).collect();
        assert_eq!(points, [("web1.eth0", 8), ("web2", 2)]);
        assert_eq!(files.iter().map(|f| (f.frames, f.points[0])).collect::<Vec<_>>(), [(2, 0), (3, 0), (3, 0), (2, 1)]);
        let asked = trace.claims.questions.iter().filter(|q| q.point == 0);
        assert!(asked.clone().all(|q| q.times.frames()
            == [match q.target {
                std::net::IpAddr::V4(a) => a.octets()[3].into(),
                _ => 0,
            }]));
        assert_eq!(asked.count(), 8);
    }

    #[test]
    fn a_point_before_the_file() {
        let arg = |text: &str| {
            let CaptureArg { path, point } = CaptureArg::new(text);
            (path.display().to_string(), point)
        };
        assert_eq!(arg("director.eth0=d.pcap"), ("d.pcap".into(), Some("director.eth0".into())));
        assert_eq!(arg("director=-"), ("-".into(), Some("director".into())));
        assert_eq!(arg("./a=b/c.pcap"), ("./a=b/c.pcap".into(), None));
        assert_eq!(arg("=c.pcap"), ("=c.pcap".into(), None));
    }
}
