//! `vrrpd`: the advertisements of a master of a virtual router (RFC 3768), for as long as its host is told to.

use super::super::netns::Namespace;
use crate::capture::{Wire, WireOptions};
use crate::net::MacAddr;
use crate::netlink::{Family, NetlinkError, Socket};
use crate::packet::build;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A master that speaks until it is dropped.
pub(in crate::lab) struct Master {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Master {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Between advertisement and advertisement.
const INTERVAL: Duration = Duration::from_millis(500);
const TURN: Duration = Duration::from_millis(20);
const EVERYBODY: MacAddr = MacAddr([1, 0, 0x5e, 0, 0, 0x12]);
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
const PROTOCOL: u8 = 112;

/// Begins what the words behind `vrrpd` say: `-i IF -v VRID -p PRIORITY VIP`. `host` knows its addresses, its frames go out by `wires`.
pub(in crate::lab) fn begin(host: &Namespace, wires: &Namespace, words: &[&str]) -> Result<Master, String> {
    let ["-i", device, "-v", vrid, "-p", priority, vip] = words else {
        return Err("only `vrrpd -i INTERFACE -v VRID -p PRIORITY ADDRESS` is understood".into());
    };
    let number = |word: &str| word.parse::<u8>().map_err(|_| format!("{word} is no number up to 255"));
    let (vrid, priority) = (number(vrid)?, number(priority)?);
    let vip: Ipv4Addr = vip.parse().map_err(|_| format!("{vip} is no IPv4 address"))?;
    let asked = host.run(|| -> Result<_, NetlinkError> {
        let mut socket = Socket::open(Family::Route)?;
        Ok((socket.link(device)?, socket.addresses()?))
    });
    let (link, addresses) = asked.map_err(|errno| errno.desc().to_string())??;
    let mac = link.mac.ok_or_else(|| format!("{device} has no MAC address"))?;
    let own = addresses.iter().filter(|a| a.index == link.index).map(|a| a.prefix.addr());
    let src = own.clone().find(|addr| addr.is_ipv4() && *addr != IpAddr::V4(vip));
    let src = src.ok_or_else(|| format!("{device} has no address but {vip}"))?;
    let frame = advertisement(mac, src, (vrid, priority), vip);
    let opened = wires.run(|| Wire::open(device, WireOptions::default())).map_err(|errno| errno.desc().to_string())?;
    let wire = opened.map_err(|e| e.to_string())?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut next = Instant::now();
        while !stopped.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                // Its interface may be down for a while.
                let _ = wire.send(&[&frame]);
                next += INTERVAL;
            }
            std::thread::sleep(TURN);
        }
    });
    Ok(Master { stop, thread: Some(thread) })
}

fn advertisement(mac: MacAddr, src: IpAddr, (vrid, priority): (u8, u8), vip: Ipv4Addr) -> Vec<u8> {
    // Version 2, type 1; one address, no authentication, an interval of one second.
    let mut message = vec![0x21, vrid, priority, 1, 0, 1, 0, 0];
    message.extend(vip.octets());
    message.extend([0; 8]);
    let sum = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    message[6..8].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let packet = build::ip(src, GROUP, PROTOCOL, build::IpFields { ttl: 255, id: 1, flags: 0x4000 }, &message);
    build::ethernet(mac, EVERYBODY, &[], &packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_sums_up() {
        let frame = advertisement(MacAddr([2; 6]), "10.0.0.2".parse().unwrap(), (51, 150), Ipv4Addr::new(10, 0, 0, 9));
        let message = &frame[34..];
        let sum = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
        assert_eq!(((sum & 0xffff) + (sum >> 16), message.len(), &message[..4]), (0xffff, 20, &[0x21, 51, 150, 1][..]));
    }
}
