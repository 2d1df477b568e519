//! ARP settings of a real server where they have no effect.

use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome};

rule! {
    /// # What it sees
    /// `arp_ignore` (or `arp_announce`) is set on lo or on the device that holds the virtual address, and neither on `all` nor on the
    /// card at which ARP requests arrive.
    ///
    /// # Why it breaks
    /// For arp_ignore the kernel looks at the device at which the request arrives, for arp_announce at the one by which it leaves, and
    /// takes the larger of that value and the one of `all`. The device that holds the address has no say, and `default` only counts for
    /// devices made later. Popular instructions set lo alone.
    ///
    /// # Confirm it by hand
    /// `sysctl -a -r 'arp_(ignore|announce)'`, and from another host on the link `arping -I IF -c 3 VIP`.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2`, and both in a file of /etc/sysctl.d.
    ///
    /// # When it is not a fault
    /// When a filter (arptables) silences the host in another way.
    ///
    /// # Reproduce
    /// A DR service; on a real server `sysctl -w net.ipv4.conf.lo.arp_ignore=1`, and 0 for all others.
    ///
    /// # References
    /// kernel `Documentation/networking/ip-sysctl.rst`: arp_ignore, arp_announce; `include/linux/inetdevice.h`, `net/ipv4/arp.c`.
    ARP003 "arp-sysctl-on-wrong-interface" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of a real server".to_string()))
}

/// On the host: settings and filters at each card.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::voice::look(site, checks, "ARP003");
}
