//! One packet a line, in the notation of `tcpdump -n -S`: absolute sequence numbers, numeric addresses.

use super::dissect::Packet;
use super::ip::{Arp, Ip, Network};
use super::tcp::{Tcp, TcpFlags};
use super::transport::Transport;
use super::tunnel::{Tunnel, TunnelKind};
use super::{IcmpKind, StopReason};
use std::fmt;
use std::net::IpAddr;

impl fmt::Display for Packet<'_> {
    /// Everything above the link layer. What was cut ends in tcpdump's `[|TCP]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for vlan in self.link.vlans.ids() {
            write!(f, "vlan {vlan}, ")?;
        }
        for tunnel in &self.tunnels {
            write_tunnel(f, tunnel)?;
        }
        match &self.network {
            Network::Ip(ip) => self.write_ip(f, ip)?,
            Network::Arp(arp) => write_arp(f, arp)?,
            Network::None => {}
        }
        match self.stop {
            Some(stop) if self.network == Network::None => write!(f, "{stop}"),
            Some(stop) => write!(f, " {stop}"),
            None if self.network == Network::None => write!(f, "ethertype 0x{:04x}", self.link.ether_type),
            None => Ok(()),
        }
    }
}

fn family(addr: IpAddr) -> &'static str {
    if addr.is_ipv4() { "IP" } else { "IP6" }
}

fn write_tunnel(f: &mut fmt::Formatter<'_>, tunnel: &Tunnel) -> fmt::Result {
    let (src, dst) = tunnel.ends();
    match tunnel.kind {
        TunnelKind::IpIp => write!(f, "{} {src} > {dst}: ", family(src)),
        TunnelKind::Gre if tunnel.key != 0 => write!(f, "{} {src} > {dst}: GREv0, key=0x{:x}: ", family(src), tunnel.key),
        TunnelKind::Gre => write!(f, "{} {src} > {dst}: GREv0: ", family(src)),
        TunnelKind::Gue => write!(f, "{} {src}.{} > {dst}.{}: GUE: ", family(src), tunnel.ports.0, tunnel.ports.1),
        TunnelKind::Vxlan | TunnelKind::Geneve => {
            let name = if tunnel.kind == TunnelKind::Vxlan { "VXLAN" } else { "Geneve" };
            write!(f, "{} {src}.{} > {dst}.{}: {name}, vni {}: ", family(src), tunnel.ports.0, tunnel.ports.1, tunnel.key)?;
            match tunnel.inner {
                Some((src, dst)) => write!(f, "{src} > {dst} "),
                None => Ok(()),
            }
        }
    }
}

fn write_arp(f: &mut fmt::Formatter<'_>, arp: &Arp) -> fmt::Result {
    match arp.operation {
        1 if arp.sender.is_unspecified() => write!(f, "ARP, Request who-has {} (probe)", arp.target),
        1 => write!(f, "ARP, Request who-has {} tell {}", arp.target, arp.sender),
        2 => write!(f, "ARP, Reply {} is-at {}", arp.sender, arp.sender_mac),
        other => write!(f, "ARP, operation {other} from {} to {}", arp.sender, arp.target),
    }
}

impl Packet<'_> {
    fn write_ip(&self, f: &mut fmt::Formatter<'_>, ip: &Ip) -> fmt::Result {
        f.write_str(family(ip.src))?;
        match self.transport.ports() {
            Some((src, dst)) if !matches!(self.transport, Transport::Icmp(_)) => write!(f, " {}.{src} > {}.{dst}: ", ip.src, ip.dst)?,
            _ => write!(f, " {} > {}: ", ip.src, ip.dst)?,
        }
        match &self.transport {
            Transport::Tcp(tcp) => self.write_tcp(f, tcp)?,
            Transport::Udp(_) => write!(f, "UDP, length {}", self.payload_len)?,
            Transport::Sctp(sctp) => write!(f, "sctp ({}), tag {}", sctp_chunk(sctp.chunk), sctp.tag)?,
            Transport::Icmp(icmp) => {
                write!(f, "{} {icmp}", if ip.src.is_ipv4() { "ICMP" } else { "ICMP6" })?;
                if let Some(quoted) = &icmp.quoted {
                    write!(f, " {{{quoted}}}")?;
                }
                if let IcmpKind::Solicitation(n) | IcmpKind::Advertisement(n) = icmp.kind
                    && let Some(mac) = n.mac
                {
                    write!(f, ", link-address {mac}")?;
                }
            }
            Transport::Vrrp(vrrp) => {
                write!(f, "VRRPv{}, Advertisement, vrid {}, prio {}", vrrp.version, vrrp.vrid, vrrp.priority)?;
            }
            Transport::Ports { .. } => f.write_str(transport_word(ip.protocol))?,
            Transport::None => write!(f, "{}, length {}", transport_word(ip.protocol), self.payload_len)?,
        }
        if let Some(part) = ip.fragment {
            write!(
                f,
                " (frag {}:{}@{}{})",
                ip.id,
                ip.total_len.saturating_sub(u32::from(ip.header_len)),
                part.offset,
                if part.more { "+" } else { "" }
            )?;
        }
        Ok(())
    }

    fn write_tcp(&self, f: &mut fmt::Formatter<'_>, tcp: &Tcp<'_>) -> fmt::Result {
        write!(f, "Flags {}", tcp.flags)?;
        let len = self.payload_len;
        match len {
            0 if tcp.flags.0 & 0x07 == 0 => {}
            0 => write!(f, ", seq {}", tcp.seq)?,
            _ => write!(f, ", seq {}:{}", tcp.seq, tcp.seq.wrapping_add(len))?,
        }
        if tcp.flags.has(TcpFlags::ACK) {
            write!(f, ", ack {}", tcp.ack)?;
        }
        write!(f, ", win {}", tcp.window)?;
        if !tcp.option_bytes.is_empty() {
            f.write_str(", options [")?;
            write_options(f, tcp)?;
            f.write_str("]")?;
        }
        write!(f, ", length {len}")
    }
}

fn write_options(f: &mut fmt::Formatter<'_>, tcp: &Tcp<'_>) -> fmt::Result {
    let read = tcp.options();
    let mut separator = "";
    for (kind, body) in tcp.raw_options() {
        f.write_str(std::mem::replace(&mut separator, ","))?;
        match kind {
            2 => write!(f, "mss {}", read.mss.unwrap_or(0))?,
            3 => write!(f, "wscale {}", read.window_scale.unwrap_or(0))?,
            4 => f.write_str("sackOK")?,
            5 => write!(f, "sack {}", body.len() / 8)?,
            8 => {
                let (value, echo) = read.timestamps.unwrap_or((0, 0));
                write!(f, "TS val {value} ecr {echo}")?;
            }
            34 => f.write_str("tfo")?,
            254 => match read.toa {
                Some(toa) => write!(f, "toa {}", toa.0)?,
                None => f.write_str("exp-254")?,
            },
            other => write!(f, "unknown-{other}")?,
        }
    }
    Ok(())
}

fn transport_word(protocol: u8) -> &'static str {
    match protocol {
        1 => "ICMP",
        2 => "igmp",
        6 => "TCP",
        17 => "UDP",
        47 => "GRE",
        50 => "ESP",
        51 => "AH",
        58 => "ICMP6",
        89 => "OSPF",
        103 => "PIM",
        112 => "VRRP",
        132 => "SCTP",
        _ => "ip-proto",
    }
}

fn sctp_chunk(chunk: Option<u8>) -> &'static str {
    match chunk {
        Some(0) => "DATA",
        Some(1) => "INIT",
        Some(2) => "INIT ACK",
        Some(3) => "SACK",
        Some(4) => "HB REQ",
        Some(5) => "HB ACK",
        Some(6) => "ABORT",
        Some(7) => "SHUTDOWN",
        Some(8) => "SHUTDOWN ACK",
        Some(10) => "COOKIE ECHO",
        Some(11) => "COOKIE ACK",
        Some(14) => "SHUTDOWN COMPLETE",
        Some(_) => "chunk",
        None => "no chunk",
    }
}

impl StopReason {
    /// In one or two words, for counting.
    pub fn word(self) -> &'static str {
        match self {
            StopReason::Truncated => "cut short",
            StopReason::Malformed(_) => "malformed",
            StopReason::Unsupported(_) => "protocol not read",
        }
    }
}
