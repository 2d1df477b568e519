//! The loopback device has lost its own address.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};

rule! {
    /// # What it sees
    /// lo has no 127.0.0.1/8.
    ///
    /// # Why it breaks
    /// Somebody wrote the virtual address into the file of lo itself (`ifcfg-lo`) instead of one of its own (`ifcfg-lo:0`). Everything
    /// on the host that talks to itself by 127.0.0.1 fails, health checks and databases among them.
    ///
    /// # Confirm it by hand
    /// `ip addr show lo`.
    ///
    /// # Remedy
    /// `ip addr add 127.0.0.1/8 dev lo`, the old contents of ifcfg-lo, and the virtual address in a file of its own.
    ///
    /// # When it is not a fault
    /// A network namespace in which nobody has ever switched lo on.
    ///
    /// # Reproduce
    /// `ip addr del 127.0.0.1/8 dev lo` on a real server.
    ///
    /// # References
    /// The initscripts' sysconfig.txt.
    DR019 "ifcfg-lo-overwritten" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the real servers".to_string()))
}

/// On any host.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for member in site.fleet.members.iter().filter(|m| m.same_as.is_none()) {
        let host = &member.host;
        let Some(lo) = host.links().iter().find(|l| l.is_loopback() && l.is_up()) else { continue };
        let Some(addresses) = host.addresses.as_ref() else { continue };
        let own = |a: &&crate::host::Address| a.link == lo.name;
        let loopback = addresses.iter().filter(own).any(|a| a.addr.addr().is_loopback() && a.addr.addr().is_ipv4());
        if loopback || !addresses.iter().filter(own).any(|a| a.addr.addr().is_ipv4()) {
            checks.passed(&host.name, "lo has 127.0.0.1");
            continue;
        }
        let remedy = crate::finding::Remedy::new(
            &host.name,
            "ip addr add 127.0.0.1/8 dev lo",
            "IPADDR=127.0.0.1 NETMASK=255.0.0.0 in ifcfg-lo, the virtual address in ifcfg-lo:0",
            "ip addr del 127.0.0.1/8 dev lo",
        );
        let summary = "lo has lost 127.0.0.1: what talks to itself on this host fails.";
        checks.failed(&host.name, proven(host, Severity::Degraded, summary, "no 127.0.0.1/8 on lo", "ip addr show lo").mend([remedy]));
    }
}
