//! Bytes ⇄ headers. The only room that knows etherparse.
//!
//! [`dissect`] turns a [`Frame`] into a [`Packet`]: the layers that could be understood, and where and why understanding stopped.
//! It never fails. Common headers (Ethernet, VLAN, IPv4, IPv6, TCP, UDP) are read by hand because every packet of a large capture
//! passes here; unusual ones (IPv6 extension headers, TCP options) go through etherparse, which is also the oracle of the differential
//! test.
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

mod checksum;
mod dissect;
mod frame;
mod glance;
mod icmp;
mod ip;
mod link;
mod notation;
mod rewrite;
mod tcp;
mod transport;
mod tunnel;

pub mod build;

pub use checksum::{ChecksumState, adjust, checksum, checksum_state, fold, is_partial, pseudo_sum, rewrite_invariant, sum};
pub use dissect::{Packet, Stop, StopReason, dissect};
pub use frame::{Frame, Heading, LinkType};
pub use glance::{Addresses, Glance, PlainIp, PlainTransport, glance, glance_tcp};
pub use icmp::{Icmp, IcmpKind, Neighbour};
pub use ip::{Arp, Fragment, Ip, Network};
pub use link::{Link, Vlans};
pub use rewrite::{
    IcmpError, IpHeader, Outer, OuterKind, Side, decrement_ttl, encapsulate, fragment, fragment_payload, header_checksum_is_good,
    icmp_error, quoted, reassembled, segment_len, segments, translate, translate_error,
};
pub use tcp::{Tcp, TcpFlags, TcpOptions, Toa, raw_options};
pub use transport::{Sctp, Transport, Udp, Vrrp};
pub use tunnel::{Tunnel, TunnelKind};
