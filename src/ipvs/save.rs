//! The text of `ipvsadm -Sn` (and of `/etc/sysconfig/ipvsadm`): read and written.

use super::service::{ForwardingMethod, Match, RealServer, SCHEDULERS, VirtualService};
use crate::net::{Endpoint, Protocol};
use std::fmt;
use std::net::IpAddr;

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

/// Reads rules as `ipvsadm -Sn` writes them; `ipvsadm` in front of a line, comments and empty lines are allowed.
///
/// # Errors
/// The first line that cannot be understood.
pub fn parse(text: &str) -> Result<Vec<VirtualService>, ParseError> {
    let mut services: Vec<VirtualService> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = Words { line, number: number + 1, at: 0 };
        let mut first = words.next();
        if first.is_some_and(|word| word.text == "ipvsadm" || word.text.ends_with("/ipvsadm")) {
            first = words.next();
        }
        match first {
            None => {}
            Some(word) if word.text.starts_with('#') => {}
            Some(word) => match word.text {
                "-A" | "--add-service" => services.push(service(&mut words, word)?),
                "-a" | "--add-server" => server(&mut words, word, &mut services)?,
                "-C" | "--clear" => services.clear(),
                other => {
                    return Err(
                        words.error(word, format!("'{other}' is not a rule; each line begins with -A (add service) or -a (add server)"))
                    );
                }
            },
        }
    }
    Ok(services)
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
        (len > 0).then(|| Word { text: &rest[..len], at: begin })
    }

    fn error(&self, word: Word<'_>, what: String) -> ParseError {
        ParseError { line: self.number, column: self.line[..word.at].chars().count() + 1, what }
    }

    /// The value of the option `of`.
    fn value(&mut self, of: Word<'_>) -> Result<Word<'a>, ParseError> {
        self.next().ok_or_else(|| self.error(of, format!("{} needs a value", of.text)))
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
    let mut found = None;
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
            "-p" | "--persistent" => service.persistence = Some(words.number(option)?),
            "-M" | "--netmask" => service.netmask = Some(words.value(option)?.text.to_string()),
            "--pe" | "pe" => service.engine = Some(words.value(option)?.text.to_string()),
            "-o" | "--ops" | "ops" => service.one_packet = true,
            "-b" | "--sched-flags" => service.flags = words.value(option)?.text.split(',').map(str::to_string).collect(),
            "-6" | "--ipv6" => {
                if let Some(Match::Mark(mark, _)) = found {
                    found = Some(Match::Mark(mark, true));
                }
            }
            other => return Err(words.error(option, format!("'{other}' is not an option of -A"))),
        }
    }
    service.matches = found.ok_or_else(|| words.error(add, "-A without a service: -t, -u, --sctp-service or -f".to_string()))?;
    Ok(service)
}

fn server(words: &mut Words<'_>, add: Word<'_>, services: &mut [VirtualService]) -> Result<(), ParseError> {
    let mut of = None;
    let mut server: Option<(Endpoint, bool)> = None;
    let (mut method, mut weight, mut upper, mut lower, mut tunnel, mut v6) = (ForwardingMethod::DirectRouting, 1, 0, 0, None, false);
    while let Some(option) = words.next() {
        if let Some(matches) = matched(words, option)? {
            of = Some((matches, option));
            continue;
        }
        match option.text {
            "-r" | "--real-server" => {
                let word = words.value(option)?;
                server = Some((endpoint(words, word)?, word.text.parse::<Endpoint>().is_ok()));
            }
            "-m" | "--masquerading" => method = ForwardingMethod::Nat,
            "-g" | "--gatewaying" => method = ForwardingMethod::DirectRouting,
            "-i" | "--ipip" => method = ForwardingMethod::Tunnel,
            "-w" | "--weight" => weight = words.number(option)?,
            "-x" | "--u-threshold" => upper = words.number(option)?,
            "-y" | "--l-threshold" => lower = words.number(option)?,
            "--tun-type" => tunnel = Some(words.value(option)?.text.to_string()),
            "--tun-port" => _ = words.value(option)?,
            "--tun-nocsum" | "--tun-csum" | "--tun-remcsum" => {}
            "-6" | "--ipv6" => v6 = true,
            other => return Err(words.error(option, format!("'{other}' is not an option of -a"))),
        }
    }
    let (mut matches, at) = of.ok_or_else(|| words.error(add, "-a without the service that the server belongs to".to_string()))?;
    if let (Match::Mark(mark, _), true) = (matches, v6) {
        matches = Match::Mark(mark, true);
    }
    let (endpoint, has_port) = server.ok_or_else(|| words.error(add, "-a without -r ADDRESS:PORT".to_string()))?;
    let Some(service) = services.iter_mut().find(|s| s.matches == matches) else {
        return Err(words.error(at, "this service was not added before (-A)".to_string()));
    };
    let port = match service.matches {
        Match::Endpoint(_, vip) if !has_port => vip.port,
        _ => endpoint.port,
    };
    service.real_servers.push(RealServer { addr: endpoint.addr, port, method, weight, upper, lower, tunnel });
    Ok(())
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
            if let Some(tunnel) = &server.tunnel {
                out += &format!(" --tun-type {tunnel}");
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
    fn errors_say_where() {
        let cases = [
            (
                "-A -t 10.0.0.1:80 -s wrrr",
                "line 1, column 22: unknown scheduler 'wrrr' (known: rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos)",
            ),
            ("-A -t vip.example:http", "line 1, column 7: 'vip.example:http' is not ADDRESS:PORT; was it saved without -n?"),
            ("-A -t", "line 1, column 4: -t needs a value"),
            ("\n-a -t 10.0.0.1:80 -r 10.0.0.2:80", "line 2, column 4: this service was not added before (-A)"),
            (
                "IP Virtual Server version 1.2.1 (size=4096)",
                "line 1, column 1: 'IP' is not a rule; each line begins with -A (add service) or -a (add server)",
            ),
            ("-A -s rr", "line 1, column 1: -A without a service: -t, -u, --sctp-service or -f"),
            ("-A -t 10.0.0.1:80 -p x", "line 1, column 22: 'x' is not a number that -p takes"),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
    }
}
