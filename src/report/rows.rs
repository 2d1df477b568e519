//! Many connections as a few rows: those that a reader cannot tell apart are one.

use super::Page;
use super::text::cut;
use super::verdict::method_name;
use crate::net::thousands;
use crate::trace::{Flow, Trace};
use colored::Colorize;
use std::borrow::Cow;
use std::io;
use tabled::builder::Builder;
use tabled::settings::{Alignment, Padding, Style, object::Columns};
use textwrap::core::display_width;

/// Rows of a table.
pub(super) const ROWS: usize = 20;

fn example(trace: &Trace, group: usize) -> Option<Cow<'_, Flow>> {
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

/// The rows as a table. Where they are wider than the page columns move together, and then long names are cut.
pub(super) fn groups_table(page: &mut Page<'_>, rows: &[Row]) -> io::Result<()> {
    let tries = std::iter::once((2, NAME)).chain((SHORTEST..=NAME).rev().map(|name| (1, name)));
    let mut lines = Vec::new();
    for (apart, name) in tries {
        lines = table(rows, apart, name);
        if lines.iter().all(|line| display_width(line) + 2 <= page.width) {
            break;
        }
    }
    for (at, line) in lines.iter().enumerate() {
        page.line(&if at == 0 { format!("  {}", line.dimmed()) } else { format!("  {line}") })?;
    }
    if rows.len() > ROWS {
        page.line(&format!("  and {} more rows", rows.len() - ROWS))?;
    }
    Ok(())
}

/// Characters of a service's or a server's name.
const NAME: usize = 60;
const SHORTEST: usize = 12;

fn table(rows: &[Row], apart: usize, name: usize) -> Vec<String> {
    let mut builder = Builder::new();
    // One service alone stands in the verdict already.
    let several = rows.iter().any(|row| row.words[0] != rows[0].words[0]);
    let record = |cells: [String; 6]| cells.into_iter().enumerate().filter(move |(at, _)| several || *at != 1).map(|(_, cell)| cell);
    builder.push_record(record(["number", "service", "real server", "way", "outcome", "example"].map(str::to_string)));
    for Row { words: [service, server, way, outcome], count, example } in rows.iter().take(ROWS) {
        let cells = [thousands(*count), cut(service, name), cut(server, name), way.clone(), outcome.clone(), example.to_string()];
        builder.push_record(record(cells));
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, apart, 0, 0));
    table.modify(Columns::first(), Alignment::right()).modify(Columns::last(), Alignment::right());
    table.to_string().lines().map(|line| line.trim_end().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fits_the_page() {
        let row = |service: &str, server: &str| Row {
            words: [service, server, "LVS-NAT", "unanswered"].map(str::to_string),
            count: 2,
            example: 4,
        };
        for (service, server) in [
            ("10.0.0.1:80", "web1"),
            ("192.168.224.11:80", "web1 192.168.224.11:80"),
            ("[2001:db8:1:2:3:4:5:59]:443", "web1 [2001:db8:1:2:3:4:5:11]:443"),
        ] {
            let mut written = Vec::new();
            let mut page = Page::new(&mut written, 80, false);
            groups_table(&mut page, &[row(service, server), row("10.0.0.2:80", "web2")]).unwrap();
            let text = String::from_utf8(written).unwrap();
            assert!(text.lines().all(|line| display_width(line) <= 80), "{text}");
            assert_eq!(text.contains(server), service.len() < 20, "{text}");
        }
    }
}
