//! A connection: its ends, what each host on the way does to its packets, and the packets themselves.

use super::{World, end, ip};
use crate::net::Endpoint;
use crate::packet::{TcpFlags, build};
use std::net::IpAddr;

pub(in crate::rules) const SYN: u8 = 0x02;
pub(in crate::rules) const SYN_ACK: u8 = 0x12;
pub(in crate::rules) const ACK: u8 = 0x10;
pub(in crate::rules) const PSH: u8 = 0x18;
pub(in crate::rules) const FIN: u8 = 0x11;
pub(in crate::rules) const RST: u8 = 0x04;
pub(in crate::rules) const REFUSE: u8 = 0x14;

/// What a forwarder does to the packets of one connection.
#[derive(Clone, Default)]
pub(super) struct Work {
    /// New source.
    pub(super) src: Option<Endpoint>,
    /// New destination.
    pub(super) dst: Option<Endpoint>,
    /// Into a tunnel: outer protocol number (4 IPIP, 47 GRE, 17 GUE on port 6080), outer source and destination.
    pub(super) tunnel: Option<(u8, IpAddr, IpAddr)>,
}

/// Source, destination, and the tunnel around them.
pub(super) type Addresses = (Endpoint, Endpoint, Option<(u8, IpAddr, IpAddr)>);

/// A connection: its ends as the client has them, and what each host on the way does to it.
#[derive(Clone)]
pub(in crate::rules) struct Conn {
    pub(super) client: Endpoint,
    pub(super) service: Endpoint,
    pub(super) udp: bool,
    pub(super) isn: (u32, u32),
    /// Timestamp of its SYN, and what its SYN-ACK echoes.
    pub(super) stamps: (u32, u32),
    pub(super) work: Vec<(String, Work)>,
}

impl World {
    /// A TCP connection from `client` to `service`.
    pub(in crate::rules) fn tcp(client: &str, service: &str) -> Conn {
        let client = end(client);
        let number = u32::from(client.port).wrapping_mul(0x9e37_79b9);
        let isn = (number | 1 << 20, number.rotate_left(13) | 1 << 21);
        Conn { client, service: end(service), udp: false, isn, stamps: (isn.0 ^ 0x5555, 0), work: Vec::new() }
    }

    /// UDP between `client` and `service`.
    pub(in crate::rules) fn udp(client: &str, service: &str) -> Conn {
        Conn { udp: true, ..World::tcp(client, service) }
    }
}

impl Conn {
    /// `host` translates the destination.
    pub(in crate::rules) fn dnat(mut self, host: &str, dst: &str) -> Self {
        self.work_of(host).dst = Some(end(dst));
        self
    }

    /// `host` translates the source.
    pub(in crate::rules) fn snat(mut self, host: &str, src: &str) -> Self {
        self.work_of(host).src = Some(end(src));
        self
    }

    /// `host` puts it into a tunnel of this outer protocol.
    pub(in crate::rules) fn tunnel(mut self, host: &str, protocol: u8, src: &str, dst: &str) -> Self {
        self.work_of(host).tunnel = Some((protocol, ip(src), ip(dst)));
        self
    }

    /// The same connection after the client has sent so many bytes more.
    pub(in crate::rules) fn later(&self, bytes: u32) -> Self {
        Conn { isn: (self.isn.0.wrapping_add(bytes), self.isn.1), ..self.clone() }
    }

    /// The same connection after the server has sent so many bytes more.
    pub(in crate::rules) fn answered(&self, bytes: u32) -> Self {
        Conn { isn: (self.isn.0, self.isn.1.wrapping_add(bytes)), ..self.clone() }
    }

    /// The same connection whose SYN is sent at `value`, and whose SYN-ACK echoes `echo`.
    pub(in crate::rules) fn stamped(&self, value: u32, echo: u32) -> Self {
        Conn { stamps: (value, echo), ..self.clone() }
    }

    fn work_of(&mut self, host: &str) -> &mut Work {
        if !self.work.iter().any(|(h, _)| h == host) {
            self.work.push((host.to_string(), Work::default()));
        }
        self.work.iter_mut().find(|(h, _)| h == host).map(|(_, work)| work).expect("just added")
    }

    /// Source and destination of a request behind the work of so many hosts.
    pub(super) fn behind(&self, hosts: usize) -> (Endpoint, Endpoint) {
        let work = self.work.iter().take(hosts).map(|(_, work)| work);
        work.fold((self.client, self.service), |(src, dst), work| (work.src.unwrap_or(src), work.dst.unwrap_or(dst)))
    }

    /// What `host` makes of a packet that passes it.
    pub(super) fn pass(&self, host: &str, back: bool, at: Addresses) -> Addresses {
        let Some(place) = self.work.iter().position(|(h, _)| h == host) else { return at };
        let (src, dst) = self.behind(place);
        let work = &self.work[place].1;
        match back {
            false => (work.src.unwrap_or(at.0), work.dst.unwrap_or(at.1), work.tunnel),
            // Undone only if it is the answer to what was done.
            true => (if work.dst == Some(at.0) { dst } else { at.0 }, if work.src == Some(at.1) { src } else { at.1 }, None),
        }
    }

    pub(super) fn packet(&self, back: bool, flags: u8, payload: &[u8], ttl: u8, id: u16, at: &Addresses) -> Vec<u8> {
        let (src, dst, tunnel) = at;
        let (protocol, segment) = match self.udp {
            true => (17, build::udp(*src, *dst, payload)),
            false => {
                let (mine, other) = if back { (self.isn.1, self.isn.0) } else { (self.isn.0, self.isn.1) };
                let first = flags & SYN != 0 || flags == REFUSE;
                let seq = if flags == REFUSE { 0 } else { mine.wrapping_add(u32::from(!first)) };
                let ack = if flags & ACK != 0 { other.wrapping_add(1) } else { 0 };
                let (value, echo) = if back { (self.isn.1 ^ 0x5555, self.stamps.1) } else { (self.stamps.0, 0) };
                let options = if flags & SYN != 0 { build::syn_options(1460, value, echo) } else { Vec::new() };
                (6, build::tcp(*src, *dst, &build::TcpFields { seq, ack, flags: TcpFlags(flags), options: &options }, payload))
            }
        };
        let packet = build::ip(src.addr, dst.addr, protocol, build::IpFields { ttl, id, flags: 0x4000 }, &segment);
        let Some((protocol, a, b)) = *tunnel else { return packet };
        let inside = match protocol {
            47 => [&[0, 0, 8, 0], &packet[..]].concat(),
            17 => build::udp(Endpoint::new(a, 33000), Endpoint::new(b, 6080), &[&[0, 4, 0, 0], &packet[..]].concat()),
            _ => packet,
        };
        build::ip(a, b, protocol, build::IpFields { ttl, id: 0, flags: 0x4000 }, &inside)
    }
}
