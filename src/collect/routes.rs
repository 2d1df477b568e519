//! Routes of all tables, and policy rules.

use super::links::{byte, number};
use crate::host::{NextHop, Route, RouteKind, Rule, RuleAction};
use crate::net::{Prefix, Protocol};
use crate::netlink::{Attrs, NetlinkError as Error, Socket};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const GET_ROUTE: u16 = 26;
const GET_RULE: u16 = 34;
const INET: u8 = 2;
const INET6: u8 = 10;
/// A route that the kernel made for its own cache.
const CLONED: u32 = 0x200;
const DEAD: u8 = 0x1;

fn kind(number: u8) -> Option<RouteKind> {
    Some(match number {
        1 => RouteKind::Unicast,
        2 => RouteKind::Local,
        3 => RouteKind::Broadcast,
        4 => RouteKind::Anycast,
        5 => RouteKind::Multicast,
        6 => RouteKind::Blackhole,
        7 => RouteKind::Unreachable,
        8 => RouteKind::Prohibit,
        9 => RouteKind::Throw,
        _ => return None,
    })
}

fn protocol(number: u8) -> String {
    let known = [
        (1, "redirect"),
        (2, "kernel"),
        (3, "boot"),
        (4, "static"),
        (9, "ra"),
        (11, "zebra"),
        (12, "bird"),
        (16, "dhcp"),
        (18, "keepalived"),
        (186, "bgp"),
        (188, "ospf"),
    ];
    known.iter().find(|(n, _)| *n == number).map_or_else(|| number.to_string(), |(_, name)| (*name).to_string())
}

/// A prefix whose address is left out when it has no length.
fn prefix(addr: Option<IpAddr>, len: u8, v6: bool) -> Option<Prefix> {
    let none = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    (len > 0).then(|| Prefix::new(addr.unwrap_or(none), len)).flatten()
}

/// RTA_VIA: a gateway of the other family.
fn via(attrs: Attrs<'_>) -> Option<IpAddr> {
    let value = attrs.get(18)?.get(2..)?;
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
    }
}

pub(super) fn routes(socket: &mut Socket, names: &HashMap<u32, String>) -> Result<Vec<Route>, Error> {
    let mut routes = Vec::new();
    for family in [INET, INET6] {
        let mut header = [0; 12];
        header[0] = family;
        let found = match socket.dump(GET_ROUTE, &header) {
            // A kernel without IPv6.
            Err(e) if family == INET6 && matches!(e.errno, 95 | 97) => Vec::new(),
            other => other?,
        };
        // A kernel without a family answers with another one.
        routes.extend(found.iter().filter(|m| byte(&m.body, 0) == family).filter_map(|m| route(&m.body, names)));
    }
    Ok(routes)
}

fn route(body: &[u8], names: &HashMap<u32, String>) -> Option<Route> {
    let attrs = Attrs::after(body, 12);
    let v6 = match byte(body, 0) {
        INET => false,
        INET6 => true,
        _ => return None,
    };
    let bits = number(body, 8);
    if bits & CLONED != 0 {
        return None;
    }
    let link = |index: u32| names.get(&index).cloned();
    let mut hops = Vec::new();
    if let Some(several) = attrs.get(9) {
        let mut rest = several;
        while rest.len() >= 8 {
            let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
            let inner = Attrs::after(rest.get(..len).unwrap_or_default(), 8);
            hops.push(NextHop { link: link(number(rest, 4)), gateway: inner.addr(5).or_else(|| via(inner)), dead: rest[2] & DEAD != 0 });
            rest = rest.get(len.next_multiple_of(4).max(8)..).unwrap_or_default();
        }
    } else if attrs.u32(4).is_some() || attrs.get(5).is_some() {
        let dead = bits & u32::from(DEAD) != 0;
        hops.push(NextHop { link: attrs.u32(4).and_then(link), gateway: attrs.addr(5).or_else(|| via(attrs)), dead });
    }
    Some(Route {
        table: attrs.u32(15).unwrap_or(u32::from(byte(body, 4))),
        dst: prefix(attrs.addr(1), byte(body, 1), v6),
        v6,
        kind: kind(byte(body, 7))?,
        hops,
        source: attrs.addr(7),
        metric: attrs.u32(6).unwrap_or(0),
        protocol: protocol(byte(body, 5)),
        tos: byte(body, 3),
        scope: match byte(body, 6) {
            0 => "global",
            253 => "link",
            254 => "host",
            _ => "",
        }
        .to_string(),
    })
}

pub(super) fn rules(socket: &mut Socket) -> Result<Vec<Rule>, Error> {
    let mut rules = Vec::new();
    for family in [INET, INET6] {
        let mut header = [0; 12];
        header[0] = family;
        let found = match socket.dump(GET_RULE, &header) {
            Err(e) if family == INET6 && matches!(e.errno, 95 | 97) => Vec::new(),
            other => other?,
        };
        rules.extend(found.iter().filter(|m| byte(&m.body, 0) == family).map(|m| rule(&m.body, family == INET6)));
    }
    Ok(rules)
}

fn rule(body: &[u8], v6: bool) -> Rule {
    const INVERT: u32 = 0x2;
    let attrs = Attrs::after(body, 12);
    let ports =
        |kind: u16| attrs.get(kind).filter(|b| b.len() >= 4).map(|b| (u16::from_ne_bytes([b[0], b[1]]), u16::from_ne_bytes([b[2], b[3]])));
    let mark = attrs.u32(10).map(|mark| (mark, attrs.u32(16).unwrap_or(u32::MAX)));
    let mut unknown = None;
    if attrs.u8(19).is_some_and(|on| on != 0) {
        unknown = Some("l3mdev".to_string());
    } else if attrs.get(20).is_some() {
        unknown = Some("uidrange".to_string());
    } else if attrs.u32(13).is_some_and(|group| group != u32::MAX) {
        unknown = Some("suppress_ifgroup".to_string());
    }
    Rule {
        // Priority 0 is not sent.
        priority: attrs.u32(6).unwrap_or(0),
        v6,
        not: number(body, 8) & INVERT != 0,
        from: prefix(attrs.addr(2), byte(body, 2), v6),
        to: prefix(attrs.addr(1), byte(body, 1), v6),
        iif: attrs.text(3),
        oif: attrs.text(17),
        mark,
        tos: byte(body, 3),
        protocol: attrs.u8(22).map(Protocol::from),
        sport: ports(23),
        dport: ports(24),
        action: match byte(body, 7) {
            1 => RuleAction::Lookup,
            2 => RuleAction::Goto,
            6 => RuleAction::Blackhole,
            7 => RuleAction::Unreachable,
            8 => RuleAction::Prohibit,
            _ => RuleAction::Nop,
        },
        table: attrs.u32(15).unwrap_or(u32::from(byte(body, 4))),
        goto: attrs.u32(4),
        suppress_length: attrs.u32(14).filter(|len| *len != u32::MAX).and_then(|len| u8::try_from(len).ok()),
        unknown,
    }
}
