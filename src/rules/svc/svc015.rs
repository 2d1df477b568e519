//! A service for a mark that nobody sets, or for every port without persistence.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Need, Outcome, Remedy, Severity};
use crate::host::{FilterVerdict, Hook};

rule! {
    /// # What it sees
    /// A virtual service by firewall mark, and no rule on the director that sets this mark before routing; or a service for port 0
    /// without persistence.
    ///
    /// # Why it breaks
    /// A packet belongs to a service by mark only if it carries the mark when it comes to IPVS. A service for port 0 stands for all
    /// ports, which IPVS grants to persistent services alone: of others it says `port zero only supported in persistent services`, and
    /// hands nothing on.
    ///
    /// # Confirm it by hand
    /// `ipvsadm -Ln`: FWM and its number, or port 0 without `persistent`. `iptables -t mangle -S PREROUTING`, `nft list ruleset`: mark.
    ///
    /// # Remedy
    /// A rule in mangle PREROUTING that sets the mark for the VIP and its ports; persistence (`-p`) for port 0.
    ///
    /// # When it is not a fault
    /// When marks are set where lvscope does not look: by eBPF, or tc.
    ///
    /// # Reproduce
    /// `ipvsadm -A -f 7 -s rr` without a rule.
    ///
    /// # References
    /// ipvsadm(8), -f and -p; kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_schedule`.
    SVC015 "mark-or-port-zero-mismatch" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// On directors.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        if let Some(at) = service.address.filter(|at| at.port == 0 && service.persistence.is_none()) {
            let summary = format!("{} is for every port of {} and not persistent: IPVS hands nothing on.", service.name(), at.addr);
            let option = service.option();
            let remedy = Remedy::new(
                &host.name,
                format!("ipvsadm -E {option} -s {} -p 300", service.scheduler),
                "persistence_timeout in keepalived.conf, or `ipvsadm -Sn > /etc/sysconfig/ipvsadm`",
                format!("ipvsadm -E {option} -s {}", service.scheduler),
            );
            let fact = format!("{option} -s {}, without -p", service.scheduler);
            checks.failed(&host.name, proven(host, Severity::Broken, summary, fact, "ipvsadm -Sn").mend([remedy]));
            continue;
        }
        let Some(mark) = service.fwmark else { continue };
        let family = if service.v6 { "ip6" } else { "ip" };
        let Some(filter) = host.netfilter.as_ref().filter(|f| !f.is_unread(family)) else {
            let why = if host.netfilter.is_some() { "rules of the old iptables cannot be read" } else { host.why_absent("netfilter") };
            checks.needs(&host.name, format!("its packet filters: {why}"));
            continue;
        };
        // A mark that was not understood may be this one: those of connections, of maps.
        let rules = || filter.chains.iter().filter(|c| c.family == family || c.family == "inet").flat_map(|c| &c.rules);
        if rules().any(|r| r.verdict == FilterVerdict::Mark(mark)) {
            checks.passed(&host.name, format!("a rule sets the mark {mark}"));
            continue;
        }
        let doubt = |what: &str| what.contains("mark") || what.contains("map") || what.contains("set");
        if let Some(rule) = rules().find(|r| r.unknown.as_deref().is_some_and(doubt) || r.text.contains("CONNMARK")) {
            checks.needs(&host.name, format!("whether this rule sets the mark {mark}: {}", rule.text));
            continue;
        }
        let tables = if service.v6 { "ip6tables" } else { "iptables" };
        let rule = format!("PREROUTING -d VIP -p tcp -m multiport --dports PORTS -j MARK --set-mark {mark}");
        let summary = format!("{} is served by its mark, and no rule sets it: no packet belongs to it.", service.name());
        let remedy = Remedy::new(
            &host.name,
            format!("{tables} -t mangle -A {rule}"),
            format!("the same rule in the saved rules ({tables}-save)"),
            format!("{tables} -t mangle -D {rule}"),
        );
        let before = filter.at(service.v6, Hook::Prerouting).map(|c| c.rules.len()).sum::<usize>();
        let fact = format!("no rule sets the mark {mark} ({before} rules before routing)");
        checks.failed(&host.name, proven(host, Severity::Broken, summary, fact, "nft list ruleset").mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::*;
    use crate::finding::Confidence;
    use crate::host::FilterRule;

    #[test]
    fn marks_and_every_port() {
        let rules = "-A -f 7 -s rr\n-a -f 7 -r 10.0.0.11:0 -g\n";
        let with = |change: fn(Sketch) -> Sketch| dr_with("director", |d| change(d.ipvs(rules)));
        sketch::expect(&with(|d| d), &SVC015, Severity::Broken, Confidence::Certain, "director");
        let marks = |mark| FilterRule { verdict: FilterVerdict::Mark(mark), ..FilterRule::default() };
        let marked = dr_with("director", |d| d.ipvs(rules).rule(Hook::Prerouting, marks(7)));
        sketch::passes(&marked, &SVC015, "director");
        let other = dr_with("director", |d| d.ipvs(rules).rule(Hook::Prerouting, marks(8)));
        sketch::expect(&other, &SVC015, Severity::Broken, Confidence::Certain, "director");
        sketch::cannot_judge(&with(|d| d.with(|h| h.netfilter = None)), &SVC015, "director");
        // ipvsadm refuses it; other programs do not.
        let every = "-A -t 10.0.0.100:0 -s rr -p 300\n-a -t 10.0.0.100:0 -r 10.0.0.11:0 -g\n";
        let every = |d: Sketch| d.ipvs(every).with(|h| h.ipvs.as_mut().unwrap().services[0].persistence = None);
        let found = sketch::expect(&dr_with("director", every), &SVC015, Severity::Broken, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "ipvsadm -E -t 10.0.0.100:0 -s rr -p 300");
    }
}
