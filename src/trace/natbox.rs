//! A NAT box that is captured on both sides, for tests: its packets are invented, so that it is known which frames show the same one.

use super::{Journey, Options, Source, Trace, Tracer, Way};
use crate::net::{Endpoint, MacAddr, Timestamp};
use crate::packet::build::{IpFields, TcpFields, ethernet, ip, syn_options, tcp, udp};
use crate::packet::{Frame, LinkType, TcpFlags};
use std::collections::{BTreeMap, BTreeSet};

/// How it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) seed: u64,
    /// Nanoseconds that the inner capture's clock is ahead.
    pub(super) ahead: i64,
    pub(super) v6: bool,
    /// Hosts count their IP-IDs; else all are 0.
    pub(super) ids: bool,
    pub(super) timestamps: bool,
    /// The box writes IP-IDs of its own.
    pub(super) scrubs: bool,
    /// Percent of packets that the box drops.
    pub(super) loss: u64,
    /// Percent of packets that a capture misses.
    pub(super) missed: u64,
    /// Percent of packets that are sent again.
    pub(super) again: u64,
}

impl Weather {
    pub(super) fn fair(seed: u64) -> Self {
        Weather { seed, ahead: 400_000_000, v6: false, ids: true, timestamps: true, scrubs: false, loss: 0, missed: 0, again: 0 }
    }
}

/// Mixes like splitmix64.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

/// What a host sends.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) way: Way,
    /// Sequence and acknowledgement number and flags; `None` for UDP.
    pub(super) tcp: Option<(u32, u32, u8)>,
    pub(super) payload: Vec<u8>,
}

/// The world: point 0 is outside of the box, point 1 inside.
pub(super) struct NatBox {
    weather: Weather,
    pub(super) dice: Dice,
    pub(super) now: i64,
    ids: [u16; 2],
    /// Time on the point's clock, point, packet, frame.
    frames: Vec<(i64, u32, usize, Vec<u8>)>,
    packets: usize,
    /// The tuples outside and inside of each flow.
    pub(super) flows: Vec<(Endpoint, Endpoint, Endpoint)>,
}

const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const INNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

impl NatBox {
    pub(super) fn new(weather: Weather) -> Self {
        let dice = Dice(weather.seed);
        NatBox { weather, dice, now: 1_700_000_000_000_000_000, ids: [1000, 2000], frames: Vec::new(), packets: 0, flows: Vec::new() }
    }

    /// A new connection: client, virtual service, real server.
    pub(super) fn flow(&mut self, udp: bool) -> usize {
        let n = self.flows.len() as u64;
        let server = 11 + self.dice.below(3);
        let port = 1024 + n % 60_000;
        let dialled = if udp { 53 } else { 80 };
        let (client, vip, rip) = if self.weather.v6 {
            (format!("[2001:db8::1:{:x}]:{port}", n / 60_000), format!("[2001:db8:1::100]:{dialled}"), format!("[fd00::{server}]:8080"))
        } else {
            (format!("198.51.100.{}:{port}", n / 60_000 + 1), format!("203.0.113.10:{dialled}"), format!("10.0.0.{server}:8080"))
        };
        self.flows.push((parse(&client), parse(&vip), parse(&rip)));
        self.flows.len() - 1
    }

    /// A packet of a flow, with the loss that the weather brings. `at` is the time at its sender.
    pub(super) fn send(&mut self, flow: usize, at: i64, sent: &Sent) {
        let packet = self.packets;
        self.packets += 1;
        let request = sent.way == Way::Request;
        let id = if self.weather.ids {
            let id = &mut self.ids[usize::from(!request)];
            *id = id.wrapping_add(1).max(1);
            *id
        } else {
            0
        };
        let lost = self.dice.percent(self.weather.loss);
        let arrival = at + 30_000 + self.dice.below(50_000) as i64;
        for (hop, point) in if request { [0, 1] } else { [1, 0] }.into_iter().enumerate() {
            if hop == 1 && lost {
                break;
            }
            let id = if hop == 1 && self.weather.scrubs { self.dice.below(65_535) as u16 + 1 } else { id };
            let frame = self.frame(flow, at, sent, point, id, 64 - hop as u8);
            let time = if hop == 0 { at } else { arrival } + if point == 1 { self.weather.ahead } else { 0 };
            if !self.dice.percent(self.weather.missed) {
                self.frames.push((time, point, packet, frame));
            }
        }
    }

    fn frame(&self, flow: usize, at: i64, sent: &Sent, point: u32, id: u16, ttl: u8) -> Vec<u8> {
        let (client, vip, rip) = self.flows[flow];
        let server_mac = MacAddr([2, 0, 0, 0, 1, if let std::net::IpAddr::V4(a) = rip.addr { a.octets()[3] } else { 9 }]);
        let request = sent.way == Way::Request;
        let server = if point == 0 { vip } else { rip };
        let macs = match (request, point) {
            (true, 0) => (CLIENT, OUTER),
            (true, _) => (INNER, server_mac),
            (false, 0) => (OUTER, CLIENT),
            (false, _) => (server_mac, INNER),
        };
        let (src, dst) = if request { (client, server) } else { (server, client) };
        let (protocol, segment) = match sent.tcp {
            Some((seq, ack, flags)) => {
                let stamp = (at / 1_000_000) as u32;
                let options = match (flags & 2 != 0, self.weather.timestamps) {
                    (true, true) => syn_options(1460, stamp, 0),
                    (true, false) => vec![2, 4, 5, 0xb4],
                    (false, true) => [&[1, 1, 8, 10], &stamp.to_be_bytes()[..], &[0; 4]].concat(),
                    (false, false) => Vec::new(),
                };
                (6, tcp(src, dst, &TcpFields { seq, ack, flags: TcpFlags(flags), options: &options }, &sent.payload))
            }
            None => (17, udp(src, dst, &sent.payload)),
        };
        ethernet(macs.0, macs.1, &[], &ip(src.addr, dst.addr, protocol, IpFields { ttl, id, flags: 0x4000 }, &segment))
    }

    /// Puts a frame of an own making into the captures, as packet number `packet`.
    pub(super) fn put(&mut self, point: u32, time: i64, packet: usize, frame: Vec<u8>) {
        self.packets = self.packets.max(packet + 1);
        self.frames.push((time + if point == 1 { self.weather.ahead } else { 0 }, point, packet, frame));
    }

    /// A frame of a flow as it would be at `point`, to be [`NatBox::put`] there.
    pub(super) fn plain_frame(&self, flow: usize, at: i64, sent: &Sent, point: u32, id: u16) -> Vec<u8> {
        let first = (sent.way == Way::Request) == (point == 0);
        self.frame(flow, at, sent, point, id, if first { 64 } else { 63 })
    }

    /// A whole connection, of `exchanges` questions with their answers.
    pub(super) fn talk(&mut self, is_udp: bool, exchanges: u64) -> usize {
        let flow = self.flow(is_udp);
        let mut at = self.now;
        let pause = |dice: &mut Dice| 300_000 + dice.below(2_000_000) as i64;
        let (mut c, mut s) = (self.dice.below(1 << 32) as u32, self.dice.below(1 << 32) as u32);
        let mut all: Vec<Sent> = Vec::new();
        let segment = |way, seq, ack, flags, payload: Vec<u8>| Sent { way, tcp: Some((seq, ack, flags)), payload };
        if !is_udp {
            all.push(segment(Way::Request, c, 0, 2, vec![]));
            all.push(segment(Way::Reply, s, c.wrapping_add(1), 0x12, vec![]));
            (c, s) = (c.wrapping_add(1), s.wrapping_add(1));
            all.push(segment(Way::Request, c, s, 0x10, vec![]));
        }
        for n in 0..exchanges {
            // Some say the same thing again and again.
            let word = if self.dice.percent(30) { 0 } else { n as u8 };
            let (question, answer) = (vec![word; 20 + word as usize], vec![word ^ 0x55; 30 + word as usize]);
            if is_udp {
                all.push(Sent { way: Way::Request, tcp: None, payload: question });
                all.push(Sent { way: Way::Reply, tcp: None, payload: answer });
                continue;
            }
            let asked = c.wrapping_add(question.len() as u32);
            let answered = s.wrapping_add(answer.len() as u32);
            all.push(segment(Way::Request, c, s, 0x18, question));
            all.push(segment(Way::Reply, s, asked, 0x10, vec![]));
            all.push(segment(Way::Reply, s, asked, 0x18, answer));
            all.push(segment(Way::Request, asked, answered, 0x10, vec![]));
            (c, s) = (asked, answered);
        }
        if !is_udp {
            all.push(segment(Way::Request, c, s, 0x11, vec![]));
            all.push(segment(Way::Reply, s, c.wrapping_add(1), 0x11, vec![]));
            all.push(segment(Way::Request, c.wrapping_add(1), s.wrapping_add(1), 0x10, vec![]));
        }
        let again = self.weather.again;
        let mut repeats: Vec<(i64, Sent)> = Vec::new();
        for sent in &all {
            at += pause(&mut self.dice);
            let (due, later): (Vec<_>, Vec<_>) = repeats.into_iter().partition(|(when, _)| *when <= at);
            repeats = later;
            for (when, sent) in due {
                self.send(flow, when, &sent);
            }
            self.send(flow, at, sent);
            let mut wait = 200_000_000 + self.dice.below(20_000_000) as i64;
            while self.dice.percent(again) {
                repeats.push((at + wait, sent.clone()));
                wait *= 3;
            }
        }
        repeats.sort_by_key(|(when, _)| *when);
        for (when, sent) in repeats {
            self.send(flow, when, &sent);
        }
        self.now += pause(&mut self.dice) / 10;
        flow
    }

    /// Both captures traced, and for each frame (point, number) the packet that it shows.
    pub(super) fn trace(&mut self, packets: bool) -> (Trace, BTreeMap<(u32, u64), usize>) {
        self.frames.sort_by_key(|(time, point, packet, _)| (*time, *point, *packet));
        let mut tracer = Tracer::new(Options { packets, ..Options::default() });
        for (file, name) in ["box.outer.pcap", "box.inner.pcap"].into_iter().enumerate() {
            tracer.point(&Source {
                file,
                file_name: name.into(),
                given: None,
                interface_name: None,
                one_of_several: false,
                part: false,
                link_type: LinkType::ETHERNET,
                snap_len: 0,
            });
        }
        let (mut numbers, mut truth) = ([0u64; 2], BTreeMap::new());
        for (time, point, packet, bytes) in &self.frames {
            let number = &mut numbers[*point as usize];
            *number += 1;
            truth.insert((*point, *number), *packet);
            let frame = Frame { time: Timestamp(*time), number: *number, ..Frame::whole(LinkType::ETHERNET, bytes) };
            tracer.observe(*point, &frame);
        }
        (tracer.finish(), truth)
    }
}

fn parse(endpoint: &str) -> Endpoint {
    endpoint.parse().expect("an endpoint")
}

/// How journeys compare with the truth.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Score {
    /// Packets seen at several places, and all of these in one journey.
    pub(super) found: usize,
    /// Packets of which a sighting is missing in the journey.
    pub(super) missed: usize,
    /// Journeys that mix packets.
    pub(super) wrong: usize,
}

pub(super) fn score(journeys: &[Journey], truth: &BTreeMap<(u32, u64), usize>) -> Score {
    let mut score = Score::default();
    let mut copies: BTreeMap<usize, usize> = BTreeMap::new();
    for packet in truth.values() {
        *copies.entry(*packet).or_insert(0) += 1;
    }
    let mut seen = BTreeSet::new();
    for journey in journeys {
        let shown: BTreeSet<usize> = journey.sightings.iter().map(|s| truth[&(s.point, s.frame)]).collect();
        for sighting in &journey.sightings {
            assert!(seen.insert((sighting.point, sighting.frame)), "in two journeys: {sighting:?}");
        }
        match shown.iter().next() {
            Some(packet) if shown.len() == 1 => match copies[packet] {
                1 => {}
                n if n == journey.sightings.len() => score.found += 1,
                _ => score.missed += 1,
            },
            _ => score.wrong += 1,
        }
    }
    assert_eq!(seen.len(), truth.len(), "each frame is in a journey");
    score
}
