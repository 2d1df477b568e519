//! `iptables`, `ip6tables` and `arptables`, by nf_tables: the matches and targets that LVS hosts have.

use crate::director::MarkRule;
use crate::net::{Endpoint, Prefix};
use crate::netlink::nftables::{Base, Chain, Step, TableFamily};
use crate::netlink::{Family, Socket};
use std::net::IpAddr;
use std::process::{Command, Stdio};

/// Does what the words behind `iptables` or `ip6tables` say.
pub(super) fn iptables(words: &[&str], family: TableFamily) -> Result<(), String> {
    let program = if family == TableFamily::Ip6 { "ip6tables-legacy" } else { "iptables-legacy" };
    if Socket::open(Family::Netfilter)?.has_nft(family) { by_nf_tables(words, family) } else { legacy(program, &["-w"], words) }
}

fn by_nf_tables(words: &[&str], family: TableFamily) -> Result<(), String> {
    let (mut table, mut rest) = ("filter", words);
    if let ["-t", name, more @ ..] = rest {
        (table, rest) = (name, more);
    }
    let (what, chain, rest) = split(rest)?;
    let (hook, priority, kind) = place(table, chain)?;
    let chain = Chain { family, table, name: chain, kind, hook, priority };
    run(&chain, what, rest, |words, steps| ip_match(words, steps, family))
}

/// Does what the words behind `arptables` say.
pub(super) fn arptables(words: &[&str]) -> Result<(), String> {
    if Socket::open(Family::Netfilter)?.has_nft(TableFamily::Arp) {
        arp_by_nf_tables(words)
    } else {
        legacy("arptables-legacy", &[], words)
    }
}

/// Where the kernel has no nf_tables for a family (that of user-mode Linux has none), the old program does it, if there is one.
fn legacy(program: &str, first: &[&str], words: &[&str]) -> Result<(), String> {
    // A child process is in the network namespace of the thread that made it.
    let ended = Command::new(program).args(first).args(words).stdin(Stdio::null()).output();
    match ended {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or(program).to_string()),
        Err(e) => Err(format!("this kernel has no nf_tables for that, and {program} cannot be run: {e}")),
    }
}

fn arp_by_nf_tables(words: &[&str]) -> Result<(), String> {
    let (what, chain, rest) = split(words)?;
    let hook = match chain {
        "INPUT" | "IN" => 0,
        "OUTPUT" | "OUT" => 1,
        other => return Err(format!("arptables has no chain {other}")),
    };
    let name = if hook == 0 { "INPUT" } else { "OUTPUT" };
    let chain = Chain { family: TableFamily::Arp, table: "filter", name, kind: "filter", hook, priority: 0 };
    run(&chain, what, rest, arp_match)
}

fn split<'a, 'b>(words: &'b [&'a str]) -> Result<(&'a str, &'a str, &'b [&'a str]), String> {
    match words {
        // The place at the beginning, which is where it goes anyway.
        ["-I", chain, "1", rest @ ..] => Ok(("-I", chain, rest)),
        [what @ ("-A" | "-I" | "-D" | "-F"), chain, rest @ ..] => Ok((what, chain, rest)),
        _ => Err("only -A, -I, -D and -F with a chain are understood".into()),
    }
}

/// Hook, priority and kind of a chain of iptables (linux/netfilter_ipv4.h).
fn place(table: &str, chain: &str) -> Result<(u32, i32, &'static str), String> {
    let hook = match chain {
        "PREROUTING" => 0,
        "INPUT" => 1,
        "FORWARD" => 2,
        "OUTPUT" => 3,
        "POSTROUTING" => 4,
        other => return Err(format!("there is no chain {other}")),
    };
    match (table, hook) {
        ("filter", 1..=3) => Ok((hook, 0, "filter")),
        ("mangle", _) => Ok((hook, -150, "filter")),
        ("raw", 0 | 3) => Ok((hook, -300, "filter")),
        ("nat", 0 | 3) => Ok((hook, -100, "nat")),
        ("nat", 1 | 4) => Ok((hook, 100, "nat")),
        _ => Err(format!("table {table} has no chain {chain}")),
    }
}

/// Reads one option with its value into steps; what is left of the words.
type Reader<'r> = dyn for<'a, 'b> Fn(&'b [&'a str], &mut Vec<Step>) -> Result<&'b [&'a str], String> + 'r;

fn run(
    chain: &Chain<'_>,
    what: &str,
    words: &[&str],
    read: impl for<'a, 'b> Fn(&'b [&'a str], &mut Vec<Step>) -> Result<&'b [&'a str], String>,
) -> Result<(), String> {
    let read: &Reader<'_> = &read;
    let mut socket = Socket::open(Family::Netfilter)?;
    if what == "-F" {
        return Ok(socket.delete_nft_rule(chain, None)?);
    }
    let text = words.join(" ");
    if what == "-D" {
        return Ok(socket.delete_nft_rule(chain, Some(&text))?);
    }
    let (mut steps, mut rest) = (Vec::new(), words);
    while !rest.is_empty() {
        rest = read(rest, &mut steps)?;
    }
    if !steps.iter().any(Step::ends) {
        return Err("what is to be done with such packets? (-j is missing)".into());
    }
    Ok(socket.add_nft_rule(chain, &steps, &text, what == "-I")?)
}

fn addr(text: &str) -> Result<Vec<u8>, String> {
    text.parse::<IpAddr>().map(octets).map_err(|_| format!("{text} is no address"))
}

/// Of a prefix only its bits are compared.
fn within(offset: u32, text: &str) -> Result<Step, String> {
    if let Ok(addr) = addr(text) {
        return Ok(Step::Equal(Base::Network, offset, addr));
    }
    let prefix: Prefix = text.parse().map_err(|_| format!("{text} is no address"))?;
    let mut addr = octets(prefix.addr());
    let mask: Vec<u8> = (0..addr.len())
        .map(|at| {
            let bits = usize::from(prefix.len()).saturating_sub(at * 8).min(8);
            (0xff_u16 << (8 - bits)) as u8
        })
        .collect();
    addr.iter_mut().zip(&mask).for_each(|(byte, mask)| *byte &= mask);
    Ok(Step::Masked(Base::Network, offset, mask, addr))
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn port(text: &str) -> Result<Vec<u8>, String> {
    text.parse::<u16>().map(|port| port.to_be_bytes().to_vec()).map_err(|_| format!("{text} is no port"))
}

fn ip_match<'a, 'b>(words: &'b [&'a str], steps: &mut Vec<Step>, family: TableFamily) -> Result<&'b [&'a str], String> {
    let (source, destination) = if family == TableFamily::Ip6 { (8, 24) } else { (12, 16) };
    let (step, rest) = match words {
        ["-s" | "--source", a, rest @ ..] => (within(source, a)?, rest),
        ["-d" | "--destination", a, rest @ ..] => (within(destination, a)?, rest),
        ["-i", name, rest @ ..] => (Step::Interface((*name).to_string(), false), rest),
        ["-o", name, rest @ ..] => (Step::Interface((*name).to_string(), true), rest),
        ["-p", name, rest @ ..] => {
            let protocol: crate::net::Protocol = name.parse()?;
            (Step::Protocol(protocol.number()), rest)
        }
        ["-m", "tcp" | "udp" | "multiport", rest @ ..] => return Ok(rest),
        ["--dports", list, rest @ ..] => (Step::Among(Base::Transport, 2, list.split(',').map(port).collect::<Result<_, _>>()?), rest),
        ["--sports", list, rest @ ..] => (Step::Among(Base::Transport, 0, list.split(',').map(port).collect::<Result<_, _>>()?), rest),
        ["--dport", text, rest @ ..] => (Step::Equal(Base::Transport, 2, port(text)?), rest),
        ["--sport", text, rest @ ..] => (Step::Equal(Base::Transport, 0, port(text)?), rest),
        ["--tcp-flags", mask, wanted, rest @ ..] => (Step::Masked(Base::Transport, 13, vec![flags(mask)?], vec![flags(wanted)?]), rest),
        ["--syn", rest @ ..] => (Step::Masked(Base::Transport, 13, vec![0x17], vec![0x02]), rest),
        ["-m", "conntrack" | "state" | "statistic" | "icmp", rest @ ..] => return Ok(rest),
        ["--ctstate" | "--state", states, rest @ ..] => (Step::State(states.split(',').map(state).sum::<Result<u32, String>>()?), rest),
        // Every so many-th, beginning with the first, as iptables counts.
        ["--mode", "nth", "--every", every, "--packet", "0", rest @ ..] => {
            (Step::Every(every.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("{every} is no number"))?), rest)
        }
        ["--icmp-type", name, rest @ ..] => (Step::Equal(Base::Transport, 0, icmp_type(name)?), rest),
        ["-j", "REJECT", "--reject-with", "tcp-reset", rest @ ..] => (Step::Reject(true), rest),
        ["-j", "REJECT", rest @ ..] => (Step::Reject(false), rest),
        ["-j", "NOTRACK", rest @ ..] | ["-j", "CT", "--notrack", rest @ ..] => (Step::NoTrack, rest),
        ["-j", "TCPMSS", "--set-mss", mss, rest @ ..] => (Step::Mss(mss.parse().map_err(|_| format!("{mss} is no segment size"))?), rest),
        ["-j", "MARK", "--set-mark", mark, rest @ ..] => (Step::Mark(number(mark)?), rest),
        ["-j", "DROP", rest @ ..] => (Step::Drop, rest),
        ["-j", "ACCEPT", rest @ ..] => (Step::Accept, rest),
        ["-j", "MASQUERADE", rest @ ..] => (Step::Masquerade, rest),
        ["-j", "DNAT", "--to-destination", to, rest @ ..] => (nat(true, to)?, rest),
        ["-j", "SNAT", "--to-source", to, rest @ ..] => (nat(false, to)?, rest),
        _ => return Err(format!("what is '{}'?", words.join(" "))),
    };
    steps.push(step);
    Ok(rest)
}

/// A mark, as iptables takes it: `7`, `0x7`.
fn number(text: &str) -> Result<u32, String> {
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16));
    parsed.map_err(|_| format!("{text} is no mark"))
}

/// What the words behind `iptables` say of marks: a rule of mangle PREROUTING that sets one, in the built-in director's words, and whether
/// it goes (`-D`). `None` for any other.
pub(in crate::lab) fn marks(words: &[&str]) -> Option<Result<(bool, Vec<MarkRule>), String>> {
    let ["-t", "mangle", what @ ("-A" | "-D"), "PREROUTING", rest @ ..] = words else { return None };
    let at = rest.windows(2).position(|pair| pair == ["-j", "MARK"])?;
    let [_, _, "--set-mark", mark] = rest[at..] else { return Some(Err("only --set-mark is understood".into())) };
    Some(marked(&rest[..at], mark).map(|rules| (*what == "-D", rules)))
}

/// The built-in director has one range of ports a rule.
fn marked(matches: &[&str], mark: &str) -> Result<Vec<MarkRule>, String> {
    let (mut protocol, mut to, mut ports) = (None, None, vec![(0, u16::MAX)]);
    let mut rest = matches;
    while let Some((word, more)) = rest.split_first() {
        rest = match (*word, more) {
            ("-m", ["tcp" | "udp" | "multiport", more @ ..]) => more,
            ("-p", [name, more @ ..]) => {
                protocol = Some(name.parse()?);
                more
            }
            ("-d" | "--destination", [place, more @ ..]) => {
                let whole = |addr: IpAddr| Prefix::new(addr, if addr.is_ipv4() { 32 } else { 128 });
                to = place.parse().ok().or_else(|| whole(place.parse().ok()?));
                more
            }
            ("--dport" | "--dports", [list, more @ ..]) => {
                let port = |text: &str| text.parse().map(|port| (port, port)).map_err(|_| format!("{text} is no port"));
                ports = list.split(',').map(port).collect::<Result<_, String>>()?;
                more
            }
            _ => return Err(format!("the built-in director does not mark by '{word}'")),
        };
    }
    let (to, mark) = (to.ok_or("packets to which address? (-d is missing)")?, number(mark)?);
    Ok(ports.into_iter().map(|ports| MarkRule { mark, protocol, to, ports }).collect())
}

/// Bits of TCP's flags.
fn flags(names: &str) -> Result<u8, String> {
    let bit = |name: &str| match name {
        "FIN" => Ok(0x01),
        "SYN" => Ok(0x02),
        "RST" => Ok(0x04),
        "PSH" => Ok(0x08),
        "ACK" => Ok(0x10),
        "URG" => Ok(0x20),
        other => Err(format!("what flag is '{other}'?")),
    };
    names.split(',').map(bit).sum()
}

/// Bits of conntrack's states (linux/netfilter/nf_conntrack_common.h).
fn state(name: &str) -> Result<u32, String> {
    match name {
        "INVALID" => Ok(1),
        "ESTABLISHED" => Ok(2),
        "RELATED" => Ok(4),
        "NEW" => Ok(8),
        "UNTRACKED" => Ok(64),
        other => Err(format!("what state is '{other}'?")),
    }
}

/// Type, and code if the name means one.
fn icmp_type(name: &str) -> Result<Vec<u8>, String> {
    match name {
        "fragmentation-needed" => Ok(vec![3, 4]),
        "port-unreachable" => Ok(vec![3, 3]),
        "protocol-unreachable" => Ok(vec![3, 2]),
        "destination-unreachable" => Ok(vec![3]),
        "redirect" => Ok(vec![5]),
        "packet-too-big" => Ok(vec![2]),
        other => other.parse().map(|number| vec![number]).map_err(|_| format!("what ICMP type is '{other}'?")),
    }
}

fn nat(destination: bool, to: &str) -> Result<Step, String> {
    if let Ok(addr) = to.parse() {
        return Ok(Step::Nat(destination, addr, None));
    }
    let to: Endpoint = to.parse()?;
    Ok(Step::Nat(destination, to.addr, Some(to.port)))
}

fn arp_match<'a, 'b>(words: &'b [&'a str], steps: &mut Vec<Step>) -> Result<&'b [&'a str], String> {
    // Behind the 8 bytes of struct arphdr: sender MAC, sender IP, target MAC, target IP.
    let (step, rest) = match words {
        ["-s" | "--source-ip", a, rest @ ..] => (Step::Equal(Base::Network, 14, addr(a)?), rest),
        ["-d" | "--destination-ip", a, rest @ ..] => (Step::Equal(Base::Network, 24, addr(a)?), rest),
        ["-i", name, rest @ ..] => (Step::Interface((*name).to_string(), false), rest),
        ["-o", name, rest @ ..] => (Step::Interface((*name).to_string(), true), rest),
        ["-j", "DROP", rest @ ..] => (Step::Drop, rest),
        ["-j", "mangle", "--mangle-ip-s", a, rest @ ..] => {
            steps.push(Step::Write(Base::Network, 14, addr(a)?));
            (Step::Accept, rest)
        }
        _ => return Err(format!("what is '{}'?", words.join(" "))),
    };
    steps.push(step);
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_the_directors_too() {
        let words: Vec<&str> =
            "-t mangle -A PREROUTING -d 10.0.0.9 -p tcp -m multiport --dports 80,443 -j MARK --set-mark 0x7".split(' ').collect();
        let (goes, rules) = marks(&words).expect("a mark").expect("understood");
        assert!(!goes && rules.len() == 2);
        let second = rules[1];
        assert_eq!((second.mark, second.ports, second.to.to_string()), (7, (443, 443), "10.0.0.9/32".to_string()));
        // Another table, another target, and what the director could not tell apart.
        assert!(marks(&["-A", "INPUT", "-j", "DROP"]).is_none());
        assert!(marks(&["-t", "mangle", "-A", "PREROUTING", "-d", "10.0.0.9", "-j", "DROP"]).is_none());
        assert!(marks(&["-t", "mangle", "-A", "PREROUTING", "-i", "eth0", "-j", "MARK", "--set-mark", "7"]).is_some_and(|m| m.is_err()));
        assert!(marks(&["-t", "mangle", "-A", "PREROUTING", "-j", "MARK", "--set-mark", "7"]).is_some_and(|m| m.is_err()));
    }
}
