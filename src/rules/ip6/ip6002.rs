//! A way out that was learnt from a router, and that nobody renews.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Evidence, Need, Outcome, Remedy, Severity};
use crate::host::MAIN;
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// A host that forwards IPv6 and whose default route was learnt from a router advertisement, with `accept_ra` at 1.
    ///
    /// # Why it breaks
    /// Who forwards is a router, and a router does not listen to other routers: with forwarding on, accept_ra=1 means no. Container engines
    /// switch forwarding on: then the kernel takes the learnt route away at once, and the host has none (NAT001, DR004). Where the route
    /// is still there, because accept_ra was 2 until then or another program put it there, nobody renews it, and it goes when its lifetime
    /// is over (1800 s as a rule).
    ///
    /// # Confirm it by hand
    /// `ip -6 route show default`: proto ra, with an `expires` that only falls. `sysctl net.ipv6.conf.IF.accept_ra
    /// net.ipv6.conf.IF.forwarding`.
    ///
    /// # Remedy
    /// A static default route; or `sysctl -w net.ipv6.conf.IF.accept_ra=2`, which listens all the same.
    ///
    /// # When it is not a fault
    /// When something else than the kernel listens to advertisements (networkd, NetworkManager): their routes are renewed.
    ///
    /// # Reproduce
    /// Forwarding on, accept_ra=2, a default route by advertisement; then `sysctl -w net.ipv6.conf.IF.accept_ra=1`, and half an hour.
    ///
    /// # References
    /// kernel `Documentation/networking/ip-sysctl.rst`: accept_ra; `net/ipv6/addrconf.c`, `addrconf_fixup_forwarding`.
    IP6002 "v6-gateway-by-ra" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the host".to_string()))
}

/// On everybody who has a part.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for member in site.fleet.members.iter().filter(|m| m.same_as.is_none() && m.role != Role::Client) {
        let host = &member.host;
        let defaults = host.routes.iter().flatten().filter(|r| r.v6 && r.table == MAIN && r.is_default() && r.protocol == "ra");
        for (route, hop) in defaults.filter_map(|r| Some((r, r.hops.first()?))) {
            let Some(link) = hop.link.as_deref() else { continue };
            let key = |name: &str| format!("net.ipv6.conf.{}.{name}", link.replace('.', "/"));
            let (Some(accepts), Some(forwards)) = (host.sysctl(&key("accept_ra")), host.sysctl(&key("forwarding"))) else {
                checks.needs(&host.name, format!("net.ipv6.conf.{link}.accept_ra and forwarding"));
                continue;
            };
            // A static route beside it goes on when it is gone.
            let other =
                host.routes.iter().flatten().any(|r| r.v6 && r.table == MAIN && r.is_default() && r.protocol != "ra" && !r.hops.is_empty());
            if accepts != 1 || forwards == 0 || other {
                checks.passed(&host.name, format!("the default route by {link} is renewed, or there is another"));
                continue;
            }
            let gateway = hop.gateway.map_or_else(|| "a router".to_string(), |g| g.to_string());
            let summary = format!("Its IPv6 default route was learnt from {gateway}, and is not renewed: it forwards, and accept_ra is 1.");
            let remedy = Remedy::new(
                &host.name,
                format!("sysctl -w {}=2", key("accept_ra")),
                format!("{}=2 in /etc/sysctl.d/90-lvs.conf; or a static default route in the network's configuration", key("accept_ra")),
                format!("sysctl -w {}=1", key("accept_ra")),
            );
            let fact = format!("default via {gateway} dev {link} proto {}", route.protocol);
            let settings = format!("{}=1, {}={forwards}", key("accept_ra"), key("forwarding"));
            let found = proven(host, Severity::Risky, summary, fact, "ip -6 route show default")
                .and([Evidence::host(&host.name, settings, "sysctl")])
                .mend([remedy]);
            checks.failed(&host.name, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn a_forwarder_that_does_not_listen() {
        let site = |forwards: &str, accepts: &str| {
            let web = Sketch::new("web1").card("eth0", "2001:db8:2::11/64").via("::/0", "2001:db8:2::1", "eth0");
            let learnt =
                web.with(|h| h.routes.iter_mut().flatten().filter(|r| r.hops[0].gateway.is_some()).for_each(|r| r.protocol = "ra".into()));
            [learnt.set("net.ipv6.conf.eth0.forwarding", forwards).set("net.ipv6.conf.eth0.accept_ra", accepts)]
        };
        let found = sketch::expect(&site("1", "1"), &IP6002, Severity::Risky, Confidence::Certain, "web1");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv6.conf.eth0.accept_ra=2");
        for (forwards, accepts) in [("0", "1"), ("1", "2"), ("1", "0")] {
            sketch::passes(&site(forwards, accepts), &IP6002, "web1");
        }
    }
}
