//! `-m`: the destination becomes the real server, and its answers become the service's (`ip_vs_nat_xmit`, `handle_response`).

use crate::net::Endpoint;
use crate::packet::{IpHeader, Side, translate};

/// A client's packet, for the real server.
pub(in crate::director) fn request(bytes: &mut [u8], header: &IpHeader, server: Endpoint, partial: bool) {
    translate(bytes, header, Side::Destination, server, partial);
}

/// A real server's packet, for the client.
pub(in crate::director) fn answer(bytes: &mut [u8], header: &IpHeader, service: Endpoint, partial: bool) {
    translate(bytes, header, Side::Source, service, partial);
}
