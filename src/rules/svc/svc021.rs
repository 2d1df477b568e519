//! The table of connections has far fewer buckets than connections.

use super::super::remedy::look;
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Remedy, Severity};
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// A director whose table of connections has more than eight connections for each of its buckets.
    ///
    /// # Why it breaks
    /// The table is a hash table, and its size is fixed when the module is loaded (2^12 buckets as most kernels are built). Every packet goes
    /// through the chain of its bucket; long chains cost time for each packet, and at high rates packets are lost while cards wait.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -Ln | head -1` shows the size, `wc -l < /proc/net/ip_vs_conn` the connections; `mpstat -P ALL 1` the time in
    /// softirq.
    ///
    /// # Remedy
    /// `options ip_vs conn_tab_bits=20` for modprobe: about as many buckets as there are connections, eight bytes each. It holds after the
    /// module is loaded anew, which ends all connections: at the next reboot, or on the backup before the next failover.
    ///
    /// # When it is not a fault
    /// While the director has time to spare. Kernels whose table grows by itself never get there.
    ///
    /// # Reproduce
    /// `modprobe ip_vs conn_tab_bits=8`, and some thousand connections.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/Kconfig`, IP_VS_TAB_BITS; `ip_vs_conn.c`, `ip_vs_conn_in_get`.
    SVC021 "conn-table-undersized" check hosts
}

/// More connections for each bucket than this are too many.
const DEEP: u64 = 8;

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// In the table.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (_, host) in site.playing(Role::Director) {
        let Some(table) = host.ipvs.as_ref() else { continue };
        let (Some(size), Some(count)) = (table.size.map(u64::from).filter(|size| *size > 0), table.connection_count) else {
            // The smallest table there is has 256 buckets.
            match table.connection_count {
                Some(count) if count <= DEEP * 256 => checks.passed(&host.name, format!("{count} connections fit into every table")),
                Some(_) => checks.needs(&host.name, "the size of its connection table: `ipvsadm -Ln`"),
                None => super::need_connections(host, checks),
            }
            continue;
        };
        if count <= DEEP.saturating_mul(size) {
            checks.passed(&host.name, format!("{count} connections in {size} buckets"));
            continue;
        }
        let bits = (64 - count.leading_zeros()).clamp(8, 27);
        let summary = format!("{count} connections share {size} buckets, {} each: every packet is looked up among them.", count / size);
        let size_now = look(&host.name, "ipvsadm -Ln | head -1", "");
        let remedy = Remedy {
            permanent: format!("options ip_vs conn_tab_bits={bits} in /etc/modprobe.d/ip_vs.conf, from the next reboot on"),
            undo: "the file without that line".to_string(),
            ..size_now
        };
        let found =
            proven(host, Severity::Degraded, summary, format!("size={size}, {count} connections"), "ipvsadm -Ln; /proc/net/ip_vs_conn");
        checks.failed(&host.name, found.mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, dr_with};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn chains_that_are_too_long() {
        let with = |size: Option<u32>, count: Option<u64>| {
            dr_with("director", |d| {
                d.with(|h| {
                    let table = h.ipvs.as_mut().unwrap();
                    (table.size, table.connection_count) = (size, count);
                })
            })
        };
        let found = sketch::expect(&with(Some(4096), Some(100_000)), &SVC021, Severity::Degraded, Confidence::Certain, "director");
        assert!(found.remedy[0].permanent.contains("conn_tab_bits=17"), "{}", found.remedy[0].permanent);
        sketch::passes(&with(Some(4096), Some(32_768)), &SVC021, "director");
        sketch::passes(&with(Some(1 << 20), Some(1_000_000)), &SVC021, "director");
        sketch::passes(&with(None, Some(1000)), &SVC021, "director");
        sketch::cannot_judge(&with(None, Some(100_000)), &SVC021, "director");
        sketch::cannot_judge(&with(Some(4096), None), &SVC021, "director");
    }
}
