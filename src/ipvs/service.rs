//! Virtual services and real servers, as in ipvsadm(8).

use crate::net::{Endpoint, Protocol};
use std::fmt;
use std::net::IpAddr;

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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
    /// Encapsulation of method [`ForwardingMethod::Tunnel`] (`--tun-type`), as written: `ipip`, `gue`, `gre`.
    pub tunnel: Option<String>,
}

impl VirtualService {
    /// True when it answers to this address, whatever the port.
    pub fn is_for(&self, addr: IpAddr) -> bool {
        matches!(self.matches, Match::Endpoint(_, e) if e.addr == addr)
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
