//! `lvscope director simulate`: a scheduler calculator.

use super::Behaviour;
use super::event::{self, Event, Mark};
use super::rules::given;
use crate::cli::captures::reason;
use crate::cli::output::{Output, complain};
use crate::cli::{FINDINGS, FINE, Failure};
use crate::director::{Dial, Settings, Simulator};
use crate::ipvs::{Command, Listing, Match, list, parse_command};
use crate::net::{Endpoint, Protocol, Timestamp, plural};
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Events, one JSON object a line:
  {\"event\": \"config\", \"commands\": [\"ipvsadm -A -t 192.168.2.59:80 -s wlc\", …]}
  {\"event\": \"open\", \"client\": \"192.168.2.100:20001\", \"vip\": \"192.168.2.59:80\"}
  {\"event\": \"close\", \"conn\": 1}
  {\"event\": \"weight\", \"rip\": \"192.168.224.11\", \"weight\": 0}
  {\"event\": \"remove\", \"rip\": \"192.168.224.11\"}
  {\"event\": \"add\", \"rip\": \"192.168.224.11\", \"weight\": 2}
Optional: conn (a number), protocol (tcp, udp, sctp), mark, time (in seconds).
Each comes out again with the decision filled in: rip (null: refused), and each
real server's weight, active and inactive connections in before and state.

Exit status: 0 fine, 1 --check found differences, 2 wrong usage, 3 bad input.")]
pub(super) struct Simulate {
    /// Files of events; without one, or for `-`, standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Rules to begin with, as `ipvsadm -Sn` writes them, or a director's snapshot; then no config event is needed
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Say why: the numbers that were compared
    #[arg(long)]
    explain: bool,
    /// Compare with the decisions that the events carry, and print only differences
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    behaviour: Behaviour,
}

pub(super) fn run(args: &Simulate, out: &mut Output) -> Result<u8, Failure> {
    let mut tally = Tally::default();
    let files = if args.files.is_empty() { vec![PathBuf::from("-")] } else { args.files.clone() };
    for path in files {
        let name = if path.as_os_str() == "-" { "standard input".to_string() } else { path.display().to_string() };
        let reader: Box<dyn BufRead> = match path.as_os_str() == "-" {
            true => Box::new(BufReader::new(io::stdin())),
            false => {
                let file = File::open(&path).map_err(|e| Failure::input(format!("{name}: cannot be opened: {}", reason(&e))))?;
                Box::new(BufReader::new(file))
            }
        };
        let mut world = World::new(args)?;
        for (at, line) in reader.lines().enumerate() {
            let wrong = |what: String| Failure::input(format!("{name}, line {}: {what}", at + 1));
            let line = line.map_err(|e| wrong(reason(&e)))?;
            if line.trim().is_empty() {
                continue;
            }
            let given: Event = serde_json::from_str(&line).map_err(|e| wrong(format!("not a JSON object: {e}")))?;
            let event = world.play(given.clone()).map_err(wrong)?;
            if args.check {
                tally.compare(&given, &event, &format!("{name}:{}", at + 1), out)?;
            } else {
                writeln!(out, "{}", event::to_line(&event))?;
                // Whoever types the events wants to see each decision at once.
                out.flush()?;
            }
        }
    }
    if !args.check {
        return Ok(FINE);
    }
    let differences = match tally.different {
        0 => "none different".to_string(),
        n => plural(n, "difference"),
    };
    writeln!(out, "{}, {}: {differences}", plural(tally.decisions, "decision"), plural(tally.states, "state"))?;
    if tally.decisions == 0 {
        complain("no event carries a decision (rip) to compare with");
    }
    Ok(if tally.different == 0 { FINE } else { FINDINGS })
}

#[derive(Default)]
struct Tally {
    decisions: u64,
    states: u64,
    different: u64,
}

impl Tally {
    fn compare(&mut self, given: &Event, found: &Event, place: &str, out: &mut Output) -> Result<(), Failure> {
        for key in ["rip", "before", "state"] {
            let Some(expected) = given.get(key) else { continue };
            if key == "rip" && given.get("event").and_then(Value::as_str) != Some("open") {
                continue;
            }
            *(if key == "rip" { &mut self.decisions } else { &mut self.states }) += 1;
            let got = found.get(key).unwrap_or(&Value::Null);
            if got != expected {
                self.different += 1;
                writeln!(out, "{place}: {key}\n- {expected}\n+ {got}")?;
            }
        }
        Ok(())
    }
}

/// The simulated director, and what the events call things.
struct World<'a> {
    args: &'a Simulate,
    simulator: Option<Simulator>,
    config: Event,
    marks: Vec<Mark>,
    names: BTreeMap<String, String>,
    next: u64,
    by_client: HashMap<(String, String), u64>,
}

impl<'a> World<'a> {
    fn new(args: &'a Simulate) -> Result<Self, Failure> {
        let simulator = match &args.rules {
            None => None,
            Some(path) => {
                let rules = given(path)?;
                let made = Simulator::new(args.behaviour.settings(rules.settings)?, args.behaviour.seed, &rules.services);
                Some(made.map_err(|e| Failure::input(format!("{}: {e}", path.display())))?)
            }
        };
        Ok(World { args, simulator, config: Map::new(), marks: Vec::new(), names: BTreeMap::new(), next: 1, by_client: HashMap::new() })
    }

    fn play(&mut self, mut event: Event) -> Result<Event, String> {
        let kind = event::text(&event, "event").ok_or("'event' is missing")?.to_string();
        if let (Some(simulator), Some(time)) = (&mut self.simulator, event.get("time").and_then(Value::as_f64)) {
            simulator.advance(Timestamp((time * 1e9) as i64));
        }
        match kind.as_str() {
            "config" => self.configure(&event)?,
            "open" => {
                event.insert("before".to_string(), self.state());
                self.open(&mut event)?;
            }
            "close" => {
                let number = self.number(&event)?;
                self.simulator()?.close(number);
            }
            "weight" | "add" => self.change(&kind, &event)?,
            "remove" if event.contains_key("cmd") => self.change(&kind, &event)?,
            "remove" => {
                let server = self.server(&event)?;
                let matches = self.matches(&event)?;
                self.simulator()?.command(Command::DeleteServer(matches, server))?;
            }
            "time" => {}
            "end" => {
                let listed = self.simulator()?.balancer().listed(false);
                event.insert("ipvsadm".to_string(), list(&listed, Listing::Connections).into());
                return Ok(event);
            }
            other => return Err(format!("unknown event '{other}' (known: config open close weight remove add time end)")),
        }
        event.insert("state".to_string(), self.state());
        Ok(event)
    }

    fn simulator(&mut self) -> Result<&mut Simulator, String> {
        self.simulator.as_mut().ok_or_else(|| "no service yet: begin with a config event, or give --rules".to_string())
    }

    fn configure(&mut self, event: &Event) -> Result<(), String> {
        let mut settings = self.args.behaviour.settings(Settings::default()).map_err(|e| e.text)?;
        if let (None, Some(kernel)) = (self.args.behaviour.kernel, event::text(event, "kernel")) {
            settings.kernel = kernel.parse()?;
        }
        let (commands, marks) = event::commands(event, &mut settings)?;
        let mut simulator = Simulator::new(settings, self.args.behaviour.seed, &[])?;
        commands.into_iter().try_for_each(|command| simulator.command(command))?;
        self.names.clear();
        for server in event.get("servers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object) {
            if let (Some(rip), Some(name)) = (event::text(server, "rip"), event::text(server, "name")) {
                self.names.insert(rip.to_string(), name.to_string());
            }
        }
        (self.simulator, self.marks, self.config, self.next) = (Some(simulator), marks, event.clone(), 1);
        self.by_client.clear();
        Ok(())
    }

    /// The service that an event is about: its own `service`, or the only one, or the first.
    fn matches(&mut self, event: &Event) -> Result<Match, String> {
        if let Some(service) = event::text(event, "service") {
            return match parse_command(&format!("-D {service}")).map_err(|e| e.what)? {
                Some(Command::DeleteService(matches)) => Ok(matches),
                _ => Err(format!("'{service}' is not a service such as -t 192.168.2.59:80")),
            };
        }
        let simulator = self.simulator()?;
        simulator.balancer().services().first().map(|s| s.rule().matches).ok_or_else(|| "there is no service".to_string())
    }

    fn server(&mut self, event: &Event) -> Result<Endpoint, String> {
        let rip = event::text(event, "rip").ok_or("'rip' is missing")?.to_string();
        let (addr, port) = event::server_name(&rip).ok_or_else(|| format!("'{rip}' is not an address"))?;
        let matches = self.matches(event)?;
        let balancer = self.simulator()?.balancer();
        let service = balancer.services().iter().find(|s| s.rule().matches == matches);
        let known = service.into_iter().flat_map(|s| s.list()).map(|id| balancer.pool()[*id].endpoint());
        let mut same = known.filter(|e| e.addr == addr && port.is_none_or(|port| port == e.port));
        same.next().ok_or_else(|| format!("no real server {rip}"))
    }

    /// `weight` and `add`: the command that the event carries, or what it amounts to.
    fn change(&mut self, kind: &str, event: &Event) -> Result<(), String> {
        let weight = event.get("weight").and_then(Value::as_u64);
        if let Some(line) = event::text(event, "cmd") {
            let command = parse_command(line).map_err(|e| format!("'{line}', column {}: {}", e.column, e.what))?;
            let command = command.map(|command| match (command, weight) {
                (Command::EditServer(matches, mut server), Some(weight)) => {
                    server.weight = u32::try_from(weight).unwrap_or(u32::MAX);
                    Command::EditServer(matches, server)
                }
                (command, _) => command,
            });
            return command.map_or(Ok(()), |command| self.simulator()?.command(command));
        }
        let matches = self.matches(event)?;
        if kind == "weight" {
            let server = self.server(event)?;
            let weight = weight.and_then(|w| u32::try_from(w).ok()).ok_or("'weight' is missing")?;
            let simulator = self.simulator()?;
            let balancer = simulator.balancer();
            let at = balancer.services().iter().position(|s| s.rule().matches == matches).unwrap_or(0);
            let id = balancer.find_server(at, server).ok_or("no such real server")?;
            let rule = crate::ipvs::RealServer { weight, ..balancer.pool()[id].rule.clone() };
            return simulator.command(Command::EditServer(matches, rule));
        }
        let service = match matches {
            Match::Endpoint(Protocol::Udp, vip) => format!("-u {vip}"),
            Match::Endpoint(Protocol::Sctp, vip) => format!("--sctp-service {vip}"),
            Match::Endpoint(_, vip) => format!("-t {vip}"),
            Match::Mark(mark, ipv6) => format!("-f {mark}{}", if ipv6 { " -6" } else { "" }),
        };
        let line = event::server_rule("-a", &service, &self.config, event)?;
        let command = parse_command(&line).map_err(|e| format!("'{line}': {}", e.what))?;
        command.map_or(Ok(()), |command| self.simulator()?.command(command))
    }

    fn number(&mut self, event: &Event) -> Result<u64, String> {
        if let Some(number) = event.get("conn").and_then(Value::as_u64) {
            return Ok(number);
        }
        let ends =
            (event::text(event, "client").unwrap_or_default().to_string(), event::text(event, "vip").unwrap_or_default().to_string());
        self.by_client.get(&ends).copied().ok_or_else(|| "neither 'conn' nor a known 'client' and 'vip'".to_string())
    }

    fn open(&mut self, event: &mut Event) -> Result<(), String> {
        let (client, dialled): (Endpoint, Endpoint) = (event::required(event, "client")?, event::required(event, "vip")?);
        let own = self.simulator()?.balancer().services().first().map(|s| s.rule().matches);
        let protocol = match (event::text(event, "protocol"), own) {
            (Some("udp"), _) => Protocol::Udp,
            (Some("sctp"), _) => Protocol::Sctp,
            (Some("tcp"), _) => Protocol::Tcp,
            (Some(other), _) => return Err(format!("unknown protocol '{other}' (known: tcp udp sctp)")),
            (None, Some(Match::Endpoint(protocol, _))) => protocol,
            (None, _) => Protocol::Tcp,
        };
        // A service of a mark with nothing that says who is marked: everyone is.
        let marked = event.get("mark").and_then(Value::as_u64).and_then(|m| u32::try_from(m).ok());
        let mark = marked.or_else(|| Mark::of(&self.marks, protocol, dialled)).unwrap_or(match own {
            Some(Match::Mark(mark, _)) if self.marks.is_empty() => mark,
            _ => 0,
        });
        let number = event.get("conn").and_then(Value::as_u64).unwrap_or(self.next);
        self.next = self.next.max(number) + 1;
        let ends = (client.to_string(), dialled.to_string());
        self.by_client.insert(ends, number);
        let explain = self.args.explain;
        let picked = self.simulator()?.open(number, &Dial { protocol, client, dialled, mark }, explain)?;
        event.insert("conn".to_string(), number.into());
        event.remove("error");
        match picked.server {
            Some(server) => {
                let rip = server.addr.to_string();
                match self.names.get(&rip) {
                    Some(name) => event.insert("server".to_string(), name.as_str().into()),
                    None => event.remove("server"),
                };
                event.insert("rip".to_string(), rip.into());
            }
            None => {
                event.remove("server");
                event.insert("rip".to_string(), Value::Null);
                // The client gets an ICMP port unreachable.
                event.insert("error".to_string(), "ECONNREFUSED".into());
            }
        }
        if explain {
            event.insert("why".to_string(), picked.why.into());
        }
        Ok(())
    }

    /// Each real server's weight and connections. Addresses name them; ports only where an address alone does not tell them apart.
    fn state(&self) -> Value {
        let mut state = Map::new();
        let Some(simulator) = &self.simulator else { return Value::Object(state) };
        for listed in simulator.balancer().listed(false) {
            for of in &listed.servers {
                let addr = of.server.addr.to_string();
                let name = if state.contains_key(&addr) { of.server.endpoint().to_string() } else { addr };
                state.insert(name, json!({"w": of.server.weight, "act": of.active, "inact": of.inactive}));
            }
        }
        Value::Object(state)
    }
}
