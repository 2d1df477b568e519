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
    let (notes, routed) = (["192.168.224.13", "192.168.224.11", "192.168.224.12"], ["203.0.113.80", "203.0.113.11", "203.0.113.12"]);
    for (scenario, [vip, first, second], outcomes, health) in [
        ("dr-ok", notes, &["serves"][..], None),
        ("dr-no-vip", notes, &["silence", "sent-back"], Some("serves")),
        ("dr-rip-only", routed, &["refuses"], Some("serves")),
    ] {
        let ask = format!("service {vip}:80 -i int --wait 300ms --real-server");
        on(scenario, |stage| {
            let (code, report) = probe(namespace(stage, "router"), &format!("{ask} {first}"));
            assert!(outcomes.contains(&report["outcome"].as_str().expect("an outcome")), "{scenario}: {report}");
            assert_eq!((report["own_address"].as_str(), code), (health, i32::from(scenario != "dr-ok")), "{scenario}: {report}");
            // The healthy neighbour is healthy in each of them.
            let (code, report) = probe(namespace(stage, "router"), &format!("{ask} {second}"));
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

/// A tunnel of the wrong kind is a dead virtual address, too.
#[test]
fn tunnels_of_another_kind_are_told() {
    if !inside("probe::tunnels_of_another_kind_are_told") {
        return;
    }
    on("tun-gre", |stage| {
        let router = namespace(stage, "router");
        let ask = "service 203.0.113.80:80 --method tun -i back --wait 300ms --real-server 172.31.5.11";
        let (code, report) = probe(router, ask);
        assert_eq!((code, report["outcome"].as_str()), (0, Some("serves")), "it takes IPIP: {report}");
        for other in ["gre", "gue"] {
            let (code, report) = probe(router, &format!("{ask} --tunnel {other}"));
            assert!(code == 1 && report["outcome"] != "serves" && report["own_address"] == "serves", "{other}: {report}");
        }
    });
}

/// As if from a client elsewhere: the answer goes where a client's would.
#[test]
fn a_clients_answers_come_by_the_gateway() {
    if !inside("probe::a_clients_answers_come_by_the_gateway") {
        return;
    }
    let ask = "service 192.168.224.13:80 -i int --wait 300ms --real-server 192.168.224.11 --from 192.168.2.77";
    for (scenario, fine) in [("dr-ok", true), ("dr-no-gateway", false)] {
        on(scenario, |stage| {
            let (code, report) = probe(namespace(stage, "router"), ask);
            assert_eq!((code == 0, report["outcome"] == "serves"), (fine, fine), "{scenario}: {report}");
            assert_eq!(half_open(namespace(stage, "web1")), 0, "{scenario}");
        });
    }
}

/// Each fault of a real server in the lab's topologies that a probe can see; and silence on those that are well.
#[test]
fn each_dead_real_server_is_found() {
    if !inside("probe::each_dead_real_server_is_found") {
        return;
    }
    let dr = "service 192.168.224.13:80 -i int --wait 300ms --real-server";
    let routed = "service 203.0.113.80:80 -i int --wait 300ms --real-server";
    for (scenario, ask, web1, web2) in [
        ("dr-ok", dr, "192.168.224.11 ok", "192.168.224.12 ok"),
        ("dr-server-down", routed, "203.0.113.11 ok", "203.0.113.12 bad"),
        ("dr-rs-drops", routed, "203.0.113.11 ok", "203.0.113.12 bad"),
        ("dr-rs-rejects", dr, "192.168.224.11 ok", "192.168.224.12 bad"),
        ("dr-arptables-ok", routed, "203.0.113.11 ok", "203.0.113.12 ok"),
        ("dr-routed-ok", routed, "203.0.113.11 ok", "203.0.113.12 ok"),
        ("dr-routed-no-vip", routed, "203.0.113.11 bad", "203.0.113.12 bad"),
    ] {
        on(scenario, |stage| {
            for want in [web1, web2] {
                let (server, fine) = want.split_once(' ').expect("two words");
                let (code, report) = probe(namespace(stage, "router"), &format!("{ask} {server}"));
                assert_eq!(code == 0, fine == "ok", "{scenario}, {server}: {report}");
            }
            for server in ["web1", "web2"] {
                assert_eq!(half_open(namespace(stage, server)), 0, "{scenario}, {server}: left half open");
            }
        });
    }
}

#[test]
fn a_path_is_what_a_client_sees() {
    if !inside("probe::a_path_is_what_a_client_sees") {
        return;
    }
    let ask = |stage: &Stage<'_>, service: &str| {
        probe(namespace(stage, "client"), &format!("path --service {service} --count 6 --interval 100ms --wait 1s"))
    };
    let ends = |report: &Value, end: &str| report["attempts"].as_array().expect("attempts").iter().filter(|a| a["end"] == end).count();
    for (scenario, service) in [("nat-ok", "192.168.2.59:80"), ("dr-ok", "192.168.2.59:80")] {
        on(scenario, |stage| {
            let (code, report) = ask(stage, service);
            assert_eq!((code, report["open"].as_u64(), report["fine"].as_bool()), (0, Some(6), Some(true)), "{scenario}: {report}");
            let servers = report["servers"].as_array().expect("servers");
            assert!(
                servers.len() <= 2 && servers.iter().filter_map(|s| s["connections"].as_u64()).sum::<u64>() == 6,
                "{scenario}: {report}"
            );
            assert_eq!(half_open(namespace(stage, "web1")) + half_open(namespace(stage, "web2")), 0, "{scenario}");
        });
    }
    on("dr-server-down", |stage| {
        let (code, report) = ask(stage, "203.0.113.80:80");
        assert_eq!((code, report["open"].as_u64(), ends(&report, "refused")), (1, Some(3), 3), "{report}");
    });
    on("nat-rs-no-gateway", |stage| {
        let (code, report) = ask(stage, "192.168.2.59:80");
        assert!(code == 1 && ends(&report, "no answer") > 0, "{report}");
    });
    on("nat-client-on-server-net", |stage| {
        let client = namespace(stage, "client");
        let (code, report) = probe(client, "path --service 192.168.2.59:80 --count 2 --interval 100ms --wait 1s");
        let odd = report["oddities"].to_string();
        assert!(code == 1 && odd.contains("past the director"), "{report}");
    });
    // Nothing is sent faster, or to nobody.
    on("nat-ok", |stage| {
        let begun = std::time::Instant::now();
        let (code, _) = probe(namespace(stage, "client"), "path --service 192.168.2.59:80 --count 5 --interval 1ms");
        assert!(code == 0 && begun.elapsed() >= std::time::Duration::from_millis(400));
    });
}
