//! Captures → trace: opens the files, makes their interfaces capture points, and lets every packet pass the tracer once.

use crate::capture::{Burst, CaptureFile, Damage, Filter, Interface, Merged, Records};
use crate::packet::Frame;
use crate::trace::{Options, Source, Trace, Tracer};
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
        for frame in records {
            if self.limits.filter.as_mut().is_none_or(|filter| filter.passes(&frame)) {
                self.seen += 1;
                self.tracer.observe(point, &frame);
            }
        }
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

    /// Makes interfaces that have come up since capture points.
    #[cold]
    fn declare(&mut self, i: usize, interfaces: &[Interface]) {
        let (points, file) = (&mut self.points[i], self.place[i]);
        let arg = &self.captures[file];
        for interface in &interfaces[points.len().min(interfaces.len())..] {
            points.push(self.tracer.point(&Source {
                file,
                file_name: arg.path.display().to_string(),
                given: arg.point.clone(),
                interface_name: interface.name.clone(),
                one_of_several: interfaces.len() > 1,
                link_type: interface.link_type,
                snap_len: interface.snap_len,
            }));
        }
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
