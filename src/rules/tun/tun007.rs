//! A filter drops tunnelled packets before the tunnel device sees them.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::host::{Fate, Hook, Passing};
use crate::ipvs::ForwardingMethod;
use crate::net::Protocol;

rule! {
    /// # What it sees
    /// A packet filter of a real server drops IP protocol 4 (or what else the tunnel is made of) from the director, in the chain for
    /// input.
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

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of a real server".to_string()))
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
        let packet = Passing {
            src: from,
            dst: rip,
            protocol: Protocol::Other(IPIP),
            ports: (None, None),
            iif: duty.arrives(host),
            oif: None,
            icmp: None,
            state: "NEW",
            ipvs: false,
        };
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
