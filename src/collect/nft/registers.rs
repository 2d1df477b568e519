//! Registers of a rule: what was loaded where, so that a key of several fields (`ip daddr . tcp dport`) can be told from its parts.
//!
//! There are sixteen of 4 bytes (8 and on); 1 to 4 are the older names of four of them together (linux/netfilter/nf_tables.h).

use super::rule::Held;
use std::collections::BTreeMap;

/// A field in a register, and the mask under which it is compared.
pub(super) type Loaded = (Held, Option<Vec<u8>>);

#[derive(Default)]
pub(super) struct Registers(BTreeMap<u32, Loaded>);

/// The number of the first 4 bytes of a register; none for that of verdicts.
fn slot(register: u32) -> Option<u32> {
    match register {
        1..=4 => Some((register - 1) * 4),
        8..=23 => Some(register - 8),
        _ => None,
    }
}

/// Pieces of 4 bytes that so many bytes take.
fn pieces(len: u32) -> u32 {
    len.div_ceil(4).max(1)
}

impl Registers {
    /// Loads a field; what it overwrites is gone.
    pub(super) fn load(&mut self, register: u32, held: Held, mask: Option<Vec<u8>>) {
        let Some(at) = slot(register) else { return };
        let end = at + pieces(held.bytes());
        self.0.retain(|known, (other, _)| *known >= end || *known + pieces(other.bytes()) <= at);
        self.0.insert(at, (held, mask));
    }

    /// What is there.
    pub(super) fn get(&self, register: u32) -> Option<&Loaded> {
        self.0.get(&slot(register)?)
    }

    /// The fields of a key of so many bytes that begins there, each with its place in it; `None` where one of them is not known.
    pub(super) fn key(&self, register: u32, len: usize) -> Option<Vec<(usize, &Loaded)>> {
        let first = slot(register)?;
        let mut found = Vec::new();
        let mut at = first;
        while found.is_empty() || ((at - first) as usize) * 4 < len {
            let loaded = self.0.get(&at)?;
            found.push((((at - first) as usize) * 4, loaded));
            at += pieces(loaded.0.bytes());
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_several_fields() {
        let mut registers = Registers::default();
        registers.load(1, Held::Field(1, 24, 16), None);
        registers.load(1, Held::Field(1, 16, 4), None);
        registers.load(9, Held::Field(2, 2, 2), None);
        let fields: Vec<(usize, u32)> = registers.key(1, 8).unwrap().iter().map(|(at, (held, _))| (*at, held.bytes())).collect();
        assert_eq!(fields, [(0, 4), (4, 2)]);
        assert_eq!(registers.key(1, 4).unwrap().len(), 1, "the first alone");
        assert!(registers.key(1, 12).is_none() && registers.key(0, 4).is_none() && registers.get(10).is_none());
        // Four of the new are one of the old: an address of IPv6 takes the place of both.
        registers.load(8, Held::Field(1, 24, 16), None);
        assert!(registers.get(9).is_none() && registers.get(1).is_some());
        registers.load(2, Held::Field(2, 2, 2), None);
        let fields: Vec<usize> = registers.key(8, 20).unwrap().iter().map(|(at, _)| *at).collect();
        assert_eq!(fields, [0, 16]);
    }
}
