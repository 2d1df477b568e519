//! Which MACs a forwarder has: a packet came for one of them, and went on from another.

use super::{Sampled, Topology};
use crate::net::MacAddr;
use crate::trace::store::{Spot, Store};
use hashbrown::HashMap;
use std::cmp::Reverse;

impl Topology {
    /// A packet that came for one MAC and went on from another, one hop later. True when that showed anything new.
    pub(super) fn unite_forwarders(&mut self, store: &Store, sample: &[Sampled]) -> bool {
        let mut pairs: HashMap<(MacAddr, MacAddr), u32> = HashMap::new();
        for Sampled { request, reply, .. } in sample {
            for spots in [request, reply] {
                for (came, went) in self.handovers(store, spots) {
                    *pairs.entry((came, went)).or_insert(0) += 1;
                }
            }
        }
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_by_key(|(macs, count)| (Reverse(*count), *macs));
        pairs.into_iter().fold(false, |any, ((came, went), _)| self.machines.unite(came, went) || any)
    }

    /// In one direction of one flow: the MAC that a packet came for, and the one it went on from. Only where one link alone has a TTL can
    /// it be told who is next to whom.
    fn handovers(&self, store: &Store, spots: &[Spot]) -> Vec<(MacAddr, MacAddr)> {
        let first = spots.iter().map(|s| s.first).min();
        let mut links: Vec<(u8, (MacAddr, MacAddr))> = Vec::with_capacity(spots.len());
        for spot in spots.iter().filter(|s| Some(s.first) == first) {
            let wire = store.wire(spot.wire);
            if let (Some(src), Some(dst)) = (wire.src, wire.dst)
                && src.is_unicast()
                && dst.is_unicast()
                && !self.is_bystander(wire)
            {
                let link = (spot.ttl, (src, dst));
                if !links.contains(&link) {
                    links.push(link);
                }
            }
        }
        links.sort_by_key(|(ttl, _)| Reverse(*ttl));
        let mut handovers = Vec::new();
        let mut before: Option<(u8, MacAddr)> = None;
        for level in links.chunk_by(|a, b| a.0 == b.0) {
            let ttl = level[0].0;
            // A director that leaves the TTL alone makes two links with one TTL; the one that goes on from the host before comes first.
            let (into, out_of) = match *level {
                [(_, only)] => (only, only),
                [(_, a), (_, b)] => match before.filter(|(t, _)| t.wrapping_sub(ttl) == 1) {
                    Some((_, mac)) if self.machines.same(a.0, mac) => (a, b),
                    Some((_, mac)) if self.machines.same(b.0, mac) => (b, a),
                    _ => {
                        before = None;
                        continue;
                    }
                },
                _ => {
                    before = None;
                    continue;
                }
            };
            if let Some((_, came)) = before.filter(|(t, _)| t.wrapping_sub(ttl) == 1) {
                handovers.push((came, into.0));
            }
            if into != out_of {
                handovers.push((into.1, out_of.0));
            }
            before = Some((ttl, out_of.1));
        }
        handovers.retain(|(came, went)| came != went);
        handovers
    }
}
