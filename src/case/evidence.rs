//! Captures → trace: opens the files, makes their interfaces capture points, and lets every packet pass the tracer once.

use crate::capture::{CaptureFile, Damage, Filter, Interface, Merged};
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
pub fn read(captures: &[CaptureArg], options: Options, mut limits: Limits, mut progress: impl FnMut(Progress)) -> Reading {
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
    let mut tracer = Tracer::new(options);
    let meters: Vec<Arc<AtomicU64>> = opened.iter().map(CaptureFile::meter).collect();
    let size = opened.iter().filter_map(CaptureFile::size).sum();
    for (capture, at) in opened.iter().zip(&place) {
        declare(&mut tracer, *at, &captures[*at], &mut files[*at].points, capture.interfaces());
    }
    let (mut seen, mut interrupted) = (0u64, false);
    // False: no more are wanted.
    let mut each = |i: usize, interfaces: &[Interface], frame: &Frame<'_>| {
        if interrupted {
            return false;
        }
        let at = place[i];
        let points = &mut files[at].points;
        if points.len() < interfaces.len() {
            declare(&mut tracer, at, &captures[at], points, interfaces);
        }
        if let Some(filter) = &mut limits.filter
            && !filter.passes(frame)
        {
            return true;
        }
        seen += 1;
        if seen.is_multiple_of(STRIDE) {
            progress(Progress { packets: seen, bytes: meters.iter().map(|m| m.load(Ordering::Relaxed)).sum(), size });
            interrupted = limits.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
        }
        if let Some(point) = points.get(frame.interface as usize) {
            tracer.observe(*point, frame);
        }
        limits.count.is_none_or(|count| seen < count)
    };
    let mut merged = Merged::new(opened);
    let closed = if limits.count.is_none() {
        merged.for_each(|i, interfaces, frame| _ = each(i, interfaces, frame))
    } else {
        // A pipe may have no end: reading stops with the last packet that is wanted, not with the file.
        let mut more = limits.count != Some(0);
        while more && let Some(i) = merged.advance() {
            let file = &merged.files()[i];
            more = file.frame().is_none_or(|frame| each(i, file.interfaces(), &frame));
        }
        merged.into_files()
    };
    for (capture, at) in closed.iter().zip(&place) {
        let file = &mut files[*at];
        declare(&mut tracer, *at, &captures[*at], &mut file.points, capture.interfaces());
        for (interface, point) in capture.interfaces().iter().zip(&file.points) {
            if let Some(drops) = interface.drops {
                tracer.dropped(*point, drops.total());
            }
        }
        file.frames = capture.frames();
        file.damage = capture.damage().to_vec();
    }
    Reading { trace: tracer.finish(), files, interrupted }
}

/// Makes interfaces that have come up since capture points.
pub fn declare(tracer: &mut Tracer, file: usize, arg: &CaptureArg, points: &mut Vec<u32>, interfaces: &[Interface]) {
    for interface in &interfaces[points.len().min(interfaces.len())..] {
        points.push(tracer.point(&Source {
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
