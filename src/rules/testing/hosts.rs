//! The hosts of a world, their interfaces, and the segments between them; the topologies that most tests use.

use super::{World, ip};
use crate::net::MacAddr;
use std::net::IpAddr;

/// One interface: the host's and its own name, the segment that it is on, its MAC and address.
#[derive(Clone)]
pub(super) struct Interface {
    pub(super) host: String,
    pub(super) name: String,
    pub(super) segment: String,
    pub(super) mac: MacAddr,
    pub(super) addr: IpAddr,
}

impl Interface {
    /// `host.interface`, as captures are called.
    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.host, self.name)
    }
}

/// A device of the same host that shows an interface's frames too; or instead, on the way in, for a bond.
#[derive(Clone)]
pub(super) struct Stacked {
    pub(super) interface: String,
    pub(super) device: String,
    pub(super) instead: bool,
}

impl World {
    /// Adds an interface: `host.name`, its segment, its address.
    pub(in crate::rules) fn plug(mut self, interface: &str, segment: &str, addr: &str) -> Self {
        let (host, name) = interface.split_once('.').expect("host.interface");
        let number = self.interfaces.len() as u8 + 1;
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, number]);
        self.frames.insert(interface.to_string(), Vec::new());
        self.interfaces.push(Interface { host: host.into(), name: name.into(), segment: segment.into(), mac, addr: ip(addr) });
        self
    }

    /// Adds a tunnel device, `host.name`, on which [`World::unpack`] shows packets.
    pub(in crate::rules) fn tunnel_device(mut self, device: &str) -> Self {
        self.frames.insert(device.to_string(), Vec::new());
        self.bare(device)
    }

    /// A device on top of an interface is captured too, and shows the same frames.
    pub(in crate::rules) fn stacked(mut self, interface: &str, above: &str) -> Self {
        self.frames.insert(above.to_string(), Vec::new());
        self.stacked.push(Stacked { interface: interface.to_string(), device: above.to_string(), instead: false });
        self
    }

    /// An interface is one slave of a bond: frames for it arrive by another one.
    pub(in crate::rules) fn bonded(mut self, interface: &str, other: &str) -> Self {
        self.frames.insert(other.to_string(), Vec::new());
        self.stacked.push(Stacked { interface: interface.to_string(), device: other.to_string(), instead: true });
        self
    }

    /// The bridge of a segment knows no MAC: everybody sees everything.
    pub(in crate::rules) fn flooding(mut self, segment: &str) -> Self {
        self.flooding.push(segment.to_string());
        self
    }

    /// An interface is down: its capture is there, and empty.
    pub(in crate::rules) fn unplugged(mut self, interface: &str) -> Self {
        self.frames.insert(interface.to_string(), Vec::new());
        self
    }

    /// LVS-NAT: client 10.1.0.x, director 10.1.0.1 (the VIP) and 10.2.0.1, real servers 10.2.0.11 and .12.
    pub(in crate::rules) fn nat() -> Self {
        World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("director.ext", "ext", "10.1.0.1")
            .plug("director.int", "int", "10.2.0.1")
            .plug("web1.eth0", "int", "10.2.0.11")
            .plug("web2.eth0", "int", "10.2.0.12")
    }

    /// LVS-DR behind a router that translates 10.1.0.1 to the VIP 10.2.0.100 of the director; real servers 10.2.0.11 and .12.
    pub(in crate::rules) fn dr() -> Self {
        World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("router.ext", "ext", "10.1.0.1")
            .plug("router.int", "int", "10.2.0.1")
            .plug("director.eth0", "int", "10.2.0.100")
            .plug("web1.eth0", "int", "10.2.0.11")
            .plug("web2.eth0", "int", "10.2.0.12")
    }

    /// The same hosts over IPv6, routed without translation: VIP 2001:db8:2::100.
    pub(in crate::rules) fn dr6() -> Self {
        World::new()
            .plug("client.eth0", "ext", "2001:db8:1::100")
            .plug("router.ext", "ext", "2001:db8:1::1")
            .plug("router.int", "int", "2001:db8:2::1")
            .plug("director.eth0", "int", "2001:db8:2::100")
            .plug("web1.eth0", "int", "2001:db8:2::11")
            .plug("web2.eth0", "int", "2001:db8:2::12")
    }

    pub(super) fn interface(&self, host: &str, segment: &str) -> &Interface {
        self.interfaces.iter().find(|i| i.host == host && i.segment == segment).unwrap_or_else(|| panic!("{host} is not on {segment}"))
    }

    /// The link between two hosts: the sender's interface and the receiver's.
    pub(super) fn link(&self, from: &str, to: &str) -> (&Interface, &Interface) {
        let shared = |i: &&Interface| i.host == from && self.interfaces.iter().any(|j| j.host == to && j.segment == i.segment);
        let sender = self.interfaces.iter().find(shared).unwrap_or_else(|| panic!("{from} and {to} share no segment"));
        (sender, self.interface(to, &sender.segment))
    }
}
