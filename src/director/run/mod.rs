//! WINDOW: the director on real interfaces. The loop around the engine: frames in, frames out, signals, time.
#![allow(clippy::disallowed_methods)]

mod host;

use super::engine::Engine;
use super::fault::Faults;
use super::link::{Director, Port, Sent};
use super::route::{Route, Routes};
use super::{Balancer, MarkRule, Reloaded, Settings, Tally};
use crate::capture::{LARGEST, VNET_HEADER, Wire, WireError, WireOptions};
use crate::ipvs::VirtualService;
use crate::net::{MacAddr, Prefix, Timestamp};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_nanos() as i64)
}

/// How often neighbours are looked after.
const TICK: Duration = Duration::from_millis(100);
/// Frames that are taken from one socket before the next one has its turn.
const BURST: usize = 64;

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
    let (mut director, mut sockets) = prepare(config)?;
    let mut mask = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1].iter().for_each(|s| mask.add(*s));
    let wrong = |e: Errno| RunError(format!("cannot listen for signals: {}", e.desc()));
    mask.thread_block().map_err(wrong)?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(wrong)?;
    let announcements = director.announcements();
    transmit(&sockets, announcements, &mut tell);
    tell(News::Ready(&director));
    let (mut next_tick, mut next_report) = (Instant::now() + TICK, every.map(|e| Instant::now() + e));
    let mut buffer = vec![0; LARGEST];
    let mut held: VecDeque<(Instant, Sent)> = VecDeque::new();
    loop {
        let until = [Some(next_tick), next_report, held.front().map(|(due, _)| *due)].into_iter().flatten().min();
        let wait = until.map_or(TICK, |t| t.saturating_duration_since(Instant::now()));
        {
            let mut fds: Vec<PollFd<'_>> = sockets.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
            fds.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
            let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(RunError(format!("cannot wait for frames: {}", e.desc()))),
            }
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGHUP) => match reload().and_then(|services| director.engine.balancer.reload(&services)) {
                    Ok(done) => {
                        tell(News::Reloaded(done));
                        let announcements = director.announcements();
                        transmit(&sockets, announcements, &mut tell);
                    }
                    Err(e) => tell(News::Trouble(format!("rules not reloaded: {e}"))),
                },
                Ok(Signal::SIGUSR1) => tell(News::Periodic(&director)),
                _ => {
                    let Director { engine, tally, .. } = director;
                    return Ok(Summary { tally, balancer: engine.balancer, now: now(), lasted: began.elapsed() });
                }
            }
        }
        for port in 0..sockets.len() {
            for _ in 0..BURST {
                let outcome = match sockets[port].receive_now(&mut buffer) {
                    Ok(None) => break,
                    Ok(Some(arrival)) => match buffer[..arrival.len].split_first_chunk::<VNET_HEADER>() {
                        Some((offload, frame)) => director.frame(port, frame, offload, now()),
                        None => continue,
                    },
                    Err(WireError { errno: Errno::ENETDOWN, .. }) => {
                        // Down, not gone: it may come up again.
                        tell(News::Trouble(format!("{} is down", director.ports[port].name)));
                        break;
                    }
                    Err(e) => return Err(gone(&director.ports[port].name, e.errno)),
                };
                let mut at_once = outcome.sent;
                if let Some(delay) = delay {
                    let (late, rest) = at_once.into_iter().partition(|sent| sent.answer);
                    let late: Vec<Sent> = late;
                    held.extend(late.into_iter().map(|sent| (Instant::now() + delay, sent)));
                    at_once = rest;
                }
                transmit(&sockets, at_once, &mut tell);
            }
        }
        while held.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let due = held.pop_front().map(|(_, sent)| sent);
            transmit(&sockets, due, &mut tell);
        }
        if Instant::now() >= next_tick {
            next_tick = Instant::now() + TICK;
            let asked = director.tick(now());
            transmit(&sockets, asked, &mut tell);
            if let Some(name) = director.ports.iter().map(|p| &p.name).find(|name| host::interface(name).is_none()) {
                return Err(gone(name, Errno::ENODEV));
            }
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

fn transmit(sockets: &[Wire], frames: impl IntoIterator<Item = Sent>, tell: &mut impl FnMut(News<'_>)) {
    for sent in frames {
        let Some(socket) = sockets.get(sent.port) else { continue };
        match socket.send(&[&sent.offload, &sent.bytes]).map_err(|e| e.errno) {
            // A full queue loses a packet, as on any router.
            Ok(()) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) => {}
            Err(e) => tell(News::Trouble(format!("a frame of {} bytes could not be sent: {}", sent.bytes.len(), e.desc()))),
        }
    }
}

/// Opens the sockets, and makes the director that speaks through them.
fn prepare(config: Config) -> Result<(Director, Vec<Wire>), RunError> {
    let balancer = Balancer::with_rules(config.settings, config.seed, &config.services).map_err(RunError)?;
    let own = config.addresses.iter().map(|(_, prefix)| prefix.addr());
    for addr in balancer.vips().chain(own) {
        if host::is_local(addr) {
            return Err(RunError(format!(
                "{addr} is an address of this host: its own stack would answer too, and refuse the connections. Remove it first (ip addr del), or run the director in a network namespace"
            )));
        }
    }
    let mut interfaces = Vec::new();
    for name in &config.interfaces {
        let found = host::interface(name)
            .ok_or_else(|| RunError(format!("there is no interface {name} (there are: {})", host::names().join(", "))))?;
        interfaces.push(found);
    }
    let mut sockets = Vec::new();
    let options = WireOptions { promiscuous: true, vnet_header: true, inbound_only: true, buffer: 8 << 20 };
    for name in &config.interfaces {
        sockets.push(Wire::open(name, options).map_err(|e| RunError(e.to_string()))?);
    }
    let port_of = |interface: &Option<String>, addr: IpAddr| {
        let named = interface.as_ref().and_then(|name| config.interfaces.iter().position(|i| i == name));
        named.or_else(|| interfaces.iter().position(|i| i.networks.iter().any(|n| n.contains(addr)))).unwrap_or(0)
    };
    let mtu = |port: usize| config.mtu.or(interfaces[port].mtu).unwrap_or(1500);
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
