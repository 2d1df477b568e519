//! A filter drops tunnelled packets before the tunnel device sees them.

use super::super::remedy::look;
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Finding, Need, Outcome, Remedy, Severity};
use crate::host::{Fate, Hook, Passing};
use crate::ipvs::ForwardingMethod;
use crate::net::Protocol;
use crate::packet::TunnelKind;

rule! {
    /// # What it sees
    /// A router between director and real server, which forwards other packets, drops those in the tunnel. Or a packet filter of a real
    /// server drops IP protocol 4 (or what else the tunnel is made of) from the director, in the chain for input.
    ///
    /// # Why it breaks
    /// Rules usually allow the service's port. A tunnelled packet has none: outside it is a packet of protocol 4 from the director's
    /// address to the real server's own, and a filter sees that first.
    ///
    /// # Confirm it by hand
    /// On the real server: `iptables-save`, `nft list ruleset`; tcpdump shows the outer packet at the card and nothing at tunl0.
    ///
    /// # Remedy
    /// `iptables -I INPUT -p 4 -s DIP -j ACCEPT`, kept where the firewall is kept. Security groups of a cloud want the same.
    ///
    /// # When it is not a fault
    /// When the tunnel is GUE: then its UDP port counts.
    ///
    /// # Reproduce
    /// `iptables -P INPUT DROP` and `-A INPUT -p tcp --dport 80 -j ACCEPT` on a TUN real server.
    ///
    /// # References
    /// protocols(5); LVS-HOWTO chapter LVS-Tun.
    TUN007 "proto4-filtered" check hosts
}

/// Packets show it on a router; a real server that is silent may be so for many reasons (TUN002).
fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: Vec<Finding> = Vec::new();
    for loss in facts.losses("TUN007") {
        let (name, Some((kind, from, to))) = (facts.name(Some(loss.host)), loss.hop.outer) else { continue };
        let summary = format!("{name} forwards other packets, and drops those in the tunnel ({kind}) from {from} to {to}.");
        let finding = loss.finding(facts, summary, &format!("on {name}: `nft list ruleset` (counters of drops in FORWARD), or a snapshot"));
        let tables = if from.is_ipv6() { "ip6tables" } else { "iptables" };
        let protocol = match kind {
            TunnelKind::IpIp if loss.hop.dst.addr.is_ipv6() => "41",
            TunnelKind::IpIp => "4",
            TunnelKind::Gre => "47",
            TunnelKind::Gue | TunnelKind::Vxlan | TunnelKind::Geneve => "udp",
        };
        let rule = format!("FORWARD -p {protocol} -s {from} -d {to} -j ACCEPT");
        let remedy = Remedy::new(
            name,
            format!("{tables} -I {rule}"),
            format!("the same rule where the firewall is kept ({tables}-save, firewalld, nftables.conf)"),
            format!("{tables} -D {rule}"),
        );
        found.push(finding.mend([remedy]));
    }
    for lost in facts.lost_between("TUN007") {
        let ((from, to), first) = (lost.ends(facts), &lost.pairs[0]);
        let Some((kind, source, target)) = first.hop.outer else { continue };
        let summary =
            format!("The network drops the tunnel ({kind}) from {source} to {target}: it leaves {from}, and does not come to {to}.");
        let allow = format!("then allow it from {source} to {target} in the security group or firewall between them");
        let seen = look(&to, format!("tcpdump -eni {} host {source}", facts.device(first.at)), allow);
        // It is nobody's fault but that of what lies between the two: that their own filters let it in does not clear that.
        found.push(lost.finding(facts, &format!("{from}, {to}"), summary, &["NET009"]).mend([seen]));
    }
    if found.is_empty() { Outcome::NotJudged(Need("a snapshot of a real server".to_string())) } else { found.into() }
}

/// On real servers: what the filter for input does to the outer packet.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    const IPIP: u8 = 4;
    for duty in site.duties(&[ForwardingMethod::Tunnel]) {
        let host = site.host(duty.member);
        let Some(rip) = duty.rip else { continue };
        let Some(filter) = host.netfilter.as_ref() else {
            checks.needs(&host.name, format!("its packet filters: {}", host.why_absent("netfilter")));
            continue;
        };
        let director = duty.director.map(|at| site.host(at));
        let from = director.and_then(|d| d.way(&crate::host::Ask::to(rip)).ok()?.source);
        let packet = Passing { src: from, iif: duty.arrives(host), ..Passing::to(rip, Protocol::Other(IPIP)) };
        match filter.fate(Hook::Input, &packet) {
            Fate::Unsure(rule) => checks.needs(&host.name, format!("whether this rule holds: {}", rule.text)),
            fate @ Fate::Dropped(..) => {
                let words = super::super::site::filter_words(&fate).unwrap_or_default();
                let source = from.map_or_else(String::new, |a| format!(" -s {a}"));
                let rule = format!("INPUT -p 4{source}");
                let remedy = crate::finding::Remedy::new(
                    &host.name,
                    format!("iptables -I {rule} -j ACCEPT"),
                    "the same rule where the firewall is kept (iptables-save, firewalld, nftables.conf)",
                    format!("iptables -D {rule} -j ACCEPT"),
                );
                let summary = format!("Its own filter drops the tunnel in which requests for {} come (IP protocol 4).", duty.service);
                checks.failed(&host.name, proven(host, Severity::Broken, summary, words, "iptables-save").mend([remedy]));
            }
            _ => checks.passed(&host.name, "its filters let the tunnel in"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::net::net001::NET001;
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    /// Real servers in a network of their own behind the router.
    fn world() -> World {
        World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("router.ext", "ext", "10.1.0.1")
            .plug("router.int", "int", "10.2.0.1")
            .plug("router.farm", "farm", "10.3.0.1")
            .plug("director.eth0", "int", "10.2.0.100")
            .plug("web1.eth0", "farm", "10.3.0.11")
            .plug("web2.eth0", "farm", "10.3.0.12")
    }

    fn conn(port: u16, web: u8) -> super::super::super::testing::Conn {
        World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80").tunnel("director", 4, "10.2.0.100", &format!("10.3.0.{web}"))
    }

    #[test]
    fn a_router_drops_the_tunnel() {
        let mut w = world();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.talk(&conn(40001, 12), "client router director router web2", "web2 router client");
        w.syn(&conn(40002, 11), "client router director router", 3);
        let found = w.expect(&TUN007, Confidence::Likely, "router");
        assert_eq!((found.flows.as_slice(), found.alternatives.contains(&"NET008")), (&[2][..], true));
        assert_eq!(found.remedy[0].command, "iptables -I FORWARD -p 4 -s 10.2.0.100 -d 10.3.0.11 -j ACCEPT");
        w.deny(&NET001);
        // One side of the router proves nothing.
        w.without(&["router.farm", "web1", "web2"]).deny(&TUN007);
    }

    #[test]
    fn a_network_drops_the_tunnel() {
        let mut w = World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("router.ext", "ext", "10.1.0.1")
            .plug("router.int", "int", "10.2.0.1")
            .plug("director.eth0", "int", "10.2.0.100")
            .plug("web1.eth0", "int", "10.2.0.11")
            .cut_off("web1.eth0");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80").tunnel("director", 4, "10.2.0.100", "10.2.0.11");
        w.syn(&c, "client router director web1", 3);
        let found = w.expect(&TUN007, Confidence::Likely, "director, web1");
        assert!(found.summary.starts_with("The network drops the tunnel (ipip) from 10.2.0.100 to 10.2.0.11"), "{}", found.summary);
        w.without(&["web1"]).deny(&TUN007);
    }
}
