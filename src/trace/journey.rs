//! Every packet's way, for those who ask for it (`trace --packets`).

use super::assemble::Assembler;
use super::flow::Way;
use super::journal::{ByFlow, Entry, Journal};
use super::pace::{Learner, Pace};
use super::pairing::{Direction, Packet, Station};
use super::path::{Rewrite, Shape, rewrites};
use super::segments;
use super::transit::course;

/// One packet, at each place where it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journey {
    /// Number of its flow.
    pub flow: u32,
    /// Its direction.
    pub way: Way,
    /// Where it was seen, in the order travelled. Where one station saw it whole and another in pieces (segmentation offload), the pieces
    /// stand in the order of their bytes.
    pub sightings: Vec<Sighting>,
    /// Where a bridge flooded it to hosts that it was not for.
    pub flooded: Vec<Sighting>,
    /// What changed on the way, each once.
    pub rewrites: Vec<Rewrite>,
}

/// A packet at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Number of the capture point.
    pub point: u32,
    /// Frame number there.
    pub frame: u64,
    /// Which part of the packet this frame has; `None`: all of it.
    pub part: Option<Part>,
}

/// A part of a packet's payload, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins.
    pub offset: u32,
    /// How long it is.
    pub len: u32,
}

/// Flows that are learned from, at most.
const LESSONS: usize = 20_000;

/// The journeys of all packets: flow by flow, and in each flow in the order of time.
pub(super) fn journeys<'a>(journal: &'a Journal, assembler: &'a Assembler) -> impl Iterator<Item = Journey> + 'a {
    let packets = journal.by_flow(assembler);
    let flows = if journal.wanted() { assembler.store.flows() as u32 } else { 0 };
    let mut learner = Learner::default();
    for flow in (0..flows).step_by((flows as usize).div_ceil(LESSONS).max(1)) {
        for guide in guides(assembler, flow) {
            guide.direction(journal, assembler, &packets).teach(&mut learner);
        }
    }
    let pace = learner.finish();
    (0..flows).flat_map(move |flow| {
        let mut found = Vec::new();
        for guide in guides(assembler, flow) {
            guide.journeys(&guide.direction(journal, assembler, &packets), &pace, &mut found);
        }
        found.sort_by_key(|(time, _)| *time);
        found.into_iter().map(|(_, journey)| journey)
    })
}

/// The stations of one direction of a flow.
struct Guide {
    flow: u32,
    request: bool,
    tcp: bool,
    /// Each leg with its station.
    legs: Vec<(u32, u32)>,
    stations: Vec<Station>,
    shapes: Vec<Shape>,
    /// Stations from here on saw flooded frames.
    flooded: usize,
}

fn guides(assembler: &Assembler, flow: u32) -> [Guide; 2] {
    let store = &assembler.store;
    let tcp = store.conversation(store.members(flow)[0]).tuple.protocol() == 6;
    let (request, reply) = store.spots(flow);
    [(request, true), (reply, false)].map(|(spots, request)| {
        let way = course(store, &assembler.topology, &assembler.places, &spots);
        let mut passed: Vec<_> = way.main.iter().chain(&way.strays).flat_map(|transit| transit.spots.iter().copied()).collect();
        let flooded = passed.len();
        passed.extend(spots.iter().filter(|spot| assembler.places[spot.wire as usize].bystander).copied());
        let shape = |spot: &super::store::Spot| {
            let (wire, tuple) = (store.wire(spot.wire), store.addresses.expand(spot.tuple));
            Shape {
                src_mac: wire.src,
                dst_mac: wire.dst,
                vlans: wire.vlans,
                src: tuple.src,
                dst: tuple.dst,
                ttl: spot.ttl,
                outer: wire.tunnel,
                mss: (spot.mss != 0).then_some(spot.mss),
                toa: false,
            }
        };
        let mut guide = Guide { flow, request, tcp, legs: Vec::new(), stations: Vec::new(), shapes: Vec::new(), flooded: usize::MAX };
        let mut tuples = Vec::new();
        for (number, spot) in passed.iter().enumerate() {
            // Two legs of one wire are one station: a connection that was taken for two.
            let known = guide.stations.iter().zip(&tuples).position(|(s, tuple)| s.wire == spot.wire && *tuple == spot.tuple);
            let station = known.unwrap_or_else(|| {
                if number >= flooded {
                    guide.flooded = guide.flooded.min(guide.stations.len());
                }
                guide.stations.push(Station { wire: spot.wire, point: spot.point });
                guide.shapes.push(shape(spot));
                tuples.push(spot.tuple);
                guide.stations.len() - 1
            });
            guide.legs.push((spot.leg, station as u32));
        }
        guide.legs.sort_unstable();
        guide
    })
}

/// A sighting with what puts it in its place.
struct Placed {
    sighting: Sighting,
    station: usize,
    seq: u32,
    time: i64,
    shape: Shape,
}

impl Guide {
    fn direction<'a>(&'a self, journal: &'a Journal, assembler: &Assembler, packets: &ByFlow) -> Direction<'a> {
        Direction::new(journal, &self.stations, &self.legs, &assembler.topology, packets.of(self.flow, self.request), self.tcp)
    }

    /// Adds the journeys of this direction, each with its time.
    fn journeys(&self, direction: &Direction<'_>, pace: &Pace, found: &mut Vec<(i64, Journey)>) {
        let mut packets = direction.packets(pace);
        if self.tcp {
            segments::merge(direction, pace, &mut packets);
        }
        found.extend(packets.iter().filter_map(|packet| self.journey(direction, packet)));
    }

    fn journey(&self, direction: &Direction<'_>, packet: &Packet) -> Option<(i64, Journey)> {
        let time = packet.passes.first()?.time;
        let items = || packet.passes.iter().flat_map(|pass| &direction.items[pass.from as usize..pass.to as usize]);
        let entries = || items().map(|item| direction.entry(item));
        // The piece that begins first is the one before which no other begins.
        let first = entries().map(|entry| entry.seq).reduce(|a, b| if b.wrapping_sub(a).cast_signed() < 0 { b } else { a })?;
        let whole = entries().map(|entry| entry.seq.wrapping_sub(first) + entry.len()).max()?;
        let mut all: Vec<Placed> = items()
            .map(|item| {
                let (entry, station) = (direction.entry(item), item.station as usize);
                let (offset, len) = (entry.seq.wrapping_sub(first), entry.len());
                let part = (packet.pieces && len != whole).then_some(Part { offset, len });
                let sighting = Sighting { point: self.stations[station].point, frame: entry.frame.into(), part };
                Placed { sighting, station, seq: offset, time: item.time, shape: self.shape(station, entry) }
            })
            .collect();
        all.sort_by_key(|p| (p.station >= self.flooded, std::cmp::Reverse(p.shape.ttl), p.station, p.seq, p.time));
        let travelled = all.iter().filter(|p| p.station < self.flooded).count();
        let mut changes: Vec<Rewrite> = all[..travelled].windows(2).flat_map(|pair| self.changes(&pair[0], &pair[1])).collect();
        changes.sort_unstable();
        changes.dedup();
        let mut sightings: Vec<Sighting> = all.into_iter().map(|p| p.sighting).collect();
        // A packet that nobody saw but those whom it did not concern has no other way than that.
        let flooded = if travelled > 0 { sightings.split_off(travelled) } else { Vec::new() };
        let way = if self.request { Way::Request } else { Way::Reply };
        Some((time, Journey { flow: self.flow + 1, way, sightings, flooded, rewrites: changes }))
    }

    fn changes(&self, a: &Placed, b: &Placed) -> Vec<Rewrite> {
        let same = a.station == b.station && a.shape.ttl == b.shape.ttl;
        if same { Vec::new() } else { rewrites(&a.shape, &b.shape) }
    }

    /// The shape of one packet at a station.
    fn shape(&self, station: usize, entry: &Entry) -> Shape {
        let shape = self.shapes[station];
        let mss = shape.mss.filter(|_| entry.flags.has(crate::packet::TcpFlags::SYN));
        Shape { ttl: entry.ttl, mss, toa: entry.toa(), ..shape }
    }
}

#[cfg(test)]
mod tests {
    use super::super::natbox::{NatBox, Score, Sent, Weather, score};
    use super::*;
    use proptest::prelude::*;

    fn journeys(world: &mut NatBox) -> (Vec<Journey>, Score) {
        let (trace, truth) = world.trace(true);
        let journeys: Vec<Journey> = trace.journeys().collect();
        let score = score(&journeys, &truth);
        for clock in &trace.clocks {
            assert!((clock.offset.abs() - 400_000_000).abs() < 1_000_000, "{clock:?}");
        }
        (journeys, score)
    }

    fn day(weather: Weather, udp_only: bool) -> (Vec<Journey>, Score) {
        let mut world = NatBox::new(weather);
        for n in 0..40 {
            world.talk(udp_only || n % 4 == 3, 1 + n % 7);
        }
        journeys(&mut world)
    }

    /// Days on which something was wrong once: few packets on a wire, of which two looked like one; an IP-ID that was the same by chance.
    #[test]
    fn days_that_went_wrong() {
        let bad = [
            Weather { missed: 2, again: 1, ids: false, ..Weather::fair(12_756_638_987_057_537_027) },
            Weather { loss: 6, missed: 6, scrubs: true, ..Weather::fair(11_570_453_427_516_280_437) },
            Weather { loss: 3, again: 3, scrubs: true, ..Weather::fair(7_288_526_283_600_363_964) },
        ];
        for weather in bad {
            assert_eq!(day(weather, false).1.wrong, 0, "{weather:?}");
        }
    }

    #[test]
    fn a_fair_day() {
        let (journeys, score) = day(Weather::fair(1), false);
        assert_eq!(score, Score { found: journeys.len(), missed: 0, wrong: 0 });
        for journey in journeys {
            let points: Vec<u32> = journey.sightings.iter().map(|s| s.point).collect();
            let words: Vec<String> = journey.rewrites.iter().map(|r| r.to_string()).collect();
            match journey.way {
                Way::Request => assert_eq!((points, words.join(" ")), (vec![0, 1], "src-mac dst-mac dst-ip dst-port ttl".into())),
                Way::Reply => assert_eq!((points, words.join(" ")), (vec![1, 0], "src-mac dst-mac src-ip src-port ttl".into())),
            }
        }
    }

    #[test]
    fn nothing_is_kept_unasked() {
        let mut world = NatBox::new(Weather::fair(1));
        world.talk(false, 3);
        assert_eq!(world.trace(false).0.journeys().count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// The IP-ID tells: everything is found, whatever is lost, missed, sent again; but for a flow whose handshake one capture missed, and
        /// so much else that it stays in two.
        #[test]
        fn ip_ids_tell(seed in any::<u64>(), loss in 0u64..15, missed in 0u64..15, again in 0u64..15, timestamps in any::<bool>()) {
            let (_, score) = day(Weather { loss, missed, again, timestamps, ..Weather::fair(seed) }, false);
            prop_assert!(score.wrong == 0 && score.missed * 20 <= score.found && score.found > 100, "{score:?}");
        }

        /// No IP-IDs, as with IPv6: what is lost and sent again must not shift anything. A UDP flow of
        /// which both captures missed the beginning may stay in two.
        #[test]
        fn without_ip_ids(seed in any::<u64>(), loss in 0u64..8, missed in 0u64..8, again in 0u64..8, v6 in any::<bool>()) {
            let (_, score) = day(Weather { loss, missed, again, v6, ids: false, ..Weather::fair(seed) }, false);
            prop_assert!(score.wrong == 0 && score.missed * 10 <= score.found, "{score:?}");
        }

        /// A box that writes IP-IDs of its own.
        #[test]
        fn ip_ids_that_lie(seed in any::<u64>(), loss in 0u64..8, missed in 0u64..8, again in 0u64..8) {
            let (_, score) = day(Weather { loss, missed, again, scrubs: true, ..Weather::fair(seed) }, false);
            prop_assert!(score.wrong == 0 && score.missed * 10 <= score.found, "{score:?}");
        }

        /// Nothing but UDP; the clocks are told by those flows of which nothing was lost.
        #[test]
        fn datagrams(seed in any::<u64>(), loss in 0u64..15, missed in 0u64..15) {
            let (_, score) = day(Weather { loss, missed, ..Weather::fair(seed) }, true);
            prop_assert!(score.wrong == 0 && score.missed * 20 <= score.found, "{score:?}");
        }
    }

    /// Thousands of connections, of which many say the same, in bad weather: none is joined with another one's other side.
    #[test]
    fn none_is_joined_with_another() {
        let mut world = NatBox::new(Weather { loss: 5, missed: 2, again: 3, ..Weather::fair(5) });
        for n in 0..3000 {
            world.talk(n % 10 < 3, 2);
        }
        let (trace, _) = world.trace(false);
        let inside: std::collections::HashMap<_, _> = world.flows.iter().map(|(client, vip, rip)| ((*client, *vip), *rip)).collect();
        let mut joined = 0;
        for flow in trace.all_flows() {
            if let (Some(first), Some(last)) = (flow.request.hops.first(), flow.request.hops.last())
                && (first.point, last.point) == (0, 1)
            {
                assert_eq!(inside.get(&(first.src, first.dst)), Some(&last.dst), "{}", flow.client);
                joined += 1;
            }
        }
        assert!(joined >= 2900 && (2990..=3003).contains(&trace.flow_count()), "{joined} of 3000 joined, {} flows", trace.flow_count());
    }

    /// A server sends frames of 4 × 1000 bytes, which its network card cuts; the box merges some pairs again. Some pieces get lost.
    #[test]
    fn frames_cut_and_merged() {
        let mut world = NatBox::new(Weather::fair(7));
        for _ in 0..30 {
            world.talk(false, 2);
        }
        let flow = world.talk(false, 1);
        let data = |seq: u32, len: usize| Sent { way: Way::Reply, tcp: Some((seq, 77, 0x10)), payload: vec![1; len] };
        let at = world.now + 1_000_000_000;
        let first = 1 << 20;
        for n in 0..20u32 {
            let (seq, at, id) = (n * 4000, at + i64::from(n) * 3_000_000, 30_000 + 4 * n as u16);
            let whole = world.plain_frame(flow, at, &data(seq, 4000), 1, id);
            world.put(1, at, first + n as usize, whole);
            let pieces: &[(u32, usize)] = if n % 3 == 0 { &[(0, 1000), (1000, 1000), (2000, 2000)] } else { &[(0, 2000), (2000, 1000)] };
            for (offset, len) in pieces {
                let piece = world.plain_frame(flow, at, &data(seq + offset, *len), 0, id + (offset / 1000) as u16);
                world.put(0, at + 60_000 + i64::from(*offset), first + n as usize, piece);
            }
        }
        let (journeys, score) = journeys(&mut world);
        assert_eq!((score.missed, score.wrong), (0, 0));
        let parts: Vec<Vec<Option<(u32, u32)>>> = journeys
            .iter()
            .filter(|j| j.sightings.len() > 2)
            .map(|j| j.sightings.iter().map(|s| s.part.map(|p| (p.offset, p.len))).collect())
            .collect();
        assert_eq!(parts.len(), 20);
        assert_eq!(parts[0], [None, Some((0, 1000)), Some((1000, 1000)), Some((2000, 2000))]);
        assert_eq!(parts[1], [None, Some((0, 2000)), Some((2000, 1000))]);
    }

    /// A frame that the capture has twice: one packet, two sightings at that point.
    #[test]
    fn the_same_frame_twice() {
        let mut world = NatBox::new(Weather::fair(9));
        for _ in 0..10 {
            world.talk(false, 2);
        }
        let flow = world.talk(true, 3);
        let word = Sent { way: Way::Request, tcp: None, payload: b"again".to_vec() };
        let at = world.now + 1_000_000_000;
        for n in 0..5i64 {
            let (outside, inside) =
                (world.plain_frame(flow, at, &word, 0, 500 + n as u16), world.plain_frame(flow, at, &word, 1, 500 + n as u16));
            let (time, packet) = (at + n * 400_000, 9000 + n as usize);
            world.put(0, time, packet, outside.clone());
            world.put(0, time + 3_000, packet, outside);
            world.put(1, time + 40_000, packet, inside);
        }
        let (journeys, score) = journeys(&mut world);
        assert_eq!((score.missed, score.wrong), (0, 0));
        let twice: Vec<Vec<u32>> =
            journeys.iter().filter(|j| j.sightings.len() == 3).map(|j| j.sightings.iter().map(|s| s.point).collect()).collect();
        assert_eq!(twice, vec![vec![0, 0, 1]; 5]);
    }

    /// The same datagram every 10 ms without IP-IDs: only the clock tells, and a loss must not shift the rest.
    #[test]
    fn heartbeats() {
        let weather = Weather { v6: true, ids: false, loss: 10, missed: 10, ..Weather::fair(11) };
        let mut world = NatBox::new(weather);
        for _ in 0..30 {
            world.talk(false, 2);
        }
        let flow = world.flow(true);
        let at = world.now + 1_000_000_000;
        for n in 0..500i64 {
            let way = if n % 10 == 9 { Way::Reply } else { Way::Request };
            world.send(flow, at + n * 10_000_000, &Sent { way, tcp: None, payload: b"alive".to_vec() });
        }
        let (_, score) = journeys(&mut world);
        assert!(score.wrong == 0 && score.missed == 0, "{score:?}");
    }
}
