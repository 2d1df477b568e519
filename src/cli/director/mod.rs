//! `lvscope director`: the built-in director.

mod diff;
mod edit;
mod event;
mod playback;
mod replay;
mod rules;
mod run;
mod simulate;
mod state;

use super::output::Output;
use super::{FINE, Failure};
use crate::director::{Kernel, SETTINGS, Settings};
use clap::{Args, Subcommand};

/// IPVS in user space: which real server would this client get, and what would its packets look like?
#[derive(Args)]
pub(super) struct Director {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Calculate whom each connection gets: events in, decisions out, as JSON lines
    Simulate(simulate::Simulate),
    /// Play a capture through the director: what it would have sent, dropped, and why
    Replay(replay::Replay),
    /// Compare what a captured director sent with what IPVS sends: the first difference of each flow
    Diff(diff::Diff),
    /// Be the director of a network, on real interfaces
    Run(run::Run),
    /// Print the rules of a file or of a snapshot, as `ipvsadm -Sn`
    Save(rules::Save),
    /// Add a service to a rules file, with the options of `ipvsadm -A`
    AddService(edit::Edit),
    /// Change a service of a rules file, as `ipvsadm -E`
    EditService(edit::Edit),
    /// Remove a service from a rules file, as `ipvsadm -D`
    DeleteService(edit::Edit),
    /// Add a real server to a rules file, as `ipvsadm -a`
    AddServer(edit::Edit),
    /// Change a real server of a rules file, as `ipvsadm -e`
    EditServer(edit::Edit),
    /// Remove a real server from a rules file, as `ipvsadm -d`
    DeleteServer(edit::Edit),
}

/// Whose behaviour.
#[derive(Args)]
struct Behaviour {
    /// Behave as this Linux version (4.18 changed the hashes of sh, dh, lblc, lblcr)
    #[arg(long, value_name = "VERSION")]
    kernel: Option<Kernel>,
    /// Set net.ipv4.vs.NAME, such as conn_reuse_mode=0 or expire_nodest_conn=1
    #[arg(long = "sysctl", value_name = "NAME=VALUE")]
    sysctls: Vec<String>,
    /// Timeouts in seconds, as `ipvsadm --set`: TCP, TCP after FIN, UDP
    #[arg(long = "set", num_args = 3, value_names = ["TCP", "TCPFIN", "UDP"])]
    timeouts: Option<Vec<u32>>,
    /// The director tracks no connections: the kernel then drops ICMPv6 errors of NAT real servers
    #[arg(long)]
    no_conntrack: bool,
    /// Where the random numbers of twos begin
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

impl Behaviour {
    /// `known`: what a snapshot says; what is asked for goes before.
    fn settings(&self, known: Settings) -> Result<Settings, Failure> {
        let mut settings = Settings { kernel: self.kernel.unwrap_or(known.kernel), conntrack: !self.no_conntrack, ..known };
        for assignment in &self.sysctls {
            settings
                .set(assignment)
                .map_err(|e| Failure::usage(format!("--sysctl {assignment}: {e} (settings: {})", SETTINGS.join(" "))))?;
        }
        if let Some(&[tcp, fin, udp]) = self.timeouts.as_deref() {
            // As with ipvsadm, 0 keeps what is there.
            for (timeout, wanted) in settings.timeouts.iter_mut().zip([tcp, fin, udp]) {
                *timeout = if wanted == 0 { *timeout } else { wanted };
            }
        }
        Ok(settings)
    }
}

pub(super) fn run(args: &Director, out: &mut Output) -> Result<u8, Failure> {
    match &args.command {
        Command::Simulate(args) => simulate::run(args, out),
        Command::Replay(args) => replay::run(args, out),
        Command::Diff(args) => diff::run(args, out),
        Command::Run(args) => run::run(args, out),
        Command::Save(args) => rules::save(args, out).map(|()| FINE),
        Command::AddService(args) => edit::run(args, "-A", out),
        Command::EditService(args) => edit::run(args, "-E", out),
        Command::DeleteService(args) => edit::run(args, "-D", out),
        Command::AddServer(args) => edit::run(args, "-a", out),
        Command::EditServer(args) => edit::run(args, "-e", out),
        Command::DeleteServer(args) => edit::run(args, "-d", out),
    }
}
