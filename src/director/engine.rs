//! Time and a packet in, a verdict out. `net/netfilter/ipvs/ip_vs_core.c` (`ip_vs_in`, `ip_vs_out`, and their ICMP kin).

use super::balancer::{Balancer, Dial, Scheduled};
use super::connection::{ConnId, Direction, Event, Key};
use super::fault::Faults;
use super::forward::{self, Way, dr, local, nat, tun};
use super::fragments::Fragments;
use super::route::Routes;
use super::scheduler::Random;
use crate::ipvs::ForwardingMethod;
use crate::net::{Endpoint, Prefix, Protocol, Timestamp};
use crate::packet::build::ETHERNET;
use crate::packet::{
    IcmpError, IpHeader, Side, decrement_ttl, encapsulate, header_checksum_is_good, icmp_error, quoted, segment_len, translate_error,
};
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

/// A packet that arrived, without its link header.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// The IP packet; padding may follow it.
    pub bytes: &'a [u8],
    /// Its transport checksum is but the sum of the pseudo-header (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    pub partial: bool,
    /// It is several segments in one (GRO, TSO), with so many bytes of data each.
    pub merged: Option<usize>,
    /// Its firewall mark; 0 is none.
    pub mark: u32,
    /// Whoever sends it on still has it then: of a long packet only what is rewritten need be copied.
    pub kept: bool,
}

impl<'a> Arrived<'a> {
    /// An ordinary packet.
    pub fn plain(bytes: &'a [u8]) -> Self {
        Arrived { bytes, partial: false, merged: None, mark: 0, kept: false }
    }
}

/// What becomes of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on, rewritten.
    Forward(Forwarded),
    /// It goes no further, and its sender is told why: an ICMP packet.
    Answer(Vec<u8>, Reason),
    /// It is for the director's own sockets.
    Local,
    /// It is none of IPVS's business.
    Pass,
    /// A fragment: the rest is waited for.
    Held,
    /// It is gone.
    Drop(Reason),
}

/// A packet that goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forwarded {
    /// The packet, or its beginning.
    pub bytes: Vec<u8>,
    /// Where in the packet that came stands what follows, unchanged; empty but for long ones that are [`Arrived::kept`].
    pub rest: Range<usize>,
    /// Whom it goes to: the real server, or the client.
    pub to: IpAddr,
    /// How; `None` for what goes to the client.
    pub method: Option<ForwardingMethod>,
    /// It was put together from fragments, and none longer than this may leave.
    pub longest: Option<usize>,
    /// A SYN-ACK, or what answers otherwise.
    pub answers: bool,
}

/// Why a packet goes no further.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// The headers are not whole, or contradict each other.
    Malformed,
    /// The IPv4 header checksum is wrong.
    BadHeaderChecksum,
    /// No real server can take the connection.
    NoDestination,
    /// The connection's real server was removed.
    ServerRemoved,
    /// The TTL ran out here.
    TimeExceeded,
    /// Longer than the MTU of the way on, and may not be fragmented.
    TooBig,
    /// Nobody knows the way.
    NoRoute,
    /// The packet would grow beyond 64 KiB, or its tunnel has no address to begin at.
    NoTunnel,
    /// A real server answers where there is no connection (`nat_icmp_send`).
    UnknownAnswer,
    /// An ICMPv6 error of a NAT real server, on a kernel without connection tracking.
    UncheckedError,
    /// A fault that was asked for.
    Fault,
    /// The next hop does not answer ARP or neighbour discovery.
    NoNeighbour,
    /// Frames came faster than the director read them (`PACKET_STATISTICS`); what they were nobody knows.
    Unread,
    /// The interface did not take it: its queue is full, or it is down.
    Untaken,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Reason::Malformed => "malformed or truncated",
            Reason::BadHeaderChecksum => "wrong IPv4 header checksum",
            Reason::NoDestination => "no real server available",
            Reason::ServerRemoved => "real server removed",
            Reason::TimeExceeded => "TTL exceeded",
            Reason::TooBig => "longer than the MTU, with DF",
            Reason::NoRoute => "no route",
            Reason::NoTunnel => "cannot be put into a tunnel",
            Reason::UnknownAnswer => "answer without a connection",
            Reason::UncheckedError => "ICMPv6 error, no conntrack",
            Reason::Fault => "fault on request",
            Reason::NoNeighbour => "next hop does not answer",
            Reason::Unread => "came faster than read",
            Reason::Untaken => "interface down or full",
        })
    }
}

/// Packets that a firewall marks before IPVS sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkRule {
    /// The mark.
    pub mark: u32,
    /// Packets of this protocol; `None` is any.
    pub protocol: Option<Protocol>,
    /// Packets to these addresses.
    pub to: Prefix,
    /// Packets to these ports.
    pub ports: (u16, u16),
}

/// The director, but for links and neighbours.
pub struct Engine {
    /// Services and connections.
    pub balancer: Balancer,
    /// Ways and own addresses.
    pub routes: Routes,
    /// Faults on request.
    pub faults: Faults,
    /// What a firewall marks.
    pub marks: Vec<MarkRule>,
    fragments: Fragments,
    ids: Random,
    syn_acks: u32,
}

impl Engine {
    /// A director with these services.
    pub fn new(balancer: Balancer, routes: Routes) -> Engine {
        Engine {
            balancer,
            routes,
            faults: Faults::default(),
            marks: Vec::new(),
            fragments: Fragments::default(),
            ids: Random::new(0x1d),
            syn_acks: 0,
        }
    }

    /// Takes one packet.
    pub fn packet(&mut self, arrived: &Arrived<'_>, now: Timestamp) -> Verdict {
        self.balancer.advance(now);
        let Some(header) = IpHeader::read(arrived.bytes) else { return Verdict::Drop(Reason::Malformed) };
        if !header_checksum_is_good(arrived.bytes, &header) {
            return Verdict::Drop(Reason::BadHeaderChecksum);
        }
        let bytes = &arrived.bytes[..header.total];
        if header.fragment.is_none() {
            return self.whole(bytes, &header, arrived, None, now);
        }
        let known = matches!(Protocol::from(header.protocol), Protocol::Tcp | Protocol::Udp | Protocol::Sctp | Protocol::Icmp);
        if !known && !header.is_ipv6() {
            return Verdict::Pass;
        }
        match self.fragments.take(bytes, &header, now) {
            None => Verdict::Held,
            Some(whole) => match IpHeader::read(&whole.bytes) {
                Some(header) => self.whole(&whole.bytes, &header, arrived, Some(whole.longest), now),
                None => Verdict::Drop(Reason::Malformed),
            },
        }
    }

    fn whole(&mut self, bytes: &[u8], header: &IpHeader, arrived: &Arrived<'_>, longest: Option<usize>, now: Timestamp) -> Verdict {
        let protocol = Protocol::from(header.protocol);
        if matches!(protocol, Protocol::Icmp | Protocol::Icmp6) {
            return self.error(bytes, header);
        }
        if !matches!(protocol, Protocol::Tcp | Protocol::Udp | Protocol::Sctp) {
            return Verdict::Pass;
        }
        let event = Event::of(protocol, header.segment(bytes));
        let (Some((src, dst)), Some(event)) = (header.endpoints(bytes), event) else { return Verdict::Drop(Reason::Malformed) };
        let packet = Packet { bytes, header, protocol, src, dst, event, arrived, longest };
        if let Some(id) = self.balancer.table().of_answer(header.protocol, src, dst, self.balancer.pool()) {
            return self.answer(&packet, id, now);
        }
        self.request(&packet, now)
    }

    /// A client's packet (`ip_vs_in`).
    fn request(&mut self, packet: &Packet<'_>, now: Timestamp) -> Verdict {
        let Packet { header, protocol, src, dst, event, .. } = *packet;
        let key = Key { protocol: header.protocol, client: src, dialled: dst, template: false };
        let settings = self.balancer.settings;
        let mut found = self.balancer.table().of_request(&key);
        if let Some(id) = found.filter(|_| event.opens()) {
            let quiesced = settings.expire_nodest_conn && self.balancer.pool()[self.balancer.table()[id].dest()].weight() == 0;
            let mode = settings.conn_reuse_mode;
            if quiesced || mode != 0 && self.balancer.table().may_be_reused(id, mode) {
                self.balancer.expire_now(id);
                found = None;
            }
        }
        if let Some(id) = found
            && !self.balancer.pool()[self.balancer.table()[id].dest()].available
        {
            if settings.expire_nodest_conn {
                self.balancer.expire_now(id);
                found = None;
            }
            if found.is_some() || !settings.kernel.reschedules_nodest() {
                return Verdict::Drop(Reason::ServerRemoved);
            }
        }
        let id = match found {
            Some(id) => id,
            None => {
                let mark = self.mark(packet);
                let dial = Dial { protocol, client: src, dialled: dst, mark };
                if !event.may_be_scheduled(&settings) {
                    return self.stray(packet, &dial);
                }
                let Some(service) = self.balancer.service_of(&dial) else { return self.stray(packet, &dial) };
                match self.balancer.schedule(service, &dial, now, None) {
                    Scheduled::Conn(id) => id,
                    Scheduled::Accept => return Verdict::Pass,
                    Scheduled::Nobody => return self.tell(IcmpError::PortUnreachable, packet.bytes, header.dst, Reason::NoDestination),
                }
            }
        };
        self.balancer.count_in(id, header.total);
        self.balancer.transition(id, Direction::Input, event, now);
        let verdict = self.transmit(packet, id);
        if self.balancer.table()[id].is_one_packet() {
            self.balancer.expire_now(id);
        }
        verdict
    }

    /// What belongs to no connection: an answer that nobody waits for, or something for others.
    fn stray(&mut self, packet: &Packet<'_>, dial: &Dial) -> Verdict {
        let answer = self.balancer.settings.nat_icmp_send
            && !packet.event.aborts()
            && self.balancer.is_nat_server(packet.protocol, packet.src)
            && !self.balancer.is_vip(packet.dst.addr);
        if answer {
            let from = self.routes.source(packet.src.addr).unwrap_or(packet.header.dst);
            return self.tell(IcmpError::PortUnreachable, packet.bytes, from, Reason::UnknownAnswer);
        }
        if self.balancer.is_vip(dial.dialled.addr) || self.is_own(dial.dialled.addr) { Verdict::Local } else { Verdict::Pass }
    }

    /// True when the connection of this packet is tunnelled: nobody can cut a merged packet once it is in a tunnel.
    pub(super) fn tunnels(&self, bytes: &[u8]) -> bool {
        let Some(header) = IpHeader::read(bytes) else { return false };
        let Some((client, dialled)) = header.endpoints(bytes) else { return false };
        let found = self.balancer.table().of_request(&Key { protocol: header.protocol, client, dialled, template: false });
        found.is_some_and(|id| self.balancer.pool()[self.balancer.table()[id].dest()].rule.method == ForwardingMethod::Tunnel)
    }

    fn is_own(&self, addr: IpAddr) -> bool {
        local::is_local(addr, self.routes.own.iter().map(|(own, _)| *own))
    }

    fn mark(&self, packet: &Packet<'_>) -> u32 {
        if packet.arrived.mark != 0 {
            return packet.arrived.mark;
        }
        let marks = |rule: &&MarkRule| {
            rule.to.contains(packet.dst.addr)
                && rule.protocol.is_none_or(|p| p == packet.protocol)
                && (rule.ports.0..=rule.ports.1).contains(&packet.dst.port)
        };
        self.marks.iter().rev().find(marks).map_or(0, |rule| rule.mark)
    }

    /// To the real server, by the method of its connection.
    fn transmit(&mut self, packet: &Packet<'_>, id: ConnId) -> Verdict {
        let conn = &self.balancer.table()[id];
        let dest = &self.balancer.pool()[conn.dest()];
        let (method, tunnel) = (dest.rule.method, dest.rule.tunnel);
        let server = Endpoint::new(dest.rule.addr, conn.dest_port());
        let Packet { header, .. } = *packet;
        if self.is_own(server.addr) {
            // The director's sockets get it; of NAT translated, else as it is.
            return Verdict::Local;
        }
        let Some(route) = self.routes.to(server.addr) else {
            return self.tell(IcmpError::HostUnreachable, packet.bytes, header.dst, Reason::NoRoute);
        };
        let flow = packet.src.port ^ packet.dst.port ^ u16::from(header.protocol);
        let kind = tun::kind(&tunnel, flow);
        let added = if method == ForwardingMethod::Tunnel { tun::overhead(kind, server.addr) } else { 0 };
        let settings = self.balancer.settings;
        let way = Way {
            mtu: route.mtu.saturating_sub(added),
            keep_ttl: self.faults.keep_ttl,
            test_merged: self.faults.old_mtu_test,
            merged: packet.arrived.merged.is_some(),
            tested: method != ForwardingMethod::Tunnel || settings.pmtu_disc || header.is_ipv6(),
        };
        let copied = if method == ForwardingMethod::Tunnel { packet.bytes.len() } else { packet.rewritten() };
        let rest = copied..packet.bytes.len();
        let mut bytes = roomy(&packet.bytes[..copied]);
        if let Err(error) = forward::prepare(&mut bytes, header, &way, &settings) {
            let reason = if error == IcmpError::TimeExceeded { Reason::TimeExceeded } else { Reason::TooBig };
            bytes.extend_from_slice(&packet.bytes[rest]);
            return self.tell(error, &bytes, header.dst, reason);
        }
        match method {
            ForwardingMethod::Nat => {
                nat::request(&mut bytes, header, server, packet.arrived.partial);
                self.spoil(&mut bytes, header);
            }
            ForwardingMethod::DirectRouting => dr::request(&mut bytes),
            ForwardingMethod::Tunnel => {
                let (Some(inner), Some(src)) = (IpHeader::read(&bytes), self.routes.source(server.addr)) else {
                    return Verdict::Drop(Reason::NoTunnel);
                };
                let outer = tun::outer(&inner, src, server.addr, kind, settings.pmtu_disc, self.ids.next_u32() as u16);
                match encapsulate(&bytes, &outer) {
                    Some(wrapped) => bytes = wrapped,
                    None => return Verdict::Drop(Reason::NoTunnel),
                }
            }
        }
        Verdict::Forward(Forwarded { bytes, rest, to: server.addr, method: Some(method), longest: packet.longest, answers: false })
    }

    /// A real server's packet (`handle_response`), after what a router does first (`ip_forward`).
    fn answer(&mut self, packet: &Packet<'_>, id: ConnId, now: Timestamp) -> Verdict {
        let Packet { bytes, header, event, .. } = *packet;
        let service = self.balancer.table()[id].dialled();
        let syn_ack = matches!(event, Event::Tcp(flags) if flags.accepts());
        if let Some(every) = self.faults.drop_syn_ack.filter(|_| syn_ack) {
            self.syn_acks += 1;
            if self.syn_acks.is_multiple_of(every) {
                return Verdict::Drop(Reason::Fault);
            }
        }
        if let Err(verdict) = self.route_on(bytes, header, packet.arrived.merged) {
            return verdict;
        }
        let rest = packet.rewritten()..bytes.len();
        let mut bytes = roomy(&bytes[..rest.start]);
        decrement_ttl(&mut bytes);
        if !self.faults.keep_answer {
            nat::answer(&mut bytes, header, service, packet.arrived.partial);
            self.spoil(&mut bytes, header);
        }
        self.balancer.count_out(id, header.total);
        self.balancer.transition(id, Direction::Output, event, now);
        Verdict::Forward(Forwarded { bytes, rest, to: header.dst, method: None, longest: packet.longest, answers: true })
    }

    /// What a router asks of any packet before it takes one from its TTL: TTL, route, MTU.
    fn route_on(&mut self, bytes: &[u8], header: &IpHeader, merged: Option<usize>) -> Result<(), Verdict> {
        let from = self.routes.source(header.src).unwrap_or(header.dst);
        let Some(route) = self.routes.to(header.dst) else {
            return Err(self.tell(IcmpError::HostUnreachable, bytes, from, Reason::NoRoute));
        };
        if header.ttl <= 1 {
            return Err(self.tell(IcmpError::TimeExceeded, bytes, from, Reason::TimeExceeded));
        }
        // Of a merged packet its segments have to fit (`ip_exceeds_mtu`).
        if merged.map_or(header.total, |size| segment_len(bytes, size)) > route.mtu && header.dont_fragment {
            let mtu = route.mtu as u32;
            return Err(self.tell(IcmpError::TooBig(mtu), bytes, from, Reason::TooBig));
        }
        Ok(())
    }

    /// ICMP: errors belong to a connection, the rest is not IPVS's business.
    fn error(&mut self, bytes: &[u8], header: &IpHeader) -> Verdict {
        let here = |engine: &Self| {
            if engine.balancer.is_vip(header.dst) || engine.is_own(header.dst) { Verdict::Local } else { Verdict::Pass }
        };
        let Some((at, inner)) = quoted(bytes, header) else { return here(self) };
        let ports = &bytes[at + inner.transport..];
        let [a, b, c, d] = ports.first_chunk::<4>().copied().unwrap_or_default();
        let from = Endpoint::new(inner.src, u16::from_be_bytes([a, b]));
        let to = Endpoint::new(inner.dst, u16::from_be_bytes([c, d]));
        // A tunnel's error quotes the outer header, and behind it the client's packet.
        if inner.protocol == 4 && !header.is_ipv6() {
            return self.tunnel_error(bytes, header, at + inner.transport).unwrap_or_else(|| here(self));
        }
        // About a request that we sent on to a real server: the client has to hear of it (`ip_vs_out_icmp`).
        if let Some(id) = self.balancer.table().of_answer(inner.protocol, to, from, self.balancer.pool()) {
            let service = self.balancer.table()[id].dialled();
            if header.is_ipv6() && !self.balancer.settings.conntrack {
                return Verdict::Drop(Reason::UncheckedError);
            }
            if let Err(verdict) = self.route_on(bytes, header, None) {
                return verdict;
            }
            let mut bytes = bytes.to_vec();
            decrement_ttl(&mut bytes);
            translate_error(&mut bytes, header, at, &inner, Side::Source, service);
            self.balancer.count_out(id, header.total);
            return Verdict::Forward(Forwarded { bytes, rest: 0..0, to: header.dst, method: None, longest: None, answers: true });
        }
        // About an answer that went to the client: the real server has to hear of it (`ip_vs_in_icmp`).
        let key = Key { protocol: inner.protocol, client: to, dialled: from, template: false };
        let Some(id) = self.balancer.table().of_request(&key) else { return here(self) };
        self.balancer.count_in(id, header.total);
        self.transmit_error(bytes, header, at, &inner, id)
    }

    fn transmit_error(&mut self, bytes: &[u8], header: &IpHeader, at: usize, inner: &IpHeader, id: ConnId) -> Verdict {
        let conn = &self.balancer.table()[id];
        let dest = &self.balancer.pool()[conn.dest()];
        if dest.rule.method != ForwardingMethod::Nat {
            let arrived = Arrived::plain(bytes);
            let (src, dst) = (Endpoint::new(header.src, 0), Endpoint::new(header.dst, 0));
            let protocol = Protocol::from(header.protocol);
            let packet = Packet { bytes, header, protocol, src, dst, event: Event::Udp, arrived: &arrived, longest: None };
            return self.transmit(&packet, id);
        }
        let server = Endpoint::new(dest.rule.addr, conn.dest_port());
        let mut out = bytes.to_vec();
        let Some(route) = self.routes.to(server.addr) else { return Verdict::Drop(Reason::NoRoute) };
        let way = Way { mtu: route.mtu, keep_ttl: self.faults.keep_ttl, test_merged: false, merged: false, tested: false };
        if let Err(error) = forward::prepare(&mut out, header, &way, &self.balancer.settings) {
            return self.tell(error, &out, header.dst, Reason::TimeExceeded);
        }
        translate_error(&mut out, header, at, inner, Side::Destination, server);
        Verdict::Forward(Forwarded {
            bytes: out,
            rest: 0..0,
            to: server.addr,
            method: Some(ForwardingMethod::Nat),
            longest: None,
            answers: false,
        })
    }

    /// An error about a packet that we put into a tunnel: the client gets one of ours about what was inside.
    fn tunnel_error(&mut self, bytes: &[u8], header: &IpHeader, at: usize) -> Option<Verdict> {
        let about = bytes.get(at..header.total)?;
        let mut whole = about.to_vec();
        let claimed = usize::from(u16::from_be_bytes([*about.get(2)?, *about.get(3)?]));
        whole.resize(claimed.max(about.len()), 0);
        let inner = IpHeader::read(&whole)?;
        let (src, dst) = inner.endpoints(&whole)?;
        let key = Key { protocol: inner.protocol, client: src, dialled: dst, template: false };
        let id = self.balancer.table().of_request(&key)?;
        let message = header.segment(bytes);
        let (kind, code) = (*message.first()?, *message.get(1)?);
        let error = match (kind, code) {
            (3, 4) => {
                if !inner.dont_fragment {
                    return Some(Verdict::Drop(Reason::TooBig));
                }
                let mtu = u32::from(u16::from_be_bytes([*message.get(6)?, *message.get(7)?]));
                IcmpError::TooBig(if mtu > 88 { mtu - 20 } else { mtu })
            }
            (11, _) => IcmpError::TimeExceeded,
            (3, 3) => IcmpError::PortUnreachable,
            _ => IcmpError::HostUnreachable,
        };
        self.balancer.count_out(id, header.total);
        let reason = if matches!(error, IcmpError::TooBig(_)) { Reason::TooBig } else { Reason::NoRoute };
        let id = self.ids.next_u32() as u16;
        icmp_error(error, inner.dst, &whole, id).map(|packet| Verdict::Answer(packet, reason))
    }

    fn tell(&mut self, error: IcmpError, about: &[u8], from: IpAddr, reason: Reason) -> Verdict {
        match icmp_error(error, from, about, self.ids.next_u32() as u16) {
            Some(packet) => Verdict::Answer(packet, reason),
            None => Verdict::Drop(reason),
        }
    }

    /// The fault of a wrong checksum.
    fn spoil(&self, bytes: &mut [u8], header: &IpHeader) {
        let at = header.transport + if header.protocol == 17 { 7 } else { 17 };
        if self.faults.wrong_checksum
            && matches!(header.protocol, 6 | 17)
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte = byte.wrapping_add(1);
        }
    }
}

/// A copy to be changed, with room for the link header that it gets.
fn roomy(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::with_capacity(bytes.len() + ETHERNET);
    copy.extend_from_slice(bytes);
    copy
}

/// A packet as the engine goes on with it.
struct Packet<'p> {
    bytes: &'p [u8],
    header: &'p IpHeader,
    protocol: Protocol,
    src: Endpoint,
    dst: Endpoint,
    event: Event,
    arrived: &'p Arrived<'p>,
    longest: Option<usize>,
}

impl Packet<'_> {
    /// Shorter packets are copied whole.
    const LONG: usize = 1024;
    /// The longest header of TCP.
    const TRANSPORT: usize = 60;

    /// Bytes from the beginning that NAT or direct routing may change, and that have to be copied. Not so of SCTP, whose checksum is
    /// computed anew from all of it, and of what was put together here from fragments.
    fn rewritten(&self) -> usize {
        let len = self.bytes.len();
        let apart =
            self.arrived.kept && len > Self::LONG && self.longest.is_none() && matches!(self.protocol, Protocol::Tcp | Protocol::Udp);
        if apart { (self.header.transport + Self::TRANSPORT).min(len) } else { len }
    }
}

#[cfg(test)]
mod tests;
