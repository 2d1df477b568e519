//! `nq`, never queue: the first that is idle, else the shortest expected delay. `net/netfilter/ipvs/ip_vs_nq.c`.

use super::{Request, Scheduler, name, shorter, state};
use crate::director::pool::DestId;

pub(super) struct NeverQueue;

impl Scheduler for NeverQueue {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let mut least: Option<(DestId, (i64, i64))> = None;
        for (id, dest) in request.each() {
            request.say(|| format!("{}: ({} + 1)/{}{}", name(dest), dest.active, dest.weight(), state(dest)));
            if dest.overloaded || dest.weight() == 0 {
                continue;
            }
            if dest.active == 0 {
                request.say(|| format!("{} is idle", name(dest)));
                return Some(id);
            }
            let delay = (i64::from(dest.active) + 1, dest.weight());
            if least.is_none_or(|(_, other)| shorter(delay, other)) {
                least = Some((id, delay));
            }
        }
        let (id, (load, weight)) = least?;
        request.say(|| format!("nobody is idle; least is {load}/{weight}: {}", name(&request.pool[id])));
        Some(id)
    }
}
