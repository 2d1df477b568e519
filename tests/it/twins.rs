//! What no capture tells. For each scenario whose cause lvscope does not name first from packets there is a twin, another cause or none at
//! all, whose packets are the same: who said what to whom, in which order, at every interface. `docs/limitations.md` names the pairs, and
//! what tells them apart.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::story::{Story, difference, story};
use crate::support::{lab_is_possible, lvscope, text};
use crate::within::{inside, slow};
use lvscope::lab::catalogue;
use lvscope::lab::play::Stage;
use lvscope::lab::prove::{Remedied, mend_by_captures};
use lvscope::lab::scenario::Scenario;

/// A scenario, and one that looks like it.
struct Pair {
    /// From the catalogue.
    scenario: &'static str,
    /// From the catalogue, or a text.
    twin: &'static str,
    /// What the documentation calls the twin.
    called: &'static str,
}

/// A pair of causes that packets leave open.
const OPEN: &[Pair] = &[
    Pair {
        scenario: "dr-arp-level",
        twin: "base = 'dr-routed'\ncodes = ['ARP001']\n[break]\nweb1 = ['sysctl -w net.ipv4.conf.all.arp_ignore=0']\n",
        called: "ARP001",
    },
    Pair { scenario: "dr-arp-lo-only", twin: "dr-arp-leak", called: "ARP001" },
    Pair {
        scenario: "tun-arp-leak",
        twin: "base = 'tun-lan'\ncodes = ['ARP001']\n[break]\nweb1 = ['sysctl -w net.ipv4.conf.all.arp_ignore=0']\n",
        called: "ARP001",
    },
    Pair { scenario: "dr-vip-nowhere", twin: "dr-director-quiet", called: "ARP006" },
    Pair {
        scenario: "nat-onearm-wrong-gateway",
        twin: r#"
base = "nat-onearm"
codes = ["NAT007"]
[break]
web1 = ["sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2", "ip addr add 10.20.0.80/32 dev lo", "ip route replace default via 10.20.0.1"]
web2 = ["sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2", "ip addr add 10.20.0.80/32 dev lo", "ip route replace default via 10.20.0.1"]
"#,
        called: "NAT007",
    },
    Pair { scenario: "tun-no-vip", twin: "tun-rp-filter", called: "TUN002" },
    Pair { scenario: "tun-loose-addressless", twin: "tun-rp-filter", called: "TUN002" },
    Pair {
        scenario: "tun-remote",
        twin: "base = 'tun'\ncodes = ['TUN001']\n[break]\nweb1 = ['ip link set tunl0 down']\n",
        called: "TUN001",
    },
    Pair { scenario: "k8s-strict-arp", twin: "ha-split-brain", called: "HA001" },
    Pair { scenario: "nat-mark-missing", twin: "nat-no-service", called: "SVC027" },
    Pair { scenario: "nat-no-module", twin: "nat-no-service", called: "SVC027" },
    Pair {
        scenario: "nat-threshold-all",
        twin: r#"
base = "nat"
codes = ["SVC002"]
[setup]
director = ["ipvsadm -d -t 192.168.2.59:80 -r 192.168.224.12:80"]
[[traffic]]
from = "client"
to = "192.168.2.59:80"
connections = 9
[[event]]
after_ms = 150
host = "director"
run = "ipvsadm -e -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w 0"
"#,
        called: "SVC002",
    },
];

/// Faults that do nothing yet: the twin is healthy.
const LATENT: &[Pair] = &[
    Pair { scenario: "nat-two-default-routes", twin: "nat-ok", called: "nothing" },
    Pair { scenario: "nat-volatile-route", twin: "nat-ok", called: "nothing" },
    Pair { scenario: "nat-volatile-forwarding", twin: "nat-ok", called: "nothing" },
    Pair { scenario: "nat-volatile-table", twin: "nat-ok", called: "nothing" },
    Pair { scenario: "dr-volatile-arp", twin: "dr-routed-ok", called: "nothing" },
    Pair { scenario: "ha-vrrp-strict", twin: "ha-ok", called: "nothing" },
    Pair {
        scenario: "nat-reuse-drain",
        twin: "base = 'nat'\n[[traffic]]\nfrom = 'client'\nto = '192.168.2.59:80'\nconnections = 6\n",
        called: "nothing",
    },
    Pair {
        scenario: "nat-persistent-drain",
        twin: r#"
base = "nat"
[setup]
director = ["ipvsadm -E -t 192.168.2.59:80 -s rr -p 300"]
[[host]]
name = "desk"
role = "client"
interfaces = [{ name = "eth0", segment = "outer" }]
setup = ["ip addr add 192.168.2.101/24 dev eth0"]
[[traffic]]
from = "client"
to = "192.168.2.59:80"
connections = 12
every_ms = 80
[[traffic]]
from = "desk"
to = "192.168.2.59:80"
connections = 12
every_ms = 80
"#,
        called: "nothing",
    },
    Pair { scenario: "dr-mtu", twin: "base = 'dr-two-nets'", called: "nothing" },
    Pair { scenario: "dr6-ra-unheard", twin: "dr6-ra-ok", called: "nothing" },
    Pair {
        scenario: "nat-threshold",
        twin: "base = 'nat'\n[[traffic]]\nfrom = 'client'\nto = '192.168.2.59:80'\nconnections = 5\n",
        called: "nothing",
    },
    Pair { scenario: "nat-two-ports", twin: "nat-mark-ok", called: "nothing, one service by a mark" },
    Pair {
        scenario: "nat-persistent-test",
        twin: r#"
base = "nat"
[break]
director = ["ipvsadm -e -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w 0"]
[[traffic]]
from = "client"
to = "192.168.2.59:80"
connections = 12
"#,
        called: "a drained server",
    },
    Pair {
        scenario: "nat-all-to-one",
        twin: r#"
base = "nat"
[break]
director = ["ipvsadm -e -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w 0"]
[[traffic]]
from = "client"
to = "192.168.2.59:80"
connections = 6
"#,
        called: "a drained server",
    },
    Pair {
        scenario: "dr-snat-persistent",
        twin: r#"
base = "dr"
[[host]]
name = "desk"
role = "client"
interfaces = [{ name = "eth0", segment = "outer" }]
setup = ["ip addr add 192.168.2.101/24 dev eth0"]
[break]
router = ["iptables -t nat -A POSTROUTING -o int -p tcp --dport 80 -j SNAT --to-source 192.168.224.10"]
director = ["ipvsadm -e -t 192.168.224.13:80 -r 192.168.224.11:80 -g -w 0"]
[[traffic]]
from = "client"
to = "192.168.2.59:80"
[[traffic]]
from = "desk"
to = "192.168.2.59:80"
"#,
        called: "a drained server",
    },
];

/// Where nothing is heard of a real server but its silence, all that may be behind it looks alike. With a health check, a client in its own
/// network or a second port it no longer does: those scenarios of the catalogue are named first.
const QUIET: &[Pair] = &[
    Pair {
        scenario: "base = 'nat'\nquiet = true\ncodes = ['NAT001']\n[break]\nweb1 = ['ip route del default']\n",
        twin: "base = 'nat'\nquiet = true\ncodes = ['NET008']\n[break]\nweb1 = ['iptables -A INPUT -p tcp --dport 80 -j DROP']\n",
        called: "NET008",
    },
    Pair {
        scenario: "base = 'dr-routed'\nquiet = true\ncodes = ['DR004']\n[break]\nweb1 = ['ip route del default']\n",
        twin: "base = 'dr-routed'\nquiet = true\ncodes = ['DR001']\n[break]\nweb1 = ['ip addr del 203.0.113.80/32 dev lo']\n",
        called: "DR001",
    },
    Pair {
        scenario: "base = 'dr-routed'\nquiet = true\ncodes = ['DR001']\n[break]\nweb1 = ['ip addr del 203.0.113.80/32 dev lo']\n",
        twin: "base = 'dr-routed'\nquiet = true\ncodes = ['NET008']\n[break]\nweb1 = ['iptables -A INPUT -d 203.0.113.80 -j DROP']\n",
        called: "NET008",
    },
];

/// A race may go the one way or the other: so often each is played.
const TRIES: usize = 8;

fn read(text: &str) -> Scenario {
    let scenario = if text.contains('=') { Scenario::read("twin", text) } else { catalogue::open(text) };
    scenario.unwrap_or_else(|e| panic!("{e}"))
}

fn played(scenario: &Scenario) -> Story {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut stage = Stage::set(scenario).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
    story(&stage.play(scratch.path()).unwrap_or_else(|e| panic!("{}: {e}", scenario.name)).captures)
}

/// Both may tell one story.
fn hold(pair: &Pair) {
    let (one, other) = (read(pair.scenario), read(pair.twin));
    assert_ne!(one.codes.first(), other.codes.first(), "{}: a twin has another cause", pair.scenario);
    let (mut ones, mut others): (Vec<Story>, Vec<Story>) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        ones.push(played(&one));
        others.push(played(&other));
        if ones.iter().any(|told| others.contains(told)) {
            return;
        }
    }
    panic!("{} and {} differ:\n{}", pair.scenario, pair.twin, difference(&ones[0], &others[0]));
}

#[test]
fn some_look_alike() {
    if !inside("twins::some_look_alike") {
        return;
    }
    std::thread::scope(|scope| {
        for pair in [&OPEN[1], &OPEN[4], &OPEN[5], &LATENT[0], &QUIET[0], &QUIET[2]] {
            scope.spawn(|| hold(pair));
        }
    });
}

#[test]
fn all_look_alike() {
    if !slow() || !inside("twins::all_look_alike") {
        return;
    }
    OPEN.iter().chain(LATENT).chain(QUIET).for_each(hold);
}

/// Which setting lets a real server answer for the VIP, packets do not say; that it does is the fault, and what they print mends it.
#[test]
fn a_leak_is_mended_whatever_lets_it_out() {
    if !inside("twins::a_leak_is_mended_whatever_lets_it_out") {
        return;
    }
    for name in ["dr-arp-level", "dr-arp-lo-only", "tun-arp-leak"] {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, remedied) = mend_by_captures(&read(name), folder.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((first, remedied), (Some("ARP001"), Remedied::Green), "{name}");
    }
}

/// A story that differs is told apart: the comparison itself sees what a cause does to packets.
#[test]
fn strangers_do_not_look_alike() {
    if !inside("twins::strangers_do_not_look_alike") {
        return;
    }
    let with_checks = |break_: &str| read(&format!("base = 'nat'\ncodes = ['X']\n[break]\nweb1 = ['{break_}']\n"));
    let (route, filter) = (with_checks("ip route del default"), with_checks("iptables -A INPUT -p tcp --dport 80 -j DROP"));
    let (mut ones, other) = (vec![played(&route)], played(&filter));
    // How a check ends is a race as well.
    let again = (0..TRIES).any(|_| {
        let told = played(&route);
        let known = ones.contains(&told);
        ones.push(told);
        known
    });
    assert!(again, "{}", difference(&ones[0], &ones[1]));
    let one = &ones[0];
    assert!(difference(one, &other).contains("TCP 192.168.224.10 #0 > 192.168.224.11:80"), "{}", difference(one, &other));
}

/// What is left open, or not seen, is in the table of the documentation, and nothing else is.
#[test]
fn the_table_is_complete() {
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limitations.md")).unwrap();
    let table = docs.split("## Twins").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    for pair in OPEN.iter().chain(LATENT) {
        let cause = read(pair.scenario).codes[0].clone();
        let row = table.lines().find(|line| line.starts_with(&format!("| `{}` ", pair.scenario)));
        let row = row.unwrap_or_else(|| panic!("no row for {}", pair.scenario));
        assert!(row.contains(&cause) && row.contains(pair.called), "{row}");
    }
    let rows = table.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, OPEN.len() + LATENT.len());
}

/// And these are all: every other cause is named first from captures alone.
#[test]
fn every_other_cause_is_named() {
    if !slow() || !lab_is_possible() {
        return;
    }
    let output = lvscope(&["lab", "prove", "--all", "--format", "json"]).output().expect("lvscope");
    let proofs: Vec<serde_json::Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let named = |how: &str| -> BTreeSet<String> {
        let of = |p: &&serde_json::Value| !p["cause"].is_null() && p["by_captures"] == how;
        proofs.iter().filter(of).map(|p| p["name"].as_str().unwrap().to_string()).collect()
    };
    let names = |pairs: &[Pair]| -> BTreeSet<String> { pairs.iter().map(|p| p.scenario.to_string()).collect() };
    assert_eq!((named("open"), named("–")), (names(OPEN), names(LATENT)));
    assert!(named("first").len() >= 107, "{}", named("first").len());
}
