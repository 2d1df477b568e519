//! A host answers ARP or neighbour discovery for an address that it only has a way to.

use super::super::remedy::{ip_for, set, sysctl};
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use super::Neighbourhood;
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::host::{Ask, Host, Proxy, Sysctls};
use crate::ipvs::Role;
use crate::trace::{Claim, ClaimKind, HostId, Question};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// In packets: two answers to one question for the VIP, one at once, the other one late: the kernel lets who has the address go first, and
    /// waits up to 0.8 s before it answers for another. On a host: it forwards and answers for the VIP in its place: `proxy_arp` on a card in the VIP's network and a route to the VIP that
    /// leaves by another device, `proxy_arp_pvlan` and a route that leaves by the same one, or an entry of `ip neigh add proxy`; for IPv6
    /// such an entry and `proxy_ndp`.
    ///
    /// # Why it breaks
    /// With proxy_arp a host answers ARP for every address that it would send elsewhere; an entry makes it answer for one address.
    /// Neighbours then send packets for the VIP to it, and the director, if it answers too, gets some of them, or none.
    ///
    /// # Confirm it by hand
    /// On another host of the network: `arping -I eth0 VIP` (IPv6: `ndisc6 VIP eth0`) gets answers from a MAC that has no such address. On
    /// the host: `sysctl -a -r '\\.proxy_(arp|ndp)'`, `ip neigh show proxy`, `ip route get VIP`.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.conf.all.proxy_arp=0 net.ipv4.conf.IF.proxy_arp=0`; `ip neigh del proxy VIP dev IF`.
    ///
    /// # When it is not a fault
    /// Where it stands between two halves of one network on purpose, and passes packets on to the director: a way that leads to the director
    /// is no finding.
    ///
    /// # Reproduce
    /// A router with proxy_arp=1 and a host route to the VIP by its other card.
    ///
    /// # References
    /// kernel `net/ipv4/arp.c`, `arp_process`, `arp_fwd_proxy`; `net/ipv6/ndisc.c`, `ndisc_recv_ns`, `pndisc_is_router`;
    /// `Documentation/networking/ip-sysctl.rst`: proxy_arp, proxy_ndp.
    ARP010 "proxy-arp-answers-vip" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let hood = facts.neighbourhood();
    let found: Vec<Finding> =
        facts.service_addresses().into_iter().filter_map(|vip| by_proxy(&hood, vip)).map(|proxy| slow(facts, &proxy)).collect();
    Outcome::or_need(found, Some("snapshots of the hosts in the network of the VIP".to_string()))
}

/// Who has an address answers so many times sooner.
const SOONER: i64 = 4;
/// Who answers in the place of another waits for a random time, up to `proxy_delay`, 0.8 s (kernel `net/core/neighbour.c`, `pneigh_enqueue`).
const WAITS: std::ops::RangeInclusive<i64> = 15_000_000..=1_000_000_000;

/// A host that takes its time before it answers for an address that another one answers for at once.
pub(in crate::rules) struct ByProxy<'a> {
    host: HostId,
    vip: IpAddr,
    late: &'a Claim,
    prompt: &'a Claim,
    question: &'a Question,
    delay: i64,
}

/// Looks for a host whose answers for an address all come late, while somebody else answers the same question at once.
pub(in crate::rules) fn by_proxy<'a>(hood: &Neighbourhood<'a>, vip: IpAddr) -> Option<ByProxy<'a>> {
    let facts = hood.facts;
    let claimants = facts.claimants(vip);
    let replies =
        |host: HostId| claimants.iter().filter(move |c| c.host == host).flat_map(|c| &c.claims).filter(|c| c.kind == ClaimKind::Reply);
    let questions = || facts.trace.claims.questions.iter().filter(|q| q.target == vip && !q.unicast);
    let asked = |claim: &Claim| questions().find(|q| q.point == claim.point && q.asker == claim.about && q.mac != claim.mac);
    let others =
        |host: HostId| claimants.iter().filter(move |c| c.host != host).flat_map(|c| &c.claims).filter(|c| c.kind == ClaimKind::Reply);
    // A real server has the address itself, however late it answers (ARP001), and so has a second director (HA001).
    let may_be = |host: &HostId| matches!(hood.standing(*host, vip), Role::Unknown | Role::Router);
    claimants.iter().map(|c| c.host).filter(may_be).find_map(|host| {
        // Both have to be heard at one place: at the asker's, or at a mirror.
        replies(host).find_map(|late| {
            let question = asked(late)?;
            let delays_here = delays(question, late);
            let delay = delays_here.iter().copied().min().filter(|_| delays_here.iter().all(|d| WAITS.contains(d)))?;
            let mut same = others(host).filter(|c| c.point == late.point && c.about == late.about);
            let prompt = same.find(|c| delays(question, c).iter().any(|d| d * SOONER <= delay))?;
            Some(ByProxy { host, vip, late, prompt, question, delay })
        })
    })
}

/// How long after the question before it each answer came.
fn delays(question: &Question, answer: &Claim) -> Vec<i64> {
    let asked: Vec<_> = question.times.first.iter().map(|(_, at)| *at).collect();
    let since = |at: crate::net::Timestamp| asked.iter().map(|q| at - *q).filter(|d| *d >= 0).min();
    answer.times.first.iter().filter_map(|(_, at)| since(*at)).collect()
}

fn slow(facts: &Facts<'_>, proxy: &ByProxy<'_>) -> Finding {
    let (name, vip) = (facts.name(Some(proxy.host)), proxy.vip);
    let owner = facts.name(facts.trace.host_of(proxy.prompt.mac));
    let summary = format!(
        "{name} answers ARP for {vip} too, {} ms after the question, as one does who answers for another; {owner} answers at once.",
        proxy.delay / 1_000_000
    );
    let heard = facts.trace.host_at(proxy.late.point) == Some(proxy.host);
    let device = if heard { facts.device(proxy.late.point) } else { "IF" };
    let keys = ["net.ipv4.conf.all.proxy_arp".to_string(), format!("net.ipv4.conf.{device}.proxy_arp")];
    let settings: Vec<(&str, &str, &str)> = keys.iter().map(|key| (key.as_str(), "0", "1")).collect();
    Finding::new(name, Severity::Degraded, Confidence::Likely, summary, facts.claim(proxy.late))
        .and([facts.claim(proxy.prompt), facts.question(proxy.question)])
        .unless(
            &["HA001", "ARP001", "ARP012"],
            format!("on {name}: `ip addr show to {vip}`, `sysctl -a -r '\\.proxy_arp'`, `ip neigh show proxy`"),
        )
        .mend([sysctl(name, &settings)])
}

/// On everybody in the network of a VIP.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (at, host) in site.fleet.members.iter().enumerate().filter(|(_, m)| m.same_as.is_none()).map(|(at, m)| (at, &m.host)) {
        for vip in site.fleet.vips().into_iter().filter(|vip| !host.has(*vip)) {
            let what = if vip.is_ipv6() { "neighbour discovery" } else { "ARP" };
            let near = |l: &&crate::host::Link| {
                let within = |a: &crate::host::Address| a.link == l.name && !a.addr.is_host() && a.addr.contains(vip);
                l.speaks_arp() && l.is_up() && host.addresses().iter().any(within)
            };
            for card in host.links().iter().filter(near) {
                match host.answers_for_another(vip, &card.name) {
                    Err(needs) => checks.needs(&host.name, needs),
                    Ok(None) => checks.passed(&host.name, format!("no proxy {what} for {vip} at {}", card.name)),
                    Ok(Some(_)) if leads_to_director(site, at, vip, &card.name) == Some(true) => {
                        checks.passed(&host.name, format!("{what} for {vip} at {} is answered in the director's place", card.name));
                    }
                    Ok(Some(why)) => checks.failed(&host.name, finding(site, at, vip, &card.name, why)),
                }
            }
        }
    }
}

fn finding(site: &Site<'_>, at: usize, vip: IpAddr, card: &str, why: Proxy) -> Finding {
    let (host, ip, v6) = (site.host(at), ip_for(&vip.to_string()), vip.is_ipv6());
    let what = if v6 { "neighbour discovery" } else { "ARP" };
    let way = host.way(&arriving(vip, card)).map_or_else(|_| "no route".to_string(), |way| way.words());
    let summary = format!("It answers {what} for {vip} at {card}, for which it only has a way: {way}.");
    let (fact, source, remedy) = match why {
        Proxy::Setting(key) => {
            let keys = ["all", card].map(|at| (Sysctls::name4(at, key), "0"));
            // `all` does not count for proxy_arp_pvlan.
            let keys = if key == "proxy_arp" { &keys[..] } else { &keys[1..] };
            let fact = if key == "proxy_arp" { host.behind(key, card) } else { format!("{}=1", keys[0].0) };
            (fact, "sysctl".to_string(), set(host, keys))
        }
        Proxy::Entry => {
            let remedy = Remedy::new(
                &host.name,
                format!("{ip} neigh del proxy {vip} dev {card}"),
                format!("no `ip neigh add proxy {vip}` in what starts the network, nor a rule of ndppd or parprouted for it"),
                format!("{ip} neigh add proxy {vip} dev {card}"),
            );
            (format!("{vip} dev {card} proxy"), format!("{ip} neigh show proxy"), remedy)
        }
    };
    let mut found = proven(host, Severity::Degraded, summary, fact, source)
        .and([Evidence::host(&host.name, way, format!("{ip} route get {vip} iif {card}"))])
        .mend([remedy]);
    // Whether the packets get to the director by that way, nobody knows.
    if leads_to_director(site, at, vip, card).is_none() {
        found.confidence = Confidence::Possible;
        found.settle = Some(format!("does that way lead to the director? `{ip} neigh show {vip}` there, after `ping -c1 {vip}`"));
    }
    found
}

fn arriving(vip: IpAddr, card: &str) -> Ask {
    Ask { iif: Some(card.to_string()), ..Ask::to(vip) }
}

/// Whether the way leads to a director of the address, by which the host stands between two halves of its network. `None` where that
/// cannot be told.
fn leads_to_director(site: &Site<'_>, at: usize, vip: IpAddr, card: &str) -> Option<bool> {
    let host = site.host(at);
    let Ok(way) = host.way(&arriving(vip, card)) else { return Some(false) };
    if way.hops.iter().any(|hop| hop.link.as_deref() == Some(card)) {
        return Some(false);
    }
    let directors: Vec<&Host> = site.directed().filter(|(_, service)| service.vip() == Some(vip)).map(|(director, _)| director).collect();
    let gateways = way.gateways();
    if !gateways.is_empty() {
        return Some(gateways.iter().any(|g| directors.iter().any(|d| d.address(*g).is_some())));
    }
    let known = host.neighbours.iter().flatten().find(|n| n.addr == vip && n.mac.is_some() && Some(n.link.as_str()) == way.link())?;
    Some(directors.iter().flat_map(|d| d.links()).any(|l| l.mac == known.mac))
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn a_router_that_answers_for_the_vip() {
        let on = |router: Sketch| router.set("net.ipv4.conf.int.proxy_arp", "1");
        let elsewhere = |router: Sketch| on(router).via("10.0.0.100/32", "10.9.0.9", "ext");
        let found = sketch::expect(&dr_with("router", elsewhere), &ARP010, Severity::Degraded, Confidence::Certain, "router");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.conf.int.proxy_arp=0");
        sketch::passes(&dr_with("router", on), &ARP010, "router");
        let off = |router: Sketch| router.via("10.0.0.100/32", "10.9.0.9", "ext");
        sketch::passes(&dr_with("router", off), &ARP010, "router");
        // An entry does the same for one address; without a way by another card it does nothing.
        let entry = |router: Sketch| {
            let proxies = vec![crate::host::Proxied { addr: "10.0.0.100".parse().unwrap(), link: Some("int".into()) }];
            router.with(|h| h.proxies = Some(proxies))
        };
        let both = |router: Sketch| entry(router).via("10.0.0.100/32", "10.9.0.9", "ext");
        let found = sketch::expect(&dr_with("router", both), &ARP010, Severity::Degraded, Confidence::Certain, "router");
        assert_eq!(found.remedy[0].command, "ip neigh del proxy 10.0.0.100 dev int");
        sketch::passes(&dr_with("router", entry), &ARP010, "router");
        let unread = |router: Sketch| off(router).with(|h| h.proxies = None);
        sketch::cannot_judge(&dr_with("router", unread), &ARP010, "router");
        // Between the halves of a private VLAN it answers for what is behind the same card.
        let pvlan = |router: Sketch| router.set("net.ipv4.conf.int.proxy_arp_pvlan", "1");
        let found = sketch::expect(&dr_with("router", pvlan), &ARP010, Severity::Degraded, Confidence::Certain, "router");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.conf.int.proxy_arp_pvlan=0");
        let still = |router: Sketch| elsewhere(router).set("net.ipv4.conf.int.forwarding", "0");
        sketch::passes(&dr_with("router", still), &ARP010, "router");
    }

    /// The only reason to answer for others in IPv6 is an entry, and it needs both settings.
    #[test]
    fn an_entry_for_the_vip_of_ipv6() {
        let vip = "2001:db8::100";
        let site = |forwarding: &str, all: &str, own: &str, entry: Option<&str>, via: Option<&str>| {
            let table = format!("-A -t [{vip}]:80 -s rr\n-a -t [{vip}]:80 -r [2001:db8::11]:80 -g\n");
            let director = Sketch::new("director").card("eth0", "2001:db8::10/64").addr("eth0", &format!("{vip}/128")).ipvs(&table);
            let mut router = Sketch::new("router").card("ext", "2001:db8:9::1/64").card("int", "2001:db8::1/64");
            for (key, value) in [("int.forwarding", forwarding), ("all.proxy_ndp", all), ("int.proxy_ndp", own)] {
                router = router.set(&format!("net.ipv6.conf.{key}"), value);
            }
            if let Some(gateway) = via {
                router = router.via(&format!("{vip}/128"), gateway, "ext");
            }
            let proxied = |addr: &str| crate::host::Proxied { addr: addr.parse().unwrap(), link: Some("int".into()) };
            [director, router.with(|h| h.proxies = Some(entry.into_iter().map(proxied).collect()))]
        };
        for (all, own) in [("1", "0"), ("0", "1")] {
            let found = sketch::expect(&site("1", all, own, Some(vip), None), &ARP010, Severity::Degraded, Confidence::Certain, "router");
            assert_eq!(found.remedy[0].command, format!("ip -6 neigh del proxy {vip} dev int"));
        }
        sketch::passes(&site("0", "1", "1", Some(vip), None), &ARP010, "router");
        sketch::passes(&site("1", "0", "0", Some(vip), None), &ARP010, "router");
        sketch::passes(&site("1", "1", "1", Some("2001:db8::101"), None), &ARP010, "router");
        // It stands between the halves of the network: packets go on to the director.
        sketch::passes(&site("1", "1", "1", Some(vip), Some("2001:db8::10")), &ARP010, "router");
        let [director, router] = site("1", "1", "1", None, None);
        sketch::cannot_judge(&[director, router.with(|h| h.proxies = None)], &ARP010, "router");
    }
}
