//! Remedies that several rules share.

use crate::finding::Remedy;
use crate::host::{Host, MAIN};
use std::net::IpAddr;

/// `ip`, or `ip -6` for an address of that family.
pub(super) fn ip_for(addr: &str) -> &'static str {
    if addr.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()) { "ip -6" } else { "ip" }
}

/// The file in which a host keeps settings.
const SYSCTL_FILE: &str = "/etc/sysctl.d/90-lvs.conf";

/// How a host keeps a default route, in the words of what configures its network.
pub(super) fn keep_route(host: &Host, gateway: &str, device: &str) -> String {
    let saved = host.saved.as_ref().map(|s| s.network.as_slice()).unwrap_or_default();
    let own = saved.iter().find(|n| n.device.as_deref() == Some(device)).or(saved.first());
    match own {
        Some(n) => match n.system.as_str() {
            "ifcfg" => format!("GATEWAY={gateway} in {}", n.file),
            "netplan" => format!("`routes: [{{to: default, via: {gateway}}}]` under {device} in {}, then `netplan apply`", n.file),
            "networkd" => format!("Gateway={gateway} in section [Network] of {}", n.file),
            "networkmanager" => {
                let family = if gateway.contains(':') { "ipv6" } else { "ipv4" };
                let name = n.file.rsplit('/').next().unwrap_or_default().trim_end_matches(".nmconnection");
                format!("nmcli connection modify '{name}' {family}.gateway {gateway}")
            }
            "ifupdown" => format!("`gateway {gateway}` under `iface {device}` in {}", n.file),
            _ => format!("GATEWAY={gateway} {KEEP_ROUTE}"),
        },
        None => format!("GATEWAY={gateway} {KEEP_ROUTE}"),
    }
}

/// How a host keeps an address on lo.
pub(super) fn keep_on_lo(host: &Host, vip: &str) -> String {
    let length = if vip.contains(':') { 128 } else { 32 };
    match host.saved.as_ref().and_then(|s| s.network_system()) {
        Some("ifcfg") => {
            format!("DEVICE=lo:0 IPADDR={vip} NETMASK=255.255.255.255 ONBOOT=yes in /etc/sysconfig/network-scripts/ifcfg-lo:0")
        }
        Some("netplan") => format!("`lo: {{addresses: [{vip}/{length}]}}` under ethernets in /etc/netplan, then `netplan apply`"),
        Some("networkd") => format!("[Match] Name=lo, [Network] Address={vip}/{length} in /etc/systemd/network/lo.network"),
        Some("networkmanager") => format!("nmcli connection add type loopback ifname lo ip4 {vip}/{length}"),
        Some("ifupdown") => format!("`up ip addr add {vip}/{length} dev lo` under `iface lo` in /etc/network/interfaces"),
        _ => vip_on_lo("", vip).permanent,
    }
}

/// A default route through `gateway` on a host of which there is a snapshot, in place of what it has now.
pub(super) fn route_through(host: &Host, gateway: &str, device: &str) -> Remedy {
    let ip = ip_for(gateway);
    let v6 = gateway.contains(':');
    let now = host.routes.iter().flatten().find(|r| r.table == MAIN && r.v6 == v6 && r.is_default());
    let undo = match now.and_then(|r| r.hops.first()) {
        None => format!("{ip} route del default via {gateway}"),
        Some(hop) => {
            let via = hop.gateway.map_or_else(String::new, |g| format!(" via {g}"));
            let dev = hop.link.as_ref().map_or_else(String::new, |l| format!(" dev {l}"));
            format!("{ip} route replace default{via}{dev}")
        }
    };
    let verb = if now.is_some() { "replace" } else { "add" };
    Remedy::new(&host.name, format!("{ip} route {verb} default via {gateway}"), keep_route(host, gateway, device), undo)
}

/// Settings of a host, with what they are now for the way back.
pub(super) fn set(host: &Host, settings: &[(String, &str)]) -> Remedy {
    let is = |key: &str| host.sysctls.as_ref().and_then(|s| s.get(key)).unwrap_or("0").to_string();
    let wanted: Vec<&(String, &str)> = settings.iter().filter(|(key, value)| is(key) != *value).collect();
    let line =
        |value: &dyn Fn(&str, &str) -> String| wanted.iter().map(|(k, v)| format!("{k}={}", value(k, v))).collect::<Vec<_>>().join(" ");
    // A file that sets one of them already would win, or be the better place.
    let file = wanted.iter().find_map(|(k, _)| host.saved.as_ref()?.sysctls.get(k)).map_or(SYSCTL_FILE, |s| s.file.as_str());
    Remedy::new(
        &host.name,
        format!("sysctl -w {}", line(&|_, v| v.to_string())),
        format!("the same settings in {file}"),
        format!("sysctl -w {}", line(&|k, _| is(k))),
    )
}

const KEEP_ROUTE: &str = "in the interface's ifcfg file, or the same in netplan, networkd or NetworkManager";

/// A default route through `gateway` where there is none.
pub(super) fn add_default_route(host: &str, gateway: &str) -> Remedy {
    let ip = ip_for(gateway);
    let (now, undo) = (format!("{ip} route add default via {gateway}"), format!("{ip} route del default via {gateway}"));
    Remedy::new(host, now, format!("GATEWAY={gateway} {KEEP_ROUTE}"), undo)
}

/// A default route through `gateway` instead of another.
pub(super) fn replace_default_route(host: &str, gateway: &str, before: &str) -> Remedy {
    let ip = ip_for(gateway);
    let (now, undo) = (format!("{ip} route replace default via {gateway}"), format!("{ip} route replace default via {before}"));
    Remedy::new(host, now, format!("GATEWAY={gateway} {KEEP_ROUTE}"), undo)
}

/// Answers to a client, which is taken for a neighbour, through a gateway.
pub(super) fn no_neighbour(host: &str, client: &str, gateway: &str) -> Remedy {
    let ip = ip_for(client);
    Remedy::new(
        host,
        format!("{ip} route replace {client} via {gateway}"),
        "the right prefix length of its address, and no route without a gateway to the clients' network",
        format!("{ip} route del {client} via {gateway}"),
    )
}

/// Sysctls with their new and their old values.
pub(super) fn sysctl(host: &str, settings: &[(&str, &str, &str)]) -> Remedy {
    let line =
        |new: bool| settings.iter().map(|(key, on, off)| format!("{key}={}", if new { on } else { off })).collect::<Vec<_>>().join(" ");
    Remedy::new(
        host,
        format!("sysctl -w {}", line(true)),
        "the same settings in /etc/sysctl.d/90-lvs.conf",
        format!("sysctl -w {}", line(false)),
    )
}

/// Packets are forwarded. IPv4 asks the interface that they come in by, and `ip_forward` sets all of them only when it changes.
pub(super) fn forward(host: &str, ipv6: bool, device: &str) -> Remedy {
    let key = if ipv6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
    let (mut now, mut undo) = (format!("sysctl -w {key}=1"), format!("sysctl -w {key}=0"));
    if !ipv6 && device != "IF" {
        let device = device.replace('.', "/");
        now += &format!(" net.ipv4.conf.{device}.forwarding=1");
        undo = format!("sysctl -w net.ipv4.conf.{device}.forwarding=0 {key}=0");
    }
    Remedy::new(host, now, format!("{key} = 1 in /etc/sysctl.d/90-lvs.conf, and no `forwarding = 0` of an interface"), undo)
}

/// The VIP on the loopback interface, for itself alone.
pub(super) fn vip_on_lo(host: &str, vip: &str) -> Remedy {
    let (ip, v6) = (ip_for(vip), vip.contains(':'));
    let length = if v6 { 128 } else { 32 };
    let keep = match v6 {
        true => format!("{vip}/128 on lo in netplan, networkd or NetworkManager"),
        false => format!("IPADDR={vip} NETMASK=255.255.255.255 in ifcfg-lo:0 (not in ifcfg-lo), or {vip}/32 on lo in netplan or networkd"),
    };
    Remedy::new(host, format!("{ip} addr add {vip}/{length} dev lo"), keep, format!("{ip} addr del {vip}/{length} dev lo"))
}

/// No ARP for the VIP from a real server.
pub(super) fn quiet_arp(host: &str) -> Remedy {
    sysctl(host, &[("net.ipv4.conf.all.arp_ignore", "1", "0"), ("net.ipv4.conf.all.arp_announce", "2", "0")])
}

/// Only to be looked at: nothing is changed, so nothing is kept or undone.
pub(super) fn look(host: &str, command: impl Into<String>, then: impl Into<String>) -> Remedy {
    Remedy::new(host, command, then, "nothing to undo")
}
