//! Devices, their addresses, and the neighbours behind them.

use crate::net::{MacAddr, Prefix};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its number.
    #[serde(default)]
    pub index: u32,
    /// What kind of hardware, in the words of ip(8): `ether`, `loopback`, `ipip`, `none`.
    #[serde(default)]
    pub hardware: String,
    /// What it is made by: `veth`, `bridge`, `bond`, `vlan`, `dummy`, `ipip`; none for a card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Flags, in the words of ip(8): `UP`, `LOWER_UP`, `NOARP`, `NO-CARRIER`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// The largest packet.
    #[serde(default)]
    pub mtu: u32,
    /// The bridge or bond that it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// The other end of a tunnel that takes packets of one sender only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// Offload features that are on (`rx-lro`, `rx-gro`, `tx-tcp-segmentation` …), in the kernel's names; none where it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
}

impl Link {
    /// Has a flag.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }

    /// The loopback device.
    pub fn is_loopback(&self) -> bool {
        self.has("LOOPBACK") || self.hardware == "loopback"
    }

    /// Switched on by its administrator.
    pub fn is_up(&self) -> bool {
        self.has("UP")
    }

    /// Switched on, and a cable (or its like) is in it.
    pub fn has_carrier(&self) -> bool {
        self.is_up() && !self.has("NO-CARRIER")
    }

    /// Takes IP packets out of IP packets.
    pub fn is_tunnel(&self) -> bool {
        let tunnels = ["ipip", "ip6tnl", "sit", "gre", "gretap", "ip6gre", "tunnel", "tunnel6", "ipgre", "fou"];
        tunnels.contains(&self.hardware.as_str()) || self.kind.as_deref().is_some_and(|k| tunnels.contains(&k))
    }

    /// Speaks ARP with others: a card, a VLAN, a bridge; no loopback, no dummy, no tunnel.
    pub fn speaks_arp(&self) -> bool {
        self.hardware == "ether" && !self.has("NOARP") && !self.is_loopback()
    }

    /// Has an offload feature switched on; `None` where it is not known.
    pub fn feature(&self, name: &str) -> Option<bool> {
        self.features.as_ref().map(|on| on.iter().any(|f| f == name))
    }
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The device.
    pub link: String,
    /// Address and prefix length.
    pub addr: Prefix,
    /// `global`, `link`, `host`.
    #[serde(default)]
    pub scope: String,
    /// Flags, in the words of ip(8): `secondary`, `tentative`, `dadfailed`, `nodad`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// The label of ifconfig(8): `lo:0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl Address {
    /// Has a flag.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }

    /// No loopback address and no link-local one.
    pub fn is_global(&self) -> bool {
        match self.addr.addr() {
            IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
            IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
        }
    }
}

/// What is known of a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub addr: IpAddr,
    /// The device behind which it is.
    pub link: String,
    /// Its MAC, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// `REACHABLE`, `STALE`, `PERMANENT`, `FAILED`, `INCOMPLETE`, …
    pub state: String,
}

/// An address of another for which the machine answers, where it forwards: an entry of `ip neigh add proxy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxied {
    /// The address.
    pub addr: IpAddr,
    /// The device at which it is answered for; none for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl Proxied {
    /// It holds for a question that arrives at a device.
    pub fn is_at(&self, device: &str) -> bool {
        self.link.as_deref().is_none_or(|link| link == device)
    }
}

impl Neighbour {
    /// It was asked for in vain.
    pub fn is_failed(&self) -> bool {
        matches!(self.state.as_str(), "FAILED" | "INCOMPLETE")
    }

    /// It was typed in by somebody, and is never asked for.
    pub fn is_static(&self) -> bool {
        self.state == "PERMANENT"
    }
}
