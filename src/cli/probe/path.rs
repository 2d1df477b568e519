//! `lvscope probe path`.

use super::{failed, time};
use crate::cli::output::{Output, complain};
use crate::cli::{FINDINGS, FINE, Failure};
use crate::net::{Endpoint, plural, span};
use crate::probe::{Answer, Attempt, AttemptEnd, Kind, Local, PathProbe, Signature, signatures};
use clap::Args;
use colored::Colorize;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(super) struct Path {
    /// The service, as clients dial it
    #[arg(long, value_name = "VIP:PORT")]
    service: Endpoint,
    /// Open so many connections, one after the other
    #[arg(short = 'c', long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    count: u32,
    /// Begin one each so long, at most ten a second
    #[arg(long, default_value = "200ms", value_parser = time, value_name = "TIME")]
    interval: Duration,
    /// Wait so long for each to open
    #[arg(long, default_value = "3s", value_parser = time, value_name = "TIME")]
    wait: Duration,
    /// Listen for the answers on this interface (default: the one on the way to the service)
    #[arg(short = 'i', long = "interface", value_name = "IF")]
    interface: Option<String>,
    /// Print JSON
    #[arg(short = 'j', long)]
    json: bool,
}

/// Nobody is asked faster.
const LEAST: Duration = Duration::from_millis(100);

pub(super) fn run(args: &Path, out: &mut Output) -> Result<u8, Failure> {
    let to = args.service;
    if to.port == 0 {
        return Err(Failure::usage(format!("{to}: a port is needed")));
    }
    let local = Local::towards(to.addr, args.interface.as_deref()).map_err(|e| Failure::input(format!("cannot connect to {to}: {e}")))?;
    if local.own {
        return Err(Failure::input(format!("{} is this host's own address: ask from a client", to.addr)));
    }
    let interval = args.interval.max(LEAST);
    complain(&format!(
        "opens {} to {to}, one each {}, closes each at once; listens on {}",
        plural(args.count.into(), "connection"),
        span(i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX)),
        local.interface
    ));
    let mut probe = PathProbe::open(&local.interface, to).map_err(|e| failed(&e))?;
    let mut attempts: Vec<Attempt> = Vec::new();
    for n in 0..args.count {
        let begun = Instant::now();
        attempts.push(probe.attempt(args.wait).map_err(|e| failed(&e))?);
        if n + 1 < args.count {
            std::thread::sleep(interval.saturating_sub(begun.elapsed()));
        }
    }
    let verdict = Verdict { to, attempts: &attempts, straight: local.gateway.is_none(), interface: &local.interface };
    match args.json {
        true => verdict.json(out)?,
        false => verdict.text(out)?,
    }
    Ok(if verdict.is_fine() { FINE } else { FINDINGS })
}

struct Verdict<'a> {
    to: Endpoint,
    attempts: &'a [Attempt],
    /// No gateway on the way.
    straight: bool,
    interface: &'a str,
}

impl Verdict<'_> {
    fn open(&self) -> usize {
        self.attempts.iter().filter(|a| a.end == AttemptEnd::Open).count()
    }

    fn is_fine(&self) -> bool {
        self.open() == self.attempts.len() && self.oddities().is_empty()
    }

    /// What the service itself answered first, by attempt.
    fn first(&self) -> Vec<(usize, Answer)> {
        let own = |attempt: &Attempt| attempt.answers.iter().find(|a| a.src == self.to).copied();
        self.attempts.iter().enumerate().filter_map(|(at, attempt)| own(attempt).map(|answer| (at, answer))).collect()
    }

    /// The server of each answered attempt, numbered in the order in which they came up; with what tells them apart.
    fn servers(&self) -> (BTreeMap<usize, usize>, Vec<(Signature, u64)>) {
        let first = self.first();
        let answers: Vec<Answer> = first.iter().map(|(_, answer)| *answer).collect();
        let (mut of, mut servers): (BTreeMap<usize, usize>, Vec<(Signature, u64)>) = (BTreeMap::new(), Vec::new());
        for ((at, _), signature) in first.iter().zip(signatures(&answers, self.straight)) {
            let server = servers.iter().position(|(known, _)| *known == signature).unwrap_or_else(|| {
                servers.push((signature, 0));
                servers.len() - 1
            });
            servers[server].1 += 1;
            of.insert(*at, server + 1);
        }
        (of, servers)
    }

    fn oddities(&self) -> Vec<String> {
        let mut said = Vec::new();
        let count = |wanted: fn(&AttemptEnd) -> bool| self.attempts.iter().filter(|a| wanted(&a.end)).count() as u64;
        let silent = count(|end| *end == AttemptEnd::Silence);
        if silent > 0 {
            said.push(format!(
                "{} got no answer: capture on the way, or ask the real servers (lvscope probe service)",
                plural(silent, "connection")
            ));
        }
        let refused = count(|end| *end == AttemptEnd::Refused);
        if refused > 0 {
            let by: Vec<String> = self.by(Kind::Refuses);
            said.push(format!("{} refused{}: nothing listens on the service's address there", was(refused), from(&by)));
        }
        let mut strangers: BTreeMap<Endpoint, u64> = BTreeMap::new();
        for answer in self.attempts.iter().flat_map(|a| &a.answers).filter(|a| a.src.port != 0 && a.src != self.to) {
            *strangers.entry(answer.src).or_default() += 1;
        }
        for (src, times) in strangers {
            said.push(format!("{} came from {src} itself, past the director (lvscope explain NAT003, NAT010)", plural(times, "answer")));
        }
        let mut errors: BTreeMap<(Endpoint, u8, u8), u64> = BTreeMap::new();
        for answer in self.attempts.iter().flat_map(|a| &a.answers) {
            if let Kind::Error(kind, code) = answer.kind {
                *errors.entry((answer.src, kind, code)).or_default() += 1;
            }
        }
        for ((src, kind, code), times) in errors {
            said.push(format!("{} sent {} (type {kind} code {code})", src.addr, plural(times, "ICMP error")));
        }
        for errno in self.attempts.iter().filter_map(|a| if let AttemptEnd::Failed(errno) = a.end { Some(errno) } else { None }).take(1) {
            said.push(format!("this host could not connect: {}", errno.desc().to_lowercase()));
        }
        let twice = self.attempts.iter().filter(|a| a.answers.iter().filter(|x| x.src == self.to && x.kind == Kind::Accepts).count() > 1);
        let twice = twice.count() as u64;
        if twice > 0 {
            said.push(format!("{} answered from two MACs: the address is there twice (lvscope probe arp {})", was(twice), self.to.addr));
        }
        said
    }

    fn by(&self, kind: Kind) -> Vec<String> {
        let mut by: Vec<String> = Vec::new();
        for mac in self.attempts.iter().flat_map(|a| &a.answers).filter(|a| a.kind == kind).filter_map(|a| a.mac) {
            if !by.contains(&mac.to_string()) {
                by.push(mac.to_string());
            }
        }
        by
    }

    fn text(&self, out: &mut Output) -> std::io::Result<()> {
        let mark = if self.is_fine() { "✓".green() } else { "✗".red() };
        let (of, servers) = self.servers();
        let told = match servers.len() {
            0 => String::new(),
            1 => ", all by one server as far as can be seen".to_string(),
            n => format!(", by {n} servers"),
        };
        writeln!(out, "{mark} {}: {} of {} open{told}", self.to, self.open(), plural(self.attempts.len() as u64, "connection"))?;
        if servers.len() > 1 {
            for (at, (signature, count)) in servers.iter().enumerate() {
                writeln!(out, "  server {}  {}  {}", at + 1, plural(*count, "connection"), words(signature))?;
            }
        }
        for oddity in self.oddities() {
            writeln!(out, "  - {oddity}")?;
        }
        writeln!(out)?;
        writeln!(out, "  {:>4}  {:<9} {:<24} {:>3}  {:<17}  {:>8}  server", "#", "answer", "from", "ttl", "MAC", "after")?;
        for (at, attempt) in self.attempts.iter().enumerate() {
            let server = of.get(&at).map_or_else(|| "-".to_string(), ToString::to_string);
            if attempt.answers.is_empty() {
                writeln!(out, "  {:>4}  {}", at + 1, end(attempt.end))?;
            }
            for answer in &attempt.answers {
                let mac = answer.mac.map_or_else(|| "-".to_string(), |mac| mac.to_string());
                let from = if answer.src.port == 0 { answer.src.addr.to_string() } else { answer.src.to_string() };
                let server = if answer.src == self.to { server.as_str() } else { "-" };
                writeln!(
                    out,
                    "  {:>4}  {:<9} {from:<24} {:>3}  {mac:<17}  {:>8}  {server}",
                    at + 1,
                    kind(answer.kind),
                    answer.ttl,
                    span(answer.after)
                )?;
            }
        }
        Ok(())
    }

    fn json(&self, out: &mut Output) -> std::io::Result<()> {
        let (of, servers) = self.servers();
        let answer = |a: &Answer| {
            serde_json::json!({
                "answer": kind(a.kind), "from": a.src.to_string(), "mac": a.mac.map(|mac| mac.to_string()), "ttl": a.ttl, "delay_ns": a.after,
            })
        };
        let attempts: Vec<serde_json::Value> = self
            .attempts
            .iter()
            .enumerate()
            .map(|(at, attempt)| {
                serde_json::json!({
                    "from": attempt.from.map(|from| from.to_string()), "end": end(attempt.end), "server": of.get(&at),
                    "answers": attempt.answers.iter().map(answer).collect::<Vec<_>>(),
                })
            })
            .collect();
        let servers: Vec<serde_json::Value> = servers
            .iter()
            .map(|(s, count)| serde_json::json!({ "connections": count, "mac": s.mac.map(|mac| mac.to_string()), "clock": s.clock, "ttl": s.ttl }))
            .collect();
        let report = serde_json::json!({
            "schema": 1, "service": self.to.to_string(), "interface": self.interface, "fine": self.is_fine(), "open": self.open(),
            "attempts": attempts, "servers": servers, "oddities": self.oddities(),
        });
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)
    }
}

fn was(count: u64) -> String {
    format!("{} {}", plural(count, "connection"), if count == 1 { "was" } else { "were" })
}

fn from(by: &[String]) -> String {
    if by.is_empty() { String::new() } else { format!(" by {}", by.join(", ")) }
}

fn words(signature: &Signature) -> String {
    let mut words = vec![format!("ttl {}", signature.ttl)];
    words.extend(signature.mac.map(|mac| mac.to_string()));
    words.extend(signature.clock.map(|clock| format!("TCP clock {clock}")));
    words.join("  ")
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Accepts => "SYN-ACK",
        Kind::Refuses => "RST",
        Kind::Error(..) => "ICMP",
    }
}

fn end(end: AttemptEnd) -> &'static str {
    match end {
        AttemptEnd::Open => "open, and its answer was not heard here",
        AttemptEnd::Refused => "refused",
        AttemptEnd::Silence => "no answer",
        AttemptEnd::Failed(_) => "failed",
    }
}
