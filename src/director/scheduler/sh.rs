//! `sh`, source hashing: the client's address decides, and with `sh-port` its port. `net/netfilter/ipvs/ip_vs_sh.c`.

use super::{Change, Request, Scheduler, hash, name, state};
use crate::director::pool::{Dest, DestId, Pool};

/// `CONFIG_IP_VS_SH_TAB_BITS`.
const BITS: u32 = 8;
const SIZE: u32 = 1 << BITS;

/// 256 buckets, filled with the real servers in turn, each as often as its weight says (weight 0 still takes one).
#[derive(Default)]
pub(super) struct SourceHash {
    buckets: Vec<DestId>,
}

fn usable(dest: &Dest) -> bool {
    dest.weight() > 0 && !dest.overloaded
}

/// `ip_vs_sh_hashkey`.
fn bucket(request: &Request<'_>, offset: u32) -> u32 {
    let port = if request.flags.port { u32::from(request.client.port) } else { 0 };
    let value = port.wrapping_add(hash::fold(request.client.addr));
    offset.wrapping_add(hash::bucket(value, BITS, request.kernel)) & (SIZE - 1)
}

impl Scheduler for SourceHash {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let first = bucket(request, 0);
        let id = *self.buckets.get(first as usize)?;
        let dest = &request.pool[id];
        request.say(|| {
            let of = if request.flags.port { request.client.to_string() } else { request.client.addr.to_string() };
            format!("{of} falls into bucket {first} of 256: {}{}", name(dest), state(dest))
        });
        if usable(dest) {
            return Some(id);
        }
        if !request.flags.fallback {
            return None;
        }
        for offset in 0..SIZE {
            let next = bucket(request, (offset + first) % SIZE);
            let id = *self.buckets.get(next as usize)?;
            if usable(&request.pool[id]) {
                request.say(|| format!("sh-fallback goes on to bucket {next}: {}", name(&request.pool[id])));
                return Some(id);
            }
        }
        None
    }

    fn changed(&mut self, pool: &Pool, list: &[DestId], _: Change) {
        self.buckets.clear();
        let mut in_turn = list.iter().cycle();
        while let (true, Some(id)) = (self.buckets.len() < SIZE as usize, in_turn.next()) {
            let times = pool[*id].weight().clamp(1, i64::from(SIZE)) as usize;
            self.buckets.extend(std::iter::repeat_n(*id, times));
        }
        self.buckets.truncate(SIZE as usize);
    }
}
