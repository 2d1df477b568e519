//! From a frame to its layers.

use super::frame::{Frame, LinkType};
use super::ip::Network;
use super::link::Link;
use super::transport::Transport;
use super::tunnel::Tunnel;
use crate::net::{Endpoint, FiveTuple, Protocol};
use std::fmt;

/// The layers of a frame that were understood, and where understanding stopped. Never an error.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Packet<'a> {
    /// Link-layer header of the frame itself.
    pub link: Link,
    /// Encapsulations, outermost first. Everything below is what is inside the innermost one.
    pub tunnels: Vec<Tunnel>,
    /// Network layer.
    pub network: Network,
    /// Transport layer.
    pub transport: Transport<'a>,
    /// What the transport carries, as far as captured.
    pub payload: &'a [u8],
    /// Its length on the wire in bytes, as the headers say.
    pub payload_len: u32,
    /// Transport header and payload together, as far as captured: what its checksum covers.
    pub segment: &'a [u8],
    /// Why and where the rest was not understood; `None` when everything was.
    pub stop: Option<Stop>,
}

/// Where and why dissection stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// The header that could not be read: "IPv4", "TCP", "link" …
    pub layer: &'static str,
    /// Why.
    pub reason: StopReason,
    /// Byte offset in the frame at which that header begins.
    pub offset: usize,
}

/// Why dissection stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// The captured bytes end here: snap length, or a short frame.
    Truncated,
    /// The bytes cannot be what they claim to be.
    Malformed(&'static str),
    /// A type number that is not read: link type, EtherType or protocol.
    Unsupported(u32),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            StopReason::Truncated => write!(f, "[|{}]", self.layer),
            StopReason::Malformed(what) => write!(f, "[{}: {what} at byte {}]", self.layer, self.offset),
            StopReason::Unsupported(number) if self.layer == "link" => write!(f, "ethertype 0x{number:04x}"),
            StopReason::Unsupported(number) => write!(f, "[{} type {number} not read]", self.layer),
        }
    }
}

impl Packet<'_> {
    /// The IP header, where there is one.
    pub fn ip(&self) -> Option<&super::Ip> {
        match &self.network {
            Network::Ip(ip) => Some(ip),
            _ => None,
        }
    }

    /// Who talks to whom. Ports are 0 where the transport has none or they were not captured; an ICMP echo has its identifier on
    /// both sides.
    pub fn five_tuple(&self) -> Option<FiveTuple> {
        let ip = self.ip()?;
        let (src, dst) = self.transport.ports().unwrap_or((0, 0));
        Some(FiveTuple { protocol: Protocol::from(ip.protocol), src: Endpoint::new(ip.src, src), dst: Endpoint::new(ip.dst, dst) })
    }
}

/// Reads the layers of `frame`. Never fails and never panics, whatever the bytes.
pub fn dissect<'a>(frame: &Frame<'a>) -> Packet<'a> {
    let mut dissector = Dissector::new(frame.bytes, frame.wire_len as usize);
    dissector.link_layer(frame.link_type, frame.bytes);
    dissector.packet
}

/// A packet in the making.
pub(super) struct Dissector<'a> {
    pub(super) packet: Packet<'a>,
    frame: &'a [u8],
    wire_len: usize,
    /// How many packets around this one quote it (ICMP errors).
    quotes: u8,
}

impl<'a> Dissector<'a> {
    /// More outer headers than this are a hostile packet; the field knows three.
    pub(super) const MAX_TUNNELS: usize = 8;

    pub(super) fn new(frame: &'a [u8], wire_len: usize) -> Self {
        Dissector { packet: Packet::default(), frame, wire_len: wire_len.max(frame.len()), quotes: 0 }
    }

    /// Where `bytes` begin in the frame.
    fn offset(&self, bytes: &[u8]) -> usize {
        // An address difference, not a dereference: `bytes` is always a part of the frame.
        (bytes.as_ptr() as usize).wrapping_sub(self.frame.as_ptr() as usize).min(self.frame.len())
    }

    /// How many bytes were on the wire from the beginning of `bytes` on.
    pub(super) fn wire_left(&self, bytes: &[u8]) -> usize {
        self.wire_len - self.offset(bytes)
    }

    pub(super) fn stop(&mut self, layer: &'static str, reason: StopReason, at: &[u8]) {
        self.packet.stop = Some(Stop { layer, reason, offset: self.offset(at) });
    }

    /// A payload that no reader here understands, or that needs none.
    pub(super) fn opaque(&mut self, bytes: &'a [u8], len: usize) {
        self.packet.payload = bytes;
        self.packet.payload_len = len as u32;
        self.packet.segment = bytes;
    }

    /// The packet that an ICMP error quotes. A quoted packet that quotes another is a hostile one and is not followed.
    pub(super) fn quoted(&self, bytes: &'a [u8]) -> Option<Box<Packet<'a>>> {
        if self.quotes > 0 || bytes.is_empty() {
            return None;
        }
        let mut inner = Dissector { packet: Packet::default(), frame: self.frame, wire_len: self.wire_len, quotes: 1 };
        inner.link_layer(LinkType::RAW, bytes);
        Some(Box::new(inner.packet))
    }
}
