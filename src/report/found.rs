//! A finding, as people read it: what, where, by which proof, and how to mend it.

use super::Page;
use super::alike::{Alike, NAMED, hosts};
use super::text::pad;
use crate::finding::{Confidence, Evidence, Finding, Severity};
use crate::net::plural;
use crate::rules;
use crate::trace::Trace;
use colored::{ColoredString, Colorize};
use std::io;
use textwrap::core::display_width;

/// Names and ranges of names in a list of hosts.
const HOSTS: usize = 12;
/// Frame numbers of one piece of evidence.
const FRAMES: usize = 3;

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
