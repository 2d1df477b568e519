//! A case is played again: its captures are read and judged, and what comes out is held against what had to.

use super::difference::{Difference, findings, flows, roles};
use super::evidence::{Limits, Reading, read};
use super::expectation::{Expectation, FlowGroup};
use super::folder::{Case, CaseError};
use crate::host::Fleet;
use crate::ipvs::Role;
use crate::rules::{Diagnosis, Facts, diagnose};
use crate::trace::{Hints, Options, Trace};
use std::collections::BTreeMap;
use std::path::Path;

/// What came of a case.
pub struct Replayed {
    /// The case.
    pub case: Case,
    /// What was read.
    pub reading: Reading,
    /// What was found.
    pub diagnosis: Diagnosis,
    /// What came out, as an expectation: what `bless` writes.
    pub came_out: Expectation,
    /// Where that differs from what had to come out; `None` when nobody said what had to.
    pub differences: Option<Vec<Difference>>,
    /// What was left out of account, or is wrong with a file that was read all the same.
    pub notes: Vec<String>,
}

impl Replayed {
    /// All is as expected.
    pub fn is_as_expected(&self) -> bool {
        self.differences.as_ref().is_some_and(Vec::is_empty)
    }

    /// Writes what came out into the case as what has to. True when that changed it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn bless(&self) -> Result<bool, CaseError> {
        self.case.bless(self.came_out.clone())
    }
}

/// Replays the case in a folder. What has to come out is what its captures tell: snapshots beside them settle more (`diagnose --host`), and
/// would hide what is lost there.
///
/// # Errors
/// When it is no case, or one of its captures cannot be read at all.
pub fn replay(folder: &Path) -> Result<Replayed, CaseError> {
    let case = Case::open(folder)?;
    let hints = Hints { services: Vec::new(), rules: case.rules.clone() };
    let reading = read(&case.captures, Options { hints: hints.clone(), ..Options::default() }, Limits::default(), |_| {});
    let mut notes = case.notes.clone();
    for file in &reading.files {
        if let Some(why) = &file.unreadable {
            return Err(CaseError::Capture(file.name.clone(), why.clone()));
        }
        notes.extend(file.damage.iter().map(|damage| format!("{}: {damage}", file.name)));
    }
    let diagnosis = diagnose(&Facts { trace: &reading.trace, hints: &hints, fleet: &Fleet::default() });
    let groups = FlowGroup::of(&reading.trace);
    let differences = case.manifest.expect.as_ref().map(|expect| {
        let mut all: Vec<Difference> = Vec::new();
        all.extend(findings(expect, &diagnosis.findings));
        all.extend(roles(&case.manifest.roles, &roles_of(&reading.trace)));
        if let Some(wanted) = &expect.flows {
            all.extend(flows(wanted, &groups));
        }
        all
    });
    let came_out = Expectation::of(&diagnosis.findings, groups, case.manifest.expect.as_ref());
    Ok(Replayed { case, reading, diagnosis, came_out, differences, notes })
}

fn roles_of(trace: &Trace) -> BTreeMap<String, Role> {
    trace.hosts.iter().filter(|host| host.named).map(|host| (host.name.clone(), host.role)).collect()
}
