//! The table of `lblc` and `lblcr`: what is remembered for each dialled address, and when it is forgotten.
//! `ip_vs_lblc_check_expire` and `ip_vs_lblc_full_check` in `net/netfilter/ipvs/ip_vs_lblc.c`.

use super::hash;
use crate::director::settings::Kernel;
use crate::net::Timestamp;
use std::net::IpAddr;

/// `CONFIG_IP_VS_LBLC_TAB_BITS`.
const BITS: u32 = 10;
const SIZE: usize = 1 << BITS;
/// More entries than this are too many.
const MAX_ENTRIES: usize = SIZE * 16;
const SECOND: i64 = 1_000_000_000;
/// `CHECK_EXPIRE_INTERVAL`.
const SWEEP: i64 = 60 * SECOND;
/// `ENTRY_TIMEOUT`: an entry of a full table goes after this much idleness.
const IDLE: i64 = 6 * 60 * SECOND;
/// `lblc_expiration`, `lblcr_expiration`.
pub(super) const EXPIRATION: i64 = 24 * 60 * 60 * SECOND;
/// Each so many sweeps all that is older than the expiration goes.
const FULL_CHECK: u32 = 30;

pub(super) struct Entry<T> {
    addr: IpAddr,
    last_use: Timestamp,
    pub(super) value: T,
}

pub(super) struct Cache<T> {
    buckets: Vec<Vec<Entry<T>>>,
    entries: usize,
    rover: usize,
    counter: u32,
    next_sweep: Option<Timestamp>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Cache { buckets: (0..SIZE).map(|_| Vec::new()).collect(), entries: 0, rover: 0, counter: 1, next_sweep: None }
    }
}

fn place(addr: IpAddr, kernel: Kernel) -> usize {
    hash::bucket(hash::fold(addr), BITS, kernel) as usize
}

impl<T> Cache<T> {
    /// What is remembered for `addr`, which is used now.
    pub(super) fn get(&mut self, addr: IpAddr, kernel: Kernel, now: Timestamp) -> Option<&mut T> {
        self.sweep(now);
        let entry = self.buckets[place(addr, kernel)].iter_mut().find(|e| e.addr == addr)?;
        entry.last_use = now;
        Some(&mut entry.value)
    }

    /// Remembers, in place of what was remembered before.
    pub(super) fn put(&mut self, addr: IpAddr, kernel: Kernel, now: Timestamp, value: T) {
        let bucket = &mut self.buckets[place(addr, kernel)];
        let before = bucket.len();
        bucket.retain(|e| e.addr != addr);
        bucket.insert(0, Entry { addr, last_use: now, value });
        self.entries = self.entries + bucket.len() - before;
    }

    fn sweep(&mut self, now: Timestamp) {
        let next = *self.next_sweep.get_or_insert(now + SWEEP);
        let mut at = next;
        // After a long silence the sweeps that were missed would find the same.
        let missed = ((now - next) / SWEEP + 1).clamp(0, i64::from(FULL_CHECK) + 1);
        for _ in 0..missed {
            self.sweep_once(at.max(now + -SWEEP * i64::from(FULL_CHECK)));
            at = at + SWEEP;
        }
        if now >= next {
            self.next_sweep = Some(now + (SWEEP - (now - next) % SWEEP));
        }
    }

    fn sweep_once(&mut self, now: Timestamp) {
        if self.counter.is_multiple_of(FULL_CHECK) {
            self.forget(now, EXPIRATION, usize::MAX);
            self.counter = 1;
        } else if self.entries <= MAX_ENTRIES {
            self.counter += 1;
        } else {
            let goal = ((self.entries - MAX_ENTRIES) * 4 / 3).min(MAX_ENTRIES / 2);
            self.forget(now, IDLE, goal);
        }
    }

    /// Forgets what was idle for `idle`, bucket by bucket from where the last sweep stopped, until `goal` entries are gone.
    fn forget(&mut self, now: Timestamp, idle: i64, goal: usize) {
        let mut gone = 0;
        let mut at = self.rover;
        for _ in 0..SIZE {
            at = (at + 1) % SIZE;
            let before = self.buckets[at].len();
            self.buckets[at].retain(|e| now - e.last_use < idle);
            gone += before - self.buckets[at].len();
            if gone >= goal {
                break;
            }
        }
        self.entries -= gone;
        self.rover = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_day_of_idleness_is_forgotten_and_less_is_not() {
        let kernel = Kernel::default();
        let mut cache = Cache::default();
        let addr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let begin = Timestamp::new(1_000_000, 0);
        assert!(cache.get(addr, kernel, begin).is_none());
        cache.put(addr, kernel, begin, 1);
        assert_eq!(cache.get(addr, kernel, begin + (EXPIRATION - SECOND)), Some(&mut 1));
        assert_eq!(cache.get(addr, kernel, begin + (2 * EXPIRATION + 3600 * SECOND)), None);
        assert_eq!(cache.entries, 0);
    }

    #[test]
    fn a_full_table_forgets_after_minutes() {
        let kernel = Kernel::default();
        let mut cache = Cache::default();
        let begin = Timestamp::new(1_000_000, 0);
        let other = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1));
        cache.get(other, kernel, begin);
        for n in 0..=MAX_ENTRIES as u32 + 100 {
            cache.put(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)), kernel, begin, n);
        }
        cache.get(other, kernel, begin + 5 * 60 * SECOND);
        assert_eq!(cache.entries, MAX_ENTRIES + 101, "nobody was idle for six minutes");
        cache.get(other, kernel, begin + 8 * 60 * SECOND);
        assert!(cache.entries <= MAX_ENTRIES, "{}", cache.entries);
    }
}
