//! WINDOW: evidence in. Capture files become a [`Trace`](crate::trace::Trace); folders of evidence are cases, with what has to come out.

mod difference;
mod evidence;
mod expectation;
mod folder;
pub mod import;
mod manifest;
mod replay;
mod snapshot;
mod stream;

pub use difference::{Difference, Line};
pub use evidence::{CaptureArg, Limits, Progress, Reading, SourceFile, begins, declare, read};
pub use expectation::{Code, Expectation, ExpectedFinding, FlowGroup, accuses};
pub use folder::{Case, CaseError, MANIFEST, find};
pub use manifest::{Manifest, ManifestError, Provenance, read_toml};
pub use replay::{Replayed, replay};
pub use snapshot::{host_text, parse_host, read_host, write_host};
pub use stream::{follow, is_stream};
