//! Who talks to whom.

use super::Endpoint;
use std::fmt;

/// A transport protocol, by its IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// TCP, 6.
    Tcp,
    /// UDP, 17.
    Udp,
    /// SCTP, 132.
    Sctp,
    /// ICMP, 1.
    Icmp,
    /// ICMPv6, 58.
    Icmp6,
    /// Any other number of the IANA protocol registry.
    Other(u8),
}

impl From<u8> for Protocol {
    fn from(number: u8) -> Self {
        match number {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            1 => Protocol::Icmp,
            58 => Protocol::Icmp6,
            other => Protocol::Other(other),
        }
    }
}

impl Protocol {
    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
            Protocol::Icmp => 1,
            Protocol::Icmp6 => 58,
            Protocol::Other(number) => number,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::Tcp => f.pad("tcp"),
            Protocol::Udp => f.pad("udp"),
            Protocol::Sctp => f.pad("sctp"),
            Protocol::Icmp => f.pad("icmp"),
            Protocol::Icmp6 => f.pad("icmp6"),
            Protocol::Other(number) => f.pad(&format!("ip-proto-{number}")),
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    /// A name as it is printed, or a number.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("ip-proto-").unwrap_or(text).parse::<u8>();
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            "icmp" => Ok(Protocol::Icmp),
            "icmp6" | "icmpv6" | "ipv6-icmp" => Ok(Protocol::Icmp6),
            "ipip" | "ipencap" => Ok(Protocol::Other(4)),
            "gre" => Ok(Protocol::Other(47)),
            "vrrp" => Ok(Protocol::Other(112)),
            _ => number.map(Protocol::from).map_err(|_| format!("'{text}' is not a protocol such as tcp or 132")),
        }
    }
}

/// Protocol, source and destination of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FiveTuple {
    /// The transport protocol.
    pub protocol: Protocol,
    /// Where it comes from.
    pub src: Endpoint,
    /// Where it goes.
    pub dst: Endpoint,
}

impl FiveTuple {
    /// The same conversation seen from the other side.
    pub fn reversed(self) -> Self {
        FiveTuple { src: self.dst, dst: self.src, ..self }
    }
}

impl fmt::Display for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.src, self.dst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives() {
        for number in 0..=255 {
            assert_eq!(Protocol::from(number).number(), number);
            assert_eq!(Protocol::from(number).to_string().parse(), Ok(Protocol::from(number)));
        }
    }
}
