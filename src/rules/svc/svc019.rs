//! A second lost for each port that is used again.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::ipvs::ForwardingMethod;

rule! {
    /// # What it sees
    /// A director with a kernel before 5.9, services of LVS-NAT, `net.ipv4.vs.conntrack` at 1 and `conn_reuse_mode` not at 0.
    ///
    /// # Why it breaks
    /// A SYN from an address and port whose old connection still is in TIME_WAIT begins a new one. With connection tracking the old entry
    /// must go first, and these kernels drop the SYN to do so. The client sends it again after one second: under load a share of all
    /// connections takes 1 s, or 3 s.
    ///
    /// # Confirm it by hand
    /// On the director: `uname -r`, `sysctl net.ipv4.vs.conntrack net.ipv4.vs.conn_reuse_mode`; many short connections from one client,
    /// timed.
    ///
    /// # Remedy
    /// A kernel since 5.9. Until then `sysctl -w net.ipv4.vs.conn_reuse_mode=0`, with which servers of weight 0 drain badly (SVC011).
    ///
    /// # When it is not a fault
    /// Where clients are many and seldom use a port again within two minutes.
    ///
    /// # Reproduce
    /// Such a kernel; a load generator with few source ports.
    ///
    /// # References
    /// kernel commit f0a5e4d7a594 (ipvs: allow connection reuse for unconfirmed conntrack); kubernetes issue 81775, 93297.
    SVC019 "conn-reuse-one-second" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// In settings, and the kernel's version.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        if !service.destinations.iter().any(|d| d.forwarding() == Some(ForwardingMethod::Nat)) {
            continue;
        }
        let keys = ["net.ipv4.vs.conntrack", "net.ipv4.vs.conn_reuse_mode"];
        match (host.kernel.as_deref(), host.sysctl(keys[0]), host.sysctl(keys[1])) {
            (_, Some(0), _) | (_, _, Some(0)) => checks.passed(&host.name, "ports are used again without a loss"),
            (Some(kernel), Some(_), Some(mode)) if host.is_older_than(5, 9) => {
                let summary =
                    format!("With kernel {kernel} each connection to {} from a port that is used again loses a second.", service.name());
                let found = proven(host, Severity::Risky, summary, format!("{}=1, {}={mode}", keys[0], keys[1]), "sysctl; uname -r")
                    .mend([super::super::remedy::set(host, &[(keys[1].to_string(), "0")])]);
                checks.failed(&host.name, found);
            }
            (Some(_), Some(_), Some(_)) => checks.passed(&host.name, "its kernel takes a port again without a loss"),
            _ => checks.needs(&host.name, "its kernel's version, net.ipv4.vs.conntrack and net.ipv4.vs.conn_reuse_mode"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn by_kernel_and_settings() {
        let site = |kernel: &str, conntrack: &str, mode: &str| {
            let rules = "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.0.11:80 -m\n";
            let director = Sketch::new("director").card("ext", "10.9.0.1/24").card("int", "10.0.0.1/24").ipvs(rules);
            let set = director.set("net.ipv4.vs.conntrack", conntrack).set("net.ipv4.vs.conn_reuse_mode", mode);
            [set.with(|h| h.kernel = Some(kernel.into()))]
        };
        let found = sketch::expect(&site("4.19.0-27-amd64", "1", "1"), &SVC019, Severity::Risky, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.vs.conn_reuse_mode=0");
        for fine in [site("4.19.0", "0", "1"), site("4.19.0", "1", "0"), site("5.10.0", "1", "1")] {
            sketch::passes(&fine, &SVC019, "director");
        }
    }
}
