//! Many connections as a few rows: those that a reader cannot tell apart are one.

use super::Page;
use super::text::cut;
use super::verdict::method_name;
use crate::net::thousands;
use crate::trace::{Flow, Trace};
use colored::Colorize;
use std::io;
use tabled::builder::Builder;
use tabled::settings::{Alignment, Padding, Style, object::Columns};

/// Rows of a table.
pub(super) const ROWS: usize = 20;

fn example(trace: &Trace, group: usize) -> Option<Flow> {
    let group = trace.groups.get(group)?;
    trace.flow(group.examples.first().copied().unwrap_or(group.first))
}

/// Connections that a reader cannot tell apart: service, real server, way, outcome.
pub(super) struct Row {
    words: [String; 4],
    count: u64,
    /// The number of a connection.
    pub(super) example: u32,
}

/// The rows of groups: those that differ only in details of the way are one.
pub(super) fn rows(trace: &Trace, groups: &[usize]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (group, flow) in groups.iter().filter_map(|g| example(trace, *g).map(|f| (*g, f))) {
        let name = |host| trace.host_name(Some(host)).to_string();
        let server = match (flow.real_server, flow.server_host) {
            (Some(rs), Some(host)) if Some(rs) == flow.vip || name(host) == rs.addr.to_string() => name(host),
            (Some(rs), Some(host)) => format!("{} {rs}", name(host)),
            (Some(rs), None) => rs.to_string(),
            (None, Some(host)) => name(host),
            (None, None) => "-".to_string(),
        };
        let words = [flow.service.to_string(), server, method_name(flow.method).to_string(), flow.outcome()];
        let count = u64::from(trace.groups[group].count);
        match rows.iter_mut().find(|row| row.words == words) {
            Some(row) => row.count += count,
            None => rows.push(Row { words, count, example: flow.id }),
        }
    }
    rows
}

/// The rows as a table.
pub(super) fn groups_table(page: &mut Page<'_>, rows: &[Row]) -> io::Result<()> {
    let mut builder = Builder::new();
    // One service alone stands in the verdict already.
    let several = rows.iter().any(|row| row.words[0] != rows[0].words[0]);
    let narrow = |text: &str| cut(text, if page.width < 100 { 48 } else { 80 } / if several { 2 } else { 1 });
    let record = |cells: [String; 6]| cells.into_iter().enumerate().filter(move |(at, _)| several || *at != 1).map(|(_, cell)| cell);
    builder.push_record(record(["number", "service", "real server", "way", "outcome", "example"].map(str::to_string)));
    for Row { words: [service, server, way, outcome], count, example } in rows.iter().take(ROWS) {
        let cells = [thousands(*count), narrow(service), narrow(server), way.clone(), outcome.clone(), example.to_string()];
        builder.push_record(record(cells));
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    table.modify(Columns::first(), Alignment::right()).modify(Columns::last(), Alignment::right());
    for (at, line) in table.to_string().lines().enumerate() {
        page.line(&if at == 0 { format!("  {}", line.dimmed()) } else { format!("  {line}") })?;
    }
    if rows.len() > ROWS {
        page.line(&format!("  and {} more rows", rows.len() - ROWS))?;
    }
    Ok(())
}
