//! `lc`, least connection: the fewest connections, whatever the weight (but 0). `net/netfilter/ipvs/ip_vs_lc.c`.

use super::{Request, Scheduler, name, state};
use crate::director::pool::DestId;

pub(super) struct LeastConnection;

impl Scheduler for LeastConnection {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let mut least: Option<(DestId, i64)> = None;
        for (id, dest) in request.each() {
            let load = dest.overhead();
            request.say(|| format!("{}: {}·256 + {} = {load}{}", name(dest), dest.active, dest.inactive, state(dest)));
            if !dest.overloaded && dest.weight() != 0 && least.is_none_or(|(_, other)| load < other) {
                least = Some((id, load));
            }
        }
        let (id, load) = least?;
        request.say(|| format!("least is {load}: {}", name(&request.pool[id])));
        Some(id)
    }
}
