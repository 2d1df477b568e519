//! Type, length, value: what follows the fixed header of a message (linux/netlink.h, `struct nlattr`).
//!
//! neli has types for many of them, none for those of veth, bridge ports, IPVS, sockets and nf_tables, and where it has them they differ
//! between C libraries. Numbers and slices serve all alike, and 5,000 routes are read without an allocation for each attribute.

use crate::net::MacAddr;
use std::net::IpAddr;

/// The bits of a type that say how the value is coded (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const CODING: u16 = 0xc000;
const NESTED: u16 = 0x8000;

/// Attributes to send.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds raw bytes. A value longer than an attribute can be (64 KiB) is cut; the kernel then refuses it.
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let value = &value[..value.len().min(0xfff0)];
        self.0.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a byte.
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// Adds 16 bits in the host's order.
    pub fn u16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds 32 bits in the host's order.
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a text with its closing NUL.
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds an address, 4 or 16 bytes.
    pub fn addr(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(a) => self.bytes(kind, &a.octets()),
            IpAddr::V6(a) => self.bytes(kind, &a.octets()),
        }
    }

    /// Adds a MAC address.
    pub fn mac(self, kind: u16, value: MacAddr) -> Self {
        self.bytes(kind, &value.0)
    }

    /// Adds attributes within an attribute.
    pub fn nested(self, kind: u16, value: &Attributes) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }

    /// Adds other attributes.
    pub fn and(mut self, others: &Attributes) -> Self {
        self.0.extend_from_slice(&others.0);
        self
    }

    /// Adds what `add` adds, if there is a value.
    pub fn with<T>(self, value: Option<T>, add: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => add(self, value),
            None => self,
        }
    }

    /// The message body: a fixed header, then these.
    pub fn behind(&self, header: &[u8]) -> Vec<u8> {
        let mut body = header.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend_from_slice(&self.0);
        body
    }
}

/// A received attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// Its type, without the bits that say how it is coded.
    pub kind: u16,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as a byte.
    pub fn u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    /// The value as 16 bits in the host's order.
    pub fn u16(&self) -> Option<u16> {
        self.value.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
    }

    /// The value as 32 bits in the host's order.
    pub fn u32(&self) -> Option<u32> {
        self.value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    /// The value as 64 bits in the host's order.
    pub fn u64(&self) -> Option<u64> {
        self.value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
    }

    /// The value as a text, up to its NUL.
    pub fn text(&self) -> String {
        let end = self.value.iter().position(|&b| b == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(&self.value[..end]).into_owned()
    }

    /// The value as an address, by its length.
    pub fn addr(&self) -> Option<IpAddr> {
        match self.value.len() {
            4 => self.value.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
            16 => self.value.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
            _ => None,
        }
    }

    /// The value as a MAC address; `None` for link-layer addresses of other lengths (tunnels have those of their ends).
    pub fn mac(&self) -> Option<MacAddr> {
        <[u8; 6]>::try_from(self.value).ok().map(MacAddr)
    }

    /// The attributes within.
    pub fn nested(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.value)
    }
}

/// Reads attributes; what is left of one that was cut short ends them.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> + use<'_> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&[a, b, c, d], _) = rest.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind: u16::from_ne_bytes([c, d]) & !CODING, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Attributes::new().u8(1, 7).text(2, "veth");
        let body = Attributes::new().u32(3, 0x0102_0304).nested(18, &inner).addr(1, "fe80::1".parse().unwrap()).behind(&[9; 5]);
        let all: Vec<Attribute<'_>> = attributes(&body[8..]).collect();
        assert_eq!((all[0].kind, all[0].u32()), (3, Some(0x0102_0304)));
        let nested: Vec<Attribute<'_>> = all[1].nested().collect();
        assert_eq!((all[1].kind, nested[0].u8(), nested[1].text()), (18, Some(7), "veth".to_string()));
        assert_eq!(all[2].addr(), Some("fe80::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for a in attributes(&bytes) {
                let numbers = (a.u8(), a.u16(), a.u64(), a.nested().count());
                std::hint::black_box((numbers, a.text(), a.addr(), a.mac()));
            }
        }
    }
}
