//! What captures tell when everything is left out that differs from play to play: times, sequence numbers, identifications, ports drawn by
//! lot, and how often something was said again. What remains is who said what to whom, in which order, at which interface.

use lvscope::capture::CaptureFile;
use lvscope::net::MacAddr;
use lvscope::packet::{IcmpKind, Network, Packet, TcpFlags, Transport, dissect};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;

/// By capture point, and there by conversation.
pub type Story = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// Ports from here on are drawn by lot.
const DRAWN: u16 = 20_000;

/// Reads the captures of a play.
pub fn story(captures: &[PathBuf]) -> Story {
    let read = |path: &PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut file = CaptureFile::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (mut talks, mut ports) = (BTreeMap::new(), Ports::default());
        while file.advance() {
            let Some(frame) = file.frame() else { continue };
            let packet = dissect(&frame);
            let Some((key, words)) = told(&packet, &mut ports) else { continue };
            let said: &mut Vec<String> = talks.entry(key).or_default();
            for word in words {
                // What is said again counts once.
                if !said.contains(&word) {
                    said.push(word);
                }
            }
        }
        (name, talks)
    };
    // A capture of nothing tells nothing.
    captures.iter().map(read).filter(|(_, talks)| !talks.is_empty()).collect()
}

/// Ports that were drawn, by what they talk to: the first, the second.
#[derive(Default)]
struct Ports(HashMap<(IpAddr, IpAddr, u16), Vec<u16>>);

impl Ports {
    /// The two ends of a connection in the client's order, its drawn port by its turn, and whether this packet is the client's.
    fn ends(&mut self, src: (IpAddr, u16), dst: (IpAddr, u16)) -> (String, bool) {
        let asks = src.1 >= DRAWN;
        let (client, server) = if asks { (src, dst) } else { (dst, src) };
        let drawn = self.0.entry((client.0, server.0, server.1)).or_default();
        let turn = drawn.iter().position(|port| *port == client.1).unwrap_or_else(|| {
            drawn.push(client.1);
            drawn.len() - 1
        });
        (format!("{} #{turn} > {}:{}", client.0, server.0, server.1), asks)
    }
}

fn told(packet: &Packet<'_>, ports: &mut Ports) -> Option<(String, Vec<String>)> {
    let mac = |mac: Option<MacAddr>| mac.map_or_else(|| "-".to_string(), |mac| mac.to_string());
    let tunnels: Vec<String> = packet.tunnels.iter().map(|t| format!(" in {:?} {:?}", t.kind, t.ends())).collect();
    let link = format!("{} > {}{}{:?}", mac(packet.link.src), mac(packet.link.dst), tunnels.concat(), packet.link.vlans);
    let ip = match &packet.network {
        Network::None => return None,
        Network::Arp(arp) => {
            let (asker, asked) = if arp.operation == 1 { (arp.sender, arp.target) } else { (arp.target, arp.sender) };
            let unasked = if arp.is_gratuitous() { " unasked" } else { "" };
            return Some((format!("ARP {asker} asks for {asked}{unasked}"), vec![format!("{link} {}", arp.operation)]));
        }
        Network::Ip(ip) => ip,
    };
    let line = |what: &str| format!("{link} {} > {} ttl {} {what}", ip.src, ip.dst, ip.ttl);
    match &packet.transport {
        Transport::Tcp(tcp) => {
            let (key, _) = ports.ends((ip.src, tcp.src_port), (ip.dst, tcp.dst_port));
            let kinds = [(TcpFlags::SYN, "SYN"), (TcpFlags::RST, "RST"), (TcpFlags::FIN, "FIN")];
            let mut words: Vec<String> = kinds.iter().filter(|(flag, _)| tcp.flags.has(*flag)).map(|(_, word)| line(word)).collect();
            if packet.payload_len > 0 {
                words.insert(0, line("data"));
            }
            // Who acknowledges how often is an accident.
            Some((format!("TCP {key}"), words))
        }
        Transport::Udp(udp) => {
            let (key, asks) = ports.ends((ip.src, udp.src_port), (ip.dst, udp.dst_port));
            Some((format!("UDP {key}"), vec![line(if asks { "question" } else { "answer" })]))
        }
        Transport::Icmp(icmp) => match icmp.kind {
            IcmpKind::Other => None,
            IcmpKind::Solicitation(n) | IcmpKind::Advertisement(n) => {
                Some((format!("ND {}", n.target), vec![line(&icmp.type_number.to_string())]))
            }
            _ => {
                let about = icmp.quoted.as_ref().and_then(|quoted| quoted.ip().map(|ip| format!("{} > {}", ip.src, ip.dst)));
                let what = format!("{} {} about {}", icmp.type_number, icmp.code, about.unwrap_or_default());
                Some(("ICMP".to_string(), vec![line(&what)]))
            }
        },
        _ => Some((format!("protocol {}", ip.protocol), vec![line("")])),
    }
}

/// What one story has and the other has not.
pub fn difference(a: &Story, b: &Story) -> String {
    let mut out = String::new();
    let points: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for point in points {
        let talks = |story: &Story| story.get(point).cloned().unwrap_or_default();
        let (here, there) = (talks(a), talks(b));
        let keys: std::collections::BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        for key in keys.into_iter().filter(|key| here.get(*key) != there.get(*key)) {
            out += &format!("{point}, {key}:\n  {:#?}\n  {:#?}\n", here.get(key), there.get(key));
        }
    }
    out
}
