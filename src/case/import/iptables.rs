//! What iptables-save(8) and its relatives print, and what `arptables -L` prints.

use crate::host::{Chain, FilterRule, FilterVerdict, Hook, Ports};
use crate::net::Prefix;
use std::net::IpAddr;

fn hook(name: &str) -> Option<Hook> {
    match name {
        "PREROUTING" => Some(Hook::Prerouting),
        // arptables_jf calls them IN and OUT.
        "INPUT" | "IN" => Some(Hook::Input),
        "FORWARD" => Some(Hook::Forward),
        "OUTPUT" | "OUT" => Some(Hook::Output),
        "POSTROUTING" => Some(Hook::Postrouting),
        _ => None,
    }
}

fn priority(table: &str, hook: Option<Hook>) -> i32 {
    match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", Some(Hook::Prerouting | Hook::Output)) => -100,
        ("nat", _) => 100,
        ("security", _) => 50,
        _ => 0,
    }
}

fn chain(family: &str, table: &str, name: &str, drops: bool) -> Chain {
    let hook = hook(name);
    Chain {
        family: family.to_string(),
        table: table.to_string(),
        name: name.to_string(),
        hook,
        priority: priority(table, hook),
        kind: if table == "nat" { "nat" } else { "filter" }.to_string(),
        drops,
        rules: Vec::new(),
    }
}

/// Reads the chains of a family.
pub(super) fn chains(text: &str, family: &str) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut table = "filter".to_string();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_string();
        } else if let Some(rest) = line.strip_prefix(':') {
            let mut words = rest.split_whitespace();
            let name = words.next().unwrap_or_default();
            chains.push(chain(family, &table, name, words.next() == Some("DROP")));
        } else if let Some(rest) = line.strip_prefix("Chain ") {
            let name = rest.split_whitespace().next().unwrap_or_default();
            chains.push(chain(family, &table, name, rest.contains("policy DROP")));
        } else if line.starts_with("-A ") || line.starts_with('[') {
            let (name, rule) = rule(line);
            if let Some(chain) = chains.iter_mut().rev().find(|c| c.name == name && c.table == table) {
                chain.rules.push(rule);
            }
        } else if line.starts_with('-')
            && let Some(chain) = chains.last_mut()
        {
            // `arptables -L`: the chain stands above.
            let (_, rule) = rule(line);
            chain.rules.push(rule);
        }
    }
    chains
}

fn ports(text: &str) -> Option<Ports> {
    let range = |text: &str| {
        let (low, high) = text.split_once([':', '-']).unwrap_or((text, text));
        Some((low.parse().unwrap_or(0), if high.is_empty() { u16::MAX } else { high.parse().ok()? }))
    };
    text.split(',').map(range).collect()
}

/// Words of a line; quotes hold a comment together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map_or(rest.len(), |at| at + 2),
            None => rest.find(char::is_whitespace).unwrap_or(rest.len()),
        };
        words.push(rest[..end].trim_matches('"').to_string());
        rest = rest[end..].trim_start();
    }
    words
}

fn rule(line: &str) -> (String, FilterRule) {
    let mut rule = FilterRule::default();
    let mut name = String::new();
    let all = words(line);
    let mut at = 0;
    let mut not = false;
    let mut unknown: Vec<String> = Vec::new();
    let mut target = String::new();
    let mut to: Option<String> = None;
    // `[3:84]` in front, and `, pcnt=3 -- bcnt=84` behind.
    if let Some(count) = all.first().and_then(|w| w.strip_prefix('[')) {
        rule.packets = count.split(':').next().and_then(|n| n.parse().ok());
        at = 1;
    }
    while at < all.len() {
        let word = all[at].as_str();
        let value = all.get(at + 1).map(String::as_str).unwrap_or_default();
        at += 2;
        let turned = std::mem::take(&mut not);
        let prefix = |text: &str| text.parse::<Prefix>().or_else(|_| masked(text)).ok();
        let star = |text: &str| (!matches!(text, "*" | "+" | "any")).then(|| (text.to_string(), turned));
        match word {
            "!" => {
                not = true;
                at -= 1;
            }
            "-A" => name = value.to_string(),
            "-s" | "--source" | "--source-ip" | "--src-ip" => rule.src = prefix(value).map(|p| (p, turned)),
            "-d" | "--destination" | "--destination-ip" | "--dst-ip" => rule.dst = prefix(value).map(|p| (p, turned)),
            "-i" | "--in-interface" => rule.iif = star(value),
            "-o" | "--out-interface" => rule.oif = star(value),
            "-p" | "--protocol" => match value.parse() {
                Ok(protocol) => rule.protocol = Some((protocol, turned)),
                Err(_) if value == "all" => {}
                Err(_) => unknown.push(format!("-p {value}")),
            },
            "--sport" | "--source-port" | "--sports" => rule.sport = ports(value).map(|p| (p, turned)),
            "--dport" | "--destination-port" | "--dports" => rule.dport = ports(value).map(|p| (p, turned)),
            "--icmp-type" | "--icmpv6-type" => match icmp_type(value) {
                Some(Some(wanted)) => rule.icmp = Some((wanted, turned)),
                Some(None) => {}
                None => unknown.push(format!("{word} {value}")),
            },
            "--ctstate" | "--state" => rule.states = Some((value.split(',').map(str::to_string).collect(), turned)),
            "--vaddr" => (rule.ipvs, rule.dst) = (true, rule.dst.take()),
            "--vport" | "--vproto" | "--vdir" | "--vmethod" | "--vportctl" => rule.ipvs = true,
            "--ipvs" => {
                rule.ipvs = true;
                at -= 1;
            }
            "-m" | "--match" => match value {
                "tcp" | "udp" | "conntrack" | "state" | "multiport" | "comment" | "ipvs" | "sctp" | "icmp" | "icmp6" | "ipv6-icmp" => {}
                other => unknown.push(format!("-m {other}")),
            },
            "-j" | "--jump" => target = value.to_string(),
            "-g" | "--goto" => rule.verdict = FilterVerdict::Goto(value.to_string()),
            "--to-destination" | "--to-source" | "--to-ports" | "--mangle-ip-s" | "--set-mark" | "--set-xmark" | "--set-mss" => {
                to = Some(value.to_string())
            }
            "--notrack" | "--clamp-mss-to-pmtu" => {
                to = Some(word.trim_start_matches('-').to_string());
                at -= 1;
            }
            "--comment" | "--reject-with" | "--log-prefix" | "--log-level" | "--h-length" | "--opcode" | "--h-type" | "--mangle-target" => {
            }
            "--random" | "--random-fully" | "--persistent" => at -= 1,
            "," | "--" => at -= 1,
            w if w.starts_with("pcnt=") => {
                rule.packets = w.strip_prefix("pcnt=").and_then(|n| n.parse().ok());
                at -= 1;
            }
            w if w.starts_with("bcnt=") => at -= 1,
            "-f" | "--syn" | "--tcp-flags" => unknown.push(word.to_string()),
            other => {
                if other.starts_with('-') && unknown.is_empty() {
                    unknown.push(other.to_string());
                }
                at -= 1;
            }
        }
    }
    if !target.is_empty() {
        rule.verdict = verdict(&target, to.as_deref());
    }
    rule.text = match line.split_once("] ") {
        Some((count, rest)) if count.starts_with('[') => rest.to_string(),
        _ => line.split(" , pcnt=").next().unwrap_or_default().to_string(),
    };
    rule.unknown = (!unknown.is_empty()).then(|| unknown.join(" "));
    (name, rule)
}

/// A type of ICMP by name or number; `Some(None)` for any.
fn icmp_type(text: &str) -> Option<Option<(u8, Option<u8>)>> {
    let known = match text {
        "any" => return Some(None),
        "destination-unreachable" => (3, None),
        "network-unreachable" => (3, Some(0)),
        "host-unreachable" => (3, Some(1)),
        "protocol-unreachable" => (3, Some(2)),
        "port-unreachable" => (3, Some(3)),
        "fragmentation-needed" => (3, Some(4)),
        "echo-reply" | "pong" => (0, None),
        "echo-request" | "ping" => (8, None),
        "redirect" => (5, None),
        "time-exceeded" | "ttl-exceeded" => (11, None),
        "packet-too-big" => (2, None),
        number => {
            let (kind, code) = number.split_once('/').map_or((number, None), |(kind, code)| (kind, Some(code)));
            (kind.parse().ok()?, code.map(str::parse).transpose().ok()?)
        }
    };
    Some(Some(known))
}

/// `192.168.1.0/255.255.255.0`.
fn masked(text: &str) -> Result<Prefix, String> {
    let (addr, mask) = text.split_once('/').ok_or("no mask")?;
    let mask: std::net::Ipv4Addr = mask.parse().map_err(|_| "no mask")?;
    Prefix::new(addr.parse().map_err(|_| "no address")?, u32::from(mask).leading_ones() as u8).ok_or_else(|| "no mask".to_string())
}

fn verdict(target: &str, to: Option<&str>) -> FilterVerdict {
    let addr = || -> Option<IpAddr> {
        let text = to?;
        text.parse()
            .ok()
            .or_else(|| text.parse::<crate::net::Endpoint>().ok().map(|e| e.addr))
            .or_else(|| text.split(['-', ':']).next()?.parse().ok())
    };
    let port = || to.and_then(|t| t.parse::<crate::net::Endpoint>().ok().map(|e| e.port).or_else(|| t.strip_prefix(':')?.parse().ok()));
    match target {
        "ACCEPT" => FilterVerdict::Accept,
        "DROP" => FilterVerdict::Drop,
        "REJECT" => FilterVerdict::Reject,
        "RETURN" => FilterVerdict::Return,
        "DNAT" => FilterVerdict::Dnat(addr(), port()),
        "SNAT" => FilterVerdict::Snat(addr()),
        "MASQUERADE" => FilterVerdict::Masquerade,
        "REDIRECT" => FilterVerdict::Redirect(to.and_then(|t| t.parse().ok())),
        "mangle" => FilterVerdict::Mangle(addr()),
        "MARK" => {
            let text = to.unwrap_or_default().split('/').next().unwrap_or_default();
            let number = text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
            FilterVerdict::Mark(number.unwrap_or(0))
        }
        "NOTRACK" => FilterVerdict::Untracked,
        "CT" if to == Some("notrack") => FilterVerdict::Untracked,
        "TCPMSS" => FilterVerdict::Mss(to.and_then(|mss| mss.parse().ok())),
        "LOG" | "NFLOG" | "CT" | "CONNMARK" | "TRACE" => FilterVerdict::Continue,
        "NFQUEUE" | "QUEUE" => FilterVerdict::Other("queue".to_string()),
        other => FilterVerdict::Jump(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iptables_saves() {
        let text = "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
            [3:180] -A PREROUTING -i ext -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.168.224.13:8080\n\
            -A POSTROUTING -m ipvs --vaddr 192.168.224.10 --vport 80 -j MASQUERADE\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n:web - [0:0]\n\
            -A INPUT ! -s 10.0.0.0/255.0.0.0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
            -A INPUT -p tcp -m multiport --dports 80,443:444 -m comment --comment \"of -j DROP\" -j web\n-A web -m recent --rcheck -j DROP\nCOMMIT\n";
        let chains = chains(text, "ip");
        assert_eq!(
            chains.iter().map(|c| (c.name.as_str(), c.rules.len())).collect::<Vec<_>>(),
            [("PREROUTING", 1), ("POSTROUTING", 1), ("INPUT", 2), ("web", 1)]
        );
        let dnat = &chains[0].rules[0];
        assert_eq!(dnat.verdict, FilterVerdict::Dnat("192.168.224.13".parse().ok(), Some(8080)));
        assert_eq!((dnat.packets, dnat.iif.clone()), (Some(3), Some(("ext".to_string(), false))));
        assert!(chains[1].rules[0].ipvs && chains[2].drops && chains[3].hook.is_none());
        assert_eq!(chains[2].rules[0].src, Some(("10.0.0.0/8".parse().unwrap(), true)));
        assert_eq!(chains[2].rules[1].dport, Some((vec![(80, 80), (443, 444)], false)));
        assert_eq!((chains[2].rules[1].verdict.clone(), chains[2].rules[1].unknown.clone()), (FilterVerdict::Jump("web".into()), None));
        assert!(chains[3].rules[0].unknown.is_some());
    }

    #[test]
    fn what_matters_to_large_packets_and_to_tracking() {
        let text = "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -d 10.0.0.13/32 -j CT --notrack\nCOMMIT\n*mangle\n:OUTPUT ACCEPT\n\
            -A OUTPUT -s 10.0.0.13/32 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440\nCOMMIT\n*filter\n:FORWARD ACCEPT\n\
            -A FORWARD -p icmp -m icmp --icmp-type 3/4 -j DROP\n-A FORWARD -p icmp -m icmp ! --icmp-type fragmentation-needed -j DROP\nCOMMIT\n";
        let chains = chains(text, "ip");
        let verdicts: Vec<&FilterVerdict> = chains.iter().map(|c| &c.rules[0].verdict).collect();
        assert_eq!(verdicts, [&FilterVerdict::Untracked, &FilterVerdict::Mss(Some(1440)), &FilterVerdict::Drop]);
        assert_eq!(chains[2].rules[0].icmp, Some(((3, Some(4)), false)));
        assert_eq!((chains[2].rules[1].icmp, chains[2].rules[1].unknown.clone()), (Some(((3, Some(4)), true)), None));
        assert_eq!((icmp_type("any"), icmp_type("nonsense"), icmp_type("11")), (Some(None), None, Some(Some((11, None)))));
    }

    #[test]
    fn what_arptables_lists() {
        let text = "Chain INPUT (policy ACCEPT 0 packets, 0 bytes)\n-j DROP -i * -o * -d 192.168.224.13 , pcnt=3 -- bcnt=84 \n\n\
            Chain OUTPUT (policy ACCEPT 0 packets, 0 bytes)\n-j mangle -i * -o * -s 192.168.224.13 --mangle-ip-s 192.168.224.11 , pcnt=1 -- bcnt=42 \n";
        let listed = chains(text, "arp");
        assert_eq!(
            (listed[0].hook, listed[0].rules[0].verdict.clone(), listed[0].rules[0].packets),
            (Some(Hook::Input), FilterVerdict::Drop, Some(3))
        );
        assert_eq!(listed[1].rules[0].verdict, FilterVerdict::Mangle("192.168.224.11".parse().ok()));
        let saved = chains("*filter\n:INPUT ACCEPT\n-A INPUT -j DROP -d 192.168.224.13\n", "arp");
        assert_eq!((saved[0].rules[0].dst, saved[0].rules[0].iif.clone()), (listed[0].rules[0].dst, None));
    }
}
