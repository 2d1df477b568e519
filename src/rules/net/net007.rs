//! The table of connection tracking is full.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};

rule! {
    /// # What it sees
    /// `nf_conntrack_count` has reached `nf_conntrack_max`, or nearly so.
    ///
    /// # Why it breaks
    /// A host that tracks connections drops each packet for which it would have to make a new entry in a full table. Connections that
    /// stand go on; new ones vanish at random.
    ///
    /// # Confirm it by hand
    /// `sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max`; `dmesg` says `nf_conntrack: table full, dropping
    /// packet`.
    ///
    /// # Remedy
    /// A larger `nf_conntrack_max`; better: no tracking of the service's packets (`iptables -t raw -A PREROUTING -d VIP -j NOTRACK`).
    ///
    /// # When it is not a fault
    /// A count near the maximum that never reaches it.
    ///
    /// # Reproduce
    /// `sysctl -w net.netfilter.nf_conntrack_max=50`, and 100 connections at once.
    ///
    /// # References
    /// kernel `Documentation/networking/nf_conntrack-sysctl.rst`.
    NET007 "conntrack-table-full" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the hosts on the way".to_string()))
}

/// On any host that tracks.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for member in site.fleet.members.iter().filter(|m| m.same_as.is_none()) {
        let host = &member.host;
        let number = |key: &str| host.sysctl(&format!("net.netfilter.{key}"));
        let (Some(count), Some(max)) = (number("nf_conntrack_count"), number("nf_conntrack_max")) else { continue };
        if max <= 0 || count < max - max / 10 {
            checks.passed(&host.name, format!("{count} of {max} tracked connections"));
            continue;
        }
        let full = count >= max;
        let summary = match full {
            true => "The table of tracked connections is full: packets of new connections are dropped.",
            false => "The table of tracked connections is nearly full: packets of new connections will be dropped.",
        };
        let severity = if full { Severity::Broken } else { Severity::Risky };
        let remedy = super::super::remedy::set(host, &[("net.netfilter.nf_conntrack_max".to_string(), &max.saturating_mul(4).to_string())]);
        checks.failed(
            &host.name,
            proven(host, severity, summary, format!("nf_conntrack_count={count}, nf_conntrack_max={max}"), "sysctl")
                .and(site.tracked(host, &["drop", "early_drop", "insert_failed"]))
                .mend([remedy]),
        );
    }
}
