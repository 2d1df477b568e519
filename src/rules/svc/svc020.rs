//! The director drops on purpose, because memory is short or because it is told to.

use super::super::remedy::{look, set};
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Finding, Need, Outcome, Severity};
use crate::host::Host;
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// On a director `net.ipv4.vs.drop_packet` or `drop_entry` at 3 (always), or at 2 (automatic, and at work now); `secure_tcp` likewise.
    ///
    /// # Why it breaks
    /// These are defences of IPVS against floods. `drop_packet` drops the first packet of every `am_droprate`th new connection, and its client
    /// waits a second; at 2 it is the more of them, the less memory is free below `amemthresh` pages. `drop_entry` deletes half-open connections
    /// and some open ones once a second: those that are open hang or are reset. `secure_tcp` only takes connections for established later.
    /// Once a second the kernel looks at the free memory, and sets 1 to 2 and back to 1.
    ///
    /// # Confirm it by hand
    /// On the director: `sysctl net.ipv4.vs.drop_packet net.ipv4.vs.drop_entry net.ipv4.vs.secure_tcp net.ipv4.vs.amemthresh`; `free`.
    ///
    /// # Remedy
    /// 1 (automatic) instead of 3. At 2: memory for the director, or a lower `amemthresh` where what is free is enough.
    ///
    /// # When it is not a fault
    /// During a flood, which is what it is for. At 1 nothing is dropped.
    ///
    /// # Reproduce
    /// `sysctl -w net.ipv4.vs.drop_packet=3` on a director; of ten connections one takes a second longer.
    ///
    /// # References
    /// kernel `Documentation/networking/ipvs-sysctl.rst`; `net/netfilter/ipvs/ip_vs_ctl.c`, `update_defense_level`; `ip_vs_conn.c`,
    /// `ip_vs_random_dropentry`.
    SVC020 "defence-mode-drops" check hosts
}

/// Packets do not show why a SYN was dropped.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// What each defence does, and whether that harms.
const DEFENCES: [(&str, &str, bool); 3] = [
    ("drop_packet", "the first packet of some new connections is dropped", true),
    ("drop_entry", "connections are deleted", true),
    ("secure_tcp", "connections count as established later", false),
];

/// In settings.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (_, host) in site.playing(Role::Director).filter(|(_, host)| host.ipvs.is_some()) {
        let mut unknown = Vec::new();
        let mut quiet = true;
        for (name, does, harms) in DEFENCES {
            let key = format!("net.ipv4.vs.{name}");
            match host.sysctl(&key) {
                None => unknown.push(key),
                Some(level @ 2..) => {
                    quiet = false;
                    checks.failed(&host.name, finding(host, &key, level, does, harms));
                }
                Some(_) => {}
            }
        }
        if !unknown.is_empty() {
            checks.needs(&host.name, unknown.join(", "));
        } else if quiet {
            checks.passed(&host.name, "IPVS drops nothing on purpose");
        }
    }
}

fn finding(host: &Host, key: &str, level: i64, does: &str, harms: bool) -> Finding {
    let severity = if harms { Severity::Degraded } else { Severity::Note };
    let always = level > 2;
    let rate = host.sysctl("net.ipv4.vs.am_droprate").filter(|_| key.ends_with("drop_packet") && always);
    let rate = rate.map_or_else(String::new, |rate| format!(", one in {rate}"));
    let (when, remedy) = match always {
        true => ("always", set(host, &[(key.to_string(), "1")])),
        false => (
            "memory is short now",
            look(
                &host.name,
                "free; sysctl net.ipv4.vs.amemthresh",
                "more memory, or a lower net.ipv4.vs.amemthresh (pages that must be free)",
            ),
        ),
    };
    let summary = format!("{key} is {level} ({when}): {does}{rate}.");
    proven(host, severity, summary, format!("{key}={level}"), format!("sysctl {key}")).mend([remedy])
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::*;
    use crate::finding::Confidence;

    fn site(values: [&str; 3]) -> [Sketch; 5] {
        dr_with("director", |d| {
            let keys = ["drop_packet", "drop_entry", "secure_tcp"];
            let d = keys.iter().zip(values).fold(d, |d, (key, value)| d.set(&format!("net.ipv4.vs.{key}"), value));
            d.set("net.ipv4.vs.am_droprate", "10")
        })
    }

    #[test]
    fn what_is_dropped_on_purpose() {
        let found = sketch::expect(&site(["3", "0", "0"]), &SVC020, Severity::Degraded, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.vs.drop_packet=1");
        assert!(found.summary.contains("one in 10"), "{}", found.summary);
        let found = sketch::expect(&site(["0", "2", "1"]), &SVC020, Severity::Degraded, Confidence::Certain, "director");
        assert!(found.summary.contains("memory is short"), "{}", found.summary);
        sketch::expect(&site(["1", "1", "3"]), &SVC020, Severity::Note, Confidence::Certain, "director");
        for fine in [["0", "0", "0"], ["1", "1", "1"]] {
            sketch::passes(&site(fine), &SVC020, "director");
        }
        sketch::cannot_judge(&sketch::dr(), &SVC020, "director");
    }
}
