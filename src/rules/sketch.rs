//! Hosts in a few strokes, in which rules about hosts are tested. What real hosts look like is in the recorded cases (`fixtures/`).

use super::{Check, Diagnosis, Facts, Rule, Verdict, diagnose};
use crate::finding::{Confidence, Finding, Severity};
use crate::host::{
    Address, Chain, Connection, FilterRule, FilterVerdict, Fleet, Hook, Host, IpvsTable, LOCAL, Link, MAIN, Netfilter, NextHop, Route,
    RouteKind, Service, Socket, Sysctls, Timeouts,
};
use crate::net::{Endpoint, Prefix, Protocol};
use crate::trace::{Hints, Options, Tracer, role_of_name};

/// A host that is being drawn; its role is that of its name.
#[derive(Clone)]
pub(super) struct Sketch(Host);

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

impl Sketch {
    /// A host with lo, and nothing that would be wrong.
    pub(super) fn new(name: &str) -> Self {
        let mut host = Host::new(name);
        host.kernel = Some("6.1.0".to_string());
        (host.links, host.addresses, host.routes) = (Some(vec![]), Some(vec![]), Some(vec![]));
        (host.rules, host.neighbours, host.sockets) = (Some(vec![]), Some(vec![]), Some(vec![]));
        (host.sysctls, host.netfilter) = (Some(Sysctls::default()), Some(Netfilter::default()));
        (host.proxies, host.managers) = (Some(vec![]), Some(vec!["keepalived".to_string()]));
        host.counters = Some(Default::default());
        let lo = Link { name: "lo".into(), index: 1, hardware: "loopback".into(), mtu: 65536, ..Link::default() };
        let sketch = Sketch(host).device(Link { flags: vec!["LOOPBACK".into(), "UP".into()], ..lo }).addr("lo", "127.0.0.1/8");
        sketch.set("net.ipv4.conf.all.arp_ignore", "0")
    }

    /// A device, with settings as a kernel begins with.
    pub(super) fn device(mut self, link: Link) -> Self {
        let begin =
            ["rp_filter", "accept_local", "forwarding", "arp_ignore", "arp_announce", "proxy_arp", "accept_redirects", "send_redirects"];
        for device in ["all", link.name.as_str()] {
            for key in begin {
                let settings = &mut self.0.sysctls.as_mut().expect("settings").0;
                settings.entry(Sysctls::name4(device, key)).or_insert_with(|| "0".into());
            }
        }
        self.0.links.as_mut().expect("links").push(link);
        self
    }

    /// A card with its address, on its network.
    pub(super) fn card(self, name: &str, addr: &str) -> Self {
        let index = self.0.links().len() as u32 + 1;
        let flags = vec!["BROADCAST".into(), "MULTICAST".into(), "UP".into(), "LOWER_UP".into()];
        let mac = self.0.name.bytes().fold(index as u8, u8::wrapping_add);
        let mac = Some(crate::net::MacAddr([2, 0, 0, index as u8, self.0.name.len() as u8, mac]));
        self.device(Link { name: name.into(), index, hardware: "ether".into(), mac, flags, mtu: 1500, ..Link::default() }).addr(name, addr)
    }

    /// An address of a device, with the routes that it brings.
    pub(super) fn addr(mut self, link: &str, addr: &str) -> Self {
        let addr = prefix(addr);
        let v6 = addr.addr().is_ipv6();
        self.0.addresses.as_mut().expect("addresses").push(Address {
            link: link.into(),
            addr,
            scope: if addr.addr().is_loopback() { "host" } else { "global" }.into(),
            flags: vec![],
            label: None,
        });
        let own = Prefix::new(addr.addr(), if v6 { 128 } else { 32 });
        let hops = |link: &str| vec![NextHop { link: Some(link.into()), gateway: None, dead: false }];
        let mut add = |table, dst, kind, hops| {
            let route = Route { table, dst, v6, kind, hops, protocol: "kernel".into(), ..Route::default() };
            self.0.routes.as_mut().expect("routes").push(route);
        };
        add(LOCAL, own, RouteKind::Local, hops(link));
        if !addr.is_host() && link != "lo" {
            add(MAIN, Some(addr), RouteKind::Unicast, hops(link));
        }
        self
    }

    /// A route; `default` is for everything.
    pub(super) fn via(mut self, dst: &str, gateway: &str, link: &str) -> Self {
        let gateway: std::net::IpAddr = gateway.parse().expect("a gateway");
        let hops = vec![NextHop { link: Some(link.into()), gateway: Some(gateway), dead: false }];
        let (dst, v6) = (dst.parse().ok(), gateway.is_ipv6());
        self.0.routes.as_mut().expect("routes").push(Route { table: MAIN, dst, v6, hops, protocol: "static".into(), ..Route::default() });
        self
    }

    pub(super) fn set(mut self, key: &str, value: &str) -> Self {
        self.0.sysctls.as_mut().expect("settings").0.insert(key.into(), value.into());
        self
    }

    /// Something listens at TCP `at`.
    pub(super) fn listens(mut self, at: &str) -> Self {
        let local = at.parse().expect("an address and port");
        self.0.sockets.as_mut().expect("sockets").push(Socket { protocol: Protocol::Tcp, local, v6only: None, device: None });
        self
    }

    /// An IPVS table, in the words of `ipvsadm -Sn`, with nothing in its table of connections.
    pub(super) fn ipvs(mut self, rules: &str) -> Self {
        let services = crate::ipvs::parse(rules).expect("rules").iter().map(Service::from).collect();
        let timeouts = Some(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
        self.0.ipvs = Some(IpvsTable { services, timeouts, connections: Some(vec![]), connection_count: Some(0), ..IpvsTable::default() });
        self
    }

    /// Connections: `tcp CLIENT SERVICE SERVER STATE EXPIRES`.
    pub(super) fn connections(mut self, lines: &[&str]) -> Self {
        let end = |text: &str| text.parse::<Endpoint>().expect("an endpoint");
        let table = self.0.ipvs.as_mut().expect("a table");
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            table.connections.get_or_insert_default().push(Connection {
                protocol: words[0].parse().expect("a protocol"),
                client: end(words[1]),
                service: end(words[2]),
                destination: end(words[3]),
                state: words[4].to_string(),
                expires: words[5].parse().expect("seconds"),
            });
        }
        self
    }

    /// A rule at the end of a chain of filters.
    pub(super) fn rule(mut self, hook: Hook, rule: FilterRule) -> Self {
        let filter = self.0.netfilter.as_mut().expect("filters");
        let at = filter.chains.iter().position(|c| c.hook == Some(hook)).unwrap_or_else(|| {
            let name = format!("{hook:?}").to_uppercase();
            let (family, table, kind) = ("ip".to_string(), "filter".to_string(), "filter".to_string());
            filter.chains.push(Chain { family, table, name, hook: Some(hook), priority: 0, kind, drops: false, rules: vec![] });
            filter.chains.len() - 1
        });
        filter.chains[at].rules.push(rule);
        self
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.0.name == name
    }

    /// What else there is to change.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Host)) -> Self {
        change(&mut self.0);
        self
    }
}

/// A rule that drops what connection tracking calls so.
pub(super) fn drops_state(state: &str) -> FilterRule {
    let text = format!("ct state {} drop", state.to_lowercase());
    FilterRule { text, states: Some((vec![state.into()], false)), verdict: FilterVerdict::Drop, ..FilterRule::default() }
}

/// Their snapshots together.
pub(super) fn fleet(hosts: &[Sketch]) -> Fleet {
    Fleet::new(hosts.iter().map(|s| s.0.clone()).collect(), role_of_name, |_| None, &[])
}

/// What all rules say of hosts.
pub(super) fn audit(hosts: &[Sketch]) -> Diagnosis {
    let trace = Tracer::new(Options::default()).finish();
    let fleet = fleet(hosts);
    diagnose(&Facts { trace: &trace, hints: &Hints::default(), fleet: &fleet })
}

/// The one finding of a rule, with its severity, confidence and subject.
pub(super) fn expect(hosts: &[Sketch], rule: &Rule, severity: Severity, confidence: Confidence, subject: &str) -> Finding {
    let diagnosis = audit(hosts);
    let found: Vec<&Finding> = diagnosis.findings.iter().filter(|f| f.code == rule.code).collect();
    let [found] = found[..] else { panic!("{}: {:#?}\nchecks: {:#?}", rule.code, diagnosis.findings, diagnosis.checks) };
    assert_eq!((found.severity, found.confidence, found.subject.as_str()), (severity, confidence, subject), "{}", found.summary);
    assert!(!found.remedy.is_empty(), "{}: no remedy", rule.code);
    found.clone()
}

/// What one rule finds.
pub(super) fn all(hosts: &[Sketch], rule: &Rule) -> Vec<Finding> {
    audit(hosts).findings.into_iter().filter(|f| f.code == rule.code).collect()
}

/// Nothing is found by a rule, and it says that all is well on a host.
pub(super) fn passes(hosts: &[Sketch], rule: &Rule, host: &str) {
    let check = deny(hosts, rule, host);
    assert!(check.iter().any(|c| matches!(c.verdict, Verdict::Passed(_))), "{}: {check:#?}", rule.code);
}

/// A rule finds nothing, and says that it cannot judge a host.
pub(super) fn cannot_judge(hosts: &[Sketch], rule: &Rule, host: &str) {
    let check = deny(hosts, rule, host);
    assert!(check.iter().any(|c| matches!(c.verdict, Verdict::NotJudged(_))), "{}: {check:#?}", rule.code);
}

fn deny(hosts: &[Sketch], rule: &Rule, host: &str) -> Vec<Check> {
    let diagnosis = audit(hosts);
    let found: Vec<&Finding> = diagnosis.findings.iter().filter(|f| f.code == rule.code).collect();
    assert!(found.is_empty(), "{found:#?}");
    diagnosis.checks.into_iter().filter(|c| c.code == rule.code && c.host == host).collect()
}

/// A healthy site of direct routing: a router, a director, two real servers, a client elsewhere.
pub(super) fn dr() -> [Sketch; 5] {
    let web = |name: &str, addr: &str| {
        let quiet = Sketch::new(name).set("net.ipv4.conf.all.arp_ignore", "1").set("net.ipv4.conf.all.arp_announce", "2");
        quiet.card("eth0", addr).addr("lo", "10.0.0.100/32").via("default", "10.0.0.1", "eth0").listens("0.0.0.0:80")
    };
    let router = Sketch::new("router").card("ext", "10.9.0.1/24").card("int", "10.0.0.1/24").via("default", "10.9.0.254", "ext");
    let forwards = |s: Sketch| s.set("net.ipv4.conf.ext.forwarding", "1").set("net.ipv4.conf.int.forwarding", "1");
    let director = Sketch::new("director").card("eth0", "10.0.0.10/24").addr("eth0", "10.0.0.100/32").via("default", "10.0.0.1", "eth0");
    let table = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g\n-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g\n";
    [
        forwards(router),
        director.ipvs(table),
        web("web1", "10.0.0.11/24"),
        web("web2", "10.0.0.12/24"),
        Sketch::new("client").card("eth0", "10.9.0.7/24").via("default", "10.9.0.1", "eth0"),
    ]
}

/// The same with one host changed.
pub(super) fn dr_with(name: &str, change: impl FnOnce(Sketch) -> Sketch) -> [Sketch; 5] {
    let mut site = dr();
    let at = site.iter().position(|s| s.0.name == name).expect("a host of that name");
    site[at] = change(site[at].clone());
    site
}

#[test]
fn the_healthy_site_is_quiet() {
    let diagnosis = audit(&dr());
    let loud: Vec<&Finding> = diagnosis.findings.iter().filter(|f| f.severity > Severity::Note).collect();
    assert!(loud.is_empty(), "{loud:#?}");
}
