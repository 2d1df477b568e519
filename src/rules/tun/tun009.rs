//! Director and real server do not speak of the same tunnel.

use super::super::facts::ids;
use super::super::{Facts, rule};
use super::{protocol_number, refused, refused_outer, vip, wrapped};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::packet::TunnelKind;
use crate::trace::{Flow, FlowError, Method};

rule! {
    /// # What it sees
    /// The director sends GRE, or GUE in UDP, to the real server, which answers with ICMP protocol unreachable (GRE) or port unreachable
    /// (GUE, and GRE without a device for it).
    ///
    /// # Why it breaks
    /// IPVS can wrap in IPIP, GRE or GUE, server by server (`ipvsadm --tun-type`). The real server needs a device of the same kind, for GUE a
    /// listener on the same port (`ip fou add`) with the same checksum flags. With other flags or keys packets are dropped silently.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -Sn | grep tun-type`. On the real server: `ip -d link show type gre`, `ip fou show`.
    ///
    /// # Remedy
    /// The same kind on both sides: IPIP on the director, or a GRE or GUE device on the real server.
    ///
    /// # When it is not a fault
    /// Refused IPIP packets mean that the real server unpacks no tunnel at all (TUN001).
    ///
    /// # Reproduce
    /// A TUN service with `--tun-type gre` and real servers that have `tunl0` only.
    ///
    /// # References
    /// ipvsadm(8), tun-type; kernel `net/ipv4/gre_demux.c`, `net/ipv4/fou_core.c`; ip-fou(8).
    TUN009 "encap-type-mismatch" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    let other = |f: &Flow, _: &FlowError| wrapped(f).is_some_and(|(_, (kind, ..))| kind != TunnelKind::IpIp);
    let found: Vec<Finding> = refused(facts, other).iter().filter_map(|flows| finding(facts, flows)).collect();
    Outcome::or_need(found, facts.unwatched_server(&[Method::Tunnel]))
}

fn finding(facts: &Facts<'_>, flows: &[&Flow]) -> Option<Finding> {
    let flow = *flows.first()?;
    let (hop, (kind, _, rip)) = wrapped(flow)?;
    let error = refused_outer(flow)?;
    let (name, director) = (facts.name(flow.server_host), super::director(facts, flow));
    let summary = format!("{director} wraps requests in {}, and {name} refuses that.", protocol_number(kind));
    let word = if kind == TunnelKind::Gre { "gre" } else { "gue --tun-port 6080 --tun-nocsum" };
    let option = if flow.protocol == crate::net::Protocol::Udp { "-u" } else { "-t" };
    let (vip, port) = (vip(flow), flow.vip.map_or(flow.service.port, |vip| vip.port));
    let bracket = |addr: &str| if addr.contains(':') { format!("[{addr}]") } else { addr.to_string() };
    let edit = |tunnel: &str| {
        format!("ipvsadm -e {option} {}:{port} -r {}:{port} -i --tun-type {tunnel}", bracket(&vip), bracket(&rip.to_string()))
    };
    let mended =
        Remedy::new(director, edit("ipip"), "no tun-type in keepalived's lvs_method TUN, or in the saved rules (ipvsadm -Sn)", edit(word));
    let severity = if facts.others_serve(flow) { Severity::Degraded } else { Severity::Broken };
    let found = Finding::new(name, severity, Confidence::Likely, summary, facts.error(error)).and([facts.seen(hop)]).on(ids(flows));
    let settle = format!("on {name}: `ip -d link show type gre`, `ip fou show`, `ip -d tunnel show`, or a snapshot");
    Some(found.unless(&["TUN001"], settle).mend([mended]))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::super::tun001::TUN001;
    use super::*;

    #[test]
    fn gre_and_gue_are_refused() {
        for (protocol, code) in [(47, 2), (47, 3), (17, 3)] {
            let mut w = World::dr();
            let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80").tunnel("director", protocol, "10.2.0.99", "10.2.0.11");
            w.syn(&c, "client router director web1", 1);
            w.icmp_about_tunnel(&c, (3, code, 0), "10.2.0.11", "10.2.0.99", "director", "web1 director");
            let found = w.expect(&TUN009, Confidence::Likely, "web1");
            assert_eq!(found.remedy[0].command, "ipvsadm -e -t 10.2.0.100:80 -r 10.2.0.11:80 -i --tun-type ipip");
            assert_eq!(found.alternatives, ["TUN001"]);
            w.deny(&TUN001);
        }
    }

    #[test]
    fn gre_that_is_unpacked_is_right() {
        for protocol in [47, 17] {
            let mut w = World::dr();
            let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80").tunnel("director", protocol, "10.2.0.99", "10.2.0.11");
            w.talk(&c, "client router director web1", "web1 router client");
            w.deny(&TUN009);
            w.healthy();
        }
    }
}
