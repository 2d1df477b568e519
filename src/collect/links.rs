//! Links, addresses, neighbours, in the words of a snapshot, and offload features (ethtool netlink).

use crate::host::{Address, Link, Neighbour, Proxied};
use crate::netlink::{Attributes, Attrs, Generic, NetlinkError as Error, Socket};
use std::collections::HashMap;

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
const ETHER: u16 = 1;

fn hardware(number: u16) -> String {
    let known =
        [(ETHER, "ether"), (772, "loopback"), (768, "ipip"), (769, "tunnel6"), (776, "sit"), (778, "gre"), (823, "gre6"), (0xfffe, "none")];
    known.iter().find(|(n, _)| *n == number).map_or_else(|| number.to_string(), |(_, name)| (*name).to_string())
}

/// Names of the bits that are set.
fn named(bits: u32, names: &[(u32, &str)]) -> Vec<String> {
    names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_string()).collect()
}

pub(super) fn links(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let told = socket.links()?;
    let names: HashMap<u32, String> = told.iter().map(|l| (l.index, l.name.clone())).collect();
    let link = |told: crate::netlink::rtnetlink::Link| {
        let mut flags = named(told.flags, &LINK_FLAGS);
        if told.flags & (UP | RUNNING) == UP {
            flags.insert(0, "NO-CARRIER".to_string());
        }
        Link {
            name: told.name,
            index: told.index,
            hardware: hardware(told.hardware),
            kind: told.kind,
            mac: told.mac.filter(|_| told.hardware == ETHER),
            flags,
            mtu: told.mtu,
            master: told.master.and_then(|master| names.get(&master)).cloned(),
            remote: told.tunnel.map(|(_, remote)| remote).filter(|remote| !remote.is_unspecified()),
            features: None,
        }
    };
    Ok(told.into_iter().filter(|l| !l.name.is_empty()).map(link).collect())
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
    let address = |told: crate::netlink::rtnetlink::Address| {
        let first = if told.prefix.addr().is_ipv6() { "temporary" } else { "secondary" };
        Address {
            link: names.get(&told.index).cloned().unwrap_or_default(),
            addr: told.prefix,
            scope: scope(told.scope),
            flags: named(told.flags, &[(0x1, first), (0x2, "nodad"), (0x8, "dadfailed"), (0x20, "deprecated"), (0x40, "tentative")]),
            label: told.label,
        }
    };
    Ok(socket.addresses()?.into_iter().map(address).collect())
}

pub(super) fn neighbours(socket: &mut Socket, names: &HashMap<u32, String>) -> Result<Vec<Neighbour>, Error> {
    let states =
        [(0x1, "INCOMPLETE"), (0x2, "REACHABLE"), (0x4, "STALE"), (0x8, "DELAY"), (0x10, "PROBE"), (0x20, "FAILED"), (0x80, "PERMANENT")];
    let neighbour = |told: crate::netlink::rtnetlink::Neighbour| {
        // Entries of devices that ask nobody are none.
        let (_, state) = states.iter().find(|(bit, _)| told.state & bit != 0)?;
        let link = names.get(&told.index).cloned().unwrap_or_default();
        Some(Neighbour { addr: told.addr, link, mac: told.mac, state: (*state).to_string() })
    };
    Ok(socket.neighbours()?.into_iter().filter_map(neighbour).collect())
}

/// Addresses of others for which it answers: `ip neigh show proxy`.
pub(super) fn proxies(socket: &mut Socket, names: &HashMap<u32, String>) -> Result<Vec<Proxied>, Error> {
    // Without a device it answers on all of them.
    let proxied = |told: crate::netlink::rtnetlink::Neighbour| Proxied { addr: told.addr, link: names.get(&told.index).cloned() };
    Ok(socket.neighbour_proxies()?.into_iter().map(proxied).collect())
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
