//! A list of attributes, asked for by number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The bits of an attribute's type that are its type; the others say nested, or network byte order.
const TYPE: u16 = 0x3fff;

/// A list of attributes. What is cut short ends it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// The attributes behind a header of so many bytes.
    pub fn after(body: &'a [u8], header: usize) -> Self {
        Attrs(body.get(header..).unwrap_or_default())
    }

    /// Each with its type.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let len = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
            let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & TYPE;
            let value = rest.get(4..len)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The value of a type.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// Attributes inside an attribute.
    pub fn nested(self, kind: u16) -> Attrs<'a> {
        Attrs(self.get(kind).unwrap_or_default())
    }

    /// A number in the machine's byte order.
    pub fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.get(kind)?.get(..4)?.try_into().ok()?))
    }

    /// A number in the machine's byte order.
    pub fn u64(self, kind: u16) -> Option<u64> {
        Some(u64::from_ne_bytes(self.get(kind)?.get(..8)?.try_into().ok()?))
    }

    /// A number in network byte order.
    pub fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.get(..4)?.try_into().ok()?))
    }

    /// A number in the machine's byte order.
    pub fn u16(self, kind: u16) -> Option<u16> {
        Some(u16::from_ne_bytes(self.get(kind)?.get(..2)?.try_into().ok()?))
    }

    /// A number in network byte order.
    pub fn be16(self, kind: u16) -> Option<u16> {
        Some(u16::from_be_bytes(self.get(kind)?.get(..2)?.try_into().ok()?))
    }

    /// A byte.
    pub fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// A text that ends with a zero.
    pub fn text(self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }

    /// An address, IPv4 or IPv6 by its length.
    pub fn addr(self, kind: u16) -> Option<IpAddr> {
        addr(self.get(kind)?)
    }
}

/// Bytes up to the first zero, as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

fn addr(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Attributes;
    use super::*;

    #[test]
    fn what_is_put_is_got() {
        let inner = Attributes::new().addr(2, "10.0.0.1".parse().unwrap());
        let body = Attributes::new().u32(1, 7).text(3, "eth0").nested(5, &inner).behind(&[9; 4]);
        let attrs = Attrs::after(&body, 4);
        assert_eq!((attrs.u32(1), attrs.text(3).as_deref(), attrs.nested(5).addr(2)), (Some(7), Some("eth0"), "10.0.0.1".parse().ok()));
        assert_eq!((attrs.u32(3).is_some(), attrs.u64(1), attrs.get(9)), (true, None, None));
    }

    /// Cut anywhere, it ends without a panic.
    #[test]
    fn cut_short() {
        let body = Attributes::new().text(3, "eth0").bytes(1, &[1, 2, 3]).behind(&[]);
        for len in 0..body.len() {
            assert!(Attrs::after(&body[..len], 0).iter().count() <= 2);
        }
        assert_eq!(Attrs::after(&[0, 0, 1, 0, 8, 0], 0).iter().count(), 0, "a length of 0 would never end");
    }
}
