//! Listening TCP sockets and unconnected UDP sockets (sock_diag). Needs no permission.

use crate::host::Socket as Listening;
use crate::net::{Endpoint, Protocol};
use crate::netlink::{Attrs, Family, NetlinkError as Error, Socket};
use std::collections::HashMap;
use std::net::IpAddr;

const BY_FAMILY: u16 = 20;
const INET6: u8 = 10;
/// States as bits: listening is 10 for TCP, unconnected is 7 for UDP.
const LISTEN: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;
const SKV6ONLY: u16 = 11;

pub(super) fn sockets(names: &HashMap<u32, String>) -> Result<Vec<Listening>, Error> {
    let mut socket = Socket::open(Family::SockDiag)?;
    let mut found = Vec::new();
    for (protocol, states) in [(Protocol::Tcp, LISTEN), (Protocol::Udp, UNCONNECTED)] {
        for family in [2, INET6] {
            let mut request = [0; 56];
            request[..4].copy_from_slice(&[family, protocol.number(), 0, 0]);
            request[4..8].copy_from_slice(&states.to_ne_bytes());
            let answers = match socket.dump(BY_FAMILY, &request) {
                // A kernel without IPv6.
                Err(e) if family == INET6 && e.is(2) => Vec::new(),
                other => other?,
            };
            found.extend(answers.iter().filter_map(|m| listening(&m.body, protocol, names)));
        }
    }
    Ok(found)
}

fn listening(body: &[u8], protocol: Protocol, names: &HashMap<u32, String>) -> Option<Listening> {
    let port = u16::from_be_bytes([*body.get(4)?, *body.get(5)?]);
    let v6 = body.first() == Some(&INET6);
    let addr = match v6 {
        true => IpAddr::from(<[u8; 16]>::try_from(body.get(8..24)?).ok()?),
        false => IpAddr::from(<[u8; 4]>::try_from(body.get(8..12)?).ok()?),
    };
    let bound = u32::from_ne_bytes(body.get(40..44)?.try_into().ok()?);
    Some(Listening {
        protocol,
        local: Endpoint::new(addr, port),
        v6only: Attrs::after(body, 72).u8(SKV6ONLY).map(|only| only != 0).filter(|_| v6),
        device: (bound != 0).then(|| names.get(&bound).cloned().unwrap_or_else(|| bound.to_string())),
    })
}
