//! Does this real server serve the virtual address? A SYN made by hand goes to it as the director's would, and the answer is awaited.
//!
//! A health check asks the real server's own address. With direct routing and tunnels that says nothing of the virtual one: no VIP on lo, a
//! program bound to the RIP only, a firewall on the VIP.

use super::{Ear, Local};
use crate::capture::WireError;
use crate::net::{Endpoint, MacAddr};
use crate::packet::build::{IpFields, TcpFields, ethernet, ip, syn_options, tcp, udp};
use crate::packet::{Packet, TcpFlags, Transport};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How the director would send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// To the virtual address, in a frame for the real server.
    Dr,
    /// To the real server's address.
    Nat,
    /// To the virtual address, in an IP packet for the real server.
    Tun,
}

/// What a tunnel puts around a packet (`ipvsadm --tun-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// Nothing but the outer header.
    IpIp,
    /// GRE without options.
    Gre,
    /// GUE to this port.
    Gue(u16),
}

/// A question to a real server.
#[derive(Clone, Debug)]
pub struct ServiceProbe {
    /// How.
    pub method: Method,
    /// What the SYN is for: the service, or with NAT the real server's endpoint.
    pub to: Endpoint,
    /// Whom it comes from.
    pub from: Endpoint,
    /// The frame's destination: the real server, or the gateway before it.
    pub mac: MacAddr,
    /// Both ends of the tunnel.
    pub tunnel: Option<(IpAddr, IpAddr)>,
    /// How the tunnel packs it.
    pub wrap: Wrap,
    /// Initial sequence number.
    pub seq: u32,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// SYN-ACK, from this MAC, after so many nanoseconds.
    Serves {
        /// Where the answer came from.
        by: Option<MacAddr>,
        /// How long it took.
        after: i64,
    },
    /// RST: nobody listens.
    Refuses {
        /// Where it came from.
        by: Option<MacAddr>,
    },
    /// An ICMP error: type and code.
    Error {
        /// Who sent it.
        by: IpAddr,
        /// Its type and code.
        kind: (u8, u8),
    },
    /// The SYN itself came back: the host has no such address, and forwards it.
    SentBack {
        /// Who sent it back.
        by: Option<MacAddr>,
    },
    /// Nothing.
    Silence,
}

/// So often the SYN is sent, a second apart as TCP does.
const TRIES: u32 = 2;

impl ServiceProbe {
    /// Asks. A handshake that begins is reset, so that the server keeps nothing.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, and when the interface is down.
    pub fn ask(&self, local: &Local, wait: Duration) -> Result<Outcome, WireError> {
        let mut ear = Ear::open(&local.interface)?;
        let syn = TcpFields { seq: self.seq, flags: TcpFlags::SYN, options: &syn_options(1460, self.seq, 0), ..TcpFields::default() };
        let syn = self.frame(local, &syn);
        let mut outcome = Outcome::Silence;
        for _ in 0..TRIES {
            let sent = super::now();
            ear.say(&syn)?;
            ear.listen(Instant::now() + wait, |packet, time| {
                if let Some(found) = self.heard(packet, (time - sent).max(0)) {
                    outcome = found;
                }
                outcome == Outcome::Silence
            })?;
            if outcome != Outcome::Silence {
                break;
            }
        }
        if outcome == Outcome::Silence || matches!(outcome, Outcome::Serves { .. }) {
            // Also into silence: a SYN-ACK may have gone elsewhere, and nothing must stay half open.
            let reset = TcpFields { seq: self.seq.wrapping_add(1), flags: TcpFlags::RST, ..TcpFields::default() };
            ear.say(&self.frame(local, &reset))?;
        }
        Ok(outcome)
    }

    fn frame(&self, local: &Local, fields: &TcpFields<'_>) -> Vec<u8> {
        let mut packet = ip(self.from.addr, self.to.addr, 6, IpFields::default(), &tcp(self.from, self.to, fields, &[]));
        if let Some((src, dst)) = self.tunnel {
            let (inner, ether_type) = if self.to.addr.is_ipv4() { (4, [0x08, 0x00]) } else { (41, [0x86, 0xdd]) };
            let behind = |head: [u8; 4]| [&head[..], &packet].concat();
            packet = match self.wrap {
                Wrap::IpIp => ip(src, dst, inner, IpFields::default(), &packet),
                // No flags, version 0, the protocol (RFC 2784).
                Wrap::Gre => ip(src, dst, 47, IpFields::default(), &behind([0, 0, ether_type[0], ether_type[1]])),
                // Version 0, no extensions, a packet of this protocol (net/ipv4/fou_core.c).
                Wrap::Gue(port) => {
                    let ends = (Endpoint::new(src, self.from.port), Endpoint::new(dst, port));
                    ip(src, dst, 17, IpFields::default(), &udp(ends.0, ends.1, &behind([0, inner, 0, 0])))
                }
            };
        }
        ethernet(local.mac, self.mac, &[], &packet)
    }

    fn heard(&self, packet: &Packet<'_>, after: i64) -> Option<Outcome> {
        let ip = packet.ip()?;
        let by = packet.link.src;
        match &packet.transport {
            Transport::Tcp(tcp) => {
                let (src, dst) = (Endpoint::new(ip.src, tcp.src_port), Endpoint::new(ip.dst, tcp.dst_port));
                if (src, dst) == (self.from, self.to) && tcp.seq == self.seq && tcp.flags.opens() && packet.tunnels.is_empty() {
                    return Some(Outcome::SentBack { by });
                }
                if (src, dst) != (self.to, self.from) || tcp.ack != self.seq.wrapping_add(1) {
                    return None;
                }
                match tcp.flags {
                    flags if flags.accepts() => Some(Outcome::Serves { by, after }),
                    flags if flags.has(TcpFlags::RST) => Some(Outcome::Refuses { by }),
                    _ => None,
                }
            }
            Transport::Icmp(message) if message.is_error() => {
                let quoted = message.quoted.as_ref()?;
                let ours = quoted.five_tuple().is_some_and(|about| about.src == self.from && about.dst == self.to);
                // Of a packet in a tunnel the error may quote the tunnel and no more.
                let outer = quoted.five_tuple().map(|about| (about.src.addr, about.dst.addr));
                let tunnel =
                    self.tunnel.is_some() && (quoted.tunnels.first().map(|tunnel| tunnel.ends()) == self.tunnel || outer == self.tunnel);
                (ours || tunnel).then_some(Outcome::Error { by: ip.src, kind: (message.type_number, message.code) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::build::icmp;
    use crate::packet::{Frame, LinkType, TunnelKind, dissect};

    const ME: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const RS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn probe(tunnel: bool) -> ServiceProbe {
        ServiceProbe {
            method: if tunnel { Method::Tun } else { Method::Dr },
            to: "10.0.0.80:80".parse().unwrap(),
            from: "10.0.0.1:40000".parse().unwrap(),
            mac: RS,
            tunnel: tunnel.then(|| ("10.0.0.1".parse().unwrap(), "10.0.0.11".parse().unwrap())),
            wrap: Wrap::IpIp,
            seq: 1000,
        }
    }

    fn judged(probe: &ServiceProbe, bytes: &[u8]) -> Option<Outcome> {
        probe.heard(&dissect(&Frame::whole(LinkType::ETHERNET, bytes)), 7)
    }

    fn answer(probe: &ServiceProbe, flags: u8, ack: u32) -> Vec<u8> {
        let fields = TcpFields { seq: 5, ack, flags: TcpFlags(flags), ..TcpFields::default() };
        let segment = tcp(probe.to, probe.from, &fields, &[]);
        ethernet(RS, ME, &[], &ip(probe.to.addr, probe.from.addr, 6, IpFields::default(), &segment))
    }

    #[test]
    fn answers_are_told_apart() {
        let p = probe(false);
        assert_eq!(judged(&p, &answer(&p, 0x12, 1001)), Some(Outcome::Serves { by: Some(RS), after: 7 }));
        assert_eq!(judged(&p, &answer(&p, 0x14, 1001)), Some(Outcome::Refuses { by: Some(RS) }));
        assert_eq!(judged(&p, &answer(&p, 0x12, 77)), None, "an answer to somebody else's SYN");
        assert_eq!(judged(&p, &answer(&p, 0x10, 1001)), None, "no answer to a SYN");
    }

    #[test]
    fn a_syn_that_is_forwarded_comes_back() {
        let p = probe(false);
        let fields = TcpFields { seq: 1000, flags: TcpFlags::SYN, ..TcpFields::default() };
        let back = |src| {
            ethernet(
                src,
                ME,
                &[],
                &ip(p.from.addr, p.to.addr, 6, IpFields { ttl: 63, ..IpFields::default() }, &tcp(p.from, p.to, &fields, &[])),
            )
        };
        assert_eq!(judged(&p, &back(RS)), Some(Outcome::SentBack { by: Some(RS) }));
    }

    #[test]
    fn each_wrapping_can_be_read() {
        let local = Local { interface: String::new(), mac: ME, addresses: Vec::new(), gateway: None, own: false, neighbours: Vec::new() };
        let fields = TcpFields { seq: 1000, flags: TcpFlags::SYN, ..TcpFields::default() };
        for (wrap, kind) in [(Wrap::IpIp, TunnelKind::IpIp), (Wrap::Gre, TunnelKind::Gre), (Wrap::Gue(6080), TunnelKind::Gue)] {
            let p = ServiceProbe { wrap, ..probe(true) };
            let bytes = p.frame(&local, &fields);
            let packet = dissect(&Frame::whole(LinkType::ETHERNET, &bytes));
            let tuple = packet.five_tuple().unwrap();
            assert_eq!(
                (packet.tunnels.first().map(|t| (t.kind, t.ends())), tuple.src, tuple.dst),
                (p.tunnel.map(|ends| (kind, ends)), p.from, p.to)
            );
            // Somebody on the way knows nothing of tunnels, and quotes 28 bytes.
            let router: IpAddr = "10.0.0.254".parse().unwrap();
            let error = icmp(router, p.tunnel.unwrap().0, 3, if kind == TunnelKind::Gue { 3 } else { 2 }, 0, &bytes[14..42]);
            let error = ethernet(RS, ME, &[], &ip(router, p.tunnel.unwrap().0, 1, IpFields::default(), &error));
            assert!(matches!(judged(&p, &error), Some(Outcome::Error { by, .. }) if by == router), "{wrap:?}");
        }
    }

    #[test]
    fn errors_quote_the_syn_or_the_tunnel() {
        let local = Local { interface: String::new(), mac: ME, addresses: Vec::new(), gateway: None, own: false, neighbours: Vec::new() };
        let fields = TcpFields { seq: 1000, flags: TcpFlags::SYN, ..TcpFields::default() };
        let (rs, me): (IpAddr, IpAddr) = ("10.0.0.11".parse().unwrap(), "10.0.0.1".parse().unwrap());
        for tunnel in [false, true] {
            let p = probe(tunnel);
            let sent = p.frame(&local, &fields);
            let error = |quote: &[u8]| ethernet(RS, ME, &[], &ip(rs, me, 1, IpFields::default(), &icmp(rs, me, 3, 2, 0, quote)));
            assert_eq!(judged(&p, &error(&sent[14..42])), Some(Outcome::Error { by: rs, kind: (3, 2) }), "tunnel: {tunnel}");
            let other = ServiceProbe { to: "10.9.9.9:80".parse().unwrap(), tunnel: None, ..p.clone() }.frame(&local, &fields);
            assert_eq!(judged(&p, &error(&other[14..42])), None);
        }
    }
}
