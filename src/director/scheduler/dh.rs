//! `dh`, destination hashing: the dialled address decides, weights do not count. `net/netfilter/ipvs/ip_vs_dh.c`.

use super::{Change, Request, Scheduler, hash, name, state};
use crate::director::pool::{DestId, Pool};

/// `CONFIG_IP_VS_DH_TAB_BITS`.
const BITS: u32 = 8;

/// 256 buckets, filled with the real servers in turn.
#[derive(Default)]
pub(super) struct DestinationHash {
    buckets: Vec<DestId>,
}

impl Scheduler for DestinationHash {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let bucket = hash::bucket(hash::fold(request.dialled.addr), BITS, request.kernel);
        let id = *self.buckets.get(bucket as usize)?;
        let dest = &request.pool[id];
        request.say(|| format!("{} falls into bucket {bucket} of 256: {}{}", request.dialled.addr, name(dest), state(dest)));
        (dest.available && dest.weight() > 0 && !dest.overloaded).then_some(id)
    }

    fn changed(&mut self, _: &Pool, list: &[DestId], _: Change) {
        self.buckets = list.iter().copied().cycle().take(if list.is_empty() { 0 } else { 1 << BITS }).collect();
    }
}
