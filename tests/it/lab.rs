//! The lab: scenarios broken, diagnosed and mended on this machine, and nothing is left of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{lab_is_possible, lvscope, text};
use crate::within::inside;
use lvscope::lab::play::Stage;
use lvscope::lab::record;
use lvscope::lab::scratch::Scratch;

/// Proves scenarios; a line of JSON for each.
fn prove(names: &[&str]) -> Vec<serde_json::Value> {
    let output = lvscope(&[&["lab", "prove", "--format", "json"], names].concat()).output().expect("lvscope");
    let lines: Vec<serde_json::Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), names.len(), "{}{}", text(&output.stdout), text(&output.stderr));
    lines
}

fn listed() -> Vec<serde_json::Value> {
    let output = lvscope(&["lab", "list", "--format", "json"]).output().expect("lvscope");
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn healthy_ones_are_left_in_peace() {
    if !lab_is_possible() {
        return;
    }
    let all = listed();
    let all: Vec<_> = all.into_iter().filter(|s| s["director"] != "kernel").collect();
    let names: Vec<&str> = all.iter().filter(|s| s["codes"].as_array().unwrap().is_empty()).filter_map(|s| s["name"].as_str()).collect();
    assert!(names.len() >= 25, "{names:?}");
    let proofs = prove(&names);
    let wrong: Vec<_> = proofs.iter().filter(|p| p["holds"] != true).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Of each family some, the remedy as printed too; `lvscope lab prove --all` does all of them.
#[test]
fn faults_are_named_and_mended() {
    if !lab_is_possible() {
        return;
    }
    let names = [
        "nat-rs-no-gateway",
        "nat-rs-other-router",
        "nat-all-other-router",
        "nat-no-forwarding-iface",
        "nat-rs-outbound",
        "nat-udp-server-down",
        "nat6-no-gateway",
        "dr-no-vip",
        "dr-arp-leak",
        "dr-arp-announce",
        "dr-gateway-director",
        "dr-other-router",
        "dr-conntrack",
        "dr-udp-from-rip",
        "dr-routed-no-gateway",
        "tun-no-decap",
        "tun-rp-filter",
        "ha-split-brain",
        "nat-routed-no-way-back",
        "nat-duplicate-rip",
        "nat-wide-mask",
        "dr-wide-mask",
        "dr-stale-gateway",
        "dr-stale-vip",
        "dr-gateway-server",
        "dr-ftp",
        "dr6-no-link-local",
    ];
    for proof in prove(&names) {
        assert!(proof["by_captures"] == "first" && proof["remedy"] == "green", "{proof:#}");
    }
}

/// Silence, refusals and lost frames are told apart by what else a network says: health checks, other clients, other ports.
#[test]
fn what_ordinary_traffic_tells() {
    if !lab_is_possible() {
        return;
    }
    let names = [
        "nat-rs-drops",
        "nat-rs-no-gateway",
        "dr-rs-drops",
        "dr-no-gateway",
        "dr-routed-no-vip",
        "dr-lo-mask",
        "dr-rp-filter",
        "dr-rip-only",
        "dr-port-remap",
        "dr-static-stale",
        "dr-lo-bare",
        "nat-stale-client",
        "nat-static-stale",
        "nat-udp-removed",
        "nat-vip-missing",
        "tun-no-gateway",
        "dr-backlog",
        "dr-vip-as-source",
        "nat-sh-drained",
    ];
    for proof in prove(&names) {
        assert!(proof["by_captures"] == "first" && proof["holds"] == true, "{proof:#}");
    }
}

/// Where the remedy is to look, for the fault lies outside of the hosts.
#[test]
fn what_has_to_be_looked_at() {
    if !lab_is_possible() {
        return;
    }
    for proof in prove(&["dr-fabric-in", "dr-fabric-out", "tun-fabric", "nat-vlan", "dr-test-from-inside"]) {
        assert!(proof["by_captures"] == "first" && proof["remedy"] == "looks" && proof["holds"] == true, "{proof:#}");
    }
}

/// What packets do not show at all, snapshots do, and what they print mends it: files too.
#[test]
fn what_only_hosts_show() {
    if !lab_is_possible() {
        return;
    }
    let names = [
        "nat-volatile-route",
        "nat-volatile-forwarding",
        "nat-volatile-table",
        "ha-vrrp-strict",
        "nat-persistent-drain",
        "dr6-ra-unheard",
        "nat-two-ports",
        "nat-threshold",
    ];
    for proof in prove(&names) {
        assert!(proof["by_captures"] == "–" && proof["by_hosts"] == "first" && proof["remedy"] == "green", "{proof:#}");
    }
}

/// What packets cannot tell apart is left open, and the true cause is among what is left.
#[test]
fn what_packets_do_not_tell_is_left_open() {
    if !lab_is_possible() {
        return;
    }
    for proof in prove(&["dr-arp-lo-only", "dr-vip-nowhere", "nat-onearm-wrong-gateway", "tun-no-vip", "tun-remote"]) {
        assert!(proof["by_captures"] == "open" && proof["holds"] == true, "{proof:#}");
    }
}

/// The built-in director between real kernels: 20 MB answers by each method, and many connections while a real server goes and comes back.
#[test]
fn the_director_carries_much() {
    if !lab_is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, sheet: String| {
        let path = folder.path().join(name);
        fs::write(&path, sheet).unwrap();
        path.to_str().unwrap().to_string()
    };
    let large = |base: &str, to: &str| {
        format!(
            "base = '{base}'\ntitle = 'much'\n[[traffic]]\nfrom = 'client'\nto = '{to}'\nconnections = 2\nanswer = 20000000\npatience_ms = 30000\n"
        )
    };
    let many = "base = 'nat'\ntitle = 'many'\n\
        [[traffic]]\nfrom = 'client'\nto = '192.168.2.59:80'\nconnections = 200\nevery_ms = 4\npatience_ms = 8000\n\
        [[event]]\nafter_ms = 200\nhost = 'director'\nrun = 'ipvsadm -e -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w 0'\n\
        [[event]]\nafter_ms = 500\nhost = 'director'\nrun = 'ipvsadm -e -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w 1'\n";
    let sheets = [
        write("nat.toml", large("nat", "192.168.2.59:80")),
        write("dr.toml", large("dr-routed", "203.0.113.80:80")),
        write("tun.toml", large("tun", "203.0.113.80:80")),
        write("many.toml", many.to_string()),
    ];
    for proof in prove(&sheets.each_ref().map(String::as_str)) {
        assert!(proof["holds"] == true && proof["answered"] == proof["asked"], "{proof:#}");
    }
}

/// What a director asks its real servers is no service beside its own; where it fails it is worth a line.
#[test]
fn health_checks_are_told_apart_from_services() {
    if !lab_is_possible() {
        return;
    }
    let told = |name: &str| -> Vec<String> {
        let output = lvscope(&["lab", "run", name]).output().unwrap();
        text(&output.stdout).lines().filter(|l| l.contains("health checks") || l.contains(" more, with")).map(str::to_string).collect()
    };
    assert_eq!(told("nat-ok"), ["  health checks by director: 4 of 4 connections complete"]);
    assert_eq!(
        told("nat-server-down"),
        [
            "✗ 192.168.224.11:80 (health checks by director): 2 of 2 connections are refused",
            "  other health checks by director: 2 of 2 connections complete"
        ]
    );
}

#[test]
fn a_recorded_case_can_be_replayed() {
    if !lab_is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let case = folder.path().join("case");
    let case = case.to_str().unwrap();
    let recorded = lvscope(&["lab", "record", "nat-rs-no-gateway", "--out", case]).output().unwrap();
    assert!(recorded.status.success() && text(&recorded.stdout).contains("found: NAT001"), "{}", text(&recorded.stderr));
    let replayed = lvscope(&["replay", case]).output().unwrap();
    assert!(replayed.status.success(), "{}{}", text(&replayed.stdout), text(&replayed.stderr));
    let again = lvscope(&["lab", "record", "nat-ok", "--out", case]).output().unwrap();
    assert!(!again.status.success() && text(&again.stderr).contains("is there already"));
}

/// Ended from outside, it takes everything with it.
#[test]
fn nothing_is_left_behind() {
    if !lab_is_possible() {
        return;
    }
    for signal in ["INT", "TERM"] {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = lvscope(&["lab", "prove", "nat-ok", "dr-ok"])
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("lvscope");
        let entries = || fs::read_dir(temporary.path()).unwrap().count();
        let begun = Instant::now();
        while entries() == 0 && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(entries(), 1, "it did not begin");
        std::thread::sleep(Duration::from_millis(150));
        let killed = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
        assert_eq!(entries(), 0, "{signal}");
    }
    // Its namespaces were those of its threads and sockets: there is no file under which they could go on.
    let temporary = tempfile::tempdir().unwrap();
    assert!(lvscope(&["lab", "run", "nat-ok"]).env("TMPDIR", temporary.path()).output().unwrap().status.success());
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

/// What this process has: its threads and open files, and the networks that they hold.
fn belongings() -> (usize, usize, BTreeSet<String>) {
    let entries = |folder: &Path| fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    // One of another moment may be gone when it is asked.
    let network = |link: &Path| fs::read_link(link).ok().map(|to| to.display().to_string()).filter(|to| to.starts_with("net:"));
    let (threads, files) = (entries(Path::new("/proc/self/task")), entries(Path::new("/proc/self/fd")));
    let networks = threads.iter().filter_map(|thread| network(&thread.join("ns/net"))).chain(files.iter().filter_map(|file| network(file)));
    (threads.len(), files.len(), networks.collect())
}

/// A panic in the middle: clients talk, everything is captured, the director is at work.
#[test]
fn a_panic_takes_everything_down() {
    if !inside("lab::a_panic_takes_everything_down") {
        return;
    }
    let scenario = lvscope::lab::catalogue::open("nat-ok").unwrap();
    let before = belongings();
    let panicked = std::panic::catch_unwind(|| {
        let scratch = Scratch::new().unwrap();
        let mut stage = Stage::set(&scenario).unwrap();
        stage.play(scratch.path()).unwrap();
        let _recording = record::begin(&stage.network).unwrap();
        assert!(belongings().0 > before.0 + 4 && belongings().2.len() > 4, "the stage does not live");
        std::panic::panic_any(scratch.path().to_path_buf());
    });
    let folder = panicked.expect_err("a panic").downcast::<std::path::PathBuf>().expect("the folder");
    assert!(!folder.exists());
    let begun = Instant::now();
    while belongings() != before && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(belongings(), before);
}

/// A director may still know what a client's port was used for: each play has ports of its own.
#[test]
fn no_play_uses_a_port_of_the_one_before() {
    if !inside("lab::no_play_uses_a_port_of_the_one_before") {
        return;
    }
    let scenario = lvscope::lab::catalogue::open("nat-ok").unwrap();
    let mut stage = Stage::set(&scenario).unwrap();
    // Left alone, the client would have to take one again.
    stage.run("client", "sysctl -w net.ipv4.ip_local_port_range='40000 40003'").unwrap();
    let mut used = BTreeSet::new();
    for round in 0..3 {
        let scratch = Scratch::new().unwrap();
        let played = if round == 0 { stage.play(scratch.path()) } else { stage.play_on(scratch.path()) }.unwrap();
        let at_client = played.captures.iter().find(|path| path.ends_with("client.eth0.pcapng")).expect("the client's capture");
        let output = lvscope(&["trace", "--format", "json", at_client.to_str().unwrap()]).output().unwrap();
        let traced: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let flows = traced["flows"].as_array().unwrap();
        assert!(flows.len() >= 2, "{traced:#}");
        for flow in flows {
            let client = flow["client"].as_str().unwrap().to_string();
            assert!(used.insert(client.clone()), "{client} again, in round {round}");
        }
    }
}

/// What takes the kernel's IPVS says so, here and in the list.
#[test]
fn the_kernels_own_director() {
    if !lab_is_possible() {
        return;
    }
    let output = lvscope(&["lab", "run", "nat-onearm-redirect"]).output().unwrap();
    assert!(text(&output.stderr).contains("nat-onearm-redirect takes the kernel's IPVS (--director kernel)"), "{}", text(&output.stderr));
    let output = lvscope(&["lab", "run", "nat-ok", "--director", "kernel"]).output().unwrap();
    let (code, said) = (output.status.code(), text(&output.stderr).to_string());
    assert!(code == Some(0) || code == Some(3) && said.contains("this kernel has no IPVS"), "{code:?} {said}");
}

#[test]
fn a_command_inside() {
    if !lab_is_possible() {
        return;
    }
    let output = lvscope(&["lab", "shell", "nat-ok", "web1", "--", "cat", "/proc/thread-self/net/route"]).output().unwrap();
    assert!(text(&output.stdout).contains("0AE0A8C0"), "the gateway 192.168.224.10: {}", text(&output.stdout));
    let output = lvscope(&["lab", "shell", "nat-ok", "web9"]).output().unwrap();
    assert!(text(&output.stderr).contains("nat-ok has no host web9 (it has: client director web1 web2)"), "{}", text(&output.stderr));
}

/// The session at the head of README.md is what the lab says today; times, ports and who came first differ from run to run.
#[test]
fn the_session_of_the_readme() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let session =
        readme.split("```text\n$ lvscope lab run nat-rs-no-gateway\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it");
    if !lab_is_possible() {
        return;
    }
    let output = lvscope(&["lab", "run", "nat-rs-no-gateway"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let steady = |line: &&str| {
        ["nat-", "clients:", "✗", "  NAT", "  web1 ", "  There", "  Also", "  Remedy", "    now", "    keep", "    undo"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let lines: Vec<&str> = session.lines().filter(steady).collect();
    assert!(lines.len() >= 8, "{lines:#?}");
    for line in lines {
        assert!(said.lines().any(|other| other == line), "README.md shows '{line}', and now it is:\n{said}");
    }
}

/// Where no more namespaces may be made, the message says which setting it is; nothing of it is a disk's.
#[test]
fn forbidden_namespaces_are_explained() {
    use std::os::unix::process::CommandExt;
    if !lab_is_possible() {
        return;
    }
    let program = env!("CARGO_BIN_EXE_lvscope");
    let forbid = format!("echo 0 > /proc/sys/user/max_net_namespaces && exec {program} lab run nat-ok");
    let mut command = lvscope(&["lab", "enter", "--", "sh", "-c", &forbid]);
    // Root's own limits are the machine's: somebody else makes a user namespace, and forbids it there.
    if nix::unistd::Uid::effective().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    if said.contains("Permission denied") {
        // The program is where only its owner may come.
        return;
    }
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.starts_with("lvscope: no lab here: cannot make a user and a network namespace"), "{said}");
    assert!(said.contains("sysctl user.max_user_namespaces user.max_net_namespaces"), "{said}");
}

#[test]
fn the_list_fits_a_terminal() {
    let output = lvscope(&["lab", "list"]).output().unwrap();
    let said = text(&output.stdout);
    let wide: Vec<&str> = said.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:#?}");
    assert!(said.lines().count() > 60 && said.contains("NAT001"));
}

/// Each rule has a scenario, or a reason why a lab of namespaces cannot show it.
#[test]
fn every_code_is_played_or_excused() {
    let limits = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limitations.md")).unwrap();
    let section = limits.split("## What the lab cannot show").nth(1).expect("the section");
    let excuses = section.split("Some scenarios take the kernel's IPVS").next().expect("the list");
    let played: BTreeSet<String> = listed()
        .iter()
        .flat_map(|s| s["codes"].as_array().unwrap().iter().map(|c| c.as_str().unwrap().to_string()).collect::<Vec<_>>())
        .collect();
    // What captures do to packets is no fault of a network.
    let rules: BTreeSet<&str> = lvscope::rules::ALL.iter().map(|rule| rule.code).filter(|code| !code.starts_with("CAP")).collect();
    let missing: Vec<&&str> = rules.iter().filter(|code| !played.contains(**code) && !excuses.contains(**code)).collect();
    assert!(missing.is_empty(), "neither a scenario nor a word in docs/limitations.md: {missing:?}");
    let excused_in_vain: Vec<&&str> = rules.iter().filter(|code| played.contains(**code) && excuses.contains(**code)).collect();
    assert!(excused_in_vain.is_empty(), "they have a scenario: {excused_in_vain:?}");
}
