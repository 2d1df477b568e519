//! `fo`, weighted fail over: the greatest weight takes all. `net/netfilter/ipvs/ip_vs_fo.c`.

use super::{Request, Scheduler, name, state};
use crate::director::pool::DestId;

pub(super) struct FailOver;

impl Scheduler for FailOver {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let mut greatest: Option<(DestId, i64)> = None;
        for (id, dest) in request.each() {
            request.say(|| format!("{}: weight {}{}", name(dest), dest.weight(), state(dest)));
            if !dest.overloaded && dest.weight() > greatest.map_or(0, |(_, weight)| weight) {
                greatest = Some((id, dest.weight()));
            }
        }
        let (id, weight) = greatest?;
        request.say(|| format!("greatest weight is {weight}: {}", name(&request.pool[id])));
        Some(id)
    }
}
