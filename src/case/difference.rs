//! Where what came out differs from what had to, in lines for a person.

use super::expectation::{Expectation, FlowGroup, accuses};
use crate::finding::Finding;
use crate::ipvs::Role;
use std::collections::BTreeMap;

/// What differs about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The thing: `findings`, `roles`, a flow.
    pub about: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// A line of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Had to be there, and is not: `-`.
    Expected(String),
    /// Is there, and had not to be: `+`.
    Found(String),
    /// Is as it had to be, and stands here for the reader.
    Same(String),
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Line::Expected(text) => write!(f, "- {text}"),
            Line::Found(text) => write!(f, "+ {text}"),
            Line::Same(text) => write!(f, "  {text}"),
        }
    }
}

/// Compares findings.
pub(super) fn findings(expect: &Expectation, found: &[Finding]) -> Option<Difference> {
    let mut lines = Vec::new();
    let tell = |finding: &Finding| {
        let Finding { code, severity, confidence, subject, summary, .. } = finding;
        format!("{code} {severity} {confidence}  {subject}: {summary}")
    };
    let listed = |finding: &Finding| expect.findings.iter().any(|wanted| wanted.fits(finding));
    for wanted in expect.findings.iter().filter(|wanted| !found.iter().any(|finding| wanted.fits(finding))) {
        lines.push(Line::Expected(wanted.to_string()));
        // The same code with another weight is most likely the same finding, changed: it stands beside the one that is missed.
        let changed = found.iter().filter(|finding| wanted.code == *finding.code && !listed(finding));
        let changed: Vec<Line> = changed.map(|finding| Line::Found(tell(finding))).filter(|line| !lines.contains(line)).collect();
        lines.extend(changed);
    }
    for finding in found {
        let line = Line::Found(tell(finding));
        if expect.not_yet.iter().any(|code| *code == *finding.code) {
            lines.extend([Line::Expected(format!("{} not found yet", finding.code)), line]);
        } else if accuses(finding) && !listed(finding) && !expect.may.iter().any(|code| *code == *finding.code) && !lines.contains(&line) {
            lines.push(line);
        }
    }
    (!lines.is_empty()).then(|| Difference { about: "findings".to_string(), lines })
}

/// Compares the roles of hosts that are known with both.
pub(super) fn roles(expect: &BTreeMap<String, Role>, found: &BTreeMap<String, Role>) -> Option<Difference> {
    let mut lines = Vec::new();
    for (host, role) in found {
        if let Some(wanted) = expect.get(host)
            && wanted != role
            && *wanted != Role::Unknown
            && *role != Role::Unknown
        {
            lines.extend([Line::Expected(format!("{host} is a {wanted}")), Line::Found(format!("{host} is a {role}"))]);
        }
    }
    (!lines.is_empty()).then(|| Difference { about: "roles".to_string(), lines })
}

/// Compares flows: those that are alike are paired, and what differs in a pair is shown.
pub(super) fn flows(expect: &[FlowGroup], found: &[FlowGroup]) -> Vec<Difference> {
    let same = |a: &FlowGroup, b: &FlowGroup| {
        // Where no clients are written down, any will do.
        a == b || (a.clients.is_empty() && FlowGroup { clients: Vec::new(), ..b.clone() } == *a)
    };
    let mut left: Vec<&FlowGroup> = found.iter().collect();
    let mut missed: Vec<&FlowGroup> = Vec::new();
    for wanted in expect {
        match left.iter().position(|group| same(wanted, group)) {
            Some(at) => _ = left.remove(at),
            None => missed.push(wanted),
        }
    }
    let mut differences = Vec::new();
    for wanted in missed {
        let best = left.iter().enumerate().map(|(at, group)| (likeness(wanted, group), at)).max_by_key(|(l, at)| (*l, usize::MAX - at));
        match best {
            Some((likeness, at)) if likeness >= ALIKE => differences.push(pair(wanted, left.remove(at))),
            _ => differences.push(Difference { about: name(wanted), lines: whole(wanted).into_iter().map(Line::Expected).collect() }),
        }
    }
    let rest = left.into_iter().map(|group| Difference { about: name(group), lines: whole(group).into_iter().map(Line::Found).collect() });
    differences.extend(rest);
    differences
}

/// From here on two groups of flows are the same ones, changed.
const ALIKE: usize = 4;

fn likeness(a: &FlowGroup, b: &FlowGroup) -> usize {
    let clients = a.clients.iter().filter(|client| b.clients.contains(client)).count();
    let same = [a.service == b.service, a.real_server == b.real_server, a.method == b.method, a.state == b.state, a.count == b.count];
    if a.protocol != b.protocol {
        return 0;
    }
    clients * ALIKE + usize::from(a.service == b.service) * 2 + same.iter().filter(|same| **same).count()
}

fn name(group: &FlowGroup) -> String {
    let who = match (group.clients.first(), group.count) {
        (Some(client), 1) => client.clone(),
        (Some(client), n) => format!("{client} and {} more", n - 1),
        (None, 1) => "1 client".to_string(),
        (None, n) => format!("{n} clients"),
    };
    format!("flow {} {who} > {}", group.protocol, group.service)
}

/// A group's properties in a line each, without its hops.
fn properties(group: &FlowGroup) -> Vec<String> {
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_string());
    let list = |what: &str, items: &[String]| format!("{what:<12} {}", items.join(" "));
    let mut lines = vec![format!("{:<12} {}", "count", group.count)];
    if !group.clients.is_empty() {
        lines.push(list("clients", &group.clients));
    }
    lines.push(format!("{:<12} {}", "service", group.service));
    lines.push(format!("{:<12} {}", "vip", or_unknown(&group.vip)));
    lines.push(format!("{:<12} {}", "real server", or_unknown(&group.real_server)));
    lines.push(format!("{:<12} {}", "method", group.method));
    lines.push(format!("{:<12} {}", "state", group.state));
    lines
}

fn hops<'a>(way: &'a str, hops: &'a [String]) -> impl Iterator<Item = String> + 'a {
    hops.iter().map(move |hop| format!("{way:<12} {hop}"))
}

fn whole(group: &FlowGroup) -> Vec<String> {
    let mut lines = properties(group);
    lines.extend(hops("request", &group.request));
    lines.extend(hops("reply", &group.reply));
    lines
}

/// What differs between two groups that are the same flows.
fn pair(expect: &FlowGroup, found: &FlowGroup) -> Difference {
    let mut lines = Vec::new();
    let clients = |group: &FlowGroup| if expect.clients.is_empty() { Vec::new() } else { group.clients.clone() };
    let bare = |group: &FlowGroup| properties(&FlowGroup { clients: clients(group), ..group.clone() });
    for (a, b) in aligned(&bare(expect), &bare(found)) {
        match (a, b) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => lines.extend(a.map(Line::Expected).into_iter().chain(b.map(Line::Found))),
        }
    }
    for (way, a, b) in [("request", &expect.request, &found.request), ("reply", &expect.reply, &found.reply)] {
        if a != b {
            let (a, b): (Vec<String>, Vec<String>) = (hops(way, a).collect(), hops(way, b).collect());
            lines.extend(changes(&a, &b));
        }
    }
    Difference { about: name(expect), lines }
}

/// Lines with the same first word, side by side.
fn aligned(a: &[String], b: &[String]) -> Vec<(Option<String>, Option<String>)> {
    let word = |line: &str| line.get(..12).unwrap_or(line).to_string();
    let mut out: Vec<(Option<String>, Option<String>)> =
        a.iter().map(|x| (Some(x.clone()), b.iter().find(|y| word(y) == word(x)).cloned())).collect();
    out.extend(b.iter().filter(|y| a.iter().all(|x| word(x) != word(y))).map(|y| (None, Some(y.clone()))));
    out
}

/// The shortest way from `a` to `b`, by their longest common part; both are a few lines.
fn changes(a: &[String], b: &[String]) -> Vec<Line> {
    let mut common = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push(Line::Same(a[i].clone()));
            (i, j) = (i + 1, j + 1);
        } else if j >= b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(Line::Expected(a[i].clone()));
            i += 1;
        } else {
            lines.push(Line::Found(b[j].clone()));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Confidence, Evidence, Severity};

    fn finding(code: &'static str, severity: Severity, confidence: Confidence) -> Finding {
        let mut finding = Finding::new("web1", severity, confidence, "it is so", Evidence::absence(0, "nothing"));
        finding.code = code;
        finding
    }

    fn text(difference: &Difference) -> String {
        difference.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn findings_missing_and_too_many() {
        let found = [
            finding("NAT001", Severity::Broken, Confidence::Possible),
            finding("NAT002", Severity::Broken, Confidence::Likely),
            finding("NAT003", Severity::Risky, Confidence::Certain),
            finding("NAT005", Severity::Broken, Confidence::Likely),
        ];
        let mut expect = Expectation {
            findings: vec!["NAT001 likely".parse().unwrap(), "ARP001".parse().unwrap()],
            may: vec!["NAT005".parse().unwrap()],
            ..Expectation::default()
        };
        let difference = findings(&expect, &found).unwrap();
        let lines = "- NAT001 likely\n+ NAT001 broken possible  web1: it is so\n- ARP001\n+ NAT002 broken likely  web1: it is so\n";
        assert_eq!(text(&difference), lines);
        expect.findings = vec!["NAT001".parse().unwrap(), "NAT002 degraded".parse().unwrap()];
        let lines = "- NAT002 degraded\n+ NAT002 broken likely  web1: it is so\n";
        assert_eq!(text(&findings(&expect, &found).unwrap()), lines, "once, though it is both changed and too much");
        let two = [finding("NAT002", Severity::Degraded, Confidence::Certain), found[1].clone()];
        expect.findings = vec!["NAT002 degraded".parse().unwrap()];
        assert_eq!(text(&findings(&expect, &two).unwrap()), "+ NAT002 broken likely  web1: it is so\n", "a listed code is no licence");
        expect.findings = vec!["NAT001".parse().unwrap(), "NAT002 broken".parse().unwrap()];
        assert_eq!(findings(&expect, &found), None);
        expect.not_yet = vec!["NAT003".parse().unwrap()];
        assert!(text(&findings(&expect, &found).unwrap()).starts_with("- NAT003 not found yet\n+ NAT003 risky certain"));
    }

    fn group(server: &str, clients: &[&str]) -> FlowGroup {
        FlowGroup {
            count: clients.len() as u64,
            clients: clients.iter().map(ToString::to_string).collect(),
            service: "10.0.0.1:80".to_string(),
            real_server: Some(server.to_string()),
            method: "nat".to_string(),
            state: "closed".to_string(),
            request: vec!["client.eth0".to_string(), "director.int: dst-ip ttl".to_string(), "web1.eth0".to_string()],
            ..FlowGroup::default()
        }
    }

    #[test]
    fn a_pair_of_flows_shows_what_differs() {
        let expect = [group("10.0.0.11:80", &["1.1.1.1:1"]), group("10.0.0.12:80", &["1.1.1.1:2"])];
        let mut found = [expect[1].clone(), expect[0].clone()];
        assert_eq!(flows(&expect, &found), [], "the order does not matter");
        found[0].real_server = None;
        found[0].request[1] = "director.int: ttl".to_string();
        let differences = flows(&expect, &found);
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert_eq!(differences[0].about, "flow tcp 1.1.1.1:2 > 10.0.0.1:80");
        let lines = "- real server  10.0.0.12:80\n+ real server  unknown\n  request      client.eth0\n\
            - request      director.int: dst-ip ttl\n+ request      director.int: ttl\n  request      web1.eth0\n";
        assert_eq!(text(&differences[0]), lines);
    }

    #[test]
    fn flows_that_nobody_expects() {
        let one = group("10.0.0.11:80", &["1.1.1.1:1"]);
        let differences = flows(&[], std::slice::from_ref(&one));
        assert!(text(&differences[0]).starts_with("+ count        1\n+ clients      1.1.1.1:1\n"), "{differences:?}");
        assert!(text(&flows(&[one], &[])[0]).contains("- method       nat\n"));
    }

    #[test]
    fn clients_need_not_be_written_down() {
        let expect = [FlowGroup { clients: Vec::new(), ..group("10.0.0.11:80", &["1.1.1.1:1", "1.1.1.1:2"]) }];
        assert_eq!(flows(&expect, &[group("10.0.0.11:80", &["1.1.1.1:5", "1.1.1.1:6"])]), []);
        assert_eq!(flows(&expect, &[group("10.0.0.11:80", &["1.1.1.1:5"])]).len(), 1);
    }

    #[test]
    fn roles_that_contradict() {
        let named = |role| BTreeMap::from([("a".to_string(), role)]);
        assert_eq!(roles(&named(Role::Director), &named(Role::Unknown)), None);
        assert_eq!(text(&roles(&named(Role::Director), &named(Role::Router)).unwrap()), "- a is a director\n+ a is a router\n");
    }
}
