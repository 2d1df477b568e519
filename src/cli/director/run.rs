//! `lvscope director run`: the director, live.

use super::playback::mark;
use super::rules::given;
use super::{Behaviour, state};
use crate::cli::output::{Output, complain};
use crate::cli::{FINE, Failure};
use crate::director::run::{Config, News, Summary, run as run_live};
use crate::director::{Director, Faults, MarkRule};
use crate::ipvs::{Listing, list};
use crate::net::{MacAddr, Prefix, thousands};
use clap::Args;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "\
The virtual addresses must not be configured on this host: the director answers
ARP and neighbour discovery for them with a MAC of its own. For NAT the real
servers' gateway is such an address as well: give it with --address.

Examples:
  lvscope director run --rules rules.ipvs -i eth0
  lvscope director run --rules rules.ipvs -i ext -i int \\
      --address int:192.168.224.10/24
  lvscope director run --rules rules.ipvs -i eth0 --fault drop-syn-ack=3

SIGINT and SIGTERM end it with a summary, SIGHUP reads the rules again without
losing a connection, SIGUSR1 prints the state.")]
pub(super) struct Run {
    /// Rules: as `ipvsadm -Sn` writes them, or a snapshot of a director
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// Interface; several for a director with several legs
    #[arg(short = 'i', long = "interface", required = true, value_name = "IF")]
    interfaces: Vec<String>,
    /// An address of the director, with its network (IF: in front says where)
    #[arg(long = "address", value_name = "[IF:]ADDRESS/LENGTH")]
    addresses: Vec<String>,
    /// Next hop for everything that is no neighbour (default: the host's)
    #[arg(long = "gateway", value_name = "ADDRESS")]
    gateways: Vec<IpAddr>,
    /// The director's MAC
    #[arg(long, default_value = "02:00:5e:00:01:64", value_name = "MAC")]
    mac: MacAddr,
    /// The longest packet (default: the interface's)
    #[arg(long, value_name = "BYTES")]
    mtu: Option<usize>,
    /// Mark packets as a firewall does: 1=tcp:192.168.2.0/24:80
    #[arg(long = "mark", value_name = "MARK=WHAT", value_parser = mark)]
    marks: Vec<MarkRule>,
    /// Be broken: drop-syn-ack=N wrong-mac=MAC keep-ttl old-mtu-test wrong-checksum delay-answer=MS keep-answer
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Faults>,
    /// Print a line of statistics each so many seconds (to standard error)
    #[arg(long, value_name = "SECONDS")]
    every: Option<u64>,
    /// Print the end as JSON
    #[arg(short = 'j', long)]
    json: bool,
    #[command(flatten)]
    behaviour: Behaviour,
}

fn address(text: &str, interfaces: &[String]) -> Result<(Option<String>, Prefix), Failure> {
    let named = text.split_once(':').filter(|(name, _)| interfaces.iter().any(|i| i == name));
    let (name, rest) = named.map_or((None, text), |(name, rest)| (Some(name.to_string()), rest));
    let prefix = rest.parse().map_err(|e| Failure::usage(format!("--address {text}: {e}")))?;
    Ok((name, prefix))
}

pub(super) fn run(args: &Run, out: &mut Output) -> Result<u8, Failure> {
    let read = given(&args.rules)?;
    let config = Config {
        interfaces: args.interfaces.clone(),
        addresses: args.addresses.iter().map(|text| address(text, &args.interfaces)).collect::<Result<_, _>>()?,
        gateways: args.gateways.clone(),
        mac: args.mac,
        mtu: args.mtu,
        services: read.services,
        settings: args.behaviour.settings(read.settings)?,
        seed: args.behaviour.seed,
        faults: args.faults.iter().fold(Faults::default(), |all, one| all.and(*one)),
        marks: args.marks.clone(),
        every: args.every.filter(|n| *n > 0).map(Duration::from_secs),
    };
    let reload = || given(&args.rules).map(|rules| rules.services).map_err(|e| e.text);
    let summary = run_live(config, reload, |news| match news {
        News::Ready(director) => complain(&format!("director on {}: {}", args.interfaces.join(", "), greeting(director))),
        News::Periodic(director) => complain(&status(director)),
        News::Reloaded(done) => {
            complain(&format!("rules read again: {} added, {} changed, {} removed", done.added, done.changed, done.removed));
        }
        News::Trouble(what) => complain(&what),
    });
    let Summary { tally, balancer, now, lasted } = summary.map_err(|e| Failure::input(e.to_string()))?;
    if args.json {
        let state = state::json(&balancer, now, &tally);
        serde_json::to_writer_pretty(&mut *out, &state).map_err(|e| Failure::input(format!("cannot write the output: {e}")))?;
        writeln!(out)?;
        return Ok(FINE);
    }
    writeln!(out, "director ran for {:.1} s", lasted.as_secs_f64())?;
    state::tally(out, &tally)?;
    write!(out, "\n{}", list(&balancer.listed(false), Listing::Connections))?;
    write!(out, "\n{}", list(&balancer.listed(false), Listing::Stats))?;
    Ok(FINE)
}

fn greeting(director: &Director) -> String {
    let services = director.engine.balancer.services();
    let servers: usize = services.iter().map(|s| s.list().len()).sum();
    let mac = director.ports.first().map(|p| p.mac.to_string()).unwrap_or_default();
    format!("{}, {}, MAC {mac}", crate::net::plural(services.len() as u64, "service"), crate::net::plural(servers as u64, "real server"))
}

/// One line: connections, and what goes through a second.
fn status(director: &Director) -> String {
    let balancer = &director.engine.balancer;
    let (mut active, mut inactive) = (0, 0);
    for (_, dest) in balancer.pool().iter() {
        active += u64::from(dest.active);
        inactive += u64::from(dest.inactive);
    }
    let rate = balancer.totals().rates();
    let dropped: u64 = director.tally.dropped.values().sum();
    format!(
        "{} active, {} inactive · {} conn/s · in {} packets/s {} B/s · out {} packets/s {} B/s · {} dropped",
        thousands(active),
        thousands(inactive),
        thousands(rate.conns),
        thousands(rate.in_packets),
        thousands(rate.in_bytes),
        thousands(rate.out_packets),
        thousands(rate.out_bytes),
        thousands(dropped)
    )
}
