//! `ovf`, overflow: the greatest weight among those with no more active connections than weight. `net/netfilter/ipvs/ip_vs_ovf.c`.

use super::{Request, Scheduler, name, state};
use crate::director::pool::DestId;

pub(super) struct Overflow;

impl Scheduler for Overflow {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let mut greatest: Option<(DestId, i64)> = None;
        for (id, dest) in request.each() {
            let full = i64::from(dest.active) > dest.weight();
            request.say(|| {
                let full = if full { " (full)" } else { "" };
                format!("{}: {} active, weight {}{full}{}", name(dest), dest.active, dest.weight(), state(dest))
            });
            if dest.overloaded || full || dest.weight() == 0 {
                continue;
            }
            if greatest.is_none_or(|(_, weight)| dest.weight() > weight) {
                greatest = Some((id, dest.weight()));
            }
        }
        let (id, weight) = greatest?;
        request.say(|| format!("greatest weight with room is {weight}: {}", name(&request.pool[id])));
        Some(id)
    }
}
