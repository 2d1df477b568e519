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
    // A piece whose checksum comes out as zero has ones instead, for zero means that there is none.
    let (src, dst): (Endpoint, Endpoint) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:53".parse().unwrap());
    let ones = |word: &u16| build::udp(src, dst, &word.to_be_bytes())[6..8] == [0xff, 0xff];
    let word = (0..=u16::MAX).find(ones).expect("a payload whose checksum is zero");
    let both = [word.to_be_bytes(), [0; 2]].concat();
    let parts = segments(&build::ip(src.addr, dst.addr, UDP, IpFields::default(), &build::udp(src, dst, &both)), 2);
    assert_eq!((parts.len(), &parts[0][26..28]), (2, &[0xff, 0xff][..]));
}

#[test]
fn merged_packets_are_cut_as_a_card_cuts_them() {
    let (src, dst): (Endpoint, Endpoint) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    let data: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
    let fields = TcpFields { seq: u32::MAX - 99, flags: crate::packet::TcpFlags(0x99), ..TcpFields::default() };
    let whole = build::ip(src.addr, dst.addr, TCP, IpFields { id: 7, ..IpFields::default() }, &build::tcp(src, dst, &fields, &data));
    let parts = segments(&whole, 1400);
    assert_eq!(parts.len(), 3);
    let mut joined: Vec<u8> = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let seen = dissect(&frame(part));
        let Transport::Tcp(tcp) = &seen.transport else { panic!() };
        assert_eq!(tcp.seq, (u32::MAX - 99).wrapping_add(at as u32 * 1400));
        // The window was reduced once: the first says so. The end and the push come last.
        assert_eq!((tcp.flags.0, seen.ip().unwrap().id), ([0x90, 0x10, 0x19][at], 7 + at as u32));
        assert_eq!(checksum_state(&seen), ChecksumState::Good);
        joined.extend(seen.payload);
    }
    assert_eq!(joined, data);
}

#[test]
fn fragments_are_cut_once_more() {
    for flags in [0, 0x4000] {
        let (src, dst): (Endpoint, Endpoint) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:53".parse().unwrap());
        let whole = build::ip(src.addr, dst.addr, UDP, IpFields { flags, ..IpFields::default() }, &build::udp(src, dst, &[7; 1400]));
        let parts: Vec<Vec<u8>> = fragment(&whole, 700, 9).iter().flat_map(|part| fragment(part, 300, 9)).collect();
        let mut end = 0;
        for (at, part) in parts.iter().enumerate() {
            let header = IpHeader::read(part).unwrap();
            assert_eq!(header.fragment, Some((end, at + 1 < parts.len())), "{at}");
            assert_eq!(header.dont_fragment, flags != 0);
            end += fragment_payload(part, &header).len();
        }
        assert_eq!((parts.len(), end), (7, 1408));
    }
}

#[test]
fn what_an_icmp_error_is_not_about() {
    let [host, other, all]: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "255.255.255.255"].map(|addr| addr.parse().unwrap());
    let about = |src, dst, protocol, flags, body: &[u8]| {
        let packet = build::ip(src, dst, protocol, IpFields { flags, ..IpFields::default() }, body);
        icmp_error(IcmpError::PortUnreachable, other, &packet, 1).is_some()
    };
    let echo = build::icmp(host, other, 8, 0, 0, b"ping");
    let error = build::icmp(host, other, 3, 3, 0, &[0; 28]);
    assert!(about(host, other, UDP, 0, &[0; 8]) && about(host, other, 1, 0, &echo));
    assert!(!about(host, other, 1, 0, &error), "an error about an error");
    assert!(!about(host, all, UDP, 0, &[0; 8]), "everybody would answer");
    assert!(about(host, other, UDP, 0x2000, &[0; 8]) && !about(host, other, UDP, 0x2001, &[0; 8]), "the first fragment alone");
    // As much is quoted as fits into a packet that everybody takes, and the error has the precedence of the network's own words.
    for (src, dst, most) in [("10.0.0.1:1", "10.0.0.2:53", 576), ("[2001:db8::1]:1", "[2001:db8::2]:53", 1280)] {
        let (src, dst): (Endpoint, Endpoint) = (src.parse().unwrap(), dst.parse().unwrap());
        let mut long = packet((src, dst), false, &[1; 2000]);
        if most == 576 {
            long[1] = 0x2a;
        }
        let said = icmp_error(IcmpError::HostUnreachable, dst.addr, &long, 1).unwrap();
        assert_eq!(said.len(), most);
        if most == 576 {
            assert_eq!(said[1], 0xca);
        }
    }
    // An answer to a ping quotes nothing, whatever its body looks like.
    let (src, dst): (Endpoint, Endpoint) = ("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
    for (kind, quotes) in [(1, true), (129, false)] {
        let message = build::icmp(src.addr, dst.addr, kind, 0, 0, &packet((src, dst), false, b"x"));
        let bytes = build::ip(src.addr, dst.addr, 58, IpFields::default(), &message);
        assert_eq!(quoted(&bytes, &IpHeader::read(&bytes).unwrap()).is_some(), quotes, "{kind}");
    }
}

#[test]
fn what_is_left_alone_in_translation() {
    let (src, dst, to): (Endpoint, Endpoint, Endpoint) =
        ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:53".parse().unwrap(), "10.0.0.3:53".parse().unwrap());
    let translated = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let header = IpHeader::read(&bytes).unwrap();
        translate(&mut bytes, &header, Side::Destination, to, false);
        assert_eq!(bytes[16..20], [10, 0, 0, 3]);
        bytes[20..].to_vec()
    };
    // A later fragment has payload where the ports would be.
    let later = build::ip(src.addr, dst.addr, UDP, IpFields { flags: 0x2001, ..IpFields::default() }, &[9; 40]);
    assert_eq!(translated(&later), [9; 40]);
    // UDP without a checksum stays without; one that comes out as zero is written as ones, for zero means none.
    let mut none = packet((src, dst), false, b"question");
    none[26..28].fill(0);
    assert_eq!(translated(&none)[6..8], [0, 0]);
    let fitting = |word: u16| {
        let bytes = packet((src, to), false, &word.to_be_bytes());
        u16::from_be_bytes([bytes[26], bytes[27]]) == 0xffff
    };
    let word = (0..=u16::MAX).find(|word| fitting(*word)).expect("a payload whose checksum is zero");
    assert_eq!(translated(&packet((src, dst), false, &word.to_be_bytes()))[6..8], [0xff, 0xff]);
    // An SCTP checksum knows no addresses; who left it to his network card finds it as it was.
    let sctp: Vec<u8> = [&1000u16.to_be_bytes()[..], &53u16.to_be_bytes(), &[0; 4], &[0xaa; 4], &[3; 16]].concat();
    assert_eq!(translated(&build::ip(src.addr, dst.addr, 132, IpFields::default(), &sctp)), sctp);
}

#[test]
fn an_authentication_header_counts_words() {
    let (src, dst): (Endpoint, Endpoint) = ("[2001:db8::1]:1000".parse().unwrap(), "[2001:db8::2]:53".parse().unwrap());
    let body: Vec<u8> = [&[UDP, 4][..], &[0; 22], &build::udp(src, dst, b"question")].concat();
    let bytes = build::ip(src.addr, dst.addr, 51, IpFields::default(), &body);
    let header = IpHeader::read(&bytes).unwrap();
    assert_eq!((header.protocol, header.transport, header.endpoints(&bytes)), (UDP, 64, Some((src, dst))));
}

#[test]
fn what_fits_into_no_tunnel() {
    let outer = |dst: &str| Outer {
        src: "10.0.0.1".parse().unwrap(),
        dst: dst.parse().unwrap(),
        kind: OuterKind::Gre { checksum: false },
        ttl: 64,
        tos: 0,
        dont_fragment: true,
        id: 0,
    };
    let inner =
        |len: usize| build::ip("10.1.0.1".parse().unwrap(), "10.1.0.2".parse().unwrap(), UDP, IpFields::default(), &vec![0; len - 20]);
    assert!(encapsulate(&inner(65_400), &outer("10.0.0.2")).is_some());
    assert!(encapsulate(&inner(65_530), &outer("10.0.0.2")).is_none());
    assert!(encapsulate(&inner(100), &outer("2001:db8::2")).is_none(), "one end is of the other family");
}

#[test]
fn crc32c_check_value() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

/// Of a segment that was cut short nothing can be said, but that its checksum was left to the card.
#[test]
fn what_a_cut_segment_tells() {
    let (src, dst): (Endpoint, Endpoint) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    let mut whole = packet((src, dst), true, &[7; 100]);
    let cut = |bytes: &[u8]| checksum_state(&dissect(&Frame { wire_len: bytes.len() as u32, ..frame(&bytes[..80]) }));
    assert_eq!((state(&whole), cut(&whole)), (ChecksumState::Good, ChecksumState::Unknown));
    let partial = fold(pseudo_sum(src.addr, dst.addr, TCP, 120));
    whole[36..38].copy_from_slice(&partial.to_be_bytes());
    assert_eq!((state(&whole), cut(&whole)), (ChecksumState::Partial, ChecksumState::Partial));
}

/// The address family in front of packets of a loopback device is in the byte order of whoever captured, but for OpenBSD's.
#[test]
fn families_in_either_byte_order() {
    let packet = packet(("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:53".parse().unwrap()), false, b"x");
    let understood = |link_type, family: [u8; 4]| {
        let bytes = [&family[..], &packet].concat();
        dissect(&Frame { link_type, ..frame(&bytes) }).ip().is_some()
    };
    assert!(understood(LinkType::NULL, [2, 0, 0, 0]) && understood(LinkType::NULL, [0, 0, 0, 2]));
    assert!(understood(LinkType::LOOP, [0, 0, 0, 2]) && !understood(LinkType::LOOP, [2, 0, 0, 0]));
}
