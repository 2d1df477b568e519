//! The field's own commands, done by the lab itself: `ip`, `sysctl`, `ipvsadm`, `iptables` …
//!
//! A scenario is written in them, its fault is, and so is the remedy that a finding prints: that is run here as it was printed. Programs need
//! not be installed; what is understood is what scenarios and remedies use, and anything else is an error, never ignored.

mod fabric;
pub(super) mod firewall;
mod garp;
mod ip;
pub(super) mod ipvsadm;
mod radvd;
mod sysctl;
pub(super) mod vrrp;

pub(super) use fabric::fabric;
pub(super) use garp::announce;
pub(super) use radvd::router;

use super::netns::Namespace;
use crate::netlink::NetlinkError;
use crate::netlink::nftables::TableFamily;
use std::fmt;

/// A command that is not understood, or that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// The command.
    pub command: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.command, self.what)
    }
}

impl std::error::Error for CommandError {}

/// Runs one command on a host.
///
/// # Errors
/// When it is not understood, or the kernel refuses it.
pub fn run(host: &Namespace, command: &str) -> Result<(), CommandError> {
    let failed = |what: String| CommandError { command: command.to_string(), what };
    let words = words(command).map_err(failed)?;
    run_words(host, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The same with a command that was split already.
///
/// # Errors
/// As [`run`].
pub(super) fn run_words(host: &Namespace, words: &[&str]) -> Result<(), CommandError> {
    let failed = |what: String| CommandError { command: words.join(" "), what };
    host.run(|| dispatch(words)).map_err(|errno| failed(errno.desc().to_string()))?.map_err(failed)
}

/// Runs the words of a command in the calling thread's own network namespace.
///
/// # Errors
/// As [`run`].
pub(super) fn here(words: &[&str]) -> Result<(), String> {
    dispatch(words)
}

fn dispatch(words: &[&str]) -> Result<(), String> {
    match words {
        ["ip", rest @ ..] => ip::run(rest),
        ["iptables", rest @ ..] => firewall::iptables(rest, TableFamily::Ip),
        ["ip6tables", rest @ ..] => firewall::iptables(rest, TableFamily::Ip6),
        ["arptables", rest @ ..] => firewall::arptables(rest),
        ["sysctl", rest @ ..] => sysctl::run(rest),
        ["echo", value, ">", file] => sysctl::write_file(file, value),
        [other, ..] => Err(format!("the lab does not know the command {other}")),
        [] => Ok(()),
    }
}

/// True for a command that only shows something.
pub fn looks(command: &str) -> bool {
    // What is shown may be too much to read.
    let mut parts = command.split('|').map(str::trim);
    let (first, more) = (parts.next().unwrap_or_default(), parts);
    let picks = |part: &str| ["grep", "head", "tail", "wc"].iter().any(|name| part.split_whitespace().next() == Some(name));
    let Some(command) = Some(first).filter(|_| more.clone().all(picks)) else { return false };
    let Ok(words) = words(command) else { return false };
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !matches!(*word, "-4" | "-6" | "-d" | "-s")).collect();
    match &words[..] {
        // What is shown goes into a file.
        [.., ">" | ">>", _] => false,
        ["ip", _, "show" | "get" | "list", ..] | ["nft", "list", ..] => true,
        ["iptables-save" | "ip6tables-save" | "arptables-save" | "nstat" | "ss" | "curl" | "tcpdump" | "journalctl" | "dmesg", ..] => true,
        ["ipvsadm", what, ..] => what.starts_with("-l") || what.starts_with("-L") || what.starts_with("-S"),
        ["iptables" | "ip6tables" | "arptables", rest @ ..] => rest.iter().any(|word| matches!(*word, "-L" | "-S" | "-nvL" | "-vnL")),
        ["conntrack", "-L" | "-S", ..] | ["systemctl", "status", ..] | ["ethtool", "-k" | "-S", ..] | ["arping", "-D", ..] => true,
        ["sysctl", rest @ ..] => !rest.iter().any(|word| *word == "-w" || word.contains('=')),
        ["cat" | "ping", ..] => true,
        _ => false,
    }
}

/// The commands of a line, as remedies are printed: one after the other, with `;` or `&&` between them.
pub fn list(line: &str) -> Vec<String> {
    let (mut commands, mut command, mut quote) = (Vec::new(), String::new(), None);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => quote = Some(c),
            (';' | '\n', None) => {
                commands.push(std::mem::take(&mut command));
                continue;
            }
            ('&', None) if rest.peek() == Some(&'&') => {
                rest.next();
                commands.push(std::mem::take(&mut command));
                continue;
            }
            _ => {}
        }
        command.push(c);
    }
    commands.push(command);
    commands.into_iter().map(|command| command.trim().to_string()).filter(|command| !command.is_empty()).collect()
}

/// The words of a command, as a shell would split them: quotes, no variables, no patterns.
pub(super) fn words(command: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            ('|' | '&' | ';' | '`' | '$', None) => return Err(format!("the lab runs single commands, without '{c}'")),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

impl From<NetlinkError> for String {
    fn from(e: NetlinkError) -> String {
        e.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_hold_several() {
        assert_eq!(list("ip addr del a; sysctl -w 'b=1;2' && c"), ["ip addr del a", "sysctl -w 'b=1;2'", "c"]);
        assert!(list(" ; ").is_empty());
    }

    #[test]
    fn looking_changes_nothing() {
        for command in [
            "ip -6 addr show to ::1",
            "ip route get 10.0.0.1 from 10.0.0.2",
            "ipvsadm -ln --stats",
            "sysctl net.ipv4.ip_forward",
            "nft list ruleset",
            "ipvsadm -Sn",
            "ipvsadm -Sn | grep tun-type",
            "ipvsadm -Ln | head -1",
        ] {
            assert!(looks(command), "{command}");
        }
        for command in [
            "ip addr add 10.0.0.1/32 dev lo",
            "ipvsadm -C",
            "sysctl -w net.ipv4.ip_forward=1",
            "iptables -F INPUT",
            "ipvsadm -Sn > /etc/sysconfig/ipvsadm",
            "ipvsadm -Sn | ipvsadm -R",
            "ip addr add 10.0.0.1/32 dev lo | head",
            "",
        ] {
            assert!(!looks(command), "{command}");
        }
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(words("ip  addr add '10.0.0.1/24' dev eth0 # why").unwrap(), ["ip", "addr", "add", "10.0.0.1/24", "dev", "eth0"]);
        assert!(words("ip link; rm -rf /").is_err());
        assert!(words("echo 'x").is_err());
    }
}
