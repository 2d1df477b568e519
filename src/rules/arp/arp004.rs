//! A level of arp_ignore that does not silence a real server.

use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome};

rule! {
    /// # What it sees
    /// `arp_ignore` is 3, or 4 to 7, on a real server that holds a virtual address beside its cards.
    ///
    /// # Why it breaks
    /// 3 is silent about addresses of scope host only, and `ip addr add VIP/32 dev lo` makes one of scope global; 4 to 7 are reserved
    /// and do what 0 does.
    ///
    /// # Confirm it by hand
    /// `sysctl -a -r 'arp_(ignore|announce)'`, and from another host on the link `arping -I IF -c 3 VIP`.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2`, and both in a file of /etc/sysctl.d.
    ///
    /// # When it is not a fault
    /// When the virtual address has scope host, 3 is enough.
    ///
    /// # Reproduce
    /// A DR service; on a real server `sysctl -w net.ipv4.conf.all.arp_ignore=3`.
    ///
    /// # References
    /// kernel `Documentation/networking/ip-sysctl.rst`: arp_ignore, arp_announce; `include/linux/inetdevice.h`, `net/ipv4/arp.c`.
    ARP004 "arp-level-insufficient" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of a real server".to_string()))
}

/// On the host: settings and filters at each card.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::voice::look(site, checks, "ARP004");
}
