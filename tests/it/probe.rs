//! Questions to the wire, asked in the lab: every answerer is found, a dead virtual address is told from a green health check, and nothing
//! stays half open.

use crate::within::inside;
use lvscope::lab::catalogue;
use lvscope::lab::netns::Namespace;
use lvscope::lab::play::Stage;
use serde_json::Value;
use std::process::Command;

/// Runs `lvscope probe` on a host.
fn probe(host: &Namespace, args: &str) -> (i32, Value) {
    let out = host
        .run(|| Command::new(env!("CARGO_BIN_EXE_lvscope")).arg("probe").args(args.split(' ')).arg("--json").output())
        .expect("a namespace")
        .expect("lvscope runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let report = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args}: {e}: {said}"));
    (out.status.code().expect("a code"), report)
}

fn on(scenario: &str, work: impl FnOnce(&Stage<'_>)) {
    let scenario = catalogue::open(scenario).expect("a scenario");
    work(&Stage::set(&scenario).expect("a stage"));
}

fn namespace<'a>(stage: &'a Stage<'_>, host: &str) -> &'a Namespace {
    &stage.network.host(host).expect("a host").namespace
}

#[test]
fn all_who_answer_are_found() {
    if !inside("probe::all_who_answer_are_found") {
        return;
    }
    on("dr-routed-ok", |stage| {
        let (code, report) = probe(namespace(stage, "router"), "arp 203.0.113.80 -i int --wait 300ms");
        let claimants = report["claimants"].as_array().expect("claimants");
        assert_eq!((code, claimants.len(), claimants[0]["answers"].as_u64()), (0, 1, Some(3)), "{report}");
    });
    on("dr-arp-leak", |stage| {
        let router = namespace(stage, "router");
        let (code, report) = probe(router, "arp 203.0.113.80 --wait 300ms");
        let claimants = report["claimants"].as_array().expect("claimants");
        assert_eq!((code, claimants.len()), (1, 2), "{report}");
        assert!(claimants.iter().all(|claimant| claimant["answers"] == 3), "{report}");
        // Who is the director tells who leaks.
        let (code, report) = probe(router, "arp 203.0.113.80 --wait 300ms --director 203.0.113.2");
        let wrong: Vec<&Value> =
            report["claimants"].as_array().expect("claimants").iter().filter(|claimant| claimant["director"] == false).collect();
        let web1 = stage.network.host("web1").expect("a host").interfaces[0].1.to_string();
        assert_eq!((code, wrong.len(), wrong[0]["mac"].as_str()), (1, 1, Some(web1.as_str())), "{report}");
    });
}

/// Half-open connections: SYN_RECV in /proc/net/tcp.
fn half_open(host: &Namespace) -> usize {
    let table = host.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp")).expect("a namespace").expect("/proc");
    table.lines().skip(1).filter(|line| line.split_whitespace().nth(3) == Some("03")).count()
}

#[test]
fn a_dead_virtual_address_is_told_from_a_green_health_check() {
    if !inside("probe::a_dead_virtual_address_is_told_from_a_green_health_check") {
        return;
    }
    let ask = "service 192.168.224.13:80 -i int --wait 300ms --real-server";
    for (scenario, outcomes, health) in [
        ("dr-ok", &["serves"][..], None),
        ("dr-no-vip", &["silence", "sent-back"], Some("serves")),
        ("dr-rip-only", &["refuses"], Some("serves")),
    ] {
        on(scenario, |stage| {
            let (code, report) = probe(namespace(stage, "router"), &format!("{ask} 192.168.224.11"));
            assert!(outcomes.contains(&report["outcome"].as_str().expect("an outcome")), "{scenario}: {report}");
            assert_eq!((report["own_address"].as_str(), code), (health, i32::from(scenario != "dr-ok")), "{scenario}: {report}");
            // The healthy neighbour is healthy in each of them.
            let (code, report) = probe(namespace(stage, "router"), &format!("{ask} 192.168.224.12"));
            assert_eq!((code, report["outcome"].as_str()), (0, Some("serves")), "{scenario}: {report}");
            assert_eq!(half_open(namespace(stage, "web1")) + half_open(namespace(stage, "web2")), 0, "{scenario}: left half open");
        });
    }
}

#[test]
fn with_nat_its_own_address_is_asked() {
    if !inside("probe::with_nat_its_own_address_is_asked") {
        return;
    }
    on("nat-ok", |stage| {
        // The built-in director's kernel has no wires: a neighbour asks in its place.
        let (code, report) =
            probe(namespace(stage, "web2"), "service 192.168.2.59:80 --method nat --wait 300ms --real-server 192.168.224.11");
        assert_eq!(
            (code, report["outcome"].as_str(), report["asked"].as_str()),
            (0, Some("serves"), Some("192.168.224.11:80")),
            "{report}"
        );
        assert_eq!(half_open(namespace(stage, "web1")), 0);
    });
}

#[test]
fn tunnels_are_asked_through() {
    if !inside("probe::tunnels_are_asked_through") {
        return;
    }
    let ask = "service 203.0.113.80:80 --method tun -i back --wait 300ms --real-server";
    for (scenario, serves) in [("tun-ok", true), ("tun-no-vip", false), ("tun-no-decap", false)] {
        on(scenario, |stage| {
            let (code, report) = probe(namespace(stage, "router"), &format!("{ask} 172.31.5.11"));
            assert_eq!((code == 0, report["outcome"] == "serves"), (serves, serves), "{scenario}: {report}");
            // What a health check would have said.
            assert!(serves || report["own_address"] == "serves", "{scenario}: {report}");
            assert_eq!(half_open(namespace(stage, "web1")), 0, "{scenario}");
        });
    }
}

#[test]
fn neighbour_discovery_is_asked_as_well() {
    if !inside("probe::neighbour_discovery_is_asked_as_well") {
        return;
    }
    for (scenario, answerers) in [("dr6-ok", 1), ("dr6-vip-on-nic", 2)] {
        on(scenario, |stage| {
            let router = namespace(stage, "router");
            let (code, report) = probe(router, "nd 2001:db8:2::80 -i int --wait 300ms");
            let claimants = report["claimants"].as_array().expect("claimants").len();
            assert!(
                claimants >= answerers && (claimants == 1) == (answerers == 1) && (code == 0) == (answerers == 1),
                "{scenario}: {report}"
            );
            let (code, report) = probe(router, "service [2001:db8:2::80]:80 -i int --wait 300ms --real-server 2001:db8:2::11");
            assert_eq!((code, report["outcome"].as_str()), (0, Some("serves")), "{scenario}: {report}");
        });
    }
}
