//! Packets in, one by one: each is placed, or counted with the reason why not.

use super::batch::Batch;
use super::claims::{At, Claims, Occurrences};
use super::clock::LATEST;
use super::correlate;
use super::error::{ErrorSeen, Errors};
use super::journal::{Journal, segment_mark};
use super::live::leg_hash;
use super::point::{Points, Source};
use super::sample::{PER_CONVERSATION, Sample, Samples, echo_key, handshake_key, midstream_key, payload_digest, syn_signature};
use super::table::{Known, Look, NONE, Sighting, Table, gate};
use super::tuple::{AddressBook, CompactEndpoint, Tuple};
use super::wire::Wires;
use super::{Options, Trace};
use crate::net::{FiveTuple, Protocol, Timestamp};
use crate::packet::{
    ChecksumState, Frame, Icmp, IcmpKind, Ip, LinkType, Network, Packet, StopReason, TcpFlags, TcpOptions, Transport, checksum_state,
    dissect,
};
use hashbrown::HashMap;
use std::collections::BTreeMap;

/// Builds a [`Trace`] from packets in the order of their (raw) times.
#[derive(Clone)]
pub struct Tracer {
    pub(super) options: Options,
    pub(super) points: Points,
    pub(super) addresses: AddressBook,
    pub(super) wires: Wires,
    pub(super) table: Table,
    pub(super) samples: Samples,
    pub(super) claims: Claims,
    pub(super) errors: Errors,
    pub(super) journal: Journal,
    /// The client that a FULLNAT balancer named in a TCP option, by conversation.
    pub(super) told_clients: HashMap<u32, CompactEndpoint>,
    /// Packets that belong to no connection, by reason.
    pub(super) unplaced: BTreeMap<String, u64>,
    /// Frames at each point whose checksum was left to the network card.
    pub(super) unfinished: BTreeMap<u32, Occurrences>,
    fragments: Fragments,
    pub(super) packets: u64,
    pub(super) batch: Batch,
}

/// What a close look at a packet shows.
#[derive(Default)]
pub(super) struct Features {
    pub(super) options: TcpOptions,
    pub(super) window: u16,
    /// Digest of its payload, where enough of it was captured.
    pub(super) digest: Option<u64>,
    pub(super) echo: Option<(bool, u16, u16)>,
    /// The checksum was left to the network card.
    pub(super) unfinished: bool,
    /// [`segment_mark`] of a TCP segment, when every packet is kept.
    pub(super) mark: u32,
}

impl Features {
    fn of_packet(packet: &Packet<'_>, marked: bool) -> Self {
        let (options, window, mark) = match &packet.transport {
            Transport::Tcp(tcp) => (tcp.options(), tcp.window, if marked { segment_mark(tcp.window, tcp.option_bytes) } else { 0 }),
            _ => (TcpOptions::default(), 0, 0),
        };
        let echo = match &packet.transport {
            Transport::Icmp(Icmp { kind: IcmpKind::Echo { reply, id, seq }, .. }) => Some((*reply, *id, *seq)),
            _ => None,
        };
        let digest = payload_digest(packet.payload, packet.payload_len);
        Features { options, window, digest, echo, unfinished: checksum_state(packet) == ChecksumState::Partial, mark }
    }
}

impl Tracer {
    /// An empty trace.
    pub fn new(options: Options) -> Self {
        Tracer {
            table: Table::new(options.max_connections),
            journal: Journal::new(options.packets),
            options,
            points: Points::default(),
            addresses: AddressBook::default(),
            wires: Wires::default(),
            samples: Samples::default(),
            claims: Claims::default(),
            errors: Errors::default(),
            told_clients: HashMap::new(),
            unplaced: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            fragments: Fragments::default(),
            packets: 0,
            batch: Batch::default(),
        }
    }

    /// Makes a capture point known, and gives its number.
    pub fn point(&mut self, source: &Source) -> u32 {
        self.points.add(source)
    }

    /// Says how many packets the capture itself lost at a point.
    pub fn dropped(&mut self, point: u32, packets: u64) {
        if let Some(point) = self.points.points.get_mut(point as usize) {
            point.dropped = Some(point.dropped.unwrap_or(0) + packets);
        }
    }

    #[cold]
    pub(super) fn not_plain(&mut self, mut point: u32, frame: &Frame<'_>) {
        if frame.link_type == LinkType::LINUX_SLL2
            && let Some(index) = frame.bytes.get(4..8).and_then(|b| b.first_chunk::<4>())
        {
            point = self.points.of_interface_index(point, u32::from_be_bytes(*index));
        }
        let at = At { point, frame: frame.number, time: when(frame) };
        self.points.saw(point, at.time);
        self.look_up();
        self.dissected(at, frame, &dissect(frame));
    }

    fn dissected(&mut self, at: At, frame: &Frame<'_>, packet: &Packet<'_>) {
        let wire = self.wires.of_packet(at.point, &packet.link, frame.heading, &packet.tunnels);
        self.wires.count(wire);
        match &packet.network {
            Network::Arp(arp) => self.claims.arp(at, arp, packet.link.dst),
            Network::Ip(ip) => self.ip_packet(at, wire, packet, ip),
            Network::None => self.not_understood(at, packet),
        }
    }

    fn ip_packet(&mut self, at: At, wire: u32, packet: &Packet<'_>, ip: &Ip) {
        let mut tuple = match packet.five_tuple() {
            Some(tuple) => tuple,
            None => return self.unplaced("no IP packet"),
        };
        let mut sighting = Sighting {
            tuple: Tuple::default(),
            wire,
            hash: 0,
            time: at.time.0,
            frame: narrow(at.frame),
            seq: 0,
            ack: 0,
            flags: TcpFlags(0),
            payload_len: packet.payload_len,
            ttl: ip.ttl,
            id: ip.id as u16,
            gate: 0,
        };
        match &packet.transport {
            Transport::Tcp(tcp) => (sighting.seq, sighting.ack, sighting.flags) = (tcp.seq, tcp.ack, tcp.flags),
            Transport::Udp(_) => {}
            Transport::Sctp(sctp) => {
                let initiate = sctp.initiate_tag.unwrap_or(0);
                (sighting.seq, sighting.ack, sighting.flags) = match sctp.chunk {
                    Some(1) => (initiate, 0, TcpFlags::SYN),
                    Some(2) => (initiate, sctp.tag.wrapping_add(1), TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0)),
                    Some(6) => (0, 0, TcpFlags::RST),
                    Some(7 | 8 | 14) => (0, 0, TcpFlags::FIN),
                    _ => (0, 0, TcpFlags(0)),
                };
            }
            Transport::Icmp(icmp) if icmp.is_error() => return self.icmp_error(at, wire, icmp, ip),
            Transport::Icmp(icmp) if icmp.echo().is_some() => {}
            Transport::Icmp(icmp) => {
                self.claims.neighbour(at, icmp.kind, ip.src, ip.dst, (packet.link.src, packet.link.dst));
                if icmp.kind == IcmpKind::Other {
                    self.unplaced("other ICMP messages");
                }
                return;
            }
            Transport::Vrrp(vrrp) => return self.claims.vrrp(at, packet.link.src, ip.src, vrrp),
            // Ports without flags would make a SYN look like data.
            Transport::Ports { .. } => {
                self.points.cut(at.point);
                return self.unplaced("cut short inside the transport header");
            }
            Transport::None => match ip.fragment {
                Some(part) if part.offset > 0 => match self.fragments.whole(ip) {
                    Some(ports) => (tuple.src.port, tuple.dst.port) = ports,
                    None => return self.unplaced("fragments whose first part is missing"),
                },
                _ if packet.stop.is_some() => return self.not_understood(at, packet),
                _ => return self.unplaced(&format!("IP protocol {}", ip.protocol)),
            },
        }
        if ip.fragment.is_some_and(|part| part.offset == 0) {
            self.fragments.first(ip, (tuple.src.port, tuple.dst.port));
        }
        sighting.tuple = self.addresses.compact(tuple);
        sighting.hash = leg_hash(sighting.tuple, wire);
        let odd_options = matches!(&packet.transport, Transport::Tcp(tcp) if tcp.option_bytes.len() > 12);
        sighting.gate = gate(sighting.ttl, sighting.flags, odd_options);
        match self.table.see(&sighting) {
            Look::Done if !self.journal.wanted() => {}
            look => self.closer(look, &sighting, &Features::of_packet(packet, self.journal.wanted())),
        }
    }

    fn not_understood(&mut self, at: At, packet: &Packet<'_>) {
        if packet.stop.is_some_and(|stop| stop.reason == StopReason::Truncated) {
            self.points.cut(at.point);
        }
        let reason = match packet.stop {
            Some(stop) => match stop.reason {
                StopReason::Unsupported(number) if stop.layer == "link" => match u16::try_from(number) {
                    Ok(number) if packet.link.ether_type == number && number != 0 => format!("ethertype 0x{number:04x}"),
                    _ => format!("link type {number} not supported"),
                },
                StopReason::Unsupported(_) if stop.layer == "802.3" => "802.3 frames (spanning tree and the like)".to_string(),
                reason => format!("{} {}", stop.layer, reason.word()),
            },
            None => format!("ethertype 0x{:04x}", packet.link.ether_type),
        };
        self.unplaced(&reason);
    }

    fn icmp_error(&mut self, at: At, wire: u32, icmp: &Icmp<'_>, ip: &Ip) {
        let quoted = icmp.quoted.as_ref().and_then(|quoted| Some((quoted, quoted.five_tuple()?, quoted.ip()?)));
        let Some((quoted, tuple, inner)) = quoted else { return self.unplaced("ICMP errors that quote nothing") };
        let seen = ErrorSeen {
            wire,
            src: ip.src,
            dst: ip.dst,
            ttl: ip.ttl,
            kind: icmp.kind,
            type_number: icmp.type_number,
            code: icmp.code,
            quoted: self.addresses.compact(tuple),
            tunnelled: !quoted.tunnels.is_empty(),
            quoted_len: inner.total_len,
            times: Occurrences::at(at),
        };
        self.errors.add(seen, at);
    }

    /// A close look at a packet: what identifies it elsewhere, and what its options tell.
    pub(super) fn closer(&mut self, look: Look, s: &Sighting, features: &Features) {
        if self.journal.wanted()
            && !matches!(look, Look::Full | Look::Clash)
            && let Some(leg) = self.table.leg_seen(s.hash)
        {
            self.journal.add(leg, s, features.digest, features.echo, features.mark, features.options.toa.is_some());
        }
        let conversation = match look {
            Look::Done => return,
            Look::Full => return self.unplaced("more connections than --max-connections"),
            Look::Clash => return self.unplaced("hash clash"),
            Look::Closer(conversation) => conversation,
        };
        if features.unfinished {
            let at = At { point: self.wires.get(s.wire).point, frame: s.frame.into(), time: Timestamp(s.time) };
            self.unfinished.entry(at.point).and_modify(|times| times.push(at)).or_insert_with(|| Occurrences::at(at));
        }
        let c = self.table.conversations[conversation as usize];
        let from_b = s.tuple.canonical().1;
        let options = &features.options;
        if options.mss.is_some() || options.toa.is_some() {
            self.table.annotate(conversation, s, options.mss, options.toa.is_some());
        }
        if c.note_count > 0
            && let Some(stamps) = options.timestamps
            && s.flags.has(TcpFlags::SYN)
        {
            self.table.stamped(conversation, s, stamps);
        }
        if let Some(toa) = options.toa {
            let told = self.addresses.compact(FiveTuple { protocol: Protocol::Tcp, src: toa.0, dst: toa.0 });
            self.told_clients.insert(conversation, told.source());
        }
        let mut signature = 0;
        let handshake = c.known.has(Known::CLIENT_ISN);
        let key = match s.tuple.protocol() {
            // A SYN-ACK tells no more than the SYN did, but may be all that was captured here.
            6 | 132 if handshake && (s.flags.opens() || s.flags.accepts() || c.samples() == 0) => {
                if s.flags.opens() {
                    signature = syn_signature(options, features.window);
                }
                Some(handshake_key(s.tuple.protocol(), c.client_seq))
            }
            6 if !handshake => midstream_key(s.seq, s.ack),
            17 => features.digest,
            _ => features.echo.zip(features.digest).map(|((reply, id, seq), digest)| echo_key(reply, id, seq, digest)),
        };
        if let Some(key) = key
            && c.samples() < PER_CONVERSATION
            && self.samples.add(Sample { key, conversation, next: NONE, signature, id: s.id, from_b })
        {
            self.table.conversations[conversation as usize].sampled();
            if self.samples.is_full() {
                correlate::join(&mut self.table, &self.samples, false);
                self.samples.turn();
            }
        }
    }

    fn unplaced(&mut self, reason: &str) {
        if let Some(count) = self.unplaced.get_mut(reason) {
            *count += 1;
        } else if self.unplaced.len() < 1000 {
            self.unplaced.insert(reason.to_string(), 1);
        } else {
            *self.unplaced.entry("other".to_string()).or_insert(0) += 1;
        }
    }

    /// Joins, orders and names what was seen.
    pub fn finish(mut self) -> Trace {
        self.look_up();
        self.table.settle();
        self.points.settle();
        correlate::join(&mut self.table, &self.samples, true);
        self.samples = Samples::default();
        correlate::join_by_toa(&mut self.table, &self.told_clients);
        correlate::join_by_ranges(&mut self.table);
        Trace::new(self)
    }
}

/// Its time, as far as one can be told.
#[inline(always)]
pub(super) fn when(frame: &Frame<'_>) -> Timestamp {
    Timestamp(frame.time.0.clamp(0, LATEST))
}

/// Its number, as records keep it.
#[inline(always)]
pub(super) fn narrow(frame: u64) -> u32 {
    u32::try_from(frame).unwrap_or(u32::MAX)
}

/// The ports of fragmented packets: only the first part has them. The latest few thousand.
#[derive(Clone, Default)]
struct Fragments {
    ports: HashMap<(std::net::IpAddr, std::net::IpAddr, u8, u32), (u16, u16)>,
}

impl Fragments {
    const MOST: usize = 8192;

    fn first(&mut self, ip: &Ip, ports: (u16, u16)) {
        if self.ports.len() >= Self::MOST {
            self.ports.clear();
        }
        self.ports.insert((ip.src, ip.dst, ip.protocol, ip.id), ports);
    }

    fn whole(&self, ip: &Ip) -> Option<(u16, u16)> {
        self.ports.get(&(ip.src, ip.dst, ip.protocol, ip.id)).copied()
    }
}
