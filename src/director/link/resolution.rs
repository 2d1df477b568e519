//! ARP and neighbour discovery: the director asks, answers and announces under a MAC of its own.

use super::{Director, Port, Sent};
use crate::net::{MacAddr, Timestamp};
use crate::packet::{IcmpKind, Network, Packet, Transport, build};
use std::net::{IpAddr, Ipv4Addr};

impl Director {
    /// Who has `addr`? Without an own address on the port it is a probe, from 0.0.0.0.
    pub(super) fn question(&self, port: usize, addr: IpAddr) -> Option<Sent> {
        let own = self.ports.get(port)?;
        let source = own.addresses.iter().copied().find(|a| a.is_ipv4() == addr.is_ipv4());
        let bytes = match (addr, source) {
            (IpAddr::V4(target), Some(IpAddr::V4(from))) => who_has(own.mac, from, target),
            (IpAddr::V4(target), _) => who_has(own.mac, Ipv4Addr::UNSPECIFIED, target),
            (IpAddr::V6(target), Some(IpAddr::V6(from))) => build::solicitation(own.mac, from, target),
            (IpAddr::V6(target), _) => build::solicitation(own.mac, own.mac.link_local(), target),
        };
        Some(Sent::own(port, bytes))
    }

    fn answers_for(&self, port: usize, addr: IpAddr) -> bool {
        self.engine.balancer.is_vip(addr) || self.ports.get(port).is_some_and(|p| p.addresses.contains(&addr))
    }

    pub(super) fn arp(&mut self, port: usize, packet: &Packet<'_>, now: Timestamp, out: &mut Vec<Sent>) {
        let Network::Arp(arp) = packet.network else {
            self.tally.ignored += 1;
            return;
        };
        let vlans = packet.link.vlans.ids();
        if arp.sender_mac.is_unicast() && !arp.sender.is_unspecified() {
            let known = self.neighbours.contains_key(&IpAddr::V4(arp.sender));
            if known || self.learn_from_all || self.answers_for(port, IpAddr::V4(arp.target)) {
                self.learn(IpAddr::V4(arp.sender), arp.sender_mac, vlans, now, port, out);
            }
        }
        // A captured director answers for itself.
        if arp.operation == 1 && !self.learn_from_all && self.answers_for(port, IpAddr::V4(arp.target)) && arp.sender != arp.target {
            let Some(own) = self.ports.get(port).map(|p| p.mac) else { return };
            let bytes = build::arp(arp.sender_mac, 2, (own, arp.target), (arp.sender_mac, arp.sender), vlans);
            out.push(Sent::own(port, bytes));
            self.tally.resolved += 1;
        }
    }

    /// Neighbour discovery; false when the packet is something else.
    pub(super) fn discovery(&mut self, port: usize, packet: &Packet<'_>, src: MacAddr, now: Timestamp, out: &mut Vec<Sent>) -> bool {
        let (Transport::Icmp(icmp), Some(ip)) = (&packet.transport, packet.ip()) else { return false };
        let vlans = packet.link.vlans.ids();
        match (icmp.kind, ip.src) {
            (IcmpKind::Solicitation(asked), IpAddr::V6(from)) => {
                if !from.is_unspecified() {
                    self.learn(ip.src, src, vlans, now, port, out);
                }
                let own = self.ports.get(port).map(|p| p.mac);
                if let Some(own) = own.filter(|_| !self.learn_from_all && self.answers_for(port, IpAddr::V6(asked.target))) {
                    // An asker that has no address yet hears it with everyone else.
                    let asker = (!from.is_unspecified()).then_some((src, from));
                    out.push(Sent::own(port, build::advertisement(own, asked.target, asker)));
                    self.tally.resolved += 1;
                }
            }
            (IcmpKind::Advertisement(said), _) => {
                self.learn(IpAddr::V6(said.target), said.mac.unwrap_or(src), vlans, now, port, out);
            }
            _ => {}
        }
        // Router solicitation to redirect: the host's own business.
        matches!(icmp.type_number, 133..=137)
    }

    /// Tells everyone on every port which MAC the addresses have now.
    pub fn announcements(&self) -> Vec<Sent> {
        let mut all = Vec::new();
        for (port, own) in self.ports.iter().enumerate() {
            for addr in own.addresses.iter().copied().chain(self.engine.balancer.vips()) {
                let one = Sent::own(port, announcement(own, addr));
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        all
    }
}

fn who_has(mac: MacAddr, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    build::arp(MacAddr::BROADCAST, 1, (mac, from), (MacAddr::ZERO, target), &[])
}

fn announcement(own: &Port, addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => who_has(own.mac, addr, addr),
        IpAddr::V6(addr) => build::advertisement(own.mac, addr, None),
    }
}
