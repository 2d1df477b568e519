//! The connection table as text: what `ipvsadm -Lnc` prints, and `/proc/net/ip_vs_conn` (also with the column of `ip_vs_conn_sync`).

use crate::net::{Endpoint, Protocol};
use std::net::{IpAddr, Ipv4Addr};

/// A connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its protocol; 0 of templates of a firewall mark.
    pub protocol: Protocol,
    /// The client; port 0 is a persistence template.
    pub client: Endpoint,
    /// The virtual address.
    pub service: Endpoint,
    /// The real server.
    pub destination: Endpoint,
    /// Its state.
    pub state: String,
    /// Seconds until it expires.
    pub expires: u32,
}

/// Reads either text, line by line; headings and lines that are neither are passed over.
pub fn entries(text: &str) -> impl Iterator<Item = Entry> {
    text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        proc_line(&words).or_else(|| ipvsadm_line(&words))
    })
}

fn protocol(word: &str) -> Option<Protocol> {
    match word {
        "IP" => Some(Protocol::Other(0)),
        other => other.to_ascii_lowercase().parse().ok(),
    }
}

/// `TCP C0A80264 A9A4 C0A8023B 0050 C0A8E00B 0050 FIN_WAIT 110`.
fn proc_line(words: &[&str]) -> Option<Entry> {
    let [pro, from, from_port, to, to_port, dest, dest_port, state, rest @ ..] = words else { return None };
    let endpoint =
        |addr: &str, port: &str| Some(Endpoint::new(hex(addr)?, u16::from_str_radix(port, 16).ok().filter(|_| port.len() == 4)?));
    Some(Entry {
        protocol: protocol(pro)?,
        client: endpoint(from, from_port)?,
        service: endpoint(to, to_port)?,
        destination: endpoint(dest, dest_port)?,
        state: state.to_string(),
        expires: rest.iter().find_map(|word| word.parse().ok())?,
    })
}

fn hex(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.trim_start_matches('[').trim_end_matches(']').parse().ok();
    }
    (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok()).flatten().map(|bits| Ipv4Addr::from(bits).into())
}

/// `TCP 01:50  FIN_WAIT 192.168.2.100:43428 192.168.2.59:80 192.168.224.11:80`.
fn ipvsadm_line(words: &[&str]) -> Option<Entry> {
    let [pro, expire, state, source, service, destination, ..] = words else { return None };
    let (minutes, seconds) = expire.split_once(':')?;
    Some(Entry {
        protocol: protocol(pro)?,
        client: source.parse().ok()?,
        service: service.parse().ok()?,
        destination: destination.parse().ok()?,
        state: state.to_string(),
        expires: minutes.parse::<u32>().ok()?.saturating_mul(60).saturating_add(seconds.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_texts_say_the_same() {
        let proc = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n\
            TCP C0A80264 A9A4 C0A8023B 0050 C0A8E00B 0050 FIN_WAIT        110\n\
            TCP 2001:0db8:0002:0000:0000:0000:0000:0100 A9A4 2001:0db8:0224:0000:0000:0000:0000:0013 0050 2001:0db8:0224:0000:0000:0000:0000:0011 0050 SYN_RECV        42\n";
        let text = "IPVS connection entries\npro expire state       source             virtual            destination\n\
            TCP 01:50  FIN_WAIT    192.168.2.100:43428 192.168.2.59:80 192.168.224.11:80\n\
            TCP 00:42  SYN_RECV    [2001:db8:2::100]:43428 [2001:db8:224::13]:80 [2001:db8:224::11]:80\n";
        let (a, b): (Vec<Entry>, Vec<Entry>) = (entries(proc).collect(), entries(text).collect());
        assert_eq!(a, b);
        assert_eq!((a.len(), a[0].expires, a[1].client.to_string().as_str()), (2, 110, "[2001:db8:2::100]:43428"));
        assert_eq!(entries("UDP C0A80264 00 C0A8023B 0050 C0A8E00B 0050 UDP 1\ngarbage\n").count(), 0, "a port has four digits");
    }
}
