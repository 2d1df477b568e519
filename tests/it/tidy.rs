//! The house is in order: rooms import only what the stairs allow, crates stay in their rooms, the registry is whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Room, rooms that it may import, foreign crates let in there and nowhere else. docs/architecture.md shows the same table.
const ROOMS: &[(&str, &[&str], &[&str])] = &[
    ("net", &[], &[]),
    ("packet", &["net"], &["etherparse"]),
    ("ipvs", &["net"], &[]),
    ("host", &["net", "ipvs"], &[]),
    ("finding", &["net"], &[]),
    ("capture", &["net", "packet"], &["pcap", "flate2", "ruzstd"]),
    ("netlink", &["net"], &["neli"]),
    ("collect", &["net", "ipvs", "host", "netlink"], &[]),
    ("probe", &["net", "packet", "capture", "netlink"], &[]),
    ("trace", &["net", "packet", "ipvs"], &[]),
    ("rules", &["net", "packet", "ipvs", "host", "trace", "finding"], &[]),
    ("report", &["net", "ipvs", "host", "trace", "finding", "rules"], &["tabled", "serde_json", "textwrap", "colored"]),
    ("director", &["net", "packet", "ipvs", "capture", "netlink"], &[]),
    ("case", &["net", "ipvs", "host", "capture", "packet", "trace", "rules", "finding"], &["toml"]),
    ("lab", &["net", "ipvs", "host", "packet", "finding", "capture", "netlink", "collect", "trace", "rules", "case", "director"], &[]),
    (
        "cli",
        &[
            "net", "packet", "ipvs", "host", "finding", "capture", "netlink", "collect", "probe", "trace", "rules", "report", "case",
            "director", "lab",
        ],
        &["clap", "clap_complete", "clap_mangen", "indicatif", "ctrlc", "terminal_size", "ratatui"],
    ),
];

/// The door may use what the mouths use; snapshots are JSON, and `case` reads and writes them.
const ALSO: &[(&str, &[&str])] = &[("cli", &["serde_json", "textwrap", "colored"]), ("case", &["serde_json"])];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else if entry.extension().is_some_and(|e| e == "rs") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn files_of(room: &str) -> Vec<PathBuf> {
    let (folder, file) = (source().join(room), source().join(format!("{room}.rs")));
    if folder.is_dir() { files(&folder) } else { vec![file] }
}

/// The code of a file without its tests and without comments and texts of macros.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a file");
    let whole = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    whole.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Words that follow `prefix` in the code.
fn words_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(prefix).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let word = &code[at + prefix.len()..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        (!before.is_some_and(is_word)).then_some(&word[..end])
    })
}

#[test]
fn every_room_is_in_the_table() {
    let mut rooms: BTreeSet<String> = BTreeSet::new();
    for entry in fs::read_dir(source()).expect("src") {
        let name = entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned();
        rooms.insert(name);
    }
    let known: BTreeSet<String> = ROOMS.iter().map(|(room, ..)| room.to_string()).chain(["lib".into(), "main".into()]).collect();
    assert_eq!(rooms, known, "a room without a place on the stairs, or a place without a room");
}

#[test]
fn the_documented_stairs_are_these() {
    let page = fs::read_to_string(source().join("../docs/architecture.md")).expect("docs/architecture.md");
    for (room, allowed, _) in ROOMS.iter().filter(|(room, ..)| *room != "cli") {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{room}` |"))).unwrap_or_else(|| panic!("no row for {room}"));
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let said: BTreeSet<&str> = last.split(", ").filter(|word| *word != "–").collect();
        assert_eq!(said, allowed.iter().copied().collect(), "docs/architecture.md, {room}");
    }
}

#[test]
fn rooms_import_only_downstairs() {
    let names: Vec<&str> = ROOMS.iter().map(|(room, ..)| *room).collect();
    let mut wrong = Vec::new();
    for (at, (room, allowed, _)) in ROOMS.iter().enumerate() {
        for target in *allowed {
            let below = names.iter().position(|name| name == target).expect("a room of the table");
            assert!(below < at, "{room} may not import {target}, which stands above it");
        }
        for file in files_of(room) {
            for target in words_after(&code(&file), "crate::").filter(|w| names.contains(w)) {
                if target != *room && !allowed.contains(&target) {
                    wrong.push(format!("{} imports {target}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (home, _, crates) in ROOMS {
        for (room, ..) in ROOMS.iter().filter(|(room, ..)| room != home) {
            for file in files_of(room) {
                let code = code(&file);
                for name in *crates {
                    let used = words_after(&code, "use ").any(|w| w == *name)
                        || code.contains(&format!(" {name}::"))
                        || code.contains(&format!("({name}::"));
                    // `capture` has a module of the name of the crate; it writes `::pcap` for the crate.
                    if used && !ALSO.iter().any(|(also, crates)| also == room && crates.contains(name)) {
                        wrong.push(format!("{} uses {name}, which lives in {home}", file.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Of the director only the loop around it touches sockets and the clock.
#[test]
fn the_director_is_pure_but_for_its_loop() {
    for file in files_of("director") {
        let window = file.components().any(|part| part.as_os_str() == "run");
        let code = code(&file);
        let opens = code.contains("nix::") || words_after(&code, "crate::").any(|room| room == "capture" || room == "netlink");
        assert!(window || !opens, "{} opens something", file.display());
    }
}

#[test]
fn unsafe_code_has_one_place() {
    let home = source().join("capture/wire/options.rs");
    for file in files(&source()).iter().filter(|file| **file != home) {
        let code = code(file);
        assert!(!code.contains("allow(unsafe_code)") && words_after(&code, "unsafe").next().is_none(), "unsafe code in {}", file.display());
    }
    assert!(fs::read_to_string(home).expect("the one place").lines().count() < 60);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(source().join("../Cargo.toml")).expect("Cargo.toml");
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies]");
        } else if in_dependencies && line.contains('=') && !line.starts_with('#') {
            assert!(line.contains("# "), "no reason given: {line}");
        }
    }
}

#[test]
fn every_rule_file_is_registered() {
    let registered: BTreeSet<String> = lvscope::rules::ALL.iter().map(|rule| rule.code.to_ascii_lowercase()).collect();
    let is_code =
        |name: &str| name.len() > 4 && name.ends_with(|c: char| c.is_ascii_digit()) && name.chars().all(|c| c.is_ascii_alphanumeric());
    let written: BTreeSet<String> = files_of("rules")
        .iter()
        .filter_map(|file| file.file_stem().map(|name| name.to_string_lossy().into_owned()))
        .filter(|name| is_code(name))
        .collect();
    assert_eq!(registered, written);
}

/// Codes that findings name exist: they have a rule, or a word on where to look.
#[test]
fn every_code_in_the_source_is_known() {
    let families = ["NAT", "DR", "ARP", "NET", "TUN", "SVC", "HA", "IP6", "CAP"];
    for file in files_of("rules") {
        let code = code(&file);
        for text in code.split('"').skip(1).step_by(2) {
            let family = text.len() > 3 && families.contains(&&text[..text.len().saturating_sub(3)]);
            if family && text[text.len() - 3..].chars().all(|c| c.is_ascii_digit()) {
                assert!(lvscope::rules::name_of(text).is_some(), "{text} in {} has no name", file.display());
            }
        }
    }
}

/// Of a code without a rule it is said that findings name it where they do, and only there.
#[test]
fn what_is_left_open_is_named_by_rules() {
    let texts: Vec<String> = files_of("rules").iter().filter(|file| !file.ends_with("catalogue.rs")).map(|file| code(file)).collect();
    for cause in lvscope::rules::CAUSES {
        let quoted = format!("\"{}\"", cause.code);
        assert_eq!(texts.iter().any(|text| text.contains(&quoted)), cause.is_left_open, "{}", cause.code);
    }
}

#[test]
fn nothing_unfinished_is_left_behind() {
    let marks = ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX", "dbg!("];
    for file in files(&source()) {
        let text = fs::read_to_string(&file).expect("a file");
        for mark in marks {
            assert!(!text.contains(mark), "{mark} in {}", file.display());
        }
    }
}
