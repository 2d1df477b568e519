//! The pages of an audit: each host's verdict, its faults with their mending, and the checklist.

use super::alike::{Alike, hosts, reasons};
use super::found::findings;
use super::suite::{Check as Case, End, Suite};
use super::{Page, Report};
use crate::finding::{Finding, Severity};
use crate::host::Fleet;
use crate::ipvs::Role;
use crate::net::{plural, thousands};
use crate::rules::{Check, Verdict};
use colored::Colorize;
use std::collections::{HashMap, HashSet};
use std::io;

/// Hosts with a line of their own. Of a fleet with more of them, only those in trouble get one, if they are few.
const HOSTS: usize = 12;
const TROUBLED: usize = 8;
/// Names and ranges of names in a list.
const NAMES: usize = 8;

/// What of an audit is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown<'a> {
    /// Every check, and not only what it came to.
    pub checks: bool,
    /// All that would be needed for what was not judged.
    pub not_judged: bool,
    /// These hosts alone; all of them where none is named.
    pub on: &'a [String],
}

impl Shown<'_> {
    fn has(&self, host: &str) -> bool {
        self.on.is_empty() || self.on.iter().any(|name| name == host)
    }
}

/// What is wrong on hosts.
///
/// # Errors
/// When the page cannot be written.
pub fn audit(page: &mut Page<'_>, report: &Report<'_>, shown: Shown<'_>) -> io::Result<()> {
    let Some(diagnosis) = report.diagnosis else { return Ok(()) };
    let members = &report.fleet.members;
    let mine: Vec<usize> = (0..members.len()).filter(|at| shown.has(&members[*at].host.name)).collect();
    if mine.len() > HOSTS {
        fleet(page, report, &mine)?;
    } else {
        let (troubled, well): (Vec<usize>, Vec<usize>) =
            mine.iter().partition(|at| of(&diagnosis.findings, &members[**at].host.name).next().is_some());
        for at in troubled.into_iter().chain(well) {
            verdict(page, report, at)?;
        }
    }
    for told in &Alike::all(&diagnosis.findings) {
        page.gap()?;
        findings(page, report.trace, told)?;
    }
    page.gap()?;
    if shown.checks {
        every_check(page, report, shown)?;
    } else {
        in_short(page, report, shown)?;
    }
    if let Some(first) = diagnosis.findings.first() {
        let one = if mine.len() > HOSTS { " · --on HOST" } else { "" };
        page.wrapped("  ", "        ", &format!("more: lvscope explain {} · lvscope audit … --checks{one}", first.code))?;
    }
    Ok(())
}

/// Many hosts at a glance: on how many there is what.
fn fleet(page: &mut Page<'_>, report: &Report<'_>, mine: &[usize]) -> io::Result<()> {
    let Some(diagnosis) = report.diagnosis else { return Ok(()) };
    let members = &report.fleet.members;
    let names: HashMap<&str, usize> = mine.iter().map(|at| (members[*at].host.name.as_str(), *at)).collect();
    // Of each host the worst that is said of it, and of each code the hosts.
    let mut worst: HashMap<usize, Severity> = HashMap::new();
    let mut codes: Vec<(&str, bool, HashSet<usize>)> = Vec::new();
    for found in diagnosis.findings.iter().filter(|f| f.severity > Severity::Note) {
        let on: Vec<usize> = found.subject.split(", ").filter_map(|name| names.get(name).copied()).collect();
        for at in &on {
            let known = worst.entry(*at).or_insert(found.severity);
            *known = (*known).max(found.severity);
        }
        let fault = found.severity >= Severity::Degraded;
        match codes.iter_mut().find(|(code, is, _)| (*code, *is) == (found.code, fault)) {
            Some((.., hosts)) => hosts.extend(on),
            None => codes.push((found.code, fault, on.into_iter().collect())),
        }
    }
    let passed: HashSet<&str> =
        diagnosis.checks.iter().filter(|c| matches!(c.verdict, Verdict::Passed(_))).map(|c| c.host.as_str()).collect();
    let name = |at: &usize| members[*at].host.name.as_str();
    let faulty: Vec<usize> = mine.iter().copied().filter(|at| worst.get(at).is_some_and(|w| *w >= Severity::Degraded)).collect();
    let risky: Vec<usize> = mine.iter().copied().filter(|at| worst.get(at) == Some(&Severity::Risky)).collect();
    let (well, open): (Vec<usize>, Vec<usize>) = mine.iter().filter(|at| !worst.contains_key(at)).partition(|at| passed.contains(name(at)));
    let which = |fault: bool| {
        let counted = |(code, _, on): &(&str, bool, HashSet<usize>)| match on.iter().next() {
            Some(only) if on.len() == 1 => format!("{code} on {}", name(only)),
            Some(_) => format!("{code} on {}", thousands(on.len() as u64)),
            None => (*code).to_string(),
        };
        codes.iter().filter(|(_, is, _)| *is == fault).map(counted).collect::<Vec<_>>().join(", ")
    };
    let all = plural(mine.len() as u64, "host");
    let some = |count: usize| match count {
        0 => all.clone(),
        count => format!("{} of {all}", thousands(count as u64)),
    };
    let faults = which(true);
    if !faults.is_empty() {
        let text = format!("{} with a fault: {faults}", some(faulty.len()));
        page.painted(&format!("{} ", "✗".red().bold()), "  ", &text, |line| line.bold().to_string())?;
    }
    let risks = which(false);
    if !risks.is_empty() {
        let text = format!("{} with a risk{}: {risks}", some(risky.len()), if faulty.is_empty() { "" } else { " and no fault" });
        page.painted(&format!("{} ", "!".magenta().bold()), "  ", &text, |line| line.bold().to_string())?;
    }
    if !well.is_empty() {
        let text = if well.len() == mine.len() { format!("{all}: no fault found") } else { format!("{} with none", some(well.len())) };
        page.painted(&format!("{} ", "✓".green().bold()), "  ", &text, str::to_string)?;
    }
    if !open.is_empty() {
        let which: Vec<&str> = open.iter().map(name).collect();
        let text = format!("{} with nothing that could be judged: {}", some(open.len()), hosts(&which, NAMES));
        page.painted(&format!("{} ", "?".yellow().bold()), "  ", &text, str::to_string)?;
    }
    if faulty.len() <= TROUBLED {
        for at in faulty {
            verdict(page, report, at)?;
        }
    }
    Ok(())
}

fn of<'a>(findings: &'a [Finding], host: &'a str) -> impl Iterator<Item = &'a Finding> {
    findings.iter().filter(move |f| f.subject.split(", ").any(|s| s == host))
}

/// `✗ web1, real server of 192.168.224.13:80 (LVS-DR): 2 faults, 1 risk, 23 checks passed`.
fn verdict(page: &mut Page<'_>, report: &Report<'_>, at: usize) -> io::Result<()> {
    let Some(diagnosis) = report.diagnosis else { return Ok(()) };
    let name = report.fleet.members[at].host.name.as_str();
    let count = |severities: &[Severity]| of(&diagnosis.findings, name).filter(|f| severities.contains(&f.severity)).count() as u64;
    let (faults, risks) = (count(&[Severity::Broken, Severity::Degraded]), count(&[Severity::Risky]));
    let own = || diagnosis.checks.iter().filter(|c| c.host == name);
    let passed = own().filter(|c| matches!(c.verdict, Verdict::Passed(_))).count() as u64;
    let open = own().filter(|c| matches!(c.verdict, Verdict::NotJudged(_))).count() as u64;
    let mut words = Vec::new();
    for (count, word) in [(faults, "fault"), (risks, "risk")] {
        if count > 0 {
            words.push(plural(count, word));
        }
    }
    if passed > 0 {
        words.push(format!("{} passed", plural(passed, "check")));
    }
    if open > 0 {
        words.push(format!("{open} not judged"));
    }
    if passed + open + faults + risks == 0 {
        words.push("nothing to check for this part".to_string());
    }
    let symbol = match (faults, risks, passed) {
        (0, 0, 0) => "?".yellow().bold(),
        (0, 0, _) => "✓".green().bold(),
        (0, ..) => "!".magenta().bold(),
        _ => "✗".red().bold(),
    };
    let part = part(report.fleet, at);
    // A host that is called by its part needs no more words.
    let who = if part.starts_with(name) { part } else { format!("{name}, {part}") };
    let text = format!("{who}: {}", words.join(", "));
    let well = faults + risks == 0;
    page.painted(&format!("{symbol} "), "  ", &text, |line| if well { line.to_string() } else { line.bold().to_string() })
}

/// `real server of 192.168.224.13:80 (LVS-DR)`, `director of 2 services`.
fn part(fleet: &Fleet, at: usize) -> String {
    let member = &fleet.members[at];
    if let Some(first) = member.same_as {
        return format!("the same machine as {}", fleet.members[first].host.name);
    }
    let list = |mut names: Vec<String>| {
        names.dedup();
        match names.as_slice() {
            [] => String::new(),
            [one] => format!(" of {one}"),
            many => format!(" of {}", plural(many.len() as u64, "service")),
        }
    };
    match member.role {
        Role::Director => {
            let mine = fleet.services.iter().filter(|s| s.director == Some(at)).map(|s| s.service.name());
            format!("director{}", list(mine.collect()))
        }
        Role::RealServer => {
            let serves = |s: &&crate::host::Served| s.service.destinations.iter().any(|d| member.host.address(d.address.addr).is_some());
            let mine = fleet.services.iter().filter(serves).map(|s| s.service.name());
            let aside = || member.host.aside().map(|a| a.addr.addr().to_string()).collect::<Vec<_>>();
            let mut names: Vec<String> = mine.collect();
            if names.is_empty() {
                names = aside();
            }
            format!("real server{}", list(names))
        }
        Role::Router => "router".to_string(),
        Role::Client => "client".to_string(),
        Role::Unknown => "of no known part (name it: --role)".to_string(),
    }
}

/// What passed, in a line each host, and what was not judged.
fn in_short(page: &mut Page<'_>, report: &Report<'_>, shown: Shown<'_>) -> io::Result<()> {
    let Some(diagnosis) = report.diagnosis else { return Ok(()) };
    let checks = || diagnosis.checks.iter().filter(|c| shown.has(&c.host));
    let alone = report.fleet.members.len() == 1 || shown.on.len() == 1;
    if alone {
        let passed: Vec<&str> =
            checks().filter_map(|c| if let Verdict::Passed(what) = &c.verdict { Some(what.as_str()) } else { None }).collect();
        let mut told: Vec<&str> = Vec::new();
        for what in passed.iter().filter(|what| !what.starts_with("see ")) {
            if !told.contains(what) {
                told.push(what);
            }
        }
        if !told.is_empty() {
            page.painted("  passed       ", "               ", &told.join(" · "), |line| line.dimmed().to_string())?;
        }
    }
    let open = checks().filter_map(|c| if let Verdict::NotJudged(what) = &c.verdict { Some((what.as_str(), c)) } else { None });
    let reasons = reasons(open);
    let most = if shown.not_judged || alone { usize::MAX } else { 6 };
    for (at, (reason, others, open)) in reasons.iter().take(most).enumerate() {
        let head = if at == 0 { "  not judged   " } else { "               " };
        let (mut codes, mut on): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for check in open {
            if !codes.contains(&check.code) {
                codes.push(check.code);
            }
            if seen.insert(check.host.as_str()) {
                on.push(&check.host);
            }
        }
        let on = match alone {
            true => String::new(),
            false => format!(" on {}", hosts(&on, NAMES / 2)),
        };
        let others = if *others > 0 { format!("; {} more alike", thousands(*others as u64)) } else { String::new() };
        page.wrapped(head, "               ", &format!("{}{on} (needs {reason}{others})", codes.join(", ")))?;
    }
    if reasons.len() > most {
        page.line(&format!("               and {} more reasons (list: --not-judged)", reasons.len() - most))?;
    }
    Ok(())
}

fn every_check(page: &mut Page<'_>, report: &Report<'_>, shown: Shown<'_>) -> io::Result<()> {
    let Some(diagnosis) = report.diagnosis else { return Ok(()) };
    let mut by_host: HashMap<&str, Vec<&Check>> = HashMap::new();
    for check in &diagnosis.checks {
        by_host.entry(&check.host).or_default().push(check);
    }
    for member in report.fleet.members.iter().filter(|m| shown.has(&m.host.name)) {
        let name = &member.host.name;
        let Some(own) = by_host.get(name.as_str()) else { continue };
        page.line(&format!("  {}", name.bold()))?;
        for check in own {
            let (symbol, what) = match &check.verdict {
                Verdict::Passed(what) => ("✓".green(), what.clone()),
                Verdict::Failed => ("✗".red(), check.name.to_string()),
                Verdict::NotJudged(what) => ("?".yellow(), format!("needs {what}")),
            };
            page.wrapped(&format!("    {symbol} {:<7} ", check.code), "              ", &what)?;
        }
        page.gap()?;
    }
    Ok(())
}

/// The checks as a test suite, for JUnit.
pub fn audit_suite(report: &Report<'_>) -> Suite {
    let mut suite = Suite { name: "lvscope audit".to_string(), checks: Vec::new() };
    let Some(diagnosis) = report.diagnosis else { return suite };
    for check in &diagnosis.checks {
        let finding = || of(&diagnosis.findings, &check.host).find(|f| f.code == check.code);
        let end = match &check.verdict {
            Verdict::Passed(what) => End::Passed(what.clone()),
            Verdict::NotJudged(what) => End::NotYet(String::new(), format!("not judged: needs {what}")),
            Verdict::Failed => {
                let summary = finding().map_or_else(|| check.name.to_string(), |f| f.summary.clone());
                let remedy: Vec<String> =
                    finding().iter().flat_map(|f| &f.remedy).map(|r| format!("on {}: {}", r.host, r.command)).collect();
                End::Failed(format!("{}: {summary}", check.code), remedy.join("\n"))
            }
        };
        suite.checks.push(Case { name: format!("{} {} {}", check.host, check.code, check.name), seconds: 0.0, end });
    }
    suite
}
