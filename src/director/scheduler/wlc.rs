//! `wlc`, weighted least connection, ipvsadm's default: the least `(active·256 + inactive) / weight`. `net/netfilter/ipvs/ip_vs_wlc.c`.

use super::{Request, Scheduler, least_loaded};
use crate::director::pool::DestId;

pub(super) struct WeightedLeastConnection;

impl Scheduler for WeightedLeastConnection {
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId> {
        least_loaded(request, request.each())
    }
}
