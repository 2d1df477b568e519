use super::neighbour::RETRY;
use super::sent::NEEDS_CHECKSUM;
use super::*;
use crate::director::{Balancer, Route, Routes, Settings};
use crate::net::Endpoint;
use crate::packet::build;
use std::net::Ipv6Addr;

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
    assert_eq!(crate::packet::checksum_state(&dissect(&Frame::whole(LinkType::ETHERNET, &frame))), crate::packet::ChecksumState::Good);
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
    let question = build::solicitation(CLIENT, asker, vip);
    let sent = director.frame(0, &question, &[0; 10], START).sent;
    assert_eq!((sent.len(), macs(&sent[0].bytes)), (1, Some((CLIENT, OWN))));
    assert_eq!(sent[0].bytes[54..56], [136, 0]);
    assert_eq!(director.tally.resolved, 1);
}
