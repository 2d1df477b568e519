//! Hashes of addresses, of both generations.
//!
//! Until Linux 4.17 `dh`, `sh`, `lblc` and `lblcr` multiplied and took the lowest bits, which are those of the address's last byte alone;
//! 4.18 takes the highest (`hash_32` in `include/linux/hash.h`, "ipvs: fix multiplicative hashing in sh/dh/lblc/lblcr algorithms").

use crate::director::settings::Kernel;
use std::net::IpAddr;

/// An address in one word: an IPv6 address is the exclusive or of its four.
pub(super) fn fold(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(a) => u32::from(a),
        IpAddr::V6(a) => a.octets().chunks(4).fold(0, |word, four| word ^ four.iter().fold(0, |w, byte| w << 8 | u32::from(*byte))),
    }
}

/// `hash_32` of 4.18, and what was there before. The result has `bits` bits, at most 32.
pub(super) fn bucket(value: u32, bits: u32, kernel: Kernel) -> u32 {
    if kernel.new_hash() { value.wrapping_mul(0x61c8_8647) >> (32 - bits) } else { value.wrapping_mul(2_654_435_761) & ((1 << bits) - 1) }
}

/// HalfSipHash's 64-bit form (SipHash-1-3, folded) of one word: `hsiphash_1u32` in `lib/siphash.c`.
pub(super) fn hsiphash(value: u32, key: u64) -> u32 {
    let mut v = [0x736f_6d65_7073_6575 ^ key, 0x646f_7261_6e64_6f6d ^ key, 0x6c79_6765_6e65_7261 ^ key, 0x7465_6462_7974_6573 ^ key];
    let b = 4u64 << 56 | u64::from(value);
    v[3] ^= b;
    round(&mut v);
    v[0] ^= b;
    v[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut v));
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_both_generations() {
        let (old, new) = (Kernel::new(4, 17), Kernel::new(6, 1));
        for (addr, then, now) in [
            ("192.168.2.100", 36, 33),
            ("192.168.2.101", 213, 131),
            ("192.168.3.100", 36, 234),
            ("10.0.0.1", 177, 39),
            ("192.168.224.13", 253, 203),
        ] {
            let word = fold(addr.parse().unwrap());
            assert_eq!((bucket(word, 8, old), bucket(word, 8, new)), (then, now), "{addr}");
        }
    }

    #[test]
    fn ipv6_addresses_fold() {
        assert_eq!(fold("2001:db8::59".parse().unwrap()), 0x2001_0db8 ^ 0x59);
        assert_eq!(fold("1:2:3:4:5:6:7:8".parse().unwrap()), 0x0001_0002 ^ 0x0003_0004 ^ 0x0005_0006 ^ 0x0007_0008);
    }
}
