//! Clients that use their ports again follow old entries to a server that was taken out.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Severity};
use crate::net::{Protocol, plural};

rule! {
    /// # What it sees
    /// A real server of weight 0 that still has connections, and `net.ipv4.vs.conn_reuse_mode` at 0: a new connection from an address and
    /// port that were used before goes where the old one went.
    ///
    /// # Why it breaks
    /// Weight 0 keeps new connections away, and a SYN with the addresses and ports of an entry that has not expired is none. With
    /// conn_reuse_mode at 0 the entry is used again and renewed, whatever the server's weight. A busy client behind one address (a proxy,
    /// a NAT) comes round to its ports sooner than entries expire, and the server never drains.
    ///
    /// # Confirm it by hand
    /// On the director: `sysctl net.ipv4.vs.conn_reuse_mode`; `ipvsadm -Ln` twice: InActConn of the server of weight 0 does not fall.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.vs.conn_reuse_mode=1 net.ipv4.vs.expire_nodest_conn=1`, on kernels since 5.9. Older ones lose a second for
    /// each such connection where `net.ipv4.vs.conntrack` is 1 (SVC019).
    ///
    /// # When it is not a fault
    /// When the server has no connections left, or its clients are many and their ports do not come round.
    ///
    /// # Reproduce
    /// `sysctl -w net.ipv4.vs.conn_reuse_mode=0`; a client that connects from one source port again and again; then `ipvsadm -e … -w 0`.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `is_new_conn_expected`; `Documentation/networking/ipvs-sysctl.rst`: conn_reuse_mode.
    SVC011 "weight0-never-drains" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// In the table, and in the settings.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    const REUSE: &str = "net.ipv4.vs.conn_reuse_mode";
    for (host, service) in site.directed().filter(|(_, s)| s.protocol != Some(Protocol::Udp)) {
        let Some(table) = host.ipvs.as_ref() else { continue };
        let held = |d: &crate::host::Destination| {
            let counted = u64::from(d.active.unwrap_or(0)) + u64::from(d.inactive.unwrap_or(0));
            counted.max(super::connections_of(table, service, d.address).count() as u64)
        };
        let drained = service.destinations.iter().filter(|d| d.weight == 0).map(|d| (d, held(d))).find(|(_, held)| *held > 0);
        let Some((server, held)) = drained else {
            checks.passed(&host.name, format!("{}: no server of weight 0 has connections", service.name()));
            continue;
        };
        match host.sysctl(REUSE) {
            None => checks.needs(&host.name, REUSE),
            Some(0) => {
                let what = plural(held, "connection");
                let summary = format!(
                    "{} of {} has weight 0 and {what}, and conn_reuse_mode is 0: clients that use a port again come to it again.",
                    server.address,
                    service.name()
                );
                let keys = [REUSE, "net.ipv4.vs.expire_nodest_conn"].map(|key| (key.to_string(), "1"));
                let found = proven(host, Severity::Risky, summary, format!("{REUSE}=0"), format!("sysctl {REUSE}"))
                    .and([crate::finding::Evidence::host(&host.name, format!("{} weight 0, {what}", server.address), "ipvsadm -Ln")])
                    .mend([super::super::remedy::set(host, &keys)]);
                checks.failed(&host.name, found);
            }
            Some(_) => checks.passed(&host.name, "a port that is used again is a new connection"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, dr_with};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn a_server_that_is_to_drain() {
        let rules = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 0\n-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g\n";
        let with = |mode: &str, rip: &str| {
            let line = format!("tcp 10.9.0.7:40001 10.0.0.100:80 {rip}:80 FIN_WAIT 50");
            dr_with("director", |d| d.ipvs(rules).connections(&[&line]).set("net.ipv4.vs.conn_reuse_mode", mode))
        };
        let found = sketch::expect(&with("0", "10.0.0.11"), &SVC011, Severity::Risky, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.vs.conn_reuse_mode=1 net.ipv4.vs.expire_nodest_conn=1");
        sketch::passes(&with("1", "10.0.0.11"), &SVC011, "director");
        sketch::passes(&with("0", "10.0.0.12"), &SVC011, "director");
        let counted =
            dr_with("director", |d| d.ipvs(rules).with(|h| h.ipvs.as_mut().unwrap().services[0].destinations[0].inactive = Some(3)));
        sketch::cannot_judge(&counted, &SVC011, "director");
    }
}
