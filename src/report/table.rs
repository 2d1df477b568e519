//! The way of one connection, hop by hop.

use super::Page;
use super::text::pad;
use crate::trace::{Flow, Hop, Path, Rewrite, Trace};
use colored::Colorize;
use std::io;
use tabled::builder::Builder;
use tabled::settings::{Alignment, Padding, Style, object::Columns};
use textwrap::core::display_width;

/// Where a packet was, between whom, with which addresses; and what had been rewritten there.
struct Row {
    at: String,
    carried: String,
    src: String,
    dst: String,
    ttl: String,
    /// `dst-ip by director`; with the columns that it is about.
    mark: Option<Mark>,
}

struct Mark {
    words: String,
    src: bool,
    dst: bool,
}

const HEAD: [&str; 5] = ["at", "to / from", "source", "destination", "ttl"];

/// Writes both directions of a flow.
pub(super) fn hops(page: &mut Page<'_>, trace: &Trace, flow: &Flow) -> io::Result<()> {
    let mut rows = rows(page, trace, flow, &flow.request);
    rows.extend(match flow.reply.is_empty() {
        true => vec![silence(trace, flow)],
        false => self::rows(page, trace, flow, &flow.reply),
    });
    let strays: Vec<Row> = flow.request.strays.iter().chain(&flow.reply.strays).map(|hop| row(page, trace, flow, hop)).collect();
    if !strays.is_empty() {
        rows.push(Row {
            at: String::new(),
            carried: "off that way:".into(),
            src: String::new(),
            dst: String::new(),
            ttl: String::new(),
            mark: None,
        });
        rows.extend(strays);
    }
    let widths = widths(&rows);
    // The columns as far apart as the page allows; where it does not even allow one blank, a hop takes two lines.
    match [2, 1].into_iter().find(|gap| widths.iter().sum::<usize>() + gap * 4 + 2 <= page.width) {
        Some(gap) => table(page, &rows, &widths, gap),
        None => stacked(page, &rows),
    }
}

fn rows(page: &Page<'_>, trace: &Trace, flow: &Flow, path: &Path) -> Vec<Row> {
    path.hops.iter().map(|hop| row(page, trace, flow, hop)).collect()
}

fn row(page: &Page<'_>, trace: &Trace, flow: &Flow, hop: &Hop) -> Row {
    let point = trace.points.get(hop.point as usize).map_or("?", |p| p.name.as_str());
    Row {
        at: format!("{point} #{}", hop.frame),
        carried: if page.macs { macs(hop) } else { carried(trace, hop) },
        src: hop.src.to_string(),
        dst: hop.dst.to_string(),
        ttl: hop.ttl.to_string(),
        mark: mark(trace, flow, hop),
    }
}

/// Who handed it over to whom, as seen from the point's own host: `> web1` it sent, `< client` it received. At a point that is neither's
/// both: `director > web1`. A MAC where the host is not known.
fn carried(trace: &Trace, hop: &Hop) -> String {
    let end = |host: Option<usize>, mac: Option<crate::net::MacAddr>| match (host, mac) {
        (Some(host), _) => trace.host_name(Some(host)).to_string(),
        (None, Some(mac)) => mac.to_string(),
        (None, None) => "?".to_string(),
    };
    let (from, to) = (end(hop.from, hop.src_mac), end(hop.to, hop.dst_mac));
    match (hop.src_mac, hop.dst_mac, hop.at_sender) {
        (None, None, _) => hop.at.map_or_else(String::new, |host| format!("on {}", trace.host_name(Some(host)))),
        (_, _, Some(true)) if hop.at.is_some() && hop.at == hop.from => format!("> {to}"),
        (_, _, Some(false)) if hop.at.is_some() && hop.at == hop.to => format!("< {from}"),
        _ => format!("{from} > {to}"),
    }
}

fn macs(hop: &Hop) -> String {
    let mac = |mac: Option<crate::net::MacAddr>| mac.map_or_else(|| "?".to_string(), |mac| mac.to_string());
    format!("{} > {}", mac(hop.src_mac), mac(hop.dst_mac))
}

/// What the last forwarder changed beside what every forwarder changes (MACs and TTL).
fn mark(trace: &Trace, flow: &Flow, hop: &Hop) -> Option<Mark> {
    let any = |wanted: &[Rewrite]| hop.rewrites.iter().any(|r| wanted.contains(r));
    let (src, dst) = (any(&[Rewrite::SrcIp, Rewrite::SrcPort]), any(&[Rewrite::DstIp, Rewrite::DstPort]));
    let ordinary = |r: &Rewrite| matches!(r, Rewrite::SrcMac | Rewrite::DstMac | Rewrite::Ttl);
    let mut words: Vec<String> = hop.rewrites.iter().filter(|r| !ordinary(r)).map(ToString::to_string).collect();
    let balanced = hop.from.is_some() && hop.from == flow.director && any(&[Rewrite::DstMac]);
    if words.is_empty() && balanced && flow.method == crate::trace::Method::DirectRouting && hop.dst == flow.vip.unwrap_or(hop.dst) {
        words.push("dst-mac".to_string());
    }
    if words.is_empty() {
        return None;
    }
    let by = hop.from.map_or_else(String::new, |host| format!(" by {}", trace.host_name(Some(host))));
    let outer = match (&hop.outer, any(&[Rewrite::Decap])) {
        (Some((_, from, to)), false) if hop.rewrites.iter().any(|r| matches!(r, Rewrite::Encap(_))) => format!(": {from} > {to}"),
        _ => String::new(),
    };
    Some(Mark { words: format!("{}{by}{outer}", words.join(" ")), src, dst })
}

/// The line that stands where the answer should be.
fn silence(trace: &Trace, flow: &Flow) -> Row {
    let last = flow.request.last();
    // It left for an interface that was captured, and does not come in there.
    let unseen = last.filter(|hop| hop.at_sender == Some(true) && flow.errors.is_empty()).and_then(|hop| {
        let points = &trace.hosts.get(hop.to?)?.points;
        Some((hop, points.iter().find(|point| hop.dst_mac.is_some() && trace.mac_at(**point) == hop.dst_mac)?))
    });
    if let Some((hop, point)) = unseen {
        let at = trace.points[*point as usize].name.clone();
        let carried = format!("< {}", trace.host_name(hop.from));
        return Row { at, carried, src: "does not arrive".to_string(), dst: String::new(), ttl: String::new(), mark: None };
    }
    let who = trace.host_name(flow.server_host.or(last.and_then(|hop| hop.to)));
    let what = if flow.errors.is_empty() { "no reply seen" } else { "no reply, but ICMP" };
    Row { at: who.to_string(), carried: "> ?".to_string(), src: what.to_string(), dst: String::new(), ttl: String::new(), mark: None }
}

fn widths(rows: &[Row]) -> [usize; 5] {
    let mut widths = HEAD.map(display_width);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip([&row.at, &row.carried, &row.src, &row.dst, &row.ttl]) {
            *width = (*width).max(display_width(cell));
        }
    }
    widths
}

fn table(page: &mut Page<'_>, rows: &[Row], widths: &[usize; 5], gap: usize) -> io::Result<()> {
    let mut builder = Builder::new();
    builder.push_record(HEAD);
    for row in rows {
        builder.push_record([&row.at, &row.carried, &row.src, &row.dst, &row.ttl].map(String::as_str));
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, gap, 0, 0)).modify(Columns::last(), Alignment::right());
    let text = table.to_string();
    for (at, line) in text.lines().enumerate() {
        page.line(&if at == 0 { format!("  {}", line.dimmed()) } else { format!("  {line}") })?;
        if let Some(mark) = at.checked_sub(1).and_then(|at| rows.get(at)).and_then(|row| row.mark.as_ref().map(|m| (row, m))) {
            underline(page, mark.0, mark.1, widths, gap)?;
        }
    }
    Ok(())
}

/// Tildes under what changed, and before them what changed and who did it.
fn underline(page: &mut Page<'_>, row: &Row, mark: &Mark, widths: &[usize; 5], gap: usize) -> io::Result<()> {
    let (src_at, dst_at) = (widths[0] + widths[1] + 2 * gap, widths[0] + widths[1] + widths[2] + 3 * gap);
    let first = if mark.src { src_at } else { dst_at };
    let mut line = String::new();
    if mark.src || mark.dst {
        let room = first.saturating_sub(gap);
        let words = if display_width(&mark.words) > room {
            mark.words.clone()
        } else {
            format!("{}{}", " ".repeat(room - display_width(&mark.words)), mark.words)
        };
        line = pad(&words, first);
        if mark.src {
            line = pad(&format!("{line}{}", "~".repeat(display_width(&row.src))), dst_at);
        }
        if mark.dst {
            line += &"~".repeat(display_width(&row.dst));
        }
    } else {
        line += &format!("{}{}", " ".repeat(widths[0] + gap), mark.words);
    }
    page.line(&format!("  {}", line.yellow()))
}

/// Two lines a hop, where one is too narrow: IPv6, bare MACs.
fn stacked(page: &mut Page<'_>, rows: &[Row]) -> io::Result<()> {
    let at = rows.iter().map(|row| display_width(&row.at)).max().unwrap_or(0);
    let carried = rows.iter().map(|row| display_width(&row.carried)).max().unwrap_or(0);
    for row in rows {
        let ttl = if row.ttl.is_empty() { String::new() } else { format!("ttl {}", row.ttl) };
        page.line(&format!("  {}  {}  {ttl}", pad(&row.at, at), pad(&row.carried, carried)))?;
        if !row.dst.is_empty() {
            page.line(&format!("      {} > {}", row.src, row.dst))?;
        } else if !row.src.is_empty() {
            page.line(&format!("      {}", row.src))?;
        }
        if let Some(mark) = &row.mark {
            page.line(&format!("      {}", format!("~ {}", mark.words).yellow()))?;
        }
    }
    Ok(())
}
