//! A real server of a NAT service has no route back to its clients.

use super::super::remedy::add_default_route;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Outcome, Severity};
use crate::trace::Method;

rule! {
    /// # What it sees
    /// The SYN, translated by the director, arrives at the real server. Then silence: no SYN-ACK, and no ARP question for any gateway. The
    /// client repeats its SYN after 1, 3 and 7 seconds and gives up.
    ///
    /// # Why it breaks
    /// In NAT mode the client's address stays in the packet. The real server must route its answer to that address, and through the
    /// director, which alone can put the VIP back into it. Without any route it drops the packet: with `rp_filter` on already at the door
    /// (there is no route back to the source), otherwise when it answers.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get CLIENT` says `Network is unreachable`. `nstat -az IpOutNoRoutes TcpExtIPReversePathFilter` counts
    /// up with each SYN.
    ///
    /// # Remedy
    /// A default route through the director's address on the real servers' side, the floating one where there are two directors.
    ///
    /// # When it is not a fault
    /// When another cause keeps the server silent: a firewall on it (NET008). Packets look the same; `ip route get` tells.
    ///
    /// # Reproduce
    /// A NAT service; on one real server `ip route del default`.
    ///
    /// # References
    /// ipvsadm(8), LVS-HOWTO chapter LVS-NAT; kernel `net/ipv4/fib_frontend.c`, `fib_validate_source`.
    NAT001 "rs-no-default-route" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let silent = facts.silences("NAT001");
    let found = silent.iter().map(|silence| {
        let (flow, names) = (silence.flows[0], silence.names(facts));
        silence
            .finding(facts, Severity::Broken, &format!("`ip route get {}`", flow.client.addr))
            .mend([add_default_route(&names, &super::gateway(facts, flow))])
    });
    Outcome::or_need(found.collect(), facts.unwatched_server(&[Method::Nat]))
}

/// On the host: a look-up of the way to those who asked.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.unroutable(checks, "NAT001", |duty| site.gateway_of(duty));
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    /// Captured alone, it is for its own address that it stays silent.
    #[test]
    fn the_silent_server_alone() {
        let mut w = World::nat();
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 3);
        let w = w.without(&["client", "director", "web2"]);
        let found = w.finding(&NAT001);
        assert_eq!((found.confidence, found.remedy[0].command.as_str()), (Confidence::Possible, "ip route add default via 10.2.0.1"));
        assert!(found.alternatives.contains(&"NET008"));
    }

    /// A machine behind a translating forwarder that never served may be a director, or anything else.
    #[test]
    fn a_router_with_one_target_is_no_proven_director() {
        let mut w = World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("box.ext", "ext", "10.1.0.1")
            .plug("box.int", "int", "10.2.0.1")
            .plug("other.eth0", "int", "10.2.0.11");
        w.who_has("client", "ext", "10.1.0.1", &["box"]);
        w.who_has("box", "int", "10.2.0.11", &["other"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("box", "10.2.0.11:80");
        w.syn(&c, "client box other", 3);
        let found = w.expect(&NAT001, Confidence::Possible, "other");
        assert!(found.settle.is_some_and(|settle| settle.contains("is it a director?")));
        // The user knows it.
        w.ipvs("-A -t 10.1.0.1:80 -s rr\n-a -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 1\n").expect(&NAT001, Confidence::Likely, "other");
    }

    fn silent() -> World {
        let mut w = World::nat();
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("{rip}:80"));
            w.who_has("director", "int", rip, &[web]);
            w.syn(&c, &format!("client director {web}"), 3);
        }
        w
    }

    #[test]
    fn both_servers_are_silent() {
        let found = silent().expect(&NAT001, Confidence::Likely, "web1, web2");
        assert_eq!(found.flows, [1, 2]);
        assert_eq!(found.remedy[0].command, "ip route add default via 10.2.0.1");
        assert_eq!(found.evidence().len(), 3);
    }

    #[test]
    fn a_server_that_was_seen_to_route_has_a_gateway() {
        let mut w = silent();
        for (port, web) in [(50001, "web1"), (50002, "web2")] {
            let rip = if web == "web1" { "10.2.0.11" } else { "10.2.0.12" };
            let asks = World::tcp(&format!("{rip}:{port}"), "10.1.0.100:443");
            w.syn(&asks, &format!("{web} director client"), 1);
        }
        let diagnosis = w.diagnose();
        let found = diagnosis.findings.iter().find(|f| f.code == "NET008").expect("a filter");
        assert!(found.alternatives.contains(&"NAT001"), "{:?}", found.alternatives);
    }

    #[test]
    fn nobody_looked_at_the_servers() {
        let w = silent().without(&["web1", "web2"]);
        w.deny(&NAT001);
        assert!(w.cannot_judge(&NAT001));
    }

    #[test]
    fn a_server_that_asks_for_a_gateway_has_a_route() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        for _ in 0..3 {
            w.who_has("web1", "int", "10.2.0.254", &[]);
            w.wait(1.0);
        }
        w.syn(&c, "client director web1", 2);
        w.deny(&NAT001);
    }

    /// One connection does not show a router that has one target only.
    #[test]
    fn a_single_connection_between_a_client_and_a_server() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.syn(&c, "client director web1", 3);
        let found = w.without(&["director", "web2"]).finding(&NAT001);
        assert_eq!(found.confidence, Confidence::Possible);
    }
}
