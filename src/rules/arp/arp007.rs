//! A neighbour still sends to the host that had the address before.

use super::super::facts::{ids, seconds};
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::forget;
use crate::finding::{Confidence, Evidence, Finding, Outcome, Remedy, Severity};
use crate::host::Member;
use crate::ipvs::Role;
use crate::net::Timestamp;
use crate::trace::{Claim, Flow, Hop, HostId};
use std::collections::BTreeMap;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// Another host has taken an address over: it announces it, answers for it, or is master of it by VRRP. Seconds later a neighbour still
    /// sends to the MAC of the one before, which does not claim the address any more; those connections fail, and the new one is idle.
    ///
    /// # Why it breaks
    /// The neighbour's cache entry outlives the change. Linux checks an entry after half a minute or so, and corrects it only if the old
    /// owner stays silent; other routers keep entries for a quarter of an hour to four hours. A permanent entry is never checked.
    ///
    /// # Confirm it by hand
    /// On the neighbour: `ip neigh show VIP`; compare with the MAC of the host that has it now.
    ///
    /// # Remedy
    /// An announcement by the new owner: `arping -U -I IF VIP`; keepalived's `garp_master_delay`, `garp_master_repeat` and
    /// `garp_master_refresh`. Or on the neighbour: `ip neigh flush to VIP`.
    ///
    /// # When it is not a fault
    /// Packets that were on their way when the address moved. Two hosts that both claim it (HA001), a real server that leaks (ARP001).
    ///
    /// # Reproduce
    /// Move the VIP to another director without an announcement; on the router a permanent neighbour entry for it.
    ///
    /// # References
    /// kernel `net/core/neighbour.c`; `Documentation/networking/ip-sysctl.rst`: base_reachable_time_ms; keepalived.conf(5).
    ARP007 "router-stale-arp" check hosts
}

/// What is on its way when an address moves has arrived by then.
const GRACE: i64 = 2_000_000_000;

/// Who took an address over, when, and from whom.
struct Takeover<'a> {
    by: HostId,
    since: Timestamp,
    proof: Evidence,
    /// The former owner's last word, if it was heard.
    before: Option<&'a Claim>,
    heard_at: Vec<u32>,
}

/// A takeover, the flows that missed it, and where the first of them was seen.
type Story<'a> = (Takeover<'a>, Vec<&'a Flow>, &'a Hop);

fn check(facts: &Facts<'_>) -> Outcome {
    let hood = facts.neighbourhood();
    let pairs = super::super::ha::pairs(facts);
    let told: Vec<IpAddr> = pairs.iter().flat_map(|p| p.addresses.iter().copied()).collect();
    let mut stale: BTreeMap<(IpAddr, HostId, Option<HostId>), Story> = BTreeMap::new();
    for flow in facts.flows().filter(|f| !f.state.is_complete() && f.director.is_none()) {
        let Some(hop) = flow.request.last() else { continue };
        let (addr, Some(to)) = (hop.dst.addr, hop.to) else { continue };
        if told.contains(&addr) || flow.reply.hops.iter().any(|h| h.first != crate::trace::PacketKind::Reset) {
            continue;
        }
        let Some(takeover) = takeover(&hood, addr, to, hop) else { continue };
        // Who asked meanwhile has no old entry, or had it confirmed.
        let asked = facts
            .trace
            .claims
            .questions
            .iter()
            .any(|q| q.target == addr && Some(q.mac) == hop.src_mac && facts.last_asked(q) >= takeover.since);
        if !asked {
            stale.entry((addr, to, hop.from)).or_insert_with(|| (takeover, Vec::new(), hop)).1.push(flow);
        }
    }
    let found: Vec<Finding> = stale.into_iter().map(|((addr, to, _), story)| finding(facts, addr, to, story)).collect();
    let heard = !facts.trace.claims.claims.is_empty() || !facts.trace.claims.advertisers.is_empty();
    Outcome::or_need(
        found,
        (!heard).then(|| "a capture of ARP or VRRP on the directors' network, or the router's neighbour table".to_string()),
    )
}

/// The takeover of an address from a host to which a packet for it went all the same.
fn takeover<'a>(hood: &super::Neighbourhood<'a>, addr: IpAddr, from: HostId, hop: &Hop) -> Option<Takeover<'a>> {
    let facts = hood.facts;
    let sent = facts.trace.common_time(hop.point, hop.time);
    let old = facts.claimants(addr).into_iter().find(|c| c.host == from);
    let before = old.and_then(|c| c.answers());
    let last_of_old = before.map(|c| facts.trace.common_time(c.point, c.times.last.1));
    let mut found: Option<Takeover> = None;
    for new in facts.claimants(addr).into_iter().filter(|c| c.host != from && hood.standing(c.host, addr) != Role::RealServer) {
        let Some(claim) = new.answers().filter(|c| c.mac.vrid().is_none()) else { continue };
        let since = facts.trace.common_time(claim.point, claim.times.since());
        let heard_at = new.claims.iter().map(|c| c.point).collect();
        found = found.or(Some(Takeover { by: new.host, since, proof: facts.claim(claim), before, heard_at }));
    }
    for master in facts.trace.claims.advertisers.iter().filter(|a| a.vrrp.priority > 0 && a.vrrp.addresses.contains(&addr)) {
        let Some(by) = facts.speaker(master).filter(|by| *by != from && master.mac.is_some_and(|m| m.vrid().is_none())) else { continue };
        let since = facts.trace.common_time(master.point, master.times.since());
        let what = format!("{} is master of {addr} with priority {}", master.addr, master.vrrp.priority);
        let proof = Evidence::Frames { point: master.point, frames: master.times.frames(), time: Some(master.times.since()), what };
        found = found.or(Some(Takeover { by, since, proof, before, heard_at: vec![master.point] }));
    }
    let found = found?;
    // The former owner must be known as such, must have spoken before, and must be silent since.
    let was = before.is_some() || hood.standing(from, addr) == Role::Director || masters(&facts, from, addr);
    let silent = last_of_old.is_none_or(|last| last < found.since) && !speaks_since(&facts, from, addr, found.since);
    (was && silent && sent - found.since >= GRACE).then_some(found)
}

/// True when a host advertised an address by VRRP.
fn masters(facts: &Facts<'_>, host: HostId, addr: IpAddr) -> bool {
    facts.trace.claims.advertisers.iter().any(|a| facts.speaker(a) == Some(host) && a.vrrp.addresses.contains(&addr))
}

/// True when a host advertised an address after some time.
fn speaks_since(facts: &Facts<'_>, host: HostId, addr: IpAddr, since: Timestamp) -> bool {
    facts.trace.claims.advertisers.iter().any(|a| {
        let late = facts.trace.common_time(a.point, a.times.last.1) > since;
        a.vrrp.priority > 0 && late && facts.speaker(a) == Some(host) && a.vrrp.addresses.contains(&addr)
    })
}

fn finding(facts: &Facts<'_>, addr: IpAddr, to: HostId, (takeover, flows, hop): Story<'_>) -> Finding {
    let sender = hop.from.map_or("the router", |h| facts.name(Some(h)));
    let (old, new) = (facts.name(Some(to)), facts.name(Some(takeover.by)));
    let late = facts.trace.common_time(hop.point, hop.time) - takeover.since;
    let summary = format!("{sender} still sends packets for {addr} to {old}, {} after {new} took it over.", seconds(late));
    // Where the neighbour itself was captured, it may be seen to have heard, and not listened.
    let heard = hop.from.is_some_and(|h| takeover.heard_at.iter().any(|p| facts.trace.host_at(*p) == Some(h)));
    let alternatives: &[&'static str] = if heard { &["ARP009", "DR009", "HA001"] } else { &["DR009", "HA001", "ARP009"] };
    let device = facts.trace.hosts[takeover.by].points.first().map_or("IF", |p| facts.device(*p));
    let announce = match addr {
        IpAddr::V4(_) => format!("arping -U -c 3 -I {device} {addr}"),
        IpAddr::V6(_) => "systemctl reload keepalived".to_string(),
    };
    Finding::new(sender, Severity::Broken, Confidence::Likely, summary, facts.seen_with(hop, &facts.to_whom(hop)))
        .and([takeover.proof])
        .and(takeover.before.map(|claim| facts.claim(claim)))
        .unless(
            alternatives,
            format!("on {sender}: `ip neigh show {addr}` (STALE, REACHABLE, PERMANENT?), and `ip addr show to {addr}` on {old}"),
        )
        .mend([
            forget(sender, addr),
            Remedy::new(new, announce, "`vrrp_garp_master_refresh 60` in global_defs of keepalived.conf", "nothing to undo"),
        ])
        .on(ids(&flows))
}

/// On a router: what it remembers for a VIP is no card of the director.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for served in &site.fleet.services {
        let (Some(director), Some(vip)) = (served.director, served.service.vip()) else { continue };
        let owners: Vec<usize> = site.fleet.owners(vip);
        let macs: Vec<crate::net::MacAddr> =
            owners.iter().chain([&director]).flat_map(|at| site.host(*at).links()).filter_map(|l| l.mac).collect();
        for member in site.fleet.members.iter().filter(|m| !matches!(m.role, Role::Director)) {
            let host = &member.host;
            let Some(entry) = host.neighbours.iter().flatten().find(|n| n.addr == vip && n.mac.is_some()) else { continue };
            let Some(mac) = entry.mac else { continue };
            if macs.contains(&mac) || macs.is_empty() || mac.vrid().is_some() {
                checks.passed(&host.name, format!("{vip} is at {mac}"));
                continue;
            }
            // The card of a real server (ARP001), or of another host that has the address and answers for it (K8S001, HA001): that has its
            // own page.
            let answers = |m: &&Member| m.role == Role::RealServer || m.host.address(vip).is_some();
            if site.fleet.by_mac(&[mac]).map(|at| &site.fleet.members[at]).filter(answers).is_some() {
                continue;
            }
            let director = site.host(director).name.as_str();
            let summary =
                format!("It remembers {vip} at {mac}, which is no card of {director}: requests go to nobody, or to the wrong host.");
            let ip = super::super::remedy::ip_for(&vip.to_string());
            let remedy = crate::finding::Remedy::new(
                &host.name,
                format!("{ip} neigh flush to {vip} nud all"),
                "an announcement by each new master: keepalived's vrrp_garp_master_refresh, `arping -U`; no static entry here",
                format!("{ip} neigh replace {vip} lladdr {mac} dev {}", entry.link),
            );
            let fact = format!("{vip} dev {} lladdr {mac} {}", entry.link, entry.state);
            checks.failed(&host.name, proven(host, Severity::Broken, summary, fact, format!("{ip} neigh show {vip}")).mend([remedy]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::super::super::testing::World;
    use super::*;
    use crate::host::Neighbour;

    const VIP: &str = "10.2.0.100";

    fn world() -> World {
        let mut w = World::dr().plug("lb2.eth0", "int", "10.2.0.3");
        w.who_has("client", "ext", "10.1.0.1", &["router"]);
        w.who_has("router", "int", VIP, &["director"]);
        flow(&mut w, 40001, "director");
        w
    }

    fn conn(port: u16) -> super::super::super::testing::Conn {
        World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80")
    }

    fn flow(w: &mut World, port: u16, director: &str) {
        w.talk(&conn(port), &format!("client router {director} web1"), "web1 router client");
    }

    /// By whose card a router remembers the address at.
    #[test]
    fn what_a_router_remembers() {
        let spare = |device: &str, addr: &str| {
            let dummy =
                crate::host::Link { name: "dummy0".into(), hardware: "ether".into(), flags: vec!["NOARP".into()], ..Default::default() };
            Sketch::new("spare").card("eth0", "10.0.0.20/24").device(dummy).addr(device, addr)
        };
        let site = |of: &str, spare: Sketch| {
            let mut hosts: Vec<Sketch> = sketch::dr().into_iter().chain([spare]).collect();
            let mut mac = None;
            let at = hosts.iter().position(|h| h.is(of)).expect("a host");
            hosts[at] = hosts[at].clone().with(|h| mac = h.links().iter().find_map(|l| l.mac));
            let entry = Neighbour { addr: "10.0.0.100".parse().unwrap(), link: "int".into(), mac, state: "STALE".into() };
            hosts[0] = hosts[0].clone().with(|h| h.neighbours.get_or_insert_default().push(entry));
            hosts
        };
        sketch::passes(&site("director", spare("eth0", "10.0.0.30/32")), &ARP007, "router");
        let stale = site("spare", spare("eth0", "10.0.0.30/32"));
        let found = sketch::expect(&stale, &ARP007, Severity::Broken, Confidence::Certain, "router");
        assert_eq!(found.remedy[0].command, "ip neigh flush to 10.0.0.100 nud all");
        // Who has it as well answered for it: the entry is right as long as that one does.
        assert!(sketch::all(&site("spare", spare("dummy0", "10.0.0.100/32")), &ARP007).is_empty());
        assert!(sketch::all(&site("web1", spare("eth0", "10.0.0.30/32")), &ARP007).is_empty());
    }

    #[test]
    fn the_router_sends_to_the_old_master() {
        let mut w = world();
        w.wait(2.0);
        w.announce("lb2", "int", VIP);
        w.wait(5.0);
        w.syn(&conn(40002), "client router director", 3);
        let found = w.expect(&ARP007, Confidence::Likely, "router");
        assert_eq!(found.flows, [2]);
        assert_eq!(found.remedy[0].command, "ip neigh flush to 10.2.0.100");
        assert!(found.alternatives.contains(&"ARP009"));
    }

    #[test]
    fn a_master_that_nobody_heard_announce() {
        let mut w = world();
        for _ in 0..3 {
            w.vrrp("director", "int", 51, 150, VIP);
            w.wait(1.0);
        }
        w.wait(3.0);
        for _ in 0..5 {
            w.vrrp("lb2", "int", 51, 100, VIP);
            w.wait(1.0);
        }
        w.syn(&conn(40002), "client router director", 3);
        w.expect(&ARP007, Confidence::Likely, "router");
    }

    #[test]
    fn the_new_master_gets_the_requests() {
        let mut w = world();
        w.wait(2.0);
        w.announce("lb2", "int", VIP);
        w.wait(0.1);
        // One was on its way.
        w.syn(&conn(40002), "client router director", 1);
        w.wait(2.0);
        flow(&mut w, 40003, "lb2");
        w.deny(&ARP007);
    }

    #[test]
    fn an_entry_that_is_checked_again() {
        let mut w = world();
        for _ in 0..3 {
            w.wait(40.0);
            w.who_has("router", "int", VIP, &["director"]);
        }
        w.syn(&conn(40002), "client router director", 3);
        w.deny(&ARP007);
    }
}
