//! Packets as they come: findings soon, each once; nothing said too early; Ctrl-C answers at once.

use crate::support::{fixtures, text};
use lvscope::capture::{Burst, CaptureFile, Merged, PcapngWriter};
use lvscope::case::Case;
use lvscope::finding::{Confidence, Severity};
use lvscope::host::Fleet;
use lvscope::net::Timestamp;
use lvscope::packet::Frame;
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
    Merged::new(files).for_each(|at, _, burst| {
        let mut write = |frame: Frame<'_>| writer.packet(at as u32, frame.time, frame.bytes, frame.wire_len, None).expect("memory");
        match burst {
            Burst::One(frame) => write(frame),
            Burst::Window(records) => records.for_each(write),
        }
        true
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
    for (name, code) in [("nat-no-ip-forward", 1), ("dr-arp-leak-web1", 0), ("dr-rs-service-down", 0)] {
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
        let (mut points, mut accused, mut last) = (0, BTreeMap::<String, Timestamp>::new(), Timestamp(i64::MAX));
        while file.advance() && file.frames() <= 400 {
            for interface in &file.interfaces()[points..] {
                tracer.point(&Source {
                    file: 0,
                    file_name: "-".into(),
                    given: None,
                    interface_name: interface.name.clone(),
                    one_of_several: true,
                    part: false,
                    link_type: interface.link_type,
                    snap_len: 0,
                });
                points += 1;
            }
            let Some(frame) = file.frame() else { continue };
            // In a pause somebody looks. What is said then stands until the next packet, and since the pause in which it was first said.
            if frame.time - last >= 50_000_000 {
                let trace = tracer.so_far().finish();
                let found = diagnose(&Facts { trace: &trace, hints: &Hints::default(), fleet: &Fleet::default() });
                let serious = found.findings.iter().filter(|f| f.severity >= Severity::Degraded && f.confidence > Confidence::Possible);
                let named = serious.map(|f| format!("{} {}", f.code, f.subject));
                accused = named.map(|f| (f.clone(), accused.get(&f).copied().unwrap_or(last))).collect();
                for (finding, since) in &accused {
                    let stood = (frame.time - *since) as f64 / 1e9;
                    if stood >= 0.7 {
                        wrong.insert(format!("{name}: {finding}"), stood);
                    }
                }
            }
            last = frame.time;
            tracer.observe(frame.interface, &frame);
        }
    }
    assert!(wrong.is_empty(), "seconds that an accusation stood: {wrong:#?}");
}

/// A picture on a terminal of its own (script(1) makes one), played and ended by a key: the terminal is given back.
#[test]
fn watch_gives_the_terminal_back() {
    if !Command::new("script").arg("--version").output().is_ok_and(|out| out.status.success()) {
        eprintln!("no script(1) here: no terminal to draw on");
        return;
    }
    let captures: Vec<String> = ["client.eth0", "director.ext", "director.int"]
        .map(|name| case("nat-no-ip-forward").join(format!("{name}.pcap")).display().to_string())
        .to_vec();
    for (end, code) in [("q", Some(0)), ("\u{3}", Some(0))] {
        let command = format!("stty rows 24 cols 80; {} watch --speed 0 {}", env!("CARGO_BIN_EXE_lvscope"), captures.join(" "));
        let mut child = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("script(1)");
        let mut keys = child.stdin.take().expect("a pipe");
        std::thread::sleep(Duration::from_secs(2));
        keys.write_all(b"?").expect("a key");
        std::thread::sleep(Duration::from_millis(400));
        keys.write_all(end.as_bytes()).expect("a key");
        keys.flush().expect("a key");
        let out = child.wait_with_output().expect("it ends");
        drop(keys);
        let screen = text(&out.stdout);
        let (opened, closed) = (screen.find("\u{1b}[?1049h"), screen.rfind("\u{1b}[?1049l"));
        assert!(opened.is_some() && closed > opened && screen.contains("192.168.2.59:80") && screen.contains("Panels"), "{screen:?}");
        assert!(screen.rfind("\u{1b}[?25h") > opened, "the cursor is there again: {screen:?}");
        assert_eq!(out.status.code(), code, "{screen:?}");
    }
}

#[cfg(feature = "live")]
mod interfaces {
    use crate::within::inside;
    use lvscope::lab::catalogue;
    use lvscope::lab::play::Stage;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::io::{BufRead, BufReader};
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::{Child, Command, Stdio};

    /// Interfaces of all hosts, as `-i` has them.
    fn points(stage: &Stage<'_>) -> Vec<String> {
        let of = |host: &lvscope::lab::build::Host| {
            let netns = format!("/proc/{}/fd/{}", std::process::id(), host.wire().as_fd().as_raw_fd());
            let point = move |(name, _): &(String, _)| ["-i".to_string(), format!("{netns}/{name}")];
            host.interfaces.iter().flat_map(point).collect::<Vec<_>>()
        };
        stage.network.hosts.iter().flat_map(of).collect()
    }

    fn begin(command: &str, args: &[String]) -> Child {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lvscope"))
            .arg(command)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("lvscope runs");
        let mut said = String::new();
        let errors = child.stderr.take().expect("a pipe");
        let mut errors = BufReader::new(errors);
        errors.read_line(&mut said).expect("a word");
        assert!(said.contains("looking at"), "{said}");
        // What it says later must find room.
        std::thread::spawn(move || errors.lines().for_each(drop));
        child
    }

    fn end(child: Child) -> (Option<i32>, Vec<serde_json::Value>) {
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a process")), Signal::SIGINT).expect("a signal");
        let begun = std::time::Instant::now();
        let out = child.wait_with_output().expect("it ends");
        assert!(begun.elapsed().as_secs() < 3, "Ctrl-C is answered at once: {:?}", begun.elapsed());
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        (out.status.code(), text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect())
    }

    #[test]
    fn the_lab_is_diagnosed_while_it_runs() {
        if !inside("stream::interfaces::the_lab_is_diagnosed_while_it_runs") {
            return;
        }
        for (name, code) in [
            ("nat-ok", None),
            ("dr-ok", None),
            ("dr-no-vip", Some("DR001")),
            ("nat-rs-no-gateway", Some("NAT001")),
            ("dr-server-down", Some("SVC004")),
        ] {
            let scenario = catalogue::open(name).expect("a scenario");
            let mut stage = Stage::set(&scenario).expect("a stage");
            let folder = tempfile::tempdir().expect("a folder");
            let kept = folder.path().join("kept.pcapng");
            let mut args = points(&stage);
            args.extend(["--format", "ndjson", "-w"].map(String::from));
            args.push(kept.display().to_string());
            let child = begin("diagnose", &args);
            stage.play(&folder.path().join("played")).expect("played");
            std::thread::sleep(std::time::Duration::from_secs(2));
            let (exit, lines) = end(child);
            let ended = lines.iter().position(|line| line["type"] == "end" || line["type"] == "input").expect("an end");
            let serious =
                |line: &&serde_json::Value| line["type"] == "finding" && (line["severity"] == "broken" || line["severity"] == "degraded");
            let found: Vec<String> =
                lines.iter().filter(serious).map(|f| format!("{} {}", f["code"].as_str().unwrap_or("?"), f["confidence"])).collect();
            let before: Vec<&str> = lines[..ended].iter().filter(serious).filter_map(|f| f["code"].as_str()).collect();
            match code {
                None => assert!(exit == Some(0) && found.iter().all(|f| f.ends_with("\"possible\"")), "{name}: {exit:?} {found:?}"),
                // Told while it ran, and the alternative causes that it names count as well: the lab's hosts are seen from outside.
                Some(code) => {
                    let named = lines
                        .iter()
                        .filter(serious)
                        .any(|f| f["code"] == code || f["alternatives"].as_array().is_some_and(|a| a.iter().any(|c| c == code)));
                    assert!(named && !before.is_empty(), "{name}: {exit:?} {found:?}, before the end {before:?}");
                }
            }
            // The packets were kept, and say the same.
            let again = Command::new(env!("CARGO_BIN_EXE_lvscope")).args(["diagnose", "-j"]).arg(&kept).output().expect("lvscope runs");
            assert_eq!(again.status.code(), exit, "{name}: {}", String::from_utf8_lossy(&again.stdout));
        }
    }

    #[test]
    fn connections_are_traced_while_they_come() {
        if !inside("stream::interfaces::connections_are_traced_while_they_come") {
            return;
        }
        let scenario = catalogue::open("nat-ok").expect("a scenario");
        let mut stage = Stage::set(&scenario).expect("a stage");
        let folder = tempfile::tempdir().expect("a folder");
        let mut args = points(&stage);
        args.extend(["--format", "ndjson", "tcp", "port", "80"].map(String::from));
        let child = begin("trace", &args);
        stage.play(folder.path()).expect("played");
        let (exit, mut flows) = end(child);
        // Not the director's own checks.
        flows.retain(|flow| flow["service"] == "192.168.2.59:80");
        assert!(exit == Some(0) && flows.len() >= 2, "{exit:?} {flows:?}");
        assert!(flows.iter().all(|flow| flow["method"] == "nat" && flow["state"] == "closed"), "{flows:?}");
    }

    #[test]
    fn what_cannot_be_looked_at_is_named() {
        for (args, code, says) in [
            (&["-i", "lo9"][..], 3, "lo9: no such interface"),
            (&["-i", "lo", "x.pcap"], 2, "either files or interfaces"),
            (&["-i", "lo", "host", "and"], 2, "syntax error"),
            (&["--duration", "3s", "-"], 2, "--interface"),
        ] {
            let out = Command::new(env!("CARGO_BIN_EXE_lvscope")).arg("diagnose").args(args).output().expect("lvscope runs");
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(code) && said.contains(says), "{args:?}: {said}");
        }
        // Not on a terminal: a word instead of a picture.
        let out = Command::new(env!("CARGO_BIN_EXE_lvscope")).args(["watch", "-i", "lo"]).output().expect("lvscope runs");
        assert!(out.status.code() == Some(2) && String::from_utf8_lossy(&out.stderr).contains("terminal"));
    }
}
