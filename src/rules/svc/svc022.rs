//! The kernel balances nothing, for it has no IPVS.

use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Confidence, Need, Outcome, Remedy, Severity};
use crate::ipvs::Role;

rule! {
    /// # What it sees
    /// A director whose kernel has no IPVS: the module is not loaded, or does not reach into this network namespace.
    ///
    /// # Why it breaks
    /// Whatever keepalived or a script has written down, there is no table. Requests for the VIP come to the director's own TCP, which
    /// refuses them.
    ///
    /// # Confirm it by hand
    /// On the director: `lsmod | grep ip_vs`; `ipvsadm -Ln` says `Can't initialize ipvs`; `dmesg | grep -i ipvs`.
    ///
    /// # Remedy
    /// `modprobe ip_vs`, and the rules again. In a container: the module on the machine, and CAP_NET_ADMIN and the right network
    /// namespace in it.
    ///
    /// # When it is not a fault
    /// On a host that is no director, whatever it is called.
    ///
    /// # Reproduce
    /// A machine with keepalived.conf and without the module.
    ///
    /// # References
    /// modprobe(8), modules-load.d(5); keepalived.conf(5).
    SVC022 "module-missing" check hosts
}

/// Packets do not show it.
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// What every kernel that knows IPVS answers.
const MISSING: &str = "IPVS is not loaded";

/// On directors by their configuration, their part, or their name.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (_, host) in site.playing(Role::Director) {
        if host.ipvs.is_some() {
            checks.passed(&host.name, "IPVS is loaded");
            continue;
        }
        let why = host.why_absent("ipvs");
        if !why.starts_with(MISSING) {
            checks.needs(&host.name, format!("whether IPVS is loaded: {why}"));
            continue;
        }
        let file =
            host.saved.as_ref().filter(|s| s.services.as_ref().is_some_and(|all| !all.is_empty())).and_then(|s| s.services_file.clone());
        let meant = file.as_ref().map_or_else(|| "nothing balances".to_string(), |file| format!("what {file} says is not done"));
        let (reload, undo) = match &file {
            Some(file) if file.contains("keepalived") => ("; systemctl restart keepalived".to_string(), "modprobe -r ip_vs"),
            Some(file) => (format!("; ipvsadm -R < {file}"), "ipvsadm -C; modprobe -r ip_vs"),
            None => (String::new(), "modprobe -r ip_vs"),
        };
        let remedy = Remedy::new(&host.name, format!("modprobe ip_vs{reload}"), "ip_vs in /etc/modules-load.d/ip_vs.conf", undo);
        let mut found =
            proven(host, Severity::Broken, format!("Its kernel has no IPVS: {meant}."), why.to_string(), "lsmod").mend([remedy]);
        if file.is_none() {
            // Only its name, or the user, says that it is a director.
            found.confidence = Confidence::Likely;
            found = found.unless(&["SVC027"], "is this host a director at all?");
        }
        checks.failed(&host.name, found);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::*;

    #[test]
    fn a_director_without_the_module() {
        let without = |name: &str| {
            Sketch::new(name)
                .card("eth0", "10.0.0.10/24")
                .with(|h| h.leave_out("ipvs", "IPVS is not loaded in this kernel (modprobe ip_vs)"))
        };
        let found = sketch::expect(&[without("director")], &SVC022, Severity::Broken, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "modprobe ip_vs");
        let kept = without("a").with(|h| {
            let services = crate::ipvs::parse("-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g\n").unwrap();
            h.saved = Some(crate::host::Saved {
                services: Some(services.iter().map(crate::host::Service::from).collect()),
                services_file: Some("/etc/keepalived/keepalived.conf".into()),
                ..Default::default()
            });
        });
        let found = sketch::expect(&[kept], &SVC022, Severity::Broken, Confidence::Certain, "a");
        assert_eq!(found.remedy[0].command, "modprobe ip_vs; systemctl restart keepalived");
        let unread = Sketch::new("director").card("eth0", "10.0.0.10/24");
        sketch::cannot_judge(&[unread], &SVC022, "director");
        sketch::passes(&sketch::dr(), &SVC022, "director");
        assert!(sketch::audit(&[without("web1")]).findings.iter().all(|f| f.code != "SVC022"));
    }
}
