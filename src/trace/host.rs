//! The hosts of a trace: what the topology found, as a list with names, addresses and roles.

use super::claims::{ClaimKind, Claims};
use super::flow::{Flow, Method};
use super::path::HostId;
use super::point::CapturePoint;
use super::store::Store;
use super::topology::Topology;
use crate::ipvs::Role;
use crate::net::MacAddr;
use hashbrown::HashMap;
use std::net::IpAddr;

/// A host that packets tell of.
#[derive(Clone, Debug, PartialEq)]
pub struct TracedHost {
    /// The name that the user gave, or one made of role and number.
    pub name: String,
    /// The user named it.
    pub named: bool,
    /// What it does.
    pub role: Role,
    /// Its MACs, sorted.
    pub macs: Vec<MacAddr>,
    /// Addresses that it claimed by ARP or neighbour discovery, was reached at, or spoke from. VIPs that leak are among them.
    pub addresses: Vec<IpAddr>,
    /// Numbers of the capture points on it.
    pub points: Vec<u32>,
}

/// Addresses kept of a host: behind a router's MAC there may be thousands of clients.
const ADDRESSES: usize = 64;

/// Hosts by MAC and by point.
#[derive(Default)]
pub(super) struct Hosts {
    pub(super) list: Vec<TracedHost>,
    by_mac: HashMap<MacAddr, HostId>,
    /// By the MAC that stands for a whole machine, seen or not yet.
    by_machine: HashMap<MacAddr, HostId>,
    by_point: Vec<Option<HostId>>,
}

impl Hosts {
    pub(super) fn new(store: &Store, topology: &Topology, points: &[CapturePoint], claims: &Claims) -> Self {
        let mut hosts = Hosts { by_point: vec![None; points.len()], ..Hosts::default() };
        for (wire, _) in store.wires.iter() {
            for mac in [wire.src, wire.dst].into_iter().flatten().filter(|mac| mac.is_unicast()) {
                hosts.with_mac(topology, mac);
            }
        }
        for (number, point) in points.iter().enumerate() {
            hosts.place(topology, number as u32, point);
        }
        for claim in &claims.claims {
            if claim.kind != ClaimKind::Probe
                && let Some(&host) = hosts.by_mac.get(&claim.mac)
            {
                hosts.has_address(host, claim.addr);
            }
        }
        hosts
    }

    fn with_mac(&mut self, topology: &Topology, mac: MacAddr) {
        if self.by_mac.contains_key(&mac) {
            return;
        }
        let speaker = topology.machines.representative(mac);
        let known = self.by_machine.get(&speaker).copied();
        let host = known.unwrap_or_else(|| self.add(topology.machines.given_name(mac)));
        self.by_machine.insert(speaker, host);
        self.by_mac.insert(mac, host);
        let macs = &mut self.list[host].macs;
        macs.push(mac);
        macs.sort_unstable();
    }

    fn add(&mut self, name: Option<&str>) -> HostId {
        self.list.push(TracedHost {
            name: name.unwrap_or_default().to_string(),
            named: name.is_some(),
            role: Role::Unknown,
            macs: Vec::new(),
            addresses: Vec::new(),
            points: Vec::new(),
        });
        self.list.len() - 1
    }

    /// Finds the host of a capture point: by the MAC it belongs to, or by the name that the user gave.
    fn place(&mut self, topology: &Topology, number: u32, point: &CapturePoint) {
        let by_mac = topology.own(number).and_then(|mac| self.by_mac.get(&mac).copied());
        let host = by_mac.or_else(|| {
            let name = point.host.as_deref()?;
            let known = self.list.iter().position(|h| h.named && h.name == name);
            Some(known.unwrap_or_else(|| self.add(Some(name))))
        });
        if let Some(host) = host {
            self.list[host].points.push(number);
        }
        self.by_point[number as usize] = host;
    }

    pub(super) fn has_address(&mut self, host: HostId, addr: IpAddr) {
        let addresses = &mut self.list[host].addresses;
        if addresses.len() < ADDRESSES && !addresses.contains(&addr) && !addr.is_unspecified() {
            addresses.push(addr);
        }
    }

    /// Takes in the addresses that hosts were reached at in the flows, or spoke from.
    pub(super) fn learn_addresses(&mut self, flows: &[Flow]) {
        for flow in flows {
            if let (Method::Nat | Method::FullNat | Method::Tunnel, Some(host), Some(server)) =
                (flow.method, flow.server_host, flow.real_server)
            {
                self.has_address(host, server.addr);
            }
            if let (Some(host), Some(hop)) = (flow.client_host, flow.request.first()) {
                self.has_address(host, hop.src.addr);
            }
        }
    }

    pub(super) fn of_mac(&self, mac: Option<MacAddr>) -> Option<HostId> {
        self.by_mac.get(&mac?).copied()
    }

    pub(super) fn of_point(&self, point: u32) -> Option<HostId> {
        self.by_point.get(point as usize).copied().flatten()
    }

    /// Names the hosts that the user did not name: by role, numbered in the order of their addresses where there are several.
    pub(super) fn name_the_rest(&mut self) {
        let base = |host: &TracedHost| match host.role {
            Role::RealServer => "rs".to_string(),
            Role::Unknown => host
                .addresses
                .first()
                .map_or_else(|| host.macs.first().map_or("host".to_string(), ToString::to_string), ToString::to_string),
            role => role.to_string(),
        };
        let mut order: Vec<HostId> = (0..self.list.len()).filter(|&h| !self.list[h].named).collect();
        order.sort_by_key(|&h| (self.list[h].role, self.list[h].addresses.first().copied(), self.list[h].macs.first().copied()));
        let mut count: HashMap<String, usize> = HashMap::new();
        for &host in &order {
            *count.entry(base(&self.list[host])).or_insert(0) += 1;
        }
        let mut next: HashMap<String, usize> = HashMap::new();
        for &host in &order {
            let base = base(&self.list[host]);
            let number = next.entry(base.clone()).and_modify(|n| *n += 1).or_insert(1);
            let several = count[&base] > 1 || (self.list[host].role == Role::RealServer);
            let mac = self.list[host].macs.first().filter(|_| self.list[host].role == Role::Unknown);
            let mut name = match (several, mac) {
                // A number behind an address would make another address of it.
                (true, Some(mac)) => mac.to_string(),
                (true, None) => format!("{base}{number}"),
                (false, _) => base.clone(),
            };
            while self.list.iter().any(|h| h.name == name) {
                name.push('\'');
            }
            self.list[host].name = name;
        }
    }
}
