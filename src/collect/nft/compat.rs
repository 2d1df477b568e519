//! Matches and targets of iptables-nft and arptables-nft that nftables has no words of its own for: structures of the old tables.

use super::compare::{Draft, addr};
use crate::host::{FilterVerdict, Ports};

fn half(info: &[u8], at: usize) -> u16 {
    info.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// Targets.
pub(super) fn target(name: &str, info: &[u8]) -> FilterVerdict {
    let at = |offset: usize| info.get(offset..offset + 4).and_then(addr);
    match name {
        "DNAT" | "SNAT" => {
            // struct nf_nat_range2 begins with flags, then the smallest address, the largest, the smallest port; the older struct with a
            // count and flags.
            const PROTO_SPECIFIED: u8 = 2;
            let new = info.len() >= 40;
            let to = if new { at(4) } else { at(8) };
            let port = info.get(36..38).filter(|_| new && info[0] & PROTO_SPECIFIED != 0).map(|b| u16::from_be_bytes([b[0], b[1]]));
            if name == "DNAT" { FilterVerdict::Dnat(to, port) } else { FilterVerdict::Snat(to) }
        }
        "MASQUERADE" => FilterVerdict::Masquerade,
        "REDIRECT" => FilterVerdict::Redirect(None),
        "REJECT" => FilterVerdict::Reject,
        // struct arpt_mangle: two hardware addresses, then the source.
        "mangle" => FilterVerdict::Mangle(at(32)),
        "NFQUEUE" => FilterVerdict::Other("queue".to_string()),
        // struct xt_tcpmss_info; the largest number is what the way allows.
        "TCPMSS" => FilterVerdict::Mss(Some(half(info, 0)).filter(|mss| *mss != u16::MAX)),
        "NOTRACK" => FilterVerdict::Untracked,
        // struct xt_ct_target_info begins with flags, of which the first bit is this.
        "CT" if half(info, 0) & 1 != 0 => FilterVerdict::Untracked,
        // struct xt_mark_tginfo2
        "MARK" => FilterVerdict::Mark(info.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)),
        _ => FilterVerdict::Continue,
    }
}

/// Matches: ports, states of connection tracking and types of ICMP are known; comments say nothing, `ipvs` is for packets of IPVS.
pub(super) fn compat(draft: &mut Draft, name: &str, info: &[u8], unknown: &mut Option<String>) {
    let (rule, words) = (&mut draft.rule, &mut draft.words);
    match name {
        "tcp" | "udp" if info.len() >= 8 => {
            let inverted = info.get(if name == "tcp" { 11 } else { 8 }).copied().unwrap_or(0);
            let mut put = |range: (u16, u16), bit: u8, word: &str, place: &mut Option<(Ports, bool)>| {
                if range != (0, u16::MAX) {
                    words.push(format!("{word} {}:{}", range.0, range.1));
                    *place = Some((vec![range], inverted & bit != 0));
                }
            };
            put((half(info, 0), half(info, 2)), 1, "--sport", &mut rule.sport);
            put((half(info, 4), half(info, 6)), 2, "--dport", &mut rule.dport);
            // Flags of TCP that are asked for.
            if name == "tcp" && info.get(9).is_some_and(|mask| *mask != 0) {
                unknown.get_or_insert("--tcp-flags".to_string());
            }
        }
        // struct xt_multiport_v1: which ports, how many, 15 of them, 15 marks of ranges, whether it is turned round.
        "multiport" if info.len() >= 48 && info[0] < 2 && info[1] <= 15 => {
            let (mut ports, mut at) = (Ports::new(), 0);
            while at < usize::from(info[1]) {
                let low = half(info, 2 + 2 * at);
                let ranges = info[32 + at] != 0;
                at += usize::from(ranges);
                ports.push((low, half(info, 2 + 2 * at)));
                at += 1;
            }
            let (word, place) = if info[0] == 0 { ("--sports", &mut rule.sport) } else { ("--dports", &mut rule.dport) };
            words.push(format!("{word} {}", ports.iter().map(|(a, b)| format!("{a}:{b}")).collect::<Vec<_>>().join(",")));
            *place = Some((ports, info[47] != 0));
        }
        // struct xt_conntrack_mtinfo2 and 3: which conditions there are stands behind the addresses, then the states.
        "conntrack" if info.len() >= 152 && half(info, 146) == 1 => {
            const KNOWN: [(u16, &str); 5] = [(1, "INVALID"), (2, "ESTABLISHED"), (4, "RELATED"), (8, "NEW"), (256, "UNTRACKED")];
            let bits = half(info, 150);
            let states: Vec<String> = KNOWN.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_string()).collect();
            let not = half(info, 148) & 1 != 0;
            words.push(format!("{}--ctstate {}", if not { "! " } else { "" }, states.join(",")));
            rule.states = Some((states, not));
        }
        // struct ipt_icmp: type, the codes from and to, whether it is turned round.
        "icmp" | "icmp6" if info.len() >= 4 && info[0] != 0xff => {
            let code = (info[1] == info[2]).then_some(info[1]);
            if code.is_none() && (info[1], info[2]) != (0, 0xff) {
                unknown.get_or_insert("--icmp-type".to_string());
            }
            words.push(format!("--icmp-type {}{}", info[0], code.map_or(String::new(), |code| format!("/{code}"))));
            rule.icmp = Some(((info[0], code), info[3] & 1 != 0));
        }
        "icmp" | "icmp6" | "comment" => {}
        "ipvs" => rule.ipvs = true,
        other => _ = unknown.get_or_insert(format!("-m {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(info: &mut [u8], at: usize, value: u16) {
        info[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }

    #[test]
    fn matches_of_the_old_tables() {
        let (mut draft, mut unknown) = (Draft::default(), None);
        let mut ports = [0; 48];
        (ports[0], ports[1], ports[33]) = (1, 3, 1);
        for (at, port) in [80, 8080, 8090].into_iter().enumerate() {
            put(&mut ports, 2 + 2 * at, port);
        }
        compat(&mut draft, "multiport", &ports, &mut unknown);
        assert_eq!(draft.rule.dport, Some((vec![(80, 80), (8080, 8090)], false)));
        let mut states = [0; 168];
        put(&mut states, 146, 1);
        put(&mut states, 150, 1 | 8);
        compat(&mut draft, "conntrack", &states, &mut unknown);
        assert_eq!(draft.rule.states, Some((vec!["INVALID".to_string(), "NEW".to_string()], false)));
        compat(&mut draft, "icmp", &[3, 4, 4, 0], &mut unknown);
        assert_eq!((draft.rule.icmp, unknown.clone()), (Some(((3, Some(4)), false)), None));
        put(&mut states, 146, 5);
        compat(&mut draft, "conntrack", &states, &mut unknown);
        assert_eq!(unknown.as_deref(), Some("-m conntrack"), "also for an address");
    }

    #[test]
    fn targets_of_the_old_tables() {
        let mut to = [0; 40];
        (to[0], to[36], to[37]) = (3, 0x1f, 0x90);
        to[4..8].copy_from_slice(&[10, 0, 0, 13]);
        assert_eq!(target("DNAT", &to), FilterVerdict::Dnat("10.0.0.13".parse().ok(), Some(8080)));
        assert_eq!((target("CT", &[1, 0]), target("CT", &[0, 0])), (FilterVerdict::Untracked, FilterVerdict::Continue));
        assert_eq!(target("TCPMSS", &1440_u16.to_ne_bytes()), FilterVerdict::Mss(Some(1440)));
    }
}
