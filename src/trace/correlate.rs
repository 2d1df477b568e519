//! Conversations on both sides of a rewrite → flows.
//!
//! A pair of conversations with packets under one key (see [`super::sample`]) is a candidate. It is joined only when marks of different
//! kinds agree, never on one alone: of 50,000 connections several pairs share an initial sequence number by chance. What counts:
//!
//! - both handshakes have the same server number as well as the same client number;
//! - the same IP-ID on the same packet, the same TCP timestamp and window;
//! - the same client endpoint (the balancer translates destinations) or the same server endpoint (a router translates sources);
//! - several packets that agree.
//!
//! And against it: server numbers that differ. What is joined is joined whole (a forest of parents, as in union-find), so a router's
//! DNAT and the balancer's NAT make one flow of three conversations.

use super::sample::{Sample, Samples};
use super::table::{Conversation, Known, PacketKind, Table};
use super::tuple::CompactEndpoint;
use hashbrown::HashMap;

/// What speaks for a pair.
#[derive(Clone, Copy, Default, Debug)]
struct Votes {
    /// Different keys under which both have samples.
    keys: u16,
    /// Of these, how many no other conversation has, or none that shares an endpoint with them.
    unique: u16,
    /// Packets with the same IP-ID.
    ids: u16,
    /// Keys under which both have IP-IDs, and none the same.
    other_ids: u16,
    /// Packets with the same signature.
    signatures: u16,
    /// Packets that say that both conversations have the same idea of who is the client, less those that say the opposite.
    agreement: i16,
}

/// So many conversations under one key are compared each with each.
const MOST_PER_KEY: usize = 32;
/// Samples looked at under one key.
const MOST_SAMPLES: usize = 1 << 16;

/// Marks needed for a join; see [`weigh`].
const ENOUGH: i32 = 4;

/// Joins what the samples prove. `everything`: also pairs that are both in the newer generation.
pub(super) fn join(table: &mut Table, samples: &Samples, everything: bool) {
    let mut votes: HashMap<(u32, u32), Votes> = HashMap::new();
    let mut chain: Vec<Sample> = Vec::new();
    for key in samples.old.keys() {
        chain.clear();
        chain.extend(samples.old.chain(key).chain(samples.new.chain(key)).take(MOST_SAMPLES));
        if !joined_at_once(table, &chain) {
            count(table, &mut votes, &mut chain);
        }
    }
    if everything {
        for key in samples.new.keys().filter(|key| samples.old.chain(*key).next().is_none()) {
            chain.clear();
            chain.extend(samples.new.chain(key).take(MOST_SAMPLES));
            if !joined_at_once(table, &chain) {
                count(table, &mut votes, &mut chain);
            }
        }
    }
    let mut pairs: Vec<(i32, u32, u32, Votes)> =
        votes.into_iter().map(|((a, b), votes)| (weigh(table, a, b, &votes), a, b, votes)).filter(|(weight, ..)| *weight > 0).collect();
    pairs.sort_by_key(|&(weight, a, b, _)| (std::cmp::Reverse(weight), a, b));
    let mut waiting = Vec::new();
    for (weight, a, b, votes) in pairs {
        if weight >= ENOUGH {
            unite(table, a, b, votes.agreement);
        } else {
            waiting.push((a, b, votes));
        }
    }
    // The last resort: two conversations that nobody else wants and that only have each other under their key.
    for (a, b, votes) in waiting {
        let free = |c: u32| !table.conversations[c as usize].known.has(Known::JOINED);
        if votes.unique > 0 && free(a) && free(b) && comparable(table, a, b) {
            unite(table, a, b, votes.agreement);
        } else if root(table, a) != root(table, b) {
            for c in [a, b] {
                table.conversations[c as usize].known.set(Known::AMBIGUOUS);
            }
        }
    }
}

/// The usual case: two conversations that alone have this handshake, and everything speaks for them.
fn joined_at_once(table: &mut Table, chain: &[Sample]) -> bool {
    let a = chain.first().map_or(0, |s| s.conversation);
    let Some(b) = chain.iter().map(|s| s.conversation).find(|c| *c != a) else { return true };
    if chain.iter().any(|s| s.conversation != a && s.conversation != b) {
        return false;
    }
    let handshake = |c: u32| table.conversations[c as usize].known.has(Known::CLIENT_ISN);
    if !handshake(a) || !handshake(b) {
        return false;
    }
    let agrees = |same: fn(&Sample, &Sample) -> bool| {
        let of = |c: u32| chain.iter().filter(move |s| s.conversation == c);
        u16::from(of(a).any(|l| of(b).any(|r| same(l, r))))
    };
    let ids = agrees(|l, r| l.id != 0 && l.id == r.id);
    let signatures = agrees(|l, r| l.signature != 0 && l.signature == r.signature);
    let enough = weigh(table, a, b, &Votes { keys: 1, unique: 1, ids, other_ids: 0, signatures, agreement: 1 }) >= ENOUGH;
    if enough {
        unite(table, a, b, 1);
    }
    enough
}

/// Counts what the samples under one key say about each pair of conversations among them.
fn count(table: &Table, votes: &mut HashMap<(u32, u32), Votes>, chain: &mut [Sample]) {
    if chain.iter().all(|s| s.conversation == chain[0].conversation) {
        return;
    }
    chain.sort_by_key(|s| s.conversation);
    let conversations = || chain.chunk_by(|a, b| a.conversation == b.conversation);
    let many = conversations().count();
    if many > 2 {
        return count_many(table, votes, chain, many <= MOST_PER_KEY);
    }
    for (i, left) in conversations().enumerate() {
        for right in conversations().skip(i + 1) {
            vote(table, votes.entry((left[0].conversation, right[0].conversation)).or_default(), left, right, many == 2);
        }
    }
}

/// What the samples of two conversations under one key say.
fn vote(table: &Table, votes: &mut Votes, left: &[Sample], right: &[Sample], alone: bool) {
    votes.keys += 1;
    votes.unique += u16::from(alone);
    let pairs = || left.iter().flat_map(|l| right.iter().map(move |r| (l, r)));
    let same_id = pairs().any(|(l, r)| l.id != 0 && l.id == r.id);
    votes.ids += u16::from(same_id);
    votes.other_ids += u16::from(!same_id && pairs().any(|(l, r)| l.id != 0 && r.id != 0));
    votes.signatures += u16::from(pairs().any(|(l, r)| l.signature != 0 && l.signature == r.signature));
    // Who is the client may have become known after the sample was taken.
    let from_client = |s: &Sample| table.conversations[s.conversation as usize].from_client(s.from_b);
    votes.agreement += if pairs().any(|(l, r)| from_client(l) == from_client(r)) { 1 } else { -1 };
}

/// Several conversations say the same (a health check, a heartbeat). A pair that alone has an endpoint in common has it for itself as much
/// as one that is alone with what it says. Of very many only pairs that share an endpoint or a packet's IP-ID are looked at.
fn count_many(table: &Table, votes: &mut HashMap<(u32, u32), Votes>, chain: &[Sample], all: bool) {
    let samples: HashMap<u32, &[Sample]> =
        chain.chunk_by(|a, b| a.conversation == b.conversation).map(|chunk| (chunk[0].conversation, chunk)).collect();
    let mut marks: Vec<(u64, u32)> = Vec::with_capacity(chain.len() * 3);
    for s in chain {
        let tuple = table.conversations[s.conversation as usize].tuple;
        for end in [tuple.source(), tuple.destination()] {
            marks.push((1 << 63 | u64::from(end.addr) << 17 | u64::from(end.port) << 1 | u64::from(end.v6), s.conversation));
        }
        if s.id != 0 {
            marks.push((s.id.into(), s.conversation));
        }
    }
    marks.sort_unstable();
    marks.dedup();
    let mut pairs: Vec<(u32, u32, bool)> = Vec::new();
    for alike in marks.chunk_by(|a, b| a.0 == b.0).filter(|alike| alike.len() <= MOST_PER_KEY) {
        let alone = alike[0].0 >> 63 == 1 && alike.len() == 2;
        for (i, (_, left)) in alike.iter().enumerate() {
            pairs.extend(alike[i + 1..].iter().map(|(_, right)| (*left, *right, alone)));
        }
    }
    if all {
        let mut each: Vec<u32> = samples.keys().copied().collect();
        each.sort_unstable();
        for (i, left) in each.iter().enumerate() {
            pairs.extend(each[i + 1..].iter().map(|right| (*left, *right, false)));
        }
    }
    // Of the same pair the one that says "alone" comes first.
    pairs.sort_unstable_by_key(|&(left, right, alone)| (left, right, !alone));
    pairs.dedup_by_key(|&mut (left, right, _)| (left, right));
    for (left, right, alone) in pairs {
        vote(table, votes.entry((left, right)).or_default(), samples[&left], samples[&right], alone);
    }
}

/// How much speaks for a pair; [`ENOUGH`] is enough, 0 or less is nothing or a contradiction.
fn weigh(table: &Table, a: u32, b: u32, votes: &Votes) -> i32 {
    let (left, right) = (&table.conversations[a as usize], &table.conversations[b as usize]);
    if left.tuple == right.tuple || left.tuple.protocol() != right.tuple.protocol() {
        return 0;
    }
    // Where they disagree about who is the client, one of them only guessed.
    let opposed = votes.agreement < 0;
    let (l, r) = (left.request(), if opposed { right.request().reversed() } else { right.request() });
    let same_client = l.source() == r.source();
    // One client endpoint and both initial numbers are one connection, even where a director lets answers through untranslated.
    let numbers =
        |c: &Conversation| (c.known.has(Known::CLIENT_ISN) && c.known.has(Known::SERVER_ISN)).then_some((c.client_seq, c.server_seq));
    let same_connection = same_client && numbers(left).is_some() && numbers(left) == numbers(right);
    // A client resets the answer of somebody whom it never asked: that is no connection that it opened beside the other one.
    let one_socket =
        same_client && left.known.has(Known::CLIENT_ISN) && right.known.has(Known::CLIENT_ISN) && left.client_seq == right.client_seq;
    if !same_connection && side_by_side(table, a, b, opposed, one_socket) {
        return 0;
    }
    let same_server = l.destination() == r.destination();
    let crossed = l.source() == r.destination() || l.destination() == r.source();
    let shared = same_client || same_server || crossed;
    let ids = i32::from(votes.ids.min(4));
    let handshake = left.known.has(Known::CLIENT_ISN) && right.known.has(Known::CLIENT_ISN);
    if handshake {
        if left.client_seq != right.client_seq {
            return 0;
        }
        let both_answered = left.known.has(Known::SERVER_ISN) && right.known.has(Known::SERVER_ISN);
        let answered = match both_answered {
            true if left.server_seq == right.server_seq => 4,
            true => -5,
            false => 0,
        };
        let addresses = match (same_client, same_server, l.source().addr == r.source().addr && l.v6() == r.v6()) {
            (true, _, _) => 4,
            (_, true, _) => 2,
            (_, _, true) => 1,
            _ => 0,
        };
        return 1 + answered + addresses + 3 * ids.min(1) + 2 * i32::from(votes.signatures.min(1));
    }
    match left.tuple.protocol() {
        // Sequence and acknowledgement number together are 64 bits.
        6 => i32::from(votes.keys) * 2 + ids * 2 + 2 * i32::from(shared),
        _ => {
            let alone = votes.unique > 0;
            // Many clients ask a server the same; a client says the same thing to two servers at once far more rarely.
            let ends = same_client || (same_server && (ids > 0 || (alone && votes.keys >= 3)));
            let against = i32::from(ids == 0 && votes.other_ids > 0);
            let weight = i32::from(votes.keys.min(3)) + 2 * ids.min(2) + 2 * i32::from(ends) + if alone { 1 } else { -1 } - against;
            // One payload and one IP-ID in common: in a large capture chance brings that about.
            if same_client || same_server || ids > 1 { weight } else { weight.min(ENOUGH - 1) }
        }
    }
}

/// True when both were seen on one wire with one TTL: then they are two connections of one host, for a rewrite puts a packet on another
/// wire, or takes one from its TTL.
/// `opposed`: one of them takes the other's client for the server. `one_socket`: their clients have one endpoint and one initial number.
fn side_by_side(table: &Table, a: u32, b: u32, opposed: bool, one_socket: bool) -> bool {
    let client = |c: u32, from_b: bool| table.conversations[c as usize].from_client(from_b);
    table.legs_of(a).any(|(_, l)| {
        table
            .legs_of(b)
            .filter(|(_, r)| !one_socket || (l.first != PacketKind::Reset && r.first != PacketKind::Reset))
            .any(|(_, r)| l.wire == r.wire && l.ttl == r.ttl && (client(a, l.seen.from_b()) == client(b, r.seen.from_b())) != opposed)
    })
}

/// Whether a join without further marks would at least contradict nothing.
fn comparable(table: &Table, a: u32, b: u32) -> bool {
    let (left, right) = (&table.conversations[a as usize], &table.conversations[b as usize]);
    let isn = Known::CLIENT_ISN;
    left.tuple.v6() == right.tuple.v6() && left.known.has(isn) && right.known.has(isn)
}

/// The conversation that speaks for the flow of `c`.
pub(super) fn root(table: &Table, mut c: u32) -> u32 {
    while table.conversations[c as usize].parent != c {
        c = table.conversations[c as usize].parent;
    }
    c
}

/// Makes two conversations one flow. `agreement` below zero: they disagree about who is the client, and the one that only guessed
/// gives in.
pub(super) fn unite(table: &mut Table, a: u32, b: u32, agreement: i16) {
    if agreement < 0 {
        let sure = |c: u32| table.conversations[c as usize].known.has(Known::ORIENTED);
        let turn = match (sure(a), sure(b)) {
            (true, true) => None,
            (true, false) => Some(b),
            (false, true) => Some(a),
            // Neither is sure: whoever began later has missed the first packet.
            (false, false) => Some(a.max(b)),
        };
        if let Some(turn) = turn {
            table.conversations[turn as usize].turn_around();
        }
    }
    for c in [a, b] {
        table.conversations[c as usize].known.set(Known::JOINED);
    }
    let (left, right) = (root(table, a), root(table, b));
    if left != right {
        let (parent, child) = (left.min(right), left.max(right));
        table.conversations[child as usize].parent = parent;
        // Shorten the way for the next one who asks.
        for c in [a, b] {
            table.conversations[c as usize].parent = parent;
        }
    }
}

/// Joins conversations whose captures began or ended at different packets, so that no sample matches: they share an endpoint, and the
/// stretches of sequence numbers of both directions overlap.
pub(super) fn join_by_ranges(table: &mut Table) {
    let alone = |c: &&super::table::Conversation| c.tuple.protocol() == 6 && !c.known.has(Known::JOINED);
    if !table.conversations.iter().filter(alone).any(|c| !c.known.has(Known::CLIENT_ISN)) {
        return;
    }
    let mut by_endpoint: HashMap<CompactEndpoint, Vec<u32>> = HashMap::new();
    for (at, c) in table.conversations.iter().enumerate() {
        if c.tuple.protocol() == 6 {
            for end in [c.tuple.source(), c.tuple.destination()] {
                by_endpoint.entry(end).or_default().push(at as u32);
            }
        }
    }
    for at in 0..table.conversations.len() as u32 {
        let c = table.conversations[at as usize];
        if !alone(&&c) {
            continue;
        }
        let mut fits: Vec<(u32, bool)> = Vec::new();
        for end in [c.tuple.source(), c.tuple.destination()] {
            let others = by_endpoint.get(&end).map_or(&[][..], Vec::as_slice);
            // An endpoint shared by thousands is the service's, and says nothing.
            if others.len() <= 64 {
                let is_client = |c: u32| table.conversations[c as usize].request().source() == end;
                let fitting = others.iter().filter(|&&other| other != at && overlaps(table, at, other, end, others.len() == 2));
                fits.extend(fitting.map(|&other| (other, is_client(at) == is_client(other))));
            }
        }
        fits.sort_unstable();
        fits.dedup();
        if let [(other, agree)] = fits[..] {
            unite(table, at, other, if agree { 1 } else { -1 });
        }
    }
}

/// Whether the packets sent from and to `end` have overlapping sequence numbers in both conversations. Where no other conversation has that
/// end (`alone`), one direction is enough: of direct routing a director sees no more.
fn overlaps(table: &Table, a: u32, b: u32, end: CompactEndpoint, alone: bool) -> bool {
    let (left, right) = (&table.conversations[a as usize], &table.conversations[b as usize]);
    if left.tuple == right.tuple {
        return false;
    }
    let mut judged = 0;
    for from_end in [true, false] {
        let (Some(l), Some(r)) = (range(table, a, end, from_end), range(table, b, end, from_end)) else { continue };
        judged += 1;
        let distance = l.0.wrapping_sub(r.0).cast_signed();
        let room = if distance >= 0 { r.1.wrapping_sub(r.0) } else { l.1.wrapping_sub(l.0) };
        if distance.unsigned_abs() > room.saturating_add(SLACK) {
            return false;
        }
    }
    judged == 2 || (alone && judged == 1)
}

/// A pause between two captures' beginnings lets so many bytes pass unseen.
const SLACK: u32 = 1 << 16;

/// First and last sequence number of the packets sent from `end` (or to it).
fn range(table: &Table, c: u32, end: CompactEndpoint, from_end: bool) -> Option<(u32, u32)> {
    let conversation = &table.conversations[c as usize];
    let end_is_a = conversation.tuple.source() == end;
    let from_b = end_is_a != from_end;
    let (first, known) = if conversation.from_client(from_b) {
        (conversation.client_seq, Known::CLIENT_SEQ)
    } else {
        (conversation.server_seq, Known::SERVER_SEQ)
    };
    if !conversation.known.has(known) {
        return None;
    }
    let high = table.legs_of(c).filter(|(_, leg)| leg.seen.from_b() == from_b).map(|(_, leg)| leg.high_seq.wrapping_sub(first)).max()?;
    Some((first, first.wrapping_add(high)))
}

/// Joins FULLNAT conversations by the client's endpoint that the balancer wrote into a TCP option: the conversation towards the real
/// server with the client's own.
pub(super) fn join_by_toa(table: &mut Table, told: &HashMap<u32, CompactEndpoint>) {
    if told.is_empty() {
        return;
    }
    let wanted: hashbrown::HashSet<CompactEndpoint> = told.values().copied().collect();
    let mut clients: HashMap<CompactEndpoint, Vec<u32>> = HashMap::new();
    for (at, c) in table.conversations.iter().enumerate() {
        let client = c.request().source();
        if c.tuple.protocol() == 6 && wanted.contains(&client) {
            clients.entry(client).or_default().push(at as u32);
        }
    }
    let mut pairs: Vec<(u32, u32)> = Vec::new();
    for (&inside, client) in told {
        let last = table.conversations[inside as usize].last_tick;
        let near = |c: &&u32| **c != inside && table.conversations[**c as usize].last_tick.abs_diff(last) < 60_000;
        // A port used again: the incarnation that is nearest in time.
        let outside = clients
            .get(client)
            .into_iter()
            .flatten()
            .filter(near)
            .min_by_key(|c| table.conversations[**c as usize].last_tick.abs_diff(last));
        pairs.extend(outside.map(|outside| (inside, *outside)));
    }
    pairs.sort_unstable();
    for (inside, outside) in pairs {
        if root(table, inside) != root(table, outside) {
            unite(table, inside, outside, 0);
        }
    }
}
