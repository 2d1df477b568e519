//! Of two points on a link, which one is nearer to whom: seen from the asking end, more time passes between question and answer.
//!
//! That needs no common clock: each point measures on its own.

use super::Sampled;
use crate::net::MacAddr;
use crate::trace::claims::{ClaimKind, Claims};
use crate::trace::store::Store;
use hashbrown::HashMap;
use std::cmp::Ordering;

/// By two points and a MAC: votes for the first point.
#[derive(Default)]
pub(super) struct Nearness {
    votes: HashMap<(u32, u32, MacAddr), i32>,
}

impl Nearness {
    pub(super) fn new(store: &Store, sample: &[Sampled], claims: &Claims) -> Self {
        let mut nearness = Nearness::default();
        nearness.heed_flows(store, sample);
        nearness.heed_neighbours(claims);
        nearness
    }

    /// How much more says that `a` is nearer to a MAC than `b`, than the contrary.
    pub(super) fn lead(&self, a: u32, b: u32, mac: MacAddr) -> i32 {
        let votes = |a, b| self.votes.get(&(a, b, mac)).copied().unwrap_or(0);
        votes(a, b) - votes(b, a)
    }

    /// Requests and replies of one flow, seen at both points.
    fn heed_flows(&mut self, store: &Store, sample: &[Sampled]) {
        for Sampled { request, reply, .. } in sample {
            for (i, a) in request.iter().enumerate() {
                for b in &request[i + 1..] {
                    if a.point == b.point || a.tuple != b.tuple || a.ttl != b.ttl || a.first != b.first {
                        continue;
                    }
                    let wire = store.wire(a.wire);
                    let (Some(src), Some(dst)) = (wire.src, wire.dst) else { continue };
                    if (store.wire(b.wire).src, store.wire(b.wire).dst) != (wire.src, wire.dst) {
                        continue;
                    }
                    let answer = |point: u32| {
                        reply.iter().find(|s| {
                            s.point == point
                                && s.tuple == a.tuple.reversed()
                                && store.wire(s.wire).src == Some(dst)
                                && store.wire(s.wire).dst == Some(src)
                        })
                    };
                    if let (Some(answer_a), Some(answer_b)) = (answer(a.point), answer(b.point))
                        && answer_a.first == answer_b.first
                    {
                        self.answered((a.point, b.point), (src, dst), answer_a.time - a.time, answer_b.time - b.time);
                    }
                }
            }
        }
    }

    /// Questions for a neighbour and their answers, seen at both points.
    fn heed_neighbours(&mut self, claims: &Claims) {
        for question in &claims.questions {
            let Some(asker) = question.asker else { continue };
            let said = claims
                .claims
                .iter()
                .filter(|c| c.kind == ClaimKind::Reply && c.addr == question.target && c.about == Some(asker) && c.point == question.point);
            for reply in said {
                for other in claims.questions.iter().filter(|q| {
                    q.point > question.point
                        && (q.target, q.mac, q.asker, q.unicast, q.times.count)
                            == (question.target, question.mac, question.asker, question.unicast, question.times.count)
                }) {
                    let there = claims.claims.iter().find(|c| {
                        c.point == other.point
                            && (c.kind, c.addr, c.mac, c.about, c.times.count)
                                == (reply.kind, reply.addr, reply.mac, reply.about, reply.times.count)
                    });
                    if let Some(there) = there {
                        let (here, there) = (reply.times.since() - question.times.since(), there.times.since() - other.times.since());
                        self.answered((question.point, other.point), (question.mac, reply.mac), here, there);
                    }
                }
            }
        }
    }

    /// At the first point `here` passed between question (from `src`) and answer (from `dst`), at the second `there`.
    fn answered(&mut self, points: (u32, u32), (src, dst): (MacAddr, MacAddr), here: i64, there: i64) {
        let sign = match here.cmp(&there) {
            Ordering::Greater => 1,
            Ordering::Less => -1,
            Ordering::Equal => return,
        };
        *self.votes.entry((points.0, points.1, src)).or_insert(0) += sign;
        *self.votes.entry((points.0, points.1, dst)).or_insert(0) -= sign;
    }
}
