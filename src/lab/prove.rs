//! The loop that every rule must pass: break → diagnose → the printed remedy, as printed → green.

use super::play::{Played, Stage};
use super::scenario::Scenario;
use super::survey::survey;
use super::traffic::Saw;
use crate::case::{CaptureArg, Limits, Reading, accuses, read};
use crate::finding::Finding;
use crate::host::Fleet;
use crate::ipvs::Role;
use crate::rules::{self, Diagnosis, Facts};
use crate::trace::{Hints, Options, Trace, Tracer, role_of_name};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// What each stage of a scenario said.
#[derive(Debug)]
pub struct Proof {
    /// The scenario.
    pub name: String,
    /// What clients saw while it was broken.
    pub broken: Vec<Saw>,
    /// Codes that captures and snapshots together accuse, the first one first.
    pub found: Vec<&'static str>,
    /// Codes of others that captures, snapshots or both accuse: none of its own, and none that may stand beside it.
    pub others: Vec<&'static str>,
    /// The true cause; `None`: it is healthy.
    pub truth: Option<String>,
    /// How far the true cause was found from captures alone.
    pub by_captures: Cause,
    /// From snapshots alone.
    pub by_hosts: Cause,
    /// From both.
    pub by_both: Cause,
    /// What the remedy did.
    pub remedy: Remedied,
    /// From the first command to the first diagnosis.
    pub diagnosed: Duration,
}

/// How far the true cause was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It is healthy, and nobody was accused.
    Healthy,
    /// It was the first finding.
    First,
    /// It was a finding.
    Found,
    /// It was among the causes that are left open.
    Open,
    /// It was not named, and nobody else was accused.
    Unseen,
    /// Only others were accused.
    Wrong,
}

/// What the remedy did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Remedied {
    /// There was nothing to mend.
    Nothing,
    /// Everything works, and nobody is accused.
    Green,
    /// The remedy only looks, for what mends it depends on what it shows; with what the scenario does then everything works.
    Looked,
    /// With the blanks filled in that packets cannot fill, everything works.
    Filled,
    /// It takes the kernel's IPVS.
    NotHere,
    /// It could not be run: the command and why.
    NotRun(String),
    /// It was run, and clients still do not get what they ask for, or these codes are still found.
    StillBroken(String),
    /// The true cause was not found, so there was none to try.
    NotTried,
}

impl Proof {
    /// True when the scenario is what it says, and its remedy works.
    pub fn holds(&self) -> bool {
        let senses = [self.by_captures, self.by_hosts, self.by_both];
        match self.by_both {
            _ if senses.contains(&Cause::Wrong) => false,
            Cause::Healthy => self.broken.iter().all(|saw| *saw == Saw::Answer),
            // What cannot be told apart has no remedy that is known to be the right one.
            Cause::Open => true,
            Cause::First | Cause::Found => matches!(self.remedy, Remedied::Green | Remedied::Filled | Remedied::Looked | Remedied::NotHere),
            Cause::Unseen | Cause::Wrong => false,
        }
    }
}

/// Captures of a play, read.
pub fn reading(played: &Played) -> Reading {
    let captures: Vec<CaptureArg> = played.captures.iter().map(|path| CaptureArg { path: path.clone(), point: None }).collect();
    read(&captures, Options::default(), Limits::default(), |_| ())
}

/// The hosts as they are now.
///
/// # Errors
/// When a kernel answers nothing at all.
pub fn fleet(stage: &Stage<'_>) -> io::Result<Fleet> {
    Ok(Fleet::new(survey(&stage.network, |host| stage.account(host))?, role_of_name, |_| None, &[]))
}

/// What packets and hosts tell; either may be empty.
pub fn judge(trace: &Trace, fleet: &Fleet) -> Diagnosis {
    rules::diagnose(&Facts { trace, hints: &Hints::default(), fleet })
}

/// Plays a scenario through all stages. To be called inside the sandbox; `folder` gets the captures.
/// `builtin`: by the built-in director, not by the kernel's.
///
/// # Errors
/// When it cannot be played.
pub fn prove(scenario: &Scenario, builtin: bool, folder: &Path) -> io::Result<Proof> {
    let begun = Instant::now();
    let mut stage = Stage::directed(scenario, builtin)?;
    let played = stage.play(&folder.join("broken"))?;
    let reading = reading(&played);
    let by_captures = judge(&reading.trace, &Fleet::default());
    let diagnosed = begun.elapsed();
    let fleet = fleet(&stage)?;
    let by_hosts = judge(&Tracer::new(Options::default()).finish(), &fleet);
    let both = judge(&reading.trace, &fleet);
    let mut proof = Proof {
        name: scenario.name.clone(),
        truth: scenario.codes.first().cloned(),
        broken: played.saw,
        found: both.findings.iter().filter(|finding| accuses(finding)).map(|finding| finding.code).collect(),
        others: others(scenario, [&by_captures, &by_hosts, &both]),
        by_captures: cause(scenario, &by_captures.findings),
        by_hosts: cause(scenario, &by_hosts.findings),
        by_both: cause(scenario, &both.findings),
        remedy: Remedied::NotTried,
        diagnosed,
    };
    if proof.by_both == Cause::Healthy {
        proof.remedy = Remedied::Nothing;
    }
    // One for each host, where several have it.
    let mut guilty: Vec<&Finding> = both.findings.iter().filter(|finding| scenario.codes.iter().any(|code| code == finding.code)).collect();
    guilty.sort_by_key(|finding| scenario.codes.iter().position(|code| code == finding.code));
    if matches!(proof.by_both, Cause::First | Cause::Found) && !guilty.is_empty() {
        proof.remedy = mend(&mut stage, &guilty, &folder.join("mended"))?;
    }
    Ok(proof)
}

/// Plays a scenario and runs what captures alone print, with no look at any host: the remedy of the first fault that they name.
///
/// # Errors
/// When it cannot be played.
pub fn mend_by_captures(scenario: &Scenario, folder: &Path) -> io::Result<(Option<&'static str>, Remedied)> {
    let mut stage = Stage::set(scenario)?;
    let played = stage.play(&folder.join("broken"))?;
    let findings = judge(&reading(&played).trace, &Fleet::default()).findings;
    let Some(first) = findings.iter().find(|finding| accuses(finding)).map(|finding| finding.code) else {
        return Ok((None, Remedied::NotTried));
    };
    let guilty: Vec<&Finding> = findings.iter().filter(|finding| finding.code == first).collect();
    Ok((Some(first), mend(&mut stage, &guilty, &folder.join("mended"))?))
}

/// True for a finding that accuses somebody of what a scenario is not about.
fn is_wrong(scenario: &Scenario, finding: &Finding) -> bool {
    accuses(finding) && !scenario.may.iter().chain(&scenario.codes).any(|code| code == finding.code)
}

fn others(scenario: &Scenario, diagnoses: [&Diagnosis; 3]) -> Vec<&'static str> {
    let wrong = diagnoses.into_iter().flat_map(|d| &d.findings).filter(|finding| is_wrong(scenario, finding)).map(|finding| finding.code);
    wrong.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn cause(scenario: &Scenario, findings: &[Finding]) -> Cause {
    let accused = findings.iter().any(|finding| is_wrong(scenario, finding));
    let Some(truth) = scenario.codes.first() else {
        return if accused { Cause::Wrong } else { Cause::Healthy };
    };
    // What captures do to packets is no fault of a network.
    let findings: Vec<&Finding> = findings.iter().filter(|finding| !finding.code.starts_with("CAP")).collect();
    let named = |finding: &Finding| finding.code == truth || finding.alternatives.iter().any(|code| code == truth);
    match findings.first() {
        Some(first) if first.code == truth => Cause::First,
        _ if findings.iter().any(|finding| finding.code == truth) => Cause::Found,
        _ if findings.iter().any(|finding| named(finding)) => Cause::Open,
        _ if accused => Cause::Wrong,
        _ => Cause::Unseen,
    }
}

/// The hosts that a remedy means: by name, or by what they are.
fn hosts_of(named: &str, stage: &Stage<'_>) -> Vec<String> {
    let hosts = &stage.scenario.hosts;
    let of = |role: Role| hosts.iter().filter(|host| host.role == role).map(|host| host.name.clone()).collect();
    match named {
        "the router" => of(Role::Router),
        "the director" => of(Role::Director),
        "each real server" => of(Role::RealServer),
        "its neighbours" | "each neighbour" => hosts.iter().map(|host| host.name.clone()).collect(),
        names => names.split(", ").flat_map(|part| part.split(" and ")).map(str::to_string).collect(),
    }
}

/// The command with its blanks filled in: words in capitals of which the scenario says what to put.
fn filled(command: &str, scenario: &Scenario) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    for part in command.split_inclusive(|c| !is_word(c)) {
        let word = part.trim_end_matches(|c| !is_word(c));
        out += scenario.blanks.get(word).map_or(word, String::as_str);
        out += &part[word.len()..];
    }
    out
}

fn mend(stage: &mut Stage<'_>, guilty: &[&Finding], folder: &Path) -> io::Result<Remedied> {
    let scenario = stage.scenario;
    let (mut done, mut looked, mut filled_in) = (false, false, false);
    let mut run = std::collections::BTreeSet::new();
    for remedy in guilty.iter().flat_map(|finding| &finding.remedy) {
        for host in hosts_of(&remedy.host, stage) {
            for command in super::command::list(&remedy.command) {
                if super::command::looks(&command) {
                    // Who looks does then what has to be done.
                    if !std::mem::replace(&mut looked, true) {
                        for (host, commands) in &scenario.mend {
                            commands.iter().try_for_each(|command| stage.run(host, command))?;
                        }
                    }
                    continue;
                }
                done = true;
                // Packets and hosts may have said the same.
                if !run.insert((host.clone(), command.clone())) {
                    continue;
                }
                let whole = filled(&command, scenario);
                filled_in |= whole != command;
                if let Err(e) = stage.run(&host, &whole) {
                    if e.to_string().contains(super::build::NEEDS_KERNEL) {
                        return Ok(Remedied::NotHere);
                    }
                    return Ok(Remedied::NotRun(e.to_string()));
                }
            }
        }
    }
    let then = !scenario.mend.is_empty() || !scenario.instead.is_empty();
    if !done && (!looked || !then) {
        return Ok(Remedied::NotRun("none is printed that changes anything".into()));
    }
    let looked = looked && then;
    let played = stage.play_on(folder)?;
    let diagnosis = judge(&reading(&played).trace, &fleet(stage)?);
    let accused: Vec<&str> = diagnosis.findings.iter().filter(|f| accuses(f)).map(|f| f.code).collect();
    let accused: Vec<&str> = accused.into_iter().filter(|code| !scenario.may.iter().any(|may| may == code)).collect();
    Ok(match (played.is_green(), accused.is_empty()) {
        (true, true) if looked => Remedied::Looked,
        (true, true) if filled_in => Remedied::Filled,
        (true, true) => Remedied::Green,
        (false, _) => {
            let bad = played.saw.iter().filter(|saw| **saw != Saw::Answer).count();
            Remedied::StillBroken(format!("{bad} of {} questions fail", played.saw.len()))
        }
        (true, false) => Remedied::StillBroken(format!("it works, but {} is still found", accused.join(" "))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Confidence, Evidence, Severity};

    #[test]
    fn blanks_are_whole_words() {
        let scenario = Scenario { blanks: [("RIP".to_string(), "10.0.0.1".to_string())].into(), ..Scenario::default() };
        assert_eq!(filled("ipvsadm -a -r RIP:80 -m # TRIP", &scenario), "ipvsadm -a -r 10.0.0.1:80 -m # TRIP");
        assert_eq!(filled("", &scenario), "");
    }

    fn found(code: &'static str, severity: Severity, others: &[&'static str]) -> Finding {
        let proof = Evidence::host("web1", "a fact", "a command");
        let mut finding = Finding::new("web1", severity, Confidence::Likely, "What it is.", proof).unless(others, "a look");
        finding.code = code;
        finding
    }

    /// What a diagnosis comes to, beside what the scenario says it should.
    #[test]
    fn what_was_found_and_what_is_true() {
        let scenario = |codes: &[&str], may: &[&str]| Scenario {
            codes: codes.iter().map(|c| c.to_string()).collect(),
            may: may.iter().map(|c| c.to_string()).collect(),
            ..Scenario::default()
        };
        let broken = |code, others: &[&'static str]| found(code, Severity::Broken, others);
        let cases = [
            (scenario(&[], &[]), vec![], Cause::Healthy),
            (scenario(&[], &[]), vec![found("CAP001", Severity::Note, &[])], Cause::Healthy),
            (scenario(&[], &[]), vec![broken("NAT001", &[])], Cause::Wrong),
            (scenario(&[], &["NAT001"]), vec![broken("NAT001", &[])], Cause::Healthy),
            (scenario(&["NAT001"], &[]), vec![broken("NAT001", &[]), broken("DR001", &[])], Cause::First),
            (scenario(&["NAT001"], &[]), vec![broken("CAP009", &[]), broken("NAT001", &[])], Cause::First),
            (scenario(&["NAT001"], &[]), vec![broken("DR001", &[]), broken("NAT001", &[])], Cause::Found),
            (scenario(&["NAT001"], &[]), vec![broken("NET008", &["NAT001"])], Cause::Open),
            (scenario(&["NAT001"], &[]), vec![broken("NET008", &[])], Cause::Wrong),
            (scenario(&["NAT001"], &["NET008"]), vec![broken("NET008", &[])], Cause::Unseen),
            (scenario(&["NAT001"], &[]), vec![found("NET008", Severity::Risky, &[])], Cause::Unseen),
            (scenario(&["NAT001"], &[]), vec![], Cause::Unseen),
        ];
        for (scenario, findings, expect) in cases {
            assert_eq!(
                cause(&scenario, &findings),
                expect,
                "{:?} of {:?}",
                findings.iter().map(|f| f.code).collect::<Vec<_>>(),
                scenario.codes
            );
        }
    }

    /// When a proof holds: none of the senses accuses wrongly, what is healthy works, and a remedy that is printed mends.
    #[test]
    fn proofs_that_hold() {
        let proof = |by_captures, by_hosts, by_both, remedy, saw| Proof {
            name: "x".into(),
            broken: vec![Saw::Answer, saw],
            found: vec![],
            others: vec![],
            truth: None,
            by_captures,
            by_hosts,
            by_both,
            remedy,
            diagnosed: Duration::ZERO,
        };
        use Cause::{First, Found, Healthy, Open, Unseen, Wrong};
        let mended = || Remedied::Green;
        for (proof, holds) in [
            (proof(Healthy, Healthy, Healthy, Remedied::Nothing, Saw::Answer), true),
            (proof(Healthy, Healthy, Healthy, Remedied::Nothing, Saw::NoConnection), false),
            (proof(Unseen, First, First, mended(), Saw::NoConnection), true),
            (proof(Found, Open, Found, Remedied::NotHere, Saw::NoConnection), true),
            (proof(Wrong, First, First, mended(), Saw::NoConnection), false),
            (proof(First, Wrong, First, mended(), Saw::NoConnection), false),
            (proof(First, First, First, Remedied::StillBroken("1 of 2".into()), Saw::NoConnection), false),
            (proof(First, First, First, Remedied::NotTried, Saw::NoConnection), false),
            (proof(Open, Unseen, Open, Remedied::NotTried, Saw::NoConnection), true),
            (proof(Unseen, Unseen, Unseen, Remedied::NotTried, Saw::NoConnection), false),
        ] {
            assert_eq!(proof.holds(), holds, "{proof:?}");
        }
    }
}
