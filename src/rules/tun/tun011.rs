//! The director uses the VIP as the source of its tunnel.

use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{vip, wrapped};
use crate::finding::{Outcome, Remedy, Severity};
use crate::trace::Method;

rule! {
    /// # What it sees
    /// The outer packet goes from the VIP, not from an address of the director's own, to the real server. It arrives there, and nothing
    /// follows: no inner packet on the tunnel device, no answer, no ICMP error.
    ///
    /// # Why it breaks
    /// The director takes as outer source the address that its route to the real server prefers. If that is the VIP, the real server, which
    /// has the VIP itself, receives a packet from its own address over the network, and drops it as martian before any tunnel sees it.
    ///
    /// # Confirm it by hand
    /// On the director: `ip route get RIP` shows `src VIP`. On the real server: the column `in_martian_src` of /proc/net/stat/rt_cache
    /// counts up.
    ///
    /// # Remedy
    /// An address of the director's own (DIP) on that interface, and a route to the real servers that prefers it.
    ///
    /// # When it is not a fault
    /// When the real servers do not have the VIP as a local address (they answer through another mechanism), the packet is accepted.
    ///
    /// # Reproduce
    /// A TUN director with the VIP as the only address on its interface.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_xmit.c`, `__ip_vs_get_out_rt`; `net/ipv4/fib_frontend.c`, `fib_validate_source`.
    TUN011 "outer-source-is-vip" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = facts.silences("TUN011").into_iter().map(|silence| {
        let (flow, vip) = (silence.flows[0], vip(silence.flows[0]));
        let (director, names) = (super::director(facts, flow), silence.names(facts));
        let rip = wrapped(flow).map_or_else(|| "RIP".to_string(), |(_, (_, _, rip))| rip.to_string());
        let length = if rip.contains(':') { 128 } else { 32 };
        let ip = if length == 128 { "ip -6" } else { "ip" };
        let mut finding = silence.finding(facts, Severity::Broken, "`grep . /proc/net/stat/rt_cache` (in_martian_src)");
        finding.subject = director.to_string();
        finding.summary =
            format!("{director} wraps requests with the VIP {vip} as outer source; {names} has that address, and drops them.");
        finding.mend([Remedy::new(
            director,
            format!("{ip} addr add DIP/{length} dev IF; {ip} route replace {rip}/{length} dev IF src DIP"),
            "DIP as the first address of the interface, the VIP after it with its full prefix length, in the network's configuration",
            format!("{ip} route del {rip}/{length}; {ip} addr del DIP/{length} dev IF"),
        )])
    });
    Outcome::or_need(found.collect(), facts.unwatched_server(&[Method::Tunnel]))
}

/// On the director: the address chosen for the outer header is the VIP.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        for d in service.destinations.iter().filter(|d| d.forwarding() == Some(crate::ipvs::ForwardingMethod::Tunnel)) {
            let rip = d.address.addr;
            let way = match host.way(&crate::host::Ask::to(rip)) {
                Err(crate::host::NoRoute::Unknown(why)) => {
                    checks.needs(&host.name, why);
                    continue;
                }
                Err(_) => continue,
                Ok(way) => way,
            };
            if way.source.is_none() || way.source != service.vip() {
                checks.passed(&host.name, "tunnels begin at an address of its own");
                continue;
            }
            let vip = service.vip().map_or_else(String::new, |v| v.to_string());
            let vip_at = service.vip().and_then(|v| host.address(v));
            let link = way.link().or(vip_at.map(|a| a.link.as_str())).unwrap_or("IF");
            // As long as the VIP's prefix is the interface's own, that of the DIP is the same.
            let length = vip_at.map_or(24, |a| a.addr.len());
            let (ip, whole) = if rip.is_ipv6() { ("ip -6", 128) } else { ("ip", 32) };
            let via = way.gateways().first().map_or_else(String::new, |g| format!(" via {g}"));
            let summary =
                format!("Tunnels to {rip} begin at {vip}, which the real server has, too: it drops packets from its own address.");
            let remedy = crate::finding::Remedy::new(
                &host.name,
                format!("{ip} addr add DIP/{length} dev {link}; {ip} route replace {rip}/{whole}{via} dev {link} src DIP"),
                "the DIP as the interface's first address, and the VIP as a single address beside it",
                format!("{ip} route del {rip}/{whole}; {ip} addr del DIP/{length} dev {link}"),
            );
            checks.failed(
                &host.name,
                proven(host, Severity::Broken, summary, format!("src {vip}"), format!("ip route get {rip}")).mend([remedy]),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::super::tun002::TUN002;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn from_the_vip() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80").tunnel("director", 4, "10.2.0.100", "10.2.0.11");
        w.syn(&c, "client router director web1", 3);
        let found = w.expect(&TUN011, Confidence::Likely, "director");
        assert!(found.remedy[0].command.contains("route replace 10.2.0.11/32 dev IF src DIP"));
        w.deny(&TUN002);
    }

    #[test]
    fn from_an_address_of_its_own() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80").tunnel("director", 4, "10.2.0.99", "10.2.0.11");
        w.syn(&c, "client router director web1", 3);
        w.deny(&TUN011);
    }

    #[test]
    fn served_all_the_same() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80").tunnel("director", 4, "10.2.0.100", "10.2.0.11");
        w.talk(&c, "client router director web1", "web1 router client");
        w.deny(&TUN011);
        w.healthy();
    }
}
