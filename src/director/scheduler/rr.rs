//! `rr`, round robin: the next one of the list. `net/netfilter/ipvs/ip_vs_rr.c`.

use super::{Change, Request, Scheduler, name, state};
use crate::director::pool::{DestId, Pool};

/// Remembers who was chosen last; `None` is the head of the list.
#[derive(Default)]
pub(super) struct RoundRobin {
    last: Option<DestId>,
}

impl Scheduler for RoundRobin {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let list = request.list;
        let after = self.last.and_then(|last| list.iter().position(|id| *id == last)).map_or(0, |at| at + 1);
        // From the one after the last on, once around, the last itself at the end.
        for at in 0..list.len() {
            let id = list[(after + at) % list.len()];
            let dest = &request.pool[id];
            if !dest.overloaded && dest.weight() > 0 {
                request.say(|| match self.last {
                    Some(last) => format!("next after {}: {}", name(&request.pool[last]), name(dest)),
                    None => format!("first of the list: {}", name(dest)),
                });
                self.last = Some(id);
                return Some(id);
            }
            request.say(|| format!("{} is passed over{}", name(dest), state(dest)));
        }
        None
    }

    /// The cursor steps back to the one before, so that nobody is skipped.
    fn changed(&mut self, _: &Pool, list: &[DestId], change: Change) {
        if let Change::Removed(id, at) = change
            && self.last == Some(id)
        {
            self.last = at.checked_sub(1).and_then(|before| list.get(before)).copied();
        }
    }
}
