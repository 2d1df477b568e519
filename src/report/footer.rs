//! The end of a page: how much was read, what could not be placed, how far the clocks are apart.

use super::{Input, Page, Report};
use crate::net::{plural, span, thousands};
use crate::trace::Trace;
use colored::Colorize;
use std::io;
use textwrap::core::display_width;

/// How much was read, what could not be placed, how far the clocks are apart.
pub(super) fn footer(page: &mut Page<'_>, report: &Report<'_>) -> io::Result<()> {
    let trace = report.trace;
    let unplaced: u64 = trace.unplaced.values().sum();
    let mut text = format!(
        "{}, {}, {}, {} unplaced",
        plural(report.inputs.len() as u64, "capture"),
        plural(trace.packets, "packet"),
        plural(trace.flow_count() as u64, "connection"),
        thousands(unplaced)
    );
    if let Some(clocks) = clocks(trace) {
        if display_width(&text) + display_width(&clocks) + 5 <= page.width {
            text += &format!(" · {clocks}");
        } else {
            page.painted("  ", "  ", &std::mem::replace(&mut text, clocks), |line| line.dimmed().to_string())?;
        }
    }
    page.painted("  ", "  ", &text, |line| line.dimmed().to_string())?;
    if unplaced > 0 {
        let mut reasons: Vec<(&String, &u64)> = trace.unplaced.iter().collect();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), *reason));
        let listed: Vec<String> = reasons.iter().take(4).map(|(reason, count)| format!("{} {reason}", thousands(**count))).collect();
        let more = if reasons.len() > 4 { ", …" } else { "" };
        page.painted("  unplaced: ", "    ", &format!("{}{more}", listed.join(", ")), |line| line.dimmed().to_string())?;
    }
    several_points(page, report)
}

/// Points that share a file are not called as it is: a frame number needs the file's name.
fn several_points(page: &mut Page<'_>, report: &Report<'_>) -> io::Result<()> {
    // The files of a rotated capture have their points in common.
    let mut told: Vec<u32> = Vec::new();
    for input in report.inputs.iter().filter(|input| !input.points.is_empty()) {
        let parts: Vec<&Input> = report.inputs.iter().filter(|other| other.points.first() == input.points.first()).collect();
        if (input.points.len() < 2 && parts.len() < 2) || input.points.iter().any(|point| told.contains(point)) {
            continue;
        }
        told.extend(&input.points);
        let names: Vec<&str> = input.points.iter().filter_map(|p| report.trace.points.get(*p as usize)).map(|p| p.name.as_str()).collect();
        let text = match parts[..] {
            [.., last] if parts.len() > 1 => format!("{} count through {} … {}", names.join(", "), input.file, last.file),
            _ => format!("{} in {}", names.join(", "), input.file),
        };
        page.painted("  frame numbers of ", "    ", &text, |line| line.dimmed().to_string())?;
    }
    Ok(())
}

fn clocks(trace: &Trace) -> Option<String> {
    let worst = trace.clocks.iter().max_by_key(|c| c.offset.abs())?;
    let bound = trace.clocks.iter().map(|c| c.bound).max().unwrap_or(0);
    let name = |file: usize| trace.points.iter().find(|p| p.file == file).map_or("?", |p| p.name.as_str());
    if worst.offset.abs() <= bound.max(1_000_000) {
        return Some(format!("clocks agree within {}", span(worst.offset.abs().max(bound))));
    }
    let way = if worst.offset > 0 { "ahead of" } else { "behind" };
    Some(format!(
        "the clock of {} is {} {way} that of {} (± {})",
        name(worst.file),
        span(worst.offset.abs()),
        name(worst.reference),
        span(worst.bound)
    ))
}
