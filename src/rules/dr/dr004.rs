//! A real server of a DR service has no route back to its clients.

use super::super::remedy::add_default_route;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{DIRECT, vip};
use crate::finding::{Outcome, Severity};

rule! {
    /// # What it sees
    /// The SYN, addressed to the VIP, arrives at the real server. Then silence: neither a SYN-ACK nor an ARP question for a gateway. The
    /// client is not on the real server's own network.
    ///
    /// # Why it breaks
    /// The answer goes from the VIP to the client's address, past the director. Without a route to it the real server drops the answer, or,
    /// with `rp_filter` on, already the request.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get CLIENT from VIP` says `Network is unreachable`.
    ///
    /// # Remedy
    /// A default route through the router, not through the director.
    ///
    /// # When it is not a fault
    /// When the router translates sources to an address of the servers' network: then no gateway is needed. The same silence comes from a
    /// missing VIP (DR001), `rp_filter` (DR018) or a firewall (NET008).
    ///
    /// # Reproduce
    /// A DR service behind a router that only translates destinations; on the real servers `ip route del default`.
    ///
    /// # References
    /// LVS-HOWTO chapter LVS-DR; kernel `net/ipv4/fib_frontend.c`, `fib_validate_source`.
    DR004 "rs-no-default-route" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = facts.silences("DR004").into_iter().map(|silence| {
        let (flow, names) = (silence.flows[0], silence.names(facts));
        let router = facts.at_director(flow).and_then(|hop| Some((hop.from?, hop.src_mac)));
        let gateway = facts.address_on(router.map(|r| r.0), router.and_then(|r| r.1), &[flow.client.addr, flow.service.addr], "ROUTER");
        let settle = format!("`ip route get {} from {}`", silence.hop.src.addr, vip(flow));
        silence.finding(facts, Severity::Broken, &settle).mend([add_default_route(&names, &gateway)])
    });
    Outcome::or_need(found.collect(), facts.unwatched_server(&DIRECT))
}

/// On the host: a look-up of the way to those who asked.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.unroutable(checks, "DR004", |duty| site.router_of(duty));
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    fn silent(snat: bool) -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            w.who_has("director", "int", rip, &[web]);
            let mut c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
            if snat {
                c = c.snat("router", &format!("10.2.0.1:{port}"));
            }
            w.syn(&c, &format!("client router director {web}"), 3);
        }
        w
    }

    #[test]
    fn all_servers_are_silent_towards_clients_far_away() {
        let found = silent(false).expect(&DR004, Confidence::Likely, "web1, web2");
        assert_eq!(found.remedy[0].command, "ip route add default via 10.2.0.1");
        assert!(found.alternatives.contains(&"DR001"));
    }

    #[test]
    fn sources_on_the_servers_network_need_no_gateway() {
        let w = silent(true);
        w.deny(&DR004);
        let diagnosis = w.diagnose();
        assert!(diagnosis.findings.iter().all(|f| !f.alternatives.contains(&"DR004")), "{:?}", diagnosis.findings);
    }

    #[test]
    fn a_server_that_sends_elsewhere_has_a_route() {
        let mut w = silent(false);
        let out = World::tcp("10.2.0.11:50001", "198.51.100.7:443");
        w.syn(&out, "web1 router", 1);
        let out = World::tcp("10.2.0.12:50001", "198.51.100.7:443");
        w.syn(&out, "web2 router", 1);
        w.deny(&DR004);
    }
}
