//! What one machine looked like at one moment, as facts: its links, addresses, routes, neighbours, sockets, settings, tables.
//!
//! A section that nobody could read is `None`, and [`Host::left_out`] says why: what is absent must never be taken for healthy. The types
//! are the snapshot file (`docs/snapshot.md`): they are read and written as they stand, and [`SCHEMA`] is their version. Unknown fields of
//! a file are ignored (a later version may say more), a later schema is refused (it may mean something else).
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

mod arp;
mod fleet;
mod ipvs;
mod link;
mod manager;
mod netfilter;
mod route;
mod saved;
mod socket;
mod sysctl;
mod tracking;
mod validate;

pub use arp::Proxy;
pub use fleet::{Fleet, Member, Observed, Served};
pub use ipvs::{Connection, Counters, Daemon, Destination, IpvsTable, Service, Timeouts};
pub use link::{Address, Link, Neighbour, Proxied};
pub use manager::{MANAGERS, is_module_of_note, managers_of, modules_of};
pub use netfilter::{ArpQuestion, Chain, Fate, FilterRule, FilterVerdict, Hook, Netfilter, Passing, Ports};
pub use route::{Answer, Ask, LOCAL, MAIN, NextHop, NoRoute, Route, RouteKind, Rule, RuleAction};
pub use saved::{NetworkConfig, Saved, SavedSysctl, VrrpInstance};
pub use socket::Socket;
pub use sysctl::Sysctls;
pub use tracking::{Tracked, Tracking};
pub use validate::SourceCheck;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The version of the snapshot format that this program writes, and the latest that it reads.
pub const SCHEMA: u32 = 1;

/// A machine (strictly: one network namespace of it) at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Version of the format.
    pub schema: u32,
    /// What wrote it: `lvscope 0.1.0`.
    #[serde(default)]
    pub tool: String,
    /// Its name.
    pub name: String,
    /// When, in seconds since 1970; unknown for facts that were sent as text.
    #[serde(default)]
    pub taken: Option<i64>,
    /// The kernel's version, `6.1.176`.
    #[serde(default)]
    pub kernel: Option<String>,
    /// The network namespace that was looked into, when it is not the machine's own.
    #[serde(default)]
    pub netns: Option<String>,
    /// Network devices.
    #[serde(default)]
    pub links: Option<Vec<Link>>,
    /// Addresses, in the kernel's order: the first of a device is its primary one.
    #[serde(default)]
    pub addresses: Option<Vec<Address>>,
    /// Routes of all tables.
    #[serde(default)]
    pub routes: Option<Vec<Route>>,
    /// Policy rules, in the order in which they are asked.
    #[serde(default)]
    pub rules: Option<Vec<Rule>>,
    /// ARP and neighbour discovery entries.
    #[serde(default)]
    pub neighbours: Option<Vec<Neighbour>>,
    /// Addresses of others for which it answers ARP and neighbour discovery.
    #[serde(default)]
    pub proxies: Option<Vec<Proxied>>,
    /// Listening TCP sockets and unconnected UDP sockets.
    #[serde(default)]
    pub sockets: Option<Vec<Socket>>,
    /// Settings, under the names of sysctl(8).
    #[serde(default)]
    pub sysctls: Option<Sysctls>,
    /// The IPVS table.
    #[serde(default)]
    pub ipvs: Option<IpvsTable>,
    /// Packet filters, of nftables and iptables alike.
    #[serde(default)]
    pub netfilter: Option<Netfilter>,
    /// What connection tracking knows; none where nothing is tracked.
    #[serde(default)]
    pub conntrack: Option<Tracking>,
    /// Counters of the protocols, under the names of nstat(8).
    #[serde(default)]
    pub counters: Option<BTreeMap<String, u64>>,
    /// What the configuration files say: what will be after the next reboot.
    #[serde(default)]
    pub saved: Option<Saved>,
    /// Programs that run and see to virtual services and their servers: `keepalived`, `ldirectord` …
    #[serde(default)]
    pub managers: Option<Vec<String>>,
    /// Modules of the kernel that are there, as far as they concern virtual servers: `ip_vs_ftp`, `ipip` …
    #[serde(default)]
    pub modules: Option<Vec<String>>,
    /// Sections that are absent or not whole, and why.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// A section that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its key in the snapshot.
    pub section: String,
    /// Why, and what it would need.
    pub why: String,
}

impl Host {
    /// A snapshot in which nothing has been written yet.
    pub fn new(name: impl Into<String>) -> Self {
        Host { schema: SCHEMA, tool: concat!("lvscope ", env!("CARGO_PKG_VERSION")).to_string(), name: name.into(), ..Host::default() }
    }

    /// Notes that a section was left out.
    pub fn leave_out(&mut self, section: &str, why: impl Into<String>) {
        self.left_out.push(LeftOut { section: section.to_string(), why: why.into() });
    }

    /// Why a section is not there.
    pub fn why_absent(&self, section: &str) -> &str {
        self.left_out.iter().find(|l| l.section == section).map_or("it is not in the snapshot", |l| l.why.as_str())
    }

    /// The devices; none where nobody looked.
    pub fn links(&self) -> &[Link] {
        self.links.as_deref().unwrap_or_default()
    }

    /// The addresses; none where nobody looked.
    pub fn addresses(&self) -> &[Address] {
        self.addresses.as_deref().unwrap_or_default()
    }

    /// The device of a name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links().iter().find(|l| l.name == name)
    }

    /// Where an address is configured.
    pub fn address(&self, addr: IpAddr) -> Option<&Address> {
        self.addresses().iter().find(|a| a.addr.addr() == addr)
    }

    /// True for an address of the machine itself, whether it is configured or only has a local route.
    pub fn has(&self, addr: IpAddr) -> bool {
        self.address(addr).is_some() || self.is_local(addr)
    }

    /// The address by which others on the link reach it, for a text: the first that is neither loopback nor link-local.
    pub fn main_address(&self) -> Option<IpAddr> {
        let outside = |a: &&Address| self.link(&a.link).is_none_or(|l| !l.is_loopback()) && a.is_global();
        self.addresses().iter().find(outside).map(|a| a.addr.addr())
    }
}
