//! Sockets that wait for somebody.

use crate::net::{Endpoint, Protocol};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A listening TCP socket, or a UDP socket that is connected to nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it listens; the unspecified address is every address.
    pub local: Endpoint,
    /// An IPv6 socket that does not take IPv4 (`IPV6_V6ONLY`); none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6only: Option<bool>,
    /// The device that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// What becomes of a packet for an address and port, as far as sockets go.
impl Socket {
    /// True when it takes packets for this address and port. A wildcard IPv6 socket takes IPv4, unless it says that it does not.
    pub fn accepts(&self, protocol: Protocol, to: Endpoint) -> bool {
        let any = match (self.local.addr, to.addr) {
            (mine, to) if mine == to => true,
            (IpAddr::V4(a), IpAddr::V4(_)) => a.is_unspecified(),
            (IpAddr::V6(a), IpAddr::V6(_)) => a.is_unspecified(),
            (IpAddr::V6(a), IpAddr::V4(to)) => (a.is_unspecified() && self.v6only != Some(true)) || a == to.to_ipv6_mapped(),
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        };
        self.protocol == protocol && self.local.port == to.port && any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_what() {
        let socket = |local: &str, v6only| Socket { protocol: Protocol::Tcp, local: local.parse().unwrap(), v6only, device: None };
        let to = |text: &str| text.parse::<Endpoint>().unwrap();
        let takes = |local: &str, v6only, at: &str| socket(local, v6only).accepts(Protocol::Tcp, to(at));
        assert!(takes("0.0.0.0:80", None, "10.0.0.1:80") && takes("10.0.0.1:80", None, "10.0.0.1:80"));
        assert!(takes("[::]:80", Some(false), "10.0.0.1:80") && takes("[::]:80", None, "[2001:db8::1]:80"));
        assert!(!takes("[::]:80", Some(true), "10.0.0.1:80") && !takes("10.0.0.2:80", None, "10.0.0.1:80"));
        assert!(!takes("0.0.0.0:80", None, "[2001:db8::1]:80") && !takes("0.0.0.0:80", None, "10.0.0.1:81"));
        assert!(takes("[::ffff:10.0.0.1]:80", None, "10.0.0.1:80"));
        assert!(!socket("0.0.0.0:80", None).accepts(Protocol::Udp, to("10.0.0.1:80")));
    }
}
