//! `iptables`, `ip6tables` and `arptables`, by nf_tables: the matches and targets that LVS hosts have.

use crate::net::{Endpoint, Prefix};
use crate::netlink::nftables::{Base, Chain, Step, TableFamily};
use crate::netlink::{Family, Socket};
use std::net::IpAddr;

/// Does what the words behind `iptables` or `ip6tables` say.
pub(super) fn iptables(words: &[&str], family: TableFamily) -> Result<(), String> {
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
    if !steps.iter().any(|step| matches!(step, Step::Drop | Step::Accept | Step::Nat(..) | Step::Masquerade)) {
        return Err("what is to be done with such packets? (-j is missing)".into());
    }
    Ok(socket.add_nft_rule(chain, &steps, &text, what == "-I")?)
}

fn addr(text: &str) -> Result<Vec<u8>, String> {
    let prefix: Prefix = match text.parse::<IpAddr>() {
        Ok(addr) => return Ok(octets(addr)),
        Err(_) => text.parse().map_err(|_| format!("{text} is no address"))?,
    };
    // Whole bytes are compared.
    match prefix.len() % 8 {
        0 => Ok(octets(prefix.addr())[..usize::from(prefix.len() / 8)].to_vec()),
        _ => Err(format!("{text}: only prefixes of whole bytes are understood")),
    }
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
        ["-s" | "--source", a, rest @ ..] => (Step::Equal(Base::Network, source, addr(a)?), rest),
        ["-d" | "--destination", a, rest @ ..] => (Step::Equal(Base::Network, destination, addr(a)?), rest),
        ["-i", name, rest @ ..] => (Step::Interface((*name).to_string(), false), rest),
        ["-o", name, rest @ ..] => (Step::Interface((*name).to_string(), true), rest),
        ["-p", name, rest @ ..] => {
            let protocol: crate::net::Protocol = name.parse()?;
            (Step::Protocol(protocol.number()), rest)
        }
        ["-m", "tcp" | "udp", rest @ ..] => return Ok(rest),
        ["--dport", text, rest @ ..] => (Step::Equal(Base::Transport, 2, port(text)?), rest),
        ["--sport", text, rest @ ..] => (Step::Equal(Base::Transport, 0, port(text)?), rest),
        ["--tcp-flags", "SYN,ACK", "SYN,ACK", rest @ ..] => (Step::Equal(Base::Transport, 13, vec![0x12]), rest),
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
