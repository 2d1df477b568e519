//! Judgement: pure functions over facts. A file a fault.
//!
//! A rule is a fault, not a sensor. Its file holds its manual page (the doc comment of [`rule!`], always with the same headings), what it
//! looks for, its remedy, and its tests. [`ALL`] lists the rules in reading order; the tests beside it hold the list to the files.
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

mod answers;
mod catalogue;
mod checks;
mod facts;
mod remedy;
mod settle;
mod site;
#[cfg(test)]
mod sketch;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod testing;

mod arp;
mod cap;
mod dr;
mod ha;
mod ip6;
mod k8s;
mod nat;
mod net;
mod svc;
mod tun;

pub use catalogue::{CAUSES, Cause, cause_of, name_of};
pub use checks::{Check, Verdict};
pub use facts::Facts;

use crate::finding::{Confidence, Finding, Need, Outcome};
use crate::trace::Trace;
use checks::Checks;
use site::Site;
use std::collections::{HashMap, HashSet};

/// A rule: a fault of the catalogue.
pub struct Rule {
    /// Subject and number: `NAT001`. Never changes, is never used again for something else.
    pub code: &'static str,
    /// The fault in words that read after a host's name: `web1: rs-no-default-route`.
    pub name: &'static str,
    /// Its manual page, in Markdown.
    pub page: &'static str,
    /// Looks for the fault in packets.
    pub check: fn(&Facts<'_>) -> Outcome,
    /// Looks for it on hosts.
    hosts: Option<fn(&Site<'_>, &mut Checks)>,
}

impl Rule {
    /// What its page says under a heading, in one line.
    fn section(&self, heading: &str) -> String {
        let lines = self.page.lines().map(str::trim).skip_while(|line| line.strip_prefix("# ") != Some(heading)).skip(1);
        lines.take_while(|line| !line.starts_with("# ")).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// The command by which its page has people look first.
    fn confirmed_by(&self) -> Option<String> {
        self.section("Confirm it by hand").split('`').nth(1).map(str::to_string)
    }
}

/// Declares a rule; the doc comment is its manual page. After its code and name come the function that looks at packets and, if there is
/// one, the function that looks at hosts.
macro_rules! rule {
    (@hosts) => { None };
    (@hosts $hosts:ident) => { Some($hosts) };
    ($(#[doc = $line:literal])* $code:ident $name:literal $check:ident $($hosts:ident)?) => {
        $(#[doc = $line])*
        pub static $code: $crate::rules::Rule = $crate::rules::Rule {
            code: stringify!($code),
            name: $name,
            page: concat!($($line, "\n"),*),
            check: $check,
            hosts: $crate::rules::rule!(@hosts $($hosts)?),
        };
    };
}
pub(crate) use rule;

/// Headings of every page, in this order.
pub const HEADINGS: [&str; 7] =
    ["What it sees", "Why it breaks", "Confirm it by hand", "Remedy", "When it is not a fault", "Reproduce", "References"];

/// Every rule, in reading order.
pub static ALL: &[&Rule] = &[
    // LVS-NAT
    &nat::nat001::NAT001,
    &nat::nat002::NAT002,
    &nat::nat003::NAT003,
    &nat::nat004::NAT004,
    &nat::nat005::NAT005,
    &nat::nat006::NAT006,
    &nat::nat007::NAT007,
    &nat::nat008::NAT008,
    &nat::nat009::NAT009,
    &nat::nat010::NAT010,
    &nat::nat011::NAT011,
    &nat::nat012::NAT012,
    &nat::nat013::NAT013,
    &nat::nat014::NAT014,
    // LVS-DR
    &dr::dr001::DR001,
    &dr::dr002::DR002,
    &dr::dr003::DR003,
    &dr::dr004::DR004,
    &dr::dr005::DR005,
    &dr::dr006::DR006,
    &dr::dr007::DR007,
    &dr::dr008::DR008,
    &dr::dr009::DR009,
    &dr::dr010::DR010,
    &dr::dr011::DR011,
    &dr::dr012::DR012,
    &dr::dr013::DR013,
    &dr::dr014::DR014,
    &dr::dr016::DR016,
    &dr::dr017::DR017,
    &dr::dr018::DR018,
    &dr::dr019::DR019,
    &dr::dr020::DR020,
    &dr::dr021::DR021,
    &dr::dr022::DR022,
    // Neighbours
    &arp::arp001::ARP001,
    &arp::arp002::ARP002,
    &arp::arp003::ARP003,
    &arp::arp004::ARP004,
    &arp::arp005::ARP005,
    &arp::arp006::ARP006,
    &arp::arp007::ARP007,
    &arp::arp010::ARP010,
    &arp::arp011::ARP011,
    &arp::arp012::ARP012,
    // The path
    &net::net001::NET001,
    &net::net002::NET002,
    &net::net003::NET003,
    &net::net004::NET004,
    &net::net005::NET005,
    &net::net006::NET006,
    &net::net007::NET007,
    &net::net008::NET008,
    &net::net009::NET009,
    &net::net010::NET010,
    &net::net011::NET011,
    &net::net013::NET013,
    &net::net014::NET014,
    &net::net015::NET015,
    &net::net016::NET016,
    // LVS-TUN
    &tun::tun001::TUN001,
    &tun::tun002::TUN002,
    &tun::tun003::TUN003,
    &tun::tun004::TUN004,
    &tun::tun005::TUN005,
    &tun::tun006::TUN006,
    &tun::tun007::TUN007,
    &tun::tun009::TUN009,
    &tun::tun011::TUN011,
    // Services
    &svc::svc001::SVC001,
    &svc::svc002::SVC002,
    &svc::svc003::SVC003,
    &svc::svc004::SVC004,
    &svc::svc005::SVC005,
    &svc::svc006::SVC006,
    &svc::svc007::SVC007,
    &svc::svc008::SVC008,
    &svc::svc010::SVC010,
    &svc::svc011::SVC011,
    &svc::svc012::SVC012,
    &svc::svc013::SVC013,
    &svc::svc014::SVC014,
    &svc::svc015::SVC015,
    &svc::svc016::SVC016,
    &svc::svc018::SVC018,
    &svc::svc019::SVC019,
    &svc::svc020::SVC020,
    &svc::svc021::SVC021,
    &svc::svc022::SVC022,
    &svc::svc027::SVC027,
    // Failover
    &ha::ha001::HA001,
    &ha::ha002::HA002,
    &ha::ha003::HA003,
    &ha::ha004::HA004,
    &ha::ha006::HA006,
    // Kubernetes
    &k8s::k8s001::K8S001,
    // IPv6
    &ip6::ip6001::IP6001,
    &ip6::ip6002::IP6002,
    &ip6::ip6004::IP6004,
    // What captures make of packets
    &cap::cap001::CAP001,
    &cap::cap002::CAP002,
    &cap::cap003::CAP003,
    &cap::cap004::CAP004,
    &cap::cap005::CAP005,
    &cap::cap006::CAP006,
    &cap::cap007::CAP007,
    &cap::cap008::CAP008,
    &cap::cap009::CAP009,
    &cap::cap010::CAP010,
    &cap::cap012::CAP012,
    &cap::cap013::CAP013,
    &cap::cap014::CAP014,
    &cap::cap015::CAP015,
    &cap::cap016::CAP016,
];

/// The rule with a code, whatever its case.
pub fn find(code: &str) -> Option<&'static Rule> {
    ALL.iter().find(|rule| rule.code.eq_ignore_ascii_case(code)).copied()
}

/// What all rules together say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// Faults found, the worst and surest first.
    pub findings: Vec<Finding>,
    /// Codes of rules that looked and found nothing.
    pub clear: Vec<&'static str>,
    /// Rules that lacked evidence, and what they would need.
    pub not_judged: Vec<(&'static Rule, Need)>,
    /// What was looked at on each host, and what came of it.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// What of it concerns some hosts.
    #[must_use]
    pub fn on_hosts(mut self, hosts: &[String]) -> Self {
        self.findings = self.findings.iter().flat_map(|f| hosts.iter().filter_map(|host| f.on_host(host))).collect();
        self.checks.retain(|check| hosts.contains(&check.host));
        self
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.code == other.code
    }
}

impl Eq for Rule {}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.name)
    }
}

/// Asks every rule: of packets, of hosts, of both together.
pub fn diagnose(facts: &Facts<'_>) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    let site = Site::new(facts.fleet);
    let has_packets = !facts.trace.points.is_empty();
    let mut on_hosts: Vec<Finding> = Vec::new();
    for rule in ALL {
        let mut checks = Checks::default();
        if let Some(look) = rule.hosts.filter(|_| !facts.fleet.members.is_empty()) {
            look(&site, &mut checks);
        }
        let (found, judged) = checks.into_parts(rule, &mut diagnosis.checks);
        let failed = !found.is_empty();
        on_hosts.extend(found);
        // Without packets a rule about them has nothing to say.
        let outcome = if has_packets { (rule.check)(facts) } else { Outcome::Clear };
        match outcome {
            Outcome::Found(findings) => {
                let doubted = findings.into_iter().map(|found| doubt(facts, found));
                diagnosis.findings.extend(doubted.map(|found| complete(rule, found, facts.trace)));
            }
            _ if failed => {}
            Outcome::Clear if has_packets || judged.is_ok() => diagnosis.clear.push(rule.code),
            Outcome::NotJudged(_) if judged.is_ok() => diagnosis.clear.push(rule.code),
            Outcome::NotJudged(need) => diagnosis.not_judged.push((rule, need)),
            Outcome::Clear => diagnosis.not_judged.extend(judged.err().flatten().map(|need| (*rule, need))),
        }
    }
    settle::settle(&mut diagnosis, on_hosts, facts);
    // Stable: equals stay in the order of the registry.
    diagnosis.findings.sort_by_key(|f| (std::cmp::Reverse(f.severity), std::cmp::Reverse(f.confidence), std::cmp::Reverse(f.flows.len())));
    diagnosis
}

/// A router that translates to one machine, which never answers in earnest, looks like a director with one real server. What is said of
/// that machine as a real server is only possible then.
fn doubt(facts: &Facts<'_>, mut finding: Finding) -> Finding {
    // One flow of each pair of director and server speaks for the others.
    let flows = facts.flows().filter(|f| finding.flows.binary_search(&f.id).is_ok());
    let pairs: HashMap<_, &crate::trace::Flow> = flows.map(|f| ((f.method, f.director, f.real_server), f)).collect();
    if !pairs.is_empty() && pairs.values().all(|f| facts.may_be_a_router(f)) {
        finding.confidence = finding.confidence.min(Confidence::Possible);
        let seen = "is it a director? `ipvsadm -ln` where requests are translated";
        finding.settle = Some(finding.settle.map_or_else(|| seen.to_string(), |settle| format!("{settle}; {seen}")));
    }
    finding
}

/// Attaches code and name, and widens the flows: what holds for every example of a group holds for the group.
fn complete(rule: &Rule, mut finding: Finding, trace: &Trace) -> Finding {
    (finding.code, finding.name) = (rule.code, rule.name);
    let shown: HashSet<u32> = finding.flows.iter().copied().collect();
    let whole = |group: &crate::trace::Group| !group.examples.is_empty() && group.examples.iter().all(|id| shown.contains(id));
    let groups = trace
        .groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.count as usize > group.examples.len() && whole(group))
        .map(|(at, _)| at)
        .collect();
    finding.flows.extend(trace.flows_of(&groups));
    finding.flows.sort_unstable();
    finding.flows.dedup();
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_pages_complete() {
        let mut codes: Vec<&str> = ALL.iter().map(|rule| rule.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ALL.len(), "a code stands twice");
        for rule in ALL {
            let headings: Vec<&str> = rule.page.lines().filter_map(|line| line.trim().strip_prefix("# ")).collect();
            assert_eq!(headings, HEADINGS, "{}: the headings of its page", rule.code);
            assert!(!rule.section("Remedy").is_empty(), "{}: {:?}", rule.code, rule.section("Remedy"));
            assert!(rule.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{}", rule.name);
        }
    }

    /// Every family in a row, numbers ascending within it.
    #[test]
    fn the_registry_is_in_reading_order() {
        let family = |code: &str| code.trim_end_matches(|c: char| c.is_ascii_digit()).to_string();
        let mut seen: Vec<String> = Vec::new();
        for pair in ALL.windows(2) {
            let (a, b) = (family(pair[0].code), family(pair[1].code));
            if a == b {
                assert!(pair[0].code < pair[1].code, "{} before {}", pair[0].code, pair[1].code);
            } else {
                seen.push(a);
                assert!(!seen.contains(&b), "{b} in two places");
            }
        }
    }
}
