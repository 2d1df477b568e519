//! What a look at live packets says: findings as they come, and at the end what it all came to.

use super::footer::footer;
use super::found::{finding, severity};
use super::page::damage;
use super::text::pad;
use super::verdict::verdicts;
use super::{Page, Report, services};
use crate::finding::Finding;
use crate::net::{Timestamp, plural, thousands};
use crate::trace::Trace;
use colored::Colorize;
use std::io;
use textwrap::core::display_width;

/// A finding, told when it has just become clear; `when` is the time of the latest packet.
///
/// # Errors
/// When the page cannot be written.
pub fn told(page: &mut Page<'_>, trace: &Trace, found: &Finding, when: Timestamp) -> io::Result<()> {
    let time = format!("{:.8}", when.to_string());
    match found.flows.first().and_then(|id| trace.flow(*id)) {
        Some(flow) => {
            let others = found.flows.len() as u64 - 1;
            let more = if others == 0 { String::new() } else { format!(", and {} more", thousands(others)) };
            page.wrapped(
                &format!("{}  ", time.bold()),
                "          ",
                &format!("{} > {} {}{more}", flow.client, flow.service, flow.outcome()),
            )?;
        }
        None => page.line(&time.bold().to_string())?,
    }
    finding(page, trace, found)?;
    page.gap()
}

/// The end: how each service fared, and what was told, a line each. `forgotten`: connections that ended so long ago that they were
/// counted and not kept, and how many of them failed.
///
/// # Errors
/// When the page cannot be written.
pub fn summary(page: &mut Page<'_>, report: &Report<'_>, told: &[Finding], forgotten: (u64, u64)) -> io::Result<()> {
    verdicts(page, report, &services(report.trace))?;
    damage(page, report)?;
    if !told.is_empty() {
        page.gap()?;
    }
    let names: Vec<String> = told.iter().map(|f| format!("{} {}", f.code, f.name)).collect();
    let widest = names.iter().map(|name| display_width(name)).max().unwrap_or(0);
    for (f, name) in told.iter().zip(&names) {
        page.wrapped(
            &format!("  {}  ", pad(name, widest)),
            "      ",
            &format!("{} · {} · {}", severity(f.severity), f.confidence, f.subject),
        )?;
    }
    page.gap()?;
    for point in report.trace.points.iter().filter(|point| point.dropped.is_some_and(|dropped| dropped > 0)) {
        let text =
            format!("{}: {} dropped by the capture itself; a filter helps", point.name, plural(point.dropped.unwrap_or(0), "packet"));
        page.painted(&format!("{} ", "!".yellow().bold()), "  ", &text, str::to_string)?;
    }
    if forgotten.0 > 0 {
        let text = format!(
            "the latest connections are counted above; {} before them {} let go, of which {} failed",
            plural(forgotten.0, "connection"),
            if forgotten.0 == 1 { "was" } else { "were" },
            forgotten.1
        );
        page.painted("  ", "  ", &text, |line| line.dimmed().to_string())?;
    }
    footer(page, report)?;
    if let Some(first) = told.first() {
        page.wrapped("  ", "        ", &format!("more: lvscope explain {}", first.code))?;
    }
    Ok(())
}
