//! Captures on the command line: files, points, a filter; what the user says of services; reading them with a progress bar.

use super::{Failure, output::complain};
use crate::capture::Filter;
use crate::case::{self, CaptureArg, Limits, Reading, SourceFile};
use crate::ipvs;
use crate::net::{Endpoint, thousands};
use crate::report::Input;
use crate::trace::{Hints, Options};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where packets come from.
#[derive(Args)]
pub(super) struct Captures {
    /// Captures (pcap, pcapng, also .gz and .zst; `-` is standard input; POINT=FILE names a file's capture point),
    /// then perhaps a filter in tcpdump's language
    #[arg(value_name = "[POINT=]FILE… [FILTER]")]
    words: Vec<String>,
    /// Read this capture too
    #[arg(short = 'r', long = "read", value_name = "FILE")]
    read: Vec<String>,
    /// Stop after this many packets
    #[arg(short = 'c', long, value_name = "N")]
    count: Option<u64>,
    /// Addresses are always numeric; accepted for tcpdump's sake
    #[arg(short = 'n', hide = true, action = clap::ArgAction::Count)]
    numeric: u8,
}

/// What the user knows of the services.
#[derive(Args)]
pub(super) struct Known {
    /// This is a virtual service (as the director has it)
    #[arg(long, value_name = "VIP:PORT")]
    service: Vec<Endpoint>,
    /// The director's rules: the output of `ipvsadm -Sn`
    #[arg(long, value_name = "FILE")]
    ipvs: Option<PathBuf>,
}

impl Known {
    pub(super) fn hints(&self) -> Result<Hints, Failure> {
        let rules = match &self.ipvs {
            None => Vec::new(),
            Some(path) => {
                let name = path.display();
                let text = std::fs::read_to_string(path).map_err(|e| Failure::input(format!("{name}: cannot be read: {}", reason(&e))))?;
                ipvs::parse(&text).map_err(|e| Failure::input(format!("{name} {e}")))?
            }
        };
        Ok(Hints { services: self.service.clone(), rules })
    }
}

/// The error without Rust's "(os error 2)".
pub(super) fn reason(e: &std::io::Error) -> String {
    e.to_string().split(" (os error").next().unwrap_or_default().to_string()
}

impl Captures {
    /// Sorts the words into files and a filter: the first word that neither is a file nor looks like one begins the filter, as with
    /// tcpdump.
    pub(super) fn sorted(&self) -> Result<(Vec<CaptureArg>, Option<Filter>), Failure> {
        let mut files: Vec<CaptureArg> = self.read.iter().map(|word| CaptureArg::new(word)).collect();
        let begins = self.words.iter().position(|word| !is_file(word)).unwrap_or(self.words.len());
        files.extend(self.words[..begins].iter().map(|word| CaptureArg::new(word)));
        let expression = self.words[begins..].join(" ");
        if files.is_empty() {
            return Err(match self.words.first() {
                Some(word) => Failure::input(format!("{word}: no such file")),
                None => Failure::usage("no capture given: name capture files, or `-` for standard input (see --help)"),
            });
        }
        let filter = match expression.is_empty() {
            true => None,
            false => Some(Filter::new(&expression).map_err(|e| Failure::usage(format!("{e} (and no file of that name exists)")))?),
        };
        if files.iter().filter(|file| file.path.as_os_str() == "-").count() > 1 {
            return Err(Failure::usage("standard input (`-`) can be read only once"));
        }
        Ok((files, filter))
    }

    /// The words as a filter alone, where packets come from interfaces.
    pub(super) fn filter(&self) -> Result<Option<Filter>, Failure> {
        let expression = self.words.join(" ");
        match expression.is_empty() {
            true => Ok(None),
            false => Filter::new(&expression).map(Some).map_err(|e| Failure::usage(e.to_string())),
        }
    }

    /// With interfaces there is no room for files.
    pub(super) fn only_a_filter(&self) -> Result<(), Failure> {
        match self.read.first().or_else(|| self.words.first().filter(|word| is_file(word))) {
            Some(file) => Err(Failure::usage(format!("{file}: either files or interfaces (-i), not both"))),
            None => Ok(()),
        }
    }

    /// How many packets at most.
    pub(super) fn count(&self) -> Option<u64> {
        self.count
    }

    /// Reads everything into a trace. Files that cannot be read are complained of, and the others read all the same.
    pub(super) fn trace(&self, hints: Hints, packets: bool) -> Result<Traced, Failure> {
        let (files, filter) = self.sorted()?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        // Without a handler Ctrl-C would end the program without its report; that is all that is lost.
        let _ = ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        });
        let bar = bar();
        let limits = Limits { filter, count: self.count, stop: Some(stop) };
        let options = Options { hints, packets, ..Options::default() };
        let reading = case::read(&files, options, limits, |progress| {
            if let Some(bar) = &bar {
                if progress.size > LONG {
                    bar.set_length(progress.size.max(progress.bytes));
                    bar.set_position(progress.bytes);
                } else if progress.packets > LONG_PACKETS {
                    bar.set_message(format!("{} packets", thousands(progress.packets)));
                    bar.tick();
                }
            }
        });
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        Traced::new(reading)
    }
}

/// A progress bar is worth its place from this size on (bytes, packets of a pipe).
const LONG: u64 = 64 << 20;
const LONG_PACKETS: u64 = 1_000_000;

fn bar() -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("  reading {bar:40} {bytes}/{total_bytes} {eta} {msg}").ok()?;
    Some(ProgressBar::new(0).with_style(style))
}

/// True for `-`, for what exists, and for what is called like a capture or lies in a folder.
fn is_file(word: &str) -> bool {
    let arg = CaptureArg::new(word);
    let path: &Path = &arg.path;
    let name = word.to_ascii_lowercase();
    let called = [".pcap", ".pcapng", ".cap", ".gz", ".zst", ".dmp"].iter().any(|end| name.ends_with(end));
    path.as_os_str() == "-" || path.exists() || called || (word.contains('/') && !word.contains(' ') && !is_prefix(word))
}

/// `10.0.0.0/8`: a filter's word, not a path.
fn is_prefix(word: &str) -> bool {
    word.parse::<crate::net::Prefix>().is_ok()
}

/// A file as reports name it.
pub(super) fn input(file: SourceFile) -> Input {
    Input {
        damage: file.unreadable.or_else(|| file.damage.first().map(ToString::to_string)),
        file: file.name,
        frames: file.frames,
        points: file.points,
    }
}

/// A trace, with what is to be said of its inputs.
pub(super) struct Traced {
    pub(super) trace: crate::trace::Trace,
    pub(super) inputs: Vec<Input>,
    /// Some input could not be read at all.
    pub(super) unreadable: bool,
}

impl Traced {
    fn new(reading: Reading) -> Result<Self, Failure> {
        let Reading { trace, files, interrupted } = reading;
        let unreadable: Vec<String> = files.iter().filter_map(|f| f.unreadable.as_ref().map(|why| format!("{}: {why}", f.name))).collect();
        if unreadable.len() == files.len() {
            return Err(Failure::input(unreadable.join("\nlvscope: ")));
        }
        for text in &unreadable {
            complain(text);
        }
        if interrupted {
            complain(&format!("interrupted: the report covers the first {} packets", thousands(trace.packets)));
        }
        Ok(Traced { trace, inputs: files.into_iter().map(input).collect(), unreadable: !unreadable.is_empty() })
    }

    /// Complains about files that were not whole: for reports that programs read.
    pub(super) fn warn(&self) {
        for input in &self.inputs {
            if let Some(damage) = input.damage.as_ref().filter(|_| !input.points.is_empty() || input.frames > 0) {
                complain(&format!("{}: {damage}; {} packets before it were read", input.file, thousands(input.frames)));
            }
        }
    }
}
