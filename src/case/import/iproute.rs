//! What `ip -j` prints.

use crate::host::{Address, LOCAL, Link, MAIN, Neighbour, NextHop, Proxied, Route, RouteKind};
use crate::net::Prefix;
use serde_json::Value;
use std::net::IpAddr;

fn list(text: &str) -> Result<Vec<Value>, String> {
    match text.trim() {
        // What `ip -j` prints when there is nothing.
        "" => Ok(Vec::new()),
        text => serde_json::from_str(text).map_err(|e| format!("not the JSON of `ip -j`: {e}")),
    }
}

fn word(value: &Value, key: &str) -> Option<String> {
    value[key].as_str().map(str::to_string)
}

fn number<T: TryFrom<u64>>(value: &Value, key: &str) -> Option<T> {
    value[key].as_u64().and_then(|n| T::try_from(n).ok())
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect()
}

/// Devices and their addresses.
pub(super) fn links(text: &str) -> Result<(Vec<Link>, Vec<Address>), String> {
    let (mut links, mut addresses) = (Vec::new(), Vec::new());
    for item in list(text)? {
        let Some(name) = word(&item, "ifname") else { continue };
        let hardware = word(&item, "link_type").unwrap_or_default();
        let info = &item["linkinfo"];
        links.push(Link {
            index: number(&item, "ifindex").unwrap_or(0),
            kind: word(info, "info_kind"),
            mac: word(&item, "address").filter(|_| hardware == "ether").and_then(|mac| mac.parse().ok()),
            flags: words(&item["flags"]),
            mtu: number(&item, "mtu").unwrap_or(0),
            master: word(&item, "master"),
            remote: word(&info["info_data"], "remote").and_then(|a| a.parse().ok()),
            features: None,
            hardware,
            name: name.clone(),
        });
        for address in item["addr_info"].as_array().into_iter().flatten() {
            let len = number(address, "prefixlen");
            let addr = word(address, "local").and_then(|a| a.parse().ok());
            let Some(addr) = addr.zip(len).and_then(|(addr, len)| Prefix::new(addr, len)) else { continue };
            let flags = ["secondary", "tentative", "dadfailed", "deprecated", "nodad", "temporary", "mngtmpaddr"];
            addresses.push(Address {
                link: name.clone(),
                addr,
                scope: word(address, "scope").unwrap_or_default(),
                flags: flags.iter().filter(|f| address[**f].as_bool() == Some(true)).map(|f| f.to_string()).collect(),
                label: word(address, "label"),
            });
        }
    }
    Ok((links, addresses))
}

fn table(value: &Value) -> u32 {
    match value {
        Value::String(name) => table_number(name),
        Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(MAIN),
        _ => MAIN,
    }
}

/// The number of a table by its name or number; names of `rt_tables` that nobody sent become a number of their own.
pub(super) fn table_number(name: &str) -> u32 {
    match name {
        "local" => LOCAL,
        "main" => MAIN,
        "default" => 253,
        "unspec" | "all" => 0,
        // FNV: the same name is the same table in routes and rules.
        other => other
            .parse()
            .unwrap_or_else(|_| other.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193)) | 1 << 31),
    }
}

fn kind(word: Option<&str>) -> RouteKind {
    match word {
        Some("local") => RouteKind::Local,
        Some("broadcast") => RouteKind::Broadcast,
        Some("anycast") => RouteKind::Anycast,
        Some("multicast") => RouteKind::Multicast,
        Some("blackhole") => RouteKind::Blackhole,
        Some("unreachable") => RouteKind::Unreachable,
        Some("prohibit") => RouteKind::Prohibit,
        Some("throw") => RouteKind::Throw,
        _ => RouteKind::Unicast,
    }
}

fn hop(value: &Value) -> NextHop {
    let gateway = word(value, "gateway").or_else(|| word(&value["via"], "host"));
    let flags = words(&value["flags"]);
    NextHop { link: word(value, "dev"), gateway: gateway.and_then(|a| a.parse().ok()), dead: flags.iter().any(|f| f == "dead") }
}

/// Routes. Those of IPv6 are told by their addresses, and where there is none (a default route without gateway) by their metric: IPv6
/// has always one.
pub(super) fn routes(text: &str) -> Result<Vec<Route>, String> {
    let mut routes = Vec::new();
    for item in list(text)? {
        let dst = word(&item, "dst").unwrap_or_default();
        let prefix = if dst == "default" { None } else { dst.parse::<Prefix>().ok() };
        if prefix.is_none() && dst != "default" {
            continue;
        }
        let hops = match item["nexthops"].as_array() {
            Some(hops) => hops.iter().map(hop).collect(),
            None if item["dev"].is_string() || item["gateway"].is_string() => vec![hop(&item)],
            None => Vec::new(),
        };
        let source = word(&item, "prefsrc").and_then(|a| a.parse::<IpAddr>().ok());
        let told = prefix.map(|p| p.addr()).or(hops.iter().find_map(|h: &NextHop| h.gateway)).or(source);
        routes.push(Route {
            table: table(&item["table"]),
            dst: prefix,
            v6: told.map_or_else(|| item["pref"].is_string(), |a| a.is_ipv6()),
            kind: kind(item["type"].as_str()),
            hops,
            source,
            metric: number(&item, "metric").unwrap_or(0),
            protocol: word(&item, "protocol").unwrap_or_else(|| "boot".to_string()),
            tos: word(&item, "tos").and_then(|t| u8::from_str_radix(t.trim_start_matches("0x"), 16).ok()).unwrap_or(0),
            scope: word(&item, "scope").unwrap_or_default(),
            mtu: item["metrics"].as_array().into_iter().flatten().find_map(|metrics| number(metrics, "mtu")),
            advmss: item["metrics"].as_array().into_iter().flatten().find_map(|metrics| number(metrics, "advmss")),
        });
    }
    Ok(routes)
}

/// Neighbours.
pub(super) fn neighbours(text: &str) -> Result<Vec<Neighbour>, String> {
    let neighbour = |item: &Value| {
        Some(Neighbour {
            addr: word(item, "dst")?.parse().ok()?,
            link: word(item, "dev").unwrap_or_default(),
            mac: word(item, "lladdr").and_then(|mac| mac.parse().ok()),
            state: words(&item["state"]).first().cloned().unwrap_or_default(),
        })
    };
    // Of `ip neigh show proxy` each has a `"proxy": null`.
    Ok(list(text)?.iter().filter(|item| item.get("proxy").is_none()).filter_map(neighbour).collect())
}

/// Addresses of others for which it answers.
pub(super) fn proxies(text: &str) -> Result<Vec<Proxied>, String> {
    let proxied = |item: Value| Some(Proxied { addr: word(&item, "dst")?.parse().ok()?, link: word(&item, "dev") });
    Ok(list(text)?.into_iter().filter_map(proxied).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ip_prints() {
        let text = r#"[{"dst":"default","gateway":"192.168.224.10","dev":"eth0","flags":[]},
            {"type":"local","dst":"192.168.224.13","dev":"lo","table":"local","protocol":"kernel","scope":"host","prefsrc":"192.168.224.13","flags":[]},
            {"dst":"default","protocol":"static","metric":5,"flags":[],"nexthops":[{"gateway":"10.0.0.1","dev":"a","flags":["dead"]},{"via":{"family":"inet6","host":"fe80::1"},"dev":"b","flags":[]}]},
            {"type":"unreachable","dst":"default","table":"7","metric":4294967295,"flags":[],"pref":"medium"},
            {"dst":"nonsense"},
            {"dst":"10.9.0.0/16","gateway":"10.0.0.1","dev":"a","flags":[],"metrics":[{"mtu":1400,"advmss":1360}]}]"#;
        let routes = routes(text).unwrap();
        assert_eq!(routes.len(), 5);
        assert_eq!((routes[4].mtu, routes[4].advmss, routes[0].mtu), (Some(1400), Some(1360), None));
        assert_eq!((routes[0].table, routes[1].table, routes[3].table), (MAIN, LOCAL, 7));
        assert_eq!((routes[1].kind, routes[1].length()), (RouteKind::Local, 32));
        assert_eq!((routes[2].hops[0].dead, routes[2].hops[1].gateway), (true, "fe80::1".parse().ok()));
        assert!(routes[3].v6 && !routes[0].v6 && routes[3].kind == RouteKind::Unreachable);
        assert!(super::routes("[{").is_err() && super::routes("").unwrap().is_empty() && links("{}").is_err());
        let proxies = proxies(r#"[{"dst":"2001:db8::9","dev":"eth0","proxy":null},{"dst":"10.0.0.9","proxy":null}]"#).unwrap();
        assert_eq!((proxies[0].link.as_deref(), proxies[1].is_at("eth7"), proxies.len()), (Some("eth0"), true, 2));
        assert!(neighbours(r#"[{"dst":"2001:db8::9","dev":"eth0","proxy":null}]"#).unwrap().is_empty());
        assert_eq!(table_number("uplink"), table_number("uplink"));
    }
}
