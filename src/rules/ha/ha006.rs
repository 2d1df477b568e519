//! Several directors are at work at once, and the router changes its mind about which one a connection goes to.

use super::super::facts::{ids, plural};
use super::super::remedy::look;
use super::super::{Facts, rule};
use super::orphan::{Orphan, goes_on, is_takeover, orphans};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::trace::{Flow, HostId};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// Two directors hand on connections of one service at the same time. The later packets of some connections come to the other one,
    /// which resets them itself.
    ///
    /// # Why it breaks
    /// A router that spreads flows over several directors (ECMP, anycast) chooses anew when their number changes, or when it hashes
    /// something that differs between packets. The director that is chosen then has no entry for the connection.
    ///
    /// # Confirm it by hand
    /// On the router: `ip route show VIP` (several next hops), `sysctl net.ipv4.fib_multipath_hash_policy`; on the directors `ipvsadm -Lnc`.
    ///
    /// # Remedy
    /// The scheduler `mh` with the same table on all directors and `net.ipv4.vs.sloppy_tcp=1`: whichever is chosen hands the connection to the
    /// same server. On the router a hash of the 5-tuple (`fib_multipath_hash_policy=1`), and resilient next-hop groups.
    ///
    /// # When it is not a fault
    /// When one director took over for good: then connections are lost once (HA004).
    ///
    /// # Reproduce
    /// Two directors, a route with two next hops on the router; take one next hop away while connections are open.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_mh.c`; `Documentation/networking/ip-sysctl.rst`: fib_multipath_hash_policy; RFC 2992.
    HA006 "ecmp-directors-rehash" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut stories: BTreeMap<(HostId, HostId), Vec<Orphan>> = BTreeMap::new();
    for orphan in orphans(facts) {
        if let Some(before) = orphan.before.filter(|_| is_takeover(facts, &orphan) && goes_on(facts, &orphan).is_some()) {
            stories.entry((before, orphan.by)).or_default().push(orphan);
        }
    }
    stories.values().map(|orphans| finding(facts, orphans)).collect::<Vec<_>>().into()
}

fn finding(facts: &Facts<'_>, orphans: &[Orphan<'_>]) -> Finding {
    let orphan = &orphans[0];
    let flows: Vec<&Flow> = orphans.iter().map(|o| o.flow).collect();
    let (by, before) = (facts.name(Some(orphan.by)), facts.name(orphan.before));
    let from = orphan.asked.and_then(|hop| hop.from).map_or("the router", |host| facts.name(Some(host)));
    let summary = format!(
        "{from} sends {} on to {by} that {before} had begun, while both are at work: {by} has no entry for them and resets them.",
        plural(flows.len(), "connection")
    );
    let handed = orphan.before.and_then(|host| orphan.flow.request.sent_by(host)).or(orphan.flow.request.last());
    let what = format!("RST from {by} itself, TTL {}", orphan.reset.ttl);
    Finding::new(format!("{before}, {by}"), Severity::Degraded, Confidence::Likely, summary, facts.noted(orphan.reset, &what))
        .and(handed.map(|hop| facts.seen_with(hop, &format!("before; {}", facts.to_whom(hop)))))
        .and(orphan.asked.map(|hop| facts.seen_with(hop, &facts.to_whom(hop))))
        .and(goes_on(facts, orphan).map(|hop| facts.seen_with(hop, &format!("{before} goes on handing on"))))
        .unless(
            &["HA001", "HA004"],
            format!("on {from}: `ip route show {}`, `ip neigh show {}`", orphan.reset.src.addr, orphan.reset.src.addr),
        )
        .mend([look(
            from,
            format!("ip route show {}", orphan.reset.src.addr),
            "then `mh` and sloppy_tcp=1 on all directors, or one director at a time",
        )])
        .on(ids(&flows))
}
