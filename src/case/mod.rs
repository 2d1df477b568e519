//! WINDOW: evidence in. Capture files become a [`Trace`](crate::trace::Trace).

mod evidence;

pub use evidence::{CaptureArg, Limits, Progress, Reading, SourceFile, read};
