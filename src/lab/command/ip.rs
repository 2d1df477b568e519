//! `ip link|addr|route|neigh|rule`, by netlink.

use crate::net::{MacAddr, Prefix};
use crate::netlink::rtnetlink::{Address, AddressSpec, Kind, LinkSpec, NeighbourSpec, Peer, RouteSpec, RuleSpec};
use crate::netlink::{Family, Socket};
use nix::libc;
use std::net::IpAddr;
use std::str::FromStr;

/// Does what the words say, in the calling thread's network namespace.
pub(super) fn run(words: &[&str]) -> Result<(), String> {
    let words = words.strip_prefix(&["-4"]).unwrap_or(words);
    let (v6, words) = words.strip_prefix(&["-6"]).map_or((false, words), |rest| (true, rest));
    let mut socket = Socket::open(Family::Route)?;
    match words {
        ["link", "set", rest @ ..] => link_set(&mut socket, rest),
        ["link", "add", rest @ ..] => link_add(&mut socket, rest),
        ["link", "del" | "delete", rest @ ..] => {
            let name = rest.strip_prefix(&["dev"]).unwrap_or(rest).first().ok_or("which interface?")?;
            let index = socket.link(name)?.index;
            Ok(socket.delete_link(index)?)
        }
        ["addr" | "address" | "a", "flush", "dev", name, scope @ ..] => {
            let index = socket.link(name)?.index;
            let scope = match scope {
                [] => None,
                ["scope", scope] => Some(scope_of(scope)?),
                other => return Err(format!("what is '{}'?", other.join(" "))),
            };
            // With -6 those of IPv6 alone, as ip(8) has it.
            let meant = |a: &&Address| a.index == index && (!v6 || a.prefix.addr().is_ipv6()) && scope.is_none_or(|scope| a.scope == scope);
            for a in socket.addresses()?.iter().filter(meant) {
                // Secondary addresses may have gone with the primary one.
                let _ = socket.delete_address(&AddressSpec { index, prefix: a.prefix, scope: a.scope, nodad: false });
            }
            Ok(())
        }
        ["addr" | "address" | "a", what, rest @ ..] => addr(&mut socket, what, rest),
        // What ICMP redirects and path MTUs have left behind.
        ["route" | "r", "flush", "cache"] => std::fs::write("/proc/sys/net/ipv4/route/flush", "1").map_err(|e| e.to_string()),
        ["route" | "r", "flush", "table", table] => {
            let table: u32 = parse(table, "table")?;
            for old in socket.routes()?.iter().filter(|r| r.table == table) {
                let hop = old.hops.first().copied().unwrap_or_default();
                let index = (hop.index != 0).then_some(hop.index);
                socket.delete_route(&RouteSpec { via: hop.via, index, table, kind: old.kind, ..RouteSpec::to(old.dst) })?;
            }
            Ok(())
        }
        ["route" | "r", what, rest @ ..] => route(&mut socket, what, v6, rest),
        ["neigh" | "neighbour" | "n", what, rest @ ..] => neighbour(&mut socket, what, rest),
        ["rule", what, rest @ ..] => rule(&mut socket, what, v6, rest),
        _ => Err(format!("the lab does not know `ip {}`", words.join(" "))),
    }
}

fn parse<T: FromStr>(word: &str, what: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is no {what}"))
}

/// An address without a length is one address alone.
fn prefix(word: &str) -> Result<Prefix, String> {
    if let Ok(addr) = word.parse::<IpAddr>() {
        let len = if addr.is_ipv4() { 32 } else { 128 };
        return Prefix::new(addr, len).ok_or_else(|| format!("{word} is no prefix"));
    }
    parse(word, "address or prefix")
}

fn link_set(socket: &mut Socket, words: &[&str]) -> Result<(), String> {
    let words = words.strip_prefix(&["dev"]).unwrap_or(words);
    let (name, mut rest) = words.split_first().ok_or("which interface?")?;
    let index = socket.link(name)?.index;
    while let Some((word, more)) = rest.split_first() {
        rest = match (*word, more) {
            ("up" | "down", more) => {
                socket.set_up(index, *word == "up")?;
                more
            }
            ("mtu", [mtu, more @ ..]) => {
                socket.set_link(index, Some(parse(mtu, "MTU")?), None, None)?;
                more
            }
            ("address", [mac, more @ ..]) => {
                socket.set_link(index, None, Some(parse::<MacAddr>(mac, "MAC address")?), None)?;
                more
            }
            ("arp", ["on" | "off", ..]) => return Err("`arp off` is not understood".into()),
            _ => return Err(format!("what is '{word}'?")),
        };
    }
    Ok(())
}

fn link_add(socket: &mut Socket, words: &[&str]) -> Result<(), String> {
    match words {
        ["name", name, "type", kind] | [name, "type", kind] => {
            let kind = match *kind {
                "dummy" => Kind::Dummy,
                "bridge" => Kind::Bridge,
                "ipip" => Kind::Ipip(None),
                other => return Err(format!("the lab makes no {other}")),
            };
            Ok(socket.add_link(&LinkSpec { name, mac: None, kind })?)
        }
        [name, "type", "veth", "peer", "name", peer] => {
            let peer = Peer { name: peer, mac: None, netns: None };
            Ok(socket.add_link(&LinkSpec { name, mac: None, kind: Kind::Veth(peer) })?)
        }
        ["link", lower, "name", name, "type", "vlan", "id", id] => {
            let lower = socket.link(lower)?.index;
            Ok(socket.add_link(&LinkSpec { name, mac: None, kind: Kind::Vlan { lower, id: parse(id, "VLAN number")? } })?)
        }
        _ => Err(format!("the lab does not know `ip link add {}`", words.join(" "))),
    }
}

fn scope_of(name: &str) -> Result<u8, String> {
    match name {
        "host" => Ok(libc::RT_SCOPE_HOST),
        "link" => Ok(libc::RT_SCOPE_LINK),
        "global" => Ok(libc::RT_SCOPE_UNIVERSE),
        other => Err(format!("what scope is '{other}'?")),
    }
}

fn addr(socket: &mut Socket, what: &str, words: &[&str]) -> Result<(), String> {
    let (wanted, mut rest) = words.split_first().ok_or("which address?")?;
    let prefix = prefix(wanted)?;
    let (mut device, mut scope, mut nodad) = (None, None, false);
    while let Some((word, more)) = rest.split_first() {
        rest = match (*word, more) {
            ("dev", [name, more @ ..]) => {
                device = Some(*name);
                more
            }
            ("scope", [name, more @ ..]) => {
                scope = Some(scope_of(name)?);
                more
            }
            ("nodad", more) => {
                nodad = true;
                more
            }
            // The name that ifconfig shows; nothing depends on it.
            ("label", [_, more @ ..]) => more,
            _ => return Err(format!("what is '{word}'?")),
        };
    }
    let index = socket.link(device.ok_or("on which interface?")?)?.index;
    // As iproute2 does it: addresses of 127.0.0.0/8 are the host's own.
    let loopback = matches!(prefix.addr(), IpAddr::V4(a) if a.is_loopback());
    let scope = scope.unwrap_or(if loopback { libc::RT_SCOPE_HOST } else { libc::RT_SCOPE_UNIVERSE });
    let spec = AddressSpec { index, prefix, scope, nodad };
    match what {
        "add" => Ok(socket.add_address(&spec)?),
        "replace" => match socket.add_address(&spec) {
            Err(e) if !e.is(libc::EEXIST) => Err(e.into()),
            _ => Ok(()),
        },
        "del" | "delete" => Ok(socket.delete_address(&spec)?),
        _ => Err(format!("the lab does not know `ip addr {what}`")),
    }
}

fn route(socket: &mut Socket, what: &str, v6: bool, words: &[&str]) -> Result<(), String> {
    let (mut kind, mut words) = (1, words);
    if let Some((word, rest)) = words.split_first()
        && let Some(number) = match *word {
            "unicast" => Some(1),
            "local" => Some(2),
            "blackhole" => Some(6),
            "unreachable" => Some(7),
            "prohibit" => Some(8),
            _ => None,
        }
    {
        (kind, words) = (number, rest);
    }
    let (wanted, mut rest) = words.split_first().ok_or("which route?")?;
    let mut spec = match *wanted {
        "default" => None,
        word => Some(prefix(word)?),
    }
    .map_or_else(|| default_route(v6 || words.iter().any(|w| w.parse::<std::net::Ipv6Addr>().is_ok())), |p| Ok(RouteSpec::to(p)))?;
    spec.kind = kind;
    while let Some((word, more)) = rest.split_first() {
        rest = match (*word, more) {
            ("via", [via, more @ ..]) => {
                spec.via = Some(parse(via, "address")?);
                more
            }
            ("dev", [name, more @ ..]) => {
                spec.index = Some(socket.link(name)?.index);
                more
            }
            ("src", [src, more @ ..]) => {
                spec.prefsrc = Some(parse(src, "address")?);
                more
            }
            ("metric", [metric, more @ ..]) => {
                spec.metric = Some(parse(metric, "metric")?);
                more
            }
            ("table", [table, more @ ..]) => {
                spec.table = match *table {
                    "main" => 254,
                    "local" => 255,
                    number => parse(number, "table")?,
                };
                more
            }
            ("onlink", more) => {
                spec.onlink = true;
                more
            }
            _ => return Err(format!("what is '{word}'?")),
        };
    }
    match what {
        "add" => Ok(socket.add_route(&spec)?),
        "replace" | "change" => {
            for old in
                socket.routes()?.iter().filter(|r| r.table == spec.table && r.dst == spec.dst && r.metric == spec.metric.unwrap_or(0))
            {
                let hop = old.hops.first().copied().unwrap_or_default();
                let index = (hop.index != 0).then_some(hop.index);
                let _ = socket.delete_route(&RouteSpec { via: hop.via, index, prefsrc: None, kind: old.kind, ..spec.clone() });
            }
            Ok(socket.add_route(&spec)?)
        }
        "del" | "delete" => {
            // As ip(8) does it: kind and scope are not compared unless they are given.
            let found = socket.routes()?.into_iter().find(|r| {
                let hop = r.hops.first().copied().unwrap_or_default();
                r.table == spec.table
                    && r.dst == spec.dst
                    && spec.via.is_none_or(|via| hop.via == Some(via))
                    && spec.index.is_none_or(|index| hop.index == index)
                    && spec.metric.is_none_or(|metric| r.metric == metric)
            });
            let old = found.ok_or("No such process (there is no such route)")?;
            let hop = old.hops.first().copied().unwrap_or_default();
            let index = (hop.index != 0).then_some(hop.index);
            let metric = (old.metric != 0).then_some(old.metric);
            Ok(socket.delete_route(&RouteSpec { via: hop.via, index, metric, prefsrc: old.prefsrc, kind: old.kind, ..spec })?)
        }
        _ => Err(format!("the lab does not know `ip route {what}`")),
    }
}

fn default_route(v6: bool) -> Result<RouteSpec, String> {
    parse(if v6 { "::/0" } else { "0.0.0.0/0" }, "prefix").map(RouteSpec::to)
}

fn neighbour(socket: &mut Socket, what: &str, words: &[&str]) -> Result<(), String> {
    match (what, words) {
        ("flush", ["dev", name] | ["all", "dev", name]) => {
            let index = socket.link(name)?.index;
            for n in socket.neighbours()?.iter().filter(|n| n.index == index && n.state != libc::NUD_NOARP) {
                socket.delete_neighbour(index, n.addr)?;
            }
            Ok(())
        }
        ("flush", ["all"] | []) => {
            for n in socket.neighbours()?.iter().filter(|n| n.state != libc::NUD_NOARP && n.state != libc::NUD_PERMANENT) {
                socket.delete_neighbour(n.index, n.addr)?;
            }
            Ok(())
        }
        ("flush", [addr] | ["to", addr] | ["to", addr, "nud", "all"]) => {
            let permanent = words.last() == Some(&"all");
            let addr: IpAddr = parse(addr, "address")?;
            for n in socket.neighbours()?.iter().filter(|n| n.addr == addr && (permanent || n.state != libc::NUD_PERMANENT)) {
                socket.delete_neighbour(n.index, n.addr)?;
            }
            Ok(())
        }
        (
            "add" | "replace",
            [addr, "lladdr", mac, "dev", name, ..]
            | [addr, "dev", name, "lladdr", mac, ..]
            | [addr, "lladdr", mac, "nud", "permanent", "dev", name],
        ) => {
            let index = socket.link(name)?.index;
            Ok(socket.set_neighbour(&NeighbourSpec { index, addr: parse(addr, "address")?, mac: parse(mac, "MAC address")? })?)
        }
        ("add" | "del" | "delete", ["proxy", addr, "dev", name]) => {
            let index = socket.link(name)?.index;
            Ok(socket.proxy_neighbour(index, parse(addr, "address")?, what == "add")?)
        }
        ("del" | "delete", [addr, "dev", name]) => {
            let index = socket.link(name)?.index;
            Ok(socket.delete_neighbour(index, parse(addr, "address")?)?)
        }
        _ => Err(format!("the lab does not know `ip neigh {what} {}`", words.join(" "))),
    }
}

fn rule(socket: &mut Socket, what: &str, v6: bool, words: &[&str]) -> Result<(), String> {
    let mut spec = RuleSpec { v6, priority: 32_765, src: None, dst: None, iif: None, mark: None, table: 254 };
    // A new rule goes in front of those that were added before (net/core/fib_rules.c, fib_default_rule_pref).
    if what == "add" && !words.iter().any(|w| matches!(*w, "pref" | "priority" | "prio")) {
        let first = socket.rules()?.iter().map(|r| r.priority).filter(|p| *p > 0).min();
        spec.priority = first.map_or(spec.priority, |p| p.saturating_sub(1).max(1));
    }
    let mut rest = words;
    while let [word, value, more @ ..] = rest {
        match *word {
            "from" if *value == "all" => {}
            "from" => spec.src = Some(prefix(value)?),
            "to" => spec.dst = Some(prefix(value)?),
            "iif" => spec.iif = Some((*value).to_string()),
            "fwmark" => spec.mark = Some(parse(value, "mark")?),
            "pref" | "priority" | "prio" => spec.priority = parse(value, "priority")?,
            "table" | "lookup" => spec.table = if *value == "main" { 254 } else { parse(value, "table")? },
            other => return Err(format!("what is '{other}'?")),
        }
        rest = more;
    }
    spec.v6 |= spec.src.or(spec.dst).is_some_and(|p| p.addr().is_ipv6());
    match what {
        "add" => Ok(socket.add_rule(&spec)?),
        "del" | "delete" => Ok(socket.delete_rule(&spec)?),
        _ => Err(format!("the lab does not know `ip rule {what}`")),
    }
}
