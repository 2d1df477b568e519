//! A capture that is still being written: read as it comes, into a tracer that others look at meanwhile.

use super::evidence::{CaptureArg, SourceFile, declare};
use crate::capture::{CaptureFile, Filter};
use crate::packet::Frame;
use crate::trace::Tracer;
use std::sync::{Mutex, PoisonError};

/// Reads a capture to its end, or until `taken`, which is told each packet that passed and its point, says that no more are wanted. `at`
/// is the number of the input.
pub fn follow(
    at: usize,
    arg: &CaptureArg,
    tracer: &Mutex<Tracer>,
    mut filter: Option<Filter>,
    mut taken: impl FnMut(u32, &Frame<'_>) -> bool,
) -> SourceFile {
    let mut source = SourceFile { name: arg.path.display().to_string(), ..SourceFile::default() };
    let mut file = match CaptureFile::open(&arg.path) {
        Ok(file) => file,
        Err(e) => {
            source.unreadable = Some(e.to_string());
            return source;
        }
    };
    // Nobody may find the lock poisoned by a reader that came to grief: the others go on.
    let lock = || tracer.lock().unwrap_or_else(PoisonError::into_inner);
    declare(&mut lock(), at, arg, &mut source.points, file.interfaces());
    let mut wanted = true;
    // Waits for the writer, without the lock.
    while wanted && file.advance() {
        let Some(frame) = file.frame() else { continue };
        if filter.as_mut().is_some_and(|filter| !filter.passes(&frame)) {
            continue;
        }
        let mut tracer = lock();
        if source.points.len() < file.interfaces().len() {
            declare(&mut tracer, at, arg, &mut source.points, file.interfaces());
        }
        let Some(point) = source.points.get(frame.interface as usize).copied() else { continue };
        tracer.observe(point, &frame);
        drop(tracer);
        source.frames += 1;
        wanted = taken(point, &frame);
    }
    let mut tracer = lock();
    for (interface, point) in file.interfaces().iter().zip(&source.points) {
        if let Some(drops) = interface.drops {
            tracer.dropped(*point, drops.total());
        }
    }
    source.damage = file.damage().to_vec();
    source
}

/// True for what is read as it comes: a pipe, a socket, a terminal; not a file on a disk.
pub fn is_stream(arg: &CaptureArg) -> bool {
    let path = if arg.path.as_os_str() == "-" { std::path::Path::new("/dev/stdin") } else { &arg.path };
    std::fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir())
}
