//! When each host was last heard of: one that falls silent in the middle of a capture is not one that never spoke.

use super::Trace;
use super::path::HostId;
use crate::net::Timestamp;

impl Trace {
    /// When the last frame that a host sent was seen, at any point, on the common clock, to a millisecond; `None` for one that was never
    /// heard of.
    pub fn last_heard(&self, host: HostId) -> Option<Timestamp> {
        *self.heard.get_or_init(|| self.listen()).get(host)?
    }

    fn listen(&self) -> Vec<Option<Timestamp>> {
        let mut heard: Vec<Option<Timestamp>> = vec![None; self.hosts.len()];
        let mut hear = |host: Option<HostId>, at: Timestamp| {
            if let Some(slot) = host.and_then(|h| heard.get_mut(h)) {
                *slot = (*slot).max(Some(at));
            }
        };
        let assembler = &self.assembler;
        for (wire, last) in assembler.store.last_seen() {
            hear(assembler.places[wire as usize].from, self.common_time(assembler.store.wire(wire).point, Timestamp(last)));
        }
        for error in &assembler.errors {
            let (wire, (_, last)) = (error.wire, error.times.last);
            hear(assembler.places[wire as usize].from, self.common_time(assembler.store.wire(wire).point, last));
        }
        for claim in &self.claims.claims {
            hear(self.host_of(claim.mac), self.common_time(claim.point, claim.times.last.1));
        }
        for question in &self.claims.questions {
            hear(self.host_of(question.mac), self.common_time(question.point, question.times.last.1));
        }
        heard
    }
}
