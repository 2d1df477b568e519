//! Which way a real server's answers take, and what is wrong with it. One cause a source: the rules each ask for their own.

use super::Checks;
use super::remedy::route_through;
use super::site::{Duty, Site, elsewhere, proven};
use crate::finding::{Confidence, Evidence, Finding, Remedy, Severity};
use crate::host::{Answer, Ask, FilterVerdict, Hook, Host, NoRoute};
use crate::ipvs::{ForwardingMethod, Role};
use std::net::IpAddr;

/// An answer's way, judged.
pub(super) struct Story {
    /// The rule whose fault it is; none when all is well.
    pub(super) code: Option<&'static str>,
    /// Whom the answer is for.
    pub(super) source: IpAddr,
    /// How that is known.
    pub(super) by: String,
    /// The kernel's answer in words: `via 10.0.0.1 dev eth0`.
    pub(super) way: String,
    /// The command that shows it.
    pub(super) command: String,
}

impl Story {
    /// The proof.
    pub(super) fn evidence(&self, host: &Host) -> Evidence {
        Evidence::host(&host.name, self.way.clone(), self.command.clone())
    }

    /// The fault, proven by the kernel's answer.
    pub(super) fn fault(&self, host: &Host, severity: Severity, summary: String) -> Finding {
        proven(host, severity, summary, self.way.clone(), self.command.clone())
    }
}

/// Sends answers through `gateway`, by the device that requests arrive on.
pub(super) fn answer_through(host: &Host, duty: &Duty, gateway: &str) -> Remedy {
    route_through(host, gateway, duty.arrives(host).unwrap_or("IF"))
}

const NAT: &[ForwardingMethod] = &[ForwardingMethod::Nat];
const DIRECT: &[ForwardingMethod] = &[ForwardingMethod::DirectRouting, ForwardingMethod::Tunnel];

/// The methods that a rule is about.
fn methods(code: &str) -> &'static [ForwardingMethod] {
    const ALL: &[ForwardingMethod] = &[ForwardingMethod::Nat, ForwardingMethod::DirectRouting, ForwardingMethod::Tunnel];
    match code {
        "NAT007" => ALL,
        code if code.starts_with("NAT") => NAT,
        _ => DIRECT,
    }
}

impl Site<'_> {
    /// Looks for one cause on every real server. `finding` makes the finding of a story that has it.
    pub(super) fn answers(&self, checks: &mut Checks, code: &'static str, finding: impl Fn(&Host, &Duty, &Story) -> Finding) {
        for duty in self.duties(methods(code)) {
            let host = self.host(duty.member);
            match self.stories(duty) {
                Err(why) => checks.needs(&host.name, why),
                Ok(stories) => match stories.iter().find(|s| s.code == Some(code)) {
                    Some(story) => {
                        let mut found = finding(host, duty, story);
                        if duty.is_guess() && found.severity == Severity::Broken && matches!(code, "NAT001" | "DR004") {
                            // Where requests come from is not known: a router may translate them, or all clients be near.
                            (found.severity, found.confidence) = (Severity::Risky, Confidence::Likely);
                            found.settle =
                                Some("where do requests come from? The director's snapshot, or `ipvsadm -Lnc` there, tells".to_string());
                        }
                        if duty.director.is_none() && matches!(code, "DR001" | "DR016") {
                            // That it serves by direct routing is only what the user's words and its routes suggest.
                            found.confidence = Confidence::Likely;
                            found = found.unless(&["NAT007"], "how does the director hand on: `ipvsadm -Ln` there, Route or Masq?");
                        }
                        checks.failed(&host.name, found);
                    }
                    None => {
                        let words = match stories.iter().find_map(|s| s.code) {
                            Some(other) => format!("see {other}"),
                            None => format!("answers go {}", stories.first().map_or("nowhere yet", |s| s.way.as_str())),
                        };
                        checks.passed(&host.name, words);
                    }
                },
            }
        }
        self.need_servers(checks, methods(code));
    }

    /// Looks for real servers without any route to those who asked; `gateway` tells where one should lead.
    pub(super) fn unroutable(&self, checks: &mut Checks, code: &'static str, gateway: impl Fn(&Duty) -> String) {
        self.answers(checks, code, |host, duty, story| {
            let summary = format!("There is no route to {} ({}): answers of {} cannot leave.", story.source, story.by, duty.service);
            let counters: &[&str] =
                if story.source.is_ipv6() { &["Ip6OutNoRoutes"] } else { &["IpOutNoRoutes", "TcpExtIPReversePathFilter"] };
            let counted = self.counted(host, counters);
            story.fault(host, Severity::Broken, summary).and(counted).mend([answer_through(host, duty, &gateway(duty))])
        });
    }

    /// The real server at an address was made for another method than the service's.
    pub(super) fn is_mismatched(&self, service: &crate::host::Service, rip: IpAddr) -> bool {
        let mut mine = self.duties.iter().filter(|d| d.rip == Some(rip) && d.service == service.name());
        mine.any(|d| self.stories(d).is_ok_and(|stories| stories.iter().any(|s| s.code == Some("NAT007"))))
    }

    /// The ways of a duty's answers.
    ///
    /// # Errors
    /// What would have to be known.
    pub(super) fn stories(&self, duty: &Duty) -> Result<Vec<Story>, String> {
        let host = self.host(duty.member);
        if host.addresses.is_none() {
            return Err("the host's addresses".to_string());
        }
        duty.answered().into_iter().map(|(source, by)| self.story(host, duty, source, by)).collect()
    }

    fn story(&self, host: &Host, duty: &Duty, source: IpAddr, by: String) -> Result<Story, String> {
        let from = duty.speaks_as().map_or_else(String::new, |a| format!(" from {a}"));
        let ip = super::remedy::ip_for(&source.to_string());
        let command = format!("{ip} route get {source}{from}");
        let story = |code, way: String| Ok(Story { code, source, by: by.clone(), way, command: command.clone() });
        let way = host.way(&duty.answer(source));
        // Routes go with the card that they lead through; they come back with it.
        if duty.arrives(host).and_then(|name| host.link(name)).is_some_and(|card| !card.has_carrier()) {
            return story(Some("ARP011"), way.map_or_else(|_| "no route".to_string(), |w| w.words()));
        }
        if let Err(NoRoute::Unknown(why)) = &way {
            return Err(why.clone());
        }
        if duty.method != ForwardingMethod::Nat
            && let Some(code) = self.vip_missing(host, duty, &way)
        {
            if let Some(why) = may_redirect(host, duty) {
                return Err(why.to_string());
            }
            let words = way.map_or_else(|_| "no route".to_string(), |w| w.words());
            return story(Some(code), words);
        }
        match way {
            Err(_) => {
                story(Some(if duty.method == ForwardingMethod::Nat { "NAT001" } else { "DR004" }), "Network is unreachable".to_string())
            }
            Ok(way) => {
                let words = way.words();
                let code = match duty.method {
                    ForwardingMethod::Nat => self.nat(host, duty, source, &way),
                    _ => self.direct(host, duty, source, &way),
                };
                // With a translated source answers come back by themselves.
                let director = duty.director.map(|at| self.host(at));
                let may_translate = director.is_some_and(|d| {
                    d.netfilter.as_ref().is_some_and(|n| n.may_translate(duty.vip.is_some_and(|vip| vip.is_ipv6())))
                        && d.sysctl("net.ipv4.vs.conntrack") == Some(1)
                });
                if may_translate && matches!(code, Some("NAT002" | "NAT003" | "NAT006" | "NAT011")) {
                    return Err("whether the director translates sources: its rules of the old iptables (`iptables-save`)".to_string());
                }
                story(code, words)
            }
        }
    }

    /// The VIP is not there: a real server of another method, one that hands the packet back, or one that somebody forgot.
    fn vip_missing(&self, host: &Host, duty: &Duty, way: &Result<Answer<'_>, NoRoute>) -> Option<&'static str> {
        let vip = duty.vip?;
        if host.has(vip) || redirects(host, duty) {
            return None;
        }
        // It would be on the device that takes packets out of the tunnel.
        if duty.method == ForwardingMethod::Tunnel && host.links.as_ref().is_some_and(|all| !all.iter().any(|l| l.is_tunnel() && l.is_up()))
        {
            return Some("TUN001");
        }
        let directors = self.director_addresses(duty);
        let through_director = way.as_ref().is_ok_and(|w| w.gateways().iter().any(|g| directors.contains(g)));
        let forwards = duty.arrives(host).and_then(|link| host.effective("forwarding", link)) == Some(1);
        Some(match (through_director, forwards) {
            (true, _) => "NAT007",
            (false, true) => "DR016",
            (false, false) => "DR001",
        })
    }

    fn nat(&self, host: &Host, duty: &Duty, source: IpAddr, way: &Answer<'_>) -> Option<&'static str> {
        if way.is_local() {
            // The real server asks its own service.
            return Some("NAT011");
        }
        let directors = self.director_addresses(duty);
        let gateways = way.gateways();
        if directors.contains(&source) || (!gateways.is_empty() && gateways.iter().all(|g| directors.contains(g))) {
            return None;
        }
        if duty.vip.is_some_and(|vip| host.aside().any(|a| a.addr.addr() == vip)) {
            return Some("NAT007");
        }
        if self.fleet.services.iter().flat_map(|s| &s.service.destinations).any(|d| d.address.addr == source) {
            return Some("NAT011");
        }
        if gateways.is_empty() {
            return (!duty.is_guess()).then_some("NAT003");
        }
        if directors.is_empty() {
            return None;
        }
        let others = host.way(&Ask::to(elsewhere(source.is_ipv6())));
        let usual = others.is_ok_and(|w| w.route != way.route && w.gateways().iter().any(|g| directors.contains(g)));
        Some(if usual { "NAT006" } else { "NAT002" })
    }

    /// The real server or client that a gateway's address belongs to, and that forwards nothing.
    pub(super) fn no_router(&self, gateway: IpAddr) -> Option<&Host> {
        let owners =
            self.fleet.owners(gateway).into_iter().filter(|at| matches!(self.fleet.members[*at].role, Role::RealServer | Role::Client));
        let idle = |host: &&Host| host.address(gateway).is_some_and(|a| host.effective("forwarding", &a.link) == Some(0));
        owners.map(|at| self.host(at)).find(idle)
    }

    fn direct(&self, host: &Host, duty: &Duty, source: IpAddr, way: &Answer<'_>) -> Option<&'static str> {
        let lost_on_lo = way.link().and_then(|l| host.link(l)).is_some_and(crate::host::Link::is_loopback);
        if lost_on_lo && host.address(source).is_none() {
            return Some("DR002");
        }
        let gateways = way.gateways();
        let directors = self.director_addresses(duty);
        if gateways.iter().any(|g| directors.contains(g)) {
            return (!self.lets_answers_through(duty, source)).then_some("DR003");
        }
        if !gateways.is_empty() && gateways.iter().all(|g| self.no_router(*g).is_some()) {
            return Some("DR005");
        }
        let translators = self.translators(duty);
        let elsewhere = |g: &IpAddr| !translators.iter().any(|t| self.host(*t).address(*g).is_some());
        (!translators.is_empty() && !gateways.is_empty() && gateways.iter().all(elsewhere)).then_some("DR005")
    }

    /// Routers that turn an outside address into the service's.
    pub(super) fn translators(&self, duty: &Duty) -> Vec<usize> {
        let Some(vip) = duty.vip else { return Vec::new() };
        let to_vip = |h: &Host| {
            let rules = h.netfilter.as_ref().map(|n| n.translating(vip.is_ipv6(), Hook::Prerouting)).unwrap_or_default();
            rules.iter().any(|r| matches!(r.verdict, FilterVerdict::Dnat(Some(to), _) if to == vip))
        };
        let others = self.fleet.members.iter().enumerate().filter(|(at, m)| m.role != Role::RealServer && Some(*at) != duty.director);
        others.filter(|(_, m)| to_vip(&m.host)).map(|(at, _)| at).collect()
    }

    /// A director can be made a router of its real servers' answers: it forwards, and takes packets with its own address as source.
    fn lets_answers_through(&self, duty: &Duty, source: IpAddr) -> bool {
        let Some(director) = duty.director.map(|at| self.host(at)) else { return false };
        let (Some(vip), Some(rip)) = (duty.vip, duty.rip) else { return false };
        let Ok(towards) = director.way(&Ask::to(rip)) else { return false };
        let Some(link) = towards.link() else { return false };
        let forwards = director.effective("forwarding", link) == Some(1);
        forwards && director.source_check(vip, link) == crate::host::SourceCheck::Accepted && director.way(&Ask::to(source)).is_ok()
    }
}

/// Why it cannot be said whether a real server takes packets for the VIP by a translation of its own.
pub(super) fn may_redirect(host: &Host, duty: &Duty) -> Option<&'static str> {
    let hidden = host.netfilter.as_ref()?.hides_translations(duty.vip?.is_ipv6());
    hidden.then_some("whether it translates what comes for the virtual address: what `iptables-save -t nat` prints there")
}

/// The real server takes packets for the VIP by a translation of its own.
pub(super) fn redirects(host: &Host, duty: &Duty) -> bool {
    let (Some(filter), Some(vip)) = (host.netfilter.as_ref(), duty.vip) else { return false };
    filter.translating(vip.is_ipv6(), Hook::Prerouting).iter().any(|r| {
        let here = r.dst.is_none_or(|(p, not)| p.contains(vip) != not);
        here && matches!(r.verdict, FilterVerdict::Redirect(_) | FilterVerdict::Dnat(..))
    })
}
