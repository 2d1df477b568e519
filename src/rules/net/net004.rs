//! A director has no way back to clients.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::ipvs::ForwardingMethod;

rule! {
    /// # What it sees
    /// A look-up on the director of the way to those who asked fails.
    ///
    /// # Why it breaks
    /// In NAT the director itself sends the answers on: they die there. With direct routing and tunnels only its own words get lost:
    /// resets, `fragmentation needed`, port unreachable.
    ///
    /// # Confirm it by hand
    /// On the director: `ip route get CLIENT`.
    ///
    /// # Remedy
    /// A default route through the router.
    ///
    /// # When it is not a fault
    /// When every client is on a link of the director, or a router translates the source to an address that is.
    ///
    /// # Reproduce
    /// `ip route del default` on a director whose clients are behind a router.
    ///
    /// # References
    /// ip-route(8).
    NET004 "director-or-vip-no-route-back" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// On the director: the way to those who asked.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for served in &site.fleet.services {
        let Some(host) = served.director.map(|at| site.host(at)) else { continue };
        let sources = site.fleet.sources(served);
        for source in &sources {
            match host.way(&crate::host::Ask::to(source.addr)) {
                Ok(way) => checks.passed(&host.name, format!("{} is reached {}", source.addr, way.words())),
                Err(crate::host::NoRoute::Unknown(why)) => checks.needs(&host.name, why),
                Err(_) => {
                    let nat = served.service.destinations.iter().any(|d| d.forwarding() == Some(ForwardingMethod::Nat));
                    let (severity, effect) = match nat {
                        true => (Severity::Broken, "answers of real servers end here"),
                        false => (Severity::Risky, "its resets and ICMP errors get lost, answers of real servers do not"),
                    };
                    let summary = format!("The director has no route to {} ({}): {effect}.", source.addr, source.by);
                    let router = site.playing(crate::ipvs::Role::Router).flat_map(|(_, r)| r.addresses()).map(|a| a.addr.addr());
                    let near = |a: &std::net::IpAddr| {
                        host.addresses().iter().any(|own| own.is_global() && !own.addr.is_host() && own.addr.contains(*a))
                    };
                    let gateway = router.into_iter().find(near).map_or_else(|| "GATEWAY".to_string(), |a| a.to_string());
                    let remedy = super::super::remedy::route_through(host, &gateway, "IF");
                    let ip = super::super::remedy::ip_for(&source.addr.to_string());
                    checks.failed(
                        &host.name,
                        proven(host, severity, summary, "Network is unreachable", format!("{ip} route get {}", source.addr)).mend([remedy]),
                    );
                }
            }
        }
    }
}
