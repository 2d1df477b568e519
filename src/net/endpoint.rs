//! One side of a connection.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address and a port, printed as `192.168.2.59:80` or `[2001:db8::59]:80`. Protocols without ports have port 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The IPv4 or IPv6 address.
    pub addr: IpAddr,
    /// The TCP, UDP or SCTP port, the identifier of an ICMP echo, else 0.
    pub port: u16,
}

impl Endpoint {
    /// The endpoint `addr:port`.
    pub fn new(addr: IpAddr, port: u16) -> Self {
        Endpoint { addr, port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match (self.addr, f.width()) {
            (IpAddr::V4(a), None) => write!(f, "{a}:{port}"),
            (IpAddr::V6(a), None) => write!(f, "[{a}]:{port}"),
            (IpAddr::V4(a), Some(_)) => f.pad(&format!("{a}:{port}")),
            (IpAddr::V6(a), Some(_)) => f.pad(&format!("[{a}]:{port}")),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// `ADDRESS:PORT`, an IPv6 address in brackets, as ipvsadm(8) writes it.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not ADDRESS:PORT (an IPv6 address stands in brackets: [2001:db8::1]:80)");
        let (addr, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let addr = match addr.strip_prefix('[') {
            Some(rest) => IpAddr::V6(rest.strip_suffix(']').and_then(|a| a.parse().ok()).ok_or_else(wrong)?),
            None => IpAddr::V4(addr.parse().map_err(|_| wrong())?),
        };
        Ok(Endpoint { addr, port: port.parse().map_err(|_| wrong())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["192.168.2.59:80", "[2001:db8::59]:443", "0.0.0.0:0"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["192.168.2.59", "2001:db8::59:443", "[2001:db8::59:443", "1.2.3.4:70000", ":80", ""] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        let e: Endpoint = "10.0.0.1:80".parse().unwrap();
        assert_eq!(format!("{e:<14}|"), "10.0.0.1:80   |");
    }
}
