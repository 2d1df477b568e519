//! A setting that the next boot will change.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// A setting that matters to a host's part (ARP, rp_filter, forwarding, IPVS) runs with another value than the configuration files
    /// will set, or stands in no file at all.
    ///
    /// # Why it breaks
    /// `sysctl -w` lasts until the next boot. Of several files the last one that names a key wins, and `sysctl.conf` comes after them
    /// all. A value for a device that does not exist yet is not applied.
    ///
    /// # Confirm it by hand
    /// `sysctl KEY`, and `grep -rs KEY /etc/sysctl.conf /etc/sysctl.d /run/sysctl.d /usr/lib/sysctl.d`.
    ///
    /// # Remedy
    /// The running value in a file of /etc/sysctl.d that no later file overrules.
    ///
    /// # When it is not a fault
    /// When something else sets it at each start: keepalived's scripts, a unit, tuned.
    ///
    /// # Reproduce
    /// `sysctl -w net.ipv4.conf.all.arp_ignore=1`, and nothing in /etc/sysctl.d.
    ///
    /// # References
    /// sysctl.d(5).
    NET011 "sysctl-not-persistent-or-shadowed" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the hosts".to_string()))
}

/// On hosts whose files were read.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for member in site.fleet.members.iter().filter(|m| m.same_as.is_none()) {
        let host = &member.host;
        let wanted: &[&str] = match member.role {
            Role::RealServer => &["net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce"],
            Role::Router => &["net.ipv4.ip_forward"],
            Role::Director => {
                &["net.ipv4.ip_forward", "net.ipv4.vs.conntrack", "net.ipv4.vs.expire_nodest_conn", "net.ipv4.vs.expire_quiescent_template"]
            }
            _ => continue,
        };
        let (Some(saved), Some(sysctls)) = (host.saved.as_ref(), host.sysctls.as_ref()) else {
            checks.needs(&host.name, format!("configuration files: {}", host.why_absent("saved")));
            continue;
        };
        let aliases = |key: &str| if key == "net.ipv4.ip_forward" { "net.ipv4.conf.all.forwarding".to_string() } else { key.to_string() };
        let mut fine = true;
        for key in wanted {
            let Some(running) = sysctls.get(key) else { continue };
            let file = saved.sysctls.get(*key).or_else(|| saved.sysctls.get(&aliases(key)));
            let (lasts, source) = file.map_or(("0", "no file names it".to_string()), |s| (s.value.as_str(), s.file.clone()));
            if lasts == running {
                continue;
            }
            fine = false;
            let summary = format!("{key} is {running} now, and will be {lasts} after the next boot.");
            let remedy = crate::finding::Remedy::new(
                &host.name,
                format!("echo '{key} = {running}' >> /etc/sysctl.d/90-lvs.conf"),
                "that is all; nothing later may name the key again (`sysctl --system` shows the order)",
                format!("sed -i '/^{}/d' /etc/sysctl.d/90-lvs.conf", key.replace('.', "\\.")),
            );
            let found = proven(host, Severity::Risky, summary, format!("{key}={running}"), "sysctl")
                .and([crate::finding::Evidence::host(&host.name, format!("{key}: {lasts} ({source})"), "sysctl --system")])
                .mend([remedy]);
            checks.failed(&host.name, found);
        }
        if fine {
            checks.passed(&host.name, "settings last");
        }
    }
}
