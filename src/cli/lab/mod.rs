//! `lvscope lab`: healthy and broken set-ups on this machine, without root.

mod inside;
mod list;
mod prove;

use super::output::Output;
use super::{FINDINGS, FINE, Failure};
use crate::finding::Severity;
use crate::lab::play::Stage;
use crate::lab::prove::{fleet, judge, reading};
use crate::lab::scenario::Scenario;
use crate::lab::scratch::{Scratch, vanish};
use crate::lab::traffic::Saw;
use crate::lab::{catalogue, draw, sandbox};
use crate::report::{self, Page, Report};
use clap::{Args, Subcommand, ValueEnum};
use std::io::Write;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope lab list
  lvscope lab run nat-rs-no-gateway
  lvscope lab prove --all
  lvscope lab shell dr-arp-leak router")]
pub(super) struct Lab {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the scenarios
    List(list::List),
    /// Build a scenario, break it, talk to it, and diagnose it
    Run(Run),
    /// Break, diagnose, run the printed remedy, and see that it works again
    Prove(prove::Prove),
    /// Play a scenario and keep it as a case for `lvscope replay`
    Record(inside::Record),
    /// Open a shell on a host of a scenario that stands, broken
    Shell(inside::Shell),
    /// Draw a scenario's hosts and networks as text
    Draw(Names),
    /// Run a command as root of an empty network of its own
    #[command(hide = true)]
    Enter(inside::Enter),
    /// Run one of the commands that scenarios are written in (ip, iptables, sysctl, arptables) in the network that one is in
    #[command(hide = true)]
    Do(inside::Enter),
}

#[derive(Args)]
struct Names {
    /// Scenarios by name, or files that end with .toml
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    director: Directors,
    /// Keep the captures in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// What to write
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,
    /// Show MAC addresses instead of host names
    #[arg(short = 'e', long = "macs")]
    macs: bool,
}

#[derive(Args)]
struct Directors {
    /// Who balances
    #[arg(long, value_enum, default_value_t = Who::Builtin, value_name = "WHO")]
    director: Who,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Who {
    /// The built-in director
    Builtin,
    /// The IPVS of this machine's kernel, in namespaces
    Kernel,
}

impl Directors {
    fn is_builtin(&self) -> bool {
        self.director == Who::Builtin
    }
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Format {
    /// For people
    Table,
    /// JSON, an object a line where there are several
    Json,
}

pub(super) fn run(args: &Lab, out: &mut Output) -> Result<u8, Failure> {
    match &args.command {
        Command::List(args) => list::run(args, out),
        Command::Run(args) => play(args, out),
        Command::Prove(args) => prove::run(args, out),
        Command::Record(args) => inside::record(args, out),
        Command::Shell(args) => inside::shell(args, out),
        Command::Draw(args) => {
            for (at, scenario) in args.open()?.iter().enumerate() {
                write!(out, "{}{}", if at > 0 { "\n" } else { "" }, draw::draw(scenario))?;
            }
            Ok(FINE)
        }
        Command::Enter(args) => inside::enter(args),
        Command::Do(args) => inside::here(args),
    }
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::input(e.to_string())
}

impl Names {
    fn open(&self) -> Result<Vec<Scenario>, Failure> {
        self.names.iter().map(|name| catalogue::open(name).map_err(failed)).collect()
    }
}

/// Becomes a machine of one's own with a folder of its own, which goes also when somebody ends this process.
fn enter() -> Result<Scratch, Failure> {
    sandbox::enter().map_err(|e| Failure::input(format!("no lab here: cannot {e}")))?;
    let scratch = Scratch::new().map_err(failed)?;
    let folder = scratch.path().to_path_buf();
    // Namespaces go with the process. A second handler is nobody's here, so this cannot fail for another's sake.
    let _ = ctrlc::set_handler(move || {
        vanish(&folder);
        std::process::exit(130);
    });
    Ok(scratch)
}

/// What clients saw, counted: `2 answered, 2 no connection (timed out)`.
fn seen(saw: &[Saw]) -> String {
    let mut kinds: Vec<Saw> = saw.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    let count = |kind: &Saw| format!("{} {kind}", saw.iter().filter(|one| *one == kind).count());
    kinds.iter().map(count).collect::<Vec<_>>().join(", ")
}

fn play(args: &Run, out: &mut Output) -> Result<u8, Failure> {
    let scenarios = args.names.open()?;
    let scratch = enter()?;
    let mut code = FINE;
    for scenario in &scenarios {
        let mut stage = Stage::directed(scenario, args.director.is_builtin()).map_err(failed)?;
        let own = |folder: &std::path::Path| if scenarios.len() > 1 { folder.join(&scenario.name) } else { folder.to_path_buf() };
        let folder = args.keep.as_deref().map_or_else(|| scratch.path().join(&scenario.name), own);
        let played = stage.play(&folder).map_err(failed)?;
        let (reading, fleet) = (reading(&played), fleet(&stage).map_err(failed)?);
        let diagnosis = judge(&reading.trace, &fleet);
        let mut inputs: Vec<report::Input> = reading.files.iter().cloned().map(super::captures::input).collect();
        // The folder is the lab's own, unless it is kept.
        if args.keep.is_none() {
            inputs.iter_mut().for_each(|input| input.file = input.file.rsplit('/').next().unwrap_or_default().to_string());
        }
        let report = Report { inputs: &inputs, trace: &reading.trace, diagnosis: Some(&diagnosis), fleet: &fleet };
        if args.format == Format::Json {
            report::json::write_report(report, out)?;
        } else {
            let cause = if scenario.is_healthy() { "nothing is wrong" } else { scenario.codes[0].as_str() };
            writeln!(out, "{}: {} ({cause})\nclients: {}\n", scenario.name, scenario.title, seen(&played.saw))?;
            let width = out.width;
            report::diagnosis(&mut Page::new(out, width, args.macs), &report, false)?;
            if args.keep.is_some() {
                writeln!(out, "\n  captures: {}", folder.display())?;
            }
        }
        out.flush()?;
        if diagnosis.findings.iter().any(|finding| finding.severity >= Severity::Broken) {
            code = FINDINGS;
        }
    }
    Ok(code)
}
