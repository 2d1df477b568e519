//! `sed`, shortest expected delay: the least `(active + 1) / weight`. `net/netfilter/ipvs/ip_vs_sed.c`.

use super::{Request, Scheduler, name, shorter, state};
use crate::director::pool::DestId;

pub(super) struct ShortestExpectedDelay;

impl Scheduler for ShortestExpectedDelay {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let mut least: Option<(DestId, (i64, i64))> = None;
        for (id, dest) in request.each() {
            let delay = (i64::from(dest.active) + 1, dest.weight());
            request.say(|| format!("{}: ({} + 1)/{}{}", name(dest), dest.active, dest.weight(), state(dest)));
            if dest.overloaded {
                continue;
            }
            match least {
                None if dest.weight() > 0 => least = Some((id, delay)),
                Some((_, other)) if shorter(delay, other) => least = Some((id, delay)),
                _ => {}
            }
        }
        let (id, (load, weight)) = least?;
        request.say(|| format!("least is {load}/{weight}: {}", name(&request.pool[id])));
        Some(id)
    }
}
