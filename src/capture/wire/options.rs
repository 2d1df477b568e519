//! Socket options of packet(7) that nix does not name.
//!
//! The crate's only unsafe code, and none of it is written here: `sockopt_impl!` of nix makes the calls to `setsockopt` and `getsockopt` with
//! pointer and length of the value's own type. What has to be right here is that type; linux/if_packet.h gives it for each option:
//! `int` for the switches, `struct packet_mreq` for memberships, `struct tpacket_stats` for statistics.
#![allow(unsafe_code)]

use nix::libc;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// A `virtio_net_hdr` of 10 bytes stands before each packet, both ways.
    VnetHeader, SetOnly, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool
);
sockopt_impl!(
    /// The host's own packets are not shown.
    IgnoreOutgoing, SetOnly, libc::SOL_PACKET, IGNORE_OUTGOING, bool
);
sockopt_impl!(
    /// A `tpacket_auxdata` comes beside each packet: lengths, and the VLAN tag that the kernel took out.
    Auxdata, SetOnly, libc::SOL_PACKET, libc::PACKET_AUXDATA, bool
);
sockopt_impl!(
    /// Joins a multicast group, or all packets there are.
    AddMembership, SetOnly, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, libc::packet_mreq
);
sockopt_impl!(
    /// Packets seen and dropped since the last question.
    Statistics, GetOnly, libc::SOL_PACKET, libc::PACKET_STATISTICS, libc::tpacket_stats
);

/// `PACKET_IGNORE_OUTGOING` (linux/if_packet.h), since Linux 4.20.
const IGNORE_OUTGOING: libc::c_int = 23;
