//! A real server's tunnel device takes packets of another director only.

use super::super::site::{Duty, proven};
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Evidence, Outcome, Remedy, Severity};
use crate::host::{Ask, Link};
use crate::ipvs::ForwardingMethod;
use crate::trace::Method;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// A real server whose tunnel devices each have a fixed remote address, none of which is the address that its director sends from.
    ///
    /// # Why it breaks
    /// A tunnel device with a `remote` takes outer packets from that address only. Those of another director, after a failover say, belong to no
    /// device, unless `tunl0`, which takes everybody's, is up; the kernel refuses them with ICMP port unreachable.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip -d link show type ipip`: `remote` of each device that is up. On the director: `ip route get RIP`, after `src`.
    ///
    /// # Remedy
    /// The device that takes packets of everybody, `tunl0`, with the VIP on it; or a device for each director.
    ///
    /// # When it is not a fault
    /// While another device that is up takes the packets: one for this director, or one without a `remote`.
    ///
    /// # Reproduce
    /// `ip link add ipip1 type ipip local RIP remote OLD-DIP` on a real server, `tunl0` down, and a director with another address.
    ///
    /// # References
    /// kernel `net/ipv4/ip_tunnel.c`, `ip_tunnel_lookup`; ip-link(8), type ipip.
    TUN006 "fixed-remote-endpoint" check hosts
}

/// Packets show that it does not take them (TUN001), and not why.
fn check(facts: &Facts<'_>) -> Outcome {
    let open = facts.flows().find(|f| f.method == Method::Tunnel && !f.state.is_complete());
    let need = open.map(|f| format!("a snapshot of {}", facts.name(f.server_host)));
    Outcome::or_need(Vec::new(), need)
}

/// The kind of device that takes a real server's packets, and the module that makes its first one. GUE comes in UDP, to a socket.
fn device(site: &Site<'_>, duty: &Duty) -> Option<(&'static [&'static str], &'static str, &'static str)> {
    let mine = site.fleet.services.iter().filter(|s| s.director == duty.director && s.service.name() == duty.service);
    let wrapped = mine.flat_map(|s| &s.service.destinations).find(|d| Some(d.address.addr) == duty.rip)?;
    let inner_v6 = duty.vip.is_some_and(|vip| vip.is_ipv6());
    match (wrapped.tunnel.as_deref().unwrap_or("ipip"), wrapped.address.addr) {
        ("ipip", IpAddr::V4(_)) if !inner_v6 => Some((&["ipip", "tunnel"], "ipip", "tunl0")),
        ("gre", IpAddr::V4(_)) => Some((&["gre", "ipgre"], "ip_gre", "gre0")),
        _ => None,
    }
}

/// On the real server.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&[ForwardingMethod::Tunnel]) {
        let host = site.host(duty.member);
        let (Some((kinds, module, first)), Some(links)) = (device(site, duty), host.links.as_deref()) else { continue };
        let fits = |l: &&Link| kinds.contains(&l.kind.as_deref().unwrap_or(&l.hardware)) && l.is_up();
        let ready: Vec<&Link> = links.iter().filter(fits).collect();
        let remotes: Vec<IpAddr> = ready.iter().filter_map(|l| l.remote).collect();
        // None at all is another fault (TUN001, TUN009).
        if remotes.len() < ready.len() || ready.is_empty() {
            checks.passed(&host.name, "no tunnel device waits for one director only");
            continue;
        }
        let director = duty.director.map(|at| site.host(at));
        let chosen = || director?.way(&Ask::to(duty.rip?)).ok()?.source;
        let from = chosen().map_or_else(|| site.director_addresses(duty), |source| vec![source]);
        if from.is_empty() {
            checks.needs(&host.name, "the director's address, or a snapshot of it");
            continue;
        }
        if let Some(link) = ready.iter().find(|l| l.remote.is_some_and(|remote| from.contains(&remote))) {
            checks
                .passed(&host.name, format!("{} takes what {} sends", link.name, link.remote.map_or_else(String::new, |r| r.to_string())));
            continue;
        }
        // A backup sends nothing yet.
        let balances = director.is_none_or(|d| duty.vip.is_none_or(|vip| d.has(vip)));
        let (severity, when) =
            if balances { (Severity::Broken, "are refused") } else { (Severity::Risky, "will be refused after a failover") };
        let words = |all: &[IpAddr]| super::super::facts::list(&all.iter().map(ToString::to_string).collect::<Vec<_>>());
        let names = ready.iter().map(|l| l.name.as_str()).collect::<Vec<_>>();
        let summary = format!(
            "{} only {} packets of {}: those of {} for {} {when}.",
            super::super::facts::list(&names),
            if names.len() == 1 { "takes" } else { "take" },
            words(&remotes),
            words(&from),
            duty.service
        );
        let vip = duty.vip.map_or_else(|| "VIP".to_string(), |vip| vip.to_string());
        let (ip, length) = if vip.contains(':') { ("ip -6", 128) } else { ("ip", 32) };
        let load = if host.link(first).is_some() { String::new() } else { format!("modprobe {module}; ") };
        // An address of its own: without one even the loose filter drops what comes by it (TUN003).
        let remedy = Remedy::new(
            &host.name,
            format!("{load}{ip} addr add {vip}/{length} dev {first}; sysctl -w net.ipv4.conf.{first}.rp_filter=2; ip link set {first} up"),
            format!(
                "{module} in /etc/modules-load.d/lvs.conf, {first} with that address in the network's configuration, the setting in /etc/sysctl.d/90-lvs.conf"
            ),
            format!("ip link set {first} down; {ip} addr del {vip}/{length} dev {first}"),
        );
        let device = ready.first().map_or("", |l| l.name.as_str());
        let fact = format!("{device} remote {}", words(&remotes[..1]));
        let chosen = director.map(|d| {
            Evidence::host(
                &d.name,
                format!("sends from {}", words(&from)),
                format!("ip route get {}", words(&duty.rip.into_iter().collect::<Vec<_>>())),
            )
        });
        checks.failed(&host.name, proven(host, severity, summary, fact, format!("ip -d link show {device}")).and(chosen).mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::super::super::testing::World;
    use super::super::tun001::TUN001;
    use super::*;
    use crate::finding::Confidence;

    const RULES: &str = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -i\n-a -t 10.0.0.100:80 -r 10.0.0.12:80 -i\n";

    fn tunnel(s: Sketch, name: &str, remote: Option<&str>, up: bool) -> Sketch {
        let flags = if up { vec!["NOARP".to_string(), "UP".into()] } else { vec!["NOARP".to_string()] };
        let remote = remote.map(|r| r.parse().unwrap());
        s.device(Link {
            name: name.into(),
            hardware: "ipip".into(),
            kind: Some("ipip".into()),
            flags,
            mtu: 1480,
            remote,
            ..Link::default()
        })
    }

    fn site(web1: impl Fn(Sketch) -> Sketch) -> Vec<Sketch> {
        let mut all = dr_with("director", |d| d.ipvs(RULES)).to_vec();
        for s in &mut all {
            *s = if s.is("web1") {
                web1(s.clone())
            } else if s.is("web2") {
                tunnel(s.clone(), "tunl0", None, true)
            } else {
                s.clone()
            };
        }
        all
    }

    #[test]
    fn a_device_for_another_director() {
        let found = sketch::expect(
            &site(|s| tunnel(tunnel(s, "tunl0", None, false), "ipip1", Some("10.0.0.9"), true)),
            &TUN006,
            Severity::Broken,
            Confidence::Certain,
            "web1",
        );
        assert_eq!(
            found.remedy[0].command,
            "ip addr add 10.0.0.100/32 dev tunl0; sysctl -w net.ipv4.conf.tunl0.rp_filter=2; ip link set tunl0 up"
        );
        assert!(found.summary.contains("10.0.0.9") && found.summary.contains("10.0.0.10"), "{}", found.summary);
    }

    #[test]
    fn devices_that_take_it() {
        for fine in [
            site(|s| tunnel(s, "ipip1", Some("10.0.0.10"), true)),
            site(|s| tunnel(s, "tunl0", None, true)),
            site(|s| tunnel(tunnel(s, "ipip1", Some("10.0.0.9"), true), "ipip2", Some("10.0.0.10"), true)),
            site(|s| tunnel(tunnel(s, "ipip1", Some("10.0.0.9"), true), "tunl0", None, true)),
            // None that is up: TUN001.
            site(|s| tunnel(s, "ipip1", Some("10.0.0.9"), false)),
        ] {
            sketch::passes(&fine, &TUN006, "web1");
        }
    }

    /// The table is there, and the VIP is not yet.
    #[test]
    fn a_backup_that_nobody_would_take_packets_of() {
        let backup = Sketch::new("backup").card("eth0", "10.0.0.20/24").via("default", "10.0.0.1", "eth0").ipvs(RULES);
        let mut all = site(|s| tunnel(s, "ipip1", Some("10.0.0.10"), true));
        all.push(backup);
        let found = sketch::expect(&all, &TUN006, Severity::Risky, Confidence::Certain, "web1");
        assert!(found.summary.ends_with("after a failover."), "{}", found.summary);
    }

    /// Packets prove that nothing there takes them, the host shows why: one finding.
    #[test]
    fn the_snapshot_tells_what_the_refusal_means() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.0.0.100:80").tunnel("director", 4, "10.0.0.10", "10.0.0.11");
        w.syn(&c, "client router director web1", 1);
        w.icmp_about_tunnel(&c, (3, 3, 0), "10.0.0.11", "10.0.0.10", "director", "web1 director");
        w.expect(&TUN001, Confidence::Likely, "web1");
        w.fleet = sketch::fleet(&site(|s| tunnel(s, "ipip1", Some("10.0.0.9"), true)));
        let found = w.expect(&TUN006, Confidence::Certain, "web1");
        assert_eq!(found.flows, [1]);
        w.deny(&TUN001);
    }
}
