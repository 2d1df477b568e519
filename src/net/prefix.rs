//! Address prefixes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address with a prefix length, `192.168.224.0/24`. The address keeps its host bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// `None` when `len` is longer than the address.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        (len <= width(addr)).then_some(Prefix { addr, len })
    }

    /// The address as given, host bits and all.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// The number of leading bits that count.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Length 0: the default route.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One address alone (/32 or /128).
    pub fn is_host(&self) -> bool {
        self.len == width(self.addr)
    }

    /// True when `addr` is of the same family and shares the leading bits.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => shared(u32::from(a).into(), u32::from(b).into(), 32, self.len),
            (IpAddr::V6(a), IpAddr::V6(b)) => shared(a.into(), b.into(), 128, self.len),
            _ => false,
        }
    }
}

fn width(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn shared(a: u128, b: u128, width: u8, len: u8) -> bool {
    len == 0 || (a ^ b) >> (width - len) == 0
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.addr, self.len))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = String;

    /// `ADDRESS/LENGTH`; a bare address is a host prefix, as in ip(8).
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not ADDRESS or ADDRESS/LENGTH");
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        Prefix::new(addr, len.unwrap_or(width(addr))).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containment() {
        let yes = [
            ("192.168.224.13/24", "192.168.224.200"),
            ("0.0.0.0/0", "8.8.8.8"),
            ("10.0.0.1", "10.0.0.1"),
            ("2001:db8::/32", "2001:db8:1::1"),
            ("::/0", "::1"),
        ];
        let no = [("192.168.224.13/24", "192.168.225.1"), ("10.0.0.1", "10.0.0.2"), ("0.0.0.0/0", "::1"), ("2001:db8::1", "2001:db8::2")];
        for (prefix, addr) in yes {
            assert!(prefix.parse::<Prefix>().unwrap().contains(addr.parse().unwrap()), "{prefix} {addr}");
        }
        for (prefix, addr) in no {
            assert!(!prefix.parse::<Prefix>().unwrap().contains(addr.parse().unwrap()), "{prefix} {addr}");
        }
        for text in ["10.0.0.1/33", "::1/129", "10.0.0/8", "x"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        assert!("10.0.0.1/32".parse::<Prefix>().unwrap().is_host());
    }
}
