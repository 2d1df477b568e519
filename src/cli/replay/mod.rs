//! `lvscope replay`: evidence in, expectation checked.

mod lines;

use super::captures::reason;
use super::output::Output;
use super::{FINDINGS, FINE, Failure, INPUT, NOTHING};
use crate::case::{self, CaseError, Code, Difference, Replayed};
use crate::finding::{Finding, Severity};
use crate::net::plural;
use crate::report::{Check, End, Suite, junit, tap};
use clap::Args;
use lines::Lines;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Args)]
#[command(after_help = "\
A case is a folder with a case.toml and captures called HOST.IFACE.pcap or .pcapng (with .gz or .zst).

Examples:
  lvscope replay fixtures
  lvscope replay fixtures --only nat --junit report.xml
  lvscope replay --bless ticket-4711

Exit status: 0 all as expected, 1 differences, 2 wrong usage, 3 a case cannot be read, 4 no case.")]
pub(super) struct Replay {
    /// Case folders, or folders with case folders somewhere in them
    #[arg(required = true, value_name = "CASE")]
    cases: Vec<PathBuf>,
    /// Only cases with this word in their path
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// Write what comes out into each case.toml as what has to
    #[arg(long)]
    bless: bool,
    /// Also write the results as JUnit XML (`-` is standard output)
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the results as TAP, the Test Anything Protocol
    #[arg(long)]
    tap: bool,
}

/// How many cases ended how.
#[derive(Default)]
struct Tally {
    /// As expected.
    fine: u64,
    /// As expected, which is less than it ought to be.
    not_yet: u64,
    different: u64,
    /// Nobody has said what to expect.
    unjudged: u64,
    unreadable: u64,
    /// Written anew; they are `fine` too.
    blessed: u64,
}

/// A case that has been played, or could not be.
struct Played {
    name: String,
    took: Duration,
    result: Result<Replayed, CaseError>,
    /// Its `case.toml` says now what came out.
    blessed: bool,
}

pub(super) fn run(args: &Replay, out: &mut Output) -> Result<u8, Failure> {
    let junit_out = args.junit.as_ref().is_some_and(|file| file.as_os_str() == "-");
    if junit_out && args.tap {
        return Err(Failure::usage("--tap and --junit - both want standard output; give --junit a file"));
    }
    // Where programs read standard output, people get nothing there.
    let speaks = !junit_out && !args.tap;
    let begun = Instant::now();
    let (unread, folders) = folders(args);
    let (width, widest) = (out.width, folders.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0));
    let mut tally = Tally::default();
    let mut suite = Suite { name: "lvscope replay".to_string(), checks: Vec::new() };
    let unread = unread.into_iter().map(|(name, e)| Played { name, took: Duration::ZERO, result: Err(e), blessed: false });
    for played in unread.chain(folders.into_iter().map(|(name, folder)| play(name, &folder, args.bless))) {
        let end = tally.count(&played);
        if speaks {
            let mut lines = Lines::new(out, width, widest);
            lines.case(&played, &end)?;
        }
        suite.checks.push(Check { name: played.name, seconds: played.took.as_secs_f64(), end });
    }
    if args.tap {
        tap::write(&suite, out)?;
    } else if speaks {
        Lines::new(out, width, widest).summary(&tally, args.only.as_deref(), begun.elapsed())?;
    }
    match &args.junit {
        Some(_) if junit_out => junit::write(&suite, out)?,
        Some(file) => {
            write_junit(&suite, file).map_err(|e| Failure::input(format!("{}: cannot be written: {}", file.display(), reason(&e))))?
        }
        None => {}
    }
    Ok(match () {
        () if tally.unreadable > 0 => INPUT,
        () if suite.checks.is_empty() => NOTHING,
        () if tally.different + tally.unjudged > 0 => FINDINGS,
        () => FINE,
    })
}

/// Paths that cannot be looked through, with the reason; and the cases, by their path under the folder that was asked for.
#[allow(clippy::type_complexity)]
fn folders(args: &Replay) -> (Vec<(String, CaseError)>, Vec<(String, PathBuf)>) {
    let (mut unread, mut folders) = (Vec::new(), Vec::<(String, PathBuf)>::new());
    let wanted = |folder: &Path| args.only.as_ref().is_none_or(|word| folder.to_string_lossy().contains(word));
    for path in &args.cases {
        match case::find(path) {
            Err(e) => unread.push((path.display().to_string(), e)),
            Ok(found) => {
                for folder in found.into_iter().filter(|folder| wanted(folder)) {
                    // A path may be named twice, or lie in another one.
                    if folders.iter().all(|(_, known)| *known != folder) {
                        folders.push((name(path, &folder), folder));
                    }
                }
            }
        }
    }
    (unread, folders)
}

fn name(asked: &Path, folder: &Path) -> String {
    let under = folder.strip_prefix(asked).unwrap_or(folder);
    if !under.as_os_str().is_empty() {
        return under.display().to_string();
    }
    folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn play(name: String, folder: &Path, bless: bool) -> Played {
    let start = Instant::now();
    let mut result = case::replay(folder);
    let took = start.elapsed();
    let mut blessed = false;
    if bless && let Ok(replayed) = &result {
        match replayed.bless() {
            Ok(changed) => blessed = changed,
            Err(e) => result = Err(e),
        }
    }
    Played { name, took, result, blessed }
}

impl Tally {
    /// Counts a case, and says what became of it.
    fn count(&mut self, played: &Played) -> End {
        let replayed = match &played.result {
            Ok(replayed) => replayed,
            Err(e) => {
                self.unreadable += 1;
                return End::Error(e.to_string());
            }
        };
        let seen = seen(replayed);
        if played.blessed {
            self.blessed += 1;
        }
        // What is written down now is what the next replay goes by.
        let expect = if played.blessed { Some(&replayed.came_out) } else { replayed.case.manifest.expect.as_ref() };
        let not_yet: Vec<&str> = expect.iter().flat_map(|expect| &expect.not_yet).map(Code::as_str).collect();
        match &replayed.differences {
            None if !played.blessed => {
                self.unjudged += 1;
                End::Failed(format!("no expectation yet; {seen}"), String::new())
            }
            Some(differences) if !differences.is_empty() && !played.blessed => {
                self.different += 1;
                End::Failed(format!("{}: not as expected", about(differences)), differences.iter().map(in_full).collect())
            }
            _ if !not_yet.is_empty() => {
                self.not_yet += 1;
                End::NotYet(seen, format!("{} not found yet", not_yet.join(" ")))
            }
            _ => {
                self.fine += 1;
                End::Passed(seen)
            }
        }
    }
}

/// What came out, in a few words: `NAT001, 2 flows`. Where nothing is broken, what is at risk.
fn seen(replayed: &Replayed) -> String {
    let codes = |of: &dyn Fn(&Finding) -> bool| {
        let mut codes: Vec<&str> = Vec::new();
        for finding in replayed.diagnosis.findings.iter().filter(|finding| of(finding)) {
            if !codes.contains(&finding.code) {
                codes.push(finding.code);
            }
        }
        codes.join(" ")
    };
    let (faults, risks) = (codes(&case::accuses), codes(&|finding| finding.severity == Severity::Risky));
    let found = match (faults.as_str(), risks.as_str()) {
        ("", "") => "no fault".to_string(),
        ("", risks) => format!("{risks} risky"),
        (faults, _) => faults.to_string(),
    };
    format!("{found}, {}", plural(replayed.reading.trace.flow_count() as u64, "flow"))
}

/// What differs: `findings, 3 groups of flows`.
fn about(differences: &[Difference]) -> String {
    let mut words: Vec<String> = differences.iter().map(|d| d.about.clone()).filter(|about| !about.starts_with("flow ")).collect();
    match differences.len() - words.len() {
        0 => {}
        1 => words.push("1 group of flows".to_string()),
        n => words.push(format!("{n} groups of flows")),
    }
    words.join(", ")
}

fn in_full(difference: &Difference) -> String {
    let lines: String = difference.lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("{}\n{lines}", difference.about)
}

fn write_junit(suite: &Suite, file: &Path) -> io::Result<()> {
    let mut to = BufWriter::new(File::create(file)?);
    junit::write(suite, &mut to)?;
    to.flush()
}
