//! Reverse path filtering on a real server with several networks drops requests.

use super::super::remedy::sysctl;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{DIRECT, vip};
use crate::finding::{Outcome, Severity};
use crate::host::SourceCheck;

rule! {
    /// # What it sees
    /// The SYN arrives at one interface of a real server that has several. Then silence: no SYN-ACK by any of them, no RST, no ARP.
    ///
    /// # Why it breaks
    /// With strict `rp_filter` the kernel drops a packet whose source it would reach by another interface. Packets are captured before that
    /// check, so the request seems to have arrived.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get CLIENT` names another interface than the one by which the request arrives;
    /// `nstat -az TcpExtIPReversePathFilter` counts up. The larger of `all` and the interface counts.
    ///
    /// # Remedy
    /// `rp_filter=2` (loose) for that interface, or a rule that answers by the interface by which the request came.
    ///
    /// # When it is not a fault
    /// When another cause keeps the server silent: DR001, DR004, NET008.
    ///
    /// # Reproduce
    /// A DR service; a real server with a second interface and the default route there, `rp_filter=1`.
    ///
    /// # References
    /// kernel `net/ipv4/fib_frontend.c`, `__fib_validate_source`; `Documentation/networking/ip-sysctl.rst`: rp_filter.
    DR018 "rp-filter-drops-request" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = facts.silences("DR018").into_iter().map(|silence| {
        let (flow, names) = (silence.flows[0], silence.names(facts));
        let interface = facts.interface(flow.server_host, &flow.request);
        let settle = format!("`nstat -az TcpExtIPReversePathFilter`, `ip route get {} from {}`", silence.hop.src.addr, vip(flow));
        let key = format!("net.ipv4.conf.{interface}.rp_filter");
        silence.finding(facts, Severity::Broken, &settle).mend([sysctl(&names, &[(&key, "2", "1")])])
    });
    Outcome::or_need(found.collect(), facts.unwatched_server(&DIRECT))
}

/// On the host: the strict filter, where the way back leaves by another card than the one at which requests arrive.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties.iter().filter(|d| d.method != crate::ipvs::ForwardingMethod::Tunnel) {
        let host = site.host(duty.member);
        let Some(link) = duty.arrives(host) else { continue };
        let mut fine = true;
        for (source, by) in duty.answered() {
            match host.source_check(source, link) {
                SourceCheck::Unknown(why) => {
                    fine = false;
                    checks.needs(&host.name, why);
                }
                SourceCheck::OtherWay(way) => {
                    fine = false;
                    let summary = format!(
                        "Requests arrive at {link}, but the way back to {source} ({by}) is {way}: the strict rp_filter drops them."
                    );
                    let remedy = super::super::remedy::set(host, &[(crate::host::Sysctls::name4(link, "rp_filter"), "2")]);
                    let found = proven(host, Severity::Broken, summary, host.behind("rp_filter", link), "sysctl")
                        .and([crate::finding::Evidence::host(&host.name, way, format!("ip route get {source}"))])
                        .and(site.counted(host, &["TcpExtIPReversePathFilter"]))
                        .mend([remedy]);
                    checks.failed(&host.name, found);
                }
                _ => {}
            }
        }
        if fine {
            checks.passed(&host.name, format!("rp_filter at {link} lets requests in"));
        }
    }
    site.need_servers(checks, &super::FORWARDED_WHOLE);
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    fn world() -> World {
        let mut w = World::dr().plug("web2.eth1", "other", "10.3.0.12").plug("gw.eth0", "other", "10.3.0.1");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.who_has("director", "int", "10.2.0.12", &["web2"]);
        let good = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&good, "client router director web1", "web1 router client");
        // Its other network is in use.
        let own = World::tcp("10.3.0.12:50001", "10.3.0.1:53");
        w.talk(&own, "web2 gw", "gw web2");
        w
    }

    #[test]
    fn a_server_with_two_networks_is_silent() {
        let mut w = world();
        let bad = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&bad, "client router director web2", 3);
        let found = w.expect(&DR018, Confidence::Likely, "web2");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.conf.eth0.rp_filter=2");
        assert!(found.alternatives.contains(&"DR001"));
    }

    #[test]
    fn two_networks_that_serve_are_right() {
        let mut w = world();
        let good = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&good, "client router director web2", "web2 router client");
        w.deny(&DR018);
    }
}
