//! Failover: which director has the VIP.

pub(super) mod ha001;
pub(super) mod ha002;
pub(super) mod ha003;
pub(super) mod ha004;
pub(super) mod ha006;
mod orphan;

pub(super) use orphan::{Orphan, orphans};

use super::Facts;
use super::facts::Neighbourhood;
use crate::net::{MacAddr, Timestamp};
use crate::trace::{Advertiser, HostId};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Such an overlap is more than one master that hears of another and steps back.
const TOO_LONG: i64 = 3_000_000_000;

/// Advertisements come at least so often, unless somebody wants it otherwise.
const PAUSE: i64 = 10_000_000_000;

/// A master of a virtual router, as heard at one capture point.
pub(super) struct Master<'a> {
    /// Its own address: of two masters the only thing that must differ.
    addr: IpAddr,
    mac: Option<MacAddr>,
    host: Option<HostId>,
    /// Advertisements at this point.
    adverts: Vec<&'a Advertiser>,
    since: Timestamp,
    until: Timestamp,
    count: u64,
}

impl Master<'_> {
    /// What it calls itself in a report.
    fn name(&self, facts: &Facts<'_>) -> String {
        match self.host.filter(|h| facts.trace.hosts[*h].named) {
            Some(host) => facts.name(Some(host)).to_string(),
            None => self.addr.to_string(),
        }
    }

    fn priority(&self) -> u8 {
        self.adverts.iter().map(|a| a.vrrp.priority).max().unwrap_or(0)
    }

    fn backs(&self, addr: IpAddr) -> bool {
        self.adverts.iter().any(|a| a.vrrp.addresses.contains(&addr))
    }
}

/// Two that were master of one virtual router at the same time, as one capture point heard them.
pub(super) struct Pair<'a> {
    vrid: u8,
    point: u32,
    pub(super) addresses: Vec<IpAddr>,
    /// The one that went on longer comes last.
    masters: [Master<'a>; 2],
    /// How long both spoke.
    overlap: i64,
}

impl Pair<'_> {
    /// How long the last one went on alone.
    fn alone(&self) -> i64 {
        self.masters[1].until - self.masters[0].until
    }

    /// Both still spoke when the capture ended.
    fn goes_on(&self) -> bool {
        self.alone() < TOO_LONG
    }
}

/// How long two masters spoke in turn. At a handover the word passes once, and once more when the first one comes back.
fn overlap(a: &Master<'_>, b: &Master<'_>) -> i64 {
    let times = |m: &Master<'_>, who: bool| -> Vec<(Timestamp, bool)> {
        m.adverts.iter().flat_map(|a| a.times.first.iter().map(move |(_, t)| (*t, who))).collect()
    };
    let mut words = times(a, false);
    words.extend(times(b, true));
    words.sort_unstable();
    let changes: Vec<Timestamp> = words.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| pair[1].0).collect();
    let mut longest = 0;
    let mut from = 0;
    for at in 1..changes.len() {
        if changes[at] - changes[at - 1] > PAUSE {
            from = at;
        }
        if at - from >= 5 {
            longest = longest.max(changes[at] - changes[from]);
        }
    }
    longest
}

/// Masters by virtual router and capture point, those that spoke at once together.
pub(super) fn pairs<'a>(facts: &Facts<'a>) -> Vec<Pair<'a>> {
    let mut heard: BTreeMap<(u32, u8, bool), BTreeMap<IpAddr, Master>> = BTreeMap::new();
    for advertiser in facts.trace.claims.advertisers.iter().filter(|a| a.vrrp.priority > 0) {
        let router = (advertiser.point, advertiser.vrrp.vrid, advertiser.addr.is_ipv4());
        let (since, until) = (advertiser.times.since(), advertiser.times.last.1);
        let master = heard.entry(router).or_default().entry(advertiser.addr).or_insert_with(|| Master {
            addr: advertiser.addr,
            mac: advertiser.mac,
            host: facts.speaker(advertiser),
            adverts: Vec::new(),
            since,
            until,
            count: 0,
        });
        master.adverts.push(advertiser);
        master.count += advertiser.times.count;
        (master.since, master.until) = (master.since.min(since), master.until.max(until));
    }
    let mut pairs: Vec<Pair> = Vec::new();
    for ((point, vrid, _), masters) in heard {
        let mut masters: Vec<Master> = masters.into_values().collect();
        masters.sort_by_key(|m| (m.until, m.addr));
        // The two that spoke last are the ones that matter now.
        let (Some(last), Some(before)) = (masters.pop(), masters.pop()) else { continue };
        let overlap = overlap(&before, &last);
        let shared = |a: &IpAddr| before.backs(*a) && last.backs(*a);
        let mut addresses: Vec<IpAddr> = last.adverts.iter().flat_map(|a| &a.vrrp.addresses).copied().filter(shared).collect();
        addresses.sort_unstable();
        addresses.dedup();
        // Two routers that were given one number by mistake share no address.
        let known = |m: &Master| m.adverts.iter().any(|a| !a.vrrp.addresses.is_empty());
        let foreign = addresses.is_empty() && known(&before) && known(&last);
        if overlap >= TOO_LONG && before.count >= 3 && last.count >= 3 && !foreign {
            pairs.push(Pair { vrid, point, addresses, masters: [before, last], overlap });
        }
    }
    // One story, however many points heard it; the one that heard most tells it.
    pairs.sort_by_key(|p| (p.vrid, std::cmp::Reverse(p.masters[0].count + p.masters[1].count)));
    pairs.dedup_by(|b, a| a.vrid == b.vrid && a.masters.iter().all(|m| b.masters.iter().any(|n| n.addr == m.addr)));
    pairs
}
