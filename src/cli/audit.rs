//! `lvscope audit`: what is wrong on this machine, or on those of which there are snapshots.

use super::diagnose::FailOn;
use super::output::Output;
use super::snapshot::Live;
use super::{FINDINGS, FINE, Failure, Format, NOTHING, WrittenAs, snapshots};
use crate::finding::{Finding, Severity};
use crate::host::Fleet;
use crate::ipvs::Role;
use crate::net::Endpoint;
use crate::report::{self, Input, Page, Report, Shown};
use crate::rules::{self, Diagnosis, Facts, Verdict};
use crate::trace::{Hints, Options, Tracer, role_of_name};
use clap::{Args, ValueEnum};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope audit                                    this machine
  lvscope audit director.host.json web*.host.json  several machines, judged together
  lvscope audit --role real-server --service 192.168.224.13:80 --peer director=192.168.224.14

Nothing is changed. Exit status with --exit-style nagios: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.")]
pub(super) struct Audit {
    /// Snapshots, or folders of them; without any, this machine is looked at
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<PathBuf>,
    #[command(flatten)]
    live: Live,
    /// The part that the host plays: director, real-server, router, client; HOST=ROLE for one of several
    #[arg(long, value_name = "[HOST=]ROLE", value_parser = snapshots::part)]
    role: Vec<(Option<String>, Role)>,
    /// A virtual service that it is for
    #[arg(long, value_name = "VIP:PORT")]
    service: Vec<Endpoint>,
    /// The address of a host of which there is no snapshot: director=ADDRESS, router=ADDRESS
    #[arg(long, value_name = "ROLE=ADDRESS", value_parser = snapshots::peer)]
    peer: Vec<(Role, IpAddr)>,
    /// Report on this host alone, in full; all of them are judged together
    #[arg(long, value_name = "HOST")]
    on: Vec<String>,
    /// Exit with 1 for findings of this severity or worse
    #[arg(long, value_enum, default_value_t = FailOn::Broken, value_name = "SEVERITY")]
    fail_on: FailOn,
    /// List every check: passed, failed, not judged
    #[arg(long)]
    checks: bool,
    /// List the rules that lacked evidence, and what they would need
    #[arg(long)]
    not_judged: bool,
    #[command(flatten)]
    written: WrittenAs,
    /// Write a JUnit file, too (`-`: instead of the report)
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write a SARIF file, too (`-`: instead of the report)
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// What the exit status means
    #[arg(long, value_enum, default_value_t = ExitStyle::Plain, value_name = "STYLE")]
    exit_style: ExitStyle,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExitStyle {
    /// 0 nothing at or above --fail-on, 1 findings, 4 nothing could be judged
    Plain,
    /// 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and a status line first
    Nagios,
}

pub(super) fn run(args: &Audit, out: &mut Output) -> Result<u8, Failure> {
    match judge(args, out) {
        // To a monitor everything that could not be done is UNKNOWN.
        Err(failure) if args.exit_style == ExitStyle::Nagios && !failure.text.is_empty() => {
            writeln!(out, "LVSCOPE UNKNOWN - {}", failure.text.lines().next().unwrap_or_default())?;
            Ok(3)
        }
        other => other,
    }
}

fn judge(args: &Audit, out: &mut Output) -> Result<u8, Failure> {
    let read = match args.snapshots.is_empty() {
        true => vec![("this machine".to_string(), args.live.collect()?)],
        false => snapshots::read(&args.snapshots)?,
    };
    let (names, hosts): (Vec<String>, Vec<_>) = read.into_iter().unzip();
    if let Some((host, _)) = args.role.iter().find(|(host, _)| host.as_ref().is_some_and(|host| hosts.iter().all(|h| h.name != *host))) {
        return Err(Failure::usage(format!("--role {}=…: no snapshot of a host of that name", host.as_deref().unwrap_or_default())));
    }
    if let Some(unknown) = args.on.iter().find(|on| hosts.iter().all(|h| h.name != **on)) {
        return Err(Failure::usage(format!("--on {unknown}: no snapshot of a host of that name")));
    }
    let given = |name: &str| {
        let own = args.role.iter().find(|(host, _)| host.as_deref() == Some(name));
        own.or_else(|| args.role.iter().find(|(host, _)| host.is_none())).map(|(_, role)| *role)
    };
    let mut fleet = Fleet::new(hosts, role_of_name, given, &args.service);
    fleet.peers.clone_from(&args.peer);
    let trace = Tracer::new(Options::default()).finish();
    let hints = Hints { services: args.service.clone(), ..Hints::default() };
    let mut diagnosis = rules::diagnose(&Facts { trace: &trace, hints: &hints, fleet: &fleet });
    if !args.on.is_empty() {
        diagnosis = diagnosis.on_hosts(&args.on);
    }
    let inputs: Vec<Input> = names.into_iter().map(|file| Input { file, frames: 0, damage: None, points: Vec::new() }).collect();
    let report = Report { inputs: &inputs, trace: &trace, diagnosis: Some(&diagnosis), fleet: &fleet };
    if args.exit_style == ExitStyle::Nagios {
        writeln!(out, "{}", status_line(&diagnosis))?;
    }
    if [&args.junit, &args.sarif].into_iter().flatten().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(Failure::usage("--junit - and --sarif -: standard output can be one of them; write the other into a file"));
    }
    let instead = [&args.junit, &args.sarif].into_iter().flatten().any(|path| path.as_os_str() == "-");
    if !instead {
        match args.written.format() {
            Format::Table => {
                let width = out.width;
                let shown = Shown { checks: args.checks, not_judged: args.not_judged, on: &args.on };
                report::audit(&mut Page::new(out, width, false), &report, shown)?;
            }
            Format::Json => report::json::write_report(report, out)?,
            Format::Ndjson => report::json::write_lines(report, out)?,
        }
    }
    if let Some(path) = &args.junit {
        to(path, out, |w| report::junit::write(&report::audit_suite(&report), w))?;
    }
    if let Some(path) = &args.sarif {
        to(path, out, |w| report::sarif::write(&report, w))?;
    }
    let worst = diagnosis.findings.iter().map(|f| f.severity).max();
    let judged = diagnosis.checks.iter().any(|c| !matches!(c.verdict, Verdict::NotJudged(_)));
    Ok(match (args.exit_style, worst) {
        (ExitStyle::Nagios, Some(Severity::Broken)) => 2,
        (ExitStyle::Nagios, Some(Severity::Degraded | Severity::Risky)) => 1,
        (ExitStyle::Nagios, _) => {
            if judged {
                0
            } else {
                3
            }
        }
        (ExitStyle::Plain, _) if diagnosis.findings.iter().any(|f| args.fail_on.reached(f.severity)) => FINDINGS,
        (ExitStyle::Plain, None | Some(Severity::Note)) if !judged => NOTHING,
        (ExitStyle::Plain, _) => FINE,
    })
}

/// `LVSCOPE CRITICAL - ARP001 vip-arp-reply-leak on web1 | broken=1 degraded=0 risky=0 passed=23 not_judged=2`.
fn status_line(diagnosis: &Diagnosis) -> String {
    let count = |severity| diagnosis.findings.iter().filter(|f| f.severity == severity).count();
    let of = |passed: bool| {
        let verdict = |v: &Verdict| if passed { matches!(v, Verdict::Passed(_)) } else { matches!(v, Verdict::NotJudged(_)) };
        diagnosis.checks.iter().filter(|c| verdict(&c.verdict)).count()
    };
    let (broken, degraded, risky) = (count(Severity::Broken), count(Severity::Degraded), count(Severity::Risky));
    let word = match (broken, degraded + risky, of(true)) {
        (0, 0, 0) => "UNKNOWN",
        (0, 0, _) => "OK",
        (0, ..) => "WARNING",
        _ => "CRITICAL",
    };
    // A monitor shows a line.
    let named = |f: &Finding| {
        let mut hosts = f.subject.split(", ");
        let first: Vec<&str> = hosts.by_ref().take(3).collect();
        match hosts.count() {
            0 => format!("{} {} on {}", f.code, f.name, f.subject),
            more => format!("{} {} on {} and {more} more", f.code, f.name, first.join(", ")),
        }
    };
    let named: Vec<String> = diagnosis.findings.iter().take(3).map(named).collect();
    let what = if named.is_empty() { "no fault found".to_string() } else { named.join("; ") };
    format!("LVSCOPE {word} - {what} | broken={broken} degraded={degraded} risky={risky} passed={} not_judged={}", of(true), of(false))
}

fn to(path: &Path, out: &mut Output, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), Failure> {
    if path.as_os_str() == "-" {
        return Ok(write(out)?);
    }
    let wrong = |e: &std::io::Error| Failure::input(format!("{}: cannot be written: {}", path.display(), super::captures::reason(e)));
    let mut text = Vec::new();
    write(&mut text)?;
    std::fs::write(path, text).map_err(|e| wrong(&e))
}
