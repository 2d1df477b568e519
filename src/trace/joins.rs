//! What belongs together and what only looks so: conversations of a few packets, as captures on both sides of a forwarder show them.

use super::{NoteKind, Options, Source, Trace, Tracer};
use crate::net::{Endpoint, MacAddr, Timestamp};
use crate::packet::build::{IpFields, TcpFields, ethernet, ip, syn_options, tcp, udp};
use crate::packet::{Frame, LinkType, TcpFlags};

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

/// What a packet has beside its addresses.
#[derive(Clone, Copy)]
struct Word<'a> {
    ttl: u8,
    id: u16,
    /// Sequence and acknowledgement number and flags; `None`: UDP.
    tcp: Option<(u32, u32, u8)>,
    options: &'a [u8],
    says: &'a [u8],
}

const PLAIN: Word<'static> = Word { ttl: 64, id: 0, tcp: None, options: &[], says: &[] };

fn segment(seq: u32, ack: u32, flags: u8) -> Word<'static> {
    Word { tcp: Some((seq, ack, flags)), ..PLAIN }
}

/// Captures on a forwarder's outer (0) and inner (1) interface.
struct Scene {
    link_type: LinkType,
    now: i64,
    frames: Vec<(i64, u32, Vec<u8>)>,
}

impl Scene {
    fn new() -> Self {
        Scene { link_type: LinkType::ETHERNET, now: 1_700_000_000_000_000_000, frames: Vec::new() }
    }

    fn wait(&mut self, seconds: i64) {
        self.now += seconds * 1_000_000_000;
    }

    /// A packet at a point, from one MAC (by its last byte) to another.
    fn see(&mut self, point: u32, macs: (u8, u8), src: &str, dst: &str, word: Word<'_>) {
        let (src, dst): (Endpoint, Endpoint) = (src.parse().expect("an endpoint"), dst.parse().expect("an endpoint"));
        let (protocol, segment) = match word.tcp {
            Some((seq, ack, flags)) => {
                (6, tcp(src, dst, &TcpFields { seq, ack, flags: TcpFlags(flags), options: word.options }, word.says))
            }
            None => (17, udp(src, dst, word.says)),
        };
        let packet = ip(src.addr, dst.addr, protocol, IpFields { ttl: word.ttl, id: word.id, flags: 0x4000 }, &segment);
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let frame = if self.link_type == LinkType::RAW { packet } else { ethernet(mac(macs.0), mac(macs.1), &[], &packet) };
        self.now += 50_000;
        self.frames.push((self.now, point, frame));
    }

    fn trace(&self) -> Trace {
        let mut tracer = Tracer::new(Options::default());
        for (file, name) in ["box.outer.pcap", "box.inner.pcap"].into_iter().enumerate() {
            tracer.point(&Source {
                file,
                file_name: name.into(),
                given: None,
                interface_name: None,
                one_of_several: false,
                part: false,
                link_type: self.link_type,
                snap_len: 0,
            });
        }
        let mut numbers = [0; 2];
        for (time, point, bytes) in &self.frames {
            numbers[*point as usize] += 1;
            let (time, number, wire_len) = (Timestamp(*time), numbers[*point as usize], bytes.len() as u32);
            let frame = Frame { bytes, wire_len, link_type: self.link_type, time, number, interface: 0, heading: None };
            tracer.observe(*point, &frame);
        }
        tracer.finish()
    }

    /// The flows, each with client and service, and the destinations that its requests had on the way.
    fn flows(&self) -> Vec<String> {
        let trace = self.trace();
        let mut told: Vec<String> = Vec::new();
        for flow in trace.all_flows() {
            let mut way: Vec<String> = Vec::new();
            for hop in flow.request.hops.iter().chain(&flow.request.strays) {
                let dst = hop.dst.to_string();
                if !way.contains(&dst) {
                    way.push(dst);
                }
            }
            told.push(format!("{} > {}: {}", flow.client, flow.service, way.join(" ")));
        }
        told.sort();
        told
    }
}

const CLIENT: &str = "198.51.100.7:40001";
const VIP: &str = "203.0.113.10:80";
const RIP: &str = "10.0.0.11:8080";

/// Clients that ask a server the same, as health checks do, are several.
#[test]
fn the_same_words_of_several_clients() {
    let mut scene = Scene::new();
    for round in [&b"ping 1"[..], b"ping 2", b"ping 3", b"ping 4"] {
        scene.wait(1);
        for client in 1..=3u8 {
            scene.see(0, (client, 9), &format!("10.0.0.{client}:5000"), "10.0.0.53:53", Word { says: round, ..PLAIN });
        }
    }
    assert_eq!(scene.flows().len(), 3, "{:?}", scene.flows());
}

/// An initial number that two connections of one client have by chance; each has its own answer.
#[test]
fn the_same_number_by_chance() {
    let options = syn_options(1460, 77, 0);
    let mut scene = Scene::new();
    for (point, macs, port, server, isn) in [(0, (1, 2), 40001, VIP, 5000), (1, (3, 4), 40002, RIP, 900_000)] {
        let client = format!("198.51.100.7:{port}");
        scene.see(point, macs, &client, server, Word { options: &options, ..segment(1000, 0, SYN) });
        scene.see(point, (macs.1, macs.0), server, &client, segment(isn, 1001, SYN_ACK));
        scene.see(point, macs, &client, server, segment(1001, isn + 1, ACK));
    }
    assert_eq!(scene.flows(), [format!("198.51.100.7:40001 > {VIP}: {VIP}"), format!("198.51.100.7:40002 > {RIP}: {RIP}")]);
}

/// A tunnel device shows no MACs: a packet comes and goes on one wire, and only its TTL tells that it was handed on.
#[test]
fn one_wire_before_and_after() {
    let mut scene = Scene { link_type: LinkType::RAW, ..Scene::new() };
    for (ttl, server) in [(64, VIP), (63, RIP)] {
        scene.see(0, (0, 0), CLIENT, server, Word { ttl, id: 7, ..segment(1000, 0, SYN) });
    }
    assert_eq!(scene.flows(), [format!("{CLIENT} > {VIP}: {VIP} {RIP}")]);
    // Two connections that the client opens side by side have one TTL.
    let mut scene = Scene { link_type: LinkType::RAW, ..Scene::new() };
    for server in [VIP, RIP] {
        scene.see(0, (0, 0), CLIENT, server, Word { id: 7, ..segment(1000, 0, SYN) });
    }
    assert_eq!(scene.flows().len(), 2);
}

/// The real server answers past the translator; the client, which never asked that address, resets it. That is the same connection.
#[test]
fn the_reset_of_a_strange_answer() {
    let mut scene = Scene::new();
    scene.see(0, (1, 2), CLIENT, VIP, Word { id: 7, ..segment(1000, 0, SYN) });
    scene.see(0, (5, 1), RIP, CLIENT, segment(5000, 1001, SYN_ACK));
    scene.see(0, (1, 2), CLIENT, RIP, segment(1001, 0, RST));
    scene.see(0, (1, 2), CLIENT, VIP, Word { id: 8, ..segment(1000, 0, SYN) });
    let flows = scene.flows();
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert!(flows[0].starts_with(&format!("{CLIENT} > {VIP}")), "{flows:?}");
}

/// Both captures begin in the middle. The outer one begins with a question, the inner one with its answer: who was seen asking first is
/// believed, whatever the order of the conversations.
#[test]
fn who_asks_in_the_middle() {
    let mut scene = Scene::new();
    let question = Word { id: 7, says: b"question", ..segment(1001, 5001, ACK | 8) };
    let answers = [
        Word { id: 70, says: b"answer", ..segment(5001, 1009, ACK | 8) },
        Word { id: 71, says: b"and more", ..segment(5007, 1009, ACK | 8) },
    ];
    scene.see(0, (1, 2), CLIENT, VIP, question);
    for answer in answers {
        scene.see(1, (4, 3), RIP, CLIENT, answer);
        scene.see(0, (2, 1), VIP, CLIENT, Word { ttl: 63, ..answer });
    }
    let flows = scene.flows();
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert!(flows[0].starts_with(&format!("{CLIENT} > {VIP}")), "{flows:?}");
}

/// One capture ends where the other begins: the stretches of bytes are near each other, or they belong to two connections.
#[test]
fn one_after_the_other() {
    for (gap, flows) in [(900, 1), (70_000, 2), (1 << 30, 2)] {
        let mut scene = Scene::new();
        let mut talk = |point, macs: (u8, u8), server, from: u32| {
            for at in [from, from + 100] {
                scene.see(point, macs, CLIENT, server, Word { id: at as u16, says: &[1; 100], ..segment(at, at + 7, ACK | 8) });
                scene.see(point, (macs.1, macs.0), server, CLIENT, Word { says: &[2; 100], ..segment(at + 7, at + 100, ACK | 8) });
            }
        };
        talk(0, (1, 2), VIP, 10_000);
        talk(1, (3, 4), RIP, 10_200 + gap);
        assert_eq!(scene.flows().len(), flows, "{gap}: {:?}", scene.flows());
    }
}

/// One direction alone is enough for two conversations that nobody else shares an end with; not where a service's end is all they have in common.
#[test]
fn half_of_a_conversation() {
    let half = |scene: &mut Scene, point, macs, client: &str, server: &str, from: u32| {
        for at in [from, from + 100] {
            scene.see(point, macs, client, server, Word { id: at as u16, says: &[1; 100], ..segment(at, 77, ACK | 8) });
        }
    };
    let mut scene = Scene::new();
    half(&mut scene, 0, (1, 2), CLIENT, VIP, 10_000);
    half(&mut scene, 1, (3, 4), CLIENT, RIP, 10_200);
    assert_eq!(scene.flows().len(), 1, "{:?}", scene.flows());
    let mut scene = Scene::new();
    half(&mut scene, 0, (1, 2), "198.51.100.7:40001", VIP, 10_000);
    half(&mut scene, 0, (5, 2), "198.51.100.8:40001", VIP, 10_200);
    half(&mut scene, 0, (6, 2), "198.51.100.9:40001", VIP, 900_000_000);
    assert_eq!(scene.flows().len(), 3, "{:?}", scene.flows());
}

/// A FULLNAT balancer tells the client's endpoint; an hour later another client may have it.
#[test]
fn a_port_told_long_after() {
    let toa = [254, 8, 0x9c, 0x41, 198, 51, 100, 7];
    for (pause, flows) in [(0, 1), (3600, 2)] {
        let mut scene = Scene::new();
        scene.see(0, (1, 2), CLIENT, VIP, Word { id: 7, ..segment(1000, 0, SYN) });
        scene.wait(pause);
        scene.see(1, (3, 4), "10.0.0.1:50001", RIP, Word { id: 9, options: &toa, ..segment(600_000, 0, SYN) });
        assert_eq!(scene.flows().len(), flows, "{pause}: {:?}", scene.flows());
    }
}

/// One payload and one IP-ID in common come about by chance, in a large capture.
#[test]
fn a_word_in_common() {
    let mut scene = Scene::new();
    scene.see(0, (1, 2), "198.51.100.7:40001", "203.0.113.10:53", Word { id: 7, says: b"version", ..PLAIN });
    scene.see(1, (3, 4), "192.0.2.9:40002", "10.0.0.11:53", Word { id: 7, says: b"version", ..PLAIN });
    assert_eq!(scene.flows().len(), 2, "{:?}", scene.flows());
}

/// What is noted of a connection's packets, and how often.
fn notes(scene: &Scene) -> Vec<(NoteKind, u32)> {
    let trace = scene.trace();
    trace.flows.iter().flat_map(|flow| &flow.notes).map(|note| (note.kind, note.len)).collect()
}

/// The same packet again on the same wire, two hops later: it goes round. With another IP-ID it was sent again, from further away.
#[test]
fn round_in_a_circle() {
    for (id, kind) in [(7, Some(NoteKind::Loop)), (8, None)] {
        let mut scene = Scene::new();
        scene.see(0, (1, 2), CLIENT, VIP, Word { id: 7, ..segment(1000, 0, SYN) });
        scene.see(0, (1, 2), CLIENT, VIP, Word { id, ttl: 62, ..segment(1000, 0, SYN) });
        assert_eq!(notes(&scene).iter().any(|(kind, _)| *kind == NoteKind::Loop), kind.is_some(), "{:?}", notes(&scene));
    }
}

/// A pause that is longer than some timeouts is noted with its length; a shorter one is none.
#[test]
fn after_a_silence() {
    for (pause, noted) in [(100, false), (150, true)] {
        let mut scene = Scene::new();
        scene.see(0, (1, 2), CLIENT, VIP, Word { id: 7, ..segment(1000, 0, SYN) });
        scene.see(0, (1, 2), CLIENT, VIP, Word { id: 8, ..segment(1001, 77, ACK) });
        scene.wait(pause);
        scene.see(0, (1, 2), CLIENT, VIP, Word { id: 9, says: b"still there?", ..segment(1001, 77, ACK | 8) });
        let silences: Vec<u32> = notes(&scene).into_iter().filter(|(kind, _)| *kind == NoteKind::AfterSilence).map(|(_, ms)| ms).collect();
        assert_eq!(silences.len(), usize::from(noted), "{pause}");
        assert!(silences.iter().all(|ms| (149_000..151_000).contains(ms)), "{silences:?}");
    }
}

/// A refusal alone tells who had asked, for it acknowledges a SYN.
#[test]
fn a_refusal_alone() {
    let mut scene = Scene::new();
    scene.see(0, (2, 1), VIP, CLIENT, segment(0, 1001, RST | ACK));
    let trace = scene.trace();
    assert_eq!((trace.flows[0].client.to_string(), trace.flows[0].isn.0), (CLIENT.to_string(), Some(1000)));
}

/// A capture that missed the SYN sees it sent again behind the first data: that is no new connection. A number far off is one.
#[test]
fn the_beginning_comes_late() {
    for (isn, flows) in [(1000, 1), (77_000_000, 2)] {
        let mut scene = Scene::new();
        scene.see(0, (1, 2), CLIENT, VIP, Word { id: 7, says: b"data", ..segment(1001, 77, ACK | 8) });
        scene.wait(1);
        scene.see(0, (1, 2), CLIENT, VIP, Word { id: 8, ..segment(isn, 0, SYN) });
        assert_eq!(scene.flows().len(), flows, "{isn}: {:?}", scene.flows());
    }
}

/// Of data that is sent again and again the first few are noted, and all are counted.
#[test]
fn many_repeats() {
    let mut scene = Scene::new();
    scene.see(0, (1, 2), CLIENT, VIP, Word { id: 7, ..segment(1000, 0, SYN) });
    for id in 0..9 {
        scene.wait(1);
        scene.see(0, (1, 2), CLIENT, VIP, Word { id: 100 + id, says: b"again", ..segment(1001, 77, ACK | 8) });
    }
    assert_eq!(notes(&scene).iter().filter(|(kind, _)| *kind == NoteKind::DataRepeat).count(), 4);
    assert_eq!(scene.trace().flows[0].request.hops[0].repeats, 8);
}

/// One connection by very many ways is an attack on memory: what is too much is counted, and nothing breaks.
#[test]
fn a_thousand_ways() {
    let mut scene = Scene::new();
    for n in 0..1000u32 {
        scene.see(0, ((n % 250) as u8 + 1, (n / 250) as u8 + 251), CLIENT, VIP, Word { id: n as u16, ..segment(1000, 0, SYN) });
    }
    let trace = scene.trace();
    assert_eq!((trace.flow_count(), trace.unplaced.values().sum::<u64>()), (1, 800));
}

/// A capture may say several times what it lost.
#[test]
fn losses_add_up() {
    let mut tracer = Tracer::new(Options::default());
    let point = tracer.point(&Source {
        file: 0,
        file_name: "a.pcap".into(),
        given: None,
        interface_name: None,
        one_of_several: false,
        part: false,
        link_type: LinkType::ETHERNET,
        snap_len: 0,
    });
    tracer.dropped(point, 3);
    tracer.dropped(point, 4);
    assert_eq!(tracer.finish().points[0].dropped, Some(7));
}
