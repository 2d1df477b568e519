//! Virtual services and real servers, as in ipvsadm(8).

use crate::net::{Endpoint, Protocol};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How the director hands packets to a real server (`ip_vs.h`: `IP_VS_CONN_F_FWD_MASK`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ForwardingMethod {
    /// Masquerading: the destination address is translated (`-m`).
    Nat,
    /// Direct routing: only the MAC address changes (`-g`, ipvsadm's default).
    DirectRouting,
    /// Tunnelling: the packet is put into another one (`-i`).
    Tunnel,
}

impl ForwardingMethod {
    /// The option of ipvsadm(8).
    pub fn option(self) -> &'static str {
        match self {
            ForwardingMethod::Nat => "-m",
            ForwardingMethod::DirectRouting => "-g",
            ForwardingMethod::Tunnel => "-i",
        }
    }
}

impl fmt::Display for ForwardingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ForwardingMethod::Nat => "nat",
            ForwardingMethod::DirectRouting => "dr",
            ForwardingMethod::Tunnel => "tun",
        })
    }
}

/// What a virtual service answers to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Match {
    /// Protocol, address and port; port 0 is every port.
    Endpoint(Protocol, Endpoint),
    /// A firewall mark, for IPv4 or IPv6.
    Mark(u32, bool),
}

/// A virtual service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualService {
    /// What it answers to.
    pub matches: Match,
    /// Name of the scheduler, `wlc` when none is given.
    pub scheduler: String,
    /// Scheduler flags (`-b`): `sh-fallback`, `sh-port`, `mh-fallback`, `mh-port`, `flag-3`.
    pub flags: Vec<String>,
    /// Persistence timeout in seconds (`-p`).
    pub persistence: Option<u32>,
    /// Netmask, or prefix length for IPv6, of clients that persistence holds together (`-M`).
    pub netmask: Option<String>,
    /// Persistence engine (`--pe`).
    pub engine: Option<String>,
    /// One-packet scheduling (`-o`).
    pub one_packet: bool,
    /// In the order in which they were added.
    pub real_servers: Vec<RealServer>,
}

/// A real server of a virtual service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RealServer {
    /// Its address.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets get there.
    pub method: ForwardingMethod,
    /// Its weight; 0 gets no new connections.
    pub weight: u32,
    /// No more connections than this (`-x`); 0 is no limit.
    pub upper: u32,
    /// Connections again below this (`-y`).
    pub lower: u32,
    /// Encapsulation of method [`ForwardingMethod::Tunnel`] (`--tun-type` and its kin).
    pub tunnel: TunnelOptions,
}

/// How a tunnelled packet is wrapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TunnelOptions {
    /// `--tun-type`.
    pub kind: TunnelType,
    /// `--tun-port`: where GUE listens.
    pub port: u16,
    /// `--tun-nocsum`, `--tun-csum`, `--tun-remcsum`.
    pub checksum: TunnelChecksum,
}

/// The encapsulation (`ip_vs.h`: `IP_VS_CONN_F_TUNNEL_TYPE_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TunnelType {
    /// IP in IP.
    #[default]
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// Generic routing encapsulation.
    Gre,
}

/// The checksum of a GUE or GRE header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TunnelChecksum {
    /// None.
    #[default]
    None,
    /// The outer header has one.
    Outer,
    /// Remote checksum offload (GUE).
    Remote,
}

impl fmt::Display for TunnelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            TunnelType::Ipip => "ipip",
            TunnelType::Gue => "gue",
            TunnelType::Gre => "gre",
        })
    }
}

impl VirtualService {
    /// True when it answers to this address, whatever the port.
    pub fn is_for(&self, addr: IpAddr) -> bool {
        matches!(self.matches, Match::Endpoint(_, e) if e.addr == addr)
    }
}

impl VirtualService {
    /// True when it is for IPv6.
    pub fn is_ipv6(&self) -> bool {
        match self.matches {
            Match::Endpoint(_, e) => e.addr.is_ipv6(),
            Match::Mark(_, ipv6) => ipv6,
        }
    }

    /// A client's address as persistence sees it: without what the netmask (`-M`) hides.
    pub fn mask(&self, client: IpAddr) -> IpAddr {
        let Some(mask) = &self.netmask else { return client };
        match (client, mask.parse::<Ipv4Addr>(), mask.trim_start_matches('/').parse::<u8>()) {
            (IpAddr::V4(a), Ok(mask), _) => IpAddr::V4(a & mask),
            (IpAddr::V6(a), _, Ok(len @ 0..=128)) => {
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)))
            }
            _ => client,
        }
    }
}

impl RealServer {
    /// Its address and port.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.addr, self.port)
    }
}

/// The schedulers of Linux, by the names that the administrator types (`net/netfilter/ipvs/ip_vs_*.c`).
pub const SCHEDULERS: [&str; 14] = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netmasks_hide_hosts() {
        let mut service = VirtualService {
            matches: Match::Mark(1, false),
            scheduler: "rr".to_string(),
            flags: Vec::new(),
            persistence: Some(300),
            netmask: Some("255.255.255.0".to_string()),
            engine: None,
            one_packet: false,
            real_servers: Vec::new(),
        };
        assert_eq!(service.mask("10.1.2.3".parse().unwrap()).to_string(), "10.1.2.0");
        service.netmask = Some("64".to_string());
        assert_eq!(service.mask("2001:db8:1:2:3::4".parse().unwrap()).to_string(), "2001:db8:1:2::");
        service.netmask = Some("0".to_string());
        assert_eq!(service.mask("2001:db8::4".parse().unwrap()).to_string(), "::");
        service.netmask = None;
        assert_eq!(service.mask("10.1.2.3".parse().unwrap()).to_string(), "10.1.2.3");
    }
}
