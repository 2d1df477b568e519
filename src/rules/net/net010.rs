//! Several default routes, or one that no file keeps.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::host::Host;
use crate::ipvs::Role;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// A real server or router has more than one default route in its main table, through different gateways; or its default route
    /// stands in no configuration file that was found.
    ///
    /// # Why it breaks
    /// The lowest metric decides, and a DHCP lease, a cable or a restart changes it: answers then leave through another gateway, past
    /// the director or the translating router. A route typed in by hand is gone after the next boot.
    ///
    /// # Confirm it by hand
    /// `ip route show default`; then look for the gateway in the network's configuration.
    ///
    /// # Remedy
    /// One default route, in the configuration.
    ///
    /// # When it is not a fault
    /// When the second one is a backup on purpose, through the same kind of router.
    ///
    /// # Reproduce
    /// `ip route add default via OTHER metric 100`.
    ///
    /// # References
    /// ip-route(8).
    NET010 "multiple-or-volatile-default-routes" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the real servers".to_string()))
}

/// True for two addresses of one machine, by what is known of them: its snapshot, or its MAC in the neighbour table.
fn is_one(site: &Site<'_>, host: &Host, one: IpAddr, other: IpAddr) -> bool {
    let mac = |addr: IpAddr| host.neighbours.iter().flatten().find(|n| n.addr == addr)?.mac;
    let others = site.fleet.owners(other);
    mac(one).is_some_and(|known| mac(other) == Some(known)) || site.fleet.owners(one).iter().any(|owner| others.contains(owner))
}

/// On real servers and routers.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for member in site.fleet.members.iter().filter(|m| m.same_as.is_none() && matches!(m.role, Role::RealServer | Role::Router)) {
        let host = &member.host;
        let Some(routes) = host.routes.as_deref() else { continue };
        for v6 in [false, true] {
            let defaults: Vec<_> =
                routes.iter().filter(|r| r.table == crate::host::MAIN && r.is_default() && r.v6 == v6 && !r.hops.is_empty()).collect();
            // Over IPv6 a router is known by two addresses: the one that was typed in, and the one from which it advertises itself.
            let mut gateways: Vec<IpAddr> = Vec::new();
            for gateway in defaults.iter().flat_map(|r| &r.hops).filter_map(|h| h.gateway) {
                if !gateways.iter().any(|known| *known == gateway || is_one(site, host, *known, gateway)) {
                    gateways.push(gateway);
                }
            }
            let ip = if v6 { "ip -6" } else { "ip" };
            if defaults.len() > 1 && gateways.len() > 1 {
                let words: Vec<String> = defaults
                    .iter()
                    .map(|r| format!("via {} metric {}", r.hops[0].gateway.map_or("?".to_string(), |g| g.to_string()), r.metric))
                    .collect();
                let worst = defaults.iter().max_by_key(|r| r.metric).and_then(|r| Some((r.hops[0].gateway?, r.metric)));
                let summary =
                    format!("There are {} default routes through different gateways: the lowest metric decides, today.", defaults.len());
                let mut found = proven(host, Severity::Risky, summary, words.join(", "), format!("{ip} route show default"));
                if let Some((gateway, metric)) = worst {
                    found = found.mend([crate::finding::Remedy::new(
                        &host.name,
                        format!("{ip} route del default via {gateway} metric {metric}"),
                        "only one gateway in the network's configuration",
                        format!("{ip} route add default via {gateway} metric {metric}"),
                    )]);
                }
                checks.failed(&host.name, found);
                continue;
            }
            let (Some(gateway), Some(saved)) = (gateways.first(), host.saved.as_ref()) else { continue };
            let kept = saved.network.iter().any(|n| n.gateways.contains(gateway) || n.dhcp);
            let dynamic = defaults.iter().any(|r| matches!(r.protocol.as_str(), "dhcp" | "ra" | "bird" | "bgp" | "ospf" | "zebra"));
            if saved.network.is_empty() || kept || dynamic {
                checks.passed(&host.name, format!("one default route, via {gateway}"));
                continue;
            }
            let device = defaults[0].hops[0].link.as_deref().unwrap_or("IF");
            let summary = format!("The default route via {gateway} is in no configuration file: it will be gone after the next boot.");
            let keep = super::super::remedy::keep_route(host, &gateway.to_string(), device);
            // Where a line of a file is all that it takes, that is what to do now.
            let file = saved.network.iter().find(|n| n.device.as_deref() == Some(device) && n.system == "ifcfg").map(|n| &n.file);
            let remedy = match file {
                Some(file) => crate::finding::Remedy::new(
                    &host.name,
                    format!("echo 'GATEWAY={gateway}' >> {file}"),
                    "that is all",
                    format!("sed -i '/^GATEWAY=/d' {file}"),
                ),
                None => crate::finding::Remedy::new(&host.name, format!("{ip} route show default"), keep, "the line out of the file again"),
            };
            checks.failed(
                &host.name,
                proven(host, Severity::Risky, summary, format!("default via {gateway} dev {device}"), format!("{ip} route show default"))
                    .mend([remedy]),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::*;
    use crate::finding::Confidence;
    use crate::host::{Neighbour, NextHop, Route};

    /// The DR site with one more IPv6 default route on a real server, by what its router says of itself.
    fn site(macs: [&str; 2]) -> Vec<Sketch> {
        let gateways = ["2001:db8::1", "fe80::1"];
        let routes = gateways.map(|gateway| {
            let hops = vec![NextHop { link: Some("eth0".into()), gateway: Some(gateway.parse().unwrap()), dead: false }];
            Route { v6: true, table: crate::host::MAIN, hops, ..Route::default() }
        });
        let known = gateways.iter().zip(macs).map(|(gateway, mac)| Neighbour {
            addr: gateway.parse().unwrap(),
            link: "eth0".into(),
            mac: mac.parse().ok(),
            state: "STALE".into(),
        });
        let known: Vec<Neighbour> = known.collect();
        let mut all = sketch::dr().to_vec();
        for s in &mut all {
            if s.is("web1") {
                let (routes, known) = (routes.clone(), known.clone());
                *s = s.clone().with(move |h| {
                    h.routes.get_or_insert_default().extend(routes);
                    h.neighbours = Some(known);
                });
            }
        }
        all
    }

    #[test]
    fn one_router_with_two_addresses_is_one() {
        let found = sketch::expect(
            &site(["02:00:00:00:00:01", "02:00:00:00:00:02"]),
            &NET010,
            crate::finding::Severity::Risky,
            Confidence::Certain,
            "web1",
        );
        assert!(found.summary.contains("2 default routes"), "{}", found.summary);
        let same = sketch::audit(&site(["02:00:00:00:00:01", "02:00:00:00:00:01"]));
        assert!(same.findings.iter().all(|f| f.code != "NET010"));
        // Not known to be one.
        let unknown = sketch::audit(&site(["?", "?"]));
        assert!(unknown.findings.iter().any(|f| f.code == "NET010"));
    }
}
