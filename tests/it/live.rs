//! What is worked out from a snapshot, held against what the kernel itself answers, in network namespaces made for it. Needs `unshare` and
//! `ip`, and no root; where user namespaces are forbidden, the tests say so and pass.

use crate::support::Random;
use lvscope::case::read_host;
use lvscope::host::{Ask, SourceCheck};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

/// Runs a shell script as root of a network namespace of its own; `None` where that is not possible.
fn in_namespace(folder: &Path, script: &str) -> Option<String> {
    let path = folder.join("script.sh");
    fs::write(&path, script).unwrap();
    let able = Command::new("unshare").args(["-Urn", "ip", "link", "set", "lo", "up"]).output();
    if !able.is_ok_and(|out| out.status.success()) {
        eprintln!("no user namespaces, or no ip(8) here: nothing was compared with the kernel");
        return None;
    }
    let out = Command::new("unshare")
        .args(["-Urn", "sh", "-e"])
        .arg(&path)
        .current_dir(folder)
        .env("LVSCOPE", env!("CARGO_BIN_EXE_lvscope"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Four cards with a network each.
const CARDS: &str = "ip link set lo up\nfor n in 0 1 2 3; do ip link add v$n type veth peer name p$n; ip link set v$n up; ip link set p$n up; ip addr add 10.0.$n.1/24 dev v$n; done\n";

fn address(random: &mut Random) -> String {
    match random.below(4) {
        0 => format!("10.0.{}.{}", random.below(4), random.below(256)),
        1 => format!("10.{}.{}.{}", random.below(3), random.below(4), random.below(4)),
        2 => format!("172.16.{}.{}", random.below(4), random.below(256)),
        _ => format!("192.0.2.{}", random.below(8)),
    }
}

fn route(random: &mut Random) -> String {
    let len = [8, 9, 16, 20, 24, 28, 30, 32][random.below(8) as usize];
    let bits = u32::from(address(random).parse::<std::net::Ipv4Addr>().unwrap()) & (u32::MAX << (32 - len));
    let dst = if random.below(8) == 0 { "default".to_string() } else { format!("{}/{len}", std::net::Ipv4Addr::from(bits)) };
    let table = ["main", "main", "100", "101"][random.below(4) as usize];
    let metric = if random.below(3) == 0 { format!(" metric {}", random.below(4) * 10) } else { String::new() };
    let card = random.below(4);
    match random.below(10) {
        0 => format!("route append blackhole {dst} table {table}{metric}"),
        1 => format!("route append unreachable {dst} table {table}{metric}"),
        2 => format!("route append throw {dst} table {table}{metric}"),
        3 => format!("route append {dst} dev v{card} table {table}{metric}"),
        4 => format!("route append local {dst} dev lo table local"),
        _ => format!("route append {dst} via 10.0.{card}.{} table {table}{metric}", random.below(250) + 2),
    }
}

fn rule(random: &mut Random) -> String {
    let priority = random.below(30000) + 1;
    let condition = match random.below(4) {
        0 => format!("from 10.0.{}.1", random.below(4)),
        1 => format!("to {}/16", format_args!("10.{}.0.0", random.below(3))),
        2 => format!("not to 10.0.{}.0/24", random.below(4)),
        _ => "from all".to_string(),
    };
    let action = match random.below(5) {
        0 => "unreachable".to_string(),
        1 => "table main suppress_prefixlength 0".to_string(),
        _ => format!("table {}", 100 + random.below(2)),
    };
    format!("rule add pref {priority} {condition} {action}")
}

/// What `ip route get` says, in our words: device, gateway and source; or that there is no way.
fn answers(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("RTNETLINK answers") {
            found.push("none".to_string());
        } else if line.contains(" dev ") {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |key: &str| words.iter().position(|w| *w == key).and_then(|at| words.get(at + 1)).copied().unwrap_or("-");
            let local = if words[0] == "local" { "local " } else { "" };
            found.push(format!("{local}{} {}", after("dev"), after("via")));
        }
    }
    found
}

/// Look-ups answered from a snapshot are those that the kernel answers. `LVSCOPE_TABLES=1000` tries more of them.
#[test]
fn ways_are_the_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let tables: u64 = std::env::var("LVSCOPE_TABLES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut random = Random::new(20_261_126);
    let mut asked: Vec<Vec<(String, Option<String>)>> = Vec::new();
    let mut script = CARDS.to_string();
    for n in 0..tables {
        let mut batch = String::new();
        for _ in 0..4 + random.below(16) {
            batch += &format!("{}\n", route(&mut random));
        }
        // Once somebody has added a rule, a namespace never again looks into two tables at once: those without come first.
        for _ in 0..if n >= tables / 2 { 1 + random.below(4) } else { 0 } {
            batch += &format!("{}\n", rule(&mut random));
        }
        fs::write(folder.path().join(format!("{n}.add")), batch).unwrap();
        let questions: Vec<(String, Option<String>)> =
            (0..24).map(|_| (address(&mut random), (random.below(2) == 0).then(|| format!("10.0.{}.1", random.below(4))))).collect();
        let lines: Vec<String> = questions
            .iter()
            .map(|(to, from)| format!("route get {to}{}", from.as_ref().map_or(String::new(), |f| format!(" from {f}"))))
            .collect();
        fs::write(folder.path().join(format!("{n}.get")), lines.join("\n") + "\n").unwrap();
        asked.push(questions);
    }
    script += &format!(
        "n=0\nwhile [ $n -lt {tables} ]; do\nip -force -batch $n.add 2>/dev/null || true\n$LVSCOPE snapshot -o $n.json 2>/dev/null\nip -force -batch $n.get > $n.out 2>&1 || true\n\
         ip route flush table 100 2>/dev/null || true\nip route flush table 101 2>/dev/null || true\nip route flush table main proto boot\nip route flush table main type blackhole\nip route flush table local proto boot\n\
         ip rule show | while read pref rest; do case $pref in 0:|32766:|32767:) ;; *) ip rule del pref ${{pref%:}};; esac; done\nn=$((n+1))\ndone\n"
    );
    if in_namespace(folder.path(), &script).is_none() {
        return;
    }
    let (mut wrong, mut compared) = (String::new(), 0);
    for (n, questions) in asked.iter().enumerate() {
        let host = read_host(&folder.path().join(format!("{n}.json"))).unwrap_or_else(|e| panic!("{e}"));
        let kernel = answers(&fs::read_to_string(folder.path().join(format!("{n}.out"))).unwrap());
        assert_eq!(kernel.len(), questions.len(), "table {n}");
        for ((to, from), theirs) in questions.iter().zip(&kernel) {
            let mut ask = Ask::to(to.parse().unwrap());
            if let Some(from) = from {
                ask = ask.from(from.parse::<IpAddr>().unwrap());
            }
            let ours = host.way(&ask).map_or("none".to_string(), |way| {
                let hop = way.hops[0];
                let local = if way.is_local() { "local " } else { "" };
                // What is for the machine itself goes by lo, whatever card has the address.
                let dev = if way.is_local() { "lo" } else { hop.link.as_deref().unwrap_or("?") };
                // A gateway that was the machine's own when the route was made is never asked for: all goes to lo.
                let via = hop.gateway.filter(|_| dev != "lo");
                format!("{local}{dev} {}", via.map_or("-".to_string(), |g| g.to_string()))
            });
            compared += 1;
            if ours != *theirs {
                wrong += &format!("table {n}: {to} from {from:?}: kernel {theirs}, snapshot {ours}\n");
            }
        }
    }
    let lines = wrong.lines().count();
    assert!(wrong.is_empty(), "{lines} of {compared} differ\n{}", wrong.lines().take(12).collect::<Vec<_>>().join("\n"));
}

/// The check of source addresses, over all values of rp_filter and accept_local, with and without an address on the card.
#[test]
fn source_checks_are_the_kernels() {
    let folder = tempfile::tempdir().unwrap();
    // On the link, behind another card, its own address, nobody's.
    let sources = ["10.0.0.9", "10.0.1.9", "10.0.1.1", "198.51.100.9"];
    let mut script =
        format!("{CARDS}ip link add t0 type veth peer name q0; ip link set t0 up; ip link set q0 up; ip addr add 10.0.0.13/32 dev lo\n");
    script += "echo 0 > /proc/sys/net/ipv4/conf/default/rp_filter 2>/dev/null || true\n";
    let mut cases = Vec::new();
    for card in ["v0", "t0"] {
        for (all, own) in (0..9).map(|n| (n / 3, n % 3)) {
            for (accept_all, accept_own) in (0..4).map(|n| (n / 2, n % 2)) {
                let n = cases.len();
                let set = |device: &str, key: &str, value: i32| format!("echo {value} > /proc/sys/net/ipv4/conf/{device}/{key}\n");
                script += &(set("all", "rp_filter", all)
                    + &set(card, "rp_filter", own)
                    + &set("all", "accept_local", accept_all)
                    + &set(card, "accept_local", accept_own));
                script += &format!("$LVSCOPE snapshot -o {n}.json 2>/dev/null\n");
                for source in sources {
                    script += &format!("ip route get 10.0.0.13 from {source} iif {card} >> {n}.out 2>&1 || true\n");
                }
                cases.push((card, [all, own, accept_all, accept_own]));
            }
        }
    }
    if in_namespace(folder.path(), &script).is_none() {
        return;
    }
    let mut wrong = String::new();
    for (n, (card, values)) in cases.iter().enumerate() {
        let host = read_host(&folder.path().join(format!("{n}.json"))).unwrap_or_else(|e| panic!("{e}"));
        let kernel = fs::read_to_string(folder.path().join(format!("{n}.out"))).unwrap();
        let theirs: Vec<bool> = kernel
            .lines()
            .filter(|l| l.starts_with("RTNETLINK") || l.contains("10.0.0.13 from"))
            .map(|l| !l.starts_with("RTNETLINK"))
            .collect();
        let ours: Vec<bool> = sources.iter().map(|s| host.source_check(s.parse().unwrap(), card) == SourceCheck::Accepted).collect();
        if ours != theirs {
            wrong += &format!("{card} rp_filter (all, own) and accept_local (all, own) {values:?}: kernel {theirs:?}, snapshot {ours:?}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Hosts put into a state that is wrong, and audited as they are (`pitfalls` measured what each does); the healthy one is quiet.
#[test]
fn live_hosts_are_judged() {
    let folder = tempfile::tempdir().unwrap();
    let set = |device: &str, key: &str, value: &str| format!("echo {value} > /proc/sys/net/ipv4/conf/{device}/{key}\n");
    let healthy = format!(
        "ip link set lo up; ip link add eth0 type veth peer name p0; ip link set eth0 up; ip link set p0 up\nip addr add 10.0.0.11/24 dev eth0; ip addr add 10.0.0.13/32 dev lo; ip route add default via 10.0.0.1\n{}{}",
        set("all", "arp_ignore", "1"),
        set("all", "arp_announce", "2")
    );
    let ignore =
        |all: &str, lo: &str, eth0: &str| set("all", "arp_ignore", all) + &set("lo", "arp_ignore", lo) + &set("eth0", "arp_ignore", eth0);
    let announce = |all: &str, lo: &str| set("all", "arp_announce", all) + &set("lo", "arp_announce", lo);
    // B1 to B8, B15: what is changed, and what the audit must say.
    let states: Vec<(&str, String, &[&str])> = vec![
        ("healthy", String::new(), &[]),
        ("B1 0,0,0", ignore("0", "0", "0"), &["ARP001"]),
        ("B1 0,1,0", ignore("0", "1", "0"), &["ARP003"]),
        ("B1 3,0,0", ignore("3", "0", "0"), &["ARP004"]),
        ("B2 0,0,1", ignore("0", "0", "1"), &[]),
        ("B2 2,0,0", ignore("2", "0", "0"), &[]),
        ("B2 8,0,0", ignore("8", "0", "0"), &[]),
        ("B3", format!("ip addr del 10.0.0.13/32 dev lo; ip addr add 10.0.0.13/32 dev lo scope host\n{}", ignore("3", "0", "0")), &[]),
        ("B4", "ip addr del 10.0.0.13/32 dev lo; ip addr add 10.0.0.13/32 dev eth0\n".to_string(), &["DR010"]),
        ("B5", "ip addr del 10.0.0.13/32 dev lo; ip addr add 10.0.0.13/24 dev lo\n".to_string(), &["DR002"]),
        ("B15 lo only", announce("0", "2"), &["ARP003"]),
        ("B15 all 1", announce("1", "0"), &["ARP002"]),
        ("no gateway", "ip route del default\n".to_string(), &["DR004"]),
        ("lo is bare", "ip addr del 127.0.0.1/8 dev lo\n".to_string(), &["DR019"]),
        ("two gateways", "ip route add default via 10.0.0.2 metric 50\n".to_string(), &["NET010"]),
    ];
    let mut wrong = String::new();
    for (name, change, expect) in states {
        let script =
            format!("{healthy}{change}$LVSCOPE audit --json --role real-server --service 10.0.0.13:80 --netns /proc/self/ns/net || true\n");
        let Some(text) = in_namespace(folder.path(), &script) else { return };
        let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
        // Nobody listens in there.
        let mut found: Vec<&str> =
            report["findings"].as_array().unwrap().iter().filter_map(|f| f["code"].as_str()).filter(|c| *c != "SVC004").collect();
        found.sort_unstable();
        if found != expect {
            wrong += &format!("{name}: {found:?} instead of {expect:?}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
