//! From records to a [`Flow`]: one at a time, for those who ask.

use super::balance::Balance;
use super::delivery::Ear;
use super::error::ErrorSeen;
use super::flow::{Flow, FlowError, FlowNote, FlowState, Way};
use super::host::Hosts;
use super::path::{Path, path};
use super::place::Place;
use super::store::Store;
use super::table::{Known, NoteKind, PacketKind, Seen};
use super::topology::Topology;
use super::transit::{Course, course};
use super::tuple::mix;
use crate::net::{Protocol, Timestamp};
use hashbrown::HashMap;

/// Everything that a flow is put together from.
pub(super) struct Assembler {
    pub(super) store: Store,
    pub(super) topology: Topology,
    pub(super) hosts: Hosts,
    /// By wire.
    pub(super) places: Vec<Place>,
    pub(super) balance: Balance,
    pub(super) errors: Vec<ErrorSeen>,
    /// Places in `errors` of each flow that has some.
    pub(super) errors_of: HashMap<u32, Vec<usize>>,
    /// When the last frame was seen at each point, on the common clock.
    pub(super) ends: Vec<i64>,
    /// What was taken down at each point.
    pub(super) ears: Vec<Ear>,
}

/// A flow before all flows together say who balances.
pub(super) struct Draft {
    pub(super) flow: u32,
    pub(super) protocol: Protocol,
    pub(super) request: Path,
    pub(super) reply: Path,
    flooded: usize,
    flooded_at: Option<(u32, u32, i64)>,
}

/// The mark of data that was sent again, in [`Tally::kinds`].
const REPEATED: u32 = 1 << NoteKind::DataRepeat as u32;
/// An unanswered question counts as unanswered, not as cut off by the end of the capture, after so long.
pub(super) const PATIENCE: i64 = 1_000_000_000;

impl Assembler {
    /// Both directions of a flow, without what needs the other flows.
    pub(super) fn draft(&self, flow: u32) -> Draft {
        let (request, reply) = self.store.spots(flow);
        let protocol = Protocol::from(self.store.conversation(self.store.members(flow)[0]).tuple.protocol());
        let (request, reply) =
            (course(&self.store, &self.topology, &self.places, &request), course(&self.store, &self.topology, &self.places, &reply));
        let flooded = request.flooded + reply.flooded;
        let flooded_at = request.flooded_at.or(reply.flooded_at);
        let open = |course: &Course| path(&self.store, &self.places, course);
        Draft { flow, protocol, request: open(&request), reply: open(&reply), flooded, flooded_at }
    }

    /// The whole flow, of group `group`.
    pub(super) fn flow(&self, draft: Draft, group: usize) -> Flow {
        let Draft { flow, protocol, request, reply, flooded, flooded_at } = draft;
        let members = self.store.members(flow);
        let verdict = self.balance.judge(protocol, &request, &reply, &self.hosts);
        let first_conversation = self.store.conversation(members[0]);
        let outer = self.store.addresses.expand(first_conversation.request());
        let (client, service) = match (request.first(), reply.last()) {
            (Some(hop), _) => (hop.src, hop.dst),
            (None, Some(hop)) => (hop.dst, hop.src),
            (None, None) => (outer.src, outer.dst),
        };
        let first_link = request.links().next();
        let client_host = match first_link {
            Some(hop) if super::balance::is_initial(hop.ttl) => hop.from,
            Some(_) => None,
            None => reply.links().last().filter(|hop| hop.dst == client).and_then(|hop| hop.to),
        };
        let known = |what: Known, number: u32| members.iter().any(|c| self.store.conversation(*c).known.has(what)).then_some(number);
        let lasts = members.iter().map(|c| self.store.last_time(*c)).max().unwrap_or(0);
        let hops = || request.hops.iter().chain(&request.strays).chain(&reply.hops).chain(&reply.strays);
        let first = hops().map(|h| self.topology.clocks.common(h.point, h.time.0)).min().unwrap_or(lasts);
        let last = hops().map(|h| self.topology.clocks.common(h.point, h.last.0)).max().unwrap_or(lasts);
        let notes = self.notes(members);
        let errors: Vec<FlowError> =
            self.errors_of.get(&flow).into_iter().flatten().map(|at| self.error(&self.errors[*at], members)).collect();
        let mut seen = Gist::default();
        for &c in members {
            let conversation = self.store.conversation(c);
            for leg in self.store.legs(c) {
                let point = self.store.wire(leg.wire).point;
                seen.add(conversation.from_client(leg.seen.from_b()), leg.seen, leg.packets, || self.waited(point, leg.first_time()));
            }
        }
        seen.astray = self.is_astray(protocol, &seen, members);
        let state = state(protocol, &seen, self.tally(flow));
        Flow {
            id: flow + 1,
            group,
            protocol,
            client,
            service,
            vip: verdict.vip,
            real_server: verdict.real_server,
            method: verdict.method,
            state,
            stalled: self.stalled_in(state, members),
            client_host,
            director: verdict.director,
            server_host: verdict.server_host,
            routers: verdict.routers,
            from_start: protocol != Protocol::Tcp || request.hops.iter().any(|h| h.first == PacketKind::Syn),
            isn: (known(Known::CLIENT_ISN, first_conversation.client_seq), known(Known::SERVER_ISN, first_conversation.server_seq)),
            first: Timestamp(first),
            last: Timestamp(last.max(first)),
            notes,
            errors,
            flooded,
            flooded_at: flooded_at.map(|(point, frame, time)| (point, frame.into(), Timestamp(time))),
            ambiguous: members.iter().any(|c| self.store.conversation(*c).known.has(Known::AMBIGUOUS)),
            request,
            reply,
        }
    }

    fn notes(&self, members: &[u32]) -> Vec<FlowNote> {
        let mut notes: Vec<FlowNote> = Vec::new();
        for &c in members {
            let conversation = self.store.conversation(c);
            for note in self.store.notes(c) {
                let (wire, place) = (self.store.wire(note.wire), &self.places[note.wire as usize]);
                if place.bystander {
                    continue;
                }
                let tuple = self.store.addresses.expand(if note.from_b { conversation.tuple.reversed() } else { conversation.tuple });
                notes.push(FlowNote {
                    kind: note.kind,
                    way: if conversation.from_client(note.from_b) { Way::Request } else { Way::Reply },
                    point: wire.point,
                    frame: note.frame.into(),
                    time: Timestamp(note.time),
                    src: tuple.src,
                    dst: tuple.dst,
                    from: place.from,
                    to: place.to,
                    seq: note.seq,
                    len: note.len,
                    ttl: note.ttl,
                });
            }
        }
        notes.sort_by_key(|n| (self.topology.clocks.at(n.point, n.time), n.point, n.frame));
        notes
    }

    fn error(&self, seen: &ErrorSeen, members: &[u32]) -> FlowError {
        let (wire, place) = (self.store.wire(seen.wire), &self.places[seen.wire as usize]);
        let (canonical, from_b) = seen.quoted.canonical();
        let conversation = members.iter().map(|c| self.store.conversation(*c)).find(|c| c.tuple == canonical);
        let about_request = conversation.is_none_or(|c| c.from_client(from_b));
        FlowError {
            point: wire.point,
            frames: seen.times.frames(),
            time: seen.times.since(),
            count: seen.times.count,
            src: seen.src,
            dst: seen.dst,
            from: place.from,
            to: place.to,
            at_sender: place.at_sender,
            ttl: seen.ttl,
            kind: seen.kind,
            type_number: seen.type_number,
            code: seen.code,
            about: if about_request { Way::Request } else { Way::Reply },
            quoted_dst: self.store.addresses.expand(seen.quoted).dst,
            tunnelled: seen.tunnelled,
            quoted_len: seen.quoted_len,
        }
    }

    /// What notes and errors of a flow amount to.
    fn tally(&self, flow: u32) -> Tally {
        let mut tally = Tally::default();
        for &c in self.store.members(flow) {
            let conversation = self.store.conversation(c);
            if conversation.note_count == 0 {
                continue;
            }
            for note in self.store.notes(c) {
                tally.kinds |= 1 << note.kind as u32;
                tally.repeated |= matches!(note.kind, NoteKind::SynRepeat);
                if note.kind == NoteKind::Reset {
                    let from_client = conversation.from_client(note.from_b);
                    *(if from_client { &mut tally.reset_by_client } else { &mut tally.reset_by_server }) = true;
                }
            }
        }
        for at in self.errors_of.get(&flow).into_iter().flatten() {
            let error = &self.errors[*at];
            tally.errors = mix(tally.errors, u64::from(error.type_number) << 8 | u64::from(error.code));
            if error.kind == crate::packet::IcmpKind::Unreachable {
                let refuses = matches!((error.type_number, error.code), (3, 2 | 3) | (1, 4));
                *(if refuses { &mut tally.refused } else { &mut tally.unreachable }) = true;
            }
        }
        tally
    }

    /// A number that flows share which differ in nothing but their client: the same way past the same hosts, the same end. And whether that
    /// story is one without any trouble.
    pub(super) fn signature(&self, flow: u32) -> (u64, bool) {
        let members = self.store.members(flow);
        let protocol = Protocol::from(self.store.conversation(members[0]).tuple.protocol());
        let mut tally = self.tally(flow);
        let mut seen = Gist::default();
        // The order of the sightings differs from flow to flow; a sum does not mind.
        let mut sum = 0u64;
        for &c in members {
            let conversation = self.store.conversation(c);
            let server = conversation.request().destination();
            let endpoint = u64::from(server.addr) << 17 | u64::from(server.port) << 1 | u64::from(server.v6);
            for leg in self.store.legs(c) {
                let request = conversation.from_client(leg.seen.from_b());
                sum = sum.wrapping_add(mix(u64::from(leg.wire) << 1 | u64::from(request), endpoint));
                // Losses that every long connection has make no other story either.
                let much = leg.repeats >= 3 && u32::from(leg.repeats) * 20 >= leg.packets;
                tally.kinds |= u32::from(much) << 31;
                let point = self.store.wire(leg.wire).point;
                seen.add(request, leg.seen, leg.packets, || self.waited(point, leg.first_time()));
            }
        }
        seen.astray = self.is_astray(protocol, &seen, members);
        let state = state(protocol, &seen, tally);
        let stalled = if tally.kinds & REPEATED != 0 { self.stalled_in(state, members) } else { None };
        let plain = stalled.is_none() && state.is_complete() && !tally.reset_by_client && !tally.reset_by_server && tally.errors == 0;
        // Single losses happen to every connection and make no other story of it.
        let loss =
            [NoteKind::SynRepeat, NoteKind::SynAckRepeat, NoteKind::DataRepeat].iter().fold(0, |bits, kind| bits | 1 << *kind as u32);
        let kinds = if plain { tally.kinds & !loss } else { tally.kinds };
        let stall = stalled.map_or(0, |way| 1 + way as u64);
        let marks = stall << 40 | u64::from(kinds) << 2 | u64::from(tally.reset_by_client) << 1 | u64::from(tally.reset_by_server);
        let begins = mix(u64::from(protocol.number()), state as u64);
        (mix(mix(sum.wrapping_add(begins), tally.errors), marks), plain && kinds == 0)
    }

    /// What has no connection says by nothing else that its answers do not arrive.
    fn is_astray(&self, protocol: Protocol, seen: &Gist, members: &[u32]) -> bool {
        seen.replied && !matches!(protocol, Protocol::Tcp | Protocol::Sctp) && self.went_astray(members)
    }

    /// Only an open connection stalls.
    fn stalled_in(&self, state: FlowState, members: &[u32]) -> Option<Way> {
        matches!(state, FlowState::Established | FlowState::Closed | FlowState::Reset).then(|| self.stalled(members)).flatten()
    }

    /// Whether the capture at `point` went on for long enough after `time` that an answer should have come.
    fn waited(&self, point: u32, time: i64) -> bool {
        self.ends[point as usize] - self.topology.clocks.common(point, time) >= PATIENCE
    }
}

/// Which kinds of packets were seen of each direction, at all places together.
#[derive(Clone, Copy, Default)]
struct Gist {
    request: u8,
    reply: u8,
    requests: u32,
    replied: bool,
    /// A question was asked long enough before its capture ended.
    waited: bool,
    /// The answer did not arrive.
    astray: bool,
}

impl Gist {
    fn add(&mut self, request: bool, seen: Seen, packets: u32, waited: impl Fn() -> bool) {
        if request {
            self.request |= seen.0;
            self.requests = self.requests.max(packets);
            self.waited = self.waited || waited();
        } else {
            self.reply |= seen.0;
            self.replied = true;
        }
    }

    fn requested(&self, kind: PacketKind) -> bool {
        Seen(self.request).has(kind)
    }

    fn replied(&self, kind: PacketKind) -> bool {
        Seen(self.reply).has(kind)
    }
}

/// How far a connection came.
fn state(protocol: Protocol, seen: &Gist, tally: Tally) -> FlowState {
    use PacketKind::{Ack, Data, Fin, SynAck};
    let silent = |repeated: bool| match (tally.refused, tally.unreachable) {
        (true, _) => FlowState::Refused,
        (_, true) => FlowState::Unreachable,
        _ if repeated || seen.waited => FlowState::Unanswered,
        _ => FlowState::SynOnly,
    };
    if !matches!(protocol, Protocol::Tcp | Protocol::Sctp) {
        return if seen.replied && !seen.astray { FlowState::Answered } else { silent(seen.requests > 1 || seen.astray) };
    }
    let went_on = [Ack, Data, Fin].iter().any(|kind| seen.requested(*kind) || seen.replied(*kind));
    if went_on {
        let both = seen.requested(Fin) && seen.replied(Fin);
        let one_way = seen.requested(Fin) && !seen.replied;
        return match both || one_way {
            true => FlowState::Closed,
            false if tally.reset_by_client || tally.reset_by_server => FlowState::Reset,
            false => FlowState::Established,
        };
    }
    match seen.replied(SynAck) {
        true if tally.repeated || tally.reset_by_client => FlowState::Unanswered,
        true => FlowState::HalfOpen,
        false if tally.reset_by_server => FlowState::Refused,
        false => silent(tally.repeated),
    }
}

#[derive(Clone, Copy, Default)]
struct Tally {
    kinds: u32,
    repeated: bool,
    reset_by_client: bool,
    reset_by_server: bool,
    refused: bool,
    unreachable: bool,
    errors: u64,
}
