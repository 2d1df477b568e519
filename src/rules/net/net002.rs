//! A router that should translate requests to the VIP, and does not.

use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::half_seen_router;
use crate::finding::Severity;
use crate::finding::{Outcome, Remedy};
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// The SYN to the router's outer address arrives at the router. The router refuses it itself (RST with its own MAC and TTL) or stays
    /// silent, and no SYN to the VIP leaves by its inner interface.
    ///
    /// # Why it breaks
    /// Behind a translating router, clients know only the router's address. Without a DNAT rule that matches, the router takes the request
    /// for itself. Typical: `-i` names an interface that does not exist or is the inner one, another port or protocol, another address.
    ///
    /// # Confirm it by hand
    /// On the router: `iptables -t nat -L PREROUTING -v -n` or `nft list ruleset`: is the rule there, does it name the interface by which
    /// requests arrive, does it count?
    ///
    /// # Remedy
    /// The DNAT rule with the right interface and port, saved.
    ///
    /// # When it is not a fault
    /// Connections that the router opens itself, or that come from inside, never match a rule for the outer interface (NET005). When the
    /// address is the VIP itself and this host the director, it has no such virtual service (SVC027).
    ///
    /// # Reproduce
    /// A DR service behind a router; its DNAT rule with the name of another interface.
    ///
    /// # References
    /// iptables-extensions(8), DNAT; nft(8), nat statements; kernel `net/netfilter/nf_nat_core.c`.
    NET002 "router-dnat-missing-or-wrong-iface" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = facts.losses("NET002").into_iter().map(|loss| {
        let (name, flow) = (facts.name(Some(loss.host)), loss.flows[0]);
        let summary = match loss.refusal {
            Some(_) => format!("{name} refuses requests for {} itself instead of translating them to a virtual service.", loss.service()),
            None => format!("{name} receives requests for {}, its own address, and neither translates nor refuses them.", loss.service()),
        };
        let (tables, save) = match loss.hop.dst.addr.is_ipv6() {
            true => ("ip6tables", "/etc/sysconfig/ip6tables or /etc/iptables/rules.v6"),
            false => ("iptables", "/etc/sysconfig/iptables or /etc/iptables/rules.v4"),
        };
        let interface = facts.interface(Some(loss.host), &flow.request);
        let (protocol, dst) = (flow.protocol.to_string().to_lowercase(), loss.hop.dst);
        let target = target(facts, loss.host).unwrap_or_else(|| format!("VIP:{}", dst.port));
        let rule =
            format!("PREROUTING -i {interface} -d {} -p {protocol} --dport {} -j DNAT --to-destination {target}", dst.addr, dst.port);
        let mended = Remedy::new(
            name,
            format!("{tables} -t nat -A {rule}"),
            format!("{tables}-save into {save}"),
            format!("{tables} -t nat -D {rule}"),
        );
        loss.finding(facts, summary, &format!("on {name}: `{tables} -t nat -L PREROUTING -v -n`, or a snapshot")).mend([mended])
    });
    Outcome::or_need(found.collect(), half_seen_router(facts))
}

/// Where the router sends what it does translate.
fn target(facts: &Facts<'_>, router: usize) -> Option<String> {
    let translated = facts.flows().filter_map(|f| facts.translation(f)).find(|(by, ..)| *by == router).map(|(_, _, after)| after.dst);
    translated.or_else(|| facts.hints.services.first().copied()).map(|vip| vip.to_string())
}

/// On routers: translation rules that name a card that is not there, lead nowhere, or are missing.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    use crate::host::{FilterVerdict, Hook};
    let vips = site.fleet.vips();
    for (at, host) in site.playing(Role::Router) {
        let Some(filter) = host.netfilter.as_ref() else {
            checks.needs(&host.name, format!("its translation rules: {}", host.why_absent("netfilter")));
            continue;
        };
        let mut leads = false;
        let rules: Vec<&crate::host::FilterRule> = [false, true].iter().flat_map(|v6| filter.translating(*v6, Hook::Prerouting)).collect();
        let absent = |rule: &crate::host::FilterRule| {
            let (name, not) = rule.iif.clone()?;
            (!not && !name.ends_with(['+', '*']) && host.links.is_some() && host.link(&name).is_none()).then_some(name)
        };
        for rule in &rules {
            let FilterVerdict::Dnat(Some(to), port) = rule.verdict else { continue };
            // A left-over does no harm beside a rule that does the same for an interface that is there.
            let another =
                || rules.iter().any(|other| matches!(other.verdict, FilterVerdict::Dnat(Some(t), _) if t == to) && absent(other).is_none());
            if let (Some(name), true) = (absent(rule), vips.contains(&to) || vips.is_empty()) {
                if another() {
                    continue;
                }
                let summary =
                    format!("The rule that translates to {to} is for packets from {name}, an interface that this router does not have.");
                // Requests come in by a card that does not face the VIP; where several do not, the reader has to choose.
                let faces = |link: &str| host.addresses().iter().any(|a| a.link == link && a.addr.contains(to));
                let outer: Vec<&str> = host.links().iter().filter(|l| l.speaks_arp() && !faces(&l.name)).map(|l| l.name.as_str()).collect();
                let mended = translation(rule, if let [only] = outer[..] { only } else { "OUTER" }, to, port);
                let remedy = crate::finding::Remedy::new(
                    &host.name,
                    format!("iptables -t nat -A {mended}"),
                    format!(
                        "the rule with the outer interface ({}) where the firewall is kept, instead of the old one",
                        outer.join(" or ")
                    ),
                    format!("iptables -t nat -D {mended}"),
                );
                checks
                    .failed(&host.name, proven(host, Severity::Broken, summary, rule.text.clone(), "iptables-save -t nat").mend([remedy]));
                continue;
            }
            let port = port.or_else(|| rule.dport.as_ref().and_then(|(ports, _)| ports.first()).map(|(low, _)| *low));
            let served = |s: &crate::host::Served| {
                s.service.address.is_some_and(|e| e.addr == to && (e.port == 0 || port.is_none_or(|p| p == e.port)))
            };
            if vips.contains(&to) && !site.fleet.services.iter().any(served) {
                let known: Vec<String> =
                    site.fleet.services.iter().filter(|s| s.service.vip() == Some(to)).map(|s| s.service.name()).collect();
                let summary = format!(
                    "It translates to {to}, port {}; the director serves {} there.",
                    port.unwrap_or(0),
                    super::super::facts::list(&known)
                );
                checks.failed(&host.name, proven(host, Severity::Broken, summary, rule.text.clone(), "iptables-save -t nat"));
                continue;
            }
            leads = leads || vips.contains(&to);
        }
        if leads {
            checks.passed(&host.name, "it translates to the virtual address");
            continue;
        }
        // Those of this router, or of another on the same way.
        let unread = |m: &crate::host::Host| m.netfilter.as_ref().is_some_and(|n| n.may_translate(false));
        if site.playing(Role::Router).any(|(_, router)| unread(router)) {
            checks.needs(&host.name, "the rules of the old iptables (`iptables-save`, then `snapshot import`)");
            continue;
        }
        // No translation: then clients must have a route to the virtual address, or another router translates.
        let others = site.duties.iter().any(|d| !site.translators(d).is_empty());
        let clients: Vec<&crate::host::Host> = site.playing(Role::Client).map(|(_, h)| h).collect();
        let unserved = |s: &&crate::host::Served| {
            let Some(vip) = s.service.vip() else { return false };
            let near = s.director.is_some() && site.is_between(at, vip, &clients);
            near && !clients.is_empty()
                && clients.iter().all(|c| matches!(c.way(&crate::host::Ask::to(vip)), Err(crate::host::NoRoute::Unreachable)))
        };
        if let Some(served) = site.fleet.services.iter().filter(|_| !others).find(unserved) {
            let (vip, name) = (served.service.vip().map_or_else(String::new, |v| v.to_string()), served.service.name());
            let outer = site.facing(host, &clients).unwrap_or("OUTER");
            let summary =
                format!("Clients have no route to {vip}, and no rule of this router translates to it: requests for {name} go no further.");
            let protocol = served.service.protocol.unwrap_or(crate::net::Protocol::Tcp);
            let port = served.service.address.map_or(0, |e| e.port);
            let rule = format!("PREROUTING -i {outer} -p {protocol} --dport {port} -j DNAT --to-destination {vip}");
            let remedy = crate::finding::Remedy::new(
                &host.name,
                format!("iptables -t nat -A {rule}"),
                "the same rule where the firewall is kept (iptables-save, firewalld, nftables.conf)",
                format!("iptables -t nat -D {rule}"),
            );
            let client = clients.first().map_or("client", |c| c.name.as_str());
            let found = proven(host, Severity::Broken, summary, format!("no DNAT to {vip}"), "iptables-save -t nat")
                .and([crate::finding::Evidence::host(client, "Network is unreachable", format!("ip route get {vip}"))])
                .mend([remedy]);
            checks.failed(&host.name, found);
        }
    }
}

/// The rule as iptables(8) would take it, whoever wrote it, for another interface.
fn translation(rule: &crate::host::FilterRule, iif: &str, to: std::net::IpAddr, port: Option<u16>) -> String {
    let mut text = format!("PREROUTING -i {iif}");
    if let Some((dst, false)) = rule.dst {
        text += &format!(" -d {}", if dst.is_host() { dst.addr().to_string() } else { dst.to_string() });
    }
    if let Some((protocol, false)) = rule.protocol {
        text += &format!(" -p {protocol}");
    }
    if let Some((ports, false)) = &rule.dport
        && let [(low, high)] = ports[..]
    {
        text += &if low == high { format!(" --dport {low}") } else { format!(" --dport {low}:{high}") };
    }
    let to = port.map_or_else(|| to.to_string(), |port| crate::net::Endpoint::new(to, port).to_string());
    text + &format!(" -j DNAT --to-destination {to}")
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{REFUSE, World};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn the_router_refuses() {
        let mut w = World::dr();
        w.who_has("client", "ext", "10.1.0.1", &["router"]);
        for port in [40001, 40002] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80");
            w.syn(&c, "client router", 1);
            w.carry(&c, true, REFUSE, b"", "router client");
        }
        let found = w.expect(&NET002, Confidence::Likely, "router");
        assert_eq!(found.flows, [1, 2]);
        let rule = "iptables -t nat -A PREROUTING -i ext -d 10.1.0.1 -p tcp --dport 80 -j DNAT --to-destination VIP:80";
        assert_eq!(found.remedy[0].command, rule);
    }

    /// Rules of nf_tables are read in its own words; what is printed is a command all the same.
    #[test]
    fn a_translation_is_printed_as_a_command() {
        let rule = crate::host::FilterRule {
            text: "iifname ens9 ip daddr 10.1.0.1 meta l4proto tcp dport 80 dnat to 10.2.0.100".into(),
            dst: Some(("10.1.0.1/32".parse().expect("a prefix"), false)),
            protocol: Some((crate::net::Protocol::Tcp, false)),
            dport: Some((vec![(80, 80)], false)),
            ..crate::host::FilterRule::default()
        };
        let to = "10.2.0.100".parse().expect("an address");
        let expected = "PREROUTING -i ext -d 10.1.0.1 -p tcp --dport 80 -j DNAT --to-destination";
        assert_eq!(translation(&rule, "ext", to, Some(8080)), format!("{expected} 10.2.0.100:8080"));
        assert_eq!(translation(&rule, "ext", to, None), format!("{expected} 10.2.0.100"));
    }

    #[test]
    fn the_router_is_silent() {
        let mut w = World::dr();
        w.who_has("client", "ext", "10.1.0.1", &["router"]);
        w.syn(&World::tcp("10.1.0.100:40001", "10.1.0.1:80"), "client router", 3);
        let found = w.expect(&NET002, Confidence::Likely, "router");
        assert!(found.alternatives.contains(&"NET008"));
    }

    #[test]
    fn a_closed_port_beside_a_service_may_be_meant_so() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        let closed = World::tcp("10.1.0.100:40002", "10.1.0.1:23");
        w.syn(&closed, "client router", 1);
        w.carry(&closed, true, REFUSE, b"", "router client");
        w.expect(&NET002, Confidence::Possible, "router");
    }

    #[test]
    fn a_second_uplink_without_the_rule() {
        let mut w = World::dr().plug("other.eth0", "ext2", "10.4.0.100").plug("router.ext2", "ext2", "10.4.0.1");
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        let missed = World::tcp("10.4.0.100:40002", "10.1.0.1:80");
        w.syn(&missed, "other router", 1);
        w.carry(&missed, true, REFUSE, b"", "router other");
        let found = w.expect(&NET002, Confidence::Likely, "router");
        assert!(found.remedy[0].command.ends_with("-i ext2 -d 10.1.0.1 -p tcp --dport 80 -j DNAT --to-destination 10.2.0.100:80"));
    }

    #[test]
    fn a_router_that_translates_is_right() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w.deny(&NET002);
    }

    #[test]
    fn a_real_server_that_refuses_through_the_router_is_another_story() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router director web1", 1);
        w.carry(&c, true, REFUSE, b"", "web1 router client");
        w.deny(&NET002);
    }
}
