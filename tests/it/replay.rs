//! `lvscope replay` as its users meet it: what it prints, what it writes, how it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn replay(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvscope"));
    command.current_dir(folder).env("NO_COLOR", "1").env("COLUMNS", "80").arg("replay").args(args).output().expect("lvscope runs")
}

/// Standard output, with times that differ from run to run made alike. No line may be wider than 80 columns.
fn said(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let mut out = String::new();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line}");
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let timed = match words.as_slice() {
            [front @ .., number, "ms"] if number.parse::<u64>().is_ok() => format!("{} N ms", front.join(" ")),
            [front @ .., number, "s"] if number.parse::<f64>().is_ok() => format!("{} N s", front.join(" ")),
            _ => line.to_string(),
        };
        out += &format!("{timed}\n");
    }
    out
}

/// A copy of a recorded case, with a `case.toml` of its own.
fn case(folder: &Path, like: &str, manifest: &str) {
    fs::create_dir_all(folder).expect("a folder");
    for entry in fs::read_dir(fixture(like)).expect("a case") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copied");
    }
    fs::write(folder.join("case.toml"), manifest).expect("written");
}

fn ends(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", said(output), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn cases_of_every_kind() {
    let away = tempfile::tempdir().expect("a folder");
    let at = |name: &str| away.path().join(name);
    case(&at("a/deep/down/fine"), "healthy/nat-ok", "[expect]\nfindings = []\n");
    ends(&replay(away.path(), &["a"]), 0);

    case(&at("a/gap"), "healthy/nat-ok", "[expect]\nfindings = []\nnot_yet = [\"SVC003\", \"HA001\"]\n");
    let gap = replay(away.path(), &["a"]);
    ends(&gap, 0);
    let lines = "✓ deep/down/fine no fault, 4 flows N ms\n~ gap no fault, 4 flows; SVC003 HA001 not found yet N ms\n\
                 2 cases: 1 as expected, 1 with a fault not found yet · N s\n";
    assert_eq!(said(&gap), lines);

    case(&at("a/new"), "healthy/nat-ok", "title = \"nobody has judged it\"\n");
    case(&at("b/other"), "healthy/nat-ok", "[roles]\nweb1 = \"client\"\n[expect]\nfindings = [\"NAT001 broken likely\"]\n");
    let other = replay(away.path(), &["a", "b", "a/gap"]);
    ends(&other, 1);
    let lines = "✓ deep/down/fine no fault, 4 flows N ms\n~ gap no fault, 4 flows; SVC003 HA001 not found yet N ms\n\
                 ✗ new no expectation yet; no fault, 4 flows N ms\n    Nobody has said yet what has to come out; --bless writes down what does.\n\
                 ✗ other findings, roles: not as expected N ms\n    findings\n    - NAT001 broken likely\n    roles\n    - web1 is a client\n    \
                 + web1 is a real-server\n\
                 4 cases: 1 as expected, 1 with a fault not found yet, 1 different, 1 without\nexpectation · N s\n";
    assert_eq!(said(&other), lines);

    case(&at("b/wrong"), "healthy/nat-ok", "titel = \"a slip\"\n");
    let wrong = replay(away.path(), &["b", "nowhere"]);
    ends(&wrong, 3);
    let text = said(&wrong).split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "✗ nowhere nowhere: No such file or directory",
        "✗ wrong b/wrong/case.toml line 1, column 1: unknown field `titel`",
        "2 unreadable",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Some cases cannot be read, and the others are played all the same.
    assert!(text.contains("✗ other findings"), "{text}");

    let only = replay(away.path(), &["a", "b", "--only", "deep"]);
    ends(&only, 0);
    assert!(said(&only).ends_with("1 case: 1 as expected · N s\n"), "{}", said(&only));
    let none = replay(away.path(), &["a", "--only", "moon"]);
    ends(&none, 4);
    assert!(said(&none).starts_with("no case found with 'moon' in its path"), "{}", said(&none));
    ends(&replay(away.path(), &[]), 2);
    ends(&replay(away.path(), &["a", "--frobnicate"]), 2);
}

#[test]
fn for_programs() {
    let away = tempfile::tempdir().expect("a folder");
    let at = |name: &str| away.path().join(name);
    case(&at("fine"), "healthy/nat-ok", "[expect]\nfindings = []\n");
    case(&at("gap"), "healthy/nat-ok", "[expect]\nnot_yet = [\"SVC003\"]\n");
    case(&at("other"), "healthy/nat-ok", "[expect]\nfindings = [\"NAT001\"]\n");
    case(&at("wrong"), "healthy/nat-ok", "[expect]\nfindings = 1\n");
    let tap = replay(away.path(), &[".", "--tap", "--junit", "report.xml"]);
    ends(&tap, 3);
    let lines = "TAP version 14\n1..4\nok 1 - fine\nnot ok 2 - gap # TODO SVC003 not found yet\nnot ok 3 - other\n  ---\n  \
                 message: 'findings: not as expected'\n  difference: |2\n    findings\n      - NAT001\n  ...\nnot ok 4 - wrong\n";
    let text = String::from_utf8_lossy(&tap.stdout).into_owned();
    assert!(text.starts_with(lines), "{text}");

    let xml = fs::read_to_string(at("report.xml")).expect("a report");
    let count = |what: &str| xml.matches(what).count();
    assert_eq!((count("<testcase "), count("<failure "), count("<error "), count("<skipped ")), (4, 1, 1, 1), "{xml}");
    assert!(xml.contains("tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\""), "{xml}");
    let piped = replay(away.path(), &["fine", "--junit", "-"]);
    ends(&piped, 0);
    assert!(piped.stdout.starts_with(b"<?xml") && piped.stdout.ends_with(b"</testsuites>\n"), "nothing but XML");

    ends(&replay(away.path(), &["fine", "--tap", "--junit", "-"]), 2);
    let nowhere = replay(away.path(), &["fine", "--junit", "no/such/folder.xml"]);
    ends(&nowhere, 3);
    let complaint = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert_eq!(complaint, "lvscope: no/such/folder.xml: cannot be written: No such file or directory\n");
}

#[test]
fn blessing_writes_what_came_out_and_nothing_else() {
    let away = tempfile::tempdir().expect("a folder");
    let at = |name: &str| away.path().join(name);
    let manifest = "# ours\ntitle = \"t\"\n[expect]\n# seen on site\nfindings = [\"NAT001\"]\nmay = [\"ARP001\"]\nnot_yet = [\"HA001\"]\n\n[roles]\nweb1 = \"real-server\"\n";
    case(&at("one"), "healthy/nat-ok", manifest);
    let blessed = replay(away.path(), &["one", "--bless"]);
    ends(&blessed, 0);
    let text = said(&blessed);
    assert!(text.starts_with("~ one blessed: no fault, 4 flows; HA001 not found yet N ms\n    findings\n    - NAT001\n"), "{text}");
    assert!(text.ends_with("1 case: 0 as expected, 1 with a fault not found yet, 1 blessed · N s\n"), "{text}");
    let written = fs::read_to_string(at("one/case.toml")).expect("case.toml");
    let (front, back) = ("# ours\ntitle = \"t\"\n\n[expect]\n# seen on site\nfindings = [", "\n[roles]\nweb1 = \"real-server\"\n");
    assert!(
        written.starts_with(front) && written.ends_with(back) && written.contains("may = [\"ARP001\"]\nnot_yet = [\"HA001\"]\n"),
        "{written}"
    );
    assert!(!written.contains("NAT001") && written.contains("[[expect.flows]]"), "{written}");

    let again = replay(away.path(), &["one", "--bless"]);
    ends(&again, 0);
    assert!(!said(&again).contains("blessed"), "nothing to bless: {}", said(&again));
    assert_eq!(fs::read_to_string(at("one/case.toml")).expect("case.toml"), written);
    ends(&replay(away.path(), &["one"]), 0);
}
