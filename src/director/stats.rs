//! Counters of traffic, and rates as the kernel estimates them (`net/netfilter/ipvs/ip_vs_est.c`).

use crate::net::Timestamp;

/// Counters of a real server, a service, or the whole director (`struct ip_vs_counters`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients (NAT only: the others' answers go past the director).
    pub out_packets: u64,
    /// Bytes of IP packets from clients.
    pub in_bytes: u64,
    /// Bytes of IP packets to clients.
    pub out_bytes: u64,
}

/// The same per second.
pub type Rates = Counters;

/// Counters with their estimated rates.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Since the beginning, or since they were zeroed.
    pub counters: Counters,
    last: Counters,
    /// Scaled by 2^10 for connections and packets, 2^5 for bytes, as in the kernel.
    scaled: [u64; 5],
}

/// The kernel looks every 2 seconds.
const PERIOD: i64 = 2_000_000_000;

impl Stats {
    pub(super) fn scheduled(&mut self) {
        self.counters.conns += 1;
    }

    pub(super) fn incoming(&mut self, bytes: usize) {
        self.counters.in_packets += 1;
        self.counters.in_bytes += bytes as u64;
    }

    pub(super) fn outgoing(&mut self, bytes: usize) {
        self.counters.out_packets += 1;
        self.counters.out_bytes += bytes as u64;
    }

    /// Two seconds have passed: `avgrate = avgrate*(1-W) + rate*W` with W = 1/4.
    fn tick(&mut self) {
        let (now, last) = (self.counters, self.last);
        let grown = [
            (now.conns - last.conns) << 9,
            (now.in_packets - last.in_packets) << 9,
            (now.out_packets - last.out_packets) << 9,
            (now.in_bytes - last.in_bytes) << 4,
            (now.out_bytes - last.out_bytes) << 4,
        ];
        for (average, rate) in self.scaled.iter_mut().zip(grown) {
            *average = (*average as i64 + ((rate as i64 - *average as i64) >> 2)) as u64;
        }
        self.last = now;
    }

    /// Per second.
    pub fn rates(&self) -> Rates {
        let [conns, in_packets, out_packets, in_bytes, out_bytes] = self.scaled;
        let packets = |scaled: u64| (scaled + 0x1ff) >> 10;
        let bytes = |scaled: u64| (scaled + 0xf) >> 5;
        Rates {
            conns: packets(conns),
            in_packets: packets(in_packets),
            out_packets: packets(out_packets),
            in_bytes: bytes(in_bytes),
            out_bytes: bytes(out_bytes),
        }
    }
}

/// Says when the estimators have to tick.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Estimator {
    next: Option<Timestamp>,
}

impl Estimator {
    /// Ticks all of `stats` as often as the time has come. After a long silence the average is 0 anyway.
    pub(super) fn advance<'a>(&mut self, now: Timestamp, stats: impl FnOnce() -> Vec<&'a mut Stats>) {
        let Some(next) = self.next else {
            self.next = Some(now + PERIOD);
            return;
        };
        if now < next {
            return;
        }
        let ticks = ((now - next) / PERIOD + 1).min(64);
        for each in stats() {
            (0..ticks).for_each(|_| each.tick());
        }
        self.next = Some(now + PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_found() {
        let mut stats = Stats::default();
        for _ in 0..40 {
            (0..200).for_each(|_| stats.incoming(100));
            stats.tick();
        }
        assert_eq!((stats.rates().in_packets, stats.rates().in_bytes), (100, 10_000));
        for _ in 0..60 {
            stats.tick();
        }
        assert_eq!(stats.rates(), Rates::default());
    }
}
