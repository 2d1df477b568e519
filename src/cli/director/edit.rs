//! `lvscope director add-service …` and its kin: a rules file, changed with the words of ipvsadm(8).

use super::rules::given;
use crate::cli::captures::reason;
use crate::cli::output::Output;
use crate::cli::{FINE, Failure};
use crate::ipvs::{Rules, parse_command, to_text};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope director add-service --rules rules.ipvs -t 192.168.2.59:80 -s wlc -p 10
  lvscope director add-server --rules rules.ipvs -t 192.168.2.59:80 -r 192.168.224.11 -m
Without --rules the rule is checked and printed. FILE may be a snapshot, which is
not changed: the new rules are printed.")]
pub(super) struct Edit {
    /// Then the options of ipvsadm(8)
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "[--rules FILE] OPTION…")]
    words: Vec<String>,
}

/// `option` is ipvsadm's: -A, -E, -D, -a, -e, -d.
pub(super) fn run(args: &Edit, option: &str, out: &mut Output) -> Result<u8, Failure> {
    let mut words = args.words.clone();
    let mut file: Option<PathBuf> = None;
    if let Some(at) = words.iter().position(|word| word == "--rules" || word.starts_with("--rules=")) {
        let word = words.remove(at);
        file = Some(match word.split_once('=') {
            Some((_, path)) => path.into(),
            None if at < words.len() => words.remove(at).into(),
            None => return Err(Failure::usage("--rules needs a file")),
        });
    }
    let line = format!("{option} {}", words.join(" "));
    let wrong =
        |column: usize, what: &str| Failure::usage(format!("{what}\n  ipvsadm {line}\n  {}^", " ".repeat(8 + column.saturating_sub(1))));
    let command = parse_command(&line).map_err(|e| wrong(e.column, &e.what))?;
    let mut kept = false;
    let mut all = match &file {
        Some(path) if path.exists() => {
            let given = given(path)?;
            kept = given.snapshot;
            Rules { services: given.services, ..Rules::default() }
        }
        _ => Rules::default(),
    };
    if let Some(command) = command {
        // A server alone, without a file, has no service to be looked for in.
        let alone = file.is_none() && matches!(option, "-a" | "-e" | "-d" | "-E" | "-D");
        if alone {
            writeln!(out, "{}", line.trim_end())?;
            return Ok(FINE);
        }
        all.apply(command).map_err(|what| wrong(1, &what))?;
    }
    let text = to_text(&all.services);
    match file.filter(|_| !kept) {
        None => write!(out, "{text}")?,
        Some(path) => {
            std::fs::write(&path, text).map_err(|e| Failure::input(format!("{}: cannot be written: {}", path.display(), reason(&e))))?
        }
    }
    Ok(FINE)
}
