//! The director on its wires: its own MAC, ARP and neighbour discovery, Ethernet around packets. Pure: frames and time in, frames out.
//!
//! The director answers for its addresses with a MAC of its own, which the kernel of the host knows nothing of: so the host's stack
//! ignores its frames, and nothing is forwarded or refused twice.

use super::engine::{Arrived, Engine, Reason, Verdict};
use crate::ipvs::ForwardingMethod;
use crate::net::{MacAddr, Timestamp};
use crate::packet::{Frame, IpHeader, LinkType, Network, Packet, Transport, build, dissect, fragment, segment_len, segments};
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// An interface of the director.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The director's MAC on it.
    pub mac: MacAddr,
    /// It has answers for these addresses.
    pub addresses: Vec<IpAddr>,
}

/// Checksums and lengths that a network card was to see to: the `virtio_net_hdr` of AF_PACKET.
pub type Offload = [u8; 10];

const NEEDS_CHECKSUM: u8 = 1;

/// A frame to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Which port.
    pub port: usize,
    /// The frame, or its beginning.
    pub bytes: Vec<u8>,
    /// Where in the frame that came stands what follows, unchanged.
    pub rest: Range<usize>,
    /// What the card still has to do.
    pub offload: Offload,
    /// It is a real server's answer.
    pub answer: bool,
}

impl Sent {
    /// Makes it whole, with the frame that came.
    pub fn join(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame.get(std::mem::take(&mut self.rest)).unwrap_or_default());
    }
}

/// How long an answer to ARP is waited for, and how often it is asked.
const RETRY: i64 = 1_000_000_000;
const ATTEMPTS: u32 = 3;
/// Packets that wait for one neighbour.
const QUEUE: usize = 64;
/// A neighbour is asked again when it was not heard of for this long.
const STALE: i64 = 30_000_000_000;

#[derive(Debug, Default)]
struct Neighbour {
    mac: Option<MacAddr>,
    /// Told beforehand: what is heard does not change it, as with a permanent entry of the kernel.
    fixed: bool,
    vlans: Vec<u16>,
    heard: Timestamp,
    asked: Timestamp,
    attempts: u32,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    /// In the frame that came; empty once it waits.
    rest: Range<usize>,
    offload: Offload,
    request: bool,
    answer: bool,
}

/// What happened, in numbers.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Packets to real servers.
    pub requests: u64,
    /// Packets to clients.
    pub answers: u64,
    /// ICMP errors that the director made.
    pub told: u64,
    /// Packets that were none of its business.
    pub passed: u64,
    /// Frames that could not be read, or were for others.
    pub ignored: u64,
    /// ARP requests and neighbour solicitations answered.
    pub resolved: u64,
    /// Packets that went no further.
    pub dropped: BTreeMap<Reason, u64>,
}

/// The director with its ports.
pub struct Director {
    /// Decides.
    pub engine: Engine,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Also take frames to these MACs for its own (of the director in a capture).
    pub also: Vec<MacAddr>,
    /// Learn neighbours from every frame, not from answers alone (for captures).
    pub learn_from_all: bool,
    /// MACs for those whom nobody has heard of (for captures): made of the address.
    pub invent: bool,
    /// Counted.
    pub tally: Tally,
    neighbours: HashMap<IpAddr, Neighbour>,
}

/// What came of a frame.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Frames to be sent now.
    pub sent: Vec<Sent>,
    /// What became of it, when it got so far as to the engine.
    pub fate: Option<Fate>,
}

/// What became of a packet: the engine's verdict, without the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It went on.
    Forwarded {
        /// To the real server, or to the client.
        to: IpAddr,
        /// How; `None` for what goes to the client.
        method: Option<ForwardingMethod>,
    },
    /// It went no further, and its sender was told so.
    Refused(Reason),
    /// It is for the director's own sockets.
    Local,
    /// It is none of IPVS's business.
    Pass,
    /// A fragment: the rest is waited for.
    Held,
    /// It is gone.
    Dropped(Reason),
}

impl Director {
    /// With these ports. Virtual addresses are answered for on every port.
    pub fn new(engine: Engine, ports: Vec<Port>) -> Director {
        Director {
            engine,
            ports,
            also: Vec::new(),
            learn_from_all: false,
            invent: false,
            tally: Tally::default(),
            neighbours: HashMap::new(),
        }
    }

    /// A neighbour whose MAC is known beforehand.
    pub fn know(&mut self, addr: IpAddr, mac: MacAddr, now: Timestamp) {
        let known = self.neighbours.entry(addr).or_default();
        (known.mac, known.heard, known.asked, known.fixed) = (Some(mac), now, now, true);
    }

    /// A frame came in on `port`.
    pub fn frame(&mut self, port: usize, bytes: &[u8], offload: &Offload, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.fate = self.take(port, bytes, offload, now, &mut outcome.sent);
        outcome.sent.iter_mut().for_each(|one| one.join(bytes));
        outcome
    }

    /// The same, with what is to be sent added to what is there already. Of a long frame only the headers are copied ([`Sent::rest`]).
    pub fn take(&mut self, port: usize, bytes: &[u8], offload: &Offload, now: Timestamp, out: &mut Vec<Sent>) -> Option<Fate> {
        let frame =
            Frame { bytes, wire_len: bytes.len() as u32, link_type: LinkType::ETHERNET, time: now, number: 0, interface: 0, heading: None };
        let Some((dst, src)) = macs(bytes) else {
            self.tally.ignored += 1;
            return None;
        };
        let own = self.ports.get(port)?.mac;
        if src == own {
            return None;
        }
        let for_us = dst == own || self.also.contains(&dst);
        if !for_us && !dst.is_group() && !self.learn_from_all {
            self.tally.ignored += 1;
            return None;
        }
        let Some((ether_type, at, vlans)) = ether_type(bytes) else {
            self.tally.ignored += 1;
            return None;
        };
        match ether_type {
            0x0806 => {
                self.arp(port, &dissect(&frame), now, out);
                None
            }
            0x0800 | 0x86dd => {
                let packet = &bytes[at..];
                if ether_type == 0x86dd && packet.get(6) == Some(&58) && self.discovery(port, &dissect(&frame), src, now, out) {
                    return None;
                }
                if self.learn_from_all
                    && let Some(header) = IpHeader::read(packet)
                {
                    self.learn_passively(header.src, src, &vlans, now);
                }
                if !for_us {
                    self.tally.ignored += 1;
                    return None;
                }
                let size = merged(offload);
                match size.filter(|_| self.engine.tunnels(packet)) {
                    Some(size) => {
                        let parts = segments(packet, size);
                        parts.iter().map(|part| self.packet(Came { frame: part, at: 0, kept: false }, &[0; 10], now, out)).last()
                    }
                    None => Some(self.packet(Came { frame: bytes, at, kept: true }, offload, now, out)),
                }
            }
            _ => {
                self.tally.ignored += 1;
                None
            }
        }
    }

    fn packet(&mut self, came: Came<'_>, offload: &Offload, now: Timestamp, out: &mut Vec<Sent>) -> Fate {
        let partial = offload[0] & NEEDS_CHECKSUM != 0;
        let packet = &came.frame[came.at..];
        let arrived = Arrived { bytes: packet, partial, merged: merged(offload), mark: 0, kept: came.kept };
        match self.engine.packet(&arrived, now) {
            Verdict::Forward(forwarded) => {
                let request = forwarded.method.is_some();
                *(if request { &mut self.tally.requests } else { &mut self.tally.answers }) += 1;
                let mut offload = *offload;
                // The card finds the checksum and the header's length by offsets from the frame's beginning.
                let len = forwarded.bytes.len() + forwarded.rest.len();
                let grown = len as i64 - IpHeader::read(packet).map_or(0, |h| h.total) as i64;
                if grown > 0 {
                    for at in [2, 6] {
                        let value = u16::from_le_bytes([offload[at], offload[at + 1]]);
                        if value != 0 {
                            offload[at..at + 2].copy_from_slice(&value.saturating_add(grown as u16).to_le_bytes());
                        }
                    }
                }
                let fate = Fate::Forwarded { to: forwarded.to, method: forwarded.method };
                let way = Way { to: forwarded.to, request, answer: forwarded.answers, longest: forwarded.longest };
                let rest = came.at + forwarded.rest.start..came.at + forwarded.rest.end;
                let onward = Onward { bytes: forwarded.bytes, rest, frame: came.frame, packet };
                self.send(onward, offload, &way, now, out);
                fate
            }
            Verdict::Answer(packet, reason) => {
                self.tally.told += 1;
                *self.tally.dropped.entry(reason).or_default() += 1;
                if let Some(header) = IpHeader::read(&packet) {
                    let way = Way { to: header.dst, request: false, answer: false, longest: None };
                    self.send(Onward { bytes: packet, rest: 0..0, frame: &[], packet: &[] }, [0; 10], &way, now, out);
                }
                Fate::Refused(reason)
            }
            Verdict::Drop(reason) => {
                *self.tally.dropped.entry(reason).or_default() += 1;
                Fate::Dropped(reason)
            }
            Verdict::Local => {
                self.tally.passed += 1;
                Fate::Local
            }
            Verdict::Pass => {
                self.tally.passed += 1;
                Fate::Pass
            }
            Verdict::Held => Fate::Held,
        }
    }

    /// Sends a packet on its way, in fragments where it must be. A merged one is cut by the card, into segments that fit if their sender kept
    /// to the MTU; if not, the kernel cuts it here, and each segment into fragments (`ip_finish_output_gso`).
    fn send(&mut self, onward: Onward<'_>, offload: Offload, way: &Way, now: Timestamp, out: &mut Vec<Sent>) {
        let route = self.engine.routes.to(way.to).copied();
        let next = route.and_then(|route| route.via).unwrap_or(way.to);
        let port = route.map_or(0, |route| route.port);
        let mtu = route.map_or(1500, |route| route.mtu).min(way.longest.unwrap_or(usize::MAX));
        let size = merged(&offload);
        if size.map_or(onward.len(), |size| onward.segment_len(size)) <= mtu {
            let Onward { bytes, rest, frame, .. } = onward;
            let waiting = Waiting { bytes, rest, offload, request: way.request, answer: way.answer };
            return self.deliver(port, next, waiting, frame, now, out);
        }
        let packet = onward.whole();
        // A fragment has no checksum of its own that somebody could complete later.
        let whole = size.is_none() && offload[0] & NEEDS_CHECKSUM == 0;
        let parts = if whole { vec![packet] } else { segments(&packet, size.unwrap_or(usize::MAX)) };
        for bytes in parts.iter().flat_map(|part| fragment(part, mtu, now.0 as u32)) {
            let waiting = Waiting { bytes, rest: 0..0, offload: [0; 10], request: way.request, answer: way.answer };
            self.deliver(port, next, waiting, &[], now, out);
        }
    }

    fn deliver(&mut self, port: usize, next: IpAddr, mut waiting: Waiting, frame: &[u8], now: Timestamp, out: &mut Vec<Sent>) {
        let invented = self.invent.then(|| invented(next));
        let Some(own) = self.ports.get(port).map(|p| p.mac) else { return };
        let wrong = self.engine.faults.wrong_mac.filter(|_| waiting.request);
        let neighbour = self.neighbours.entry(next).or_default();
        match wrong.or(neighbour.mac).or(invented) {
            Some(mac) => {
                let refresh =
                    !self.invent && !neighbour.fixed && neighbour.mac.is_some() && now - neighbour.heard.max(neighbour.asked) > STALE;
                out.push(sent(port, own, mac, &neighbour.vlans, waiting));
                if refresh {
                    neighbour.asked = now;
                    let ask = self.question(port, next);
                    out.extend(ask);
                }
            }
            None => {
                if neighbour.waiting.len() < QUEUE {
                    waiting.bytes.extend_from_slice(&frame[std::mem::take(&mut waiting.rest)]);
                    neighbour.waiting.push(waiting);
                } else {
                    *self.tally.dropped.entry(Reason::NoNeighbour).or_default() += 1;
                }
                if neighbour.attempts == 0 {
                    (neighbour.attempts, neighbour.asked) = (1, now);
                    let ask = self.question(port, next);
                    out.extend(ask);
                }
            }
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

    /// Who has `addr`? Without an own address on the port it is a probe, from 0.0.0.0.
    fn question(&self, port: usize, addr: IpAddr) -> Option<Sent> {
        let own = self.ports.get(port)?;
        let source = own.addresses.iter().copied().find(|a| a.is_ipv4() == addr.is_ipv4());
        let bytes = match addr {
            IpAddr::V4(target) => {
                let sender = match source {
                    Some(IpAddr::V4(a)) => a,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                build::arp(MacAddr::BROADCAST, 1, (own.mac, sender), (MacAddr::ZERO, target), &[])
            }
            IpAddr::V6(target) => {
                let sender = match source {
                    Some(IpAddr::V6(a)) => a,
                    _ => link_local(own.mac),
                };
                let [.., a, b, c] = target.octets();
                let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c));
                let mut body = target.octets().to_vec();
                body.extend([1, 1]);
                body.extend(own.mac.0);
                neighbour_message(own.mac, MacAddr([0x33, 0x33, 0xff, a, b, c]), sender, group, 135, 0, &body)
            }
        };
        Some(Sent { port, bytes, rest: 0..0, offload: [0; 10], answer: false })
    }

    fn answers_for(&self, port: usize, addr: IpAddr) -> bool {
        self.engine.balancer.is_vip(addr) || self.ports.get(port).is_some_and(|p| p.addresses.contains(&addr))
    }

    fn arp(&mut self, port: usize, packet: &Packet<'_>, now: Timestamp, out: &mut Vec<Sent>) {
        let Network::Arp(arp) = packet.network else {
            self.tally.ignored += 1;
            return;
        };
        let vlans = packet.link.vlans.ids();
        if arp.sender_mac.is_unicast() && !arp.sender.is_unspecified() {
            let known = self.neighbours.contains_key(&IpAddr::V4(arp.sender));
            if known || self.learn_from_all || self.answers_for(port, IpAddr::V4(arp.target)) {
                self.learn(IpAddr::V4(arp.sender), arp.sender_mac, vlans, now, port, out);
            }
        }
        // A captured director answers for itself.
        if arp.operation == 1 && !self.learn_from_all && self.answers_for(port, IpAddr::V4(arp.target)) && arp.sender != arp.target {
            let Some(own) = self.ports.get(port).map(|p| p.mac) else { return };
            let bytes = build::arp(arp.sender_mac, 2, (own, arp.target), (arp.sender_mac, arp.sender), vlans);
            out.push(Sent { port, bytes, rest: 0..0, offload: [0; 10], answer: false });
            self.tally.resolved += 1;
        }
    }

    /// Neighbour discovery; false when the packet is something else.
    fn discovery(&mut self, port: usize, packet: &Packet<'_>, src: MacAddr, now: Timestamp, out: &mut Vec<Sent>) -> bool {
        let (Transport::Icmp(icmp), Some(ip)) = (&packet.transport, packet.ip()) else { return false };
        let target = packet.segment.get(8..24).and_then(|b| b.first_chunk::<16>()).map(|b| Ipv6Addr::from(*b));
        let (IpAddr::V6(from), Some(target)) = (ip.src, target) else { return matches!(icmp.type_number, 133..=137) };
        match icmp.type_number {
            135 => {
                if !from.is_unspecified() {
                    self.learn(ip.src, src, packet.link.vlans.ids(), now, port, out);
                }
                let Some(own) = self.ports.get(port).map(|p| p.mac) else { return true };
                if !self.learn_from_all && self.answers_for(port, IpAddr::V6(target)) {
                    let mut body = target.octets().to_vec();
                    body.extend([2, 1]);
                    body.extend(own.0);
                    // Solicited (0x4) and override (0x2); to everyone when the asker has no address yet.
                    let (to, mac, flags) = match from.is_unspecified() {
                        true => (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), MacAddr([0x33, 0x33, 0, 0, 0, 1]), 0x2000_0000),
                        false => (from, src, 0x6000_0000),
                    };
                    let bytes = neighbour_message(own, mac, target, to, 136, flags, &body);
                    out.push(Sent { port, bytes, rest: 0..0, offload: [0; 10], answer: false });
                    self.tally.resolved += 1;
                }
                true
            }
            136 => {
                // The target's MAC stands in its option.
                let mac = packet.segment.get(24..32).filter(|o| o[0] == 2 && o[1] == 1).and_then(|o| o[2..].first_chunk::<6>());
                self.learn(IpAddr::V6(target), mac.map_or(src, |m| MacAddr(*m)), packet.link.vlans.ids(), now, port, out);
                true
            }
            133 | 134 | 137 => true,
            _ => false,
        }
    }

    fn learn(&mut self, addr: IpAddr, mac: MacAddr, vlans: &[u16], now: Timestamp, port: usize, out: &mut Vec<Sent>) {
        let Some(own) = self.ports.get(port).map(|p| p.mac) else { return };
        let neighbour = self.neighbours.entry(addr).or_default();
        if neighbour.fixed {
            return;
        }
        (neighbour.mac, neighbour.heard, neighbour.attempts) = (Some(mac), now, 0);
        neighbour.vlans = vlans.to_vec();
        for waiting in std::mem::take(&mut neighbour.waiting) {
            out.push(sent(port, own, mac, vlans, waiting));
        }
    }

    /// In a capture the MAC of a frame is its sender's only when the sender is a neighbour.
    fn learn_passively(&mut self, addr: IpAddr, mac: MacAddr, vlans: &[u16], now: Timestamp) {
        let neighbour = self.engine.routes.to(addr).is_some_and(|route| route.via.is_none());
        if neighbour && !self.also.contains(&mac) && !self.engine.balancer.is_vip(addr) {
            let known = self.neighbours.entry(addr).or_default();
            if known.mac.is_none() {
                (known.mac, known.heard) = (Some(mac), now);
                known.vlans = vlans.to_vec();
            }
        }
    }

    /// Tells everyone on every port which MAC the addresses have now.
    pub fn announcements(&self) -> Vec<Sent> {
        let mut all = Vec::new();
        for (port, own) in self.ports.iter().enumerate() {
            for addr in own.addresses.iter().copied().chain(self.engine.balancer.vips()) {
                let bytes = match addr {
                    IpAddr::V4(a) => build::arp(MacAddr::BROADCAST, 1, (own.mac, a), (MacAddr::ZERO, a), &[]),
                    IpAddr::V6(a) => {
                        let mut body = a.octets().to_vec();
                        body.extend([2, 1]);
                        body.extend(own.mac.0);
                        let everyone = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                        neighbour_message(own.mac, MacAddr([0x33, 0x33, 0, 0, 0, 1]), a, everyone, 136, 0x2000_0000, &body)
                    }
                };
                let one = Sent { port, bytes, rest: 0..0, offload: [0; 10], answer: false };
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        all
    }
}

/// A packet in the frame that it came in.
#[derive(Clone, Copy)]
struct Came<'f> {
    frame: &'f [u8],
    at: usize,
    /// The frame is there until what comes of it is sent.
    kept: bool,
}

/// A packet that goes on: rewritten bytes, and the rest of it in the frame that it came in.
struct Onward<'f> {
    bytes: Vec<u8>,
    rest: Range<usize>,
    frame: &'f [u8],
    /// As it came; its headers are as long as they are now when there is a rest.
    packet: &'f [u8],
}

impl Onward<'_> {
    fn len(&self) -> usize {
        self.bytes.len() + self.rest.len()
    }

    fn segment_len(&self, size: usize) -> usize {
        segment_len(if self.rest.is_empty() { &self.bytes } else { self.packet }, size)
    }

    fn whole(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&self.frame[self.rest.clone()]);
        self.bytes
    }
}

struct Way {
    to: IpAddr,
    request: bool,
    answer: bool,
    longest: Option<usize>,
}

/// Bytes of data in each segment, of a packet that is several in one.
fn merged(offload: &Offload) -> Option<usize> {
    (offload[1] != 0).then(|| usize::from(u16::from_le_bytes([offload[4], offload[5]])))
}

fn sent(port: usize, own: MacAddr, mac: MacAddr, vlans: &[u16], waiting: Waiting) -> Sent {
    let bytes = build::framed(own, mac, vlans, waiting.bytes);
    Sent { port, bytes, rest: waiting.rest, offload: waiting.offload, answer: waiting.answer }
}

/// Destination and source.
fn macs(bytes: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes.first_chunk::<12>()?;
    Some((MacAddr([a, b, c, d, e, f]), MacAddr([g, h, i, j, k, l])))
}

/// The EtherType behind any VLAN tags, where the packet begins, and the tags.
fn ether_type(bytes: &[u8]) -> Option<(u16, usize, Vec<u16>)> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (mut at, mut vlans) = (12, Vec::new());
    while matches!(word(at)?, 0x8100 | 0x88a8) && vlans.len() < 2 {
        vlans.push(word(at + 2)? & 0x0fff);
        at += 4;
    }
    Some((word(at)?, at + 2, vlans))
}

/// A MAC for one that nobody has heard of: locally administered, with the address in it.
fn invented(addr: IpAddr) -> MacAddr {
    let bytes = match addr {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => a.octets()[12..].first_chunk().copied().unwrap_or_default(),
    };
    MacAddr([0x02, 0, bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The link-local address of a MAC (RFC 4291, appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

fn neighbour_message(own: MacAddr, to_mac: MacAddr, from: Ipv6Addr, to: Ipv6Addr, kind: u8, rest: u32, body: &[u8]) -> Vec<u8> {
    let (from, to) = (IpAddr::V6(from), IpAddr::V6(to));
    let message = build::icmp(from, to, kind, 0, rest, body);
    build::ethernet(own, to_mac, &[], &build::ip(from, to, 58, build::IpFields { ttl: 255, ..build::IpFields::default() }, &message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::director::{Balancer, Route, Routes, Settings};
    use crate::net::Endpoint;

    const START: Timestamp = Timestamp(1_763_000_000_000_000_000);
    const OWN: MacAddr = MacAddr([2, 0, 0x5e, 0, 1, 0x64]);
    const CLIENT: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    const SERVER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);

    fn director() -> Director {
        let rules = "-A -t 192.168.2.59:80 -s rr\n-a -t 192.168.2.59:80 -r 192.168.2.11:80 -g\n";
        let balancer = Balancer::with_rules(Settings::default(), 1, &crate::ipvs::parse(rules).unwrap()).unwrap();
        let routes = Routes {
            routes: vec![Route { to: "192.168.2.0/24".parse().unwrap(), via: None, port: 0, mtu: 1500 }],
            own: vec![("192.168.2.10".parse().unwrap(), 0)],
        };
        let port = Port { name: "eth0".to_string(), mac: OWN, addresses: vec!["192.168.2.10".parse().unwrap()] };
        Director::new(Engine::new(balancer, routes), vec![port])
    }

    fn syn() -> Vec<u8> {
        let (src, dst): (Endpoint, Endpoint) = ("192.168.2.100:40000".parse().unwrap(), "192.168.2.59:80".parse().unwrap());
        let fields = build::TcpFields { flags: crate::packet::TcpFlags::SYN, ..build::TcpFields::default() };
        let ip = build::ip(src.addr, dst.addr, 6, build::IpFields::default(), &build::tcp(src, dst, &fields, b""));
        build::ethernet(CLIENT, OWN, &[], &ip)
    }

    #[test]
    fn packets_wait_for_their_neighbour() {
        let mut director = director();
        let asked = director.frame(0, &syn(), &[0; 10], START).sent;
        assert_eq!(asked.len(), 1);
        assert_eq!(&asked[0].bytes[..6], &[0xff; 6]);
        assert!(director.tick(START + RETRY / 2).is_empty());
        assert_eq!(director.tick(START + RETRY).len(), 1, "asked again");
        let answer = build::arp(OWN, 2, (SERVER, "192.168.2.11".parse().unwrap()), (OWN, "192.168.2.10".parse().unwrap()), &[]);
        let sent = director.frame(0, &answer, &[0; 10], START + RETRY).sent;
        assert_eq!(sent.len(), 1);
        assert_eq!(macs(&sent[0].bytes), Some((SERVER, OWN)));
        let sent = director.frame(0, &syn(), &[0; 10], START + RETRY).sent;
        assert_eq!(macs(&sent[0].bytes), Some((SERVER, OWN)));
    }

    #[test]
    fn a_long_packet_is_whole_when_it_had_to_wait() {
        let mut director = narrow(1500, 1500);
        director.frame(0, &syn(), &[0; 10], START);
        let (request, offload) = large("192.168.2.100:40000", "192.168.2.59:80", 1000);
        let mut at_once = Vec::new();
        director.take(0, &request, &offload, START, &mut at_once);
        assert_eq!((at_once[0].rest.end, at_once[0].bytes.len() + at_once[0].rest.len()), (request.len(), request.len()));
        at_once[0].join(&request);
        director.neighbours.clear();
        let mut asked = Vec::new();
        director.take(0, &request, &offload, START, &mut asked);
        let answer = build::arp(OWN, 2, (SERVER, "192.168.224.11".parse().unwrap()), (OWN, "192.168.224.10".parse().unwrap()), &[]);
        let sent = director.frame(0, &answer, &[0; 10], START).sent;
        assert_eq!((asked.len(), sent.as_slice()), (1, &at_once[..]));
        assert_eq!(sent[0].bytes[54..], request[54..]);
    }

    #[test]
    fn a_neighbour_that_never_answers_is_given_up() {
        let mut director = director();
        director.frame(0, &syn(), &[0; 10], START);
        for n in 1..=4 {
            director.tick(START + n * RETRY);
        }
        assert_eq!(director.tally.dropped.get(&Reason::NoNeighbour), Some(&1));
        assert_eq!(director.frame(0, &syn(), &[0; 10], START + 9 * RETRY).sent.len(), 1, "and asked anew");
    }

    /// A director in NAT with an MTU of 1400 on the way to the client, or to the server; both neighbours are known.
    fn narrow(to_client: usize, to_server: usize) -> Director {
        let rules = "-A -t 192.168.2.59:80 -s rr\n-a -t 192.168.2.59:80 -r 192.168.224.11:80 -m\n";
        let balancer = Balancer::with_rules(Settings::default(), 1, &crate::ipvs::parse(rules).unwrap()).unwrap();
        let route = |to: &str, mtu| Route { to: to.parse().unwrap(), via: None, port: 0, mtu };
        let routes = Routes {
            routes: vec![route("192.168.2.0/24", to_client), route("192.168.224.0/24", to_server)],
            own: vec![("192.168.224.10".parse().unwrap(), 0)],
        };
        let port = Port { name: "eth0".to_string(), mac: OWN, addresses: Vec::new() };
        let mut director = Director::new(Engine::new(balancer, routes), vec![port]);
        director.know("192.168.2.100".parse().unwrap(), CLIENT, START);
        director.know("192.168.224.11".parse().unwrap(), SERVER, START);
        director
    }

    /// A segment with 4,000 bytes, merged of parts of `size`, its checksum left to the card.
    fn large(src: &str, dst: &str, size: u16) -> (Vec<u8>, Offload) {
        let (src, dst): (Endpoint, Endpoint) = (src.parse().unwrap(), dst.parse().unwrap());
        let fields = build::TcpFields { flags: crate::packet::TcpFlags::ACK, ..build::TcpFields::default() };
        let ip = build::IpFields { flags: 0x4000, ..build::IpFields::default() };
        let packet = build::ip(src.addr, dst.addr, 6, ip, &build::tcp(src, dst, &fields, &[7; 4000]));
        let [low, high] = size.to_le_bytes();
        (build::ethernet(CLIENT, OWN, &[], &packet), [NEEDS_CHECKSUM, 1, 54, 0, low, high, 34, 0, 16, 0])
    }

    #[test]
    fn merged_packets_meet_a_narrow_way() {
        for (mtu, size, fits) in [(1500, 1460, true), (1400, 1460, false), (1400, 1360, true)] {
            let mut director = narrow(mtu, 1500);
            assert_eq!(director.frame(0, &syn(), &[0; 10], START).sent.len(), 1);
            // An answer is judged by its segments, and the real server is told.
            let (answer, offload) = large("192.168.224.11:80", "192.168.2.100:40000", size);
            let outcome = director.frame(0, &answer, &offload, START);
            match outcome.fate {
                Some(Fate::Forwarded { .. }) => assert!(fits && outcome.sent[0].offload == offload, "{mtu} {size}"),
                fate => assert!(!fits && fate == Some(Fate::Refused(Reason::TooBig)), "{mtu} {size}: {fate:?}"),
            }
            // A request is not judged: the kernel cuts it, as far as it must.
            let mut director = narrow(1500, mtu);
            director.frame(0, &syn(), &[0; 10], START);
            let (request, offload) = large("192.168.2.100:40000", "192.168.2.59:80", size);
            let sent = director.frame(0, &request, &offload, START).sent;
            match fits {
                true => assert_eq!((sent.len(), sent[0].offload), (1, offload)),
                false => {
                    // Three segments, the last one short: two fragments of each of the others.
                    assert_eq!((sent.len(), sent.iter().map(|s| s.bytes.len()).max()), (5, Some(14 + 1396)));
                    assert!(sent.iter().all(|s| s.offload == [0; 10]));
                }
            }
        }
    }

    #[test]
    fn a_checksum_is_made_whole_before_a_packet_is_cut() {
        let mut director = narrow(1500, 1400);
        director.frame(0, &syn(), &[0; 10], START);
        let (mut request, _) = large("192.168.2.100:40000", "192.168.2.59:80", 0);
        // Without DF: the way on cuts it.
        request[20] = 0;
        request[24..26].fill(0);
        let sum = crate::packet::checksum(&request[14..34]);
        request[24..26].copy_from_slice(&sum.to_be_bytes());
        let sent = director.frame(0, &request, &[NEEDS_CHECKSUM, 0, 0, 0, 0, 0, 34, 0, 16, 0], START).sent;
        let mut engine = crate::director::fragments::Fragments::default();
        let whole = sent.iter().find_map(|s| engine.take(&s.bytes[14..], &IpHeader::read(&s.bytes[14..])?, START)).unwrap();
        let frame = build::ethernet(OWN, SERVER, &[], &whole.bytes);
        let frame = Frame {
            bytes: &frame,
            wire_len: frame.len() as u32,
            link_type: LinkType::ETHERNET,
            time: START,
            number: 0,
            interface: 0,
            heading: None,
        };
        assert_eq!(crate::packet::checksum_state(&dissect(&frame)), crate::packet::ChecksumState::Good);
    }

    #[test]
    fn the_virtual_address_is_answered_for() {
        let mut director = director();
        let vip = "192.168.2.59".parse().unwrap();
        let question = build::arp(MacAddr::BROADCAST, 1, (CLIENT, "192.168.2.100".parse().unwrap()), (MacAddr::ZERO, vip), &[]);
        let sent = director.frame(0, &question, &[0; 10], START).sent;
        let expected = build::arp(CLIENT, 2, (OWN, vip), (CLIENT, "192.168.2.100".parse().unwrap()), &[]);
        assert_eq!(sent[0].bytes, expected);
        let other = build::arp(
            MacAddr::BROADCAST,
            1,
            (CLIENT, "192.168.2.100".parse().unwrap()),
            (MacAddr::ZERO, "192.168.2.77".parse().unwrap()),
            &[],
        );
        assert!(director.frame(0, &other, &[0; 10], START).sent.is_empty());
        assert_eq!(director.announcements().len(), 2);
    }

    #[test]
    fn ipv6_neighbours_are_found() {
        let mut director = director();
        let rule = "-A -t [2001:db8::59]:80 -s rr\n-a -t [2001:db8::59]:80 -r [2001:db8::11]:80 -g\n";
        director.engine.balancer.add_service(&crate::ipvs::parse(rule).unwrap()[0]).unwrap();
        let (asker, vip): (Ipv6Addr, Ipv6Addr) = ("2001:db8::100".parse().unwrap(), "2001:db8::59".parse().unwrap());
        let group = MacAddr([0x33, 0x33, 0xff, 0, 0, 0x59]);
        let mut body = vip.octets().to_vec();
        body.extend([1, 1]);
        body.extend(CLIENT.0);
        let question = neighbour_message(CLIENT, group, asker, "ff02::1:ff00:59".parse().unwrap(), 135, 0, &body);
        let sent = director.frame(0, &question, &[0; 10], START).sent;
        assert_eq!((sent.len(), macs(&sent[0].bytes)), (1, Some((CLIENT, OWN))));
        assert_eq!(sent[0].bytes[54..56], [136, 0]);
        assert_eq!(director.tally.resolved, 1);
    }
}
