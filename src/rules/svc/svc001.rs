//! The director does not hold the address of its virtual service.

use super::super::facts::{ids, plural};
use super::super::remedy::ip_for;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// Requests for the VIP reach the director by a route, and the director neither hands them on nor refuses them. Nobody, and it neither,
    /// ever claimed the VIP: no ARP answer, no announcement. Or it did before, and has left a question for it unanswered since.
    ///
    /// # Why it breaks
    /// IPVS looks at packets that are delivered to the director itself. A packet for an address that is not local is forwarded or dropped
    /// as any other, and the table of virtual services is never asked.
    ///
    /// # Confirm it by hand
    /// On the director: `ip route get VIP` must begin with `local VIP`; `ipvsadm -lnc` has no entry.
    ///
    /// # Remedy
    /// Add the VIP to the director, or let keepalived add it. For services by firewall mark a local route is enough:
    /// `ip rule add fwmark N table 100` and `ip route add local default dev lo table 100`.
    ///
    /// # When it is not a fault
    /// When this host is the standby of a pair, and another one holds the VIP: then the route in front points to the wrong one (ARP007).
    ///
    /// # Reproduce
    /// A healthy service whose VIP is routed to the director; `ip addr del VIP/32 dev IF` on the director.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_ops4`: hooks LOCAL_IN; LVS-HOWTO, "Routing to VIP-less director".
    SVC001 "vip-not-on-director" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: Vec<Finding> = facts.losses("SVC001").into_iter().map(|loss| finding(facts, &loss)).collect();
    let hood = facts.neighbourhood();
    found.extend(super::super::arp::meant_for_askers(&hood).iter().map(|wanted| looks_for_itself(facts, wanted)));
    let need = facts.half_seen_director().map(|host| format!("captures on all interfaces of {host}, or a snapshot of it"));
    Outcome::or_need(found, need)
}

fn finding(facts: &Facts<'_>, loss: &super::super::facts::Loss<'_>) -> Finding {
    let (name, vip) = (facts.name(Some(loss.host)), loss.hop.dst.addr);
    let lost = plural(loss.flows.len(), "connection");
    let summary = format!("{name} takes no notice of {lost} to {}: it does not seem to hold that address.", loss.service());
    let (ip, length) = (ip_for(&vip.to_string()), if vip.is_ipv6() { 128 } else { 32 });
    let on = facts.interface(Some(loss.host), &loss.flows[0].request);
    let mend = Remedy::new(
        name,
        format!("{ip} addr add {vip}/{length} dev {on}"),
        format!("{vip}/{length} among the virtual_ipaddress of keepalived, or on the interface in netplan, networkd or ifcfg"),
        format!("{ip} addr del {vip}/{length} dev {on}"),
    );
    let mut finding = loss.finding(facts, summary, &format!("on {name}: `{ip} route get {vip}` (it should say local), or a snapshot"));
    finding.severity = Severity::Broken;
    finding.mend([mend])
}

/// The director asks on the very link by which requests came who has the address that they are for.
fn looks_for_itself(facts: &Facts<'_>, wanted: &super::super::arp::Wanted<'_>) -> Finding {
    let (name, vip) = (facts.name(Some(wanted.asker)), wanted.question.target);
    let times = plural(wanted.question.times.count as usize, "time");
    let summary = format!("{name} is sent requests for {vip}, and asks {times} who has it: it does not hold that address itself.");
    let (ip, length) = (ip_for(&vip.to_string()), if vip.is_ipv6() { 128 } else { 32 });
    let on = facts.device(wanted.question.point);
    let mend = Remedy::new(
        name,
        format!("{ip} addr add {vip}/{length} dev {on}"),
        format!("{vip}/{length} among the virtual_ipaddress of keepalived, or on the interface in netplan, networkd or ifcfg"),
        format!("{ip} addr del {vip}/{length} dev {on}"),
    );
    let waiting = wanted.flows.first().and_then(|f| f.request.last()).map(|hop| facts.seen(hop));
    Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.question(wanted.question))
        .and(waiting)
        .unless(&["ARP011", "ARP007"], format!("on {name}: `{ip} route get {vip}` (it should say local), or a snapshot"))
        .mend([mend])
        .on(ids(&wanted.flows))
}

/// On the director: a service whose address is not local.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let Some(vip) = service.vip() else { continue };
        if host.addresses.is_none() {
            checks.needs(&host.name, "its addresses");
            continue;
        }
        if host.has(vip) {
            checks.passed(&host.name, format!("{vip} is here"));
            continue;
        }
        // The one that waits has the address only when it is its turn.
        let waits = host.saved.iter().flat_map(|s| &s.vrrp).any(|v| v.addresses.contains(&vip)) || !site.fleet.owners(vip).is_empty();
        if waits && site.playing(Role::Director).any(|(_, other)| other.name != host.name && other.has(vip)) {
            checks.passed(&host.name, format!("{vip} is at its peer"));
            continue;
        }
        let length = if vip.is_ipv6() { 128 } else { 32 };
        let link =
            service.destinations.first().and_then(|d| host.way(&crate::host::Ask::to(d.address.addr)).ok()?.link().map(str::to_string));
        let link = link.unwrap_or_else(|| "IF".to_string());
        let ip = super::super::remedy::ip_for(&vip.to_string());
        let summary = format!("{} is a service here, and {vip} is no address of this host: IPVS never sees its packets.", service.name());
        let remedy = crate::finding::Remedy::new(
            &host.name,
            format!("{ip} addr add {vip}/{length} dev {link}"),
            "the address in keepalived's virtual_ipaddress, or in the network's configuration",
            format!("{ip} addr del {vip}/{length} dev {link}"),
        );
        checks.failed(
            &host.name,
            proven(host, Severity::Broken, summary, format!("no address {vip}"), format!("{ip} addr show to {vip}")).mend([remedy]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn a_routed_vip_that_nobody_holds() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.9.0.9:80");
        w.syn(&c, "client director", 3);
        let found = w.expect(&SVC001, Confidence::Likely, "director");
        assert!(found.alternatives.contains(&"NAT008"));
        assert_eq!(found.remedy[0].command, "ip addr add 10.9.0.9/32 dev ext");
        let w = w.without(&["director.int", "web1", "web2"]);
        w.deny(&SVC001);
        assert!(w.cannot_judge(&SVC001));
    }

    #[test]
    fn a_director_that_answers_for_its_vip_holds_it() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w.syn(&World::tcp("10.1.0.100:40001", "10.1.0.1:80"), "client director", 3);
        w.deny(&SVC001);
    }

    /// Another director has it now; who sends the requests has not learnt it.
    #[test]
    fn a_vip_that_moved_away() {
        let mut w = World::dr().plug("standby.eth0", "int", "10.2.0.99");
        let c = |port: u16| World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.talk(&c(40001), "client router director web1", "web1 router client");
        w.wait(5.0);
        w.who_has("web2", "int", "10.2.0.100", &["standby"]);
        w.wait(1.0);
        w.syn(&c(40002), "client router director", 3);
        let w = w.without(&["client", "standby", "web1", "web2"]);
        let found = w.expect(&SVC001, Confidence::Possible, "director");
        assert_eq!(found.alternatives[0], "ARP007");
        w.deny(&super::super::super::nat::nat008::NAT008);
    }

    #[test]
    fn a_routed_vip_that_is_served() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.9.0.9:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.deny(&SVC001);
        w.healthy();
    }

    /// A route leads to the director, which looks for the address on the link by which the request came.
    #[test]
    fn the_director_asks_who_has_the_vip() {
        let mut w = World::new()
            .plug("client.eth0", "far", "10.9.0.7")
            .plug("edge.far", "far", "10.9.0.1")
            .plug("edge.ext", "ext", "10.1.0.254")
            .plug("director.ext", "ext", "10.1.0.2")
            .plug("director.int", "int", "10.2.0.1");
        w.who_has("edge", "ext", "10.1.0.2", &["director"]);
        for port in [40001, 40002] {
            w.syn(&World::tcp(&format!("10.9.0.7:{port}"), "10.1.0.5:80"), "client edge director", 1);
            w.who_has("director", "ext", "10.1.0.5", &[]);
            w.wait(1.0);
            w.who_has("director", "ext", "10.1.0.5", &[]);
        }
        w.wait(2.0);
        let found = w.expect(&SVC001, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "ip addr add 10.1.0.5/32 dev ext");
        w.deny(&super::super::super::arp::arp011::ARP011);
        // On another link it is somebody else's address, who is not there.
        let mut elsewhere = World::nat();
        for _ in 0..2 {
            elsewhere.syn(&World::tcp("10.1.0.100:40001", "10.2.0.9:80"), "client director", 1);
            elsewhere.who_has("director", "int", "10.2.0.9", &[]);
            elsewhere.wait(1.0);
        }
        elsewhere.deny(&SVC001);
    }
}
