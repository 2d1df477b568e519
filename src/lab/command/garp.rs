//! `arping -U`: gratuitous ARP, which tells neighbours whose MAC an address has now.

use crate::capture::{Wire, WireOptions};
use crate::net::MacAddr;
use crate::netlink::{Family, Socket};
use crate::packet::build;
use std::net::Ipv4Addr;

/// Does what the words behind `arping` say, in the calling thread's network namespace.
pub(in crate::lab) fn announce(words: &[&str]) -> Result<(), String> {
    let (mut rest, mut device, mut times, mut unsolicited, mut addr) = (words, None, 1_u32, false, None);
    while let Some((word, more)) = rest.split_first() {
        rest = match (*word, more) {
            ("-U" | "-A", more) => {
                unsolicited = true;
                more
            }
            ("-I", [name, more @ ..]) => {
                device = Some(*name);
                more
            }
            ("-c", [count, more @ ..]) => {
                times = count.parse().map_err(|_| format!("{count} is no number"))?;
                more
            }
            (word, more) => {
                addr = Some(word.parse::<Ipv4Addr>().map_err(|_| format!("what is '{word}'?"))?);
                more
            }
        };
    }
    let (Some(device), Some(addr), true) = (device, addr, unsolicited) else {
        return Err("only `arping -U -I INTERFACE ADDRESS` is understood".into());
    };
    let link = Socket::open(Family::Route)?.link(device)?;
    let mac = link.mac.ok_or_else(|| format!("{device} has no MAC address"))?;
    let wire = Wire::open(device, WireOptions::default()).map_err(|e| e.to_string())?;
    let frame = build::arp(MacAddr::BROADCAST, 1, (mac, addr), (MacAddr::BROADCAST, addr), &[]);
    (0..times.min(16)).try_for_each(|_| wire.send(&[&frame]).map_err(|e| e.to_string()))
}
