//! Headers → bytes, from the inside out: a segment, an IP packet around it, a frame around that.
//!
//! Every checksum is right. The director and the probes speak with these, and tests write packets instead of recording them.

use super::checksum::{checksum, fold, pseudo_sum, sum};
use super::link;
use super::tcp::TcpFlags;
use crate::net::{Endpoint, MacAddr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The fields of a TCP segment beside its ports.
#[derive(Clone, Debug, Default)]
pub struct TcpFields<'a> {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Option bytes; padded to a multiple of four with end-of-list.
    pub options: &'a [u8],
}

/// The fields of an IP header beside addresses and protocol.
#[derive(Clone, Copy, Debug)]
pub struct IpFields {
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// IPv4 identification; IPv6 has none.
    pub id: u16,
    /// IPv4 flags and fragment offset, as in the header (0x4000: don't fragment).
    pub flags: u16,
}

impl Default for IpFields {
    fn default() -> Self {
        IpFields { ttl: 64, id: 0, flags: 0x4000 }
    }
}

/// Options of a Linux SYN: MSS, SACK permitted, timestamps, window scale 7.
pub fn syn_options(mss: u16, ts_value: u32, ts_echo: u32) -> Vec<u8> {
    let mut options = vec![2, 4];
    options.extend(mss.to_be_bytes());
    options.extend([4, 2, 8, 10]);
    options.extend(ts_value.to_be_bytes());
    options.extend(ts_echo.to_be_bytes());
    options.extend([1, 3, 3, 7]);
    options
}

/// A TCP segment with its checksum.
pub fn tcp(src: Endpoint, dst: Endpoint, fields: &TcpFields<'_>, payload: &[u8]) -> Vec<u8> {
    let mut options = fields.options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    let mut out = Vec::with_capacity(20 + options.len() + payload.len());
    out.extend(src.port.to_be_bytes());
    out.extend(dst.port.to_be_bytes());
    out.extend(fields.seq.to_be_bytes());
    out.extend(fields.ack.to_be_bytes());
    out.extend([((20 + options.len()) as u8 / 4) << 4, fields.flags.0]);
    out.extend(64_240u16.to_be_bytes());
    out.extend([0; 4]);
    out.extend(options);
    out.extend(payload);
    finish(src.addr, dst.addr, 6, out, 16)
}

/// A UDP datagram with its checksum.
pub fn udp(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + payload.len());
    out.extend(src.port.to_be_bytes());
    out.extend(dst.port.to_be_bytes());
    out.extend((8 + payload.len() as u16).to_be_bytes());
    out.extend([0; 2]);
    out.extend(payload);
    finish(src.addr, dst.addr, 17, out, 6)
}

/// An ICMP message; for ICMPv6 give the addresses, whose pseudo-header its checksum covers.
pub fn icmp(src: IpAddr, dst: IpAddr, type_number: u8, code: u8, rest: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![type_number, code, 0, 0];
    out.extend(rest.to_be_bytes());
    out.extend(body);
    if src.is_ipv6() {
        return finish(src, dst, 58, out, 2);
    }
    let sum = checksum(&out);
    out[2..4].copy_from_slice(&sum.to_be_bytes());
    out
}

fn finish(src: IpAddr, dst: IpAddr, protocol: u8, mut out: Vec<u8>, at: usize) -> Vec<u8> {
    let value = !fold(sum(pseudo_sum(src, dst, protocol, out.len() as u32), &out));
    let value = if value == 0 && protocol == 17 { 0xffff } else { value };
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
    out
}

/// An IPv4 or IPv6 packet; both addresses must be of one family.
///
/// # Panics
/// When they are not.
pub fn ip(src: IpAddr, dst: IpAddr, protocol: u8, fields: IpFields, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, protocol, fields, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(src, dst, protocol, fields, payload),
        _ => panic!("an IP packet from {src} to {dst}"),
    }
}

fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, fields: IpFields, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x45, 0];
    out.extend((20 + payload.len() as u16).to_be_bytes());
    out.extend(fields.id.to_be_bytes());
    out.extend(fields.flags.to_be_bytes());
    out.extend([fields.ttl, protocol, 0, 0]);
    out.extend(src.octets());
    out.extend(dst.octets());
    let sum = checksum(&out);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend(payload);
    out
}

fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, fields: IpFields, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend([protocol, fields.ttl]);
    out.extend(src.octets());
    out.extend(dst.octets());
    out.extend(payload);
    out
}

/// An Ethernet frame around an IP packet, whose version decides the EtherType; with VLAN tags, outermost first.
pub fn ethernet(src: MacAddr, dst: MacAddr, vlans: &[u16], ip: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(ip.len() + ETHERNET);
    packet.extend(ip);
    framed(src, dst, vlans, packet)
}

/// Room that an Ethernet header with two tags needs.
pub const ETHERNET: usize = 22;

/// As [`ethernet`], around the packet where it is: with [`ETHERNET`] bytes of spare capacity nothing is allocated.
pub fn framed(src: MacAddr, dst: MacAddr, vlans: &[u16], mut packet: Vec<u8>) -> Vec<u8> {
    let ether_type = if packet.first().is_some_and(|b| b >> 4 == 6) { link::IPV6 } else { link::IPV4 };
    let mut head = [0; ETHERNET];
    head[..6].copy_from_slice(&dst.0);
    head[6..12].copy_from_slice(&src.0);
    let mut len = 12;
    for vlan in vlans.iter().take(2) {
        head[len..len + 2].copy_from_slice(&0x8100u16.to_be_bytes());
        head[len + 2..len + 4].copy_from_slice(&vlan.to_be_bytes());
        len += 4;
    }
    head[len..len + 2].copy_from_slice(&ether_type.to_be_bytes());
    packet.splice(0..0, head[..len + 2].iter().copied());
    packet
}

/// An Ethernet frame with an ARP packet: operation 1 asks, 2 answers.
pub fn arp(frame_dst: MacAddr, operation: u16, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr), vlans: &[u16]) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    body.extend(sender.0.0);
    body.extend(sender.1.octets());
    body.extend(target.0.0);
    body.extend(target.1.octets());
    frame(sender.0, frame_dst, vlans, link::ARP, &body)
}

/// A neighbour solicitation (RFC 4861, section 4.3): who has `target`? It goes to the few whose addresses end as the target does. One who
/// has no address yet does not say where it is (duplicate address detection).
pub fn solicitation(mac: MacAddr, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let told = (!from.is_unspecified()).then_some((SOURCE_MAC, mac));
    neighbour((mac, from), (MacAddr([0x33, 0x33, 0xff, a, b, c]), group), (135, 0), target, told)
}

/// A neighbour advertisement (RFC 4861, section 4.4): `mac` has `target`. It answers the one who asked, or tells everyone.
pub fn advertisement(mac: MacAddr, target: Ipv6Addr, asker: Option<(MacAddr, Ipv6Addr)>) -> Vec<u8> {
    let everyone = (MacAddr([0x33, 0x33, 0, 0, 0, 1]), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let flags = if asker.is_some() { SOLICITED | OVERRIDE } else { OVERRIDE };
    neighbour((mac, target), asker.unwrap_or(everyone), (136, flags), target, Some((TARGET_MAC, mac)))
}

const SOLICITED: u32 = 0x4000_0000;
const OVERRIDE: u32 = 0x2000_0000;
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;

/// A message of neighbour discovery, with at most one option.
fn neighbour(
    from: (MacAddr, Ipv6Addr),
    to: (MacAddr, Ipv6Addr),
    (type_number, flags): (u8, u32),
    target: Ipv6Addr,
    option: Option<(u8, MacAddr)>,
) -> Vec<u8> {
    let (src, dst) = (IpAddr::V6(from.1), IpAddr::V6(to.1));
    let mut body = target.octets().to_vec();
    if let Some((number, mac)) = option {
        body.extend([number, 1]);
        body.extend(mac.0);
    }
    // Whatever came through a router is not believed: its hop limit would be lower.
    let fields = IpFields { ttl: 255, ..IpFields::default() };
    ethernet(from.0, to.0, &[], &ip(src, dst, 58, fields, &icmp(src, dst, type_number, 0, flags, &body)))
}

fn frame(src: MacAddr, dst: MacAddr, vlans: &[u16], ether_type: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(14 + body.len());
    out.extend(dst.0);
    out.extend(src.0);
    for vlan in vlans {
        out.extend(0x8100u16.to_be_bytes());
        out.extend(vlan.to_be_bytes());
    }
    out.extend(ether_type.to_be_bytes());
    out.extend(body);
    out
}
