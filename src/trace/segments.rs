//! One large frame here, several segments there: what a network card cuts (TSO) or a receiver merges (GRO) is one packet with pieces.
//!
//! The pieces have what the large frame has: acknowledgement number, window, timestamps. Their ranges of sequence numbers tile its range.
//! Where two stations' ranges have no boundary in common, the frames between two common boundaries are one packet. Ranges that overlap at
//! one station were sent twice there; such a stretch stays in pieces.

use super::pace::Pace;
use super::pairing::{Direction, Packet};

/// A packet with payload, and what must be the same for all pieces of one frame.
struct Piece {
    /// Acknowledgement number, and mark.
    stream: (u32, u32),
    /// On the clock of the first station, as far as the pace is known.
    time: i64,
    /// From the first piece of the stretch on.
    from: i64,
    to: i64,
    packet: usize,
}

/// Pieces of one frame follow each other closely; a repeat without timestamps to tell it comes later.
const STRETCH: i64 = 100_000_000;

/// Puts the pieces of frames together; packets of which something was made part of another one are left without passes.
pub(super) fn merge(direction: &Direction<'_>, pace: &Pace, packets: &mut [Packet]) {
    let stations = direction.stations.len();
    if stations < 2 || packets.iter().all(|packet| packet.passes.len() == stations) {
        return;
    }
    let mut pieces: Vec<Piece> = packets.iter().enumerate().filter_map(|(at, packet)| piece(direction, pace, at, packet)).collect();
    pieces.sort_unstable_by_key(|p| (p.stream, p.time));
    let mut rest = &mut pieces[..];
    while !rest.is_empty() {
        let len = 1 + rest.windows(2).take_while(|w| w[0].stream == w[1].stream && w[1].time - w[0].time <= STRETCH).count();
        let (stretch, after) = rest.split_at_mut(len);
        rest = after;
        // Numbers may wrap round: they count from the first one.
        let base = stretch[0].from;
        for piece in stretch.iter_mut() {
            let from = i64::from(((piece.from - base) as u32).cast_signed());
            (piece.from, piece.to) = (from, from + piece.to - piece.from);
        }
        stretch.sort_unstable_by_key(|p| (p.from, p.to));
        let mut rest = &stretch[..];
        while !rest.is_empty() {
            let mut end = rest[0].to;
            let len = 1 + rest[1..]
                .iter()
                .take_while(|p| {
                    p.from < end && {
                        end = end.max(p.to);
                        true
                    }
                })
                .count();
            let (chunk, after) = rest.split_at(len);
            rest = after;
            if chunk.len() > 1 && is_one_frame(chunk, packets) {
                put_together(chunk, packets);
            }
        }
    }
}

fn piece(direction: &Direction<'_>, pace: &Pace, at: usize, packet: &Packet) -> Option<Piece> {
    let pass = packet.passes.first()?;
    let entry = direction.entry(&direction.items[pass.from as usize]);
    let (first, here) = (direction.stations[0], direction.stations[pass.station as usize]);
    let delay = if pass.station == 0 { 0 } else { pace.between(first, here).center };
    let from = i64::from(entry.seq);
    let stream = (entry.ack, entry.mark);
    (entry.len() > 0).then_some(Piece { stream, time: pass.time - delay, from, to: from + i64::from(entry.len()), packet: at })
}

/// Whether ranges that overlap are views of the same bytes at different stations, and not bytes sent twice.
fn is_one_frame(chunk: &[Piece], packets: &[Packet]) -> bool {
    if chunk.windows(2).any(|w| (w[0].from, w[0].to) == (w[1].from, w[1].to)) {
        return false;
    }
    // How far each station's ranges reach so far.
    let mut reached: Vec<(u32, i64)> = Vec::new();
    for piece in chunk {
        for pass in &packets[piece.packet].passes {
            match reached.iter_mut().find(|(station, _)| *station == pass.station) {
                Some((_, end)) if *end > piece.from => return false,
                Some((_, end)) => *end = piece.to,
                None => reached.push((pass.station, piece.to)),
            }
        }
    }
    // Cutting counts the IP-ID up from that of the whole; merging keeps the first.
    let bytes = chunk.iter().map(|p| p.to).max().unwrap_or(0) - chunk[0].from;
    let most = 64 + bytes / 500;
    let base = packets[chunk[0].packet].id();
    let fits = |p: &Piece| match packets[p.packet].id() {
        0 => true,
        id => base == 0 || i64::from(id.wrapping_sub(base)) <= most,
    };
    chunk.iter().all(fits)
}

fn put_together(chunk: &[Piece], packets: &mut [Packet]) {
    let mut passes = Vec::new();
    for piece in chunk {
        passes.append(&mut packets[piece.packet].passes);
    }
    passes.sort_by_key(|pass| pass.station);
    packets[chunk[0].packet] = Packet { passes, pieces: true };
}
