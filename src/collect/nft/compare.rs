//! Comparisons of packets with values: what a rule of nftables asks for.

use super::registers::Loaded;
use super::rule::Held;
use super::sets::{Element, networks};
use crate::host::{FilterRule, FilterVerdict};
use crate::net::{Prefix, Protocol};
use std::net::IpAddr;

/// Keys of `meta` that are understood.
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;

/// How many bytes a fact beside the packet takes in a register.
pub(super) fn meta_bytes(key: u32) -> u32 {
    match key {
        IIFNAME | OIFNAME => 16,
        NFPROTO | L4PROTO => 1,
        _ => 4,
    }
}

/// Operators of `cmp`.
pub(super) const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

pub(super) fn addr(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The number of leading ones of a mask that has no others; `None` for any other mask.
fn mask_len(mask: &[u8]) -> Option<u8> {
    let ones: u32 = mask.iter().map(|b| b.count_ones()).sum();
    let full = mask.iter().take_while(|b| **b == 0xff).count();
    let leading = full as u32 * 8 + mask.get(full).map_or(0, |b| b.leading_ones());
    (ones == leading).then(|| u8::try_from(ones).ok()).flatten()
}

/// Bits of connection tracking's states.
const STATES: [(u32, &str); 5] = [(1, "INVALID"), (2, "ESTABLISHED"), (4, "RELATED"), (8, "NEW"), (64, "UNTRACKED")];

fn states(bits: u32) -> Vec<String> {
    STATES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_string()).collect()
}

/// True where a field of the network header is the source, false where it is the destination; `None` for others.
fn is_source(family: &str, offset: u32) -> Option<bool> {
    // Bytes 12 and 16 of IPv4, 8 and 24 of IPv6; in ARP 14 is the sender, 24 the target.
    match (family, offset) {
        ("arp", 14) | ("ip" | "inet", 12) | ("ip6" | "inet", 8) => Some(true),
        ("arp", 24) | ("ip" | "inet", 16) | ("ip6" | "inet", 24) => Some(false),
        _ => None,
    }
}

/// A rule in the making, with the words of its conditions.
#[derive(Clone, Default)]
pub(super) struct Draft {
    pub(super) rule: FilterRule,
    pub(super) words: Vec<String>,
    /// For IPv6 alone, or for IPv4 alone, in a table of both.
    only: Option<bool>,
}

impl Draft {
    fn is_icmp(&self) -> bool {
        matches!(self.rule.protocol, Some((Protocol::Icmp | Protocol::Icmp6, false)))
    }

    /// The rule, with its words: a condition that was not understood among them.
    pub(super) fn finish(mut self, unknown: Option<String>, verdict: &str) -> FilterRule {
        if let (Some(v6), None, None) = (self.only, self.rule.src, self.rule.dst)
            && !matches!(self.rule.verdict, FilterVerdict::Snat(_) | FilterVerdict::Masquerade | FilterVerdict::Dnat(..))
        {
            let all = if v6 { IpAddr::from([0_u8; 16]) } else { IpAddr::from([0_u8; 4]) };
            self.rule.dst = Prefix::new(all, 0).map(|all| (all, false));
            self.words.insert(0, format!("meta nfproto {}", if v6 { "ipv6" } else { "ipv4" }));
        }
        self.words.extend(unknown.iter().map(|what| format!("({what})")));
        self.words.push(verdict.to_string());
        FilterRule { text: self.words.join(" "), unknown, ..self.rule }
    }

    /// Puts a comparison into the rule; false when it is not understood.
    pub(super) fn compare(&mut self, family: &str, held: Held, mask: Option<&[u8]>, op: u32, value: &[u8]) -> bool {
        let icmp = self.is_icmp();
        let not = match op {
            EQUAL => false,
            UNEQUAL => true,
            AT_LEAST | AT_MOST if mask.is_none() && !icmp => return self.bound(held, op == AT_LEAST, value),
            _ => return false,
        };
        let sign = if not { "!= " } else { "" };
        let (rule, words) = (&mut self.rule, &mut self.words);
        match held {
            Held::Meta(NFPROTO) => {
                self.only = value.first().map(|number| (*number == 10) != not);
                true
            }
            Held::Meta(key @ (IIFNAME | OIFNAME)) => {
                // Without a zero at its end it is the beginning of a name.
                let name = crate::netlink::text(value);
                let name = if value.contains(&0) { name } else { format!("{name}*") };
                words.push(format!("{} {sign}{name}", if key == IIFNAME { "iifname" } else { "oifname" }));
                let place = if key == IIFNAME { &mut rule.iif } else { &mut rule.oif };
                *place = Some((name, not));
                true
            }
            Held::Meta(L4PROTO) | Held::Field(1, 9, 1) if family != "arp" => {
                let Some(number) = value.first() else { return false };
                let protocol = Protocol::from(*number);
                words.push(format!("meta l4proto {sign}{protocol}"));
                rule.protocol = Some((protocol, not));
                true
            }
            // arptables checks hardware and protocol types first: true of every ARP message for IPv4.
            Held::Field(1, 0..=7, _) if family == "arp" => true,
            Held::Field(1, offset, len) => {
                let Some(is_src) = is_source(family, offset) else { return false };
                let mut bytes = value.to_vec();
                bytes.resize(if len > 4 || value.len() > 4 { 16 } else { 4 }, 0);
                let full = if bytes.len() == 4 { 32 } else { 128 };
                let bits = match mask {
                    Some(mask) => mask_len(mask),
                    // A shorter comparison is one of whole bytes.
                    None => u8::try_from(value.len() * 8).ok().map(|bits| bits.min(full)),
                };
                let Some(prefix) = addr(&bytes).zip(bits).and_then(|(addr, bits)| Prefix::new(addr, bits)) else { return false };
                let what = if family == "arp" { "arp" } else { "ip" };
                words.push(format!("{what} {} {sign}{prefix}", if is_src { "saddr" } else { "daddr" }));
                let place = if is_src { &mut rule.src } else { &mut rule.dst };
                *place = Some((prefix, not));
                true
            }
            Held::Field(2, 0, len @ (1 | 2)) if icmp && mask.is_none() => {
                let Some(kind) = value.first().copied() else { return false };
                let code = value.get(1).copied().filter(|_| len == 2);
                words.push(format!("icmp type {sign}{kind}{}", code.map_or(String::new(), |code| format!(" code {code}"))));
                rule.icmp = Some(((kind, code), not));
                true
            }
            Held::Field(2, 1, 1) if icmp && !not => {
                let (Some(((_, code @ None), false)), Some(wanted)) = (rule.icmp.as_mut(), value.first()) else { return false };
                *code = Some(*wanted);
                words.push(format!("code {wanted}"));
                true
            }
            Held::Field(2, offset @ (0 | 2), 2) if mask.is_none() && !icmp => {
                let Some(port) = value.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes) else { return false };
                words.push(format!("{} {sign}{port}", if offset == 0 { "sport" } else { "dport" }));
                let place = if offset == 0 { &mut rule.sport } else { &mut rule.dport };
                *place = Some((vec![(port, port)], not));
                true
            }
            // `ct state established,related accept` is a mask compared with zero.
            Held::State => {
                let Some(bits) = mask.and_then(|m| m.get(..4)?.try_into().ok()).map(u32::from_ne_bytes) else { return false };
                let states = states(bits);
                words.push(format!("ct state {}", states.join(",").to_lowercase()));
                // Unequal to zero: one of them is there.
                rule.states = Some((states, !not));
                true
            }
            _ => false,
        }
    }

    /// One end of a range of ports; the other one comes with the next comparison.
    fn bound(&mut self, held: Held, lower: bool, value: &[u8]) -> bool {
        let Held::Field(2, offset @ (0 | 2), 2) = held else { return false };
        let Some(port) = value.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes) else { return false };
        let (word, place) = if offset == 0 { ("sport", &mut self.rule.sport) } else { ("dport", &mut self.rule.dport) };
        let (ranges, not) = place.get_or_insert_with(|| (vec![(0, u16::MAX)], false));
        let ([range], false) = (&mut ranges[..], *not) else { return false };
        if lower {
            range.0 = port
        } else {
            range.1 = port
        }
        self.words.push(format!("{word} {} {port}", if lower { ">=" } else { "<=" }));
        true
    }

    /// The rules that a comparison with a set makes of this one: a list within one rule where a rule has lists, else a rule for each
    /// element. `None` when it is not understood.
    pub(super) fn among(&self, family: &str, held: Held, mask: Option<&[u8]>, not: bool, elements: &[Element]) -> Option<Vec<Draft>> {
        let is_map = elements.iter().any(|e| e.verdict.is_some());
        let sign = if not { "!= " } else { "" };
        let mut one = self.clone();
        match held {
            Held::Field(2, offset @ (0 | 2), 2) if !is_map && mask.is_none() && !self.is_icmp() => {
                let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?));
                let all: Vec<(u16, u16)> = elements.iter().map(|e| Some((port(&e.low)?, port(&e.high)?))).collect::<Option<_>>()?;
                let text: Vec<String> =
                    all.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") }).collect();
                one.words.push(format!("{} {sign}{{ {} }}", if offset == 0 { "sport" } else { "dport" }, text.join(", ")));
                let place = if offset == 0 { &mut one.rule.sport } else { &mut one.rule.dport };
                *place = Some((all, not));
                Some(vec![one])
            }
            Held::State if !is_map && mask.is_none() => {
                let bits =
                    elements.iter().map(|e| Some(u32::from_ne_bytes(e.low.get(..4)?.try_into().ok()?))).collect::<Option<Vec<_>>>()?;
                let states = states(bits.into_iter().fold(0, |all, bit| all | bit));
                one.words.push(format!("ct state {sign}{}", states.join(",").to_lowercase()));
                one.rule.states = Some((states, not));
                Some(vec![one])
            }
            _ if not || mask.is_some() => None,
            _ => elements.iter().map(|e| self.with(family, held, e)).collect::<Option<Vec<_>>>().map(|all| all.concat()),
        }
    }

    /// The rules that a comparison of several fields together makes of this one: all fields of an element hold, or it does not.
    pub(super) fn among_keys(&self, family: &str, key: &[(usize, &Loaded)], not: bool, elements: &[Element]) -> Option<Vec<Draft>> {
        // All but a pair is no pair of conditions.
        if not || key.iter().any(|(_, (_, mask))| mask.is_some()) {
            return None;
        }
        let one = |element: &Element| {
            let mut drafts = vec![self.clone()];
            for (at, (held, _)) in key {
                let range = *at..at + held.bytes() as usize;
                let part =
                    Element { low: element.low.get(range.clone())?.to_vec(), high: element.high.get(range)?.to_vec(), verdict: None };
                drafts = drafts.iter().map(|draft| draft.with(family, *held, &part)).collect::<Option<Vec<_>>>()?.concat();
            }
            if let Some(verdict) = &element.verdict {
                drafts.iter_mut().for_each(|draft| draft.rule.verdict = verdict.clone());
            }
            Some(drafts)
        };
        elements.iter().map(one).collect::<Option<Vec<_>>>().map(|all| all.concat())
    }

    /// The rules for one element.
    fn with(&self, family: &str, held: Held, element: &Element) -> Option<Vec<Draft>> {
        let Element { low, high, verdict } = element;
        let decide = |mut draft: Draft| {
            if let Some(verdict) = verdict {
                draft.rule.verdict = verdict.clone();
            }
            draft
        };
        let mut one = self.clone();
        match held {
            Held::Field(1, offset, _) if is_source(family, offset).is_some() && low != high => {
                let each = networks(low, high)?.into_iter().map(|(base, bits)| {
                    let mask: Vec<u8> = (0..base.len()).map(|at| (0xff00_u32 >> bits.saturating_sub(at * 8).min(8)) as u8).collect();
                    let mut one = self.clone();
                    one.compare(family, held, Some(&mask), EQUAL, &base).then_some(one)
                });
                each.map(|one| one.map(decide)).collect()
            }
            Held::State => {
                let bits = u32::from_ne_bytes(low.get(..4)?.try_into().ok()?);
                one.words.push(format!("ct state {}", states(bits).join(",").to_lowercase()));
                one.rule.states = Some((states(bits), false));
                Some(vec![decide(one)])
            }
            _ if low == high => one.compare(family, held, None, EQUAL, low).then(|| vec![decide(one)]),
            Held::Field(2, ..) => (one.bound(held, true, low) && one.bound(held, false, high)).then(|| vec![decide(one)]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(
            (mask_len(&[255, 255, 240, 0]), mask_len(&[255, 0, 255, 0]), mask_len(&[]), mask_len(&[255; 4])),
            (Some(20), None, Some(0), Some(32))
        );
    }

    #[test]
    fn a_range_of_addresses_is_several_rules() {
        let element = Element { low: vec![10, 0, 0, 1], high: vec![10, 0, 0, 3], verdict: None };
        let drafts = Draft::default().among("ip", Held::Field(1, 12, 4), None, false, &[element]).unwrap();
        let sources: Vec<String> = drafts.iter().map(|d| d.rule.src.unwrap().0.to_string()).collect();
        assert_eq!(sources, ["10.0.0.1/32", "10.0.0.2/31"]);
    }
}
