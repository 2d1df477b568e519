//! After two masters became one again, the neighbours were not told which.

use super::super::facts::{ids, list, seconds};
use super::super::{Facts, rule};
use super::{Pair, pairs};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::trace::{Claim, ClaimKind, Flow};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// For a while two directors were master. One of them gave way, but the last announcement of the VIP was its own: the one that remained
    /// has not announced it since. The router goes on sending to the MAC of the one that gave way.
    ///
    /// # Why it breaks
    /// The winner was master all the time as far as it knows, so it sees no reason to announce anything. The loser announced the VIP when it
    /// became master, and everybody believed it.
    ///
    /// # Confirm it by hand
    /// On the router: `ip neigh show VIP`; compare with the master's MAC. In keepalived.conf: is `garp_master_refresh` set?
    ///
    /// # Remedy
    /// An announcement by the master now; `vrrp_garp_master_refresh 60` and `vrrp_garp_lower_prio_repeat 1` for the next time.
    ///
    /// # When it is not a fault
    /// When the winner announces the VIP after the loser's last word, or the router asks again.
    ///
    /// # Reproduce
    /// Two directors with keepalived; drop protocol 112 on the backup for ten seconds.
    ///
    /// # References
    /// keepalived.conf(5); keepalived issues 166 and 1528.
    HA002 "no-garp-after-recovery" check
}

/// A pair of which one gave way after having spoken last.
pub(super) struct Lost<'a, 'p> {
    pub(super) pair: &'p Pair<'a>,
    vip: IpAddr,
    /// The loser's last announcement.
    last: &'a Claim,
    /// Flows that still go to the loser.
    astray: Vec<&'a Flow>,
}

/// Pairs in which the loser has the last word.
pub(super) fn lost<'a, 'p>(facts: &Facts<'a>, pairs: &'p [Pair<'a>]) -> Vec<Lost<'a, 'p>> {
    let mut found = Vec::new();
    for pair in pairs.iter().filter(|p| !p.goes_on()) {
        let [loser, winner] = &pair.masters;
        let (Some(lost), Some(won)) = (loser.host, winner.host) else { continue };
        if lost == won {
            continue;
        }
        for &vip in &pair.addresses {
            let (lost, won) = (&facts.trace.hosts[lost].macs, &facts.trace.hosts[won].macs);
            let claims = |macs: &'a [crate::net::MacAddr]| {
                let about = move |c: &&Claim| c.addr == vip && c.point == pair.point && c.is_earnest() && macs.contains(&c.mac);
                facts.trace.claims.claims.iter().filter(about)
            };
            let announced = claims(lost).filter(|c| c.kind == ClaimKind::Announcement).max_by_key(|c| c.times.last.1);
            let Some(last) = announced.filter(|last| claims(won).all(|c| c.times.last.1 < last.times.last.1)) else { continue };
            let after = |f: &&Flow| {
                f.request.hops.iter().any(|h| {
                    let late = facts.trace.common_time(h.point, h.time) > facts.trace.common_time(pair.point, loser.until);
                    late && h.dst.addr == vip && h.dst_mac.is_some_and(|mac| lost.contains(&mac))
                })
            };
            found.push(Lost { pair, vip, last, astray: facts.flows().filter(after).collect() });
        }
    }
    found
}

fn check(facts: &Facts<'_>) -> Outcome {
    let pairs = pairs(facts);
    let found: Vec<Finding> = lost(facts, &pairs).iter().map(|lost| finding(facts, lost)).collect();
    let heard = !facts.trace.claims.advertisers.is_empty();
    Outcome::or_need(found, (!heard).then(|| "a capture on the directors' network with VRRP (protocol 112) and ARP".to_string()))
}

fn finding(facts: &Facts<'_>, lost: &Lost<'_, '_>) -> Finding {
    let ([loser, winner], vip) = (&lost.pair.masters, lost.vip);
    let (loses, wins) = (loser.name(facts), winner.name(facts));
    let astray = &lost.astray;
    let failed = astray.iter().any(|f| !f.state.is_complete());
    let severity = match (astray.is_empty(), failed) {
        (true, _) => Severity::Risky,
        (false, false) => Severity::Degraded,
        (false, true) => Severity::Broken,
    };
    let confidence = if failed { Confidence::Likely } else { Confidence::Possible };
    let effect = if astray.is_empty() { String::new() } else { format!(" Requests still go to {loses}.") };
    let summary = format!(
        "{loses} gave way to {wins} after {} with two masters, but announced {vip} last; {wins} has not since.{effect}",
        seconds(lost.pair.overlap)
    );
    let frames = winner.adverts.iter().flat_map(|a| a.times.frames()).take(32).collect();
    let adverts = crate::finding::Evidence::frames(lost.pair.point, frames, format!("{} is master", winner.addr));
    let device = winner.host.and_then(|h| facts.trace.hosts[h].points.first()).map_or("IF", |p| facts.device(*p));
    let announce = match vip {
        IpAddr::V4(_) => format!("arping -U -c 3 -I {device} {vip}"),
        IpAddr::V6(_) => "systemctl reload keepalived".to_string(),
    };
    let hop = astray.first().and_then(|f| f.request.hops.iter().find(|h| h.dst_mac.is_some() && h.dst_mac == loser.mac));
    let names = list(&[wins.as_str(), loses.as_str()]);
    Finding::new(vip.to_string(), severity, confidence, summary, facts.claim(lost.last))
        .and([adverts])
        .and(hop.map(|h| facts.seen_with(h, &facts.to_whom(h))))
        .unless(&["HA001", "ARP007"], format!("on {names}: `ip addr show to {vip}`; on the router: `ip neigh show {vip}`"))
        .mend([Remedy::new(wins, announce, "`vrrp_garp_master_refresh 60` in global_defs of keepalived.conf", "nothing to undo")])
        .on(ids(astray))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::super::ha001::HA001;
    use super::*;

    const VIP: &str = "10.2.0.100";

    /// Two masters for five seconds; then the weaker one hears of the stronger one and stops.
    fn world(garp: bool) -> World {
        let mut w = World::dr().plug("lb2.eth0", "int", "10.2.0.3");
        w.who_has("client", "ext", "10.1.0.1", &["router"]);
        w.who_has("router", "int", VIP, &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        for n in 0..14 {
            w.vrrp("director", "int", 51, 150, VIP);
            if (3..8).contains(&n) {
                w.vrrp("lb2", "int", 51, 100, VIP);
            }
            if n == 3 {
                w.announce("lb2", "int", VIP);
            }
            if n == 9 && garp {
                w.announce("director", "int", VIP);
            }
            w.wait(1.0);
        }
        w
    }

    #[test]
    fn the_loser_has_the_last_word() {
        let mut w = world(false);
        let c = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router lb2", 3);
        w.vrrp("director", "int", 51, 150, VIP);
        let found = w.expect(&HA002, Confidence::Likely, VIP);
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Broken, &[2][..]));
        assert!(found.remedy[0].command.starts_with("arping -U"));
        w.deny(&HA001);
    }

    #[test]
    fn the_winner_announces_itself() {
        let mut w = world(true);
        let c = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w.deny(&HA002);
    }
}
