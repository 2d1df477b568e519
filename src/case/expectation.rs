//! What has to come out of a case: the part of a report that stays the same whoever's clock is wrong and however files are cut.
//!
//! Asserted are codes, with severity and confidence where they are written down, and flows with their hops and rewrites. Times, frame
//! numbers, TTLs and MACs are not: they change when a case is recorded again, and say nothing about the judgement.

use super::manifest::quoted;
use crate::finding::{Confidence, Finding, Severity};
use crate::trace::{CapturePoint, Flow, Hop, Trace};
use serde::{Deserialize, Deserializer, de};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// What has to come out of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expectation {
    /// Findings that have to be there. No other one at or above `degraded` may be there as `certain` or `likely`.
    pub findings: Vec<ExpectedFinding>,
    /// Codes that may be there beside them.
    pub may: Vec<Code>,
    /// Codes of faults that are there and that lvscope is known not to find yet.
    pub not_yet: Vec<Code>,
    /// All flows; absent: any.
    pub flows: Option<Vec<FlowGroup>>,
}

/// A finding's code, and its severity and confidence where they matter: `NAT001`, `NAT001 broken likely`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedFinding {
    /// The rule's code.
    pub code: Code,
    /// Its severity; `None`: any.
    pub severity: Option<Severity>,
    /// Its confidence; `None`: any.
    pub confidence: Option<Confidence>,
}

/// A rule's code: capital letters, digits among them, and three digits at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(String);

/// Flows that differ in nothing but their client.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowGroup {
    /// How many.
    pub count: u64,
    /// Who opened them; empty where there are too many to read.
    pub clients: Vec<String>,
    /// Transport protocol.
    pub protocol: String,
    /// What the client dialled.
    pub service: String,
    /// The virtual service at the director.
    pub vip: Option<String>,
    /// The real server.
    pub real_server: Option<String>,
    /// How the director handed them on.
    pub method: String,
    /// How far they came.
    pub state: String,
    /// Each sighting of the first packet: its point, and what was rewritten before it.
    pub request: Vec<String>,
    /// The same for the answer.
    pub reply: Vec<String>,
}

/// Clients that a person still reads.
const CLIENTS: usize = 8;

impl Code {
    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Code {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let family = text.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_code = text.len() >= family.len() + 3
            && family.starts_with(|c: char| c.is_ascii_uppercase())
            && family.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        if is_code { Ok(Code(text.to_string())) } else { Err(format!("'{text}' is not a code such as NAT001")) }
    }
}

const SEVERITIES: [Severity; 4] = [Severity::Note, Severity::Risky, Severity::Degraded, Severity::Broken];
const CONFIDENCES: [Confidence; 3] = [Confidence::Possible, Confidence::Likely, Confidence::Certain];

impl FromStr for ExpectedFinding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let mut finding = ExpectedFinding { code: words.next().unwrap_or_default().parse()?, severity: None, confidence: None };
        for word in words {
            if let Some(severity) = SEVERITIES.iter().find(|s| s.to_string() == word) {
                finding.severity = Some(*severity);
            } else if let Some(confidence) = CONFIDENCES.iter().find(|c| c.to_string() == word) {
                finding.confidence = Some(*confidence);
            } else {
                let severities = SEVERITIES.iter().map(ToString::to_string);
                let known: Vec<String> = severities.chain(CONFIDENCES.iter().map(ToString::to_string)).collect();
                return Err(format!("unknown word '{word}' after {} (known: {})", finding.code, known.join(" ")));
            }
        }
        Ok(finding)
    }
}

impl fmt::Display for ExpectedFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(severity) = self.severity {
            write!(f, " {severity}")?;
        }
        self.confidence.map_or(Ok(()), |confidence| write!(f, " {confidence}"))
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ExpectedFinding {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl Default for FlowGroup {
    fn default() -> Self {
        FlowGroup {
            count: 1,
            clients: Vec::new(),
            protocol: "tcp".to_string(),
            service: String::new(),
            vip: None,
            real_server: None,
            method: String::new(),
            state: String::new(),
            request: Vec::new(),
            reply: Vec::new(),
        }
    }
}

impl ExpectedFinding {
    /// The finding, with all that a case asserts of it.
    pub fn of(finding: &Finding) -> Result<Self, String> {
        Ok(ExpectedFinding { code: finding.code.parse()?, severity: Some(finding.severity), confidence: Some(finding.confidence) })
    }

    /// True for the finding that is meant.
    pub fn fits(&self, finding: &Finding) -> bool {
        self.code == *finding.code
            && self.severity.is_none_or(|severity| severity == finding.severity)
            && self.confidence.is_none_or(|confidence| confidence == finding.confidence)
    }
}

/// True for a finding that says of somebody that traffic fails because of him. On healthy traffic it is the worst of errors.
pub fn accuses(finding: &Finding) -> bool {
    finding.severity >= Severity::Degraded && finding.confidence >= Confidence::Likely
}

impl Expectation {
    /// What came out, as the expectation of the next time. `may` stays, and `not_yet` as far as it is still so.
    pub fn of(findings: &[Finding], flows: Vec<FlowGroup>, before: Option<&Expectation>) -> Self {
        let mut expect = Expectation { flows: Some(flows), ..Expectation::default() };
        for found in findings.iter().filter_map(|finding| ExpectedFinding::of(finding).ok()) {
            if !expect.findings.contains(&found) {
                expect.findings.push(found);
            }
        }
        if let Some(before) = before {
            expect.may.clone_from(&before.may);
            expect.not_yet = before.not_yet.iter().filter(|code| findings.iter().all(|found| **code != *found.code)).cloned().collect();
        }
        expect
    }

    /// As `case.toml` holds it; `notes` are comment lines to stand under the heading.
    pub(super) fn to_text(&self, notes: &str) -> String {
        let mut out = format!("[expect]\n{notes}findings = {}\n", list(&self.findings));
        if !self.may.is_empty() {
            out += &format!("may = {}\n", list(&self.may));
        }
        if !self.not_yet.is_empty() {
            out += &format!("not_yet = {}\n", list(&self.not_yet));
        }
        match &self.flows {
            Some(flows) if flows.is_empty() => out += "flows = []\n",
            Some(flows) => out.extend(flows.iter().map(FlowGroup::to_text)),
            None => {}
        }
        out
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

impl FlowGroup {
    /// Every flow of a trace, those together that differ in their client only, in the order in which the first of each began.
    pub fn of(trace: &Trace) -> Vec<FlowGroup> {
        let mut groups: Vec<(FlowGroup, u64)> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for flow in trace.all_flows() {
            let one = FlowGroup::one(&flow, &trace.points);
            let at = *known.entry(format!("{one:?}")).or_insert(groups.len());
            if at == groups.len() {
                groups.push((one, 0));
            }
            let (group, count) = &mut groups[at];
            *count += 1;
            if *count <= CLIENTS as u64 {
                group.clients.push(flow.client.to_string());
            }
        }
        let finish = |(mut group, count): (FlowGroup, u64)| {
            group.count = count;
            if count > CLIENTS as u64 {
                group.clients.clear();
            }
            group
        };
        groups.into_iter().map(finish).collect()
    }

    /// A flow without its client.
    fn one(flow: &Flow, points: &[CapturePoint]) -> FlowGroup {
        let hop = |hop: &Hop| {
            let name = points.get(hop.point as usize).map_or("?", |point| point.name.as_str());
            let words: Vec<String> = hop.rewrites.iter().map(ToString::to_string).collect();
            if words.is_empty() { name.to_string() } else { format!("{name}: {}", words.join(" ")) }
        };
        FlowGroup {
            count: 1,
            clients: Vec::new(),
            protocol: flow.protocol.to_string(),
            service: flow.service.to_string(),
            vip: flow.vip.map(|e| e.to_string()),
            real_server: flow.real_server.map(|e| e.to_string()),
            method: flow.method.to_string(),
            state: flow.state.to_string(),
            request: flow.request.hops.iter().map(hop).collect(),
            reply: flow.reply.hops.iter().map(hop).collect(),
        }
    }

    fn to_text(&self) -> String {
        let mut out = "\n[[expect.flows]]\n".to_string();
        if self.count != 1 {
            out += &format!("count = {}\n", self.count);
        }
        if !self.clients.is_empty() {
            out += &format!("clients = {}\n", list(&self.clients));
        }
        let mut say = |key: &str, value: Option<&String>| {
            if let Some(value) = value {
                out += &format!("{key} = {}\n", quoted(value));
            }
        };
        say("protocol", Some(&self.protocol));
        say("service", Some(&self.service));
        say("vip", self.vip.as_ref());
        say("real_server", self.real_server.as_ref());
        say("method", Some(&self.method));
        say("state", Some(&self.state));
        for (key, hops) in [("request", &self.request), ("reply", &self.reply)] {
            if hops.is_empty() {
                out += &format!("{key} = []\n");
            } else {
                let lines: String = hops.iter().map(|hop| format!("  {},\n", quoted(hop))).collect();
                out += &format!("{key} = [\n{lines}]\n");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for code in ["NAT001", "IP6003", "ARP012"] {
            assert_eq!(code.parse::<Code>().unwrap().as_str(), code);
        }
        for not in ["", "nat001", "NAT01", "001", "NAT001x", "NAT 001"] {
            assert!(not.parse::<Code>().is_err(), "{not}");
        }
    }

    #[test]
    fn a_finding_in_words() {
        let finding = |text: &str| text.parse::<ExpectedFinding>().unwrap();
        assert_eq!(finding("NAT001 likely broken").to_string(), "NAT001 broken likely");
        assert_eq!(finding("NAT001"), ExpectedFinding { code: "NAT001".parse().unwrap(), severity: None, confidence: None });
    }
}
