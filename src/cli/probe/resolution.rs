//! `lvscope probe arp` and `probe nd`.

use super::{failed, time};
use crate::cli::output::{Output, complain};
use crate::cli::{FINDINGS, FINE, Failure};
use crate::net::{MacAddr, plural, span};
use crate::probe::{Claimant, Local, Pace, Resolution};
use clap::Args;
use colored::Colorize;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Args)]
pub(super) struct Resolve {
    /// The address: a VIP
    #[arg(value_name = "VIP")]
    address: IpAddr,
    /// On the segment of this interface (default: the one on the way to it)
    #[arg(short = 'i', long = "interface", value_name = "IF")]
    interface: Option<String>,
    /// Ask so many times
    #[arg(short = 'c', long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20), value_name = "N")]
    count: u32,
    /// Wait so long for answers to each question
    #[arg(long, default_value = "500ms", value_parser = time, value_name = "TIME")]
    wait: Duration,
    /// The director, by its MAC or an address of its own: whoever else answers is wrong
    #[arg(long, value_name = "MAC|ADDRESS")]
    director: Option<String>,
    /// Print JSON
    #[arg(short = 'j', long)]
    json: bool,
}

/// Who should answer.
enum Director {
    Unknown,
    Here,
    Macs(Vec<MacAddr>),
}

pub(super) fn run(args: &Resolve, neighbour_discovery: bool, out: &mut Output) -> Result<u8, Failure> {
    let vip = args.address;
    if vip.is_ipv6() != neighbour_discovery {
        let (kind, word) = if vip.is_ipv6() { ("an IPv6", "nd") } else { ("an IPv4", "arp") };
        return Err(Failure::usage(format!("{vip} is {kind} address: lvscope probe {word} {vip}")));
    }
    let local = Local::towards(vip, args.interface.as_deref()).map_err(|e| Failure::input(format!("cannot ask for {vip}: {e}")))?;
    if let (Some(gateway), None) = (local.gateway, &args.interface) {
        return Err(Failure::input(format!(
            "{vip} is behind the gateway {gateway}: it is resolved on its own segment only; ask there, or name an interface of it with -i"
        )));
    }
    let from = local.source(vip).map_or_else(|| "no address".to_string(), |from| from.to_string());
    complain(&format!("asks {} on {}: who has {vip}, tell {from} ({})", plural(args.count.into(), "time"), local.interface, local.mac));
    let found = Resolution::ask(&local, vip, Pace { count: args.count, wait: args.wait, first: false }).map_err(|e| failed(&e))?;
    let director = director(args, &local)?;
    let verdict = Verdict { vip, local: &local, found: &found, director: &director };
    match args.json {
        true => verdict.json(out)?,
        false => verdict.text(out)?,
    }
    Ok(if verdict.is_fine() { FINE } else { FINDINGS })
}

/// Its MAC, asked for where an address is given.
fn director(args: &Resolve, local: &Local) -> Result<Director, Failure> {
    let Some(text) = &args.director else { return Ok(if local.own { Director::Here } else { Director::Unknown }) };
    if let Ok(mac) = text.parse::<MacAddr>() {
        return Ok(Director::Macs(vec![mac]));
    }
    let addr: IpAddr =
        text.parse().map_err(|_| Failure::usage(format!("--director {text}: neither a MAC such as 52:54:00:00:02:01 nor an address")))?;
    if local.addresses.iter().any(|p| p.addr() == addr) {
        return Ok(Director::Here);
    }
    if addr == args.address {
        return Err(Failure::usage(
            "--director: the virtual address itself does not tell who the director is; give an address that only it has",
        ));
    }
    complain(&format!("asks on {}: who has {addr}", local.interface));
    let found = Resolution::ask(local, addr, Pace { count: 1, wait: args.wait, first: false }).map_err(|e| failed(&e))?;
    let macs: Vec<MacAddr> = found.answerers().map(|claimant| claimant.mac).collect();
    match macs.is_empty() {
        true => Err(Failure::input(format!("nobody on {} answers for the director's address {addr}", local.interface))),
        false => Ok(Director::Macs(macs)),
    }
}

struct Verdict<'a> {
    vip: IpAddr,
    local: &'a Local,
    found: &'a Resolution,
    director: &'a Director,
}

impl Verdict<'_> {
    fn is_wrong(&self, claimant: &Claimant) -> bool {
        match self.director {
            Director::Unknown => false,
            Director::Here => true,
            // A virtual router's MAC moves with the role.
            Director::Macs(macs) => !macs.contains(&claimant.mac) && claimant.mac.vrid().is_none(),
        }
    }

    fn is_fine(&self) -> bool {
        let answerers = self.found.answerers().count();
        let wanted = usize::from(!matches!(self.director, Director::Here));
        answerers == wanted && !self.found.claimants.iter().any(|claimant| self.is_wrong(claimant)) && self.found.claimants.len() <= 1
    }

    /// What the kernel knows this MAC as.
    fn names(&self, mac: MacAddr) -> Vec<IpAddr> {
        let known = self.local.neighbours.iter();
        known.filter(|(addr, of)| *of == mac && *addr != self.vip && addr.is_ipv4() == self.vip.is_ipv4()).map(|(addr, _)| *addr).collect()
    }

    fn headline(&self) -> String {
        let answerers = self.found.answerers().count();
        let vip = self.vip;
        let wrong = self.found.claimants.iter().filter(|claimant| self.is_wrong(claimant)).count() as u64;
        match (answerers, self.director) {
            (0, Director::Here) if self.found.claimants.is_empty() => format!("{vip}: this host has it, and nobody else answers for it"),
            (_, Director::Here) => format!("{vip}: this host has it, and {} too", plural_claims(self.found.claimants.len() as u64)),
            (0, _) => format!("{vip}: nobody answers on {}", self.local.interface),
            (1, _) if wrong > 0 => format!("{vip}: another host than the director claims it"),
            (1, _) if self.found.claimants.len() > 1 => format!("{vip}: one host answers, and another one announces it"),
            (1, Director::Macs(_)) => format!("{vip}: the director answers, and nobody else"),
            (1, _) => format!("{vip}: one host answers"),
            (n, _) => format!("{vip}: {n} hosts answer; who comes first wins, by chance"),
        }
    }

    fn text(&self, out: &mut Output) -> std::io::Result<()> {
        let mark = if self.is_fine() { "✓".green() } else { "✗".red() };
        writeln!(out, "{mark} {}", self.headline())?;
        for (number, claimant) in (1..).zip(&self.found.claimants) {
            let mean = claimant.answers.iter().sum::<i64>() / (claimant.answers.len().max(1) as i64);
            let mut line = format!("  {number}. {}", claimant.mac);
            line += &match claimant.answers.len() {
                0 => "  answers no question".to_string(),
                n => format!("  {n} of {} answered, after {}", self.found.asked, span(mean)),
            };
            if claimant.announcements > 0 {
                line += &format!(", announces it ({})", plural(claimant.announcements.into(), "time"));
            }
            let mut notes: Vec<String> = self.names(claimant.mac).iter().map(|addr| addr.to_string()).collect();
            if let Director::Macs(macs) = self.director {
                notes.push(if macs.contains(&claimant.mac) { "the director".into() } else { "not the director".into() });
            }
            notes.extend(claimant.mac.vrid().map(|vrid| format!("virtual router {vrid}")));
            notes.extend(claimant.sent_by.map(|mac| format!("frames from {mac}")));
            if !notes.is_empty() {
                line += &format!("  ({})", notes.join(", "));
            }
            writeln!(out, "{line}")?;
        }
        if self.is_fine() {
            return Ok(());
        }
        match self.found.answerers().count() {
            0 if self.found.claimants.is_empty() => {
                writeln!(out, "  Is the director up, has it the address, and is this its segment?")
            }
            _ => writeln!(
                out,
                "  Only the director may answer. Others may be a real server (lvscope explain ARP001),\n  a second director (HA001), a router with proxy_arp."
            ),
        }
    }

    fn json(&self, out: &mut Output) -> std::io::Result<()> {
        let claimants: Vec<serde_json::Value> = self
            .found
            .claimants
            .iter()
            .map(|claimant| {
                serde_json::json!({
                    "mac": claimant.mac.to_string(),
                    "sent_by": claimant.sent_by.map(|mac| mac.to_string()),
                    "answers": claimant.answers.len(),
                    "delays_ns": claimant.answers,
                    "announcements": claimant.announcements,
                    "known_as": self.names(claimant.mac).iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "director": match self.director {
                        Director::Macs(macs) => Some(macs.contains(&claimant.mac)),
                        Director::Here => Some(false),
                        Director::Unknown => None,
                    },
                })
            })
            .collect();
        let report = serde_json::json!({
            "schema": 1, "address": self.vip.to_string(), "interface": self.local.interface, "asked": self.found.asked,
            "own": self.local.own, "fine": self.is_fine(), "claimants": claimants,
        });
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)
    }
}

fn plural_claims(count: u64) -> String {
    if count == 1 { "another host claims it".to_string() } else { format!("{count} others claim it") }
}
