//! One connection as a ladder: a lane for each host, time downwards.

use super::Page;
use super::text::cut;
use crate::net::Timestamp;
use crate::trace::{Flow, Hop, HostId, NoteKind, Path, Rewrite, Trace, Way};
use colored::Colorize;
use std::io;
use textwrap::core::display_width;

/// A rung: from lane to lane, or an event on the way.
struct Rung {
    time: Timestamp,
    from: Option<usize>,
    to: Option<usize>,
    label: String,
    note: String,
}

/// Columns of the time and the words beside the ladder.
const BESIDE: usize = 32;

/// Writes the ladder of a flow: the first packet of each direction link by link, then what happened later.
///
/// # Errors
/// When the page cannot be written.
pub fn ladder(page: &mut Page<'_>, trace: &Trace, flow: &Flow) -> io::Result<()> {
    let lanes = lanes(flow);
    if lanes.is_empty() {
        return page.line("  no host of this connection is known: its links have no MAC addresses");
    }
    let mut rungs: Vec<Rung> = rungs(trace, flow, &flow.request, &lanes);
    rungs.extend(self::rungs(trace, flow, &flow.reply, &lanes));
    let later = later(trace, flow, &lanes);
    let width = (page.width.saturating_sub(BESIDE + 2) / lanes.len()).clamp(8, 24);
    let name = |lane: &HostId| cut(trace.host_name(Some(*lane)), width - 1);
    let heads: String = lanes.iter().map(|lane| format!("{:^width$}", name(lane))).collect();
    page.line(&format!("  {}", heads.bold()))?;
    let start = flow.first;
    let mut shown_time = String::new();
    for rung in rungs.iter().chain(&later) {
        let words = words(rung, width);
        if !words.is_empty() {
            page.line(&format!("  {}", between(rung, lanes.len(), width, Some(&words))))?;
        }
        let time = format!("{:.3}", (rung.time - start) as f64 / 1e6);
        let time = if shown_time == time { String::new() } else { time };
        let beside = format!("{time:>10}  {}", cut(&rung.note, BESIDE - 12));
        page.line(&format!("  {} {beside}", between(rung, lanes.len(), width, None)))?;
        if !time.is_empty() {
            shown_time = time;
        }
    }
    page.line(&format!("  {}", "times in ms after the first packet".dimmed()))
}

/// Hosts in the order in which the request, then the reply, came to them.
fn lanes(flow: &Flow) -> Vec<HostId> {
    let mut lanes: Vec<HostId> = Vec::new();
    let hops = flow.request.hops.iter().chain(&flow.reply.hops);
    let add = |lanes: &mut Vec<HostId>, host: Option<HostId>| {
        if let Some(host) = host.filter(|host| !lanes.contains(host)) {
            lanes.push(host);
        }
    };
    for hop in hops {
        add(&mut lanes, hop.from);
        add(&mut lanes, hop.to);
    }
    for error in &flow.errors {
        add(&mut lanes, error.from);
    }
    lanes
}

fn lane(lanes: &[HostId], host: Option<HostId>) -> Option<usize> {
    lanes.iter().position(|lane| Some(*lane) == host)
}

fn rungs(trace: &Trace, flow: &Flow, path: &Path, lanes: &[HostId]) -> Vec<Rung> {
    let rung = |hop: &Hop| Rung {
        time: trace.common_time(hop.point, hop.time),
        from: lane(lanes, hop.from),
        to: lane(lanes, hop.to),
        label: label(hop),
        note: note(flow, hop, std::ptr::eq(path, &flow.request)),
    };
    path.links().filter(|hop| hop.from.is_some() || hop.to.is_some()).map(rung).collect()
}

/// What was done to the packet before this link, short enough to stand between two lanes.
fn label(hop: &Hop) -> String {
    let any = |wanted: &[Rewrite]| hop.rewrites.iter().any(|r| wanted.contains(r));
    let encapsulated = hop.rewrites.iter().any(|r| matches!(r, Rewrite::Encap(_)));
    match (any(&[Rewrite::SrcIp, Rewrite::SrcPort]), any(&[Rewrite::DstIp, Rewrite::DstPort])) {
        _ if encapsulated => hop.outer.map_or_else(String::new, |(kind, ..)| kind.to_string()),
        (true, true) => "src+dst".to_string(),
        (true, false) => if any(&[Rewrite::SrcIp]) { "src-ip" } else { "src-port" }.to_string(),
        (false, true) => if any(&[Rewrite::DstIp]) { "dst-ip" } else { "dst-port" }.to_string(),
        (false, false) => String::new(),
    }
}

/// What stands beside the rung: the packet where it begins, then the address that is new, the method where the director did it.
fn note(flow: &Flow, hop: &Hop, request: bool) -> String {
    let any = |wanted: &[Rewrite]| hop.rewrites.iter().any(|r| wanted.contains(r));
    let director = request && hop.from.is_some() && hop.from == flow.director;
    match hop.outer {
        Some((_, _, dst)) if hop.rewrites.iter().any(|r| matches!(r, Rewrite::Encap(_))) => format!("> {dst}"),
        _ if any(&[Rewrite::DstIp, Rewrite::DstPort]) && request => format!("> {}", hop.dst),
        _ if any(&[Rewrite::SrcIp, Rewrite::SrcPort]) => format!("{} >", hop.src),
        _ if director && !hop.rewrites.is_empty() => super::verdict::method_name(flow.method).to_string(),
        _ if hop.rewrites.is_empty() => hop.first.word().to_string(),
        _ => String::new(),
    }
}

/// Repeats, resets and ICMP errors, in the order of time; of the same on one link the first sighting only.
fn later(trace: &Trace, flow: &Flow, lanes: &[HostId]) -> Vec<Rung> {
    let mut rungs: Vec<Rung> = Vec::new();
    for n in &flow.notes {
        let word = match n.kind {
            NoteKind::SynRepeat => "SYN again",
            NoteKind::SynAckRepeat => "SYN-ACK again",
            NoteKind::DataRepeat => "data again",
            NoteKind::Reset => "RST",
            NoteKind::Loop => "same packet again",
            NoteKind::TtlChange | NoteKind::AfterSilence | NoteKind::LateSynAck => continue,
        };
        let first = if n.way == Way::Request { &flow.request } else { &flow.reply };
        // The reset that is itself the first packet of its direction has its rungs already.
        if n.kind == NoteKind::Reset && first.hops.iter().any(|h| h.point == n.point && h.frame == n.frame) {
            continue;
        }
        let time = trace.common_time(n.point, n.time);
        rungs.push(Rung { time, from: lane(lanes, n.from), to: lane(lanes, n.to), label: String::new(), note: word.to_string() });
    }
    for e in &flow.errors {
        let time = trace.common_time(e.point, e.time);
        let note = format!("ICMP {}/{} {}", e.type_number, e.code, e.src);
        rungs.push(Rung { time, from: lane(lanes, e.from), to: lane(lanes, e.to), label: String::new(), note });
    }
    rungs.sort_by_key(|r| r.time);
    let near = |a: &Rung, b: &Rung| (a.from, a.to, &a.note) == (b.from, b.to, &b.note) && (b.time - a.time) < 50_000_000;
    let mut kept: Vec<Rung> = Vec::new();
    for rung in rungs {
        if !kept.iter().any(|k| near(k, &rung)) {
            kept.push(rung);
        }
    }
    kept
}

/// The label, if it fits between the lanes.
fn words(rung: &Rung, width: usize) -> String {
    let lanes = match (rung.from, rung.to) {
        (Some(a), Some(b)) => a.abs_diff(b).max(1),
        _ => 1,
    };
    cut(&rung.label, (lanes * width).saturating_sub(3))
}

/// Lanes as bars, with an arrow or a label from one to another.
fn between(rung: &Rung, lanes: usize, width: usize, label: Option<&str>) -> String {
    let at = |lane: usize| lane * width + width / 2;
    let mut cells: Vec<char> = vec![' '; lanes * width];
    for lane in 0..lanes {
        cells[at(lane)] = '│';
    }
    let (Some(from), to) = (rung.from, rung.to) else { return cells.into_iter().collect() };
    // A host that nobody knows is at the edge of the drawing.
    let end = to.map_or_else(|| (at(from) + width / 2).min(lanes * width - 1), at);
    let (left, right) = (at(from).min(end), at(from).max(end));
    match label {
        Some(label) => {
            let room = right.saturating_sub(left + 1);
            let start = left + 1 + room.saturating_sub(display_width(label)) / 2;
            for (i, c) in label.chars().enumerate() {
                if let Some(cell) = cells.get_mut(start + i) {
                    *cell = c;
                }
            }
        }
        None => {
            for (place, cell) in cells.iter_mut().enumerate().take(right).skip(left + 1) {
                *cell = if *cell == '│' { '┼' } else { '─' };
                let _ = place;
            }
            if end > at(from) {
                (cells[left], cells[right - 1]) = ('├', '▶');
            } else {
                (cells[right], cells[left + 1]) = ('┤', '◀');
            }
        }
    }
    cells.into_iter().collect()
}
