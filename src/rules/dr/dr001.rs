//! The VIP is missing on a real server.

use super::super::remedy::vip_on_lo;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{DIRECT, vip};
use crate::finding::{Outcome, Severity};

rule! {
    /// # What it sees
    /// The SYN, still addressed to the VIP, arrives at the real server's MAC. Then silence: no SYN-ACK, no RST, no ICMP error, no ARP.
    ///
    /// # Why it breaks
    /// With direct routing and tunnels the destination stays the VIP. A host that does not have that address, and does not forward, drops the
    /// packet without a word.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get VIP` must say `local VIP dev lo`. `nstat -az IpInAddrErrors` counts up with each SYN.
    ///
    /// # Remedy
    /// `ip addr add VIP/32 dev lo`, after `arp_ignore=1` and `arp_announce=2` are set.
    ///
    /// # When it is not a fault
    /// When something else keeps the server silent; packets look the same: strict `rp_filter` (DR018), a firewall (NET008), no route back to
    /// the client (DR004), a mask other than /32 (DR002). `ip route get`, or a snapshot, tells.
    ///
    /// # Reproduce
    /// A DR service; on a real server `ip addr del VIP/32 dev lo`.
    ///
    /// # References
    /// LVS-HOWTO chapter LVS-DR; kernel `net/ipv4/route.c`, `ip_route_input_slow`.
    DR001 "rs-vip-missing" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = facts.silences("DR001").into_iter().map(|silence| {
        let (flow, names) = (silence.flows[0], silence.names(facts));
        let vip = vip(flow);
        let settle = format!("`ip route get {vip}`, `ip route get {} from {vip}`", silence.hop.src.addr);
        silence.finding(facts, Severity::Broken, &settle).mend([vip_on_lo(&names, &vip)])
    });
    Outcome::or_need(found.collect(), facts.unwatched_server(&DIRECT))
}

/// On the host: neither an address nor a local route.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.answers(checks, "DR001", |host, duty, _| {
        let vip = duty.vip.map_or_else(|| "VIP".to_string(), |a| a.to_string());
        let summary =
            format!("The virtual address {vip} is not on this real server: requests for {} are dropped without a word.", duty.service);
        let mut remedy = vip_on_lo(&host.name, &vip);
        remedy.permanent = super::super::remedy::keep_on_lo(host, &vip);
        let found = proven(host, Severity::Broken, summary, format!("no address {vip}"), format!("ip addr show to {vip}"));
        found.and(site.counted(host, &["IpInAddrErrors"])).mend([remedy])
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn one_server_is_silent() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let good = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.talk(&good, "client router director web1", "web1 router client");
        let bad = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.who_has("director", "int", "10.2.0.12", &["web2"]);
        w.syn(&bad, "client router director web2", 3);
        let found = w.expect(&DR001, Confidence::Likely, "web2");
        assert_eq!(found.remedy[0].command, "ip addr add 10.2.0.100/32 dev lo");
        assert!(["DR004", "DR018", "NET008"].iter().all(|code| found.alternatives.contains(code)), "{:?}", found.alternatives);
        w.unnamed().expect(&DR001, Confidence::Likely, "rs2");
    }

    /// The kernel has no `rp_filter` for IPv6.
    #[test]
    fn over_ipv6_no_reverse_path_filter_is_among_the_causes() {
        let mut w = World::dr6().plug("web1.eth1", "other", "2001:db8:3::11").plug("web2.eth1", "other", "2001:db8:3::12");
        w.solicit("director", "int", "2001:db8:2::11");
        let c = |client: &str, service: &str| World::tcp(client, service);
        w.talk(&c("[2001:db8:1::100]:40001", "[2001:db8:2::100]:80"), "client router director web2", "web2 router client");
        w.syn(&c("[2001:db8:1::100]:40002", "[2001:db8:2::100]:80"), "client router director web1", 3);
        w.talk(&c("[2001:db8:3::11]:50001", "[2001:db8:3::12]:22"), "web1 web2", "web2 web1");
        let found = w.expect(&DR001, Confidence::Likely, "web1");
        assert!(!found.alternatives.contains(&"DR018"), "{:?}", found.alternatives);
    }

    #[test]
    fn captures_without_arp_do_not_say_that_nobody_asked() {
        let mut w = World::dr();
        w.syn(&World::tcp("10.1.0.100:40002", "10.2.0.100:80"), "client router director web2", 3);
        let said = |w: &World| {
            let found = w.diagnose().findings.into_iter().find(|f| f.summary.contains("web2 receives")).expect("a finding");
            (found.summary.contains("no ARP for"), found.alternatives.contains(&"ARP011"))
        };
        assert_eq!(said(&w), (false, true));
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        assert_eq!(said(&w), (true, false));
        // A wrong gateway would be asked for.
        let mut w = World::nat();
        w.syn(&World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("director", "10.2.0.12:80"), "client director web2", 3);
        let found = w.finding(&crate::rules::nat::nat001::NAT001);
        assert!(found.alternatives.ends_with(&["NAT002", "ARP011"]), "{:?}", found.alternatives);
    }

    #[test]
    fn nobody_looked_at_the_server() {
        let mut w = World::dr();
        for (port, web) in [(40001, "web1"), (40002, "web2")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
            w.syn(&c, &format!("client router director {web}"), 3);
        }
        let w = w.without(&["web1", "web2"]);
        w.deny(&DR001);
        assert!(w.cannot_judge(&DR001));
    }

    /// It asks for the next hop of its answer; whether it is told, no capture here shows.
    #[test]
    fn a_server_that_asks_for_a_neighbour_has_an_answer() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, "client router director web1", 1);
        w.who_has("web1", "int", "10.2.0.1", &["router"]);
        w.syn(&c, "client router director web1", 2);
        w.without(&["client", "director", "router"]).deny(&DR001);
    }

    /// A stranger with the address of a real server looks like one without the VIP, where the director was not captured.
    #[test]
    fn who_answers_for_the_servers_address_is_heard_by_the_director_alone() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let good = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.talk(&good, "client router director web1", "web1 router client");
        w.who_has("director", "int", "10.2.0.12", &["web2"]);
        w.syn(&World::tcp("10.1.0.100:40002", "10.2.0.100:80"), "client router director web2", 3);
        assert!(!w.finding(&DR001).alternatives.contains(&"ARP012"));
        assert!(w.without(&["director"]).finding(&DR001).alternatives.contains(&"ARP012"));
    }

    /// Captured alone, a silent machine may be a real server or anybody.
    #[test]
    fn the_silent_server_alone() {
        let mut w = World::dr();
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.syn(&World::tcp("10.1.0.100:40001", "10.2.0.100:80"), "client router director web1", 3);
        let w = w.without(&["client", "router", "director", "web2"]);
        let subject = w.finding(&DR001).subject;
        let found = w.expect(&DR001, Confidence::Possible, &subject);
        assert!(found.alternatives.contains(&"DR004"), "{:?}", found.alternatives);
        assert!(w.cannot_judge(&super::super::dr004::DR004));
    }

    #[test]
    fn a_server_that_refuses_knows_the_vip() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router director web1", 1);
        w.carry(&c, true, super::super::super::testing::REFUSE, b"", "web1 router client");
        w.deny(&DR001);
    }
}
