//! Two directors that are each other's real servers hand a request to and fro.

use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Loop, Round, loops, vip};
use crate::finding::Severity;
use crate::finding::{Confidence, Outcome, Remedy};
use crate::host::{Ask, Host, Link};

rule! {
    /// # What it sees
    /// One director hands a request to the other, which schedules it back: the same packet goes to and fro between their MACs with falling
    /// TTL. About half of the connections work, those that a node serves itself.
    ///
    /// # Why it breaks
    /// Both nodes have the virtual service loaded, and each lists the other as a real server. What the first one hands over is a new
    /// connection to the second one, which balances it again.
    ///
    /// # Confirm it by hand
    /// On both: `ipvsadm -ln` shows the service; `sysctl net.ipv4.vs.backup_only`.
    ///
    /// # Remedy
    /// `net.ipv4.vs.backup_only=1` with the synchronisation daemon as backup on the standby; or services by firewall mark that exclude the
    /// peer's MAC; or rules only on the active node.
    ///
    /// # When it is not a fault
    /// Never while packets circle.
    ///
    /// # Reproduce
    /// Two nodes, both with the VIP, the service and both nodes as real servers.
    ///
    /// # References
    /// kernel `Documentation/networking/ipvs-sysctl.rst`: backup_only; keepalived issues 2389 and 2450.
    DR017 "two-node-ping-pong" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut seen: Vec<[usize; 2]> = Vec::new();
    let mut found = Vec::new();
    for (other, loops) in loops(facts, Round::Director) {
        let mut pair = [other, loops[0].director];
        pair.sort_unstable();
        if seen.contains(&pair) {
            continue;
        }
        seen.push(pair);
        let names = facts.names(pair);
        let summary = format!("{names} both balance {}, and hand each other the same packet to and fro.", vip(loops[0].flow));
        let unsure = loops.iter().all(|l| l.unsure);
        let confidence = if unsure { Confidence::Likely } else { Confidence::Certain };
        let mut finding = Loop::finding(&loops, facts, confidence, summary);
        if unsure {
            let node = facts.name(Some(other));
            finding = finding.unless(&["DR016"], format!("on {node}: `ipvsadm -ln`, `ip addr show to {}`", loops[0].there.dst.addr));
        }
        finding.subject.clone_from(&names);
        found.push(finding.mend([Remedy::new(
            facts.name(Some(other)),
            "sysctl -w net.ipv4.vs.backup_only=1; ipvsadm --start-daemon backup --mcast-interface IF",
            "the sysctl in /etc/sysctl.d/90-lvs.conf, `lvs_sync_daemon` in keepalived.conf",
            "ipvsadm --stop-daemon backup; sysctl -w net.ipv4.vs.backup_only=0",
        )]));
    }
    found.into()
}

const BACKUP_ONLY: &str = "net.ipv4.vs.backup_only";

/// On two directors that are each other's real servers.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for served in &site.fleet.services {
        let Some(director) = served.director else { continue };
        let host = site.host(director);
        for d in served
            .service
            .destinations
            .iter()
            .filter(|d| d.forwarding().is_some_and(|m| m != crate::ipvs::ForwardingMethod::Nat) && d.weight > 0)
        {
            let Some(peer) = site.fleet.owners(d.address.addr).into_iter().find(|at| *at != director) else { continue };
            let back = |s: &&crate::host::Served| {
                let mine = |d: &crate::host::Destination| d.weight > 0 && host.address(d.address.addr).is_some();
                s.director == Some(peer)
                    && s.service.address == served.service.address
                    && s.service.address.is_some()
                    && s.service.destinations.iter().any(mine)
            };
            if !site.fleet.services.iter().any(|s| back(&s)) {
                continue;
            }
            let other = site.host(peer);
            let daemon = |h: &Host| h.ipvs.iter().flat_map(|t| t.daemons.iter().flatten()).any(|d| d.state == "backup");
            let backup = |h: &Host| h.sysctl(BACKUP_ONLY) == Some(1) && daemon(h);
            if backup(other) || backup(host) {
                checks.passed(&host.name, "backup_only is on");
                continue;
            }
            // One finding for the two: told to the one that clients reach, for the other to wait; both waiting would serve nobody.
            let active = |h: &Host| {
                let link = served.service.vip().and_then(|vip| h.link(&h.address(vip)?.link));
                link.is_some_and(Link::speaks_arp)
            };
            if (active(other), peer) > (active(host), director) {
                continue;
            }
            let summary = format!(
                "It hands {} to {}, which hands the same service back: packets go round between the two.",
                served.service.name(),
                other.name
            );
            let mine = served.service.destinations.iter().map(|d| d.address.addr).find(|addr| host.address(*addr).is_some());
            let card = mine.and_then(|addr| Some(other.way(&Ask::to(addr)).ok()?.link()?.to_string())).unwrap_or_else(|| "IF".to_string());
            // The setting means nothing without the daemon (include/net/ip_vs.h, backup_only).
            let set = super::super::remedy::set(other, &[(BACKUP_ONLY.to_string(), "1")]);
            let begin = format!("ipvsadm --start-daemon backup --mcast-interface {card}");
            let (keep, end) = ("`lvs_sync_daemon` in keepalived.conf", "ipvsadm --stop-daemon backup");
            let remedy = match (other.sysctl(BACKUP_ONLY) == Some(1), daemon(other)) {
                (_, true) => set,
                (true, false) => Remedy::new(&other.name, begin, keep, end),
                (false, false) => Remedy::new(
                    &other.name,
                    format!("{}; {begin}", set.command),
                    format!("{}; {keep}", set.permanent),
                    format!("{end}; {}", set.undo),
                ),
            };
            let found = proven(host, Severity::Broken, summary, format!("-r {}", d.address), "ipvsadm -Sn")
                .and([crate::finding::Evidence::host(
                    &other.name,
                    format!("{}, backup_only={}", served.service.name(), other.sysctl(BACKUP_ONLY).unwrap_or(0)),
                    "ipvsadm -Sn",
                )])
                .mend([remedy]);
            checks.failed(&host.name, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::super::super::testing::World;
    use super::super::dr016::DR016;
    use super::*;

    /// Two directors, the first of which is asked for.
    fn world() -> World {
        let mut w = World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("router.ext", "ext", "10.1.0.1")
            .plug("router.int", "int", "10.2.0.1")
            .plug("lb1.eth0", "int", "10.2.0.100")
            .plug("lb2.eth0", "int", "10.2.0.12");
        w.who_has("router", "int", "10.2.0.100", &["lb1"]);
        w
    }

    #[test]
    fn to_and_fro_between_two_directors() {
        let mut w = world();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, "client router lb1 lb2 lb1 lb2 lb1", 1);
        let found = w.expect(&DR017, Confidence::Certain, "lb1, lb2");
        assert_eq!(found.flows, [1]);
        w.deny(&DR016);
    }

    const RULES: &str = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g\n-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g\n";

    fn nodes(standby: impl Fn(Sketch) -> Sketch) -> [Sketch; 2] {
        let node = |name: &str, own: &str| Sketch::new(name).card("eth0", own).via("default", "10.0.0.1", "eth0").ipvs(RULES);
        let node = |name: &str, own: &str| node(name, own).set(BACKUP_ONLY, "0");
        [standby(node("lb2", "10.0.0.12/24").addr("lo", "10.0.0.100/32")), node("lb1", "10.0.0.11/24").addr("eth0", "10.0.0.100/32")]
    }

    /// The one that does not have the VIP on its card is to wait, and it alone.
    #[test]
    fn the_standby_is_told_to_wait() {
        let site = nodes(|s| s);
        let found = sketch::expect(&site, &DR017, Severity::Broken, Confidence::Certain, "lb1");
        assert_eq!(found.remedy.len(), 1);
        assert_eq!(
            (found.remedy[0].host.as_str(), found.remedy[0].command.as_str()),
            ("lb2", "sysctl -w net.ipv4.vs.backup_only=1; ipvsadm --start-daemon backup --mcast-interface eth0")
        );
        assert!(sketch::audit(&site).findings.iter().filter(|f| f.code == "DR017").count() == 1);
        let daemon = |s: Sketch| {
            let backup = crate::host::Daemon { state: "backup".into(), interface: "eth0".into(), sync_id: 0 };
            s.with(|h| h.ipvs.as_mut().expect("a table").daemons = Some(vec![backup]))
        };
        let found = sketch::expect(&nodes(daemon), &DR017, Severity::Broken, Confidence::Certain, "lb1");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.vs.backup_only=1");
        sketch::passes(&nodes(|s| daemon(s).set(BACKUP_ONLY, "1")), &DR017, "lb1");
    }

    /// Two nodes of no telling names, of which the second serves some and hands others back.
    #[test]
    fn who_serves_has_the_address() {
        let world = || {
            let mut w = World::new()
                .plug("client.eth0", "ext", "10.1.0.100")
                .plug("router.ext", "ext", "10.1.0.1")
                .plug("router.int", "int", "10.2.0.1")
                .plug("one.eth0", "int", "10.2.0.11")
                .plug("two.eth0", "int", "10.2.0.12");
            w.who_has("router", "int", "10.2.0.100", &["one"]);
            w
        };
        let serves = |w: &mut World, port: u16| {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
            w.talk(&c, "client router one two", "two router client");
            w.wait(0.1);
        };
        let circles = |w: &mut World, port: u16| {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
            w.syn(&c, "client router one two one two one", 1);
            w.wait(0.1);
        };
        // Before, and then no more: its address may have gone.
        let mut w = world();
        serves(&mut w, 40001);
        circles(&mut w, 40002);
        assert_eq!(w.expect(&DR017, Confidence::Likely, "one, two").alternatives, ["DR016"]);
        w.deny(&DR016);
        // By turns.
        serves(&mut w, 40003);
        circles(&mut w, 40004);
        assert!(w.expect(&DR017, Confidence::Certain, "one, two").alternatives.is_empty());
        // Never: it does not have it.
        let mut w = world();
        circles(&mut w, 40001);
        w.deny(&DR017);
        w.expect(&DR016, Confidence::Certain, "two");
    }

    #[test]
    fn a_standby_that_serves_is_right() {
        let mut w = world();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.talk(&c, "client router lb1 lb2", "lb2 router client");
        w.deny(&DR017);
        w.healthy();
    }
}
