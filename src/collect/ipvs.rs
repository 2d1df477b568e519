//! The IPVS table over generic netlink, and its connections, which only /proc has.

use super::proc;
use crate::host::{Counters, Daemon, Destination, IpvsTable, Service, Timeouts};
use crate::ipvs::entries;
use crate::net::{Endpoint, Protocol};
use crate::netlink::{Attributes, Attrs, Generic, NetlinkError as Error};
use std::net::IpAddr;

const GET_SERVICE: u8 = 4;
const GET_DEST: u8 = 8;
const GET_DAEMON: u8 = 11;
const GET_CONFIG: u8 = 13;
const GET_INFO: u8 = 15;
const SERVICE: u16 = 1;
const DEST: u16 = 2;
const DAEMON: u16 = 3;

/// Connections that a snapshot keeps.
const CONNECTIONS: usize = 4096;

/// The table; `None` where IPVS is not loaded.
pub(super) fn table() -> Result<Option<IpvsTable>, Error> {
    let Some(mut ipvs) = Generic::open("IPVS", 1)? else { return Ok(None) };
    let mut table = IpvsTable::default();
    let none = Attributes::new();
    {
        let info = ipvs.ask(GET_INFO, &none)?;
        let attrs = Attrs::after(&info.body, 4);
        table.version = attrs.u32(1).map(|v| format!("{}.{}.{}", v >> 16 & 0xff, v >> 8 & 0xff, v & 0xff));
        table.size = attrs.u32(2);
    }
    {
        let config = ipvs.ask(GET_CONFIG, &none)?;
        let attrs = Attrs::after(&config.body, 4);
        table.timeouts = attrs.u32(4).zip(attrs.u32(5)).zip(attrs.u32(6)).map(|((tcp, tcp_fin), udp)| Timeouts { tcp, tcp_fin, udp });
    }
    for message in ipvs.dump(GET_SERVICE, &none)? {
        let attrs = Attrs::after(&message.body, 4).nested(SERVICE);
        let mut service = service(attrs);
        let found = ipvs.dump(GET_DEST, &none.clone().nested(SERVICE, &key(attrs)))?;
        service.destinations = found.iter().filter_map(|m| destination(Attrs::after(&m.body, 4).nested(DEST), service.v6)).collect();
        table.services.push(service);
    }
    let mut daemons = Vec::new();
    for message in ipvs.dump(GET_DAEMON, &none)? {
        let attrs = Attrs::after(&message.body, 4).nested(DAEMON);
        let state = if attrs.u32(1) == Some(1) { "master" } else { "backup" };
        daemons.push(Daemon { state: state.to_string(), interface: attrs.text(2).unwrap_or_default(), sync_id: attrs.u32(3).unwrap_or(0) });
    }
    table.daemons = Some(daemons);
    if let Ok(text) = proc::read("/proc/thread-self/net/ip_vs_conn") {
        let mut count = 0;
        let mut kept = Vec::new();
        for entry in entries(&text) {
            count += 1;
            if kept.len() < CONNECTIONS {
                kept.push(entry.into());
            }
        }
        (table.connection_count, table.connections) = (Some(count), Some(kept));
    }
    Ok(Some(table))
}

/// The attributes that name a service.
fn key(attrs: Attrs<'_>) -> Attributes {
    let mut body = Attributes::new();
    // Family, protocol, address, port, mark: what the kernel sent of them.
    for kind in 1..=5 {
        if let Some(value) = attrs.get(kind) {
            body = body.bytes(kind, value);
        }
    }
    body
}

/// An address of a union: 16 bytes, of which IPv4 has four.
fn addr(attrs: Attrs<'_>, kind: u16, v6: bool) -> Option<IpAddr> {
    let bytes = attrs.get(kind)?;
    match v6 {
        true => <[u8; 16]>::try_from(bytes.get(..16)?).ok().map(IpAddr::from),
        false => <[u8; 4]>::try_from(bytes.get(..4)?).ok().map(IpAddr::from),
    }
}

fn counters(attrs: Attrs<'_>, short: u16, long: u16) -> Option<Counters> {
    let wide = attrs.nested(long);
    if let Some(connections) = wide.u64(1) {
        let get = |kind| wide.u64(kind).unwrap_or(0);
        return Some(Counters { connections, packets_in: get(2), packets_out: get(3), bytes_in: get(4), bytes_out: get(5) });
    }
    let old = attrs.nested(short);
    let get = |kind| u64::from(old.u32(kind).unwrap_or(0));
    let connections = u64::from(old.u32(1)?);
    Some(Counters {
        connections,
        packets_in: get(2),
        packets_out: get(3),
        bytes_in: old.u64(4).unwrap_or(0),
        bytes_out: old.u64(5).unwrap_or(0),
    })
}

fn service(attrs: Attrs<'_>) -> Service {
    const INET6: u16 = 10;
    const PERSISTENT: u32 = 0x1;
    const ONE_PACKET: u32 = 0x4;
    let v6 = attrs.u16(1) == Some(INET6);
    let fwmark = attrs.u32(5).filter(|mark| *mark != 0);
    let flags = attrs.u32(7).unwrap_or(0);
    let scheduler = attrs.text(6).unwrap_or_default();
    let named = |bit: u32, name: &str| (flags & bit != 0).then(|| name.to_string());
    let (first, second) = match scheduler.as_str() {
        "sh" => ("sh-fallback", "sh-port"),
        "mh" => ("mh-fallback", "mh-port"),
        _ => ("flag-1", "flag-2"),
    };
    let netmask = match v6 {
        true => attrs.u32(9).filter(|len| *len != 128).map(|len| len.to_string()),
        false => {
            attrs.get(9).and_then(|b| <[u8; 4]>::try_from(b.get(..4)?).ok()).filter(|m| *m != [255; 4]).map(|m| IpAddr::from(m).to_string())
        }
    };
    let persistent = flags & PERSISTENT != 0;
    let endpoint = addr(attrs, 3, v6).zip(attrs.be16(4)).map(|(addr, port)| Endpoint::new(addr, port));
    Service {
        protocol: attrs.u16(2).filter(|_| fwmark.is_none()).and_then(|p| u8::try_from(p).ok()).map(Protocol::from),
        address: endpoint.filter(|_| fwmark.is_none()),
        fwmark,
        v6,
        scheduler,
        flags: [named(0x8, first), named(0x10, second), named(0x20, "flag-3")].into_iter().flatten().collect(),
        persistence: attrs.u32(8).filter(|_| persistent),
        netmask: netmask.filter(|_| persistent),
        engine: attrs.text(11).filter(|e| !e.is_empty()),
        one_packet: flags & ONE_PACKET != 0,
        counters: counters(attrs, 10, 12),
        destinations: Vec::new(),
    }
}

fn destination(attrs: Attrs<'_>, service_v6: bool) -> Option<Destination> {
    let v6 = attrs.u16(11).map_or(service_v6, |family| family == 10);
    let method = match attrs.u32(3).unwrap_or(0) & 7 {
        0 => "nat",
        1 => "local",
        2 => "tun",
        _ => "dr",
    };
    let tunnel = match attrs.u8(13) {
        Some(0) => Some("ipip"),
        Some(1) => Some("gue"),
        Some(2) => Some("gre"),
        _ => None,
    };
    Some(Destination {
        address: Endpoint::new(addr(attrs, 1, v6)?, attrs.be16(2).unwrap_or(0)),
        method: method.to_string(),
        weight: attrs.u32(4).unwrap_or(0),
        upper: attrs.u32(5).unwrap_or(0),
        lower: attrs.u32(6).unwrap_or(0),
        tunnel: tunnel.filter(|_| method == "tun").map(str::to_string),
        tunnel_port: attrs.be16(14).filter(|port| *port != 0 && method == "tun"),
        active: attrs.u32(7),
        inactive: attrs.u32(8),
        persistent: attrs.u32(9),
        counters: counters(attrs, 10, 12),
    })
}
