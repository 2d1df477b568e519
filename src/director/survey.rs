//! What a capture says of the director in it: its MACs, its addresses, its neighbours, and who is on which interface.

use super::balancer::Balancer;
use super::engine::Engine;
use super::link::{Director, Port};
use super::route::{Route, Routes};
use crate::ipvs::ForwardingMethod;
use crate::net::{Endpoint, MacAddr, Prefix, Timestamp};
use crate::packet::{Frame, Heading, LinkType, Network, Packet, Transport, dissect};
use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Collected in a first reading.
#[derive(Debug, Default)]
pub struct Survey {
    /// Frames to a virtual address: destination MAC, with the MACs that sent them.
    to_vip: BTreeMap<MacAddr, BTreeSet<MacAddr>>,
    /// Frames from NAT real servers: destination MACs.
    from_servers: BTreeSet<MacAddr>,
    /// Who answers ARP for a virtual address.
    vip_owners: BTreeSet<MacAddr>,
    /// Address, MAC and interface of senders.
    senders: BTreeMap<IpAddr, (MacAddr, u32)>,
    arp: BTreeMap<IpAddr, (MacAddr, u32)>,
    outer: BTreeSet<IpAddr>,
    /// Clients that dialled a virtual address.
    dialled: BTreeSet<Endpoint>,
    /// Frames to real servers, by NAT or in a tunnel: who sent them, for which client.
    to_servers: BTreeMap<MacAddr, BTreeSet<Endpoint>>,
    /// Packets to virtual addresses: TTL, destination and source MAC of the sighting with the greater TTL.
    packets: HashMap<u64, (u8, MacAddr, MacAddr)>,
    /// Whoever gets a packet a second time, with a smaller TTL, is a real server; whoever sends it then is the director.
    receivers: BTreeSet<MacAddr>,
    forwarders: BTreeSet<MacAddr>,
    /// MTUs that ICMP errors named, by the destination that they quote.
    mtus: BTreeMap<IpAddr, usize>,
}

/// Clients that are remembered, of one MAC.
const CLIENTS: usize = 4096;
/// Packets that are looked for a second time.
const PACKETS: usize = 65_536;

/// The MAC of a director that nobody saw.
pub const UNSEEN: MacAddr = MacAddr([0x02, 0x00, 0x5e, 0x00, 0x01, 0x64]);

impl Survey {
    /// Looks at one frame.
    pub fn frame(&mut self, frame: &Frame<'_>, balancer: &Balancer) {
        if frame.link_type != LinkType::ETHERNET {
            return;
        }
        let packet = dissect(frame);
        let (Some(dst), Some(src)) = (packet.link.dst, packet.link.src) else { return };
        if let Network::Arp(arp) = packet.network {
            if balancer.is_vip(IpAddr::V4(arp.sender)) {
                self.vip_owners.insert(arp.sender_mac);
            } else if !arp.sender.is_unspecified() && arp.sender_mac.is_unicast() {
                self.arp.insert(IpAddr::V4(arp.sender), (arp.sender_mac, frame.interface));
            }
            return;
        }
        let Some(ip) = packet.ip() else { return };
        if let Some(tunnel) = packet.tunnels.first() {
            let (from, to) = tunnel.ends();
            if is_server(balancer, to, ForwardingMethod::Tunnel) {
                self.outer.insert(from);
                let clients = self.to_servers.entry(src).or_default();
                clients.extend(packet.five_tuple().map(|t| t.src).filter(|_| clients.len() < CLIENTS));
            }
            return;
        }
        let from = packet.five_tuple().map(|t| t.src);
        if balancer.is_vip(ip.dst) && dst.is_unicast() {
            self.to_vip.entry(dst).or_default().insert(src);
            self.twice(&packet, (ip.ttl, dst, src));
            self.dialled.extend(from.filter(|_| self.dialled.len() < CLIENTS));
        }
        if is_server(balancer, ip.dst, ForwardingMethod::Nat) {
            let clients = self.to_servers.entry(src).or_default();
            clients.extend(from.filter(|_| clients.len() < CLIENTS));
        }
        self.mtu(&packet);
        if is_server(balancer, ip.src, ForwardingMethod::Nat) && dst.is_unicast() && !is_server(balancer, ip.dst, ForwardingMethod::Nat) {
            self.from_servers.insert(dst);
        }
        if !balancer.is_vip(ip.src) {
            self.senders.entry(ip.src).or_insert((src, frame.interface));
        }
    }

    fn twice(&mut self, packet: &Packet<'_>, sighting: (u8, MacAddr, MacAddr)) {
        let mut hasher = DefaultHasher::new();
        (packet.ip().map(|ip| (ip.src, ip.dst, ip.id)), packet.segment).hash(&mut hasher);
        let room = self.packets.len() < PACKETS;
        let known = match self.packets.entry(hasher.finish()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) if room => place.insert(sighting),
            Entry::Vacant(_) => return,
        };
        let (first, second) = if known.0 >= sighting.0 { (*known, sighting) } else { (sighting, *known) };
        if first.0 > second.0 && first.1 != second.1 {
            self.receivers.insert(second.1);
            self.forwarders.insert(second.2);
        }
        *known = first;
    }

    fn mtu(&mut self, packet: &Packet<'_>) {
        let Transport::Icmp(icmp) = &packet.transport else { return };
        let word = |at: usize| packet.segment.get(at..at + 2).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
        let mtu = match (icmp.type_number, icmp.code, packet.ip().is_some_and(|ip| ip.src.is_ipv6())) {
            (3, 4, false) | (2, 0, true) => word(6),
            _ => return,
        };
        if let Some(quoted) = icmp.quoted.as_ref().and_then(|q| q.ip()).filter(|_| mtu >= 68) {
            let known = self.mtus.entry(quoted.dst).or_insert(mtu);
            *known = mtu.min(*known);
        }
    }

    /// The director's MACs, the one that clients' packets go to first.
    pub fn macs(&self) -> Vec<MacAddr> {
        // A real server's MAC is one that only others of these send to.
        let candidates: BTreeSet<MacAddr> = self.to_vip.keys().copied().collect();
        let first = |mac: &MacAddr| !self.receivers.contains(mac) || self.forwarders.contains(mac);
        let mut macs: Vec<MacAddr> = self
            .to_vip
            .iter()
            .filter(|(mac, from)| first(mac) && from.iter().any(|mac| !candidates.contains(mac)))
            .map(|(mac, _)| *mac)
            .collect();
        macs.sort_by_key(|mac| !self.vip_owners.contains(mac));
        macs.extend(self.from_servers.iter().filter(|mac| !candidates.contains(mac)));
        // A router that only passes packets on to the director gets none of its own back: it forwards, but nobody forwards to it.
        macs.extend(self.forwarders.iter().filter(|mac| self.sends_to_servers(mac)));
        // Whoever sends a client's packets on to a real server is the director, though no answer may ever come back.
        macs.extend(self.to_servers.iter().filter(|(_, clients)| !clients.is_disjoint(&self.dialled)).map(|(mac, _)| *mac));
        let mut known = BTreeSet::new();
        macs.retain(|mac| known.insert(*mac));
        macs
    }

    /// All that this MAC sends to virtual addresses goes to MACs that get packets a second time.
    fn sends_to_servers(&self, mac: &MacAddr) -> bool {
        let mut targets = self.to_vip.iter().filter(|(_, from)| from.contains(mac)).map(|(to, _)| to).peekable();
        targets.peek().is_some() && targets.all(|to| self.receivers.contains(to) && !self.forwarders.contains(to))
    }

    /// A director for the second reading. `own` are its addresses where the user knows them.
    pub fn director(&self, balancer: Balancer, interfaces: &[String], own: &[IpAddr], mtu: usize, start: Timestamp) -> Director {
        let macs = self.macs();
        let main = macs.first().copied().unwrap_or(UNSEEN);
        let is_own = |mac: &MacAddr| macs.contains(mac);
        let port_of = |interface: u32| (interface as usize).min(interfaces.len().saturating_sub(1));
        let default = self.senders.values().find(|(mac, _)| !is_own(mac)).map_or(0, |(_, interface)| port_of(*interface));
        let everyone = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let mut routes: Vec<Route> =
            everyone.iter().filter_map(|all| Prefix::new(*all, 0)).map(|to| Route { to, via: None, port: default, mtu }).collect();
        let mut addresses: Vec<(IpAddr, usize)> = own.iter().map(|addr| (*addr, default)).collect();
        for (addr, (mac, interface)) in self.arp.iter().chain(&self.senders) {
            let len = if addr.is_ipv6() { 128 } else { 32 };
            match Prefix::new(*addr, len) {
                Some(_) if is_own(mac) && self.arp.contains_key(addr) => addresses.push((*addr, port_of(*interface))),
                Some(to) if !is_own(mac) => routes.push(Route { to, via: None, port: port_of(*interface), mtu }),
                _ => {}
            }
        }
        addresses.extend(self.outer.iter().map(|addr| (*addr, default)));
        for route in &mut routes {
            let told = self.mtus.iter().filter(|(addr, _)| {
                // About a client's packet to a virtual address: whichever real server it went to.
                let on_the_way = balancer.is_vip(**addr) && balancer.pool().iter().any(|(_, dest)| dest.rule.addr == route.to.addr());
                route.to.is_host() && (route.to.addr() == **addr || on_the_way)
            });
            route.mtu = told.map(|(_, mtu)| *mtu).min().map_or(route.mtu, |told| told.min(route.mtu));
        }
        let ports = interfaces
            .iter()
            .map(|name| Port { name: name.clone(), mac: main, addresses: addresses.iter().map(|(addr, _)| *addr).collect() })
            .collect();
        let mut director = Director::new(Engine::new(balancer, Routes { routes, own: addresses }), ports);
        (director.also, director.learn_from_all, director.invent) = (macs, true, true);
        for (addr, (mac, _)) in self.senders.iter().chain(&self.arp) {
            if !is_own_mac(&director, *mac) && mac.is_unicast() {
                director.know(*addr, *mac, start);
            }
        }
        director
    }
}

fn is_own_mac(director: &Director, mac: MacAddr) -> bool {
    director.also.contains(&mac)
}

fn is_server(balancer: &Balancer, addr: IpAddr, method: ForwardingMethod) -> bool {
    balancer.pool().iter().any(|(_, dest)| dest.rule.addr == addr && dest.rule.method == method)
}

/// A frame as the director's port would have seen it: Ethernet, to its MAC where the link has no MACs. `None` for what the director sent
/// itself.
pub fn as_arrived(frame: &Frame<'_>, packet: &Packet<'_>, macs: &[MacAddr]) -> Option<Vec<u8>> {
    if frame.link_type == LinkType::ETHERNET {
        return packet.link.src.is_none_or(|src| !macs.contains(&src)).then(|| frame.bytes.to_vec());
    }
    if frame.heading == Some(Heading::Out) {
        return None;
    }
    let at = match frame.link_type {
        LinkType::LINUX_SLL => 16,
        LinkType::LINUX_SLL2 => 20,
        LinkType::NULL | LinkType::LOOP => 4,
        _ => 0,
    };
    let ip = frame.bytes.get(at..)?;
    let main = macs.first().copied().unwrap_or(UNSEEN);
    matches!(ip.first()? >> 4, 4 | 6)
        .then(|| crate::packet::build::ethernet(packet.link.src.unwrap_or(MacAddr([2, 0, 0, 0, 0, 1])), main, &[], ip))
}
