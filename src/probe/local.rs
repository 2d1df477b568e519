//! Who asks: an interface of this host, its MAC, its addresses; and the way to an address.

use crate::net::{MacAddr, Prefix};
use crate::netlink::rtnetlink::Question;
use crate::netlink::{Family, NetlinkError, Socket};
use std::fmt;
use std::net::IpAddr;

/// An interface that questions go out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its name.
    pub interface: String,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<Prefix>,
    /// The gateway on the way to what was asked for, when that is no neighbour.
    pub gateway: Option<IpAddr>,
    /// What was asked for is an address of this host itself.
    pub own: bool,
    /// Neighbours that the kernel knows: address and MAC.
    pub neighbours: Vec<(IpAddr, MacAddr)>,
}

/// Why there is nobody to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalError {
    /// The kernel's word.
    Kernel(String),
    /// No such interface; those that there are.
    Unknown(String, Vec<String>),
    /// Not Ethernet.
    NotEthernet(String),
    /// The address is this host's own, so that there is no interface towards it.
    Own(IpAddr),
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalError::Kernel(said) => f.write_str(said),
            LocalError::Unknown(name, there) => write!(f, "{name}: no such interface (there are: {})", there.join(" ")),
            LocalError::NotEthernet(name) => write!(f, "{name}: not an Ethernet interface; addresses are not resolved there"),
            LocalError::Own(addr) => write!(f, "{addr} is this host's own address: say with -i on which segment to ask"),
        }
    }
}

impl std::error::Error for LocalError {}

impl From<NetlinkError> for LocalError {
    fn from(e: NetlinkError) -> Self {
        LocalError::Kernel(e.to_string())
    }
}

impl Local {
    /// The interface of that name, else the one on the way to an address.
    ///
    /// # Errors
    /// Without such an interface, and when there is no way.
    pub fn towards(addr: IpAddr, interface: Option<&str>) -> Result<Local, LocalError> {
        let mut socket = Socket::open(Family::Route)?;
        let links = socket.links()?;
        let all = socket.addresses()?;
        let own = all.iter().any(|known| known.prefix.addr() == addr);
        let oif = match interface {
            None => None,
            Some(name) => match links.iter().find(|link| link.name == name) {
                Some(link) => Some(link.index),
                None => return Err(LocalError::Unknown(name.to_string(), links.iter().map(|link| link.name.clone()).collect())),
            },
        };
        // A way that is not there is no hindrance where the interface is given.
        let way = socket.way(&Question { dst: addr, src: None, iif: None, oif, mark: 0, tos: 0 });
        let (index, gateway) = match (oif, own, way) {
            (Some(index), true, _) => (index, None),
            (Some(index), false, way) => (index, way.ok().and_then(|way| way.hops.first().and_then(|hop| hop.via))),
            (None, true, _) => return Err(LocalError::Own(addr)),
            (None, false, way) => {
                let way = way?;
                let hop = way.hops.first().ok_or_else(|| LocalError::Kernel(format!("there is no way to {addr}")))?;
                (hop.index, hop.via)
            }
        };
        let link = links.iter().find(|link| link.index == index).ok_or_else(|| LocalError::Kernel(format!("interface {index} is gone")))?;
        // ARPHRD_ETHER (linux/if_arp.h).
        let mac = link.mac.filter(|_| link.hardware == 1).ok_or_else(|| LocalError::NotEthernet(link.name.clone()))?;
        let addresses = all.iter().filter(|known| known.index == index).map(|known| known.prefix).collect();
        let neighbours = socket.neighbours().unwrap_or_default();
        let neighbours = neighbours.iter().filter(|n| n.index == index).filter_map(|n| Some((n.addr, n.mac?))).collect();
        Ok(Local { interface: link.name.clone(), mac, addresses, gateway, own, neighbours })
    }

    /// The address to ask with: of the same network if there is one, never the one that is asked for.
    pub fn source(&self, towards: IpAddr) -> Option<IpAddr> {
        let fitting = |p: &&Prefix| p.addr().is_ipv4() == towards.is_ipv4() && p.addr() != towards;
        let usable = || self.addresses.iter().filter(fitting);
        // A link-local address serves its own kind only, but for want of another.
        let near = usable().find(|p| p.contains(towards));
        let wide = usable().find(|p| !is_link_local(p.addr()));
        near.or(wide).or_else(|| usable().next()).map(|p| p.addr())
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_from_the_network_that_it_asks() {
        let local = Local {
            interface: "eth0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            addresses: ["10.0.0.1/24", "192.168.2.2/24", "192.168.2.59/32", "fe80::1/64", "2001:db8::1/64"]
                .map(|p| p.parse().unwrap())
                .to_vec(),
            gateway: None,
            own: false,
            neighbours: Vec::new(),
        };
        for (towards, from) in [
            ("192.168.2.59", "192.168.2.2"),
            ("192.168.2.7", "192.168.2.2"),
            ("8.8.8.8", "10.0.0.1"),
            ("fe80::9", "fe80::1"),
            ("2001:db8:7::9", "2001:db8::1"),
        ] {
            assert_eq!(local.source(towards.parse().unwrap()), from.parse().ok(), "{towards}");
        }
        assert_eq!(Local { addresses: Vec::new(), ..local }.source("10.0.0.1".parse().unwrap()), None);
    }
}
