//! Causes that findings leave open and that packets alone never prove: they have a code and a name, and no rule of their own.

/// A cause that is only ever an alternative.
pub struct Cause {
    /// Its code in the catalogue.
    pub code: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it is, and where to look.
    pub what: &'static str,
}

const fn cause(code: &'static str, name: &'static str, what: &'static str) -> Cause {
    Cause { code, name, what }
}

/// All of them, by code.
pub static CAUSES: &[Cause] = &[
    cause(
        "ARP008",
        "bond-alb-or-mac-rewrite",
        "A bond in mode 5 or 6 shows one address with the MACs of several ports: cat /proc/net/bonding/*.",
    ),
    cause("ARP009", "garp-ignored", "Gratuitous ARP updates only entries that exist, unless arp_accept is set; switches may filter it."),
    cause("ARP010", "proxy-arp-answers-vip", "A host answers for an address that it only has a route to: sysctl -a -r proxy_arp."),
    cause("HA004", "no-state-after-failover", "The new director has no entry for the connection: ipvsadm -ln --daemon, sloppy_tcp."),
    cause(
        "NET013",
        "listen-overflow-or-synflood",
        "The server's queue of half-open connections is full: nstat -az TcpExtListenOverflows TcpExtListenDrops.",
    ),
    cause(
        "SVC015",
        "mark-or-port-zero-mismatch",
        "The service is for a firewall mark that no rule sets, or for port 0 without persistence: nft list ruleset, ipvsadm -ln.",
    ),
    cause(
        "SVC018",
        "threshold-overload-hysteresis",
        "A server is over its upper threshold until it falls below the lower one: ipvsadm -ln --thresholds.",
    ),
    cause(
        "SVC024",
        "health-check-wrong-target",
        "The health check asks the real server's own address while clients are served at the VIP, or the other way round.",
    ),
    cause(
        "SVC025",
        "fullnat-local-address",
        "A FULLNAT service without local addresses, or a server whose answer comes to another core or card.",
    ),
    cause("TUN006", "fixed-remote-endpoint", "The server's tunnel device accepts packets of one director only: ip -d link show type ipip."),
    cause(
        "TUN008",
        "tun-vip-arp-leak",
        "A real server on the director's network answers ARP for the VIP of its tunnel device: ARP001, ARP003 and ARP004 say so.",
    ),
];

/// The cause with a code, whatever its case.
pub fn cause_of(code: &str) -> Option<&'static Cause> {
    CAUSES.iter().find(|cause| cause.code.eq_ignore_ascii_case(code))
}

/// The name that belongs to a code, be it a rule's or a cause's.
pub fn name_of(code: &str) -> Option<&'static str> {
    super::find(code).map(|rule| rule.name).or_else(|| cause_of(code).map(|cause| cause.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_and_none_has_a_rule() {
        assert!(CAUSES.windows(2).all(|pair| pair[0].code < pair[1].code));
        for cause in CAUSES {
            assert!(super::super::find(cause.code).is_none(), "{} has a rule", cause.code);
            assert_eq!(name_of(&cause.code.to_lowercase()), Some(cause.name));
        }
        assert_eq!(name_of("NAT001"), Some("rs-no-default-route"));
        assert_eq!(name_of("NAT999"), None);
    }
}
