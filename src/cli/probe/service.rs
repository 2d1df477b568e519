//! `lvscope probe service`.

use super::{failed, time};
use crate::cli::output::{Output, complain};
use crate::cli::{FINDINGS, FINE, Failure};
use crate::net::{Endpoint, MacAddr, span};
use crate::probe::{Local, Method, Outcome, Pace, Resolution, ServiceProbe, Wrap};
use clap::{Args, ValueEnum};
use colored::Colorize;
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Args)]
pub(super) struct Service {
    /// The virtual service
    #[arg(value_name = "VIP:PORT")]
    service: Endpoint,
    /// The real server: its address (with NAT perhaps with a port), or its MAC
    #[arg(long, value_name = "RIP|MAC", value_parser = server)]
    real_server: Server,
    /// How the director forwards to it
    #[arg(long, value_enum, default_value_t = Forward::Dr, value_name = "METHOD")]
    method: Forward,
    /// With --method tun: what the tunnel puts around packets (`ipvsadm --tun-type`)
    #[arg(long, value_parser = wrap, default_value = "ipip", value_name = "ipip|gre|gue[:PORT]")]
    tunnel: Wrap,
    /// Ask out of this interface (default: the one on the way to the real server)
    #[arg(short = 'i', long = "interface", value_name = "IF")]
    interface: Option<String>,
    /// As if from this client; its answers must come by here (default: an address of this host)
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// Wait so long for the answer to each of two SYNs
    #[arg(long, default_value = "1s", value_parser = time, value_name = "TIME")]
    wait: Duration,
    /// Print JSON
    #[arg(short = 'j', long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Forward {
    Dr,
    Nat,
    Tun,
}

#[derive(Clone, Copy)]
enum Server {
    Address(IpAddr, Option<u16>),
    Mac(MacAddr),
}

fn wrap(text: &str) -> Result<Wrap, String> {
    let (kind, port) = text.split_once(':').map_or((text, None), |(kind, port)| (kind, Some(port)));
    match (kind, port.map(str::parse)) {
        ("ipip", None) => Ok(Wrap::IpIp),
        ("gre", None) => Ok(Wrap::Gre),
        // IANA's port for it.
        ("gue", None) => Ok(Wrap::Gue(6080)),
        ("gue", Some(Ok(port))) if port != 0 => Ok(Wrap::Gue(port)),
        _ => Err(format!("'{text}' is none of ipip, gre, gue, gue:PORT")),
    }
}

fn server(text: &str) -> Result<Server, String> {
    if let Ok(mac) = text.parse() {
        return Ok(Server::Mac(mac));
    }
    if let Ok(addr) = text.parse() {
        return Ok(Server::Address(addr, None));
    }
    let end: Result<Endpoint, String> = text.parse();
    end.map(|end| Server::Address(end.addr, Some(end.port))).map_err(|_| format!("'{text}' is neither an address nor a MAC"))
}

pub(super) fn run(args: &Service, out: &mut Output) -> Result<u8, Failure> {
    let vip = args.service;
    let place = |e: crate::probe::LocalError| Failure::input(format!("cannot ask {}: {e}", words(args.real_server)));
    let local = match args.real_server {
        Server::Address(rip, _) if rip.is_ipv4() != vip.addr.is_ipv4() && args.method != Forward::Tun => {
            return Err(Failure::usage(format!("{rip} and {vip} are of different address families; only tunnels can do that")));
        }
        Server::Address(rip, _) => Local::towards(rip, args.interface.as_deref()).map_err(place)?,
        Server::Mac(_) if args.method != Forward::Dr => return Err(Failure::usage("with nat and tun the real server's address is needed")),
        Server::Mac(_) => Local::towards(vip.addr, args.interface.as_deref()).map_err(place)?,
    };
    if let (Server::Address(rip, _), Forward::Dr, Some(gateway)) = (args.real_server, args.method, local.gateway) {
        return Err(Failure::input(format!(
            "{rip} is behind the gateway {gateway}: direct routing reaches neighbours only; ask on the director, or on a host of its segment"
        )));
    }
    if let Server::Address(rip, _) = args.real_server
        && local.own
    {
        return Err(Failure::input(format!("{rip} is this host itself: ask from the director, or from another host of the segment")));
    }
    let mac = match args.real_server {
        Server::Mac(mac) => mac,
        Server::Address(rip, _) => match resolve(&local, local.gateway.unwrap_or(rip), args)? {
            Some(mac) => mac,
            None => return absent(args, &local, local.gateway.unwrap_or(rip), out),
        },
    };
    let (to, towards) = match (args.real_server, args.method) {
        (Server::Address(rip, port), Forward::Nat) => (Endpoint::new(rip, port.unwrap_or(vip.port)), rip),
        _ => (vip, vip.addr),
    };
    let from = args.from.or_else(|| local.source(towards)).filter(|from| from.is_ipv4() == to.addr.is_ipv4() && *from != to.addr);
    let from = from.ok_or_else(|| {
        Failure::usage(format!("{} has no address to ask from but {}: give a client's with --from", local.interface, to.addr))
    })?;
    let tunnel = match (args.real_server, args.method) {
        (Server::Address(rip, _), Forward::Tun) => {
            let source =
                local.source(rip).ok_or_else(|| Failure::input(format!("{} has no address for a tunnel to {rip}", local.interface)))?;
            Some((source, rip))
        }
        _ => None,
    };
    let (port, seq) = numbers();
    let method = match args.method {
        Forward::Dr => Method::Dr,
        Forward::Nat => Method::Nat,
        Forward::Tun => Method::Tun,
    };
    let probe = ServiceProbe { method, to, from: Endpoint::new(from, port), mac, tunnel, wrap: args.tunnel, seq };
    let word = match args.tunnel {
        Wrap::IpIp => "IP",
        Wrap::Gre => "GRE",
        Wrap::Gue(_) => "GUE",
    };
    let around = tunnel.map(|(src, dst)| format!(" inside {word} {src} > {dst}")).unwrap_or_default();
    complain(&format!("sends on {} to {mac}: SYN {} > {to}{around}, then RST", local.interface, probe.from));
    let outcome = probe.ask(&local, args.wait).map_err(|e| failed(&e))?;
    // Is it the virtual address alone that is dead? What a health check would have asked.
    let mut health = None;
    if !matches!(outcome, Outcome::Serves { .. }) && args.method != Forward::Nat {
        health = check(args, &local, mac)?;
    }
    let answer = Answer { args, probe: &probe, outcome, health, mac };
    match args.json {
        true => answer.json(out)?,
        false => answer.text(out)?,
    }
    Ok(if answer.is_fine() { FINE } else { FINDINGS })
}

fn words(server: Server) -> String {
    match server {
        Server::Address(addr, None) => addr.to_string(),
        Server::Address(addr, Some(port)) => Endpoint::new(addr, port).to_string(),
        Server::Mac(mac) => mac.to_string(),
    }
}

fn resolve(local: &Local, addr: IpAddr, args: &Service) -> Result<Option<MacAddr>, Failure> {
    complain(&format!("asks on {}: who has {addr}", local.interface));
    let pace = Pace { count: 3, wait: args.wait, first: true };
    let found = Resolution::ask(local, addr, pace).map_err(|e| failed(&e))?;
    Ok(found.answerers().next().map(|claimant| claimant.mac))
}

/// Nobody has the address that frames would have to go to.
fn absent(args: &Service, local: &Local, addr: IpAddr, out: &mut Output) -> Result<u8, Failure> {
    let what = if local.gateway.is_some() { "the gateway" } else { "the real server" };
    let why = format!("nobody on {} answers for {addr}: {what} is down, or elsewhere", local.interface);
    if args.json {
        let report = serde_json::json!({
            "schema": 1, "service": args.service.to_string(), "real_server": words(args.real_server), "outcome": "absent", "fine": false, "causes": [why],
        });
        serde_json::to_writer_pretty(&mut *out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{} {why}", "✗".red())?;
    }
    Ok(FINDINGS)
}

/// The same question to the real server's own address.
fn check(args: &Service, local: &Local, mac: MacAddr) -> Result<Option<Outcome>, Failure> {
    let Server::Address(rip, port) = args.real_server else { return Ok(None) };
    let Some(from) = local.source(rip) else { return Ok(None) };
    let (own, seq) = numbers();
    let to = Endpoint::new(rip, port.unwrap_or(args.service.port));
    let probe = ServiceProbe { method: Method::Nat, to, from: Endpoint::new(from, own), mac, tunnel: None, wrap: Wrap::IpIp, seq };
    complain(&format!("sends on {} to {mac}: SYN {} > {to}, then RST", local.interface, probe.from));
    probe.ask(local, args.wait).map(Some).map_err(|e| failed(&e))
}

/// A port and a sequence number that differ each time.
fn numbers() -> (u16, u32) {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mixed = (nanos as u64 ^ u64::from(std::process::id()) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (61_000 + (mixed >> 48) as u16 % 4_500, (mixed >> 8) as u32)
}

struct Answer<'a> {
    args: &'a Service,
    probe: &'a ServiceProbe,
    outcome: Outcome,
    /// What the real server's own address said.
    health: Option<Outcome>,
    mac: MacAddr,
}

impl Answer<'_> {
    /// It serves, and the answer comes from the real server itself (or through a router, in a tunnel or with NAT).
    fn is_fine(&self) -> bool {
        matches!(self.outcome, Outcome::Serves { .. })
    }

    fn headline(&self) -> String {
        let (server, to) = (words(self.args.real_server), self.probe.to);
        match self.outcome {
            Outcome::Serves { after, .. } => format!("{server} serves {to}: SYN-ACK after {}", span(after)),
            Outcome::Refuses { .. } => format!("{server} refuses {to}: RST"),
            Outcome::Error { by, kind: (kind, code) } => {
                format!("{server} does not serve {to}: {by} answers with an ICMP error ({kind}/{code})")
            }
            Outcome::SentBack { .. } => format!("{server} does not have {}: it forwards the packet", to.addr),
            Outcome::Silence => format!("{server} is silent on {to}"),
        }
    }

    fn causes(&self) -> Vec<String> {
        let (vip, port) = (self.probe.to.addr, self.probe.to.port);
        let direct = self.args.method != Forward::Nat;
        let mut causes = Vec::new();
        match self.outcome {
            Outcome::Serves { .. } => {}
            Outcome::Refuses { .. } if matches!(self.health, Some(Outcome::Serves { .. })) => {
                causes.push(format!("the program listens on the real server's own address only: ss -ltn 'sport = {port}'"));
            }
            Outcome::Refuses { .. } => causes.push(format!("nothing listens on port {port}: ss -ltn 'sport = {port}'")),
            Outcome::Error { kind: (3, 2 | 3), .. } if self.args.method == Forward::Tun => causes.push(match self.args.tunnel {
                Wrap::IpIp => "it takes no IPIP packets: modprobe ipip; ip link set tunl0 up".to_string(),
                Wrap::Gre => "it takes no GRE packets: ip -d link show type gre".to_string(),
                Wrap::Gue(port) => format!("it takes no GUE packets on port {port}: ip fou show"),
            }),
            Outcome::Error { .. } => causes.push("a firewall rejects it, or a router knows no way".to_string()),
            Outcome::SentBack { .. } => causes.push(format!("the virtual address is missing there: ip addr add {vip}/32 dev lo")),
            Outcome::Silence => {
                if direct {
                    causes.push(format!("the virtual address is missing there: ip addr show to {vip}"));
                    causes.push(format!("a firewall drops what is for {vip}"));
                    causes.push("rp_filter drops it (tunnels above all): nstat -az TcpExtIPReversePathFilter".to_string());
                } else {
                    causes.push("a firewall drops it, or the host is down".to_string());
                }
                causes.push(format!("its answer goes another way: ip route get {} (there)", self.probe.from.addr));
            }
        }
        causes
    }

    fn text(&self, out: &mut Output) -> std::io::Result<()> {
        let mark = if self.is_fine() { "✓".green() } else { "✗".red() };
        writeln!(out, "{mark} {}", self.headline())?;
        if let Outcome::Serves { by: Some(by), .. } = self.outcome
            && by != self.mac
        {
            writeln!(out, "  The answer came from {by}, the question went to {}: a router is between, or another host answers.", self.mac)?;
        }
        match self.health {
            Some(Outcome::Serves { .. }) => {
                writeln!(out, "  Its own address does serve: a health check on it is green, and clients of the service fail.")?;
            }
            Some(_) => writeln!(out, "  Its own address does not serve either.")?,
            None => {}
        }
        for cause in self.causes() {
            writeln!(out, "  - {cause}")?;
        }
        Ok(())
    }

    fn json(&self, out: &mut Output) -> std::io::Result<()> {
        let word = |outcome: Outcome| match outcome {
            Outcome::Serves { .. } => "serves",
            Outcome::Refuses { .. } => "refuses",
            Outcome::Error { .. } => "icmp-error",
            Outcome::SentBack { .. } => "sent-back",
            Outcome::Silence => "silence",
        };
        let (by, after) = match self.outcome {
            Outcome::Serves { by, after } => (by, Some(after)),
            Outcome::Refuses { by } | Outcome::SentBack { by } => (by, None),
            Outcome::Error { .. } | Outcome::Silence => (None, None),
        };
        let report = serde_json::json!({
            "schema": 1, "service": self.args.service.to_string(), "real_server": words(self.args.real_server), "asked": self.probe.to.to_string(),
            "from": self.probe.from.to_string(), "mac": self.mac.to_string(), "outcome": word(self.outcome), "answered_by": by.map(|mac| mac.to_string()),
            "delay_ns": after, "own_address": self.health.map(word), "fine": self.is_fine(), "causes": self.causes(),
        });
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)
    }
}
