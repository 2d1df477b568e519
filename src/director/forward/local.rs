//! A real server that is the director itself: the packet goes up to its own sockets, with its TTL as it came (`ip_vs_null_xmit`).

use std::net::IpAddr;

/// True when the real server is this machine.
pub(in crate::director) fn is_local(server: IpAddr, mut own: impl Iterator<Item = IpAddr>) -> bool {
    server.is_loopback() || own.any(|addr| addr == server)
}
