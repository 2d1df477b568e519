//! Addresses and 5-tuples in 16 bytes, for a table of millions.

use crate::net::{Endpoint, FiveTuple, Protocol};
use crate::packet::{Addresses, Glance};
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A 5-tuple. An IPv4 address is its number; an IPv6 address is its place in the [`AddressBook`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tuple {
    pub(super) src: u32,
    pub(super) dst: u32,
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    pub(super) protocol: u8,
    pub(super) v6: bool,
}

impl Tuple {
    pub(super) fn reversed(self) -> Tuple {
        Tuple { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }

    /// The same for both directions, and whether that is the reverse of what was given.
    #[inline]
    pub(super) fn canonical(self) -> (Tuple, bool) {
        if (self.src, self.src_port) <= (self.dst, self.dst_port) { (self, false) } else { (self.reversed(), true) }
    }

    #[inline]
    pub(super) fn hash(self) -> u64 {
        let addresses = u64::from(self.src) << 32 | u64::from(self.dst);
        let rest = u64::from(self.src_port) << 32 | u64::from(self.dst_port) << 16 | u64::from(self.protocol) << 1 | u64::from(self.v6);
        mix(addresses, rest)
    }

    pub(super) fn source(self) -> CompactEndpoint {
        CompactEndpoint { addr: self.src, port: self.src_port, v6: self.v6 }
    }

    pub(super) fn destination(self) -> CompactEndpoint {
        CompactEndpoint { addr: self.dst, port: self.dst_port, v6: self.v6 }
    }
}

/// One side of a [`Tuple`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct CompactEndpoint {
    pub(super) addr: u32,
    pub(super) port: u16,
    pub(super) v6: bool,
}

/// Two words folded into one through a 128-bit product, the step that wyhash and foldhash are made of.
#[inline]
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(b ^ 0x8bb8_4b93_962e_acc9);
    product as u64 ^ (product >> 64) as u64
}

/// The IPv6 addresses of a trace, each once.
#[derive(Default)]
pub(super) struct AddressBook {
    places: HashMap<u128, u32>,
    addresses: Vec<u128>,
}

impl AddressBook {
    fn place(&mut self, address: u128) -> u32 {
        *self.places.entry(address).or_insert_with(|| {
            self.addresses.push(address);
            self.addresses.len() as u32 - 1
        })
    }

    #[inline]
    pub(super) fn tuple_of(&mut self, glance: &Glance) -> Tuple {
        let (src, dst, v6) = match glance.addresses {
            Addresses::V4(src, dst) => (src, dst, false),
            Addresses::V6(src, dst) => (self.place(src), self.place(dst), true),
        };
        Tuple { src, dst, src_port: glance.src_port, dst_port: glance.dst_port, protocol: glance.protocol, v6 }
    }

    pub(super) fn compact(&mut self, tuple: FiveTuple) -> Tuple {
        let (src, dst, v6) = match (tuple.src.addr, tuple.dst.addr) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => (src.into(), dst.into(), false),
            (src, dst) => (self.place(wide(src)), self.place(wide(dst)), true),
        };
        Tuple { src, dst, src_port: tuple.src.port, dst_port: tuple.dst.port, protocol: tuple.protocol.number(), v6 }
    }

    /// The compact form of an endpoint whose address is known here; `None` when no packet had it.
    pub(super) fn find(&self, endpoint: Endpoint) -> Option<CompactEndpoint> {
        let (addr, v6) = match endpoint.addr {
            IpAddr::V4(a) => (a.into(), false),
            IpAddr::V6(a) => (*self.places.get(&u128::from(a))?, true),
        };
        Some(CompactEndpoint { addr, port: endpoint.port, v6 })
    }

    pub(super) fn endpoint(&self, compact: CompactEndpoint) -> Endpoint {
        let addr = if compact.v6 {
            IpAddr::V6(Ipv6Addr::from(self.addresses.get(compact.addr as usize).copied().unwrap_or_default()))
        } else {
            IpAddr::V4(Ipv4Addr::from(compact.addr))
        };
        Endpoint::new(addr, compact.port)
    }

    pub(super) fn expand(&self, tuple: Tuple) -> FiveTuple {
        FiveTuple { protocol: Protocol::from(tuple.protocol), src: self.endpoint(tuple.source()), dst: self.endpoint(tuple.destination()) }
    }
}

fn wide(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().into(),
        IpAddr::V6(a) => a.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(size_of::<Tuple>(), 16);
        let mut book = AddressBook::default();
        for (src, dst) in
            [("192.168.2.100:40002", "192.168.2.59:80"), ("[2001:db8::1]:5", "[2001:db8::2]:80"), ("10.0.0.1:80", "10.0.0.1:81")]
        {
            let tuple = FiveTuple { protocol: Protocol::Tcp, src: src.parse().unwrap(), dst: dst.parse().unwrap() };
            let compact = book.compact(tuple);
            assert_eq!(book.expand(compact), tuple);
            assert_eq!(book.expand(compact.reversed()), tuple.reversed());
            assert_eq!(compact.canonical().0, compact.reversed().canonical().0);
            assert_ne!(compact.canonical().1, compact.reversed().canonical().1);
            assert_eq!(book.find(tuple.src), Some(compact.source()));
        }
    }
}
