//! keepalived drops packets for the address that it holds.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::host::{Hook, Passing};
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// A rule that keepalived made drops packets for a virtual address on the director that holds it; or keepalived.conf has
    /// `vrrp_strict`, which makes such rules.
    ///
    /// # Why it breaks
    /// RFC 5798 wants a master that does not own the address to accept nothing for it. IPVS takes packets after the filter for input:
    /// what is dropped there is never balanced. ARP works, everything else is silent.
    ///
    /// # Confirm it by hand
    /// `nft list table ip keepalived`, `iptables -S INPUT`.
    ///
    /// # Remedy
    /// No `vrrp_strict` in keepalived.conf, or `accept` in the instance, and a restart.
    ///
    /// # When it is not a fault
    /// While the instance's priority is 255: then it owns the address.
    ///
    /// # Reproduce
    /// `vrrp_strict` in global_defs.
    ///
    /// # References
    /// keepalived.conf(5): vrrp_strict, accept.
    HA003 "vrrp-strict-drops-vip" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// On directors: its rules, and its configuration.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (_, host) in site.playing(Role::Director) {
        let services = site.directed().filter(|(d, _)| d.name == host.name).filter_map(|(_, s)| Some((s.address?, s.protocol?)));
        let dropped = |(at, protocol): (crate::net::Endpoint, crate::net::Protocol)| {
            let iif = host.address(at.addr).map(|a| a.link.as_str());
            let packet = Passing { ports: (None, Some(at.port)), iif, ..Passing::to(at.addr, protocol) };
            let fate = host.netfilter.as_ref()?.fate(Hook::Input, &packet);
            let own = matches!(fate, crate::host::Fate::Dropped(chain, _) if chain.table.contains("keepalived"));
            super::super::site::filter_words(&fate).filter(|_| own).map(|words| (at, words))
        };
        let strict =
            host.saved.iter().flat_map(|s| &s.vrrp).find(|v| {
                v.options.iter().any(|o| o == "vrrp_strict") && v.priority != Some(255) && !v.options.iter().any(|o| o == "accept")
            });
        let remedy = || {
            crate::finding::Remedy::new(
                &host.name,
                "sed -i '/^[[:space:]]*vrrp_strict/d' /etc/keepalived/keepalived.conf; systemctl restart keepalived",
                "that is all",
                "vrrp_strict in global_defs of /etc/keepalived/keepalived.conf; systemctl restart keepalived",
            )
        };
        if let Some((at, words)) = services.into_iter().find_map(dropped) {
            let summary = format!("A rule of keepalived drops packets for {at}: it answers ARP and nothing else.");
            checks.failed(&host.name, proven(host, Severity::Broken, summary, words, "nft list table ip keepalived").mend([remedy()]));
        } else if let Some(instance) = strict {
            let summary =
                "keepalived.conf has vrrp_strict: when this director becomes master, packets for its virtual addresses are dropped.";
            let fact = format!("vrrp_strict, instance {} without accept", instance.name);
            checks.failed(&host.name, proven(host, Severity::Risky, summary, fact, "cat /etc/keepalived/keepalived.conf").mend([remedy()]));
        } else if host.netfilter.as_ref().is_some_and(|filter| filter.is_unread("ip")) {
            checks.needs(&host.name, "its packet filters: rules of the old iptables cannot be read (`iptables-save`)");
        } else if host.netfilter.is_some() || host.saved.is_some() {
            checks.passed(&host.name, "keepalived drops nothing");
        }
    }
}
