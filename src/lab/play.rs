//! A scenario played: built, broken, talked to, and recorded.

use super::balance::{Account, Balance};
use super::build::{Balancing, Network};
use super::command;
use super::record;
use super::scenario::{Event, Scenario, Serve, Traffic};
use super::traffic::{self, Saw, Server};
use crate::director::Faults;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A scenario that stands and may be talked to.
pub struct Stage<'a> {
    /// What is played.
    pub scenario: &'a Scenario,
    /// Its hosts.
    pub network: Network,
    servers: Vec<(String, Server)>,
    balances: BTreeMap<String, Balance>,
    plays: u32,
}

/// How long clients wait for what is sure to come, in milliseconds.
const UNHURRIED: u64 = 10_000;

/// What came of it.
#[derive(Debug)]
pub struct Played {
    /// The captures.
    pub captures: Vec<PathBuf>,
    /// What clients saw, question by question.
    pub saw: Vec<Saw>,
}

impl Played {
    /// True when every question was answered.
    pub fn is_green(&self) -> bool {
        !self.saw.is_empty() && self.saw.iter().all(|saw| *saw == Saw::Answer)
    }
}

impl<'a> Stage<'a> {
    /// Builds a scenario and breaks it. To be called inside the sandbox.
    ///
    /// # Errors
    /// What the kernel refuses, and commands that are not understood.
    pub fn set(scenario: &'a Scenario) -> io::Result<Stage<'a>> {
        Stage::directed(scenario, true)
    }

    /// The same with the built-in director, or with the kernel's own.
    ///
    /// # Errors
    /// As [`Stage::set`], and where the kernel has none, or it is not the one that the scenario takes.
    pub fn directed(scenario: &'a Scenario, builtin: bool) -> io::Result<Stage<'a>> {
        if let Some(why) = scenario.refuses(builtin) {
            return Err(io::Error::other(why));
        }
        if !builtin && !command::ipvsadm::is_there() {
            return Err(io::Error::other(command::ipvsadm::NO_IPVS));
        }
        let network = Network::build(scenario, if builtin { Balancing::Builtin } else { Balancing::Kernel }).map_err(io::Error::other)?;
        let mut stage = Stage { scenario, network, servers: Vec::new(), balances: BTreeMap::new(), plays: 0 };
        scenario.hosts.iter().try_for_each(|plan| stage.serve(&plan.name))?;
        for (host, commands) in &scenario.breaks {
            commands.iter().try_for_each(|command| stage.run(host, command))?;
        }
        let directors: Vec<String> = stage.network.hosts.iter().filter(|host| host.wires.is_some()).map(|host| host.name.clone()).collect();
        for name in &directors {
            if !stage.is_down(name) {
                stage.direct(name)?;
            }
        }
        Ok(stage)
    }

    /// A director that is down from the beginning.
    fn is_down(&self, host: &str) -> bool {
        self.scenario.breaks.get(host).is_some_and(|commands| commands.iter().any(|command| command == "kill director"))
    }

    /// Starts the servers of a host.
    fn serve(&mut self, name: &str) -> io::Result<()> {
        let (Some(plan), Some(host)) = (self.scenario.host(name), self.network.host(name)) else { return Ok(()) };
        self.servers.retain(|(running, _)| running != name);
        for serve in &plan.serve {
            let failed = |e: io::Error| io::Error::other(format!("{name}: serve {} {}: {e}", serve.protocol, serve.port));
            self.servers.push((name.to_string(), traffic::serve(host, *serve, self.scenario.ipv6).map_err(failed)?));
        }
        Ok(())
    }

    /// Starts another server in place of those of a host.
    fn serve_as(&mut self, name: &str, told: &str) -> io::Result<()> {
        let failed = |what: String| io::Error::other(format!("{name}: serve {told}: {what}"));
        let Some(host) = self.network.host(name) else { return Ok(()) };
        self.servers.retain(|(running, _)| running != name);
        let serve = Serve::try_from(told.to_string()).map_err(failed)?;
        self.servers.push((name.to_string(), traffic::serve(host, serve, self.scenario.ipv6).map_err(|e| failed(e.to_string()))?));
        Ok(())
    }

    /// Puts the built-in director of a host on its wires, with what the host has now.
    fn direct(&mut self, name: &str) -> io::Result<()> {
        let Some(host) = self.network.host(name) else { return Ok(()) };
        let faults: Result<Vec<Faults>, String> = self.scenario.director_faults.iter().map(|fault| fault.parse()).collect();
        let faults = faults.map_err(io::Error::other)?.into_iter().fold(Faults::default(), Faults::and);
        self.balances.remove(name);
        self.balances.insert(name.to_string(), Balance::begin(host, &self.network.switches, faults)?);
        Ok(())
    }

    /// Runs a command on a host: a break, an event, a remedy.
    ///
    /// # Errors
    /// When it is not understood, or refused.
    pub fn run(&mut self, host: &str, command: &str) -> io::Result<()> {
        match command.split_whitespace().collect::<Vec<_>>()[..] {
            ["kill", "server"] | ["systemctl", "stop", _] => {
                self.servers.retain(|(name, _)| name != host);
                return Ok(());
            }
            ["systemctl", "start" | "restart" | "reload", "keepalived"] => {}
            ["systemctl", "start" | "restart", _] | ["systemctl", "enable", "--now", _] => return self.serve(host),
            // Another program instead of the one that the scenario has.
            ["serve", ..] => return self.serve_as(host, command.trim_start().trim_start_matches("serve").trim()),
            ["kill", "director"] => {
                self.balances.remove(host);
                return Ok(());
            }
            ["start", "director"] => return self.direct(host),
            _ => {}
        }
        self.network.run(host, command).map_err(|e| io::Error::other(format!("{host}: {e}")))?;
        match (self.balances.get(host), self.network.host(host)) {
            // A director does not forget a neighbour but by beginning anew.
            (Some(_), _) if command.trim_start().starts_with("ip neigh") => self.direct(host),
            (Some(balance), Some(at)) => balance.renew(at),
            _ => Ok(()),
        }
    }

    /// What the built-in director of a host knows of its connections, if it has one.
    pub fn account(&self, host: &str) -> Option<Account> {
        self.balances.get(host).map(Balance::account)
    }

    /// Lets the clients talk while all interfaces are captured.
    ///
    /// # Errors
    /// When a capture cannot be made, or an event cannot be run.
    pub fn play(&mut self, folder: &Path) -> io::Result<Played> {
        let mut events: Vec<Event> = self.scenario.events.clone();
        events.sort_by_key(|event| event.after_ms);
        self.play_with(folder, (&self.scenario.traffic, &events), self.scenario.codes.is_empty())
    }

    /// The same when all that was to happen has happened.
    ///
    /// # Errors
    /// When a capture cannot be made.
    pub fn play_on(&mut self, folder: &Path) -> io::Result<Played> {
        self.network.be_quiet()?;
        let traffic = if self.scenario.instead.is_empty() { &self.scenario.traffic } else { &self.scenario.instead };
        self.play_with(folder, (traffic, &[]), true)
    }

    /// A director that still knows a port of a client would hand its next connection on as the one before (`conn_reuse_mode`): each play
    /// has ports of its own.
    fn fresh_ports(&mut self) -> io::Result<()> {
        let first = 20_000 + 10_000 * (self.plays % 4);
        self.plays += 1;
        let talks = self.scenario.traffic.iter().chain(&self.scenario.instead);
        let clients: std::collections::BTreeSet<&String> = talks.map(|traffic| &traffic.from).collect();
        clients.into_iter().try_for_each(|host| {
            let range = format!("sysctl -w net.ipv4.ip_local_port_range='{first} {}'", first + 9_999);
            self.network.run(host, &range).map_err(|e| io::Error::other(format!("{host}: {e}")))
        })
    }

    /// `works`: nothing is expected to fail, and waiting for what a busy machine does late costs nothing.
    fn play_with(&mut self, folder: &Path, (traffic, events): (&[Traffic], &[Event]), works: bool) -> io::Result<Played> {
        std::fs::create_dir_all(folder)?;
        self.fresh_ports()?;
        let recording = record::begin(&self.network)?;
        let begun = Instant::now();
        let until = |ms: u64| std::thread::sleep(Duration::from_millis(ms).saturating_sub(begun.elapsed()));
        let (mut talks, mut besides) = (Vec::new(), Vec::new());
        let background = self.scenario.background.iter().map(|traffic| (traffic, true));
        for (traffic, in_background) in background.chain(traffic.iter().map(|traffic| (traffic, false))) {
            let Some(host) = self.network.host(&traffic.from) else { continue };
            let mut traffic = traffic.clone();
            if works && !in_background {
                traffic.patience_ms = traffic.patience_ms.max(UNHURRIED);
            }
            let talk = move || {
                std::thread::sleep(Duration::from_millis(traffic.after_ms));
                traffic::talk(&traffic)
            };
            let into = if in_background { &mut besides } else { &mut talks };
            into.push(host.namespace.spawn(talk)?);
        }
        let mut trouble = None;
        for event in events {
            until(event.after_ms);
            if let Err(e) = self.run(&event.host, &event.run) {
                trouble.get_or_insert(e);
            }
        }
        let mut saw = Vec::new();
        for talk in talks {
            saw.extend(talk.join().map_err(|_| io::Error::other("a client panicked"))?.map_err(io::Error::from)?);
        }
        for talk in besides {
            talk.join().map_err(|_| io::Error::other("a client panicked"))?.map_err(io::Error::from)?;
        }
        let captures = recording.end(folder)?;
        match trouble {
            Some(e) => Err(e),
            None => Ok(Played { captures, saw }),
        }
    }
}
