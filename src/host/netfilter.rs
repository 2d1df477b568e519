//! Packet filters as chains of rules, whoever wrote them, and what becomes of one packet in them.
//!
//! Only what can be understood for sure decides: a rule with a condition that was not understood makes the answer unsure, never wrong.

use crate::net::{Prefix, Protocol};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::LazyLock;

/// Everything that filters or translates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netfilter {
    /// Chains with their rules.
    pub chains: Vec<Chain>,
    /// Families of which the rules are not known: `ip`, `ip6`, `arp`; with the table of the old iptables that they are in, where that is
    /// known: `ip:nat`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

/// Where in a packet's way a chain sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// On arrival, before the route is known.
    Prerouting,
    /// For the machine itself.
    Input,
    /// Passing through.
    Forward,
    /// From the machine itself.
    Output,
    /// On the way out.
    Postrouting,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// `ip`, `ip6`, `inet`, `arp`, `bridge`, `netdev`.
    pub family: String,
    /// Its table: `filter`, `nat`, `keepalived`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it is called; none for a chain that others jump to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
    /// Its place among others at the same hook.
    #[serde(default)]
    pub priority: i32,
    /// `filter`, `nat`, `route`.
    #[serde(default)]
    pub kind: String,
    /// What becomes of a packet that no rule decided on: dropped, or else accepted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drops: bool,
    /// Its rules, in order.
    pub rules: Vec<FilterRule>,
}

/// Ports from and to, inclusive.
pub type Ports = Vec<(u16, u16)>;

/// A rule: conditions, and what is done when all of them hold. A `true` beside a condition turns it round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRule {
    /// As its own tool writes it.
    pub text: String,
    /// Source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<(Prefix, bool)>,
    /// Destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<(Prefix, bool)>,
    /// Device of arrival; a trailing `+` or `*` stands for anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif: Option<(String, bool)>,
    /// Device of departure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oif: Option<(String, bool)>,
    /// Protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<(Protocol, bool)>,
    /// Source ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<(Ports, bool)>,
    /// Destination ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<(Ports, bool)>,
    /// Type of an ICMP message, and its code where it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<((u8, Option<u8>), bool)>,
    /// States of connection tracking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub states: Option<(Vec<String>, bool)>,
    /// Only packets of IPVS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipvs: bool,
    /// A condition that was not understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// What is done.
    pub verdict: FilterVerdict,
    /// Packets that it met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

/// What a rule does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterVerdict {
    /// Nothing that decides.
    #[default]
    Continue,
    /// Lets it through.
    Accept,
    /// Drops it.
    Drop,
    /// Drops it, with an answer.
    Reject,
    /// Goes to another chain, and comes back.
    Jump(String),
    /// Goes to another chain, and does not come back.
    Goto(String),
    /// Goes back to the chain that jumped here.
    Return,
    /// Translates the destination: to an address, a port.
    Dnat(Option<IpAddr>, Option<u16>),
    /// Translates the source.
    Snat(Option<IpAddr>),
    /// Translates the source to the address of the device of departure.
    Masquerade,
    /// Translates the destination to the machine itself.
    Redirect(Option<u16>),
    /// Sets the firewall mark.
    Mark(u32),
    /// Puts another sender address into an ARP message.
    Mangle(Option<IpAddr>),
    /// Lowers the largest segment that a SYN asks for.
    Mss(Option<u16>),
    /// Keeps connection tracking away from it.
    Untracked,
    /// Something else: its name.
    Other(String),
}

/// A packet that is asked about. What is not known stays `None`, and rules that ask for it are unsure.
#[derive(Clone, Debug)]
pub struct Passing<'a> {
    /// Source.
    pub src: Option<IpAddr>,
    /// Destination.
    pub dst: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Source and destination port.
    pub ports: (Option<u16>, Option<u16>),
    /// Device of arrival.
    pub iif: Option<&'a str>,
    /// Device of departure.
    pub oif: Option<&'a str>,
    /// Type and code of an ICMP message.
    pub icmp: Option<(u8, u8)>,
    /// State in connection tracking.
    pub state: &'a str,
    /// It belongs to IPVS.
    pub ipvs: bool,
}

impl Passing<'_> {
    /// The first packet for an address; nothing else is known of it.
    pub fn to(dst: IpAddr, protocol: Protocol) -> Self {
        Passing { src: None, dst, protocol, ports: (None, None), iif: None, oif: None, icmp: None, state: "NEW", ipvs: false }
    }
}

/// An ARP message that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct ArpQuestion<'a> {
    /// Its sender.
    pub sender: Option<IpAddr>,
    /// Its target.
    pub target: Option<IpAddr>,
    /// The device.
    pub device: &'a str,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<'a> {
    /// It passes.
    Passes,
    /// It is dropped: by this rule, or by the policy of this chain.
    Dropped(&'a Chain, Option<&'a FilterRule>),
    /// An ARP message leaves with another sender.
    Mangled(&'a FilterRule),
    /// It depends on a rule that was not understood.
    Unsure(&'a FilterRule),
}

/// Does a condition hold?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    Perhaps,
}

fn holds<T>(condition: Option<&(T, bool)>, value: impl FnOnce(&T) -> Option<bool>) -> Holds {
    match condition {
        None => Holds::Yes,
        Some((wanted, not)) => match value(wanted) {
            None => Holds::Perhaps,
            Some(is) if is != *not => Holds::Yes,
            Some(_) => Holds::No,
        },
    }
}

fn device(name: &str, wanted: &str) -> bool {
    match wanted.strip_suffix(['+', '*']) {
        Some(start) => name.starts_with(start),
        None => name == wanted,
    }
}

impl FilterRule {
    fn meets(&self, p: &Passing<'_>) -> Holds {
        let port = |ports: &Ports, port: Option<u16>| port.map(|port| ports.iter().any(|(low, high)| (*low..=*high).contains(&port)));
        let all = [
            holds(self.src.as_ref(), |prefix| p.src.map(|src| prefix.contains(src))),
            holds(self.dst.as_ref(), |prefix| Some(prefix.contains(p.dst))),
            holds(self.iif.as_ref(), |name| p.iif.map(|iif| device(iif, name))),
            holds(self.oif.as_ref(), |name| p.oif.map(|oif| device(oif, name))),
            holds(self.protocol.as_ref(), |protocol| Some(*protocol == p.protocol)),
            holds(self.sport.as_ref(), |ports| port(ports, p.ports.0)),
            holds(self.dport.as_ref(), |ports| port(ports, p.ports.1)),
            holds(self.icmp.as_ref(), |(kind, code)| match p.icmp {
                Some((is, with)) => Some(*kind == is && code.is_none_or(|code| code == with)),
                None if matches!(p.protocol, Protocol::Icmp | Protocol::Icmp6) => None,
                None => Some(false),
            }),
            holds(self.states.as_ref(), |states| Some(states.iter().any(|s| s.eq_ignore_ascii_case(p.state)))),
            if self.ipvs && !p.ipvs { Holds::No } else { Holds::Yes },
            if self.unknown.is_some() { Holds::Perhaps } else { Holds::Yes },
        ];
        together(&all)
    }

    fn meets_arp(&self, q: &ArpQuestion<'_>, arriving: bool) -> Holds {
        let name = if arriving { &self.iif } else { &self.oif };
        let all = [
            holds(self.src.as_ref(), |prefix| q.sender.map(|a| prefix.contains(a))),
            holds(self.dst.as_ref(), |prefix| q.target.map(|a| prefix.contains(a))),
            holds(name.as_ref(), |name| Some(device(q.device, name))),
            if self.unknown.is_some() { Holds::Perhaps } else { Holds::Yes },
        ];
        together(&all)
    }
}

fn together(all: &[Holds]) -> Holds {
    if all.contains(&Holds::No) {
        Holds::No
    } else if all.contains(&Holds::Perhaps) {
        Holds::Perhaps
    } else {
        Holds::Yes
    }
}

/// Stands for the rules of a family that are there and could not be read.
static UNREAD: LazyLock<FilterRule> = LazyLock::new(|| FilterRule {
    text: "one of the old iptables, which cannot be read here (send what `iptables-save` prints)".to_string(),
    ..FilterRule::default()
});

/// Jumps nest no deeper in the kernel, either.
const DEEP: u8 = 16;

/// Rules that would have ended it, if their conditions hold.
#[derive(Default)]
struct Doubts<'a> {
    passes: Option<&'a FilterRule>,
    drops: Option<&'a FilterRule>,
}

enum End<'a> {
    Decided(Fate<'a>),
    /// No rule decided: the policy, or the chain that jumped here.
    Through,
}

impl Netfilter {
    /// The chains of a family that are called at a hook, those that translate aside, in their order.
    pub fn at(&self, v6: bool, hook: Hook) -> impl Iterator<Item = &Chain> {
        let own = if v6 { "ip6" } else { "ip" };
        let mut chains: Vec<&Chain> =
            self.chains.iter().filter(|c| c.hook == Some(hook) && (c.family == own || c.family == "inet")).collect();
        chains.sort_by_key(|c| c.priority);
        chains.into_iter()
    }

    /// What becomes of a packet at a hook. A doubtful rule matters only where it would change the end.
    pub fn fate<'a>(&'a self, hook: Hook, packet: &Passing<'_>) -> Fate<'a> {
        let chains: Vec<&Chain> = self.at(packet.dst.is_ipv6(), hook).filter(|c| c.kind != "nat").collect();
        self.or_unread(if packet.dst.is_ipv6() { "ip6" } else { "ip" }, self.end(&chains, &|rule: &FilterRule| rule.meets(packet)))
    }

    /// What becomes of an ARP message.
    pub fn arp_fate<'a>(&'a self, hook: Hook, question: &ArpQuestion<'_>) -> Fate<'a> {
        let chains: Vec<&Chain> = self.chains.iter().filter(|c| c.family == "arp" && c.hook == Some(hook)).collect();
        self.or_unread("arp", self.end(&chains, &|rule: &FilterRule| rule.meets_arp(question, hook == Hook::Input)))
    }

    /// What passes here may still be dropped by rules that nobody has read; what is dropped stays so.
    fn or_unread<'a>(&self, family: &str, fate: Fate<'a>) -> Fate<'a> {
        match fate {
            Fate::Passes if self.is_unread(family) => Fate::Unsure(&UNREAD),
            fate => fate,
        }
    }

    /// Filters of a family (`ip`, `ip6`, `arp`) may be there that were not read.
    pub fn is_unread(&self, family: &str) -> bool {
        self.unread.iter().any(|unread| match unread.split_once(':') {
            Some((of, table)) => of == family && table != "nat",
            None => unread == family,
        })
    }

    /// Translations of a family are there for certain, and were not read.
    pub fn hides_translations(&self, v6: bool) -> bool {
        let own = if v6 { "ip6:nat" } else { "ip:nat" };
        self.unread.iter().any(|unread| unread == own)
    }

    /// Translations of a family may be there that were not read.
    pub fn may_translate(&self, v6: bool) -> bool {
        self.hides_translations(v6) || self.unread.iter().any(|unread| unread == if v6 { "ip6" } else { "ip" })
    }

    fn end<'a>(&'a self, chains: &[&'a Chain], meets: &impl Fn(&FilterRule) -> Holds) -> Fate<'a> {
        let mut doubts = Doubts::default();
        for chain in chains {
            match self.walk(chain, chain, meets, DEEP, &mut doubts) {
                End::Decided(Fate::Passes) => {}
                End::Decided(fate) => return doubts.passes.map_or(fate, Fate::Unsure),
                End::Through if chain.drops => return doubts.passes.map_or(Fate::Dropped(chain, None), Fate::Unsure),
                End::Through => {}
            }
        }
        doubts.drops.map_or(Fate::Passes, Fate::Unsure)
    }

    fn walk<'a>(
        &'a self,
        base: &'a Chain,
        chain: &'a Chain,
        meets: &impl Fn(&FilterRule) -> Holds,
        deep: u8,
        doubts: &mut Doubts<'a>,
    ) -> End<'a> {
        for rule in &chain.rules {
            let holds = meets(rule);
            if holds == Holds::No {
                continue;
            }
            let sure = holds == Holds::Yes;
            let decided = match &rule.verdict {
                FilterVerdict::Accept => Some(Fate::Passes),
                FilterVerdict::Drop | FilterVerdict::Reject => Some(Fate::Dropped(base, Some(rule))),
                FilterVerdict::Mangle(_) => Some(Fate::Mangled(rule)),
                FilterVerdict::Return if sure => return End::Through,
                FilterVerdict::Jump(to) | FilterVerdict::Goto(to) if deep > 0 => {
                    let next = self.chains.iter().find(|c| c.name == *to && c.family == chain.family && c.table == chain.table);
                    let end = next.map_or(End::Through, |next| self.walk(base, next, meets, deep - 1, doubts));
                    match end {
                        End::Decided(fate) => Some(fate),
                        End::Through if sure && matches!(rule.verdict, FilterVerdict::Goto(_)) => return End::Through,
                        End::Through => None,
                    }
                }
                // What leads somewhere unknown (a queue, a map) may end there.
                FilterVerdict::Other(name) if ["queue", "vmap"].contains(&name.as_str()) => Some(Fate::Unsure(rule)),
                _ => None,
            };
            match decided {
                Some(fate) if sure => return End::Decided(fate),
                Some(Fate::Passes) => _ = doubts.passes.get_or_insert(rule),
                Some(_) => _ = doubts.drops.get_or_insert(rule),
                // A doubtful way back skips what follows here.
                None if matches!(rule.verdict, FilterVerdict::Return) => _ = doubts.passes.get_or_insert(rule),
                None => {}
            }
        }
        End::Through
    }

    /// Rules that translate at a hook, with those of the chains that they jump to, in order.
    pub fn translating(&self, v6: bool, hook: Hook) -> Vec<&FilterRule> {
        let mut rules = Vec::new();
        for chain in self.at(v6, hook).filter(|c| c.kind == "nat") {
            self.collect(chain, DEEP, &mut rules);
        }
        rules
    }

    fn collect<'a>(&'a self, chain: &'a Chain, deep: u8, into: &mut Vec<&'a FilterRule>) {
        for rule in &chain.rules {
            match &rule.verdict {
                FilterVerdict::Jump(to) | FilterVerdict::Goto(to) if deep > 0 => {
                    let next = self.chains.iter().find(|c| c.name == *to && c.family == chain.family && c.table == chain.table);
                    if let Some(next) = next {
                        self.collect(next, deep - 1, into);
                    }
                }
                FilterVerdict::Dnat(..) | FilterVerdict::Snat(_) | FilterVerdict::Masquerade | FilterVerdict::Redirect(_) => {
                    into.push(rule)
                }
                _ => {}
            }
        }
    }

    /// A rule of a filter that a packet meets at a hook, or may meet, and that does this to it: one in doubt counts, for it acquits.
    pub fn may_do(&self, hook: Hook, packet: &Passing<'_>, does: impl Fn(&FilterVerdict) -> bool) -> Option<&FilterRule> {
        self.at(packet.dst.is_ipv6(), hook).filter(|c| c.kind != "nat").find_map(|chain| self.doing(chain, packet, &does, DEEP))
    }

    fn doing<'a>(
        &'a self,
        own: &'a Chain,
        packet: &Passing<'_>,
        does: &impl Fn(&FilterVerdict) -> bool,
        deep: u8,
    ) -> Option<&'a FilterRule> {
        own.rules.iter().filter(|rule| rule.meets(packet) != Holds::No).find_map(|rule| match &rule.verdict {
            verdict if does(verdict) => Some(rule),
            FilterVerdict::Jump(to) | FilterVerdict::Goto(to) if deep > 0 => {
                let next = self.chains.iter().find(|c| c.name == *to && c.family == own.family && c.table == own.table)?;
                self.doing(next, packet, does, deep - 1)
            }
            _ => None,
        })
    }

    /// The translation of a source that a packet would meet on its way out; unsure conditions count as met.
    pub fn source_translation(&self, packet: &Passing<'_>) -> Option<&FilterRule> {
        let translates = |r: &&FilterRule| matches!(r.verdict, FilterVerdict::Snat(_) | FilterVerdict::Masquerade);
        self.translating(packet.dst.is_ipv6(), Hook::Postrouting).into_iter().filter(translates).find(|r| r.meets(packet) != Holds::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verdict: FilterVerdict, change: impl Fn(&mut FilterRule)) -> FilterRule {
        let mut rule = FilterRule { verdict, ..FilterRule::default() };
        change(&mut rule);
        rule
    }

    fn chain(name: &str, hook: Option<Hook>, drops: bool, rules: Vec<FilterRule>) -> Chain {
        Chain { family: "ip".into(), table: "filter".into(), name: name.into(), hook, priority: 0, kind: "filter".into(), drops, rules }
    }

    fn packet() -> Passing<'static> {
        Passing { ports: (None, Some(80)), iif: Some("eth0"), ..Passing::to("10.0.0.13".parse().unwrap(), Protocol::Tcp) }
    }

    fn fate(chains: Vec<Chain>) -> String {
        told(Netfilter { chains, unread: vec![] })
    }

    fn told(filter: Netfilter) -> String {
        match filter.fate(Hook::Input, &packet()) {
            Fate::Passes => "passes".into(),
            Fate::Dropped(chain, rule) => format!("dropped by {} {}", chain.name, rule.map_or("policy", |_| "rule")),
            Fate::Mangled(_) => "mangled".into(),
            Fate::Unsure(_) => "unsure".into(),
        }
    }

    /// Silence is not health: what was not read may drop everything.
    #[test]
    fn rules_that_nobody_read() {
        let unread = |family: &str, chains| Netfilter { chains, unread: vec![family.to_string()] };
        assert_eq!(told(unread("ip", vec![])), "unsure");
        assert_eq!(told(unread("ip6", vec![])), "passes");
        assert_eq!(told(unread("ip", vec![chain("INPUT", Some(Hook::Input), true, vec![])])), "dropped by INPUT policy");
        assert_eq!(told(unread("ip:filter", vec![])), "unsure");
        assert_eq!(told(unread("ip:nat", vec![])), "passes");
        let translates = |of: &str, v6| (unread(of, vec![]).hides_translations(v6), unread(of, vec![]).may_translate(v6));
        assert_eq!((translates("ip:nat", false), translates("ip:nat", true)), ((true, true), (false, false)));
        assert_eq!((translates("ip", false), translates("ip6:filter", true)), ((false, true), (false, false)));
        let question = ArpQuestion { sender: None, target: None, device: "eth0" };
        assert!(matches!(unread("arp", vec![]).arp_fate(Hook::Input, &question), Fate::Unsure(_)));
    }

    #[test]
    fn policies_jumps_and_doubts() {
        let established = rule(FilterVerdict::Accept, |r| r.states = Some((vec!["ESTABLISHED".into()], false)));
        let web = rule(FilterVerdict::Accept, |r| r.dport = Some((vec![(80, 80)], false)));
        let own = rule(FilterVerdict::Accept, |r| r.dst = Some(("10.0.0.11".parse().unwrap(), false)));
        let doubt = rule(FilterVerdict::Accept, |r| r.unknown = Some("-m recent".into()));
        let input = |rules| chain("INPUT", Some(Hook::Input), true, rules);
        assert_eq!(fate(vec![input(vec![established.clone(), own.clone()])]), "dropped by INPUT policy");
        assert_eq!(fate(vec![input(vec![established.clone(), web.clone()])]), "passes");
        assert_eq!(fate(vec![input(vec![doubt.clone(), own])]), "unsure");
        let jump = rule(FilterVerdict::Jump("web".into()), |_| {});
        assert_eq!(fate(vec![input(vec![jump.clone()]), chain("web", None, false, vec![web])]), "passes");
        let drop = rule(FilterVerdict::Drop, |r| r.iif = Some(("eth+".into(), false)));
        assert_eq!(fate(vec![input(vec![jump]), chain("web", None, false, vec![drop])]), "dropped by INPUT rule");
        assert_eq!(fate(vec![]), "passes");
        // A doubt that could only let it through, where all passes anyhow.
        assert_eq!(fate(vec![chain("INPUT", Some(Hook::Input), false, vec![doubt])]), "passes");
    }
}
