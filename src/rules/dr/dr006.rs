//! A real server of a DR service is not on the director's own network.

use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Loop, Round, loops, vip};
use crate::finding::{Confidence, Outcome, Remedy, Severity};

rule! {
    /// # What it sees
    /// The director sends the request, still addressed to the VIP, to the MAC of a router. The router sends it back to the director, with the
    /// TTL one lower, and so on until it is used up. No real server ever sees it.
    ///
    /// # Why it breaks
    /// Direct routing reaches only neighbours: the packet carries the VIP, and only the MAC says which server it is for. When the real
    /// server is behind a gateway, the gateway's MAC is used; the gateway routes the packet to the VIP, that is, to the director.
    ///
    /// # Confirm it by hand
    /// On the director: `ip route get RIP` shows a `via`; for direct routing it must not.
    ///
    /// # Remedy
    /// Put the real server on the director's network, or use tunnels (`ipvsadm -e … -i`) for it.
    ///
    /// # When it is not a fault
    /// Never: no connection through such a destination can work.
    ///
    /// # Reproduce
    /// A DR service with a real server behind the router.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_xmit.c`, `ip_vs_dr_xmit`: the route is looked up for the real server's address.
    DR006 "rs-not-on-director-l2" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = loops(facts, Round::Router).into_iter().map(|(router, loops)| {
        let (flow, director) = (loops[0].flow, facts.name(Some(loops[0].director)));
        let router = facts.name(Some(router));
        let summary = format!("{director} hands packets for {} to {router}, which sends them back: the real server is behind a router.", vip(flow));
        let server = flow.real_server.map_or_else(|| "RIP:PORT".to_string(), |rs| rs.to_string());
        let service = flow.vip.map_or_else(|| "VIP:PORT".to_string(), |vip| vip.to_string());
        let unsure = loops.iter().all(|l| l.unsure);
        let confidence = if unsure { Confidence::Possible } else { Confidence::Certain };
        let mut finding = Loop::finding(&loops, facts, confidence, summary);
        if unsure {
            let settle = format!("whose is {}? `ip route get {}` on both; a capture with ARP", vip(flow), vip(flow));
            finding = finding.unless(&["DR016", "DR017"], settle);
        }
        finding.subject = director.to_string();
        finding.severity = Severity::Broken;
        finding.mend([Remedy::new(
            director,
            format!("ipvsadm -e -t {service} -r {server} -i"),
            "the method in the saved rules (`ipvsadm -Sn`) or `lb_kind TUN` in keepalived.conf, and a tunnel device on the real server; or move it",
            format!("ipvsadm -e -t {service} -r {server} -g"),
        )])
    });
    found.collect::<Vec<_>>().into()
}

/// On the director: the real server is behind a gateway.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        for destination in service.destinations.iter().filter(|d| d.forwarding() == Some(crate::ipvs::ForwardingMethod::DirectRouting)) {
            let rip = destination.address.addr;
            match host.way(&crate::host::Ask::to(rip)) {
                Err(crate::host::NoRoute::Unknown(why)) => checks.needs(&host.name, why),
                Ok(way) if way.gateways().is_empty() => checks.passed(&host.name, format!("{rip} is on the link")),
                way => {
                    let words = way.map_or_else(|_| "no route".to_string(), |w| w.words());
                    let summary = format!(
                        "The real server {rip} is not on a link of the director ({words}): direct routing only reaches neighbours."
                    );
                    let option = service.option();
                    let remedy = crate::finding::Remedy::new(
                        &host.name,
                        format!("ipvsadm -e {option} -r {} -i", destination.address),
                        "lvs_method TUN (lb_kind in keepalived.conf) with a tunnel device on the real server; or the server on the director's link",
                        format!("ipvsadm -e {option} -r {} -g", destination.address),
                    );
                    checks.failed(&host.name, proven(host, Severity::Broken, summary, words, format!("ip route get {rip}")).mend([remedy]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::super::dr016::DR016;
    use super::super::dr017::DR017;
    use super::*;

    #[test]
    fn the_router_sends_it_back() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, "client router director router director router director", 1);
        let found = w.expect(&DR006, Confidence::Certain, "director");
        assert!(found.summary.contains("router"));
        w.deny(&DR016);
        w.deny(&DR017);
    }

    /// Nothing says whose the address is: either of both may be the real server that does not know it.
    #[test]
    fn a_loop_without_arp_or_names() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, "client router director router director router director", 1);
        w.expect(&DR006, Confidence::Certain, "director");
        let found = w.unnamed().diagnose().findings;
        let accused: Vec<_> = found.iter().filter(|f| f.severity == Severity::Broken && f.confidence > Confidence::Possible).collect();
        assert!(accused.is_empty() && found.iter().any(|f| f.code == "DR006"), "{found:?}");
    }

    #[test]
    fn one_arm_is_no_loop() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w.deny(&DR006);
        w.healthy();
    }
}
