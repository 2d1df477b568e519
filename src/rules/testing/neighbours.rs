//! Hosts look for each other and announce themselves: ARP, neighbour discovery, VRRP.

use super::{World, ip};
use crate::net::MacAddr;
use crate::packet::build;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn v4(addr: IpAddr) -> Ipv4Addr {
    match addr {
        IpAddr::V4(addr) => addr,
        IpAddr::V6(addr) => panic!("{addr} is not for ARP"),
    }
}

fn v6(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V6(addr) => addr,
        IpAddr::V4(addr) => panic!("{addr} is not for neighbour discovery"),
    }
}

impl World {
    /// `host` asks for `target` on `segment`; `answers` are the hosts that say they have it.
    pub(in crate::rules) fn who_has(&mut self, host: &str, segment: &str, target: &str, answers: &[&str]) {
        let tell = self.interface(host, segment).addr;
        self.who_has_tell(host, segment, target, tell, answers);
    }

    /// The same with another sender address than the interface's.
    pub(in crate::rules) fn who_has_tell(&mut self, host: &str, segment: &str, target: &str, tell: IpAddr, answers: &[&str]) {
        let (asker, target, tell) = (self.interface(host, segment).mac, v4(ip(target)), v4(tell));
        self.shout(host, segment, &build::arp(MacAddr::BROADCAST, 1, (asker, tell), (MacAddr::ZERO, target), &[]));
        for answer in answers {
            let mac = self.interface(answer, segment).mac;
            self.cross(answer, host, |_, dst| build::arp(dst, 2, (mac, target), (asker, tell), &[]));
        }
    }

    /// `host` answers `asker` that it has `target`, whoever asked and when.
    pub(in crate::rules) fn has(&mut self, host: &str, segment: &str, target: &str, asker: &str) {
        let (mac, to) = (self.interface(host, segment).mac, self.interface(asker, segment));
        let (target, tell, asks) = (v4(ip(target)), v4(to.addr), to.mac);
        self.cross(host, asker, |_, dst| build::arp(dst, 2, (mac, target), (asks, tell), &[]));
    }

    /// `asker` asks for addresses of a host that answers by each of its cards on the segment for all of them.
    pub(in crate::rules) fn interchange(&mut self, host: &str, segment: &str, addrs: &[&str], asker: &str) {
        let cards: Vec<MacAddr> = self.interfaces.iter().filter(|i| i.host == host && i.segment == segment).map(|i| i.mac).collect();
        let (mac, tell) = (self.interface(asker, segment).mac, v4(self.interface(asker, segment).addr));
        for addr in addrs {
            self.who_has(asker, segment, addr, &[]);
            for card in &cards {
                self.cross(host, asker, |_, _| build::arp(mac, 2, (*card, v4(ip(addr))), (mac, tell), &[]));
            }
        }
    }

    /// `host` announces `addr` on `segment`: gratuitous ARP.
    pub(in crate::rules) fn announce(&mut self, host: &str, segment: &str, addr: &str) {
        let (mac, addr) = (self.interface(host, segment).mac, v4(ip(addr)));
        self.shout(host, segment, &build::arp(MacAddr::BROADCAST, 1, (mac, addr), (MacAddr::ZERO, addr), &[]));
    }

    /// `host` says by neighbour discovery that it has `addr`; `probe`: it asks whether it may (duplicate address detection).
    pub(in crate::rules) fn neighbour(&mut self, host: &str, segment: &str, addr: &str, probe: bool) {
        let (mac, addr) = (self.interface(host, segment).mac, v6(ip(addr)));
        let message = match probe {
            true => build::solicitation(mac, Ipv6Addr::UNSPECIFIED, addr),
            false => build::advertisement(mac, addr, None),
        };
        self.shout(host, segment, &message);
    }

    /// `host` asks for an IPv6 neighbour.
    pub(in crate::rules) fn solicit(&mut self, host: &str, segment: &str, addr: &str) {
        let mac = self.interface(host, segment).mac;
        // Linux asks from its link-local address when it forwards.
        self.shout(host, segment, &build::solicitation(mac, mac.link_local(), v6(ip(addr))));
    }

    /// A VRRP advertisement (version 2) of `host` for one address.
    pub(in crate::rules) fn vrrp(&mut self, host: &str, segment: &str, vrid: u8, priority: u8, addr: &str) {
        let (mac, src) = (self.interface(host, segment).mac, self.interface(host, segment).addr);
        let mut message = vec![0x21, vrid, priority, 1, 0, 1, 0, 0];
        message.extend(v4(ip(addr)).octets());
        let packet = build::ip(src, ip("224.0.0.18"), 112, build::IpFields { ttl: 255, id: 1, flags: 0x4000 }, &message);
        self.shout(host, segment, &build::ethernet(mac, MacAddr([1, 0, 0x5e, 0, 0, 0x12]), &[], &packet));
    }
}
