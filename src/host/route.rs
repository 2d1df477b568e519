//! Routes, and the answer to "which way would a packet go?" without asking a kernel.
//!
//! As in Linux: the policy rules are asked in order, each names a table, in a table the longest prefix wins, then the lowest metric. As long
//! as nobody has added a rule of his own, the tables `local` and `main` of IPv4 are one (`fib_has_custom_rules`): the longest prefix of both
//! wins, and of equal ones the local. That is why a host route beats a whole network that is local on `lo`.

use super::Host;
use crate::net::{Prefix, Protocol};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The number of table `main`.
pub const MAIN: u32 = 254;
/// The number of table `local`.
pub const LOCAL: u32 = 255;
/// The number of table `default`.
const DEFAULT: u32 = 253;

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// On to a next hop.
    #[default]
    Unicast,
    /// Here.
    Local,
    /// To all on a link.
    Broadcast,
    /// Here, as one of several.
    Anycast,
    /// To a group.
    Multicast,
    /// Away without a word.
    Blackhole,
    /// Away, with ICMP host unreachable.
    Unreachable,
    /// Away, with ICMP prohibited.
    Prohibit,
    /// On to the next policy rule.
    Throw,
}

/// A way that a route offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Out of this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// To this gateway; none: the destination itself is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Cannot be used now: its device or cable is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dead: bool,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its table; 254 is `main`, 255 `local`.
    pub table: u32,
    /// What it is for; none is everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<Prefix>,
    /// For IPv6; a default route has no destination to tell by.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub v6: bool,
    /// What it does.
    #[serde(default)]
    pub kind: RouteKind,
    /// Its ways; several share the traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hops: Vec<NextHop>,
    /// The source address that it suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The lower, the better.
    #[serde(default)]
    pub metric: u32,
    /// Who made it, in the words of ip(8): `kernel`, `boot`, `static`, `dhcp`, `ra`.
    #[serde(default)]
    pub protocol: String,
    /// The type of service that it is for.
    #[serde(default)]
    pub tos: u8,
    /// `global`, `link`, `host`.
    #[serde(default)]
    pub scope: String,
    /// The largest packet that is sent this way, where the route says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The largest segment that is asked for this way (`advmss`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
}

impl Route {
    /// The number of leading bits that count.
    pub fn length(&self) -> u8 {
        self.dst.map_or(0, |dst| dst.len())
    }

    /// For everything.
    pub fn is_default(&self) -> bool {
        self.length() == 0
    }

    fn is_for(&self, addr: IpAddr) -> bool {
        self.v6 == addr.is_ipv6() && self.dst.is_none_or(|dst| dst.contains(addr))
    }
}

/// What a policy rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Asks a table.
    #[default]
    Lookup,
    /// Goes on with a later rule.
    Goto,
    /// Does nothing.
    Nop,
    /// No route, without a word.
    Blackhole,
    /// No route.
    Unreachable,
    /// No route.
    Prohibit,
}

/// A policy rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its place: the lowest is asked first.
    pub priority: u32,
    /// For IPv6.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub v6: bool,
    /// Holds where its conditions do not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
    /// For packets from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Prefix>,
    /// For packets to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Prefix>,
    /// For packets that came by this device; `lo` is for those of the machine itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
    /// For packets of sockets that are bound to this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oif: Option<String>,
    /// For packets with this firewall mark under this mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<(u32, u32)>,
    /// For packets with this type of service.
    #[serde(default)]
    pub tos: u8,
    /// For packets of this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// For these source ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<(u16, u16)>,
    /// For these destination ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<(u16, u16)>,
    /// What it does.
    #[serde(default)]
    pub action: RuleAction,
    /// The table that it asks.
    #[serde(default)]
    pub table: u32,
    /// Where a `goto` goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goto: Option<u32>,
    /// Answers with a prefix no longer than this do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppress_length: Option<u8>,
    /// A condition that was not understood: the rule's answer is not to be relied on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Where to.
    pub to: IpAddr,
    /// From which address, if it is settled.
    pub from: Option<IpAddr>,
    /// For a packet that came by this device; none for the machine's own.
    pub iif: Option<String>,
    /// By this device and no other.
    pub oif: Option<String>,
    /// Its firewall mark.
    pub mark: u32,
    /// Its type of service.
    pub tos: u8,
    /// Its protocol and ports, where rules ask for them.
    pub flow: Option<(Protocol, u16, u16)>,
}

impl Ask {
    /// A packet of the machine itself, to somewhere.
    pub fn to(to: IpAddr) -> Self {
        Ask { to, from: None, iif: None, oif: None, mark: 0, tos: 0, flow: None }
    }

    /// With a source address.
    #[must_use]
    pub fn from(self, from: IpAddr) -> Self {
        Ask { from: Some(from), ..self }
    }

    /// Of a connection: its protocol, source and destination port.
    #[must_use]
    pub fn of(self, protocol: Protocol, sport: u16, dport: u16) -> Self {
        Ask { flow: Some((protocol, sport, dport)), ..self }
    }
}

/// The way that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The route that won.
    pub route: &'a Route,
    /// Its ways that can be used; one of them is taken.
    pub hops: Vec<&'a NextHop>,
    /// The source address of a packet that has none yet.
    pub source: Option<IpAddr>,
}

impl Answer<'_> {
    /// The packet is for the machine itself.
    pub fn is_local(&self) -> bool {
        self.route.kind == RouteKind::Local
    }

    /// The device, if all ways leave by one.
    pub fn link(&self) -> Option<&str> {
        let first = self.hops.first()?.link.as_deref();
        first.filter(|_| self.hops.iter().all(|h| h.link.as_deref() == first))
    }

    /// The gateways; none for a destination on the link.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.hops.iter().filter_map(|h| h.gateway).collect()
    }

    /// Ways in words: `via 10.0.0.1 dev eth0`.
    pub fn words(&self) -> String {
        let one = |hop: &&NextHop| {
            let via = hop.gateway.map_or_else(String::new, |g| format!("via {g} "));
            format!("{via}dev {}", hop.link.as_deref().unwrap_or("?"))
        };
        let kind = if self.is_local() { "local " } else { "" };
        format!("{kind}{}", self.hops.iter().map(one).collect::<Vec<_>>().join(" or "))
    }
}

/// Why there is no way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// The tables have none.
    Unreachable,
    /// A route or rule forbids it.
    Refused(RouteKind),
    /// The tables were not read, or a rule asks for what is not known.
    Unknown(String),
}

impl Host {
    /// The way of a packet.
    ///
    /// # Errors
    /// When there is none, or the snapshot does not say.
    pub fn way(&self, ask: &Ask) -> Result<Answer<'_>, NoRoute> {
        let Some(routes) = self.routes.as_deref() else {
            return Err(NoRoute::Unknown(format!("routes: {}", self.why_absent("routes"))));
        };
        let v6 = ask.to.is_ipv6();
        let found = match self.custom_rules(v6) {
            Some(rules) => self.by_rules(routes, &rules, ask)?,
            // IPv4 alone has merged tables.
            None if !v6 => best(routes, |t| t == MAIN || t == LOCAL, ask)
                .map_or_else(|| best(routes, |t| t == DEFAULT, ask).ok_or(NoRoute::Unreachable), Ok)?,
            None => {
                let tables = [LOCAL, MAIN];
                tables.iter().find_map(|t| best(routes, |table| table == *t, ask)).ok_or(NoRoute::Unreachable)?
            }
        };
        match found.0.kind {
            kind @ (RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit) => Err(NoRoute::Refused(kind)),
            RouteKind::Throw => Err(NoRoute::Unreachable),
            _ => Ok(self.answer(found, ask)),
        }
    }

    fn answer<'a>(&'a self, (route, hops): (&'a Route, Vec<&'a NextHop>), ask: &Ask) -> Answer<'a> {
        let suggested = ask.from.or(route.source).or_else(|| match (route.kind, hops.first()) {
            (RouteKind::Local, _) => Some(ask.to),
            (_, Some(hop)) => self.source_on(hop.link.as_deref()?, hop.gateway.unwrap_or(ask.to)),
            _ => None,
        });
        Answer { route, hops, source: suggested }
    }

    /// The source address for packets out of a device towards a neighbour: the first primary address in whose network the neighbour is, or
    /// the first primary address of the device, or any of another device (`inet_select_addr`). For IPv6 the first global one: a guess.
    pub fn source_on(&self, link: &str, towards: IpAddr) -> Option<IpAddr> {
        let same = |a: &&super::Address| a.addr.addr().is_ipv6() == towards.is_ipv6() && !a.has("secondary") && a.scope != "host";
        let own = || self.addresses().iter().filter(same).filter(|a| a.link == link);
        let fits = own().find(|a| a.addr.contains(towards) && (towards.is_ipv4() || a.is_global()));
        let other = || self.addresses().iter().filter(same).find(|a| a.scope == "global");
        fits.or_else(|| own().find(|a| a.is_global())).or_else(other).map(|a| a.addr.addr())
    }

    /// A packet to this address is for the machine itself: its route is local.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.way(&Ask::to(addr)).is_ok_and(|way| way.is_local())
    }

    /// The rules of a family if they are not those that every kernel has.
    fn custom_rules(&self, v6: bool) -> Option<Vec<&Rule>> {
        let rules: Vec<&Rule> = self.rules.as_deref()?.iter().filter(|r| r.v6 == v6).collect();
        let plain = |r: &&Rule| {
            let asks = Rule { priority: r.priority, v6, table: r.table, ..Rule::default() };
            **r == asks && matches!((r.priority, r.table), (0, LOCAL) | (32766, MAIN) | (32767, DEFAULT))
        };
        (!rules.is_empty() && !rules.iter().all(plain)).then_some(rules)
    }

    /// Somebody has added rules of his own; `None` when they were not read.
    pub fn has_custom_rules(&self, v6: bool) -> Option<bool> {
        self.rules.as_ref().map(|_| self.custom_rules(v6).is_some())
    }

    fn by_rules<'a>(&'a self, routes: &'a [Route], rules: &[&Rule], ask: &Ask) -> Result<(&'a Route, Vec<&'a NextHop>), NoRoute> {
        let mut at = 0;
        while let Some(rule) = rules.get(at) {
            at += 1;
            if !rule.holds_for(ask)? {
                continue;
            }
            match rule.action {
                RuleAction::Nop => {}
                // Only forwards: a loop cannot come of it.
                RuleAction::Goto => {
                    let target = rule.goto.unwrap_or(u32::MAX);
                    at += rules[at..].iter().position(|r| r.priority >= target).unwrap_or(rules.len());
                }
                RuleAction::Blackhole => return Err(NoRoute::Refused(RouteKind::Blackhole)),
                RuleAction::Unreachable => return Err(NoRoute::Refused(RouteKind::Unreachable)),
                RuleAction::Prohibit => return Err(NoRoute::Refused(RouteKind::Prohibit)),
                RuleAction::Lookup => {
                    let found = best(routes, |t| t == rule.table, ask);
                    let counts = |(route, _): &(&Route, _)| {
                        route.kind != RouteKind::Throw && rule.suppress_length.is_none_or(|least| route.length() > least)
                    };
                    if let Some(found) = found.filter(counts) {
                        return Ok(found);
                    }
                }
            }
        }
        Err(NoRoute::Unreachable)
    }
}

impl Rule {
    fn holds_for(&self, ask: &Ask) -> Result<bool, NoRoute> {
        let unspecified = if self.v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let from = ask.from.unwrap_or(unspecified);
        let within = |ports: Option<(u16, u16)>, port: fn((Protocol, u16, u16)) -> u16| {
            ports.is_none_or(|(low, high)| ask.flow.is_some_and(|flow| (low..=high).contains(&port(flow))))
        };
        let holds = self.from.is_none_or(|p| p.is_empty() || p.contains(from))
            && self.to.is_none_or(|p| p.contains(ask.to))
            // Packets of the machine itself come from `lo`.
            && self.iif.as_ref().is_none_or(|iif| iif == ask.iif.as_deref().unwrap_or("lo"))
            && self.oif.as_ref().is_none_or(|oif| Some(oif) == ask.oif.as_ref())
            && self.mark.is_none_or(|(mark, mask)| (ask.mark ^ mark) & mask == 0)
            && (self.tos == 0 || self.tos == ask.tos)
            && self.protocol.is_none_or(|p| ask.flow.is_some_and(|flow| flow.0 == p))
            && within(self.sport, |flow| flow.1)
            && within(self.dport, |flow| flow.2);
        match &self.unknown {
            Some(what) if holds != self.not => Err(NoRoute::Unknown(format!("rule {} asks for {what}", self.priority))),
            _ => Ok(holds != self.not),
        }
    }
}

/// The longest prefix, then the table `local`, then the type of service, then the lowest metric; the first of equals.
fn best<'a>(routes: &'a [Route], table: impl Fn(u32) -> bool, ask: &Ask) -> Option<(&'a Route, Vec<&'a NextHop>)> {
    let mut found: Option<(&Route, Vec<&NextHop>)> = None;
    for route in routes.iter().filter(|r| table(r.table) && r.is_for(ask.to) && (r.tos == 0 || r.tos == ask.tos)) {
        let rank = |r: &Route| (r.length(), r.table, r.tos, std::cmp::Reverse(r.metric));
        if found.as_ref().is_some_and(|(best, _)| rank(route) <= rank(best)) {
            continue;
        }
        let usable = |hop: &&NextHop| {
            !hop.dead && ask.oif.as_ref().is_none_or(|oif| route.kind == RouteKind::Local || hop.link.as_ref() == Some(oif))
        };
        let hops: Vec<&NextHop> = route.hops.iter().filter(usable).collect();
        // A route that forbids needs no way.
        if !hops.is_empty() || matches!(route.kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw)
        {
            found = Some((route, hops));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: u32, dst: &str, link: &str, gateway: &str) -> Route {
        let gateway = gateway.parse().ok();
        let kind = if table == LOCAL { RouteKind::Local } else { RouteKind::Unicast };
        Route {
            table,
            dst: dst.parse().ok(),
            kind,
            hops: vec![NextHop { link: Some(link.into()), gateway, dead: false }],
            ..Route::default()
        }
    }

    fn host(routes: Vec<Route>, rules: Vec<Rule>) -> Host {
        Host { routes: Some(routes), rules: Some(rules), ..Host::new("web1") }
    }

    fn words(host: &Host, ask: Ask) -> String {
        host.way(&ask).map_or_else(|e| format!("{e:?}"), |way| way.words())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_then_the_lowest_metric() {
        let mut worse = route(MAIN, "", "eth1", "10.1.0.1");
        worse.metric = 100;
        let h = host(vec![worse, route(MAIN, "", "eth0", "10.0.0.1"), route(MAIN, "10.9.0.0/16", "eth0", "10.0.0.9")], vec![]);
        assert_eq!(words(&h, Ask::to(ip("8.8.8.8"))), "via 10.0.0.1 dev eth0");
        assert_eq!(words(&h, Ask::to(ip("10.9.1.1"))), "via 10.0.0.9 dev eth0");
        let bound = Ask { oif: Some("eth1".into()), ..Ask::to(ip("10.9.1.1")) };
        assert_eq!(words(&h, bound), "via 10.1.0.1 dev eth1");
        assert_eq!(h.way(&Ask::to(ip("::1"))), Err(NoRoute::Unreachable));
    }

    /// A whole network that is local on lo, and a host route in it.
    #[test]
    fn local_and_main_are_one_until_somebody_adds_a_rule() {
        let routes =
            vec![route(LOCAL, "10.0.0.0/24", "lo", ""), route(MAIN, "10.0.0.0/24", "eth0", ""), route(MAIN, "10.0.0.7/32", "eth0", "")];
        let plain = host(routes.clone(), vec![]);
        assert_eq!(words(&plain, Ask::to(ip("10.0.0.1"))), "local dev lo");
        assert_eq!(words(&plain, Ask::to(ip("10.0.0.7"))), "dev eth0");
        let rule = |priority, table| Rule { priority, table, ..Rule::default() };
        let own = host(routes, vec![rule(0, LOCAL), rule(100, 7), rule(32766, MAIN)]);
        assert_eq!(words(&own, Ask::to(ip("10.0.0.7"))), "local dev lo");
    }

    #[test]
    fn rules_by_source_and_suppression() {
        let rules = vec![
            Rule { priority: 10, table: MAIN, suppress_length: Some(0), ..Rule::default() },
            Rule { priority: 20, from: "10.0.0.13/32".parse().ok(), table: 7, ..Rule::default() },
            Rule { priority: 30, action: RuleAction::Prohibit, to: "192.0.2.0/24".parse().ok(), ..Rule::default() },
            Rule { priority: 32766, table: MAIN, ..Rule::default() },
        ];
        let h = host(
            vec![route(MAIN, "", "eth1", "10.1.0.1"), route(MAIN, "10.0.0.0/24", "eth0", ""), route(7, "", "eth0", "10.0.0.1")],
            rules,
        );
        assert_eq!(words(&h, Ask::to(ip("8.8.8.8")).from(ip("10.0.0.13"))), "via 10.0.0.1 dev eth0");
        assert_eq!(words(&h, Ask::to(ip("8.8.8.8"))), "via 10.1.0.1 dev eth1");
        assert_eq!(words(&h, Ask::to(ip("10.0.0.9")).from(ip("10.0.0.13"))), "dev eth0");
        assert_eq!(h.way(&Ask::to(ip("192.0.2.1"))), Err(NoRoute::Refused(RouteKind::Prohibit)));
    }

    #[test]
    fn what_is_not_known_is_said() {
        assert!(matches!(Host::new("a").way(&Ask::to(ip("10.0.0.1"))), Err(NoRoute::Unknown(_))));
        let rule = Rule { priority: 5, table: 7, unknown: Some("uidrange".into()), ..Rule::default() };
        assert!(matches!(host(vec![], vec![rule]).way(&Ask::to(ip("10.0.0.1"))), Err(NoRoute::Unknown(_))));
    }

    /// Which address a host writes into what it sends out of a device by itself.
    #[test]
    fn the_first_address_that_fits() {
        let address = |link: &str, addr: &str, scope: &str, flag: &str| super::super::Address {
            link: link.into(),
            addr: addr.parse().unwrap(),
            scope: scope.into(),
            flags: vec![flag.into()],
            label: None,
        };
        let addresses = vec![
            address("lo", "127.0.0.1/8", "host", ""),
            address("eth0", "10.0.0.50/24", "global", "secondary"),
            address("eth0", "10.0.0.11/24", "global", ""),
            address("eth0", "10.7.0.11/24", "global", ""),
        ];
        let host = Host { addresses: Some(addresses), ..Host::new("web1") };
        let source = |link: &str, towards: &str| host.source_on(link, ip(towards)).map(|a| a.to_string());
        assert_eq!(source("eth0", "10.0.0.1").as_deref(), Some("10.0.0.11"), "a secondary one is none");
        assert_eq!(source("eth0", "10.7.0.1").as_deref(), Some("10.7.0.11"), "on the network of the next hop");
        assert_eq!(source("eth0", "192.0.2.1").as_deref(), Some("10.0.0.11"), "the first one else");
        assert_eq!(source("eth1", "192.0.2.1").as_deref(), Some("10.0.0.11"), "a device without one borrows it");
        assert_eq!(source("eth0", "2001:db8::1"), None);
    }
}
