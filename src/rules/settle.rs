//! Packets and hosts together: what packets leave open, the host that shows the cause settles.
//!
//! A cause that both show is certain, with both proofs. A cause that the host shows takes over the packets of a finding that only named it
//! among others. Causes that the host's facts exclude are struck out.

use super::{Diagnosis, Facts, Verdict, name_of};
use crate::finding::{Confidence, Evidence, Finding, Severity};

pub(super) fn settle(diagnosis: &mut Diagnosis, on_hosts: Vec<Finding>, facts: &Facts<'_>) {
    let mut hosts = on_hosts;
    let packets = std::mem::take(&mut diagnosis.findings);
    for mut finding in packets {
        explain(&mut finding, &mut hosts);
        let subjects = snapshots_of(&finding, facts);
        // What is about an address is settled by a host whose own fault is about it.
        let tells_of = |h: &Finding| finding.alternatives.contains(&h.code) && words(&h.summary).any(|word| word == finding.subject);
        if subjects.is_empty() && !hosts.iter().any(|h| h.code == finding.code || tells_of(h)) {
            diagnosis.findings.push(finding);
            continue;
        }
        let concerns = |h: &Finding| h.subject.split(", ").any(|s| subjects.iter().any(|name| name == s));
        let names =
            |h: &Finding| h.code == finding.code || finding.alternatives.contains(&h.code) || NARROWS.contains(&(h.code, finding.code));
        // Whose fault it is can be another host's: the director's table, a second owner of the address.
        let elsewhere = |code: &str| {
            ["SVC", "HA"].iter().any(|family| code.starts_with(family))
                || matches!(code, "NAT007" | "NAT014" | "DR007" | "ARP007" | "ARP012")
        };
        let settles = |h: &Finding| h.severity > Severity::Note && names(h) && (concerns(h) || elsewhere(h.code) || tells_of(h));
        // What a host notes of one of the causes is further proof of it, and decides nothing.
        let noted = hosts.iter().filter(|h| h.severity == Severity::Note && finding.alternatives.contains(&h.code) && concerns(h));
        let noted: Vec<Evidence> = noted.flat_map(|h| h.evidence().to_vec()).collect();
        let own = hosts.iter().position(|h| {
            h.code == finding.code && (concerns(h) || subjects.is_empty() || elsewhere(h.code) || speaks_of(&finding, &h.subject, facts))
        });
        if let Some(at) = own.or_else(|| hosts.iter().position(settles)) {
            take_over(&mut hosts[at], finding);
            continue;
        }
        let settled = strike_out(finding.and(noted), &subjects, diagnosis.checks.as_slice());
        // Where no other cause is left before it, the note has become the finding.
        let is_told = |h: &Finding| {
            h.severity == Severity::Note && h.code == settled.code && h.subject.split(", ").all(|s| subjects.iter().any(|name| name == s))
        };
        hosts.retain(|h| !is_told(h));
        diagnosis.findings.push(settled);
    }
    diagnosis.findings.extend(hosts);
}

/// Names of the snapshots of the hosts that a finding is about.
fn snapshots_of(finding: &Finding, facts: &Facts<'_>) -> Vec<String> {
    let snapshot = |subject: &str| {
        let by_name = || facts.fleet.by_name(subject);
        let traced = facts.trace.hosts.iter().find(|h| h.name == subject);
        let by_mac = traced.and_then(|h| facts.fleet.by_mac(&h.macs));
        by_mac.or_else(by_name).map(|at| facts.fleet.members[at].host.name.clone())
    };
    finding.subject.split(", ").filter_map(snapshot).collect()
}

/// What packets show to have happened, and what of it a host still shows: the second is no fault beside the first.
const EXPLAINS: [(&str, &str); 1] = [("HA002", "ARP007")];

/// What a host shows to be the exact form of what packets prove: no device that takes the tunnel, for those that are there wait for another.
const NARROWS: [(&str, &str); 1] = [("TUN006", "TUN001")];

/// Takes in what hosts show of a story that packets tell about the same address.
fn explain(finding: &mut Finding, hosts: &mut Vec<Finding>) {
    let (code, subject) = (finding.code, finding.subject.clone());
    let follows = |h: &Finding| EXPLAINS.contains(&(code, h.code)) && words(&h.summary).any(|word| word == subject);
    while let Some(at) = hosts.iter().position(follows) {
        let shown = hosts.remove(at);
        let evidence = shown.evidence().to_vec();
        *finding = finding.clone().and(evidence).mend(shown.remedy);
        finding.confidence = Confidence::Certain;
        (finding.alternatives, finding.settle) = (Vec::new(), None);
    }
}

/// What may be addresses in a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_address = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':');
    text.split(move |c| !is_address(c)).map(|word| word.trim_end_matches(['.', ':']))
}

/// True when a finding's words name an address of a host: it is asked for in vain, say, by the host that the finding is about.
fn speaks_of(finding: &Finding, host: &str, facts: &Facts<'_>) -> bool {
    let Some(at) = facts.fleet.by_name(host) else { return false };
    let words: Vec<&str> = words(&finding.summary).collect();
    facts.fleet.members[at].host.addresses().iter().filter(|a| a.is_global()).any(|a| words.contains(&a.addr.addr().to_string().as_str()))
}

/// The host's finding keeps its words and gets the packets as further proof.
fn take_over(host: &mut Finding, packets: Finding) {
    let doubted = host.confidence == Confidence::Possible && packets.code != host.code;
    host.confidence = if doubted { Confidence::Likely } else { Confidence::Certain };
    // What happens to traffic was seen, if it is the same fault.
    let same = packets.code == host.code;
    host.severity = if same { packets.severity } else { host.severity.max(packets.severity) };
    let known: Vec<Evidence> = host.evidence().to_vec();
    let fresh: Vec<Evidence> = packets.evidence().iter().filter(|e| !known.contains(e)).cloned().collect();
    // The host's remedy is the more exact one.
    let remedies = if host.remedy.is_empty() { packets.remedy.clone() } else { Vec::new() };
    *host = host.clone().and(fresh).on(packets.flows).mend(if same { remedies } else { Vec::new() });
    if !doubted {
        (host.alternatives, host.settle) = (Vec::new(), None);
    }
    if same && host.summary != packets.summary {
        host.summary = format!("{} {}", packets.summary, host.summary);
    }
}

/// Causes that were looked for on all hosts concerned, and are not there, are no causes.
fn strike_out(mut finding: Finding, subjects: &[String], checks: &[super::Check]) -> Finding {
    if subjects.is_empty() || finding.confidence == Confidence::Certain {
        return finding;
    }
    let excluded = |code: &str| {
        subjects.iter().all(|host| checks.iter().any(|c| c.code == code && c.host == *host && matches!(c.verdict, Verdict::Passed(_))))
    };
    let out: Vec<&'static str> = finding.alternatives.iter().copied().filter(|code| excluded(code)).collect();
    finding.alternatives.retain(|code| !out.contains(code));
    let proofs = |codes: &[&str]| -> Vec<Evidence> {
        let passed = checks.iter().filter(|c| codes.contains(&c.code) && subjects.contains(&c.host));
        let proof = |c: &super::Check| match &c.verdict {
            Verdict::Passed(what) => Some(Evidence::host(&c.host, format!("not {}: {what}", c.code), "snapshot")),
            _ => None,
        };
        passed.filter_map(proof).collect()
    };
    if excluded(finding.code) {
        let refuted = finding.code;
        let Some(next) = (!finding.alternatives.is_empty()).then(|| finding.alternatives.remove(0)) else {
            finding.confidence = Confidence::Possible;
            return finding.and(proofs(&[refuted]));
        };
        let (code, name) = (next, name_of(next).unwrap_or_default());
        finding.summary = format!("{} The snapshot excludes {refuted}.", finding.summary);
        (finding.code, finding.name) = (code, name);
        // Its remedy was for the other cause, and its question is answered.
        (finding.remedy, finding.settle) = (Vec::new(), None);
        if let Some((rule, command)) = super::ALL.iter().find(|r| r.code == code).and_then(|r| Some((r, r.confirmed_by()?))) {
            let mends = rule.section("Remedy");
            let first = mends.split_inclusive(". ").next().unwrap_or_default().trim_end_matches(['.', ' ']).to_string();
            finding.settle = (!finding.alternatives.is_empty()).then(|| format!("on {}: `{command}`", finding.subject));
            finding.remedy.push(super::remedy::look(&finding.subject, command, first));
        }
        let mut all = out.clone();
        all.push(refuted);
        return finding.and(proofs(&all));
    }
    finding.and(proofs(&out))
}

#[cfg(test)]
mod tests {
    use super::super::Check;
    use super::*;
    use crate::host::{Fleet, Host};
    use crate::ipvs::Role;
    use crate::trace::{Hints, Options, Tracer};

    fn found(code: &'static str, subject: &str, severity: Severity, confidence: Confidence) -> Finding {
        let proof = Evidence::host(subject, format!("the fact of {code}"), "a command");
        let mut finding = Finding::new(subject, severity, confidence, format!("The words of {code}."), proof);
        finding.code = code;
        finding
    }

    fn proofs(finding: &Finding) -> usize {
        finding.evidence().len()
    }

    /// Packets and hosts together, of web1 and web2.
    fn settled(packets: Vec<Finding>, hosts: Vec<Finding>, checks: Vec<Check>) -> Vec<Finding> {
        let trace = Tracer::new(Options::default()).finish();
        let fleet = Fleet::new(vec![Host::new("web1"), Host::new("web2")], |_| Role::Unknown, |_| None, &[]);
        let mut diagnosis = Diagnosis { findings: packets, checks, ..Diagnosis::default() };
        settle(&mut diagnosis, hosts, &Facts { trace: &trace, hints: &Hints::default(), fleet: &fleet });
        diagnosis.findings
    }

    fn passed(code: &'static str, host: &str) -> Check {
        Check { code, name: "", host: host.to_string(), verdict: Verdict::Passed("as it should be".to_string()) }
    }

    use Confidence::{Certain, Likely, Possible};
    use Severity::{Broken, Degraded, Note, Risky};

    /// How sure and how bad it is, when packets and a host say the same, and when the host shows what packets only named among others.
    #[test]
    fn who_has_the_last_word() {
        let open = |f: Finding| f.unless(&["NET008"], "a look");
        for (host, packets, confidence, severity, kept) in [
            (found("NAT001", "web1", Broken, Likely), found("NAT001", "web1", Degraded, Likely), Certain, Degraded, 0),
            (open(found("NAT001", "web1", Risky, Possible)), found("NAT001", "web1", Broken, Likely), Certain, Broken, 0),
            (found("NET008", "web1", Broken, Certain), open(found("NAT001", "web1", Degraded, Likely)), Certain, Broken, 0),
            (found("NET008", "web1", Degraded, Certain), open(found("NAT001", "web1", Broken, Likely)), Certain, Broken, 0),
            (open(found("NET008", "web1", Risky, Possible)), open(found("NAT001", "web1", Broken, Likely)), Likely, Broken, 1),
        ] {
            // The same proof counts once.
            let (code, both) = (host.code, proofs(&host) + usize::from(host.code != packets.code));
            let found = settled(vec![packets], vec![host], vec![]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].code, found[0].confidence, found[0].severity), (code, confidence, severity), "{}", found[0].summary);
            assert_eq!((found[0].alternatives.len(), proofs(&found[0])), (kept, both));
        }
    }

    /// What a host shows is no cause if it does no harm, is another host's own, or was never among the causes.
    #[test]
    fn what_settles_nothing() {
        let packets = || found("NAT001", "web1", Broken, Likely).unless(&["NET008"], "a look");
        for (host, proof) in [
            // A note is a proof more for those who name its cause, and no cause itself.
            (found("NET008", "web1", Note, Certain), true),
            (found("NET008", "web2", Broken, Certain), false),
            (found("NET016", "web1", Broken, Certain), false),
        ] {
            let both = settled(vec![packets()], vec![host.clone()], vec![]);
            let shown = packets().and(proof.then(|| host.evidence().to_vec()).into_iter().flatten());
            assert_eq!(both, [shown, host]);
        }
        // A director's table is about another host's packets.
        let table = found("SVC003", "web2", Degraded, Certain);
        let one = settled(vec![found("NAT001", "web1", Broken, Likely).unless(&["SVC003"], "a look")], vec![table], vec![]);
        assert_eq!((one.len(), one[0].code), (1, "SVC003"));
    }

    /// A cause is struck out when all hosts concerned were looked at and do not have it; what is certain stays.
    #[test]
    fn causes_that_are_none() {
        let open = |subject: &str, confidence| found("NAT001", subject, Broken, confidence).unless(&["NET008", "DR001"], "a look");
        let alone = |finding: Finding, checks: Vec<Check>| settled(vec![finding], vec![], checks).remove(0);
        let one = alone(open("web1", Likely), vec![passed("NET008", "web1")]);
        assert_eq!((one.code, one.alternatives.as_slice(), proofs(&one)), ("NAT001", &["DR001"][..], 2));
        let half = alone(open("web1, web2", Likely), vec![passed("NET008", "web1")]);
        assert_eq!((half.alternatives.as_slice(), proofs(&half)), (&["NET008", "DR001"][..], 1));
        let whole = alone(open("web1, web2", Likely), vec![passed("NET008", "web1"), passed("NET008", "web2")]);
        assert_eq!((whole.alternatives.as_slice(), proofs(&whole)), (&["DR001"][..], 3));
        let sure = alone(open("web1", Certain), vec![passed("NET008", "web1")]);
        assert_eq!(sure, open("web1", Certain));
        let stranger = alone(open("web9", Likely), vec![passed("NET008", "web9")]);
        assert_eq!(stranger, open("web9", Likely), "no snapshot of it");
        // The likeliest cause is none: the next one takes its place. When all are none, nothing is sure any more.
        let next = alone(open("web1", Likely), vec![passed("NAT001", "web1")]);
        assert_eq!((next.code, next.alternatives.as_slice(), next.confidence), ("NET008", &["DR001"][..], Likely));
        assert!(next.summary.ends_with("The snapshot excludes NAT001."), "{}", next.summary);
        let none = alone(open("web1", Likely), ["NAT001", "NET008", "DR001"].map(|code| passed(code, "web1")).to_vec());
        assert_eq!((none.code, none.confidence), ("NAT001", Possible));
    }

    /// A duel of masters explains the neighbour table that it left behind, for the same address.
    #[test]
    fn what_a_story_explains() {
        let duel = || found("HA002", "10.0.0.100", Broken, Likely);
        let stale = |addr: &str| {
            let mut entry = found("ARP007", "web1", Broken, Certain);
            entry.summary = format!("It remembers {addr} at another card.");
            entry
        };
        let one = settled(vec![duel()], vec![stale("10.0.0.100")], vec![]);
        assert_eq!((one.len(), one[0].code, one[0].confidence, proofs(&one[0])), (1, "HA002", Certain, 2));
        let two = settled(vec![duel()], vec![stale("10.0.0.101")], vec![]);
        assert_eq!(two, [duel(), stale("10.0.0.101")]);
    }
}
