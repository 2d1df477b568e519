//! The door: clap arguments, a file a subcommand.

mod audit;
mod capture;
mod captures;
mod diagnose;
mod director;
mod explain;
mod lab;
mod live;
mod manual;
mod output;
mod probe;
mod replay;
mod show;
mod snapshot;
mod snapshots;
mod trace;
mod watch;

use clap::{Args, Parser, Subcommand, ValueEnum};
use output::Output;
use std::io::Write;
use std::process::ExitCode;

/// Nothing at or above `--fail-on`.
const FINE: u8 = 0;
/// Findings.
const FINDINGS: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// An input cannot be read, or a permission is missing.
const INPUT: u8 = 3;
/// Nothing could be judged.
const NOTHING: u8 = 4;

/// Finds out why a Linux Virtual Server (LVS/IPVS) is broken.
#[derive(Parser)]
#[command(
    name = "lvscope",
    version,
    max_term_width = 80,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Begin with: lvscope diagnose *.pcap\n\nExit status: 0 no fault, 1 faults found, 2 wrong usage, 3 unreadable input, 4 nothing could be judged."
)]
struct Cli {
    /// Colour in the output
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// What a report is written as.
#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Format {
    /// For people
    Table,
    /// One JSON object
    Json,
    /// A JSON object a line
    Ndjson,
}

/// The choice of a format.
#[derive(Args)]
struct WrittenAs {
    /// What to write
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,
    /// Short for --format json
    #[arg(short = 'j', long, conflicts_with = "format")]
    json: bool,
}

impl WrittenAs {
    fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Say what is wrong: every connection's way, and its fault with proof and remedy
    Diagnose(diagnose::Diagnose),
    /// Show connections, hop by hop, and what each hop rewrote
    Trace(trace::Trace),
    /// Print one packet a line, in tcpdump's notation, with point, number and MACs
    Show(show::Show),
    /// Capture on several interfaces and network namespaces into one file, or print
    Capture(capture::Capture),
    /// See connections come and go on the terminal: services, the way of each, findings
    Watch(watch::Watch),
    /// Ask the wire: who answers for an address, does a real server serve the VIP
    Probe(probe::Probe),
    /// Write down this machine's facts, or those that somebody sent as text, in one file each
    Snapshot(snapshot::Snapshot),
    /// Say what is wrong on this machine, or on those of which there are snapshots
    Audit(audit::Audit),
    /// Be the director: schedule, forward and replay as IPVS does, without the kernel
    Director(director::Director),
    /// Build healthy and broken set-ups on this machine, without root, and diagnose them
    Lab(lab::Lab),
    /// Play recorded cases again, and compare what comes out with what has to
    Replay(replay::Replay),
    /// Print the page of a fault, or list all of them
    Explain(explain::Explain),
    /// Print a shell's completions
    Completions(manual::Completions),
    /// Print the manual page
    Man,
}

/// An error that ends the command: what was attempted, on what, and what to do next.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn usage(text: impl Into<String>) -> Self {
        Failure { code: USAGE, text: text.into() }
    }

    fn input(text: impl Into<String>) -> Self {
        Failure { code: INPUT, text: text.into() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        // Whoever read our output has seen enough.
        match e.kind() {
            std::io::ErrorKind::BrokenPipe => Failure { code: FINE, text: String::new() },
            _ => Failure::input(format!("cannot write the output: {e}")),
        }
    }
}

/// Runs the command line, and says how it ended.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { USAGE } else { FINE });
        }
    };
    let mut out = Output::new(cli.color);
    let result = match &cli.command {
        Command::Diagnose(args) => diagnose::run(args, &mut out),
        Command::Trace(args) => trace::run(args, &mut out),
        Command::Show(args) => show::run(args, &mut out),
        Command::Capture(args) => capture::run(args, &mut out),
        Command::Watch(args) => watch::run(args),
        Command::Probe(args) => probe::run(args, &mut out),
        Command::Snapshot(args) => snapshot::run(args, &mut out),
        Command::Audit(args) => audit::run(args, &mut out),
        Command::Director(args) => director::run(args, &mut out),
        Command::Lab(args) => lab::run(args, &mut out),
        Command::Replay(args) => replay::run(args, &mut out),
        Command::Explain(args) => explain::run(args, &mut out),
        Command::Completions(args) => manual::completions(args, &mut out),
        Command::Man => manual::page(&mut out),
    };
    match result.and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.text.is_empty() {
                let _ = out.flush();
                output::complain(&failure.text);
            }
            ExitCode::from(failure.code)
        }
    }
}
