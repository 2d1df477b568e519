//! A router hides all clients behind one address.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::host::FilterVerdict;
use crate::host::Hook;
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// A router translates the source of requests to its own address, and the director keeps clients together by their source address:
    /// persistence, or the schedulers sh and mh.
    ///
    /// # Why it breaks
    /// To the director all clients are one. Whatever goes by the client's address sends everybody to one real server.
    ///
    /// # Confirm it by hand
    /// `ipvsadm -Lnc`: one source address in all rows. On the router `iptables -t nat -S POSTROUTING`.
    ///
    /// # Remedy
    /// No source translation, and a route back through the router on every real server; or a scheduler that does not look at the client
    /// (rr, wlc), without persistence.
    ///
    /// # When it is not a fault
    /// With rr, wrr, lc or wlc without persistence it only costs the clients' addresses in the logs.
    ///
    /// # Reproduce
    /// A persistent DR service behind a router with SNAT.
    ///
    /// # References
    /// ipvsadm(8): -p, sh.
    NET003 "router-snat-hides-clients" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the router, and one of the director".to_string()))
}

/// On a router, for a service that goes by the client's address.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (router, host) in site.playing(Role::Router) {
        let Some(filter) = host.netfilter.as_ref() else { continue };
        for (director, service) in site.directed() {
            let Some(asked) = service.address.filter(|_| service.destinations.len() > 1) else { continue };
            let hides = |r: &&crate::host::FilterRule| {
                let port = r
                    .dport
                    .as_ref()
                    .is_none_or(|(ports, not)| ports.iter().any(|(low, high)| (*low..=*high).contains(&asked.port)) != *not);
                let dst = r.dst.is_none_or(|(p, not)| p.contains(asked.addr) != not);
                let out = host.way(&crate::host::Ask::to(asked.addr)).ok().and_then(|w| w.link().map(str::to_string));
                let oif = r.oif.as_ref().is_none_or(|(name, not)| (Some(name.as_str()) == out.as_deref()) != *not);
                matches!(r.verdict, FilterVerdict::Snat(_) | FilterVerdict::Masquerade)
                    && port
                    && dst
                    && oif
                    && r.unknown.is_none()
                    && r.src.is_none()
            };
            let Some(rule) = filter.translating(service.v6, Hook::Postrouting).into_iter().find(hides) else { continue };
            let by_client = service.persistence.is_some() || matches!(service.scheduler.as_str(), "sh" | "mh");
            let on_way = site.is_gateway(router) || host.way(&crate::host::Ask::to(asked.addr)).is_ok_and(|w| w.gateways().is_empty());
            if !by_client || !on_way {
                checks.passed(&host.name, format!("{} does not go by the client's address", service.name()));
                continue;
            }
            let how = service.persistence.map_or_else(|| format!("scheduler {}", service.scheduler), |t| format!("persistence of {t} s"));
            let summary = format!(
                "It hides all clients of {} behind one address, and {how} on {} sends them all to one real server.",
                service.name(),
                director.name
            );
            let (tables, words) = (if service.v6 { "ip6tables" } else { "iptables" }, translation(rule));
            let remedy = crate::finding::Remedy::new(
                &host.name,
                format!("{tables} -t nat -D {words}"),
                "the rule out of where the firewall is kept; every real server then needs a route back through this router",
                format!("{tables} -t nat -A {words}"),
            );
            let found = proven(host, Severity::Degraded, summary, rule.text.clone(), "iptables-save -t nat")
                .and([crate::finding::Evidence::host(&director.name, how, "ipvsadm -Sn")])
                .mend([remedy]);
            checks.failed(&host.name, found);
        }
    }
}

/// The rule as iptables(8) would take it, whoever wrote it.
fn translation(rule: &crate::host::FilterRule) -> String {
    if let Some(words) = rule.text.strip_prefix("-A ") {
        return words.to_string();
    }
    let mut text = "POSTROUTING".to_string();
    let mut add = |not: bool, words: String| text += &format!("{} {words}", if not { " !" } else { "" });
    if let Some((name, not)) = &rule.oif {
        add(*not, format!("-o {name}"));
    }
    for (option, prefix) in [("-s", rule.src), ("-d", rule.dst)] {
        if let Some((prefix, not)) = prefix {
            add(not, format!("{option} {}", if prefix.is_host() { prefix.addr().to_string() } else { prefix.to_string() }));
        }
    }
    if let Some((protocol, not)) = rule.protocol {
        add(not, format!("-p {protocol}"));
    }
    if let Some((ports, not)) = &rule.dport
        && let [(low, high)] = ports[..]
    {
        add(*not, if low == high { format!("--dport {low}") } else { format!("--dport {low}:{high}") });
    }
    match rule.verdict {
        FilterVerdict::Snat(Some(to)) => text + &format!(" -j SNAT --to-source {to}"),
        _ => text + " -j MASQUERADE",
    }
}
