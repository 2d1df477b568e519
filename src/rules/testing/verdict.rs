//! What the rules say of a world, and what tests hold them to.

use super::{World, end};
use crate::finding::{Confidence, Finding, Severity};
use crate::rules::{Diagnosis, Facts, Rule, diagnose};

impl World {
    /// What all rules say.
    pub(in crate::rules) fn diagnose(&self) -> Diagnosis {
        let trace = self.trace();
        diagnose(&Facts { trace: &trace, hints: &self.hints, fleet: &self.fleet })
    }

    /// The one finding of a rule; panics when there is none, or more than one.
    pub(in crate::rules) fn finding(&self, rule: &Rule) -> Finding {
        let diagnosis = self.diagnose();
        let mut found: Vec<Finding> = diagnosis.findings.iter().filter(|f| f.code == rule.code).cloned().collect();
        assert_eq!(found.len(), 1, "{}: {:#?}\nall: {:?}\n{}", rule.code, found, summary(&diagnosis), self.story());
        found.remove(0)
    }

    /// Holds a rule to one finding of this confidence about this subject.
    pub(in crate::rules) fn expect(&self, rule: &Rule, confidence: Confidence, subject: &str) -> Finding {
        let found = self.finding(rule);
        assert_eq!((found.confidence, found.subject.as_str()), (confidence, subject), "{}", found.summary);
        assert!(!found.evidence().is_empty() && !found.summary.is_empty());
        if found.severity >= Severity::Degraded {
            assert!(!found.remedy.is_empty(), "{}: no remedy", rule.code);
        }
        found
    }

    /// Holds a rule to silence.
    pub(in crate::rules) fn deny(&self, rule: &Rule) {
        let diagnosis = self.diagnose();
        let silent = diagnosis.findings.iter().all(|f| f.code != rule.code);
        assert!(silent, "{} should be silent: {:?}\n{}", rule.code, summary(&diagnosis), self.story());
    }

    /// Holds every rule to silence at or above `degraded`.
    pub(in crate::rules) fn healthy(&self) {
        let diagnosis = self.diagnose();
        let loud: Vec<&Finding> = diagnosis.findings.iter().filter(|f| f.severity >= Severity::Degraded).collect();
        assert!(loud.is_empty(), "{loud:#?}\n{}", self.story());
    }

    /// True when a rule could not judge.
    pub(in crate::rules) fn cannot_judge(&self, rule: &Rule) -> bool {
        self.diagnose().not_judged.iter().any(|(r, _)| *r == rule)
    }

    /// What the trace makes of the world, for messages of tests that fail.
    fn story(&self) -> String {
        let trace = self.trace();
        let mut story = String::new();
        for f in &trace.flows {
            let name = |host| trace.host_name(host);
            story += &format!(
                "#{} {} {} > {} vip {:?} rs {:?} {} {} by {} to {}\n",
                f.id,
                f.protocol,
                f.client,
                f.service,
                f.vip,
                f.real_server,
                f.method,
                f.state,
                name(f.director),
                name(f.server_host)
            );
            let ways =
                [("request", &f.request.hops), ("  stray", &f.request.strays), ("reply", &f.reply.hops), ("  stray", &f.reply.strays)];
            for (way, hop) in ways.iter().flat_map(|(way, hops)| hops.iter().map(move |hop| (way, hop))) {
                let point = &trace.points[hop.point as usize].name;
                story += &format!(
                    "  {way:<8}{point:<14} {} > {}  {} > {} ttl {} {:?}\n",
                    name(hop.from),
                    name(hop.to),
                    hop.src,
                    hop.dst,
                    hop.ttl,
                    hop.first
                );
            }
            story += &format!("  notes {:?} errors {}\n", f.notes.iter().map(|n| n.kind).collect::<Vec<_>>(), f.errors.len());
        }
        story
    }
}

fn summary(diagnosis: &Diagnosis) -> Vec<String> {
    diagnosis.findings.iter().map(|f| format!("{} {} {} {}", f.code, f.severity, f.confidence, f.subject)).collect()
}

#[test]
fn healthy_worlds_are_quiet() {
    let mut nat = World::nat();
    nat.who_has("client", "ext", "10.1.0.1", &["director"]);
    for (port, rip) in [(40001, 11), (40002, 12), (40003, 11)] {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("10.2.0.{rip}:80"));
        let web = if rip == 11 { "web1" } else { "web2" };
        nat.who_has("director", "int", &format!("10.2.0.{rip}"), &[web]);
        nat.talk(&c, &format!("client director {web}"), &format!("{web} director client"));
    }
    nat.wait(5.0);
    nat.who_has("client", "ext", "10.1.0.1", &["director"]);
    nat.healthy();
    let mut dr = World::dr();
    dr.who_has("router", "int", "10.2.0.100", &["director"]);
    for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
        dr.who_has("director", "int", rip, &[web]);
        dr.who_has(web, "int", "10.2.0.1", &["router"]);
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        dr.talk(&c, &format!("client router director {web}"), &format!("{web} router client"));
    }
    dr.healthy();
    dr.unnamed().healthy();
    let trace = nat.trace();
    let flow = &trace.flows[0];
    assert_eq!((flow.vip, flow.real_server), (Some(end("10.1.0.1:80")), Some(end("10.2.0.11:80"))));
    assert_eq!(flow.request.hops.len(), 4);
}
