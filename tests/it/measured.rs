//! What was measured of kernels in network namespaces (appendix B of the catalogue of faults), row by row: hosts are put into a state, the
//! audit has to name it, and the kernel then has to do what makes it a fault. Hosts are those of the lab; the healthy states are silent.
//!
//! B1 to B4 are in `arp`, over all combinations, and B15 for its senders; what the audit says of them is in `live`.

use crate::within::inside;
use lvscope::capture::{Wire, WireOptions};
use lvscope::finding::Severity;
use lvscope::host::{Ask, Fleet, Host, IpvsTable, Service, SourceCheck};
use lvscope::lab::build::{Balancing, Network};
use lvscope::lab::scenario::Scenario;
use lvscope::lab::survey::survey;
use lvscope::net::MacAddr;
use lvscope::packet::{Frame, IcmpKind, LinkType, Network as Layer, Packet, Transport, build, dissect};
use lvscope::rules::{Facts, diagnose};
use lvscope::trace::{Hints, Options, Tracer, role_of_name};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

/// For what comes: it comes at once, unless the machine is very busy.
const LATE: Duration = Duration::from_secs(3);
/// For what does not come.
const SILENCE: Duration = Duration::from_millis(150);

/// Hosts that stand, the director a kernel like the others.
struct Stand(Network);

impl Stand {
    /// A base of the lab, with commands for its hosts: `web1: ip route del default`.
    fn new(base: &str, commands: &[&str]) -> Stand {
        let scenario = Scenario::read(base, &format!("base = '{base}'\ntitle = 'measured'\n")).unwrap();
        let stand = Stand(Network::build(&scenario, Balancing::Nobody).unwrap());
        commands.iter().for_each(|command| stand.run(command));
        stand
    }

    fn run(&self, command: &str) {
        let (host, command) = command.split_once(": ").expect("HOST: COMMAND");
        self.0.run(host, command).unwrap_or_else(|e| panic!("{host}: {e}"));
    }

    fn hosts(&self) -> Vec<Host> {
        let mut hosts = survey(&self.0, |_| None).unwrap();
        for (host, built) in hosts.iter_mut().zip(&self.0.hosts) {
            // There is no IPVS in this kernel; its rules are what the director was told.
            if !built.rules().is_empty() {
                host.left_out.retain(|left| left.section != "ipvs");
                host.ipvs = Some(IpvsTable { services: built.rules().iter().map(Service::from).collect(), ..IpvsTable::default() });
            }
        }
        hosts
    }

    fn host(&self, name: &str) -> Host {
        self.hosts().into_iter().find(|h| h.name == name).unwrap()
    }

    /// Codes of what is wrong, each once; nobody listens in here, which is not meant.
    fn audit(&self) -> Vec<&'static str> {
        let fleet = Fleet::new(self.hosts(), role_of_name, |_| None, &[]);
        let trace = Tracer::new(Options::default()).finish();
        let found = diagnose(&Facts { trace: &trace, hints: &Hints::default(), fleet: &fleet }).findings;
        let mut codes: Vec<_> = found.iter().filter(|f| f.severity > Severity::Note).map(|f| f.code).filter(|c| *c != "SVC004").collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    fn expect(&self, row: &str, codes: &[&str]) {
        assert_eq!(self.audit(), codes, "{row}");
    }

    /// All frames at an interface that it receives.
    fn ear(&self, place: &str) -> Ear {
        let (host, interface) = place.split_once('.').unwrap();
        let host = self.0.host(host).unwrap();
        let options = WireOptions { promiscuous: true, inbound_only: true, ..WireOptions::default() };
        let mac = host.interfaces.iter().find(|(name, _)| name == interface).unwrap().1;
        Ear { wire: host.namespace.run(|| Wire::open(interface, options)).unwrap().unwrap(), mac }
    }

    /// A packet of UDP that a host sends from one of its addresses.
    fn say(&self, host: &str, from: &str, to: &str) {
        let from: IpAddr = from.parse().unwrap();
        let socket = self.0.host(host).unwrap().namespace.run(|| UdpSocket::bind((from, 4000))).unwrap().unwrap();
        // Without a route it cannot even be sent.
        let _ = socket.send_to(b"x", (to, 9));
    }

    fn mac(&self, place: &str) -> MacAddr {
        self.ear(place).mac
    }
}

struct Ear {
    wire: Wire,
    mac: MacAddr,
}

impl Ear {
    fn hears(&mut self, patience: Duration, wanted: impl Fn(&Packet<'_>) -> bool) -> bool {
        let mut buffer = vec![0; 2048];
        let until = Instant::now() + patience;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let Some(arrival) = self.wire.receive(&mut buffer, left).unwrap() else { continue };
            let (bytes, time) = (&buffer[..arrival.len], arrival.time);
            let frame =
                Frame { bytes, wire_len: arrival.wire_len, link_type: LinkType::ETHERNET, time, number: 1, interface: 0, heading: None };
            if wanted(&dissect(&frame)) {
                return true;
            }
        }
        false
    }

    /// What is expected comes, or what is not does not.
    fn hears_if(&mut self, expected: bool, wanted: impl Fn(&Packet<'_>) -> bool) -> bool {
        self.hears(if expected { LATE } else { SILENCE }, wanted) == expected
    }

    /// Somebody answers ARP for an address, asked by `sender`.
    fn is_answered_if(&mut self, expected: bool, sender: &str, target: &str) -> bool {
        let (sender, target): (Ipv4Addr, Ipv4Addr) = (sender.parse().unwrap(), target.parse().unwrap());
        let question = build::arp(MacAddr::BROADCAST, 1, (self.mac, sender), (MacAddr::ZERO, target), &[]);
        self.wire.send(&[&question]).unwrap();
        self.hears_if(expected, |p| matches!(&p.network, Layer::Arp(arp) if (arp.operation, arp.sender) == (2, target)))
    }

    /// Sends a packet of UDP as if it came from elsewhere.
    fn inject(&self, to: MacAddr, src: &str, dst: &str, outer: Option<(&str, &str)>) {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        let datagram = build::udp(lvscope::net::Endpoint::new(src, 4000), lvscope::net::Endpoint::new(dst, 9), b"x");
        let fields = build::IpFields { ttl: 64, id: 77, flags: 0x4000 };
        let mut packet = build::ip(src, dst, 17, fields, &datagram);
        if let Some((a, b)) = outer {
            packet = build::ip(a.parse().unwrap(), b.parse().unwrap(), 4, fields, &packet);
        }
        self.wire.send(&[&build::ethernet(self.mac, to, &[], &packet)]).unwrap();
    }
}

fn is_from(src: &str, dst: &str) -> impl Fn(&Packet<'_>) -> bool {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    move |p| matches!(&p.network, Layer::Ip(ip) if (ip.src, ip.dst) == (src, dst))
}

fn asks(target: &str, sender: &str) -> impl Fn(&Packet<'_>) -> bool {
    let (target, sender): (Ipv4Addr, Ipv4Addr) = (target.parse().unwrap(), sender.parse().unwrap());
    move |p| matches!(&p.network, Layer::Arp(arp) if (arp.operation, arp.sender, arp.target) == (1, sender, target))
}

const CLIENT: &str = "198.51.100.7";
const VIP: &str = "203.0.113.80";
const WEB1: &str = "203.0.113.11";

#[test]
fn b0_healthy_bases_are_silent() {
    if !inside("measured::b0_healthy_bases_are_silent") {
        return;
    }
    for base in ["dr-routed", "nat", "nat-onearm", "tun", "tun-lan", "dr6", "nat6"] {
        Stand::new(base, &[]).expect(base, &[]);
    }
}

#[test]
fn b5_to_b8_a_whole_network_on_lo() {
    if !inside("measured::b5_to_b8_a_whole_network_on_lo") {
        return;
    }
    let whole = ["web1: ip addr del 203.0.113.80/32 dev lo", "web1: ip addr add 203.0.113.80/24 dev lo"];
    let stand = Stand::new("dr-routed", &whole);
    let mut router = stand.ear("router.int");
    stand.expect("B5", &["DR002"]);
    stand.run("web1: sysctl -w net.ipv4.conf.all.arp_ignore=0");
    assert!(router.is_answered_if(true, "203.0.113.1", "203.0.113.77"), "B5: it answers for every address of the network");
    stand.say("web1", VIP, "203.0.113.1");
    assert!(router.hears_if(false, is_from(VIP, "203.0.113.1")), "B5: what is for its own network stays on lo");
    // B7: the default route is older, and still leads out.
    let mut client = stand.ear("client.eth0");
    stand.say("web1", VIP, CLIENT);
    assert!(client.hears_if(true, is_from(VIP, CLIENT)), "B7");
    for filter in [1, 2] {
        stand.run(&format!("web1: sysctl -w net.ipv4.conf.eth0.rp_filter={filter}"));
        assert!(router.is_answered_if(false, "203.0.113.1", WEB1), "B6: not even for its own address");
        assert!(stand.audit().contains(&"DR002"), "B6");
    }
    // B8: a default route that is set now.
    let stand = Stand::new("dr-routed", &whole);
    stand.run("web1: ip route del default");
    stand.run("web1: ip route add default via 203.0.113.1");
    let hop = stand.host("web1").way(&Ask::to("192.0.2.1".parse().unwrap())).unwrap().hops[0].link.clone();
    assert_eq!(hop.as_deref(), Some("lo"), "B8");
    assert!(stand.audit().contains(&"DR002"), "B8");
    let mut client = stand.ear("client.eth0");
    stand.say("web1", VIP, CLIENT);
    assert!(client.hears_if(false, is_from(VIP, CLIENT)), "B8");
}

#[test]
fn b9_b10_b22_a_director_that_asks_as_the_vip() {
    if !inside("measured::b9_b10_b22_a_director_that_asks_as_the_vip") {
        return;
    }
    let flush = ["director: ip addr flush dev eth0"];
    let default = "director: ip route add default via 203.0.113.1";
    let only = [&flush[..], &["director: ip addr add 203.0.113.80/24 dev eth0", default]].concat();
    let second =
        [&flush[..], &["director: ip addr add 203.0.113.80/24 dev eth0", "director: ip addr add 203.0.113.2/24 dev eth0", default]]
            .concat();
    let right = [&flush[..], &["director: ip addr add 203.0.113.2/24 dev eth0", "director: ip addr add 203.0.113.80/32 dev eth0", default]]
        .concat();
    for (row, commands, sender, codes) in
        [("B9", only, VIP, &["DR008"][..]), ("B10, VIP first", second, VIP, &["DR008"]), ("B10, DIP first", right, "203.0.113.2", &[])]
    {
        let stand = Stand::new("dr-routed", &commands);
        stand.expect(row, codes);
        let (mut web1, mut director) = (stand.ear("web1.eth0"), stand.ear("director.eth0"));
        stand.say("director", "0.0.0.0", WEB1);
        assert!(web1.hears_if(true, asks(WEB1, sender)), "{row}: it asks as {sender}");
        let answered = |p: &Packet<'_>| matches!(&p.network, Layer::Arp(arp) if arp.operation == 2 && arp.sender.to_string() == WEB1);
        assert!(director.hears_if(codes.is_empty(), answered), "{row}");
        // B22: to itself it speaks as the VIP, so a test from the director is none.
        let vip: IpAddr = VIP.parse().unwrap();
        assert_eq!(stand.host("director").way(&Ask::to(vip)).unwrap().source, Some(vip), "B22");
    }
    // B9: accept_local lets it be resolved, and takes no packet for that.
    let stand = Stand::new("dr-routed", &[]);
    stand.run("director: ip addr flush dev eth0");
    stand.run("director: ip addr add 203.0.113.80/24 dev eth0");
    for web in ["web1", "web2"] {
        stand.run(&format!("{web}: sysctl -w net.ipv4.conf.eth0.accept_local=1"));
    }
    let mut director = stand.ear("director.eth0");
    assert!(director.is_answered_if(true, VIP, WEB1), "B9");
    assert!(!stand.audit().contains(&"DR008"), "B9: it is resolved now");
}

/// B11 to B13: answers of a real server through its director, whose own address is their source.
#[test]
fn b11_to_b13_answers_through_the_director() {
    if !inside("measured::b11_to_b13_answers_through_the_director") {
        return;
    }
    let back = ["web1: ip route replace default via 203.0.113.2", "web2: ip route replace default via 203.0.113.2"];
    let on_lo = ["director: ip addr del 203.0.113.80/32 dev eth0", "director: ip addr add 203.0.113.80/32 dev lo"];
    for (moved, vip_at) in [(false, "eth0"), (true, "lo")] {
        let commands = if moved { [&back[..], &on_lo[..]].concat() } else { back.to_vec() };
        let stand = Stand::new("dr-routed", &commands);
        stand.run("director: sysctl -w net.ipv4.ip_forward=1");
        for (accept, filter) in (0..6).map(|n| (n % 2, n / 2)) {
            stand.run(&format!("director: sysctl -w net.ipv4.conf.eth0.accept_local={accept} net.ipv4.conf.eth0.rp_filter={filter}"));
            let state = format!("VIP on {vip_at}, accept_local {accept}, rp_filter {filter}");
            let passes = stand.host("director").source_check(VIP.parse().unwrap(), "eth0") == SourceCheck::Accepted;
            assert_eq!(stand.audit().contains(&"DR003"), !passes, "{state}");
            let mut client = stand.ear("client.eth0");
            stand.say("web1", VIP, CLIENT);
            assert!(
                client.hears_if(passes, is_from(VIP, CLIENT)),
                "{state}: we say that it {}",
                if passes { "passes" } else { "is dropped" }
            );
        }
    }
}

#[test]
fn b14_forwarding_of_the_card_that_packets_arrive_at() {
    if !inside("measured::b14_forwarding_of_the_card_that_packets_arrive_at") {
        return;
    }
    for (card, there, back) in [("", true, true), ("ext", false, true), ("int", true, false)] {
        let stand = Stand::new("dr-routed", &[]);
        if !card.is_empty() {
            stand.run(&format!("router: sysctl -w net.ipv4.conf.{card}.forwarding=0"));
        }
        stand.expect(&format!("B14 {card}"), if card.is_empty() { &[] } else { &["NET001"] });
        let (mut director, mut client) = (stand.ear("director.eth0"), stand.ear("client.eth0"));
        stand.say("client", CLIENT, VIP);
        assert!(director.hears_if(there, is_from(CLIENT, VIP)), "B14 {card}");
        stand.say("web1", VIP, CLIENT);
        assert!(client.hears_if(back, is_from(VIP, CLIENT)), "B14 {card}");
    }
}

/// B15: the router believes what a real server says of itself while it asks.
#[test]
fn b15_the_router_learns_from_questions() {
    if !inside("measured::b15_the_router_learns_from_questions") {
        return;
    }
    for (announce, codes, learns) in [("1", &["ARP002"][..], true), ("2", &[], false)] {
        let stand = Stand::new("dr-routed", &[]);
        for web in ["web1", "web2"] {
            stand.run(&format!("{web}: sysctl -w net.ipv4.conf.all.arp_announce={announce}"));
        }
        stand.expect(&format!("B15 {announce}"), codes);
        // It knows the director, then the real server asks for it with a packet from the VIP.
        stand.say("client", CLIENT, VIP);
        let known =
            |stand: &Stand| stand.host("router").neighbours.unwrap().into_iter().find(|n| n.addr.to_string() == VIP).and_then(|n| n.mac);
        let begun = Instant::now();
        while known(&stand).is_none() && begun.elapsed() < LATE {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(known(&stand), Some(stand.mac("director.eth0")));
        // For a second what is new is not believed (`locktime`).
        std::thread::sleep(Duration::from_millis(1100));
        let mut router = stand.ear("router.int");
        stand.say("web1", VIP, CLIENT);
        assert!(router.hears(LATE, asks("203.0.113.1", if learns { VIP } else { WEB1 })), "B15 {announce}");
        let believed = if learns { "web1.eth0" } else { "director.eth0" };
        let begun = Instant::now();
        while known(&stand) != Some(stand.mac(believed)) && begun.elapsed() < LATE {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(known(&stand), Some(stand.mac(believed)), "B15 {announce}");
    }
}

/// B16 and B23: a director that sends packets out where they came in tells the real server of a shorter way.
#[test]
fn b16_b23_redirects() {
    if !inside("measured::b16_b23_redirects") {
        return;
    }
    let is_redirect = |p: &Packet<'_>| matches!(&p.transport, Transport::Icmp(icmp) if matches!(icmp.kind, IcmpKind::Redirect { .. }));
    for (all, own) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let stand = Stand::new("nat-onearm", &[]);
        stand.run(&format!("director: sysctl -w net.ipv4.conf.all.send_redirects={all} net.ipv4.conf.eth0.send_redirects={own}"));
        let redirects = all + own > 0;
        stand.expect(&format!("B16 {all},{own}"), if redirects { &["NAT004"] } else { &[] });
        let mut web1 = stand.ear("web1.eth0");
        stand.say("web1", "10.20.0.11", CLIENT);
        assert!(web1.hears_if(redirects, is_redirect), "B16 {all},{own}");
    }
    // Two networks on one wire, the director between them.
    let stand = Stand::new(
        "nat-onearm",
        &[
            "director: ip addr add 10.30.0.2/24 dev eth0",
            "director: sysctl -w net.ipv4.conf.all.send_redirects=1",
            "router: ip addr flush dev int",
            "router: ip addr add 10.30.0.9/24 dev int",
            "web1: sysctl -w net.ipv4.conf.eth0.accept_redirects=1",
        ],
    );
    let (mut web1, mut router) = (stand.ear("web1.eth0"), stand.ear("router.int"));
    stand.say("web1", "10.20.0.11", "10.30.0.9");
    assert!(web1.hears_if(true, is_redirect), "B23");
    stand.say("web1", "10.20.0.11", "10.30.0.9");
    assert!(router.hears_if(true, asks("10.30.0.9", "10.20.0.11")), "B23: it asks for somebody of another network");
}

/// B17 and B18: filters of source addresses at a tunnel, with an address on it and without.
#[test]
fn b17_b18_filters_at_a_tunnel() {
    if !inside("measured::b17_b18_filters_at_a_tunnel") {
        return;
    }
    let bare = ["web1: ip addr del 203.0.113.80/32 dev tunl0", "web1: ip addr add 203.0.113.80/32 dev lo"];
    for (row, commands) in [("B17", &[][..]), ("B18", &bare[..])] {
        let stand = Stand::new("tun", commands);
        let socket = stand.0.host("web1").unwrap().namespace.run(|| UdpSocket::bind((VIP, 9))).unwrap().unwrap();
        let router = stand.ear("router.back");
        for (all, own) in (0..9).map(|n| (n / 3, n % 3)) {
            stand.run(&format!("web1: sysctl -w net.ipv4.conf.all.rp_filter={all} net.ipv4.conf.tunl0.rp_filter={own}"));
            let passes = if row == "B17" { all.max(own) != 1 } else { all.max(own) == 0 };
            let codes = stand.audit();
            let code = if row == "B18" && all.max(own) == 2 { "TUN003" } else { "TUN002" };
            let named = codes.contains(&"TUN002") || codes.contains(&"TUN003");
            assert!(named != passes && (passes || codes.contains(&code) || row == "B18"), "{row} {all},{own}: {codes:?}");
            socket.set_read_timeout(Some(if passes { LATE } else { SILENCE })).unwrap();
            router.inject(stand.mac("web1.eth0"), CLIENT, VIP, Some(("203.0.113.2", "172.31.5.11")));
            assert_eq!(socket.recv(&mut [0; 8]).is_ok(), passes, "{row} {all},{own}");
        }
    }
}

/// B19 and B20: packets for a VIP that the real server does not have, or from itself.
#[test]
fn b19_b20_what_a_real_server_does_not_take() {
    if !inside("measured::b19_b20_what_a_real_server_does_not_take") {
        return;
    }
    for (forwards, code) in [(0, "DR001"), (1, "DR016")] {
        let stand = Stand::new("dr-routed", &["web1: ip addr del 203.0.113.80/32 dev lo"]);
        stand.run(&format!("web1: sysctl -w net.ipv4.ip_forward={forwards}"));
        stand.expect(&format!("B19 {forwards}"), &[code]);
        let mut director = stand.ear("director.eth0");
        let refused = |stand: &Stand| stand.host("web1").counters.unwrap().get("IpInAddrErrors").copied().unwrap_or(0);
        let before = refused(&stand);
        director.inject(stand.mac("web1.eth0"), CLIENT, VIP, None);
        let again = |p: &Packet<'_>| matches!(&p.network, Layer::Ip(ip) if (ip.id, ip.ttl, ip.dst.to_string().as_str()) == (77, 63, VIP));
        assert!(director.hears_if(forwards == 1, again), "B19 {forwards}");
        assert_eq!(refused(&stand) - before, 1 - forwards, "B19 {forwards}: a silent drop is counted");
    }
    let stand = Stand::new("dr-routed", &[]);
    let socket = stand.0.host("web1").unwrap().namespace.run(|| UdpSocket::bind((VIP, 9))).unwrap().unwrap();
    let director = stand.ear("director.eth0");
    for (src, taken) in [(CLIENT, true), (VIP, false)] {
        assert_eq!(stand.host("web1").source_check(src.parse().unwrap(), "eth0") == SourceCheck::Accepted, taken, "B20 {src}");
        socket.set_read_timeout(Some(if taken { LATE } else { SILENCE })).unwrap();
        director.inject(stand.mac("web1.eth0"), src, VIP, None);
        assert_eq!(socket.recv(&mut [0; 8]).is_ok(), taken, "B20 {src}");
    }
}

#[test]
fn b21_the_vip_of_ipv6() {
    if !inside("measured::b21_the_vip_of_ipv6") {
        return;
    }
    let vip = "2001:db8:2::80";
    let stand = Stand::new("dr6", &[]);
    stand.expect("B21 on lo", &[]);
    let mut router = stand.ear("router.int");
    let advertised_by = |mac: MacAddr| {
        move |p: &Packet<'_>| match &p.transport {
            Transport::Icmp(icmp) => {
                matches!(icmp.kind, IcmpKind::Advertisement(said) if said.target.to_string() == vip) && p.link.src == Some(mac)
            }
            _ => false,
        }
    };
    // The router asks; the director answers, and web1 does not.
    stand.say("router", "2001:db8:2::1", vip);
    assert!(router.hears(LATE, advertised_by(stand.mac("director.eth0"))), "B21");
    assert!(!router.hears(SILENCE, advertised_by(stand.mac("web1.eth0"))), "B21 on lo: no answer");
    // On the card, it finds that the director has it.
    stand.run("web1: ip -6 addr del 2001:db8:2::80/128 dev lo");
    stand.run("web1: sysctl -w net.ipv6.conf.all.accept_dad=1 net.ipv6.conf.eth0.accept_dad=1");
    stand.run("web1: ip -6 addr add 2001:db8:2::80/128 dev eth0");
    let flags = |stand: &Stand| stand.host("web1").address(vip.parse().unwrap()).map(|a| a.flags.clone()).unwrap_or_default();
    let begun = Instant::now();
    while !flags(&stand).iter().any(|f| f == "dadfailed") && begun.elapsed() < LATE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let flags = flags(&stand);
    assert!(["dadfailed", "tentative"].iter().all(|wanted| flags.iter().any(|f| f == wanted)), "B21 on the card: {flags:?}");
    assert!(stand.audit().contains(&"IP6001"), "B21 on the card: {:?}", stand.audit());
}

/// Filters with sets, as the kernel lists them; and what the kernel then lets through.
#[test]
fn filters_with_sets() {
    if !inside("measured::filters_with_sets") {
        return;
    }
    let rows = [
        ("-A INPUT -p tcp -m multiport --dports 80,443 -j DROP", false),
        ("-A INPUT -p tcp -m multiport --dports 22,443 -j DROP", true),
        ("-A INPUT -p udp -m multiport --dports 80,443 -j DROP", true),
    ];
    for (rule, passes) in rows {
        let stand = Stand::new("dr-routed", &[]);
        for web in ["web1", "web2"] {
            stand.run(&format!("{web}: iptables {rule}"));
        }
        let filter = stand.host("web1").netfilter.unwrap();
        let read = filter.chains.iter().flat_map(|c| &c.rules).next().unwrap();
        assert!(read.unknown.is_none() && read.dport.as_ref().is_some_and(|(ports, not)| ports.len() == 2 && !not), "{rule}: {read:?}");
        stand.expect(rule, if passes { &[] } else { &["NET008"] });
        // The kernel refuses what comes to a port without a listener, if it comes through.
        let mut client = stand.ear("client.eth0");
        let namespace = &stand.0.host("client").unwrap().namespace;
        let tried = namespace.run(|| std::net::TcpStream::connect_timeout(&format!("{WEB1}:80").parse().unwrap(), SILENCE)).unwrap();
        let refused = tried.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
        assert_eq!(refused, passes, "{rule}");
        assert!(client.hears_if(passes, is_from(WEB1, CLIENT)), "{rule}");
    }
}

/// What a router has translated tells where requests come from.
#[test]
fn translations_are_read() {
    if !inside("measured::translations_are_read") {
        return;
    }
    let stand = Stand::new("dr", &[]);
    let (client, director) = (&stand.0.host("client").unwrap().namespace, &stand.0.host("director").unwrap().namespace);
    // A connection that is only refused is forgotten at once.
    let _listens = director.run(|| std::net::TcpListener::bind("192.168.224.13:80")).unwrap().unwrap();
    let _open = client.run(|| std::net::TcpStream::connect_timeout(&"192.168.2.59:80".parse().unwrap(), Duration::from_secs(1))).unwrap();
    let table = stand.host("router").conntrack.expect("a table");
    let found = table.connections.iter().find(|c| c.to.to_string() == "192.168.2.59:80").unwrap_or_else(|| panic!("{table:?}"));
    assert_eq!((found.from.addr.to_string().as_str(), found.answers_from.to_string().as_str()), ("192.168.2.100", "192.168.224.13:80"));
    assert!(found.is_translated() && found.state.is_some(), "{found:?}");
    let fleet = Fleet::new(stand.hosts(), role_of_name, |_| None, &[]);
    let sources = fleet.sources(&fleet.services[0]);
    assert_eq!(
        sources.iter().map(|s| (s.addr.to_string(), s.by.as_str())).collect::<Vec<_>>(),
        [("192.168.2.100".to_string(), "connection tracking of router")]
    );
    // Who has never been asked anything tracks nothing.
    assert!(stand.host("web2").conntrack.is_none_or(|t| t.connections.is_empty()));
}
