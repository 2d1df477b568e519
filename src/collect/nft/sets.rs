//! Sets and maps of verdicts, named and anonymous: the elements that a rule compares with.

use super::rule::decided;
use crate::host::FilterVerdict;
use crate::netlink::{Attributes, Attrs, Socket};
use std::collections::HashMap;

const GET_ELEMENTS: u16 = 10 << 8 | 13;
const INTERVAL_END: u32 = 1;
const CATCH_ALL: u32 = 2;

/// Elements beyond so many are not looked at: the rule is in doubt then.
const MANY: usize = 256;

/// What a set holds: a value or a range, and for a map what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// The first value, as it stands in packets.
    pub(super) low: Vec<u8>,
    /// The last value.
    pub(super) high: Vec<u8>,
    /// The verdict of a map.
    pub(super) verdict: Option<FilterVerdict>,
}

/// Sets that were read.
#[derive(Default)]
pub(super) struct Sets(HashMap<(u8, String, String), Option<Vec<Element>>>);

impl Sets {
    /// The elements of a set of a table; `None` when they cannot be told.
    pub(super) fn elements(&mut self, socket: &mut Socket, family: u8, table: &str, set: &str) -> Option<Vec<Element>> {
        let key = (family, table.to_string(), set.to_string());
        let read = || {
            let asked = Attributes::new().text(1, table).text(2, set).behind(&[family, 0, 0, 0]);
            let messages = socket.dump(GET_ELEMENTS, &asked).ok()?;
            let lists: Vec<Attrs<'_>> = messages.iter().map(|m| Attrs::after(&m.body, 4).nested(3)).collect();
            elements(&lists)
        };
        self.0.entry(key).or_insert_with(read).clone()
    }
}

/// One element as the kernel sends it.
struct Raw<'a> {
    key: &'a [u8],
    end: Option<&'a [u8]>,
    closes: bool,
    verdict: Option<FilterVerdict>,
}

/// Reads lists of elements. Ranges come as their first value, and what follows the last one marked as an end.
pub(super) fn elements(lists: &[Attrs<'_>]) -> Option<Vec<Element>> {
    let mut raw: Vec<Raw<'_>> = Vec::new();
    for (_, value) in lists.iter().flat_map(|list| list.iter()) {
        let attrs = Attrs::after(value, 0);
        let flags = attrs.be32(3).unwrap_or(0);
        if flags & CATCH_ALL != 0 || raw.len() > 2 * MANY {
            return None;
        }
        let told = attrs.nested(2).nested(2);
        let verdict = told.be32(1).map(|code| decided(code.cast_signed(), told.text(2)));
        raw.push(Raw { key: attrs.nested(1).get(1)?, end: attrs.nested(10).get(1), closes: flags & INTERVAL_END != 0, verdict });
    }
    // Of equals the end of the last range comes before the beginning of the next.
    raw.sort_by(|a, b| (a.key, !a.closes).cmp(&(b.key, !b.closes)));
    let ranges = raw.iter().any(|e| e.closes);
    let mut found = Vec::new();
    for (at, element) in raw.iter().enumerate().filter(|(_, e)| !e.closes) {
        let high = match (element.end, ranges) {
            (Some(end), _) => end.to_vec(),
            (None, false) => element.key.to_vec(),
            (None, true) => match raw[at + 1..].iter().find(|e| e.closes) {
                Some(next) => before(next.key),
                None => vec![0xff; element.key.len()],
            },
        };
        found.push(Element { low: element.key.to_vec(), high, verdict: element.verdict.clone() });
    }
    (found.len() <= MANY).then_some(found)
}

/// The number before this one, in the network's order.
fn before(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for byte in out.iter_mut().rev() {
        let (less, borrow) = byte.overflowing_sub(1);
        *byte = less;
        if !borrow {
            break;
        }
    }
    out
}

/// A range of addresses as networks: base and number of leading bits.
pub(super) fn networks(low: &[u8], high: &[u8]) -> Option<Vec<(Vec<u8>, usize)>> {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u128, |n, b| n << 8 | u128::from(*b));
    let (len, width) = (low.len(), low.len() * 8);
    if len != high.len() || !matches!(len, 4 | 16) {
        return None;
    }
    let (mut at, end) = (number(low), number(high));
    let mut found = Vec::new();
    while at <= end {
        // The largest block that begins here and does not reach beyond the end.
        let fits = |bits: usize| bits == 0 || (at.trailing_zeros() as usize >= bits && at | (u128::MAX >> (128 - bits)) <= end);
        let bits = (0..=width).rev().find(|bits| fits(*bits)).unwrap_or(0);
        found.push((at.to_be_bytes()[16 - len..].to_vec(), width - bits));
        let last = if bits == 0 { at } else { at | (u128::MAX >> (128 - bits)) };
        match last.checked_add(1) {
            Some(next) if found.len() <= MANY => at = next,
            Some(_) => return None,
            None => break,
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(key: &[u8], flags: u32) -> Attributes {
        Attributes::new().nested(1, &Attributes::new().bytes(1, key)).bytes(3, &flags.to_be_bytes())
    }

    fn read(list: &[Attributes]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let body = list.iter().fold(Attributes::new(), |body, e| body.nested(1, e)).behind(&[]);
        elements(&[Attrs::after(&body, 0)]).map(|all| all.into_iter().map(|e| (e.low, e.high)).collect())
    }

    #[test]
    fn values_and_ranges() {
        assert_eq!(
            read(&[element(&[0, 80], 0), element(&[1, 187], 0)]).unwrap(),
            [(vec![0, 80], vec![0, 80]), (vec![1, 187], vec![1, 187])]
        );
        // The kernel sends them from behind, with an end before the first.
        let ranges = [element(&[0, 100], 1), element(&[0, 80], 0), element(&[0, 0], 1)];
        assert_eq!(read(&ranges).unwrap(), [(vec![0, 80], vec![0, 99])]);
        assert_eq!(read(&[element(&[255, 0], 0), element(&[0, 0], 1)]).unwrap(), [(vec![255, 0], vec![255, 255])], "to the end");
        assert_eq!(read(&[element(&[0, 0], CATCH_ALL)]), None);
        assert_eq!(before(&[1, 0, 0]), [0, 255, 255]);
    }

    #[test]
    fn ranges_are_networks() {
        assert_eq!(networks(&[10, 0, 0, 0], &[10, 0, 0, 255]).unwrap(), [(vec![10, 0, 0, 0], 24)]);
        let odd = networks(&[10, 0, 0, 1], &[10, 0, 0, 4]).unwrap();
        assert_eq!(odd, [(vec![10, 0, 0, 1], 32), (vec![10, 0, 0, 2], 31), (vec![10, 0, 0, 4], 32)]);
        assert_eq!(networks(&[0; 4], &[255; 4]).unwrap(), [(vec![0; 4], 0)]);
        assert_eq!(networks(&[0; 16], &[255; 16]).unwrap(), [(vec![0; 16], 0)]);
        assert_eq!(networks(&[0; 2], &[1; 2]), None);
    }
}
