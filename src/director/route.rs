//! Where packets go: prefixes, gateways, MTUs, and the director's own addresses.

use crate::net::Prefix;
use std::net::IpAddr;

/// A way to some addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Which ones.
    pub to: Prefix,
    /// Over this router; without one they are neighbours.
    pub via: Option<IpAddr>,
    /// On this port.
    pub port: usize,
    /// The longest packet that fits.
    pub mtu: usize,
}

/// All ways.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// The more exact one wins.
    pub routes: Vec<Route>,
    /// The director's own addresses, with the port that they belong to.
    pub own: Vec<(IpAddr, usize)>,
}

impl Routes {
    /// The way to `addr`.
    pub fn to(&self, addr: IpAddr) -> Option<&Route> {
        self.routes.iter().filter(|route| route.to.contains(addr)).max_by_key(|route| route.to.len())
    }

    /// The address that a packet to `addr` leaves with: one of the same network, else one of the same port, else any of the family.
    pub fn source(&self, addr: IpAddr) -> Option<IpAddr> {
        let family = || self.own.iter().filter(|(own, _)| own.is_ipv6() == addr.is_ipv6());
        let route = self.to(addr);
        let same_network = family().find(|(own, _)| route.is_some_and(|route| !route.to.is_empty() && route.to.contains(*own)));
        let same_port = || family().find(|(_, port)| route.is_some_and(|route| route.port == *port));
        same_network.or_else(same_port).or_else(|| family().next()).map(|(own, _)| *own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_exact_way_wins() {
        let route =
            |to: &str, via: Option<&str>, port| Route { to: to.parse().unwrap(), via: via.map(|v| v.parse().unwrap()), port, mtu: 1500 };
        let routes = Routes {
            routes: vec![route("0.0.0.0/0", Some("192.168.2.1"), 0), route("192.168.2.0/24", None, 0), route("192.168.224.0/24", None, 1)],
            own: vec![("192.168.2.10".parse().unwrap(), 0), ("192.168.224.10".parse().unwrap(), 1)],
        };
        assert_eq!(routes.to("192.168.224.11".parse().unwrap()).unwrap().port, 1);
        assert_eq!(routes.to("8.8.8.8".parse().unwrap()).unwrap().via, Some("192.168.2.1".parse().unwrap()));
        assert_eq!(routes.source("192.168.224.11".parse().unwrap()), Some("192.168.224.10".parse().unwrap()));
        assert_eq!(routes.source("8.8.8.8".parse().unwrap()), Some("192.168.2.10".parse().unwrap()));
        assert_eq!(routes.to("::1".parse().unwrap()), None);
    }
}
