//! A real server that has as many connections as it may have.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Remedy, Severity};
use crate::host::Destination;

rule! {
    /// # What it sees
    /// A real server with an upper threshold, and at least so many connections in the director's table.
    ///
    /// # Why it breaks
    /// From then on it gets no new ones, until it falls below the lower threshold, or below three quarters of the upper one where there
    /// is none. Connections that are over count until they expire: with direct routing those in FIN_WAIT, for two minutes.
    ///
    /// # Confirm it by hand
    /// `ipvsadm -Ln --thresholds`: ActiveConn and InActConn together against Uthreshold.
    ///
    /// # Remedy
    /// A higher threshold, or none (`-x 0`); shorter timeouts (`ipvsadm --set 0 30 0`).
    ///
    /// # When it is not a fault
    /// When the server cannot do more: that is what the threshold is for.
    ///
    /// # Reproduce
    /// `ipvsadm -a … -x 2`, and three connections.
    ///
    /// # References
    /// ipvsadm(8), --u-threshold; kernel `net/netfilter/ipvs/ip_vs_conn.c`, `ip_vs_bind_dest`.
    SVC018 "threshold-overload-hysteresis" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// In the table.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let limited: Vec<_> = service.destinations.iter().filter(|d| d.upper > 0 && d.weight > 0).collect();
        if limited.is_empty() {
            continue;
        }
        let total = |d: &crate::host::Destination| Some(u64::from(d.active?) + u64::from(d.inactive?));
        let Some(totals) = limited.iter().map(|d| total(d).map(|n| (*d, n))).collect::<Option<Vec<_>>>() else {
            checks.needs(&host.name, "the connections of its real servers: `ipvsadm -Ln`");
            continue;
        };
        let full: Vec<_> = totals.iter().filter(|(d, n)| *n >= u64::from(d.upper)).collect();
        let Some((server, count)) = full.first() else {
            checks.passed(&host.name, format!("{}: no real server is at its threshold", service.name()));
            continue;
        };
        let usable = service.destinations.iter().filter(|d| d.weight > 0).count();
        let (severity, end) = match full.len() == usable {
            true => (Severity::Broken, "no other is left: new connections are refused"),
            false => (Severity::Degraded, "new connections go to the others"),
        };
        let summary = format!(
            "{} of {} has {count} connections, {} of them over, and may have {}: {end}.",
            server.address,
            service.name(),
            server.inactive.unwrap_or(0),
            server.upper
        );
        let option = service.option();
        let line = |d: &Destination, upper: u32| {
            let method = d.forwarding().map_or(String::new(), |m| format!("{} ", m.option()));
            format!("ipvsadm -e {option} -r {} {method}-w {} -x {upper} -y {}", d.address, d.weight, d.lower)
        };
        // Each that is full: the others' turn would only be longer.
        let lines = |factor: u32| full.iter().map(|(d, _)| line(d, d.upper.saturating_mul(factor))).collect::<Vec<_>>().join("; ");
        let remedy = Remedy::new(&host.name, lines(2), "a higher threshold in keepalived.conf (uthreshold)", lines(1));
        let fact = format!("{} -x {}, {count} connections", server.address, server.upper);
        checks.failed(&host.name, proven(host, severity, summary, fact, "ipvsadm -Ln --thresholds").mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, dr_with};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn who_is_at_its_threshold() {
        let rules = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -x 10\n-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g\n";
        let with = |counts: [u32; 2], both: bool| {
            dr_with("director", |d| {
                d.ipvs(rules).with(|h| {
                    for destination in &mut h.ipvs.as_mut().unwrap().services[0].destinations {
                        (destination.active, destination.inactive) = (Some(counts[0]), Some(counts[1]));
                        destination.upper = if both { 10 } else { destination.upper };
                    }
                })
            })
        };
        let found = sketch::expect(&with([1, 9], false), &SVC018, Severity::Degraded, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1 -x 20 -y 0");
        let found = sketch::expect(&with([1, 9], true), &SVC018, Severity::Broken, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command.matches(" -x 20 ").count(), 2, "{}", found.remedy[0].command);
        sketch::passes(&with([1, 8], false), &SVC018, "director");
        sketch::cannot_judge(&dr_with("director", |d| d.ipvs(rules)), &SVC018, "director");
    }
}
