//! Nobody answers ARP for the VIP: the director is deaf to it.

use super::super::facts::{ids, plural};
use super::super::remedy::sysctl;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Vain, in_vain};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Severity};
use crate::host::Host;
use crate::ipvs::Role;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// The router (or a client on the same network) asks who has the VIP, again and again. The question arrives at the director, which is
    /// alive and does not answer. No request ever reaches it; after three questions the asker may send ICMP host unreachable.
    ///
    /// # Why it breaks
    /// The VIP is not on the director at all, or on `lo` or a dummy device of a director with `arp_ignore=1`: the script for real servers was
    /// run on the director, too. With `arp_ignore=1` only addresses of the interface at which the question arrives are answered for.
    ///
    /// # Confirm it by hand
    /// On the director: `ip addr show to VIP` must name the interface towards the asker; `sysctl net.ipv4.conf.all.arp_ignore`;
    /// `arptables-save`.
    ///
    /// # Remedy
    /// The VIP on that interface, and `arp_ignore=0` on the director.
    ///
    /// # When it is not a fault
    /// When the VIP is announced by routing (BGP, OSPF) and nobody needs to ask for it. When the director is down (ARP011).
    ///
    /// # Reproduce
    /// A healthy service; on the director `sysctl -w net.ipv4.conf.all.arp_ignore=1` and the VIP on `lo` instead of `eth0`.
    ///
    /// # References
    /// kernel `Documentation/networking/ip-sysctl.rst`: arp_ignore; Kubernetes issues 72779 and 107662.
    ARP006 "director-does-not-answer-arp" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let hood = facts.neighbourhood();
    let found = in_vain(&hood).iter().filter(|v| v.code(&hood) == "ARP006").map(|vain| finding(&hood, vain)).collect();
    let services = facts.service_addresses();
    let asked = facts.trace.claims.questions.iter().any(|q| q.target.is_ipv4() && services.contains(&q.target));
    let need = || "a capture of the question for the VIP and its answer, on the director or on its neighbour".to_string();
    Outcome::or_need(found, (!asked && facts.vips().iter().any(|v| v.is_ipv4())).then(need))
}

fn finding(hood: &super::Neighbourhood<'_>, vain: &Vain<'_>) -> Finding {
    let facts = &hood.facts;
    let (asker, target) = (facts.name(Some(vain.asker)), vain.question.target);
    let director = vain.heard.filter(|(host, _)| hood.standing(*host, target) == Role::Director);
    let name = director.map_or("the director", |(host, _)| facts.name(Some(host)));
    let times = plural(vain.question.times.count as usize, "time");
    // Of an address that no request waits for, only the rules or other flows could say that it is a service's.
    let wanted = vain.is_service || !vain.flows.is_empty();
    let confidence = if director.is_some() && wanted { Confidence::Likely } else { Confidence::Possible };
    let summary = match director {
        Some(_) => format!("{asker} asked {times} who has {target}; {name} hears it, and nobody answers."),
        None => format!("{asker} asked {times} who has {target}; nobody answers."),
    };
    // Somebody else than the client may have chosen the address.
    let translated = vain.flows.iter().any(|f| f.service.addr != target);
    let mut open = vec!["SVC001", "ARP011", "HA003", "ARP005"];
    if translated {
        open.insert(0, "NET002");
    }
    let heard = director.map(|(_, q)| {
        let what = format!("the question for {target} arrives at {name}, which does not answer");
        Evidence::Frames { point: q.point, frames: q.times.frames(), time: Some(q.times.since()), what }
    });
    Finding::new(name, Severity::Broken, confidence, summary, facts.question(vain.question))
        .and(heard)
        .and(vain.errors(facts))
        .unless(&open, format!("on {name}: is it up, `ip addr show to {target}`, `sysctl net.ipv4.conf.all.arp_ignore`"))
        .mend([sysctl(name, &[("net.ipv4.conf.all.arp_ignore", "0", "1")]), {
            let device = director.map_or("IF", |(_, q)| facts.device(q.point));
            crate::finding::Remedy::new(
                name,
                format!("ip addr add {target}/32 dev {device}"),
                "the VIP in the interface's configuration, or in `virtual_ipaddress` of keepalived.conf with that `dev`",
                format!("ip addr del {target}/32 dev {device}"),
            )
        }])
        .on(ids(&vain.flows))
}

/// The card that has an address, or a device of which nobody knows whether it is one.
fn card_of(host: &Host, addr: IpAddr) -> Option<&str> {
    let on_card = |a: &&crate::host::Address| a.addr.addr() == addr && host.link(&a.link).is_none_or(crate::host::Link::speaks_arp);
    host.addresses.iter().flatten().find(on_card).map(|a| a.link.as_str())
}

/// On the director: its VIP is beside its cards, and they keep silent about such addresses.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let Some(address) = service.vip().filter(IpAddr::is_ipv4).and_then(|vip| host.address(vip)) else { continue };
        let vip = address.addr.addr();
        // On a card and on lo, too: then the card answers for its own.
        if let Some(card) = card_of(host, vip) {
            checks.passed(&host.name, format!("{vip} is on {card}"));
            continue;
        }
        // Of two nodes that balance and serve, the one that waits keeps silent, as a real server has to.
        let peers = site.directed().filter(|(_, s)| s.vip() == Some(vip)).map(|(peer, _)| peer);
        if let Some(peer) = peers.into_iter().find(|peer| peer.name != host.name && card_of(peer, vip).is_some()) {
            checks.passed(&host.name, format!("{} answers for {vip}", peer.name));
            continue;
        }
        let cards = host.links().iter().filter(|l| l.speaks_arp() && l.is_up() && l.master.is_none());
        let levels: Option<Vec<(&str, i64)>> = cards.map(|l| Some((l.name.as_str(), host.effective("arp_ignore", &l.name)?))).collect();
        // A node of Kubernetes: others announce the address, or route to it.
        if host.link(&address.link).is_some_and(super::super::k8s::holds_services) {
            checks.passed(&host.name, format!("{vip} is kube-proxy's"));
            continue;
        }
        match levels {
            None => checks.needs(&host.name, "net.ipv4.conf.*.arp_ignore"),
            Some(levels) if levels.iter().any(|(_, level)| matches!(level, 0 | 3..=7)) => {
                checks.passed(&host.name, format!("ARP for {vip} is answered"))
            }
            Some(levels) => {
                let (card, level) = levels.first().copied().unwrap_or(("IF", 1));
                let summary = format!(
                    "{vip} is on {}, and arp_ignore is {level} on {card}: nobody answers ARP for it, and no request comes.",
                    address.link
                );
                let remedy = crate::finding::Remedy::new(
                    &host.name,
                    format!("ip addr add {vip}/32 dev {card}"),
                    "the address on that interface, by keepalived or in the network's configuration; arp_ignore=1 is for real servers alone",
                    format!("ip addr del {vip}/32 dev {card}"),
                );
                let fact = host.behind("arp_ignore", card);
                checks.failed(&host.name, proven(host, Severity::Broken, summary, fact, "sysctl").mend([remedy]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::super::super::testing::World;
    use super::super::arp011::ARP011;
    use super::*;

    fn asked(mut w: World, host: &str, segment: &str, target: &str, answers: &[&str]) -> World {
        for _ in 0..3 {
            w.who_has(host, segment, target, answers);
            w.wait(1.0);
        }
        w
    }

    #[test]
    fn the_director_hears_the_router_and_is_silent() {
        let mut w = World::dr();
        w.who_has("client", "ext", "10.1.0.1", &["router"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router", 1);
        let mut w = asked(w, "router", "int", "10.2.0.100", &[]);
        w.syn(&c, "client router", 2);
        let found = w.expect(&ARP006, Confidence::Likely, "director");
        assert_eq!(found.flows, [1]);
        // The router chose this address; or it is right, and the director does not have it.
        assert!(["NET002", "SVC001"].iter().all(|code| found.alternatives.contains(code)));
        w.deny(&ARP011);
        // Nobody looked at the director: it may as well be down.
        let w = w.without(&["director", "web1", "web2"]);
        w.deny(&ARP006);
        assert!(w.finding(&ARP011).alternatives.contains(&"ARP006"));
    }

    #[test]
    fn the_client_itself_asks_and_no_connection_begins() {
        let w = asked(World::nat(), "client", "ext", "10.1.0.200", &[]);
        w.expect(&ARP006, Confidence::Possible, "director");
        let rules = "-A -t 10.1.0.200:80 -s rr\n-a -t 10.1.0.200:80 -r 10.2.0.11:80 -m -w 1\n";
        w.ipvs(rules).expect(&ARP006, Confidence::Likely, "director");
    }

    #[test]
    fn an_answer_and_an_idle_question_are_right() {
        let mut w = asked(World::dr(), "router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        // Somebody looks for a machine that is off.
        let w = asked(w, "router", "int", "10.2.0.77", &[]);
        w.deny(&ARP006);
        w.healthy();
    }

    /// Of two nodes the one that waits is as silent as a real server has to be.
    #[test]
    fn a_node_that_waits_keeps_silent() {
        let rules = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g\n-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g\n";
        let node = |name: &str, own: &str, device: &str| {
            let node = Sketch::new(name).card("eth0", own).addr(device, "10.0.0.100/32").via("default", "10.0.0.1", "eth0").ipvs(rules);
            let quiet = if device == "lo" { "1" } else { "0" };
            node.set("net.ipv4.conf.all.arp_ignore", quiet).set("net.ipv4.conf.eth0.arp_ignore", "0")
        };
        let waiting = node("lb2", "10.0.0.12/24", "lo");
        sketch::passes(&[node("lb1", "10.0.0.11/24", "eth0"), waiting.clone()], &ARP006, "lb2");
        // Where the other one keeps silent too, nobody answers.
        sketch::expect(std::slice::from_ref(&waiting), &ARP006, Severity::Broken, Confidence::Certain, "lb2");
        let both = [node("lb1", "10.0.0.11/24", "lo"), waiting];
        sketch::expect(&both, &ARP006, Severity::Broken, Confidence::Certain, "lb1, lb2");
    }
}
