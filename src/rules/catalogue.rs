//! Codes of the catalogue that have no rule of their own: causes that findings leave open, faults that neither packets nor snapshots prove, and
//! what looks like a fault and is none.

/// A code without a rule.
pub struct Cause {
    /// Its code in the catalogue.
    pub code: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it is, and where to look.
    pub what: &'static str,
    /// Findings name it among the causes that they leave open.
    pub is_left_open: bool,
}

/// What findings leave open.
const fn open(code: &'static str, name: &'static str, what: &'static str) -> Cause {
    Cause { code, name, what, is_left_open: true }
}

/// What no finding names.
const fn other(code: &'static str, name: &'static str, what: &'static str) -> Cause {
    Cause { code, name, what, is_left_open: false }
}

/// All of them, by code.
pub static CAUSES: &[Cause] = &[
    open(
        "ARP008",
        "bond-alb-or-mac-rewrite",
        "A bond in mode 5 or 6 shows one address with the MACs of several ports: cat /proc/net/bonding/*.",
    ),
    open("ARP009", "garp-ignored", "Gratuitous ARP updates only entries that exist, unless arp_accept is set; switches may filter it."),
    other(
        "CAP011",
        "ip-id-not-a-key",
        "No fault: Linux sends the identification 0 in SYN-ACKs and resets that must not be fragmented, and network cards count \
         up while they cut segments. Packets are joined by sequence numbers, options and payload; the identification only \
         breaks a tie.",
    ),
    other(
        "CAP017",
        "proxy-or-synproxy-seq",
        "No fault of the path: a SYN proxy, or the helper for FTP, shifts sequence numbers, so both sides of a connection \
         differ by a constant. Such connections are joined by their first packet or shown apart: compare relative numbers \
         (Wireshark) on both sides.",
    ),
    other(
        "CAP018",
        "kernel-timestamp-order",
        "No fault: a card with several queues hands packets over some microseconds out of order, and the capture file has them \
         so. Order is taken from sequence numbers, not from the file.",
    ),
    other(
        "DR015",
        "real-server-talks-to-itself",
        "No fault: a real server that asks for the VIP is answered by itself, for the VIP is its own address. The packets are \
         on lo alone: tcpdump -i lo. To test the balancing, ask from a client.",
    ),
    other(
        "HA005",
        "vmac-or-promisc-blocked",
        "A hypervisor keeps frames for the virtual MAC of VRRP (00:00:5e:00:01:VRID) from the machine that has it: captured on \
         the outside they are there, inside they are not. Allow MAC changes and promiscuous mode at the port, or run keepalived \
         without use_vmac.",
    ),
    other(
        "IP6003",
        "v6-fragment-or-ptb",
        "Fragments of IPv6 after the first need the module nf_defrag_ipv6 on the director, and a tunnel over IPv6 takes 40 \
         bytes: lsmod, dmesg (\"Unhandled fragment\"), and ICMPv6 packet-too-big from the VIP.",
    ),
    other(
        "K8S002",
        "strict-arp-on-unannounced",
        "With strictARP no node answers ARP for an external address that nobody announces: captures show the question without \
         an answer (ARP006). Run an announcer (MetalLB, kube-vip), or take strictARP back.",
    ),
    other(
        "K8S003",
        "etp-local-without-endpoint",
        "With externalTrafficPolicy: Local a node without an endpoint has a virtual service without real servers (SVC002): \
         ipvsadm -Ln there. The balancer in front has to ask healthCheckNodePort.",
    ),
    other(
        "K8S004",
        "graceful-termination-leftovers",
        "kube-proxy keeps a terminated pod with weight 0 until its connections are gone, which with ports that are used again \
         may be never (SVC011), and for UDP is late (SVC014): ipvsadm -Ln.",
    ),
    other(
        "K8S005",
        "kube-ipvs0-captures-foreign-ip",
        "An external address of a service is a local address of every node; if it is another host's, or the gateway's, the node \
         no longer reaches that host: ip -br addr show kube-ipvs0 against the addresses of gateways and name servers.",
    ),
    other(
        "K8S006",
        "overlay-checksum-offload",
        "Packets of an overlay (VXLAN) arrive with a wrong checksum after translation and are dropped, which costs 1, 3 or 63 \
         seconds. Wrong at the receiver, unlike CAP001: nstat -az TcpInCsumErrors; ethtool -K flannel.1 tx off.",
    ),
    other(
        "K8S007",
        "dsr-pod-tunnel",
        "Direct answers of pods (kube-router) are LVS-TUN inside the pod's namespace: TUN001 to TUN005 hold there. Capture and \
         take the snapshot in that namespace (lvscope snapshot --netns PID).",
    ),
    other(
        "NET012",
        "tw-recycle-paws",
        "Kernels before 4.12 with net.ipv4.tcp_tw_recycle=1 drop SYNs of clients behind one address whose timestamps go back: \
         some clients at random wait. nstat -az TcpExtPAWSPassive; sysctl -w net.ipv4.tcp_tw_recycle=0.",
    ),
    other(
        "SVC009",
        "template-outlives-timeout",
        "No fault: a persistence template lives on in steps of 60 s while connections that it holds are in the table, so 10 s \
         of persistence and 120 s of TIME_WAIT make 130 s. ipvsadm -Lnc shows it with client port 0; shorter timeouts (ipvsadm \
         --set) shorten it.",
    ),
    other(
        "SVC017",
        "scheduler-misexpectation",
        "No fault, but an expectation: the default scheduler is wlc and not rr; connections are balanced and not requests; \
         InActConn counts entries that are not established now, and no history; UDP is always inactive; rr begins with the \
         server added last. lvscope director simulate shows what a scheduler picks, and why.",
    ),
    other(
        "SVC023",
        "firewall-sandwich-asymmetry",
        "Two directors with firewalls between them: request and answer have to cross the same firewall, so one director has to \
         hash the source and the other the destination (sh and dh), over the same list and weights. ipvsadm -Ln on both; a \
         wrong pair looks like NET006.",
    ),
    open(
        "SVC024",
        "health-check-wrong-target",
        "The health check asks the real server's own address while clients are served at the VIP, or the other way round.",
    ),
    open(
        "SVC025",
        "fullnat-local-address",
        "A FULLNAT service without local addresses, or a server whose answer comes to another core or card.",
    ),
    other(
        "SVC026",
        "dns-or-l7-expectation",
        "No fault: what round robin in DNS or a balancer of requests (layer 7) does, IPVS does not. It sees packets and no \
         URLs, and does not check its servers; who wants that puts a proxy behind it, and a health checker beside it.",
    ),
    other(
        "TUN008",
        "tun-vip-arp-leak",
        "A real server on the director's network answers ARP for the VIP of its tunnel device: ARP001, ARP003 and ARP004 say \
         so.",
    ),
    other(
        "TUN010",
        "tunnel-loop",
        "A real server of a tunnel that balances the same VIP itself sends unpacked requests into a tunnel again: packets with \
         two outer headers, or one that comes back. ipvsadm -Ln there; sysctl net.ipv4.vs.ignore_tunneled=1, or backup_only=1 \
         with the sync daemon.",
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
    use std::collections::BTreeSet;

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

    /// Every code of the catalogue.
    const ALL: &str = "NAT001 NAT002 NAT003 NAT004 NAT005 NAT006 NAT007 NAT008 NAT009 NAT010 NAT011 NAT012 NAT013 NAT014 \
        DR001 DR002 DR003 DR004 DR005 DR006 DR007 DR008 DR009 DR010 DR011 DR012 DR013 DR014 DR015 DR016 DR017 DR018 DR019 DR020 \
        DR021 DR022 \
        ARP001 ARP002 ARP003 ARP004 ARP005 ARP006 ARP007 ARP008 ARP009 ARP010 ARP011 ARP012 \
        NET001 NET002 NET003 NET004 NET005 NET006 NET007 NET008 NET009 NET010 NET011 NET012 NET013 NET014 NET015 NET016 \
        TUN001 TUN002 TUN003 TUN004 TUN005 TUN006 TUN007 TUN008 TUN009 TUN010 TUN011 \
        SVC001 SVC002 SVC003 SVC004 SVC005 SVC006 SVC007 SVC008 SVC009 SVC010 SVC011 SVC012 SVC013 SVC014 SVC015 SVC016 SVC017 \
        SVC018 SVC019 SVC020 SVC021 SVC022 SVC023 SVC024 SVC025 SVC026 SVC027 \
        HA001 HA002 HA003 HA004 HA005 HA006 \
        K8S001 K8S002 K8S003 K8S004 K8S005 K8S006 K8S007 \
        IP6001 IP6002 IP6003 IP6004 \
        CAP001 CAP002 CAP003 CAP004 CAP005 CAP006 CAP007 CAP008 CAP009 CAP010 CAP011 CAP012 CAP013 CAP014 CAP015 CAP016 CAP017 \
        CAP018";

    #[test]
    fn every_code_is_known_and_no_other() {
        let known: BTreeSet<&str> = super::super::ALL.iter().map(|rule| rule.code).chain(CAUSES.iter().map(|cause| cause.code)).collect();
        assert_eq!(known, ALL.split_whitespace().collect());
        for cause in CAUSES {
            assert!(cause.what.len() > 60 && cause.what.ends_with(['.', ')']), "{}: {}", cause.code, cause.what);
        }
    }

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
