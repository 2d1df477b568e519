//! A filter on the director drops requests.

use super::super::remedy::look;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::Outcome;
use crate::finding::Severity;

rule! {
    /// # What it sees
    /// The SYN arrives at the director, which owns the VIP and answers ARP for it. Then nothing: nothing leaves towards a real server, no
    /// RST, no ICMP error.
    ///
    /// # Why it breaks
    /// IPVS sees a request only after the filter table's INPUT chain, and what it sends passes OUTPUT. A DROP in either loses the
    /// connection silently. In NAT mode the answers pass FORWARD, still with the real server's address (the look of that is NAT005).
    ///
    /// # Confirm it by hand
    /// On the director: `nft list ruleset` or `iptables-save -c`, and watch the counters of rules that drop; `ipvsadm -lnc` has no entry.
    ///
    /// # Remedy
    /// Accept the VIP and port in INPUT, the real servers in OUTPUT and FORWARD.
    ///
    /// # When it is not a fault
    /// When this client is to be kept out. keepalived's `vrrp_strict` also drops packets for its VIPs (HA003).
    ///
    /// # Reproduce
    /// A healthy service; on the director `nft add rule inet filter input ip daddr VIP tcp dport 80 drop`.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_ops4`: the hooks and their priorities.
    NAT008 "filter-chain-drop-on-director" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = facts.losses("NAT008").into_iter().map(|loss| {
        let name = facts.name(Some(loss.host));
        let summary = format!("{name} receives requests for {}, and neither hands them on nor refuses them.", loss.service());
        let command = "nft list ruleset; iptables-save -c; ipvsadm -ln --stats";
        let finding =
            loss.finding(facts, summary, &format!("on {name}: `nft list ruleset` (counters of drops), `ipvsadm -ln`, or a snapshot"));
        finding.mend([look(name, command, format!("then accept {} in INPUT, and save the rules", loss.service()))])
    });
    Outcome::or_need(found.collect(), need(facts))
}

/// Requests that came to a host of which only one interface was captured.
fn need(facts: &Facts<'_>) -> Option<String> {
    let host = facts.half_seen_director()?;
    Some(format!("captures on all interfaces of {host}, and on a real server"))
}

/// On the director: what its filters do to requests, and in NAT to what is handed on and comes back.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    use crate::host::{Fate, Hook, Passing};
    for (host, service) in site.directed() {
        let (Some(filter), Some(vip), Some(protocol)) = (host.netfilter.as_ref(), service.address, service.protocol) else {
            if host.netfilter.is_none() {
                checks.needs(&host.name, format!("its packet filters: {}", host.why_absent("netfilter")));
            }
            continue;
        };
        let own = host.address(vip.addr).map(|a| a.link.as_str());
        let mut hooks = vec![(Hook::Input, None, vip, (None, Some(vip.port)), own, None, "requests")];
        for d in service.destinations.iter().filter(|d| d.forwarding() == Some(crate::ipvs::ForwardingMethod::Nat)).take(4) {
            let inside = host.way(&crate::host::Ask::to(d.address.addr)).ok().and_then(|w| w.link().map(|l| l.to_string()));
            let inside = inside.and_then(|l| host.link(&l)).map(|l| l.name.as_str());
            hooks.push((
                Hook::Output,
                None,
                d.address,
                (None, Some(d.address.port)),
                None,
                inside,
                "requests on their way to real servers",
            ));
            let client = crate::net::Endpoint::new(super::super::site::elsewhere(vip.addr.is_ipv6()), 0);
            hooks.push((Hook::Forward, Some(d.address.addr), client, (Some(d.address.port), None), inside, own, "replies of real servers"));
        }
        let mut fine = true;
        for (hook, src, to, ports, iif, oif, what) in hooks {
            let state = if hook == Hook::Forward { "ESTABLISHED" } else { "NEW" };
            // Without connection tracking of IPVS its packets are never ESTABLISHED.
            let state = if hook == Hook::Forward && host.sysctl("net.ipv4.vs.conntrack") != Some(1) { "UNTRACKED" } else { state };
            let fate = filter.fate(hook, &Passing { src, dst: to.addr, protocol, ports, iif, oif, icmp: None, state, ipvs: true });
            if let Fate::Unsure(rule) = &fate {
                fine = false;
                checks.needs(&host.name, format!("whether this rule holds: {}", rule.text));
            }
            if let (Fate::Dropped(chain, _), Some(words)) = (&fate, super::super::site::filter_words(&fate)) {
                fine = false;
                // keepalived's own table is another story (HA003).
                if chain.table.contains("keepalived") {
                    continue;
                }
                let summary = format!("Its filter drops {what} of {}.", service.name());
                let family = if vip.addr.is_ipv6() { "ip6tables" } else { "iptables" };
                let name = match hook {
                    Hook::Input => format!("INPUT -p {protocol} -d {} --dport {}", vip.addr, vip.port),
                    Hook::Output => format!("OUTPUT -p {protocol} -d {} --dport {}", to.addr, to.port),
                    _ => format!("FORWARD -p {protocol} -s {} --sport {}", src.unwrap_or(to.addr), ports.0.unwrap_or(0)),
                };
                let remedy = crate::finding::Remedy::new(
                    &host.name,
                    format!("{family} -I {name} -j ACCEPT"),
                    format!("the same rule where the firewall is kept ({family}-save, firewalld, nftables.conf)"),
                    format!("{family} -D {name} -j ACCEPT"),
                );
                checks.failed(&host.name, proven(host, Severity::Broken, summary, words, format!("{family}-save")).mend([remedy]));
            }
        }
        if fine {
            checks.passed(&host.name, format!("its filters let {} through", service.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn requests_end_at_the_director() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80");
        w.syn(&c, "client director", 3);
        let found = w.expect(&NAT008, Confidence::Likely, "director");
        assert!(found.alternatives.contains(&"HA003"));
        // One interface alone does not show that nothing left by the other.
        let w = w.without(&["director.int", "web1", "web2"]);
        w.deny(&NAT008);
        assert!(w.cannot_judge(&NAT008));
    }

    /// With one interface, what it hands on would arrive at the servers beside it, which were captured, too.
    #[test]
    fn a_director_with_one_interface() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, "client router director", 3);
        let found = w.expect(&NAT008, Confidence::Likely, "director");
        assert!(found.alternatives.contains(&"SVC002"));
        // The servers' captures alone show that.
        w.clone().without(&["web1", "web2"]).deny(&NAT008);
        // Without names, a host in front of which somebody else chose the address may be anybody.
        assert_eq!(w.unnamed().finding(&NAT008).confidence, Confidence::Possible);
    }

    /// No service is behind an interface for management, so nothing is missing there.
    #[test]
    fn an_interface_for_management_is_no_exit() {
        let mut w = World::nat().plug("director.mgmt", "office", "10.9.0.1").without(&["director.int", "web1", "web2"]);
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w.syn(&World::tcp("10.1.0.100:40001", "10.1.0.1:80"), "client director", 3);
        w.deny(&NAT008);
    }

    #[test]
    fn a_director_that_waits_for_a_neighbour_drops_nothing() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80");
        w.syn(&c, "client director", 1);
        for _ in 0..3 {
            w.who_has("director", "int", "10.2.0.11", &[]);
            w.wait(1.0);
        }
        w.syn(&c, "client director", 2);
        w.deny(&NAT008);
    }
}
