//! Packets as they come: findings soon, each once; nothing said too early; Ctrl-C answers at once.

use crate::support::{fixtures, text};
use lvscope::capture::{CaptureFile, Merged, PcapngWriter};
use lvscope::case::Case;
use lvscope::finding::{Confidence, Severity};
use lvscope::host::Fleet;
use lvscope::net::Timestamp;
use lvscope::rules::{Facts, diagnose};
use lvscope::trace::{Hints, Options, Source, Tracer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// All captures of a case as one stream, in the order of time, as `capture -w -` on all its points would have written it.
fn stream(case: &Path) -> Vec<u8> {
    let case = Case::open(case).unwrap_or_else(|e| panic!("{e}"));
    let files: Vec<CaptureFile> = case.captures.iter().map(|arg| CaptureFile::open(&arg.path).unwrap_or_else(|e| panic!("{e}"))).collect();
    let mut writer = PcapngWriter::new(Vec::new(), "test").expect("memory");
    for (file, arg) in files.iter().zip(&case.captures) {
        let name = arg.path.file_name().unwrap().to_string_lossy().split(".pcap").next().unwrap().to_string();
        writer.interface(arg.point.as_deref().unwrap_or(&name), file.interfaces()[0].link_type).expect("memory");
    }
    Merged::new(files).for_each(|at, _, frame| {
        writer.packet(at as u32, frame.time, frame.bytes, frame.wire_len, None).expect("memory");
    });
    writer.finish().expect("memory")
}

fn case(name: &str) -> std::path::PathBuf {
    fixtures().into_iter().find(|path| path.ends_with(name)).unwrap_or_else(|| panic!("no case {name}"))
}

fn diagnose_stdin(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvscope"));
    command.arg("diagnose").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("lvscope runs")
}

/// Lines as they are written, with the time.
fn lines(child: &mut Child) -> Receiver<(Instant, String)> {
    let (to, from) = channel();
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| to.send((Instant::now(), line))));
    from
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a process")), Signal::SIGINT).expect("a signal");
}

#[test]
fn findings_come_soon_and_once() {
    for (name, code) in [("nat-no-ip-forward", 1), ("dr-arp-leak-web1", 0), ("dr-rs-service-down", 1)] {
        let mut child = diagnose_stdin(&["--format", "ndjson", "-"]);
        let said = lines(&mut child);
        let mut pipe = child.stdin.take().expect("a pipe");
        pipe.write_all(&stream(&case(name))).expect("it reads");
        pipe.flush().expect("it reads");
        let sent = Instant::now();
        let mut soon: Vec<(Duration, serde_json::Value)> = Vec::new();
        while let Ok((at, line)) = said.recv_timeout(Duration::from_secs(4).saturating_sub(sent.elapsed())) {
            soon.push((at - sent, serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))));
        }
        let found = |lines: &[(Duration, serde_json::Value)]| -> Vec<(Duration, String)> {
            let findings = lines.iter().filter(|(_, line)| line["type"] == "finding");
            findings.map(|(at, line)| (*at, format!("{} {}", line["code"], line["subject"]))).collect()
        };
        let told = found(&soon);
        assert!(!told.is_empty() && soon[0].1["type"] == "moment", "{name}: {soon:?}");
        assert!(told.iter().all(|(at, _)| *at < Duration::from_secs(2)), "{name}: {told:?}");
        interrupt(&child);
        let begun = Instant::now();
        let mut last: Vec<(Duration, serde_json::Value)> = Vec::new();
        while let Ok((at, line)) = said.recv_timeout(Duration::from_secs(5)) {
            last.push((at - sent, serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))));
        }
        assert_eq!(child.wait().expect("it ends").code(), Some(code), "{name}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{name}: {:?}", begun.elapsed());
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for (_, finding) in told.into_iter().chain(found(&last)) {
            *times.entry(finding).or_default() += 1;
        }
        assert!(times.values().all(|n| *n == 1), "{name}: {times:?}");
        assert!(last.iter().any(|(_, line)| line["type"] == "end") && last.iter().any(|(_, line)| line["type"] == "service"), "{name}");
        drop(pipe);
    }
}

/// The page for people ends in a line for each thing told.
#[test]
fn it_ends_with_a_summary() {
    let mut child = diagnose_stdin(&["-"]);
    let said = lines(&mut child);
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(&stream(&case("nat-no-ip-forward"))).expect("it reads");
    let first = said.recv_timeout(Duration::from_secs(4)).expect("a finding").1;
    assert!(first.contains(" > "), "{first}");
    interrupt(&child);
    let rest: Vec<String> = said.iter().map(|(_, line)| line).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    let heads = rest.iter().filter(|line| line.contains("NAT005 director-forwarding-off")).count();
    assert!(heads == 2 && rest.iter().any(|line| line.starts_with('✗')), "once told, once summed up:\n{}", rest.join("\n"));
}

/// What comes at once and ends is a recording: the page is the usual one.
#[test]
fn a_recording_through_a_pipe_is_a_recording() {
    for name in ["nat-ok", "dr-no-gateway"] {
        let bytes = stream(&case(name));
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("-"), &bytes).expect("written");
        let whole =
            Command::new(env!("CARGO_BIN_EXE_lvscope")).args(["diagnose", "./-"]).current_dir(&folder).output().expect("lvscope runs");
        let mut child = diagnose_stdin(&["-"]);
        child.stdin.take().expect("a pipe").write_all(&bytes).expect("it reads");
        let piped = child.wait_with_output().expect("it ends");
        assert_eq!(text(&piped.stdout), text(&whole.stdout).replace("./-", "-"), "{name}");
        assert_eq!(piped.status.code(), whole.status.code(), "{name}");
    }
}

/// A healthy capture accuses nobody for longer than packets may be under way, wherever it stops for a while.
#[test]
fn nothing_is_said_too_early() {
    let mut wrong: BTreeMap<String, f64> = BTreeMap::new();
    // In this one the service really is down at first.
    let healthy = |path: &std::path::PathBuf| path.parent().is_some_and(|p| p.ends_with("healthy")) && !path.ends_with("dr-served-late");
    for folder in fixtures().into_iter().filter(healthy) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let path = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&path, stream(&folder)).expect("written");
        let mut file = CaptureFile::open(path.path()).unwrap_or_else(|e| panic!("{e}"));
        let mut tracer = Tracer::new(Options::default());
        let (mut points, mut accused) = (0, BTreeMap::<String, Timestamp>::new());
        while file.advance() && file.frames() <= 400 {
            for interface in &file.interfaces()[points..] {
                tracer.point(&Source {
                    file: 0,
                    file_name: "-".into(),
                    given: None,
                    interface_name: interface.name.clone(),
                    one_of_several: true,
                    link_type: interface.link_type,
                    snap_len: 0,
                });
                points += 1;
            }
            let Some(frame) = file.frame() else { continue };
            // What was said until now was said at least until this packet came.
            for (finding, since) in &accused {
                let stood = (frame.time - *since) as f64 / 1e9;
                if stood >= 0.7 {
                    wrong.insert(format!("{name}: {finding}"), stood);
                }
            }
            tracer.observe(frame.interface, &frame);
            let trace = tracer.so_far().finish();
            let found = diagnose(&Facts { trace: &trace, hints: &Hints::default(), fleet: &Fleet::default() });
            let serious = found.findings.iter().filter(|f| f.severity >= Severity::Degraded && f.confidence > Confidence::Possible);
            let named = serious.map(|f| format!("{} {}", f.code, f.subject));
            accused = named.map(|f| (f.clone(), accused.get(&f).copied().unwrap_or(frame.time))).collect();
        }
    }
    assert!(wrong.is_empty(), "seconds that an accusation stood: {wrong:#?}");
}
