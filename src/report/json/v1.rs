//! Version 1: types of its own, so that the program can change and the contract does not.

use super::super::{Report, services::services};
use crate::finding::{Evidence, Finding};
use crate::host::Served;
use crate::rules::{Check, Verdict};
use crate::trace::{self, Flow, Hop, Trace};
use serde::ser::{SerializeMap, Serializer};
use serde::{Serialize, ser::SerializeSeq};
use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Write};
use std::net::IpAddr;

const SCHEMA: u32 = 1;
const TOOL: &str = concat!("lvscope ", env!("CARGO_PKG_VERSION"));

#[derive(Serialize)]
struct Input<'a> {
    file: &'a str,
    point: Option<&'a str>,
    frames: u64,
    link_type: Option<String>,
    snap_len: Option<u32>,
    dropped: Option<u64>,
    damage: Option<&'a str>,
}

#[derive(Serialize)]
struct Host<'a> {
    name: &'a str,
    role: String,
    macs: Vec<String>,
    addresses: Vec<IpAddr>,
    points: Vec<&'a str>,
}

#[derive(Serialize)]
struct Service {
    service: String,
    vip: Option<String>,
    protocol: String,
    method: String,
    flows: u64,
    complete: u64,
    real_servers: Vec<RealServer>,
}

#[derive(Serialize)]
struct RealServer {
    address: Option<String>,
    host: Option<String>,
    flows: u64,
}

#[derive(Serialize)]
struct FlowV1<'a> {
    id: u32,
    protocol: String,
    client: String,
    service: String,
    vip: Option<String>,
    real_server: Option<String>,
    method: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stalled: Option<String>,
    client_host: Option<&'a str>,
    director: Option<&'a str>,
    server_host: Option<&'a str>,
    request: Vec<HopV1<'a>>,
    reply: Vec<HopV1<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    strays: Vec<HopV1<'a>>,
    findings: &'a [&'static str],
}

#[derive(Serialize)]
struct HopV1<'a> {
    point: &'a str,
    frame: u64,
    time: f64,
    src_mac: Option<String>,
    dst_mac: Option<String>,
    src: String,
    dst: String,
    ttl: u8,
    #[serde(skip_serializing_if = "<[u16]>::is_empty")]
    vlans: &'a [u16],
    #[serde(skip_serializing_if = "Option::is_none")]
    outer: Option<[IpAddr; 2]>,
    rewrites: Vec<String>,
    by: Option<&'a str>,
}

#[derive(Serialize)]
struct FindingV1<'a> {
    code: &'static str,
    name: &'static str,
    severity: String,
    confidence: String,
    subject: &'a str,
    summary: &'a str,
    flows: &'a [u32],
    evidence: Vec<EvidenceV1<'a>>,
    alternatives: &'a [&'static str],
    settle: Option<&'a str>,
    remedy: Vec<RemedyV1<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum EvidenceV1<'a> {
    Frames { point: &'a str, file: &'a str, frames: &'a [u64], time: Option<f64>, what: &'a str },
    Absence { point: &'a str, file: &'a str, what: &'a str },
    Host { host: &'a str, fact: &'a str, source: &'a str },
    Statement { by: &'a str, what: &'a str },
}

#[derive(Serialize)]
struct RemedyV1<'a> {
    host: &'a str,
    command: &'a str,
    permanent: &'a str,
    undo: &'a str,
}

#[derive(Serialize)]
struct NotJudged<'a> {
    code: &'static str,
    needs: &'a str,
}

/// A rule on a host.
#[derive(Serialize)]
struct CheckV1<'a> {
    code: &'static str,
    name: &'static str,
    host: &'a str,
    verdict: &'static str,
    what: Option<&'a str>,
}

fn check(check: &Check) -> CheckV1<'_> {
    let (verdict, what) = match &check.verdict {
        Verdict::Passed(what) => ("passed", Some(what.as_str())),
        Verdict::Failed => ("failed", None),
        Verdict::NotJudged(what) => ("not-judged", Some(what.as_str())),
    };
    CheckV1 { code: check.code, name: check.name, host: &check.host, verdict, what }
}

#[derive(Serialize)]
struct Clock<'a> {
    point: &'a str,
    reference: &'a str,
    offset_ns: i64,
    bound_ns: i64,
    drift_ppb: f64,
}

/// A packet's way, as `trace --packets` prints it.
#[derive(Serialize)]
struct Journey<'a> {
    flow: u32,
    direction: String,
    sightings: Vec<Sighting<'a>>,
    rewrites: Vec<String>,
    /// Where a bridge flooded it to hosts that it did not concern.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flooded: Vec<Sighting<'a>>,
}

#[derive(Serialize)]
struct Sighting<'a> {
    point: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    frame: u64,
    /// Where one frame is several at another point (GRO, TSO): the bytes of the payload that this one holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<Part>,
}

#[derive(Serialize)]
struct Part {
    offset: u32,
    len: u32,
}

fn point(trace: &Trace, number: u32) -> &str {
    trace.points.get(number as usize).map_or("?", |p| p.name.as_str())
}

fn file(trace: &Trace, number: u32) -> &str {
    trace.points.get(number as usize).map_or("?", |p| p.file_name.as_str())
}

fn hop<'a>(trace: &'a Trace, hop: &'a Hop) -> HopV1<'a> {
    HopV1 {
        point: point(trace, hop.point),
        frame: hop.frame,
        time: hop.time.as_seconds(),
        src_mac: hop.src_mac.map(|mac| mac.to_string()),
        dst_mac: hop.dst_mac.map(|mac| mac.to_string()),
        src: hop.src.to_string(),
        dst: hop.dst.to_string(),
        ttl: hop.ttl,
        vlans: hop.vlans.ids(),
        outer: hop.outer.map(|(_, src, dst)| [src, dst]),
        rewrites: hop.rewrites.iter().map(ToString::to_string).collect(),
        by: hop.from.filter(|_| !hop.rewrites.is_empty()).map(|host| trace.host_name(Some(host))),
    }
}

fn flow<'a>(trace: &'a Trace, flow: &'a Flow, findings: &'a [&'static str]) -> FlowV1<'a> {
    let name = |host: Option<usize>| host.map(|host| trace.host_name(Some(host)));
    FlowV1 {
        id: flow.id,
        protocol: flow.protocol.to_string(),
        client: flow.client.to_string(),
        service: flow.service.to_string(),
        vip: flow.vip.map(|vip| vip.to_string()),
        real_server: flow.real_server.map(|rs| rs.to_string()),
        method: flow.method.to_string(),
        state: flow.state.to_string(),
        stalled: flow.stalled.map(|way| way.to_string()),
        client_host: name(flow.client_host),
        director: name(flow.director),
        server_host: name(flow.server_host),
        request: flow.request.hops.iter().map(|h| hop(trace, h)).collect(),
        reply: flow.reply.hops.iter().map(|h| hop(trace, h)).collect(),
        strays: flow.request.strays.iter().chain(&flow.reply.strays).map(|h| hop(trace, h)).collect(),
        findings,
    }
}

fn finding<'a>(trace: &'a Trace, f: &'a Finding) -> FindingV1<'a> {
    let evidence = |e: &'a Evidence| match e {
        Evidence::Frames { point: at, frames, time, what } => {
            EvidenceV1::Frames { point: point(trace, *at), file: file(trace, *at), frames, time: time.map(|t| t.as_seconds()), what }
        }
        Evidence::Absence { point: at, what } => EvidenceV1::Absence { point: point(trace, *at), file: file(trace, *at), what },
        Evidence::Host { host, fact, source } => EvidenceV1::Host { host, fact, source },
        Evidence::Statement { by, what } => EvidenceV1::Statement { by, what },
    };
    FindingV1 {
        code: f.code,
        name: f.name,
        severity: f.severity.to_string(),
        confidence: f.confidence.to_string(),
        subject: &f.subject,
        summary: &f.summary,
        flows: &f.flows,
        evidence: f.evidence().iter().map(evidence).collect(),
        alternatives: &f.alternatives,
        settle: f.settle.as_deref(),
        remedy: f.remedy.iter().map(|r| RemedyV1 { host: &r.host, command: &r.command, permanent: &r.permanent, undo: &r.undo }).collect(),
    }
}

fn journey<'a>(trace: &'a Trace, several: &[bool], j: &trace::Journey) -> Journey<'a> {
    let sighting = |s: &trace::JourneySighting| Sighting {
        point: point(trace, s.point),
        file: trace.points.get(s.point as usize).filter(|p| several.get(p.file) == Some(&true)).map(|p| p.file_name.as_str()),
        frame: s.frame,
        part: s.part.map(|part| Part { offset: part.offset, len: part.len }),
    };
    Journey {
        flow: j.flow,
        direction: j.way.to_string(),
        sightings: j.sightings.iter().map(sighting).collect(),
        rewrites: j.rewrites.iter().map(ToString::to_string).collect(),
        flooded: j.flooded.iter().map(sighting).collect(),
    }
}

/// Which files hold more than one point: there a frame number alone does not say which file to open.
fn several_points(trace: &Trace) -> Vec<bool> {
    let files = trace.points.iter().map(|p| p.file + 1).max().unwrap_or(0);
    (0..files).map(|file| trace.points.iter().filter(|p| p.file == file).count() > 1).collect()
}

/// Streams a list while it is made, so that a million flows need no memory.
struct Streamed<I>(RefCell<Option<I>>);

impl<T: Serialize, I: Iterator<Item = T>> Serialize for Streamed<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for item in self.0.borrow_mut().take().into_iter().flatten() {
            list.serialize_element(&item)?;
        }
        list.end()
    }
}

fn streamed<I>(items: I) -> Streamed<I> {
    Streamed(RefCell::new(Some(items)))
}

/// A flow with its codes, put together when it is its turn.
struct Whole<'a> {
    trace: &'a Trace,
    flow: Cow<'a, Flow>,
    findings: &'a [&'static str],
}

impl Serialize for Whole<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        flow(self.trace, &self.flow, self.findings).serialize(serializer)
    }
}

struct Document<'a>(Report<'a>);

impl<'a> Document<'a> {
    fn inputs(&self) -> Vec<Input<'a>> {
        let mut inputs = Vec::new();
        for input in self.0.inputs {
            let damage = input.damage.as_deref();
            for number in &input.points {
                let Some(p) = self.0.trace.points.get(*number as usize) else { continue };
                // The files of a rotated capture have their points in common.
                let shared = self.0.inputs.iter().filter(|other| other.points.contains(number)).count() > 1;
                inputs.push(Input {
                    file: &input.file,
                    point: Some(&p.name),
                    frames: if shared { input.frames } else { p.frames },
                    link_type: Some(p.link_type.to_string()),
                    snap_len: (p.snap_len != 0).then_some(p.snap_len),
                    dropped: p.dropped,
                    damage,
                });
            }
            if input.points.is_empty() {
                inputs.push(Input {
                    file: &input.file,
                    point: None,
                    frames: input.frames,
                    link_type: None,
                    snap_len: None,
                    dropped: None,
                    damage,
                });
            }
        }
        inputs
    }

    fn hosts(&self) -> impl Iterator<Item = Host<'a>> {
        let (trace, fleet) = (self.0.trace, self.0.fleet);
        let traced = trace.hosts.iter().map(|host| Host {
            name: &host.name,
            role: host.role.to_string(),
            macs: host.macs.iter().map(ToString::to_string).collect(),
            addresses: host.addresses.clone(),
            points: host.points.iter().map(|p| point(trace, *p)).collect(),
        });
        let fresh = fleet.members.iter().filter(|m| trace.hosts.iter().all(|h| h.name != m.host.name));
        traced.chain(fresh.map(|m| Host {
            name: &m.host.name,
            role: m.role.to_string(),
            macs: m.host.links().iter().filter_map(|l| l.mac).filter(|mac| mac.is_unicast()).map(|mac| mac.to_string()).collect(),
            addresses: m.host.addresses().iter().filter(|a| a.is_global()).map(|a| a.addr.addr()).collect(),
            points: Vec::new(),
        }))
    }

    fn services(&self) -> impl Iterator<Item = Service> {
        let trace = self.0.trace;
        let traced = services(trace).into_iter().map(|s| Service {
            service: s.service.to_string(),
            vip: s.vip.map(|vip| vip.to_string()),
            protocol: s.protocol.to_string(),
            method: s.method.to_string(),
            flows: s.total(),
            complete: s.complete,
            real_servers: s
                .servers
                .iter()
                .map(|r| RealServer {
                    address: r.address.map(|a| a.to_string()),
                    host: r.host.map(|h| trace.host_name(Some(h)).to_string()),
                    flows: r.flows,
                })
                .collect(),
        });
        // Without packets, the services of the hosts' tables.
        let of_hosts = self.0.fleet.services.iter().filter(|_| trace.points.is_empty());
        traced.chain(of_hosts.map(|s| self.table_service(s)))
    }

    fn table_service(&self, served: &Served) -> Service {
        let fleet = self.0.fleet;
        let service = &served.service;
        let mut methods: Vec<&str> = service.destinations.iter().map(|d| d.method.as_str()).collect();
        methods.dedup();
        let host = |addr| fleet.owners(addr).first().map(|at| fleet.members[*at].host.name.clone());
        let servers =
            service.destinations.iter().map(|d| RealServer { address: Some(d.address.to_string()), host: host(d.address.addr), flows: 0 });
        Service {
            service: service.name(),
            vip: service.address.map(|e| e.to_string()),
            protocol: service.protocol.map_or_else(|| "fwmark".to_string(), |p| p.to_string()),
            method: if let [one] = methods.as_slice() { (*one).to_string() } else { "unknown".to_string() },
            flows: 0,
            complete: 0,
            real_servers: servers.collect(),
        }
    }

    fn clocks(&self) -> impl Iterator<Item = Clock<'a>> {
        let trace = self.0.trace;
        let of_file = |file: usize| trace.points.iter().find(|p| p.file == file).map_or("?", |p| p.name.as_str());
        trace.clocks.iter().map(move |c| Clock {
            point: of_file(c.file),
            reference: of_file(c.reference),
            offset_ns: c.offset,
            bound_ns: c.bound,
            drift_ppb: c.drift,
        })
    }

    fn not_judged(&self) -> impl Iterator<Item = NotJudged<'a>> {
        let skipped = self.0.diagnosis.into_iter().flat_map(|d| &d.not_judged);
        skipped.map(|(rule, need)| NotJudged { code: rule.code, needs: &need.0 })
    }
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let trace = self.0.trace;
        let codes = self.0.codes_by_flow();
        let none: &[&'static str] = &[];
        let flows = trace.all_flows().map(|flow| {
            let findings = codes.get(&flow.id).map_or(none, Vec::as_slice);
            Whole { trace, flow, findings }
        });
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schema", &SCHEMA)?;
        map.serialize_entry("tool", TOOL)?;
        map.serialize_entry("inputs", &self.inputs())?;
        map.serialize_entry("hosts", &streamed(self.hosts()))?;
        map.serialize_entry("services", &streamed(self.services()))?;
        map.serialize_entry("flows", &streamed(flows))?;
        if let Some(diagnosis) = self.0.diagnosis {
            map.serialize_entry("findings", &streamed(diagnosis.findings.iter().map(|f| finding(trace, f))))?;
            map.serialize_entry("clear", &diagnosis.clear)?;
            map.serialize_entry("not_judged", &streamed(self.not_judged()))?;
            if !self.0.fleet.members.is_empty() {
                map.serialize_entry("checks", &streamed(diagnosis.checks.iter().map(check)))?;
            }
        }
        map.serialize_entry("unplaced", &trace.unplaced)?;
        map.serialize_entry("clocks", &streamed(self.clocks()))?;
        map.end()
    }
}

/// Writes the whole report as one JSON object.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_report(report: Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Document(report))?;
    writeln!(out)
}

#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    body: T,
}

fn line<T: Serialize>(out: &mut dyn Write, kind: &str, body: T) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Line { kind, body })?;
    writeln!(out)
}

/// A moment of live packets.
#[derive(Serialize)]
struct Moment {
    time: f64,
    packets: u64,
    flows: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    forgotten: Option<ForgottenV1>,
}

#[derive(Serialize)]
struct ForgottenV1 {
    flows: u64,
    failed: u64,
}

/// Flows shown with a finding that has just become clear.
const SHOWN: usize = 3;

/// Writes what has just become clear: the moment, a few flows of each finding, the findings. Numbers of flows hold until the next moment.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_moment(report: Report<'_>, when: crate::net::Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let trace = report.trace;
    line(out, "moment", Moment { time: when.as_seconds(), packets: trace.packets, flows: trace.flow_count(), forgotten: None })?;
    let codes = report.codes_by_flow();
    let mut shown: Vec<u32> = report.diagnosis.iter().flat_map(|d| &d.findings).flat_map(|f| f.flows.iter().take(SHOWN)).copied().collect();
    shown.sort_unstable();
    shown.dedup();
    for f in shown.iter().filter_map(|id| trace.flow(*id)) {
        line(out, "flow", flow(trace, &f, codes.get(&f.id).map_or(&[], Vec::as_slice)))?;
    }
    for f in report.diagnosis.iter().flat_map(|d| &d.findings) {
        line(out, "finding", finding(trace, f))?;
    }
    Ok(())
}

/// Begins the last moment; `forgotten` are connections that were counted and not kept, and how many of them failed.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_end(report: Report<'_>, forgotten: (u64, u64), out: &mut dyn Write) -> io::Result<()> {
    let trace = report.trace;
    let time = trace.points.iter().filter(|p| p.frames > 0).map(|p| p.last.as_seconds()).fold(0.0, f64::max);
    let forgotten = (forgotten.0 > 0).then_some(ForgottenV1 { flows: forgotten.0, failed: forgotten.1 });
    line(out, "end", Moment { time, packets: trace.packets, flows: trace.flow_count(), forgotten })
}

/// Writes the report as lines, each a JSON object with its `type`: findings first, then services and flows.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_lines(report: Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let document = Document(report);
    for f in report.diagnosis.iter().flat_map(|d| &d.findings) {
        line(out, "finding", finding(report.trace, f))?;
    }
    for input in document.inputs() {
        line(out, "input", input)?;
    }
    for host in document.hosts() {
        line(out, "host", host)?;
    }
    for service in document.services() {
        line(out, "service", service)?;
    }
    let codes = report.codes_by_flow();
    for f in report.trace.all_flows() {
        line(out, "flow", flow(report.trace, &f, codes.get(&f.id).map_or(&[], Vec::as_slice)))?;
    }
    for skipped in document.not_judged() {
        line(out, "not-judged", skipped)?;
    }
    for one in report.diagnosis.iter().flat_map(|d| &d.checks) {
        line(out, "check", check(one))?;
    }
    for clock in document.clocks() {
        line(out, "clock", clock)?;
    }
    Ok(())
}

/// Writes one flow as a JSON object.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_flow(report: Report<'_>, one: &Flow, out: &mut dyn Write) -> io::Result<()> {
    let codes = report.codes_by_flow();
    serde_json::to_writer(&mut *out, &flow(report.trace, one, codes.get(&one.id).map_or(&[], Vec::as_slice)))?;
    writeln!(out)
}

/// Writes every flow as a line.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_flows(report: Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    for f in report.trace.all_flows() {
        serde_json::to_writer(&mut *out, &flow(report.trace, &f, &[]))?;
        writeln!(out)?;
    }
    Ok(())
}

/// Writes each packet's way as a line.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_journeys(trace: &Trace, only: Option<u32>, out: &mut dyn Write) -> io::Result<()> {
    let several = several_points(trace);
    for j in trace.journeys().filter(|j| only.is_none_or(|flow| flow == j.flow)) {
        serde_json::to_writer(&mut *out, &journey(trace, &several, &j))?;
        writeln!(out)?;
    }
    Ok(())
}
