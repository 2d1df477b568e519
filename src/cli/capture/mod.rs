//! `lvscope capture`: packets of several interfaces, also of other network namespaces, into one file.

mod places;
mod plan;
#[cfg(feature = "live")]
mod record;
mod report;
mod scope;
pub(super) mod units;

pub(super) use places::places;
#[cfg(feature = "live")]
pub(super) use record::{head, now, open, with_comments};

use super::Failure;
use super::captures::reason;
use super::output::Output;
use super::snapshots;
use crate::capture::{Filter, Place, Rotate};
use crate::collect::{self, Wanted};
use crate::host::Host;
use crate::ipvs::{self, VirtualService};
use crate::net::Endpoint;
use clap::Args;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope capture -i eth0 -i tunl0 -w web1.pcapng --service 192.168.2.59:80
  lvscope capture -i all 'host 192.168.2.100 or arp'
  lvscope capture -i eth0 --netns web1 --netns web2 -w servers.pcapng
  ssh web1 lvscope capture -i all -w - | lvscope diagnose web1=-
  lvscope capture --plan --service 192.168.2.59:80 --ipvs rules
  lvscope diagnose -j *.pcap > report.json; lvscope capture --plan --report report.json

An interface in another network namespace is also written web1/eth0. Without -w
packets are printed. Ctrl-C ends the capture.")]
pub(super) struct Capture {
    /// Interface; several are captured on together; `all` is each that is up, without lo
    #[arg(short = 'i', long = "interface", value_name = "IF")]
    interfaces: Vec<String>,
    /// In this network namespace: a name of `ip netns`, a process, or a path; several take the interfaces in each of them
    #[arg(long, value_name = "NAME|PID")]
    netns: Vec<String>,
    /// Write a pcapng file; `-` is standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after so many packets
    #[arg(short = 'c', long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    count: Option<u64>,
    /// Keep at most so many bytes of a packet; 0: all of them
    #[arg(short = 's', long = "snap-length", default_value_t = units::WHOLE, value_parser = units::snap_len, value_name = "LEN")]
    snap_len: u32,
    /// End after this time: 30s, 5m, 1h
    #[arg(long, value_parser = units::time, value_name = "TIME")]
    duration: Option<Duration>,
    /// Begin a new file, FILE_00002, at this size or after this time: 100M, 10m
    #[arg(long, value_parser = units::rotation, requires = "write", value_name = "SIZE|TIME")]
    rotate: Option<Rotate>,
    /// Of these files keep the newest N
    #[arg(long, requires = "rotate", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    keep: Option<u32>,
    /// Memory in the kernel for each interface, in KiB
    #[arg(short = 'B', long = "buffer-size", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(64..=1_048_576), value_name = "KIB")]
    buffer: u32,
    /// Only frames for this host
    #[arg(short = 'p', long = "no-promiscuous")]
    own: bool,
    /// What belongs to this service: both sides of the rewrite, ARP, ICMP errors, tunnels. Real servers are taken from --ipvs, --host or the kernel
    #[arg(long, value_name = "VIP:PORT")]
    service: Option<Endpoint>,
    /// The director's rules: the output of `ipvsadm -Sn`
    #[arg(long, value_name = "FILE")]
    ipvs: Option<PathBuf>,
    /// A snapshot of a host, or a folder of them: real servers, and for --plan the hosts
    #[arg(long = "host", value_name = "SNAPSHOT")]
    hosts: Vec<PathBuf>,
    /// Capture nothing: print the commands for each host of the path
    #[arg(long)]
    plan: bool,
    /// With --plan: what this report (`diagnose --json`) left open, at the hosts where nobody looked
    #[arg(long, requires = "plan", conflicts_with_all = ["service", "ipvs"], value_name = "FILE")]
    report: Option<PathBuf>,
    /// Addresses are always numeric; accepted for tcpdump's sake
    #[arg(short = 'n', hide = true, action = clap::ArgAction::Count)]
    numeric: u8,
    /// A filter in tcpdump's language
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

pub(super) fn run(args: &Capture, out: &mut Output) -> Result<u8, Failure> {
    let known = args.known()?;
    if let Some(path) = args.report.as_ref().filter(|_| args.plan) {
        return plan::of_report(&report::read(path)?, out);
    }
    if args.plan {
        return plan::print(args.service, &known, out);
    }
    let filter = args.filter(&known);
    if let Some(text) = &filter {
        Filter::new(text).map_err(|e| Failure::usage(e.to_string()))?;
    }
    let places = places(&args.interfaces, &args.netns)?;
    args.begin(&places, filter, out)
}

/// What is known of the set-up beside the packets.
struct Known {
    rules: Vec<VirtualService>,
    hosts: Vec<Host>,
    /// What hosts with these addresses are called.
    names: Vec<(IpAddr, String)>,
    /// Points that have been captured at.
    seen: Vec<String>,
}

impl Capture {
    /// Rules from where the user says, else from this kernel.
    fn known(&self) -> Result<Known, Failure> {
        let hosts: Vec<Host> = snapshots::read(&self.hosts)?.into_iter().map(|(_, host)| host).collect();
        let mut rules = Vec::new();
        if let Some(path) = &self.ipvs {
            let name = path.display();
            let text = std::fs::read_to_string(path).map_err(|e| Failure::input(format!("{name}: cannot be read: {}", reason(&e))))?;
            rules = ipvs::parse(&text).map_err(|e| Failure::input(format!("{name} {e}")))?;
        }
        for host in &hosts {
            rules.extend(host.ipvs.iter().flat_map(|table| table.rules()));
        }
        if self.service.is_some() && self.ipvs.is_none() && hosts.is_empty() {
            for netns in places::namespaces(&self.netns) {
                let host = collect::collect(&Wanted { netns: netns.map(str::to_string), name: None });
                rules.extend(host.ok().and_then(|host| host.ipvs).iter().flat_map(|table| table.rules()));
            }
        }
        Ok(Known { rules, hosts, names: Vec::new(), seen: Vec::new() })
    }

    fn filter(&self, known: &Known) -> Option<String> {
        let given = Some(self.filter.join(" ")).filter(|text| !text.trim().is_empty());
        let scope = self.service.map(|service| scope::filter(service, &known.rules));
        match (given, scope) {
            (Some(given), Some(scope)) => Some(format!("({given}) and ({scope})")),
            (given, scope) => given.or(scope),
        }
    }

    #[cfg(feature = "live")]
    fn begin(&self, places: &[Place], filter: Option<String>, out: &mut Output) -> Result<u8, Failure> {
        record::run(self, places, filter, out)
    }

    #[cfg(not(feature = "live"))]
    fn begin(&self, _places: &[Place], _filter: Option<String>, _out: &mut Output) -> Result<u8, Failure> {
        let missing = "this lvscope was built without libpcap (cargo feature `live`)";
        Err(Failure::usage(format!("cannot capture: {missing}; capture with tcpdump, or build it with the feature")))
    }
}
