//! The fast path: the fields of a plain TCP or UDP packet over Ethernet, read in one go.
//!
//! Of a large capture nearly every packet is such a one, and building a whole [`super::Packet`] for it would cost more than everything
//! else that is done with it. [`glance`] says `None` to whatever is not plain: then [`super::dissect`] reads it. The test at the end of
//! this file holds both to the same answer.

use super::tunnel::may_be_udp_tunnel;
use super::{Frame, LinkType, TcpFlags};

/// A plain TCP or UDP packet: its headers where they stand in the frame. Nothing is copied until it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Glance<'a> {
    /// Destination and source MAC, as they stand in the frame.
    pub macs: &'a [u8; 12],
    /// The VLAN identifier, with bit 12 set when there is a tag.
    pub vlan: u16,
    /// The IP header.
    pub ip: PlainIp<'a>,
    /// The transport header.
    pub transport: PlainTransport<'a>,
    /// Where the transport header begins in the frame, in bytes.
    pub transport_at: usize,
    /// Length of the payload on the wire in bytes.
    pub payload_len: u32,
}

/// An IP header without options or extensions.
#[derive(Clone, Copy, Debug)]
pub enum PlainIp<'a> {
    /// IPv4.
    V4(&'a [u8; 20]),
    /// IPv6.
    V6(&'a [u8; 40]),
}

/// A transport header.
#[derive(Clone, Copy, Debug)]
pub enum PlainTransport<'a> {
    /// TCP, without its options.
    Tcp(&'a [u8; 20]),
    /// UDP.
    Udp(&'a [u8; 8]),
}

/// A pair of addresses of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addresses {
    /// IPv4: the source in the upper half, the destination in the lower, as they stand in the header.
    V4(u64),
    /// IPv6: source and destination, as numbers.
    V6(u128, u128),
}

/// Set in [`Glance::vlan`] when the frame has a tag.
const TAGGED: u16 = 0x1000;

impl Glance<'_> {
    /// Source and destination address.
    #[inline(always)]
    pub fn addresses(&self) -> Addresses {
        match self.ip {
            PlainIp::V4(h) => Addresses::V4(h.last_chunk().map_or(0, |both| u64::from_be_bytes(*both))),
            PlainIp::V6(h) => {
                let half = |at: usize| h[at..at + 16].first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes));
                Addresses::V6(half(8), half(24))
            }
        }
    }

    /// 6 or 17.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        match self.transport {
            PlainTransport::Tcp(_) => 6,
            PlainTransport::Udp(_) => 17,
        }
    }

    /// Time to live, or hop limit.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        match self.ip {
            PlainIp::V4(h) => h[8],
            PlainIp::V6(h) => h[7],
        }
    }

    /// IPv4 identification; 0 for IPv6.
    #[inline(always)]
    pub fn id(&self) -> u16 {
        match self.ip {
            PlainIp::V4(h) => u16::from_be_bytes([h[4], h[5]]),
            PlainIp::V6(_) => 0,
        }
    }

    /// The ports: source in the upper half, destination in the lower.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        let (PlainTransport::Tcp(&[a, b, c, d, ..]) | PlainTransport::Udp(&[a, b, c, d, ..])) = self.transport;
        u32::from_be_bytes([a, b, c, d])
    }

    /// TCP sequence number, acknowledgement number and flags; zeros for UDP.
    #[inline(always)]
    pub fn sequence(&self) -> (u32, u32, TcpFlags) {
        match self.transport {
            PlainTransport::Tcp(h) => {
                (u32::from_be_bytes([h[4], h[5], h[6], h[7]]), u32::from_be_bytes([h[8], h[9], h[10], h[11]]), TcpFlags(h[13]))
            }
            PlainTransport::Udp(_) => (0, 0, TcpFlags(0)),
        }
    }

    /// TCP options other than those of an ordinary segment (timestamps): the header is longer than 32 bytes.
    #[inline(always)]
    pub fn odd_options(&self) -> bool {
        matches!(self.transport, PlainTransport::Tcp(h) if h[12] >> 4 > 8)
    }
}

/// Reads the plainest packet of all, TCP in IPv4 in Ethernet without a tag, of which most captures are full: every field has a fixed
/// place, so one length is tested where [`glance`] tests seven. `None` does not mean that the packet is not plain.
#[inline(always)]
pub fn glance_tcp<'a>(frame: &Frame<'a>) -> Option<Glance<'a>> {
    if frame.link_type != LinkType::ETHERNET {
        return None;
    }
    let (headers, behind) = frame.bytes.split_first_chunk::<54>()?;
    // Whole words, each one load: EtherType, version and header length; then fragment, TTL (which may be anything) and protocol.
    let word = |at: usize| u32::from_be_bytes([headers[at], headers[at + 1], headers[at + 2], headers[at + 3]]);
    let total = usize::from(u16::from_be_bytes([headers[16], headers[17]]));
    let header = usize::from(headers[46] >> 4) * 4;
    if word(12) >> 8 != 0x0008_0045 || word(20) & 0x3fff_00ff != 6 || header < 20 || 20 + header > total || header > 20 + behind.len() {
        return None;
    }
    let (macs, headers) = headers.split_first_chunk::<12>()?;
    let (ip, transport) = headers.split_first_chunk::<2>()?.1.split_first_chunk::<20>()?;
    let transport = transport.first_chunk::<20>()?;
    let (ip, transport) = (PlainIp::V4(ip), PlainTransport::Tcp(transport));
    Some(Glance { macs, vlan: 0, ip, transport, transport_at: 34, payload_len: (total - 20 - header) as u32 })
}

/// Reads a plain packet; `None` for anything with a fragment, an IP option, an extension header, a tunnel, a second VLAN tag, a cut
/// header, another link type or another protocol.
#[inline(always)]
pub fn glance<'a>(frame: &Frame<'a>) -> Option<Glance<'a>> {
    if frame.link_type != LinkType::ETHERNET {
        return None;
    }
    let (macs, rest) = frame.bytes.split_first_chunk::<12>()?;
    let (ether_type, rest) = rest.split_first_chunk::<2>()?;
    let (vlan, ether_type, rest) = match *ether_type {
        [0x81, 0x00] => {
            let ([a, b, t0, t1], rest) = rest.split_first_chunk::<4>()?;
            (TAGGED | (u16::from_be_bytes([*a, *b]) & 0x0fff), [*t0, *t1], rest)
        }
        plain => (0, plain, rest),
    };
    let (ip, protocol, segment, len) = match ether_type {
        [0x08, 0x00] => {
            let (h, segment) = rest.split_first_chunk::<20>()?;
            let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
            if h[0] != 0x45 || total < 28 || u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
                return None;
            }
            (PlainIp::V4(h), h[9], segment, total - 20)
        }
        [0x86, 0xdd] => {
            let (h, segment) = rest.split_first_chunk::<40>()?;
            let len = usize::from(u16::from_be_bytes([h[4], h[5]]));
            if h[0] >> 4 != 6 || len < 8 {
                return None;
            }
            (PlainIp::V6(h), h[6], segment, len)
        }
        _ => return None,
    };
    let transport_at = frame.bytes.len() - segment.len();
    match protocol {
        6 => {
            let h = segment.first_chunk::<20>()?;
            let header = usize::from(h[12] >> 4) * 4;
            // Options cut by the snap length are a matter for the slow path, which says so.
            if header < 20 || header > len || header > segment.len() {
                return None;
            }
            Some(Glance { macs, vlan, ip, transport: PlainTransport::Tcp(h), transport_at, payload_len: (len - header) as u32 })
        }
        17 => {
            let (h, payload) = segment.split_first_chunk::<8>()?;
            let declared = usize::from(u16::from_be_bytes([h[4], h[5]]));
            if declared < 8 || declared > len || may_be_udp_tunnel(u16::from_be_bytes([h[2], h[3]]), payload) {
                return None;
            }
            Some(Glance { macs, vlan, ip, transport: PlainTransport::Udp(h), transport_at, payload_len: (declared - 8) as u32 })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::MacAddr;
    use crate::packet::{Transport, build, dissect};
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame::whole(LinkType::ETHERNET, bytes)
    }

    /// Holds the fast path to the slow one; true when the fast path took it.
    fn agrees(bytes: &[u8]) -> bool {
        let frame = frame(bytes);
        let Some(fast) = glance(&frame) else {
            assert!(glance_tcp(&frame).is_none(), "a fast path that takes more");
            return false;
        };
        if let Some(fastest) = glance_tcp(&frame) {
            assert_eq!(format!("{fastest:?}"), format!("{fast:?}"));
        }
        let slow = dissect(&frame);
        let ip = slow.ip().expect("an IP packet");
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&slow.link.dst.unwrap().0);
        macs[6..].copy_from_slice(&slow.link.src.unwrap().0);
        let addresses = match (ip.src, ip.dst) {
            (IpAddr::V4(a), IpAddr::V4(b)) => Addresses::V4(u64::from(u32::from(a)) << 32 | u64::from(u32::from(b))),
            (IpAddr::V6(a), IpAddr::V6(b)) => Addresses::V6(a.into(), b.into()),
            _ => unreachable!("one family"),
        };
        let (sequence, odd) = match &slow.transport {
            Transport::Tcp(tcp) => ((tcp.seq, tcp.ack, tcp.flags), tcp.option_bytes.len() > 12),
            Transport::Udp(_) => ((0, 0, TcpFlags(0)), false),
            other => panic!("{other:?}"),
        };
        assert_eq!(*fast.macs, macs);
        assert_eq!(fast.vlan, slow.link.vlans.ids().first().map_or(0, |id| TAGGED | id));
        assert_eq!(fast.addresses(), addresses);
        assert_eq!((fast.protocol(), fast.ttl(), u32::from(fast.id())), (ip.protocol, ip.ttl, ip.id));
        assert_eq!(Some(((fast.ports() >> 16) as u16, fast.ports() as u16)), slow.transport.ports());
        assert_eq!((fast.sequence(), fast.odd_options()), (sequence, odd));
        assert_eq!(fast.transport_at, slow.segment.as_ptr() as usize - bytes.as_ptr() as usize);
        assert_eq!(fast.payload_len, slow.payload_len);
        assert!(slow.stop.is_none() && slow.tunnels.is_empty() && ip.fragment.is_none());
        true
    }

    fn samples() -> Vec<Vec<u8>> {
        let (a, b) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let mut all = Vec::new();
        for (src, dst) in [("10.0.0.1:40000", "10.0.0.2:80"), ("[2001:db8::1]:40000", "[2001:db8::2]:53")] {
            let (src, dst): (crate::net::Endpoint, crate::net::Endpoint) = (src.parse().unwrap(), dst.parse().unwrap());
            let options = build::syn_options(1460, 1, 2);
            let tcp = build::tcp(src, dst, &build::TcpFields { seq: 7, ack: 9, flags: TcpFlags(2), options: &options }, b"hello");
            for (protocol, segment) in [(6, tcp), (17, build::udp(src, dst, b"\x90hello"))] {
                let ip = build::ip(src.addr, dst.addr, protocol, build::IpFields { ttl: 63, id: 77, flags: 0x4000 }, &segment);
                all.push(build::ethernet(a, b, &[], &ip));
                all.push(build::ethernet(a, b, &[224], &ip));
            }
        }
        all
    }

    #[test]
    fn takes_the_plain_ones() {
        for bytes in samples() {
            assert!(agrees(&bytes), "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn never_differs_from_dissect(which in 0usize..8, flips in proptest::collection::vec((0usize..100, any::<u8>()), 0..4), cut in 0usize..120) {
            let mut bytes = samples()[which].clone();
            for (at, value) in flips {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            agrees(&bytes);
        }
    }
}
