//! A host answers ARP for an address that it only has a way to.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Evidence, Need, Outcome, Severity};
use crate::host::{Ask, Host, Sysctls};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// A host that forwards, with `proxy_arp` on a card in the VIP's network, and a route to the VIP that leaves by another device.
    ///
    /// # Why it breaks
    /// With proxy_arp a host answers ARP for every address that it would send elsewhere. Neighbours then send packets for the VIP to it,
    /// and the director, if it answers too, gets some of them, or none.
    ///
    /// # Confirm it by hand
    /// On another host of the network: `arping -I eth0 VIP` gets answers from a MAC that has no such address. On the host: `sysctl -a -r
    /// '\\.proxy_arp$'`, `ip route get VIP`.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.conf.all.proxy_arp=0 net.ipv4.conf.IF.proxy_arp=0`.
    ///
    /// # When it is not a fault
    /// Where it stands between two halves of one network on purpose, and passes packets on to the director.
    ///
    /// # Reproduce
    /// A router with proxy_arp=1 and a host route to the VIP by its other card.
    ///
    /// # References
    /// kernel `net/ipv4/arp.c`, `arp_fwd_proxy`; `Documentation/networking/ip-sysctl.rst`: proxy_arp.
    ARP010 "proxy-arp-answers-vip" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("snapshots of the hosts in the network of the VIP".to_string()))
}

/// On everybody in the network of a VIP.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for host in site.fleet.members.iter().filter(|m| m.same_as.is_none()).map(|m| &m.host) {
        for vip in site.fleet.vips().into_iter().filter(|vip| vip.is_ipv4() && !host.has(*vip)) {
            let near = |l: &&crate::host::Link| {
                let within = |a: &crate::host::Address| a.link == l.name && !a.addr.is_host() && a.addr.contains(vip);
                l.speaks_arp() && l.is_up() && host.addresses().iter().any(within)
            };
            for card in host.links().iter().filter(near) {
                match answers(host, vip, &card.name) {
                    None => checks.needs(&host.name, format!("proxy_arp and forwarding at {}, and its routes", card.name)),
                    Some(None) => checks.passed(&host.name, format!("no proxy ARP for {vip} at {}", card.name)),
                    Some(Some(way)) => {
                        let summary = format!("It answers ARP for {vip} at {}, for which it only has a way: {way}.", card.name);
                        let keys = ["all", card.name.as_str()].map(|at| (Sysctls::name4(at, "proxy_arp"), "0"));
                        let found = proven(host, Severity::Degraded, summary, host.behind("proxy_arp", &card.name), "sysctl")
                            .and([Evidence::host(&host.name, way, format!("ip route get {vip}"))])
                            .mend([super::super::remedy::set(host, &keys)]);
                        checks.failed(&host.name, found);
                    }
                }
            }
        }
    }
}

/// The way for which the kernel answers a question at a card; `Some(None)`: it does not.
fn answers(host: &Host, vip: IpAddr, card: &str) -> Option<Option<String>> {
    if host.effective("proxy_arp", card)? == 0 || host.effective("forwarding", card)? == 0 {
        return Some(None);
    }
    host.routes.as_ref()?;
    let way = host.way(&Ask { iif: Some(card.to_string()), ..Ask::to(vip) }).ok();
    Some(way.filter(|way| way.link().is_some_and(|link| link != card)).map(|way| way.words()))
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn a_router_that_answers_for_the_vip() {
        let on = |router: Sketch| router.set("net.ipv4.conf.int.proxy_arp", "1");
        let elsewhere = |router: Sketch| on(router).via("10.0.0.100/32", "10.9.0.9", "ext");
        let found = sketch::expect(&dr_with("router", elsewhere), &ARP010, Severity::Degraded, Confidence::Certain, "router");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.conf.int.proxy_arp=0");
        sketch::passes(&dr_with("router", on), &ARP010, "router");
        let off = |router: Sketch| router.via("10.0.0.100/32", "10.9.0.9", "ext");
        sketch::passes(&dr_with("router", off), &ARP010, "router");
        let still = |router: Sketch| elsewhere(router).set("net.ipv4.conf.int.forwarding", "0");
        sketch::passes(&dr_with("router", still), &ARP010, "router");
    }
}
