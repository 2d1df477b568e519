//! `radvd`: a router says that it is one (RFC 4861, section 4.2), once.

use crate::capture::{Wire, WireOptions};
use crate::net::MacAddr;
use crate::netlink::{Family, Socket};
use crate::packet::build;
use nix::libc;
use std::net::{IpAddr, Ipv6Addr};

const EVERYBODY: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ADVERTISEMENT: u8 = 134;
const ICMPV6: u8 = 58;

/// Does what the words behind `radvd` say, in the calling thread's network namespace: `-i IF -l SECONDS`, for how long it is one.
pub(in crate::lab) fn router(words: &[&str]) -> Result<(), String> {
    let ["-i", device, "-l", lifetime] = words else {
        return Err("only `radvd -i INTERFACE -l SECONDS` is understood".into());
    };
    let lifetime: u16 = lifetime.parse().map_err(|_| format!("{lifetime} is no lifetime in seconds, up to 65535"))?;
    let mut socket = Socket::open(Family::Route)?;
    let link = socket.link(device)?;
    let mac = link.mac.ok_or_else(|| format!("{device} has no MAC address"))?;
    let own = socket.addresses()?.into_iter().filter(|a| a.index == link.index && a.scope == libc::RT_SCOPE_LINK);
    let from = own.map(|a| a.prefix.addr()).find(IpAddr::is_ipv6).ok_or_else(|| format!("{device} has no link-local address"))?;
    let wire = Wire::open(device, WireOptions::default()).map_err(|e| e.to_string())?;
    wire.send(&[&advertisement(mac, from, lifetime)]).map_err(|e| e.to_string())
}

fn advertisement(mac: MacAddr, from: IpAddr, lifetime: u16) -> Vec<u8> {
    // Hop limit 64, no flags; times as they are; its MAC.
    let mut body = vec![0; 8];
    body.extend([1, 1]);
    body.extend(mac.0);
    let message = build::icmp(from, GROUP.into(), ADVERTISEMENT, 0, 64 << 24 | u32::from(lifetime), &body);
    let packet = build::ip(from, GROUP.into(), ICMPV6, build::IpFields { ttl: 255, id: 0, flags: 0 }, &message);
    build::ethernet(mac, EVERYBODY, &[], &packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_names_itself() {
        let frame = advertisement(MacAddr([2, 0, 0, 0, 0, 9]), "fe80::9".parse().unwrap(), 1800);
        let message = &frame[54..];
        assert_eq!((message[0], message[1], &message[6..8], message.len()), (134, 0, &1800_u16.to_be_bytes()[..], 24));
        assert_eq!((frame[21], &message[16..]), (255, &[1, 1, 2, 0, 0, 0, 0, 9][..]));
        assert!(router(&["-i", "eth0"]).is_err() && router(&["-i", "eth0", "-l", "long"]).is_err());
    }
}
