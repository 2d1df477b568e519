//! `lvscope replay`: evidence in, expectation checked.

use crate::case::{self, CaseError, Difference, Line, Replayed};
use crate::report::{Check, End, Suite, junit, tap};
use clap::Args;
use colored::Colorize;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// All as expected.
const FINE: u8 = 0;
/// Differences, or a case that nobody has judged.
const DIFFERENT: u8 = 1;
/// A case, or a capture of one, that cannot be read.
const UNREADABLE: u8 = 3;
/// No case at all.
const NONE: u8 = 4;

/// Columns of the lines for people.
const WIDTH: usize = 80;

#[derive(Args)]
#[command(after_help = "\
A case is a folder with a case.toml and captures called HOST.IFACE.pcap or .pcapng (with .gz or .zst).

Examples:
  lvscope replay fixtures
  lvscope replay fixtures --only nat --junit report.xml
  lvscope replay --bless ticket-4711

Exit status: 0 all as expected, 1 differences, 3 a case cannot be read, 4 no case.")]
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
    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the results as TAP, the Test Anything Protocol
    #[arg(long)]
    tap: bool,
}

impl Replay {
    /// Lines for people; not when standard output is a file for programs.
    fn speaks(&self) -> bool {
        !self.tap && self.junit.as_ref().is_none_or(|file| file.as_os_str() != "-")
    }
}

/// How many cases ended how.
#[derive(Default)]
struct Tally {
    fine: usize,
    different: usize,
    unjudged: usize,
    unreadable: usize,
    blessed: usize,
}

pub(super) fn run(args: &Replay, out: &mut impl Write) -> io::Result<u8> {
    let mut tally = Tally::default();
    let mut suite = Suite { name: "lvscope replay".to_string(), checks: Vec::new() };
    let mut folders: Vec<(String, PathBuf)> = Vec::new();
    for path in &args.cases {
        match case::find(path) {
            Ok(found) => {
                for folder in found.into_iter().filter(|folder| args.only.as_ref().is_none_or(|word| folder.to_string_lossy().contains(word))) {
                    if folders.iter().all(|(_, known)| *known != folder) {
                        folders.push((name(path, &folder), folder));
                    }
                }
            }
            Err(e) => unreadable(&path.display().to_string(), &e, Duration::ZERO, args, &mut suite, &mut tally, out)?,
        }
    }
    let widest = folders.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).clamp(12, 36);
    let begun = Instant::now();
    for (name, folder) in &folders {
        let start = Instant::now();
        let result = case::replay(folder);
        let took = start.elapsed();
        match result {
            Err(e) => unreadable(name, &e, took, args, &mut suite, &mut tally, out)?,
            Ok(replayed) => {
                let mut end = judge(&replayed, &mut tally);
                let mut blessed = false;
                if args.bless {
                    match replayed.bless() {
                        Ok(changed) => blessed = changed,
                        Err(e) => end = refused(&e, &mut tally),
                    }
                    tally.blessed += usize::from(blessed);
                }
                if args.speaks() {
                    line(name, widest, &end, blessed, took, out)?;
                    details(&replayed, &end, out)?;
                }
                suite.checks.push(Check { name: name.clone(), seconds: took.as_secs_f64(), end });
            }
        }
    }
    if args.tap {
        tap::write(&suite, out)?;
    } else if args.speaks() {
        summary(&tally, args, begun.elapsed(), out)?;
    }
    if let Some(file) = &args.junit {
        write_junit(&suite, file, out)?;
    }
    Ok(match () {
        () if tally.unreadable > 0 => UNREADABLE,
        () if suite.checks.is_empty() => NONE,
        () if tally.different + tally.unjudged > 0 && !args.bless => DIFFERENT,
        () => FINE,
    })
}

/// A case by its path under the folder that was asked for.
fn name(asked: &Path, folder: &Path) -> String {
    let under = folder.strip_prefix(asked).unwrap_or(folder);
    if !under.as_os_str().is_empty() {
        return under.display().to_string();
    }
    folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// What became of a case that could be read.
fn judge(replayed: &Replayed, tally: &mut Tally) -> End {
    match &replayed.differences {
        None => {
            tally.unjudged += 1;
            End::Failed(format!("{}; nobody has said yet what has to come out (--bless does)", seen(replayed)), String::new())
        }
        Some(differences) if differences.is_empty() => {
            tally.fine += 1;
            End::Passed(seen(replayed))
        }
        Some(differences) => {
            tally.different += 1;
            let full: String = differences.iter().map(in_full).collect();
            End::Failed(format!("{}: not as expected", about(differences)), full)
        }
    }
}

/// What was found, in a few words: codes, the worst first, or that there is none.
fn seen(replayed: &Replayed) -> String {
    let mut codes: Vec<&str> = Vec::new();
    for finding in replayed.diagnosis.findings.iter().filter(|finding| case::accuses(finding)) {
        if !codes.contains(&finding.code) {
            codes.push(finding.code);
        }
    }
    let flows = replayed.reading.trace.flow_count();
    let flows = format!("{flows} flow{}", if flows == 1 { "" } else { "s" });
    let not_yet = replayed.case.manifest.expect.iter().flat_map(|expect| &expect.not_yet).map(|code| format!(", {code} not found yet"));
    let found = if codes.is_empty() { "no fault".to_string() } else { codes.join(" ") };
    format!("{found}, {flows}{}", not_yet.collect::<String>())
}

/// What the differences are about: `findings`, `3 flows`.
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

fn refused(e: &CaseError, tally: &mut Tally) -> End {
    tally.unreadable += 1;
    End::Error(e.to_string())
}

fn unreadable(
    name: &str,
    e: &CaseError,
    took: Duration,
    args: &Replay,
    suite: &mut Suite,
    tally: &mut Tally,
    out: &mut impl Write,
) -> io::Result<()> {
    let end = refused(e, tally);
    if args.speaks() {
        line(name, 12, &end, false, took, out)?;
    }
    suite.checks.push(Check { name: name.to_string(), seconds: took.as_secs_f64(), end });
    Ok(())
}

/// `✓ faults/nat-rs-no-gateway   NAT001, 2 flows   12 ms`
fn line(name: &str, widest: usize, end: &End, blessed: bool, took: Duration, out: &mut impl Write) -> io::Result<()> {
    let (mark, words) = match end {
        End::Passed(words) => ("✓".green(), words),
        End::Failed(words, _) => ("✗".red(), words),
        // Not cut: it says what to do.
        End::Error(what) => return writeln!(out, "{} {name}\n    {what}", "✗".red()),
    };
    let words = if blessed { format!("blessed; {words}") } else { words.clone() };
    let took = format!("{} ms", took.as_millis());
    let room = WIDTH.saturating_sub(2 + widest.max(name.chars().count()) + 2 + 2 + took.len());
    writeln!(out, "{mark} {name:<widest$}  {:<room$}  {}", cut(&words, room), took.dimmed())
}

/// Under the line: where it differs, and what was left out of account.
fn details(replayed: &Replayed, end: &End, out: &mut impl Write) -> io::Result<()> {
    if let (End::Failed(..), Some(differences)) = (end, &replayed.differences) {
        for difference in differences {
            writeln!(out, "    {}", difference.about.bold())?;
            for line in &difference.lines {
                let text = cut(&line.to_string(), WIDTH - 4);
                writeln!(out, "    {}", match line {
                    Line::Expected(_) => text.red(),
                    Line::Found(_) => text.green(),
                    Line::Same(_) => text.normal(),
                })?;
            }
        }
    }
    for note in &replayed.notes {
        writeln!(out, "    {}", format!("note: {note}").dimmed())?;
    }
    Ok(())
}

fn summary(tally: &Tally, args: &Replay, took: Duration, out: &mut impl Write) -> io::Result<()> {
    let Tally { fine, different, unjudged, unreadable, blessed } = tally;
    let all = fine + different + unjudged + unreadable;
    if all == 0 {
        let word = args.only.as_ref().map(|word| format!(" with '{word}' in its path")).unwrap_or_default();
        return writeln!(out, "no case found{word}: a case is a folder with a {} and captures", case::MANIFEST);
    }
    let cases = format!("{all} case{}", if all == 1 { "" } else { "s" });
    let counts = [(*different, "different"), (*unjudged, "without expectation"), (*unreadable, "unreadable"), (*blessed, "blessed")];
    let rest: String = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
    writeln!(out, "{cases}: {fine} as expected{rest} · {:.1} s", took.as_secs_f64())
}

/// Cut to `width` columns.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let short: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{short}…")
}

fn write_junit(suite: &Suite, file: &Path, out: &mut impl Write) -> io::Result<()> {
    if file.as_os_str() == "-" {
        return junit::write(suite, out);
    }
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", file.display()));
    let mut to = BufWriter::new(File::create(file).map_err(named)?);
    junit::write(suite, &mut to)?;
    to.flush().map_err(named)
}
