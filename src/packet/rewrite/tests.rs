use super::translate::crc32c;
use super::*;
use crate::net::Endpoint;
use crate::packet::build::{self, IpFields, TcpFields};
use crate::packet::checksum::{fold, pseudo_sum, sum};
use crate::packet::ip::{TCP, UDP};
use crate::packet::{ChecksumState, Frame, LinkType, Transport, checksum_state, dissect};
use proptest::prelude::*;
use std::net::IpAddr;

fn state(packet: &[u8]) -> ChecksumState {
    checksum_state(&dissect(&frame(packet)))
}

fn frame(packet: &[u8]) -> Frame<'_> {
    Frame::whole(LinkType::RAW, packet)
}

fn endpoint() -> impl Strategy<Value = (Endpoint, Endpoint, Endpoint)> {
    let v4 = any::<([u8; 4], u16)>().prop_map(|(a, p)| Endpoint::new(IpAddr::from(a), p));
    let v6 = any::<([u8; 16], u16)>().prop_map(|(a, p)| Endpoint::new(IpAddr::from(a), p));
    prop_oneof![(v4.clone(), v4.clone(), v4), (v6.clone(), v6.clone(), v6)]
}

fn packet((src, dst): (Endpoint, Endpoint), tcp: bool, payload: &[u8]) -> Vec<u8> {
    let segment = if tcp { build::tcp(src, dst, &TcpFields::default(), payload) } else { build::udp(src, dst, payload) };
    build::ip(src.addr, dst.addr, if tcp { TCP } else { UDP }, IpFields::default(), &segment)
}

proptest! {
    #[test]
    fn translated_checksums_are_right((src, dst, to) in endpoint(), tcp: bool, side: bool, payload in proptest::collection::vec(any::<u8>(), 0..99)) {
        let mut bytes = packet((src, dst), tcp, &payload);
        let header = IpHeader::read(&bytes).unwrap();
        let side = if side { Side::Source } else { Side::Destination };
        translate(&mut bytes, &header, side, to, false);
        let after = IpHeader::read(&bytes).unwrap();
        prop_assert!(header_checksum_is_good(&bytes, &after));
        let ends = after.endpoints(&bytes).unwrap();
        prop_assert_eq!(if side == Side::Source { ends.0 } else { ends.1 }, to);
        // A right checksum may happen to be the partial one as well.
        prop_assert!(state(&bytes) != ChecksumState::Bad);
        // And the same as when it is built anew, but for the two zeros of one's complement.
        let anew = packet(ends, tcp, &payload);
        let at = header.transport + if tcp { 16 } else { 6 };
        let (a, b) = (u16::from_be_bytes([bytes[at], bytes[at + 1]]), u16::from_be_bytes([anew[at], anew[at + 1]]));
        prop_assert!(a == b || a ^ b == 0xffff && (a == 0 || b == 0));
    }

    #[test]
    fn partial_checksums_stay_partial((src, dst, to) in endpoint(), tcp: bool) {
        let mut bytes = packet((src, dst), tcp, b"payload");
        let header = IpHeader::read(&bytes).unwrap();
        let len = header.segment(&bytes).len() as u32;
        let at = header.transport + if tcp { 16 } else { 6 };
        let partial = fold(pseudo_sum(src.addr, dst.addr, header.protocol, len));
        bytes[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        translate(&mut bytes, &header, Side::Destination, to, true);
        let expected = fold(pseudo_sum(src.addr, to.addr, header.protocol, len));
        let got = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        prop_assert!(got == expected || got ^ expected == 0xffff);
    }

    #[test]
    fn what_is_wrapped_is_unwrapped((src, dst, _) in endpoint(), (from, to, _) in endpoint(), how in 0..5, payload in proptest::collection::vec(any::<u8>(), 0..99)) {
        let inner = packet((src, dst), true, &payload);
        let kind = match how {
            0 => OuterKind::Ipip,
            1 | 2 => OuterKind::Gre { checksum: how == 2 },
            _ => OuterKind::Gue { src_port: 50_000, dst_port: 6080, checksum: how == 4 },
        };
        let outer = Outer { src: from.addr, dst: to.addr, kind, ttl: 63, tos: 0x28, dont_fragment: true, id: 7 };
        let wrapped = encapsulate(&inner, &outer).unwrap();
        let header = IpHeader::read(&wrapped).unwrap();
        prop_assert_eq!((header.src, header.dst, header.ttl, header.tos), (from.addr, to.addr, 63, 0x28));
        prop_assert!(header_checksum_is_good(&wrapped, &header));
        prop_assert_eq!(&header.segment(&wrapped)[kind.shim()..], &inner[..]);
        let seen = dissect(&frame(&wrapped));
        prop_assert_eq!(seen.tunnels.len(), 1, "{:?}", seen.stop);
        prop_assert_eq!(seen.tunnels[0].ends(), (from.addr, to.addr));
        prop_assert_eq!(seen.five_tuple().map(|t| (t.src, t.dst)), Some((src, dst)));
        prop_assert_eq!(seen.payload, &payload[..]);
    }

    #[test]
    fn fragments_put_together_are_the_packet((src, dst, _) in endpoint(), mtu in 100usize..600, payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let whole = packet((src, dst), false, &payload);
        let parts = fragment(&whole, mtu, 99);
        let mut body = vec![0; 3000];
        let mut end = 0;
        for part in &parts {
            let header = IpHeader::read(part).unwrap();
            prop_assert!(part.len() <= mtu && header_checksum_is_good(part, &header));
            let (offset, more) = header.fragment.unwrap_or((0, false));
            let from = fragment_payload(part, &header);
            body[offset..offset + from.len()].copy_from_slice(from);
            if !more {
                end = offset + from.len();
            }
        }
        let first = IpHeader::read(&parts[0]).unwrap();
        if parts.len() == 1 {
            prop_assert_eq!(&parts[0], &whole);
            return Ok(());
        }
        prop_assert_eq!(reassembled(&parts[0], &first, &body[..end], true).unwrap(), whole);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()], protocol: u8) {
        let mut bytes = bytes;
        if bytes.len() > 40 {
            bytes[0] = first;
            let len = bytes.len();
            if first >> 4 == 4 {
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                bytes[9] = protocol;
            } else {
                bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
                bytes[6] = protocol;
            }
        }
        let Some(header) = IpHeader::read(&bytes) else { return Ok(()) };
        let to: Endpoint = if header.is_ipv6() { "[::1]:80" } else { "10.0.0.1:80" }.parse().unwrap();
        let _ = (header.endpoints(&bytes), header_checksum_is_good(&bytes, &header), fragment(&bytes, 64, 1), fragment_payload(&bytes, &header));
        let _ = (icmp_error(IcmpError::PortUnreachable, to.addr, &bytes, 1), reassembled(&bytes, &header, b"x", false));
        if let Some((at, inner)) = quoted(&bytes, &header) {
            translate_error(&mut bytes.clone(), &header, at, &inner, Side::Source, to);
        }
        translate(&mut bytes.clone(), &header, Side::Destination, to, false);
        decrement_ttl(&mut bytes);
    }
}

#[test]
fn an_error_about_a_translated_packet_is_translated() {
    let (client, vip, rip): (Endpoint, Endpoint, Endpoint) =
        ("192.168.2.100:40002".parse().unwrap(), "192.168.2.59:80".parse().unwrap(), "192.168.224.11:8080".parse().unwrap());
    // The real server says that nobody listens.
    let request = packet((client, rip), false, b"question");
    let mut error = icmp_error(IcmpError::PortUnreachable, rip.addr, &request, 5).unwrap();
    let header = IpHeader::read(&error).unwrap();
    let (at, inner) = quoted(&error, &header).unwrap();
    translate_error(&mut error, &header, at, &inner, Side::Source, vip);
    let seen = dissect(&frame(&error));
    let Transport::Icmp(icmp) = &seen.transport else { panic!("{:?}", seen.transport) };
    let quoted = icmp.quoted.as_ref().unwrap().five_tuple().unwrap();
    assert_eq!((seen.ip().unwrap().src, quoted.src, quoted.dst), (vip.addr, client, vip));
    assert_eq!(fold(sum(0, &error[20..])), 0xffff);
    assert!(header_checksum_is_good(&error, &IpHeader::read(&error).unwrap()));
}

#[test]
fn merged_datagrams_are_cut_too() {
    for (src, dst) in [("10.0.0.1:1000", "10.0.0.2:53"), ("[2001:db8::1]:1000", "[2001:db8::2]:53")] {
        let (src, dst): (Endpoint, Endpoint) = (src.parse().unwrap(), dst.parse().unwrap());
        let data: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
        let whole = build::ip(src.addr, dst.addr, UDP, IpFields::default(), &build::udp(src, dst, &data));
        let parts = segments(&whole, 1000);
        assert_eq!(parts.iter().map(Vec::len).max(), Some(segment_len(&whole, 1000)));
        let joined: Vec<u8> = parts.iter().flat_map(|part| dissect(&frame(part)).payload.to_vec()).collect();
        assert_eq!((parts.len(), joined), (3, data));
        assert!(parts.iter().all(|part| state(part) == ChecksumState::Good));
        // Nothing to cut, or nothing that can be.
        assert_eq!((segments(&whole, 0), segments(&parts[2], usize::MAX)), (vec![whole.clone()], vec![parts[2].clone()]));
        assert_eq!(segment_len(&whole[..30], 1000), 30);
    }
}

#[test]
fn merged_packets_are_cut_as_a_card_cuts_them() {
    let (src, dst): (Endpoint, Endpoint) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    let data: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
    let fields = TcpFields { seq: u32::MAX - 99, flags: crate::packet::TcpFlags(0x19), ..TcpFields::default() };
    let whole = build::ip(src.addr, dst.addr, TCP, IpFields { id: 7, ..IpFields::default() }, &build::tcp(src, dst, &fields, &data));
    let parts = segments(&whole, 1400);
    assert_eq!(parts.len(), 3);
    let mut joined: Vec<u8> = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let seen = dissect(&frame(part));
        let Transport::Tcp(tcp) = &seen.transport else { panic!() };
        assert_eq!(tcp.seq, (u32::MAX - 99).wrapping_add(at as u32 * 1400));
        assert_eq!((tcp.flags.0, seen.ip().unwrap().id), (if at == 2 { 0x19 } else { 0x10 }, 7 + at as u32));
        assert_eq!(checksum_state(&seen), ChecksumState::Good);
        joined.extend(seen.payload);
    }
    assert_eq!(joined, data);
}

#[test]
fn crc32c_check_value() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
