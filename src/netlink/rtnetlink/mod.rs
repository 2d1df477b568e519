//! Links, addresses, routes, rules and neighbours: read and written (rtnetlink(7), include/uapi/linux/rtnetlink.h).
//!
//! What a dump tells is kept in numbers, as the kernel has it; names for them belong to those who show them.

mod address;
mod link;
mod neighbour;
mod route;
mod rule;

pub use address::{Address, AddressSpec};
pub use link::{Kind, Link, LinkSpec, Peer};
pub use neighbour::{Neighbour, NeighbourSpec};
pub use route::{NextHop, Question, Route, RouteSpec};
pub use rule::{Rule, RuleSpec};

use super::NetlinkError;
use std::net::IpAddr;

/// Fields of fixed headers, read without a step beyond their end.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn u8(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn u16(&self, at: usize) -> u16 {
        self.0.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_ne_bytes(*b))
    }

    fn u32(&self, at: usize) -> u32 {
        self.0.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b))
    }
}

/// The fixed header and the attributes behind it.
fn parts(body: &[u8], header: usize) -> Result<(Header<'_>, &[u8]), NetlinkError> {
    match body.split_at_checked(header) {
        Some((header, rest)) => Ok((Header(header), rest)),
        None => Err(NetlinkError::other(format!("an answer of {} bytes, too short for its header of {header}", body.len()))),
    }
}

fn family_of(addr: IpAddr) -> u8 {
    (if addr.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 }) as u8
}
