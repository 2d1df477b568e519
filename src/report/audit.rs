//! The pages of an audit: each host's verdict, its faults with their mending, and the checklist.

use super::page::finding;
use super::suite::{Check as Case, End, Suite};
use super::{Page, Report};
use crate::finding::{Finding, Severity};
use crate::host::{Fleet, Member};
use crate::ipvs::Role;
use crate::net::plural;
use crate::rules::{Check, Verdict};
use colored::Colorize;
use std::io;

/// Hosts with a line of their own; of more, those that are well are counted.
const HOSTS: usize = 12;

/// What is wrong on hosts. `checks`: every check; `not_judged`: what would be needed for the others.
///
/// # Errors
/// When the page cannot be written.
pub fn audit(page: &mut Page<'_>, report: &Report<'_>, checks: bool, not_judged: bool) -> io::Result<()> {
    let Some(diagnosis) = report.diagnosis else { return Ok(()) };
    let members = &report.fleet.members;
    let troubled = |m: &Member| of(&diagnosis.findings, &m.host.name).next().is_some();
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|at| !troubled(&members[*at]));
    let shown = order.iter().take(HOSTS.max(members.iter().filter(|m| troubled(m)).count().min(HOSTS * 2)));
    for at in shown.clone() {
        verdict(page, report, *at)?;
    }
    let left = members.len() - shown.count();
    if left > 0 {
        page.line(&format!("  and {} more, with no fault of their own", plural(left as u64, "host")))?;
    }
    for found in &diagnosis.findings {
        page.gap()?;
        finding(page, report.trace, found)?;
    }
    page.gap()?;
    if checks {
        every_check(page, report)?;
    } else {
        in_short(page, report, not_judged)?;
    }
    if let Some(first) = diagnosis.findings.first() {
        page.wrapped("  ", "        ", &format!("more: lvscope explain {} · lvscope audit … --checks", first.code))?;
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
fn in_short(page: &mut Page<'_>, report: &Report<'_>, not_judged: bool) -> io::Result<()> {
    let Some(diagnosis) = report.diagnosis else { return Ok(()) };
    let alone = report.fleet.members.len() == 1;
    if alone {
        let passed: Vec<&str> = diagnosis
            .checks
            .iter()
            .filter_map(|c| if let Verdict::Passed(what) = &c.verdict { Some(what.as_str()) } else { None })
            .collect();
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
    let open: Vec<&Check> = diagnosis.checks.iter().filter(|c| matches!(c.verdict, Verdict::NotJudged(_))).collect();
    if open.is_empty() {
        return Ok(());
    }
    let mut reasons: Vec<(&str, Vec<&str>, Vec<&str>)> = Vec::new();
    for check in &open {
        let Verdict::NotJudged(what) = &check.verdict else { continue };
        let at = reasons.iter().position(|(known, ..)| known == what).unwrap_or_else(|| {
            reasons.push((what, Vec::new(), Vec::new()));
            reasons.len() - 1
        });
        let (_, codes, hosts) = &mut reasons[at];
        if !codes.contains(&check.code) {
            codes.push(check.code);
        }
        if !hosts.contains(&check.host.as_str()) {
            hosts.push(&check.host);
        }
    }
    let most = if not_judged || alone { usize::MAX } else { 6 };
    for (at, (reason, codes, hosts)) in reasons.iter().take(most).enumerate() {
        let head = if at == 0 { "  not judged   " } else { "               " };
        let on = match hosts.as_slice() {
            _ if alone => String::new(),
            some if some.len() <= 4 => format!(" on {}", some.join(", ")),
            many => format!(" on {} and {} more", many[..3].join(", "), many.len() - 3),
        };
        page.wrapped(head, "               ", &format!("{}{on} (needs {reason})", codes.join(", ")))?;
    }
    if reasons.len() > most {
        page.line(&format!("               and {} more reasons (list: --not-judged)", reasons.len() - most))?;
    }
    Ok(())
}

fn every_check(page: &mut Page<'_>, report: &Report<'_>) -> io::Result<()> {
    let Some(diagnosis) = report.diagnosis else { return Ok(()) };
    for member in &report.fleet.members {
        let name = &member.host.name;
        let own: Vec<&Check> = diagnosis.checks.iter().filter(|c| c.host == *name).collect();
        if own.is_empty() {
            continue;
        }
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
