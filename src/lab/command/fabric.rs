//! What the network between the hosts does not carry: clouds and hypervisors drop frames whose addresses are not their port's, and say
//! nothing to anybody.

use crate::net::MacAddr;
use crate::netlink::nftables::{Base, Chain, Step, TableFamily};
use crate::netlink::{Family, Socket};
use std::net::IpAddr;

/// The bridges' own chain for what they hand on (`NF_BR_FORWARD`, linux/netfilter_bridge.h).
const CHAIN: Chain<'static> = Chain { family: TableFamily::Bridge, table: "fabric", name: "forward", kind: "filter", hook: 2, priority: 0 };

/// `drop from ADDRESS`, `drop to ADDRESS`: of what a host sends, or is sent, by any of its ports; `drop protocol NUMBER`: of
/// IPv4 that it is sent; `drop by MAC`: of what it is sent, as if
/// the sender were in another VLAN. `carry` takes all of it back, for all hosts.
pub(in crate::lab) fn fabric(ports: &[String], words: &[&str]) -> Result<(), String> {
    let mut socket = Socket::open(Family::Netfilter)?;
    let (sent, field) = match words {
        ["carry"] => return Ok(socket.delete_nft_rule(&CHAIN, None)?),
        ["drop", "from", addr] => (true, address(addr, [12, 8])?),
        ["drop", "to", addr] => (false, address(addr, [16, 24])?),
        ["drop", "protocol", number] => {
            let number: u8 = number.parse().map_err(|_| format!("{number} is no number of an IP protocol"))?;
            (false, Step::Equal(Base::Network, 9, vec![number]))
        }
        ["drop", "by", mac] => {
            let mac: MacAddr = mac.parse().map_err(|_| format!("{mac} is no MAC address"))?;
            (false, Step::Equal(Base::Link, 6, mac.0.to_vec()))
        }
        _ => return Err("`drop from ADDRESS`, `drop to ADDRESS`, `drop protocol NUMBER`, `drop by MAC` and `carry` are understood".into()),
    };
    for port in ports {
        let steps = [Step::Interface(port.clone(), !sent), field.clone(), Step::Drop];
        socket.add_nft_rule(&CHAIN, &steps, &words.join(" "), false)?;
    }
    Ok(())
}

/// An address in a header that has it at one of these places: IPv4's, IPv6's.
fn address(text: &str, [v4, v6]: [u32; 2]) -> Result<Step, String> {
    let addr: IpAddr = text.parse().map_err(|_| format!("{text} is no address"))?;
    Ok(match addr {
        IpAddr::V4(a) => Step::Equal(Base::Network, v4, a.octets().to_vec()),
        IpAddr::V6(a) => Step::Equal(Base::Network, v6, a.octets().to_vec()),
    })
}
