//! What the host says of its interfaces: addresses, gateways, MTUs. Read once at the start.

use crate::net::Prefix;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// An interface of the host.
#[derive(Clone, Debug, Default)]
pub(super) struct Interface {
    pub(super) networks: Vec<Prefix>,
    pub(super) gateways: Vec<IpAddr>,
    pub(super) mtu: Option<usize>,
}

/// All interfaces' names.
pub(super) fn names() -> Vec<String> {
    let mut names: Vec<String> = getifaddrs().into_iter().flatten().map(|a| a.interface_name).collect();
    names.sort();
    names.dedup();
    names
}

/// An interface; `None` when there is none of this name.
pub(super) fn interface(name: &str) -> Option<Interface> {
    if_nametoindex(name).ok()?;
    let networks = getifaddrs()
        .into_iter()
        .flatten()
        .filter(|a| a.interface_name == name)
        .filter_map(|a| Some((address(a.address.as_ref()?)?, address(a.netmask.as_ref()?)?)))
        .filter_map(|(addr, mask)| {
            let len = match mask {
                IpAddr::V4(mask) => u32::from(mask).count_ones(),
                IpAddr::V6(mask) => u128::from(mask).count_ones(),
            };
            Prefix::new(addr, len as u8)
        })
        .collect();
    let mtu = fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok().and_then(|text| text.trim().parse().ok());
    Some(Interface { networks, gateways: gateways(name), mtu })
}

fn address(storage: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip())).or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// Default gateways on this interface: /proc/net/route and /proc/net/ipv6_route.
fn gateways(name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in fs::read_to_string("/proc/net/route").unwrap_or_default().lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [interface, "00000000", gateway, ..] = words[..]
            && interface == name
            && let Ok(gateway) = u32::from_str_radix(gateway, 16)
            && gateway != 0
        {
            // The kernel prints the address as a number of its own byte order.
            found.push(IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes())));
        }
    }
    for line in fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [to, "00", _, _, gateway, .., interface] = words[..]
            && to.bytes().all(|b| b == b'0')
            && interface == name
            && let Ok(gateway) = u128::from_str_radix(gateway, 16)
            && gateway != 0
        {
            found.push(IpAddr::V6(Ipv6Addr::from(gateway)));
        }
    }
    found
}

/// True when the host itself has this address: then its stack would answer too.
pub(super) fn is_local(addr: IpAddr) -> bool {
    let configured = getifaddrs().into_iter().flatten().any(|a| a.address.as_ref().and_then(address) == Some(addr));
    // Routes of type local make an address local too; only then can a socket be bound to it.
    let key = if addr.is_ipv4() { "ipv4" } else { "ipv6" };
    let anything_binds = fs::read_to_string(format!("/proc/sys/net/{key}/ip_nonlocal_bind")).is_ok_and(|v| v.trim() == "1");
    configured || !anything_binds && UdpSocket::bind((addr, 0)).is_ok()
}
