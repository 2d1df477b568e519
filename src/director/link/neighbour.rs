//! Whose MAC is whose: the director's neighbours, and the packets that wait until one of them has answered.

use super::Director;
use super::sent::{Offload, Sent};
use crate::director::engine::Reason;
use crate::net::{MacAddr, Timestamp};
use crate::packet::build;
use std::net::IpAddr;
use std::ops::Range;

/// How long an answer to ARP is waited for, and how often it is asked.
pub(super) const RETRY: i64 = 1_000_000_000;
const ATTEMPTS: u32 = 3;
/// Packets that wait for one neighbour.
const QUEUE: usize = 64;
/// A neighbour is asked again when it was not heard of for this long.
const STALE: i64 = 30_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Neighbour {
    mac: Option<MacAddr>,
    /// Told beforehand: what is heard does not change it, as with a permanent entry of the kernel.
    fixed: bool,
    vlans: Vec<u16>,
    heard: Timestamp,
    asked: Timestamp,
    attempts: u32,
    waiting: Vec<Waiting>,
}

impl Neighbour {
    fn is_stale(&self, now: Timestamp) -> bool {
        !self.fixed && self.mac.is_some() && now - self.heard.max(self.asked) > STALE
    }
}

/// A packet on its way to a neighbour, without a frame around it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) bytes: Vec<u8>,
    /// In the frame that came; empty once it waits.
    pub(super) rest: Range<usize>,
    pub(super) offload: Offload,
    pub(super) request: bool,
    pub(super) answer: bool,
}

impl Waiting {
    fn framed(self, port: usize, own: MacAddr, mac: MacAddr, vlans: &[u16]) -> Sent {
        let bytes = build::framed(own, mac, vlans, self.bytes);
        Sent { port, bytes, rest: self.rest, offload: self.offload, answer: self.answer }
    }
}

impl Director {
    /// A neighbour whose MAC is known beforehand.
    pub fn know(&mut self, addr: IpAddr, mac: MacAddr, now: Timestamp) {
        let known = self.neighbours.entry(addr).or_default();
        (known.mac, known.heard, known.asked, known.fixed) = (Some(mac), now, now, true);
    }

    /// Hands a packet to a neighbour; when nobody knows its MAC the packet waits, and `frame`, where its rest is, need not stay.
    pub(super) fn deliver(&mut self, port: usize, next: IpAddr, mut waiting: Waiting, frame: &[u8], now: Timestamp, out: &mut Vec<Sent>) {
        let invented = self.invent.then(|| invented(next));
        let Some(own) = self.ports.get(port).map(|p| p.mac) else { return };
        let wrong = self.engine.faults.wrong_mac.filter(|_| waiting.request);
        let neighbour = self.neighbours.entry(next).or_default();
        let ask = match wrong.or(neighbour.mac).or(invented) {
            Some(mac) => {
                out.push(waiting.framed(port, own, mac, &neighbour.vlans));
                !self.invent && neighbour.is_stale(now)
            }
            None => {
                if neighbour.waiting.len() < QUEUE {
                    waiting.bytes.extend_from_slice(&frame[std::mem::take(&mut waiting.rest)]);
                    neighbour.waiting.push(waiting);
                } else {
                    *self.tally.dropped.entry(Reason::NoNeighbour).or_default() += 1;
                }
                let unasked = neighbour.attempts == 0;
                neighbour.attempts = neighbour.attempts.max(1);
                unasked
            }
        };
        if ask {
            neighbour.asked = now;
            out.extend(self.question(port, next));
        }
    }

    /// Asks again, and gives up. To be called a few times a second.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Sent> {
        self.engine.balancer.advance(now);
        let mut again = Vec::new();
        for (addr, neighbour) in &mut self.neighbours {
            if neighbour.mac.is_some() || neighbour.attempts == 0 || now - neighbour.asked < RETRY {
                continue;
            }
            if neighbour.attempts < ATTEMPTS {
                neighbour.attempts += 1;
                neighbour.asked = now;
                again.push(*addr);
            } else {
                *self.tally.dropped.entry(Reason::NoNeighbour).or_default() += neighbour.waiting.len() as u64;
                neighbour.waiting.clear();
                neighbour.attempts = 0;
            }
        }
        let port = |addr| self.engine.routes.to(addr).map_or(0, |route| route.port);
        again.into_iter().filter_map(|addr| self.question(port(addr), addr)).collect()
    }

    /// A neighbour said where it is: what waited for it goes.
    pub(super) fn learn(&mut self, addr: IpAddr, mac: MacAddr, vlans: &[u16], now: Timestamp, port: usize, out: &mut Vec<Sent>) {
        let Some(own) = self.ports.get(port).map(|p| p.mac) else { return };
        let neighbour = self.neighbours.entry(addr).or_default();
        if neighbour.fixed {
            return;
        }
        (neighbour.mac, neighbour.heard, neighbour.attempts) = (Some(mac), now, 0);
        neighbour.vlans = vlans.to_vec();
        for waiting in std::mem::take(&mut neighbour.waiting) {
            out.push(waiting.framed(port, own, mac, vlans));
        }
    }

    /// In a capture the MAC of a frame is its sender's only when the sender is a neighbour.
    pub(super) fn learn_passively(&mut self, addr: IpAddr, mac: MacAddr, vlans: &[u16], now: Timestamp) {
        let neighbour = self.engine.routes.to(addr).is_some_and(|route| route.via.is_none());
        if neighbour && !self.also.contains(&mac) && !self.engine.balancer.is_vip(addr) {
            let known = self.neighbours.entry(addr).or_default();
            if known.mac.is_none() {
                (known.mac, known.heard) = (Some(mac), now);
                known.vlans = vlans.to_vec();
            }
        }
    }
}

/// A MAC for one that nobody has heard of: locally administered, with the address in it.
fn invented(addr: IpAddr) -> MacAddr {
    let bytes = match addr {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => a.octets()[12..].first_chunk().copied().unwrap_or_default(),
    };
    MacAddr([0x02, 0, bytes[0], bytes[1], bytes[2], bytes[3]])
}
