//! What the configuration files say: what will be after the next reboot.

use super::Service;
use crate::net::{Endpoint, Prefix};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything that was read of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Settings: the last file that names one wins.
    #[serde(default)]
    pub sysctls: BTreeMap<String, SavedSysctl>,
    /// Addresses, gateways, by the system that configures the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<NetworkConfig>,
    /// Virtual services of a saved IPVS table or of keepalived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<Service>>,
    /// The file that they are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services_file: Option<String>,
    /// VRRP instances of keepalived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vrrp: Vec<VrrpInstance>,
    /// Files that were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// A setting in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSysctl {
    /// Its value.
    pub value: String,
    /// The file.
    pub file: String,
}

/// What a file says of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// `ifcfg`, `netplan`, `networkd`, `networkmanager`, `ifupdown`.
    pub system: String,
    /// The file.
    pub file: String,
    /// The device that it is for, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Prefix>,
    /// Default gateways.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Asks a DHCP server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dhcp: bool,
}

/// A VRRP instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpInstance {
    /// Its name.
    pub name: String,
    /// Its device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Virtual router id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<u8>,
    /// Its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Addresses that move with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// `vrrp_strict`, `no_accept` and `accept`, where they stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Saved {
    /// The system that configures the network, if one was found.
    pub fn network_system(&self) -> Option<&str> {
        self.network.first().map(|n| n.system.as_str())
    }

    /// Virtual addresses and ports of saved services.
    pub fn service_endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.services.iter().flatten().filter_map(|s| s.address)
    }
}
