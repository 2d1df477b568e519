//! ICMP errors, each with the packet that it is about.

use super::claims::{At, Occurrences};
use super::tuple::Tuple;
use crate::packet::IcmpKind;
use std::net::IpAddr;

/// An ICMP error as seen on one wire, with how often it came.
#[derive(Clone, Debug)]
pub(super) struct ErrorSeen {
    pub(super) wire: u32,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) ttl: u8,
    pub(super) kind: IcmpKind,
    pub(super) type_number: u8,
    pub(super) code: u8,
    /// What the quoted packet says of itself: the sender's view, before or after a rewrite.
    pub(super) quoted: Tuple,
    /// The quoted packet was in a tunnel.
    pub(super) tunnelled: bool,
    /// Total length of the quoted packet.
    pub(super) quoted_len: u32,
    pub(super) times: Occurrences,
}

/// All ICMP errors of a trace.
#[derive(Clone, Default)]
pub(super) struct Errors {
    pub(super) errors: Vec<ErrorSeen>,
    /// Left out because a hostile capture had too many.
    pub(super) left_out: u64,
}

/// Errors kept: each is about a connection, and few connections have one.
const MOST: usize = 200_000;

impl Errors {
    /// Takes in one that was seen like this, or counts it with the one that it repeats.
    pub(super) fn add(&mut self, seen: ErrorSeen, at: At) {
        // The latest ones first: an error repeats at once or not at all.
        let same = |e: &&mut ErrorSeen| {
            e.wire == seen.wire && e.quoted == seen.quoted && e.src == seen.src && e.kind == seen.kind && e.code == seen.code
        };
        if let Some(known) = self.errors.iter_mut().rev().take(64).find(same) {
            return known.times.push(at);
        }
        if self.errors.len() >= MOST {
            self.left_out += 1;
            return;
        }
        self.errors.push(seen);
    }
}
