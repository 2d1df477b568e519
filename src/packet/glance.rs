//! The fast path: the fields of a plain TCP or UDP packet over Ethernet, read in one go.
//!
//! Of a large capture nearly every packet is such a one, and building a whole [`super::Packet`] for it would cost more than everything
//! else that is done with it. [`glance`] says `None` to whatever is not plain: then [`super::dissect`] reads it. The test at the end of
//! this file holds both to the same answer.

use super::tunnel::may_be_udp_tunnel;
use super::{Frame, LinkType, TcpFlags};

/// What a plain TCP or UDP packet says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glance {
    /// Destination and source MAC, as they stand in the frame.
    pub macs: [u8; 12],
    /// The VLAN identifier, with bit 12 set when there is a tag.
    pub vlan: u16,
    /// Source and destination address.
    pub addresses: Addresses,
    /// 6 or 17.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// IPv4 identification; 0 for IPv6.
    pub id: u16,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// TCP sequence number; 0 for UDP.
    pub seq: u32,
    /// TCP acknowledgement number; 0 for UDP.
    pub ack: u32,
    /// TCP flags; none for UDP.
    pub flags: TcpFlags,
    /// Length of the payload on the wire in bytes.
    pub payload_len: u32,
}

/// A pair of addresses of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addresses {
    /// IPv4, as numbers.
    V4(u32, u32),
    /// IPv6, as numbers.
    V6(u128, u128),
}

/// Set in [`Glance::vlan`] when the frame has a tag.
const TAGGED: u16 = 0x1000;

/// Reads a plain packet; `None` for anything with a fragment, an IP option, an extension header, a tunnel, a second VLAN tag, a cut
/// header, another link type or another protocol.
#[inline]
pub fn glance(frame: &Frame<'_>) -> Option<Glance> {
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
    let (mut glance, segment, len) = match ether_type {
        [0x08, 0x00] => ipv4(rest)?,
        [0x86, 0xdd] => ipv6(rest)?,
        _ => return None,
    };
    (glance.macs, glance.vlan) = (*macs, vlan);
    glance.transport(segment, len).then_some(glance)
}

fn ipv4(bytes: &[u8]) -> Option<(Glance, &[u8], usize)> {
    let (h, segment) = bytes.split_first_chunk::<20>()?;
    let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if h[0] != 0x45 || total < 28 || u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
        return None;
    }
    let addresses = Addresses::V4(u32::from_be_bytes([h[12], h[13], h[14], h[15]]), u32::from_be_bytes([h[16], h[17], h[18], h[19]]));
    Some((Glance::new(addresses, h[9], h[8], u16::from_be_bytes([h[4], h[5]])), segment, total - 20))
}

fn ipv6(bytes: &[u8]) -> Option<(Glance, &[u8], usize)> {
    let (h, segment) = bytes.split_first_chunk::<40>()?;
    let len = usize::from(u16::from_be_bytes([h[4], h[5]]));
    if h[0] >> 4 != 6 || len < 8 {
        return None;
    }
    let (head, dst) = h.split_last_chunk::<16>()?;
    let src = head.last_chunk::<16>()?;
    Some((Glance::new(Addresses::V6(u128::from_be_bytes(*src), u128::from_be_bytes(*dst)), h[6], h[7], 0), segment, len))
}

impl Glance {
    fn new(addresses: Addresses, protocol: u8, ttl: u8, id: u16) -> Self {
        let (src_port, dst_port, flags) = (0, 0, TcpFlags(0));
        Glance { macs: [0; 12], vlan: 0, addresses, protocol, ttl, id, src_port, dst_port, seq: 0, ack: 0, flags, payload_len: 0 }
    }

    /// Fills in the transport fields; `len` is the segment's length on the wire.
    #[inline]
    fn transport(&mut self, segment: &[u8], len: usize) -> bool {
        match self.protocol {
            6 => {
                let Some(h) = segment.first_chunk::<20>() else { return false };
                let header = usize::from(h[12] >> 4) * 4;
                // Options cut by the snap length are a matter for the slow path, which says so.
                if header < 20 || header > len || header > segment.len() {
                    return false;
                }
                self.src_port = u16::from_be_bytes([h[0], h[1]]);
                self.dst_port = u16::from_be_bytes([h[2], h[3]]);
                self.seq = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
                self.ack = u32::from_be_bytes([h[8], h[9], h[10], h[11]]);
                self.flags = TcpFlags(h[13]);
                self.payload_len = (len - header) as u32;
                true
            }
            17 => {
                let Some((h, payload)) = segment.split_first_chunk::<8>() else { return false };
                self.src_port = u16::from_be_bytes([h[0], h[1]]);
                self.dst_port = u16::from_be_bytes([h[2], h[3]]);
                let declared = usize::from(u16::from_be_bytes([h[4], h[5]]));
                if declared < 8 || declared > len || may_be_udp_tunnel(self.dst_port, payload) {
                    return false;
                }
                self.payload_len = (declared - 8) as u32;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{MacAddr, Timestamp};
    use crate::packet::{Transport, build, dissect};
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame {
            bytes,
            wire_len: bytes.len() as u32,
            link_type: LinkType::ETHERNET,
            time: Timestamp(0),
            number: 1,
            interface: 0,
            heading: None,
        }
    }

    /// Holds the fast path to the slow one; true when the fast path took it.
    fn agrees(bytes: &[u8]) -> bool {
        let frame = frame(bytes);
        let Some(fast) = glance(&frame) else { return false };
        let slow = dissect(&frame);
        let ip = slow.ip().expect("an IP packet");
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&slow.link.dst.unwrap().0);
        macs[6..].copy_from_slice(&slow.link.src.unwrap().0);
        let addresses = match (ip.src, ip.dst) {
            (IpAddr::V4(a), IpAddr::V4(b)) => Addresses::V4(a.into(), b.into()),
            (IpAddr::V6(a), IpAddr::V6(b)) => Addresses::V6(a.into(), b.into()),
            _ => unreachable!("one family"),
        };
        let (src_port, dst_port) = slow.transport.ports().expect("ports");
        let (seq, ack, flags) = match slow.transport {
            Transport::Tcp(tcp) => (tcp.seq, tcp.ack, tcp.flags),
            Transport::Udp(_) => (0, 0, TcpFlags(0)),
            other => panic!("{other:?}"),
        };
        let vlan = slow.link.vlans.ids().first().map_or(0, |id| TAGGED | id);
        let (protocol, ttl, id, payload_len) = (ip.protocol, ip.ttl, ip.id as u16, slow.payload_len);
        assert_eq!(fast, Glance { macs, vlan, addresses, protocol, ttl, id, src_port, dst_port, seq, ack, flags, payload_len });
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
