//! A forwarder has no link-local address on an interface, and so cannot ask for neighbours there.

use super::super::facts::{ids, seconds};
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::Role;
use crate::net::MacAddr;
use crate::packet::IcmpKind;
use crate::trace::{Flow, FlowError, Hop, HostId};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// A request arrives at the director (or a router), and some seconds later it says ICMPv6 address unreachable. In between it asked
    /// nobody: no neighbour solicitation for the next hop was seen, although its other interfaces were watched.
    ///
    /// # Why it breaks
    /// For packets that it forwards Linux asks for neighbours from its link-local address. Without one no question can be sent; the entry
    /// becomes FAILED as if nobody had answered.
    ///
    /// # Confirm it by hand
    /// On that host: `ip -6 addr show dev IF scope link` is empty. `sysctl net.ipv6.conf.IF.addr_gen_mode`: 1 means none.
    ///
    /// # Remedy
    /// `addr_gen_mode=0`, with which the kernel makes one at once; where it is 0 already, an address by hand. The interface down and up would
    /// make one too, and lose its other IPv6 addresses and their routes.
    ///
    /// # When it is not a fault
    /// When questions are seen and nobody answers (ARP011). When the interface towards the next hop was not captured.
    ///
    /// # Reproduce
    /// A NAT service over IPv6; on the director `ip -6 addr flush dev INNER scope link`.
    ///
    /// # References
    /// kernel `net/ipv6/ndisc.c`, `ndisc_send_ns`; RFC 4861, section 7.2.2.
    IP6004 "no-link-local" check hosts
}

/// Flows, where the first of them arrived, what was said of it, and where no question was seen.
type Story<'a> = (Vec<&'a Flow>, &'a Hop, &'a FlowError, Vec<u32>);

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found: BTreeMap<HostId, Story> = BTreeMap::new();
    let mut unseen: Option<HostId> = None;
    for flow in facts.flows().filter(|f| f.service.addr.is_ipv6() && !f.is_answered()) {
        let Some(hop) = flow.request.last() else { continue };
        let Some(host) = hop.to.filter(|h| flow.server_host != Some(*h) || flow.director == Some(*h)) else { continue };
        // Address unreachable, of its own.
        let mut errors = flow.errors.iter();
        let own = |e: &&FlowError| e.kind == IcmpKind::Unreachable && (e.type_number, e.code) == (1, 3) && e.from == Some(host);
        let Some(error) = errors.find(own) else { continue };
        let watched: Vec<u32> = facts.trace.hosts[host].points.iter().copied().filter(|p| *p != hop.point && facts.is_whole(*p)).collect();
        if watched.is_empty() {
            unseen = Some(host);
            continue;
        }
        let macs = &facts.trace.hosts[host].macs;
        let since = facts.trace.common_time(hop.point, hop.time);
        // By its MAC, or, where no frame says which that is, by whoever is not known to be somebody else: none must have asked there.
        let others = |mac: MacAddr| facts.trace.host_of(mac).is_some_and(|h| h != host && !facts.trace.hosts[h].points.is_empty());
        let asks = facts.trace.claims.questions.iter().any(|q| {
            let nobodys = facts.trace.mac_at(q.point).is_none_or(|own| own == q.mac) && !others(q.mac);
            let here = watched.contains(&q.point) && q.asker.is_some() && q.target.is_ipv6() && nobodys;
            (macs.contains(&q.mac) && q.target != hop.src.addr || here) && facts.last_asked(q) >= since
        });
        if !asks {
            found.entry(host).or_insert_with(|| (Vec::new(), hop, error, watched)).0.push(flow);
        }
    }
    let found: Vec<Finding> = found.into_iter().map(|(host, story)| finding(facts, host, story)).collect();
    Outcome::or_need(found, unseen.map(|host| format!("a capture on the other interfaces of {}", facts.name(Some(host)))))
}

fn finding(facts: &Facts<'_>, host: HostId, (flows, hop, error, watched): Story<'_>) -> Finding {
    let name = facts.name(Some(host));
    let device = match watched[..] {
        [only] => facts.device(only),
        _ => "IF",
    };
    let late = facts.trace.common_time(error.point, error.time) - facts.trace.common_time(hop.point, hop.time);
    let summary = format!("{name} finds no neighbour for requests, {} after they came, and never asked for one.", seconds(late));
    let host_part = "fe80::1/64";
    Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.seen(hop))
        .and([facts.error(error)])
        .and(facts.nowhere(&watched, &format!("no neighbour solicitation by {name}")))
        .unless(&["ARP011", "NET008"], format!("on {name}: `ip -6 addr show dev {device} scope link`, `ip -6 neigh show dev {device}`"))
        .mend([Remedy::new(
            name,
            format!("sysctl -w net.ipv6.conf.{device}.addr_gen_mode=0; ip -6 addr add {host_part} dev {device}"),
            "the sysctl in /etc/sysctl.d, before the interface comes up: then it makes its own link-local address",
            format!("ip -6 addr del {host_part} dev {device}"),
        )])
        .on(ids(&flows))
}

/// On those who hand packets on: a card with IPv6 addresses, and none that is link-local.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (_, host) in [Role::Director, Role::Router].into_iter().flat_map(|role| site.playing(role)) {
        let v6 = |link: &str| host.addresses().iter().filter(move |a| a.link == link && a.addr.addr().is_ipv6()).collect::<Vec<_>>();
        for card in host.links().iter().filter(|l| l.speaks_arp() && l.is_up()) {
            let addresses = v6(&card.name);
            if addresses.is_empty() {
                continue;
            }
            if addresses.iter().any(|a| !a.is_global()) {
                checks.passed(&host.name, format!("{} has a link-local address", card.name));
                continue;
            }
            let summary = format!(
                "{} has IPv6 addresses and no link-local one: it cannot ask for neighbours for packets that it hands on.",
                card.name
            );
            let keep = "addr_gen_mode=0 in /etc/sysctl.d/90-lvs.conf, and nothing that removes the address";
            let key = format!("net.ipv6.conf.{}.addr_gen_mode", card.name.replace('.', "/"));
            let remedy = match host.sysctl(&key).filter(|mode| *mode != 0) {
                Some(mode) => {
                    let undo = format!("sysctl -w {key}={mode}; ip -6 addr flush dev {} scope link", card.name);
                    Remedy::new(&host.name, format!("sysctl -w {key}=0"), keep, undo)
                }
                None => {
                    let own = card.mac.map_or_else(|| "fe80::1".to_string(), |mac| mac.link_local().to_string());
                    let line = |what: &str| format!("ip -6 addr {what} {own}/64 dev {}", card.name);
                    Remedy::new(&host.name, line("add"), keep, line("del"))
                }
            };
            checks.failed(
                &host.name,
                proven(
                    host,
                    Severity::Broken,
                    summary,
                    format!("no fe80::/10 address on {}", card.name),
                    format!("ip -6 addr show {}", card.name),
                )
                .mend([remedy]),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::super::super::testing::World;
    use super::*;

    fn nat6() -> World {
        World::new()
            .plug("client.eth0", "ext", "2001:db8:1::100")
            .plug("director.ext", "ext", "2001:db8:1::1")
            .plug("director.int", "int", "2001:db8:2::1")
            .plug("web1.eth0", "int", "2001:db8:2::11")
    }

    fn world(asks: bool) -> World {
        let mut w = nat6();
        w.solicit("client", "ext", "2001:db8:1::1");
        w.neighbour("director", "ext", "2001:db8:1::1", false);
        // A name is looked up at the director itself.
        w.talk(&World::udp("[2001:db8:1::100]:5353", "[2001:db8:1::1]:53"), "client director", "director client");
        for port in [40001, 40002] {
            let c = World::tcp(&format!("[2001:db8:1::100]:{port}"), "[2001:db8:1::1]:80").dnat("director", "[2001:db8:2::11]:80");
            w.syn(&c, "client director", 1);
            for _ in 0..3 {
                if asks {
                    w.solicit("director", "int", "2001:db8:2::11");
                }
                w.wait(1.0);
            }
            w.icmp(&c, false, (1, 3, 0), "2001:db8:1::1", "2001:db8:1::100", "client", "director client");
        }
        w
    }

    /// The interface is never taken down for it: that would take its other addresses along.
    #[test]
    fn what_gives_the_address_back() {
        let site = |mode: &str| {
            let rules = "-A -t [2001:db8:1::80]:80 -s rr\n-a -t [2001:db8:1::80]:80 -r [2001:db8:2::11]:80 -m\n";
            let lb = Sketch::new("director").card("int", "2001:db8:2::1/64").addr("int", "2001:db8:1::80/128").ipvs(rules);
            [lb.set("net.ipv6.conf.int.addr_gen_mode", mode)]
        };
        let command = |mode: &str| {
            let found = sketch::expect(&site(mode), &IP6004, Severity::Broken, Confidence::Certain, "director");
            found.remedy[0].command.clone()
        };
        assert_eq!(command("1"), "sysctl -w net.ipv6.conf.int.addr_gen_mode=0");
        assert!(command("0").starts_with("ip -6 addr add fe80::") && command("0").ends_with("/64 dev int"), "{}", command("0"));
    }

    #[test]
    fn nobody_is_asked() {
        let found = world(false).expect(&IP6004, Confidence::Likely, "director");
        assert_eq!(found.flows, [2, 3]);
        assert!(found.remedy[0].command.contains("net.ipv6.conf.int.addr_gen_mode=0"), "{:?}", found.remedy);
    }

    #[test]
    fn asked_in_vain_is_another_story() {
        world(true).deny(&IP6004);
    }

    /// The director checks a server, which answers or not, while the router waits.
    fn checked(answers: bool) -> World {
        let mut w = World::dr6();
        w.solicit("client", "ext", "2001:db8:1::1");
        w.neighbour("router", "ext", "2001:db8:1::1", false);
        w.talk(&World::udp("[2001:db8:1::100]:5353", "[2001:db8:1::1]:53"), "client router", "router client");
        let c = World::tcp("[2001:db8:1::100]:40001", "[2001:db8:2::100]:80");
        w.syn(&c, "client router", 1);
        for _ in 0..3 {
            let check = World::tcp("[2001:db8:2::100]:50001", "[2001:db8:2::11]:80");
            w.solicit("director", "int", "2001:db8:2::11");
            if answers {
                w.talk(&check, "director web1", "web1 director");
            } else {
                w.syn(&check, "director web1", 1);
            }
            w.wait(1.0);
        }
        w.icmp(&c, false, (1, 3, 0), "2001:db8:1::1", "2001:db8:1::100", "client", "router client");
        w
    }

    #[test]
    fn what_others_ask_is_not_the_routers_question() {
        checked(true).expect(&IP6004, Confidence::Likely, "router");
        // Whose question it is shows at the director's interface alone.
        checked(true).without(&["director"]).deny(&IP6004);
    }

    /// The only voice at an interface need not be that of its host: here its connections go past.
    #[test]
    fn who_talks_elsewhere_too_is_not_the_router() {
        let trace = checked(false).trace();
        let asks = trace.flows.iter().find(|f| f.client.port == 50001).expect("the check");
        assert_ne!(trace.host_name(asks.request.hops[0].from), "router");
    }

    #[test]
    fn where_nobody_looked_nothing_is_said() {
        let w = world(false).without(&["director.int"]);
        w.deny(&IP6004);
        assert!(w.cannot_judge(&IP6004));
    }

    #[test]
    fn a_served_connection_is_right() {
        let mut w = nat6();
        let c = World::tcp("[2001:db8:1::100]:40001", "[2001:db8:1::1]:80").dnat("director", "[2001:db8:2::11]:80");
        w.solicit("director", "int", "2001:db8:2::11");
        w.talk(&c, "client director web1", "web1 director client");
        w.deny(&IP6004);
        w.healthy();
    }
}
