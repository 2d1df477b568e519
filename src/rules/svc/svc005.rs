//! The IPVS table is not the one that will be loaded.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// The table in the kernel and the one in the file (`/etc/sysconfig/ipvsadm`, `/etc/ipvsadm.rules`, keepalived.conf) differ, or
    /// there is a table and no file.
    ///
    /// # Why it breaks
    /// `ipvsadm` changes the kernel alone. After the next boot, or a restart of keepalived, the file counts.
    ///
    /// # Confirm it by hand
    /// `ipvsadm -Sn` beside the file.
    ///
    /// # Remedy
    /// `ipvsadm -Sn > /etc/sysconfig/ipvsadm`, or the change in keepalived.conf.
    ///
    /// # When it is not a fault
    /// While keepalived has taken out a real server that fails its check.
    ///
    /// # Reproduce
    /// `ipvsadm -A -t VIP:81 -s rr` after the table was saved.
    ///
    /// # References
    /// ipvsadm-save(8), keepalived.conf(5).
    SVC005 "rules-not-persisted-or-drifted" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// On directors whose files were read.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (_, host) in site.playing(Role::Director) {
        let (Some(table), Some(saved)) = (host.ipvs.as_ref(), host.saved.as_ref()) else {
            checks.needs(
                &host.name,
                format!("its table and its files: {}", host.why_absent(if host.ipvs.is_none() { "ipvs" } else { "saved" })),
            );
            continue;
        };
        let names =
            |services: &[crate::host::Service]| services.iter().map(crate::host::Service::name).collect::<std::collections::BTreeSet<_>>();
        let live = names(&table.services);
        let Some(kept) = saved.services.as_deref() else {
            if !live.is_empty() {
                let summary = "The IPVS table is in no file: it will be gone after the next boot.".to_string();
                let remedy = crate::finding::Remedy::new(
                    &host.name,
                    "ipvsadm -Sn > /etc/sysconfig/ipvsadm (Debian: /etc/ipvsadm.rules)",
                    "systemctl enable ipvsadm, or the services in keepalived.conf",
                    "rm /etc/sysconfig/ipvsadm",
                );
                let fact = super::super::facts::plural(live.len(), "virtual service");
                checks.failed(&host.name, proven(host, Severity::Risky, summary, fact, "ipvsadm -Sn").mend([remedy]));
            }
            continue;
        };
        let file = saved.services_file.as_deref().unwrap_or("the file");
        let only =
            |a: &std::collections::BTreeSet<String>, b: &std::collections::BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
        let (gone, new) = (only(&live, &names(kept)), only(&names(kept), &live));
        if gone.is_empty() && new.is_empty() {
            checks.passed(&host.name, format!("the table has the services of {file}"));
            continue;
        }
        let mut parts = Vec::new();
        if !gone.is_empty() {
            parts.push(format!("{} will be gone", super::super::facts::list(&gone)));
        }
        if !new.is_empty() {
            parts.push(format!("{} will come", super::super::facts::list(&new)));
        }
        let summary = format!("The IPVS table is not the one in {file}: after the next start {}.", parts.join(", and "));
        let now = if file.contains("keepalived") {
            format!("the services in {file}; systemctl reload keepalived")
        } else {
            format!("ipvsadm -Sn > {file}")
        };
        let remedy = crate::finding::Remedy::new(&host.name, now, "that is all", format!("the old contents of {file}"));
        let found = proven(host, Severity::Risky, summary, live.into_iter().collect::<Vec<_>>().join(", "), "ipvsadm -Sn")
            .and([crate::finding::Evidence::host(
                &host.name,
                names(kept).into_iter().collect::<Vec<_>>().join(", "),
                format!("cat {file}"),
            )])
            .mend([remedy]);
        checks.failed(&host.name, found);
    }
}
