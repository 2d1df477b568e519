//! Who claims which address: ARP, neighbour discovery, VRRP.

use crate::net::{MacAddr, Timestamp};
use crate::packet::{Arp, IcmpKind, Neighbour, Vrrp};
use hashbrown::HashMap;
use std::net::IpAddr;

/// How an address was spoken for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ClaimKind {
    /// An answer to a question: ARP reply, solicited neighbour advertisement.
    Reply,
    /// Announced unasked: gratuitous ARP, unsolicited advertisement.
    Announcement,
    /// The sender address of a question about another address. It updates the caches of those who hear it.
    Sender,
    /// A probe: is this address taken? (ARP with sender 0.0.0.0; duplicate address detection.) No claim yet.
    Probe,
}

/// "This address is at this MAC", as heard at one capture point, each time in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Number of the capture point.
    pub point: u32,
    /// The address.
    pub addr: IpAddr,
    /// The MAC that is said to have it.
    pub mac: MacAddr,
    /// In which way.
    pub kind: ClaimKind,
    /// For a reply: who had asked. For a sender: the address it asked about.
    pub about: Option<IpAddr>,
    /// How often.
    pub times: Occurrences,
}

impl Claim {
    /// True when it says "I have it", in whatever way; false for a mere probe.
    pub fn is_earnest(&self) -> bool {
        self.kind != ClaimKind::Probe
    }
}

/// A question: who has this address?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Number of the capture point.
    pub point: u32,
    /// The address asked about.
    pub target: IpAddr,
    /// MAC of who asks.
    pub mac: MacAddr,
    /// Address of who asks; `None` in a probe.
    pub asker: Option<IpAddr>,
    /// Sent to one host instead of all: a check whether a known neighbour is still there.
    pub unicast: bool,
    /// How often.
    pub times: Occurrences,
}

/// A VRRP speaker at one capture point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertiser {
    /// Number of the capture point.
    pub point: u32,
    /// Its MAC, where the link has one.
    pub mac: Option<MacAddr>,
    /// Its own address.
    pub addr: IpAddr,
    /// What it says; the addresses it backs up are among it.
    pub vrrp: Vrrp,
    /// How often.
    pub times: Occurrences,
}

/// When something was seen, with frame numbers: the first few, and the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrences {
    /// How often in all.
    pub count: u64,
    /// The first few, in order.
    pub first: Vec<(u64, Timestamp)>,
    /// The last.
    pub last: (u64, Timestamp),
}

/// So many occurrences are kept one by one: enough for evidence and for telling the order of events.
const KEPT: usize = 32;

/// Of VRRP speakers, which are few and speak every second: who spoke while another one did must not be guessed.
const ADVERTS_KEPT: usize = 1024;

impl Occurrences {
    pub(super) fn at(at: At) -> Self {
        Occurrences { count: 1, first: vec![(at.frame, at.time)], last: (at.frame, at.time) }
    }

    pub(super) fn push(&mut self, at: At) {
        self.push_up_to(at, KEPT);
    }

    fn push_up_to(&mut self, at: At, kept: usize) {
        self.count += 1;
        if self.first.len() < kept {
            self.first.push((at.frame, at.time));
        }
        self.last = (at.frame, at.time);
    }

    /// Frame numbers for evidence.
    pub fn frames(&self) -> Vec<u64> {
        self.first.iter().map(|(frame, _)| *frame).collect()
    }

    /// The first time.
    pub fn since(&self) -> Timestamp {
        self.first.first().map_or(self.last.1, |(_, time)| *time)
    }
}

/// What all points heard about addresses.
#[derive(Clone, Default, Debug)]
pub struct Claims {
    /// Claims, in the order in which they were first heard.
    pub claims: Vec<Claim>,
    /// Questions, in that order.
    pub questions: Vec<Question>,
    /// VRRP speakers.
    pub advertisers: Vec<Advertiser>,
    index: HashMap<(u32, IpAddr, MacAddr, ClaimKind, Option<IpAddr>), usize>,
    asked: HashMap<(u32, IpAddr, MacAddr, Option<IpAddr>, bool), usize>,
    /// Left out because a hostile capture had too many different ones.
    pub left_out: u64,
}

/// The same question again within this time, in nanoseconds, is a copy of the frame; nobody repeats one before a second has passed (the
/// kernel's `retrans_time`).
const COPY: i64 = 5_000_000;

/// Different claims and questions kept of each; a real network has a few hundred.
const MOST: usize = 100_000;

/// Where and when a frame was seen.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) point: u32,
    pub(super) frame: u64,
    pub(super) time: Timestamp,
}

impl Claims {
    /// MACs that asked or said anything.
    pub(super) fn speakers(&self) -> impl Iterator<Item = MacAddr> {
        self.claims.iter().map(|c| c.mac).chain(self.questions.iter().map(|q| q.mac))
    }

    pub(super) fn arp(&mut self, at: At, arp: &Arp, frame_dst: Option<MacAddr>) {
        let (sender, target) = (IpAddr::V4(arp.sender), IpAddr::V4(arp.target));
        let unicast = frame_dst.is_some_and(MacAddr::is_unicast);
        match arp.operation {
            _ if arp.is_gratuitous() => self.claim(at, sender, arp.sender_mac, ClaimKind::Announcement, None),
            1 if arp.sender.is_unspecified() => self.question(at, target, arp.sender_mac, None, unicast),
            1 => {
                self.question(at, target, arp.sender_mac, Some(sender), unicast);
                self.claim(at, sender, arp.sender_mac, ClaimKind::Sender, Some(target));
            }
            2 => self.claim(at, sender, arp.sender_mac, ClaimKind::Reply, Some(target)),
            _ => {}
        }
    }

    /// Neighbour discovery; `src` is the IP source, `mac` the frame's.
    pub(super) fn neighbour(&mut self, at: At, kind: IcmpKind, src: IpAddr, dst: IpAddr, frame: (Option<MacAddr>, Option<MacAddr>)) {
        let multicast = matches!(dst, IpAddr::V6(a) if a.is_multicast());
        let said = |n: &Neighbour| n.mac.or(frame.0);
        match kind {
            IcmpKind::Solicitation(n) => {
                let Some(mac) = said(&n) else { return };
                let unspecified = src.is_unspecified();
                self.question(at, n.target.into(), mac, (!unspecified).then_some(src), !multicast);
                if unspecified {
                    self.claim(at, n.target.into(), mac, ClaimKind::Probe, None);
                } else {
                    self.claim(at, src, mac, ClaimKind::Sender, Some(n.target.into()));
                }
            }
            IcmpKind::Advertisement(n) => {
                let Some(mac) = said(&n) else { return };
                let kind = if multicast { ClaimKind::Announcement } else { ClaimKind::Reply };
                self.claim(at, n.target.into(), mac, kind, (!multicast).then_some(dst));
            }
            _ => {}
        }
    }

    pub(super) fn vrrp(&mut self, at: At, mac: Option<MacAddr>, addr: IpAddr, vrrp: &Vrrp) {
        if let Some(known) = self.advertisers.iter_mut().find(|a| a.point == at.point && a.mac == mac && a.addr == addr && a.vrrp == *vrrp)
        {
            return known.times.push_up_to(at, ADVERTS_KEPT);
        }
        if self.advertisers.len() < 1000 {
            let times = Occurrences::at(at);
            self.advertisers.push(Advertiser { point: at.point, mac, addr, vrrp: vrrp.clone(), times });
        } else {
            self.left_out += 1;
        }
    }

    fn claim(&mut self, at: At, addr: IpAddr, mac: MacAddr, kind: ClaimKind, about: Option<IpAddr>) {
        match self.index.get(&(at.point, addr, mac, kind, about)) {
            Some(&known) => self.claims[known].times.push(at),
            None if self.claims.len() < MOST => {
                self.index.insert((at.point, addr, mac, kind, about), self.claims.len());
                self.claims.push(Claim { point: at.point, addr, mac, kind, about, times: Occurrences::at(at) });
            }
            None => self.left_out += 1,
        }
    }

    fn question(&mut self, at: At, target: IpAddr, mac: MacAddr, asker: Option<IpAddr>, unicast: bool) {
        match self.asked.get(&(at.point, target, mac, asker, unicast)) {
            // A bridge and its port, or both ends of a wire, in one capture: asked once.
            Some(&known) if (0..COPY).contains(&(at.time - self.questions[known].times.last.1)) => {}
            Some(&known) => self.questions[known].times.push(at),
            None if self.questions.len() < MOST => {
                self.asked.insert((at.point, target, mac, asker, unicast), self.questions.len());
                self.questions.push(Question { point: at.point, target, mac, asker, unicast, times: Occurrences::at(at) });
            }
            None => self.left_out += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_question_are_one() {
        let mut claims = Claims::default();
        let (asker, target) = ("10.2.0.1".parse().unwrap(), "10.2.0.100".parse().unwrap());
        for (frame, micros) in [(1, 0), (2, 60), (3, 1_000_000), (4, 1_004_000), (5, 1_900_000)] {
            let at = At { point: 0, frame, time: Timestamp(micros * 1000) };
            claims.question(at, target, MacAddr([2, 0, 0, 0, 0, 1]), Some(asker), false);
        }
        assert_eq!(claims.questions[0].times.frames(), [1, 3, 5]);
    }
}
