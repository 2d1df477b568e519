//! A neighbour on the way does not answer ARP or neighbour discovery.

use super::super::facts::{Loss, ids, list, plural};
use super::super::remedy::{ip_for, look, no_neighbour, replace_default_route};
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Vain, in_vain};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::host::Host;
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// The director (or a router) receives a request, and asks for the next hop three times, a second apart, without an answer. The request
    /// never leaves. After the third question Linux tells the client: ICMP host unreachable.
    ///
    /// # Why it breaks
    /// The neighbour is down, unplugged, in another VLAN, or has another address than the director's table says. IPVS has no health checks
    /// of its own: it goes on giving the dead server its share of the connections.
    ///
    /// # Confirm it by hand
    /// On the asker: `ip neigh show ADDRESS` says INCOMPLETE or FAILED (STALE is healthy). `arping -I IF ADDRESS` from another host.
    ///
    /// # Remedy
    /// Revive the neighbour, or take the server out: `ipvsadm -e … -r RIP -w 0`. A health checker (keepalived, ldirectord) does so by itself.
    ///
    /// # When it is not a fault
    /// One lost question that is answered when it is repeated. Questions that no request waits for.
    ///
    /// # Reproduce
    /// A healthy service; on a real server `ip link set eth0 down`.
    ///
    /// # References
    /// kernel `net/core/neighbour.c`, `neigh_timer_handler`; ip-neighbour(8); ipvsadm(8).
    ARP011 "neighbour-incomplete" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let hood = facts.neighbourhood();
    let heard = in_vain(&hood).iter().filter(|v| v.code(&hood) == "ARP011").map(|vain| finding(&hood, vain)).collect::<Vec<_>>();
    let unheard = facts.losses("ARP011");
    heard.into_iter().chain(unheard.iter().map(|loss| unheard_of(facts, loss))).collect::<Vec<_>>().into()
}

/// A director that hands on some connections and not others, where the captures have no ARP.
fn unheard_of(facts: &Facts<'_>, loss: &Loss<'_>) -> Finding {
    let (name, lost) = (facts.name(Some(loss.host)), plural(loss.flows.len(), "connection"));
    let summary = format!(
        "{name} hands on nothing of {lost} to {}, and serves others: one of its servers does not answer it. ARP was not captured.",
        loss.service()
    );
    let family = ip_for(&loss.hop.dst.addr.to_string());
    let settle = format!("on {name}: `{family} neigh show` (FAILED or INCOMPLETE), `ipvsadm -ln`; a capture without a filter");
    let out = look(name, format!("{family} neigh show; ipvsadm -ln"), "revive the server that does not answer, or a health checker");
    loss.finding(facts, summary, &settle).mend([out])
}

fn finding(hood: &super::Neighbourhood<'_>, vain: &Vain<'_>) -> Finding {
    let facts = &hood.facts;
    if vain.answers {
        return no_way_back(facts, vain);
    }
    let (name, target) = (facts.name(Some(vain.asker)), vain.question.target);
    let times = plural(vain.question.times.count as usize, "time");
    let is_director = hood.standing(vain.asker, target) == Role::Director;
    let summary = format!("{name} asked {times} for {target}, and nobody answers; requests wait there and are dropped.");
    let heard: Vec<&str> = vain.heard.iter().map(|(host, _)| facts.name(Some(*host))).collect();
    let mut alternatives: Vec<&'static str> = if is_director { vec!["SVC003"] } else { vec!["ARP006"] };
    // Who asks for what his own client dialled hands it on like a router, for it is not his address.
    let not_its_own = is_director && vain.flows.iter().any(|f| f.service.addr == target && f.vip.is_none_or(|vip| vip.addr == target));
    if not_its_own {
        alternatives.insert(0, "SVC001");
    }
    if target.is_ipv4() {
        alternatives.push("ARP005");
    }
    let settle = match heard.is_empty() {
        true => format!("is {target} up? `arping` or `ping` it from a third host; a capture on its interface: does the question arrive?"),
        false => format!("the question arrives at {}: is {target} its address?", list(&heard)),
    };
    let waiting = vain.flows.first().and_then(|f| f.request.last()).map(|hop| facts.seen(hop));
    let service = vain.flows.first().and_then(|f| f.vip).map_or_else(|| "VIP:PORT".to_string(), |vip| vip.to_string());
    let family = ip_for(&target.to_string());
    let port = service.rsplit(':').next().unwrap_or("PORT");
    let server = if target.is_ipv6() { format!("[{target}]:{port}") } else { format!("{target}:{port}") };
    let option = if vain.flows.first().is_some_and(|f| f.protocol == crate::net::Protocol::Udp) { "-u" } else { "-t" };
    let weight = |w| format!("ipvsadm -e {option} {service} -r {server} {}-w {w}", vain.method(facts));
    let out = crate::finding::Remedy::new(name, weight(0), "a health checker: keepalived or ldirectord", weight(1));
    let alive = look(name, format!("{family} neigh show {target}; {family} route get {target}"), "revive the machine, or mend its link");
    Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.question(vain.question))
        .and(waiting)
        .and(vain.errors(facts))
        .unless(&alternatives, settle)
        .mend((is_director && !not_its_own).then_some(out).into_iter().chain([alive]))
        .on(ids(&vain.flows))
}

/// A server that answers its clients directly, through a gateway that is not there.
fn no_way_back(facts: &Facts<'_>, vain: &Vain<'_>) -> Finding {
    let (name, target) = (facts.name(Some(vain.asker)), vain.question.target);
    let times = plural(vain.question.times.count as usize, "time");
    let summary = format!("{name} wants to answer through {target}, asked {times} for it, and nobody answers.");
    let router = vain.flows.first().and_then(|f| facts.at_director(f)).and_then(|hop| Some((hop.from?, hop.src_mac)));
    let not: Vec<_> = vain.flows.iter().flat_map(|f| [f.client.addr, f.service.addr]).collect();
    let gateway = facts.address_on(router.map(|r| r.0), router.and_then(|r| r.1), &not, "ROUTER");
    let client = vain.flows.first().map_or_else(|| "CLIENT".to_string(), |f| f.client.addr.to_string());
    let last = vain.flows.first().and_then(|f| f.request.last());
    let waiting = last.map(|hop| facts.seen(hop));
    if last.is_some_and(|hop| hop.src.addr == target) {
        let ip = ip_for(&client);
        let summary = format!(
            "{name} takes {target} for a neighbour: it asks its link for it {times}, in vain, instead of answering through {gateway}."
        );
        return Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.question(vain.question))
            .and(waiting)
            .unless(&["DR004"], format!("on {name}: `{ip} route get {target}`, `{ip} addr show`"))
            .mend([no_neighbour(name, &client, &gateway)])
            .on(ids(&vain.flows));
    }
    Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.question(vain.question))
        .and(waiting)
        .unless(&["DR004"], format!("on {name}: `ip route get {client}`; is {target} the router's address, and is it up?"))
        .mend([replace_default_route(name, &gateway, &target.to_string())])
        .on(ids(&vain.flows))
}

/// On the director: the neighbour table says that a real server, or its gateway, does not answer.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let Some(neighbours) = host.neighbours.as_deref() else {
            checks.needs(&host.name, "the neighbour table");
            continue;
        };
        for destination in service.destinations.iter().filter(|d| d.weight > 0) {
            let rip = destination.address.addr;
            let next = host.way(&crate::host::Ask::to(rip)).ok().and_then(|w| w.gateways().first().copied()).unwrap_or(rip);
            // A static entry is never asked for; the server itself may show that its cable is out.
            let unplugged = site.fleet.owners(rip).first().map(|at| site.host(*at)).and_then(|o| Some((o, o.link(&o.address(rip)?.link)?)));
            let Some(entry) = neighbours.iter().find(|n| n.addr == next && n.is_failed()) else {
                match unplugged.filter(|(_, l)| !l.has_carrier()) {
                    Some((owner, link)) => checks.failed(&owner.name, without_link(site, owner, &link.name, service, destination.address)),
                    // An entry that is not there shows nothing: nobody asked lately, or it was thrown away.
                    None if neighbours.iter().any(|n| n.addr == next) => {
                        checks.passed(&host.name, format!("no neighbour failed towards {rip}"));
                    }
                    None => checks.needs(&host.name, format!("whether {next} answers: it has no entry among the neighbours")),
                }
                continue;
            };
            // Without a link-local address nobody was asked: another fault (IP6004).
            if next.is_ipv6() && cannot_ask(host, &entry.link) {
                continue;
            }
            // Asked with the VIP as sender, it could not be answered: another fault (DR008).
            if super::super::dr::asks_as_vip(site, host, service, rip) {
                continue;
            }
            let summary = format!(
                "{next} does not answer {} on {}: requests for {} that are scheduled to it are lost.",
                if next.is_ipv6() { "neighbour solicitations" } else { "ARP" },
                entry.link,
                service.name()
            );
            let mut found = proven(
                host,
                Severity::Broken,
                summary,
                format!("{next} dev {} {}", entry.link, entry.state),
                format!("ip neigh show {next}"),
            );
            let owner = site.fleet.owners(next).first().map(|at| site.host(*at));
            let cable = owner.and_then(|o| Some((o, o.link(&o.address(next)?.link)?))).filter(|(_, l)| !l.has_carrier());
            match (cable, owner) {
                (Some((owner, link)), _) => {
                    found.summary = format!("{} Its interface {} has no link.", found.summary, link.name);
                    found = found.and([crate::finding::Evidence::host(
                        &owner.name,
                        format!("{} {}", link.name, link.flags.join(",")),
                        format!("ip link show {}", link.name),
                    )]);
                }
                (None, Some(_)) => {}
                (None, None) => found = found.unless(&["SVC003"], format!("is the host of {next} up, and on this link?")),
            }
            let option = service.option();
            let remedy = crate::finding::Remedy::new(
                &host.name,
                format!(
                    "ipvsadm -e {option} -r {} {}-w 0",
                    destination.address,
                    destination.forwarding().map_or(String::new(), |m| format!("{} ", m.option()))
                ),
                "a health checker (keepalived, ldirectord) that does so by itself, and bringing the host back",
                format!(
                    "ipvsadm -e {option} -r {} {}-w {}",
                    destination.address,
                    destination.forwarding().map_or(String::new(), |m| format!("{} ", m.option())),
                    destination.weight
                ),
            );
            checks.failed(&host.name, found.mend([remedy]));
        }
    }
}

/// The interface by which a real server is known has no link.
fn without_link(
    site: &Site<'_>,
    host: &crate::host::Host,
    link: &str,
    service: &crate::host::Service,
    rip: crate::net::Endpoint,
) -> Finding {
    let summary = format!("Its interface {link} has no link: requests for {} that are scheduled to {rip} are lost.", service.name());
    let flags = host.link(link).map_or_else(String::new, |l| l.flags.join(","));
    // A default route through a card that was taken down does not come back with it.
    let duty = site.duties.iter().find(|d| d.rip == Some(rip.addr) && d.service == service.name());
    let elsewhere = crate::host::Ask::to(super::super::site::elsewhere(rip.addr.is_ipv6()));
    let route = duty.filter(|_| host.routes.is_some() && host.way(&elsewhere).is_err()).map_or_else(String::new, |duty| {
        let gateway = if duty.method == crate::ipvs::ForwardingMethod::Nat { site.gateway_of(duty) } else { site.router_of(duty) };
        format!("; {} route add default via {gateway}", ip_for(&gateway))
    });
    let remedy = crate::finding::Remedy::new(
        &host.name,
        format!("ip link set {link} up{route} # if it stays down: cable and switch"),
        "nothing: it is up at boot",
        format!("ip link set {link} down"),
    );
    proven(host, Severity::Broken, summary, format!("{link} {flags}"), format!("ip link show {link}")).mend([remedy])
}

/// True for a device with IPv6 addresses and no link-local one, from which alone Linux asks for packets that it hands on.
fn cannot_ask(host: &Host, link: &str) -> bool {
    let mut own = host.addresses().iter().filter(|a| a.link == link && a.addr.addr().is_ipv6()).peekable();
    own.peek().is_some() && own.all(crate::host::Address::is_global)
}

#[cfg(test)]
mod tests {
    use super::super::super::dr::dr008::DR008;
    use super::super::super::testing::{SYN, World};
    use super::*;

    fn world(answers: &[&str]) -> World {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let good = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.12:80");
        w.who_has("director", "int", "10.2.0.12", &["web2"]);
        w.talk(&good, "client director web2", "web2 director client");
        let bad = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&bad, "client director", 1);
        for n in 0..3 {
            w.who_has("director", "int", "10.2.0.11", if n == 2 { answers } else { &[] });
            w.wait(1.0);
        }
        match answers.is_empty() {
            true => w.icmp(&bad, false, (3, 1, 0), "10.1.0.1", "10.1.0.100", "client", "director client"),
            false => w.talk(&bad, "client director web1", "web1 director client"),
        }
        w
    }

    #[test]
    fn a_dead_server() {
        let w = world(&[]).without(&["web1"]);
        let found = w.expect(&ARP011, Confidence::Likely, "director");
        assert_eq!((found.flows.as_slice(), found.alternatives[0]), (&[2][..], "SVC003"));
        assert_eq!(found.remedy[0].command, "ipvsadm -e -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 0");
        w.deny(&DR008);
        assert_eq!(world(&[]).without(&["web1", "web2", "client"]).finding(&ARP011).flows, [2]);
    }

    /// `tcpdump port 80`: who asked whom is not in the captures.
    #[test]
    fn a_dead_server_in_captures_without_arp() {
        let world = |ports: [u16; 3]| {
            let mut w = World::nat();
            let good = |port: u16| World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.12:80");
            for port in ports {
                match port {
                    40002 => w.syn(&World::tcp("10.1.0.100:40002", "10.1.0.1:80"), "client director", 2),
                    port => w.talk(&good(port), "client director web2", "web2 director client"),
                }
                w.wait(1.0);
            }
            w
        };
        let w = world([40001, 40002, 40003]);
        let found = w.expect(&ARP011, Confidence::Likely, "director");
        assert_eq!((found.alternatives.as_slice(), found.flows.as_slice()), (&["SVC003", "NAT008"][..], &[2][..]));
        assert!(found.summary.ends_with("ARP was not captured."), "{}", found.summary);
        // Only before: the address may have gone.
        let w = world([40001, 40003, 40002]);
        w.deny(&ARP011);
        let found = w.expect(&super::super::super::svc::svc001::SVC001, Confidence::Possible, "director");
        assert_eq!(found.alternatives, ["ARP007", "ARP011", "NAT008"]);
        // Only after: it may have come late.
        world([40002, 40001, 40003]).expect(&super::super::super::svc::svc001::SVC001, Confidence::Possible, "director");
        // With ARP one would have heard it ask.
        let mut w = world([40001, 40002, 40003]);
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w.deny(&ARP011);
    }

    #[test]
    fn a_gateway_that_does_not_exist() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let good = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.talk(&good, "client router director web2", "web2 router client");
        let bad = World::tcp("10.1.0.100:40002", "10.2.0.100:80");
        w.syn(&bad, "client router director web1", 1);
        for _ in 0..3 {
            w.who_has("web1", "int", "10.2.0.250", &[]);
            w.wait(1.0);
        }
        w.syn(&bad, "client router director web1", 1);
        let found = w.expect(&ARP011, Confidence::Likely, "web1");
        assert_eq!((found.flows.as_slice(), found.alternatives.as_slice()), (&[2][..], &["DR004"][..]));
        assert_eq!(found.remedy[0].command, "ip route replace default via 10.2.0.1");
        w.deny(&super::super::arp006::ARP006);
    }

    #[test]
    fn a_late_answer_is_an_answer() {
        let w = world(&["web1"]);
        w.deny(&ARP011);
        w.healthy();
    }

    #[test]
    fn questions_that_nothing_waits_for() {
        let mut w = world(&["web1"]);
        for _ in 0..5 {
            w.who_has("director", "int", "10.2.0.99", &[]);
            w.who_has("web2", "int", "10.2.0.98", &[]);
            w.wait(1.0);
        }
        w.healthy();
    }

    #[test]
    fn over_ipv6_as_well() {
        let mut w = World::dr6();
        w.neighbour("director", "int", "2001:db8:2::100", false);
        let c = World::tcp("[2001:db8:1::100]:40001", "[2001:db8:2::100]:80");
        w.talk(&c, "client router director web1", "web1 router client");
        let bad = World::tcp("[2001:db8:1::100]:40002", "[2001:db8:2::100]:80");
        w.syn(&bad, "client router director", 1);
        for _ in 0..3 {
            w.solicit("director", "int", "2001:db8:2::12");
            w.wait(1.0);
        }
        w.icmp(&bad, false, (1, 3, 0), "2001:db8:2::100", "2001:db8:1::100", "client", "director router client");
        let found = w.finding(&ARP011);
        assert!(found.summary.contains("2001:db8:2::12"), "{}", found.summary);
        w.deny(&super::super::arp006::ARP006);
    }

    #[test]
    fn a_client_that_is_taken_for_a_neighbour() {
        let mut w = World::dr();
        w.announce("client", "ext", "10.1.0.100");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        for _ in 0..3 {
            w.carry(&c, false, SYN, b"", "client router director web1");
            w.who_has("web1", "int", "10.1.0.100", &[]);
            w.wait(1.0);
        }
        let found = w.expect(&ARP011, Confidence::Likely, "web1");
        assert!(found.summary.starts_with("web1 takes 10.1.0.100 for a neighbour"), "{}", found.summary);
        assert!(w.diagnose().findings.iter().all(|f| !f.code.starts_with("DR0")));
    }

    #[test]
    fn a_table_without_an_entry_shows_nothing() {
        use super::super::super::sketch;
        sketch::cannot_judge(&sketch::dr(), &ARP011, "director");
        let known = sketch::dr_with("director", |d| {
            d.with(|h| {
                let entry = |addr: &str| crate::host::Neighbour {
                    addr: addr.parse().expect("an address"),
                    link: "eth0".into(),
                    mac: Some(crate::net::MacAddr([2, 0, 0, 0, 0, 9])),
                    state: "STALE".into(),
                };
                h.neighbours = Some(vec![entry("10.0.0.11"), entry("10.0.0.12")]);
            })
        });
        sketch::passes(&known, &ARP011, "director");
    }
}
