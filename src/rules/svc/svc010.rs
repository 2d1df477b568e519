//! Persistence holds clients at a real server that was taken out.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};

rule! {
    /// # What it sees
    /// A persistent service, a real server of weight 0, and `expire_quiescent_template` off: clients that it has served before go on
    /// coming to it.
    ///
    /// # Why it breaks
    /// Weight 0 keeps new clients away. A client with a persistence template is not new: its template leads to the old server until it
    /// expires, and each connection renews it.
    ///
    /// # Confirm it by hand
    /// `ipvsadm -Lnc`: rows with client port 0 that lead to that server. `sysctl net.ipv4.vs.expire_quiescent_template`.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.vs.expire_quiescent_template=1 net.ipv4.vs.expire_nodest_conn=1`.
    ///
    /// # When it is not a fault
    /// While a server is drained on purpose, and its old clients may finish there.
    ///
    /// # Reproduce
    /// A service with `-p 300`; a client; then `ipvsadm -e … -w 0`, and the client again.
    ///
    /// # References
    /// kernel `Documentation/networking/ipvs-sysctl.rst`: expire_quiescent_template.
    SVC010 "template-pins-dead-or-drained-rs" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// In the table.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed().filter(|(_, s)| s.persistence.is_some()) {
        let Some(idle) = service.destinations.iter().find(|d| d.weight == 0) else {
            checks.passed(&host.name, format!("{}: no real server is taken out", service.name()));
            continue;
        };
        match host.sysctl("net.ipv4.vs.expire_quiescent_template") {
            None => checks.needs(&host.name, "net.ipv4.vs.expire_quiescent_template"),
            Some(1) => checks.passed(&host.name, "templates expire with their server"),
            Some(_) => {
                let held = host
                    .ipvs
                    .iter()
                    .filter_map(|t| t.connections.as_ref())
                    .flatten()
                    .filter(|c| c.client.port == 0 && c.destination.addr == idle.address.addr)
                    .count();
                let severity = if held > 0 { Severity::Degraded } else { Severity::Risky };
                let what = if held > 0 {
                    format!("{} in the table now", super::super::facts::plural(held, "template"))
                } else {
                    "none in the table now".to_string()
                };
                let summary = format!(
                    "{} has weight 0, but persistence of {} still sends clients there that it knows ({what}).",
                    idle.address,
                    service.name()
                );
                let keys = ["net.ipv4.vs.expire_quiescent_template", "net.ipv4.vs.expire_nodest_conn"].map(|k| (k.to_string(), "1"));
                let found = proven(host, severity, summary, "net.ipv4.vs.expire_quiescent_template=0", "sysctl")
                    .mend([super::super::remedy::set(host, &keys)]);
                checks.failed(&host.name, found);
            }
        }
    }
}
