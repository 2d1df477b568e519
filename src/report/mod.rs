//! One model, several mouths: text for people, JSON for programs, NDJSON for pipes.
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

mod alike;
mod audit;
mod footer;
mod found;
pub mod json;
pub mod junit;
mod ladder;
mod page;
mod rows;
pub mod sarif;
mod services;
mod settle;
mod suite;
mod summary;
mod table;
pub mod tap;
mod text;
mod verdict;

pub use audit::{Shown, audit, audit_suite};
pub use ladder::ladder;
pub use page::{connection, diagnosis, trace};
pub use services::{Outcome, Service, services};
pub use suite::{Check, End, Suite};
pub use summary::{summary, told};
pub use text::Page;
pub use verdict::method_name;

use crate::host::Fleet;
use crate::rules::Diagnosis;
use crate::trace::Trace;
use hashbrown::HashMap;

/// An input file, as the report tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name as given.
    pub file: String,
    /// Packets read.
    pub frames: u64,
    /// What is wrong with it, in words; `None` when it is whole.
    pub damage: Option<String>,
    /// Numbers of its capture points.
    pub points: Vec<u32>,
}

/// What a report is made of.
#[derive(Clone, Copy)]
pub struct Report<'a> {
    /// The inputs, in the order given.
    pub inputs: &'a [Input],
    /// What the packets tell.
    pub trace: &'a Trace,
    /// What the rules say; nothing when only the trace was asked for.
    pub diagnosis: Option<&'a Diagnosis>,
    /// Snapshots of hosts; empty where there are none.
    pub fleet: &'a Fleet,
}

impl Report<'_> {
    /// Codes of the findings on each flow that has some.
    fn codes_by_flow(&self) -> HashMap<u32, Vec<&'static str>> {
        let mut codes: HashMap<u32, Vec<&'static str>> = HashMap::new();
        for finding in self.diagnosis.iter().flat_map(|d| &d.findings) {
            for flow in &finding.flows {
                let known = codes.entry(*flow).or_default();
                if !known.contains(&finding.code) {
                    known.push(finding.code);
                }
            }
        }
        codes
    }
}
