//! A small world of hosts and links, in which rules are tested: packets are carried along a route, link by link, and seen at every
//! interface on the way, as captures of the real thing would show them.
//!
//! The kernel decides nothing here; the test says what each host does. What the real kernel does is in the recorded cases (`fixtures/`).

use super::{ALL, Diagnosis, Facts, Rule, diagnose};
use crate::finding::{Confidence, Finding, Severity};
use crate::ipvs;
use crate::net::{Endpoint, MacAddr, Timestamp};
use crate::packet::{Frame, LinkType, TcpFlags, build};
use crate::trace::{Hints, Options, Source, Trace, Tracer};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(super) const SYN: u8 = 0x02;
pub(super) const SYN_ACK: u8 = 0x12;
pub(super) const ACK: u8 = 0x10;
pub(super) const PSH: u8 = 0x18;
pub(super) const FIN: u8 = 0x11;
pub(super) const RST: u8 = 0x04;
pub(super) const REFUSE: u8 = 0x14;

/// One interface: the host's and its own name, the segment that it is on, its MAC and address.
#[derive(Clone)]
struct Interface {
    host: String,
    name: String,
    segment: String,
    mac: MacAddr,
    addr: IpAddr,
}

/// What a forwarder does to the packets of one connection.
#[derive(Clone, Default)]
pub(super) struct Work {
    /// New source.
    pub(super) src: Option<Endpoint>,
    /// New destination.
    pub(super) dst: Option<Endpoint>,
    /// Into a tunnel: outer protocol number (4 IPIP, 47 GRE, 17 GUE on port 6080), outer source and destination.
    pub(super) tunnel: Option<(u8, IpAddr, IpAddr)>,
}

/// Source, destination, and the tunnel around them.
type Addresses = (Endpoint, Endpoint, Option<(u8, IpAddr, IpAddr)>);

/// A connection: its ends as the client has them, and what each host on the way does to it.
#[derive(Clone)]
pub(super) struct Conn {
    client: Endpoint,
    service: Endpoint,
    udp: bool,
    isn: (u32, u32),
    work: Vec<(String, Work)>,
}

/// How the capture at an interface differs from a plain and complete one.
#[derive(Clone, Copy, Default)]
struct Quirk {
    /// The link type: cooked frames, or bare IP packets of a tunnel device.
    link: Option<LinkType>,
    /// Its clock is ahead, in nanoseconds.
    ahead: i64,
    /// Packets that the capture says it lost.
    lost: u64,
    /// At most this many bytes of a frame are kept.
    snap: Option<usize>,
    /// Frames that it sends have only the pseudo-header in their checksum.
    unfinished: bool,
    /// The VLAN tag that its frames have.
    tag: Option<u16>,
    /// Only broadcasts are captured.
    blind: bool,
}

/// Hosts, links, a clock, and what was captured.
#[derive(Clone)]
pub(super) struct World {
    interfaces: Vec<Interface>,
    frames: BTreeMap<String, Vec<(i64, Vec<u8>)>>,
    now: i64,
    ids: BTreeMap<u16, u16>,
    hidden: Vec<String>,
    anonymous: bool,
    quirks: BTreeMap<String, Quirk>,
    flooding: Vec<String>,
    /// Interfaces, each with another device of the same host that shows its frames too; or instead, on the way in, for a bond.
    stacked: Vec<(String, String, bool)>,
    pub(super) hints: Hints,
    /// Snapshots.
    pub(super) fleet: crate::host::Fleet,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn end(text: &str) -> Endpoint {
    text.parse().expect("ADDRESS:PORT")
}

impl World {
    pub(super) fn new() -> Self {
        World {
            interfaces: Vec::new(),
            frames: BTreeMap::new(),
            now: 1_700_000_000_000_000_000,
            ids: BTreeMap::new(),
            hidden: Vec::new(),
            anonymous: false,
            quirks: BTreeMap::new(),
            flooding: Vec::new(),
            stacked: Vec::new(),
            hints: Hints::default(),
            fleet: crate::host::Fleet::default(),
        }
    }

    /// Adds an interface: `host.name`, its segment, its address.
    pub(super) fn plug(mut self, interface: &str, segment: &str, addr: &str) -> Self {
        let (host, name) = interface.split_once('.').expect("host.interface");
        let number = self.interfaces.len() as u8 + 1;
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, number]);
        self.frames.insert(interface.to_string(), Vec::new());
        self.interfaces.push(Interface { host: host.into(), name: name.into(), segment: segment.into(), mac, addr: ip(addr) });
        self
    }

    /// Adds a tunnel device, `host.name`, on which [`World::unpack`] shows packets.
    pub(super) fn tunnel_device(mut self, device: &str) -> Self {
        self.frames.insert(device.to_string(), Vec::new());
        self.bare(device)
    }

    /// LVS-NAT: client 10.1.0.x, director 10.1.0.1 (the VIP) and 10.2.0.1, real servers 10.2.0.11 and .12.
    pub(super) fn nat() -> Self {
        World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("director.ext", "ext", "10.1.0.1")
            .plug("director.int", "int", "10.2.0.1")
            .plug("web1.eth0", "int", "10.2.0.11")
            .plug("web2.eth0", "int", "10.2.0.12")
    }

    /// LVS-DR behind a router that translates 10.1.0.1 to the VIP 10.2.0.100 of the director; real servers 10.2.0.11 and .12.
    pub(super) fn dr() -> Self {
        World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("router.ext", "ext", "10.1.0.1")
            .plug("router.int", "int", "10.2.0.1")
            .plug("director.eth0", "int", "10.2.0.100")
            .plug("web1.eth0", "int", "10.2.0.11")
            .plug("web2.eth0", "int", "10.2.0.12")
    }

    /// The same hosts over IPv6, routed without translation: VIP 2001:db8:2::100.
    pub(super) fn dr6() -> Self {
        World::new()
            .plug("client.eth0", "ext", "2001:db8:1::100")
            .plug("router.ext", "ext", "2001:db8:1::1")
            .plug("router.int", "int", "2001:db8:2::1")
            .plug("director.eth0", "int", "2001:db8:2::100")
            .plug("web1.eth0", "int", "2001:db8:2::11")
            .plug("web2.eth0", "int", "2001:db8:2::12")
    }

    /// Captures of these hosts or interfaces do not exist.
    pub(super) fn without(mut self, places: &[&str]) -> Self {
        self.hidden.extend(places.iter().map(|p| p.to_string()));
        self
    }

    /// Files called a.pcap, b.pcap …: nothing in their names says where they were taken.
    pub(super) fn unnamed(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// The user gave `--ipvs` with this text.
    pub(super) fn ipvs(mut self, rules: &str) -> Self {
        self.hints.rules = ipvs::parse(rules).expect("rules");
        self
    }

    fn quirk(mut self, interface: &str, change: impl Fn(&mut Quirk)) -> Self {
        assert!(self.frames.contains_key(interface), "{interface}");
        change(self.quirks.entry(interface.to_string()).or_default());
        self
    }

    /// Captured with `-i any`: the frames have no destination MAC.
    pub(super) fn cooked(self, interface: &str) -> Self {
        self.quirk(interface, |q| q.link = Some(LinkType::LINUX_SLL))
    }

    /// A tunnel device: bare IP packets.
    pub(super) fn bare(self, interface: &str) -> Self {
        self.quirk(interface, |q| q.link = Some(LinkType::RAW))
    }

    /// The clock at an interface is ahead.
    pub(super) fn ahead(self, interface: &str, seconds: f64) -> Self {
        self.quirk(interface, |q| q.ahead = (seconds * 1e9) as i64)
    }

    /// The capture at an interface says that it lost packets.
    pub(super) fn lossy(self, interface: &str, packets: u64) -> Self {
        self.quirk(interface, |q| q.lost = packets)
    }

    /// The capture at an interface kept so many bytes of each frame.
    pub(super) fn snapped(self, interface: &str, bytes: usize) -> Self {
        self.quirk(interface, |q| q.snap = Some(bytes))
    }

    /// An interface leaves its checksums to the network card.
    pub(super) fn offloading(self, interface: &str) -> Self {
        self.quirk(interface, |q| q.unfinished = true)
    }

    /// The capture at an interface shows a VLAN tag.
    pub(super) fn tagged(self, interface: &str, vlan: u16) -> Self {
        self.quirk(interface, |q| q.tag = Some(vlan))
    }

    /// A host forwards outside its kernel: its captures show ARP alone.
    pub(super) fn blind(self, host: &str) -> Self {
        let interfaces: Vec<String> = self.frames.keys().filter(|name| name.starts_with(&format!("{host}."))).cloned().collect();
        interfaces.iter().fold(self, |world, interface| world.quirk(interface, |q| q.blind = true))
    }

    /// A device on top of an interface is captured too, and shows the same frames.
    pub(super) fn stacked(mut self, interface: &str, above: &str) -> Self {
        self.frames.insert(above.to_string(), Vec::new());
        self.stacked.push((interface.to_string(), above.to_string(), false));
        self
    }

    /// An interface is one slave of a bond: frames for it arrive by another one.
    pub(super) fn bonded(mut self, interface: &str, other: &str) -> Self {
        self.frames.insert(other.to_string(), Vec::new());
        self.stacked.push((interface.to_string(), other.to_string(), true));
        self
    }

    /// The bridge of a segment knows no MAC: everybody sees everything.
    pub(super) fn flooding(mut self, segment: &str) -> Self {
        self.flooding.push(segment.to_string());
        self
    }

    /// An interface is down: its capture is there, and empty.
    pub(super) fn unplugged(mut self, interface: &str) -> Self {
        self.frames.insert(interface.to_string(), Vec::new());
        self
    }

    /// The captures begin only now.
    pub(super) fn begin_here(&mut self) {
        self.frames.values_mut().for_each(Vec::clear);
    }

    fn interface(&self, host: &str, segment: &str) -> &Interface {
        self.interfaces.iter().find(|i| i.host == host && i.segment == segment).unwrap_or_else(|| panic!("{host} is not on {segment}"))
    }

    /// The link between two hosts: the sender's interface and the receiver's.
    fn link(&self, from: &str, to: &str) -> (&Interface, &Interface) {
        let shared = |i: &&Interface| i.host == from && self.interfaces.iter().any(|j| j.host == to && j.segment == i.segment);
        let sender = self.interfaces.iter().find(shared).unwrap_or_else(|| panic!("{from} and {to} share no segment"));
        (sender, self.interface(to, &sender.segment))
    }

    /// Time passes.
    pub(super) fn wait(&mut self, seconds: f64) {
        self.now += (seconds * 1e9) as i64;
    }

    fn seen(&mut self, interface: String, frame: &[u8]) {
        self.now += 20_000;
        self.frames.get_mut(&interface).expect("an interface").push((self.now, frame.to_vec()));
    }

    /// A frame over one link, seen at both ends.
    fn cross(&mut self, from: &str, to: &str, frame: impl Fn(MacAddr, MacAddr) -> Vec<u8>) {
        let (sender, receiver) = self.link(from, to);
        let bytes = frame(sender.mac, receiver.mac);
        let (a, b) = (format!("{}.{}", sender.host, sender.name), format!("{}.{}", receiver.host, receiver.name));
        let flooded = self.flooding.contains(&sender.segment);
        let segment = self.interfaces.iter().filter(|i| flooded && i.segment == sender.segment);
        let others: Vec<String> = segment.map(|i| format!("{}.{}", i.host, i.name)).filter(|name| *name != a && *name != b).collect();
        let sends_unfinished = self.quirks.get(&a).is_some_and(|q| q.unfinished);
        self.seen(a.clone(), &if sends_unfinished { unfinish(&bytes) } else { bytes.clone() });
        let stacked: Vec<(String, String, bool)> = self.stacked.iter().filter(|(at, ..)| *at == a || *at == b).cloned().collect();
        let instead = stacked.iter().find(|(at, _, bond)| *bond && *at == b).map(|(_, other, _)| other.clone());
        self.seen(instead.unwrap_or(b), &bytes);
        for (_, above, _) in stacked.into_iter().filter(|(.., bond)| !bond) {
            self.seen(above, &bytes);
        }
        for other in others {
            self.seen(other, &bytes);
        }
    }

    /// A broadcast, seen by everybody on the segment.
    fn shout(&mut self, host: &str, segment: &str, frame: &[u8]) {
        let mut others: Vec<String> =
            self.interfaces.iter().filter(|i| i.segment == segment).map(|i| format!("{}.{}", i.host, i.name)).collect();
        others.sort_by_key(|name| !name.starts_with(&format!("{host}.")));
        for place in others {
            self.seen(place, frame);
        }
    }

    /// `host` asks for `target` on `segment`; `answers` are the hosts that say they have it.
    pub(super) fn who_has(&mut self, host: &str, segment: &str, target: &str, answers: &[&str]) {
        let tell = self.interface(host, segment).addr;
        self.who_has_tell(host, segment, target, tell, answers);
    }

    /// The same with another sender address than the interface's.
    pub(super) fn who_has_tell(&mut self, host: &str, segment: &str, target: &str, tell: IpAddr, answers: &[&str]) {
        let (asker, target) = (self.interface(host, segment).mac, ip(target));
        let (IpAddr::V4(tell), IpAddr::V4(target)) = (tell, target) else { panic!("ARP is for IPv4") };
        self.shout(host, segment, &build::arp(MacAddr::BROADCAST, 1, (asker, tell), (MacAddr::ZERO, target), &[]));
        for answer in answers {
            let mac = self.interface(answer, segment).mac;
            self.cross(answer, host, |_, dst| build::arp(dst, 2, (mac, target), (asker, tell), &[]));
        }
    }

    /// `host` answers `asker` that it has `target`, whoever asked and when.
    pub(super) fn has(&mut self, host: &str, segment: &str, target: &str, asker: &str) {
        let (mac, to) = (self.interface(host, segment).mac, self.interface(asker, segment));
        let (IpAddr::V4(target), IpAddr::V4(tell), asks) = (ip(target), to.addr, to.mac) else { panic!("ARP is for IPv4") };
        self.cross(host, asker, |_, dst| build::arp(dst, 2, (mac, target), (asks, tell), &[]));
    }

    /// `asker` asks for addresses of a host that answers by each of its cards on the segment for all of them.
    pub(super) fn interchange(&mut self, host: &str, segment: &str, addrs: &[&str], asker: &str) {
        let cards: Vec<MacAddr> = self.interfaces.iter().filter(|i| i.host == host && i.segment == segment).map(|i| i.mac).collect();
        let (mac, tell) = (self.interface(asker, segment).mac, self.interface(asker, segment).addr);
        for addr in addrs {
            self.who_has(asker, segment, addr, &[]);
            let (IpAddr::V4(tell), IpAddr::V4(addr)) = (tell, ip(addr)) else { panic!("ARP is for IPv4") };
            for card in &cards {
                self.cross(host, asker, |_, _| build::arp(mac, 2, (*card, addr), (mac, tell), &[]));
            }
        }
    }

    /// `host` announces `addr` on `segment`: gratuitous ARP.
    pub(super) fn announce(&mut self, host: &str, segment: &str, addr: &str) {
        let (mac, addr) = (self.interface(host, segment).mac, ip(addr));
        let IpAddr::V4(addr) = addr else { panic!("ARP is for IPv4") };
        self.shout(host, segment, &build::arp(MacAddr::BROADCAST, 1, (mac, addr), (MacAddr::ZERO, addr), &[]));
    }

    /// `host` says by neighbour discovery that it has `addr`; `probe`: it asks whether it may (duplicate address detection).
    pub(super) fn neighbour(&mut self, host: &str, segment: &str, addr: &str, probe: bool) {
        let (mac, addr) = (self.interface(host, segment).mac, ip(addr));
        let IpAddr::V6(target) = addr else { panic!("neighbour discovery is for IPv6") };
        let all: IpAddr = ip("ff02::1");
        let mut body = target.octets().to_vec();
        let (src, type_number, flags) = if probe { (ip("::"), 135, 0) } else { (addr, 136, 0x2000_0000) };
        if !probe {
            body.extend([2, 1]);
            body.extend(mac.0);
        }
        let message = build::icmp(src, all, type_number, 0, flags, &body);
        let packet = build::ip(src, all, 58, build::IpFields { ttl: 255, ..Default::default() }, &message);
        self.shout(host, segment, &build::ethernet(mac, MacAddr([0x33, 0x33, 0, 0, 0, 1]), &[], &packet));
    }

    /// `host` asks for an IPv6 neighbour.
    pub(super) fn solicit(&mut self, host: &str, segment: &str, addr: &str) {
        let (mac, target) = (self.interface(host, segment).mac, ip(addr));
        // Linux asks from its link-local address when it forwards.
        let src = ip(&format!("fe80::5054:ff:fe00:{:x}", mac.0[5]));
        let IpAddr::V6(target) = target else { panic!("neighbour discovery is for IPv6") };
        let [.., a, b, c] = target.octets();
        let group: IpAddr = ip(&format!("ff02::1:ff{a:02x}:{b:02x}{c:02x}"));
        let mut body = target.octets().to_vec();
        body.extend([1, 1]);
        body.extend(mac.0);
        let message = build::icmp(src, group, 135, 0, 0, &body);
        let packet = build::ip(src, group, 58, build::IpFields { ttl: 255, ..Default::default() }, &message);
        self.shout(host, segment, &build::ethernet(mac, MacAddr([0x33, 0x33, 0xff, a, b, c]), &[], &packet));
    }

    /// A VRRP advertisement (version 2) of `host` for one address.
    pub(super) fn vrrp(&mut self, host: &str, segment: &str, vrid: u8, priority: u8, addr: &str) {
        let interface = self.interface(host, segment);
        let (mac, src, IpAddr::V4(backed)) = (interface.mac, interface.addr, ip(addr)) else { panic!("VRRPv2 is for IPv4") };
        let mut message = vec![0x21, vrid, priority, 1, 0, 1, 0, 0];
        message.extend(backed.octets());
        let packet = build::ip(src, ip("224.0.0.18"), 112, build::IpFields { ttl: 255, id: 1, flags: 0x4000 }, &message);
        self.shout(host, segment, &build::ethernet(mac, MacAddr([1, 0, 0x5e, 0, 0, 0x12]), &[], &packet));
    }

    /// A TCP connection from `client` to `service`.
    pub(super) fn tcp(client: &str, service: &str) -> Conn {
        let client = end(client);
        let number = u32::from(client.port).wrapping_mul(0x9e37_79b9);
        Conn { client, service: end(service), udp: false, isn: (number | 1 << 20, number.rotate_left(13) | 1 << 21), work: Vec::new() }
    }

    /// UDP between `client` and `service`.
    pub(super) fn udp(client: &str, service: &str) -> Conn {
        Conn { udp: true, ..World::tcp(client, service) }
    }

    /// Carries one packet along a route of hosts; a reply (`back`) is translated back where the request was translated.
    pub(super) fn carry(&mut self, conn: &Conn, back: bool, flags: u8, payload: &[u8], route: &str) {
        self.carry_from(conn, back, flags, payload, route, 64);
    }

    /// The same with another TTL at the beginning of the route.
    pub(super) fn carry_from(&mut self, conn: &Conn, back: bool, flags: u8, payload: &[u8], route: &str, mut ttl: u8) {
        let hosts: Vec<&str> = route.split_whitespace().collect();
        // Whoever is at the beginning of the route has the addresses that its place on the whole way gives it.
        let mut at = self.view(conn, hosts[0], back);
        let id = self.ids.entry(conn.client.port).or_insert(conn.client.port);
        *id = id.wrapping_add(1);
        let id = if back && flags & SYN != 0 || flags & RST != 0 { 0 } else { *id };
        for pair in hosts.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if from != hosts[0] {
                ttl -= 1;
                at = conn.pass(from, back, at);
            }
            let packet = conn.packet(back, flags, payload, ttl, id, &at);
            self.cross(from, to, |src, dst| build::ethernet(src, dst, &[], &packet));
        }
    }

    /// The last request packet of a connection, unpacked on a tunnel device of its server.
    pub(super) fn unpack(&mut self, conn: &Conn, flags: u8, payload: &[u8], device: &str, ttl: u8) {
        let host = device.split('.').next().unwrap_or_default();
        let (id, at) = (self.ids.get(&conn.client.port).copied().unwrap_or(0), self.view(conn, host, false));
        let packet = conn.packet(false, flags, payload, ttl, id, &at);
        self.seen(device.to_string(), &build::ethernet(MacAddr::ZERO, MacAddr::ZERO, &[], &packet));
    }

    /// The addresses as they stand where a request arrives at `host`, or where a reply leaves it.
    fn view(&self, conn: &Conn, host: &str, back: bool) -> Addresses {
        let (mut src, mut dst) = (conn.client, conn.service);
        let is_client = !back && self.interfaces.iter().any(|i| i.host == host && i.addr == conn.client.addr) || host == "client";
        // A host that translates is met by the packet before its own work; one that does not is behind all of it.
        let up_to = conn.work.iter().position(|(h, _)| h == host).unwrap_or(if is_client { 0 } else { conn.work.len() });
        for (_, work) in &conn.work[..up_to] {
            src = work.src.unwrap_or(src);
            dst = work.dst.unwrap_or(dst);
        }
        if back { (dst, src, None) } else { (src, dst, None) }
    }

    /// The client's SYN and its repetitions after 1, 3, 7 … seconds, all along one route.
    pub(super) fn syn(&mut self, conn: &Conn, route: &str, copies: u32) {
        for copy in 0..copies {
            if copy > 0 {
                self.wait(f64::from(1u32 << (copy - 1)));
            }
            self.carry(conn, false, SYN, b"", route);
        }
    }

    /// Handshake, request and answer of a healthy connection.
    pub(super) fn talk(&mut self, conn: &Conn, there: &str, back: &str) {
        if conn.udp {
            self.carry(conn, false, 0, format!("question {}", conn.client.port).as_bytes(), there);
            self.carry(conn, true, 0, format!("answer {}", conn.client.port).as_bytes(), back);
            return;
        }
        for (reply, flags, payload) in [
            (false, SYN, &b""[..]),
            (true, SYN_ACK, b""),
            (false, ACK, b""),
            (false, PSH, b"GET /"),
            (true, PSH, b"200 OK"),
            (false, FIN, b""),
            (true, FIN, b""),
            (false, ACK, b""),
        ] {
            self.carry(conn, reply, flags, payload, if reply { back } else { there });
        }
    }

    /// An ICMP error from `route`'s first host about the connection's request as that host has it; `mtu` or gateway in `rest`.
    #[expect(clippy::too_many_arguments, reason = "one call, one line of a story")]
    pub(super) fn icmp(
        &mut self,
        conn: &Conn,
        about_reply: bool,
        (type_number, code, rest): (u8, u8, u32),
        src: &str,
        dst: &str,
        quoted_at: &str,
        route: &str,
    ) {
        let at = self.view(conn, quoted_at, about_reply);
        let quoted = conn.packet(about_reply, if conn.udp { 0 } else { SYN }, b"", 62, 7, &at);
        self.icmp_quoting(&quoted, (type_number, code, rest), src, dst, route);
    }

    /// An ICMP error about a request in the tunnel into which `director` puts it.
    pub(super) fn icmp_about_tunnel(&mut self, conn: &Conn, what: (u8, u8, u32), src: &str, dst: &str, director: &str, route: &str) {
        let at = conn.pass(director, false, self.view(conn, director, false));
        let quoted = conn.packet(false, if conn.udp { 0 } else { SYN }, b"", 62, 7, &at);
        self.icmp_quoting(&quoted, what, src, dst, route);
    }

    fn icmp_quoting(&mut self, quoted: &[u8], (type_number, code, rest): (u8, u8, u32), src: &str, dst: &str, route: &str) {
        let (src, dst) = (ip(src), ip(dst));
        let message = build::icmp(src, dst, type_number, code, rest, quoted);
        let protocol = if src.is_ipv4() { 1 } else { 58 };
        let hosts: Vec<&str> = route.split_whitespace().collect();
        for (hop, pair) in hosts.windows(2).enumerate() {
            let packet = build::ip(src, dst, protocol, build::IpFields { ttl: 64 - hop as u8, id: 9, flags: 0 }, &message);
            self.cross(pair[0], pair[1], |a, b| build::ethernet(a, b, &[], &packet));
        }
    }

    /// The trace of everything captured.
    pub(super) fn trace(&self) -> Trace {
        let mut tracer = Tracer::new(Options { hints: self.hints.clone(), ..Options::default() });
        let mut all: Vec<(i64, u32, u64, Vec<u8>, u32)> = Vec::new();
        let mut links: BTreeMap<u32, LinkType> = BTreeMap::new();
        let shown = |name: &str| !self.hidden.iter().any(|h| name == h || name.starts_with(&format!("{h}.")));
        for (file, (name, frames)) in self.frames.iter().filter(|(name, _)| shown(name)).enumerate() {
            let file_name = if self.anonymous { format!("{}.pcap", char::from(b'a' + file as u8)) } else { format!("{name}.pcap") };
            let quirk = self.quirks.get(name).copied().unwrap_or_default();
            let source = Source {
                file,
                file_name,
                given: None,
                interface_name: None,
                one_of_several: false,
                part: false,
                link_type: quirk.link.unwrap_or(LinkType::ETHERNET),
                snap_len: quirk.snap.unwrap_or(0) as u32,
            };
            let point = tracer.point(&source);
            links.insert(point, source.link_type);
            if quirk.lost > 0 {
                tracer.dropped(point, quirk.lost);
            }
            let shown = |bytes: &[u8]| !quirk.blind || bytes.get(12..14) == Some(&[8, 6]);
            all.extend(frames.iter().filter(|(_, bytes)| shown(bytes)).enumerate().map(|(n, (time, bytes))| {
                let whole = captured(bytes, quirk);
                let kept = quirk.snap.unwrap_or(whole.len()).min(whole.len());
                (*time + quirk.ahead, point, n as u64 + 1, whole[..kept].to_vec(), whole.len() as u32)
            }));
        }
        all.sort_by_key(|(time, point, number, ..)| (*time, *point, *number));
        for (time, point, number, bytes, wire_len) in all {
            let link_type = links.get(&point).copied().unwrap_or(LinkType::ETHERNET);
            let frame = Frame { bytes: &bytes, wire_len, link_type, time: Timestamp(time), number, interface: 0, heading: None };
            tracer.observe(point, &frame);
        }
        tracer.finish()
    }

    /// What all rules say.
    pub(super) fn diagnose(&self) -> Diagnosis {
        let trace = self.trace();
        diagnose(&Facts { trace: &trace, hints: &self.hints, fleet: &self.fleet })
    }

    /// The one finding of a rule; panics when there is none, or more than one.
    pub(super) fn finding(&self, rule: &Rule) -> Finding {
        let diagnosis = self.diagnose();
        let mut found: Vec<Finding> = diagnosis.findings.iter().filter(|f| f.code == rule.code).cloned().collect();
        assert_eq!(found.len(), 1, "{}: {:#?}\nall: {:?}\n{}", rule.code, found, summary(&diagnosis), self.story());
        found.remove(0)
    }

    /// Holds a rule to one finding of this confidence about this subject.
    pub(super) fn expect(&self, rule: &Rule, confidence: Confidence, subject: &str) -> Finding {
        let found = self.finding(rule);
        assert_eq!((found.confidence, found.subject.as_str()), (confidence, subject), "{}", found.summary);
        assert!(!found.evidence().is_empty() && !found.summary.is_empty());
        if found.severity >= Severity::Degraded {
            assert!(!found.remedy.is_empty(), "{}: no remedy", rule.code);
        }
        found
    }

    /// Holds a rule to silence.
    pub(super) fn deny(&self, rule: &Rule) {
        let diagnosis = self.diagnose();
        let silent = diagnosis.findings.iter().all(|f| f.code != rule.code);
        assert!(silent, "{} should be silent: {:?}\n{}", rule.code, summary(&diagnosis), self.story());
    }

    /// Holds every rule to silence at or above `degraded`.
    pub(super) fn healthy(&self) {
        let diagnosis = self.diagnose();
        let loud: Vec<&Finding> = diagnosis.findings.iter().filter(|f| f.severity >= Severity::Degraded).collect();
        assert!(loud.is_empty(), "{loud:#?}\n{}", self.story());
    }

    /// What the trace makes of the world, for messages of tests that fail.
    fn story(&self) -> String {
        let trace = self.trace();
        let mut story = String::new();
        for f in &trace.flows {
            let name = |host| trace.host_name(host);
            story += &format!(
                "#{} {} {} > {} vip {:?} rs {:?} {} {} by {} to {}\n",
                f.id,
                f.protocol,
                f.client,
                f.service,
                f.vip,
                f.real_server,
                f.method,
                f.state,
                name(f.director),
                name(f.server_host)
            );
            let ways =
                [("request", &f.request.hops), ("  stray", &f.request.strays), ("reply", &f.reply.hops), ("  stray", &f.reply.strays)];
            for (way, hop) in ways.iter().flat_map(|(way, hops)| hops.iter().map(move |hop| (way, hop))) {
                let point = &trace.points[hop.point as usize].name;
                story += &format!(
                    "  {way:<8}{point:<14} {} > {}  {} > {} ttl {} {:?}\n",
                    name(hop.from),
                    name(hop.to),
                    hop.src,
                    hop.dst,
                    hop.ttl,
                    hop.first
                );
            }
            story += &format!("  notes {:?} errors {}\n", f.notes.iter().map(|n| n.kind).collect::<Vec<_>>(), f.errors.len());
        }
        story
    }

    /// True when a rule could not judge.
    pub(super) fn cannot_judge(&self, rule: &Rule) -> bool {
        self.diagnose().not_judged.iter().any(|(r, _)| *r == rule)
    }
}

/// An Ethernet frame as a capture shows it.
fn captured(frame: &[u8], quirk: Quirk) -> Vec<u8> {
    match quirk.link {
        Some(LinkType::LINUX_SLL) => {
            let mut out = vec![0, 0, 0, 1, 0, 6];
            out.extend(&frame[6..12]);
            out.extend([0, 0]);
            out.extend(&frame[12..]);
            out
        }
        Some(LinkType::RAW) => frame[14..].to_vec(),
        _ => match quirk.tag {
            Some(tag) => [&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat(),
            None => frame.to_vec(),
        },
    }
}

/// An Ethernet frame with a TCP segment over IPv4 whose checksum covers only the pseudo-header, as it is before the network card's work.
fn unfinish(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame.get(12..15) == Some(&[8, 0, 0x45]) && frame[23] == 6 {
        let len = frame.len() as u64 - 34;
        let sum = crate::packet::fold(crate::packet::sum(6 + len, &frame[26..34]));
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn summary(diagnosis: &Diagnosis) -> Vec<String> {
    diagnosis.findings.iter().map(|f| format!("{} {} {} {}", f.code, f.severity, f.confidence, f.subject)).collect()
}

impl Conn {
    /// `host` translates the destination.
    pub(super) fn dnat(mut self, host: &str, dst: &str) -> Self {
        self.work_of(host).dst = Some(end(dst));
        self
    }

    /// `host` translates the source.
    pub(super) fn snat(mut self, host: &str, src: &str) -> Self {
        self.work_of(host).src = Some(end(src));
        self
    }

    /// `host` puts it into a tunnel of this outer protocol.
    pub(super) fn tunnel(mut self, host: &str, protocol: u8, src: &str, dst: &str) -> Self {
        self.work_of(host).tunnel = Some((protocol, ip(src), ip(dst)));
        self
    }

    fn work_of(&mut self, host: &str) -> &mut Work {
        if !self.work.iter().any(|(h, _)| h == host) {
            self.work.push((host.to_string(), Work::default()));
        }
        self.work.iter_mut().find(|(h, _)| h == host).map(|(_, work)| work).expect("just added")
    }

    /// What `host` makes of a packet that passes it.
    fn pass(&self, host: &str, back: bool, at: Addresses) -> Addresses {
        let Some(place) = self.work.iter().position(|(h, _)| h == host) else { return at };
        let (mut src, mut dst) = (self.client, self.service);
        for (_, work) in &self.work[..place] {
            src = work.src.unwrap_or(src);
            dst = work.dst.unwrap_or(dst);
        }
        let work = &self.work[place].1;
        match back {
            false => (work.src.unwrap_or(at.0), work.dst.unwrap_or(at.1), work.tunnel),
            // Undone only if it is the answer to what was done.
            true => (if work.dst == Some(at.0) { dst } else { at.0 }, if work.src == Some(at.1) { src } else { at.1 }, None),
        }
    }

    /// The same connection after the client has sent so many bytes more.
    pub(super) fn later(&self, bytes: u32) -> Self {
        Conn { isn: (self.isn.0.wrapping_add(bytes), self.isn.1), ..self.clone() }
    }

    /// The same connection after the server has sent so many bytes more.
    pub(super) fn answered(&self, bytes: u32) -> Self {
        Conn { isn: (self.isn.0, self.isn.1.wrapping_add(bytes)), ..self.clone() }
    }

    fn packet(&self, back: bool, flags: u8, payload: &[u8], ttl: u8, id: u16, at: &Addresses) -> Vec<u8> {
        let (src, dst, tunnel) = at;
        let (protocol, segment) = match self.udp {
            true => (17, build::udp(*src, *dst, payload)),
            false => {
                let (mine, other) = if back { (self.isn.1, self.isn.0) } else { (self.isn.0, self.isn.1) };
                let first = flags & SYN != 0 || flags == REFUSE;
                let seq = if flags == REFUSE { 0 } else { mine.wrapping_add(u32::from(!first)) };
                let ack = if flags & ACK != 0 { other.wrapping_add(1) } else { 0 };
                let options = if flags & SYN != 0 { build::syn_options(1460, mine ^ 0x5555, 0) } else { Vec::new() };
                (6, build::tcp(*src, *dst, &build::TcpFields { seq, ack, flags: TcpFlags(flags), options: &options }, payload))
            }
        };
        let packet = build::ip(src.addr, dst.addr, protocol, build::IpFields { ttl, id, flags: 0x4000 }, &segment);
        match tunnel {
            None => packet,
            Some((47, a, b)) => {
                let mut gre = vec![0, 0, 8, 0];
                gre.extend(packet);
                build::ip(*a, *b, 47, build::IpFields { ttl, id: 0, flags: 0x4000 }, &gre)
            }
            Some((17, a, b)) => {
                let mut gue = vec![0, 4, 0, 0];
                gue.extend(packet);
                let udp = build::udp(Endpoint::new(*a, 33000), Endpoint::new(*b, 6080), &gue);
                build::ip(*a, *b, 17, build::IpFields { ttl, id: 0, flags: 0x4000 }, &udp)
            }
            Some((protocol, a, b)) => build::ip(*a, *b, *protocol, build::IpFields { ttl, id: 0, flags: 0x4000 }, &packet),
        }
    }
}

/// Every rule is raised by some test of its own file, and every healthy world is quiet.
#[test]
fn healthy_worlds_are_quiet() {
    let mut nat = World::nat();
    nat.who_has("client", "ext", "10.1.0.1", &["director"]);
    for (port, rip) in [(40001, 11), (40002, 12), (40003, 11)] {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("10.2.0.{rip}:80"));
        let web = if rip == 11 { "web1" } else { "web2" };
        nat.who_has("director", "int", &format!("10.2.0.{rip}"), &[web]);
        nat.talk(&c, &format!("client director {web}"), &format!("{web} director client"));
    }
    nat.wait(5.0);
    nat.who_has("client", "ext", "10.1.0.1", &["director"]);
    nat.healthy();
    let mut dr = World::dr();
    dr.who_has("router", "int", "10.2.0.100", &["director"]);
    for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
        dr.who_has("director", "int", rip, &[web]);
        dr.who_has(web, "int", "10.2.0.1", &["router"]);
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        dr.talk(&c, &format!("client router director {web}"), &format!("{web} router client"));
    }
    dr.healthy();
    dr.unnamed().healthy();
    let trace = nat.trace();
    let flow = &trace.flows[0];
    assert_eq!((flow.vip, flow.real_server), (Some(end("10.1.0.1:80")), Some(end("10.2.0.11:80"))));
    assert_eq!(flow.request.hops.len(), 4);
    assert!(ALL.len() > 1);
}
