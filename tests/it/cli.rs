//! The program as its users meet it: output held to snapshots, exit codes, bad input. `LVSCOPE_BLESS=1` writes the snapshots anew.

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The captures of a case, in the order of their names.
fn captures(case: &str) -> Vec<String> {
    let folder = root().join("fixtures").join(case);
    let names = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> =
        names.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).filter(|n| n.contains(".pcap")).collect();
    names.sort();
    names
}

fn lvscope(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvscope"));
    command.current_dir(folder).env("NO_COLOR", "1").env("COLUMNS", "80").env_remove("RUST_BACKTRACE");
    command
}

/// Runs in a case's folder, on all its captures.
fn on(case: &str, command: &str, more: &[&str]) -> Output {
    let folder = root().join("fixtures").join(case);
    lvscope(&folder).arg(command).args(captures(case)).args(more).output().expect("lvscope runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Holds an output to its snapshot, and to 80 columns.
fn snapshot(name: &str, output: &Output, code: i32) {
    let found = format!("{}{}", text(output), errors(output));
    assert_eq!(output.status.code(), Some(code), "{name}: {found}");
    for line in found.lines() {
        assert!(line.chars().count() <= 80, "{name}: wider than 80 columns: {line}");
        assert_eq!(line, line.trim_end(), "{name}: blanks at the end of a line");
    }
    let path = root().join("tests/it/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("LVSCOPE_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, &found).expect("written");
        return;
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{name} differs from its snapshot\n--- wanted\n{wanted}\n--- found\n{found}");
}

#[test]
fn diagnose_a_broken_service() {
    snapshot("diagnose-nat-rs-no-gateway", &on("faults/nat-rs-no-gateway", "diagnose", &[]), 1);
}

#[test]
fn diagnose_a_healthy_service() {
    snapshot("diagnose-dr-ok", &on("healthy/dr-ok", "diagnose", &[]), 0);
}

#[test]
fn diagnose_a_leak() {
    snapshot("diagnose-dr-arp-leak", &on("faults/dr-arp-leak", "diagnose", &["--fail-on", "degraded"]), 1);
}

#[test]
fn trace_as_a_table_and_as_a_ladder() {
    snapshot("trace-tun-ok", &on("healthy/tun-ok", "trace", &["--flow", "1"]), 0);
    snapshot("ladder-tun-ok", &on("healthy/tun-ok", "trace", &["--flow", "1", "--ladder"]), 0);
    snapshot("trace-nat6-ok", &on("healthy/nat6-ok", "trace", &["--flow", "1"]), 0);
}

#[test]
fn colour_only_where_it_is_wanted() {
    let folder = root().join("fixtures/healthy/dr-ok");
    let run = |color: &str| lvscope(&folder).args(["--color", color, "diagnose"]).args(captures("healthy/dr-ok")).output().expect("runs");
    assert!(!text(&run("auto")).contains('\u{1b}'), "no colour into a pipe");
    assert!(text(&run("always")).contains('\u{1b}'));
    let plain = text(&run("never"));
    let mut painted = text(&run("always"));
    while let Some(at) = painted.find('\u{1b}') {
        let end = painted[at..].find('m').expect("an escape ends");
        painted.replace_range(at..=at + end, "");
    }
    assert_eq!(painted, plain, "colour changes nothing but colour");
}

fn schema() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join("docs/report.schema.json")).expect("the schema")).expect("JSON")
}

/// The schema allows more keys, for the future; today's program must have none that it does not describe.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("properties") {
                map.insert("additionalProperties".into(), Value::Bool(false));
            }
            map.values_mut().for_each(strict);
        }
        Value::Array(list) => list.iter_mut().for_each(strict),
        _ => {}
    }
}

#[test]
fn json_is_as_the_schema_says() {
    let mut schema = schema();
    strict(&mut schema);
    let valid = jsonschema::validator_for(&schema).expect("a schema");
    for (case, command) in [
        ("faults/nat-rs-no-gateway", "diagnose"),
        ("faults/dr-arp-leak", "diagnose"),
        ("healthy/tun-ok", "trace"),
        ("healthy/nat6-ok", "trace"),
        ("healthy/dr-vlan", "diagnose"),
    ] {
        let report: Value = serde_json::from_str(&text(&on(case, command, &["--json"]))).expect("JSON");
        let wrong: Vec<String> = valid.iter_errors(&report).map(|e| format!("{} at {}", e, e.instance_path())).collect();
        assert!(wrong.is_empty(), "{case}: {wrong:#?}");
        assert_eq!(report["schema"], 1);
        assert!(!report["flows"].as_array().expect("flows").is_empty());
    }
}

#[test]
fn lines_are_objects() {
    for (command, more) in
        [("diagnose", &["--format", "ndjson"][..]), ("trace", &["-o", "ndjson"]), ("trace", &["--packets"]), ("show", &["-o", "ndjson"])]
    {
        let output = text(&on("healthy/dr-ok", command, more));
        assert!(output.lines().count() > 3, "{command} {more:?}");
        for line in output.lines() {
            assert!(serde_json::from_str::<Value>(line).expect("a JSON line").is_object());
        }
    }
    let journeys = text(&on("healthy/dr-ok", "trace", &["--packets", "--flow", "1"]));
    let first: Value = serde_json::from_str(journeys.lines().next().expect("a line")).expect("JSON");
    assert_eq!((first["flow"].as_u64(), first["direction"].as_str()), (Some(1), Some("request")));
    let points = |list: &Value| -> Vec<String> {
        list.as_array().expect("sightings").iter().map(|s| s["point"].as_str().expect("a point").to_string()).collect()
    };
    assert_eq!(points(&first["sightings"])[..3], ["client.eth0", "router.ext", "router.int"]);
    // What the bridge flooded is told apart from the way.
    let lines: Vec<Value> = journeys.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let flooded = lines.iter().find(|line| line.get("flooded").is_some()).expect("a flooded packet");
    let frames = |list: &str| flooded[list].as_array().expect("a list").clone();
    assert!(frames("flooded").iter().all(|frame| !frames("sightings").contains(frame)), "{flooded}");
}

#[test]
fn show_prints_a_packet_a_line() {
    let output = on("healthy/dr-ok", "show", &["-c", "3"]);
    let lines: Vec<String> = text(&output).lines().map(str::to_string).collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0].starts_with("client.eth0 #1 ") && lines[0].contains("ARP, Request who-has 192.168.2.59 tell 192.168.2.100"),
        "{}",
        lines[0]
    );
    let all: Value = serde_json::from_str(&text(&on("healthy/dr-ok", "show", &["--json"]))).expect("JSON");
    assert!(all.as_array().expect("a list").len() > 100);
}

#[test]
#[cfg(feature = "live")]
fn a_filter_as_with_tcpdump() {
    let tcp = text(&on("healthy/dr-ok", "show", &["tcp", "port", "80"]));
    assert!(tcp.lines().count() > 10 && tcp.lines().all(|l| l.contains("Flags [")));
    let wrong = on("healthy/dr-ok", "show", &["port", "and"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(errors(&wrong).contains("syntax error"), "{}", errors(&wrong));
}

#[test]
fn a_point_may_be_named() {
    let folder = root().join("fixtures/healthy/nat-ok");
    let run = lvscope(&folder).args(["trace", "--json", "lb.inside=director.int.pcap"]).output().expect("runs");
    let report: Value = serde_json::from_str(&text(&run)).expect("JSON");
    assert_eq!(report["inputs"][0]["point"], "lb.inside");
    let mut child =
        lvscope(&folder).args(["trace", "--json", "lb.pipe=-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
    let bytes = fs::read(folder.join("director.int.pcap")).expect("a capture");
    child.stdin.take().expect("a pipe").write_all(&bytes).expect("written");
    let piped = child.wait_with_output().expect("ends");
    let report: Value = serde_json::from_slice(&piped.stdout).expect("JSON");
    assert_eq!((report["inputs"][0]["point"].as_str(), report["inputs"][0]["frames"].as_u64() > Some(10)), (Some("lb.pipe"), true));
}

#[test]
fn the_directors_rules_sharpen_the_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules");
    fs::write(&rules, "-A -t 192.168.2.59:80 -s rr\n-a -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w wrong\n").expect("written");
    let rules = rules.display().to_string();
    let wrong = on("healthy/nat-ok", "diagnose", &["--ipvs", &rules]);
    assert_eq!(wrong.status.code(), Some(3));
    assert!(errors(&wrong).contains("line 2, column"), "{}", errors(&wrong));
}

#[test]
fn bad_input_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
    let header = fs::read(root().join("fixtures/healthy/nat-ok/director.int.pcap")).expect("a capture");
    write("empty.pcap", b"");
    write("text.pcap", b"hello, this is no capture\n");
    write("header.pcap", &header[..24]);
    write("cut.pcap", &header[..header.len() - 7]);
    let run = |args: &[&str]| lvscope(folder.path()).args(args).output().expect("runs");
    for (args, code, says) in [
        (&["diagnose", "empty.pcap"][..], 3, "empty.pcap: is empty"),
        (&["diagnose", "text.pcap"], 3, "text.pcap: is not a capture file: it is text"),
        (&["diagnose", "nowhere.pcap"], 3, "nowhere.pcap: cannot be read: No such file"),
        (&["trace", "nowhere"], 3, "nowhere: no such file"),
        (&["show", "."], 3, ".: is not a capture file: it is a directory"),
        (&["diagnose"], 2, "no capture given"),
        (&["diagnose", "header.pcap", "--ipvs", "none"], 3, "none: cannot be read"),
        (&["diagnose", "header.pcap", "--service", "10.0.0.1"], 2, "is not ADDRESS:PORT"),
        (&["diagnose", "header.pcap", "--frobnicate"], 2, "--frobnicate"),
        (&["trace", "cut.pcap", "--flow", "999"], 2, "there is no connection 999: they are numbered 1 to"),
        (&["trace", "header.pcap", "--flow", "1"], 2, "there is no connection in these captures"),
        (&["explain", "NAT999"], 2, "known: NAT001 NAT002"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", errors(&output));
        assert!(errors(&output).contains(says), "{args:?}: {}", errors(&output));
    }
    // A capture with nothing in it can be read, and there is nothing to judge.
    let nothing = run(&["diagnose", "header.pcap"]);
    assert_eq!((nothing.status.code(), text(&nothing).starts_with("? no packet in these captures")), (Some(4), true), "{}", text(&nothing));
    // What stands before the damage is reported, and the damage named.
    let cut = run(&["diagnose", "cut.pcap"]);
    assert!(text(&cut).contains("! cut.pcap: cut short at byte") && text(&cut).contains("packets before it were read"), "{}", text(&cut));
    let json = run(&["diagnose", "--json", "cut.pcap"]);
    let report: Value = serde_json::from_str(&text(&json)).expect("JSON");
    assert!(report["inputs"][0]["damage"].as_str().is_some_and(|d| d.starts_with("cut short at byte")));
    // One bad file among good ones costs nothing but itself.
    let mixed = run(&["diagnose", "cut.pcap", "text.pcap"]);
    assert!(errors(&mixed).contains("text.pcap: is not a capture") && text(&mixed).contains("connection"), "{}", text(&mixed));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let folder = root().join("fixtures/healthy/dr-ok");
    let mut child = lvscope(&folder)
        .arg("show")
        .args(captures("healthy/dr-ok"))
        .args(captures("healthy/dr-ok"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), errors(&output)), (Some(0), String::new()));
}

#[test]
fn help_completions_and_pages() {
    let run = |args: &[&str]| lvscope(&root()).args(args).output().expect("runs");
    snapshot("help", &run(&["--help"]), 0);
    assert!(text(&run(&["completions", "bash"])).contains("_lvscope"));
    assert!(text(&run(&["man"])).contains(".TH"));
    let page = text(&run(&["explain", "nat001"]));
    assert!(
        page.starts_with("NAT001 rs-no-default-route")
            && page.contains("\nWhat it sees\n")
            && page.lines().all(|l| l.chars().count() <= 80)
    );
    assert_eq!(text(&run(&["explain", "rs-no-default-route"])), page);
    let list = text(&run(&["explain"]));
    let all = lvscope::rules::ALL.iter().map(|rule| rule.name).chain(lvscope::rules::CAUSES.iter().map(|cause| cause.name));
    assert!(all.clone().all(|name| list.lines().any(|line| line.ends_with(&format!("  {name}")))), "{list}");
    assert_eq!(list.lines().filter(|line| line.contains("  ")).count(), all.count());
}
