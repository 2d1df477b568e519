//! A scenario played: built, broken, talked to, and recorded.

use super::balance::Balance;
use super::build::Network;
use super::record;
use super::scenario::Scenario;
use super::traffic::{self, Saw, Server};
use crate::director::Faults;
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
    balance: Option<(String, Balance)>,
}

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
        let network = Network::build(scenario, true).map_err(io::Error::other)?;
        let mut servers = Vec::new();
        for plan in &scenario.hosts {
            let Some(host) = network.host(&plan.name) else { continue };
            for serve in &plan.serve {
                let failed = |e: io::Error| io::Error::other(format!("{}: serve {} {}: {e}", plan.name, serve.protocol, serve.port));
                servers.push((plan.name.clone(), traffic::serve(host, *serve, scenario.ipv6).map_err(failed)?));
            }
        }
        let mut stage = Stage { scenario, network, servers, balance: None };
        for (host, commands) in &scenario.breaks {
            commands.iter().try_for_each(|command| stage.run(host, command))?;
        }
        stage.direct()?;
        Ok(stage)
    }

    /// Puts the built-in director on its wires, with what its host has now.
    fn direct(&mut self) -> io::Result<()> {
        let host = self.network.hosts.iter().find(|host| host.wires.is_some());
        if let Some(host) = host {
            let faults: Result<Vec<Faults>, String> = self.scenario.director_faults.iter().map(|fault| fault.parse()).collect();
            let faults = faults.map_err(io::Error::other)?.into_iter().fold(Faults::default(), Faults::and);
            self.balance = None;
            self.balance = Some((host.name.clone(), Balance::begin(host, faults)?));
        }
        Ok(())
    }

    /// Runs a command on a host: a break, an event, a remedy.
    ///
    /// # Errors
    /// When it is not understood, or refused.
    pub fn run(&mut self, host: &str, command: &str) -> io::Result<()> {
        match command.split_whitespace().collect::<Vec<_>>()[..] {
            ["kill", "server"] => {
                self.servers.retain(|(name, _)| name != host);
                return Ok(());
            }
            ["kill", "director"] => {
                self.balance = None;
                return Ok(());
            }
            _ => {}
        }
        self.network.run(host, command).map_err(|e| io::Error::other(format!("{host}: {e}")))?;
        match (&self.balance, self.network.host(host)) {
            (Some((name, balance)), Some(at)) if name == host && command.trim_start().starts_with("ipvsadm ") => balance.reload(at),
            // Its addresses and routes are the director's.
            (Some((name, _)), _) if name == host => self.direct(),
            _ => Ok(()),
        }
    }

    /// Lets the clients talk while all interfaces are captured.
    ///
    /// # Errors
    /// When a capture cannot be made, or an event cannot be run.
    pub fn play(&mut self, folder: &Path) -> io::Result<Played> {
        std::fs::create_dir_all(folder)?;
        let recording = record::begin(&self.network)?;
        let begun = Instant::now();
        let until = |ms: u64| std::thread::sleep(Duration::from_millis(ms).saturating_sub(begun.elapsed()));
        let scenario = self.scenario;
        let mut talks = Vec::new();
        for traffic in &scenario.traffic {
            let Some(host) = self.network.host(&traffic.from) else { continue };
            let traffic = traffic.clone();
            let talk = move || {
                std::thread::sleep(Duration::from_millis(traffic.after_ms));
                traffic::talk(&traffic)
            };
            talks.push(host.namespace.spawn(talk)?);
        }
        let mut events: Vec<_> = scenario.events.iter().collect();
        events.sort_by_key(|event| event.after_ms);
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
        let captures = recording.end(folder)?;
        match trouble {
            Some(e) => Err(e),
            None => Ok(Played { captures, saw }),
        }
    }
}
