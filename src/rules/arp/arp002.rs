//! A real server asks for its neighbours with the VIP as its own address.

use super::super::facts::{ids, plural};
use super::super::remedy::sysctl;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Leak, forget, leaks, words};
use crate::finding::{Confidence, Finding, Outcome};
use crate::trace::{ClaimKind, HostId};

rule! {
    /// # What it sees
    /// A real server asks `who has GATEWAY, tell VIP`. Whoever hears that learns that the VIP is at the real server's MAC, the router first of
    /// all: its next request goes there, past the director. No answer of the real server for the VIP is needed, and none is seen.
    ///
    /// # Why it breaks
    /// The real server answers clients from the VIP. When its neighbour cache has no gateway, Linux takes the source of the waiting packet as
    /// sender of its question, unless `arp_announce` says otherwise. `arp_ignore` has no part in this. So it begins some time after
    /// everything was tested, and comes back whenever the entry expires.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip neigh flush dev eth0`, one request, and `tcpdump -ni eth0 arp` there. `sysctl net.ipv4.conf.all.arp_announce
    /// net.ipv4.conf.eth0.arp_announce`: the larger of both counts; 1 does not suffice where the VIP is in the interface's own network.
    ///
    /// # Remedy
    /// `arp_announce=2` for `all` or the interface by which the question leaves. With arptables: the rule in OUTPUT that puts the real
    /// server's own address in the place of the VIP.
    ///
    /// # When it is not a fault
    /// A host may ask with an address that is its alone. A director may ask with the VIP (but see DR008).
    ///
    /// # Reproduce
    /// A DR service; on a real server `arp_ignore=1`, `arp_announce=0`, `ip neigh flush dev eth0`.
    ///
    /// # References
    /// kernel `net/ipv4/arp.c`, `arp_solicit` and `arp_process`; `Documentation/networking/ip-sysctl.rst`: arp_announce.
    ARP002 "vip-arp-announce-leak" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let hood = facts.neighbourhood();
    let answered = leaks(&hood, ClaimKind::Reply);
    let deaf: Vec<HostId> = super::arp005::deaf(&hood).into_iter().map(|d| d.host).collect();
    let mut found = Vec::new();
    for mut leak in leaks(&hood, ClaimKind::Sender) {
        // One story, one finding: who answers for the VIP as well lacks more than this, and who does not hear the answer lacks another thing.
        let told = |host: &HostId| answered.iter().any(|l| l.vip == leak.vip && l.servers.contains_key(host)) || deaf.contains(host);
        let rest: Vec<HostId> = leak.servers.keys().copied().filter(|host| !told(host)).collect();
        leak.servers.retain(|host, _| rest.contains(host));
        leak.past.retain(|f| f.request.last().and_then(|h| h.to).is_some_and(|to| rest.contains(&to)));
        found.extend(finding(facts, &leak));
    }
    let need = || "a capture on the servers' network with the real servers' ARP questions, or a snapshot of a real server".to_string();
    let asked = facts
        .trace
        .hosts
        .iter()
        .enumerate()
        .filter(|(h, _)| facts.is_real_server(*h))
        .any(|(_, host)| facts.trace.claims.claims.iter().any(|c| c.kind == ClaimKind::Sender && host.macs.contains(&c.mac)));
    Outcome::or_need(found, (!asked).then(need))
}

fn finding(facts: &Facts<'_>, leak: &Leak<'_>) -> Option<Finding> {
    let (vip, names) = (leak.vip, facts.names(leak.servers.keys().copied()));
    let mut proofs = leak.servers.values().filter_map(|claims| words(facts, claims));
    let first = proofs.next()?;
    let claims = leak.servers.values().flatten();
    let asked = claims.clone().find_map(|c| c.about).map_or_else(|| "its neighbours".to_string(), |a| a.to_string());
    let most: u64 = claims.map(|c| c.times.count).max().unwrap_or(1);
    let summary = format!(
        "{names} asked for {asked} with {vip} as sender, {}, and teaches its neighbours that {vip} is there{}.",
        plural(most as usize, "time"),
        leak.effect()
    );
    let past = leak.past.iter().filter_map(|f| f.request.last()).take(2).map(|h| facts.seen_with(h, &facts.to_whom(h)));
    let router = leak.past.first().and_then(|f| f.request.last()?.from);
    let owner = facts.claimants(vip).into_iter().filter(|c| !leak.servers.contains_key(&c.host)).find_map(|c| c.answers());
    let found = Finding::new(&names, leak.severity(), Confidence::Likely, summary, first)
        .and(proofs)
        .and(owner.map(|claim| facts.claim(claim)))
        .and(past)
        .unless(&["ARP003", "ARP004", "ARP005"], format!("on {names}: `sysctl -a -r 'arp_announce'`, `arptables-save`, or a snapshot"))
        .mend([
            sysctl(&names, &[("net.ipv4.conf.all.arp_announce", "2", "0")]),
            forget(router.map_or("the router", |r| facts.name(Some(r))), vip),
        ])
        .on(ids(&leak.past));
    Some(found)
}

/// On the host: settings and filters at each card.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::voice::look(site, checks, "ARP002");
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::super::arp001::ARP001;
    use super::*;
    use crate::finding::Severity;

    const VIP: &str = "10.2.0.100";

    fn world() -> World {
        let mut w = World::dr();
        w.who_has("router", "int", VIP, &["director"]);
        w
    }

    fn flow(w: &mut World, port: u16, there: &str) {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        let server = there.rsplit(' ').next().expect("a server");
        w.talk(&c, there, &format!("{server} router client"));
    }

    fn leaking() -> World {
        let mut w = world();
        flow(&mut w, 40001, "client router director web2");
        w.who_has_tell("web2", "int", "10.2.0.1", VIP.parse().expect("an address"), &["router"]);
        flow(&mut w, 40002, "client router web2");
        w
    }

    #[test]
    fn the_question_moves_the_vip() {
        let found = leaking().expect(&ARP002, Confidence::Likely, "web2");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[2][..]));
        assert!(found.summary.starts_with("web2 asked for 10.2.0.1 with 10.2.0.100 as sender"), "{}", found.summary);
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.conf.all.arp_announce=2");
        leaking().deny(&ARP001);
        // The router alone sees the request go to one MAC and the answer come from another.
        let found = leaking().without(&["web1", "web2", "director", "client"]).finding(&ARP002);
        assert_eq!(found.flows, [2]);
    }

    #[test]
    fn before_it_does_harm() {
        let mut w = world();
        flow(&mut w, 40001, "client router director web2");
        w.who_has_tell("web2", "int", "10.2.0.1", VIP.parse().expect("an address"), &["router"]);
        assert_eq!(w.expect(&ARP002, Confidence::Likely, "web2").severity, Severity::Risky);
    }

    #[test]
    fn one_that_answers_as_well_is_told_of_once() {
        let mut w = leaking();
        w.who_has("router", "int", VIP, &["web2", "director"]);
        w.deny(&ARP002);
        assert!(w.finding(&ARP001).alternatives.contains(&"ARP002"));
    }

    #[test]
    fn own_addresses_and_directors_may_ask() {
        let mut w = world();
        w.who_has("web2", "int", "10.2.0.1", &["router"]);
        flow(&mut w, 40001, "client router director web2");
        w.who_has_tell("director", "int", "10.2.0.12", VIP.parse().expect("an address"), &["web2"]);
        w.deny(&ARP002);
        w.healthy();
        // A server of its own address, beside the service.
        let mut w = world();
        flow(&mut w, 40001, "client router director web2");
        let own = World::tcp("10.1.0.100:41000", "10.2.0.11:22");
        w.who_has("web1", "int", "10.2.0.1", &["router"]);
        w.talk(&own, "client router web1", "web1 router client");
        w.deny(&ARP002);
        w.healthy();
    }
}
