//! Remedies that several rules share.

use crate::finding::Remedy;
use std::net::IpAddr;

/// `ip`, or `ip -6` for an address of that family.
pub(super) fn ip_for(addr: &str) -> &'static str {
    if addr.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()) { "ip -6" } else { "ip" }
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
