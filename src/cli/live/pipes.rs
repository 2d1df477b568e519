//! Captures that come through pipes: a thread for each, for each waits for its own writer.

use super::{Alive, Shared, complain_of, input};
use crate::capture::Filter;
use crate::case::{CaptureArg, follow};
use crate::report::Input;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) fn begin(files: Vec<CaptureArg>, filter: Option<Filter>, shared: &Arc<Shared>) {
    let expression = filter.map(|filter| filter.to_string());
    shared.open.store(files.len(), Ordering::Release);
    let nothing = |arg: &CaptureArg| Input { file: arg.path.display().to_string(), frames: 0, damage: None, points: Vec::new() };
    *shared.inputs() = files.iter().map(nothing).collect();
    for (at, arg) in files.into_iter().enumerate() {
        let (shared, expression) = (Arc::clone(shared), expression.clone());
        // Nobody waits for it: it may sit in a read for ever, and ends with the program.
        std::thread::spawn(move || {
            let _alive = Alive(Arc::clone(&shared));
            // It was compiled once already.
            let filter = expression.and_then(|text| Filter::new(&text).ok());
            let source = follow(at, &arg, &shared.tracer, filter, |point, frame| shared.took(point, frame));
            complain_of(&source, &shared);
            if source.unreadable.is_some() {
                shared.trouble.store(true, Ordering::Relaxed);
            }
            if let Some(slot) = shared.inputs().get_mut(at) {
                *slot = input(source);
            }
            shared.open.fetch_sub(1, Ordering::Release);
        });
    }
}
