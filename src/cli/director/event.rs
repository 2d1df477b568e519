//! The events of `director simulate`, as JSON objects: read, filled in, and written in the order in which people read them.

use crate::director::Settings;
use crate::ipvs::{Command, ForwardingMethod, parse_command};
use crate::net::{Endpoint, Prefix, Protocol};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::net::IpAddr;

pub(super) type Event = Map<String, Value>;

/// Keys in reading order; others follow by name.
const ORDER: [&str; 31] = [
    "seq",
    "event",
    "time",
    "scheduler",
    "variant",
    "mode",
    "kernel",
    "service",
    "service_flags",
    "virtual",
    "name",
    "servers",
    "clients",
    "commands",
    "note",
    "conn",
    "protocol",
    "mark",
    "client",
    "vip",
    "rip",
    "server",
    "error",
    "weight",
    "added",
    "cmd",
    "why",
    "w",
    "act",
    "inact",
    "before",
];

/// Commands of ipvsadm(8) that change rules, and those that change nothing here.
const CHANGES: [&str; 14] = [
    "-A",
    "-E",
    "-D",
    "-a",
    "-e",
    "-d",
    "-C",
    "--add-service",
    "--edit-service",
    "--delete-service",
    "--add-server",
    "--edit-server",
    "--delete-server",
    "--clear",
];
const LISTS: [&str; 10] = ["-L", "-l", "-ln", "-Ln", "-Z", "-S", "-Sn", "--list", "--zero", "--save"];

/// One line of JSON.
pub(super) fn to_line(event: &Event) -> String {
    let mut out = String::new();
    object(event, &mut out);
    out
}

fn object(map: &Event, out: &mut String) {
    let mut keys: Vec<(&String, &Value)> = map.iter().collect();
    keys.sort_by_key(|(key, _)| (ORDER.iter().position(|known| known == key).unwrap_or(ORDER.len()), key.as_str()));
    out.push('{');
    for (at, (key, value)) in keys.into_iter().enumerate() {
        let _ = write!(out, "{}{}: ", if at == 0 { "" } else { ", " }, Value::from(key.as_str()));
        any(value, out);
    }
    out.push('}');
}

fn any(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => object(map, out),
        Value::Array(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                any(value, out);
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

pub(super) fn text<'e>(event: &'e Event, key: &str) -> Option<&'e str> {
    event.get(key).and_then(Value::as_str)
}

/// A value that has to be there, read from its text.
pub(super) fn required<T: std::str::FromStr<Err: ToString>>(event: &Event, key: &str) -> Result<T, String> {
    let word = text(event, key).ok_or_else(|| format!("'{key}' is missing"))?;
    word.parse().map_err(|e: T::Err| e.to_string())
}

/// The rules of a `config` event: its commands, or what its other keys amount to.
pub(super) fn commands(config: &Event, settings: &mut Settings) -> Result<(Vec<Command>, Vec<Mark>), String> {
    let (mut commands, mut marks) = (Vec::new(), Vec::new());
    for line in config.get("commands").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let ipvsadm = first == "ipvsadm" || first.ends_with("/ipvsadm");
        let option = if ipvsadm { words.next().unwrap_or_default() } else { first };
        if CHANGES.contains(&option) {
            commands.extend(parse_command(line).map_err(|e| format!("'{line}', column {}: {}", e.column, e.what))?);
        } else if option == "--set" {
            for (timeout, seconds) in settings.timeouts.iter_mut().zip(words) {
                // As with ipvsadm, 0 keeps what is there.
                *timeout = seconds.parse().ok().filter(|n| *n > 0).unwrap_or(*timeout);
            }
        } else if ipvsadm && !LISTS.contains(&option) {
            return Err(format!("'{line}': unknown option {option}"));
        } else if let Some(at) = line.find("net.ipv4.vs.") {
            settings.set(line[at..].split_whitespace().next().unwrap_or_default())?;
        } else {
            marks.extend(Mark::from_iptables(line));
        }
    }
    if !commands.iter().any(|c| matches!(c, Command::AddService(_))) {
        let service = text(config, "service").ok_or("neither 'commands' nor a 'service' is there")?;
        let scheduler = text(config, "scheduler").unwrap_or("wlc");
        let mut lines = vec![format!("-A {service} -s {scheduler} {}", text(config, "service_flags").unwrap_or_default())];
        let mut servers: Vec<&Event> =
            config.get("servers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object).collect();
        servers.sort_by_key(|s| s.get("added").and_then(Value::as_u64).unwrap_or(u64::MAX));
        for server in servers {
            lines.push(server_rule("-a", service, config, server)?);
        }
        for line in lines {
            commands.extend(parse_command(&line).map_err(|e| format!("'{line}', column {}: {}", e.column, e.what))?);
        }
    }
    Ok((commands, marks))
}

/// `-a SERVICE -r RIP METHOD -w WEIGHT` of an object with `rip` and perhaps `weight`, `upper` and `lower`.
pub(super) fn server_rule(option: &str, service: &str, config: &Event, server: &Event) -> Result<String, String> {
    let rip = text(server, "rip").ok_or("a server without 'rip'")?;
    let method = match text(config, "mode") {
        Some("dr") => ForwardingMethod::DirectRouting,
        Some("tun") => ForwardingMethod::Tunnel,
        _ => ForwardingMethod::Nat,
    };
    let number = |key: &str| server.get(key).and_then(Value::as_u64);
    let mut line = format!("{option} {service} -r {rip} {} -w {}", method.option(), number("weight").unwrap_or(1));
    if let Some(upper) = number("upper") {
        line += &format!(" -x {upper} -y {}", number("lower").unwrap_or(0));
    }
    Ok(line)
}

/// Which packets a firewall marks.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    dst: Option<Prefix>,
    port: Option<u16>,
    protocol: Option<Protocol>,
    mark: u32,
}

impl Mark {
    /// Of a command such as `iptables -t mangle -A PREROUTING -d 192.168.2.0/24 -p tcp --dport 80 -j MARK --set-mark 1`.
    fn from_iptables(line: &str) -> Option<Mark> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |names: &[&str]| words.windows(2).find(|pair| names.contains(&pair[0])).map(|pair| pair[1]);
        let number = |text: &str| match text.split('/').next()?.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.split('/').next()?.parse().ok(),
        };
        Some(Mark {
            mark: number(after(&["--set-mark", "--set-xmark"])?)?,
            dst: after(&["-d", "--destination"]).and_then(|d| d.parse().ok()),
            port: after(&["--dport", "--destination-port"]).and_then(|p| p.parse().ok()),
            protocol: match after(&["-p", "--protocol"]) {
                Some("tcp") => Some(Protocol::Tcp),
                Some("udp") => Some(Protocol::Udp),
                Some("sctp") => Some(Protocol::Sctp),
                _ => None,
            },
        })
    }

    /// The mark of a packet to `dst`.
    pub(super) fn of(marks: &[Mark], protocol: Protocol, dst: Endpoint) -> Option<u32> {
        let matches = |m: &&Mark| {
            m.dst.is_none_or(|prefix| prefix.contains(dst.addr))
                && m.port.is_none_or(|port| port == dst.port)
                && m.protocol.is_none_or(|p| p == protocol)
        };
        // The last rule that matches has the last word.
        marks.iter().rev().find(matches).map(|m| m.mark)
    }
}

/// `192.168.224.11`, or with its port where the client's is not kept.
pub(super) fn server_name(rip: &str) -> Option<(IpAddr, Option<u16>)> {
    match rip.parse::<Endpoint>() {
        Ok(endpoint) => Some((endpoint.addr, Some(endpoint.port))),
        Err(_) => rip.trim_start_matches('[').trim_end_matches(']').parse().ok().map(|addr| (addr, None)),
    }
}
