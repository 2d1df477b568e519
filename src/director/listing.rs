//! The director's state in the forms that ipvsadm prints.

use super::balancer::Balancer;
use super::stats::{Counters, Stats};
use crate::ipvs::{Connection, Listed, ListedServer};
use crate::net::{Endpoint, Timestamp};

fn numbers(c: Counters) -> [u64; 5] {
    [c.conns, c.in_packets, c.out_packets, c.in_bytes, c.out_bytes]
}

impl Balancer {
    /// Services and real servers, with their traffic or, where `rate` says so, their rates.
    pub fn listed(&self, rate: bool) -> Vec<Listed> {
        let traffic = |stats: &Stats| numbers(if rate { stats.rates() } else { stats.counters });
        self.services()
            .iter()
            .map(|service| Listed {
                service: service.rule().clone(),
                traffic: traffic(service.stats()),
                servers: service
                    .list()
                    .iter()
                    .rev()
                    .map(|id| {
                        let dest = &self.pool()[*id];
                        ListedServer {
                            server: dest.rule.clone(),
                            active: dest.active,
                            inactive: dest.inactive,
                            persistent: dest.persistent,
                            traffic: traffic(&dest.stats),
                        }
                    })
                    .collect(),
            })
            .collect()
    }

    /// The connection table.
    pub fn connections(&self, now: Timestamp) -> Vec<Connection> {
        self.table()
            .iter()
            .map(|conn| Connection {
                protocol: conn.protocol(),
                expires: ((conn.expires() - now).max(0) / 1_000_000_000) as u64,
                state: conn.state_name().to_string(),
                client: conn.client(),
                service: conn.dialled(),
                server: Endpoint::new(self.pool()[conn.dest()].rule.addr, conn.dest_port()),
            })
            .collect()
    }
}
