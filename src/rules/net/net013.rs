//! A server whose queue of connections ran over.

use super::super::facts::{Late, seconds};
use super::super::remedy::look;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Severity};
use crate::net::Protocol;
use crate::trace::{HostId, NoteKind};

rule! {
    /// # What it sees
    /// A real server that receives a SYN and answers none but the client's second, a second later, while it serves others at once. On the
    /// host: counted connections for which its listening sockets had no room.
    ///
    /// # Why it breaks
    /// A program that does not take its connections quickly enough lets the queue of its listening socket run full (its backlog, at most
    /// `net.core.somaxconn`). Then the kernel drops SYNs, and ACKs that would end a handshake, without a word: clients repeat them after one
    /// second and more, and see a server that is slow or silent at times. A flood of SYNs does the same.
    ///
    /// # Confirm it by hand
    /// On the real server: `nstat -az TcpExtListenOverflows TcpExtListenDrops`, twice: do they still grow? `ss -ltn`: Recv-Q against Send-Q of
    /// the listening socket.
    ///
    /// # Remedy
    /// A longer backlog in the program, and `net.core.somaxconn` no smaller than that; more workers; a lower weight.
    ///
    /// # When it is not a fault
    /// The counters count since the machine was started: one rush, long ago, is no fault of today. A filter that lets so many SYNs a second
    /// pass looks alike in packets.
    ///
    /// # Reproduce
    /// A program that listens with a backlog of 1 and accepts nothing; three clients.
    ///
    /// # References
    /// kernel `net/ipv4/tcp_input.c`, `tcp_conn_request`; listen(2); `Documentation/networking/ip-sysctl.rst`, somaxconn.
    NET013 "listen-overflow-or-synflood" check hosts
}

/// In packets it is a server that answers some SYNs at the second try only. One that is silent at times may have another cause (NET008), with
/// this among those left open.
fn check(facts: &Facts<'_>) -> Outcome {
    let found = facts.late_answers().iter().map(|(server, late)| finding(facts, *server, late)).collect();
    let open = facts.silences("NET008").into_iter().find(|silence| silence.others.contains(&"NET013"));
    Outcome::or_need(found, open.map(|silence| format!("`nstat -az TcpExtListenDrops` on {}, or a snapshot", silence.names(facts))))
}

fn finding(facts: &Facts<'_>, server: HostId, late: &[Late<'_>]) -> Finding {
    let (first, name) = (&late[0], facts.name(Some(server)));
    let silent = facts.silences("NET013").into_iter().flat_map(|s| s.flows).filter(|f| f.server_host == Some(server));
    let mut silent: Vec<u32> = silent.map(|f| f.id).collect();
    let service = first.flow.vip.unwrap_or(first.flow.service);
    let also = if silent.is_empty() { "" } else { ", or none" };
    let summary =
        format!("{name} takes no notice of some SYNs for {service} and answers when they are repeated{also}: clients wait for seconds.");
    // A single one may have been answered by a packet that no capture kept.
    let confidence = if late.len() > 1 { Confidence::Likely } else { Confidence::Possible };
    silent.extend(late.iter().map(|l| l.flow.id));
    let counters = COUNTERS.join(" ");
    Finding::new(name, Severity::Degraded, confidence, summary, facts.seen(first.asked))
        .and(facts.repeats(first.flow, first.asked, NoteKind::SynRepeat))
        .and([facts.seen_with(first.answer, &format!("{} after the first SYN", seconds(first.answer.time - first.asked.time)))])
        .unless(&["NET008"], format!("on {name}: `nstat -az {counters}` and its filter rules, or a snapshot"))
        .mend([look(name, format!("nstat -az {counters}; ss -ltn"), THEN)])
        .on(silent)
}

const THEN: &str = "where they grow: a longer backlog in the program, net.core.somaxconn no smaller, more workers";

const COUNTERS: [&str; 2] = ["TcpExtListenOverflows", "TcpExtListenDrops"];

/// In counters, of which nobody knows when they counted.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties.iter().filter(|d| d.accepts.is_none_or(|(protocol, _)| protocol == Protocol::Tcp)) {
        let host = site.host(duty.member);
        if host.counters.is_none() {
            checks.needs(&host.name, format!("its counters: {}", host.why_absent("counters")));
            continue;
        }
        // A SYN whose answer has no route is counted among the drops as well (kernel net/ipv4/tcp_input.c, tcp_conn_request).
        let no_route = |c: &std::collections::BTreeMap<String, u64>| {
            ["IpOutNoRoutes", "Ip6OutNoRoutes"].iter().any(|key| c.get(*key).is_some_and(|n| *n > 0))
        };
        let routeless = host.counters.iter().any(no_route);
        let telling = if routeless { &COUNTERS[..1] } else { &COUNTERS[..] };
        let mut proofs = site.counted(host, telling).into_iter();
        let Some(first) = proofs.next() else {
            checks.passed(&host.name, "no listening socket ran over");
            continue;
        };
        let summary = "At some time since its start there was no room for new connections in the queue of a listening socket.";
        let found = Finding::new(&host.name, Severity::Note, Confidence::Possible, summary, first)
            .and(proofs)
            .and(listeners(host, duty).map(|what| Evidence::host(&host.name, what, "ss -ltn")))
            .mend([look(&host.name, format!("nstat -az {}; ss -ltn", COUNTERS.join(" ")), THEN)]);
        checks.failed(&host.name, found);
    }
}

/// Which socket it may have been, where there is but one.
fn listeners(host: &crate::host::Host, duty: &super::super::site::Duty) -> Option<String> {
    let (protocol, at) = duty.accepts?;
    let mut tcp = host.sockets.iter().flatten().filter(|s| s.protocol == protocol);
    let only = tcp.next().filter(|s| s.accepts(protocol, at))?;
    tcp.next().is_none().then(|| format!("{} is its only listening socket", only.local))
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr, dr_with};
    use super::super::super::testing::World;
    use super::super::net008::NET008;
    use super::*;

    #[test]
    fn queues_that_ran_over() {
        let counted = dr_with("web1", |s| {
            s.with(|h| {
                h.counters.get_or_insert_default().insert("TcpExtListenDrops".into(), 17);
            })
        });
        let found = sketch::expect(&counted, &NET013, Severity::Note, Confidence::Possible, "web1");
        assert!(found.evidence().iter().any(|e| matches!(e, Evidence::Host { fact, .. } if fact == "TcpExtListenDrops 17")));
        sketch::passes(&dr(), &NET013, "web1");
        // Drops for want of a route to answer by are another story.
        for no_route in ["IpOutNoRoutes", "Ip6OutNoRoutes"] {
            let counted = [("TcpExtListenDrops".to_string(), 4), (no_route.to_string(), 4)];
            let routeless = dr_with("web1", |s| s.with(|h| h.counters.get_or_insert_default().extend(counted)));
            sketch::passes(&routeless, &NET013, "web1");
        }
        sketch::cannot_judge(&dr_with("web1", |s| s.with(|h| h.counters = None)), &NET013, "web1");
    }

    /// Of `all` connections to web1 the last `late` are answered after the second try, with `echo` as the timestamp of which.
    fn rush(all: u16, late: u16, echo: u32) -> World {
        let mut w = World::nat();
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        for port in 40001..=40000 + all {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
            if port > 40000 + all - late {
                w.syn(&c.stamped(1000, 0), "client director web1", 1);
                w.wait(1.0);
            }
            w.talk(&c.stamped(2000, echo), "client director web1", "web1 director client");
        }
        w
    }

    #[test]
    fn answered_at_the_second_try() {
        let found = rush(4, 2, 2000).expect(&NET013, Confidence::Likely, "web1");
        assert_eq!(
            (found.severity, found.flows.as_slice(), found.alternatives.as_slice()),
            (Severity::Degraded, &[3, 4][..], &["NET008"][..])
        );
        assert_eq!(found.evidence().len(), 3);
        rush(4, 1, 2000).expect(&NET013, Confidence::Possible, "web1");
        rush(4, 0, 2000).healthy();
        // The first SYN was taken, and its SYN-ACK lost behind the capture; or nobody knows.
        rush(4, 2, 1000).deny(&NET013);
        rush(4, 2, 0).deny(&NET013);
        // Elsewhere a SYN may have been lost on its way.
        rush(4, 2, 2000).without(&["web1"]).deny(&NET013);
        // Others wait in vain.
        let mut w = rush(4, 2, 2000);
        w.syn(&World::tcp("10.1.0.100:40009", "10.1.0.1:80").dnat("director", "10.2.0.11:80"), "client director web1", 3);
        assert_eq!(w.expect(&NET013, Confidence::Likely, "web1").flows, [3, 4, 5]);
        w.deny(&NET008);
    }

    /// A SYN that came once is answered when the server knows to whom to hand its answer.
    #[test]
    fn the_answer_waits_for_a_neighbour() {
        let mut w = World::nat();
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        for port in [40001, 40002] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
            w.syn(&c.stamped(1000, 0), "client director web1", 1);
            w.who_has("web1", "int", "10.2.0.1", &[]);
            w.wait(1.0);
            w.who_has("web1", "int", "10.2.0.1", &["director"]);
            w.talk(&c.stamped(2000, 2000), "client director web1", "web1 director client");
        }
        w.deny(&NET013);
    }

    /// Beside silence at times, the counter is a proof for that cause; here the snapshot excludes the others, too.
    #[test]
    fn silent_at_times() {
        let mut w = World::nat();
        let nat = |port: u16| World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&nat(40001), "client director web1", "web1 director client");
        w.syn(&nat(40002), "client director web1", 3);
        assert!(w.cannot_judge(&NET013) && w.finding(&NET008).alternatives.contains(&"NET013"));
        let counted = |h: &mut crate::host::Host| h.counters = Some([("TcpExtListenOverflows".to_string(), 3)].into());
        let web1 = Sketch::new("web1").card("eth0", "10.2.0.11/24").via("default", "10.2.0.1", "eth0").listens("0.0.0.0:80").with(counted);
        let director = Sketch::new("director").card("ext", "10.1.0.1/24").card("int", "10.2.0.1/24");
        let rules = "-A -t 10.1.0.1:80 -s rr\n-a -t 10.1.0.1:80 -r 10.2.0.11:80 -m\n";
        w.fleet = sketch::fleet(&[web1, director.set("net.ipv4.conf.int.forwarding", "1").ipvs(rules)]);
        w.deny(&NET008);
        let found = w.expect(&NET013, Confidence::Possible, "web1");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Broken, &[2][..]));
        assert!(
            found.evidence().iter().any(|e| matches!(e, Evidence::Host { fact, .. } if fact == "TcpExtListenOverflows 3")),
            "{found:#?}"
        );
    }
}
