//! The built-in director on its wires in the lab: addresses and routes are those that the host's kernel was given, rules those of its
//! `ipvsadm` commands.
//!
//! It stands between the wires and the host's own kernel, as IPVS stands in the kernel's way: what is a connection's it forwards, and
//! everything else goes to the kernel, which answers ARP, resets what nobody serves, forwards, filters, and whose frames go out again.

use super::build::Host;
use super::netns::Namespace;
use crate::capture::{LARGEST, VNET_HEADER, Wire, WireOptions};
use crate::director::{Balancer, Director, Engine, Faults, Offload, Port, Route, Routes, Sent, Verdict};
use crate::ipvs::Connection;
use crate::net::{Prefix, Timestamp};
use crate::netlink::rtnetlink::{self, Address, Link};
use crate::netlink::{Family, Socket};
use nix::libc;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A director at work; it ends when it is dropped.
pub struct Balance {
    stop: Arc<AtomicBool>,
    desk: Arc<Mutex<Desk>>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Balance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// The director, and what decides whether a packet comes to it.
struct Desk {
    director: Director,
    /// Interfaces that forward IPv4, and IPv6.
    forwards: Vec<[bool; 2]>,
    /// Addresses that the kernel takes for its own.
    local: Vec<IpAddr>,
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
        let ports = host.interfaces.iter().zip(known.addresses);
        let ports = ports.map(|((name, mac), addresses)| Port { name: name.clone(), mac: *mac, addresses }).collect();
        let mut director = Director::new(engine, ports);
        known.neighbours.iter().for_each(|(addr, mac)| director.know(*addr, *mac, now()));
        let desk = Arc::new(Mutex::new(Desk { director, forwards: known.forwards, local: known.local }));
        let (stop, mut threads) = (Arc::new(AtomicBool::new(false)), Vec::new());
        let outside: Arc<Vec<Wire>> = Arc::new(host.interfaces.iter().map(|(name, _)| open(wires, name)).collect::<io::Result<_>>()?);
        let inside: Arc<Vec<Wire>> =
            Arc::new((0..host.interfaces.len()).map(|at| open(switches, &host.kernel_port(at))).collect::<io::Result<_>>()?);
        for (port, (name, _)) in host.interfaces.iter().enumerate() {
            let (wire, out, kernel, desk, stopped) = (open(wires, name)?, outside.clone(), inside.clone(), desk.clone(), stop.clone());
            threads.push(std::thread::spawn(move || from_wire(port, wire, &out, &kernel, &desk, &stopped)));
            let (wire, out, stopped) = (open(switches, &host.kernel_port(port))?, outside.clone(), stop.clone());
            threads.push(std::thread::spawn(move || from_kernel(wire, &out[port], &stopped)));
        }
        let (clock, waiting, out) = (desk.clone(), stop.clone(), outside);
        threads.push(std::thread::spawn(move || {
            while !waiting.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                let sent = lock(&clock).director.tick(now());
                send(&out, &sent);
            }
        }));
        Ok(Balance { stop, desk, threads })
    }

    /// Its connection table now.
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.desk).director.engine.balancer.connections(now())
    }

    /// Takes the rules, settings, addresses and routes that the host has now. Connections stay.
    ///
    /// # Errors
    /// When they cannot be.
    pub fn renew(&self, host: &Host) -> io::Result<()> {
        let known = known(host)?;
        let mut desk = lock(&self.desk);
        (desk.forwards, desk.local) = (known.forwards, known.local);
        let director = &mut desk.director;
        director.engine.routes = known.routes;
        director.ports.iter_mut().zip(known.addresses).for_each(|(port, addresses)| port.addresses = addresses);
        director.engine.balancer.settings = host.settings();
        director.engine.balancer.reload(&host.rules()).map(|_| ()).map_err(io::Error::other)
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(place: &Namespace, name: &str) -> io::Result<Wire> {
    let options = WireOptions { promiscuous: true, vnet_header: true, inbound_only: true, buffer: 4 << 20 };
    place.run(|| Wire::open(name, options)).map_err(io::Error::from)?.map_err(io::Error::other)
}

/// What the host's kernel was told, in the director's words.
struct Known {
    routes: Routes,
    /// By port.
    addresses: Vec<Vec<IpAddr>>,
    neighbours: Vec<(IpAddr, crate::net::MacAddr)>,
    forwards: Vec<[bool; 2]>,
    local: Vec<IpAddr>,
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
        forwards,
        local: addresses.iter().map(|a| a.prefix.addr()).collect(),
    })
}

/// Frames from outside. Answers of real servers pass the kernel's FORWARD hook, which a host that does not forward has no packet come to;
/// requests are for the host itself, if their destination is one of its addresses (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_ops4`).
fn from_wire(port: usize, mut wire: Wire, out: &[Wire], kernel: &[Wire], desk: &Mutex<Desk>, stop: &AtomicBool) {
    let mut buffer = vec![0; LARGEST];
    while !stop.load(Ordering::Relaxed) {
        let Ok(Some(arrival)) = wire.receive(&mut buffer, TICK) else { continue };
        let Some((offload, frame)) = buffer[..arrival.len].split_first_chunk::<VNET_HEADER>() else { continue };
        let offload: &Offload = offload;
        let mut desk = lock(desk);
        let stranger = destination(frame).is_some_and(|dst| desk.director.engine.balancer.is_vip(dst) && !desk.local.contains(&dst));
        let mut outcome = if stranger { crate::director::Outcome::default() } else { desk.director.frame(port, frame, offload, now()) };
        let forwards = desk.forwards.get(port).copied().unwrap_or_default();
        drop(desk);
        // Who has an address, the kernel says.
        outcome.sent.retain(|sent| !is_neighbour_answer(&sent.bytes) && (!sent.answer || forwards[usize::from(is_ipv6(&sent.bytes))]));
        send(out, &outcome.sent);
        if matches!(outcome.verdict, None | Some(Verdict::Local | Verdict::Pass))
            && let Some(kernel) = kernel.get(port)
        {
            let _ = kernel.send(&[offload, frame]);
        }
    }
}

fn from_kernel(mut wire: Wire, out: &Wire, stop: &AtomicBool) {
    let mut buffer = vec![0; LARGEST];
    while !stop.load(Ordering::Relaxed) {
        if let Ok(Some(arrival)) = wire.receive(&mut buffer, TICK) {
            let _ = out.send(&[&buffer[..arrival.len]]);
        }
    }
}

fn is_ipv6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
}

/// Where an IP packet without VLAN tag goes to.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(IpAddr::from(*frame.get(30..34)?.first_chunk::<4>()?)),
        [0x86, 0xdd] => Some(IpAddr::from(*frame.get(38..54)?.first_chunk::<16>()?)),
        _ => None,
    }
}

/// An ARP reply or a neighbour advertisement.
fn is_neighbour_answer(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x06]) => frame.get(20..22) == Some(&[0, 2]),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&58) && frame.get(54) == Some(&136),
        _ => false,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::MacAddr;
    use crate::packet::build;

    #[test]
    fn words_between_neighbours_are_told_apart() {
        let (mac, addr) = (MacAddr([2, 0, 0, 0, 0, 1]), "10.0.0.1".parse().unwrap());
        let arp = |operation| build::arp(MacAddr::BROADCAST, operation, (mac, addr), (mac, addr), &[]);
        assert!(is_neighbour_answer(&arp(2)) && !is_neighbour_answer(&arp(1)) && !is_neighbour_answer(&[]));
        assert_eq!(destination(&arp(1)), None);
        let mut frame = vec![0; 34];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[30..34].copy_from_slice(&[10, 0, 0, 9]);
        assert_eq!(destination(&frame), Some("10.0.0.9".parse().unwrap()));
        assert_eq!(destination(&frame[..33]), None);
    }
}
