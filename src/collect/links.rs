//! Links, addresses, neighbours (rtnetlink), and offload features (ethtool netlink).

use crate::host::{Address, Link, Neighbour};
use crate::net::{MacAddr, Prefix};
use crate::netlink::{Attributes, Attrs, Generic, NetlinkError as Error, Socket};
use std::collections::HashMap;

const GET_LINK: u16 = 18;
const GET_ADDR: u16 = 22;
const GET_NEIGH: u16 = 30;

/// Flags of a device, in the order of ip(8).
const LINK_FLAGS: [(u32, &str); 8] = [
    (0x8, "LOOPBACK"),
    (0x2, "BROADCAST"),
    (0x10, "POINTOPOINT"),
    (0x1000, "MULTICAST"),
    (0x80, "NOARP"),
    (0x100, "PROMISC"),
    (0x1, "UP"),
    (0x1_0000, "LOWER_UP"),
];
const UP: u32 = 0x1;
const RUNNING: u32 = 0x40;

fn hardware(number: u16) -> String {
    let known =
        [(1, "ether"), (772, "loopback"), (768, "ipip"), (769, "tunnel6"), (776, "sit"), (778, "gre"), (823, "gre6"), (0xfffe, "none")];
    known.iter().find(|(n, _)| *n == number).map_or_else(|| number.to_string(), |(_, name)| (*name).to_string())
}

pub(super) fn number(body: &[u8], at: usize) -> u32 {
    body.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn half(body: &[u8], at: usize) -> u16 {
    body.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

pub(super) fn byte(body: &[u8], at: usize) -> u8 {
    body.get(at).copied().unwrap_or(0)
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}

pub(super) fn links(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let messages = socket.dump(GET_LINK, &[0; 16])?;
    let mut masters: HashMap<u32, u32> = HashMap::new();
    let mut links: Vec<Link> = Vec::new();
    for message in messages {
        let (body, attrs) = (message.body.as_slice(), Attrs::after(&message.body, 16));
        let Some(name) = attrs.text(3) else { continue };
        let (kind, index, bits) = (half(body, 2), number(body, 4), number(body, 8));
        let mut flags: Vec<String> = LINK_FLAGS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_string()).collect();
        if bits & (UP | RUNNING) == UP {
            flags.insert(0, "NO-CARRIER".to_string());
        }
        if let Some(master) = attrs.u32(10) {
            masters.insert(index, master);
        }
        let info = attrs.nested(18);
        let tunnel = matches!(kind, 768 | 769 | 776 | 778 | 823);
        links.push(Link {
            name,
            index,
            hardware: hardware(kind),
            kind: info.text(1),
            mac: attrs.get(1).filter(|_| kind == 1).and_then(mac),
            flags,
            mtu: attrs.u32(4).unwrap_or(0),
            master: None,
            // IFLA_IPTUN_REMOTE; GRE has its own numbers.
            remote: info.nested(2).addr(if kind == 778 { 7 } else { 3 }).filter(|a| tunnel && !a.is_unspecified()),
            features: None,
        });
    }
    let names: HashMap<u32, String> = links.iter().map(|l| (l.index, l.name.clone())).collect();
    for link in &mut links {
        link.master = masters.get(&link.index).and_then(|m| names.get(m)).cloned();
    }
    Ok(links)
}

fn scope(number: u8) -> String {
    match number {
        0 => "global".to_string(),
        200 => "site".to_string(),
        253 => "link".to_string(),
        254 => "host".to_string(),
        other => other.to_string(),
    }
}

pub(super) fn addresses(socket: &mut Socket, names: &HashMap<u32, String>) -> Result<Vec<Address>, Error> {
    let mut addresses = Vec::new();
    for message in socket.dump(GET_ADDR, &[0; 8])? {
        let (body, attrs) = (message.body.as_slice(), Attrs::after(&message.body, 8));
        // Of a point-to-point link IFA_ADDRESS is the other end.
        let Some(addr) = attrs.addr(2).or_else(|| attrs.addr(1)) else { continue };
        let Some(addr) = Prefix::new(addr, byte(body, 1)) else { continue };
        let bits = attrs.u32(8).unwrap_or(u32::from(byte(body, 2)));
        let v6 = addr.addr().is_ipv6();
        let known = [
            (0x1, if v6 { "temporary" } else { "secondary" }),
            (0x2, "nodad"),
            (0x8, "dadfailed"),
            (0x20, "deprecated"),
            (0x40, "tentative"),
        ];
        addresses.push(Address {
            link: names.get(&number(body, 4)).cloned().unwrap_or_default(),
            addr,
            scope: scope(byte(body, 3)),
            flags: known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_string()).collect(),
            label: attrs.text(3),
        });
    }
    Ok(addresses)
}

pub(super) fn neighbours(socket: &mut Socket, names: &HashMap<u32, String>) -> Result<Vec<Neighbour>, Error> {
    let states =
        [(0x1, "INCOMPLETE"), (0x2, "REACHABLE"), (0x4, "STALE"), (0x8, "DELAY"), (0x10, "PROBE"), (0x20, "FAILED"), (0x80, "PERMANENT")];
    let mut neighbours = Vec::new();
    for message in socket.dump(GET_NEIGH, &[0; 12])? {
        let (body, attrs) = (message.body.as_slice(), Attrs::after(&message.body, 12));
        let bits = u32::from(half(body, 8));
        // IPv4 and IPv6 alone; entries of devices that ask nobody are none.
        let state = states.iter().find(|(bit, _)| bits & bit != 0);
        let (Some(addr), Some((_, state)), true) = (attrs.addr(1), state, matches!(byte(body, 0), 2 | 10)) else { continue };
        let link = names.get(&number(body, 4)).cloned().unwrap_or_default();
        neighbours.push(Neighbour { addr, link, mac: attrs.get(2).and_then(mac), state: (*state).to_string() });
    }
    Ok(neighbours)
}

/// Offload features that are on. Old kernels do not know ethtool netlink, and some devices do not tell.
pub(super) fn features(links: &mut [Link]) -> Result<(), String> {
    const FEATURES_GET: u8 = 11;
    const ACTIVE: u16 = 4;
    let Some(mut ethtool) = Generic::open("ethtool", 1).map_err(|e| e.to_string())? else {
        return Err("this kernel has no ethtool netlink (since 5.6)".to_string());
    };
    let body = Attributes::new().nested(1, &Attributes::new());
    for message in ethtool.dump(FEATURES_GET, &body).map_err(|e| e.to_string())? {
        let attrs = Attrs::after(&message.body, 4);
        let Some(index) = attrs.nested(1).u32(1) else { continue };
        let Some(link) = links.iter_mut().find(|l| l.index == index) else { continue };
        let bits = attrs.nested(ACTIVE);
        // Without a mask only bits that are set are listed.
        let no_mask = bits.get(1).is_some();
        let on = bits.nested(3).iter().map(|(_, bit)| Attrs::after(bit, 0)).filter(|bit| no_mask || bit.get(3).is_some());
        link.features = Some(on.filter_map(|bit| bit.text(2)).collect());
    }
    Ok(())
}
