//! Attributes: type, length, value, padded to four bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The bits of an attribute's type that are its type; the others say nested, or network byte order.
const TYPE: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

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

/// A request's body: a header, then attributes.
#[derive(Clone, Debug, Default)]
pub struct Body(Vec<u8>);

impl Body {
    /// Begins with a header.
    pub fn new(header: &[u8]) -> Self {
        Body(header.to_vec())
    }

    /// Adds an attribute.
    #[must_use]
    pub fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a text, with its zero.
    #[must_use]
    pub fn put_text(self, kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds attributes inside an attribute.
    #[must_use]
    pub fn nest(self, kind: u16, inner: &Body) -> Self {
        self.put(kind | NESTED, &inner.0)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_got() {
        let body = Body::new(&[9; 4]).put(1, &7u32.to_ne_bytes()).put_text(3, "eth0").nest(5, &Body::default().put(2, &[10, 0, 0, 1]));
        let attrs = Attrs::after(body.bytes(), 4);
        assert_eq!((attrs.u32(1), attrs.text(3).as_deref(), attrs.nested(5).addr(2)), (Some(7), Some("eth0"), "10.0.0.1".parse().ok()));
        assert_eq!((attrs.u32(3).is_some(), attrs.u64(1), attrs.get(9)), (true, None, None));
    }

    /// Cut anywhere, it ends without a panic.
    #[test]
    fn cut_short() {
        let body = Body::default().put_text(3, "eth0").put(1, &[1, 2, 3]);
        for len in 0..body.bytes().len() {
            assert!(Attrs::after(&body.bytes()[..len], 0).iter().count() <= 2);
        }
        assert_eq!(Attrs::after(&[0, 0, 1, 0, 8, 0], 0).iter().count(), 0, "a length of 0 would never end");
    }
}
