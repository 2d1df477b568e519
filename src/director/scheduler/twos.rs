//! `twos`, power of two choices: of two drawn by weight, the less loaded. `net/netfilter/ipvs/ip_vs_twos.c`.

use super::{Request, Scheduler, name};
use crate::director::pool::DestId;

pub(super) struct PowerOfTwo;

impl Scheduler for PowerOfTwo {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let usable = || request.each().filter(|(_, dest)| !dest.overloaded && dest.weight() > 0);
        let total: i64 = usable().map(|(_, dest)| dest.weight()).sum();
        if total == 0 {
            return None;
        }
        let draw = || i64::from(request.random.borrow_mut().next_u32()) % (total + 1);
        let (mut one, mut two) = (draw(), draw());
        request.say(|| format!("drawn {one} and {two} of 0 … {total}"));
        let (mut first, mut second) = (None, None);
        for (id, dest) in usable() {
            one -= dest.weight();
            two -= dest.weight();
            if one <= 0 && first.is_none() {
                first = Some((id, dest.overhead(), dest.weight()));
            }
            if two <= 0 && second.is_none() {
                second = Some((id, dest.overhead(), dest.weight()));
            }
        }
        let (first, second) = (first?, second?);
        let better = second.2 * first.1 > first.2 * second.1;
        let chosen = if better { second.0 } else { first.0 };
        request.say(|| {
            let of = |(id, load, weight): (DestId, i64, i64)| format!("{} {load}/{weight}", name(&request.pool[id]));
            format!("{} or {}: {}", of(first), of(second), name(&request.pool[chosen]))
        });
        Some(chosen)
    }
}
