//! Who answers for an address: ARP (RFC 826) and neighbour discovery (RFC 4861) asked, and all answers heard, not only the first.

use super::{Ear, Local, now};
use crate::capture::WireError;
use crate::net::{MacAddr, Timestamp};
use crate::packet::build::{arp, solicitation};
use crate::packet::{IcmpKind, Network, Packet, Transport};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How often, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Questions.
    pub count: u32,
    /// Between two of them, and after the last.
    pub wait: Duration,
    /// The first answer is enough.
    pub first: bool,
}

/// How somebody made itself heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// It answered this question.
    Answer,
    /// It said so without being asked: gratuitous ARP, unsolicited advertisement, a question asked from that address, an answer to another.
    Announcement,
}

/// Somebody who claims the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The MAC that it claims the address for.
    pub mac: MacAddr,
    /// The MAC that its frames come from, where that is another one.
    pub sent_by: Option<MacAddr>,
    /// For each question that it answered, how long that took, in nanoseconds.
    pub answers: Vec<i64>,
    /// What it said unasked.
    pub announcements: u32,
}

/// What came of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Questions that were sent.
    pub asked: u32,
    /// Who claims the address, in the order in which they were heard.
    pub claimants: Vec<Claimant>,
}

impl Resolution {
    /// Asks.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, and when the interface is down.
    pub fn ask(local: &Local, addr: IpAddr, pace: Pace) -> Result<Resolution, WireError> {
        let mut ear = Ear::open(&local.interface)?;
        let question = question(local, addr);
        let mut found = Resolution::default();
        for _ in 0..pace.count {
            let (sent, until) = (now(), Instant::now() + pace.wait);
            ear.say(&question)?;
            found.asked += 1;
            let whole = ear.listen(until, |packet, time| {
                let heard = heard(packet, addr, local);
                if let Some((mac, voice)) = heard {
                    found.add(mac, packet.link.src, voice, sent, time);
                }
                !(pace.first && matches!(heard, Some((_, Voice::Answer))))
            })?;
            if !whole {
                break;
            }
        }
        Ok(found)
    }

    fn add(&mut self, mac: MacAddr, frame: Option<MacAddr>, voice: Voice, sent: Timestamp, time: Timestamp) {
        let at = self.claimants.iter().position(|known| known.mac == mac).unwrap_or_else(|| {
            let sent_by = frame.filter(|src| *src != mac);
            self.claimants.push(Claimant { mac, sent_by, answers: Vec::new(), announcements: 0 });
            self.claimants.len() - 1
        });
        match voice {
            Voice::Answer => self.claimants[at].answers.push((time - sent).max(0)),
            Voice::Announcement => self.claimants[at].announcements += 1,
        }
    }

    /// Those who answered.
    pub fn answerers(&self) -> impl Iterator<Item = &Claimant> {
        self.claimants.iter().filter(|claimant| !claimant.answers.is_empty())
    }
}

/// The frame that asks.
fn question(local: &Local, addr: IpAddr) -> Vec<u8> {
    let from = local.source(addr);
    match addr {
        IpAddr::V4(addr) => {
            let from = match from {
                Some(IpAddr::V4(from)) => from,
                // Without an address of its own it is a probe (RFC 5227), which is answered as well.
                _ => Ipv4Addr::UNSPECIFIED,
            };
            arp(MacAddr::BROADCAST, 1, (local.mac, from), (MacAddr::ZERO, addr), &[])
        }
        IpAddr::V6(addr) => {
            let from = match from {
                Some(IpAddr::V6(from)) => from,
                _ => Ipv6Addr::UNSPECIFIED,
            };
            solicitation(local.mac, from, addr)
        }
    }
}

/// Who claims the address in this packet, and how.
fn heard(packet: &Packet<'_>, addr: IpAddr, local: &Local) -> Option<(MacAddr, Voice)> {
    let (mac, to_us) = match (&packet.network, &packet.transport, addr) {
        (Network::Arp(arp), _, IpAddr::V4(addr)) if arp.sender == addr => (arp.sender_mac, arp.operation == 2 && !arp.is_gratuitous()),
        (Network::Ip(ip), Transport::Icmp(message), IpAddr::V6(addr)) => match message.kind {
            IcmpKind::Advertisement(said) if said.target == addr => (said.mac.or(packet.link.src)?, ip.dst != IpAddr::V6(ALL_NODES)),
            IcmpKind::Solicitation(_) if ip.src == IpAddr::V6(addr) => (packet.link.src?, false),
            _ => return None,
        },
        _ => return None,
    };
    if mac == local.mac {
        return None;
    }
    // An answer to a probe from nowhere goes to all of IPv6's nodes.
    let to_us = to_us && packet.link.dst == Some(local.mac) || addr.is_ipv6() && local.source(addr).is_none();
    Some((mac, if to_us { Voice::Answer } else { Voice::Announcement }))
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::build::advertisement;
    use crate::packet::{Frame, LinkType, dissect};

    const ME: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const RS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn local() -> Local {
        let addresses = ["10.0.0.1/24", "2001:db8::1/64"].map(|p| p.parse().unwrap()).to_vec();
        Local { interface: "eth0".into(), mac: ME, addresses, gateway: None, own: false, neighbours: Vec::new() }
    }

    fn judged(bytes: &[u8], addr: &str) -> Option<(MacAddr, Voice)> {
        heard(&dissect(&Frame::whole(LinkType::ETHERNET, bytes)), addr.parse().unwrap(), &local())
    }

    #[test]
    fn arp_is_heard() {
        let (vip, me) = ("10.0.0.80".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert_eq!(judged(&arp(ME, 2, (RS, vip), (ME, me), &[]), "10.0.0.80"), Some((RS, Voice::Answer)));
        assert_eq!(judged(&arp(MacAddr::BROADCAST, 1, (RS, vip), (MacAddr::ZERO, vip), &[]), "10.0.0.80"), Some((RS, Voice::Announcement)));
        assert_eq!(judged(&arp(MacAddr::BROADCAST, 2, (RS, vip), (RS, vip), &[]), "10.0.0.80"), Some((RS, Voice::Announcement)));
        assert_eq!(judged(&arp(RS, 2, (ME, vip), (RS, me), &[]), "10.0.0.80"), None, "this host itself");
        assert_eq!(judged(&arp(ME, 2, (RS, me), (ME, me), &[]), "10.0.0.80"), None, "another address");
    }

    #[test]
    fn questions_can_be_read() {
        let bytes = question(&local(), "10.0.0.80".parse().unwrap());
        let frame = |bytes| Frame::whole(LinkType::ETHERNET, bytes);
        assert_eq!(dissect(&frame(&bytes)).to_string(), "ARP, Request who-has 10.0.0.80 tell 10.0.0.1");
        let bytes = question(&local(), "2001:db8::ab:cdef".parse().unwrap());
        let packet = dissect(&frame(&bytes));
        assert_eq!(packet.link.dst, Some(MacAddr([0x33, 0x33, 0xff, 0xab, 0xcd, 0xef])));
        assert!(
            packet.to_string().starts_with("IP6 2001:db8::1 > ff02::1:ffab:cdef: ICMP6 neighbor solicitation, who has 2001:db8::ab:cdef"),
            "{packet}"
        );
    }

    #[test]
    fn advertisements_are_heard() {
        let (vip, me): (Ipv6Addr, Ipv6Addr) = ("2001:db8::80".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(judged(&advertisement(RS, vip, Some((ME, me))), "2001:db8::80"), Some((RS, Voice::Answer)));
        assert_eq!(judged(&advertisement(RS, vip, None), "2001:db8::80"), Some((RS, Voice::Announcement)));
    }
}
