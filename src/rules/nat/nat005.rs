//! A NAT director that does not forward.

use super::super::facts::{by_director, ids};
use super::super::remedy::forward;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::trace::{Flow, FlowState, Method, NoteKind, Way};

rule! {
    /// # What it sees
    /// Requests pass the director. The real servers' answers arrive at it, and nothing leaves towards the client. The real server repeats
    /// its SYN-ACK, the client its SYN.
    ///
    /// # Why it breaks
    /// Requests to the VIP are delivered locally and leave as the director's own output, which needs no forwarding. Answers are forwarded
    /// packets: they pass only when `forwarding` is on for the interface by which they **arrive**. `ip_forward` is that value for all
    /// interfaces when it is written, but a single interface may differ.
    ///
    /// # Confirm it by hand
    /// On the director: `sysctl net.ipv4.conf.IF.forwarding` of the interface towards the real servers; `nstat -az IpInAddrErrors` counts up.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.ip_forward=1`, which sets it for every interface.
    ///
    /// # When it is not a fault
    /// With direct routing and tunnels the director never sees answers and needs no forwarding. A filter in the FORWARD chain looks the same
    /// (NAT008).
    ///
    /// # Reproduce
    /// A NAT service; on the director `sysctl -w net.ipv4.ip_forward=0`.
    ///
    /// # References
    /// kernel `include/linux/inetdevice.h`, `IN_DEV_FORWARD`; `net/ipv4/route.c`, `ip_route_input_slow`.
    NAT005 "director-forwarding-off" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    // A director that says why does forward.
    let swallowed = |f: &&Flow| {
        facts.swallowed(f, Way::Reply).is_some_and(|s| Some(s.host) == f.director)
            && super::super::net::net004::no_way_back(facts, f).is_none()
    };
    let stuck: Vec<&Flow> = facts.balanced(Method::Nat).filter(swallowed).collect();
    let forwards = |director| facts.balanced(Method::Nat).any(|f| f.director == Some(director) && f.state.is_complete());
    let found: Vec<Finding> = by_director(stuck)
        .into_iter()
        .filter(|(director, _)| !forwards(*director))
        .filter_map(|(director, flows)| {
            let (flow, name) = (flows[0], facts.name(Some(director)));
            let swallowed = facts.swallowed(flow, Way::Reply)?;
            let summary =
                format!("Answers of {} arrive at {name} and do not leave it.", facts.names(flows.iter().filter_map(|f| f.server_host)));
            let silence = facts.nowhere(&swallowed.watched, &format!("no answer from {} to {}", flow.service, flow.client));
            let command = if flow.client.addr.is_ipv6() { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
            Some(
                Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.seen(swallowed.hop))
                    .and(facts.repeats(flow, swallowed.hop, NoteKind::SynAckRepeat))
                    .and(silence)
                    .unless(&["NAT008"], format!("on {name}: `sysctl {command}`, `nft list ruleset`, or a snapshot"))
                    .mend([forward(name, flow.client.addr.is_ipv6(), facts.entrance(director, swallowed.hop))])
                    .on(ids(&flows)),
            )
        })
        .collect();
    Outcome::or_need(found, need(facts))
}

/// Answers were seen on their way to a host, and not what it did with them.
fn need(facts: &Facts<'_>) -> Option<String> {
    let unfinished = |f: &&Flow| f.state == FlowState::Unanswered && f.noted(NoteKind::SynAckRepeat).next().is_some();
    let lost = facts.flows().filter(unfinished).filter(|f| facts.swallowed(f, Way::Reply).is_none()).filter_map(|f| f.reply.last());
    let host = lost.filter(|hop| hop.to.is_some_and(|h| !facts.trace.hosts[h].addresses.contains(&hop.dst.addr))).find_map(|hop| hop.to)?;
    Some(format!("captures on all interfaces of {}", facts.name(Some(host))))
}

/// On the director: forwarding at the card that faces the real servers.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        for d in service.destinations.iter().filter(|d| d.forwarding() == Some(crate::ipvs::ForwardingMethod::Nat)) {
            let rip = d.address.addr;
            // Where the method is not the one that is meant, its needs are not, either (NAT007).
            if site.is_mismatched(service, rip) {
                continue;
            }
            let Ok(way) = host.way(&crate::host::Ask::to(rip)) else {
                checks.needs(&host.name, format!("a route to {rip}"));
                continue;
            };
            if way.is_local() {
                continue;
            }
            let Some(link) = way.link() else { continue };
            let (value, key) = match rip.is_ipv6() {
                false => (host.effective("forwarding", link), crate::host::Sysctls::name4(link, "forwarding")),
                true => (host.sysctl("net.ipv6.conf.all.forwarding"), "net.ipv6.conf.all.forwarding".to_string()),
            };
            match value {
                None => checks.needs(&host.name, key),
                Some(0) => {
                    let summary = format!(
                        "It does not forward what arrives at {link}: replies of {} are dropped.",
                        super::super::facts::plural(service.destinations.len(), "real server")
                    );
                    // The whole machine, if none of it forwards.
                    let whole = host.sysctl("net.ipv4.ip_forward") != Some(1) && !rip.is_ipv6();
                    let setting = if whole { "net.ipv4.ip_forward".to_string() } else { key.clone() };
                    let found = proven(host, Severity::Broken, summary, format!("{key}=0"), "sysctl")
                        .and(site.counted(host, &["IpInAddrErrors"]))
                        .mend([super::super::remedy::set(host, &[(setting, "1")])]);
                    checks.failed(&host.name, found);
                }
                Some(_) => checks.passed(&host.name, format!("{link} forwards")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::*;

    fn swallowed() -> World {
        let mut w = World::nat();
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("{rip}:80"));
            for _ in 0..3 {
                w.syn(&c, &format!("client director {web}"), 1);
                w.carry(&c, true, SYN_ACK, b"", &format!("{web} director"));
                w.wait(1.0);
            }
        }
        w
    }

    #[test]
    fn answers_end_at_the_director() {
        let found = swallowed().expect(&NAT005, Confidence::Likely, "director");
        assert_eq!(found.alternatives, ["NAT008"]);
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.int.forwarding=1");
    }

    #[test]
    fn one_side_of_the_director_is_not_enough() {
        let w = swallowed().without(&["director.ext", "client"]);
        assert_eq!(swallowed().without(&["director.ext"]).expect(&NAT005, Confidence::Likely, "director").evidence().len(), 3);
        w.deny(&NAT005);
        assert!(w.cannot_judge(&NAT005));
    }

    #[test]
    fn a_director_that_forwards_others_forwards() {
        let mut w = swallowed();
        let c = World::tcp("10.1.0.100:40009", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.deny(&NAT005);
    }
}
