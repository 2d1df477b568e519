//! nftables over netlink: base chains, and rules as far as they can be told from their expressions, including those that iptables-nft and
//! arptables-nft made. A condition that is not understood makes a rule doubtful, never wrong. Rules of the old iptables cannot be read.

mod compare;
mod compat;
mod registers;
mod rule;
mod sets;

use super::proc;
use crate::host::{Chain, Hook, Netfilter};
use crate::netlink::{Attrs, Family, NetlinkError as Error, Socket};
use sets::Sets;

const GET_CHAIN: u16 = 10 << 8 | 4;
const GET_RULE: u16 = 10 << 8 | 7;

pub(super) fn filters() -> Result<Netfilter, Error> {
    let mut found = Netfilter::default();
    let mut socket = Socket::open(Family::Netfilter)?;
    // Family 0: all of them.
    let all = [0; 4];
    let chains = match socket.dump(GET_CHAIN, &all) {
        // A kernel without nftables answers EINVAL or EOPNOTSUPP.
        Err(e) if matches!(e.errno, 22 | 95) => Vec::new(),
        other => other?,
    };
    found.chains = chains.iter().filter_map(|m| chain(&m.body)).collect();
    if !found.chains.is_empty() {
        let rules = socket.dump(GET_RULE, &all)?;
        let mut sets = Sets::default();
        for message in &rules {
            let attrs = Attrs::after(&message.body, 4);
            let (Some(family), Some(table), Some(name)) = (family(message.body.first().copied()), attrs.text(1), attrs.text(2)) else {
                continue;
            };
            let number = message.body.first().copied().unwrap_or_default();
            let read = rule::rules(attrs.nested(4), family, &mut |set| sets.elements(&mut socket, number, &table, set));
            if let Some(chain) = found.chains.iter_mut().find(|c| c.family == family && c.table == table && c.name == name) {
                chain.rules.extend(read);
            }
        }
    }
    // Tables of the old iptables are named there, and their rules are nowhere that we read.
    for (file, family) in [("ip_tables_names", "ip"), ("ip6_tables_names", "ip6"), ("arp_tables_names", "arp")] {
        let names = proc::read(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        found.unread.extend(names.split_whitespace().map(|table| format!("{family}:{table}")));
    }
    Ok(found)
}

fn family(number: Option<u8>) -> Option<&'static str> {
    Some(match number? {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    })
}

fn chain(body: &[u8]) -> Option<Chain> {
    let attrs = Attrs::after(body, 4);
    let family = family(body.first().copied())?;
    let place = attrs.nested(4);
    let hook = place.be32(1).and_then(|number| match (family, number) {
        ("arp", 0) => Some(Hook::Input),
        ("arp", 1) => Some(Hook::Output),
        ("netdev", _) => None,
        (_, 0) => Some(Hook::Prerouting),
        (_, 1) => Some(Hook::Input),
        (_, 2) => Some(Hook::Forward),
        (_, 3) => Some(Hook::Output),
        (_, 4) => Some(Hook::Postrouting),
        _ => None,
    });
    Some(Chain {
        family: family.to_string(),
        table: attrs.text(1)?,
        name: attrs.text(3)?,
        hook,
        priority: place.be32(2).map_or(0, u32::cast_signed),
        kind: attrs.text(7).unwrap_or_default(),
        drops: attrs.be32(5) == Some(0),
        rules: Vec::new(),
    })
}
