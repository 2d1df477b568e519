//! A real server speaks as the VIP when it speaks for itself.

use super::super::remedy::ip_for;
use super::super::site::{elsewhere, proven};
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Remedy, Severity};
use crate::host::{Ask, NoRoute};

rule! {
    /// # What it sees
    /// A real server whose own connections to other networks leave with the VIP as source.
    ///
    /// # Why it breaks
    /// A connection that a real server opens itself (updates, name servers, a database) takes the source address that its route suggests,
    /// or the first of the card. Is that the VIP, answers go to the director, which knows no such connection.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get 192.0.2.1` says `src VIP`.
    ///
    /// # Remedy
    /// The real server's own address first on its card, and the VIP as /32 on lo; a route that says `src VIP` without it.
    ///
    /// # When it is not a fault
    /// Answers to clients: their source is the VIP, and has to be.
    ///
    /// # Reproduce
    /// `ip route change default via GATEWAY src VIP`.
    ///
    /// # References
    /// kernel `net/ipv4/devinet.c`, `inet_select_addr`; ip-route(8), src.
    DR011 "vip-chosen-as-source" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the real servers".to_string()))
}

/// On real servers that have the VIP.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&super::FORWARDED_WHOLE) {
        let host = site.host(duty.member);
        let Some(vip) = duty.vip.filter(|vip| host.address(*vip).is_some()) else { continue };
        let far = elsewhere(vip.is_ipv6());
        let way = match host.way(&Ask::to(far)) {
            Ok(way) if !way.is_local() => way,
            Err(NoRoute::Unknown(why)) => {
                checks.needs(&host.name, why);
                continue;
            }
            _ => continue,
        };
        let Some(source) = way.source else { continue };
        if source != vip {
            checks.passed(&host.name, format!("it speaks for itself as {source}"));
            continue;
        }
        let rip = duty.rip.map_or_else(|| "RIP".to_string(), |rip| rip.to_string());
        let ip = ip_for(&vip.to_string());
        let (link, said) = (way.link().unwrap_or("IF"), way.route.source == Some(vip));
        let hop = way.gateways().first().map_or_else(String::new, |g| format!(" via {g}"));
        let route = |source: &str| format!("{ip} route replace default{hop} dev {link} src {source}");
        let undo = if said { route(&vip.to_string()) } else { format!("{ip} route replace default{hop} dev {link}") };
        let summary = format!("Its own connections to other networks leave as {vip}: answers go to the director, and never come back.");
        let remedy =
            Remedy::new(&host.name, route(&rip), "the real server's own address as the first one of its card, and the VIP on lo", undo);
        let found = proven(host, Severity::Degraded, summary, format!("{} src {vip}", way.words()), format!("{ip} route get {far}"));
        checks.failed(&host.name, found.mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, dr_with};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn a_route_that_suggests_the_vip() {
        let suggests = |web: sketch::Sketch| {
            web.with(|h| {
                let defaults = h.routes.iter_mut().flatten().filter(|r| r.hops[0].gateway.is_some());
                defaults.for_each(|r| r.source = "10.0.0.100".parse().ok());
            })
        };
        let found = sketch::expect(&dr_with("web1", suggests), &DR011, Severity::Degraded, Confidence::Certain, "web1");
        assert_eq!(found.remedy[0].command, "ip route replace default via 10.0.0.1 dev eth0 src 10.0.0.11");
        sketch::passes(&sketch::dr(), &DR011, "web1");
    }
}
