//! `lvscope lab`: healthy and broken set-ups on this machine, without root.

use super::output::Output;
use super::{FINDINGS, FINE, Failure};
use crate::lab::play::Stage;
use crate::lab::prove::{self, Proof, Remedied};
use crate::lab::scenario::Scenario;
use crate::lab::{catalogue, sandbox};
use crate::report::{self, Page, Report};
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
    /// Break, diagnose, run the printed remedy, and see that it works again
    Prove(Prove),
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
struct Prove {
    /// Scenarios by name, or files that end with .toml
    #[arg(required_unless_present = "all", value_name = "NAME")]
    names: Vec<String>,
    /// All scenarios
    #[arg(long, conflicts_with = "names")]
    all: bool,
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
        Command::Prove(args) => prove(args, out),
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
        let (reading, diagnosis) = prove::diagnose(&played);
        let report = Report { inputs: &[], trace: &reading.trace, diagnosis: Some(&diagnosis), fleet: &crate::host::Fleet::default() };
        let width = out.width;
        report::diagnosis(&mut Page::new(out, width, false), &report, false)?;
        if !diagnosis.findings.is_empty() {
            code = FINDINGS;
        }
    }
    Ok(code)
}

/// So many scenarios are played at once; they mostly wait.
const AT_ONCE: usize = 4;

fn prove(args: &Prove, out: &mut Output) -> Result<u8, Failure> {
    let names: Vec<String> = if args.all { catalogue::names().map(str::to_string).collect() } else { args.names.clone() };
    let scenarios: Vec<Scenario> = names.iter().map(|name| catalogue::open(name).map_err(failed)).collect::<Result<_, _>>()?;
    sandbox::enter().map_err(failed)?;
    let folder = std::env::temp_dir().join(format!("lvscope-{}", std::process::id()));
    let next = std::sync::atomic::AtomicUsize::new(0);
    let proofs = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(scenarios.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(at) else { return };
                    let proof = prove::prove(scenario, &folder.join(&scenario.name));
                    proofs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, proof));
                }
            });
        }
    });
    let _ = std::fs::remove_dir_all(&folder);
    let mut proofs = proofs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    proofs.sort_by_key(|(at, _)| *at);
    let mut code = FINE;
    for (at, proof) in proofs {
        match proof {
            Ok(proof) => {
                row(&proof, out)?;
                if !proof.holds() {
                    code = FINDINGS;
                }
            }
            Err(e) => {
                writeln!(out, "✗ {:<26} {e}", scenarios[at].name)?;
                code = FINDINGS;
            }
        }
    }
    Ok(code)
}

fn row(proof: &Proof, out: &mut Output) -> Result<(), Failure> {
    let mark = if proof.holds() { "✓" } else { "✗" };
    let remedy = match &proof.remedy {
        Remedied::Nothing => String::new(),
        Remedied::Green => "remedy works".to_string(),
        Remedied::NotTried => format!("{:?}", proof.cause),
        Remedied::NotRun(why) => format!("remedy not run: {why}"),
        Remedied::StillBroken(why) => format!("after the remedy {why}"),
    };
    writeln!(out, "{mark} {:<26} {:<24} {:?} {remedy} {:.1?}", proof.name, proof.found.join(" "), proof.cause, proof.diagnosed)?;
    Ok(())
}

fn enter(args: &Enter) -> Result<u8, Failure> {
    use std::os::unix::process::CommandExt;
    sandbox::enter().map_err(failed)?;
    let Some((program, rest)) = args.words.split_first() else { return Ok(FINE) };
    Err(failed(std::process::Command::new(program).args(rest).exec()))
}
