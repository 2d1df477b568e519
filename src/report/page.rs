//! The pages that people read: the answer first, then its proof, then the way of the packets.

use super::alike::Alike;
use super::footer::footer;
use super::rows::{ROWS, groups_table, rows};
use super::services::{Outcome, Service, services};
use super::verdict::{Health, verdicts};
use super::{Page, Report, found, table};
use crate::finding::{Finding, Severity};
use crate::net::{plural, thousands};
use crate::trace::{Flow, Trace};
use colored::Colorize;
use std::io;

/// Connections shown hop by hop.
const SHOWN: usize = 3;
/// Frame numbers of an ICMP error.
const FRAMES: usize = 3;

/// What is wrong: verdict, findings, examples. `not_judged`: list the rules that lacked evidence.
///
/// # Errors
/// When the page cannot be written.
pub fn diagnosis(page: &mut Page<'_>, report: &Report<'_>, not_judged: bool) -> io::Result<()> {
    let services = services(report.trace);
    verdicts(page, report, &services)?;
    damage(page, report)?;
    let Some(diagnosis) = report.diagnosis else { return Ok(()) };
    let (notes, findings): (Vec<&Finding>, Vec<&Finding>) = diagnosis.findings.iter().partition(|f| f.severity == Severity::Note);
    for told in &Alike::all(findings.iter().copied()) {
        page.gap()?;
        found::findings(page, report.trace, told)?;
    }
    if findings.is_empty() && !services.is_empty() {
        let well =
            services.iter().all(|s| report.health(s) != Health::Troubled) && services.iter().any(|s| report.health(s) == Health::Well);
        // What is no fault may explain all that came to nothing: a test that cannot work.
        let noted = |id: u32| notes.iter().any(|f| !f.code.starts_with("CAP") && f.flows.binary_search(&id).is_ok());
        let explained = report.trace.flows.iter().filter(|f| !f.state.is_complete()).all(|f| noted(f.id));
        let found = match (well, explained) {
            (true, _) => "no fault found",
            (false, true) => "no fault found; the note says why",
            (false, false) => "no rule can prove the cause",
        };
        let counts = format!(
            "{found} · {} clear, {} not judged{}",
            plural(diagnosis.clear.len() as u64, "rule"),
            diagnosis.not_judged.len(),
            if not_judged || diagnosis.not_judged.is_empty() { "" } else { " (list: --not-judged)" }
        );
        page.wrapped("  ", "  ", &counts)?;
    }
    // How captures show things is worth a line together; what users may take for a fault is worth a sentence each.
    let (artefacts, notes): (Vec<&Finding>, Vec<&Finding>) = notes.into_iter().partition(|f| f.code.starts_with("CAP"));
    if !notes.is_empty() {
        page.gap()?;
        for f in &notes {
            page.wrapped(&format!("  {}  ", format!("{} {}", f.code, f.name).dimmed()), "      ", &f.summary)?;
        }
    }
    if !findings.is_empty() || services.iter().any(|s| report.health(s) == Health::Troubled) {
        examples(page, report, &services, &findings)?;
    }
    if not_judged && !diagnosis.not_judged.is_empty() {
        page.gap()?;
        page.line(&format!("  {}", "not judged".bold()))?;
        for (rule, need) in &diagnosis.not_judged {
            page.wrapped(&format!("  {}  needs ", rule.code), "          ", &need.0)?;
        }
    }
    page.gap()?;
    footer(page, report)?;
    if !artefacts.is_empty() {
        let names: Vec<String> = artefacts.iter().map(|f| format!("{} {}", f.code, f.name)).collect();
        page.painted("  of the captures: ", "    ", &names.join(", "), |line| line.dimmed().to_string())?;
    }
    if let Some(first) = findings.first() {
        let flow = first.flows.first().map_or_else(String::new, |flow| format!(" · lvscope trace … --flow {flow} --ladder"));
        page.wrapped("  ", "        ", &format!("more: lvscope explain {}{flow}", first.code))?;
    }
    Ok(())
}

/// The flows, whatever became of them: one of them, or those in a table and examples.
///
/// # Errors
/// When the page cannot be written.
pub fn trace(page: &mut Page<'_>, report: &Report<'_>, all: bool) -> io::Result<()> {
    let services = services(report.trace);
    verdicts(page, report, &services)?;
    damage(page, report)?;
    let groups: Vec<usize> = services.iter().flat_map(|s| s.groups.iter().copied()).collect();
    let rows = rows(report.trace, &groups);
    if !rows.is_empty() {
        page.gap()?;
        groups_table(page, &rows)?;
    }
    if all {
        for flow in report.trace.all_flows() {
            connection(page, report.trace, &flow)?;
        }
    } else {
        for flow in rows.iter().take(ROWS).filter_map(|row| report.trace.flow(row.example)) {
            connection(page, report.trace, &flow)?;
        }
    }
    page.gap()?;
    footer(page, report)
}

/// One connection: its way, and what happened on it.
///
/// # Errors
/// When the page cannot be written.
pub fn connection(page: &mut Page<'_>, trace: &Trace, flow: &Flow) -> io::Result<()> {
    page.gap()?;
    let head = format!("Connection {} of {}", flow.id, thousands(trace.flow_count() as u64));
    let text = format!("{} > {}   {}", flow.client, flow.service, flow.outcome());
    page.painted(&format!("  {}   ", head.bold()), "      ", &text, str::to_string)?;
    table::hops(page, trace, flow)?;
    for error in &flow.errors {
        let frames: Vec<String> = error.frames.iter().take(FRAMES).map(|f| format!("#{f}")).collect();
        let point = &trace.points[error.point as usize].name;
        page.wrapped(
            &format!("  {point} {}  ", frames.join(" ")),
            "      ",
            &format!("{} > {}: ICMP {}, about the {}", error.src, error.dst, error.words(), error.about),
        )?;
    }
    Ok(())
}

/// Files that were not whole are named at once: the rest of the page holds only for what could be read.
pub(super) fn damage(page: &mut Page<'_>, report: &Report<'_>) -> io::Result<()> {
    for input in report.inputs {
        if let Some(damage) = &input.damage {
            let before = match input.frames {
                0 => String::new(),
                1 => "; the packet before it was read".to_string(),
                n => format!("; {} packets before it were read", thousands(n)),
            };
            page.painted(&format!("{} ", "!".yellow().bold()), "  ", &format!("{}: {damage}{before}", input.file), str::to_string)?;
        }
    }
    Ok(())
}

/// Groups as a table, if there is more than one; then connections that show the findings, or that failed and no finding says why.
fn examples(page: &mut Page<'_>, report: &Report<'_>, services: &[Service], findings: &[&Finding]) -> io::Result<()> {
    let trace = report.trace;
    let groups: Vec<usize> = services.iter().flat_map(|s| s.groups.iter().copied()).collect();
    let rows = rows(trace, &groups);
    if rows.len() > 1 {
        page.gap()?;
        groups_table(page, &rows)?;
    }
    let mut shown: Vec<usize> = Vec::new();
    let unexplained = |id: &u32| {
        let failed = trace.flow(*id).is_some_and(|flow| Outcome::of(&flow).failed());
        failed && !findings.iter().any(|f| f.flows.binary_search(id).is_ok())
    };
    let of_findings = findings.iter().filter_map(|f| f.flows.first().copied());
    for id in of_findings.chain(rows.iter().map(|row| row.example).filter(unexplained)) {
        let Some(flow) = trace.flow(id) else { continue };
        if shown.len() < SHOWN && !shown.contains(&flow.group) {
            shown.push(flow.group);
            connection(page, trace, &flow)?;
        }
    }
    Ok(())
}
