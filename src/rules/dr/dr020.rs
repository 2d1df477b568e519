//! A card of the director merges what it should forward.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// Large receive offload (LRO) is on at the card of a director by which requests come.
    ///
    /// # Why it breaks
    /// LRO makes one long packet out of several, beyond repair: it does not fit the next link, and the director tells the client to
    /// send less, again and again. The kernel switches LRO off by itself only where forwarding is on, which a DR or TUN director does
    /// not need.
    ///
    /// # Confirm it by hand
    /// `ethtool -k IF | grep large-receive-offload`.
    ///
    /// # Remedy
    /// `ethtool -K IF lro off`.
    ///
    /// # When it is not a fault
    /// GRO (generic receive offload) is undone when packets leave, on kernels of today.
    ///
    /// # Reproduce
    /// `ethtool -K IF lro on` on a DR director with a card that has it.
    ///
    /// # References
    /// kernel `Documentation/networking/segmentation-offloads.rst`; `net/core/dev.c`, `dev_disable_lro`.
    DR020 "gro-lro-oversize" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// On directors: the features of their cards.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (_, host) in site.playing(Role::Director) {
        for card in host.links().iter().filter(|l| l.speaks_arp() && l.is_up()) {
            match card.feature("rx-lro") {
                None => checks.needs(&host.name, format!("offload features of {} (a live snapshot has them)", card.name)),
                Some(false) => checks.passed(&host.name, format!("{} does not merge packets (LRO)", card.name)),
                Some(true) => {
                    let summary = format!("Large receive offload is on at {}: merged requests are too long to be handed on.", card.name);
                    let remedy = crate::finding::Remedy::new(
                        &host.name,
                        format!("ethtool -K {} lro off", card.name),
                        "ETHTOOL_OPTS, a .link file (LargeReceiveOffload=no), or nmcli ethtool.feature-lro off",
                        format!("ethtool -K {} lro on", card.name),
                    );
                    let fact = "large-receive-offload: on";
                    checks.failed(
                        &host.name,
                        proven(host, Severity::Degraded, summary, fact, format!("ethtool -k {}", card.name)).mend([remedy]),
                    );
                }
            }
        }
    }
}
