//! `lvscope lab`: healthy and broken set-ups on this machine, without root.

use super::output::Output;
use super::{FINDINGS, FINE, Failure};
use crate::case::{CaptureArg, Limits, Reading, read};
use crate::lab::play::{Played, Stage};
use crate::lab::scenario::Scenario;
use crate::lab::{catalogue, sandbox};
use crate::report::{self, Page, Report};
use crate::rules::{self, Facts};
use crate::trace::{Hints, Options};
use clap::{Args, Subcommand};
use std::io::Write;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct Lab {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the scenarios
    List,
    /// Build a scenario, break it, talk to it, and diagnose it
    Run(Run),
    /// Run a command as root of an empty network of its own
    #[command(hide = true)]
    Enter(Enter),
}

#[derive(Args)]
struct Run {
    /// Scenarios by name, or files that end with .toml
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Keep the captures in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Args)]
struct Enter {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    words: Vec<std::ffi::OsString>,
}

pub(super) fn run(args: &Lab, out: &mut Output) -> Result<u8, Failure> {
    match &args.command {
        Command::List => list(out),
        Command::Run(args) => play(args, out),
        Command::Enter(args) => enter(args),
    }
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::input(e.to_string())
}

fn list(out: &mut Output) -> Result<u8, Failure> {
    for name in catalogue::names() {
        let scenario = catalogue::open(name).map_err(failed)?;
        writeln!(out, "{name:<28} {:<10} {}", scenario.codes.join(" "), scenario.title)?;
    }
    Ok(FINE)
}

/// Captures read and judged.
fn diagnose(played: &Played, hints: &Hints) -> Result<(Reading, rules::Diagnosis), Failure> {
    let captures: Vec<CaptureArg> = played.captures.iter().map(|path| CaptureArg { path: path.clone(), point: None }).collect();
    let options = Options { hints: hints.clone(), ..Options::default() };
    let reading = read(&captures, options, Limits::default(), |_| ());
    let diagnosis = rules::diagnose(&Facts { trace: &reading.trace, hints });
    Ok((reading, diagnosis))
}

fn play(args: &Run, out: &mut Output) -> Result<u8, Failure> {
    let scenarios: Vec<Scenario> = args.names.iter().map(|name| catalogue::open(name).map_err(failed)).collect::<Result<_, _>>()?;
    sandbox::enter().map_err(failed)?;
    let mut code = FINE;
    for scenario in &scenarios {
        let begun = std::time::Instant::now();
        let mut stage = Stage::set(scenario).map_err(failed)?;
        let folder = args.keep.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("lvscope-{}", std::process::id())));
        let played = stage.play(&folder).map_err(failed)?;
        writeln!(out, "{}: {:?} {:?}", scenario.name, played.saw, begun.elapsed())?;
        let hints = Hints::default();
        let (reading, diagnosis) = diagnose(&played, &hints)?;
        let report = Report { inputs: &[], trace: &reading.trace, diagnosis: Some(&diagnosis) };
        let width = out.width;
        report::diagnosis(&mut Page::new(out, width, false), &report, false)?;
        if !diagnosis.findings.is_empty() {
            code = FINDINGS;
        }
    }
    Ok(code)
}

fn enter(args: &Enter) -> Result<u8, Failure> {
    use std::os::unix::process::CommandExt;
    sandbox::enter().map_err(failed)?;
    let Some((program, rest)) = args.words.split_first() else { return Ok(FINE) };
    Err(failed(std::process::Command::new(program).args(rest).exec()))
}
