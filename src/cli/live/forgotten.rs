//! What became of connections that were forgotten so that memory stays bounded: counted, not kept.

use crate::net::{Endpoint, Protocol};
use crate::report::Outcome;
use crate::trace::{Spent, Trace};
use std::collections::BTreeMap;

/// Connections that are in no table any more.
#[derive(Default)]
pub(in crate::cli) struct Forgotten {
    services: BTreeMap<(Protocol, Endpoint), BTreeMap<Outcome, u64>>,
}

impl Forgotten {
    /// Counts those that are forgotten now.
    pub(super) fn count(&mut self, trace: &Trace, spent: &Spent) {
        // Flows of one group came to the same end.
        let mut groups: BTreeMap<usize, (u32, u64)> = BTreeMap::new();
        for id in &spent.flows {
            if let Some(group) = trace.group_of(*id) {
                groups.entry(group).or_insert((*id, 0)).1 += 1;
            }
        }
        for (example, count) in groups.into_values() {
            let Some(flow) = trace.flow(example) else { continue };
            let service = self.services.entry((flow.protocol, flow.service)).or_default();
            *service.entry(Outcome::of(&flow)).or_default() += count;
        }
    }

    /// How many.
    pub(in crate::cli) fn total(&self) -> u64 {
        self.services.values().flat_map(BTreeMap::values).sum()
    }

    /// How many of them failed.
    pub(in crate::cli) fn failed(&self) -> u64 {
        self.services.values().flatten().filter(|(outcome, _)| outcome.failed()).map(|(_, count)| count).sum()
    }
}
