//! Real servers while they serve: weight, thresholds, and who is connected.
//!
//! `net/netfilter/ipvs/ip_vs_ctl.c` (`__ip_vs_update_dest`) and `ip_vs_conn.c` (`ip_vs_bind_dest`, `ip_vs_unbind_dest`).

use super::stats::Stats;
use crate::ipvs::RealServer;
use crate::net::Endpoint;

/// A real server, by its place in the [`Pool`]. It stays the same for as long as the program runs, also when the server is removed and
/// added again: the kernel too takes it back from its trash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DestId(pub(super) u32);

/// A real server of one virtual service.
#[derive(Clone, Debug)]
pub struct Dest {
    /// As the administrator wrote it; weight and thresholds are the present ones.
    pub rule: RealServer,
    /// The service it belongs to.
    pub(super) service: u32,
    /// The last weight that was not 0 (`mh` builds its table from it).
    pub last_weight: u32,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// False once it was removed (`IP_VS_DEST_F_AVAILABLE`).
    pub available: bool,
    /// True from the upper threshold on until below the lower one (`IP_VS_DEST_F_OVERLOAD`).
    pub overloaded: bool,
    /// Traffic.
    pub stats: Stats,
}

impl Dest {
    /// Its address and port.
    pub fn endpoint(&self) -> Endpoint {
        self.rule.endpoint()
    }

    /// One active connection weighs as much as 256 inactive ones (`ip_vs_dest_conn_overhead` in `ip_vs.h`).
    pub fn overhead(&self) -> i64 {
        (i64::from(self.active) << 8) + i64::from(self.inactive)
    }

    /// The present weight.
    pub fn weight(&self) -> i64 {
        i64::from(self.rule.weight)
    }

    fn total(&self) -> u64 {
        u64::from(self.active) + u64::from(self.inactive)
    }
}

/// All real servers there are and were.
#[derive(Debug, Default)]
pub struct Pool {
    dests: Vec<Dest>,
}

impl std::ops::Index<DestId> for Pool {
    type Output = Dest;
    fn index(&self, id: DestId) -> &Dest {
        &self.dests[id.0 as usize]
    }
}

impl std::ops::IndexMut<DestId> for Pool {
    fn index_mut(&mut self, id: DestId) -> &mut Dest {
        &mut self.dests[id.0 as usize]
    }
}

impl Pool {
    /// Adds a real server, or takes a removed one back, with the connections that survived.
    pub(super) fn add(&mut self, service: u32, rule: RealServer) -> DestId {
        let known = self.dests.iter().position(|d| d.service == service && !d.available && d.endpoint() == rule.endpoint());
        let at = known.unwrap_or_else(|| {
            self.dests.push(Dest {
                rule: rule.clone(),
                service,
                last_weight: 0,
                active: 0,
                inactive: 0,
                persistent: 0,
                available: false,
                overloaded: false,
                stats: Stats::default(),
            });
            self.dests.len() - 1
        });
        let id = DestId(at as u32);
        self.dests[at].last_weight = rule.weight;
        self.update(id, rule);
        id
    }

    /// New weight, thresholds and method.
    pub(super) fn update(&mut self, id: DestId, rule: RealServer) {
        let dest = &mut self[id];
        if rule.weight != 0 {
            dest.last_weight = rule.weight;
        }
        if rule.upper == 0 || rule.upper > dest.rule.upper {
            dest.overloaded = false;
        }
        dest.rule = rule;
        dest.available = true;
    }

    /// A connection (or template) begins. It counts as inactive until its protocol says otherwise (`IP_VS_CONN_F_INACTIVE`, set for every
    /// real server in `__ip_vs_update_dest`).
    pub(super) fn bind(&mut self, id: DestId, template: bool) {
        let dest = &mut self[id];
        if template {
            dest.persistent += 1;
        } else {
            dest.inactive += 1;
        }
        if dest.rule.upper != 0 && dest.total() >= u64::from(dest.rule.upper) {
            dest.overloaded = true;
        }
    }

    /// A connection (or template) is gone. Only this, no change of state, can end an overload.
    pub(super) fn unbind(&mut self, id: DestId, template: bool, inactive: bool) {
        let dest = &mut self[id];
        let count = match (template, inactive) {
            (true, _) => &mut dest.persistent,
            (_, true) => &mut dest.inactive,
            (_, false) => &mut dest.active,
        };
        *count = count.saturating_sub(1);
        let (total, upper, lower) = (dest.total(), u64::from(dest.rule.upper), u64::from(dest.rule.lower));
        // Without a lower threshold three quarters of the upper one take its place.
        let relieved = if lower != 0 {
            total < lower
        } else if upper != 0 {
            total * 4 < upper * 3
        } else {
            true
        };
        if relieved {
            dest.overloaded = false;
        }
    }

    /// A connection changes between active and inactive.
    pub(super) fn set_inactive(&mut self, id: DestId, inactive: bool) {
        let dest = &mut self[id];
        if inactive {
            dest.active = dest.active.saturating_sub(1);
            dest.inactive += 1;
        } else {
            dest.inactive = dest.inactive.saturating_sub(1);
            dest.active += 1;
        }
    }

    pub(super) fn stats_mut(&mut self) -> impl Iterator<Item = &mut Stats> {
        self.dests.iter_mut().map(|dest| &mut dest.stats)
    }

    /// Every real server that is or was, with its id.
    pub fn iter(&self) -> impl Iterator<Item = (DestId, &Dest)> {
        self.dests.iter().enumerate().map(|(at, dest)| (DestId(at as u32), dest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::{ForwardingMethod, TunnelOptions};

    fn rule(weight: u32, upper: u32, lower: u32) -> RealServer {
        RealServer {
            addr: "10.0.0.1".parse().unwrap(),
            port: 80,
            method: ForwardingMethod::Nat,
            weight,
            upper,
            lower,
            tunnel: TunnelOptions::default(),
        }
    }

    #[test]
    fn overload_ends_below_the_lower_threshold_only() {
        let mut pool = Pool::default();
        let id = pool.add(0, rule(1, 3, 2));
        for _ in 0..3 {
            assert!(!pool[id].overloaded);
            pool.bind(id, false);
        }
        assert!(pool[id].overloaded);
        pool.unbind(id, false, true);
        assert!(pool[id].overloaded, "2 is not below 2");
        pool.unbind(id, false, true);
        assert!(!pool[id].overloaded);
    }

    #[test]
    fn without_a_lower_threshold_three_quarters_count() {
        let mut pool = Pool::default();
        let id = pool.add(0, rule(1, 4, 0));
        (0..4).for_each(|_| pool.bind(id, false));
        pool.unbind(id, false, true);
        assert!(pool[id].overloaded, "3 × 4 is not below 4 × 3");
        pool.unbind(id, false, true);
        assert!(!pool[id].overloaded);
    }

    #[test]
    fn templates_count_for_themselves() {
        let mut pool = Pool::default();
        let id = pool.add(0, rule(1, 1, 0));
        pool.bind(id, true);
        assert_eq!((pool[id].persistent, pool[id].inactive, pool[id].overloaded), (1, 0, false));
    }

    #[test]
    fn a_server_that_comes_back_is_the_same() {
        let mut pool = Pool::default();
        let id = pool.add(0, rule(3, 0, 0));
        pool.bind(id, false);
        pool[id].available = false;
        assert_eq!(pool.add(0, rule(5, 0, 0)), id);
        assert_eq!((pool[id].weight(), pool[id].inactive, pool[id].last_weight), (5, 1, 5));
        pool.update(id, rule(0, 0, 0));
        assert_eq!(pool[id].last_weight, 5);
    }
}
