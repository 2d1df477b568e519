//! The pages that people read: the answer first, then its proof, then the way of the packets.

use super::alike::{Alike, NAMED, hosts};
use super::services::{Outcome, Service, services};
use super::settle::settle;
use super::text::{cut, pad};
use super::verdict::{Health, method_name, verdict};
use super::{Page, Report, table};
use crate::finding::{Confidence, Evidence, Finding, Severity};
use crate::net::{plural, span, thousands};
use crate::rules;
use crate::trace::{Flow, Trace};
use colored::{ColoredString, Colorize};
use std::io;
use tabled::builder::Builder;
use tabled::settings::{Alignment, Padding, Style, object::Columns};
use textwrap::core::display_width;

/// Services that get a line of their own; of more, the rest is counted.
const SERVICES: usize = 8;
/// Groups of connections in a table, and those shown hop by hop.
const GROUPS: usize = 20;
const SHOWN: usize = 3;
/// Names and ranges of names in a list of hosts.
const HOSTS: usize = 12;
/// Frame numbers of one piece of evidence.
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
        self::findings(page, report.trace, told)?;
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
        for flow in rows.iter().take(GROUPS).filter_map(|row| report.trace.flow(row.example)) {
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

pub(super) fn verdicts(page: &mut Page<'_>, report: &Report<'_>, services: &[Service]) -> io::Result<()> {
    if services.is_empty() {
        let packets = report.trace.packets;
        let what = match packets {
            0 => "no packet in these captures".to_string(),
            n => format!("no connection among {}", plural(n, "packet")),
        };
        return page.line(&format!("{} {what}", "?".yellow().bold()));
    }
    let matters = |s: &&Service| s.balanced || report.health(s) == Health::Troubled;
    let mut shown: Vec<&Service> = services.iter().filter(matters).collect();
    if shown.is_empty() {
        shown = services.iter().collect();
    }
    let (checks, rest): (Vec<&Service>, Vec<&Service>) = services
        .iter()
        .filter(|s| !shown.iter().take(SERVICES).any(|shown| std::ptr::eq(*shown, *s)))
        .partition(|s| s.checked_by.is_some());
    for service in shown.iter().take(SERVICES) {
        verdict(page, report, service)?;
        if service.count(Outcome::Unseen) > 0 && report.health(service) == Health::Unknown {
            settle(page, report.trace, service)?;
        }
    }
    if !rest.is_empty() {
        let complete = rest.iter().map(|s| s.complete).sum();
        page.line(&format!("  and {} more, with {} complete", plural(rest.len() as u64, "destination"), plural(complete, "connection")))?;
    }
    if !checks.is_empty() {
        let mut by: Vec<&str> = checks.iter().map(|s| report.trace.host_name(s.checked_by)).collect();
        by.sort_unstable();
        by.dedup();
        let (complete, all) = checks.iter().fold((0, 0), |(complete, all), s| (complete + s.complete, all + s.total()));
        let other = if shown.iter().take(SERVICES).any(|s| s.checked_by.is_some()) { "other " } else { "" };
        let of = format!("{} of {}", thousands(complete), plural(all, "connection"));
        let text = format!("{other}health checks by {}: {of} complete", by.join(", "));
        page.wrapped("  ", "  ", &text)?;
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

pub(super) fn severity(severity: Severity) -> ColoredString {
    let word = severity.to_string();
    match severity {
        Severity::Broken => word.red(),
        Severity::Degraded => word.yellow(),
        Severity::Risky => word.magenta(),
        Severity::Note => word.dimmed(),
    }
}

pub(super) fn finding(page: &mut Page<'_>, trace: &Trace, f: &Finding) -> io::Result<()> {
    findings(page, trace, &Alike::one(f))
}

/// A finding, or what is said of many hosts alike.
pub(super) fn findings(page: &mut Page<'_>, trace: &Trace, told: &Alike<'_>) -> io::Result<()> {
    let (f, about) = (told.first, told.about());
    let head = format!("  {} {}", f.code, f.name);
    let painted = format!("  {} {}", f.code.bold(), f.name);
    let tail = format!("{} · {} · {about}", f.severity, f.confidence);
    let tail_painted = format!("{} · {} · {}", severity(f.severity), f.confidence, about.bold());
    page.apart((&head, painted), (&tail, tail_painted))?;
    if told.subjects.len() > NAMED {
        page.painted("  ", "  ", &hosts(&told.subjects, HOSTS), |line| line.bold().to_string())?;
    }
    page.wrapped("  ", "  ", &f.summary)?;
    let instances = told.instances();
    if !instances.is_empty() {
        page.wrapped("  Of each: ", "    ", &hosts(&instances, HOSTS))?;
    }
    let (proofs, left) = told.proofs();
    let spots: Vec<(String, &str)> = proofs.iter().map(|e| spot(trace, e)).collect();
    let widest = spots.iter().map(|(spot, _)| display_width(spot)).filter(|w| *w <= 36).max().unwrap_or(0);
    for (spot, what) in &spots {
        page.wrapped(&format!("    {}  ", pad(spot, widest)), &" ".repeat(8), what)?;
    }
    if left > 0 {
        let text = format!("and {} more (all of them: --format json)", plural(left as u64, "proof"));
        page.painted("    ", "        ", &text, |line| line.dimmed().to_string())?;
    }
    if !f.alternatives.is_empty() {
        let named: Vec<String> = f.alternatives.iter().map(|code| named(code)).collect();
        page.wrapped("  Also possible: ", "    ", &named.join(", "))?;
    }
    if let Some(settle) = &f.settle {
        page.wrapped("  To settle it: ", "    ", settle)?;
    }
    let word = if f.confidence == Confidence::Possible { "If so, on" } else { "Remedy on" };
    for mending in told.remedies() {
        let remedy = mending.remedy;
        match (&mending.hosts[..], mending.varies) {
            ([first], true) => page.wrapped(&format!("  {word} "), "    ", &format!("{first}, for the first of them:"))?,
            ([first, others @ ..], true) => {
                let text = format!("{first}; with their own values on {}:", hosts(others, HOSTS / 2));
                page.wrapped(&format!("  {word} "), "    ", &text)?;
            }
            (all, _) if all.len() <= NAMED => page.wrapped(&format!("  {word} "), "    ", &format!("{}:", all.join(", ")))?,
            (all, _) => page.wrapped(&format!("  {word} "), "    ", &format!("{}:", hosts(all, HOSTS)))?,
        }
        for (word, text) in [("now", &remedy.command), ("keep", &remedy.permanent), ("undo", &remedy.undo)] {
            if !text.is_empty() {
                let (first, rest) = (format!("    {word:<4}  "), " ".repeat(10));
                match word {
                    "now" => page.command(&first, &rest, text, |line| line.cyan().to_string())?,
                    "undo" if is_command(text) => page.command(&first, &rest, text, str::to_string)?,
                    _ => page.wrapped(&first, &rest, text)?,
                }
            }
        }
    }
    Ok(())
}

/// Whether a text is for a shell, and not for people.
fn is_command(text: &str) -> bool {
    let programs = [
        "arping",
        "arptables",
        "echo",
        "ethtool",
        "ip",
        "ip6tables",
        "iptables",
        "ipvsadm",
        "modprobe",
        "nft",
        "sysctl",
        "systemctl",
        "tc",
    ];
    text.split(' ').next().is_some_and(|word| programs.contains(&word))
}

/// `NET008 host-firewall-or-selinux`.
fn named(code: &str) -> String {
    rules::name_of(code).map_or_else(|| code.to_string(), |name| format!("{code} {name}"))
}

/// Where to look, and what stands there.
fn spot<'a>(trace: &Trace, evidence: &'a Evidence) -> (String, &'a str) {
    let name = |point: u32| trace.points.get(point as usize).map_or("?", |p| p.name.as_str());
    match evidence {
        Evidence::Frames { point, frames, time, what } => {
            let mut numbers: Vec<String> = frames.iter().take(FRAMES).map(|f| format!("#{f}")).collect();
            if frames.len() > FRAMES {
                numbers.push(format!("… {} in all", frames.len()));
            }
            let time = time.map_or_else(String::new, |t| format!("  {:.12}", t.to_string()));
            (format!("{} {}{time}", name(*point), numbers.join(" ")), what)
        }
        Evidence::Absence { point, what } => (name(*point).to_string(), what),
        Evidence::Host { host, fact, source } => (format!("{host}$ {source}"), fact),
        Evidence::Statement { by, what } => (by.clone(), what),
    }
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

fn example(trace: &Trace, group: usize) -> Option<Flow> {
    let group = trace.groups.get(group)?;
    trace.flow(group.examples.first().copied().unwrap_or(group.first))
}

/// Connections that a reader cannot tell apart: service, real server, way, outcome.
struct Row {
    words: [String; 4],
    count: u64,
    example: u32,
}

/// The rows of groups: those that differ only in details of the way are one.
fn rows(trace: &Trace, groups: &[usize]) -> Vec<Row> {
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

fn groups_table(page: &mut Page<'_>, rows: &[Row]) -> io::Result<()> {
    let mut builder = Builder::new();
    // One service alone stands in the verdict already.
    let several = rows.iter().any(|row| row.words[0] != rows[0].words[0]);
    let narrow = |text: &str| cut(text, if page.width < 100 { 48 } else { 80 } / if several { 2 } else { 1 });
    let record = |cells: [String; 6]| cells.into_iter().enumerate().filter(move |(at, _)| several || *at != 1).map(|(_, cell)| cell);
    builder.push_record(record(["number", "service", "real server", "way", "outcome", "example"].map(str::to_string)));
    for Row { words: [service, server, way, outcome], count, example } in rows.iter().take(GROUPS) {
        let cells = [thousands(*count), narrow(service), narrow(server), way.clone(), outcome.clone(), example.to_string()];
        builder.push_record(record(cells));
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    table.modify(Columns::first(), Alignment::right()).modify(Columns::last(), Alignment::right());
    for (at, line) in table.to_string().lines().enumerate() {
        page.line(&if at == 0 { format!("  {}", line.dimmed()) } else { format!("  {line}") })?;
    }
    if rows.len() > GROUPS {
        page.line(&format!("  and {} more rows", rows.len() - GROUPS))?;
    }
    Ok(())
}

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
        let parts: Vec<&super::Input> = report.inputs.iter().filter(|other| other.points.first() == input.points.first()).collect();
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
