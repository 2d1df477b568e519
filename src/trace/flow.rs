//! One connection, both directions, from end to end.

use super::path::{HostId, Path};
use super::table::NoteKind;
use crate::net::{Endpoint, Protocol, Timestamp};
use crate::packet::IcmpKind;
use std::fmt;
use std::net::IpAddr;

/// A connection with all its sightings.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// From 1, in the order in which the flows began.
    pub id: u32,
    /// Number of its group in [`super::Trace::groups`].
    pub group: usize,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Who opened it, as seen nearest to the client.
    pub client: Endpoint,
    /// What the client dialled.
    pub service: Endpoint,
    /// The virtual service at the director; differs from `service` behind a router that translates.
    pub vip: Option<Endpoint>,
    /// The real server; with direct routing and tunnels its address, found by its MAC or the outer header, with the service's port.
    pub real_server: Option<Endpoint>,
    /// How the director handed it on.
    pub method: Method,
    /// How far it came.
    pub state: FlowState,
    /// It was open, and then its data did not get through any more, in this direction.
    pub stalled: Option<Way>,
    /// The client's packets.
    pub request: Path,
    /// The server's packets.
    pub reply: Path,
    /// The host of the client.
    pub client_host: Option<HostId>,
    /// The host that balanced it.
    pub director: Option<HostId>,
    /// The host that it was handed to in the end.
    pub server_host: Option<HostId>,
    /// Hosts on the way that forwarded it and are not the director.
    pub routers: Vec<HostId>,
    /// Its beginning was captured: a SYN, an INIT; for protocols without one the first packet counts.
    pub from_start: bool,
    /// TCP sequence numbers that began it: the client's, the server's.
    pub isn: (Option<u32>, Option<u32>),
    /// First packet, on the common clock.
    pub first: Timestamp,
    /// Last packet, on the common clock, to a millisecond.
    pub last: Timestamp,
    /// Packets worth knowing of, in the order of time.
    pub notes: Vec<FlowNote>,
    /// ICMP errors about it.
    pub errors: Vec<FlowError>,
    /// Sightings of flooded frames that are no hops.
    pub flooded: usize,
    /// The first of them: capture point, frame number, time on that point's clock.
    pub flooded_at: Option<(u32, u64, Timestamp)>,
    /// Part of it fitted several flows equally well and was left out.
    pub ambiguous: bool,
}

/// How a connection was handed to its server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Method {
    /// LVS-NAT: destination translated, answers come back through the director.
    Nat,
    /// LVS-DR: only MACs changed.
    DirectRouting,
    /// LVS-TUN.
    Tunnel,
    /// Both addresses and the client's port translated.
    FullNat,
    /// Served by the director itself.
    Local,
    /// No director took part.
    Direct,
    /// Not to be told from what was captured.
    Unknown,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Method::Nat => "nat",
            Method::DirectRouting => "dr",
            Method::Tunnel => "tun",
            Method::FullNat => "fullnat",
            Method::Local => "local",
            Method::Direct => "direct",
            Method::Unknown => "unknown",
        })
    }
}

/// How far a connection came, as seen from all points together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FlowState {
    /// A SYN, and then the captures end too soon to say more.
    SynOnly,
    /// Asked, perhaps several times, and never answered.
    Unanswered,
    /// Answered by the server, but the client never went on.
    HalfOpen,
    /// Refused: RST, or ICMP port or protocol unreachable.
    Refused,
    /// ICMP said that the way ends.
    Unreachable,
    /// Open.
    Established,
    /// Was open, and was reset.
    Reset,
    /// Was open, and was closed.
    Closed,
    /// Without connections (UDP, echo): answered.
    Answered,
}

impl FlowState {
    /// True when the client got what it wanted, as far as packets tell.
    pub fn is_complete(self) -> bool {
        matches!(self, FlowState::Established | FlowState::Closed | FlowState::Answered)
    }
}

impl fmt::Display for FlowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FlowState::SynOnly => "syn-only",
            FlowState::Unanswered => "unanswered",
            FlowState::HalfOpen => "half-open",
            FlowState::Refused => "refused",
            FlowState::Unreachable => "unreachable",
            FlowState::Established => "established",
            FlowState::Reset => "reset",
            FlowState::Closed => "closed",
            FlowState::Answered => "answered",
        })
    }
}

/// Which way a packet went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Way {
    /// From the client.
    Request,
    /// To the client.
    Reply,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Way::Request { "request" } else { "reply" })
    }
}

/// A packet worth knowing of.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowNote {
    /// Why.
    pub kind: NoteKind,
    /// Its direction.
    pub way: Way,
    /// Where it was seen.
    pub point: u32,
    /// Its frame number there.
    pub frame: u64,
    /// On that point's clock.
    pub time: Timestamp,
    /// Its source.
    pub src: Endpoint,
    /// Its destination.
    pub dst: Endpoint,
    /// The host that sent it over that link.
    pub from: Option<HostId>,
    /// The host that it was for on that link.
    pub to: Option<HostId>,
    /// TCP sequence number.
    pub seq: u32,
    /// Payload bytes; for [`NoteKind::AfterSilence`] the silence in milliseconds, for [`NoteKind::SynRepeat`] its timestamp, 0 without one.
    pub len: u32,
    /// TTL.
    pub ttl: u8,
}

/// An ICMP error about a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowError {
    /// Where it was seen.
    pub point: u32,
    /// Frame numbers there.
    pub frames: Vec<u64>,
    /// The first time, on that point's clock.
    pub time: Timestamp,
    /// How often.
    pub count: u64,
    /// Who says it.
    pub src: IpAddr,
    /// To whom.
    pub dst: IpAddr,
    /// The host that sent it over that link.
    pub from: Option<HostId>,
    /// The host that it was for on that link.
    pub to: Option<HostId>,
    /// Which end of the link the capture point is; `true` is the sender's.
    pub at_sender: Option<bool>,
    /// Its TTL.
    pub ttl: u8,
    /// What it says.
    pub kind: IcmpKind,
    /// ICMP type number.
    pub type_number: u8,
    /// ICMP code number.
    pub code: u8,
    /// It is about a packet of this direction.
    pub about: Way,
    /// The destination that the quoted packet had: before or after a rewrite.
    pub quoted_dst: Endpoint,
    /// The quoted packet was inside a tunnel.
    pub tunnelled: bool,
    /// Total length of the quoted packet in bytes.
    pub quoted_len: u32,
}

impl FlowError {
    /// What it says: `port unreachable`, `fragmentation needed, mtu 1480`.
    pub fn words(&self) -> String {
        let known = match (self.type_number, self.code) {
            (3, 0) | (1, 0) => "net unreachable",
            (3, 1) | (1, 3) => "host unreachable",
            (3, 2) => "protocol unreachable",
            (3, 3) | (1, 4) => "port unreachable",
            (3, 9 | 10 | 13) | (1, 1) => "administratively prohibited",
            _ => "",
        };
        match self.kind {
            IcmpKind::TooBig { mtu } => format!("fragmentation needed, mtu {mtu}"),
            IcmpKind::TimeExceeded => "time exceeded".to_string(),
            IcmpKind::Redirect { gateway } => format!("redirect to {gateway}"),
            _ if known.is_empty() => format!("type {} code {}", self.type_number, self.code),
            _ => known.to_string(),
        }
    }

    /// Destination or protocol or port unreachable, of the kind that refuses a connection.
    pub fn refuses(&self) -> bool {
        self.kind == IcmpKind::Unreachable && matches!((self.type_number, self.code), (3, 2 | 3) | (1, 4))
    }
}

impl Flow {
    /// How far it came, as people say it: what has no SYN, or was open and came to a standstill, too.
    pub fn outcome(&self) -> String {
        let handshake = matches!(self.protocol, Protocol::Tcp | Protocol::Sctp);
        match self.state {
            _ if self.stalled.is_some() => "stalled".to_string(),
            FlowState::SynOnly if !handshake => "request only".to_string(),
            state => state.to_string(),
        }
    }

    /// The notes of one kind.
    pub fn noted(&self, kind: NoteKind) -> impl Iterator<Item = &FlowNote> {
        self.notes.iter().filter(move |note| note.kind == kind)
    }

    /// How often the client sent its SYN, as seen at the point that saw most of them.
    pub fn attempts(&self) -> usize {
        let mut most = 0;
        for hop in &self.request.hops {
            most =
                most.max(self.noted(NoteKind::SynRepeat).filter(|n| n.point == hop.point && n.src == hop.src && n.dst == hop.dst).count());
        }
        most + 1
    }

    /// Whether an answer was seen on its way to the client on the client's own link; `None` when nothing was captured there.
    pub fn reply_reached_client(&self) -> Option<bool> {
        let client = self.client_host?;
        let captured = self.request.hops.iter().any(|hop| hop.from == Some(client));
        let reached = self.reply.hops.iter().any(|hop| hop.to == Some(client));
        (captured || reached).then_some(reached)
    }

    /// True when any packet of the server was seen anywhere.
    pub fn is_answered(&self) -> bool {
        !self.reply.is_empty() || !self.reply.strays.is_empty()
    }
}
