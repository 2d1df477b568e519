//! Every node answers ARP for the addresses of load balancers.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Remedy, Severity};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// A node whose kube-proxy works with IPVS, an address on `kube-ipvs0` that belongs to the network of one of its cards, and
    /// arp_ignore at 0 on that card.
    ///
    /// # Why it breaks
    /// kube-proxy puts the addresses of all services on kube-ipvs0, of each node. That the device is down and speaks no ARP does not
    /// matter: an address of any device is answered for on every card where arp_ignore is 0. Neighbours then reach the node that answers
    /// first, not the one that announces the address (MetalLB, kube-vip), and an answer after a failover may come from anywhere.
    ///
    /// # Confirm it by hand
    /// On another host of the network: `arping -I eth0 ADDRESS` gets answers with several MACs. On the node: `sysctl
    /// net.ipv4.conf.all.arp_ignore`.
    ///
    /// # Remedy
    /// `strictARP: true` under `ipvs` in the configuration of kube-proxy, which sets arp_ignore=1 and arp_announce=2.
    ///
    /// # When it is not a fault
    /// Addresses that no neighbour asks for, as those of the cluster alone: they are in no network of a card.
    ///
    /// # Reproduce
    /// An address of the node's network on a device kube-ipvs0, with arp_ignore=0.
    ///
    /// # References
    /// kube-proxy configuration, `ipvs.strictARP`; MetalLB, preparation; metallb issue 153.
    K8S001 "strict-arp-off" check hosts
}

/// In packets it looks like any real server that answers for the VIP (ARP001).
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the nodes".to_string()))
}

/// On nodes.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for host in site.fleet.members.iter().filter(|m| m.same_as.is_none()).map(|m| &m.host) {
        let Some(device) = host.links().iter().find(|l| super::holds_services(l)) else { continue };
        let held = host.addresses().iter().filter(|a| a.link == device.name && a.addr.addr().is_ipv4());
        let near = |addr: IpAddr| {
            let card = |a: &&crate::host::Address| {
                !a.addr.is_host() && a.addr.contains(addr) && host.link(&a.link).is_some_and(|l| l.speaks_arp() && l.is_up())
            };
            host.addresses().iter().find(card).map(|a| a.link.as_str())
        };
        let asked: Vec<(IpAddr, &str)> = held.filter_map(|a| Some((a.addr.addr(), near(a.addr.addr())?))).collect();
        let mut fine = true;
        for (addr, card) in asked {
            match host.effective("arp_ignore", card) {
                None => {
                    fine = false;
                    checks.needs(&host.name, format!("arp_ignore at {card}"));
                }
                // Level 3 is about addresses of host scope, and these are none.
                Some(0 | 3..=7) => {
                    fine = false;
                    let summary = format!(
                        "It answers ARP for {addr} of {} on {card}, as every node does, whoever announces the address.",
                        device.name
                    );
                    let keys = ["arp_ignore", "arp_announce"].map(|key| format!("net.ipv4.conf.all.{key}"));
                    let now = |key: &str| host.sysctl(key).unwrap_or(0);
                    let remedy = Remedy::new(
                        &host.name,
                        format!("sysctl -w {}=1 {}=2", keys[0], keys[1]),
                        "`strictARP: true` under `ipvs` in the ConfigMap kube-proxy of kube-system, then a restart of its pods",
                        format!("sysctl -w {}={} {}={}", keys[0], now(&keys[0]), keys[1], now(&keys[1])),
                    );
                    checks.failed(
                        &host.name,
                        proven(host, Severity::Risky, summary, host.behind("arp_ignore", card), "sysctl").mend([remedy]),
                    );
                }
                Some(_) => {}
            }
        }
        if fine {
            checks.passed(&host.name, format!("no card answers ARP for addresses of {}", device.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::*;
    use crate::finding::Confidence;

    fn node(addr: &str, ignore: &str) -> Sketch {
        let device = crate::host::Link {
            name: "kube-ipvs0".into(),
            hardware: "ether".into(),
            kind: Some("dummy".into()),
            flags: vec!["NOARP".into()],
            ..Default::default()
        };
        let rules = "-A -t 10.0.0.200:80 -s rr\n-a -t 10.0.0.200:80 -r 10.244.0.9:80 -m\n";
        Sketch::new("node1")
            .card("eth0", "10.0.0.21/24")
            .device(device)
            .addr("kube-ipvs0", addr)
            .ipvs(rules)
            .set("net.ipv4.conf.all.arp_ignore", ignore)
    }

    #[test]
    fn addresses_that_neighbours_ask_for() {
        let found = sketch::expect(&[node("10.0.0.200/32", "0")], &K8S001, Severity::Risky, Confidence::Certain, "node1");
        assert_eq!(found.remedy[0].undo, "sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0");
        sketch::passes(&[node("10.0.0.200/32", "1")], &K8S001, "node1");
        sketch::passes(&[node("10.96.0.10/32", "0")], &K8S001, "node1");
        // Somebody else announces it: that the node does not answer is no fault (ARP006).
        let strict = sketch::audit(&[node("10.0.0.200/32", "1")]);
        assert!(strict.findings.iter().all(|f| f.code != "ARP006"), "{:#?}", strict.findings);
    }
}
