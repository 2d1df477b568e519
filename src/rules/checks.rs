//! What rules say of single hosts: passed, failed, or not judged, each with its reason.

use super::Rule;
use crate::finding::{Finding, Need};
use crate::net::plural;

/// What a rule came to on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well: what was looked at.
    Passed(String),
    /// A finding says what is wrong.
    Failed,
    /// Could not be judged: what it would need.
    NotJudged(String),
}

/// A rule on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The rule's code.
    pub code: &'static str,
    /// The rule's name.
    pub name: &'static str,
    /// The host.
    pub host: String,
    /// What it came to.
    pub verdict: Verdict,
}

/// Collects what one rule says.
#[derive(Default)]
pub(super) struct Checks {
    said: Vec<(String, Verdict)>,
    found: Vec<Finding>,
}

impl Checks {
    /// All is well on a host.
    pub(super) fn passed(&mut self, host: &str, what: impl Into<String>) {
        self.say(host, Verdict::Passed(what.into()));
    }

    /// It cannot be judged on a host, for want of something.
    pub(super) fn needs(&mut self, host: &str, what: impl Into<String>) {
        self.say(host, Verdict::NotJudged(what.into()));
    }

    /// The fault is there. A summary names no host: the subject does, and hosts with the same fault share a finding.
    pub(super) fn failed(&mut self, host: &str, finding: Finding) {
        self.say(host, Verdict::Failed);
        let alike = |f: &&mut Finding| {
            (&f.summary, f.severity, f.confidence, &f.alternatives)
                == (&finding.summary, finding.severity, finding.confidence, &finding.alternatives)
        };
        match self.found.iter_mut().find(alike) {
            None => self.found.push(finding),
            Some(known) => known.join(finding),
        }
    }

    fn say(&mut self, host: &str, verdict: Verdict) {
        match self.said.iter_mut().find(|(h, _)| h == host) {
            // The worst counts; of several that passed the first is told.
            Some((_, known)) if rank(&verdict) > rank(known) => *known = verdict,
            Some(_) => {}
            None => self.said.push((host.to_string(), verdict)),
        }
    }

    /// Findings with the rule's name, and whether the hosts were judged: by all, by none (with what it would need), or nobody was concerned.
    pub(super) fn into_parts(self, rule: &'static Rule, checks: &mut Vec<Check>) -> (Vec<Finding>, Result<(), Option<Need>>) {
        let mut judged = Err(None);
        let open: Vec<&str> = self.said.iter().filter(|(_, v)| matches!(v, Verdict::NotJudged(_))).map(|(h, _)| h.as_str()).collect();
        if let Some((host, Verdict::NotJudged(what))) = self.said.iter().find(|(_, v)| matches!(v, Verdict::NotJudged(_))) {
            let others =
                if open.len() > 1 { format!(" (and so on {} others)", plural(open.len() as u64 - 1, "host")) } else { String::new() };
            judged = Err(Some(Need(format!("{what}, on {host}{others}"))));
        } else if !self.said.is_empty() {
            judged = Ok(());
        }
        let check = |(host, verdict)| Check { code: rule.code, name: rule.name, host, verdict };
        checks.extend(self.said.into_iter().map(check));
        let mut found = self.found;
        for finding in &mut found {
            (finding.code, finding.name) = (rule.code, rule.name);
        }
        (found, judged)
    }
}

fn rank(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Passed(_) => 0,
        Verdict::NotJudged(_) => 1,
        Verdict::Failed => 2,
    }
}

impl Finding {
    /// The same fault on another host.
    fn join(&mut self, other: Finding) {
        if !self.subject.split(", ").any(|s| s == other.subject) {
            self.subject = format!("{}, {}", self.subject, other.subject);
        }
        for remedy in &other.remedy {
            let same =
                |r: &&mut crate::finding::Remedy| (&r.command, &r.permanent, &r.undo) == (&remedy.command, &remedy.permanent, &remedy.undo);
            match self.remedy.iter_mut().find(same) {
                Some(known) if known.host.split(", ").any(|h| h == remedy.host) => {}
                Some(known) => known.host = format!("{}, {}", known.host, remedy.host),
                None => self.remedy.push(remedy.clone()),
            }
        }
        let known = self.evidence().to_vec();
        let evidence: Vec<_> = other.evidence().iter().filter(|e| !known.contains(e)).cloned().collect();
        *self = self.clone().and(evidence).on(other.flows);
    }
}
