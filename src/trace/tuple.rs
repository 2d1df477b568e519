//! Addresses and 5-tuples in 16 bytes, for a table of millions.

use crate::net::{Endpoint, FiveTuple, Protocol};
use crate::packet::{Addresses, Glance};
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A 5-tuple in two words, so that it is compared and hashed in a few instructions. An IPv4 address is its number; an IPv6 address is its
/// place in the [`AddressBook`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tuple {
    /// Source address in the upper half, destination in the lower.
    addresses: u64,
    /// Source port, destination port, protocol, IP version 6 or not: 16, 16, 8 and 8 bits from the top down, after 16 empty ones.
    rest: u64,
}

impl Tuple {
    /// `ports`: source in the upper half, destination in the lower.
    #[inline(always)]
    fn new(addresses: u64, ports: u32, protocol: u8, v6: bool) -> Tuple {
        Tuple { addresses, rest: u64::from(ports) << 16 | u64::from(protocol) << 8 | u64::from(v6) }
    }

    #[inline(always)]
    pub(super) fn protocol(self) -> u8 {
        (self.rest >> 8) as u8
    }

    pub(super) fn v6(self) -> bool {
        self.rest & 1 == 1
    }

    fn ports(self) -> u32 {
        (self.rest >> 16) as u32
    }

    pub(super) fn reversed(self) -> Tuple {
        Tuple { addresses: self.addresses.rotate_left(32), rest: u64::from(self.ports().rotate_left(16)) << 16 | self.rest & 0xffff }
    }

    /// The same for both directions, and whether that is the reverse of what was given.
    #[inline]
    pub(super) fn canonical(self) -> (Tuple, bool) {
        let reversed = self.reversed();
        if (self.addresses, self.rest) <= (reversed.addresses, reversed.rest) { (self, false) } else { (reversed, true) }
    }

    #[inline(always)]
    pub(super) fn hash(self) -> u64 {
        mix(self.addresses, self.rest)
    }

    /// The hash of this tuple together with a small number.
    #[inline(always)]
    pub(super) fn hash_with(self, number: u32) -> u64 {
        mix(self.addresses ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15), self.rest)
    }

    pub(super) fn source(self) -> CompactEndpoint {
        CompactEndpoint { addr: (self.addresses >> 32) as u32, port: (self.ports() >> 16) as u16, v6: self.v6() }
    }

    pub(super) fn destination(self) -> CompactEndpoint {
        CompactEndpoint { addr: self.addresses as u32, port: self.ports() as u16, v6: self.v6() }
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
#[inline(always)]
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(b ^ 0x8bb8_4b93_962e_acc9);
    product as u64 ^ (product >> 64) as u64
}

/// The IPv6 addresses of a trace, each once.
#[derive(Clone, Default)]
pub(super) struct AddressBook {
    places: HashMap<u128, u32>,
    addresses: Vec<u128>,
    /// Places that are nobody's any more.
    free: Vec<u32>,
}

impl AddressBook {
    fn place(&mut self, address: u128) -> u32 {
        *self.places.entry(address).or_insert_with(|| match self.free.pop() {
            Some(at) => {
                self.addresses[at as usize] = address;
                at
            }
            None => {
                self.addresses.push(address);
                self.addresses.len() as u32 - 1
            }
        })
    }

    /// Forgets all addresses but those of these endpoints, whose places stay as they are.
    pub(super) fn keep(&mut self, used: impl IntoIterator<Item = CompactEndpoint>) {
        let mut kept = vec![false; self.addresses.len()];
        for end in used.into_iter().filter(|end| end.v6) {
            if let Some(kept) = kept.get_mut(end.addr as usize) {
                *kept = true;
            }
        }
        let free = &mut self.free;
        self.places.retain(|_, at| {
            let keep = kept[*at as usize];
            if !keep {
                free.push(*at);
            }
            keep
        });
    }

    /// Addresses for which there is room: what memory grows with.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    fn places(&mut self, src: u128, dst: u128) -> u64 {
        u64::from(self.place(src)) << 32 | u64::from(self.place(dst))
    }

    #[inline(always)]
    pub(super) fn tuple_of(&mut self, glance: &Glance<'_>) -> Tuple {
        match glance.addresses() {
            Addresses::V4(both) => Tuple::new(both, glance.ports(), glance.protocol(), false),
            Addresses::V6(src, dst) => Tuple::new(self.places(src, dst), glance.ports(), glance.protocol(), true),
        }
    }

    pub(super) fn compact(&mut self, tuple: FiveTuple) -> Tuple {
        let ports = u32::from(tuple.src.port) << 16 | u32::from(tuple.dst.port);
        let protocol = tuple.protocol.number();
        match (tuple.src.addr, tuple.dst.addr) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                Tuple::new(u64::from(u32::from(src)) << 32 | u64::from(u32::from(dst)), ports, protocol, false)
            }
            (src, dst) => Tuple::new(self.places(wide(src), wide(dst)), ports, protocol, true),
        }
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
        FiveTuple {
            protocol: Protocol::from(tuple.protocol()),
            src: self.endpoint(tuple.source()),
            dst: self.endpoint(tuple.destination()),
        }
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
        let mut book = AddressBook::default();
        let pairs = [
            ("192.168.2.100:40002", "192.168.2.59:80", Protocol::Tcp),
            ("[2001:db8::1]:5", "[2001:db8::2]:80", Protocol::Udp),
            ("10.0.0.1:80", "10.0.0.1:81", Protocol::Other(255)),
            ("255.255.255.255:65535", "0.0.0.0:0", Protocol::Icmp),
        ];
        for (src, dst, protocol) in pairs {
            let tuple = FiveTuple { protocol, src: src.parse().unwrap(), dst: dst.parse().unwrap() };
            let compact = book.compact(tuple);
            assert_eq!(book.expand(compact), tuple);
            assert_eq!(book.expand(compact.reversed()), tuple.reversed());
            assert_eq!(compact.canonical().0, compact.reversed().canonical().0);
            assert_ne!(compact.canonical().1, compact.reversed().canonical().1);
        }
    }
}
