//! What is left when the last packet was seen: the records of every conversation, in flows.

use super::correlate::root;
use super::table::{Conversation, Leg, Note, PacketKind, Table};
use super::tuple::{AddressBook, Tuple};
use super::wire::{Wire, Wires};

/// The settled records of a trace. A flow is a run of `members`.
pub(super) struct Store {
    pub(super) addresses: AddressBook,
    pub(super) wires: Wires,
    table: Table,
    /// Conversations, those of one flow side by side.
    members: Vec<u32>,
    /// Where each flow begins in `members`; one more at the end.
    starts: Vec<u32>,
    /// The flow of each conversation.
    flow_of: Vec<u32>,
}

/// A leg, opened up: what was seen of one direction of a flow on one wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// Number of the leg.
    pub(super) leg: u32,
    pub(super) wire: u32,
    pub(super) point: u32,
    /// Time of the first packet, on the point's clock.
    pub(super) time: i64,
    /// Time of the last packet, to a millisecond, on the point's clock.
    pub(super) last: i64,
    pub(super) frame: u32,
    pub(super) ttl: u8,
    pub(super) first: PacketKind,
    /// As the packets have it.
    pub(super) tuple: Tuple,
    pub(super) packets: u32,
    pub(super) high_seq: u32,
    pub(super) seen: super::table::Seen,
    pub(super) repeats: u8,
    pub(super) mss: u16,
    pub(super) longest: u16,
    pub(super) print: u32,
}

impl Store {
    pub(super) fn new(table: Table, addresses: AddressBook, wires: Wires) -> Self {
        // With millions of conversations this is when memory peaks: no list more than needed.
        let count = table.conversations.len();
        let mut flow_of: Vec<u32> = Vec::with_capacity(count);
        let mut flows = 0u32;
        for c in 0..count as u32 {
            // A root is the earliest conversation of its flow, so flows are numbered in the order in which they began.
            let root = root(&table, c);
            if root == c {
                flow_of.push(flows);
                flows += 1;
            } else {
                flow_of.push(flow_of[root as usize]);
            }
        }
        let mut starts = vec![0u32; flows as usize + 1];
        for flow in &flow_of {
            starts[*flow as usize] += 1;
        }
        // Where each flow ends; filled from behind, this becomes where it begins.
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut members = vec![0; count];
        for (c, flow) in flow_of.iter().enumerate().rev() {
            let at = &mut starts[*flow as usize];
            *at -= 1;
            members[*at as usize] = c as u32;
        }
        Store { addresses, wires, table, members, starts, flow_of }
    }

    pub(super) fn flows(&self) -> usize {
        self.starts.len() - 1
    }

    /// The conversations of a flow, the earliest first.
    pub(super) fn members(&self, flow: u32) -> &[u32] {
        let at = flow as usize;
        &self.members[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    /// Brings the records of these flows into the cache, all at once, like [`Table::warm_records`].
    pub(super) fn warm(&self, flows: std::ops::Range<u32>) {
        let members = &self.members[self.starts[flows.start as usize] as usize..self.starts[flows.end as usize] as usize];
        let conversations = || members.iter().map(|c| self.conversation(*c));
        let mut touched = conversations().fold(0, |touched, c| touched ^ u32::from(c.tuple.protocol()) ^ c.last_tick);
        let mut legs: Vec<u32> = conversations().map(|c| c.legs).collect();
        while !legs.is_empty() {
            legs.retain_mut(|at| match self.table.legs.get(*at as usize) {
                Some(leg) => {
                    touched ^= leg.print;
                    *at = leg.next;
                    true
                }
                None => false,
            });
        }
        std::hint::black_box(touched);
    }

    pub(super) fn conversation(&self, c: u32) -> &Conversation {
        &self.table.conversations[c as usize]
    }

    pub(super) fn legs(&self, c: u32) -> impl Iterator<Item = &Leg> {
        self.table.legs_of(c).map(|(_, leg)| leg)
    }

    /// The flow of a leg, and whether it is the client's direction.
    pub(super) fn flow_of_leg(&self, leg: u32) -> (u32, bool) {
        let leg = &self.table.legs[leg as usize];
        (self.flow_of[leg.conversation as usize], self.conversation(leg.conversation).from_client(leg.seen.from_b()))
    }

    pub(super) fn notes(&self, c: u32) -> impl Iterator<Item = &Note> {
        self.table.notes_of(c)
    }

    pub(super) fn wire(&self, wire: u32) -> &Wire {
        self.wires.get(wire)
    }

    /// The flow that has this 5-tuple, in either direction; the newest one.
    pub(super) fn flow_with(&self, tuple: Tuple) -> Option<u32> {
        self.table.find(tuple).map(|c| self.flow_of[c as usize])
    }

    /// Every leg's wire, and the time of its last packet on that point's clock, to a millisecond.
    pub(super) fn last_seen(&self) -> impl Iterator<Item = (u32, i64)> {
        self.table.legs.iter().map(|leg| (leg.wire, self.table.time_of(leg.last_tick)))
    }

    /// Time of a conversation's last packet, to a millisecond.
    pub(super) fn last_time(&self, c: u32) -> i64 {
        self.table.time_of(self.conversation(c).last_tick)
    }

    /// The legs of a flow, opened up: those of the client's packets, those of the server's.
    pub(super) fn spots(&self, flow: u32) -> (Vec<Spot>, Vec<Spot>) {
        let (mut request, mut reply) = (Vec::with_capacity(8), Vec::with_capacity(8));
        for &c in self.members(flow) {
            let conversation = self.conversation(c);
            for (number, leg) in self.table.legs_of(c) {
                let from_b = leg.seen.from_b();
                let spot = Spot {
                    leg: number,
                    wire: leg.wire,
                    point: self.wires.get(leg.wire).point,
                    time: leg.first_time(),
                    last: self.table.time_of(leg.last_tick),
                    frame: leg.first_frame,
                    ttl: leg.ttl,
                    first: leg.first,
                    tuple: if from_b { conversation.tuple.reversed() } else { conversation.tuple },
                    packets: leg.packets,
                    high_seq: leg.high_seq,
                    seen: leg.seen,
                    repeats: leg.repeats,
                    mss: leg.mss,
                    longest: leg.longest,
                    print: leg.print,
                };
                if conversation.from_client(from_b) { request.push(spot) } else { reply.push(spot) }
            }
        }
        (request, reply)
    }
}
