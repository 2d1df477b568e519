//! Routes of all tables, and policy rules, in the words of a snapshot.

use crate::host::{NextHop, Route, RouteKind, Rule, RuleAction};
use crate::net::{Prefix, Protocol};
use crate::netlink::{NetlinkError as Error, Socket, rtnetlink};
use std::collections::HashMap;

/// `RTM_F_CLONED`: a route that the kernel made for its own cache.
const CLONED: u32 = 0x200;
/// `RTNH_F_DEAD`.
const DEAD: u8 = 0x1;
/// `FIB_RULE_INVERT`.
const INVERT: u32 = 0x2;

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

pub(super) fn routes(socket: &mut Socket, names: &HashMap<u32, String>) -> Result<Vec<Route>, Error> {
    Ok(socket.routes()?.into_iter().filter(|r| r.flags & CLONED == 0).filter_map(|r| route(r, names)).collect())
}

fn route(told: rtnetlink::Route, names: &HashMap<u32, String>) -> Option<Route> {
    let hop = |hop: &rtnetlink::NextHop| NextHop { link: names.get(&hop.index).cloned(), gateway: hop.via, dead: hop.flags & DEAD != 0 };
    Some(Route {
        table: told.table,
        dst: Some(told.dst).filter(|dst| !dst.is_empty()),
        v6: told.dst.addr().is_ipv6(),
        kind: kind(told.kind)?,
        hops: told.hops.iter().map(hop).collect(),
        source: told.prefsrc,
        metric: told.metric,
        protocol: protocol(told.protocol),
        tos: told.tos,
        scope: match told.scope {
            0 => "global",
            253 => "link",
            254 => "host",
            _ => "",
        }
        .to_string(),
        mtu: told.mtu,
        advmss: told.advmss,
    })
}

pub(super) fn rules(socket: &mut Socket) -> Result<Vec<Rule>, Error> {
    Ok(socket.rules()?.into_iter().map(rule).collect())
}

fn rule(told: rtnetlink::Rule) -> Rule {
    let some = |prefix: Option<Prefix>| prefix.filter(|p| !p.is_empty());
    Rule {
        priority: told.priority,
        v6: told.v6,
        not: told.flags & INVERT != 0,
        from: some(told.src),
        to: some(told.dst),
        iif: told.iif,
        oif: told.oif,
        mark: told.mark,
        tos: told.tos,
        protocol: told.protocol.map(Protocol::from),
        sport: told.sport,
        dport: told.dport,
        action: match told.action {
            1 => RuleAction::Lookup,
            2 => RuleAction::Goto,
            6 => RuleAction::Blackhole,
            7 => RuleAction::Unreachable,
            8 => RuleAction::Prohibit,
            _ => RuleAction::Nop,
        },
        table: told.table,
        goto: told.goto,
        suppress_length: told.suppress.and_then(|len| u8::try_from(len).ok()),
        unknown: told.beyond.map(str::to_string),
    }
}
