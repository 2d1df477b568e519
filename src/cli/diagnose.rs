//! `lvscope diagnose`: the main job.

use super::live::diagnose::Telling;
use super::live::{self, Given, Session, Source};
use super::output::Output;
use super::snapshots::Snapshots;
use super::{FINDINGS, FINE, Failure, Format, INPUT, NOTHING, WrittenAs};
use crate::finding::Severity;
use crate::host::Fleet;
use crate::report::{self, Outcome, Page, Report};
use crate::rules::{self, Diagnosis, Facts};
use crate::trace::Trace;
use clap::{Args, ValueEnum};

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope diagnose *.pcap
  lvscope diagnose director.eth0=d.pcap web1.eth0=w.pcap --ipvs rules.txt
  lvscope diagnose -i eth0 -i tunl0 --service 192.168.2.59:80
  ssh web1 lvscope capture -i all -w - | lvscope diagnose web1=-
  lvscope diagnose lb=<(ssh lb tcpdump -i eth0 -w -) web1=<(ssh web1 …)

Of interfaces and pipes each finding is told once, when it has become clear.
Ctrl-C ends it, and sums up.")]
pub(super) struct Diagnose {
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    hosts: Snapshots,
    /// Exit with 1 for findings of this severity or worse
    #[arg(long, value_enum, default_value_t = FailOn::Broken, value_name = "SEVERITY")]
    fail_on: FailOn,
    /// List the rules that lacked evidence, and what they would need
    #[arg(long)]
    not_judged: bool,
    /// Show MAC addresses instead of host names
    #[arg(short = 'e', long = "macs")]
    macs: bool,
    #[command(flatten)]
    written: WrittenAs,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum FailOn {
    Broken,
    Degraded,
    Risky,
    Note,
    Never,
}

impl FailOn {
    pub(super) fn reached(self, severity: Severity) -> bool {
        let least = match self {
            FailOn::Broken => Severity::Broken,
            FailOn::Degraded => Severity::Degraded,
            FailOn::Risky => Severity::Risky,
            FailOn::Note => Severity::Note,
            FailOn::Never => return false,
        };
        severity >= least
    }
}

pub(super) fn run(args: &Diagnose, out: &mut Output) -> Result<u8, Failure> {
    let hints = args.given.hints()?;
    let fleet = args.hosts.fleet(&hints.services)?;
    let format = args.written.format();
    if let Some(session) = Session::begin(Source { given: &args.given, packets: false, recent: false, play: None }, &hints)? {
        let telling = Telling { format, macs: args.macs, not_judged: args.not_judged, hints: &hints, fleet: &fleet };
        let ended = live::diagnose::run(session, &telling, |trace| name_hosts(trace, &fleet), out)?;
        return Ok(code(args, &ended.trace, &ended.diagnosis, ended.trouble));
    }
    let mut traced = args.given.captures.trace(hints.clone(), false)?;
    name_hosts(&mut traced.trace, &fleet);
    let diagnosis = rules::diagnose(&Facts { trace: &traced.trace, hints: &hints, fleet: &fleet });
    let report = Report { inputs: &traced.inputs, trace: &traced.trace, diagnosis: Some(&diagnosis), fleet: &fleet };
    match format {
        Format::Table => {
            let width = out.width;
            report::diagnosis(&mut Page::new(out, width, args.macs), &report, args.not_judged)?;
        }
        Format::Json => {
            traced.warn();
            report::json::write_report(report, out)?;
        }
        Format::Ndjson => {
            traced.warn();
            report::json::write_lines(report, out)?;
        }
    }
    let code = code(args, &traced.trace, &diagnosis, traced.unreadable);
    // The program ends here: to give back each of a hundred thousand connections on its own is time that nobody gains from.
    std::mem::forget((traced, diagnosis));
    Ok(code)
}

fn code(args: &Diagnose, trace: &Trace, diagnosis: &Diagnosis, unreadable: bool) -> u8 {
    if diagnosis.findings.iter().any(|f| args.fail_on.reached(f.severity)) {
        FINDINGS
    } else if unreadable {
        INPUT
    } else if !anything_judged(trace) && diagnosis.findings.iter().all(|f| f.severity == Severity::Note) {
        NOTHING
    } else {
        FINE
    }
}

/// Hosts that nobody named have the name of the snapshot with their MAC.
fn name_hosts(trace: &mut Trace, fleet: &Fleet) {
    for host in trace.hosts.iter_mut().filter(|host| !host.named) {
        if let Some(member) = fleet.by_mac(&host.macs).map(|at| &fleet.members[at]) {
            (host.name, host.named) = (member.host.name.clone(), true);
        }
    }
}

/// True when the packets prove of any connection what became of it.
fn anything_judged(trace: &Trace) -> bool {
    trace.flows.iter().any(|flow| Outcome::of(flow) != Outcome::Unseen)
}
