//! A real server's end of an IPIP tunnel, for kernels without the `ipip` module: `tunl0`, or a device between two ends, is one end of a
//! veth, into whose other end the packets go that come out of the outer ones. All that is asked of such a device (rp_filter, ARP,
//! addresses) the kernel does itself.

use super::command;
use super::netns::Namespace;
use crate::capture::{LARGEST, VNET_HEADER, Wire, WireOptions};
use crate::net::MacAddr;
use crate::netlink::rtnetlink::{Kind, LinkSpec, Peer};
use crate::netlink::{Family, NetlinkError, Socket};
use crate::packet::build;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The devices, until it is dropped.
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    devices: Arc<Mutex<Vec<Device>>>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// One that packets come out of.
struct Device {
    name: String,
    /// Its own end and the other, where it takes packets between these two alone.
    ends: Option<Ends>,
    mac: MacAddr,
    inner: Wire,
}

type Ends = (Ipv4Addr, Ipv4Addr);

/// Its name, as the kernel's fallback device is called.
pub const NAME: &str = "tunl0";
const FAR: &str = "far0";
const TURN: Duration = Duration::from_millis(50);
/// An outer IPv4 header.
const OVERHEAD: u32 = 20;

impl Tunnel {
    /// Makes the fallback device, down and without addresses, as `modprobe ipip` does; outer packets are taken from these interfaces.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn begin(host: &Namespace, interfaces: &[(String, MacAddr)]) -> Result<Tunnel, String> {
        let devices = Arc::new(Mutex::new(vec![Device::make(host, NAME, None)?]));
        // Without IPIP the kernel would say of the outer packets that it does not know their protocol.
        command::run(host, "iptables -t raw -A PREROUTING -p 4 -j DROP").map_err(|e| e.to_string())?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (name, own) in interfaces {
            let options = WireOptions { vnet_header: true, inbound_only: true, buffer: 4 << 20, ..WireOptions::default() };
            let outer = host.run(|| Wire::open(name, options)).map_err(|errno| errno.to_string())?.map_err(|e| e.to_string())?;
            let (devices, stopped, own) = (devices.clone(), stop.clone(), *own);
            let kernel = host.run(|| Socket::open(Family::Route)).map_err(|errno| errno.to_string())??;
            threads.push(std::thread::spawn(move || unpack(outer, &devices, own, kernel, &stopped)));
        }
        Ok(Tunnel { stop, threads, devices })
    }

    /// Makes another device.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn add(&mut self, host: &Namespace, name: &str, ends: Option<Ends>) -> Result<(), String> {
        let device = Device::make(host, name, ends)?;
        lock(&self.devices).push(device);
        Ok(())
    }

    /// The devices and their ends.
    pub fn devices(&self) -> Vec<(String, Option<Ends>)> {
        lock(&self.devices).iter().map(|device| (device.name.clone(), device.ends)).collect()
    }
}

impl Device {
    fn make(host: &Namespace, name: &str, ends: Option<Ends>) -> Result<Device, String> {
        let far = Namespace::new().map_err(|e| e.to_string())?;
        let made = host.run(|| -> Result<Option<MacAddr>, NetlinkError> {
            let mut socket = Socket::open(Family::Route)?;
            let peer = Peer { name: FAR, mac: None, netns: Some(far.as_fd()) };
            socket.add_link(&LinkSpec { name, mac: None, kind: Kind::Veth(peer) })?;
            let link = socket.link(name)?;
            socket.set_link(link.index, Some(1500 - OVERHEAD), None, None)?;
            Ok(link.mac)
        });
        let mac = made.map_err(|errno| errno.to_string())??.ok_or_else(|| format!("{name} has no MAC address"))?;
        let inner = far.run(|| -> Result<Wire, String> {
            let _ = command::here(&["sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1"]);
            command::here(&["ip", "link", "set", FAR, "up"])?;
            Wire::open(FAR, WireOptions { vnet_header: true, ..WireOptions::default() }).map_err(|e| e.to_string())
        });
        let inner = inner.map_err(|errno| errno.to_string())??;
        Ok(Device { name: name.to_string(), ends, mac, inner })
    }
}

fn lock(devices: &Mutex<Vec<Device>>) -> MutexGuard<'_, Vec<Device>> {
    devices.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unpack(mut outer: Wire, devices: &Mutex<Vec<Device>>, own: MacAddr, mut kernel: Socket, stop: &AtomicBool) {
    let mut buffer = vec![0; LARGEST];
    while !stop.load(Ordering::Relaxed) {
        let Ok(Some(arrival)) = outer.receive(&mut buffer, TURN) else { continue };
        let Some((offload, frame)) = buffer[..arrival.len].split_first_chunk::<VNET_HEADER>() else { continue };
        let Some(ends) = ends_of(frame).filter(|_| frame.get(..6) == Some(&own.0[..])) else { continue };
        let Ok(links) = kernel.links() else { continue };
        let is_up = |device: &&Device| links.iter().any(|link| link.name == device.name && link.is_up());
        let all = lock(devices);
        // One for just these two first, then the one for everybody (net/ipv4/ip_tunnel.c, ip_tunnel_lookup).
        let mut ready = all.iter().filter(is_up);
        let taker = ready.clone().find(|device| device.ends == Some(ends)).or_else(|| ready.find(|device| device.ends.is_none()));
        let Some(device) = taker else {
            // Nobody's: the kernel's tunnel4_rcv refuses it.
            let _ = outer.send(&[&[0; VNET_HEADER], &refusal(frame, own, ends)]);
            continue;
        };
        if let Some((offload, inside)) = decapsulated(offload, frame, device.mac)
            && !is_own(&mut kernel, frame)
        {
            // Gone: then nobody gets it.
            let _ = device.inner.send(&[&offload, &inside]);
        }
    }
}

/// The outer addresses of an IPIP packet, its destination first.
fn ends_of(frame: &[u8]) -> Option<Ends> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let addr = |at: usize| packet.get(at..at + 4)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
    let ends = (addr(16)?, addr(12)?);
    matches!(packet.get(9)?, 4 | 41).then_some(ends)
}

/// ICMP port unreachable about a packet, to where it came from.
fn refusal(frame: &[u8], own: MacAddr, (here, there): Ends) -> Vec<u8> {
    // As much of it as fits into 576 bytes (net/ipv4/icmp.c, icmp_send).
    let quoted = &frame[14..frame.len().min(14 + 576 - 28)];
    let message = build::icmp(here.into(), there.into(), 3, 3, 0, quoted);
    let packet = build::ip(here.into(), there.into(), 1, build::IpFields { ttl: 64, id: 0, flags: 0 }, &message);
    let to = frame[6..12].first_chunk().map_or(MacAddr::BROADCAST, |mac| MacAddr(*mac));
    build::ethernet(own, to, &[], &packet)
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
    fn what_nobody_takes_is_refused() {
        let mut frame = vec![0; 14];
        (frame[6], frame[12]) = (9, 8);
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 4, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.resize(54, 7);
        let ends = ends_of(&frame).expect("IPIP");
        assert_eq!(ends, ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()));
        let said = refusal(&frame, MacAddr([2; 6]), ends);
        assert_eq!((&said[..6], &said[26..34], &said[34..36]), (&frame[6..12], &[10, 0, 0, 2, 10, 0, 0, 1][..], &[3, 3][..]));
        assert_eq!(said[42..], frame[14..]);
        frame[14 + 9] = 6;
        assert!(ends_of(&frame).is_none() && ends_of(&frame[..20]).is_none() && ends_of(&[0; 3]).is_none());
    }

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
