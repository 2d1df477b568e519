//! A real server's end of an IPIP tunnel, for kernels without the `ipip` module: `tunl0` is one end of a veth, into whose other end the
//! packets go that come out of the outer ones. All that is asked of such a device (rp_filter, ARP, addresses) the kernel does itself.

use super::command;
use super::netns::Namespace;
use crate::capture::{LARGEST, VNET_HEADER, Wire, WireOptions};
use crate::net::MacAddr;
use crate::netlink::rtnetlink::{Kind, LinkSpec, Peer};
use crate::netlink::{Family, NetlinkError, Socket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The device, until it is dropped.
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Its name, as the kernel's fallback device is called.
pub const NAME: &str = "tunl0";
const FAR: &str = "far0";
const TURN: Duration = Duration::from_millis(50);
/// An outer IPv4 header.
const OVERHEAD: u32 = 20;

impl Tunnel {
    /// Makes the device, down and without addresses, as `modprobe ipip` does; outer packets are taken from these interfaces.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn begin(host: &Namespace, interfaces: &[(String, MacAddr)]) -> Result<Tunnel, String> {
        let far = Namespace::new().map_err(|e| e.to_string())?;
        let made = host.run(|| -> Result<Option<MacAddr>, NetlinkError> {
            let mut socket = Socket::open(Family::Route)?;
            let peer = Peer { name: FAR, mac: None, netns: Some(far.as_fd()) };
            socket.add_link(&LinkSpec { name: NAME, mac: None, kind: Kind::Veth(peer) })?;
            let link = socket.link(NAME)?;
            socket.set_link(link.index, Some(1500 - OVERHEAD), None, None)?;
            Ok(link.mac)
        });
        let mac = made.map_err(|errno| errno.to_string())??.ok_or("tunl0 has no MAC address")?;
        // Without IPIP the kernel would say of the outer packets that it does not know their protocol.
        command::run(host, "iptables -t raw -A PREROUTING -p 4 -j DROP").map_err(|e| e.to_string())?;
        let inner = far.run(|| -> Result<Wire, String> {
            let _ = command::here(&["sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1"]);
            command::here(&["ip", "link", "set", FAR, "up"])?;
            Wire::open(FAR, WireOptions { vnet_header: true, ..WireOptions::default() }).map_err(|e| e.to_string())
        });
        let inner = Arc::new(inner.map_err(|errno| errno.to_string())??);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (name, own) in interfaces {
            let options = WireOptions { vnet_header: true, inbound_only: true, buffer: 4 << 20, ..WireOptions::default() };
            let outer = host.run(|| Wire::open(name, options)).map_err(|errno| errno.to_string())?.map_err(|e| e.to_string())?;
            let (inner, stopped, own) = (inner.clone(), stop.clone(), *own);
            let kernel = host.run(|| Socket::open(Family::Route)).map_err(|errno| errno.to_string())??;
            threads.push(std::thread::spawn(move || unpack(outer, &inner, (own, mac), kernel, &stopped)));
        }
        Ok(Tunnel { stop, threads })
    }
}

fn unpack(mut outer: Wire, inner: &Wire, (own, to): (MacAddr, MacAddr), mut kernel: Socket, stop: &AtomicBool) {
    let mut buffer = vec![0; LARGEST];
    while !stop.load(Ordering::Relaxed) {
        let Ok(Some(arrival)) = outer.receive(&mut buffer, TURN) else { continue };
        let Some((offload, frame)) = buffer[..arrival.len].split_first_chunk::<VNET_HEADER>() else { continue };
        if frame.get(..6) == Some(&own.0[..])
            && let Some((offload, inside)) = decapsulated(offload, frame, to)
            && !is_own(&mut kernel, frame)
        {
            // Down, or gone: then nobody gets it.
            let _ = inner.send(&[&offload, &inside]);
        }
    }
}

/// True when a packet says that it comes from this host itself: no kernel takes such a one (net/ipv4/fib_frontend.c, `__fib_validate_source`).
fn is_own(kernel: &mut Socket, frame: &[u8]) -> bool {
    let Some(source) = frame.get(26..30).and_then(|b| b.first_chunk::<4>()) else { return true };
    let source = std::net::IpAddr::from(*source);
    kernel.addresses().is_ok_and(|all| all.iter().any(|a| a.prefix.addr() == source))
}

/// The frame within an IPIP packet, and what of its checksum and segmentation is still to be done.
fn decapsulated(offload: &[u8; VNET_HEADER], frame: &[u8], to: MacAddr) -> Option<([u8; VNET_HEADER], Vec<u8>)> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes(*packet.get(2..4)?.first_chunk()?));
    let kind: [u8; 2] = match packet.get(9)? {
        4 => [0x08, 0x00],
        41 => [0x86, 0xdd],
        _ => return None,
    };
    let inner = packet.get(header..total).filter(|inner| header >= 20 && inner.len() >= 20)?;
    let mut offload = *offload;
    // Bytes 2 and 6: how long the headers are, and where the checksum's reach begins, from the frame's beginning.
    for at in [2, 6] {
        let value = u16::from_le_bytes([offload[at], offload[at + 1]]);
        offload[at..at + 2].copy_from_slice(&value.saturating_sub(header as u16).to_le_bytes());
    }
    let mut out = to.0.to_vec();
    out.extend([2, 0, 0, 0, 0, 1]);
    out.extend(kind);
    out.extend(inner);
    Some((offload, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_packet_comes_out() {
        let mut frame = vec![0; 14];
        frame[12] = 8;
        frame.extend([0x45, 0, 0, 42, 0, 0, 0, 0, 64, 4]);
        frame.resize(34, 0);
        frame.extend([7; 22]);
        frame.extend([0; 6]); // padding
        let mut offload = [0; VNET_HEADER];
        offload[6] = 54;
        let (offload, inner) = decapsulated(&offload, &frame, MacAddr([2; 6])).unwrap();
        assert_eq!((offload[6], &inner[..6], &inner[12..14], inner.len()), (34, &[2; 6][..], &[8, 0][..], 14 + 22));
        frame[14 + 9] = 6;
        assert!(decapsulated(&[0; VNET_HEADER], &frame, MacAddr([2; 6])).is_none());
        assert!(decapsulated(&[0; VNET_HEADER], &frame[..30], MacAddr([2; 6])).is_none());
    }
}
