//! Audits of recorded hosts: what their state shows is named, and the healthy ones are quiet.

use crate::support::fixtures;
use lvscope::case::{parse_host, read_host};
use lvscope::finding::{Evidence, Finding, Severity};
use lvscope::host::{Fleet, Host};
use lvscope::rules::{Diagnosis, Facts, Verdict, diagnose};
use lvscope::trace::{Hints, Options, Tracer, role_of_name};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// What the recorded state of hosts shows, where that is not what the packets of the same case show: a mask that only matters to clients
/// of its own network; a name server's own address, a captured gateway, which are not in the state of a host.
const OTHERWISE: &[(&str, &[&str])] = &[("dr-lo-mask-24", &["DR002"])];

fn hosts(folder: &Path) -> Vec<Host> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.to_string_lossy().ends_with(".host.json"));
    files.sort();
    files.iter().map(|path| read_host(path).unwrap_or_else(|e| panic!("{e}"))).collect()
}

fn audit(hosts: Vec<Host>) -> Diagnosis {
    let trace = Tracer::new(Options::default()).finish();
    let fleet = Fleet::new(hosts, role_of_name, |_| None, &[]);
    diagnose(&Facts { trace: &trace, hints: &Hints::default(), fleet: &fleet })
}

fn faults(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|f| f.severity > Severity::Note).collect()
}

#[test]
fn every_recorded_state_tells_its_fault() {
    let (mut wrong, mut audited) = (String::new(), 0);
    for folder in fixtures() {
        let hosts = hosts(&folder);
        if hosts.is_empty() {
            continue;
        }
        audited += 1;
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let packets = lvscope::case::replay(&folder).unwrap_or_else(|e| panic!("{e}")).diagnosis;
        let diagnosis = audit(hosts);
        let found: BTreeSet<&str> = faults(&diagnosis.findings).iter().map(|f| f.code).collect();
        let other = OTHERWISE.iter().find(|(n, _)| *n == name).map(|(_, codes)| codes.iter().map(ToString::to_string).collect());
        // Causes that packets leave open are one fault; the hosts' state names one of them.
        let told =
            || faults(&packets.findings).into_iter().flat_map(|f| std::iter::once(&f.code).chain(&f.alternatives)).map(ToString::to_string);
        let allowed: BTreeSet<String> = other.unwrap_or_else(|| told().collect());
        let one = if allowed.is_empty() { found.is_empty() } else { found.len() == 1 && found.iter().all(|c| allowed.contains(*c)) };
        if !one {
            wrong += &format!("{name}: found {found:?}, of {allowed:?}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(audited > 40, "only {audited} fixtures have snapshots");
}

/// Every finding of a host is proven by a fact of a host, says how to mend it, and every command is on a host of the fleet.
#[test]
fn findings_are_proven_and_can_be_mended() {
    for folder in fixtures() {
        let hosts = hosts(&folder);
        let names: Vec<String> = hosts.iter().map(|h| h.name.clone()).collect();
        for finding in audit(hosts).findings {
            assert!(finding.evidence().iter().any(|e| matches!(e, Evidence::Host { .. })), "{} {}", folder.display(), finding.code);
            assert!(!finding.remedy.is_empty(), "{} {}: no remedy", folder.display(), finding.code);
            for remedy in &finding.remedy {
                // Those who heard something wrong are named by what they are.
                let known = |h: &str| h == "its neighbours" || names.iter().any(|n| n == h);
                assert!(remedy.host.split(", ").all(known), "{}: {}", finding.code, remedy.host);
                assert!(![&remedy.command, &remedy.permanent, &remedy.undo].iter().any(|t| t.is_empty()), "{}: {remedy:?}", finding.code);
            }
        }
    }
}

/// A host alone accuses nobody of more than the whole fleet does.
#[test]
fn one_host_alone_claims_no_more() {
    let mut wrong = String::new();
    for folder in fixtures() {
        let all = hosts(&folder);
        let whole: BTreeSet<&str> = faults(&audit(all.clone()).findings).iter().map(|f| f.code).collect();
        // A director of NAT that does not forward is wrong by itself; its real servers show that NAT is not meant.
        if whole.contains("NAT007") {
            continue;
        }
        for host in all {
            let name = host.name.clone();
            let diagnosis = audit(vec![host]);
            let more: Vec<&str> = faults(&diagnosis.findings)
                .iter()
                .filter(|f| f.severity > Severity::Risky && !whole.contains(f.code))
                .map(|f| f.code)
                .collect();
            if !more.is_empty() {
                wrong += &format!("{} {name}: {more:?}, of all hosts {whole:?}\n", folder.display());
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// What could not be read is never taken for healthy: without a section no rule that needs it says that all is well.
#[test]
fn what_is_absent_is_not_healthy() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/healthy/dr-ok");
    let whole = audit(hosts(&folder));
    assert!(faults(&whole.findings).is_empty());
    let passed =
        |d: &Diagnosis, code: &str| d.checks.iter().any(|c| c.code == code && c.host == "web1" && matches!(c.verdict, Verdict::Passed(_)));
    type Cut = fn(&mut Host);
    let cuts: [(&str, Cut); 5] = [
        ("ARP001", |h| h.sysctls = None),
        ("DR004", |h| h.routes = None),
        ("SVC004", |h| h.sockets = None),
        ("NET008", |h| h.netfilter = None),
        ("DR018", |h| h.sysctls = None),
    ];
    for (code, cut) in cuts {
        assert!(passed(&whole, code), "{code} on the whole host");
        let mut hosts = hosts(&folder);
        hosts.iter_mut().for_each(cut);
        let less = audit(hosts);
        assert!(!passed(&less, code), "{code} passed without its evidence");
        assert!(faults(&less.findings).is_empty(), "{code}: {:?}", less.findings);
    }
}

/// A snapshot cut anywhere, or with absurd values, is an error or a host; never a panic.
#[test]
fn damaged_snapshots() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/healthy/dr-ok/web1.host.json");
    let text = std::fs::read_to_string(file).unwrap();
    for len in (0..text.trim_end().len()).step_by(97).filter(|len| text.is_char_boundary(*len)) {
        assert!(parse_host(&text[..len]).is_err(), "{len}");
    }
    for (what, with) in [
        ("\"mtu\":1500", "\"mtu\":4294967295"),
        ("192.168.224.11", "0.0.0.0"),
        ("\"main\"", "7"),
        ("eth0", "lo"),
        ("192.168.224.10", "192.168.224.13"),
    ] {
        if let Ok(host) = parse_host(&text.replace(what, with)) {
            let _ = audit(vec![host]);
        }
    }
}

/// A thousand real servers of a healthy director.
fn large_fleet() -> Vec<Host> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/healthy/dr-ok");
    let template = hosts(&folder);
    let web = template.iter().find(|h| h.name == "web1").unwrap();
    let mut fleet: Vec<Host> = template.iter().filter(|h| h.name != "web1" && h.name != "web2").cloned().collect();
    let text = serde_json::to_string(web).unwrap();
    for n in 0..1000 {
        let (a, b) = (n / 200 + 100, n % 200 + 20);
        let own = text
            .replace("192.168.224.11\"", &format!("192.168.{a}.{b}\""))
            .replace("192.168.224.11/24", &format!("192.168.{a}.{b}/16"))
            .replace("52:54:00:00:04:01", &format!("52:54:00:01:{a:02x}:{b:02x}"));
        fleet.push(Host { name: format!("web{n}"), ..parse_host(&own).unwrap() });
    }
    let director = fleet.iter_mut().find(|h| h.name == "director").unwrap();
    let service = &mut director.ipvs.as_mut().unwrap().services[0];
    let first = service.destinations[0].clone();
    service.destinations = (0..1000)
        .map(|n| {
            let mut d = first.clone();
            d.address = format!("192.168.{}.{}:80", n / 200 + 100, n % 200 + 20).parse().unwrap();
            d
        })
        .collect();
    fleet
}

/// A thousand snapshots together.
#[test]
fn a_large_fleet_is_quick() {
    let fleet = large_fleet();
    let begun = Instant::now();
    let diagnosis = audit(fleet);
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    assert!(diagnosis.checks.len() > 5000);
}

/// What is wrong on hundreds of hosts fits a page or two: each fault once, with its hosts. A program still gets all of it.
#[test]
fn a_large_fleet_fits_a_page() {
    let mut fleet = large_fleet();
    for host in &mut fleet {
        match host.name.strip_prefix("web").and_then(|n| n.parse::<u32>().ok()) {
            Some(0..300) => {
                for (key, value) in &mut host.sysctls.as_mut().unwrap().0 {
                    if key.contains("arp_ignore") || key.contains("arp_announce") {
                        *value = "0".to_string();
                    }
                }
            }
            Some(400..450) => host.sockets = Some(Vec::new()),
            Some(453) => host.sockets = Some(Vec::new()),
            _ => {}
        }
    }
    let away = tempfile::tempdir().unwrap();
    for host in &fleet {
        std::fs::write(away.path().join(format!("{}.host.json", host.name)), serde_json::to_string(host).unwrap()).unwrap();
    }
    let folder = away.path().to_str().unwrap();
    let (code, page, _) = lvscope(&["audit", folder]);
    assert_eq!(code, 1, "{page}");
    assert!(page.lines().count() < 120, "{} lines:\n{page}", page.lines().count());
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    let first = page.lines().take(2).collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(first.starts_with("✗ ") && first.contains(" of 1,003 hosts with a fault: ") && first.contains("ARP001 on 300"), "{first}");
    for (code, count, names) in [("ARP001", "300 hosts", "  web0–web299"), ("SVC004", "51 hosts", "  web400–web449, web453")] {
        let head: Vec<&str> = page.lines().skip_while(|line| !line.starts_with(&format!("  {code} "))).take(2).collect();
        assert!(head[0].ends_with(count) && head[1] == names, "{head:?}");
        assert_eq!(page.lines().filter(|line| line.starts_with(&format!("  {code} "))).count(), 1, "{page}");
    }
    // In full for a program, and for those who ask of one host.
    let (_, text, _) = lvscope(&["audit", folder, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let leak = report["findings"].as_array().unwrap().iter().find(|f| f["code"] == "ARP001").unwrap();
    let proven: BTreeSet<&str> = leak["evidence"].as_array().unwrap().iter().filter_map(|e| e["host"].as_str()).collect();
    assert_eq!(proven.len(), 300);
    let (code, page, _) = lvscope(&["audit", folder, "--on", "web453"]);
    assert_eq!(code, 1);
    assert!(page.starts_with("✗ web453, real server") && page.contains("web453$ ss -lntu") && !page.contains("web400"), "{page}");
    let (code, line, _) = lvscope(&["audit", folder, "--exit-style", "nagios"]);
    assert_eq!((code, line.lines().next().unwrap().len() < 400), (2, true), "{line}");
    let (code, _, complaint) = lvscope(&["audit", folder, "--on", "nobody"]);
    assert_eq!((code, complaint.contains("--on nobody: no snapshot")), (2, true), "{complaint}");
}

fn lvscope(args: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_lvscope")).args(args).env("NO_COLOR", "1").env("COLUMNS", "80").output().unwrap();
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// The commands, from the texts of hosts to the exit status.
#[test]
fn imports_and_audits() {
    let away = tempfile::tempdir().unwrap();
    let (texts, out) = (away.path().join("texts"), away.path().join("out"));
    std::fs::create_dir(&texts).unwrap();
    let write = |name: &str, text: &str| std::fs::write(texts.join(name), text).unwrap();
    write(
        "web.1.addr.json",
        r#"[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP"],"mtu":65536,"link_type":"loopback","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host"},{"family":"inet","local":"10.0.0.13","prefixlen":32,"scope":"global"}]},{"ifindex":2,"ifname":"eth0","flags":["UP","LOWER_UP"],"mtu":1500,"link_type":"ether","address":"52:54:00:00:00:01","addr_info":[{"family":"inet","local":"10.0.0.11","prefixlen":24,"scope":"global"}]}]"#,
    );
    write(
        "web.1.sysctl.txt",
        "net.ipv4.conf.all.arp_ignore = 0\nnet.ipv4.conf.eth0.arp_ignore = 0\nnet.ipv4.conf.lo.arp_ignore = 1\nnet.ipv4.conf.all.arp_announce = 2\nnet.ipv4.conf.eth0.arp_announce = 0\n",
    );
    write("web.1.arptables.txt", "");
    let (texts, out) = (texts.to_str().unwrap(), out.to_str().unwrap());
    let (code, listed, _) = lvscope(&["snapshot", "import", texts, "--out", out]);
    assert_eq!((code, listed.trim()), (0, format!("{out}/web.1.host.json").as_str()));
    let (code, page, _) = lvscope(&["audit", out]);
    assert_eq!(code, 1, "{page}");
    assert!(page.contains("ARP003 arp-sysctl-on-wrong-interface") && page.contains("net.ipv4.conf.lo.arp_ignore=1: no effect"), "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    let (code, line, _) = lvscope(&["audit", out, "--exit-style", "nagios"]);
    assert_eq!((code, line.lines().next().unwrap().starts_with("LVSCOPE CRITICAL - ARP003")), (2, true), "{line}");
    let (_, sarif, _) = lvscope(&["audit", out, "--sarif", "-"]);
    let sarif: serde_json::Value = serde_json::from_str(&sarif).unwrap();
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "ARP003");
    let (_, junit, _) = lvscope(&["audit", out, "--junit", "-"]);
    assert!(junit.contains("<failure") && junit.contains("<skipped"), "{junit}");
    let (code, _, complaint) = lvscope(&["audit", texts]);
    assert_eq!(code, 3);
    assert!(complaint.contains("no snapshot in this folder"), "{complaint}");
    let (code, _, _) = lvscope(&["audit", out, "--role", "nobody=director"]);
    assert_eq!(code, 2);
}

/// The report of an audit keeps to the schema.
#[test]
fn the_json_report_keeps_its_contract() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(root.join("docs/report.schema.json")).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let folder = root.join("fixtures/faults/dr-arp-leak");
    let (_, text, _) = lvscope(&["audit", folder.to_str().unwrap(), "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let errors: Vec<String> = validator.iter_errors(&report).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!(report["findings"][0]["evidence"][0]["kind"], "host");
    assert!(report["checks"].as_array().is_some_and(|c| c.len() > 20));
}

/// The host that shows the cause settles what packets leave open.
#[test]
fn hosts_settle_what_packets_leave_open() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/faults");
    for (case, code) in [
        ("dr-no-gateway", "DR004"),
        ("dr-no-vip-on-rs", "DR001"),
        ("dr-rs-rp-filter", "DR018"),
        ("nat-rs-firewall-drop", "NET008"),
        ("dr-lo-mask-24-snat", "DR002"),
    ] {
        let folder = root.join(case);
        let mut captures: Vec<String> =
            std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path().display().to_string()).filter(|n| n.contains(".pcap")).collect();
        captures.sort();
        let mut args = vec!["diagnose", "--json", "--host", folder.to_str().unwrap()];
        args.extend(captures.iter().map(String::as_str));
        let (_, text, complaint) = lvscope(&args);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{case}: {e} {complaint}"));
        let told: Vec<(&str, &str)> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|f| f["severity"] != "note")
            .map(|f| (f["code"].as_str().unwrap(), f["confidence"].as_str().unwrap()))
            .collect();
        assert_eq!(told, [(code, "certain")], "{case}");
        let kinds: BTreeSet<&str> = report["findings"].as_array().unwrap().iter().find(|f| f["code"] == code).unwrap()["evidence"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["kind"].as_str().unwrap())
            .collect();
        assert!(kinds.contains("host") && kinds.contains("frames"), "{case}: both proofs: {kinds:?}");
    }
}
