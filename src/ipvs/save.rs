//! The text of `ipvsadm -Sn` (and of `/etc/sysconfig/ipvsadm`): read and written.

use super::service::{ForwardingMethod, Match, RealServer, SCHEDULERS, TunnelChecksum, TunnelOptions, TunnelType, VirtualService};
use crate::net::{Endpoint, Protocol};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// ipvsadm's bounds and defaults.
const MAX_WEIGHT: u64 = 65_535;
const DEFAULT_PERSISTENCE: u32 = 300;
const MAX_PERSISTENCE: u32 = 86_400 * 31;
/// What `-b` takes.
const FLAGS: [&str; 7] = ["sh-fallback", "sh-port", "mh-fallback", "mh-port", "flag-1", "flag-2", "flag-3"];

/// What is wrong with a rules text, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for ParseError {}

/// A rules text that was understood.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// The services, in the order in which they stand there.
    pub services: Vec<VirtualService>,
    /// What the kernel takes, but does not do as one might think.
    pub warnings: Vec<ParseError>,
}

/// One command of ipvsadm(8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// `-A`.
    AddService(VirtualService),
    /// `-E`.
    EditService(VirtualService),
    /// `-D`.
    DeleteService(Match),
    /// `-a`.
    AddServer(Match, RealServer),
    /// `-e`.
    EditServer(Match, RealServer),
    /// `-d`.
    DeleteServer(Match, Endpoint),
    /// `-C`.
    Clear,
}

/// Reads rules as `ipvsadm -Sn` writes them; `ipvsadm` in front of a line, comments and empty lines are allowed.
///
/// # Errors
/// The first line that cannot be understood, or that the kernel would refuse.
pub fn parse(text: &str) -> Result<Vec<VirtualService>, ParseError> {
    read(text).map(|rules| rules.services)
}

/// As [`parse`], with what is odd about them.
///
/// # Errors
/// As [`parse`].
pub fn read(text: &str) -> Result<Rules, ParseError> {
    let mut rules = Rules::default();
    for (number, line) in text.lines().enumerate() {
        let mut words = Words { line, number: number + 1, at: 0 };
        if let Some((command, at)) = command(&mut words)? {
            rules.apply(command).map_err(|what| words.error(at, what))?;
            if let Some(what) = rules.oddity() {
                rules.warnings.push(words.error(at, what));
            }
        }
    }
    Ok(rules)
}

/// Reads one command, `-A -t 192.168.2.59:80 -s wlc`; `None` when the line is empty or a comment.
///
/// # Errors
/// What cannot be understood, with its column.
pub fn parse_command(line: &str) -> Result<Option<Command>, ParseError> {
    let mut words = Words { line, number: 1, at: 0 };
    Ok(command(&mut words)?.map(|(command, _)| command))
}

impl Rules {
    /// Carries out a command, as the kernel would.
    ///
    /// # Errors
    /// Why the kernel would not.
    pub fn apply(&mut self, command: Command) -> Result<(), String> {
        let at = |services: &[VirtualService], matches: &Match| services.iter().position(|s| s.matches == *matches);
        let known = |services: &[VirtualService], matches: &Match| {
            at(services, matches).ok_or_else(|| "this service was not added before (-A)".to_string())
        };
        let services = &mut self.services;
        match command {
            Command::Clear => services.clear(),
            Command::AddService(service) => {
                if at(services, &service.matches).is_some() {
                    return Err("this service was added before".to_string());
                }
                services.push(service);
            }
            Command::EditService(service) => {
                let at = known(services, &service.matches)?;
                let real_servers = std::mem::take(&mut services[at].real_servers);
                services[at] = VirtualService { real_servers, ..service };
            }
            Command::DeleteService(matches) => {
                let at = known(services, &matches)?;
                services.remove(at);
            }
            Command::AddServer(matches, mut server) => {
                let at = known(services, &matches)?;
                settle_port(&matches, &mut server);
                let service = &mut services[at];
                if server.addr.is_ipv6() != service.is_ipv6() && server.method != ForwardingMethod::Tunnel {
                    return Err("the real server is of another address family than the service; only tunnels (-i) can do that".to_string());
                }
                if service.real_servers.iter().any(|s| s.endpoint() == server.endpoint()) {
                    return Err("this real server was added before".to_string());
                }
                service.real_servers.push(server);
            }
            Command::EditServer(matches, mut server) => {
                let at = known(services, &matches)?;
                settle_port(&matches, &mut server);
                let same = services[at].real_servers.iter_mut().find(|s| s.endpoint() == server.endpoint());
                *same.ok_or("this real server was not added before (-a)")? = server;
            }
            Command::DeleteServer(matches, server) => {
                let at = known(services, &matches)?;
                let servers = &mut services[at].real_servers;
                let same = servers.iter().position(|s| s.endpoint() == server);
                servers.remove(same.ok_or("this real server was not added before (-a)")?);
            }
        }
        Ok(())
    }

    /// What is odd about the rule that was added last.
    fn oddity(&self) -> Option<String> {
        let service = self.services.last()?;
        let server = service.real_servers.last()?;
        let Match::Endpoint(_, vip) = service.matches else { return None };
        if server.method != ForwardingMethod::Nat && server.port != vip.port && vip.port != 0 {
            return Some(format!(
                "port {} of {} is ignored: only NAT (-m) translates ports, {} keeps {}",
                server.port,
                server.addr,
                if server.method == ForwardingMethod::Tunnel { "tunnelling (-i)" } else { "direct routing (-g)" },
                vip.port
            ));
        }
        None
    }
}

/// A real server without a port has the service's (ipvsadm's `-r ADDRESS`).
fn settle_port(matches: &Match, server: &mut RealServer) {
    if let (Match::Endpoint(_, vip), 0) = (matches, server.port) {
        server.port = vip.port;
    }
}

/// The command of a line, and its first word.
fn command<'a>(words: &mut Words<'a>) -> Result<Option<(Command, Word<'a>)>, ParseError> {
    let mut first = words.next();
    if first.is_some_and(|word| word.text == "ipvsadm" || word.text.ends_with("/ipvsadm")) {
        first = words.next();
    }
    let Some(word) = first.filter(|word| !word.text.starts_with('#')) else { return Ok(None) };
    let command = match word.text {
        "-A" | "--add-service" => Command::AddService(service(words, word)?),
        "-E" | "--edit-service" => Command::EditService(service(words, word)?),
        "-D" | "--delete-service" => Command::DeleteService(service(words, word)?.matches),
        "-a" | "--add-server" => {
            let (matches, server) = server(words, word)?;
            Command::AddServer(matches, server)
        }
        "-e" | "--edit-server" => {
            let (matches, server) = server(words, word)?;
            Command::EditServer(matches, server)
        }
        "-d" | "--delete-server" => {
            let (matches, mut server) = server(words, word)?;
            settle_port(&matches, &mut server);
            Command::DeleteServer(matches, server.endpoint())
        }
        "-C" | "--clear" => Command::Clear,
        other => {
            return Err(words.error(word, format!("'{other}' is not a rule; each line begins with -A (add service) or -a (add server)")));
        }
    };
    Ok(Some((command, word)))
}

#[derive(Clone, Copy)]
struct Word<'a> {
    text: &'a str,
    /// Byte offset in the line.
    at: usize,
}

struct Words<'a> {
    line: &'a str,
    number: usize,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Word<'a>> {
        let rest = &self.line[self.at..];
        let begin = self.at + (rest.len() - rest.trim_start().len());
        let rest = &self.line[begin..];
        let len = rest.find(char::is_whitespace).unwrap_or(rest.len());
        self.at = begin + len;
        let mut text = &rest[..len];
        // `--weight=3` is `--weight 3`.
        if let Some((name, value)) = text.split_once('=').filter(|_| text.starts_with("--")) {
            self.at -= value.len();
            text = name;
        }
        (len > 0).then_some(Word { text, at: begin })
    }

    fn error(&self, word: Word<'_>, what: String) -> ParseError {
        ParseError { line: self.number, column: self.line[..word.at].chars().count() + 1, what }
    }

    /// The value of the option `of`.
    fn value(&mut self, of: Word<'_>) -> Result<Word<'a>, ParseError> {
        self.next().ok_or_else(|| self.error(of, format!("{} needs a value", of.text)))
    }

    /// The value of the option `of`, when the next word is not an option.
    fn optional(&mut self) -> Option<Word<'a>> {
        let before = self.at;
        let word = self.next().filter(|word| !word.text.starts_with('-'));
        if word.is_none() {
            self.at = before;
        }
        word
    }

    fn number<T: std::str::FromStr>(&mut self, of: Word<'_>) -> Result<T, ParseError> {
        let word = self.value(of)?;
        word.text.parse().map_err(|_| self.error(word, format!("'{}' is not a number that {} takes", word.text, of.text)))
    }
}

/// `-t`, `-u`, `--sctp-service` with ADDRESS:PORT, or `-f MARK`.
fn matched(words: &mut Words<'_>, option: Word<'_>) -> Result<Option<Match>, ParseError> {
    let protocol = match option.text {
        "-t" | "--tcp-service" => Protocol::Tcp,
        "-u" | "--udp-service" => Protocol::Udp,
        "--sctp-service" => Protocol::Sctp,
        "-f" | "--fwmark-service" => return Ok(Some(Match::Mark(words.number(option)?, false))),
        _ => return Ok(None),
    };
    let word = words.value(option)?;
    Ok(Some(Match::Endpoint(protocol, endpoint(words, word)?)))
}

/// ADDRESS:PORT, or an address alone: port 0.
fn endpoint(words: &Words<'_>, word: Word<'_>) -> Result<Endpoint, ParseError> {
    let bare = word.text.trim_start_matches('[').trim_end_matches(']');
    match (word.text.parse(), bare.parse::<IpAddr>()) {
        (Ok(endpoint), _) => Ok(endpoint),
        (_, Ok(addr)) => Ok(Endpoint::new(addr, 0)),
        _ => Err(words.error(word, format!("'{}' is not ADDRESS:PORT; was it saved without -n?", word.text))),
    }
}

fn service(words: &mut Words<'_>, add: Word<'_>) -> Result<VirtualService, ParseError> {
    let (mut found, mut mask_at) = (None, None);
    let mut service = VirtualService {
        matches: Match::Mark(0, false),
        scheduler: "wlc".to_string(),
        flags: Vec::new(),
        persistence: None,
        netmask: None,
        engine: None,
        one_packet: false,
        real_servers: Vec::new(),
    };
    while let Some(option) = words.next() {
        if let Some(matches) = matched(words, option)? {
            found = Some(matches);
            continue;
        }
        match option.text {
            "-s" | "--scheduler" => {
                let word = words.value(option)?;
                if !SCHEDULERS.contains(&word.text) {
                    return Err(words.error(word, format!("unknown scheduler '{}' (known: {})", word.text, SCHEDULERS.join(" "))));
                }
                service.scheduler = word.text.to_string();
            }
            "-p" | "--persistent" => {
                service.persistence = Some(match words.optional() {
                    None => DEFAULT_PERSISTENCE,
                    Some(word) => match word.text.parse() {
                        Ok(seconds @ 1..=MAX_PERSISTENCE) => seconds,
                        Ok(seconds) => {
                            return Err(words.error(word, format!("a persistence of {seconds} seconds is not in 1 to {MAX_PERSISTENCE}")));
                        }
                        Err(_) => return Err(words.error(word, format!("'{}' is not a number that {} takes", word.text, option.text))),
                    },
                });
            }
            "-M" | "--netmask" => {
                let word = words.value(option)?;
                if word.text.parse::<Ipv4Addr>().is_err() && !word.text.parse::<u8>().is_ok_and(|len| (1..=128).contains(&len)) {
                    return Err(words.error(word, format!("'{}' is neither a netmask nor a prefix length", word.text)));
                }
                mask_at = Some(word);
                service.netmask = Some(word.text.to_string());
            }
            "--pe" | "pe" => service.engine = Some(words.value(option)?.text.to_string()),
            "-o" | "--ops" | "ops" => service.one_packet = true,
            "-b" | "--sched-flags" => {
                let word = words.value(option)?;
                if let Some(flag) = word.text.split(',').find(|flag| !FLAGS.contains(flag)) {
                    return Err(words.error(word, format!("unknown scheduler flag '{flag}' (known: {})", FLAGS.join(" "))));
                }
                service.flags = word.text.split(',').map(str::to_string).collect();
            }
            "-6" | "--ipv6" => {
                if let Some(Match::Mark(mark, _)) = found {
                    found = Some(Match::Mark(mark, true));
                }
            }
            other => return Err(words.error(option, format!("'{other}' is not an option of -A"))),
        }
    }
    service.matches = found.ok_or_else(|| words.error(add, format!("{} without a service: -t, -u, --sctp-service or -f", add.text)))?;
    if let (Some(word), Some(mask)) = (mask_at, &service.netmask)
        && service.is_ipv6() != mask.parse::<Ipv4Addr>().is_err()
    {
        return Err(words.error(word, format!("netmask {mask} is not of the service's address family")));
    }
    let zero_port = matches!(service.matches, Match::Endpoint(_, vip) if vip.port == 0);
    if zero_port && service.persistence.is_none() && matches!(add.text, "-A" | "-E" | "--add-service" | "--edit-service") {
        return Err(words.error(add, "port 0 (every port) needs a persistent service (-p)".to_string()));
    }
    Ok(service)
}

fn server(words: &mut Words<'_>, add: Word<'_>) -> Result<(Match, RealServer), ParseError> {
    let (mut of, mut address, mut v6) = (None, None, false);
    let (mut method, mut weight, mut upper, mut lower) = (ForwardingMethod::DirectRouting, 1, 0, 0);
    let mut tunnel = TunnelOptions::default();
    while let Some(option) = words.next() {
        if let Some(matches) = matched(words, option)? {
            of = Some(matches);
            continue;
        }
        match option.text {
            "-r" | "--real-server" => {
                let word = words.value(option)?;
                address = Some(endpoint(words, word)?);
            }
            "-m" | "--masquerading" => method = ForwardingMethod::Nat,
            "-g" | "--gatewaying" => method = ForwardingMethod::DirectRouting,
            "-i" | "--ipip" => method = ForwardingMethod::Tunnel,
            "-w" | "--weight" => {
                let word = words.value(option)?;
                weight = match word.text.parse::<u64>() {
                    Ok(number @ 0..=MAX_WEIGHT) => number as u32,
                    Ok(number) => return Err(words.error(word, format!("weight {number} is not in 0 to {MAX_WEIGHT}"))),
                    Err(_) => return Err(words.error(word, format!("'{}' is not a number that {} takes", word.text, option.text))),
                };
            }
            "-x" | "--u-threshold" => upper = words.number(option)?,
            "-y" | "--l-threshold" => {
                lower = words.number(option)?;
                if lower > upper && upper != 0 {
                    return Err(words.error(option, format!("the lower threshold {lower} is above the upper one, {upper}")));
                }
            }
            "--tun-type" => {
                let word = words.value(option)?;
                tunnel.kind = match word.text {
                    "ipip" => TunnelType::Ipip,
                    "gue" => TunnelType::Gue,
                    "gre" => TunnelType::Gre,
                    other => return Err(words.error(word, format!("unknown tunnel type '{other}' (known: ipip gue gre)"))),
                };
            }
            "--tun-port" => tunnel.port = words.number(option)?,
            "--tun-nocsum" => tunnel.checksum = TunnelChecksum::None,
            "--tun-csum" => tunnel.checksum = TunnelChecksum::Outer,
            "--tun-remcsum" => tunnel.checksum = TunnelChecksum::Remote,
            "-6" | "--ipv6" => v6 = true,
            other => return Err(words.error(option, format!("'{other}' is not an option of {}", add.text))),
        }
    }
    let mut matches = of.ok_or_else(|| words.error(add, format!("{} without the service that the server belongs to", add.text)))?;
    if let (Match::Mark(mark, _), true) = (matches, v6) {
        matches = Match::Mark(mark, true);
    }
    let endpoint = address.ok_or_else(|| words.error(add, format!("{} without -r ADDRESS:PORT", add.text)))?;
    if tunnel.kind == TunnelType::Gue && tunnel.port == 0 {
        return Err(words.error(add, "a GUE tunnel needs --tun-port".to_string()));
    }
    Ok((matches, RealServer { addr: endpoint.addr, port: endpoint.port, method, weight, upper, lower, tunnel }))
}

/// Writes rules as `ipvsadm -Sn` does.
pub fn to_text(services: &[VirtualService]) -> String {
    let mut out = String::new();
    for service in services {
        let matches = match service.matches {
            Match::Endpoint(Protocol::Tcp, e) => format!("-t {e}"),
            Match::Endpoint(Protocol::Udp, e) => format!("-u {e}"),
            Match::Endpoint(_, e) => format!("--sctp-service {e}"),
            Match::Mark(mark, false) => format!("-f {mark}"),
            Match::Mark(mark, true) => format!("-f {mark} -6"),
        };
        out += &format!("-A {matches} -s {}", service.scheduler);
        if let Some(seconds) = service.persistence {
            out += &format!(" -p {seconds}");
        }
        if let Some(mask) = &service.netmask {
            out += &format!(" -M {mask}");
        }
        if let Some(engine) = &service.engine {
            out += &format!(" --pe {engine}");
        }
        if service.one_packet {
            out += " -o";
        }
        if !service.flags.is_empty() {
            out += &format!(" -b {}", service.flags.join(","));
        }
        out.push('\n');
        for server in &service.real_servers {
            out += &format!("-a {matches} -r {} {} -w {}", server.endpoint(), server.method.option(), server.weight);
            if server.upper != 0 || server.lower != 0 {
                out += &format!(" -x {} -y {}", server.upper, server.lower);
            }
            if server.tunnel.kind != TunnelType::Ipip {
                out += &format!(" --tun-type {}", server.tunnel.kind);
                if server.tunnel.kind == TunnelType::Gue {
                    out += &format!(" --tun-port {}", server.tunnel.port);
                }
                match server.tunnel.checksum {
                    TunnelChecksum::None => {}
                    TunnelChecksum::Outer => out += " --tun-csum",
                    TunnelChecksum::Remote => out += " --tun-remcsum",
                }
            }
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "-A -t 192.168.2.59:80 -s rr -p 10 -M 255.255.255.0\n\
        -a -t 192.168.2.59:80 -r 192.168.224.11:8080 -m -w 1\n\
        -a -t 192.168.2.59:80 -r 192.168.224.12:80 -m -w 0 -x 10 -y 5\n\
        -A -u [2001:db8::59]:53 -s sh -o -b sh-fallback,sh-port\n\
        -a -u [2001:db8::59]:53 -r [2001:db8:224::11]:53 -g -w 1\n\
        -A -f 7 -6 -s wlc\n\
        -a -f 7 -6 -r [2001:db8:224::11]:0 -i -w 1 --tun-type gre\n";

    #[test]
    fn what_is_written_is_read() {
        let services = parse(SAVED).unwrap();
        assert_eq!(to_text(&services), SAVED);
        assert_eq!(services[0].real_servers[0].endpoint().to_string(), "192.168.224.11:8080");
        assert_eq!(services[2].matches, Match::Mark(7, true));
    }

    #[test]
    fn what_people_write() {
        let text = "# rules\n\nipvsadm -C\n/sbin/ipvsadm -A -t 10.0.0.1:80\nipvsadm -a -t 10.0.0.1:80 -r 10.0.0.2\n";
        let services = parse(text).unwrap();
        assert_eq!((services[0].scheduler.as_str(), services[0].real_servers[0].port), ("wlc", 80));
        assert_eq!(services[0].real_servers[0].method, ForwardingMethod::DirectRouting);
    }

    #[test]
    fn what_the_kernel_ignores_is_said() {
        let text = "-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:8080 -g\n-a -t 10.0.0.1:80 -r 10.0.0.3:8080 -m\n";
        let warnings: Vec<String> = read(text).unwrap().warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            ["line 2, column 1: port 8080 of 10.0.0.2 is ignored: only NAT (-m) translates ports, direct routing (-g) keeps 80"]
        );
    }

    #[test]
    fn commands_change_rules() {
        let text = "-A -t 10.0.0.1:80 -s wlc -p\n-a -t 10.0.0.1:80 -r 10.0.0.2 -m\n-a -t 10.0.0.1:80 -r 10.0.0.3 -m\n\
                    -e -t 10.0.0.1:80 -r 10.0.0.2 -m -w 7\n-d -t 10.0.0.1:80 -r 10.0.0.3\n-E -t 10.0.0.1:80 -s rr\n\
                    -A -u 10.0.0.1:53\n-D -u 10.0.0.1:53\n";
        assert_eq!(to_text(&parse(text).unwrap()), "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 7\n");
    }

    #[test]
    fn errors_say_where() {
        let cases = [
            (
                "-A -t 10.0.0.1:80 -s wrrr",
                "line 1, column 22: unknown scheduler 'wrrr' (known: rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos)",
            ),
            ("-A -t vip.example:http", "line 1, column 7: 'vip.example:http' is not ADDRESS:PORT; was it saved without -n?"),
            ("-A -t", "line 1, column 4: -t needs a value"),
            ("\n-a -t 10.0.0.1:80 -r 10.0.0.2:80", "line 2, column 1: this service was not added before (-A)"),
            (
                "IP Virtual Server version 1.2.1 (size=4096)",
                "line 1, column 1: 'IP' is not a rule; each line begins with -A (add service) or -a (add server)",
            ),
            ("-A -s rr", "line 1, column 1: -A without a service: -t, -u, --sctp-service or -f"),
            ("-A -t 10.0.0.1:80 -p x", "line 1, column 22: 'x' is not a number that -p takes"),
            ("-A -t 10.0.0.1:80 -q", "line 1, column 19: '-q' is not an option of -A"),
            ("-A -t 10.0.0.1:0 -s rr", "line 1, column 1: port 0 (every port) needs a persistent service (-p)"),
            ("-A -t 10.0.0.1:80 -p 9 -M 64", "line 1, column 27: netmask 64 is not of the service's address family"),
            ("-A -t 10.0.0.1:80\n-A -t 10.0.0.1:80 -s rr", "line 2, column 1: this service was added before"),
            (
                "-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2\n-a -t 10.0.0.1:80 -r 10.0.0.2:80",
                "line 3, column 1: this real server was added before",
            ),
            ("-A -f 1\n-a -f 1 -r 10.0.0.2 -w 65536", "line 2, column 24: weight 65536 is not in 0 to 65535"),
            ("-A -f 1\n-a -f 1 -r 10.0.0.2 --weight=99999999999999", "line 2, column 30: weight 99999999999999 is not in 0 to 65535"),
            ("-A -f 1\n-a -f 1 -r 10.0.0.2 -x 1 -y 2", "line 2, column 26: the lower threshold 2 is above the upper one, 1"),
            (
                "-A -f 1\n-a -f 1 -r [::2]:80 -m",
                "line 2, column 1: the real server is of another address family than the service; only tunnels (-i) can do that",
            ),
            (
                "-A -f 1 -b sh-prot",
                "line 1, column 12: unknown scheduler flag 'sh-prot' (known: sh-fallback sh-port mh-fallback mh-port flag-1 flag-2 flag-3)",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
    }
}
