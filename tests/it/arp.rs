//! Our arithmetic of ARP settings, held against the kernel over all combinations that matter: real questions on a real link, and real
//! questions of the kernel's own.

use crate::within::inside;
use lvscope::capture::{Wire, WireOptions};
use lvscope::collect::{Wanted, collect};
use lvscope::host::Host;
use lvscope::lab::build::{Balancing, Network};
use lvscope::lab::scenario::Scenario;
use lvscope::net::MacAddr;
use lvscope::packet::{Frame, LinkType};
use lvscope::packet::{Network as Layer, build, dissect};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

/// web1 on a link with one who asks, and with a second card elsewhere.
const SHEET: &str = "title = 'a link'
[[host]]
name = 'asker'
role = 'client'
interfaces = [{ name = 'eth0', segment = 'lan' }, { name = 'eth1', segment = 'other' }]
[[host]]
name = 'web1'
role = 'real-server'
interfaces = [{ name = 'eth0', segment = 'lan' }, { name = 'eth1', segment = 'other' }]
setup = ['ip addr add 10.0.0.11/24 dev eth0', 'ip addr add 10.5.0.11/24 dev eth1', 'ip route add default via 10.5.0.1']
";

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);
/// An answer comes within the call that sends the question, unless the machine is very busy.
const SOON: Duration = Duration::from_millis(12);
const LATE: Duration = Duration::from_secs(2);

struct Link {
    network: Network,
    wire: Wire,
}

impl Link {
    fn new() -> Link {
        let scenario = Scenario::read("a link", SHEET).unwrap();
        let network = Network::build(&scenario, Balancing::Nobody).unwrap();
        let options = WireOptions { promiscuous: true, inbound_only: true, ..WireOptions::default() };
        let wire = network.host("asker").unwrap().namespace.run(|| Wire::open("eth0", options)).unwrap().unwrap();
        Link { network, wire }
    }

    fn run(&self, command: &str) {
        self.network.run("web1", command).unwrap_or_else(|e| panic!("{command}: {e}"));
    }

    fn web1(&self) -> Host {
        let wanted = Wanted { netns: None, name: Some("web1".into()) };
        self.network.host("web1").unwrap().namespace.run(|| collect(&wanted)).unwrap().unwrap()
    }

    /// ARP messages that arrive: operation, sender, target.
    fn hear(&mut self, patience: Duration) -> Option<(u16, Ipv4Addr, Ipv4Addr)> {
        let mut buffer = vec![0; 2048];
        let until = Instant::now() + patience;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let Some(arrival) = self.wire.receive(&mut buffer, left).unwrap() else { continue };
            if let Layer::Arp(arp) = dissect(&Frame::whole(LinkType::ETHERNET, &buffer[..arrival.len])).network {
                return Some((arp.operation, arp.sender, arp.target));
            }
        }
        None
    }

    /// Who is answered, of these pairs of a sender and a target; those that should be are waited for.
    fn answered(
        &mut self,
        questions: &[(Ipv4Addr, Ipv4Addr)],
        expected: &BTreeSet<(Ipv4Addr, Ipv4Addr)>,
        soon: Duration,
    ) -> BTreeSet<(Ipv4Addr, Ipv4Addr)> {
        while self.hear(Duration::from_micros(1)).is_some() {}
        for (sender, target) in questions {
            let frame = build::arp(MacAddr::BROADCAST, 1, (ASKER, *sender), (MacAddr::ZERO, *target), &[]);
            self.wire.send(&[&frame]).unwrap();
        }
        let (begun, mut found) = (Instant::now(), BTreeSet::new());
        loop {
            let passed = begun.elapsed();
            let missing = !expected.is_subset(&found);
            if passed > LATE || (passed > soon && !missing) {
                return found;
            }
            if let Some((2, answered, asker)) = self.hear(Duration::from_millis(2)) {
                found.insert((asker, answered));
            }
        }
    }
}

#[test]
fn answers_are_the_kernels() {
    if !inside("arp::answers_are_the_kernels") {
        return;
    }
    let mut link = Link::new();
    let [vip, other, rip] = ["10.0.0.13", "10.0.0.77", "10.0.0.11"].map(|a| a.parse::<Ipv4Addr>().unwrap());
    // Of the same network, of another, of no route but the default's, the host's own, and who asks whether it is free.
    let senders = ["10.0.0.1", "10.5.0.9", "198.51.100.9", "10.0.0.11", "0.0.0.0"].map(|a| a.parse::<Ipv4Addr>().unwrap());
    let questions: Vec<(Ipv4Addr, Ipv4Addr)> = senders.iter().flat_map(|s| [vip, other, rip].map(|t| (*s, t))).collect();
    let places = [
        "10.0.0.13/32 dev lo",
        "10.0.0.13/32 dev lo scope host",
        "10.0.0.13/24 dev lo",
        "10.0.0.13/32 dev eth0",
        "10.0.0.13/24 dev eth0",
        "10.0.0.13/32 dev eth1",
    ];
    // all and eth0 of arp_ignore, of arp_filter, of rp_filter; lo, which never matters.
    let mut states: Vec<[u8; 7]> = Vec::new();
    for all in [0, 1, 2, 3, 4, 8] {
        for own in [0, 1, 2, 3, 8] {
            for filter in [0, 1] {
                states.push([all, own, 0, filter, 0, 0, 0]);
            }
        }
    }
    for (all_rp, own_rp) in [(0, 1), (1, 0), (2, 0), (0, 2), (1, 2)] {
        for all in [0, 1] {
            states.push([all, 0, 1, 0, all_rp, own_rp, 0]);
            states.push([all, 0, 0, 0, all_rp, own_rp, 0]);
        }
    }
    states.extend([[0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 8], [0, 2, 0, 0, 0, 0, 8]]);
    let (mut wrong, mut compared, mut answers) = (String::new(), 0, 0);
    for place in places {
        link.run(&format!("ip addr add {place}"));
        for state @ [all, own, all_filter, own_filter, all_rp, own_rp, lo] in &states {
            link.run(&format!(
                "sysctl -w net.ipv4.conf.all.arp_ignore={all} net.ipv4.conf.eth0.arp_ignore={own} net.ipv4.conf.lo.arp_ignore={lo} \
                 net.ipv4.conf.all.arp_filter={all_filter} net.ipv4.conf.eth0.arp_filter={own_filter} \
                 net.ipv4.conf.all.rp_filter={all_rp} net.ipv4.conf.eth0.rp_filter={own_rp}"
            ));
            let host = link.web1();
            let ours: BTreeSet<(Ipv4Addr, Ipv4Addr)> = questions
                .iter()
                .copied()
                .filter(|(sender, target)| host.answers_arp(IpAddr::V4(*target), IpAddr::V4(*sender), "eth0") == Some(true))
                .collect();
            let mut theirs = link.answered(&questions, &ours, SOON);
            if theirs != ours {
                // A busy machine may have answered late.
                theirs = link.answered(&questions, &ours, SOON * 20);
            }
            compared += questions.len();
            answers += theirs.len();
            for (sender, target) in ours.symmetric_difference(&theirs) {
                let kernel = if theirs.contains(&(*sender, *target)) { "answers" } else { "is silent" };
                wrong += &format!("{place}, {state:?}: who-has {target} tell {sender}: the kernel {kernel}, we say otherwise\n");
            }
        }
        let bare = place.trim_end_matches(" scope host");
        link.run(&format!("ip addr del {bare}"));
    }
    let lines = wrong.lines().count();
    assert!(wrong.is_empty(), "{lines} of {compared} differ\n{}", wrong.lines().take(20).collect::<Vec<_>>().join("\n"));
    assert!(compared > 5000 && answers > 500 && answers < compared, "{answers} of {compared}");
}

/// Questions for an address that web1 only has a way to: proxy_arp, private VLANs, an entry for it; with a way by the same card and by
/// another.
#[test]
fn answers_for_others_are_the_kernels() {
    if !inside("arp::answers_for_others_are_the_kernels") {
        return;
    }
    let mut link = Link::new();
    let (asker, target): (Ipv4Addr, Ipv4Addr) = ("10.0.0.1".parse().unwrap(), "10.0.0.100".parse().unwrap());
    // At once, without the delay that lets the true owner answer first.
    link.run("sysctl -w net.ipv4.neigh.eth0.proxy_delay=0");
    let (mut wrong, mut answers) = (String::new(), 0);
    for entry in [false, true] {
        if entry {
            link.run(&format!("ip neigh add proxy {target} dev eth0"));
        }
        for bits in 0..32 {
            let state @ [forwards, all, own, pvlan, aside] = [0, 1, 2, 3, 4].map(|bit| bits >> bit & 1);
            link.run(&format!(
                "sysctl -w net.ipv4.conf.eth0.forwarding={forwards} net.ipv4.conf.all.proxy_arp={all} net.ipv4.conf.eth0.proxy_arp={own} \
                 net.ipv4.conf.eth0.proxy_arp_pvlan={pvlan}"
            ));
            if aside == 1 {
                link.run(&format!("ip route add {target}/32 via 10.5.0.9"));
            }
            let ours = link.web1().answers_for_another(IpAddr::V4(target), "eth0").unwrap().is_some();
            let expected: BTreeSet<_> = ours.then_some((asker, target)).into_iter().collect();
            let theirs = !link.answered(&[(asker, target)], &expected, SOON).is_empty();
            answers += usize::from(theirs);
            if ours != theirs {
                wrong += &format!("entry {entry}, {state:?}: the kernel answers: {theirs}\n");
            }
            if aside == 1 {
                link.run(&format!("ip route del {target}/32 via 10.5.0.9"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert_eq!(answers, 22, "of 64");
}

#[test]
fn senders_are_the_kernels() {
    if !inside("arp::senders_are_the_kernels") {
        return;
    }
    let mut link = Link::new();
    let mut wrong = String::new();
    let mut last: u8 = 30;
    // Within the network of the card, and outside of it.
    for vip in ["10.0.0.13", "192.0.2.13"] {
        link.run(&format!("ip addr add {vip}/32 dev lo"));
        for [all, own, lo] in (0..36).map(|n| [n % 4, n / 4 % 3, n / 12]) {
            link.run(&format!(
                "sysctl -w net.ipv4.conf.all.arp_announce={all} net.ipv4.conf.eth0.arp_announce={own} net.ipv4.conf.lo.arp_announce={lo}"
            ));
            // Somebody of whom nothing is known.
            last += 1;
            let target = Ipv4Addr::new(10, 0, 0, last);
            let ours = link.web1().arp_sender(vip.parse().ok(), IpAddr::V4(target), "eth0");
            let socket = link.network.host("web1").unwrap().namespace.run(|| UdpSocket::bind((vip, 0))).unwrap().unwrap();
            socket.send_to(b"x", (target, 9)).unwrap();
            let begun = Instant::now();
            let theirs = loop {
                match link.hear(Duration::from_millis(100)) {
                    Some((1, sender, asked)) if asked == target => break Some(IpAddr::V4(sender)),
                    _ if begun.elapsed() > LATE => break None,
                    _ => {}
                }
            };
            if ours != theirs {
                wrong += &format!("{vip}, arp_announce of all, eth0, lo {all} {own} {lo}: the kernel names {theirs:?}, we {ours:?}\n");
            }
        }
        link.run(&format!("ip addr del {vip}/32 dev lo"));
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
