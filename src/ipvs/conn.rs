//! What `ipvsadm -lnc` prints: the connection table, read and written.

use super::list::protocol_name;
use crate::net::{Endpoint, Protocol};

/// One line of the connection table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Connection {
    /// Its protocol; `Other(0)` for the template of a fwmark service.
    pub protocol: Protocol,
    /// Seconds until it expires.
    pub expires: u64,
    /// `ESTABLISHED`, `UDP`, `NONE`, `ASSURED` …
    pub state: String,
    /// The client; its port is 0 in a template.
    pub client: Endpoint,
    /// What it dialled.
    pub service: Endpoint,
    /// The real server.
    pub server: Endpoint,
}

/// Prints as `ipvsadm -lnc` does, sorted by client.
pub fn list_connections(connections: &[Connection]) -> String {
    let mut out = "IPVS connection entries\npro expire state       source             virtual            destination\n".to_string();
    let mut sorted: Vec<&Connection> = connections.iter().collect();
    sorted.sort_by_key(|c| (c.protocol, c.client, c.service, c.server));
    for c in sorted {
        let expire = format!("{:02}:{:02}", c.expires / 60, c.expires % 60);
        let protocol = protocol_name(c.protocol);
        out += &format!("{protocol:<3} {expire:<6} {:<11} {:<18} {:<18} {}\n", c.state, c.client, c.service, c.server);
    }
    out
}

/// Reads what [`list_connections`] prints.
///
/// # Errors
/// The first line that is none, with its number.
pub fn parse_connections(text: &str) -> Result<Vec<Connection>, String> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || line.starts_with("IPVS connection entries") || words[0] == "pro" {
            continue;
        }
        let read = || {
            let [protocol, expire, state, client, service, server, ..] = words[..] else { return None };
            let (minutes, seconds) = expire.split_once(':')?;
            Some(Connection {
                protocol: match protocol {
                    "TCP" => Protocol::Tcp,
                    "UDP" => Protocol::Udp,
                    "SCTP" => Protocol::Sctp,
                    "IP" => Protocol::Other(0),
                    _ => return None,
                },
                expires: minutes.parse::<u64>().ok()?.checked_mul(60)?.checked_add(seconds.parse().ok()?)?,
                state: state.to_string(),
                client: client.parse().ok()?,
                service: service.parse().ok()?,
                server: server.parse().ok()?,
            })
        };
        found.push(read().ok_or_else(|| format!("line {}: '{line}' is not a line of ipvsadm -lnc", at + 1))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let text = "IPVS connection entries
pro expire state       source             virtual            destination
TCP 01:05  TIME_WAIT   192.168.2.100:40002 192.168.2.59:80    192.168.224.11:80
TCP 14:59  ESTABLISHED 192.168.2.100:40003 192.168.2.59:80    192.168.224.12:80
UDP 05:00  UDP         [2001:db8::1]:5353 [2001:db8::59]:53  [2001:db8:224::11]:53
IP  00:50  ASSURED     192.168.2.0:0      0.0.0.1:0          192.168.224.11:0
";
        let read = parse_connections(text).unwrap();
        assert_eq!((read[0].expires, read[3].protocol), (65, Protocol::Other(0)));
        assert_eq!(list_connections(&read), text);
        assert_eq!(parse_connections("TCP x").unwrap_err(), "line 1: 'TCP x' is not a line of ipvsadm -lnc");
    }
}
