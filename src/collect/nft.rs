//! nftables over netlink: base chains, and rules as far as they can be told from their expressions, including those that iptables-nft and
//! arptables-nft made. A condition that is not understood makes a rule doubtful, never wrong. Rules of the old iptables cannot be read.

use super::proc;
use crate::host::{Chain, FilterRule, FilterVerdict, Hook, Netfilter, Ports};
use crate::net::{Prefix, Protocol};
use crate::netlink::{Attrs, Family, NetlinkError as Error, Socket};
use std::collections::HashMap;
use std::net::IpAddr;

const GET_CHAIN: u16 = 10 << 8 | 4;
const GET_RULE: u16 = 10 << 8 | 7;

pub(super) fn filters() -> Result<Netfilter, Error> {
    let mut found = Netfilter::default();
    let mut socket = Socket::open(Family::Netfilter)?;
    // Family 0: all of them.
    let all = [0; 4];
    let chains = match socket.dump(GET_CHAIN, &all) {
        // A kernel without nftables answers EINVAL or EOPNOTSUPP.
        Err(e) if matches!(e.errno, 22 | 95) => Vec::new(),
        other => other?,
    };
    found.chains = chains.iter().filter_map(|m| chain(&m.body)).collect();
    if !found.chains.is_empty() {
        for message in socket.dump(GET_RULE, &all)? {
            let attrs = Attrs::after(&message.body, 4);
            let (Some(family), Some(table), Some(name)) = (family(message.body.first().copied()), attrs.text(1), attrs.text(2)) else {
                continue;
            };
            let rule = rule(attrs.nested(4), family);
            if let Some(chain) = found.chains.iter_mut().find(|c| c.family == family && c.table == table && c.name == name) {
                chain.rules.push(rule);
            }
        }
    }
    // Tables of the old iptables are named there, and their rules are nowhere that we read.
    for (file, family) in [("ip_tables_names", "ip"), ("ip6_tables_names", "ip6"), ("arp_tables_names", "arp")] {
        if proc::read(format!("/proc/thread-self/net/{file}")).is_ok_and(|text| !text.trim().is_empty()) {
            found.unread.push(family.to_string());
        }
    }
    Ok(found)
}

fn family(number: Option<u8>) -> Option<&'static str> {
    Some(match number? {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    })
}

fn chain(body: &[u8]) -> Option<Chain> {
    let attrs = Attrs::after(body, 4);
    let family = family(body.first().copied())?;
    let place = attrs.nested(4);
    let hook = place.be32(1).and_then(|number| match (family, number) {
        ("arp", 0) => Some(Hook::Input),
        ("arp", 1) => Some(Hook::Output),
        ("netdev", _) => None,
        (_, 0) => Some(Hook::Prerouting),
        (_, 1) => Some(Hook::Input),
        (_, 2) => Some(Hook::Forward),
        (_, 3) => Some(Hook::Output),
        (_, 4) => Some(Hook::Postrouting),
        _ => None,
    });
    Some(Chain {
        family: family.to_string(),
        table: attrs.text(1)?,
        name: attrs.text(3)?,
        hook,
        priority: place.be32(2).map_or(0, u32::cast_signed),
        kind: attrs.text(7).unwrap_or_default(),
        drops: attrs.be32(5) == Some(0),
        rules: Vec::new(),
    })
}

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// A field of the packet: base (1 network, 2 transport), offset, length.
    Field(u32, u32, u32),
    Meta(u32),
    State,
}

/// Keys of `meta` that are understood.
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;

fn rule(expressions: Attrs<'_>, family: &str) -> FilterRule {
    let mut rule = FilterRule::default();
    let mut registers: HashMap<u32, (Held, Option<Vec<u8>>)> = HashMap::new();
    let mut words: Vec<String> = Vec::new();
    let mut unknown: Option<String> = None;
    let mut immediates: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut mangled = None;
    for (_, element) in expressions.iter() {
        let expression = Attrs::after(element, 0);
        let (Some(name), data) = (expression.text(1), expression.nested(2)) else { continue };
        match name.as_str() {
            // It writes: the sender of an ARP message (behind struct arphdr and the sender's MAC), or something else.
            "payload" if data.be32(5).is_some() => match (family, data.be32(2), data.be32(3), data.be32(4)) {
                ("arp", Some(1), Some(14), Some(4)) => mangled = Some(data.be32(5).and_then(|r| immediates.get(&r)).and_then(|b| addr(b))),
                _ => _ = unknown.get_or_insert("a change of the packet".to_string()),
            },
            "payload" => {
                _ = registers.insert(
                    data.be32(1).unwrap_or(0),
                    (Held::Field(data.be32(2).unwrap_or(0), data.be32(3).unwrap_or(0), data.be32(4).unwrap_or(0)), None),
                )
            }
            "meta" if data.be32(1).is_some() => {
                _ = registers.insert(data.be32(1).unwrap_or(0), (Held::Meta(data.be32(2).unwrap_or(0)), None))
            }
            "ct" if data.be32(1).is_some() && data.be32(2) == Some(0) => {
                _ = registers.insert(data.be32(1).unwrap_or(0), (Held::State, None))
            }
            "bitwise" => {
                let (from, to) = (data.be32(1).unwrap_or(0), data.be32(2).unwrap_or(0));
                let mask = data.nested(4).get(1).map(<[u8]>::to_vec);
                if let Some((held, _)) = registers.get(&from).cloned() {
                    registers.insert(to, (held, mask));
                }
            }
            "cmp" => {
                let (op, value) = (data.be32(2).unwrap_or(9), data.nested(3).get(1).unwrap_or_default());
                let held = registers.get(&data.be32(1).unwrap_or(0)).cloned();
                let understood = held.is_some_and(|(held, mask)| compare(&mut rule, family, held, mask.as_deref(), op, value, &mut words));
                if !understood {
                    unknown.get_or_insert("a comparison".to_string());
                }
            }
            "immediate" => {
                let verdict = data.nested(2).nested(2);
                match verdict.be32(1) {
                    Some(code) => rule.verdict = decided(code.cast_signed(), verdict.text(2)),
                    None => _ = immediates.insert(data.be32(1).unwrap_or(0), data.nested(2).get(1).unwrap_or_default().to_vec()),
                }
            }
            "reject" => rule.verdict = FilterVerdict::Reject,
            "masq" => rule.verdict = FilterVerdict::Masquerade,
            "redir" => rule.verdict = FilterVerdict::Redirect(port(&immediates, data.be32(1))),
            "nat" => {
                let to = data.be32(3).and_then(|r| immediates.get(&r)).and_then(|b| addr(b));
                rule.verdict = match data.be32(1) {
                    Some(0) => FilterVerdict::Snat(to),
                    _ => FilterVerdict::Dnat(to, port(&immediates, data.be32(5))),
                };
            }
            "queue" => rule.verdict = FilterVerdict::Other("queue".to_string()),
            "counter" => rule.packets = data.get(2).and_then(|b| b.get(..8)?.try_into().ok()).map(u64::from_be_bytes),
            "log" | "notrack" | "comment" => {}
            "target" => rule.verdict = target(&data.text(1).unwrap_or_default(), data.get(3).unwrap_or_default()),
            "match" => compat(&mut rule, &data.text(1).unwrap_or_default(), data.get(3).unwrap_or_default(), &mut words, &mut unknown),
            // Sets of arptables' own header checks, limits, maps …
            other => _ = unknown.get_or_insert(other.to_string()),
        }
    }
    // What follows a change of the sender only lets it out.
    if let Some(to) = mangled {
        rule.verdict = FilterVerdict::Mangle(to);
    }
    rule.unknown = unknown.clone();
    words.extend(unknown.map(|what| format!("({what})")));
    words.push(verdict_words(&rule.verdict));
    rule.text = words.join(" ");
    rule
}

fn port(immediates: &HashMap<u32, Vec<u8>>, register: Option<u32>) -> Option<u16> {
    let bytes = immediates.get(&register?)?;
    Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
}

fn addr(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn decided(code: i32, chain: Option<String>) -> FilterVerdict {
    match (code, chain) {
        (0, _) => FilterVerdict::Drop,
        (1, _) => FilterVerdict::Accept,
        (-3, Some(chain)) => FilterVerdict::Jump(chain),
        (-4, Some(chain)) => FilterVerdict::Goto(chain),
        (-5, _) => FilterVerdict::Return,
        (3, _) => FilterVerdict::Other("queue".to_string()),
        _ => FilterVerdict::Continue,
    }
}

fn verdict_words(verdict: &FilterVerdict) -> String {
    match verdict {
        FilterVerdict::Continue => "continue".to_string(),
        FilterVerdict::Accept => "accept".to_string(),
        FilterVerdict::Drop => "drop".to_string(),
        FilterVerdict::Reject => "reject".to_string(),
        FilterVerdict::Jump(to) => format!("jump {to}"),
        FilterVerdict::Goto(to) => format!("goto {to}"),
        FilterVerdict::Return => "return".to_string(),
        FilterVerdict::Dnat(to, _) => format!("dnat to {}", to.map_or("?".to_string(), |a| a.to_string())),
        FilterVerdict::Snat(to) => format!("snat to {}", to.map_or("?".to_string(), |a| a.to_string())),
        FilterVerdict::Masquerade => "masquerade".to_string(),
        FilterVerdict::Redirect(_) => "redirect".to_string(),
        FilterVerdict::Mark(mark) => format!("mark set {mark}"),
        FilterVerdict::Mangle(to) => format!("mangle --mangle-ip-s {}", to.map_or("?".to_string(), |a| a.to_string())),
        FilterVerdict::Other(name) => name.clone(),
    }
}

/// The number of leading ones of a mask that has no others; `None` for any other mask.
fn mask_len(mask: &[u8]) -> Option<u8> {
    let ones: u32 = mask.iter().map(|b| b.count_ones()).sum();
    let leading: u32 = mask
        .iter()
        .map(|b| b.leading_ones())
        .scan(true, |go, n| {
            if *go {
                *go = n == 8;
                Some(n)
            } else {
                None
            }
        })
        .sum();
    (ones == leading).then(|| u8::try_from(ones).ok()).flatten()
}

/// Puts a comparison into the rule; false when it is not understood.
fn compare(rule: &mut FilterRule, family: &str, held: Held, mask: Option<&[u8]>, op: u32, value: &[u8], words: &mut Vec<String>) -> bool {
    let not = match op {
        0 => false,
        1 => true,
        _ => return false,
    };
    let sign = if not { "!= " } else { "" };
    match held {
        Held::Meta(NFPROTO) => true,
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
        Held::Field(1, offset, len) => {
            // Bytes 12 and 16 of IPv4, 8 and 24 of IPv6; in ARP 14 is the sender, 24 the target.
            let is_src = match (family, offset) {
                ("arp", 14) | ("ip" | "inet", 12) | ("ip6" | "inet", 8) => true,
                ("arp", 24) | ("ip" | "inet", 16) | ("ip6" | "inet", 24) => false,
                // arptables checks hardware and protocol types first: true of every ARP message for IPv4.
                ("arp", 0..=7) => return true,
                _ => return false,
            };
            let mut bytes = value.to_vec();
            bytes.resize(if len > 4 || value.len() > 4 { 16 } else { 4 }, 0);
            let full = if bytes.len() == 4 { 32 } else { 128 };
            let bits = match mask {
                Some(mask) => mask_len(mask),
                // A shorter comparison is one of whole bytes.
                None => u8::try_from(value.len() * 8).ok().map(|bits| bits.min(full)),
            };
            let Some(prefix) = addr(&bytes).zip(bits).and_then(|(addr, bits)| Prefix::new(addr, bits)) else { return false };
            words.push(format!("{} {} {sign}{prefix}", if family == "arp" { "arp" } else { "ip" }, if is_src { "saddr" } else { "daddr" }));
            let place = if is_src { &mut rule.src } else { &mut rule.dst };
            *place = Some((prefix, not));
            true
        }
        Held::Field(2, offset @ (0 | 2), 2) if mask.is_none() => {
            let Some(port) = value.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes) else { return false };
            words.push(format!("{} {sign}{port}", if offset == 0 { "sport" } else { "dport" }));
            let place = if offset == 0 { &mut rule.sport } else { &mut rule.dport };
            *place = Some((vec![(port, port)], not));
            true
        }
        // `ct state established,related accept` is a mask compared with zero.
        Held::State => {
            let Some(bits) = mask.and_then(|m| m.get(..4)?.try_into().ok()).map(u32::from_ne_bytes) else { return false };
            let known = [(1, "INVALID"), (2, "ESTABLISHED"), (4, "RELATED"), (8, "NEW"), (64, "UNTRACKED")];
            let states: Vec<String> = known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_string()).collect();
            words.push(format!("ct state {}", states.join(",").to_lowercase()));
            // Unequal to zero: one of them is there.
            rule.states = Some((states, !not));
            true
        }
        _ => false,
    }
}

/// Targets of iptables-nft that nftables has no word of its own for.
fn target(name: &str, info: &[u8]) -> FilterVerdict {
    let at = |offset: usize| info.get(offset..offset + 4).and_then(addr);
    match name {
        "DNAT" | "SNAT" => {
            // struct nf_nat_range2 begins with flags, then the smallest address; the older struct with a count and flags.
            let to = if info.len() >= 40 { at(4) } else { at(8) };
            if name == "DNAT" { FilterVerdict::Dnat(to, None) } else { FilterVerdict::Snat(to) }
        }
        "MASQUERADE" => FilterVerdict::Masquerade,
        "REDIRECT" => FilterVerdict::Redirect(None),
        "REJECT" => FilterVerdict::Reject,
        // struct arpt_mangle: two hardware addresses, then the source.
        "mangle" => FilterVerdict::Mangle(at(32)),
        "NFQUEUE" => FilterVerdict::Other("queue".to_string()),
        _ => FilterVerdict::Continue,
    }
}

/// Matches of iptables-nft: ports of `tcp` and `udp` are known, comments say nothing, `ipvs` is for packets of IPVS.
fn compat(rule: &mut FilterRule, name: &str, info: &[u8], words: &mut Vec<String>, unknown: &mut Option<String>) {
    match name {
        "tcp" | "udp" if info.len() >= 8 => {
            let pair = |at: usize| (u16::from_ne_bytes([info[at], info[at + 1]]), u16::from_ne_bytes([info[at + 2], info[at + 3]]));
            let inverted = info.get(if name == "tcp" { 11 } else { 8 }).copied().unwrap_or(0);
            let mut put = |range: (u16, u16), bit: u8, word: &str, place: &mut Option<(Ports, bool)>| {
                if range != (0, u16::MAX) {
                    words.push(format!("{word} {}:{}", range.0, range.1));
                    *place = Some((vec![range], inverted & bit != 0));
                }
            };
            put(pair(0), 1, "--sport", &mut rule.sport);
            put(pair(4), 2, "--dport", &mut rule.dport);
            // Flags of TCP that are asked for.
            if name == "tcp" && info.get(9).is_some_and(|mask| *mask != 0) {
                unknown.get_or_insert("--tcp-flags".to_string());
            }
        }
        "comment" => {}
        "ipvs" => rule.ipvs = true,
        other => _ = unknown.get_or_insert(format!("-m {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Attributes as Body;

    fn be(n: u32) -> [u8; 4] {
        n.to_be_bytes()
    }

    fn expression(name: &str, data: Body) -> Body {
        Body::new().text(1, name).nested(2, &data)
    }

    fn told(expressions: &[Body], family: &str) -> FilterRule {
        let list = expressions.iter().fold(Body::new(), |list, e| list.nested(1, e));
        rule(Attrs::after(&list.behind(&[]), 0), family)
    }

    fn cmp(register: u32, op: u32, value: &[u8]) -> Body {
        expression("cmp", Body::new().bytes(1, &be(register)).bytes(2, &be(op)).nested(3, &Body::new().bytes(1, value)))
    }

    #[test]
    fn a_rule_of_nftables() {
        let payload = |base, offset, len| {
            expression("payload", Body::new().bytes(1, &be(1)).bytes(2, &be(base)).bytes(3, &be(offset)).bytes(4, &be(len)))
        };
        let verdict = Body::new().bytes(1, &be(0)).nested(2, &Body::new().nested(2, &Body::new().bytes(1, &be(0))));
        let rule = told(
            &[payload(1, 16, 4), cmp(1, 0, &[10, 0, 0, 13]), payload(2, 2, 2), cmp(1, 0, &[0, 80]), expression("immediate", verdict)],
            "ip",
        );
        assert_eq!((rule.verdict, rule.unknown), (FilterVerdict::Drop, None));
        assert_eq!((rule.dst, rule.dport), (Some(("10.0.0.13/32".parse().unwrap(), false)), Some((vec![(80, 80)], false))));
        assert_eq!(rule.text, "ip daddr 10.0.0.13/32 dport 80 drop");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let rule = told(&[expression("lookup", Body::new())], "ip");
        assert_eq!(rule.unknown.as_deref(), Some("lookup"));
        assert_eq!((mask_len(&[255, 255, 240, 0]), mask_len(&[255, 0, 255, 0]), mask_len(&[])), (Some(20), None, Some(0)));
    }
}
