//! The IPVS table of a machine, with its counters and connections.

use crate::ipvs::{Entry, ForwardingMethod, Match, RealServer, TunnelOptions, TunnelType, VirtualService};
use crate::net::{Endpoint, Protocol};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IpvsTable {
    /// Version of IPVS: `1.2.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Buckets of the connection table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Timeouts of connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Virtual services.
    pub services: Vec<Service>,
    /// Sync daemons; none where nobody asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemons: Option<Vec<Daemon>>,
    /// Connections, at most so many as a snapshot keeps; none where they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Vec<Connection>>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_count: Option<u64>,
}

/// Timeouts in seconds, as `ipvsadm -L --timeout` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Of TCP connections.
    pub tcp: u32,
    /// Of TCP connections after a FIN.
    pub tcp_fin: u32,
    /// Of UDP.
    pub udp: u32,
}

/// A sync daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// `master` or `backup`.
    pub state: String,
    /// The device that it speaks on.
    pub interface: String,
    /// Who belongs together.
    pub sync_id: u32,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Connections.
    pub connections: u64,
    /// Packets in.
    pub packets_in: u64,
    /// Packets out; always 0 but for NAT.
    pub packets_out: u64,
    /// Bytes in.
    pub bytes_in: u64,
    /// Bytes out.
    pub bytes_out: u64,
}

/// A virtual service: by protocol and address, or by firewall mark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Protocol, of one that goes by address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Address and port, of one that goes by address; port 0 is every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Endpoint>,
    /// Firewall mark, of one that goes by mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<u32>,
    /// For IPv6.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub v6: bool,
    /// Its scheduler.
    pub scheduler: String,
    /// The scheduler's flags: `sh-fallback` and the like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Persistence in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<u32>,
    /// Mask of clients that persistence holds together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netmask: Option<String>,
    /// Persistence engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// One-packet scheduling.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_packet: bool,
    /// What was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// Its real servers, in the kernel's order.
    pub destinations: Vec<Destination>,
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Destination {
    /// Address and port.
    pub address: Endpoint,
    /// `nat`, `dr`, `tun`; `local` for the director itself, as old kernels have it.
    pub method: String,
    /// Its weight.
    pub weight: u32,
    /// Upper threshold of connections; 0 is none.
    #[serde(default)]
    pub upper: u32,
    /// Lower threshold.
    #[serde(default)]
    pub lower: u32,
    /// Encapsulation: `ipip`, `gue`, `gre`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Where GUE listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_port: Option<u16>,
    /// Established connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<u32>,
    /// Other connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactive: Option<u32>,
    /// Persistence templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent: Option<u32>,
    /// What was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
}

/// An entry of the connection table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Protocol; `IP` (0) of templates of a firewall mark.
    pub protocol: Protocol,
    /// The client; port 0 is a persistence template.
    pub client: Endpoint,
    /// The virtual address.
    pub service: Endpoint,
    /// The real server.
    pub destination: Endpoint,
    /// `ESTABLISHED`, `SYN_RECV`, …
    pub state: String,
    /// Seconds until it expires.
    pub expires: u32,
}

impl From<Entry> for Connection {
    fn from(Entry { protocol, client, service, destination, state, expires }: Entry) -> Self {
        Connection { protocol, client, service, destination, state, expires }
    }
}

impl Destination {
    /// How packets get there; nothing for `local`.
    pub fn forwarding(&self) -> Option<ForwardingMethod> {
        match self.method.as_str() {
            "nat" => Some(ForwardingMethod::Nat),
            "dr" => Some(ForwardingMethod::DirectRouting),
            "tun" => Some(ForwardingMethod::Tunnel),
            _ => None,
        }
    }
}

impl Service {
    /// How it is named: `192.168.2.59:80`, `udp/192.168.2.59:53`, `fwmark 7`.
    pub fn name(&self) -> String {
        match (self.address, self.protocol, self.fwmark) {
            (Some(e), Some(Protocol::Tcp) | None, _) => e.to_string(),
            (Some(e), Some(protocol), _) => format!("{protocol}/{e}"),
            (None, _, Some(mark)) => format!("fwmark {mark}"),
            (None, _, None) => "?".to_string(),
        }
    }

    /// The option of ipvsadm(8) that names it: `-t 192.168.2.59:80`.
    pub fn option(&self) -> String {
        match (self.address, self.protocol, self.fwmark) {
            (Some(e), Some(Protocol::Udp), _) => format!("-u {e}"),
            (Some(e), Some(Protocol::Sctp), _) => format!("--sctp-service {e}"),
            (Some(e), ..) => format!("-t {e}"),
            (None, _, mark) => format!("-f {}{}", mark.unwrap_or(0), if self.v6 { " -6" } else { "" }),
        }
    }

    /// Its virtual address.
    pub fn vip(&self) -> Option<IpAddr> {
        self.address.map(|e| e.addr)
    }
}

fn tunnel_type(name: Option<&str>) -> TunnelType {
    match name {
        Some("gue") => TunnelType::Gue,
        Some("gre") => TunnelType::Gre,
        _ => TunnelType::Ipip,
    }
}

impl From<&VirtualService> for Service {
    fn from(rule: &VirtualService) -> Self {
        let (protocol, address, fwmark, v6) = match rule.matches {
            Match::Endpoint(protocol, e) => (Some(protocol), Some(e), None, e.addr.is_ipv6()),
            Match::Mark(mark, v6) => (None, None, Some(mark), v6),
        };
        let destination = |rs: &RealServer| Destination {
            address: rs.endpoint(),
            method: rs.method.to_string(),
            weight: rs.weight,
            upper: rs.upper,
            lower: rs.lower,
            tunnel: (rs.method == ForwardingMethod::Tunnel).then(|| rs.tunnel.kind.to_string()),
            tunnel_port: (rs.tunnel.port != 0).then_some(rs.tunnel.port),
            active: None,
            inactive: None,
            persistent: None,
            counters: None,
        };
        Service {
            protocol,
            address,
            fwmark,
            v6,
            scheduler: rule.scheduler.clone(),
            flags: rule.flags.clone(),
            persistence: rule.persistence,
            netmask: rule.netmask.clone(),
            engine: rule.engine.clone(),
            one_packet: rule.one_packet,
            counters: None,
            destinations: rule.real_servers.iter().map(destination).collect(),
        }
    }
}

impl IpvsTable {
    /// The table as rules, as `ipvsadm -Sn` would write them. Destinations of no known method are left out.
    pub fn rules(&self) -> Vec<VirtualService> {
        let server = |d: &Destination| {
            Some(RealServer {
                addr: d.address.addr,
                port: d.address.port,
                method: d.forwarding()?,
                weight: d.weight,
                upper: d.upper,
                lower: d.lower,
                tunnel: TunnelOptions {
                    kind: tunnel_type(d.tunnel.as_deref()),
                    port: d.tunnel_port.unwrap_or(0),
                    ..TunnelOptions::default()
                },
            })
        };
        let rule = |s: &Service| {
            Some(VirtualService {
                matches: match (s.address, s.fwmark) {
                    (Some(e), _) => Match::Endpoint(s.protocol?, e),
                    (None, mark) => Match::Mark(mark?, s.v6),
                },
                scheduler: s.scheduler.clone(),
                flags: s.flags.clone(),
                persistence: s.persistence,
                netmask: s.netmask.clone(),
                engine: s.engine.clone(),
                one_packet: s.one_packet,
                real_servers: s.destinations.iter().filter_map(server).collect(),
            })
        };
        self.services.iter().filter_map(rule).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::{parse, to_text};

    #[test]
    fn rules_and_back() {
        let text = "-A -t 192.168.2.59:80 -s rr -p 10\n-a -t 192.168.2.59:80 -r 192.168.224.11:8080 -m -w 1\n\
            -A -f 7 -6 -s wlc\n-a -f 7 -6 -r [2001:db8:224::11]:0 -i -w 0 --tun-type gre\n";
        let services = parse(text).unwrap().iter().map(Service::from).collect();
        let table = IpvsTable { services, ..IpvsTable::default() };
        assert_eq!(to_text(&table.rules()), text);
        assert_eq!((table.services[0].name().as_str(), table.services[1].option().as_str()), ("192.168.2.59:80", "-f 7 -6"));
    }
}
