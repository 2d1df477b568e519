//! A director has no way back to clients.

use super::super::facts::{by_director, ids};
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::ipvs::ForwardingMethod;
use crate::packet::IcmpKind;
use crate::trace::{Flow, FlowError, Method, Way};

rule! {
    /// # What it sees
    /// The director itself says to a real server that the client is unreachable, by ICMP, as soon as the answer arrives; and it has not
    /// asked for any neighbour in vain. Or a look-up on the director of the way to those who asked fails.
    ///
    /// # Why it breaks
    /// In NAT the director itself sends the answers on: they die there. With direct routing and tunnels only its own words get lost:
    /// resets, `fragmentation needed`, port unreachable.
    ///
    /// # Confirm it by hand
    /// On the director: `ip route get CLIENT`.
    ///
    /// # Remedy
    /// A default route through the router.
    ///
    /// # When it is not a fault
    /// When every client is on a link of the director, or a router translates the source to an address that is.
    ///
    /// # Reproduce
    /// `ip route del default` on a director whose clients are behind a router.
    ///
    /// # References
    /// ip-route(8).
    NET004 "director-or-vip-no-route-back" check hosts
}

/// ICMP codes of `destination unreachable` for which a missing route is the cause: net, host (RFC 792); no route (RFC 4443).
fn is_routeless(error: &FlowError) -> bool {
    let v6 = error.src.is_ipv6();
    error.kind == IcmpKind::Unreachable && error.code <= u8::from(!v6)
}

/// What the director says of an answer that it cannot send on, at once. After a question for a neighbour that nobody answers it would take
/// it three seconds (net/ipv4/arp.c, `arp_error_report`).
pub(in crate::rules) fn no_way_back<'a>(facts: &Facts<'_>, flow: &'a Flow) -> Option<&'a FlowError> {
    const AT_ONCE: i64 = 500_000_000;
    let director = flow.director.filter(|d| Some(*d) != flow.server_host)?;
    let answer = flow.reply.towards(director).next()?;
    let at = |point, time| facts.trace.common_time(point, time);
    let soon = |e: &FlowError| (-1_000_000..AT_ONCE).contains(&(at(e.point, e.time) - at(answer.point, answer.time)));
    let own = |e: &&FlowError| e.about == Way::Reply && e.from == Some(director) && is_routeless(e) && soon(e);
    flow.errors.iter().find(own).filter(|_| flow.reply.sent_by(director).is_none())
}

fn check(facts: &Facts<'_>) -> Outcome {
    let lost: Vec<&Flow> = facts.balanced(Method::Nat).filter(|f| no_way_back(facts, f).is_some()).collect();
    let found = by_director(lost).into_iter().filter_map(|(director, flows)| {
        let (name, error) = (facts.name(Some(director)), no_way_back(facts, flows[0])?);
        let client = flows[0].client.addr;
        let servers = facts.names(flows.iter().filter_map(|f| f.server_host));
        let summary = format!("{name} has no way back to {client}: answers of {servers} arrive there, and it says so by ICMP.");
        // Who brought the requests leads back to the clients.
        let router = flows[0].request.towards(director).next().and_then(|hop| Some((hop.from?, hop.src_mac)));
        let not = [client, flows[0].service.addr];
        let gateway = facts.address_on(router.map(|r| r.0), router.and_then(|r| r.1), &not, "ROUTER");
        let ip = super::super::remedy::ip_for(&client.to_string());
        let found = Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.error(error))
            .and(flows[0].reply.towards(director).next().map(|hop| facts.seen(hop)))
            .unless(&["NAT008"], format!("on {name}: `{ip} route get {client}`, or a snapshot"))
            .mend([super::super::remedy::add_default_route(name, &gateway)]);
        Some(found.on(ids(&flows)))
    });
    found.collect::<Vec<_>>().into()
}

/// On the director: the way to those who asked.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for served in &site.fleet.services {
        let Some(host) = served.director.map(|at| site.host(at)) else { continue };
        let sources = site.fleet.sources(served);
        for source in &sources {
            match host.way(&crate::host::Ask::to(source.addr)) {
                Ok(way) => checks.passed(&host.name, format!("{} is reached {}", source.addr, way.words())),
                Err(crate::host::NoRoute::Unknown(why)) => checks.needs(&host.name, why),
                Err(_) => {
                    let nat = served.service.destinations.iter().any(|d| d.forwarding() == Some(ForwardingMethod::Nat));
                    let (severity, effect) = match nat {
                        true => (Severity::Broken, "answers of real servers end here"),
                        false => (Severity::Risky, "its resets and ICMP errors get lost, answers of real servers do not"),
                    };
                    let summary = format!("The director has no route to {} ({}): {effect}.", source.addr, source.by);
                    let router = site.playing(crate::ipvs::Role::Router).flat_map(|(_, r)| r.addresses()).map(|a| a.addr.addr());
                    let near = |a: &std::net::IpAddr| {
                        host.addresses().iter().any(|own| own.is_global() && !own.addr.is_host() && own.addr.contains(*a))
                    };
                    let gateway = router.into_iter().find(near).map_or_else(|| "GATEWAY".to_string(), |a| a.to_string());
                    let remedy = super::super::remedy::route_through(host, &gateway, "IF");
                    let ip = super::super::remedy::ip_for(&source.addr.to_string());
                    checks.failed(
                        &host.name,
                        proven(host, severity, summary, "Network is unreachable", format!("{ip} route get {}", source.addr)).mend([remedy]),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::nat::nat005::NAT005;
    use super::super::super::testing::{Conn, SYN_ACK, World};
    use super::*;

    /// A client behind a router; the director's answer to the real server's answer is `says`.
    fn routed(says: Option<(u8, u8, u32)>, after: f64) -> (World, Conn) {
        let mut w = World::new()
            .plug("client.eth0", "out", "10.9.0.100")
            .plug("edge.out", "out", "10.9.0.1")
            .plug("edge.in", "ext", "10.1.0.254")
            .plug("director.ext", "ext", "10.1.0.1")
            .plug("director.int", "int", "10.2.0.1")
            .plug("web1.eth0", "int", "10.2.0.11");
        let c = World::tcp("10.9.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        for _ in 0..3 {
            w.syn(&c, "client edge director web1", 1);
            w.carry(&c, true, SYN_ACK, b"", "web1 director");
            w.wait(after);
            if let Some(says) = says {
                w.icmp(&c, true, says, "10.2.0.1", "10.2.0.11", "web1", "director web1");
            }
            w.wait(1.0);
        }
        (w, c)
    }

    #[test]
    fn the_director_says_it_itself() {
        for code in [0, 1] {
            let (w, _) = routed(Some((3, code, 0)), 0.0);
            let found = w.expect(&NET004, Confidence::Likely, "director");
            assert_eq!((found.alternatives.as_slice(), found.flows.as_slice()), (&["NAT008"][..], &[1][..]));
            assert_eq!(found.remedy[0].command, "ip route add default via 10.1.0.254");
            w.deny(&NAT005);
        }
    }

    #[test]
    fn silence_late_words_and_other_words_are_something_else() {
        for (says, after) in [(None, 0.0), (Some((3, 1, 0)), 3.1), (Some((3, 3, 0)), 0.0), (Some((11, 0, 0)), 0.0)] {
            routed(says, after).0.deny(&NET004);
        }
        routed(None, 0.0).0.expect(&NAT005, Confidence::Likely, "director");
    }
}
