//! What `ipvsadm -l` prints: services and real servers with their connections, traffic or rates.

use super::service::{ForwardingMethod, Match, RealServer, VirtualService};
use crate::net::Protocol;
use std::cmp::Ordering;

/// A service with what is counted of it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The service; its real servers are in `servers`.
    pub service: VirtualService,
    /// Connections, packets and bytes (`--stats`), or those a second (`--rate`): conns, packets in and out, bytes in and out.
    pub traffic: [u64; 5],
    /// Its real servers.
    pub servers: Vec<ListedServer>,
}

/// A real server with what is counted of it.
#[derive(Clone, Debug)]
pub struct ListedServer {
    /// The real server.
    pub server: RealServer,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// As [`Listed::traffic`].
    pub traffic: [u64; 5],
}

/// Which table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listing {
    /// `ipvsadm -ln`.
    Connections,
    /// `ipvsadm -ln --stats`.
    Stats,
    /// `ipvsadm -ln --rate`.
    Rate,
    /// `ipvsadm -ln --persistent-conn`.
    Persistent,
    /// `ipvsadm -ln --thresholds`.
    Thresholds,
}

/// Prints as `ipvsadm -ln` does, sorted as it sorts.
pub fn list(services: &[Listed], listing: Listing) -> String {
    let mut out = "IP Virtual Server version 1.2.1 (size=4096)\n".to_string();
    out += match listing {
        Listing::Connections => {
            "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
        }
        Listing::Stats => "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  -> RemoteAddress:Port\n",
        Listing::Rate => "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n  -> RemoteAddress:Port\n",
        Listing::Persistent => "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn\n  -> RemoteAddress:Port\n",
        Listing::Thresholds => "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn\n  -> RemoteAddress:Port\n",
    };
    let mut services: Vec<&Listed> = services.iter().collect();
    services.sort_by(|a, b| order(&a.service.matches, &b.service.matches));
    for listed in services {
        let name = name(&listed.service.matches);
        match listing {
            Listing::Stats | Listing::Rate => out += &format!("{name:<33}{}\n", numbers(&listed.traffic)),
            _ => out += &format!("{name} {}{}\n", listed.service.scheduler, flags(&listed.service)),
        }
        let mut servers: Vec<&ListedServer> = listed.servers.iter().collect();
        servers.sort_by_key(|s| (s.server.addr, s.server.port));
        for ListedServer { server, active, inactive, persistent, traffic } in servers {
            let name = server.endpoint();
            out += &match listing {
                Listing::Connections => {
                    let method = forward(server.method);
                    format!("  -> {name:<28} {method:<7} {:<6} {active:<10} {inactive:<10}\n", server.weight)
                }
                Listing::Stats | Listing::Rate => format!("  -> {name:<28}{}\n", numbers(traffic)),
                Listing::Persistent => format!("  -> {name:<28} {:<9} {persistent:<11} {active:<10} {inactive:<10}\n", server.weight),
                Listing::Thresholds => {
                    format!("  -> {name:<28} {:<10} {:<10} {active:<10} {inactive:<10}\n", server.upper, server.lower)
                }
            };
        }
    }
    out
}

/// `ipvs_cmp_services` of libipvs: mark, family, protocol, address, port.
fn order(a: &Match, b: &Match) -> Ordering {
    let key = |m: &Match| match *m {
        Match::Endpoint(protocol, e) => (0, e.addr.is_ipv6(), protocol.number(), Some(e.addr), e.port),
        Match::Mark(mark, ipv6) => (mark, ipv6, 0, None, 0),
    };
    key(a).cmp(&key(b))
}

/// `TCP  192.168.2.59:80`, `FWM  1`, `FWM  1 IPv6`.
fn name(matches: &Match) -> String {
    match matches {
        Match::Endpoint(protocol, e) => format!("{:<4} {e}", protocol_name(*protocol)),
        Match::Mark(mark, false) => format!("FWM  {mark}"),
        Match::Mark(mark, true) => format!("FWM  {mark} IPv6"),
    }
}

pub(super) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
        Protocol::Icmp => "ICMP",
        Protocol::Icmp6 => "ICMPv6",
        Protocol::Other(_) => "IP",
    }
}

fn flags(service: &VirtualService) -> String {
    let mut out = String::new();
    if !service.flags.is_empty() {
        out += &format!(" ({})", service.flags.join(","));
    }
    if let Some(seconds) = service.persistence {
        out += &format!(" persistent {seconds}");
        if let Some(mask) = &service.netmask {
            out += &format!(" mask {mask}");
        }
    }
    if let Some(engine) = &service.engine {
        out += &format!(" pe {engine}");
    }
    if service.one_packet {
        out += " ops";
    }
    out
}

fn forward(method: ForwardingMethod) -> &'static str {
    match method {
        ForwardingMethod::Nat => "Masq",
        ForwardingMethod::DirectRouting => "Route",
        ForwardingMethod::Tunnel => "Tunnel",
    }
}

fn numbers(numbers: &[u64; 5]) -> String {
    numbers.iter().map(|n| large(*n)).collect()
}

/// `print_largenum` of ipvsadm: from 100 million on with a letter.
fn large(n: u64) -> String {
    match n {
        0..100_000_000 => format!("{n:>9}"),
        100_000_000..1_000_000_000 => format!("{:>8}K", n / 1000),
        1_000_000_000..100_000_000_000 => format!("{:>8}M", n / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!("{:>8}G", n / 1_000_000_000),
        _ => format!("{:>8}T", n / 1_000_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::parse;

    #[test]
    fn as_ipvsadm_prints() {
        let rules = parse(
            "-A -t 192.168.2.59:80 -s wlc\n-a -t 192.168.2.59:80 -r 192.168.224.12:80 -m -w 2\n\
             -a -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w 1\n\
             -A -f 1 -s sh -b sh-port -p 300 -M 255.255.255.0\n-A -u [2001:db8::59]:53 -s rr -o\n",
        )
        .unwrap();
        let listed: Vec<Listed> = rules
            .into_iter()
            .map(|service| Listed {
                servers: service
                    .real_servers
                    .iter()
                    .map(|server| ListedServer {
                        server: server.clone(),
                        active: 2,
                        inactive: 10,
                        persistent: 1,
                        traffic: [3, 12, 6, 648, 123_456_789],
                    })
                    .collect(),
                service,
                traffic: [9, 30, 17, 1632, 956],
            })
            .collect();
        let expected = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.168.2.59:80 wlc
  -> 192.168.224.11:80            Masq    1      2          10        
  -> 192.168.224.12:80            Masq    2      2          10        
UDP  [2001:db8::59]:53 rr ops
FWM  1 sh (sh-port) persistent 300 mask 255.255.255.0
";
        assert_eq!(list(&listed, Listing::Connections), expected);
        let stats = list(&listed, Listing::Stats);
        assert!(stats.contains("TCP  192.168.2.59:80                     9       30       17     1632      956\n"), "{stats}");
        assert!(stats.contains("  -> 192.168.224.11:80                   3       12        6      648  123456K\n"), "{stats}");
        assert!(stats.lines().all(|line| line.len() <= 80));
    }
}
