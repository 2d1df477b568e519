//! Changing packets in place, as a router, a NAT or a tunnel does: addresses, ports, TTL, outer headers, fragments, ICMP errors.
//!
//! [`super::dissect`] reads for people; this reads just what has to be changed, and where it stands. Everything here takes an IP packet
//! without its link header.

mod cut;
mod error;
mod header;
mod outer;
mod translate;

pub use cut::{fragment, fragment_payload, reassembled, segment_len, segments};
pub use error::{IcmpError, icmp_error, quoted, translate_error};
pub use header::{IpHeader, Side, header_checksum_is_good};
pub use outer::{Outer, OuterKind, encapsulate};
pub use translate::{decrement_ttl, translate};

#[cfg(test)]
mod tests;
