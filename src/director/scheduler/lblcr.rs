//! `lblcr`, locality-based least connection with replication: a dialled address has a set of real servers, which grows under load and
//! shrinks with time. `net/netfilter/ipvs/ip_vs_lblcr.c`.

use super::cache::{Cache, EXPIRATION};
use super::lblc::too_busy;
use super::{Request, Scheduler, least_loaded, name};
use crate::director::pool::{Dest, DestId};
use crate::net::Timestamp;

#[derive(Default)]
pub(super) struct LocalityReplication {
    cache: Cache<Set>,
}

/// The real servers of one dialled address, newest first.
struct Set {
    members: Vec<DestId>,
    changed: Timestamp,
}

impl Set {
    fn insert(&mut self, id: DestId, now: Timestamp) {
        if !self.members.contains(&id) {
            self.members.insert(0, id);
            self.changed = now;
        }
    }

    /// The most loaded member (`ip_vs_dest_set_max`); overloads and removals do not count.
    fn most_loaded(&self, request: &Request<'_>) -> Option<DestId> {
        let mut most: Option<(DestId, &Dest)> = None;
        for id in &self.members {
            let dest = &request.pool[*id];
            let more = |than: &Dest| than.overhead() * dest.weight() < dest.overhead() * than.weight();
            if dest.weight() > 0 && most.is_none_or(|(_, than)| more(than)) {
                most = Some((*id, dest));
            }
        }
        most.map(|(id, _)| id)
    }
}

impl Scheduler for LocalityReplication {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let addr = request.dialled.addr;
        let Some(set) = self.cache.get(addr, request.kernel, request.now) else {
            let id = least_loaded(request, request.each())?;
            self.cache.put(addr, request.kernel, request.now, Set { members: vec![id], changed: request.now });
            return Some(id);
        };
        request.say(|| format!("{addr} is remembered for {} real servers", set.members.len()));
        let pool = request.pool;
        let least = least_loaded(request, set.members.iter().map(|id| (*id, &pool[*id])).filter(|(_, dest)| dest.available));
        if set.members.len() > 1
            && request.now - set.changed > EXPIRATION
            && let Some(most) = set.most_loaded(request)
        {
            set.members.retain(|id| *id != most);
            set.changed = request.now;
        }
        if let Some(id) = least.filter(|id| !too_busy(request, *id)) {
            return Some(id);
        }
        let id = least_loaded(request, request.each())?;
        request.say(|| format!("the set is removed, quiesced or too busy: {} joins it", name(&pool[id])));
        set.insert(id, request.now);
        Some(id)
    }
}
