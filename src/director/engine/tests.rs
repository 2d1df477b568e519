use super::*;
use crate::director::Settings;
use crate::director::route::Route;
use crate::ipvs;
use crate::packet::build::{self, IpFields, TcpFields};
use crate::packet::{Frame, LinkType, Packet as Dissected, TcpFlags, Transport, dissect, fragment};
use proptest::prelude::*;

const START: Timestamp = Timestamp(1_763_000_000_000_000_000);
const SECOND: i64 = 1_000_000_000;

/// Clients on 192.168.2.0/24 (and behind it), real servers on 192.168.224.0/24; the same for IPv6.
fn engine(rules: &str) -> Engine {
    let balancer = Balancer::with_rules(Settings::default(), 1, &ipvs::parse(rules).unwrap()).unwrap();
    let route = |to: &str, port| Route { to: to.parse().unwrap(), via: None, port, mtu: 1500 };
    let routes = Routes {
        routes: vec![route("0.0.0.0/0", 0), route("192.168.224.0/24", 1), route("::/0", 0), route("2001:db8:224::/64", 1)],
        own: ["192.168.2.10", "2001:db8:2::10"]
            .iter()
            .map(|a| (a.parse().unwrap(), 0))
            .chain(["192.168.224.10", "2001:db8:224::10"].iter().map(|a| (a.parse().unwrap(), 1)))
            .collect(),
    };
    Engine::new(balancer, routes)
}

fn rules(method: &str) -> String {
    format!("-A -t 192.168.2.59:80 -s rr\n-a -t 192.168.2.59:80 -r 192.168.224.11:8080 {method} -w 1\n")
}

fn tcp(src: &str, dst: &str, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst): (Endpoint, Endpoint) = (src.parse().unwrap(), dst.parse().unwrap());
    let segment = build::tcp(src, dst, &TcpFields { flags: TcpFlags(flags), ..TcpFields::default() }, payload);
    build::ip(src.addr, dst.addr, 6, IpFields { id: 77, ..IpFields::default() }, &segment)
}

fn seen(bytes: &[u8]) -> Dissected<'_> {
    dissect(&Frame::whole(LinkType::RAW, bytes))
}

#[track_caller]
fn forwarded(verdict: Verdict) -> Forwarded {
    match verdict {
        Verdict::Forward(forwarded) => forwarded,
        other => panic!("{other:?}"),
    }
}

fn ends(bytes: &[u8]) -> (String, String, u8) {
    let seen = seen(bytes);
    let tuple = seen.five_tuple().unwrap();
    (tuple.src.to_string(), tuple.dst.to_string(), seen.ip().unwrap().ttl)
}

const CLIENT: &str = "192.168.2.100:40002";
const VIP: &str = "192.168.2.59:80";

#[test]
fn nat_translates_both_ways() {
    let mut engine = engine(&rules("-m"));
    let out = forwarded(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START));
    assert_eq!(ends(&out.bytes), (CLIENT.to_string(), "192.168.224.11:8080".to_string(), 63));
    assert_eq!((out.to.to_string(), out.method), ("192.168.224.11".to_string(), Some(ForwardingMethod::Nat)));
    let back = forwarded(engine.packet(&Arrived::plain(&tcp("192.168.224.11:8080", CLIENT, 0x12, b"")), START));
    assert_eq!(ends(&back.bytes), (VIP.to_string(), CLIENT.to_string(), 63));
    assert_eq!(crate::packet::checksum_state(&seen(&back.bytes)), crate::packet::ChecksumState::Good);
    let totals = engine.balancer.totals().counters;
    assert_eq!((totals.conns, totals.in_packets, totals.out_packets, totals.in_bytes), (1, 1, 1, 40));
}

#[test]
fn direct_routing_changes_the_ttl_alone() {
    let mut engine = engine(&rules("-g"));
    let packet = tcp(CLIENT, VIP, 2, b"");
    let out = forwarded(engine.packet(&Arrived::plain(&packet), START));
    let mut expected = packet.clone();
    crate::packet::decrement_ttl(&mut expected);
    assert_eq!(out.bytes, expected);
    // Answers go past the director; what comes all the same is not translated.
    assert_eq!(engine.packet(&Arrived::plain(&tcp("192.168.224.11:80", CLIENT, 0x12, b"")), START), Verdict::Pass);
    engine.balancer.settings.kernel = crate::director::Kernel::new(3, 10);
    assert_eq!(forwarded(engine.packet(&Arrived::plain(&packet), START)).bytes, packet);
}

#[test]
fn tunnels_wrap() {
    for (options, tunnel) in [("-i", "ipip"), ("-i --tun-type gre", "gre"), ("-i --tun-type gue --tun-port 6080 --tun-csum", "gue")] {
        let mut engine = engine(&rules(options));
        let out = forwarded(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START));
        let seen = seen(&out.bytes);
        assert_eq!(format!("{:?}", seen.tunnels[0].kind).to_lowercase(), tunnel);
        assert_eq!(seen.tunnels[0].ends(), ("192.168.224.10".parse().unwrap(), "192.168.224.11".parse().unwrap()));
        assert_eq!(ends(&out.bytes), (CLIENT.to_string(), VIP.to_string(), 63));
        let outer = IpHeader::read(&out.bytes).unwrap();
        assert_eq!((outer.ttl, outer.dont_fragment), (63, true));
    }
}

#[test]
fn ipv6_too() {
    for method in ["-m", "-g", "-i"] {
        let mut engine =
            engine(&format!("-A -t [2001:db8:2::59]:80 -s rr\n-a -t [2001:db8:2::59]:80 -r [2001:db8:224::11]:80 {method} -w 1\n"));
        let client = "[2001:db8:9::1]:40002";
        let out = forwarded(engine.packet(&Arrived::plain(&tcp(client, "[2001:db8:2::59]:80", 2, b"")), START));
        let to = if method == "-m" { "[2001:db8:224::11]:80" } else { "[2001:db8:2::59]:80" };
        assert_eq!(ends(&out.bytes), (client.to_string(), to.to_string(), 63));
        assert_eq!(seen(&out.bytes).tunnels.len(), usize::from(method == "-i"));
        if method == "-m" {
            let back = forwarded(engine.packet(&Arrived::plain(&tcp("[2001:db8:224::11]:80", client, 0x12, b"")), START));
            assert_eq!(ends(&back.bytes).0, "[2001:db8:2::59]:80");
        }
    }
}

#[test]
fn nobody_there_is_said() {
    let mut engine = engine("-A -t 192.168.2.59:80 -s rr\n");
    let Verdict::Answer(packet, reason) = engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START) else { panic!() };
    let seen = seen(&packet);
    let Transport::Icmp(icmp) = &seen.transport else { panic!() };
    assert_eq!((icmp.type_number, icmp.code, reason), (3, 3, Reason::NoDestination));
    assert_eq!((seen.ip().unwrap().src.to_string(), seen.ip().unwrap().tos), ("192.168.2.59".to_string(), 0xc0));
    assert!(engine.balancer.table().is_empty());
    // What is no SYN goes to the director's own stack.
    assert_eq!(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 0x10, b"")), START), Verdict::Local);
}

#[test]
fn ttl_and_mtu() {
    let mut engine = engine(&rules("-i"));
    let mut dying = tcp(CLIENT, VIP, 2, b"");
    dying[8] = 2;
    crate::packet::decrement_ttl(&mut dying);
    let Verdict::Answer(_, Reason::TimeExceeded) = engine.packet(&Arrived::plain(&dying), START) else { panic!() };
    let long = tcp(CLIENT, VIP, 2, &[0; 1460]);
    let Verdict::Answer(packet, Reason::TooBig) = engine.packet(&Arrived::plain(&long), START) else { panic!() };
    let Transport::Icmp(icmp) = seen(&packet).transport else { panic!() };
    assert_eq!((icmp.type_number, icmp.code), (3, 4));
    assert_eq!(u16::from_be_bytes([packet[26], packet[27]]), 1480);
    // A merged packet is cut later; the old test did not know that.
    let merged = Arrived { merged: Some(1448), ..Arrived::plain(&long) };
    forwarded(engine.packet(&merged, START));
    engine.faults.old_mtu_test = true;
    assert!(matches!(engine.packet(&merged, START), Verdict::Answer(_, Reason::TooBig)));
    engine.faults = Faults::default();
    engine.balancer.settings.pmtu_disc = false;
    forwarded(engine.packet(&Arrived::plain(&long), START));
}

#[test]
fn icmp_errors_find_their_connection() {
    let mut engine = engine(&rules("-m"));
    let out = forwarded(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START));
    // The real server's host refuses.
    let refusal = icmp_error(IcmpError::PortUnreachable, "192.168.224.11".parse().unwrap(), &out.bytes, 1).unwrap();
    let told = forwarded(engine.packet(&Arrived::plain(&refusal), START));
    let told_seen = seen(&told.bytes);
    let Transport::Icmp(icmp) = &told_seen.transport else { panic!() };
    let inner = icmp.quoted.as_ref().unwrap().five_tuple().unwrap();
    assert_eq!((told_seen.ip().unwrap().src.to_string(), inner.dst.to_string()), ("192.168.2.59".to_string(), VIP.to_string()));
    // A router before the client finds an answer too big.
    let back = forwarded(engine.packet(&Arrived::plain(&tcp("192.168.224.11:8080", CLIENT, 0x12, b"")), START));
    let too_big = icmp_error(IcmpError::TooBig(1400), "192.168.2.1".parse().unwrap(), &back.bytes, 1).unwrap();
    let told = forwarded(engine.packet(&Arrived::plain(&too_big), START));
    let told_seen = seen(&told.bytes);
    let Transport::Icmp(icmp) = &told_seen.transport else { panic!() };
    let inner = icmp.quoted.as_ref().unwrap().five_tuple().unwrap();
    assert_eq!((told.to.to_string(), inner.src.to_string()), ("192.168.224.11".to_string(), "192.168.224.11:8080".to_string()));
}

#[test]
fn persistence_holds_and_ends() {
    let mut engine = engine(
        "-A -t 192.168.2.59:80 -s rr -p 10 -M 255.255.255.0\n-a -t 192.168.2.59:80 -r 192.168.224.11 -m\n-a -t 192.168.2.59:80 -r 192.168.224.12 -m\n",
    );
    let mut to = |client: &str, flags, at: i64| {
        forwarded(engine.packet(&Arrived::plain(&tcp(client, VIP, flags, b"")), START + at * SECOND)).to.to_string()
    };
    assert_eq!(to("192.168.2.100:1000", 2, 0), "192.168.224.12");
    assert_eq!(to("192.168.2.101:1000", 2, 1), "192.168.224.12", "the same /24");
    assert_eq!(to("192.168.3.100:1000", 2, 2), "192.168.224.11", "another");
    // Half open connections last 60 s from second 1 on; the template, due at 11 s, is armed again until 71 s.
    assert_eq!(to("192.168.2.102:1000", 2, 60), "192.168.224.12");
    // That one lasts until 120 s; the template had 60 s more then, and from its hit on again: it ends at 180 s at the latest.
    assert_eq!(to("192.168.2.103:1000", 2, 300), "192.168.224.12", "round robin goes on");
    assert_eq!(to("192.168.2.104:1000", 2, 301), "192.168.224.12", "by the new template");
}

#[test]
fn a_removed_server_is_silent_until_told_otherwise() {
    let mut engine = engine(&format!("{}-a -t 192.168.2.59:80 -r 192.168.224.12:80 -m -w 1\n", rules("-m")));
    let syn = tcp(CLIENT, VIP, 2, b"");
    assert_eq!(forwarded(engine.packet(&Arrived::plain(&syn), START)).to.to_string(), "192.168.224.12");
    let matches = engine.balancer.services()[0].rule().matches;
    engine.balancer.delete_server(&matches, "192.168.224.12:80".parse().unwrap()).unwrap();
    assert_eq!(engine.packet(&Arrived::plain(&syn), START), Verdict::Drop(Reason::ServerRemoved));
    engine.balancer.settings.expire_nodest_conn = true;
    assert_eq!(forwarded(engine.packet(&Arrived::plain(&syn), START)).to.to_string(), "192.168.224.11");
}

#[test]
fn a_used_port_is_scheduled_anew() {
    let mut engine = engine(&format!("{}-a -t 192.168.2.59:80 -r 192.168.224.12:80 -m -w 1\n", rules("-m")));
    let mut to = |flags, mode| {
        engine.balancer.settings.conn_reuse_mode = mode;
        forwarded(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, flags, b"")), START)).to.to_string()
    };
    assert_eq!([to(2, 1), to(0x10, 1), to(4, 1)], ["192.168.224.12"; 3]);
    assert_eq!(to(2, 0), "192.168.224.12", "0: never");
    to(0x10, 0);
    to(4, 0);
    assert_eq!(to(2, 1), "192.168.224.11", "CLOSE may be used again");
}

#[test]
fn fragments_are_put_together_and_cut_again() {
    let mut engine = engine("-A -u 192.168.2.59:53 -s rr\n-a -u 192.168.2.59:53 -r 192.168.224.11:53 -m\n");
    let (src, dst): (Endpoint, Endpoint) = (CLIENT.parse().unwrap(), "192.168.2.59:53".parse().unwrap());
    let whole = build::ip(src.addr, dst.addr, 17, IpFields { flags: 0, ..IpFields::default() }, &build::udp(src, dst, &[1; 3000]));
    let parts = fragment(&whole, 1500, 0);
    assert_eq!(engine.packet(&Arrived::plain(&parts[0]), START), Verdict::Held);
    assert_eq!(engine.packet(&Arrived::plain(&parts[2]), START), Verdict::Held);
    let out = forwarded(engine.packet(&Arrived::plain(&parts[1]), START));
    assert_eq!((ends(&out.bytes).1.as_str(), out.longest), ("192.168.224.11:53", Some(1500)));
    assert_eq!(crate::packet::checksum_state(&seen(&out.bytes)), crate::packet::ChecksumState::Good);
}

#[test]
fn one_packet_scheduling_keeps_nothing() {
    let mut engine = engine(
        "-A -u 192.168.2.59:53 -s rr -o\n-a -u 192.168.2.59:53 -r 192.168.224.11:53 -g\n-a -u 192.168.2.59:53 -r 192.168.224.12:53 -g\n",
    );
    let (src, dst): (Endpoint, Endpoint) = (CLIENT.parse().unwrap(), "192.168.2.59:53".parse().unwrap());
    let packet = build::ip(src.addr, dst.addr, 17, IpFields::default(), &build::udp(src, dst, b"?"));
    let mut to = || forwarded(engine.packet(&Arrived::plain(&packet), START)).to.to_string();
    assert_eq!([to(), to(), to()], ["192.168.224.12", "192.168.224.11", "192.168.224.12"]);
    assert!(engine.balancer.table().is_empty());
    assert!(engine.balancer.pool().iter().all(|(_, dest)| dest.active + dest.inactive == 0));
}

#[test]
fn marks_find_their_service() {
    let mut engine = engine("-A -f 7 -s rr -p 60\n-a -f 7 -r 192.168.224.11 -m\n-a -f 7 -r 192.168.224.12 -m\n");
    engine.marks.push(MarkRule { mark: 7, protocol: Some(Protocol::Tcp), to: "192.168.2.59".parse().unwrap(), ports: (80, 443) });
    let mut to = |dst: &str| match engine.packet(&Arrived::plain(&tcp(CLIENT, dst, 2, b"")), START) {
        Verdict::Forward(f) => Some(ends(&f.bytes).1),
        _ => None,
    };
    assert_eq!(to("192.168.2.59:80").as_deref(), Some("192.168.224.12:80"));
    assert_eq!(to("192.168.2.59:443").as_deref(), Some("192.168.224.12:443"), "one template for both ports");
    assert_eq!(to("192.168.2.59:22"), None);
    assert_eq!(engine.balancer.connections(START).iter().filter(|c| c.protocol == Protocol::Other(0)).count(), 1);
}

#[test]
fn the_later_mark_counts() {
    let mut engine = engine("-A -f 7 -s rr\n-a -f 7 -r 192.168.224.11 -m\n-A -f 8 -s rr\n-a -f 8 -r 192.168.224.12 -m\n");
    for mark in [7, 8] {
        engine.marks.push(MarkRule { mark, protocol: None, to: "192.168.2.59".parse().unwrap(), ports: (0, 65_535) });
    }
    let to = forwarded(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START)).to;
    assert_eq!(to.to_string(), "192.168.224.12", "as of two `-j MARK --set-mark` in one chain");
}

#[test]
fn ftp_has_two_ports() {
    let mut engine = engine("-A -t 192.168.2.59:21 -s rr -p 60\n-a -t 192.168.2.59:21 -r 192.168.224.11 -m\n");
    let mut to = |client: &str, dst: &str| match engine.packet(&Arrived::plain(&tcp(client, dst, 2, b"")), START) {
        Verdict::Forward(f) => Ok(ends(&f.bytes).1),
        other => Err(other),
    };
    assert_eq!(to(CLIENT, "192.168.2.59:21").as_deref(), Ok("192.168.224.11:21"));
    for data in [20, 1024, 50_000] {
        let port = format!("192.168.2.59:{data}");
        assert_eq!(to(CLIENT, &port), Ok(format!("192.168.224.11:{data}")), "data, to where the control connection went");
    }
    assert_eq!(to(CLIENT, "192.168.2.59:80"), Err(Verdict::Local));
    assert_eq!(to("192.168.2.100:20", "192.168.2.59:21"), Err(Verdict::Pass), "a server that opens its data connection");
}

#[test]
fn only_datagrams_are_scheduled_one_by_one() {
    let mut engine =
        engine("-A -t 192.168.2.59:80 -s rr -o\n-a -t 192.168.2.59:80 -r 192.168.224.11 -m\n-a -t 192.168.2.59:80 -r 192.168.224.12 -m\n");
    let mut to = |flags| forwarded(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, flags, b"")), START)).to.to_string();
    assert_eq!([to(2), to(0x10), to(0x18)], ["192.168.224.12"; 3]);
    assert_eq!(engine.balancer.table().len(), 1);
}

#[test]
fn what_a_weight_of_zero_ends() {
    let rules =
        "-A -t 192.168.2.59:80 -s rr -p 60\n-a -t 192.168.2.59:80 -r 192.168.224.11 -m\n-a -t 192.168.2.59:80 -r 192.168.224.12 -m\n";
    for (expires, next) in [(false, "192.168.224.12"), (true, "192.168.224.11")] {
        let mut engine = engine(rules);
        engine.balancer.settings.expire_quiescent_template = expires;
        let to = |engine: &mut Engine, port: u16| {
            let syn = tcp(&format!("192.168.2.100:{port}"), VIP, 2, b"");
            forwarded(engine.packet(&Arrived::plain(&syn), START)).to.to_string()
        };
        assert_eq!(to(&mut engine, 1000), "192.168.224.12");
        let matches = engine.balancer.services()[0].rule().matches;
        let mut idle = engine.balancer.rules()[0].real_servers[1].clone();
        assert_eq!(idle.addr.to_string(), "192.168.224.12");
        idle.weight = 0;
        engine.balancer.edit_server(&matches, idle).unwrap();
        assert_eq!(to(&mut engine, 1001), next, "expire_quiescent_template={expires}");
    }
    // Without persistence: a client that opens the same connection anew, to a server that is to get none.
    for (expires, next) in [(false, "192.168.224.12"), (true, "192.168.224.11")] {
        let mut engine = engine(&rules.replace(" -p 60", ""));
        engine.balancer.settings.expire_nodest_conn = expires;
        let syn = tcp(CLIENT, VIP, 2, b"");
        assert_eq!(forwarded(engine.packet(&Arrived::plain(&syn), START)).to.to_string(), "192.168.224.12");
        let matches = engine.balancer.services()[0].rule().matches;
        let mut idle = engine.balancer.rules()[0].real_servers[1].clone();
        idle.weight = 0;
        engine.balancer.edit_server(&matches, idle).unwrap();
        assert_eq!(forwarded(engine.packet(&Arrived::plain(&syn), START)).to.to_string(), next, "expire_nodest_conn={expires}");
    }
}

#[test]
fn connections_of_a_removed_server_by_kernel() {
    for (kernel, left) in [((5, 8), 1), ((5, 9), 0)] {
        let mut engine = engine(&rules("-m"));
        engine.balancer.settings.expire_nodest_conn = true;
        engine.balancer.settings.kernel = crate::director::Kernel::new(kernel.0, kernel.1);
        forwarded(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START));
        let matches = engine.balancer.services()[0].rule().matches;
        engine.balancer.delete_server(&matches, "192.168.224.11:8080".parse().unwrap()).unwrap();
        assert_eq!(engine.balancer.table().len(), left, "{kernel:?}");
        if left > 0 {
            // Its answers are still translated, and counted for nobody.
            let before = engine.balancer.totals().counters;
            forwarded(engine.packet(&Arrived::plain(&tcp("192.168.224.11:8080", CLIENT, 0x12, b"")), START));
            assert_eq!(engine.balancer.totals().counters, before);
        }
    }
}

#[test]
fn a_used_port_that_is_still_held() {
    // A closed connection that belongs to a template stays with its server.
    let rules =
        "-A -t 192.168.2.59:80 -s rr -p 60\n-a -t 192.168.2.59:80 -r 192.168.224.11 -m\n-a -t 192.168.2.59:80 -r 192.168.224.12 -m\n";
    let mut held = engine(rules);
    let mut to = |flags| forwarded(held.packet(&Arrived::plain(&tcp(CLIENT, VIP, flags, b"")), START)).to.to_string();
    assert_eq!([to(2), to(0x10), to(4)], ["192.168.224.12"; 3]);
    to(2);
    assert_eq!(held.balancer.table().ever(), 2, "the connection and its template, and none beside them");
    // FIN_WAIT: with mode 2, and only where the director sees no answers.
    for (method, mode, anew) in [("-g", 2, true), ("-g", 1, false), ("-m", 2, false)] {
        let mut engine = engine(&self::rules(method));
        engine.balancer.settings.conn_reuse_mode = mode;
        let answers = method == "-m";
        engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START);
        if answers {
            engine.packet(&Arrived::plain(&tcp("192.168.224.11:8080", CLIENT, 0x12, b"")), START);
        }
        engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 0x10, b"")), START);
        // Whoever ends it first puts it into FIN_WAIT: the client where answers are not seen, else the server.
        let end = if answers { tcp("192.168.224.11:8080", CLIENT, 0x11, b"") } else { tcp(CLIENT, VIP, 0x11, b"") };
        engine.packet(&Arrived::plain(&end), START);
        assert_eq!(engine.balancer.table().iter().next().map(crate::director::Conn::state_name), Some("FIN_WAIT"));
        engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START);
        assert_eq!(engine.balancer.table().ever(), if anew { 2 } else { 1 }, "{method} mode {mode}");
    }
}

#[test]
fn strangers_are_told_so_but_not_when_they_hang_up() {
    let mut engine = engine(&rules("-m"));
    let stray = |flags| tcp("192.168.224.11:8080", "198.51.100.1:5000", flags, b"");
    assert_eq!(engine.packet(&Arrived::plain(&stray(0x10)), START), Verdict::Pass);
    engine.balancer.settings.nat_icmp_send = true;
    assert!(matches!(engine.packet(&Arrived::plain(&stray(0x10)), START), Verdict::Answer(_, Reason::UnknownAnswer)));
    assert_eq!(engine.packet(&Arrived::plain(&stray(4)), START), Verdict::Pass);
}

#[test]
fn a_wrong_header_checksum_goes_nowhere() {
    let mut engine = engine(&rules("-m"));
    let mut syn = tcp(CLIENT, VIP, 2, b"");
    syn[10] ^= 1;
    assert_eq!(engine.packet(&Arrived::plain(&syn), START), Verdict::Drop(Reason::BadHeaderChecksum));
}

#[test]
fn faults_break_what_they_say() {
    let syn = tcp(CLIENT, VIP, 2, b"");
    let syn_ack = tcp("192.168.224.11:8080", CLIENT, 0x12, b"");
    let mut engine = engine(&rules("-m"));
    let mut with = |fault: &str, packet: &[u8]| {
        engine.faults = fault.parse().unwrap();
        engine.packet(&Arrived::plain(packet), START)
    };
    assert_eq!(ends(&forwarded(with("keep-ttl", &syn)).bytes).2, 64);
    let spoiled = forwarded(with("wrong-checksum", &syn));
    assert_eq!(crate::packet::checksum_state(&seen(&spoiled.bytes)), crate::packet::ChecksumState::Bad);
    assert_eq!(ends(&forwarded(with("keep-answer", &syn_ack)).bytes).0, "192.168.224.11:8080");
    let dropped: Vec<bool> = (0..4).map(|_| with("drop-syn-ack=2", &syn_ack) == Verdict::Drop(Reason::Fault)).collect();
    assert_eq!(dropped, [false, true, false, true]);
}

#[test]
fn a_removed_service_takes_its_connections_along_silently() {
    let mut engine = engine(&rules("-m"));
    forwarded(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START));
    let matches = engine.balancer.services()[0].rule().matches;
    engine.balancer.delete_service(&matches).unwrap();
    assert_eq!(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 0x10, b"")), START), Verdict::Drop(Reason::ServerRemoved));
    // And when it is back, so are they.
    engine.balancer.add_service(&crate::ipvs::parse(&rules("-m")).unwrap()[0]).unwrap();
    forwarded(engine.packet(&Arrived::plain(&tcp(CLIENT, VIP, 2, b"")), START));
    engine.balancer.advance(START + 100 * SECOND);
    assert!(engine.balancer.table().is_empty());
}

proptest! {
    /// Whatever comes in, nothing panics, and what goes out is an IP packet whose headers are right.
    #[test]
    fn any_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        shape in 0u8..6,
        protocol in prop_oneof![Just(6u8), Just(17), Just(1), Just(58), Just(132), any::<u8>()],
        more in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..4),
    ) {
        let mut engine = engine(&format!("{}-A -u 192.168.2.59:80 -s wlc -o\n-a -u 192.168.2.59:80 -r 192.168.224.11:80 -i\n", rules("-m")));
        let (src, dst): (IpAddr, IpAddr) = ("192.168.2.100".parse().unwrap(), "192.168.2.59".parse().unwrap());
        let mut packet = match shape {
            0 => bytes.clone(),
            1 => build::ip(src, dst, protocol, IpFields::default(), &bytes),
            2 => build::ip(src, dst, protocol, IpFields { flags: u16::from(protocol) << 5 | 1, ..IpFields::default() }, &bytes),
            3 => build::ip("::1".parse().unwrap(), "::2".parse().unwrap(), protocol, IpFields::default(), &bytes),
            4 => build::ip(src, dst, 1, IpFields::default(), &build::icmp(src, dst, 3, 4, 0, &tcp(VIP, CLIENT, 0x10, &bytes))),
            _ => tcp(CLIENT, VIP, protocol, &bytes),
        };
        for (at, value) in more {
            if let Some(byte) = packet.get_mut(usize::from(at)) {
                *byte = value;
            }
        }
        if let Verdict::Forward(forwarded) = engine.packet(&Arrived::plain(&packet), START) {
            let header = IpHeader::read(&forwarded.bytes).unwrap();
            prop_assert!(header_checksum_is_good(&forwarded.bytes, &header));
        }
    }

    /// A packet of which only the headers are copied is, with its rest, the one that is copied whole: any method, both ways, any length.
    #[test]
    fn headers_and_rest_are_the_packet(
        len in 0usize..3000,
        udp in any::<bool>(),
        ipv6 in any::<bool>(),
        answer in any::<bool>(),
        partial in any::<bool>(),
        merged in any::<bool>(),
        method in prop_oneof![Just("-m"), Just("-g"), Just("-i")],
        ttl in prop_oneof![Just(64u8), Just(1)],
    ) {
        let (client, vip, server) = if ipv6 {
            ("[2001:db8:9::1]:40002", "[2001:db8:2::59]:80", "[2001:db8:224::11]:80")
        } else {
            (CLIENT, VIP, "192.168.224.11:80")
        };
        let kind = if udp { "-u" } else { "-t" };
        let rules = format!("-A {kind} {vip} -s rr\n-a {kind} {vip} -r {server} {method} -w 1\n");
        let packet = |src: &str, dst: &str, ttl: u8, payload: &[u8]| {
            let (src, dst): (Endpoint, Endpoint) = (src.parse().unwrap(), dst.parse().unwrap());
            let (protocol, segment) = match udp {
                true => (17, build::udp(src, dst, payload)),
                false => (6, build::tcp(src, dst, &TcpFields { flags: TcpFlags(2), ..TcpFields::default() }, payload)),
            };
            build::ip(src.addr, dst.addr, protocol, IpFields { ttl, flags: 0x4000, ..IpFields::default() }, &segment)
        };
        let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let (first, second) = (packet(client, vip, 64, b""), if answer { packet(server, client, ttl, &payload) } else { packet(client, vip, ttl, &payload) });
        let verdict = |kept: bool| {
            let mut engine = engine(&rules);
            engine.packet(&Arrived::plain(&first), START);
            let merged = merged.then_some(1000);
            let copied = match engine.packet(&Arrived { partial, merged, kept, ..Arrived::plain(&second) }, START) {
                Verdict::Forward(out) => out,
                verdict => return (verdict, 0),
            };
            let (len, mut whole) = (copied.bytes.len(), copied);
            whole.bytes.extend_from_slice(&second[std::mem::take(&mut whole.rest)]);
            whole.rest = 0..0;
            (Verdict::Forward(whole), len)
        };
        let ((plain, all), (kept, some)) = (verdict(false), verdict(true));
        prop_assert_eq!(&plain, &kept);
        let long = second.len() > 1024 && (method != "-i" || answer) && matches!(plain, Verdict::Forward(_));
        prop_assert!(if long { some < 200 } else { some == all }, "{} of {} bytes", some, all);
    }
}
