//! Recordings, played: their packets come when they came.

use super::{Alive, Shared, complain_of, input};
use crate::capture::{CaptureFile, Filter, Merged};
use crate::case::{CaptureArg, SourceFile, declare};
use crate::cli::Failure;
use crate::net::Timestamp;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Nobody waits longer than this for the next packet.
const PAUSE: Duration = Duration::from_secs(1);
/// Pauses are slept in pieces, so that the end need not be waited for.
const PIECE: Duration = Duration::from_millis(40);

/// Opens the files and begins to play them; `speed` 0 knows no pauses.
pub(super) fn begin(args: Vec<CaptureArg>, mut filter: Option<Filter>, speed: f64, shared: &Arc<Shared>) -> Result<(), Failure> {
    let (mut files, mut opened) = (Vec::new(), Vec::new());
    for arg in args {
        match CaptureFile::open(&arg.path) {
            Ok(file) => {
                files.push(file);
                opened.push(arg);
            }
            Err(e) => return Err(Failure::input(format!("{}: {e}", arg.path.display()))),
        }
    }
    let mut sources: Vec<SourceFile> =
        opened.iter().map(|arg| SourceFile { name: arg.path.display().to_string(), ..SourceFile::default() }).collect();
    let shared = Arc::clone(shared);
    shared.open.store(1, Ordering::Release);
    std::thread::spawn(move || {
        let _alive = Alive(Arc::clone(&shared));
        let mut merged = Merged::new(files);
        let mut pace = Pace { speed, since: None, skipped: Duration::ZERO };
        let mut wanted = !shared.stopped();
        while wanted && let Some(at) = merged.advance() {
            let file = &merged.files()[at];
            let Some(frame) = file.frame().filter(|frame| filter.as_mut().is_none_or(|filter| filter.passes(frame))) else { continue };
            pace.wait(frame.time, || shared.stopped());
            let source = &mut sources[at];
            let mut tracer = shared.tracer();
            declare(&mut tracer, at, &opened[at], &mut source.points, file.interfaces());
            let Some(point) = source.points.get(frame.interface as usize).copied() else { continue };
            tracer.observe(point, &frame);
            drop(tracer);
            source.frames += 1;
            wanted = shared.took(point, &frame);
        }
        for (source, file) in sources.iter_mut().zip(merged.files()) {
            source.damage = file.damage().to_vec();
            complain_of(source, &shared);
        }
        *shared.inputs() = sources.into_iter().map(input).collect();
        shared.open.store(0, Ordering::Release);
    });
    Ok(())
}

struct Pace {
    speed: f64,
    /// When the first packet was played, and its time.
    since: Option<(Instant, Timestamp)>,
    /// Of the recording's time.
    skipped: Duration,
}

impl Pace {
    /// Waits until it is a packet's turn.
    fn wait(&mut self, time: Timestamp, stopped: impl Fn() -> bool) {
        if self.speed <= 0.0 {
            return;
        }
        let (begun, first) = *self.since.get_or_insert((Instant::now(), time));
        let due = Duration::from_nanos(u64::try_from(time - first).unwrap_or(0)).saturating_sub(self.skipped);
        let mut left = due.div_f64(self.speed.max(1e-6)).saturating_sub(begun.elapsed());
        if left > PAUSE {
            self.skipped += (left - PAUSE).mul_f64(self.speed.min(1e6));
            left = PAUSE;
        }
        while !left.is_zero() && !stopped() {
            let piece = left.min(PIECE);
            std::thread::sleep(piece);
            left -= piece;
        }
    }
}
