//! `mh`, Maglev hashing: as `sh`, but few clients move when the list changes. `net/netfilter/ipvs/ip_vs_mh.c`.
//!
//! Each real server has its own order of preference for the places of a table (start and stride from two hashes of its address), and they
//! take turns, as many at a time as the weight says. The same list gives the same table on every director.

use super::wrr::gcd;
use super::{Change, Request, Scheduler, hash, name, state};
use crate::director::pool::{Dest, DestId, Pool};
use crate::net::Endpoint;

/// `CONFIG_IP_VS_MH_TAB_INDEX` 12: the prime below 2^12.
const SIZE: u32 = 4093;
const TAB_BITS: u32 = 6;
const KEY_1: u64 = 2_654_435_761;
const KEY_2: u64 = 2_654_446_892;

#[derive(Default)]
pub(super) struct MaglevHash {
    table: Vec<Option<DestId>>,
}

fn usable(dest: &Dest) -> bool {
    dest.weight() > 0 && !dest.overloaded
}

/// `ip_vs_mh_hashkey`.
fn key(of: Endpoint, key: u64, offset: u32) -> u32 {
    hash::hsiphash(offset.wrapping_add(u32::from(of.port)).wrapping_add(hash::fold(of.addr)), key)
}

impl Scheduler for MaglevHash {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        let client = Endpoint::new(request.client.addr, if request.flags.port { request.client.port } else { 0 });
        let first = key(client, KEY_1, 0) % SIZE;
        let id = (*self.table.get(first as usize)?)?;
        let dest = &request.pool[id];
        request.say(|| {
            let of = if request.flags.port { client.to_string() } else { client.addr.to_string() };
            format!("{of} falls into place {first} of {SIZE}: {}{}", name(dest), state(dest))
        });
        if usable(dest) {
            return Some(id);
        }
        if !request.flags.fallback {
            return None;
        }
        for offset in 0..SIZE {
            let next = key(client, KEY_1, (offset + first) % SIZE) % SIZE;
            let id = (*self.table.get(next as usize)?)?;
            if usable(&request.pool[id]) {
                request.say(|| format!("mh-fallback goes on to place {next}: {}", name(&request.pool[id])));
                return Some(id);
            }
        }
        None
    }

    /// The last weight that was not 0 counts: whoever is quiesced keeps its places, so that nobody else's clients move.
    fn changed(&mut self, pool: &Pool, list: &[DestId], _: Change) {
        let weights = || list.iter().map(|id| i64::from(pool[*id].last_weight)).filter(|w| *w > 0);
        let divisor = weights().fold(0, gcd);
        if divisor < 1 || list.len() > SIZE as usize {
            if divisor < 1 {
                self.table = vec![None; SIZE as usize];
            }
            return;
        }
        let greatest = weights().max().unwrap_or(0) / divisor;
        let shift = (64 - greatest.leading_zeros()).saturating_sub(TAB_BITS);
        struct Setup {
            id: DestId,
            at: u32,
            stride: u32,
            turns: i64,
        }
        let mut setups: Vec<Setup> = Vec::new();
        for id in list {
            let dest = &pool[*id];
            let weight = i64::from(dest.last_weight);
            let turns = match (weight / divisor) >> shift {
                0 => i64::from(weight != 0),
                turns => turns,
            };
            if turns > 0 {
                let (at, stride) = (key(dest.endpoint(), KEY_1, 0) % SIZE, key(dest.endpoint(), KEY_2, 0) % (SIZE - 1) + 1);
                setups.push(Setup { id: *id, at, stride, turns });
            }
        }
        self.table = vec![None; SIZE as usize];
        let mut taken = 0;
        'full: while !setups.is_empty() {
            for setup in &mut setups {
                for _ in 0..setup.turns {
                    // The stride is prime to the size: a free place is found while there is one.
                    while self.table[setup.at as usize].is_some() {
                        setup.at = (setup.at + setup.stride) % SIZE;
                    }
                    self.table[setup.at as usize] = Some(setup.id);
                    taken += 1;
                    if taken == SIZE {
                        break 'full;
                    }
                }
            }
        }
    }
}
