//! UDP that goes on to a server which is no more.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::net::Protocol;

rule! {
    /// # What it sees
    /// Entries of UDP in the director's table whose real server is in no service any more, with `expire_nodest_conn` off: packets from
    /// those client ports vanish.
    ///
    /// # Why it breaks
    /// UDP has no end that IPVS could see: an entry lives as long as packets come, and each packet renews it (300 s by default). A client
    /// that always sends from one port (a resolver, syslog, SIP) stays with its first server for ever, also when that is gone.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -Lnc | grep UDP` shows servers that `ipvsadm -Ln` does not.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.vs.expire_nodest_conn=1`; for services of one packet each, one-packet scheduling (`ipvsadm -A -u … -o`); a
    /// shorter timeout (`ipvsadm --set 0 0 30`).
    ///
    /// # When it is not a fault
    /// Entries that run out because nobody sends any more.
    ///
    /// # Reproduce
    /// A UDP service; a client that sends each second from one port; `ipvsadm -d` of its server.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_in_hook`; `Documentation/networking/ipvs-sysctl.rst`: expire_nodest_conn;
    /// ipvsadm(8), `--ops`.
    SVC014 "udp-affinity-blackhole" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// In the connection table.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::forgotten(site, checks, Protocol::Udp, |host, servers, count| {
        let summary = format!(
            "{} of UDP lead to {servers}, which is in no service any more: what those clients send vanishes, and renews them.",
            if count == 1 { "1 entry".to_string() } else { format!("{count} entries") }
        );
        proven(host, Severity::Degraded, summary, format!("{count} of UDP to {servers}"), "ipvsadm -Lnc; ipvsadm -Ln")
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, dr_with};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn udp_of_a_removed_server() {
        let rules = "-A -u 10.0.0.100:53 -s rr\n-a -u 10.0.0.100:53 -r 10.0.0.11:53 -g\n";
        let with = |rip: &str, key: &str| {
            let line = format!("udp 10.9.0.7:40001 10.0.0.100:53 {rip}:53 UDP 250");
            dr_with("director", |d| d.ipvs(rules).connections(&[&line]).set("net.ipv4.vs.expire_nodest_conn", key))
        };
        let found = sketch::expect(&with("10.0.0.13", "0"), &SVC014, Severity::Degraded, Confidence::Certain, "director");
        assert!(found.summary.starts_with("1 entry of UDP"), "{}", found.summary);
        sketch::passes(&with("10.0.0.11", "0"), &SVC014, "director");
        sketch::passes(&with("10.0.0.13", "1"), &SVC014, "director");
    }
}
