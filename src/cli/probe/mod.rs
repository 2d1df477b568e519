//! `lvscope probe`: questions to the wire. Says on standard error what it will send, before it does.

mod path;
mod resolution;
mod service;

use super::Failure;
use super::output::Output;
use crate::capture::WireError;
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope probe arp 192.168.224.13 --director 192.168.224.10
  lvscope probe nd 2001:db8::13 -i eth0
  lvscope probe service 192.168.224.13:80 --real-server 192.168.224.11
  lvscope probe service 192.168.2.59:80 --real-server 10.0.0.11:8080 \\
      --method nat --from 192.168.2.100
  lvscope probe path --service 192.168.2.59:80 --count 20

Asked are the addresses given here and nobody else, a few packets in all.")]
pub(super) struct Probe {
    #[command(subcommand)]
    question: Question,
}

#[derive(Subcommand)]
enum Question {
    /// Who answers ARP for this address? All answers, not only the first
    Arp(resolution::Resolve),
    /// Who answers neighbour discovery for this IPv6 address?
    Nd(resolution::Resolve),
    /// Does this real server serve the virtual address, whatever its health check says?
    Service(service::Service),
    /// Connect to the service as a client: what answers, from where, and which server that was
    Path(path::Path),
}

pub(super) fn run(args: &Probe, out: &mut Output) -> Result<u8, Failure> {
    match &args.question {
        Question::Arp(args) => resolution::run(args, false, out),
        Question::Nd(args) => resolution::run(args, true, out),
        Question::Service(args) => service::run(args, out),
        Question::Path(args) => path::run(args, out),
    }
}

fn failed(e: &WireError) -> Failure {
    if e.errno == nix::errno::Errno::EPERM {
        let program = std::env::current_exe().map_or_else(|_| "lvscope".to_string(), |path| path.display().to_string());
        return Failure::input(format!(
            "cannot {}: CAP_NET_RAW is missing; run as root, or once: setcap cap_net_raw,cap_net_admin+ep {program}",
            e.attempted
        ));
    }
    Failure::input(format!("cannot {e}"))
}

/// `1s`, `500ms` …, as `capture` has them.
fn time(text: &str) -> Result<Duration, String> {
    super::capture::units::time(text).and_then(|time| match time {
        time if time > Duration::from_secs(60) => Err("at most 60s".to_string()),
        time => Ok(time),
    })
}
