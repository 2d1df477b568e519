//! Loose reverse path filtering on a tunnel device without an address.

use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::Severity;
use crate::finding::{Need, Outcome};
use crate::host::SourceCheck;
use crate::trace::Method;

rule! {
    /// # What it sees
    /// In packets, exactly what TUN002 shows: the request comes out of the tunnel and is dropped without a word. No packet tells the two
    /// apart; the addresses of the tunnel device and the value of `rp_filter` do. While there are only packets, TUN002 is reported with this
    /// one among its alternatives.
    ///
    /// # Why it breaks
    /// Loose filtering (`rp_filter=2`) asks only whether the source can be reached at all. But a device without any IPv4 address takes a
    /// short cut in the kernel: with any filtering, strict or loose, the packet is dropped. It is so where the VIP is on `lo` and the tunnel
    /// device has no address.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip -4 addr show dev tunl0` is empty and `sysctl net.ipv4.conf.all.rp_filter net.ipv4.conf.tunl0.rp_filter` shows
    /// a 2; `nstat -az TcpExtIPReversePathFilter` counts up.
    ///
    /// # Remedy
    /// `ip addr add VIP/32 dev tunl0`, or `rp_filter=0` for both `all` and `tunl0`.
    ///
    /// # When it is not a fault
    /// With `rp_filter=0` an address is not needed.
    ///
    /// # Reproduce
    /// A TUN service with the VIP on `lo` of the real servers, `tunl0` up without address, `rp_filter=2`.
    ///
    /// # References
    /// kernel `net/ipv4/fib_frontend.c`, `__fib_validate_source` (the label `last_resort`).
    TUN003 "loose-rp-filter-on-addressless-tunnel" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    match facts.silences("TUN002").first() {
        Some(silence) => Outcome::NotJudged(Need(format!("a snapshot of {}: packets do not tell this from TUN002", silence.names(facts)))),
        None => Outcome::or_need(Vec::new(), facts.unwatched_server(&[Method::Tunnel])),
    }
}

/// On the real server: rp_filter at a tunnel device without an address of its own.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&[crate::ipvs::ForwardingMethod::Tunnel]) {
        let host = site.host(duty.member);
        let Some(device) = host.links().iter().find(|l| l.is_tunnel() && l.is_up()) else { continue };
        for (source, _) in duty.answered() {
            match host.source_check(source, &device.name) {
                SourceCheck::Unknown(why) => checks.needs(&host.name, why),
                SourceCheck::NoAddress => {
                    let summary =
                        format!("Requests come out of {}, which has no IPv4 address: rp_filter, strict or loose, drops it.", device.name);
                    let vip = duty.vip.map_or_else(|| "VIP".to_string(), |a| a.to_string());
                    let remedy = crate::finding::Remedy::new(
                        &host.name,
                        format!("ip addr add {vip}/32 dev {name}; sysctl -w net.ipv4.conf.{name}.rp_filter=2", name = device.name),
                        format!("the address on {} instead of lo, and the setting in /etc/sysctl.d/90-lvs.conf", device.name),
                        format!(
                            "ip addr del {vip}/32 dev {name}; sysctl -w net.ipv4.conf.{name}.rp_filter={old}",
                            name = device.name,
                            old = host.sysctls.as_ref().and_then(|s| s.at4(&device.name, "rp_filter")).unwrap_or(0)
                        ),
                    );
                    let found = proven(host, Severity::Broken, summary, host.behind("rp_filter", &device.name), "sysctl")
                        .and([crate::finding::Evidence::host(
                            &host.name,
                            format!("no IPv4 address on {}", device.name),
                            format!("ip -4 addr show {}", device.name),
                        )])
                        .and(site.counted(host, &["TcpExtIPReversePathFilter"]))
                        .mend([remedy]);
                    checks.failed(&host.name, found);
                }
                _ => checks.passed(&host.name, format!("rp_filter at {} lets requests in", device.name)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::super::tun002::TUN002;
    use super::*;
    use crate::finding::Confidence;

    /// The fault itself, as packets show it: named among the alternatives, and said to need a snapshot.
    #[test]
    fn packets_leave_it_open() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80").tunnel("director", 4, "10.2.0.99", "10.2.0.11");
        w.syn(&c, "client router director web1", 3);
        assert!(w.expect(&TUN002, Confidence::Likely, "web1").alternatives.contains(&"TUN003"));
        w.deny(&TUN003);
        assert!(w.cannot_judge(&TUN003));
    }

    #[test]
    fn a_tunnel_that_serves_is_judged() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80").tunnel("director", 4, "10.2.0.99", "10.2.0.11");
        w.talk(&c, "client router director web1", "web1 router client");
        w.deny(&TUN003);
        assert!(!w.cannot_judge(&TUN003));
    }
}
