//! The filter that lets through what belongs to a service, on whichever host of its path.

use crate::ipvs::{Match, VirtualService};
use crate::net::{Endpoint, Protocol};
use std::net::IpAddr;

/// What a virtual service and its real servers send and receive: both sides of the rewrite, the address resolution of all of them, tunnels,
/// fragments, and errors of routers on the way. Without rules the real servers are unknown: then everything with the service's port.
pub(super) fn filter(service: Endpoint, rules: &[VirtualService]) -> String {
    let mut protocols: Vec<Protocol> = Vec::new();
    let mut servers: Vec<Endpoint> = Vec::new();
    for rule in rules.iter().filter(|rule| is_for(rule, service)) {
        match rule.matches {
            Match::Endpoint(protocol, _) if !protocols.contains(&protocol) => protocols.push(protocol),
            _ => {}
        }
        for server in rule.real_servers.iter().map(|server| server.endpoint()) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    let protocol = match protocols[..] {
        [Protocol::Tcp] => "tcp ",
        [Protocol::Udp] => "udp ",
        [Protocol::Sctp] => "sctp ",
        _ => "",
    };
    let port = |port: u16| if port == 0 { String::new() } else { format!(" and {protocol}port {port}") };
    let mut hosts = vec![service.addr];
    let mut parts: Vec<String> = Vec::new();
    if servers.is_empty() {
        // On a real server behind NAT the virtual address is in no packet.
        parts.push(if service.port == 0 { format!("host {}", service.addr) } else { format!("{protocol}port {}", service.port) });
    } else {
        let mut ends = vec![service];
        ends.extend(&servers);
        // Ends with the same port share their term.
        let mut ports: Vec<u16> = ends.iter().map(|end| end.port).collect();
        ports.sort_unstable();
        ports.dedup();
        for number in ports {
            let of_port: Vec<IpAddr> = ends.iter().filter(|end| end.port == number).map(|end| end.addr).collect();
            parts.push(format!("({}){}", any("host", &of_port), port(number)));
        }
        servers.iter().for_each(|server| {
            if !hosts.contains(&server.addr) {
                hosts.push(server.addr)
            }
        });
    }
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = hosts.iter().partition(|addr| addr.is_ipv4());
    if servers.is_empty() {
        parts.push(if service.addr.is_ipv4() { "arp" } else { ND }.to_string());
    } else {
        if !v4.is_empty() {
            parts.push(format!("arp and ({})", any("host", &v4)));
        }
        if !v6.is_empty() {
            // Solicitations go to a multicast address, which names only the end of what is asked for.
            parts.push(ND.to_string());
        }
    }
    if !v4.is_empty() {
        parts.push("icmp and icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply".to_string());
        parts.push(format!("ip[6:2] & 0x1fff != 0 and ({})", any("host", &v4)));
    }
    if !v6.is_empty() {
        parts.push("icmp6 and ip6[40] < 128".to_string());
    }
    // Tunnels: the service is inside, where a filter does not look.
    parts.push("ip proto 4 or ip proto 41 or ip proto 47 or ip6 proto 4 or ip6 proto 41 or ip6 proto 47".to_string());
    let gue: Vec<u16> = tunnel_ports(service, rules);
    parts.extend(gue.iter().map(|port| format!("udp port {port}")));
    // Directors that take over.
    parts.push("ip proto 112".to_string());
    parts.iter().map(|part| format!("({part})")).collect::<Vec<_>>().join(" or ")
}

/// Neighbour solicitations and advertisements.
const ND: &str = "icmp6 and (ip6[40] = 135 or ip6[40] = 136)";

/// The real servers of a service, and the protocol-blind question whether a rule is about it. One by mark may be.
pub(super) fn is_for(rule: &VirtualService, service: Endpoint) -> bool {
    match rule.matches {
        Match::Endpoint(_, end) => end.addr == service.addr && (end.port == service.port || end.port == 0 || service.port == 0),
        Match::Mark(_, v6) => v6 == service.addr.is_ipv6(),
    }
}

fn tunnel_ports(service: Endpoint, rules: &[VirtualService]) -> Vec<u16> {
    let servers = rules.iter().filter(|rule| is_for(rule, service)).flat_map(|rule| &rule.real_servers);
    let mut ports: Vec<u16> = servers.map(|server| server.tunnel.port).filter(|port| *port != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn any(word: &str, addresses: &[IpAddr]) -> String {
    let mut seen: Vec<String> = Vec::new();
    for addr in addresses {
        let term = format!("{word} {addr}");
        if !seen.contains(&term) {
            seen.push(term);
        }
    }
    seen.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::parse;

    #[cfg(feature = "live")]
    mod compiled {
        use super::*;
        use crate::capture::Filter;
        use crate::net::MacAddr;
        use crate::packet::build::{IpFields, TcpFields, arp, ethernet, icmp, ip, tcp};
        use crate::packet::{Frame, LinkType};

        const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
        const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

        fn passes(filter: &mut Filter, bytes: &[u8]) -> bool {
            filter.passes(&Frame::whole(LinkType::ETHERNET, bytes))
        }

        fn segment(src: &str, dst: &str) -> Vec<u8> {
            let (src, dst): (Endpoint, Endpoint) = (src.parse().unwrap(), dst.parse().unwrap());
            ethernet(A, B, &[], &ip(src.addr, dst.addr, 6, IpFields::default(), &tcp(src, dst, &TcpFields::default(), &[])))
        }

        #[test]
        fn both_sides_and_what_belongs_to_them() {
            let rules = parse(
                "-A -t 192.168.2.59:80 -s rr\n-a -t 192.168.2.59:80 -r 10.0.0.11:8080 -m\n-a -t 192.168.2.59:80 -r 10.0.0.12:80 -m\n",
            )
            .unwrap();
            let mut filter = Filter::new(&super::filter("192.168.2.59:80".parse().unwrap(), &rules)).unwrap();
            for (src, dst, wanted) in [
                ("192.168.2.100:40000", "192.168.2.59:80", true),
                ("192.168.2.100:40000", "10.0.0.11:8080", true),
                ("10.0.0.12:80", "192.168.2.100:40000", true),
                ("192.168.2.100:40000", "10.0.0.11:80", false),
                ("192.168.2.100:40000", "192.168.2.59:22", false),
                ("192.168.2.100:40000", "192.168.2.60:80", false),
            ] {
                assert_eq!(passes(&mut filter, &segment(src, dst)), wanted, "{src} > {dst}");
            }
            let ask = |of: &str| arp(MacAddr::BROADCAST, 1, (A, "10.0.0.10".parse().unwrap()), (MacAddr::ZERO, of.parse().unwrap()), &[]);
            assert!(passes(&mut filter, &ask("192.168.2.59")) && passes(&mut filter, &ask("10.0.0.11")));
            assert!(!passes(&mut filter, &ask("10.0.0.99")));
            let (router, client): (IpAddr, IpAddr) = ("10.9.9.9".parse().unwrap(), "10.8.8.8".parse().unwrap());
            let icmp = |kind| ethernet(A, B, &[], &ip(router, client, 1, IpFields::default(), &icmp(router, client, kind, 0, 0, &[0; 28])));
            assert!(passes(&mut filter, &icmp(3)) && passes(&mut filter, &icmp(11)) && !passes(&mut filter, &icmp(8)));
            let tunnel = |protocol| ethernet(A, B, &[], &ip(router, client, protocol, IpFields::default(), &[0x45; 40]));
            assert!(passes(&mut filter, &tunnel(4)) && passes(&mut filter, &tunnel(112)) && !passes(&mut filter, &tunnel(89)));
        }

        #[test]
        fn each_kind_of_service_makes_a_filter() {
            for (service, rules) in [
                ("192.168.2.59:80", ""),
                ("[2001:db8::59]:80", ""),
                ("[2001:db8::59]:443", "-A -t [2001:db8::59]:443 -s rr\n-a -t [2001:db8::59]:443 -r [2001:db8:1::11]:443 -g\n"),
                ("10.0.0.1:0", "-A -t 10.0.0.1:0 -s rr -p 300\n-a -t 10.0.0.1:0 -r 10.0.0.2:0 -g\n"),
                (
                    "10.0.0.1:53",
                    "-A -u 10.0.0.1:53 -s rr\n-a -u 10.0.0.1:53 -r 10.0.0.2:53 -i --tun-type gue --tun-port 6080\n-A -t 10.0.0.1:53 -s rr\n",
                ),
                ("10.0.0.1:80", "-A -f 7 -s rr\n-a -f 7 -r 10.0.0.2:0 -g\n"),
            ] {
                let text = super::filter(service.parse().unwrap(), &parse(rules).unwrap());
                Filter::new(&text).unwrap_or_else(|e| panic!("{service}: {e}"));
            }
        }
    }

    #[test]
    fn other_services_are_not_meant() {
        let rules = parse(
            "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -g\n-A -t 10.0.0.9:80 -s rr\n-a -t 10.0.0.9:80 -r 10.0.0.8:80 -g\n",
        )
        .unwrap();
        let text = filter("10.0.0.1:80".parse().unwrap(), &rules);
        assert!(text.contains("host 10.0.0.2") && !text.contains("10.0.0.8") && !text.contains("10.0.0.9"), "{text}");
    }
}
