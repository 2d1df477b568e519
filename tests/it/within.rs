//! Tests that need a network of their own run themselves again, as root of an empty one.

use lvscope::lab::command;
use lvscope::lab::netns::Namespace;
use std::process::Command;

const MARK: &str = "LVSCOPE_TEST_WITHIN";

/// True inside. Outside it runs the test of this name inside, and says false; where user namespaces are forbidden, it says so.
pub fn inside(name: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let able = Command::new(env!("CARGO_BIN_EXE_lvscope")).args(["lab", "enter", "--", "true"]).output().expect("lvscope runs");
    if !able.status.success() {
        eprintln!("{name}: not run here: {}", String::from_utf8_lossy(&able.stderr));
        return false;
    }
    let test = std::env::current_exe().expect("a test binary");
    // With as many open files as may be: some have thousands of connections.
    let out = Command::new("sh")
        .args(["-c", "ulimit -n \"$(ulimit -H -n)\"; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_lvscope"), "lab", "enter", "--"])
        .arg(test)
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .output()
        .expect("lvscope runs");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "inside:\n{text}");
    false
}

/// `ip`, as the lab does it, in this namespace: the program need not be installed.
pub fn ip(words: &str) {
    let here = Namespace::current().expect("a namespace");
    command::run(&here, &format!("ip {words}")).unwrap_or_else(|e| panic!("{e}"));
}

/// `LVSCOPE_SLOW=1`: tests that take long are run as well, and others for longer.
pub fn slow() -> bool {
    std::env::var_os("LVSCOPE_SLOW").is_some()
}
