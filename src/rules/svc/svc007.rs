//! A scheduler for caches on a single address.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};

rule! {
    /// # What it sees
    /// A service with one address and one of the schedulers dh, lblc, lblcr.
    ///
    /// # Why it breaks
    /// These choose by the destination of the packet. That is always the virtual address, so dh sends everything to one real server for
    /// ever, and lblc and lblcr do until it is overloaded.
    ///
    /// # Confirm it by hand
    /// `ipvsadm -Ln`: one real server has all connections.
    ///
    /// # Remedy
    /// `ipvsadm -E -t VIP:PORT -s wlc`; sh or mh, where clients must stay with their server.
    ///
    /// # When it is not a fault
    /// A firewall-mark service for many destinations, as for transparent caches.
    ///
    /// # Reproduce
    /// `ipvsadm -A -t VIP:80 -s dh` and two real servers.
    ///
    /// # References
    /// ipvsadm(8): dh, lblc, lblcr.
    SVC007 "dh-lblc-lblcr-on-single-vip" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director, or --ipvs with its rules".to_string()))
}

/// In the table.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let usable = service.destinations.iter().filter(|d| d.weight > 0).count();
        if !matches!(service.scheduler.as_str(), "dh" | "lblc" | "lblcr") || service.address.is_none() || usable < 2 {
            checks.passed(&host.name, format!("{} is scheduled by {}", service.name(), service.scheduler));
            continue;
        }
        let summary = format!(
            "{} has one address and scheduler {}, which goes by the destination: one of {usable} real servers gets everything.",
            service.name(),
            service.scheduler
        );
        let option = service.option();
        let keep: String = service.persistence.map_or_else(String::new, |t| format!(" -p {t}"));
        let remedy = crate::finding::Remedy::new(
            &host.name,
            format!("ipvsadm -E {option} -s wlc{keep}"),
            "lvs_sched wlc in keepalived.conf, or `ipvsadm -Sn > /etc/sysconfig/ipvsadm`",
            format!("ipvsadm -E {option} -s {}{keep}", service.scheduler),
        );
        checks.failed(
            &host.name,
            proven(host, Severity::Degraded, summary, format!("-A {option} -s {}", service.scheduler), "ipvsadm -Sn").mend([remedy]),
        );
    }
}
