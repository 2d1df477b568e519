//! The built-in director on its wires in the lab: addresses and routes are those that the host's kernel was given, rules those of its
//! `ipvsadm` commands.
//!
//! It stands between the wires and the host's own kernel, as IPVS stands in the kernel's way: what is a connection's it forwards, and
//! everything else goes to the kernel, which answers ARP, resets what nobody serves, forwards, filters, and whose frames go out again.

use super::build::Host;
use super::netns::Namespace;
use crate::capture::{Wire, WireOptions};
use crate::director::run::{Station, Surroundings, now};
use crate::director::{Balancer, Director, Engine, Faults, Port, Route, Routes};
use crate::ipvs::{Connection, Listed};
use crate::net::Prefix;
use crate::netlink::rtnetlink::{self, Address, Link};
use crate::netlink::{Family, Socket};
use nix::libc;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A director at work; it ends when it is dropped.
pub struct Balance {
    stop: Arc<AtomicBool>,
    desk: Arc<Mutex<Desk>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Balance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a director knows of its connections.
pub struct Account {
    /// One by one.
    pub connections: Vec<Connection>,
    /// How many each real server has.
    pub services: Vec<Listed>,
}

/// The director, and what decides whether a packet comes to it.
struct Desk {
    director: Director,
    around: Surroundings,
}

/// Schedulers that draw lots draw the same ones each time.
const SEED: u64 = 1;
/// Neighbours are asked again, and timers looked at, in this rhythm.
const TICK: Duration = Duration::from_millis(100);

impl Balance {
    /// Puts the director of a host on its wires. `switches`: where the kernel's own interfaces are plugged in.
    ///
    /// # Errors
    /// When the host has no wires for it, or its rules cannot be.
    pub fn begin(host: &Host, switches: &Namespace, faults: Faults) -> io::Result<Balance> {
        let wires = host.wires.as_ref().ok_or_else(|| io::Error::other(format!("{}: its director is the kernel's", host.name)))?;
        let known = known(host)?;
        let balancer = Balancer::with_rules(host.settings(), SEED, &host.rules()).map_err(io::Error::other)?;
        let mut engine = Engine::new(balancer, known.routes);
        engine.faults = faults;
        engine.marks = host.marks();
        let ports = host.interfaces.iter().zip(known.addresses);
        let ports = ports.map(|((name, mac), addresses)| Port { name: name.clone(), mac: *mac, addresses }).collect();
        let mut director = Director::new(engine, ports);
        known.neighbours.iter().for_each(|(addr, mac)| director.know(*addr, *mac, now()));
        let desk = Arc::new(Mutex::new(Desk { director, around: known.around }));
        let stop = Arc::new(AtomicBool::new(false));
        let outside: Vec<Wire> = host.interfaces.iter().map(|(name, _)| open(wires, name)).collect::<io::Result<_>>()?;
        let kernel: Vec<Wire> = (0..host.interfaces.len()).map(|at| open(switches, &host.kernel_port(at))).collect::<io::Result<_>>()?;
        let (at, stopped) = (desk.clone(), stop.clone());
        let thread = std::thread::spawn(move || serve(Station::new(outside, kernel, None), &at, &stopped));
        Ok(Balance { stop, desk, thread: Some(thread) })
    }

    /// What it knows now.
    pub fn account(&self) -> Account {
        let balancer = &lock(&self.desk).director.engine.balancer;
        Account { connections: balancer.connections(now()), services: balancer.listed(false) }
    }

    /// Takes the rules, settings, addresses and routes that the host has now. Connections stay.
    ///
    /// # Errors
    /// When they cannot be.
    pub fn renew(&self, host: &Host) -> io::Result<()> {
        let known = known(host)?;
        let mut desk = lock(&self.desk);
        desk.around = known.around;
        let director = &mut desk.director;
        director.engine.routes = known.routes;
        director.engine.marks = host.marks();
        director.ports.iter_mut().zip(known.addresses).for_each(|(port, addresses)| port.addresses = addresses);
        director.engine.balancer.settings = host.settings();
        director.engine.balancer.reload(&host.rules()).map(|_| ()).map_err(io::Error::other)
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(place: &Namespace, name: &str) -> io::Result<Wire> {
    let options = WireOptions { promiscuous: true, vnet_header: true, inbound_only: true, untimed: true, buffer: 4 << 20 };
    place.run(|| Wire::open(name, options)).map_err(io::Error::from)?.map_err(io::Error::other)
}

/// What the host's kernel was told, in the director's words.
struct Known {
    routes: Routes,
    /// By port.
    addresses: Vec<Vec<IpAddr>>,
    neighbours: Vec<(IpAddr, crate::net::MacAddr)>,
    around: Surroundings,
}

fn known(host: &Host) -> io::Result<Known> {
    let names: Vec<&str> = host.interfaces.iter().map(|(name, _)| name.as_str()).collect();
    let is_set = |path: String| std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
    let asked = host.namespace.run(|| {
        let mut socket = Socket::open(Family::Route)?;
        // The interface that a packet comes in by decides for IPv4; `all` for IPv6 (Documentation/networking/ip-sysctl.rst).
        let six = is_set("/proc/sys/net/ipv6/conf/all/forwarding".into());
        let forwards = names.iter().map(|name| [is_set(format!("/proc/sys/net/ipv4/conf/{name}/forwarding")), six]).collect();
        Ok((socket.links()?, socket.addresses()?, socket.routes()?, socket.neighbours()?, forwards))
    });
    let asked: Result<_, crate::netlink::NetlinkError> = asked.map_err(io::Error::from)?;
    let (links, addresses, routes, neighbours, forwards): (Vec<Link>, Vec<Address>, Vec<rtnetlink::Route>, Vec<rtnetlink::Neighbour>, _) =
        asked.map_err(io::Error::other)?;
    let port_of = |index: u32| links.iter().find(|l| l.index == index).and_then(|l| names.iter().position(|name| *name == l.name));
    let own: Vec<(IpAddr, usize)> = addresses.iter().filter_map(|a| Some((a.prefix.addr(), port_of(a.index)?))).collect();
    let mtu_of = |port: usize| links.iter().find(|l| l.name == names[port]).map_or(1500, |l| l.mtu as usize);
    let mut ways = Vec::new();
    let main = |route: &&rtnetlink::Route| route.kind == 1 && route.table == u32::from(libc::RT_TABLE_MAIN);
    for route in routes.iter().filter(main) {
        let Some(hop) = route.hops.first() else { continue };
        let Some(port) = port_of(hop.index) else { continue };
        let to = Prefix::new(route.dst.addr(), route.dst.len()).unwrap_or(route.dst);
        ways.push(Route { to, via: hop.via, port, mtu: route.mtu.map_or(mtu_of(port), |mtu| mtu as usize) });
    }
    let permanent = neighbours.iter().filter(|n| n.state == libc::NUD_PERMANENT);
    Ok(Known {
        addresses: (0..names.len()).map(|at| own.iter().filter(|(_, port)| *port == at).map(|(addr, _)| *addr).collect()).collect(),
        routes: Routes { routes: ways, own },
        neighbours: permanent.filter_map(|n| Some((n.addr, n.mac?))).collect(),
        around: Surroundings { forwards, local: addresses.iter().map(|a| a.prefix.addr()).collect() },
    })
}

/// Turns the director's wheel until it is to stop.
fn serve(mut station: Station, desk: &Mutex<Desk>, stop: &AtomicBool) {
    let mut next_tick = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // A link that is down, or whose other end was unplugged, may be back the next time.
        if station.wait(None, next_tick).is_err() {
            std::thread::sleep(TICK);
        }
        let mut desk = lock(desk);
        let Desk { director, around } = &mut *desk;
        let _ = station.turn(director, Some(around), |_, _| {});
        if Instant::now() >= next_tick {
            next_tick = Instant::now() + TICK;
            station.send(director.tick(now()), |_, _| {});
            station.count_losses(&mut director.tally);
        }
    }
}
