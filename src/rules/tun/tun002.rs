//! Strict reverse path filtering drops what comes out of the tunnel.

use super::super::remedy::sysctl;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::device;
use crate::finding::{Outcome, Severity};
use crate::host::SourceCheck;
use crate::trace::Method;

rule! {
    /// # What it sees
    /// The packet in the tunnel arrives at the real server (and, where the tunnel device was captured, comes out of it). Then silence: no
    /// SYN-ACK, no RST, no ARP for a gateway, no ICMP error. The client repeats its SYN.
    ///
    /// # Why it breaks
    /// The unpacked request arrives by the tunnel device, and its source is a client to whom the route leads by another interface. With
    /// `rp_filter=1` the kernel drops it as spoofed. The larger of `all` and the device counts: `tunl0.rp_filter=0` is not enough while
    /// `all.rp_filter=1`. Packets are captured in front of that check.
    ///
    /// # Confirm it by hand
    /// On the real server: `sysctl net.ipv4.conf.all.rp_filter net.ipv4.conf.tunl0.rp_filter`; `nstat -az TcpExtIPReversePathFilter` counts
    /// up with each SYN.
    ///
    /// # Remedy
    /// `rp_filter=2` on the tunnel device: the larger value is the looser one. The device needs an IPv4 address for that (TUN003): the VIP.
    ///
    /// # When it is not a fault
    /// When another cause keeps the server silent: loose filtering on a device without address (TUN003, which packets cannot tell from
    /// this), a firewall (NET008), no VIP on the server (DR001), no route to the client (DR004).
    ///
    /// # Reproduce
    /// A TUN service; on a real server `sysctl -w net.ipv4.conf.all.rp_filter=1`.
    ///
    /// # References
    /// kernel `net/ipv4/fib_frontend.c`, `__fib_validate_source`; `Documentation/networking/ip-sysctl.rst`: rp_filter.
    TUN002 "tunnel-rp-filter-strict" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = facts.silences("TUN002").into_iter().map(|silence| {
        let (flow, names) = (silence.flows[0], silence.names(facts));
        let device = device(facts, flow);
        let settle = format!("`nstat -az TcpExtIPReversePathFilter`, `sysctl net.ipv4.conf.all.rp_filter`, `ip addr show {device}`");
        let key = format!("net.ipv4.conf.{device}.rp_filter");
        silence.finding(facts, Severity::Broken, &settle).mend([sysctl(&names, &[(&key, "2", "1")])])
    });
    Outcome::or_need(found.collect(), facts.unwatched_server(&[Method::Tunnel]))
}

/// On the real server: what rp_filter makes of packets out of the tunnel.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&[crate::ipvs::ForwardingMethod::Tunnel]) {
        let host = site.host(duty.member);
        let Some(device) = host.links().iter().find(|l| l.is_tunnel() && l.is_up()) else { continue };
        for (source, by) in duty.answered() {
            match host.source_check(source, &device.name) {
                SourceCheck::Unknown(why) => checks.needs(&host.name, why),
                SourceCheck::OtherWay(_) | SourceCheck::NoWay => {
                    let summary = format!(
                        "Requests come out of {}, the way back to {source} ({by}) does not lead there: the strict rp_filter drops it.",
                        device.name
                    );
                    let found = proven(host, Severity::Broken, summary, host.behind("rp_filter", &device.name), "sysctl")
                        .and(site.counted(host, &["TcpExtIPReversePathFilter"]))
                        .mend([super::super::remedy::set(host, &[(crate::host::Sysctls::name4(&device.name, "rp_filter"), "2")])]);
                    checks.failed(&host.name, found);
                }
                _ => checks.passed(&host.name, format!("rp_filter at {} lets requests in", device.name)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::net::net008::NET008;
    use super::super::super::testing::{Conn, SYN, World};
    use super::super::tun003::TUN003;
    use super::*;
    use crate::finding::Confidence;

    fn tunnel(port: u16) -> Conn {
        World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80").tunnel("director", 4, "10.2.0.99", "10.2.0.11")
    }

    fn silent(mut w: World, unpacks: bool) -> World {
        let c = tunnel(40001);
        for pause in [0.0, 1.0, 2.0] {
            w.wait(pause);
            w.syn(&c, "client router director web1", 1);
            if unpacks {
                w.unpack(&c, SYN, b"", "web1.tunl0", 62);
            }
        }
        w
    }

    #[test]
    fn unpacked_and_dropped() {
        let w = silent(World::dr().tunnel_device("web1.tunl0"), true);
        let found = w.expect(&TUN002, Confidence::Likely, "web1");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.conf.tunl0.rp_filter=2");
        assert!(found.alternatives.contains(&"TUN003") && !found.alternatives.contains(&"TUN007"), "{:?}", found.alternatives);
        w.deny(&TUN003);
        assert!(w.cannot_judge(&TUN003));
    }

    /// The card shows the repetitions, and the tunnel's device the first packet alone: its capture ended sooner.
    #[test]
    fn unpacked_and_captured_there_for_a_moment() {
        let mut w = World::dr().tunnel_device("web1.tunl0");
        let c = tunnel(40001);
        w.syn(&c, "client router director web1", 1);
        w.unpack(&c, SYN, b"", "web1.tunl0", 62);
        for pause in [1.0, 2.0] {
            w.wait(pause);
            w.syn(&c, "client router director web1", 1);
        }
        let found = w.expect(&TUN002, Confidence::Likely, "web1");
        assert!(!found.alternatives.contains(&"TUN007"), "{:?}", found.alternatives);
    }

    #[test]
    fn the_tunnel_device_was_not_captured() {
        let w = silent(World::dr(), false);
        let found = w.expect(&TUN002, Confidence::Likely, "web1");
        assert!(found.alternatives.contains(&"TUN007"));
        let w = w.without(&["web1", "web2"]);
        w.deny(&TUN002);
        assert!(w.cannot_judge(&TUN002));
    }

    #[test]
    fn the_server_alone_shows_it() {
        let mut w = World::dr().tunnel_device("web1.tunl0");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let w = silent(w, true).without(&["client", "router", "director", "web2"]);
        assert_eq!(w.finding(&TUN002).confidence, Confidence::Likely);
    }

    #[test]
    fn nothing_comes_out_of_the_tunnel() {
        let w = silent(World::dr().tunnel_device("web1.tunl0"), false);
        let found = w.expect(&NET008, Confidence::Likely, "web1");
        assert!(found.alternatives.contains(&"TUN007"));
        w.deny(&TUN002);
    }

    /// A VPN's device shows bare packets, too, and proves nothing about the director's tunnel.
    #[test]
    fn another_device_with_bare_packets() {
        let w = silent(World::dr().tunnel_device("web1.wg0"), false);
        w.expect(&TUN002, Confidence::Likely, "web1");
    }

    /// The tunnel need not end at the next hop: a router on its way is no real server.
    #[test]
    fn servers_behind_a_router() {
        let mut w =
            World::dr().plug("router.far", "far", "10.3.0.1").plug("far1.eth0", "far", "10.3.0.11").plug("far2.eth0", "far", "10.3.0.12");
        w.who_has("director", "int", "10.2.0.1", &["router"]);
        for far in ["10.3.0.11", "10.3.0.12"] {
            w.who_has("router", "far", far, &[if far.ends_with("11") { "far1" } else { "far2" }]);
        }
        let to = |port: u16, rip: &str| World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80").tunnel("director", 4, "10.2.0.99", rip);
        w.talk(&to(40001, "10.3.0.11"), "client router director router far1", "far1 router client");
        w.syn(&to(40002, "10.3.0.12"), "client router director router far2", 3);
        w.expect(&TUN002, Confidence::Likely, "far2");
        let trace = w.trace();
        let role = |name: &str| trace.hosts.iter().find(|h| h.name == name).map(|h| h.role);
        assert_eq!([role("router"), role("far1")], [Some(crate::ipvs::Role::Router), Some(crate::ipvs::Role::RealServer)]);
        assert!(trace.hosts.iter().all(|h| h.name != "router" || !h.addresses.contains(&"10.3.0.12".parse().unwrap())));
    }

    #[test]
    fn a_server_that_answers_filters_nothing() {
        let mut w = World::dr();
        w.talk(&tunnel(40001), "client router director web1", "web1 router client");
        w.deny(&TUN002);
        w.healthy();
    }
}
