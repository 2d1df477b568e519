//! Whether anybody takes out a server that dies: the programs that run on a director, beside what its files say.

use super::super::site::proven;
use super::super::{Checks, Site};
use crate::finding::{Evidence, Finding, Remedy, Severity};
use crate::host::{Host, Service};
use crate::ipvs::Role;
use std::net::IpAddr;

/// On directors with servers to choose from.
pub(super) fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (at, host) in site.playing(Role::Director) {
        let services: Vec<&Service> = site.fleet.services.iter().filter(|s| s.director == Some(at)).map(|s| &s.service).collect();
        if services.iter().all(|s| s.destinations.is_empty()) {
            continue;
        }
        let Some(managers) = &host.managers else {
            checks.needs(&host.name, format!("the programs that run on it: {}", host.why_absent("managers")));
            continue;
        };
        if let Some(manager) = managers.first() {
            checks.passed(&host.name, format!("{manager} runs"));
            continue;
        }
        checks.failed(&host.name, unattended(host, &services));
    }
}

/// Nobody looks after the servers. Where keepalived was meant to, that is more than worth knowing.
fn unattended(host: &Host, services: &[&Service]) -> Finding {
    let nobody = "none of keepalived, ldirectord and the like";
    let source = "ps -eo comm";
    let meant = meant_for_keepalived(host, services);
    match meant {
        Some((what, file)) => {
            let summary = format!(
                "keepalived does not run, although its configuration has {what}: no dead server is taken out, and no address moves."
            );
            let remedy =
                Remedy::new(&host.name, "systemctl start keepalived", "systemctl enable keepalived", "systemctl disable --now keepalived");
            proven(host, Severity::Risky, summary, nobody, source)
                .and([Evidence::host(&host.name, what, format!("cat {file}"))])
                .mend([remedy])
        }
        None => {
            let summary = "No health checker runs: a real server that dies goes on getting its share of the connections.";
            let remedy = Remedy::new(
                &host.name,
                "systemctl start keepalived",
                "virtual_server with TCP_CHECK or HTTP_GET in keepalived.conf, or ldirectord; systemctl enable keepalived",
                "systemctl disable --now keepalived",
            );
            proven(host, Severity::Note, summary, nobody, source).mend([remedy])
        }
    }
}

/// What of keepalived's configuration is about this very table: a sample that came with the package is not.
fn meant_for_keepalived(host: &Host, services: &[&Service]) -> Option<(String, String)> {
    let saved = host.saved.as_ref()?;
    let file = saved.files.iter().find(|f| f.ends_with("keepalived.conf"))?;
    let from_it = saved.services_file.as_deref().is_some_and(|f| f.ends_with("keepalived.conf"));
    let kept = saved.services.iter().flatten().filter(|_| from_it).map(Service::name);
    if let Some(name) = kept.into_iter().find(|name| services.iter().any(|s| s.name() == *name)) {
        return Some((format!("virtual server {name}"), file.clone()));
    }
    let vips: Vec<IpAddr> = services.iter().filter_map(|s| s.vip()).collect();
    let moves = |v: &&crate::host::VrrpInstance| v.addresses.iter().any(|a| vips.contains(a));
    saved.vrrp.iter().find(moves).map(|v| (format!("vrrp_instance {}", v.name), file.clone()))
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::super::svc003::SVC003;
    use super::*;
    use crate::finding::Confidence;
    use crate::host::{Saved, VrrpInstance};

    fn site(managers: Option<&[&str]>, saved: Option<Saved>) -> [Sketch; 5] {
        let managers = managers.map(|all| all.iter().map(|name| (*name).to_string()).collect());
        sketch::dr_with("director", |d| d.with(|h| (h.managers, h.saved) = (managers, saved)))
    }

    #[test]
    fn nobody_checks() {
        let found = sketch::expect(&site(Some(&[]), None), &SVC003, Severity::Note, Confidence::Certain, "director");
        assert!(found.summary.starts_with("No health checker runs"), "{}", found.summary);
        for manager in ["keepalived", "ldirectord", "kube-proxy"] {
            sketch::passes(&site(Some(&[manager]), None), &SVC003, "director");
        }
        sketch::cannot_judge(&site(None, None), &SVC003, "director");
    }

    #[test]
    fn keepalived_was_meant_to() {
        let vrrp =
            |address: &str| VrrpInstance { name: "VI_1".into(), addresses: vec![address.parse().unwrap()], ..VrrpInstance::default() };
        let saved = |address: &str| {
            Some(Saved { vrrp: vec![vrrp(address)], files: vec!["/etc/keepalived/keepalived.conf".into()], ..Saved::default() })
        };
        let found = sketch::expect(&site(Some(&[]), saved("10.0.0.100")), &SVC003, Severity::Risky, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "systemctl start keepalived");
        // The sample of a package is about other addresses.
        sketch::expect(&site(Some(&[]), saved("192.168.200.16")), &SVC003, Severity::Note, Confidence::Certain, "director");
        sketch::passes(&site(Some(&["ldirectord"]), saved("10.0.0.100")), &SVC003, "director");
    }
}
