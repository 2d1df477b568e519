//! Live capture: nothing is lost uncounted, a killed process leaves a readable file, and what can go wrong is said.

#![cfg(feature = "live")]

use crate::support::Random;
use crate::within::{inside, ip, slow};
use lvscope::capture::CaptureFile;
use lvscope::lab::build::{Balancing, Network};
use lvscope::lab::catalogue;
use lvscope::lab::netns::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn capture(args: &[String]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lvscope"))
        .arg("capture")
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lvscope runs");
    // It says so once it captures.
    let mut said = String::new();
    let mut byte = [0];
    let errors = child.stderr.as_mut().expect("a pipe");
    while !said.ends_with('\n') && errors.read(&mut byte).expect("a word") == 1 {
        said.push(char::from(byte[0]));
    }
    assert!(said.contains("capturing on"), "{said}");
    child
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_string).collect()
}

/// Ctrl-C, and how long it took to end.
fn interrupt(child: Child) -> (Output, Duration) {
    let begun = std::time::Instant::now();
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a process")), Signal::SIGINT).expect("a signal");
    let output = child.wait_with_output().expect("it ends");
    (output, begun.elapsed())
}

/// Frames of an interface, in and out, as `ip -s link` counts them.
fn counted(namespace: &Namespace, interface: &str) -> u64 {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("a namespace").expect("/proc");
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:"))).expect("the interface");
    let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    numbers[1] + numbers[9]
}

fn path(namespace: &Namespace) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd())
}

/// Frames of each interface of a file.
fn frames(file: &Path) -> (Vec<u64>, CaptureFile) {
    let mut file = CaptureFile::open(file).expect("a capture");
    let mut frames = Vec::new();
    while file.advance() {
        let at = file.frame().expect("a frame").interface as usize;
        frames.resize(frames.len().max(at + 1), 0);
        frames[at] += 1;
    }
    frames.resize(file.interfaces().len().max(frames.len()), 0);
    (frames, file)
}

#[test]
fn every_frame_is_in_the_file_or_counted() {
    if !inside("capture::every_frame_is_in_the_file_or_counted") {
        return;
    }
    let scenario = catalogue::open("dr-routed-ok").expect("a scenario");
    let network = Network::build(&scenario, Balancing::Builtin).expect("a network");
    let host = |name: &str| &network.host(name).expect("a host").namespace;
    let points = [(host("client"), "eth0"), (host("router"), "ext"), (host("router"), "int"), (host("web1"), "eth0")];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("all.pcapng");
    let mut args = words("-s 128 -w");
    args.push(file.display().to_string());
    for (namespace, interface) in points {
        args.extend(["-i".to_string(), format!("{}/{interface}", path(namespace))]);
    }
    let running = capture(&args);
    let before = points.map(|(namespace, interface)| counted(namespace, interface));
    let sent = host("client").run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // `LVSCOPE_SLOW=1`: for half a minute.
        let until = std::time::Instant::now() + Duration::from_secs(if slow() { 30 } else { 3 });
        let mut sent = 0;
        while std::time::Instant::now() < until {
            sent += (0..100).filter(|_| socket.send_to(&[7; 400], "203.0.113.11:9").is_ok()).count();
        }
        sent
    });
    assert!(sent.expect("a namespace") > 10_000);
    std::thread::sleep(Duration::from_millis(200));
    let wanted: Vec<u64> =
        points.iter().zip(before).map(|((namespace, interface), before)| counted(namespace, interface) - before).collect();
    let (output, took) = interrupt(running);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && took < Duration::from_secs(5), "{took:?}: {said}");
    let (found, file) = frames(&file);
    assert!(file.damage().is_empty());
    for (at, interface) in file.interfaces().iter().enumerate() {
        let drops = interface.drops.expect("counters");
        let name = interface.name.as_deref().unwrap_or_default();
        assert_eq!(found[at] + drops.by_os.expect("drops"), wanted[at], "{name}: {found:?} of {wanted:?}\n{said}");
        assert!(name.ends_with(points[at].1) && interface.snap_len == 128 && interface.os.is_some(), "{interface:?}");
        assert!(found[at] > 5_000 && said.contains(name), "{said}");
    }
}

#[test]
fn a_killed_capture_can_be_read() {
    if !inside("capture::a_killed_capture_can_be_read") {
        return;
    }
    ip("link set lo up");
    let folder = tempfile::tempdir().expect("a folder");
    let ended = AtomicBool::new(false);
    let mut random = Random::new(20_261_127);
    let mut most = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            while !ended.load(Ordering::Relaxed) {
                for _ in 0..50 {
                    let _ = socket.send_to(&[7; 900], "127.0.0.1:9");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for round in 0..if slow() { 50 } else { 10 } {
            let file = folder.path().join(format!("{round}.pcapng"));
            let mut child = capture(&["-i".into(), "lo".into(), "-w".into(), file.display().to_string()]);
            std::thread::sleep(Duration::from_millis(random.below(200)));
            child.kill().expect("killed");
            child.wait().expect("gone");
            let (found, file) = frames(&file);
            assert!(file.damage().iter().all(|damage| damage.cut_short), "{:?}", file.damage());
            assert_eq!(file.interfaces().len(), 1, "the head is there from the beginning");
            most = most.max(found[0]);
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert!(most > 100, "{most}");
}

#[test]
fn an_interface_that_goes_does_not_stop_the_others() {
    if !inside("capture::an_interface_that_goes_does_not_stop_the_others") {
        return;
    }
    ip("link set lo up");
    for (one, other) in [("a0", "b0"), ("a1", "b1")] {
        ip(&format!("link add {one} type veth peer name {other}"));
        ip(&format!("link set {one} up"));
        ip(&format!("link set {other} up"));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.pcapng");
    let mut child = capture(&words(&format!("-i a0 -i lo -i a1 -w {}", file.display())));
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut says = |name: &str| {
        let mut line = String::new();
        errors.read_line(&mut line).expect("a word");
        assert!(line.contains(&format!("{name}: ")) && line.contains("disappeared"), "{line}");
    };
    ip("link del a0");
    says("a0");
    // Of one that is down already libpcap is not told that it goes.
    ip("link set a1 down");
    std::thread::sleep(Duration::from_millis(200));
    ip("link del a1");
    says("a1");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for _ in 0..10 {
        let _ = socket.send_to(&[7; 100], "127.0.0.1:9");
    }
    std::thread::sleep(Duration::from_millis(100));
    let (output, took) = interrupt(child);
    assert!(output.status.code() == Some(3) && took < Duration::from_secs(5), "{took:?} {output:?}");
    let (found, _) = frames(&file);
    assert!(found[1] >= 10, "{found:?}");
    // An idle link ends at once as well, and a pipe can be read while it is written.
    ip("link set lo down");
    ip("link set lo up");
    let (output, took) = interrupt(capture(&words("-i lo -w -")));
    assert!(output.status.success() && took < Duration::from_secs(5), "{took:?}");
    let piped = folder.path().join("piped.pcapng");
    std::fs::write(&piped, output.stdout).expect("written");
    assert_eq!(frames(&piped).1.interfaces()[0].name.as_deref(), Some("lo"));
}

#[test]
fn what_cannot_be_captured_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules");
    std::fs::write(&rules, "-A -t 10.0.0.80:80 -s rr\n-a -t 10.0.0.80:80 -r 10.0.0.11:80 -g\n").expect("written");
    let rules = rules.display().to_string();
    for (args, code, says) in [
        ("-i lo9", 3, "cannot capture on lo9: no such interface (there are: lo"),
        ("-i lo host and", 2, "filter 'host and', column 6: syntax error at 'and'"),
        ("", 2, "no interface given: name them with -i"),
        ("-i lo --netns no-such-netns", 3, "no-such-netns"),
        ("-i lo --rotate 1x -w x", 2, "neither a size such as 100M nor a time"),
        ("-i lo --keep 3", 2, "--rotate"),
        ("--plan", 2, "--service"),
        ("--report x.json", 2, "--plan"),
        ("--plan --report /no/such.json", 3, "/no/such.json: cannot be read"),
        ("--plan --service 10.0.0.80:80", 4, "ipvsadm -Sn"),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_lvscope")).arg("capture").args(words(args)).output().expect("lvscope runs");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(code) && said.contains(says), "{args}: {said}");
    }
    let plan = Command::new(env!("CARGO_BIN_EXE_lvscope"))
        .args(["capture", "--plan", "--service", "10.0.0.80:80", "--ipvs", &rules])
        .output()
        .expect("lvscope runs");
    let report = folder.path().join("report.json");
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/faults/dr-no-gateway");
    let diagnosed = Command::new(env!("CARGO_BIN_EXE_lvscope"))
        .args(["diagnose", "-j"])
        .args(["client.eth0.pcap", "director.eth0.pcap"].map(|name| cases.join(name)))
        .output()
        .expect("lvscope runs");
    std::fs::write(&report, diagnosed.stdout).expect("written");
    let planned =
        Command::new(env!("CARGO_BIN_EXE_lvscope")).args(["capture", "--plan", "--report"]).arg(&report).output().expect("lvscope runs");
    let said = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(planned.status.success() && said.contains("lvscope capture -i all -w") && said.contains("lvscope diagnose "), "{said}");
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("lvscope capture -i all -w director.pcapng '") && plan.contains("real server 10.0.0.11"), "{plan}");
}

/// Whatever becomes of the place that is written to: it is said, and what was captured can be read.
#[test]
fn a_place_that_fails_is_named_and_what_is_there_can_be_read() {
    if !inside("capture::a_place_that_fails_is_named_and_what_is_there_can_be_read") {
        return;
    }
    ip("link set lo up");
    let folder = tempfile::tempdir().expect("a folder");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            while !ended.load(Ordering::Relaxed) {
                let _ = socket.send_to(&[7; 900], "127.0.0.1:9");
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        // A disk that fills up.
        let (disk, copy) = (folder.path().join("disk"), folder.path().join("copy.pcapng"));
        std::fs::create_dir(&disk).expect("a folder");
        let script = format!(
            "mount -t tmpfs -o size=256k small {0} || exit 77\n{1} capture -i lo -w {0}/x.pcapng\nstatus=$?\ncp {0}/x.pcapng {2}\nexit $status",
            disk.display(),
            env!("CARGO_BIN_EXE_lvscope"),
            copy.display()
        );
        let out = Command::new("unshare").args(["-m", "sh", "-c", &script]).output();
        if let Ok(out) = out.as_ref().map_err(drop).and_then(|out| if out.status.code() == Some(77) { Err(()) } else { Ok(out) }) {
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(3) && said.contains("No space left") && said.contains("can be read"), "{said}");
            let (found, file) = frames(&copy);
            assert!(file.damage().is_empty() && found[0] > 100, "{found:?} {:?}", file.damage());
        }
        // A pipe with a name, whose reader has seen enough.
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()), "mkfifo(1)");
        let read_from = pipe.clone();
        let reader = scope.spawn(move || {
            let mut file = CaptureFile::open(&read_from).expect("a capture");
            (0..10).filter(|_| file.advance()).count()
        });
        let child = capture(&["-i".into(), "lo".into(), "-w".into(), pipe.display().to_string()]);
        assert_eq!(reader.join().expect("it reads"), 10);
        let out = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && said.contains("is gone"), "{said}");
        // Where nothing may be written, it is said before anything is captured.
        for place in ["/proc/version", "/no/such/folder/x.pcapng", "/"] {
            let out = Command::new(env!("CARGO_BIN_EXE_lvscope"))
                .args(["capture", "-i", "lo", "-c", "1", "-w", place])
                .output()
                .expect("lvscope runs");
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(3) && said.contains(&format!("cannot write {place}")), "{place}: {said}");
        }
        ended.store(true, Ordering::Relaxed);
    });
}

#[test]
fn an_interface_that_comes_back_is_captured_again() {
    if !inside("capture::an_interface_that_comes_back_is_captured_again") {
        return;
    }
    let make = || {
        for args in ["link add a0 type veth peer name b0", "link set a0 up", "link set b0 up", "addr add 10.9.0.1/24 dev a0"] {
            ip(args);
        }
    };
    ip("link set lo up");
    make();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.pcapng");
    let mut child = capture(&words(&format!("-i a0 -i lo -w {}", file.display())));
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut said = |word: &str| {
        let mut line = String::new();
        errors.read_line(&mut line).expect("a word");
        assert!(line.contains("a0: ") && line.contains(word), "{line}");
    };
    let send = || {
        let socket = UdpSocket::bind("10.9.0.1:0").expect("a socket");
        // An address that nobody has: ARP requests at least are on the wire.
        (0..5).for_each(|n| drop(socket.send_to(&[7; 50], format!("10.9.0.{}:9", 10 + n))));
        std::thread::sleep(Duration::from_millis(300));
    };
    send();
    // One that is down and comes up again never went away.
    ip("link set a0 down");
    ip("link set a0 up");
    send();
    ip("link del a0");
    said("until then");
    make();
    said("is back");
    send();
    let (output, _) = interrupt(child);
    let (found, file) = frames(&file);
    assert!(output.status.success() && file.interfaces().len() == 2 && found[0] >= 12, "{found:?} {output:?}");
}
