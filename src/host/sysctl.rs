//! Settings, and which value counts: the kernel combines that of `all` with that of the device, each in its own way.

use super::Host;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings by their names in sysctl(8); a dot in a device's name is a slash there (`net.ipv4.conf.eth0/224.rp_filter`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sysctls(pub BTreeMap<String, String>);

/// How the kernel combines `all` and the device (`include/linux/inetdevice.h`).
enum Combined {
    Max,
    Or,
    And,
    /// The device alone.
    Own,
}

fn combined(key: &str, forwarding: bool) -> Combined {
    match key {
        "rp_filter" | "arp_ignore" | "arp_announce" | "arp_notify" | "arp_accept" | "arp_evict_nocarrier" => Combined::Max,
        "arp_filter" | "proxy_arp" | "accept_local" | "send_redirects" | "secure_redirects" | "shared_media" | "log_martians"
        | "route_localnet" | "src_valid_mark" | "bootp_relay" => Combined::Or,
        "accept_redirects" if forwarding => Combined::And,
        "accept_redirects" => Combined::Or,
        "accept_source_route" | "mc_forwarding" | "bc_forwarding" => Combined::And,
        _ => Combined::Own,
    }
}

/// Settings of a device that matter to virtual servers; of IPv6 those that decide on forwarding, addresses and neighbours.
const OF_DEVICES: [&str; 24] = [
    "accept_local",
    "accept_ra",
    "accept_redirects",
    "accept_source_route",
    "addr_gen_mode",
    "arp_accept",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "arp_notify",
    "disable_ipv6",
    "drop_gratuitous_arp",
    "forwarding",
    "log_martians",
    "promote_secondaries",
    "proxy_arp",
    "proxy_arp_pvlan",
    "proxy_ndp",
    "route_localnet",
    "rp_filter",
    "secure_redirects",
    "send_redirects",
    "shared_media",
    "src_valid_mark",
];

impl Sysctls {
    /// Whether a setting is worth its place in a snapshot.
    pub fn matters(key: &str) -> bool {
        let last = key.rsplit('.').next().unwrap_or_default();
        match key.strip_prefix("net.ipv4.conf.").or_else(|| key.strip_prefix("net.ipv6.conf.")) {
            Some(_) => OF_DEVICES.contains(&last),
            None => {
                let groups = ["net.ipv4.vs.", "net.netfilter.nf_conntrack_", "net.bridge."];
                let single = [
                    "ip_forward",
                    "ip_nonlocal_bind",
                    "ip_no_pmtu_disc",
                    "tcp_timestamps",
                    "tcp_tw_recycle",
                    "tcp_syncookies",
                    "tcp_keepalive_time",
                ];
                groups.iter().any(|g| key.starts_with(g)) && !last.contains("timeout")
                    || key.strip_prefix("net.ipv4.").is_some_and(|key| single.contains(&key))
            }
        }
    }

    /// A value as text.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// A value as a number; of several the first.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.get(key)?.split_whitespace().next()?.parse().ok()
    }

    /// `net.ipv4.conf.DEVICE.KEY`.
    pub fn name4(device: &str, key: &str) -> String {
        format!("net.ipv4.conf.{}.{key}", device.replace('.', "/"))
    }

    /// What is set at a device (or `all`) itself.
    pub fn at4(&self, device: &str, key: &str) -> Option<i64> {
        self.number(&Self::name4(device, key))
    }
}

impl Host {
    /// A setting as a number.
    pub fn sysctl(&self, key: &str) -> Option<i64> {
        self.sysctls.as_ref()?.number(key)
    }

    /// The value of `net.ipv4.conf.*.key` that counts at a device; `None` where one of those that matter is not known.
    pub fn effective(&self, key: &str, device: &str) -> Option<i64> {
        let sysctls = self.sysctls.as_ref()?;
        let own = sysctls.at4(device, key)?;
        let forwarding = sysctls.at4(device, "forwarding").unwrap_or(0) != 0;
        let all = || sysctls.at4("all", key);
        Some(match combined(key, forwarding) {
            Combined::Max => own.max(all()?),
            Combined::Or => i64::from(own != 0 || all()? != 0),
            Combined::And => i64::from(own != 0 && all()? != 0),
            Combined::Own => own,
        })
    }

    /// `net.ipv6.conf.*.key` where either of `all` and the device counts (`proxy_ndp`), or the device alone (`forwarding`); `None` where
    /// one that matters is not known.
    pub fn effective6(&self, key: &str, device: &str) -> Option<i64> {
        let at = |device: &str| self.sysctl(&format!("net.ipv6.conf.{}.{key}", device.replace('.', "/")));
        let own = at(device)?;
        Some(if key == "proxy_ndp" && own == 0 { at("all")? } else { own })
    }

    /// What stands behind an effective value, for a text: `net.ipv4.conf.all.arp_ignore=0, net.ipv4.conf.eth0.arp_ignore=1`.
    pub fn behind(&self, key: &str, device: &str) -> String {
        let value = |at: &str| self.sysctls.as_ref().and_then(|s| s.at4(at, key)).map_or("?".to_string(), |v| v.to_string());
        match combined(key, false) {
            Combined::Own => format!("{}={}", Sysctls::name4(device, key), value(device)),
            _ => format!("net.ipv4.conf.all.{key}={}, {}={}", value("all"), Sysctls::name4(device, key), value(device)),
        }
    }

    /// True when the kernel is older than this version; false where it is not known.
    pub fn is_older_than(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.kernel.as_deref().unwrap_or_default().split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        matches!((parts.next(), parts.next()), (Some(Ok(a)), Some(Ok(b))) if (a, b) < (major, minor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(settings: &[(&str, &str)]) -> Host {
        let all = settings.iter().map(|(k, v)| (format!("net.ipv4.conf.{k}"), v.to_string()));
        Host { sysctls: Some(Sysctls(all.collect())), ..Host::new("web1") }
    }

    #[test]
    fn the_larger_counts_for_some_and_either_for_others() {
        let h = host(&[
            ("all.rp_filter", "1"),
            ("eth0/7.rp_filter", "2"),
            ("eth1.rp_filter", "0"),
            ("all.send_redirects", "0"),
            ("eth1.send_redirects", "1"),
            ("all.forwarding", "1"),
            ("eth1.forwarding", "0"),
            ("all.accept_redirects", "0"),
            ("eth1.accept_redirects", "1"),
        ]);
        assert_eq!(h.effective("rp_filter", "eth0.7"), Some(2));
        assert_eq!(h.effective("rp_filter", "eth1"), Some(1));
        assert_eq!(h.effective("send_redirects", "eth1"), Some(1));
        assert_eq!(h.effective("forwarding", "eth1"), Some(0), "the device alone");
        assert_eq!(h.effective("accept_redirects", "eth1"), Some(1), "or, while it does not forward");
        assert_eq!(h.effective("arp_ignore", "eth1"), None, "nobody looked");
        assert_eq!(h.behind("rp_filter", "eth0.7"), "net.ipv4.conf.all.rp_filter=1, net.ipv4.conf.eth0/7.rp_filter=2");
    }

    #[test]
    fn versions() {
        let old = Host { kernel: Some("5.4.0-150-generic".into()), ..Host::new("a") };
        assert!(old.is_older_than(5, 9) && !old.is_older_than(5, 4) && !Host::new("b").is_older_than(9, 9));
    }
}
