//! Several machines together: who plays which part, which services there are, and who clients are.

use super::{FilterVerdict, Hook, Host, Service};
use crate::ipvs::Role;
use crate::net::{Endpoint, MacAddr, Protocol};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A machine and its part.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// What it looked like.
    pub host: Host,
    /// Its part.
    pub role: Role,
    /// Another member that is the same machine at another moment: same MACs, same addresses.
    pub same_as: Option<usize>,
}

/// A virtual service that a member balances.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// The member that is its director; none when the user said that there is such a service.
    pub director: Option<usize>,
    /// The service.
    pub service: Service,
}

/// Where requests to a service come from, as its real servers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The source address.
    pub addr: IpAddr,
    /// How that is known: `connection table of director`.
    pub by: String,
}

/// Machines, and what is known of them together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// The machines, in the order given.
    pub members: Vec<Member>,
    /// Their services.
    pub services: Vec<Served>,
    /// Addresses of machines of which there is no snapshot, with their part.
    pub peers: Vec<(Role, IpAddr)>,
}

impl Fleet {
    /// Puts machines together. `named` tells what a name suggests; `given` is what the user says of a host; `services` are those that the
    /// user named.
    pub fn new(hosts: Vec<Host>, named: impl Fn(&str) -> Role, given: impl Fn(&str) -> Option<Role>, services: &[Endpoint]) -> Self {
        let mut fleet = Fleet::default();
        for host in hosts {
            let macs = macs(&host);
            let twin = |m: &Member| !macs.is_empty() && self::macs(&m.host) == macs && addresses(&m.host) == addresses(&host);
            let same_as = fleet.members.iter().position(twin);
            fleet.members.push(Member { host, role: Role::Unknown, same_as });
        }
        for at in 0..fleet.members.len() {
            let member = &fleet.members[at];
            if member.same_as.is_some() {
                continue;
            }
            let saved = || member.host.saved.as_ref().and_then(|s| s.services.clone()).filter(|_| member.host.ipvs.is_none());
            let live = member.host.ipvs.as_ref().map(|table| table.services.clone());
            for service in live.or_else(saved).into_iter().flatten() {
                fleet.services.push(Served { director: Some(at), service });
            }
        }
        for endpoint in services {
            if !fleet.services.iter().any(|s| s.service.address == Some(*endpoint)) {
                let service =
                    Service { protocol: Some(Protocol::Tcp), address: Some(*endpoint), v6: endpoint.addr.is_ipv6(), ..Service::default() };
                fleet.services.push(Served { director: None, service });
            }
        }
        let roles: Vec<Role> = (0..fleet.members.len()).map(|at| fleet.role_of(at, &named, given(&fleet.members[at].host.name))).collect();
        for (member, role) in fleet.members.iter_mut().zip(roles) {
            member.role = role;
        }
        fleet
    }

    fn role_of(&self, at: usize, named: &impl Fn(&str) -> Role, given: Option<Role>) -> Role {
        let host = &self.members[at].host;
        if let Some(role) = given {
            return role;
        }
        if self.services.iter().any(|s| s.director == Some(at)) || host.saved.as_ref().is_some_and(|s| s.services.is_some()) {
            return Role::Director;
        }
        let rips = self.services.iter().flat_map(|s| &s.service.destinations).map(|d| d.address.addr);
        if rips.into_iter().any(|rip| host.address(rip).is_some()) {
            return Role::RealServer;
        }
        // An address that others hold on lo, on a card here.
        let aside = |h: &Host| h.aside().map(|a| a.addr.addr()).collect::<Vec<_>>();
        let held: Vec<IpAddr> = self.members.iter().flat_map(|m| aside(&m.host)).collect();
        let on_card = |a: &super::Address| host.link(&a.link).is_some_and(super::Link::speaks_arp);
        if host.ipvs.is_some() && host.addresses().iter().any(|a| held.contains(&a.addr.addr()) && on_card(a)) {
            return Role::Director;
        }
        let vips: Vec<IpAddr> = self.vips();
        if host.aside().any(|a| vips.is_empty() || vips.contains(&a.addr.addr())) {
            return Role::RealServer;
        }
        let suggested = named(&host.name);
        if suggested != Role::Unknown {
            return suggested;
        }
        // That the module is loaded makes no director: container engines load it, too.
        let translates = host.netfilter.as_ref().is_some_and(|n| {
            [false, true].iter().any(|v6| n.translating(*v6, Hook::Prerouting).iter().any(|r| matches!(r.verdict, FilterVerdict::Dnat(..))))
        });
        let forwards = |l: &&super::Link| host.effective("forwarding", &l.name) == Some(1) && l.speaks_arp();
        if translates || host.links().iter().filter(forwards).count() > 1 {
            return Role::Router;
        }
        Role::Unknown
    }

    /// The member of a name.
    pub fn by_name(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|m| m.host.name == name)
    }

    /// The member whose card has one of these MACs.
    pub fn by_mac(&self, wanted: &[MacAddr]) -> Option<usize> {
        self.members.iter().position(|m| macs(&m.host).iter().any(|mac| wanted.contains(mac)))
    }

    /// Members that have an address on a card: the machines that answer at it.
    pub fn owners(&self, addr: IpAddr) -> Vec<usize> {
        let owns = |m: &Member| {
            let on_card = |a: &super::Address| a.addr.addr() == addr && m.host.link(&a.link).is_none_or(super::Link::speaks_arp);
            m.same_as.is_none() && m.host.addresses().iter().any(on_card)
        };
        (0..self.members.len()).filter(|at| owns(&self.members[*at])).collect()
    }

    /// All virtual addresses.
    pub fn vips(&self) -> Vec<IpAddr> {
        let mut vips: Vec<IpAddr> = self.services.iter().filter_map(|s| s.service.vip()).collect();
        vips.sort_unstable();
        vips.dedup();
        vips
    }

    /// Sources of requests to a service as its real servers see them, each once: from the director's connection table, with the director's
    /// own translation applied; else what routers translate to; else the addresses of clients in the fleet.
    pub fn sources(&self, served: &Served) -> Vec<Observed> {
        let mut found: Vec<Observed> = Vec::new();
        let mut add = |addr: IpAddr, by: String| {
            if !found.iter().any(|o| o.addr == addr) && found.len() < SOURCES {
                found.push(Observed { addr, by });
            }
        };
        let v6 = served.service.v6;
        if let Some(director) = served.director.map(|at| &self.members[at].host) {
            let of_service =
                |c: &&super::Connection| served.service.address.is_none_or(|e| c.service == e || (e.port == 0 && c.service.addr == e.addr));
            for connection in director.ipvs.iter().filter_map(|t| t.connections.as_ref()).flatten().filter(of_service) {
                add(connection.client.addr, format!("connection table of {}", director.name));
            }
        }
        // What a router has translated to the service, as whom.
        let routers = self.members.iter().filter(|m| m.role == Role::Router && m.same_as.is_none());
        for (router, tracked) in routers.flat_map(|m| m.host.conntrack.iter().flat_map(|t| &t.connections).map(|c| (&m.host, c))) {
            let asked = served
                .service
                .address
                .is_some_and(|e| e.addr == tracked.answers_from.addr && [0, tracked.answers_from.port].contains(&e.port));
            if asked && tracked.is_translated() && served.service.protocol.is_none_or(|p| p == tracked.protocol) {
                add(tracked.answers_to.addr, format!("connection tracking of {}", router.name));
            }
        }
        let snat = |m: &Member| {
            let rules = m.host.netfilter.as_ref().map(|n| n.translating(v6, Hook::Postrouting)).unwrap_or_default();
            let fits = |r: &&super::FilterRule| {
                let dst = r.dst.is_none_or(|(p, not)| served.service.vip().is_none_or(|vip| p.contains(vip) != not));
                let port = |ports: &(super::Ports, bool)| {
                    served.service.address.is_none_or(|e| ports.0.iter().any(|(low, high)| (*low..=*high).contains(&e.port)) != ports.1)
                };
                dst && r.dport.as_ref().is_none_or(port)
            };
            rules.into_iter().filter(fits).find_map(|r| match r.verdict {
                FilterVerdict::Snat(Some(to)) => Some((Some(to), "SNAT")),
                FilterVerdict::Masquerade => Some((self.towards(&m.host, served), "MASQUERADE")),
                _ => None,
            })
        };
        let mut hidden = false;
        if found.is_empty() {
            for member in self.members.iter().filter(|m| m.role == Role::Router) {
                let Some((to, how)) = snat(member) else { continue };
                hidden = true;
                found.extend(to.map(|addr| Observed { addr, by: format!("{how} rule of {}", member.host.name) }));
            }
        }
        // Behind a router that hides them their own addresses mean nothing.
        if found.is_empty() && !hidden {
            for member in self.members.iter().filter(|m| m.role == Role::Client) {
                let own = member.host.addresses().iter().find(|a| a.is_global() && a.addr.addr().is_ipv6() == v6);
                found.extend(own.map(|a| Observed { addr: a.addr.addr(), by: format!("address of {}", member.host.name) }));
            }
        }
        found
    }

    /// The address that a machine has in the network of a service's VIP, its director or its real servers.
    fn towards(&self, host: &Host, served: &Served) -> Option<IpAddr> {
        let director = served.director.map(|at| &self.members[at].host);
        let of_director = director.into_iter().flat_map(|d| d.addresses().iter().filter(|a| a.is_global()).map(|a| a.addr.addr()));
        let behind: Vec<IpAddr> = served.service.vip().into_iter().chain(of_director).collect();
        let own = |a: &&super::Address| a.is_global() && !a.addr.is_host() && behind.iter().any(|addr| a.addr.contains(*addr));
        host.addresses().iter().find(own).map(|a| a.addr.addr())
    }
}

/// Sources looked at for each service: enough for one of each network.
const SOURCES: usize = 256;

fn macs(host: &Host) -> BTreeSet<MacAddr> {
    host.links().iter().filter_map(|l| l.mac).filter(|mac| mac.is_unicast()).collect()
}

fn addresses(host: &Host) -> BTreeSet<IpAddr> {
    host.addresses().iter().filter(|a| a.is_global()).map(|a| a.addr.addr()).collect()
}

impl Host {
    /// Addresses beside the cards, as real servers hold a VIP: on lo, on a dummy or a tunnel device.
    pub fn aside(&self) -> impl Iterator<Item = &super::Address> {
        self.addresses().iter().filter(|a| a.is_global() && self.link(&a.link).is_some_and(|l| !l.speaks_arp()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Address, Chain, FilterRule, IpvsTable, Link, Netfilter};
    use super::*;

    /// A host with a card and its MAC's last byte; the addresses each with their device.
    fn host(name: &str, mac: u8, addresses: &[(&str, &str)]) -> Host {
        let link = |name: &str, hardware: &str, mac: Option<u8>| Link {
            name: name.into(),
            hardware: hardware.into(),
            mac: mac.map(|last| MacAddr([2, 0, 0, 0, 0, last])),
            flags: vec!["UP".into(), if hardware == "loopback" { "LOOPBACK" } else { "BROADCAST" }.into()],
            mtu: 1500,
            ..Link::default()
        };
        let address = |(link, addr): &(&str, &str)| Address {
            link: (*link).into(),
            addr: addr.parse().unwrap(),
            scope: "global".into(),
            flags: vec![],
            label: None,
        };
        let mut host = Host::new(name);
        host.links = Some(vec![link("lo", "loopback", None), link("eth0", "ether", Some(mac))]);
        host.addresses = Some(addresses.iter().map(address).collect());
        host
    }

    fn balancing(mut host: Host, vip: &str) -> Host {
        let service = Service { protocol: Some(Protocol::Tcp), address: Some(vip.parse().unwrap()), ..Service::default() };
        host.ipvs = Some(IpvsTable { services: vec![service], ..IpvsTable::default() });
        host
    }

    fn translating(mut host: Host, verdict: FilterVerdict) -> Host {
        let rules = vec![FilterRule { verdict, ..FilterRule::default() }];
        let chain = Chain {
            family: "ip".into(),
            table: "nat".into(),
            name: "POSTROUTING".into(),
            hook: Some(Hook::Postrouting),
            priority: 100,
            kind: "nat".into(),
            drops: false,
            rules,
        };
        host.netfilter = Some(Netfilter { chains: vec![chain], unread: vec![] });
        host
    }

    fn fleet(hosts: Vec<Host>) -> Fleet {
        let named = |name: &str| match name {
            "client" => Role::Client,
            "router" => Role::Router,
            _ => Role::Unknown,
        };
        Fleet::new(hosts, named, |_| None, &[])
    }

    /// Two snapshots of one machine are one owner of its addresses, and one director.
    #[test]
    fn the_same_machine_twice() {
        let director = || balancing(host("director", 1, &[("eth0", "10.0.0.10/24"), ("eth0", "10.0.0.100/32")]), "10.0.0.100:80");
        let both = fleet(vec![director(), Host { name: "director-later".into(), ..director() }]);
        assert_eq!(both.members[1].same_as, Some(0));
        assert_eq!((both.owners("10.0.0.100".parse().unwrap()), both.services.len()), (vec![0], 1));
        let other = fleet(vec![director(), host("backup", 2, &[("eth0", "10.0.0.100/32")])]);
        assert_eq!(other.owners("10.0.0.100".parse().unwrap()), [0, 1]);
    }

    /// An address beside the cards makes a real server: whatever it is as long as no service is known, else that of a service.
    #[test]
    fn who_holds_a_virtual_address() {
        let server = || host("x", 3, &[("eth0", "10.0.0.11/24"), ("lo", "10.0.0.100/32")]);
        let role = |vip: Option<&str>| {
            let mut hosts = vec![server()];
            hosts.extend(vip.map(|vip| balancing(host("director", 1, &[("eth0", "10.0.0.10/24")]), vip)));
            fleet(hosts).members[0].role
        };
        assert_eq!(role(None), Role::RealServer);
        assert_eq!(role(Some("10.0.0.100:80")), Role::RealServer);
        assert_eq!(role(Some("10.9.9.9:80")), Role::Unknown);
        assert_eq!(fleet(vec![host("x", 3, &[("eth0", "10.0.0.11/24")])]).members[0].role, Role::Unknown);
    }

    /// Where requests seem to come from: the client, unless a router hides it; and then behind what, as far as that is known.
    #[test]
    fn whom_real_servers_see() {
        let seen = |router: Option<Host>| {
            let mut hosts = vec![
                balancing(host("director", 1, &[("eth0", "10.0.0.10/24"), ("eth0", "10.0.0.100/32")]), "10.0.0.100:80"),
                host("client", 4, &[("eth0", "192.0.2.7/24")]),
            ];
            hosts.extend(router);
            let fleet = fleet(hosts);
            fleet.sources(&fleet.services[0]).into_iter().map(|o| format!("{} {}", o.addr, o.by)).collect::<Vec<_>>()
        };
        let router = |inner: &str| host("router", 5, &[("eth0", inner)]);
        assert_eq!(seen(None), ["192.0.2.7 address of client"]);
        assert_eq!(seen(Some(router("10.0.0.1/24"))), ["192.0.2.7 address of client"]);
        let snat = translating(router("10.0.0.1/24"), FilterVerdict::Snat(Some("10.0.0.2".parse().unwrap())));
        assert_eq!(seen(Some(snat)), ["10.0.0.2 SNAT rule of router"]);
        assert_eq!(seen(Some(translating(router("10.0.0.1/24"), FilterVerdict::Masquerade))), ["10.0.0.1 MASQUERADE rule of router"]);
        // It hides them behind an address that nobody knows: then nothing is claimed.
        assert_eq!(seen(Some(translating(router("172.16.0.1/24"), FilterVerdict::Masquerade))), [""; 0]);
    }
}
