//! The built-in director against what a real IPVS kernel did: its picks, its frames, its connection table.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn director(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvscope"));
    command.arg("director").args(words).current_dir(root()).env("NO_COLOR", "1").env("COLUMNS", "80");
    command
}

fn run(words: &[&str]) -> Output {
    director(words).output().expect("lvscope")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn simulate(words: &[&str], events: &str) -> Output {
    let mut child = director(&[&["simulate"], words].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lvscope");
    let mut stdin = child.stdin.take().expect("stdin");
    // A program that ends early does not read the rest.
    let _ = stdin.write_all(events.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("lvscope")
}

fn with_extension(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root().join(folder))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}

#[test]
fn every_recorded_pick_is_the_kernels() {
    let files = with_extension("fixtures/schedulers", "jsonl");
    assert!(files.len() > 60, "{}", files.len());
    let schedulers: BTreeSet<String> =
        files.iter().map(|f| f.file_name().unwrap().to_string_lossy().split('-').next().unwrap().to_string()).collect();
    assert_eq!(schedulers.len(), 13, "{schedulers:?}");
    let mut words: Vec<&str> = vec!["simulate", "--check"];
    words.extend(files.iter().map(|f| f.to_str().unwrap()));
    let output = run(&words);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(text(&output.stdout), "2,092 decisions, 5,494 states: none different\n");
}

/// What comes out without any hint of the decisions is the recording, byte for byte.
#[test]
fn decisions_are_filled_in() {
    for file in with_extension("fixtures/schedulers", "jsonl") {
        let recorded: Vec<String> =
            fs::read_to_string(&file).unwrap().lines().filter(|l| !l.contains("\"event\": \"end\"")).map(String::from).collect();
        let blank: String = recorded
            .iter()
            .map(|line| {
                let mut event: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
                let keys: &[&str] = if event["event"] == "open" { &["rip", "server", "error", "before", "state"] } else { &["state"] };
                keys.iter().for_each(|key| _ = event.remove(*key));
                format!("{}\n", serde_json::Value::Object(event))
            })
            .collect();
        let output = simulate(&[], &blank);
        assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), recorded, "{}", file.display());
    }
}

#[test]
fn servers_come_and_go() {
    let events = r#"{"event": "config", "scheduler": "rr", "service": "-t 10.1.0.1:443", "mode": "dr", "servers": [{"rip": "10.9.0.1:443", "weight": 1, "added": 1}, {"rip": "10.9.0.2:443", "weight": 1, "added": 2}]}
{"event": "open", "client": "172.16.5.9:5000", "vip": "10.1.0.1:443"}
{"event": "remove", "rip": "10.9.0.2"}
{"event": "open", "client": "172.16.5.9:5001", "vip": "10.1.0.1:443"}
{"event": "add", "rip": "10.9.0.3:443", "weight": 2}
{"event": "open", "client": "172.16.5.9:5002", "vip": "10.1.0.1:443"}
{"event": "weight", "rip": "10.9.0.1", "weight": 0}
{"event": "weight", "rip": "10.9.0.3", "weight": 0}
{"event": "open", "client": "172.16.5.9:5003", "vip": "10.1.0.1:443"}
"#;
    let output = simulate(&[], events);
    let picks: Vec<serde_json::Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|event| event["event"] == "open")
        .map(|event| event["rip"].clone())
        .collect();
    // Round robin goes on behind the one that it chose last; a new one stands first and has its turn when it comes round.
    assert_eq!(picks, [Some("10.9.0.2"), Some("10.9.0.1"), Some("10.9.0.3"), None].map(|p| p.map_or(serde_json::Value::Null, Into::into)));
}

#[test]
fn persistence_ends_with_time() {
    let events = r#"{"event": "config", "commands": ["ipvsadm -C", "sysctl -w net.ipv4.vs.expire_quiescent_template=1", "ipvsadm --set 900 120 2", "ipvsadm -A -u 10.1.0.1:53 -s rr -p 10", "ipvsadm -a -u 10.1.0.1:53 -r 10.9.0.1 -m", "ipvsadm -a -u 10.1.0.1:53 -r 10.9.0.2 -m"]}
{"event": "open", "time": 0, "client": "172.16.5.9:5000", "vip": "10.1.0.1:53"}
{"event": "open", "time": 9, "client": "172.16.5.9:5001", "vip": "10.1.0.1:53"}
{"event": "open", "time": 18, "client": "172.16.5.9:5002", "vip": "10.1.0.1:53"}
{"event": "open", "time": 29, "client": "172.16.5.9:5003", "vip": "10.1.0.1:53"}
{"event": "weight", "time": 30, "rip": "10.9.0.1", "weight": 0}
{"event": "open", "time": 31, "client": "172.16.5.9:5004", "vip": "10.1.0.1:53"}
"#;
    let output = simulate(&[], events);
    let events: Vec<serde_json::Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let picks: Vec<&str> = events.iter().filter(|e| e["event"] == "open").map(|e| e["rip"].as_str().unwrap()).collect();
    // Held twice, forgotten after 10 s of silence, and not held to a quiesced server with expire_quiescent_template.
    assert_eq!(picks, ["10.9.0.2", "10.9.0.2", "10.9.0.2", "10.9.0.1", "10.9.0.2"]);
    assert_eq!(events.last().unwrap()["state"]["10.9.0.1"]["inact"], 0, "expired after 2 s");
}

#[test]
fn bad_events_say_where() {
    for (events, message) in [
        ("{\"event\": \"open\", \"client\": \"10.0.0.1:5\", \"vip\": \"10.0.0.2:80\"}\n", "line 1: no service yet"),
        ("nonsense\n", "line 1: not a JSON object"),
        ("{\"event\": \"config\", \"commands\": [\"ipvsadm -A -t 10.0.0.1:80 -s wrrr\"]}\n", "column 30: unknown scheduler 'wrrr'"),
        ("{\"event\": \"config\", \"service\": \"-t 10.0.0.1:80\"}\n\n{\"event\": \"shut\"}\n", "line 3: unknown event 'shut'"),
    ] {
        let output = simulate(&[], events);
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    }
}

/// The healthy cases of which the kernel's rules and connections are known, with the captures of their director.
fn known_cases() -> Vec<(String, PathBuf, Vec<String>)> {
    with_extension("fixtures/director", "rules")
        .into_iter()
        .map(|rules| {
            let name = rules.file_stem().unwrap().to_string_lossy().into_owned();
            let mut captures: Vec<String> = fs::read_dir(root().join("fixtures/healthy").join(&name))
                .expect("a case")
                .map(|entry| entry.expect("an entry").path())
                .filter(|path| {
                    let file = path.file_name().unwrap().to_string_lossy().into_owned();
                    file.starts_with("director.") && file.contains(".pcap") && !file.contains(".lo.")
                })
                .map(|path| path.display().to_string())
                .collect();
            captures.sort();
            (name, rules, captures)
        })
        .collect()
}

#[test]
fn frames_are_the_kernels() {
    let cases = known_cases();
    assert!(cases.len() > 12);
    for (name, rules, captures) in cases {
        let mut words = vec!["diff", "--rules", rules.to_str().unwrap()];
        words.extend(captures.iter().map(String::as_str));
        let output = run(&words);
        assert!(output.status.success(), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains("all as IPVS sends them"), "{name}: {}", text(&output.stdout));
        // And it can tell a difference: the same real servers by another method.
        let changed = fs::read_to_string(&rules).unwrap();
        let changed = if changed.contains(" -m ") {
            changed.replace(" -m ", " -g ")
        } else {
            changed.replace(" -g ", " -m ").replace(" -i ", " -m ")
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), changed).unwrap();
        words[2] = file.path().to_str().unwrap();
        let output = run(&words);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output.stdout));
    }
}

#[test]
fn connections_are_the_kernels() {
    for (name, rules, captures) in known_cases() {
        let mut words = vec!["replay", "--connections", "--rules", rules.to_str().unwrap()];
        words.extend(captures.iter().map(String::as_str));
        let output = text(&run(&words).stdout);
        let lines = |text: &str| -> BTreeSet<Vec<String>> {
            let table = text.split("IPVS connection entries").nth(1).expect("a connection table");
            // Without the time that is left, which depends on when the kernel was asked.
            let words = |line: &str| line.split_whitespace().enumerate().filter(|(at, _)| *at != 1).map(|(_, w)| w.to_string()).collect();
            table.lines().skip(2).map(words).collect()
        };
        let recorded = fs::read_to_string(rules.with_extension("connections")).unwrap();
        assert_eq!(lines(&output), lines(&recorded), "{name}");
    }
}

/// Apply a forwarding method, then trace: the hop is found and named.
#[test]
fn what_the_director_makes_the_trace_names() {
    let folder = tempfile::tempdir().unwrap();
    let client = root().join("fixtures/healthy/nat-ok/client.eth0.pcap");
    for (option, method) in
        [("-m", "nat"), ("-g", "dr"), ("-i", "tun"), ("-i --tun-type gre", "tun"), ("-i --tun-type gue --tun-port 6080", "tun")]
    {
        let rules = folder.path().join("rules");
        fs::write(&rules, format!("-A -t 192.168.2.59:80 -s rr\n-a -t 192.168.2.59:80 -r 192.168.224.77:80 {option} -w 1\n")).unwrap();
        let made = folder.path().join("director.out.pcapng");
        let output = run(&[
            "replay",
            client.to_str().unwrap(),
            "--rules",
            rules.to_str().unwrap(),
            "--address",
            "192.168.2.10",
            "-o",
            made.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let traced = Command::new(env!("CARGO_BIN_EXE_lvscope"))
            .args(["trace", "-j", &format!("client.eth0={}", client.display()), &format!("director.out={}", made.display())])
            .output()
            .expect("lvscope");
        let report: serde_json::Value = serde_json::from_slice(&traced.stdout).expect("a report");
        let flow = &report["flows"][0];
        assert_eq!(flow["method"], method, "{option}: {flow}");
        if method != "dr" {
            assert_eq!(flow["real_server"], "192.168.224.77:80", "{option}: {flow}");
        }
        let hops: Vec<&str> = flow["request"].as_array().unwrap().iter().map(|hop| hop["point"].as_str().unwrap()).collect();
        assert_eq!(hops, ["client.eth0", "director.out"], "{option}");
    }
}

#[test]
fn rules_are_edited_with_the_words_of_ipvsadm() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules");
    let file = file.to_str().unwrap();
    let steps: [&[&str]; 5] = [
        &["add-service", "--rules", file, "-t", "192.168.2.59:80", "-s", "wlc", "-p", "10"],
        &["add-server", "--rules", file, "-t", "192.168.2.59:80", "-r", "192.168.224.11", "-m"],
        &["add-server", "--rules", file, "-t", "192.168.2.59:80", "-r", "192.168.224.12:8080", "-m", "-w", "3"],
        &["edit-server", "--rules", file, "-t", "192.168.2.59:80", "-r", "192.168.224.11", "-m", "-w", "0"],
        &["edit-service", "--rules", file, "-t", "192.168.2.59:80", "-s", "mh", "-b", "mh-port"],
    ];
    for step in steps {
        let output = run(step);
        assert!(output.status.success(), "{step:?}: {}", text(&output.stderr));
    }
    let expected = "-A -t 192.168.2.59:80 -s mh -b mh-port\n-a -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w 0\n\
                    -a -t 192.168.2.59:80 -r 192.168.224.12:8080 -m -w 3\n";
    assert_eq!(fs::read_to_string(file).unwrap(), expected);
    let output = run(&["add-server", "--rules", file, "-t", "192.168.2.59:80", "-r", "192.168.224.13", "-w", "70000"]);
    let message = "lvscope: weight 70000 is not in 0 to 65535
  ipvsadm -a -t 192.168.2.59:80 -r 192.168.224.13 -w 70000
                                                     ^\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(2), message));
    assert_eq!(fs::read_to_string(file).unwrap(), expected, "nothing is written");
}

/// A snapshot of the director is as good as its rules, and knows its settings as well.
#[test]
fn rules_come_from_a_snapshot() {
    let case = root().join("fixtures/healthy/nat-ok");
    let snapshot = case.join("director.host.json");
    let captures: Vec<String> = ["ext", "int"].iter().map(|leg| case.join(format!("director.{leg}.pcap")).display().to_string()).collect();
    let rules = fs::read_to_string(root().join("fixtures/director/nat-ok.rules")).unwrap();
    let output = run(&["save", snapshot.to_str().unwrap()]);
    assert_eq!((text(&output.stdout), output.status.code()), (rules, Some(0)), "{}", text(&output.stderr));
    for command in ["diff", "replay"] {
        let mut words = vec![command, "--rules", snapshot.to_str().unwrap()];
        words.extend(captures.iter().map(String::as_str));
        let output = run(&words);
        assert!(output.status.success(), "{command}: {}{}", text(&output.stdout), text(&output.stderr));
        let expected = if command == "diff" { "all as IPVS sends them" } else { "192.168.224.11:80            Masq" };
        assert!(text(&output.stdout).contains(expected), "{command}: {}", text(&output.stdout));
    }
    let open = "{\"event\": \"open\", \"client\": \"192.168.2.100:5000\", \"vip\": \"192.168.2.59:80\"}\n";
    let output = simulate(&["--rules", snapshot.to_str().unwrap()], open);
    assert!(text(&output.stdout).contains("\"rip\": \"192.168.224.12\""), "{}", text(&output.stdout));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("director.host.json");
    fs::copy(&snapshot, &file).unwrap();
    let before = fs::read_to_string(&file).unwrap();
    let output = run(&["add-service", "--rules", file.to_str().unwrap(), "-t", "192.168.2.59:443", "-s", "sed"]);
    assert!(text(&output.stdout).ends_with("-A -t 192.168.2.59:443 -s sed\n"), "{}", text(&output.stdout));
    assert_eq!(fs::read_to_string(&file).unwrap(), before, "the snapshot is left as it was");

    let other = root().join("fixtures/healthy/nat-ok/web1.host.json");
    for (content, message) in [
        (fs::read_to_string(other).unwrap(), "no IPVS table: "),
        (before[..before.len() / 2].to_string(), "the snapshot is cut short at line "),
        ("{}".to_string(), "not a snapshot of a host"),
    ] {
        fs::write(&file, content).unwrap();
        let output = run(&["save", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    }
}

#[test]
fn the_director_says_why_it_cannot_run() {
    let rules = root().join("fixtures/director/dr-ok.rules");
    let rules = rules.to_str().unwrap();
    let output = run(&["run", "--rules", rules, "-i", "nosuch0"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("there is no interface nosuch0 (there are: "), "{}", text(&output.stderr));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "-A -t 127.0.0.1:80 -s rr\n").unwrap();
    let output = run(&["run", "--rules", file.path().to_str().unwrap(), "-i", "lo"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("127.0.0.1 is an address of this host"), "{}", text(&output.stderr));
}
