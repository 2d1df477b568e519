//! The IPVS reader against ipvsadm, on a real kernel with IPVS (user-mode Linux). `make test-ipvs` sets `LVSCOPE_REAL_IPVS`; without it
//! nothing is compared, for the kernel has to be fetched first.

use lvscope::case::read_host;
use lvscope::host::Host;
use lvscope::ipvs::{entries, to_text};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Numbers of `ipvsadm -Ln --stats` and its like, by the address in front of them.
fn rows(text: &str) -> Vec<(String, Vec<String>)> {
    let row = |line: &str| {
        let mut words = line.split_whitespace().filter(|w| *w != "->").map(str::to_string);
        words.next().filter(|w| w.contains(':') && w.chars().any(|c| c.is_ascii_digit())).map(|address| (address, words.collect()))
    };
    text.lines().filter_map(row).collect()
}

fn compare(folder: &Path, host: &Host) {
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let table = host.ipvs.as_ref().unwrap_or_else(|| panic!("no IPVS: {}", host.why_absent("ipvs")));
    // ipvsadm sorts, and leaves thresholds out.
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(|l| l.replace(" -x 10 -y 5", "").trim_end().to_string()).collect();
        lines.sort();
        lines
    };
    let saved = lvscope::ipvs::parse(&text("saved.txt")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(lines(&to_text(&table.rules())), lines(&to_text(&saved)), "ipvsadm -Sn");
    let version = text("list.txt").lines().next().unwrap().to_string();
    assert_eq!(version, format!("IP Virtual Server version {} (size={})", table.version.as_deref().unwrap(), table.size.unwrap()));
    let timeouts = table.timeouts.unwrap();
    assert_eq!(text("timeout.txt").trim(), format!("Timeout (tcp tcpfin udp): {} {} {}", timeouts.tcp, timeouts.tcp_fin, timeouts.udp));
    let daemon = &table.daemons.as_ref().unwrap()[0];
    assert!(
        text("daemon.txt").contains(&format!("{} sync daemon (mcast={}, syncid={}", daemon.state, daemon.interface, daemon.sync_id)),
        "{daemon:?}"
    );
    let ours = |of: &dyn Fn(&lvscope::host::Destination) -> Vec<String>| -> Vec<(String, Vec<String>)> {
        let mut all: Vec<_> = table.services.iter().flat_map(|s| &s.destinations).map(|d| (d.address.to_string(), of(d))).collect();
        all.sort();
        all
    };
    let theirs = |name: &str, skip: usize| -> Vec<(String, Vec<String>)> {
        let lines = text(name).lines().filter(|l| l.trim_start().starts_with("->")).collect::<Vec<_>>().join("\n");
        let mut all: Vec<_> = rows(&lines).into_iter().map(|(a, n)| (a, n.into_iter().skip(skip).collect())).collect();
        all.sort();
        all
    };
    let number = |n: Option<u32>| n.map_or("?".to_string(), |n| n.to_string());
    assert_eq!(ours(&|d| vec![number(d.active), number(d.inactive)]), theirs("list.txt", 2), "ipvsadm -Ln");
    let limits = |d: &lvscope::host::Destination| vec![d.upper.to_string(), d.lower.to_string(), number(d.active), number(d.inactive)];
    assert_eq!(ours(&limits), theirs("thresholds.txt", 0), "ipvsadm -Ln --thresholds");
    assert!(table.services.iter().flat_map(|s| &s.destinations).any(|d| (d.upper, d.lower) == (10, 5)));
    let stats = |d: &lvscope::host::Destination| {
        let c = d.counters.unwrap();
        [c.connections, c.packets_in, c.packets_out, c.bytes_in, c.bytes_out].map(|n| n.to_string()).to_vec()
    };
    assert_eq!(ours(&stats), theirs("stats.txt", 0), "ipvsadm -Ln --stats");
    let mut listed: Vec<String> =
        entries(&text("connections.txt")).map(|e| format!("{} {} {} {}", e.protocol, e.client, e.service, e.destination)).collect();
    let mut kept: Vec<String> =
        table.connections.iter().flatten().map(|c| format!("{} {} {} {}", c.protocol, c.client, c.service, c.destination)).collect();
    listed.sort();
    kept.sort();
    assert_eq!(kept, listed, "ipvsadm -Lnc");
}

#[test]
fn snapshots_say_what_ipvsadm_says() {
    if std::env::var_os("LVSCOPE_REAL_IPVS").is_none() {
        eprintln!("LVSCOPE_REAL_IPVS is not set: nothing was compared with a real IPVS (make test-ipvs)");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Inside user-mode Linux /tmp is the host's, as everything is.
    let folder = tempfile::tempdir_in(root.join("target")).unwrap();
    let out = Command::new(root.join("tests/real-ipvs"))
        .args(["--", "bash"])
        .arg(root.join("tests/ipvs.sh"))
        .arg(env!("CARGO_BIN_EXE_lvscope"))
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let host = read_host(&folder.path().join("snapshot.json")).unwrap_or_else(|e| panic!("{e}"));
    compare(folder.path(), &host);
}

/// Scenarios in which the built-in director and the kernel's must come to the same: of each method, what is healthy and what is not.
const SAME: [&[&str]; 4] = [
    &[
        "nat-ok",
        "nat-rs-no-gateway",
        "nat-rs-other-router",
        "nat-rs-wrong-gateway",
        "nat-no-forwarding",
        "nat-all-other-router",
        "nat-client-on-server-net",
        "nat-onearm-ok",
        "nat-onearm-no-gateway",
        "nat-server-down",
        "nat-udp-no-gateway",
        "nat-persistent-drain",
        "nat-routed-no-way-back",
        "nat-static-stale",
    ],
    &[
        "nat-all-route",
        "nat-no-service",
        "nat-late-answers",
        "nat-late-answers-ok",
        "nat6-no-gateway",
        "dr-routed-ok",
        "dr-routed-no-vip",
        "dr-arp-leak",
        "dr-arp-announce",
        "dr-gateway-director",
        "dr-rp-filter",
        "dr-rs-far",
        "dr-forwards-back",
        "dr-server-down",
    ],
    &[
        "dr-vip-on-nic",
        "dr6-no-vip",
        "tun-ok",
        "tun-no-decap",
        "tun-no-vip",
        "tun-rp-filter",
        "tun-arp-leak",
        "tun-server-down",
        "tun-loose-addressless",
        "ha-split-brain",
        "ha-ok",
    ],
    &[
        "dr-backlog",
        "dr-ftp",
        "dr-ftp-ok",
        "dr-vip-as-source",
        "dr6-no-link-local",
        "dr6-ra-unheard",
        "nat-mark-missing",
        "nat-mark-ok",
        "nat-persistent-test",
        "nat-sh-drained",
        "nat-threshold",
        "nat-two-ports",
        "tun-remote",
    ],
];
/// Scenarios that only the kernel's shows.
const ITS_OWN: &[&str] = &[
    "nat-onearm-redirect",
    "nat-director-filter",
    "tun-outer-vip",
    "dr-vlan-ok",
    "dr-vlan-arp-leak",
    "dr-ping-pong",
    "dr-standby-ok",
    "dr-test-from-director",
    "nat-test-from-director-ok",
    "nat-reroute",
    "nat-reroute-ok",
    "nat6-no-link-local",
];

/// The kernel of user-mode Linux has no nf_tables: it keeps the rule to itself that alone shows one, and its bridges carry everything.
const WITHOUT_NF_TABLES: &[&str] =
    &["dr-snat-persistent", "dr-fabric-in", "dr-fabric-ok", "dr-fabric-one", "dr-fabric-out", "nat-vlan", "tun-fabric"];

/// Proofs by name.
fn proofs(command: &mut Command) -> BTreeMap<String, serde_json::Value> {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(!lines.is_empty(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    lines.into_iter().map(|proof| (proof["name"].as_str().unwrap_or_default().to_string(), proof)).collect()
}

/// The same scenarios, once balanced by the built-in director and once by IPVS itself, are found to be the same, and mended by the same.
#[test]
fn the_lab_finds_the_same_with_the_kernels_director() {
    if std::env::var_os("LVSCOPE_REAL_IPVS").is_none() {
        eprintln!("LVSCOPE_REAL_IPVS is not set: the lab was not played with a real IPVS (make test-ipvs)");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let prove = ["lab", "prove", "--format", "json"];
    let by_kernel = |names: &[&str]| {
        let mut command = Command::new(root.join("tests/real-ipvs"));
        command.args(["--mem", "768M", "--timeout", "580", "--"]).arg(env!("CARGO_BIN_EXE_lvscope"));
        proofs(command.args(prove).args(["--director", "kernel", "--jobs", "4"]).args(names).current_dir(root))
    };
    for names in SAME {
        let (kernel, builtin) = (by_kernel(names), proofs(Command::new(env!("CARGO_BIN_EXE_lvscope")).args(prove).args(names)));
        for name in names {
            let (kernel, builtin) = (&kernel[*name], &builtin[*name]);
            for what in ["holds", "by_captures", "by_both", "remedy"] {
                assert_eq!(kernel[what], builtin[what], "{what}\nby the kernel: {kernel:#}\nbuilt in: {builtin:#}");
            }
            assert_eq!(kernel["found"][0], builtin["found"][0], "{kernel:#}{builtin:#}");
        }
    }
    if crate::within::slow() {
        // In two halves: user-mode Linux has one processor, and ends after ten minutes.
        let list = Command::new(env!("CARGO_BIN_EXE_lvscope")).args(["lab", "list", "--format", "json"]).output().unwrap();
        let listed = String::from_utf8_lossy(&list.stdout).into_owned();
        let listed: Vec<serde_json::Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: Vec<&str> = listed.iter().filter(|s| s["director"] != "builtin").filter_map(|s| s["name"].as_str()).collect();
        let (first, second) = names.split_at(names.len() / 2);
        let mut all = by_kernel(first);
        all.extend(by_kernel(second));
        let excused = |p: &serde_json::Value| WITHOUT_NF_TABLES.contains(&p["name"].as_str().unwrap_or_default());
        let failed: Vec<_> = all.values().filter(|p| p["holds"] != true && !excused(p)).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(all.len() > 150, "{}", all.len());
    }
    let own = by_kernel(ITS_OWN);
    for name in ITS_OWN {
        assert_eq!(own[*name]["holds"], true, "{:#}", own[*name]);
    }
}
