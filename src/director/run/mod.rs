//! WINDOW: the director on real interfaces. The loop around the engine: frames in, frames out, signals, time.
#![allow(clippy::disallowed_methods)]

mod host;
mod station;

pub use station::{Station, Surroundings};

use super::engine::Engine;
use super::fault::Faults;
use super::link::{Director, Port};
use super::route::{Route, Routes};
use super::{Balancer, MarkRule, Reloaded, Settings, Tally};
use crate::capture::{Wire, WireError, WireOptions};
use crate::ipvs::VirtualService;
use crate::net::{MacAddr, Prefix, Timestamp};
use nix::errno::Errno;
use nix::sys::prctl::set_timerslack;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

pub(crate) use station::now;

/// What `director run` was told.
pub struct Config {
    /// Interfaces, in the order given.
    pub interfaces: Vec<String>,
    /// Own addresses with their networks, and perhaps the interface that each belongs to.
    pub addresses: Vec<(Option<String>, Prefix)>,
    /// Next hops for everything that is no neighbour.
    pub gateways: Vec<IpAddr>,
    /// The director's MAC.
    pub mac: MacAddr,
    /// The longest packet, where the interface does not say.
    pub mtu: Option<usize>,
    /// Services.
    pub services: Vec<VirtualService>,
    /// Settings.
    pub settings: Settings,
    /// For `twos`.
    pub seed: u64,
    /// Faults on request.
    pub faults: Faults,
    /// What a firewall marks.
    pub marks: Vec<MarkRule>,
    /// How often the state is reported.
    pub every: Option<Duration>,
}

/// Why the director cannot run, or had to end.
#[derive(Debug)]
pub struct RunError(String);

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RunError {}

/// What is told while the director runs.
pub enum News<'a> {
    /// It runs.
    Ready(&'a Director),
    /// The time of [`Config::every`] has passed.
    Periodic(&'a Director),
    /// Rules were read again.
    Reloaded(Reloaded),
    /// Something is odd, but it goes on.
    Trouble(String),
}

/// How it ended.
pub struct Summary {
    /// What was done.
    pub tally: Tally,
    /// Services and connections as they are now.
    pub balancer: Balancer,
    /// Now.
    pub now: Timestamp,
    /// How long it ran.
    pub lasted: Duration,
}

/// How often neighbours are looked after.
const TICK: Duration = Duration::from_millis(100);

/// Runs until SIGINT or SIGTERM. SIGHUP calls `reload`, SIGUSR1 reports.
///
/// # Errors
/// When it cannot begin, or an interface is gone.
pub fn run(
    config: Config,
    mut reload: impl FnMut() -> Result<Vec<VirtualService>, String>,
    mut tell: impl FnMut(News<'_>),
) -> Result<Summary, RunError> {
    let began = Instant::now();
    let every = config.every;
    let delay = config.faults.delay_answer.map(|ms| Duration::from_millis(u64::from(ms)));
    let (mut director, wires) = prepare(config)?;
    let mut mask = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1].iter().for_each(|s| mask.add(*s));
    let wrong = |e: Errno| RunError(format!("cannot listen for signals: {}", e.desc()));
    mask.thread_block().map_err(wrong)?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(wrong)?;
    // Pauses in a crowd are to be as short as they are meant.
    let _ = set_timerslack(1_000);
    let mut station = Station::new(wires, Vec::new(), delay);
    station.send(director.announcements(), |_, _| {});
    tell(News::Ready(&director));
    let (mut next_tick, mut next_report) = (Instant::now() + TICK, every.map(|e| Instant::now() + e));
    let mut down = vec![false; director.ports.len()];
    loop {
        let until = next_report.map_or(next_tick, |report| report.min(next_tick));
        let wait = |e: Errno| RunError(format!("cannot wait for frames: {}", e.desc()));
        let signalled = station.wait(Some(signals.as_fd()), until).map_err(wait)?;
        while let Some(signal) = if signalled { signals.read_signal().unwrap_or_default() } else { None } {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGHUP) => match reload().and_then(|services| director.engine.balancer.reload(&services)) {
                    Ok(done) => {
                        tell(News::Reloaded(done));
                        station.send(director.announcements(), |_, _| {});
                    }
                    Err(e) => tell(News::Trouble(format!("rules not reloaded: {e}"))),
                },
                Ok(Signal::SIGUSR1) => {
                    station.count_losses(&mut director.tally);
                    tell(News::Periodic(&director));
                }
                _ => {
                    station.count_losses(&mut director.tally);
                    let Director { engine, tally, .. } = director;
                    return Ok(Summary { tally, balancer: engine.balancer, now: now(), lasted: began.elapsed() });
                }
            }
        }
        let unsent = |tell: &mut dyn FnMut(News<'_>), len: usize, e: Errno| {
            tell(News::Trouble(format!("a frame of {len} bytes could not be sent: {}", e.desc())));
        };
        match station.turn(&mut director, None, |len, e| unsent(&mut tell, len, e)) {
            Ok(()) => {}
            Err((port, WireError { errno: Errno::ENETDOWN, .. })) => {
                // Down, not gone: it may come up again.
                if !std::mem::replace(&mut down[port], true) {
                    tell(News::Trouble(format!("{} is down", director.ports[port].name)));
                }
            }
            Err((port, e)) => return Err(gone(&director.ports[port].name, e.errno)),
        }
        if Instant::now() >= next_tick {
            next_tick = Instant::now() + TICK;
            station.send(director.tick(now()), |len, e| unsent(&mut tell, len, e));
            station.count_losses(&mut director.tally);
            if let Some(name) = director.ports.iter().map(|p| &p.name).find(|name| !host::is_there(name)) {
                return Err(gone(name, Errno::ENODEV));
            }
            down.fill(false);
        }
        if next_report.is_some_and(|at| Instant::now() >= at) {
            next_report = every.map(|e| Instant::now() + e);
            tell(News::Periodic(&director));
        }
    }
}

fn gone(name: &str, e: Errno) -> RunError {
    RunError(format!("{name} is gone ({})", e.desc().to_lowercase()))
}

/// Opens the sockets, and makes the director that speaks through them.
fn prepare(config: Config) -> Result<(Director, Vec<Wire>), RunError> {
    let balancer = Balancer::with_rules(config.settings, config.seed, &config.services).map_err(RunError)?;
    let mut host = host::Machine::read().map_err(|e| RunError(e.to_string()))?;
    let own = config.addresses.iter().map(|(_, prefix)| prefix.addr());
    for addr in balancer.vips().chain(own) {
        if host.is_local(addr) {
            return Err(RunError(format!(
                "{addr} is an address of this host: its own stack would answer too, and refuse the connections. Remove it first (ip addr del), or run the director in a network namespace"
            )));
        }
    }
    let mut interfaces = Vec::new();
    for name in &config.interfaces {
        let found = host
            .interface(name)
            .ok_or_else(|| RunError(format!("there is no interface {name} (there are: {})", host.names().join(", "))))?;
        interfaces.push(found);
    }
    let mut sockets = Vec::new();
    let options = WireOptions { promiscuous: true, vnet_header: true, inbound_only: true, untimed: true, buffer: 8 << 20 };
    for name in &config.interfaces {
        sockets.push(Wire::open(name, options).map_err(|e| RunError(e.to_string()))?);
    }
    let port_of = |interface: &Option<String>, addr: IpAddr| {
        let named = interface.as_ref().and_then(|name| config.interfaces.iter().position(|i| i == name));
        named.or_else(|| interfaces.iter().position(|i| i.networks.iter().any(|n| n.contains(addr)))).unwrap_or(0)
    };
    let mtu = |port: usize| config.mtu.unwrap_or(interfaces[port].mtu);
    let mut routes = Routes::default();
    let mut ports: Vec<Port> =
        config.interfaces.iter().map(|name| Port { name: name.clone(), mac: config.mac, addresses: Vec::new() }).collect();
    for (interface, prefix) in &config.addresses {
        let port = port_of(interface, prefix.addr());
        routes.own.push((prefix.addr(), port));
        ports[port].addresses.push(prefix.addr());
        routes.routes.push(Route { to: *prefix, via: None, port, mtu: mtu(port) });
    }
    for (port, interface) in interfaces.iter().enumerate() {
        for network in &interface.networks {
            routes.routes.push(Route { to: *network, via: None, port, mtu: mtu(port) });
        }
    }
    let everything = |addr: IpAddr| {
        let any = if addr.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
        Prefix::new(any, 0)
    };
    let known: Vec<(IpAddr, usize)> = config
        .gateways
        .iter()
        .map(|gateway| (*gateway, routes.to(*gateway).map_or(0, |route| route.port)))
        .chain(interfaces.iter().enumerate().flat_map(|(port, i)| i.gateways.iter().map(move |gateway| (*gateway, port))))
        .collect();
    for (gateway, port) in known {
        if let Some(to) = everything(gateway)
            && !routes.routes.iter().any(|route| route.to == to)
        {
            routes.routes.push(Route { to, via: Some(gateway), port, mtu: mtu(port) });
        }
    }
    let mut engine = Engine::new(balancer, routes);
    (engine.faults, engine.marks) = (config.faults, config.marks);
    Ok((Director::new(engine, ports), sockets))
}
