//! The way of a packet, hop by hop, and what changed between two hops.

use super::place::Place;
use super::store::Store;
use super::table::PacketKind;
use super::transit::{Course, Transit};
use crate::net::{Endpoint, MacAddr, Timestamp};
use crate::packet::{TunnelKind, Vlans};
use std::fmt;
use std::net::IpAddr;

/// Number of a host in [`super::Trace::hosts`].
pub type HostId = usize;

/// The first packet of one direction of a flow, at each place where it was seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path {
    /// In the order travelled.
    pub hops: Vec<Hop>,
    /// Where packets of this direction were seen off that way: after an ARP cache changed, a redirect, a failover.
    pub strays: Vec<Hop>,
}

/// A packet at a capture point.
#[derive(Clone, Debug, PartialEq)]
pub struct Hop {
    /// Number of the capture point.
    pub point: u32,
    /// Frame number in that point's file.
    pub frame: u64,
    /// On that point's clock.
    pub time: Timestamp,
    /// When the last packet of this direction was seen here, to a millisecond.
    pub last: Timestamp,
    /// Source MAC.
    pub src_mac: Option<MacAddr>,
    /// Destination MAC.
    pub dst_mac: Option<MacAddr>,
    /// VLAN tags.
    pub vlans: Vlans,
    /// Source address and port; inside a tunnel the inner ones.
    pub src: Endpoint,
    /// Destination address and port; inside a tunnel the inner ones.
    pub dst: Endpoint,
    /// Time to live; inside a tunnel the inner one.
    pub ttl: u8,
    /// Around it: kind of tunnel, outer source, outer destination.
    pub outer: Option<(TunnelKind, IpAddr, IpAddr)>,
    /// What the last forwarder changed. Empty at the first hop, and where the same frame is seen again.
    pub rewrites: Vec<Rewrite>,
    /// The host that put it on this link, as far as known.
    pub from: Option<HostId>,
    /// The host that it is for on this link, as far as known.
    pub to: Option<HostId>,
    /// The host that the capture point is on, as far as known.
    pub at: Option<HostId>,
    /// Hops with the same number show the same frame on the same link.
    pub transit: usize,
    /// Which end of the link the capture point is: the sender's (`true`), the receiver's (`false`), or not known.
    pub at_sender: Option<bool>,
    /// What the first packet here was.
    pub first: PacketKind,
    /// Packets of this direction seen here.
    pub packets: u32,
    /// TCP: the sequence number after the last byte seen here.
    pub high_seq: u32,
    /// Kinds of packets seen here.
    pub seen: PacketKinds,
    /// Data packets seen again here.
    pub repeats: u8,
    /// Maximum segment size announced by the SYN or SYN-ACK seen here.
    pub mss: Option<u16>,
    /// A FULLNAT balancer's option with the client's address was seen here.
    pub toa: bool,
    /// Payload bytes of the longest packet of this direction seen here; 65,535 for longer ones.
    pub longest: u16,
}

impl PacketKind {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            PacketKind::Syn => "SYN",
            PacketKind::SynAck => "SYN-ACK",
            PacketKind::Reset => "RST",
            PacketKind::Fin => "FIN",
            PacketKind::Data => "data",
            PacketKind::Ack => "ACK",
        }
    }
}

/// A set of [`PacketKind`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PacketKinds(u8);

impl PacketKinds {
    pub(super) fn new(bits: u8) -> Self {
        PacketKinds(bits & 0x3f)
    }

    /// True when packets of this kind were seen.
    pub fn has(self, kind: PacketKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

/// A change between two hops, in the words of the JSON report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rewrite {
    /// Source MAC.
    SrcMac,
    /// Destination MAC.
    DstMac,
    /// Source address.
    SrcIp,
    /// Destination address.
    DstIp,
    /// Source port.
    SrcPort,
    /// Destination port.
    DstPort,
    /// TTL.
    Ttl,
    /// VLAN tags.
    Vlan,
    /// Put into a tunnel.
    Encap(TunnelKind),
    /// Taken out of a tunnel.
    Decap,
    /// The maximum segment size of a SYN.
    Mss,
    /// A TCP option was inserted or removed.
    TcpOption,
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Rewrite::SrcMac => "src-mac",
            Rewrite::DstMac => "dst-mac",
            Rewrite::SrcIp => "src-ip",
            Rewrite::DstIp => "dst-ip",
            Rewrite::SrcPort => "src-port",
            Rewrite::DstPort => "dst-port",
            Rewrite::Ttl => "ttl",
            Rewrite::Vlan => "vlan",
            Rewrite::Encap(kind) => return f.pad(&format!("encap-{kind}")),
            Rewrite::Decap => "decap",
            Rewrite::Mss => "mss",
            Rewrite::TcpOption => "tcp-option",
        };
        f.pad(word)
    }
}

impl Path {
    /// The hop before which nothing was seen.
    pub fn first(&self) -> Option<&Hop> {
        self.hops.first()
    }

    /// The hop after which nothing was seen.
    pub fn last(&self) -> Option<&Hop> {
        self.hops.last()
    }

    /// True when the packet was nowhere seen.
    pub fn is_empty(&self) -> bool {
        self.hops.is_empty()
    }

    /// Where `host` received it: the hop at the host's own end of the link.
    pub fn received_by(&self, host: HostId) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.to == Some(host) && hop.at_sender == Some(false))
    }

    /// Hops on links towards `host`, wherever they were seen.
    pub fn towards(&self, host: HostId) -> impl Iterator<Item = &Hop> {
        self.hops.iter().filter(move |hop| hop.to == Some(host))
    }

    /// The first hop on the link over which `host` sent it on.
    pub fn sent_by(&self, host: HostId) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.from == Some(host))
    }

    /// One hop of each link, in order: its first sighting.
    pub fn links(&self) -> impl Iterator<Item = &Hop> {
        let mut before = usize::MAX;
        self.hops.iter().filter(move |hop| std::mem::replace(&mut before, hop.transit) != hop.transit)
    }
}

pub(super) fn path(store: &Store, places: &[Place], course: &Course) -> Path {
    let mut hops: Vec<Hop> = Vec::with_capacity(course.main.iter().map(|transit| transit.spots.len()).sum());
    for (number, transit) in course.main.iter().enumerate() {
        let from = hops.len();
        hops.extend(hops_of(store, places, transit, number));
        if let (Some(at), Some(before)) = (hops.get(from), from.checked_sub(1).and_then(|before| hops.get(before))) {
            hops[from].rewrites = rewrites(&before.shape(), &at.shape());
        }
        for i in from + 1..hops.len() {
            if hops[i].vlans != hops[i - 1].vlans {
                hops[i].rewrites = vec![Rewrite::Vlan];
            }
        }
    }
    let strays = course.strays.iter().enumerate().flat_map(|(i, t)| hops_of(store, places, t, course.main.len() + i)).collect();
    Path { hops, strays }
}

fn hops_of<'a>(store: &'a Store, places: &'a [Place], transit: &'a Transit, number: usize) -> impl Iterator<Item = Hop> + 'a {
    transit.spots.iter().map(move |spot| {
        let (wire, place) = (store.wire(spot.wire), &places[spot.wire as usize]);
        let tuple = store.addresses.expand(spot.tuple);
        Hop {
            point: spot.point,
            frame: spot.frame.into(),
            time: Timestamp(spot.time),
            last: Timestamp(spot.last.max(spot.time)),
            src_mac: wire.src,
            dst_mac: wire.dst,
            vlans: wire.vlans,
            src: tuple.src,
            dst: tuple.dst,
            ttl: spot.ttl,
            outer: wire.tunnel,
            rewrites: Vec::new(),
            from: place.from,
            to: place.to,
            at: place.at,
            transit: number,
            at_sender: place.at_sender,
            first: spot.first,
            packets: spot.packets,
            high_seq: spot.high_seq,
            seen: PacketKinds::new(spot.seen.0),
            repeats: spot.repeats,
            mss: (spot.mss != 0).then_some(spot.mss),
            toa: spot.seen.toa(),
            longest: spot.longest,
        }
    })
}

/// What of a packet a forwarder may change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) src_mac: Option<MacAddr>,
    pub(super) dst_mac: Option<MacAddr>,
    pub(super) vlans: Vlans,
    pub(super) src: Endpoint,
    pub(super) dst: Endpoint,
    pub(super) ttl: u8,
    pub(super) outer: Option<(TunnelKind, IpAddr, IpAddr)>,
    pub(super) mss: Option<u16>,
    pub(super) toa: bool,
}

impl Hop {
    fn shape(&self) -> Shape {
        let Hop { src_mac, dst_mac, vlans, src, dst, ttl, outer, mss, toa, .. } = *self;
        Shape { src_mac, dst_mac, vlans, src, dst, ttl, outer, mss, toa }
    }
}

/// What changed between two sightings.
pub(super) fn rewrites(a: &Shape, b: &Shape) -> Vec<Rewrite> {
    let known = |a: Option<MacAddr>, b: Option<MacAddr>| a.is_some() && b.is_some() && a != b;
    let changes = [
        (known(a.src_mac, b.src_mac), Rewrite::SrcMac),
        (known(a.dst_mac, b.dst_mac), Rewrite::DstMac),
        (a.src.addr != b.src.addr, Rewrite::SrcIp),
        (a.dst.addr != b.dst.addr, Rewrite::DstIp),
        (a.src.port != b.src.port, Rewrite::SrcPort),
        (a.dst.port != b.dst.port, Rewrite::DstPort),
        (a.ttl != b.ttl, Rewrite::Ttl),
        (a.vlans != b.vlans, Rewrite::Vlan),
        (a.outer.is_some() && b.outer.is_none(), Rewrite::Decap),
        (a.mss.is_some() && b.mss.is_some() && a.mss != b.mss, Rewrite::Mss),
        (a.toa != b.toa, Rewrite::TcpOption),
    ];
    let mut rewrites: Vec<Rewrite> = changes.into_iter().filter(|(changed, _)| *changed).map(|(_, rewrite)| rewrite).collect();
    if let (true, Some((kind, ..))) = (a.outer != b.outer, b.outer) {
        rewrites.push(Rewrite::Encap(kind));
    }
    rewrites
}
