//! Every recorded case, as it is, under other names and clocks, and seen from one host alone.

use crate::support::{Random, fixtures, plain, point, records, shift, story};
use lvscope::case::{self, CaptureArg, Case, ExpectedFinding, Limits, Reading, accuses};
use lvscope::finding::{Finding, Severity};
use lvscope::rules::{Facts, diagnose};
use lvscope::trace::{Flow, Hints, Options};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn judge(captures: &[CaptureArg], case: &Case) -> (Reading, Vec<Finding>) {
    let hints = Hints { services: Vec::new(), rules: case.rules.clone() };
    let reading = case::read(captures, Options { hints: hints.clone(), ..Options::default() }, Limits::default(), |_| {});
    for file in &reading.files {
        assert_eq!((&file.unreadable, file.damage.as_slice()), (&None, [].as_slice()), "{}", file.name);
    }
    let findings = diagnose(&Facts { trace: &reading.trace, hints: &hints, fleet: &lvscope::host::Fleet::default() }).findings;
    (reading, findings)
}

#[test]
fn every_case_comes_out_as_expected() {
    let mut wrong = String::new();
    for folder in fixtures() {
        let replayed = case::replay(&folder).unwrap_or_else(|e| panic!("{e}"));
        // What one host alone may say is not allowed to be said by all of them: no fault beside the one that is there.
        let listed = replayed.case.manifest.expect.iter().flat_map(|expect| &expect.findings);
        for finding in replayed.diagnosis.findings.iter().filter(|finding| accuses(finding)) {
            if !listed.clone().any(|wanted| wanted.fits(finding)) {
                wrong += &format!("{}: {} {}: {}\n", folder.display(), finding.code, finding.subject, finding.summary);
            }
        }
        let differences = replayed.differences.as_deref().unwrap_or_else(|| panic!("{}: no expectation", folder.display()));
        for difference in differences {
            wrong += &format!("{}: {}\n", folder.display(), difference.about);
            wrong.extend(difference.lines.iter().map(|line| format!("    {line}\n")));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Where nothing has to be merged, packets go to the trace by windows, else one by one: both ways lead to the same trace.
#[test]
fn windows_and_single_packets_tell_the_same() {
    let mut compared = 0;
    for folder in fixtures() {
        let case = Case::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        for capture in &case.captures {
            let told = |count| {
                let limits = Limits { count, ..Limits::default() };
                let trace = case::read(std::slice::from_ref(capture), Options::default(), limits, |_| {}).trace;
                compared += trace.packets;
                let flows: Vec<Flow> = trace.all_flows().map(Cow::into_owned).collect();
                format!("{flows:#?}{:#?}{:#?}{:#?}{:#?}", trace.points, trace.hosts, trace.unplaced, trace.unfinished)
            };
            let [by_windows, one_by_one] = [None, Some(u64::MAX)].map(told);
            assert!(by_windows == one_by_one, "{}:\n{by_windows}\n\n{one_by_one}", capture.path.display());
        }
    }
    assert!(compared > 20_000, "only {compared} packets");
}

/// A healthy case accuses nobody, a faulty one names its fault, or says that it is not found yet.
#[test]
fn cases_lie_in_the_right_folder() {
    for folder in fixtures() {
        let case = Case::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        let expect = case.manifest.expect.unwrap_or_else(|| panic!("{}: no expectation", folder.display()));
        if is_healthy(&folder) {
            let replayed = case::replay(&folder).unwrap_or_else(|e| panic!("{e}"));
            let accused: Vec<_> = replayed.diagnosis.findings.iter().filter(|f| accuses(f)).map(|f| f.code).collect();
            assert!(accused.is_empty() && expect.not_yet.is_empty(), "{}: {accused:?}", folder.display());
        } else {
            let weighs = |finding: &ExpectedFinding| finding.severity.is_none_or(|severity| severity >= Severity::Risky);
            assert!(expect.findings.iter().any(weighs) || !expect.not_yet.is_empty(), "{}: no fault", folder.display());
        }
        assert!(!case.manifest.title.is_empty() && !case.manifest.provenance.source.is_empty(), "{}", folder.display());
    }
}

fn is_healthy(folder: &Path) -> bool {
    folder.parent().is_some_and(|parent| parent.ends_with("healthy"))
}

/// Codes that may be said of a case with less to see or to go by; of a healthy one none.
fn allowed(folder: &Path, case: &Case) -> Vec<String> {
    let expect = case.manifest.expect.iter().filter(|_| !is_healthy(folder));
    let codes = expect.flat_map(|expect| expect.findings.iter().map(|f| &f.code).chain(&expect.may).chain(&expect.not_yet));
    codes.map(ToString::to_string).collect()
}

fn stories(reading: &Reading) -> Vec<String> {
    let mut stories: Vec<String> = reading.trace.all_flows().map(|flow| story(&flow, |end| end)).collect();
    stories.sort_unstable();
    stories
}

fn accusations(findings: &[Finding]) -> BTreeSet<&'static str> {
    findings.iter().filter(|finding| accuses(finding)).map(|finding| finding.code).collect()
}

/// Files called a.pcap, b.pcap … in any order, each from a host whose clock is wrong by up to two seconds.
#[test]
fn neither_names_nor_clocks_matter() {
    let (mut wrong, mut proven) = (String::new(), 0);
    for folder in fixtures() {
        let mut random = Random::of(20_251_126, &folder.file_name().unwrap_or_default().to_string_lossy());
        let case = Case::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        let (known, found) = judge(&case.captures, &case);
        let away = tempfile::tempdir().unwrap();
        let mut letters: Vec<char> = ('a'..='z').take(case.captures.len()).collect();
        random.shuffle(&mut letters);
        let mut captures = Vec::new();
        let (mut clocks, mut ahead) = (String::new(), BTreeMap::new());
        for (capture, letter) in case.captures.iter().zip(&letters) {
            let micros = i64::try_from(random.below(4_000_001)).unwrap() - 2_000_000;
            clocks += &format!("    {letter} is {} with its clock {micros} us off\n", capture.path.display());
            let path = away.path().join(format!("{letter}.pcap"));
            std::fs::write(&path, shift(&plain(&capture.path), micros)).unwrap();
            ahead.insert(path.clone(), micros * 1000); // nanoseconds
            // Of a capture without packets the name is all there is, and what a host says to itself has no MAC that tells whose it is.
            let (point, mute) = (point(&capture.path), records(&plain(&capture.path)).len() == 1);
            let host = point.split('.').next().unwrap_or_default();
            let talks_to_itself = case.captures.iter().any(|c| self::point(&c.path) == format!("{host}.lo"));
            captures.push(CaptureArg { path, point: (mute || talks_to_itself).then_some(point) });
        }
        captures.sort_by(|a, b| a.path.cmp(&b.path));
        let (reading, findings) = judge(&captures, &case);
        // All hosts of a recording have one clock: what is said of the clocks now is what was done to them.
        for clock in &reading.trace.clocks {
            let truth = ahead[&captures[clock.file].path] - ahead[&captures[clock.reference].path];
            proven += 1;
            if (clock.offset - truth).abs() > clock.bound {
                wrong += &format!("{}: {truth} ns is not {clock:?}\n{clocks}", folder.display());
            }
        }
        let (expect, got) = (stories(&known), stories(&reading));
        let name = folder.display();
        if expect != got {
            let lost = expect.iter().filter(|s| !got.contains(s)).map(|s| format!("    - {s}\n"));
            let new = got.iter().filter(|s| !expect.contains(s)).map(|s| format!("    + {s}\n"));
            wrong += &format!("{name}: flows\n{}{}{clocks}", lost.collect::<String>(), new.collect::<String>());
        }
        // Names are evidence too: without them a router that refuses is no other than a director that does. Then the code is an
        // alternative at least.
        let (expect, got) = (accusations(&found), accusations(&findings));
        let may = allowed(&folder, &case);
        let new: Vec<&str> = got.difference(&expect).copied().filter(|code| may.iter().all(|may| may != code)).collect();
        let still_said = |code: &&str| got.contains(*code) || findings.iter().any(|f| accuses(f) && f.alternatives.contains(code));
        if !new.is_empty() || !expect.iter().all(still_said) {
            wrong += &format!("{name}: codes {got:?} instead of {expect:?}\n{clocks}");
        }
    }
    assert!(proven > 100, "only of {proven} clocks anything is said");
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Findings that accuse somebody of what a case is not about.
fn wrong_accusations(captures: &[CaptureArg], case: &Case, may: &[String]) -> Vec<String> {
    let (_, findings) = judge(captures, case);
    let wrong = findings.iter().filter(|finding| accuses(finding) && may.iter().all(|code| code != finding.code));
    wrong.map(|f| format!("{} {} {} {}: {}\n", f.code, f.severity, f.confidence, f.subject, f.summary)).collect()
}

/// What one host saw may be too little for the fault, never enough for another one.
#[test]
fn one_host_alone_accuses_nobody_wrongly() {
    let mut wrong = String::new();
    for folder in fixtures() {
        let case = Case::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        let may = allowed(&folder, &case);
        let mut hosts: BTreeMap<String, Vec<CaptureArg>> = BTreeMap::new();
        for capture in &case.captures {
            let host = point(&capture.path).split('.').next().unwrap_or_default().to_string();
            hosts.entry(host).or_default().push(capture.clone());
        }
        for (host, captures) in hosts {
            let accused = wrong_accusations(&captures, &case, &may);
            wrong.extend(accused.into_iter().map(|text| format!("{} from {host} alone: {text}", folder.display())));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The same of any captures: each one left out, and a few chosen by lot.
#[test]
fn some_captures_accuse_nobody_wrongly() {
    let mut wrong = String::new();
    for folder in fixtures() {
        let case = Case::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        let mut random = Random::of(20_251_127, &folder.file_name().unwrap_or_default().to_string_lossy());
        let may = allowed(&folder, &case);
        let all = case.captures.len();
        let mut choices: BTreeSet<Vec<usize>> = (0..all).map(|out| (0..all).filter(|i| *i != out).collect()).collect();
        choices.extend((0..4).map(|_| (0..all).filter(|_| random.below(2) == 0).collect()));
        for choice in choices.into_iter().filter(|choice| !choice.is_empty()) {
            let captures: Vec<CaptureArg> = choice.iter().map(|i| case.captures[*i].clone()).collect();
            let names: Vec<String> = captures.iter().map(|capture| point(&capture.path)).collect();
            let accused = wrong_accusations(&captures, &case, &may);
            wrong.extend(accused.into_iter().map(|text| format!("{} from {}: {text}", folder.display(), names.join(" "))));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A case that somebody sends: any names, said in `[points]`, rules beside it; judged once, then held to that.
#[test]
fn a_folder_becomes_a_case() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/healthy/nat-ok");
    let mut points = String::from("# sent by a user\ntitle = \"a report\"\n\n[points]\n");
    for (capture, letter) in Case::open(&root).unwrap().captures.iter().zip('a'..) {
        std::fs::write(folder.path().join(format!("{letter}.dump")), plain(&capture.path)).unwrap();
        let point = capture.path.file_name().unwrap().to_string_lossy().replace(".pcap", "");
        points += &format!("\"{point}\" = \"{letter}.dump\"\n");
    }
    let rules = "-A -t 192.168.2.59:80 -s rr\n-a -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w 1\n";
    std::fs::write(folder.path().join("ipvs.rules"), rules).unwrap();
    std::fs::write(folder.path().join("web1.host.json"), "{}").unwrap();
    std::fs::write(folder.path().join("case.toml"), points).unwrap();

    assert_eq!(case::find(folder.path()).unwrap(), [folder.path()]);
    let replayed = case::replay(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    assert!(replayed.differences.is_none() && !replayed.is_as_expected());
    assert_eq!((replayed.case.rules.len(), replayed.notes.len()), (1, 1), "{:?}", replayed.notes);
    assert!(replayed.bless().unwrap());

    let replayed = case::replay(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    assert!(replayed.is_as_expected(), "{:?}", replayed.differences);
    assert!(!replayed.bless().unwrap(), "nothing to change");
    let text = std::fs::read_to_string(folder.path().join("case.toml")).unwrap();
    assert!(text.starts_with("# sent by a user\ntitle = \"a report\"\n"), "{text}");
    assert!(text.contains("  \"director.int: src-mac dst-mac dst-ip ttl\",\n"), "{text}");

    // A capture is lost: its hops are missed.
    let lost = replayed.case.captures.iter().find(|c| c.point.as_deref() == Some("director.int")).unwrap();
    let text = text.lines().filter(|line| !line.starts_with("\"director.int\"")).map(|line| format!("{line}\n")).collect::<String>();
    std::fs::write(folder.path().join("case.toml"), text).unwrap();
    std::fs::remove_file(&lost.path).unwrap();
    let differences = case::replay(folder.path()).unwrap().differences.unwrap();
    let lines: String = differences.iter().flat_map(|d| &d.lines).map(|line| format!("{line}\n")).collect();
    assert!(lines.contains("- request      director.int: src-mac dst-mac dst-ip ttl\n"), "{lines}");
}

#[test]
fn what_is_no_case_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let error = || case::replay(folder.path()).err().unwrap().to_string().replace(&folder.path().display().to_string(), "CASE");
    assert!(case::find(folder.path()).unwrap().is_empty());
    std::fs::write(at("case.toml"), "titel = \"x\"\n").unwrap();
    assert!(error().starts_with("CASE/case.toml line 1, column 1: unknown field `titel`, expected one of `title`"), "{}", error());
    std::fs::write(at("case.toml"), "title = \"x\"\n").unwrap();
    assert!(error().starts_with("CASE: no capture in it"), "{}", error());
    std::fs::write(at("case.toml"), "[points]\n\"a.eth0\" = \"a.dump\"\n").unwrap();
    assert_eq!(error(), "CASE/case.toml: [points] names a.dump, which is not in the folder");
    std::fs::write(at("case.toml"), "").unwrap();
    std::fs::write(at("a.pcap"), "").unwrap();
    assert!(error().starts_with("CASE/a.pcap is empty"), "{}", error());
    std::fs::write(at("ipvs.rules"), "-A -t 10.0.0.1:80 -s wrrr\n").unwrap();
    assert!(error().starts_with("CASE/ipvs.rules line 1, column 22: unknown scheduler 'wrrr'"), "{}", error());
    let nowhere = case::replay(&at("nowhere")).err().unwrap().to_string();
    assert!(nowhere.ends_with("nowhere: No such file or directory"), "{nowhere}");
}
