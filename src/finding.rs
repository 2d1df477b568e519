//! A finding: what is wrong, where, how sure that is, by which proof, and how to mend it.
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

use crate::net::Timestamp;
use std::fmt;

/// What a fault does to traffic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// Works now and will fail: at the next reboot, failover, cache expiry.
    Risky,
    /// Some connections fail, or all are slow.
    Degraded,
    /// Connections fail.
    Broken,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Note => "note",
            Severity::Risky => "risky",
            Severity::Degraded => "degraded",
            Severity::Broken => "broken",
        })
    }
}

/// How sure a finding is. Separate from its severity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Confidence {
    /// One of several causes that the evidence leaves open.
    Possible,
    /// What the evidence suggests; the alternatives named with it are not excluded.
    Likely,
    /// Proven by the evidence shown.
    Certain,
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Confidence::Possible => "possible",
            Confidence::Likely => "likely",
            Confidence::Certain => "certain",
        })
    }
}

/// A proof that can be checked by hand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// Packets: open the capture, go to the frame.
    Frames {
        /// Number of the capture point.
        point: u32,
        /// Frame numbers in its file.
        frames: Vec<u64>,
        /// When the first of them was seen, on that point's clock.
        time: Option<Timestamp>,
        /// What they show.
        what: String,
    },
    /// Packets that should be there and are not.
    Absence {
        /// Number of the capture point.
        point: u32,
        /// What was not seen, and for how long it was looked for.
        what: String,
    },
    /// A fact of a host: a setting, a route, a socket.
    Host {
        /// The host's name.
        host: String,
        /// The fact: `net.ipv4.conf.eth0.arp_ignore = 0`.
        fact: String,
        /// Where on the host it can be seen: a command.
        source: String,
    },
    /// Something that the user said: a rule of the director.
    Statement {
        /// Who said it: `--ipvs rules.txt`.
        by: String,
        /// What it says.
        what: String,
    },
}

impl Evidence {
    /// A frame and what it shows.
    pub fn frame(point: u32, frame: u64, time: Timestamp, what: impl Into<String>) -> Self {
        Evidence::Frames { point, frames: vec![frame], time: Some(time), what: what.into() }
    }

    /// Frames that show the same.
    pub fn frames(point: u32, frames: Vec<u64>, what: impl Into<String>) -> Self {
        Evidence::Frames { point, frames, time: None, what: what.into() }
    }

    /// A fact of a host, and the command that shows it.
    pub fn host(host: impl Into<String>, fact: impl Into<String>, source: impl Into<String>) -> Self {
        Evidence::Host { host: host.into(), fact: fact.into(), source: source.into() }
    }

    /// What was not seen.
    pub fn absence(point: u32, what: impl Into<String>) -> Self {
        Evidence::Absence { point, what: what.into() }
    }
}

/// What to do about a fault. Text and commands, never an action.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remedy {
    /// The host to do it on.
    pub host: String,
    /// The command, now.
    pub command: String,
    /// How to make it survive a reboot.
    pub permanent: String,
    /// How to take it back.
    pub undo: String,
}

impl Remedy {
    /// A remedy: host, command, how to keep it, how to undo it.
    pub fn new(host: impl Into<String>, command: impl Into<String>, permanent: impl Into<String>, undo: impl Into<String>) -> Self {
        Remedy { host: host.into(), command: command.into(), permanent: permanent.into(), undo: undo.into() }
    }
}

/// A fault that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The rule's code; put in by the registry.
    pub code: &'static str,
    /// The rule's name; put in by the registry.
    pub name: &'static str,
    /// What it is about: hosts by name, or an address.
    pub subject: String,
    /// One sentence: what was seen, and what that means.
    pub summary: String,
    /// What it does to traffic.
    pub severity: Severity,
    /// How sure it is.
    pub confidence: Confidence,
    /// At least one proof.
    evidence: Vec<Evidence>,
    /// Codes of causes that the evidence does not exclude.
    pub alternatives: Vec<&'static str>,
    /// The observation that would tell them apart.
    pub settle: Option<String>,
    /// What to do.
    pub remedy: Vec<Remedy>,
    /// Numbers of the flows that show it.
    pub flows: Vec<u32>,
}

impl Finding {
    /// A finding cannot be made without a proof: the first piece of evidence is an argument.
    pub fn new(
        subject: impl Into<String>,
        severity: Severity,
        confidence: Confidence,
        summary: impl Into<String>,
        proof: Evidence,
    ) -> Self {
        Finding {
            code: "",
            name: "",
            subject: subject.into(),
            summary: summary.into(),
            severity,
            confidence,
            evidence: vec![proof],
            alternatives: Vec::new(),
            settle: None,
            remedy: Vec::new(),
            flows: Vec::new(),
        }
    }

    /// Adds more proof.
    #[must_use]
    pub fn and(mut self, evidence: impl IntoIterator<Item = Evidence>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    /// Names causes that the evidence leaves open, and the observation that would settle it.
    #[must_use]
    pub fn unless(mut self, alternatives: &[&'static str], settle: impl Into<String>) -> Self {
        self.alternatives.extend(alternatives);
        self.settle = Some(settle.into());
        self
    }

    /// Says how to mend it.
    #[must_use]
    pub fn mend(mut self, remedy: impl IntoIterator<Item = Remedy>) -> Self {
        self.remedy.extend(remedy);
        self
    }

    /// Names the flows that show it.
    #[must_use]
    pub fn on(mut self, flows: impl IntoIterator<Item = u32>) -> Self {
        self.flows.extend(flows);
        self.flows.sort_unstable();
        self.flows.dedup();
        self
    }

    /// What of it concerns one host: its proofs and its remedy; `None` where it does not.
    pub fn on_host(&self, host: &str) -> Option<Finding> {
        let names = |list: &str| list.split(", ").any(|name| name == host);
        let remedy: Vec<Remedy> =
            self.remedy.iter().filter(|r| names(&r.host)).map(|r| Remedy { host: host.to_string(), ..r.clone() }).collect();
        let is_subject = names(&self.subject);
        if !is_subject && remedy.is_empty() {
            return None;
        }
        let elsewhere = |e: &&Evidence| matches!(e, Evidence::Host { host: of, .. } if of != host);
        let own: Vec<Evidence> = self.evidence.iter().filter(|e| !elsewhere(e)).cloned().collect();
        Some(Finding {
            subject: if is_subject { host.to_string() } else { self.subject.clone() },
            // A finding without a proof is none, and what is to be done elsewhere is still to be done.
            evidence: if own.is_empty() { self.evidence.clone() } else { own },
            remedy: if remedy.is_empty() { self.remedy.clone() } else { remedy },
            ..self.clone()
        })
    }

    /// The proofs.
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence
    }
}

/// What a rule came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The fault is there.
    Found(Vec<Finding>),
    /// Looked for and not found.
    Clear,
    /// The evidence does not suffice to say either.
    NotJudged(Need),
}

/// What would let a rule judge: a capture somewhere, a snapshot of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Need(pub String);

impl From<Vec<Finding>> for Outcome {
    fn from(findings: Vec<Finding>) -> Self {
        if findings.is_empty() { Outcome::Clear } else { Outcome::Found(findings) }
    }
}

impl Outcome {
    /// `findings`, or what is missing if there are none and something is.
    pub fn or_need(findings: Vec<Finding>, need: Option<String>) -> Self {
        match need {
            Some(need) if findings.is_empty() => Outcome::NotJudged(Need(need)),
            _ => findings.into(),
        }
    }
}
