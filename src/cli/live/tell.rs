//! Each finding once, when it has stood for a moment: the packet that would refute it may be on its way.

use crate::finding::{Finding, Severity};
use crate::rules::Diagnosis;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So long a finding has to stand. With [`super::LOOK`] before and after it that is less than two seconds.
const STANDS: Duration = Duration::from_millis(700);

/// Remembers what has been told.
#[derive(Default)]
pub(in crate::cli) struct Teller {
    /// When each fault of each host was first seen without a break, and whether it has been told.
    seen: HashMap<(&'static str, String), Seen>,
    /// Told, in that order.
    told: Vec<Finding>,
}

struct Seen {
    since: Instant,
    told: bool,
    /// In the latest diagnosis, too.
    here: bool,
}

impl Teller {
    /// The findings to tell now. `last`: nothing more will come, and what stands stands.
    pub(in crate::cli) fn news<'d>(&mut self, diagnosis: &'d Diagnosis, now: Instant, last: bool) -> Vec<&'d Finding> {
        self.seen.values_mut().for_each(|seen| seen.here = false);
        let mut news = Vec::new();
        for finding in diagnosis.findings.iter().filter(|f| f.severity > Severity::Note) {
            let mut ripe = false;
            // `web1, web2` says nothing new when both have been told of, and something new when one has not.
            let subjects: Vec<&str> = finding.subject.split(", ").collect();
            for subject in &subjects {
                let key = (finding.code, (*subject).to_string());
                let seen = self.seen.entry(key).or_insert(Seen { since: now, told: false, here: true });
                seen.here = true;
                ripe |= !seen.told && (last || now.duration_since(seen.since) >= STANDS);
            }
            if ripe {
                for subject in subjects {
                    if let Some(seen) = self.seen.get_mut(&(finding.code, subject.to_string())) {
                        seen.told = true;
                    }
                }
                news.push(finding);
                self.told.push(finding.clone());
            }
        }
        // What did not stand begins anew.
        self.seen.retain(|_, seen| seen.told || seen.here);
        news
    }

    /// What has been told.
    pub(in crate::cli) fn told(&self) -> &[Finding] {
        &self.told
    }

    /// Told, and no more in this diagnosis: their connections are forgotten, or later packets tell more.
    pub(in crate::cli) fn gone<'t>(&'t self, diagnosis: &'t Diagnosis) -> impl Iterator<Item = &'t Finding> {
        let again = |f: &Finding, told: &Finding| f.code == told.code && shares(&f.subject, &told.subject);
        let told = self.told.iter().enumerate().filter(move |(at, told)| {
            !diagnosis.findings.iter().any(|f| again(f, told)) && !self.told[at + 1..].iter().any(|later| again(later, told))
        });
        told.map(|(_, told)| told)
    }
}

/// Two subjects with a host in common.
fn shares(a: &str, b: &str) -> bool {
    a.split(", ").any(|one| b.split(", ").any(|other| one == other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Confidence, Evidence};

    fn diagnosis(found: &[(&'static str, &str)]) -> Diagnosis {
        let finding = |(code, subject): &(&'static str, &str)| {
            let mut f = Finding::new(*subject, Severity::Broken, Confidence::Likely, "x", Evidence::absence(0, "x"));
            f.code = code;
            f
        };
        Diagnosis { findings: found.iter().map(finding).collect(), ..Diagnosis::default() }
    }

    #[test]
    fn once_and_only_what_stands() {
        let begin = Instant::now();
        let mut teller = Teller::default();
        let mut at = |ms: u64, found: &[(&'static str, &str)], last: bool| -> Vec<String> {
            let diagnosis = diagnosis(found);
            teller.news(&diagnosis, begin + Duration::from_millis(ms), last).iter().map(|f| format!("{} {}", f.code, f.subject)).collect()
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(at(0, &[("NAT001", "web1")], false), none);
        assert_eq!(at(400, &[], false), none, "it went");
        assert_eq!(at(800, &[("NAT001", "web1")], false), none, "and came again: the time begins anew");
        assert_eq!(at(1600, &[("NAT001", "web1")], false), ["NAT001 web1"]);
        assert_eq!(at(2000, &[("NAT001", "web1")], false), none);
        assert_eq!(at(2400, &[("NAT001", "web1, web2")], false), none);
        assert_eq!(at(3200, &[("NAT001", "web1, web2")], false), ["NAT001 web1, web2"], "another host");
        assert_eq!(at(9000, &[("NAT001", "web2"), ("ARP001", "web2")], false), none);
        assert_eq!(at(9100, &[("ARP001", "web2")], true), ["ARP001 web2"], "the end");
        let now = diagnosis(&[("ARP001", "web2")]);
        assert_eq!(teller.gone(&now).map(|f| f.code).collect::<Vec<_>>(), ["NAT001"]);
    }
}
