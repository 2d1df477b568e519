//! `wrr`, weighted round robin: passes over the list with falling demands on the weight. `net/netfilter/ipvs/ip_vs_wrr.c`.
//!
//! Pass 1 takes those with the greatest weight, each further pass lets in those with one step (the greatest common divisor of all
//! weights) less; the last demand is 1.

use super::{Change, Request, Scheduler, name};
use crate::director::pool::{DestId, Pool};

pub(super) struct WeightedRoundRobin {
    /// Chosen last; `None` is the head of the list.
    last: Option<DestId>,
    /// Weight demanded at present (`cw`).
    demand: i64,
    /// Demand of the first pass (`mw`).
    first: i64,
    /// What each pass lets go (`di`).
    step: i64,
}

impl WeightedRoundRobin {
    pub(super) fn new(pool: &Pool, list: &[DestId]) -> Self {
        let (first, step) = demands(pool, list);
        WeightedRoundRobin { last: None, demand: first, first, step }
    }
}

fn demands(pool: &Pool, list: &[DestId]) -> (i64, i64) {
    let weights = || list.iter().map(|id| pool[*id].weight()).filter(|w| *w > 0);
    let step = weights().fold(0, gcd).max(1);
    (weights().max().unwrap_or(0) - (step - 1), step)
}

pub(super) fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Scheduler for WeightedRoundRobin {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let list = request.list;
        if self.first <= 0 {
            request.say(|| "all weights are 0".to_string());
            return None;
        }
        let last = self.last.and_then(|last| list.iter().position(|id| *id == last));
        let mut next = last.map_or(0, |at| at + 1);
        let (mut last_pass, mut restarted, mut stop) = (false, false, None);
        loop {
            while next < list.len() {
                let (at, id) = (next, list[next]);
                next += 1;
                let dest = &request.pool[id];
                if !dest.overloaded && dest.weight() >= self.demand {
                    request.say(|| format!("{}: weight {} ≥ {} demanded in this pass", name(dest), dest.weight(), self.demand));
                    self.last = Some(id);
                    return Some(id);
                }
                if stop == Some(at) {
                    self.last = Some(id);
                    return None;
                }
            }
            next = 0;
            self.demand -= self.step;
            if self.demand <= 0 {
                self.demand = self.first;
                // Everyone was asked for a weight of 1 or more: either in a whole last pass, or in the only pass there is.
                if last_pass || last.is_none() {
                    self.last = None;
                    return None;
                }
                restarted = true;
            }
            last_pass = self.demand <= self.step;
            if last_pass && restarted && last.is_some() {
                // The first traversal asked only those behind the last one; now all up to it.
                stop = last;
            }
        }
    }

    fn changed(&mut self, pool: &Pool, list: &[DestId], _: Change) {
        self.last = None;
        (self.first, self.step) = demands(pool, list);
        if self.demand > self.first || self.demand == 0 {
            self.demand = self.first;
        } else if self.step > 1 {
            self.demand = self.demand / self.step * self.step + 1;
        }
    }
}
