//! `lblc`, locality-based least connection: a dialled address keeps its real server while that is not too busy.
//! `net/netfilter/ipvs/ip_vs_lblc.c`.

use super::cache::Cache;
use super::{Request, Scheduler, least_loaded, name};
use crate::director::pool::DestId;

#[derive(Default)]
pub(super) struct LocalityLeastConnection {
    cache: Cache<DestId>,
}

/// More active connections than its weight, while somebody has less than half of theirs (`is_overloaded`).
pub(super) fn too_busy(request: &Request<'_>, id: DestId) -> bool {
    let dest = &request.pool[id];
    i64::from(dest.active) > dest.weight() && request.each().any(|(_, other)| i64::from(other.active) * 2 < other.weight())
}

impl Scheduler for LocalityLeastConnection {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let addr = request.dialled.addr;
        if let Some(id) = self.cache.get(addr, request.kernel, request.now).copied() {
            let dest = &request.pool[id];
            // An overload by threshold does not count here.
            if dest.available && dest.weight() > 0 && !too_busy(request, id) {
                request.say(|| format!("{addr} is remembered for {} ({} active, weight {})", name(dest), dest.active, dest.weight()));
                return Some(id);
            }
            request.say(|| format!("{addr} is remembered for {}, which is removed, quiesced or too busy", name(dest)));
        }
        let id = least_loaded(request, request.each())?;
        self.cache.put(addr, request.kernel, request.now, id);
        Some(id)
    }
}
