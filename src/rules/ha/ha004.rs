//! A director knows nothing of connections that were open before it took over, or before it began anew.

use super::super::facts::{ids, plural};
use super::super::remedy::look;
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use super::orphan::{Orphan, goes_on, is_takeover, orphans, took_over, word};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::ipvs::Role;
use crate::trace::{Flow, HostId};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// Connections are open and handed on by one director. Then their packets come to another one, which resets them itself: the VIP is the
    /// source, the MAC its own, the TTL fresh, and no real server is asked. New connections work. Or one and the same director resets
    /// what it handed on a moment ago.
    ///
    /// # Why it breaks
    /// A packet in the middle of a connection that fits no entry and is no SYN is not scheduled; it goes to the director's own stack, which
    /// resets it. Entries move to another director only by synchronisation, and then those alone that have carried a few packets
    /// (`sync_threshold`, 3 and every 50th). A restart or `ipvsadm -C` forgets all.
    ///
    /// # Confirm it by hand
    /// `ipvsadm -l --daemon` on both directors; `ipvsadm -Lnc` on the new one right after a failover.
    ///
    /// # Remedy
    /// `lvs_sync_daemon IF INSTANCE` in global_defs of keepalived.conf on both directors (or `ipvsadm --start-daemon master` on one and
    /// `backup` on the other, on one multicast interface). Without it: `net.ipv4.vs.sloppy_tcp=1` and the scheduler `mh` or `sh` on both, so
    /// that the new director hands an open connection to the same server.
    ///
    /// # When it is not a fault
    /// Where clients open a new connection by themselves and nothing is lost by it. After a long silence the entry was merely too old
    /// (SVC013).
    ///
    /// # Reproduce
    /// `lvscope lab run ha-no-sync`.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_proto_tcp.c`, `tcp_conn_schedule`; `ip_vs_sync.c`; `Documentation/networking/ipvs-sysctl.rst`:
    /// sloppy_tcp, sync_threshold; keepalived.conf(5): lvs_sync_daemon.
    HA004 "no-state-after-failover" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut stories: BTreeMap<(Option<HostId>, HostId), Vec<Orphan>> = BTreeMap::new();
    for orphan in orphans(facts) {
        let lost = match orphan.is_its_own() {
            true => !orphan.may_be_old(),
            false => is_takeover(facts, &orphan) && goes_on(facts, &orphan).is_none(),
        };
        if lost {
            stories.entry((orphan.before, orphan.by)).or_default().push(orphan);
        }
    }
    stories.values().map(|orphans| finding(facts, orphans)).collect::<Vec<_>>().into()
}

fn finding(facts: &Facts<'_>, orphans: &[Orphan<'_>]) -> Finding {
    let orphan = &orphans[0];
    let flows: Vec<&Flow> = orphans.iter().map(|o| o.flow).collect();
    let (by, before) = (facts.name(Some(orphan.by)), orphan.before.map(|host| facts.name(Some(host))));
    let (announced, those) = (word(facts, orphan), plural(flows.len(), "open connection"));
    let (summary, confidence) = match before {
        Some(_) if orphan.is_its_own() => {
            (format!("{by} resets {those} that it had handed on itself: it has no entry for them any more."), Confidence::Possible)
        }
        Some(before) => {
            let sure = if orphan.flow.director.is_some() { Confidence::Likely } else { Confidence::Possible };
            (format!("{by} resets {those} that {before} had handed on: it has no entry for them."), sure)
        }
        None => {
            let (sure, when) = match took_over(facts, orphan) {
                Some(_) => (Confidence::Likely, "that began before it had the address"),
                None => (Confidence::Possible, "whose beginning it was not seen to get"),
            };
            (format!("{by} resets {those} {when}: it has no entry for them."), sure)
        }
    };
    let handed = orphan.before.and_then(|host| orphan.flow.request.sent_by(host).or(orphan.flow.request.last()));
    let settle = match orphan.is_its_own() {
        true => format!("on {by}: was it restarted, or `ipvsadm -C` run? `ipvsadm -l --timeout`"),
        false => format!("on {by}: `ipvsadm -l --daemon`, `ipvsadm -Lnc` (whose entries are there)"),
    };
    let keep = match before {
        Some(before) if !orphan.is_its_own() => {
            format!("then `lvs_sync_daemon IF INSTANCE` in global_defs of keepalived.conf on {before} and {by}")
        }
        _ => "then `lvs_sync_daemon IF INSTANCE` in global_defs of keepalived.conf on all directors".to_string(),
    };
    // Where nothing shows who had it before, that may be a real server that leaks.
    let others: &[&'static str] = match (orphan.is_its_own(), before, orphan.reset.src.addr.is_ipv4()) {
        (true, ..) => &["SVC013", "SVC012"],
        (false, Some(_), _) => &["SVC013"],
        (false, None, true) => &["SVC013", "ARP001"],
        (false, None, false) => &["SVC013", "IP6001"],
    };
    let what = format!("RST from {by} itself, TTL {}", orphan.reset.ttl);
    let first = handed.map(|hop| facts.seen_with(hop, &format!("before; {}", facts.to_whom(hop))));
    let mut evidence: Vec<_> = first.into_iter().chain(announced.map(|claim| facts.claim(claim))).collect();
    evidence.extend(orphan.asked.map(|hop| facts.seen_with(hop, &facts.to_whom(hop))));
    Finding::new(by, Severity::Degraded, confidence, summary, facts.noted(orphan.reset, &what))
        .and(evidence)
        .unless(others, settle)
        .mend([look(by, "ipvsadm -l --daemon", keep)])
        .on(ids(&flows))
}

/// On directors of which there are two: whether anybody tells the other one of open connections.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (at, host) in site.playing(Role::Director) {
        let Some(table) = host.ipvs.as_ref() else { continue };
        let Some((_, peer)) = site.playing(Role::Director).find(|(other, _)| site.is_peer(at, *other)) else { continue };
        let Some(daemons) = table.daemons.as_ref() else {
            checks.needs(&host.name, "whether it synchronises connections: `ipvsadm -l --daemon`");
            continue;
        };
        if let Some(daemon) = daemons.first() {
            checks.passed(&host.name, format!("open connections are synchronised ({} on {})", daemon.state, daemon.interface));
            continue;
        }
        // Who waits tells nobody anything; but what it is told, it has to listen to.
        let summary = format!("It shares virtual addresses with {}, and no connections: a failover resets what is open.", peer.name);
        let keep = format!("then `lvs_sync_daemon IF INSTANCE` in global_defs of keepalived.conf, here and on {}", peer.name);
        let mend = look(&host.name, "ipvsadm -l --daemon", keep);
        let mut found = proven(host, Severity::Note, summary, "no synchronisation daemon", "ipvsadm -l --daemon").mend([mend]);
        if table.connections.as_ref().is_some_and(|all| all.iter().any(|c| c.expires > 0)) {
            let open = table.connections.iter().flatten().filter(|c| c.state == "ESTABLISHED").count();
            found =
                found.and((open > 0).then(|| {
                    crate::finding::Evidence::host(&host.name, format!("{} now", plural(open, "open connection")), "ipvsadm -Lnc")
                }));
        }
        checks.failed(&host.name, found);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, dr};
    use super::super::super::testing::{ACK, Conn, PSH, RST, SYN, SYN_ACK, World};
    use super::super::ha001::HA001;
    use super::super::ha006::HA006;
    use super::*;
    use crate::host::Daemon;

    const VIP: &str = "10.2.0.100";

    fn conn(port: u16) -> Conn {
        World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80")
    }

    /// Two connections are open by way of the director, and no more.
    fn open() -> World {
        let mut w = World::dr().plug("lb2.eth0", "int", "10.2.0.3");
        w.who_has("router", "int", VIP, &["director"]);
        for (port, web) in [(40001, "web1"), (40002, "web2")] {
            let (there, back) = (format!("client router director {web}"), format!("{web} router client"));
            w.carry(&conn(port), false, SYN, b"", &there);
            w.carry(&conn(port), true, SYN_ACK, b"", &back);
            w.carry(&conn(port), false, ACK, b"", &there);
            w.carry(&conn(port), false, PSH, b"first", &there);
            w.carry(&conn(port), true, PSH, b"answer", &back);
        }
        w.wait(1.0);
        w
    }

    fn go_on(w: &mut World, by: &str) {
        for port in [40001, 40002] {
            w.carry(&conn(port), false, PSH, b"second", &format!("client router {by}"));
            w.carry(&conn(port), true, RST, b"", &format!("{by} router client"));
        }
    }

    fn moved() -> World {
        let mut w = open();
        w.announce("lb2", "int", VIP);
        go_on(&mut w, "lb2");
        w
    }

    #[test]
    fn another_director_took_over() {
        let mut w = moved();
        let found = w.expect(&HA004, Confidence::Likely, "lb2");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[1, 2][..]));
        assert!(found.summary.starts_with("lb2 resets 2 open connections that director had handed on"), "{}", found.summary);
        w.deny(&HA001);
        // The one before is still at work.
        w.wait(3.0);
        w.talk(&conn(40003), "client router director web1", "web1 router client");
        w.deny(&HA004);
        let found = w.expect(&HA006, Confidence::Likely, "director, lb2");
        assert!(found.summary.starts_with("router sends 2 connections on to lb2 that director had begun"), "{}", found.summary);
    }

    /// A real server that answers for the address, and then the director: without ARP nothing shows that both were asked for.
    #[test]
    fn a_router_that_changes_its_mind_is_no_director() {
        let world = |heard: bool| {
            let mut w = World::dr();
            if heard {
                w.announce("director", "int", VIP);
            }
            let direct = |port: u16| World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
            for (port, web) in [(40001, "web1"), (40002, "web2")] {
                w.carry(&direct(port), false, SYN, b"", &format!("client router {web}"));
                w.carry(&direct(port), true, SYN_ACK, b"", &format!("{web} router client"));
                w.carry(&direct(port), false, ACK, b"", &format!("client router {web}"));
            }
            w.wait(1.0);
            for port in [40001, 40002] {
                w.carry(&direct(port), false, PSH, b"second", "client router director");
                w.carry(&direct(port), true, RST, b"", "director router client");
            }
            w
        };
        for heard in [false, true] {
            let found = world(heard).diagnose().findings;
            assert!(found.iter().all(|f| f.code != "HA004" || f.confidence == Confidence::Possible), "{heard}: {found:?}");
        }
    }

    #[test]
    fn captured_at_one_of_them_alone() {
        let alone = ["client", "router", "director", "web1", "web2"];
        let found = moved().without(&alone).finding(&HA004);
        assert!(found.summary.contains("resets 2 open connections that began before it had the address"), "{}", found.summary);
        assert_eq!(found.confidence, Confidence::Likely);
        // It had the address all the time: others may have got what was meant for it.
        let mut w = open();
        w.who_has("router", "int", VIP, &["lb2"]);
        w.wait(60.0);
        w.begin_here();
        w.who_has("router", "int", VIP, &["lb2"]);
        go_on(&mut w, "lb2");
        assert_eq!(w.without(&alone).finding(&HA004).confidence, Confidence::Possible);
        moved().without(&["lb2", "router.int"]).deny(&HA004);
    }

    #[test]
    fn both_say_that_they_have_it() {
        let mut w = open();
        w.who_has("router", "int", VIP, &["director", "lb2"]);
        go_on(&mut w, "lb2");
        w.deny(&HA004);
        w.finding(&HA001);
    }

    #[test]
    fn a_real_server_that_answers_for_the_address_is_no_director() {
        let mut w = open();
        w.who_has("router", "int", VIP, &["web1"]);
        go_on(&mut w, "web1");
        w.deny(&HA004);
    }

    #[test]
    fn clients_that_come_from_a_leaking_server_are_no_orphans() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.who_has("router", "int", VIP, &["web1"]);
        w.carry(&c, false, SYN, b"", "client router web1");
        w.carry(&c, true, SYN_ACK, b"", "web1 router client");
        w.carry(&c, false, ACK, b"", "client router web1");
        w.wait(1.0);
        w.who_has("router", "int", VIP, &["director"]);
        w.carry(&c, false, PSH, b"first", "client router director");
        w.carry(&c, true, RST, b"", "director router client");
        w.deny(&HA004);
    }

    #[test]
    fn a_server_resets_for_itself() {
        let mut w = open();
        w.carry(&conn(40001), false, PSH, b"second", "client router director web1");
        w.carry(&conn(40001), true, RST, b"", "web1 router client");
        w.deny(&HA004);
        w.deny(&HA006);
    }

    #[test]
    fn whether_connections_are_shared() {
        let mut site = dr().to_vec();
        assert!(sketch::all(&site, &HA004).is_empty());
        let mut table = None;
        let _ = site[1].clone().with(|h| table = h.ipvs.clone());
        let second = sketch::Sketch::new("director2").card("eth0", "10.0.0.9/24").via("default", "10.0.0.1", "eth0");
        site.push(second.with(|h| h.ipvs = table));
        for director in [1, 5] {
            site[director] = site[director].clone().with(|h| h.ipvs.as_mut().unwrap().daemons = Some(Vec::new()));
        }
        let found = sketch::all(&site, &HA004);
        assert_eq!(found.iter().map(|f| f.severity).collect::<Vec<_>>(), [Severity::Note; 2], "{found:#?}");
        let daemon = |state: &str| Daemon { state: state.into(), interface: "eth0".into(), sync_id: 1 };
        for (director, state) in [(1, "master"), (5, "backup")] {
            site[director] = site[director].clone().with(|h| h.ipvs.as_mut().unwrap().daemons = Some(vec![daemon(state)]));
        }
        sketch::passes(&site, &HA004, "director");
        site[1] = site[1].clone().with(|h| h.ipvs.as_mut().unwrap().daemons = None);
        sketch::cannot_judge(&site, &HA004, "director");
    }
}
