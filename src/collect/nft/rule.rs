//! One rule of nftables, out of its expressions.

use super::compare::{Draft, EQUAL, addr, meta_bytes};
use super::compat::{compat, target};
use super::registers::Registers;
use super::sets::Element;
use crate::host::{FilterRule, FilterVerdict};
use crate::netlink::Attrs;
use std::collections::HashMap;

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// A field of the packet: base (1 network, 2 transport), offset, length.
    Field(u32, u32, u32),
    Meta(u32),
    State,
}

impl Held {
    /// How many bytes it takes in a register.
    pub(super) fn bytes(self) -> u32 {
        match self {
            Held::Field(_, _, len) => len,
            Held::Meta(key) => meta_bytes(key),
            Held::State => 4,
        }
    }
}

/// More rules than so many are not made of one.
const MANY: usize = 512;

/// Asks for the elements of a set of the rule's table.
pub(super) type Elements<'a> = dyn FnMut(&str) -> Option<Vec<Element>> + 'a;

/// Reads a rule. One that compares with sets may become several.
pub(super) fn rules(expressions: Attrs<'_>, family: &str, sets: &mut Elements<'_>) -> Vec<FilterRule> {
    let mut drafts = vec![Draft::default()];
    let mut registers = Registers::default();
    let mut unknown: Option<String> = None;
    let mut immediates: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut mangled = None;
    let mut verdict: Option<FilterVerdict> = None;
    let mut packets = None;
    for (_, element) in expressions.iter() {
        let expression = Attrs::after(element, 0);
        let (Some(name), data) = (expression.text(1), expression.nested(2)) else { continue };
        let register = |kind: u16| data.be32(kind).unwrap_or(0);
        match name.as_str() {
            // It writes: the sender of an ARP message (behind struct arphdr and the sender's MAC), or something else.
            "payload" if data.be32(5).is_some() => match (family, data.be32(2), data.be32(3), data.be32(4)) {
                ("arp", Some(1), Some(14), Some(4)) => mangled = Some(immediates.get(&register(5)).and_then(|b| addr(b))),
                _ => _ = unknown.get_or_insert("a change of the packet".to_string()),
            },
            "payload" => registers.load(register(1), Held::Field(register(2), register(3), register(4)), None),
            "meta" if data.be32(1).is_some() => registers.load(register(1), Held::Meta(register(2)), None),
            // NFT_META_MARK, set.
            "meta" if data.be32(2) == Some(3) => {
                let value = immediates.get(&register(3)).and_then(|b| b.get(..4)?.try_into().ok()).map(u32::from_ne_bytes);
                match value {
                    Some(mark) => verdict = Some(FilterVerdict::Mark(mark)),
                    None => _ = unknown.get_or_insert("a mark".to_string()),
                }
            }
            "ct" if data.be32(1).is_some() && data.be32(2) == Some(0) => registers.load(register(1), Held::State, None),
            "bitwise" => {
                let mask = data.nested(4).get(1).map(<[u8]>::to_vec);
                if let Some((held, _)) = registers.get(register(1)).cloned() {
                    registers.load(register(2), held, mask);
                }
            }
            "cmp" => {
                let (op, value) = (data.be32(2).unwrap_or(u32::MAX), data.nested(3).get(1).unwrap_or_default());
                let held = registers.get(register(1)).cloned();
                let put =
                    |draft: &mut Draft| held.as_ref().is_some_and(|(held, mask)| draft.compare(family, *held, mask.as_deref(), op, value));
                // Every one of them, also behind one that is not understood.
                let understood = drafts.iter_mut().map(put).filter(|understood| *understood).count();
                if understood < drafts.len() {
                    unknown.get_or_insert("a comparison".to_string());
                }
            }
            "range" => {
                let value = |kind: u16| data.nested(kind).get(1).unwrap_or_default().to_vec();
                let element = Element { low: value(3), high: value(4), verdict: None };
                among(&mut drafts, family, (&registers, register(1)), data.be32(2) != Some(EQUAL), Some(&[element]), &mut unknown);
            }
            "lookup" => {
                let elements = data.text(1).and_then(|set| sets(&set));
                // A map of values, not of verdicts, translates or marks: what comes of it is not looked at.
                let known = elements.as_deref().filter(|all| data.be32(3).is_none() || all.iter().all(|e| e.verdict.is_some()));
                among(&mut drafts, family, (&registers, register(2)), register(5) & 1 != 0, known, &mut unknown);
            }
            "immediate" => {
                let told = data.nested(2).nested(2);
                match told.be32(1) {
                    Some(code) => verdict = Some(decided(code.cast_signed(), told.text(2))),
                    None => _ = immediates.insert(register(1), data.nested(2).get(1).unwrap_or_default().to_vec()),
                }
            }
            "reject" => verdict = Some(FilterVerdict::Reject),
            "masq" => verdict = Some(FilterVerdict::Masquerade),
            "redir" => verdict = Some(FilterVerdict::Redirect(port(&immediates, data.be32(1)))),
            "nat" => {
                let to = data.be32(3).and_then(|r| immediates.get(&r)).and_then(|b| addr(b));
                verdict = Some(match data.be32(1) {
                    Some(0) => FilterVerdict::Snat(to),
                    _ => FilterVerdict::Dnat(to, port(&immediates, data.be32(5))),
                });
            }
            "queue" => verdict = Some(FilterVerdict::Other("queue".to_string())),
            "notrack" => verdict = Some(FilterVerdict::Untracked),
            // Option 2 of TCP, written: the largest segment.
            "exthdr" if data.be32(7).is_some() && data.be32(6) == Some(1) && data.u8(2) == Some(2) => {
                verdict = Some(FilterVerdict::Mss(port(&immediates, data.be32(7))));
            }
            "counter" => packets = data.get(2).and_then(|b| b.get(..8)?.try_into().ok()).map(u64::from_be_bytes),
            "log" | "comment" => {}
            "target" => verdict = Some(target(&data.text(1).unwrap_or_default(), data.get(3).unwrap_or_default())),
            "match" => {
                let (name, info) = (data.text(1).unwrap_or_default(), data.get(3).unwrap_or_default());
                drafts.iter_mut().for_each(|draft| compat(draft, &name, info, &mut unknown));
            }
            // Sets of arptables' own header checks, limits, maps …
            other => _ = unknown.get_or_insert(other.to_string()),
        }
    }
    // What follows a change of the sender only lets it out.
    let verdict = mangled.map(FilterVerdict::Mangle).or(verdict);
    let finish = |mut draft: Draft| {
        draft.rule.packets = packets;
        if let Some(verdict) = &verdict {
            draft.rule.verdict = verdict.clone();
        }
        let words = verdict_words(&draft.rule.verdict);
        draft.finish(unknown.clone(), &words)
    };
    drafts.into_iter().map(finish).collect()
}

/// Compares every draft with a set.
fn among(
    drafts: &mut Vec<Draft>,
    family: &str,
    (registers, register): (&Registers, u32),
    not: bool,
    elements: Option<&[Element]>,
    unknown: &mut Option<String>,
) {
    let all = elements.and_then(|elements| {
        // Nothing is in an empty set, whatever its key.
        let key = registers.key(register, elements.first().map_or(0, |e| e.low.len()))?;
        let each = drafts.iter().map(|draft| match key[..] {
            [(_, (held, mask))] => draft.among(family, *held, mask.as_deref(), not, elements),
            _ => draft.among_keys(family, &key, not, elements),
        });
        each.collect::<Option<Vec<_>>>().map(|all| all.concat()).filter(|all| all.len() <= MANY)
    });
    match all {
        Some(all) => *drafts = all,
        None => _ = unknown.get_or_insert("a set".to_string()),
    }
}

fn port(immediates: &HashMap<u32, Vec<u8>>, register: Option<u32>) -> Option<u16> {
    let bytes = immediates.get(&register?)?;
    Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
}

pub(super) fn decided(code: i32, chain: Option<String>) -> FilterVerdict {
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
    let address = |to: &Option<std::net::IpAddr>| to.map_or("?".to_string(), |a| a.to_string());
    match verdict {
        FilterVerdict::Continue => "continue".to_string(),
        FilterVerdict::Accept => "accept".to_string(),
        FilterVerdict::Drop => "drop".to_string(),
        FilterVerdict::Reject => "reject".to_string(),
        FilterVerdict::Jump(to) => format!("jump {to}"),
        FilterVerdict::Goto(to) => format!("goto {to}"),
        FilterVerdict::Return => "return".to_string(),
        FilterVerdict::Dnat(to, _) => format!("dnat to {}", address(to)),
        FilterVerdict::Snat(to) => format!("snat to {}", address(to)),
        FilterVerdict::Masquerade => "masquerade".to_string(),
        FilterVerdict::Redirect(_) => "redirect".to_string(),
        FilterVerdict::Mark(mark) => format!("mark set {mark}"),
        FilterVerdict::Mangle(to) => format!("mangle --mangle-ip-s {}", address(to)),
        FilterVerdict::Mss(mss) => format!("maxseg size set {}", mss.map_or("rt mtu".to_string(), |mss| mss.to_string())),
        FilterVerdict::Untracked => "notrack".to_string(),
        FilterVerdict::Other(name) => name.clone(),
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

    fn told(expressions: &[Body], family: &str, set: &[Element]) -> Vec<FilterRule> {
        let list = expressions.iter().fold(Body::new(), |list, e| list.nested(1, e));
        rules(Attrs::after(&list.behind(&[]), 0), family, &mut |name| (name == "web").then(|| set.to_vec()))
    }

    fn cmp(register: u32, op: u32, value: &[u8]) -> Body {
        expression("cmp", Body::new().bytes(1, &be(register)).bytes(2, &be(op)).nested(3, &Body::new().bytes(1, value)))
    }

    fn payload(base: u32, offset: u32, len: u32) -> Body {
        expression("payload", Body::new().bytes(1, &be(1)).bytes(2, &be(base)).bytes(3, &be(offset)).bytes(4, &be(len)))
    }

    fn meta(key: u32) -> Body {
        expression("meta", Body::new().bytes(1, &be(1)).bytes(2, &be(key)))
    }

    fn lookup(set: &str, flags: u32) -> Body {
        expression("lookup", Body::new().text(1, set).bytes(2, &be(1)).bytes(5, &be(flags)))
    }

    fn verdict(code: u32) -> Body {
        let told = Body::new().nested(2, &Body::new().bytes(1, &be(code)));
        expression("immediate", Body::new().bytes(1, &be(0)).nested(2, &told))
    }

    fn element(low: &[u8], high: &[u8]) -> Element {
        Element { low: low.to_vec(), high: high.to_vec(), verdict: None }
    }

    #[test]
    fn a_rule_of_nftables() {
        let list = [payload(1, 16, 4), cmp(1, 0, &[10, 0, 0, 13]), payload(2, 2, 2), cmp(1, 0, &[0, 80]), verdict(0)];
        let rule = told(&list, "ip", &[]).remove(0);
        assert_eq!((rule.verdict, rule.unknown), (FilterVerdict::Drop, None));
        assert_eq!((rule.dst, rule.dport), (Some(("10.0.0.13/32".parse().unwrap(), false)), Some((vec![(80, 80)], false))));
        assert_eq!(rule.text, "ip daddr 10.0.0.13/32 dport 80 drop");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let rule = told(&[payload(1, 12, 4), lookup("other", 0), verdict(1)], "ip", &[]).remove(0);
        assert_eq!(rule.unknown.as_deref(), Some("a set"));
        let rule = told(&[expression("limit", Body::new()), verdict(1)], "ip", &[]).remove(0);
        assert_eq!(rule.unknown.as_deref(), Some("limit"));
    }

    #[test]
    fn sets_of_ports_and_addresses() {
        let ports = [element(&[0, 80], &[0, 80]), element(&[1, 187], &[1, 190])];
        let found = told(&[payload(2, 2, 2), lookup("web", 1), verdict(0)], "inet", &ports);
        assert_eq!((found.len(), found[0].text.as_str()), (1, "dport != { 80, 443-446 } drop"));
        assert_eq!(found[0].dport, Some((vec![(80, 80), (443, 446)], true)));
        let nets = [element(&[10, 0, 0, 0], &[10, 0, 0, 255]), element(&[10, 1, 0, 1], &[10, 1, 0, 1])];
        let found = told(&[payload(1, 12, 4), lookup("web", 0), verdict(1)], "ip", &nets);
        let sources: Vec<String> = found.iter().map(|r| r.src.unwrap().0.to_string()).collect();
        assert_eq!(sources, ["10.0.0.0/24", "10.1.0.1/32"]);
        assert!(found.iter().all(|r| r.verdict == FilterVerdict::Accept && r.unknown.is_none()));
        // All but these addresses: no list of rules can say that.
        let found = told(&[payload(1, 12, 4), lookup("web", 1), verdict(1)], "ip", &nets);
        assert_eq!((found.len(), found[0].unknown.as_deref()), (1, Some("a set")));
        assert!(told(&[payload(1, 12, 4), lookup("web", 0), verdict(0)], "ip", &[]).is_empty(), "nobody is in an empty set");
    }

    /// `ip daddr . tcp dport @web`: the key is padded to pieces of 4 bytes, and a range of it is one of each field.
    #[test]
    fn sets_of_pairs() {
        let pair = |addr: [u8; 4], port: [u8; 2]| [&addr[..], &port[..], &[0, 0]].concat();
        let port_at =
            |register: u32| expression("payload", Body::new().bytes(1, &be(register)).bytes(2, &be(2)).bytes(3, &be(2)).bytes(4, &be(2)));
        let list = |not: u32| [meta(16), cmp(1, 0, &[6]), payload(1, 16, 4), port_at(9), lookup("web", not), verdict(1)];
        let set = [
            element(&pair([10, 0, 0, 13], [0, 80]), &pair([10, 0, 0, 13], [0, 80])),
            element(&pair([10, 0, 1, 0], [1, 187]), &pair([10, 0, 1, 255], [1, 190])),
        ];
        let texts: Vec<String> = told(&list(0), "ip", &set).into_iter().map(|r| r.text).collect();
        assert_eq!(
            texts,
            [
                "meta l4proto tcp ip daddr 10.0.0.13/32 dport 80 accept",
                "meta l4proto tcp ip daddr 10.0.1.0/24 dport >= 443 dport <= 446 accept"
            ]
        );
        assert_eq!(told(&list(1), "ip", &set)[0].unknown.as_deref(), Some("a set"), "all but some pairs");
        // A part that nobody loaded, or a third one.
        let lone = [payload(1, 16, 4), lookup("web", 0), verdict(1)];
        assert_eq!(told(&lone, "ip", &set)[0].unknown.as_deref(), Some("a set"));
        assert!(told(&list(0), "ip", &[]).is_empty(), "nobody is in an empty set");
        // A map of pairs.
        let drop = Element { verdict: Some(FilterVerdict::Drop), ..set[0].clone() };
        let mapped = expression("lookup", Body::new().text(1, "web").bytes(2, &be(1)).bytes(3, &be(0)));
        let found = told(&[meta(16), cmp(1, 0, &[6]), payload(1, 16, 4), port_at(9), mapped], "ip", &[drop]);
        assert_eq!((found.len(), &found[0].verdict, &found[0].unknown), (1, &FilterVerdict::Drop, &None));
    }

    #[test]
    fn a_map_of_verdicts() {
        let to =
            |bits: u32, verdict| Element { low: bits.to_ne_bytes().to_vec(), high: bits.to_ne_bytes().to_vec(), verdict: Some(verdict) };
        let map = [to(2, FilterVerdict::Accept), to(1, FilterVerdict::Drop)];
        let state = expression("ct", Body::new().bytes(1, &be(1)).bytes(2, &be(0)));
        let mapped = expression("lookup", Body::new().text(1, "web").bytes(2, &be(1)).bytes(3, &be(0)));
        let texts: Vec<String> = told(&[state, mapped], "inet", &map).into_iter().map(|r| r.text).collect();
        assert_eq!(texts, ["ct state established accept", "ct state invalid drop"]);
    }

    #[test]
    fn icmp_ranges_and_families() {
        let list = [meta(16), cmp(1, 0, &[1]), payload(2, 0, 2), cmp(1, 0, &[3, 4]), verdict(0)];
        let rule = told(&list, "ip", &[]).remove(0);
        assert_eq!((rule.icmp, rule.sport), (Some(((3, Some(4)), false)), None), "no port of ICMP");
        let list = [payload(2, 2, 2), cmp(1, 5, &[0, 80]), cmp(1, 3, &[0, 90]), verdict(1)];
        assert_eq!(told(&list, "ip", &[])[0].dport, Some((vec![(80, 90)], false)));
        let list = [meta(15), cmp(1, 0, &[10]), verdict(0)];
        let rule = told(&list, "inet", &[]).remove(0);
        assert_eq!((rule.dst.map(|d| d.0.to_string()).as_deref(), rule.text.as_str()), (Some("::/0"), "meta nfproto ipv6 drop"));
        let list = [payload(1, 12, 4), cmp(1, 0, &[10, 0, 0, 1]), expression("notrack", Body::new())];
        assert_eq!(told(&list, "ip", &[])[0].verdict, FilterVerdict::Untracked);
    }
}
