//! The first line: what became of the connections to a service.

use super::services::{Outcome, Service};
use super::settle::settle;
use super::{Page, Report};
use crate::finding::{Confidence, Finding, Severity};
use crate::net::{plural, thousands};
use crate::trace::Method;
use colored::Colorize;
use std::io;
use textwrap::core::display_width;

/// Services that get a line of their own; of more, the rest is counted.
const SERVICES: usize = 8;

/// How a service fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Health {
    Well,
    Troubled,
    Unknown,
}

impl Report<'_> {
    /// Findings that say that something is wrong now.
    pub(super) fn faults(&self) -> impl Iterator<Item = &Finding> {
        self.diagnosis.iter().flat_map(|d| &d.findings).filter(|f| f.severity >= Severity::Degraded)
    }

    /// Findings about a service: on its connections, or on no connection in particular.
    pub(super) fn faults_of(&self, service: &Service) -> Vec<&Finding> {
        let examples: Vec<u32> = service.groups.iter().flat_map(|g| &self.trace.groups[*g].examples).copied().collect();
        self.faults().filter(|f| f.flows.is_empty() || examples.iter().any(|id| f.flows.binary_search(id).is_ok())).collect()
    }

    /// How a service fares. Of checks that are answered no fault is the fault.
    pub(super) fn health(&self, service: &Service) -> Health {
        if service.checked_by.is_some() && service.failed() == 0 && service.complete > 0 {
            return Health::Well;
        }
        let proven = self.faults_of(service).iter().any(|f| f.confidence > Confidence::Possible);
        if service.failed() > 0 || proven {
            Health::Troubled
        } else if service.complete > 0 {
            Health::Well
        } else {
            Health::Unknown
        }
    }
}

/// The services that have something to tell, a line each; of the others their number.
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

/// `✗ 192.168.2.59:80 (LVS-NAT, 2 real servers): 4 of 4 connections get no answer`.
fn verdict(page: &mut Page<'_>, report: &Report<'_>, service: &Service) -> io::Result<()> {
    let health = report.health(service);
    let symbol = match health {
        Health::Well => "✓".green().bold(),
        Health::Troubled => "✗".red().bold(),
        Health::Unknown => "?".yellow().bold(),
    };
    let paint = |line: &str| if health == Health::Well { line.to_string() } else { line.bold().to_string() };
    let (name, built, outcome) = (name(service), built(report, service), outcome(report, service));
    let whole = format!("{name} ({built}): {outcome}");
    if display_width(&whole) + 2 <= page.width {
        return page.painted(&format!("{symbol} "), "  ", &whole, paint);
    }
    page.painted(&format!("{symbol} "), "  ", &format!("{name}: {outcome}"), paint)?;
    page.wrapped("  ", "  ", &built)
}

/// What is dialled, and what the director calls it.
fn name(service: &Service) -> String {
    let mut name = service.service.to_string();
    if service.protocol != crate::net::Protocol::Tcp {
        name = format!("{}/{name}", service.protocol);
    }
    if let Some(vip) = service.vip.filter(|vip| *vip != service.service) {
        name = format!("{name} > {vip}");
    }
    name
}

/// `router DNAT, LVS-DR, 2 real servers`.
fn built(report: &Report<'_>, service: &Service) -> String {
    if let Some(by) = service.checked_by {
        return format!("health checks by {}", report.trace.host_name(Some(by)));
    }
    let mut words = Vec::new();
    match service.translated {
        (true, true) => words.push("router DNAT+SNAT".to_string()),
        (true, false) => words.push("router DNAT".to_string()),
        (false, true) => words.push("router SNAT".to_string()),
        (false, false) => {}
    }
    match (service.balanced, service.method) {
        (false, Method::Direct | Method::Unknown) => words.push("no director seen".to_string()),
        (_, Method::Unknown) => words.push("several methods".to_string()),
        (_, method) => words.push(method_name(method).to_string()),
    }
    if service.balanced && !service.servers.is_empty() {
        words.push(plural(service.servers.len() as u64, "real server"));
    }
    words.join(", ")
}

/// As people say it.
pub fn method_name(method: Method) -> &'static str {
    match method {
        Method::Nat => "LVS-NAT",
        Method::DirectRouting => "LVS-DR",
        Method::Tunnel => "LVS-TUN",
        Method::FullNat => "FULLNAT",
        Method::Local => "local",
        Method::Direct => "direct",
        Method::Unknown => "not seen",
    }
}

fn outcome(report: &Report<'_>, service: &Service) -> String {
    let total = service.total();
    let word = if total == 1 { "connection" } else { "connections" };
    let of = |count: u64, outcome: Outcome| format!("{} of {} {word} {}", thousands(count), thousands(total), outcome.words(count));
    let Some(&(worst, count)) = service.others.first() else {
        let codes: Vec<&str> = report.faults_of(service).iter().map(|f| f.code).collect();
        let all = of(service.complete, Outcome::Complete);
        return if codes.is_empty() { all } else { format!("{all}, yet {}", codes.join(", ")) };
    };
    let mut text = of(count, worst);
    for (outcome, count) in &service.others[1..] {
        text += &format!(", {} {}", thousands(*count), outcome.words(*count));
    }
    if service.complete > 0 {
        text += &format!(", {} complete", thousands(service.complete));
    }
    text
}
