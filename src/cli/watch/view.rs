//! What there is to see, in words: made from a trace and its diagnosis, and from what the user chose. Knows no terminal.

use crate::finding::{Finding, Severity};
use crate::host::Fleet;
use crate::net::{Endpoint, Protocol, Timestamp, plural, thousands};
use crate::report::{self, Outcome, Page, Report, Service, services};
use crate::rules::Diagnosis;
use crate::trace::{Flow, Trace};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How a line fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Doubtful,
    Faint,
}

/// A line of a panel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Row {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Row {
    fn new(tone: Tone, text: impl Into<String>) -> Row {
        Row { text: text.into(), tone }
    }
}

/// Everything on the screen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct View {
    /// Where packets come from, the latest time, counts.
    pub(super) title: String,
    /// `live`, `paused`, `ended`.
    pub(super) state: String,
    pub(super) services: Vec<Row>,
    pub(super) findings: Vec<Row>,
    /// Connections by what became of them.
    pub(super) states: String,
    pub(super) flows: Vec<Row>,
    /// The selected one among `flows`.
    pub(super) selected: Option<usize>,
    /// The way of the selected connection.
    pub(super) ladder: Vec<Row>,
    pub(super) claims: Vec<Row>,
    /// What the last key did; stands in place of the keys.
    pub(super) message: Option<String>,
    /// The selected connection, or the findings, alone.
    pub(super) alone: Alone,
    /// Lines of it that are scrolled away.
    pub(super) scrolled: usize,
    /// What is shown alone.
    pub(super) whole: Vec<Row>,
}

/// What has the screen for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Alone {
    #[default]
    Nothing,
    Flow,
    Findings,
    Help,
}

/// A connection, recognised from look to look: its number may change.
pub(super) type Key = (Protocol, Endpoint, Endpoint, Timestamp);

pub(super) fn key(flow: &Flow) -> Key {
    (flow.protocol, flow.client, flow.service, flow.first)
}

/// What the user chose.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) selected: Option<Key>,
    /// Only connections that did not go well.
    pub(super) failed_only: bool,
    pub(super) alone: Alone,
    pub(super) scrolled: usize,
    pub(super) message: Option<String>,
}

/// A look at the trace.
pub(super) struct Moment {
    pub(super) trace: Trace,
    pub(super) diagnosis: Diagnosis,
    /// Findings told before that are in this diagnosis no more.
    pub(super) gone: Vec<Finding>,
    /// Where packets come from.
    pub(super) from: String,
    pub(super) state: &'static str,
    /// Connections that were counted and not kept.
    pub(super) forgotten: u64,
}

/// Connections in the list.
const LISTED: usize = 500;

/// The connections to list: the latest first.
pub(super) fn listed(trace: &Trace, failed_only: bool) -> Vec<Flow> {
    let wanted = |flow: &&Flow| !failed_only || Outcome::of(flow) != Outcome::Complete;
    let mut flows: Vec<Flow> = trace.flows.iter().filter(wanted).cloned().collect();
    flows.sort_by_key(|flow| (std::cmp::Reverse(flow.first), flow.id));
    flows.truncate(LISTED);
    flows
}

/// Puts it into words for a screen of so many columns.
pub(super) fn view(moment: &Moment, choice: &Choice, width: usize) -> View {
    let trace = &moment.trace;
    let flows = listed(trace, choice.failed_only);
    let selected = selected(&flows, choice);
    let flow = selected.map(|at| &flows[at]);
    let all = services(trace);
    let latest = trace.points.iter().filter(|p| p.frames > 0).map(|p| p.last).max();
    let mut title = moment.from.clone();
    if let Some(latest) = latest {
        title += &format!(" · {:.8}", latest.to_string());
    }
    title += &format!(" · {} · {}", plural(trace.packets, "packet"), plural(trace.flow_count() as u64 + moment.forgotten, "connection"));
    View {
        title,
        state: moment.state.to_string(),
        services: all.iter().flat_map(|service| service_rows(trace, service)).collect(),
        findings: findings(moment),
        states: states(trace, choice.failed_only),
        flows: flow_rows(trace, &flows),
        selected,
        ladder: flow.map(|flow| ladder(trace, flow, width)).unwrap_or_default(),
        claims: claims(trace),
        message: choice.message.clone(),
        alone: choice.alone,
        scrolled: choice.scrolled,
        whole: match choice.alone {
            Alone::Nothing => Vec::new(),
            Alone::Flow => flow.map(|flow| whole_flow(trace, flow, width)).unwrap_or_default(),
            Alone::Findings => whole_findings(moment, width),
            Alone::Help => HELP.iter().map(|line| Row::new(Tone::Plain, *line)).collect(),
        },
    }
}

/// The place of the chosen connection in the list; without a choice the latest.
pub(super) fn selected(flows: &[Flow], choice: &Choice) -> Option<usize> {
    let chosen = choice.selected.and_then(|wanted| flows.iter().position(|flow| key(flow) == wanted));
    chosen.or(if flows.is_empty() { None } else { Some(0) })
}

const HELP: [&str; 16] = [
    "Keys",
    "  up, down, k, j    choose a connection; PgUp, PgDn by ten; Home, End",
    "  Enter             the chosen connection alone: ladder and hops",
    "  d                 the findings alone, with proof and remedy",
    "  f                 list only connections that did not go well, or all",
    "  e                 write the chosen connection into files: .txt and .pcapng",
    "  p, blank          stop the picture, or let it go on; packets are taken all along",
    "  Esc               back; from the first picture: the end",
    "  q, Ctrl-C         the end",
    "",
    "Panels",
    "  services          what clients dial, how it is handed on, and to whom",
    "  findings          what the rules say, the worst first",
    "  connections       the latest first, with what became of them",
    "  the way           the chosen connection, host by host; fills as packets come",
    "  who has the VIP   each MAC that claims a service's address",
];

fn service_rows(trace: &Trace, service: &Service) -> Vec<Row> {
    let tone = if service.failed() > 0 {
        Tone::Bad
    } else if service.total() == service.complete {
        Tone::Good
    } else {
        Tone::Doubtful
    };
    let symbol = match tone {
        Tone::Bad => "✗",
        Tone::Good => "✓",
        _ => "?",
    };
    let mut name = service.service.to_string();
    if service.protocol != Protocol::Tcp {
        name = format!("{}/{name}", service.protocol);
    }
    if let Some(vip) = service.vip.filter(|vip| *vip != service.service) {
        name += &format!(" > {vip}");
    }
    let method = match service.checked_by {
        Some(by) => format!("health checks by {}", trace.host_name(Some(by))),
        None => report::method_name(service.method).to_string(),
    };
    let mut rows = vec![Row::new(
        tone,
        format!("{symbol} {name}  {method}  {} of {} complete", thousands(service.complete), plural(service.total(), "connection")),
    )];
    for server in service.servers.iter().take(8) {
        let host = server.host.map_or("?", |host| trace.host_name(Some(host)));
        let address = server.address.map_or_else(|| "-".to_string(), |address| address.to_string());
        rows.push(Row::new(Tone::Plain, format!("    {host}  {address}  {}", plural(server.flows, "connection"))));
    }
    rows
}

fn findings(moment: &Moment) -> Vec<Row> {
    let tone = |f: &Finding| match f.severity {
        Severity::Broken => Tone::Bad,
        Severity::Degraded | Severity::Risky => Tone::Doubtful,
        Severity::Note => Tone::Faint,
    };
    let row = |f: &Finding| Row::new(tone(f), format!("{} {}  {} · {} · {}", f.code, f.name, f.severity, f.confidence, f.subject));
    let earlier = |f: &Finding| Row::new(Tone::Faint, format!("{} {}  earlier · {}", f.code, f.name, f.subject));
    let worth = moment.diagnosis.findings.iter().filter(|f| f.severity > Severity::Note);
    worth.map(row).chain(moment.gone.iter().map(earlier)).collect()
}

/// `3 established · 4 unanswered`.
fn states(trace: &Trace, failed_only: bool) -> String {
    let mut counts: BTreeMap<(bool, String), u64> = BTreeMap::new();
    for group in &trace.groups {
        if let Some(flow) = trace.flow(group.examples.first().copied().unwrap_or(group.first)) {
            *counts.entry((Outcome::of(&flow) == Outcome::Complete, flow.outcome())).or_default() += u64::from(group.count);
        }
    }
    let mut words: Vec<String> = counts.into_iter().map(|((_, word), count)| format!("{} {word}", thousands(count))).collect();
    if failed_only {
        words.push("listed: those that did not go well".to_string());
    }
    words.join(" · ")
}

fn flow_rows(trace: &Trace, flows: &[Flow]) -> Vec<Row> {
    let ends: Vec<String> = flows.iter().map(|flow| format!("{} > {}", flow.client, flow.service)).collect();
    let widest = ends.iter().map(|ends| ends.chars().count()).max().unwrap_or(0).min(60);
    let row = |(flow, ends): (&Flow, &String)| {
        let server = flow.server_host.map_or("-", |host| trace.host_name(Some(host)));
        let tone = match Outcome::of(flow) {
            Outcome::Complete => Tone::Good,
            Outcome::Unseen => Tone::Doubtful,
            _ => Tone::Bad,
        };
        Row::new(tone, format!("{:.8}  {ends:<widest$}  {server:<10}  {}", flow.first.to_string(), flow.outcome()))
    };
    flows.iter().zip(&ends).map(row).collect()
}

/// What a page of the report looks like, line by line.
fn page(width: usize, fill: impl FnOnce(&mut Page<'_>) -> std::io::Result<()>) -> Vec<Row> {
    let mut text = Vec::new();
    let written = fill(&mut Page::new(&mut text, width, false));
    let mut rows: Vec<Row> = String::from_utf8_lossy(&text).lines().map(|line| Row::new(Tone::Plain, line)).collect();
    if let Err(e) = written {
        rows.push(Row::new(Tone::Faint, e.to_string()));
    }
    rows
}

fn ladder(trace: &Trace, flow: &Flow, width: usize) -> Vec<Row> {
    page(width, |page| report::ladder(page, trace, flow))
}

/// The selected connection as a page.
pub(super) fn whole_flow(trace: &Trace, flow: &Flow, width: usize) -> Vec<Row> {
    let mut rows = ladder(trace, flow, width);
    rows.extend(page(width, |page| report::connection(page, trace, flow)));
    rows
}

fn whole_findings(moment: &Moment, width: usize) -> Vec<Row> {
    let report = Report { inputs: &[], trace: &moment.trace, diagnosis: Some(&moment.diagnosis), fleet: &Fleet::default() };
    page(width, |page| report::diagnosis(page, &report, false))
}

/// Addresses of services: what clients dial, and what that becomes on the way, but for the real servers' own.
fn virtual_addresses(trace: &Trace) -> BTreeSet<IpAddr> {
    let of = |flow: &Flow| {
        let own = flow.real_server.map(|server| server.addr);
        let on_the_way: Vec<IpAddr> = flow.request.hops.iter().map(|hop| hop.dst.addr).filter(|addr| Some(*addr) != own).collect();
        on_the_way.into_iter().chain([flow.service.addr]).chain(flow.vip.map(|vip| vip.addr))
    };
    trace.flows.iter().flat_map(of).collect()
}

/// Who says to have a service's address.
fn claims(trace: &Trace) -> Vec<Row> {
    let addresses = virtual_addresses(trace);
    let mut rows = Vec::new();
    for addr in addresses {
        let mut heard: BTreeMap<_, (u64, Timestamp)> = BTreeMap::new();
        for claim in trace.claims.claims.iter().filter(|claim| claim.addr == addr && claim.is_earnest()) {
            let heard = heard.entry(claim.mac).or_insert((0, claim.times.last.1));
            // Two points that hear one frame are not two frames.
            *heard = (heard.0.max(claim.times.count), heard.1.max(claim.times.last.1));
        }
        let tone = if heard.len() > 1 { Tone::Bad } else { Tone::Plain };
        for (mac, (count, last)) in heard {
            let host = trace.host_of(mac).map_or("?", |host| trace.host_name(Some(host)));
            rows.push(Row::new(tone, format!("{addr} is at {mac} ({host})  {}, last {:.8}", plural(count, "time"), last.to_string())));
        }
    }
    // What is claimed twice comes first.
    rows.sort_by_key(|row: &Row| row.tone != Tone::Bad);
    rows
}
