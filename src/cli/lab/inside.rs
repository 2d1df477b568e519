//! `lvscope lab record`, `shell` and `enter`.

use super::super::output::{Output, complain};
use super::super::{FINE, Failure};
use super::{Directors, enter as enter_sandbox, failed};
use crate::case::{self, MANIFEST, Manifest, Provenance};
use crate::lab::netns::Namespace;
use crate::lab::play::Stage;
use crate::lab::{catalogue, command, sandbox};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

#[derive(Args)]
pub(super) struct Record {
    /// A scenario by name, or a file that ends with .toml
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    director: Directors,
    /// The case's folder, which must not be there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Args)]
#[command(
    after_help = "What is typed there are the machine's own programs. A built-in director keeps the rules and routes that it began with."
)]
pub(super) struct Shell {
    /// A scenario by name, or a file that ends with .toml
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    director: Directors,
    /// The host; without one, the client
    #[arg(value_name = "HOST")]
    host: Option<String>,
    /// Run this instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

#[derive(Args)]
pub(super) struct Enter {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    words: Vec<std::ffi::OsString>,
}

pub(super) fn record(args: &Record, out: &mut Output) -> Result<u8, Failure> {
    let scenario = catalogue::open(&args.name).map_err(failed)?;
    let at = args.out.display();
    if args.out.exists() {
        return Err(failed(format!("{at} is there already; name a folder that is not")));
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string();
    let _scratch = enter_sandbox()?;
    let mut stage = Stage::directed(&scenario, args.director.is_builtin()).map_err(failed)?;
    stage.play(&args.out).map_err(|e| failed(format!("cannot record into {at}: {e}")))?;
    let manifest = Manifest {
        title: scenario.title.clone(),
        story: if scenario.client_sees.is_empty() { scenario.story.clone() } else { format!("The client sees: {}.", scenario.client_sees) },
        provenance: Provenance {
            kernel: format!("Linux {kernel}, {}", if args.director.is_builtin() { "built-in director" } else { "its own IPVS" }),
            tool: concat!("lvscope ", env!("CARGO_PKG_VERSION")).into(),
            scenario: scenario.name.clone(),
            source: format!("lvscope lab record {}", scenario.name),
        },
        ..Manifest::default()
    };
    let write = |manifest: &Manifest| {
        std::fs::write(args.out.join(MANIFEST), manifest.to_text()).map_err(|e| failed(format!("cannot write {at}/{MANIFEST}: {e}")))
    };
    write(&manifest)?;
    let replayed = case::replay(&args.out).map_err(failed)?;
    let mut expect = replayed.came_out;
    expect.may = scenario.codes.iter().skip(1).chain(&scenario.may).filter_map(|code| code.parse().ok()).collect();
    write(&Manifest { expect: Some(expect), ..manifest })?;
    let codes: Vec<&str> = replayed.diagnosis.findings.iter().map(|finding| finding.code).collect();
    let found = if codes.is_empty() { "nothing".to_string() } else { codes.join(" ") };
    writeln!(out, "{at}: {} captures, {} connections, found: {found}", replayed.reading.files.len(), replayed.reading.trace.flows.len())?;
    writeln!(out, "read what {at}/{MANIFEST} expects, then: lvscope replay {at}")?;
    Ok(FINE)
}

pub(super) fn shell(args: &Shell, out: &mut Output) -> Result<u8, Failure> {
    let scenario = catalogue::open(&args.name).map_err(failed)?;
    let names: Vec<&str> = scenario.hosts.iter().map(|host| host.name.as_str()).collect();
    let wanted = match &args.host {
        Some(host) => host.as_str(),
        None => scenario.traffic.first().map_or(names[0], |traffic| traffic.from.as_str()),
    };
    if !names.contains(&wanted) {
        return Err(Failure::usage(format!("{} has no host {wanted} (it has: {})", scenario.name, names.join(" "))));
    }
    let _scratch = enter_sandbox()?;
    let stage = Stage::directed(&scenario, args.director.is_builtin()).map_err(failed)?;
    let Some(host) = stage.network.host(wanted) else { return Err(failed(format!("there is no host {wanted}"))) };
    let mut command = match args.command.split_first() {
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest);
            command
        }
        None => {
            writeln!(out, "{}: {}", scenario.name, scenario.title)?;
            if let Some(traffic) = scenario.traffic.first() {
                writeln!(out, "ask:   curl -m 3 http://{}/    (from {})", traffic.to, traffic.from)?;
            }
            writeln!(out, "hosts: {}; `exit` takes everything down", names.join(" "))?;
            out.flush()?;
            // Whose start-up files would set another prompt.
            let bash = std::path::Path::new("/bin/bash").exists();
            let mut command = Command::new(if bash { "/bin/bash" } else { "/bin/sh" });
            if bash {
                command.args(["--norc", "--noprofile", "-i"]);
            }
            command.env("PS1", format!("{}:{wanted}# ", scenario.name));
            command
        }
    };
    let ended = host.namespace.run(|| command.status()).map_err(|errno| failed(errno.desc()))?;
    let status = ended.map_err(|e| failed(format!("cannot run {}: {e}", command.get_program().to_string_lossy())))?;
    if args.command.is_empty() {
        return Ok(FINE);
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or_else(|| {
        complain(&format!("the command ended: {status}"));
        1
    }))
}

pub(super) fn enter(args: &Enter) -> Result<u8, Failure> {
    use std::os::unix::process::CommandExt;
    sandbox::enter().map_err(|e| failed(format!("no lab here: cannot {e}")))?;
    let Some((program, rest)) = args.words.split_first() else { return Ok(FINE) };
    Err(failed(Command::new(program).args(rest).exec()))
}

/// For measurements, on machines without such programs.
pub(super) fn here(args: &Enter) -> Result<u8, Failure> {
    let words: Vec<_> = args.words.iter().map(|word| word.to_string_lossy()).collect();
    let place = Namespace::current().map_err(|e| failed(format!("cannot tell the network namespace: {e}")))?;
    command::run(&place, &words.join(" ")).map_err(failed)?;
    Ok(FINE)
}
