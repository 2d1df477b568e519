//! IPv6: what differs from IPv4. Neighbours are asked by ICMPv6, from link-local addresses, and answers are given only for addresses of the
//! device at which the question arrives.

pub(super) mod ip6001;
pub(super) mod ip6002;
pub(super) mod ip6004;
