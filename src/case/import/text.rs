//! What sysctl(8), ss(8), nstat(8), ip-rule(8) and ipvsadm(8) print.

use super::iproute::table_number;
use crate::host::{IpvsTable, Rule, RuleAction, Socket, Sysctls, Timeouts};
use crate::net::{Endpoint, Protocol};
use std::collections::BTreeMap;

/// `net.ipv4.ip_forward = 1`.
pub(super) fn sysctls(text: &str) -> Sysctls {
    let pair = |line: &str| line.split_once('=').map(|(k, v)| (k.trim().to_string(), v.trim().to_string()));
    Sysctls(text.lines().filter_map(pair).filter(|(k, _)| Sysctls::matters(k)).collect())
}

/// `LISTEN 0 64 0.0.0.0:80 0.0.0.0:*`, `*:80`, `[::]:80`, `192.168.1.1%eth0:53`.
pub(super) fn sockets(text: &str, protocol: Protocol) -> Vec<Socket> {
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // The first column is absent with some options.
        let waits = words.first().is_some_and(|w| matches!(*w, "LISTEN" | "UNCONN"));
        let (addr, port) = words.get(if waits { 3 } else { 2 })?.rsplit_once(':')?;
        let (addr, device) = match addr.split_once('%') {
            Some((addr, device)) => (addr, Some(device.trim_end_matches(']').to_string())),
            None => (addr, None),
        };
        let bare = addr.trim_start_matches('[').trim_end_matches(']');
        // A star is a socket of both families.
        let (addr, v6only) = match bare {
            "*" => ("::".parse().ok()?, Some(false)),
            bare => (bare.parse().ok()?, None),
        };
        Some(Socket { protocol, local: Endpoint::new(addr, port.parse().ok()?), v6only, device })
    };
    text.lines().filter_map(socket).collect()
}

/// `IpInReceives 36 0.0`.
pub(super) fn counters(text: &str) -> BTreeMap<String, u64> {
    let counter = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_string(), words.next()?.parse().ok()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(counter).collect()
}

/// `100: from 10.0.0.0/8 lookup uplink`.
pub(super) fn rules(text: &str, v6: bool) -> Vec<Rule> {
    text.lines().filter_map(|line| rule(line, v6)).collect()
}

fn rule(line: &str, v6: bool) -> Option<Rule> {
    let (priority, rest) = line.split_once(':')?;
    let mut rule = Rule { priority: priority.trim().parse().ok()?, v6, action: RuleAction::Nop, ..Rule::default() };
    let mut words = rest.split_whitespace();
    let ports = |text: &str| {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        Some((low.parse().ok()?, high.parse().ok()?))
    };
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    while let Some(word) = words.next() {
        match word {
            "not" => rule.not = true,
            "from" => rule.from = words.next()?.parse().ok(),
            "to" => rule.to = words.next()?.parse().ok(),
            "iif" => rule.iif = words.next().map(str::to_string),
            "oif" => rule.oif = words.next().map(str::to_string),
            "tos" | "dsfield" => rule.tos = number(words.next()?).and_then(|n| u8::try_from(n).ok()).unwrap_or(0),
            "fwmark" => {
                let text = words.next()?;
                let (mark, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
                rule.mark = number(mark).zip(number(mask));
            }
            "ipproto" => rule.protocol = words.next()?.parse().ok(),
            "sport" => rule.sport = ports(words.next()?),
            "dport" => rule.dport = ports(words.next()?),
            "lookup" | "table" => (rule.action, rule.table) = (RuleAction::Lookup, table_number(words.next()?)),
            "goto" => (rule.action, rule.goto) = (RuleAction::Goto, words.next()?.parse().ok()),
            "suppress_prefixlength" => rule.suppress_length = words.next()?.parse().ok(),
            "blackhole" => rule.action = RuleAction::Blackhole,
            "unreachable" => rule.action = RuleAction::Unreachable,
            "prohibit" => rule.action = RuleAction::Prohibit,
            "nop" => rule.action = RuleAction::Nop,
            "proto" | "protocol" => _ = words.next(),
            "[detached]" | "[unresolved]" => {}
            other => {
                rule.unknown = Some(format!("{other} {}", words.next().unwrap_or_default()).trim().to_string());
                rule.action = RuleAction::Lookup;
            }
        }
    }
    Some(rule)
}

/// `Timeout (tcp tcpfin udp): 900 120 300`.
pub(super) fn timeouts(text: &str) -> Option<Timeouts> {
    let mut numbers = text.split_once("):")?.1.split_whitespace().filter_map(|w| w.parse().ok());
    Some(Timeouts { tcp: numbers.next()?, tcp_fin: numbers.next()?, udp: numbers.next()? })
}

/// ActiveConn and InActConn of `ipvsadm -Ln`, put beside the destinations of the table, which is in the same order.
pub(super) fn connections_of(text: &str, table: &mut IpvsTable) {
    let first = text.lines().next().unwrap_or_default();
    table.version = first.split("version ").nth(1).and_then(|v| v.split_whitespace().next()).map(str::to_string);
    table.size = first.split("size=").nth(1).and_then(|s| s.trim_end_matches(')').parse().ok());
    let mut destinations = table.services.iter_mut().flat_map(|s| &mut s.destinations);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["->", address, _, _, active, inactive] = words[..] else { continue };
        let Ok(address) = address.parse::<Endpoint>() else { continue };
        if let Some(destination) = destinations.find(|d| d.address == address) {
            (destination.active, destination.inactive) = (active.parse().ok(), inactive.parse().ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_all_kinds() {
        let text = "0:\tfrom all lookup local\n100:\tfrom 10.0.0.13 fwmark 0x1/0xff iif eth0 ipproto tcp dport 80-90 lookup uplink proto static\n\
            200:\tnot from all to 192.0.2.0/24 unreachable\n300:\tfrom all lookup main suppress_prefixlength 0\n400:\tfrom all uidrange 0-10 lookup 7\n";
        let rules = rules(text, false);
        assert_eq!(rules.len(), 5);
        assert_eq!((rules[0].table, rules[0].from, rules[0].action), (255, None, RuleAction::Lookup));
        assert_eq!((rules[1].mark, rules[1].dport, rules[1].table), (Some((1, 255)), Some((80, 90)), table_number("uplink")));
        assert!(rules[2].not && rules[2].action == RuleAction::Unreachable && rules[3].suppress_length == Some(0));
        assert_eq!(rules[4].unknown.as_deref(), Some("uidrange 0-10"));
    }

    #[test]
    fn sockets_of_all_kinds() {
        let text = "State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\nLISTEN 0 64 0.0.0.0:80 0.0.0.0:*\nLISTEN 0 64 *:443 *:*\n\
            LISTEN 0 64 [::1]:25 [::]:*\nLISTEN 0 64 127.0.0.53%lo:53 0.0.0.0:*\n";
        let found: Vec<String> =
            sockets(text, Protocol::Tcp).iter().map(|s| format!("{} {:?} {:?}", s.local, s.v6only, s.device.as_deref())).collect();
        assert_eq!(found, ["0.0.0.0:80 None None", "[::]:443 Some(false) None", "[::1]:25 None None", "127.0.0.53:53 None Some(\"lo\")"]);
        assert_eq!(timeouts("Timeout (tcp tcpfin udp): 900 120 300").map(|t| t.udp), Some(300));
        assert_eq!(sysctls("net.ipv4.ip_forward = 1\nsysctl: permission denied on key 'x = y'\n").0.len(), 1);
    }
}
