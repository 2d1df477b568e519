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
    peers(site, checks);
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
                    "ipvsadm -Sn > /etc/sysconfig/ipvsadm",
                    "systemctl enable ipvsadm (Debian: the file is /etc/ipvsadm.rules), or the services in keepalived.conf",
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

/// Directors that hold the same address for each other have to have the same services.
fn peers(site: &Site<'_>, checks: &mut Checks) {
    let directors: Vec<(usize, &crate::host::Host)> = site.playing(Role::Director).collect();
    for (at, host) in &directors {
        for (other, peer) in directors.iter().filter(|(other, _)| other > at && site.is_peer(*at, *other)) {
            let rules = |at: usize| {
                let mine = site.fleet.services.iter().filter(move |s| s.director == Some(at)).map(|s| &s.service);
                let servers =
                    mine.flat_map(|s| s.destinations.iter().map(move |d| format!("{} -r {} {}", s.option(), d.address, d.method)));
                servers.collect::<std::collections::BTreeSet<String>>()
            };
            let (mine, theirs) = (rules(*at), rules(*other));
            let differ: Vec<&String> = mine.symmetric_difference(&theirs).collect();
            let Some(first) = differ.first() else {
                checks.passed(&host.name, format!("{} has the same services", peer.name));
                continue;
            };
            let summary = format!(
                "Its services are not those of {}, which takes over from it: {} differ.",
                peer.name,
                super::super::facts::plural(differ.len(), "real server")
            );
            let holder = if mine.contains(*first) { &host.name } else { &peer.name };
            let remedy = crate::finding::Remedy::new(
                &host.name,
                "ipvsadm -Sn | diff - OTHER, and the missing lines with ipvsadm",
                "one keepalived.conf for both",
                "ipvsadm -d for the lines that were added",
            );
            let found = proven(host, Severity::Risky, summary, format!("only on {holder}: {first}"), "ipvsadm -Sn")
                .and([crate::finding::Evidence::host(&peer.name, super::super::facts::plural(theirs.len(), "real server"), "ipvsadm -Sn")])
                .mend([remedy]);
            checks.failed(&host.name, found);
        }
    }
}
