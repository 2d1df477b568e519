//! `lvscope snapshot`: this machine's facts as one file, and facts that somebody sent as text.

use super::output::{Output, complain};
use super::{FINE, Failure};
use crate::case::{host_text, import, write_host};
use crate::collect;
use crate::net::plural;
use clap::{Args, Subcommand};
use std::io::Write;
use std::path::PathBuf;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  lvscope snapshot -o web1.host.json
  ssh web1 lvscope snapshot > web1.host.json
  lvscope snapshot import texts/ --out snapshots/

Nothing is changed. What needs no root is read without it; what was left out, and why, stands in the file.")]
pub(super) struct Snapshot {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    live: Live,
    /// Write to this file instead of standard output
    #[arg(short = 'o', long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Which machine.
#[derive(Args)]
pub(super) struct Live {
    /// Look into this network namespace: a name of `ip netns`, or a process
    #[arg(long, value_name = "NAME|PID")]
    netns: Option<String>,
    /// The host's name in the snapshot; its own when not given
    #[arg(long, value_name = "HOST")]
    name: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Make snapshots of what `ip -j`, sysctl, ss, iptables-save and ipvsadm printed: files called HOST.WHAT.json or .txt
    Import(Import),
}

#[derive(Args)]
#[command(after_long_help = files())]
struct Import {
    /// The folder with the texts
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Where the snapshots go, as HOST.host.json
    #[arg(long, value_name = "OUTDIR")]
    out: PathBuf,
}

/// The files that are read, and the command that writes each.
fn files() -> String {
    let lines: Vec<String> = import::KNOWN.iter().map(|(what, command)| format!("  HOST.{what:<21} {command}")).collect();
    format!("Files:\n{}", lines.join("\n"))
}

impl Live {
    pub(super) fn collect(&self) -> Result<crate::host::Host, Failure> {
        collect::collect(&collect::Wanted { netns: self.netns.clone(), name: self.name.clone() }).map_err(Failure::input)
    }
}

pub(super) fn run(args: &Snapshot, out: &mut Output) -> Result<u8, Failure> {
    if let Some(Command::Import(import)) = &args.command {
        return run_import(import, out);
    }
    let host = args.live.collect()?;
    for left in &host.left_out {
        complain(&format!("left out: {}: {}", left.section, left.why));
    }
    match args.out.as_ref().filter(|path| path.as_os_str() != "-") {
        Some(path) => write_host(&host, path)
            .map_err(|e| Failure::input(format!("{}: cannot be written: {}", path.display(), super::captures::reason(&e))))?,
        None => out.write_all(host_text(&host).as_bytes())?,
    }
    Ok(FINE)
}

fn run_import(args: &Import, out: &mut Output) -> Result<u8, Failure> {
    let imported = import::import(&args.folder).map_err(|e| Failure::input(e.to_string()))?;
    for note in &imported.notes {
        complain(note);
    }
    std::fs::create_dir_all(&args.out)
        .map_err(|e| Failure::input(format!("{}: cannot be made: {}", args.out.display(), super::captures::reason(&e))))?;
    for host in &imported.hosts {
        let path = args.out.join(format!("{}.host.json", host.name));
        write_host(host, &path)
            .map_err(|e| Failure::input(format!("{}: cannot be written: {}", path.display(), super::captures::reason(&e))))?;
        writeln!(out, "{}", path.display())?;
    }
    complain(&format!("{} imported", plural(imported.hosts.len() as u64, "host")));
    Ok(FINE)
}
