//! The built-in director on its wires in the lab: addresses and routes are those that the host's kernel was given, rules those of its
//! `ipvsadm` commands.

use super::build::Host;
use crate::capture::{LARGEST, VNET_HEADER, Wire, WireOptions};
use crate::director::{Balancer, Director, Engine, Faults, Offload, Port, Route, Routes, Sent, Settings};
use crate::net::{Prefix, Timestamp};
use crate::netlink::rtnetlink::{self, Address, Link, Neighbour};
use crate::netlink::{Family, Socket};
use nix::libc;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A director at work; it ends when it is dropped.
pub struct Balance {
    stop: Arc<AtomicBool>,
    director: Arc<Mutex<Director>>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Balance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Schedulers that draw lots draw the same ones each time.
const SEED: u64 = 1;
/// Neighbours are asked again, and timers looked at, in this rhythm.
const TICK: Duration = Duration::from_millis(100);

impl Balance {
    /// Puts the director of a host on its wires.
    ///
    /// # Errors
    /// When the host has no wires for it, or its rules cannot be.
    pub fn begin(host: &Host, faults: Faults) -> io::Result<Balance> {
        let wires = host.wires.as_ref().ok_or_else(|| io::Error::other(format!("{}: its director is the kernel's", host.name)))?;
        let Known { links, addresses, routes, neighbours, forwards } = known(host)?;
        let names: Vec<&str> = host.interfaces.iter().map(|(name, _)| name.as_str()).collect();
        let port_of = |index: u32| links.iter().find(|l| l.index == index).and_then(|l| names.iter().position(|name| *name == l.name));
        let own: Vec<(IpAddr, usize)> = addresses.iter().filter_map(|a| Some((a.prefix.addr(), port_of(a.index)?))).collect();
        let mtu_of = |port: usize| links.iter().find(|l| l.name == names[port]).map_or(1500, |l| l.mtu as usize);
        let mut ways = Vec::new();
        for route in routes.iter().filter(|r| r.kind == 1 && r.table == 254) {
            let Some(hop) = route.hops.first() else { continue };
            let Some(port) = port_of(hop.index) else { continue };
            let to = Prefix::new(route.dst.addr(), route.dst.len()).unwrap_or(route.dst);
            ways.push(Route { to, via: hop.via, port, mtu: route.mtu.map_or(mtu_of(port), |mtu| mtu as usize) });
        }
        let balancer = Balancer::with_rules(Settings::default(), SEED, &host.rules()).map_err(io::Error::other)?;
        let mut engine = Engine::new(balancer, Routes { routes: ways, own: own.clone() });
        engine.faults = faults;
        let ports = host.interfaces.iter().enumerate().map(|(at, (name, mac))| Port {
            name: name.clone(),
            mac: *mac,
            addresses: own.iter().filter(|(_, port)| *port == at).map(|(addr, _)| *addr).collect(),
        });
        let mut director = Director::new(engine, ports.collect());
        for neighbour in neighbours.iter().filter(|n| n.state == libc::NUD_PERMANENT) {
            neighbour.mac.iter().for_each(|mac| director.know(neighbour.addr, *mac, now()));
        }
        let director = Arc::new(Mutex::new(director));
        let (stop, mut threads) = (Arc::new(AtomicBool::new(false)), Vec::new());
        let options = WireOptions { promiscuous: true, vnet_header: true, inbound_only: true, buffer: 4 << 20 };
        let open = |name: &&str| wires.run(|| Wire::open(name, options)).map_err(io::Error::from)?.map_err(io::Error::other);
        let out: Arc<Vec<Wire>> = Arc::new(names.iter().map(open).collect::<io::Result<_>>()?);
        for (port, name) in names.iter().enumerate() {
            let (wire, out, director, stop) = (open(name)?, out.clone(), director.clone(), stop.clone());
            threads.push(std::thread::spawn(move || forward(port, wire, &out, &director, forwards, &stop)));
        }
        let (clock, waiting) = (director.clone(), stop.clone());
        threads.push(std::thread::spawn(move || {
            while !waiting.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                let sent = clock.lock().unwrap_or_else(PoisonError::into_inner).tick(now());
                send(&out, &sent);
            }
        }));
        Ok(Balance { stop, director, threads })
    }

    /// Takes the rules that the host has now.
    ///
    /// # Errors
    /// When they cannot be.
    pub fn reload(&self, host: &Host) -> io::Result<()> {
        let mut director = self.director.lock().unwrap_or_else(PoisonError::into_inner);
        director.engine.balancer.reload(&host.rules()).map(|_| ()).map_err(io::Error::other)
    }
}

/// What the host's kernel was told.
struct Known {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<rtnetlink::Route>,
    neighbours: Vec<Neighbour>,
    /// `net.ipv4.ip_forward`.
    forwards: bool,
}

fn known(host: &Host) -> io::Result<Known> {
    let asked = host.namespace.run(|| {
        let mut socket = Socket::open(Family::Route)?;
        let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() != "0");
        let (links, addresses, routes, neighbours) = (socket.links()?, socket.addresses()?, socket.routes()?, socket.neighbours()?);
        Ok(Known { links, addresses, routes, neighbours, forwards })
    });
    asked.map_err(io::Error::from)?.map_err(|e: crate::netlink::NetlinkError| io::Error::other(e))
}

/// Answers of real servers pass the kernel's FORWARD hook, which a host that does not forward has no packet come to; requests are for the host
/// itself (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_ops4`).
fn forward(port: usize, mut wire: Wire, out: &[Wire], director: &Mutex<Director>, forwards: bool, stop: &AtomicBool) {
    let mut buffer = vec![0; LARGEST];
    while !stop.load(Ordering::Relaxed) {
        let Ok(Some(arrival)) = wire.receive(&mut buffer, TICK) else { continue };
        let Some((offload, frame)) = buffer[..arrival.len].split_first_chunk::<VNET_HEADER>() else { continue };
        let offload: &Offload = offload;
        let mut outcome = director.lock().unwrap_or_else(PoisonError::into_inner).frame(port, frame, offload, now());
        outcome.sent.retain(|sent| forwards || !sent.answer);
        send(out, &outcome.sent);
    }
}

fn send(out: &[Wire], sent: &[Sent]) {
    for one in sent {
        if let Some(wire) = out.get(one.port) {
            // What cannot be sent is lost, as it is on a wire.
            let _ = wire.send(&[&one.offload, &one.bytes]);
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
