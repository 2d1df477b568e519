//! The hosts of a site as rules about hosts look at them: who has to serve what, and from where it is asked for.

use crate::finding::{Confidence, Evidence, Finding, Severity};
use crate::host::{Ask, Fate, Fleet, Hook, Host, Link, Member, Observed, Passing, Service};
use crate::ipvs::{ForwardingMethod, Role};
use crate::net::{Endpoint, Protocol};
use std::net::IpAddr;

/// A real server's part in a service.
#[derive(Clone, Debug)]
pub(super) struct Duty {
    /// The real server.
    pub(super) member: usize,
    /// Its director, if there is a snapshot of it.
    pub(super) director: Option<usize>,
    /// How requests come.
    pub(super) method: ForwardingMethod,
    /// The virtual address; none for a firewall mark.
    pub(super) vip: Option<IpAddr>,
    /// Protocol and address at which it has to accept; none where any port may be asked for.
    pub(super) accepts: Option<(Protocol, Endpoint)>,
    /// The address by which the director knows it.
    pub(super) rip: Option<IpAddr>,
    /// Where requests come from, as it sees them; empty where nobody knows.
    pub(super) sources: Vec<Observed>,
    /// The service's name.
    pub(super) service: String,
    /// The director sends it no new connections (weight 0).
    pub(super) drained: bool,
}

/// The hosts, their duties, and what the user said of others.
pub(super) struct Site<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) duties: Vec<Duty>,
}

/// A client somewhere else: an address for documentation, which is in nobody's network.
pub(super) fn elsewhere(v6: bool) -> IpAddr {
    match v6 {
        false => IpAddr::from([198, 51, 100, 1]),
        true => IpAddr::from([0x3fff, 0xffff, 0, 0, 0, 0, 0, 1]),
    }
}

impl<'a> Site<'a> {
    /// The address and port by which the director's table names a real server.
    pub(super) fn named_port(&self, duty: &Duty) -> Option<crate::net::Endpoint> {
        let served = self.fleet.services.iter().filter(|s| s.director == duty.director && s.service.name() == duty.service);
        served.flat_map(|s| &s.service.destinations).map(|d| d.address).find(|at| Some(at.addr) == duty.rip)
    }

    pub(super) fn new(fleet: &'a Fleet) -> Self {
        let mut site = Site { fleet, duties: Vec::new() };
        for served in &fleet.services {
            let sources = fleet.sources(served);
            for destination in &served.service.destinations {
                let Some(method) = destination.forwarding() else { continue };
                let rip = destination.address.addr;
                let owners = fleet.owners(rip);
                let Some(member) = owners.into_iter().find(|at| Some(*at) != served.director) else { continue };
                let mut duty = Duty {
                    member,
                    director: served.director,
                    method,
                    vip: served.service.vip(),
                    accepts: accepts(&served.service, method, destination.address),
                    rip: Some(rip),
                    sources: sources.clone(),
                    service: served.service.name(),
                    drained: destination.weight == 0,
                };
                if let Some(director) = served.director {
                    duty.sources = site.as_translated(&fleet.members[director].host, &served.service, destination.address, &duty.sources);
                }
                site.duties.push(duty);
            }
        }
        site.infer();
        site
    }

    /// Real servers that no table names: an address beside the cards is a virtual one.
    fn infer(&mut self) {
        for (at, member) in self.fleet.members.iter().enumerate() {
            let assigned = self.duties.iter().any(|d| d.member == at);
            if member.role != Role::RealServer || member.same_as.is_some() || assigned {
                continue;
            }
            for address in member.host.aside() {
                let vip = address.addr.addr();
                let tunnel = member.host.link(&address.link).is_some_and(Link::is_tunnel);
                let named: Vec<&Service> = self.fleet.services.iter().map(|s| &s.service).filter(|s| s.vip() == Some(vip)).collect();
                let method = if tunnel { ForwardingMethod::Tunnel } else { ForwardingMethod::DirectRouting };
                let duty = |service: Option<&Service>| Duty {
                    member: at,
                    director: None,
                    method,
                    vip: Some(vip),
                    accepts: service.and_then(|s| accepts(s, method, s.address?)),
                    rip: member.host.main_address().filter(|a| a.is_ipv6() == vip.is_ipv6()),
                    sources: Vec::new(),
                    service: service.map_or_else(|| vip.to_string(), Service::name),
                    drained: false,
                };
                match named.is_empty() {
                    true => self.duties.push(duty(None)),
                    false => self.duties.extend(named.into_iter().map(|s| duty(Some(s)))),
                }
            }
            // The user says that it serves, and the virtual address is not there: translated to it, or missing.
            for service in self.fleet.services.iter().filter(|s| s.director.is_none()).map(|s| &s.service) {
                let rip = member.host.main_address().filter(|a| a.is_ipv6() == service.v6);
                if let (Some(vip), Some(rip)) = (service.vip(), rip)
                    && !member.host.aside().any(|a| a.addr.addr() == vip)
                {
                    let gateways = member.host.way(&Ask::to(elsewhere(service.v6))).map(|way| way.gateways()).unwrap_or_default();
                    let by_director = self.peers(Role::Director).any(|d| gateways.contains(&d));
                    // Direct routing is for neighbours; a virtual address of another network, behind a known director, is translated.
                    let near = member.host.addresses().iter().any(|a| a.is_global() && !a.addr.is_host() && a.addr.contains(vip));
                    let translated = by_director || (!near && self.peers(Role::Director).next().is_some());
                    let method = if translated { ForwardingMethod::Nat } else { ForwardingMethod::DirectRouting };
                    let port = service.address.map_or(0, |e| e.port);
                    self.duties.push(Duty {
                        member: at,
                        director: None,
                        method,
                        vip: Some(vip),
                        accepts: accepts(service, method, Endpoint::new(rip, port)),
                        rip: Some(rip),
                        sources: Vec::new(),
                        service: service.name(),
                        drained: false,
                    });
                }
            }
        }
    }

    /// Sources after the director's own translation, which it only does for packets that connection tracking knows.
    fn as_translated(&self, director: &Host, service: &Service, to: Endpoint, sources: &[Observed]) -> Vec<Observed> {
        let translated = |source: &Observed| {
            let rule =
                self.director_snat(director, service, to, source.addr).filter(|_| director.sysctl("net.ipv4.vs.conntrack") == Some(1))?;
            let addr = match rule.verdict {
                crate::host::FilterVerdict::Snat(Some(addr)) => addr,
                _ => director.way(&Ask::to(to.addr)).ok()?.source?,
            };
            Some(Observed { addr, by: format!("source translation of {}", director.name) })
        };
        let mut seen: Vec<Observed> = Vec::new();
        for source in sources {
            let source = translated(source).unwrap_or_else(|| source.clone());
            if !seen.iter().any(|s| s.addr == source.addr) {
                seen.push(source);
            }
        }
        seen
    }

    /// The rule by which a director would translate the source of what it hands on.
    pub(super) fn director_snat<'h>(
        &self,
        director: &'h Host,
        service: &Service,
        to: Endpoint,
        from: IpAddr,
    ) -> Option<&'h crate::host::FilterRule> {
        let way = director.way(&Ask::to(to.addr)).ok()?;
        let packet = Passing {
            src: Some(from),
            ports: (None, Some(to.port)),
            oif: way.link(),
            ipvs: true,
            ..Passing::to(to.addr, service.protocol.unwrap_or(Protocol::Tcp))
        };
        director.netfilter.as_ref()?.source_translation(&packet)
    }

    pub(super) fn host(&self, at: usize) -> &'a Host {
        &self.fleet.members[at].host
    }

    /// Duties by method.
    pub(super) fn duties(&self, methods: &'static [ForwardingMethod]) -> impl Iterator<Item = &Duty> {
        self.duties.iter().filter(move |d| methods.contains(&d.method))
    }

    /// Hosts that play a part, each machine once.
    pub(super) fn playing(&self, role: Role) -> impl Iterator<Item = (usize, &'a Host)> {
        let members = &self.fleet.members;
        members.iter().enumerate().filter(move |(_, m)| m.role == role && m.same_as.is_none()).map(|(at, m)| (at, &m.host))
    }

    /// Services with their director.
    pub(super) fn directed(&self) -> impl Iterator<Item = (&'a Host, &'a Service)> {
        let fleet = self.fleet;
        fleet.services.iter().filter_map(move |s| Some((&fleet.members[s.director?].host, &s.service)))
    }

    /// Addresses of the directors that a duty may be owed to: of its own, or of all known.
    pub(super) fn director_addresses(&self, duty: &Duty) -> Vec<IpAddr> {
        let members = self.fleet.members.iter().enumerate();
        let mine = members.filter(|(at, m)| {
            duty.director.map_or(m.role == Role::Director, |d| d == *at || (m.role == Role::Director && self.is_peer(d, *at)))
        });
        let global = |h: &'a Host| h.addresses().iter().filter(|a| a.is_global()).map(|a| a.addr.addr());
        let mut all: Vec<IpAddr> = mine.flat_map(|(_, m)| global(&m.host)).collect();
        all.extend(self.peers(Role::Director));
        all
    }

    /// Two directors that balance the same address.
    pub(super) fn is_peer(&self, a: usize, b: usize) -> bool {
        let vips = |at: usize| {
            self.fleet.services.iter().filter(move |s| s.director == Some(at)).filter_map(|s| s.service.vip()).collect::<Vec<_>>()
        };
        a != b && vips(a).iter().any(|vip| vips(b).contains(vip))
    }

    /// Addresses that the user named with a part.
    pub(super) fn peers(&self, role: Role) -> impl Iterator<Item = IpAddr> {
        self.fleet.peers.iter().filter(move |(r, _)| *r == role).map(|(_, a)| *a)
    }

    /// Whether anything is known of directors: without that, whose gateway is right cannot be judged.
    pub(super) fn knows_directors(&self) -> bool {
        self.fleet.members.iter().any(|m| m.role == Role::Director) || self.peers(Role::Director).next().is_some()
    }

    /// The director's address on the link of a real server: its gateway in NAT. The one that moves with the role, where there is one.
    pub(super) fn gateway_of(&self, duty: &Duty) -> String {
        let host = self.host(duty.member);
        let on_link = |addr: &IpAddr| host.addresses().iter().any(|a| a.is_global() && !a.addr.is_host() && a.addr.contains(*addr));
        let near: Vec<IpAddr> = self.director_addresses(duty).into_iter().filter(on_link).collect();
        let floating = |addr: &&IpAddr| {
            let vrrp = |m: &Member| m.host.saved.iter().flat_map(|s| &s.vrrp).any(|v| v.addresses.contains(addr));
            self.fleet.members.iter().any(vrrp)
        };
        near.iter().find(floating).or(near.first()).map_or_else(|| "DIP".to_string(), ToString::to_string)
    }

    /// The address of a router on the link of a real server, that which translates before others.
    pub(super) fn router_of(&self, duty: &Duty) -> String {
        let host = self.host(duty.member);
        let on_link = |addr: &IpAddr| host.addresses().iter().any(|a| a.is_global() && !a.addr.is_host() && a.addr.contains(*addr));
        let mut routers = self.translators(duty);
        routers.extend(self.playing(Role::Router).map(|(at, _)| at));
        let addresses = routers.iter().flat_map(|at| self.host(*at).addresses()).map(|a| a.addr.addr());
        let by_director = || {
            let director = self.host(duty.director?);
            director.way(&Ask::to(elsewhere(duty.rip?.is_ipv6()))).ok()?.gateways().into_iter().find(on_link)
        };
        let known = addresses.chain(self.peers(Role::Router)).find(on_link).or_else(by_director);
        known.map_or_else(|| "GATEWAY".to_string(), |a| a.to_string())
    }

    /// How the director names a real server: `192.168.224.11:80`.
    pub(super) fn destination_of(&self, duty: &Duty) -> String {
        let all = self.fleet.services.iter().filter(|s| s.service.name() == duty.service && s.director == duty.director);
        let mine = all.flat_map(|s| &s.service.destinations).find(|d| Some(d.address.addr) == duty.rip);
        mine.map_or_else(|| "RIP:PORT".to_string(), |d| d.address.to_string())
    }

    /// Counters that have counted something: further proof.
    pub(super) fn counted(&self, host: &Host, names: &[&str]) -> Vec<Evidence> {
        let value = |name: &&&str| host.counters.as_ref()?.get(**name).copied().filter(|n| *n > 0);
        names.iter().filter_map(|n| value(&n).map(|v| Evidence::host(&host.name, format!("{n} {v}"), format!("nstat -az {n}")))).collect()
    }

    /// Counters of connection tracking that have counted something: further proof.
    pub(super) fn tracked(&self, host: &Host, names: &[&str]) -> Vec<Evidence> {
        let value = |name: &&&str| host.conntrack.as_ref().map(|t| t.counter(name)).filter(|n| *n > 0);
        names.iter().filter_map(|n| value(&n).map(|v| Evidence::host(&host.name, format!("{n}={v}"), "conntrack -S"))).collect()
    }

    /// Says that the real servers of a director are not known, if that is so: the rule's need.
    pub(super) fn need_servers(&self, checks: &mut super::Checks, methods: &[ForwardingMethod]) {
        for (director, service) in self.directed() {
            for d in &service.destinations {
                let other = d.forwarding().is_some_and(|m| methods.contains(&m)) && !director.has(d.address.addr);
                if other && self.fleet.owners(d.address.addr).is_empty() {
                    checks.needs(&director.name, format!("a snapshot of the real server {}", d.address.addr));
                }
            }
        }
    }
}

fn accepts(service: &Service, method: ForwardingMethod, rip: Endpoint) -> Option<(Protocol, Endpoint)> {
    let protocol = service.protocol?;
    let asked = match method {
        ForwardingMethod::Nat => rip,
        ForwardingMethod::DirectRouting | ForwardingMethod::Tunnel => service.address?,
    };
    (asked.port != 0).then_some((protocol, asked))
}

impl Duty {
    /// The sources that answers go to: those known, or a client somewhere else.
    pub(super) fn answered(&self) -> Vec<(IpAddr, String)> {
        if !self.sources.is_empty() {
            return self.sources.iter().map(|s| (s.addr, s.by.clone())).collect();
        }
        let v6 = self.vip.or(self.rip).is_some_and(|a| a.is_ipv6());
        vec![(elsewhere(v6), "a client of another network".to_string())]
    }

    /// Nobody knows the clients.
    pub(super) fn is_guess(&self) -> bool {
        self.sources.is_empty()
    }

    /// The source address of answers.
    pub(super) fn speaks_as(&self) -> Option<IpAddr> {
        if self.method == ForwardingMethod::Nat { self.rip } else { self.vip.or(self.rip) }
    }

    /// Where an answer to `source` goes.
    pub(super) fn answer(&self, source: IpAddr) -> Ask {
        let ask = Ask { from: self.speaks_as(), ..Ask::to(source) };
        match self.accepts {
            Some((protocol, at)) => ask.of(protocol, at.port, 0),
            None => ask,
        }
    }

    /// The device at which requests arrive: that of the address by which the director knows the server.
    pub(super) fn arrives<'h>(&self, host: &'h Host) -> Option<&'h str> {
        let address = host.address(self.rip?)?;
        Some(address.link.as_str())
    }

    /// `dr`, `nat`, `tun` as people write them.
    pub(super) fn method_name(&self) -> &'static str {
        match self.method {
            ForwardingMethod::Nat => "LVS-NAT",
            ForwardingMethod::DirectRouting => "LVS-DR",
            ForwardingMethod::Tunnel => "LVS-TUN",
        }
    }
}

/// A finding that a host proves.
pub(super) fn proven(
    host: &Host,
    severity: Severity,
    summary: impl Into<String>,
    fact: impl Into<String>,
    source: impl Into<String>,
) -> Finding {
    Finding::new(&host.name, severity, Confidence::Certain, summary, Evidence::host(&host.name, fact, source))
}

/// What a packet for an address and port meets in a host's filters on its way to a local socket.
pub(super) fn input_fate<'h>(host: &'h Host, duty: &Duty, device: Option<&str>) -> Option<Fate<'h>> {
    let (protocol, at) = duty.accepts?;
    let filter = host.netfilter.as_ref()?;
    let src = duty.sources.first().map(|s| s.addr);
    let packet = Passing { src, ports: (None, Some(at.port)), iif: device, ..Passing::to(at.addr, protocol) };
    Some(match filter.fate(Hook::Prerouting, &packet) {
        Fate::Passes => filter.fate(Hook::Input, &packet),
        other => other,
    })
}

/// The rule that decided, in words.
pub(super) fn filter_words(fate: &Fate<'_>) -> Option<String> {
    match fate {
        Fate::Dropped(chain, Some(rule)) => Some(format!("{} {} {}: {}", chain.family, chain.table, chain.name, rule.text)),
        Fate::Dropped(chain, None) => Some(format!("{} {} {}: policy drop, and no rule accepts it", chain.family, chain.table, chain.name)),
        _ => None,
    }
}

impl Site<'_> {
    /// Some other host's next hop.
    pub(super) fn is_gateway(&self, at: usize) -> bool {
        let own = self.host(at);
        let others = self.fleet.members.iter().enumerate().filter(|(other, _)| *other != at);
        let gateways = others.flat_map(|(_, m)| m.host.routes.iter().flatten()).flat_map(|r| &r.hops).filter_map(|h| h.gateway);
        gateways.into_iter().any(|g| own.address(g).is_some())
    }
}

impl<'a> Site<'a> {
    /// The card of a router that shares a network with clients.
    pub(super) fn facing<'h>(&self, router: &'h Host, clients: &[&Host]) -> Option<&'h str> {
        let near = |a: &&crate::host::Address| {
            a.is_global()
                && !a.addr.is_host()
                && clients.iter().flat_map(|c| c.addresses()).any(|c| c.is_global() && a.addr.contains(c.addr.addr()))
        };
        router.addresses().iter().find(near).map(|a| a.link.as_str())
    }

    /// A router with a card near clients and another near an address.
    pub(super) fn is_between(&self, at: usize, addr: IpAddr, clients: &[&Host]) -> bool {
        let router = self.host(at);
        let reaches = router.addresses().iter().any(|a| a.is_global() && !a.addr.is_host() && a.addr.contains(addr));
        reaches && self.facing(router, clients).is_some()
    }
}
