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
    cause(
        "NET013",
        "listen-overflow-or-synflood",
        "The server's queue of half-open connections is full: nstat -az TcpExtListenOverflows TcpExtListenDrops.",
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

    /// The catalogue of faults, as far as it says what hosts show: all codes of the first two priorities.
    const FIRST: &str = "NAT001 NAT002 NAT003 NAT004 NAT005 NAT006 NAT007 NAT008 NAT011 NAT013 \
        DR001 DR002 DR003 DR004 DR005 DR006 DR007 DR008 DR009 DR010 DR012 DR013 DR014 DR016 DR017 DR018 DR019 DR020 DR021 \
        ARP001 ARP002 ARP003 ARP005 ARP006 ARP007 ARP011 ARP012 NET001 NET002 NET003 NET004 NET006 NET007 NET008 NET010 NET011 NET015 \
        TUN001 TUN002 TUN003 TUN004 TUN005 TUN007 TUN008 SVC001 SVC002 SVC003 SVC004 SVC005 SVC006 SVC007 SVC008 SVC010 SVC011 SVC012 \
        SVC013 SVC014 SVC017 SVC019 SVC027 HA001 HA002 HA003 K8S001";

    /// Those that are not looked for on hosts, and why.
    const NOT_ON_HOSTS: &[(&str, &str)] = &[
        ("DR013", "a socket does not say from which address it will answer"),
        ("DR014", "a way of testing, and no state of a host"),
        ("DR021", "the network's doing: hosts do not see it"),
        ("TUN008", "ARP001, ARP003 and ARP004 say it, whichever device has the VIP"),
        ("SVC017", "an expectation, and no fault"),
        ("HA002", "whether an announcement was lost, packets show; what came of it, ARP007"),
    ];

    #[test]
    fn what_hosts_show_is_looked_for() {
        for code in FIRST.split_whitespace() {
            let looks = super::super::find(code).is_some_and(|rule| rule.hosts.is_some());
            let excused = NOT_ON_HOSTS.iter().any(|(known, why)| *known == code && !why.is_empty());
            assert!(looks != excused, "{code}: {}", if looks { "it is looked for, and excused" } else { "neither looked for nor excused" });
        }
    }

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
