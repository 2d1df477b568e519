//! The director on its wires: its own MAC, ARP and neighbour discovery, Ethernet around packets. Pure: frames and time in, frames out.
//!
//! The director answers for its addresses with a MAC of its own, which the kernel of the host knows nothing of: so the host's stack
//! ignores its frames, and nothing is forwarded or refused twice.

mod ethernet;
mod neighbour;
mod onward;
mod resolution;
mod sent;
#[cfg(test)]
mod tests;

pub use sent::{Offload, Sent};

use super::engine::{Engine, Reason};
use crate::ipvs::ForwardingMethod;
use crate::net::{MacAddr, Timestamp};
use crate::packet::{Frame, IpHeader, LinkType, dissect, segments};
use ethernet::{ether_type, macs};
use hashbrown::HashMap;
use neighbour::Neighbour;
use onward::Came;
use sent::{DONE, merged};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// An interface of the director.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The director's MAC on it.
    pub mac: MacAddr,
    /// It has answers for these addresses.
    pub addresses: Vec<IpAddr>,
}

/// What happened, in numbers.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Packets to real servers.
    pub requests: u64,
    /// Packets to clients.
    pub answers: u64,
    /// ICMP errors that the director made.
    pub told: u64,
    /// Packets that were none of its business.
    pub passed: u64,
    /// Frames that could not be read, or were for others.
    pub ignored: u64,
    /// ARP requests and neighbour solicitations answered.
    pub resolved: u64,
    /// Packets that went no further.
    pub dropped: BTreeMap<Reason, u64>,
}

/// The director with its ports.
pub struct Director {
    /// Decides.
    pub engine: Engine,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Also take frames to these MACs for its own (of the director in a capture).
    pub also: Vec<MacAddr>,
    /// Learn neighbours from every frame, not from answers alone (for captures).
    pub learn_from_all: bool,
    /// MACs for those whom nobody has heard of (for captures): made of the address.
    pub invent: bool,
    /// Counted.
    pub tally: Tally,
    neighbours: HashMap<IpAddr, Neighbour>,
}

/// What came of a frame.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Frames to be sent now.
    pub sent: Vec<Sent>,
    /// What became of it, when it got so far as to the engine.
    pub fate: Option<Fate>,
}

/// What became of a packet: the engine's verdict, without the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It went on.
    Forwarded {
        /// To the real server, or to the client.
        to: IpAddr,
        /// How; `None` for what goes to the client.
        method: Option<ForwardingMethod>,
    },
    /// It went no further, and its sender was told so.
    Refused(Reason),
    /// It is for the director's own sockets.
    Local,
    /// It is none of IPVS's business.
    Pass,
    /// A fragment: the rest is waited for.
    Held,
    /// It is gone.
    Dropped(Reason),
}

impl Director {
    /// With these ports. Virtual addresses are answered for on every port.
    pub fn new(engine: Engine, ports: Vec<Port>) -> Director {
        Director {
            engine,
            ports,
            also: Vec::new(),
            learn_from_all: false,
            invent: false,
            tally: Tally::default(),
            neighbours: HashMap::new(),
        }
    }

    /// A frame came in on `port`.
    pub fn frame(&mut self, port: usize, bytes: &[u8], offload: &Offload, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.fate = self.take(port, bytes, offload, now, &mut outcome.sent);
        outcome.sent.iter_mut().for_each(|one| one.join(bytes));
        outcome
    }

    /// The same, with what is to be sent added to what is there already. Of a long frame only the headers are copied ([`Sent::rest`]).
    pub fn take(&mut self, port: usize, bytes: &[u8], offload: &Offload, now: Timestamp, out: &mut Vec<Sent>) -> Option<Fate> {
        let frame = Frame::whole(LinkType::ETHERNET, bytes);
        let Some((dst, src)) = macs(bytes) else { return self.ignore() };
        let own = self.ports.get(port)?.mac;
        if src == own {
            return None;
        }
        let for_us = dst == own || self.also.contains(&dst);
        if !for_us && !dst.is_group() && !self.learn_from_all {
            return self.ignore();
        }
        let Some((ether_type, at, vlans)) = ether_type(bytes) else { return self.ignore() };
        match ether_type {
            0x0806 => {
                self.arp(port, &dissect(&frame), now, out);
                None
            }
            0x0800 | 0x86dd => {
                let packet = &bytes[at..];
                if ether_type == 0x86dd && packet.get(6) == Some(&58) && self.discovery(port, &dissect(&frame), src, now, out) {
                    return None;
                }
                if self.learn_from_all
                    && let Some(header) = IpHeader::read(packet)
                {
                    self.learn_passively(header.src, src, &vlans, now);
                }
                if !for_us {
                    return self.ignore();
                }
                // Nobody could cut a merged packet once it is in a tunnel.
                match merged(offload).filter(|_| self.engine.tunnels(packet)) {
                    Some(size) => {
                        let parts = segments(packet, size);
                        parts.iter().map(|part| self.packet(Came { frame: part, at: 0, kept: false }, &DONE, now, out)).last()
                    }
                    None => Some(self.packet(Came { frame: bytes, at, kept: true }, offload, now, out)),
                }
            }
            _ => self.ignore(),
        }
    }

    fn ignore(&mut self) -> Option<Fate> {
        self.tally.ignored += 1;
        None
    }
}
