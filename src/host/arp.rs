//! Whether the kernel answers an ARP question, and whom it names when it asks one itself (`net/ipv4/arp.c`, `devinet.c`).
//!
//! What counts is the device at which the question arrives, or out of which it goes, and never the one that has the address.

use super::{Address, Ask, Host, NoRoute, SourceCheck, Sysctls};
use std::net::IpAddr;

/// Why a host answers for an address that is not its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxy {
    /// A setting of the device, of this name.
    Setting(&'static str),
    /// An entry for the address.
    Entry,
}

impl Host {
    /// True when a question of `sender` for `target` that arrives by `device` is answered; `None` where its settings are not known. An
    /// unspecified sender asks whether the address is free. Packet filters are not asked; for whom else it
    /// answers, [`Host::answers_for_another`] tells.
    pub fn answers_arp(&self, target: IpAddr, sender: IpAddr, device: &str) -> Option<bool> {
        let ignore = self.effective("arp_ignore", device)?;
        let probes = sender.is_unspecified();
        let local = match self.way(&Ask { iif: Some(device.to_string()), from: (!probes).then_some(sender), ..Ask::to(target) }) {
            Ok(way) => way.is_local(),
            Err(NoRoute::Unknown(_)) => self.address(target).is_some(),
            Err(_) => false,
        };
        // A sender that the kernel would not take a packet from gets no answer, either.
        let taken = || probes || matches!(self.source_check(sender, device), SourceCheck::Accepted | SourceCheck::Unknown(_));
        if !local || self.ignores(ignore, target, sender, device) || !taken() {
            return Some(false);
        }
        // `arp_filter`: only by the card by which an answer would leave.
        let filters = !probes && self.effective("arp_filter", device).unwrap_or(0) != 0;
        let leaves_here = || match self.way(&Ask::to(sender).from(target)) {
            Ok(way) => way.hops.iter().any(|hop| hop.link.as_deref() == Some(device)),
            Err(_) => false,
        };
        Some(!filters || leaves_here())
    }

    /// For which reason the kernel answers ARP or neighbour discovery at a device for an address that it only has a way to; none: it does
    /// not (`arp_process`; `ndisc_recv_ns`).
    ///
    /// # Errors
    /// What would have to be known.
    pub fn answers_for_another(&self, target: IpAddr, device: &str) -> Result<Option<Proxy>, String> {
        let setting = |value: Option<i64>, key: &str| value.ok_or_else(|| format!("{key} at {device}"));
        let entry = || {
            let all = self.proxies.as_deref().ok_or_else(|| format!("its proxy entries: {}", self.why_absent("proxies")))?;
            Ok::<bool, String>(all.iter().any(|p| p.addr == target && p.is_at(device)))
        };
        if target.is_ipv6() {
            let on = |key: &str| setting(self.effective6(key, device), key).map(|value| value != 0);
            // Whatever the route: it answers for the entries, and for nothing else.
            return Ok((on("forwarding")? && on("proxy_ndp")? && entry()?).then_some(Proxy::Entry));
        }
        if setting(self.effective("forwarding", device), "forwarding")? == 0 {
            return Ok(None);
        }
        if self.routes.is_none() {
            return Err("its routes".to_string());
        }
        let way = self.way(&Ask { iif: Some(device.to_string()), ..Ask::to(target) });
        let Some(link) = way.ok().and_then(|way| way.link().map(str::to_string)) else { return Ok(None) };
        if link == device {
            let pvlan = self.sysctl(&Sysctls::name4(device, "proxy_arp_pvlan")).unwrap_or(0) != 0;
            return Ok(pvlan.then_some(Proxy::Setting("proxy_arp_pvlan")));
        }
        if setting(self.effective("proxy_arp", device), "proxy_arp")? != 0 {
            return Ok(Some(Proxy::Setting("proxy_arp")));
        }
        Ok(entry()?.then_some(Proxy::Entry))
    }

    /// What `arp_ignore` of this level keeps quiet about.
    fn ignores(&self, level: i64, target: IpAddr, sender: IpAddr, device: &str) -> bool {
        let here = || self.addresses().iter().filter(|a| a.link == device);
        let is = |a: &&Address| a.addr.addr() == target;
        match level {
            1 => !here().any(|a| is(&a)),
            // The sender has to be in a network of the device, in which the target is, too.
            2 => {
                let both = |a: &Address| a.addr.contains(target) && (sender.is_unspecified() || a.addr.contains(sender));
                !(here().any(|a| is(&a)) && here().any(both))
            }
            3 => !self.addresses().iter().any(|a| is(&a) && a.scope != "host"),
            8 => true,
            _ => false,
        }
    }

    /// The sender that the kernel names when it asks for `target` out of `device`, for a packet from `source`; `None` where it is not known.
    pub fn arp_sender(&self, source: Option<IpAddr>, target: IpAddr, device: &str) -> Option<IpAddr> {
        let own = source.filter(|source| self.has(*source));
        let kept = match self.effective("arp_announce", device)? {
            1 => own.filter(|own| self.addresses().iter().any(|a| a.link == device && a.addr.contains(target) && a.addr.contains(*own))),
            2 => None,
            _ => own,
        };
        kept.or_else(|| self.source_on(device, target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The VIP on a device, in a scope; `arp_ignore` and `arp_announce` of all and of eth0.
    fn host(vip: &str, link: &str, scope: &str, ignore: [&str; 2], announce: [&str; 2]) -> Host {
        let address = |link: &str, addr: &str, scope: &str| Address {
            link: link.into(),
            addr: addr.parse().unwrap(),
            scope: scope.into(),
            flags: vec![],
            label: None,
        };
        let mut sysctls = Sysctls::default();
        for (device, at) in [("all", 0), ("eth0", 1)] {
            sysctls.0.insert(Sysctls::name4(device, "arp_ignore"), ignore[at].into());
            sysctls.0.insert(Sysctls::name4(device, "arp_announce"), announce[at].into());
        }
        let addresses = Some(vec![address("eth0", "10.0.0.11/24", "global"), address(link, vip, scope)]);
        Host { sysctls: Some(sysctls), addresses, ..Host::new("web1") }
    }

    /// pitfalls B1 to B4.
    #[test]
    fn levels_of_arp_ignore() {
        let answers = |vip: &str, link: &str, scope: &str, ignore: [&str; 2]| {
            host(vip, link, scope, ignore, ["0", "0"]).answers_arp(ip("10.0.0.13"), ip("10.0.0.1"), "eth0")
        };
        for (ignore, answer) in
            [(["0", "0"], true), (["3", "0"], true), (["4", "0"], true), (["1", "0"], false), (["0", "2"], false), (["8", "0"], false)]
        {
            assert_eq!(answers("10.0.0.13/32", "lo", "global", ignore), Some(answer), "{ignore:?}");
        }
        assert_eq!(answers("10.0.0.13/32", "lo", "host", ["3", "0"]), Some(false));
        assert_eq!(answers("10.0.0.13/32", "eth0", "global", ["2", "0"]), Some(true), "the RIP's network has both");
        let far = host("10.0.0.13/32", "eth0", "global", ["2", "0"], ["0", "0"]).answers_arp(ip("10.0.0.13"), ip("10.9.0.1"), "eth0");
        assert_eq!(far, Some(false), "who asks is not in that network");
        assert_eq!(Host::new("a").answers_arp(ip("10.0.0.13"), ip("10.0.0.1"), "eth0"), None);
    }

    #[test]
    fn levels_of_arp_announce() {
        let sender = |vip: &str, announce: [&str; 2]| {
            let host = host(&format!("{vip}/32"), "lo", "global", ["0", "0"], announce);
            host.arp_sender(Some(ip(vip)), ip("10.0.0.1"), "eth0").map(|a| a.to_string())
        };
        assert_eq!(sender("10.0.0.13", ["0", "0"]).as_deref(), Some("10.0.0.13"));
        assert_eq!(sender("10.0.0.13", ["1", "0"]).as_deref(), Some("10.0.0.13"), "in the network of the card");
        assert_eq!(sender("10.7.0.13", ["1", "0"]).as_deref(), Some("10.0.0.11"));
        assert_eq!(sender("10.0.0.13", ["0", "2"]).as_deref(), Some("10.0.0.11"));
        assert_eq!(sender("10.0.0.13", ["3", "2"]).as_deref(), Some("10.0.0.13"), "3 is as 0");
    }
}
