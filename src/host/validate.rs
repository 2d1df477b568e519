//! Whether the kernel takes a packet by its source address (`fib_validate_source`): the same for IP packets and for ARP questions.

use super::{Ask, Host, NoRoute, RouteKind};
use std::net::IpAddr;

/// What the kernel thinks of a source address at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceCheck {
    /// It is fine.
    Accepted,
    /// It is an address of the machine itself, and `accept_local` is off: a martian.
    LocalSource,
    /// `rp_filter` is strict, and the way back leaves by another device.
    OtherWay(String),
    /// `rp_filter` is on, and there is no way back at all.
    NoWay,
    /// `rp_filter` is on, and the device has no IPv4 address: there even the loose filter drops.
    NoAddress,
    /// The snapshot does not say.
    Unknown(String),
}

impl Host {
    /// Judges a packet from `src` that arrives by `device`. IPv6 has no such filter.
    pub fn source_check(&self, src: IpAddr, device: &str) -> SourceCheck {
        if src.is_ipv6() {
            return SourceCheck::Accepted;
        }
        let (Some(filter), Some(accept_local)) = (self.effective("rp_filter", device), self.effective("accept_local", device)) else {
            return SourceCheck::Unknown(format!("rp_filter and accept_local at {device}"));
        };
        let is_own = self.addresses().iter().any(|a| a.addr.addr() == src);
        let own_local = |r: &super::Route| r.kind == RouteKind::Local && !r.v6 && !matches!(r.protocol.as_str(), "" | "kernel");
        let custom = self.routes.iter().flatten().any(own_local) || self.has_custom_rules(false) == Some(true);
        if filter == 0 && !custom {
            return if is_own && accept_local == 0 { SourceCheck::LocalSource } else { SourceCheck::Accepted };
        }
        // The way back: from nowhere in particular, as a packet that came by this device.
        let ask = Ask { iif: Some(device.to_string()), ..Ask::to(src) };
        let back = match self.way(&ask) {
            Ok(back) => back,
            Err(NoRoute::Unknown(why)) => return SourceCheck::Unknown(why),
            Err(_) if filter == 0 => return SourceCheck::Accepted,
            Err(_) => return SourceCheck::NoWay,
        };
        // Its own address may pass with `accept_local`, and then has to come by the device that has it, as any other.
        if back.route.kind != RouteKind::Unicast && !(back.is_local() && accept_local != 0) {
            return SourceCheck::LocalSource;
        }
        if back.hops.iter().any(|hop| hop.link.as_deref() == Some(device)) {
            return SourceCheck::Accepted;
        }
        let has_address = self.addresses().iter().any(|a| a.link == device && a.addr.addr().is_ipv4());
        match (has_address, filter) {
            (_, 0) => SourceCheck::Accepted,
            (false, _) => SourceCheck::NoAddress,
            (true, 1) => SourceCheck::OtherWay(back.words()),
            (true, _) => SourceCheck::Accepted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Address, LOCAL, MAIN, NextHop, Route, Sysctls};
    use super::*;

    fn host(filter: [&str; 2], accept_local: &str, tunnel_address: bool) -> Host {
        let address = |link: &str, addr: &str| Address {
            link: link.into(),
            addr: addr.parse().unwrap(),
            scope: "global".into(),
            flags: vec![],
            label: None,
        };
        let hop = |link: &str| vec![NextHop { link: Some(link.into()), gateway: None, dead: false }];
        let mut sysctls = Sysctls::default();
        for (device, value) in [("all", filter[0]), ("tunl0", filter[1]), ("eth0", "0")] {
            sysctls.0.insert(Sysctls::name4(device, "rp_filter"), value.into());
            sysctls.0.insert(Sysctls::name4(device, "accept_local"), if device == "all" { "0" } else { accept_local }.into());
        }
        let mut addresses = vec![address("eth0", "10.0.0.11/24")];
        addresses.push(address(if tunnel_address { "tunl0" } else { "lo" }, "10.0.0.13/32"));
        Host {
            sysctls: Some(sysctls),
            addresses: Some(addresses),
            routes: Some(vec![
                Route { table: MAIN, hops: hop("eth0"), ..Route::default() },
                Route { table: LOCAL, dst: "10.0.0.13".parse().ok(), kind: RouteKind::Local, hops: hop("lo"), ..Route::default() },
            ]),
            rules: Some(vec![]),
            ..Host::new("web1")
        }
    }

    /// pitfalls B17 and B18, measured on a kernel: (all, tunnel) of rp_filter.
    #[test]
    fn as_measured() {
        let client: IpAddr = "198.51.100.1".parse().unwrap();
        for (filter, passes) in [
            (["0", "0"], true),
            (["1", "2"], true),
            (["2", "0"], true),
            (["0", "2"], true),
            (["2", "1"], true),
            (["1", "0"], false),
            (["0", "1"], false),
            (["1", "1"], false),
        ] {
            let with = host(filter, "0", true).source_check(client, "tunl0");
            assert_eq!(with == SourceCheck::Accepted, passes, "with an address: {filter:?} {with:?}");
            let without = host(filter, "0", false).source_check(client, "tunl0");
            assert_eq!(without == SourceCheck::Accepted, filter == ["0", "0"], "without: {filter:?} {without:?}");
        }
    }

    #[test]
    fn its_own_address_is_a_martian() {
        let vip: IpAddr = "10.0.0.13".parse().unwrap();
        assert_eq!(host(["0", "0"], "0", false).source_check(vip, "eth0"), SourceCheck::LocalSource);
        assert_eq!(host(["0", "0"], "1", false).source_check(vip, "eth0"), SourceCheck::Accepted);
        assert!(matches!(Host::new("a").source_check(vip, "eth0"), SourceCheck::Unknown(_)));
    }
}
