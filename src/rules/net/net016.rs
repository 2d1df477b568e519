//! A real server's own connections leave the NAT director with the server's private address.

use super::super::facts::ids;
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::net::Protocol;
use crate::trace::{Flow, FlowState, Hop, HostId, Method, NoteKind};
use std::collections::BTreeMap;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// A real server of a NAT service opens a connection outwards, through its gateway, the director. The director sends it on with the
    /// real server's own address as source, and no answer comes back to the director.
    ///
    /// # Why it breaks
    /// IPVS translates the answers of its own connections and nothing else. A connection that a real server opens is plain forwarding; the
    /// address of the inner network goes out as it is, and nobody outside has a route back to it.
    ///
    /// # Confirm it by hand
    /// On the director: `iptables -t nat -L POSTROUTING -v -n` has no rule for the servers' network.
    ///
    /// # Remedy
    /// MASQUERADE, or SNAT, for the servers' network on the outer interface. It does not touch the connections of IPVS.
    ///
    /// # When it is not a fault
    /// When the networks outside have a route to the servers' network through the director: then answers come back. When the peer is down
    /// or filters, answers are missing, too.
    ///
    /// # Reproduce
    /// A NAT service; on a real server `curl http://CLIENT/` without any MASQUERADE rule on the director.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `handle_response`; iptables-extensions(8), MASQUERADE.
    NET016 "rs-outbound-not-masqueraded" check
}

/// A connection that a real server opened, as its director received it and sent it on.
struct Outbound<'a> {
    flow: &'a Flow,
    director: HostId,
    came: &'a Hop,
    left: &'a Hop,
}

fn check(facts: &Facts<'_>) -> Outcome {
    // The first director that hands connections to each server.
    let mut directors: BTreeMap<HostId, HostId> = BTreeMap::new();
    for flow in facts.balanced(Method::Nat) {
        if let (Some(server), Some(director)) = (flow.server_host, flow.director.filter(|d| Some(*d) != flow.server_host)) {
            directors.entry(server).or_insert(director);
        }
    }
    let all: Vec<Outbound> = facts.flows().filter_map(|f| outbound(facts, &directors, f)).collect();
    let mut found = Vec::new();
    let mut lost: BTreeMap<HostId, Vec<&Outbound>> = BTreeMap::new();
    for o in &all {
        // Outside knows the way back to this network.
        let routed = || all.iter().any(|other| other.director == o.director && returns(other));
        let lost_way = o.flow.state == FlowState::Unanswered || !o.flow.reply.is_empty();
        // Active FTP is another story (NAT012).
        let is_data = facts.ftp_control(o.flow).is_some();
        if !is_data && !returns(o) && lost_way && !o.flow.state.is_complete() && o.flow.errors.is_empty() && !routed() {
            lost.entry(o.director).or_default().push(o);
        }
    }
    found.extend(lost.into_values().filter_map(|flows| finding(facts, &flows)));
    found.into()
}

/// A connection that a real server of a NAT service opened to somebody outside and that its director forwarded by another interface, with
/// the source as it was.
fn outbound<'a>(facts: &Facts<'a>, directors: &BTreeMap<HostId, HostId>, flow: &'a Flow) -> Option<Outbound<'a>> {
    let client = flow.client_host?;
    let director = *directors.get(&client)?;
    let came = flow.request.towards(director).find(|hop| hop.from == Some(client))?;
    let left = flow.request.sent_by(director)?;
    let plain = (came.src, came.dst) == (left.src, left.dst) && left.outer.is_none();
    let other_side = left.src_mac.is_some() && left.src_mac != came.dst_mac && left.to != Some(client);
    // Forwarded and answered by another way, a server's own connection looks like direct routing; only those of others show services.
    let by_server = |f: &Flow| f.client_host.is_some_and(|c| facts.balanced(Method::Nat).any(|n| n.server_host == Some(c)));
    let is_for = |f: &Flow| f.vip.is_some_and(|vip| vip.addr == came.dst.addr) || (left.to.is_some() && f.server_host == left.to);
    let named = facts.hints.services.iter().any(|e| e.addr == came.dst.addr);
    let to_service = named || facts.flows().any(|f| f.director.is_some() && !by_server(f) && is_for(f));
    (plain && other_side && !to_service).then_some(Outbound { flow, director, came, left })
}

/// An answer came back to the director.
fn returns(o: &Outbound<'_>) -> bool {
    let back = o.flow.reply.hops.iter().chain(&o.flow.reply.strays);
    back.clone().any(|hop| hop.to == Some(o.director) || hop.from == Some(o.director)) || (o.flow.state.is_complete() && back.count() == 0)
}

fn finding(facts: &Facts<'_>, flows: &[&Outbound<'_>]) -> Option<Finding> {
    let o = *flows.first()?;
    let name = facts.name(Some(o.director));
    let servers = facts.names(flows.iter().filter_map(|o| o.flow.client_host));
    let elsewhere = o.flow.reply.first();
    // Nobody outside can answer a private address; a peer that received the packet and is silent may have other reasons.
    let private_to_public = is_private(o.left.src.addr) && !is_private(o.left.dst.addr);
    let received = o.left.to.is_some_and(|peer| facts.reached(&o.flow.request, peer).is_some_and(|hop| facts.waited(o.flow, hop)));
    // Much that goes by UDP wants no answer.
    let asks = o.flow.protocol == Protocol::Tcp && (private_to_public || received);
    let confidence = if elsewhere.is_some() || asks { Confidence::Likely } else { Confidence::Possible };
    let summary = format!("{servers} opens connections through {name}, which sends them on with the source {} unchanged.", o.left.src.addr);
    let interface = outer_interface(facts, o);
    let (tables, net) = match o.left.src.addr {
        IpAddr::V4(a) => ("iptables", format!("{}.{}.{}.0/24", a.octets()[0], a.octets()[1], a.octets()[2])),
        IpAddr::V6(a) => ("ip6tables", format!("{a}/128")),
    };
    let rule = format!("POSTROUTING -s {net} -o {interface} -j MASQUERADE");
    let mended = Remedy::new(
        name,
        format!("{tables} -t nat -A {rule}"),
        format!("the servers' whole network in the saved rules ({tables}-save)"),
        format!("{tables} -t nat -D {rule}"),
    );
    let ids: Vec<&Flow> = flows.iter().map(|o| o.flow).collect();
    Some(
        Finding::new(name, Severity::Degraded, confidence, summary, facts.seen_with(o.left, "source unchanged"))
            .and([facts.seen_with(o.came, &format!("opened by {}", facts.name(o.flow.client_host)))])
            .and(elsewhere.map(|hop| facts.seen_with(hop, &format!("the answer, {}", facts.to_whom(hop)))))
            .and(facts.repeats(o.flow, o.left, NoteKind::SynRepeat))
            .unless(&["NET008", "NET004"], format!("on {name}: `{tables} -t nat -L POSTROUTING -v -n`; on {}: a capture", o.left.dst.addr))
            .mend([mended])
            .on(self::ids(&ids)),
    )
}

/// The director's interface towards outside, as its capture point has it; or `IF`.
fn outer_interface(facts: &Facts<'_>, o: &Outbound<'_>) -> String {
    let name = facts.trace.points[o.left.point as usize].name.strip_prefix(facts.name(Some(o.director)));
    let name = name.and_then(|rest| rest.strip_prefix('.')).filter(|_| facts.trace.host_at(o.left.point) == Some(o.director));
    name.filter(|name| !name.contains('.')).unwrap_or("IF").to_string()
}

fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_private() || a.is_link_local() || (a.octets()[0] == 100 && a.octets()[1] & 0xc0 == 64),
        IpAddr::V6(a) => a.segments()[0] & 0xfe00 == 0xfc00,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::*;

    fn served() -> World {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w
    }

    #[test]
    fn the_peer_cannot_answer() {
        let mut w = served();
        w.syn(&World::tcp("10.2.0.11:50001", "10.1.0.100:8080"), "web1 director client", 3);
        let found = w.expect(&NET016, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "iptables -t nat -A POSTROUTING -s 10.2.0.0/24 -o ext -j MASQUERADE");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[2][..]));
        // Nobody looked at the peer: it may as well be down.
        w.without(&["client"]).expect(&NET016, Confidence::Possible, "director");
    }

    #[test]
    fn messages_that_want_no_answer_prove_little() {
        let mut w = served();
        let log = World::udp("10.2.0.11:50001", "10.1.0.100:514");
        for _ in 0..3 {
            w.carry(&log, false, 0, b"a line", "web1 director client");
            w.wait(1.0);
        }
        w.expect(&NET016, Confidence::Possible, "director");
    }

    #[test]
    fn the_answer_goes_elsewhere() {
        let mut w = served().plug("gw.eth0", "ext", "10.1.0.254");
        let c = World::tcp("10.2.0.11:50001", "10.1.0.100:8080");
        for _ in 0..3 {
            w.syn(&c, "web1 director client", 1);
            w.carry(&c, true, SYN_ACK, b"", "client gw");
            w.wait(1.0);
        }
        w.expect(&NET016, Confidence::Likely, "director");
        let methods: Vec<Method> = w.trace().flows.iter().map(|f| f.method).collect();
        assert!(methods.iter().all(|m| *m != Method::DirectRouting), "{methods:?}");
    }

    #[test]
    fn masqueraded_connections_are_right() {
        let mut w = served();
        let c = World::tcp("10.2.0.11:50001", "10.1.0.100:8080").snat("director", "10.1.0.1:50001");
        w.talk(&c, "web1 director client", "client director web1");
        w.deny(&NET016);
        w.healthy();
        // And when the peer is down, that is not the director's fault.
        let down = World::tcp("10.2.0.11:50002", "10.1.0.100:8081").snat("director", "10.1.0.1:50002");
        w.syn(&down, "web1 director client", 3);
        w.deny(&NET016);
    }

    #[test]
    fn where_outside_has_a_route_back_nothing_is_wrong() {
        let mut w = served();
        w.talk(&World::tcp("10.2.0.11:50001", "10.1.0.100:8080"), "web1 director client", "client director web1");
        w.syn(&World::tcp("10.2.0.11:50002", "10.1.0.100:8081"), "web1 director client", 3);
        w.deny(&NET016);
    }
}
