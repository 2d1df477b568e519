//! The director swallows packets of a connection whose server was removed.

use super::super::facts::{by_director, ids, list, seconds};
use super::super::remedy::sysctl;
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Confidence, Evidence, Finding, Outcome, Severity};
use crate::net::{Protocol, Timestamp};
use crate::trace::{Flow, FlowNote, Hop, HostId, NoteKind, PacketKind, Way};

rule! {
    /// # What it sees
    /// In the middle of an established connection the client's packets go on arriving at the director, and nothing leaves it any more: no
    /// packet to the real server, no reset, no ICMP error. Other connections may work.
    ///
    /// # Why it breaks
    /// When a real server is deleted (`ipvsadm -d`), the entries of its connections stay, and IPVS drops their packets silently until they
    /// expire. The client hangs, for up to 15 minutes, instead of being reset.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -lnc | grep CLIENT` shows the entry, `ipvsadm -ln` no longer shows its server;
    /// `sysctl net.ipv4.vs.expire_nodest_conn` is 0.
    ///
    /// # Remedy
    /// `net.ipv4.vs.expire_nodest_conn=1`: the entry goes with the first packet, and the client is reset or scheduled anew. Before removing a
    /// server, set its weight to 0 and let it drain.
    ///
    /// # When it is not a fault
    /// Packets too large for the way on, whose ICMP error is filtered (DR020, TUN004): small ones pass then. A packet filter that began
    /// to drop (NAT008).
    ///
    /// # Reproduce
    /// A long download; `ipvsadm -d` of its server; the client sends.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_in_hook`: destinations that are not available;
    /// `Documentation/networking/ipvs-sysctl.rst`: expire_nodest_conn.
    SVC012 "removed-dest-blackhole" check hosts
}

/// What is between two packets of one direction when nothing is wrong, at most; losses take less.
const PAUSE: i64 = 1_000_000_000;

fn check(facts: &Facts<'_>) -> Outcome {
    let swallowed: Vec<&Flow> = facts.flows().filter(|f| blackhole(facts, f).is_some()).collect();
    let mut found: Vec<Finding> = by_director(swallowed)
        .into_iter()
        .filter_map(|(director, flows)| {
            let hole = blackhole(facts, flows[0])?;
            let name = facts.name(Some(director));
            let frames: Vec<u64> = hole.lost.iter().map(|n| n.frame).collect();
            let after: Vec<String> = hole.lost.iter().take(3).map(|n| seconds(n.time - hole.arrived.last)).collect();
            let what = format!("{} > {} again and again", hole.arrived.src, hole.arrived.dst);
            let proof = Evidence::frames(hole.arrived.point, frames, format!("{what}, {} before the last of them", last(&after)));
            let server = facts.name(flows[0].server_host);
            let finding = Finding::new(name, Severity::Degraded, Confidence::Likely, summary(name, server), proof)
                .and([facts.seen_with(hole.sent, "handed on, before")])
                .and([Evidence::absence(hole.sent.point, format!("nothing from {} after {}", hole.sent.src, hole.since))])
                .unless(&["NAT008"], settle(name))
                .on(ids(&flows));
            Some(finding)
        })
        .collect();
    // The capture began when the server had been removed already.
    found.extend(facts.losses("SVC012").into_iter().map(|loss| {
        let name = facts.name(Some(loss.host));
        let mut finding = loss.finding(facts, summary(name, "its server"), &settle(name));
        finding.severity = Severity::Degraded;
        finding
    }));
    let mended = found.into_iter().map(|finding| {
        let host = finding.subject.clone();
        finding.mend([sysctl(&host, &[("net.ipv4.vs.expire_nodest_conn", "1", "0")])])
    });
    Outcome::or_need(mended.collect(), need(facts))
}

fn summary(name: &str, server: &str) -> String {
    format!("{name} swallows packets of connections that it had handed to {server}: neither passed on nor reset.")
}

fn settle(name: &str) -> String {
    format!("on {name}: `ipvsadm -lnc` (the entry is there), `ipvsadm -ln` (its server is not), or a snapshot")
}

fn last(times: &[String]) -> String {
    list(times)
}

/// Where packets arrive, where they left before, and those that did not.
struct Blackhole<'a> {
    arrived: &'a Hop,
    sent: &'a Hop,
    /// When the last one left, on the clock of `sent`.
    since: Timestamp,
    lost: Vec<&'a FlowNote>,
}

fn blackhole<'a>(facts: &Facts<'a>, flow: &'a Flow) -> Option<Blackhole<'a>> {
    let director = flow.director.filter(|d| flow.protocol == Protocol::Tcp && flow.errors.is_empty() && Some(*d) != flow.server_host)?;
    let arrived = flow.request.received_by(director)?;
    let sent = last_sent(flow, director)?;
    let established = sent.seen.has(PacketKind::Data) || sent.seen.has(PacketKind::Ack);
    if !established || !facts.is_whole(sent.point) || flow.noted(NoteKind::Reset).any(|n| n.from == Some(director)) {
        return None;
    }
    let since = facts.trace.common_time(sent.point, sent.last);
    let swallowed = |n: &&FlowNote| {
        let repeat = matches!(n.kind, NoteKind::DataRepeat | NoteKind::AfterSilence) && n.way == Way::Request && n.point == arrived.point;
        // Only packets of a size that had passed before: larger ones have other reasons.
        let fits = n.kind == NoteKind::AfterSilence || n.len <= u32::from(sent.longest).max(1000);
        repeat && fits && n.to == Some(director) && facts.trace.common_time(n.point, n.time) - since >= PAUSE
    };
    let lost: Vec<&FlowNote> = flow.notes.iter().filter(swallowed).collect();
    // The capture behind the director went on, as far as it can be known.
    let at = lost.last().map(|n| Hop { time: n.time, ..arrived.clone() })?;
    (lost.len() >= 2 && facts.covers(sent.point, &at)).then_some(Blackhole { arrived, sent, since: sent.last, lost })
}

/// The place where a director sent something of the client's most recently.
fn last_sent(flow: &Flow, director: HostId) -> Option<&Hop> {
    let hops = flow.request.hops.iter().chain(&flow.request.strays);
    hops.filter(|hop| hop.from == Some(director)).max_by_key(|hop| hop.last)
}

/// Repeated data at a director whose other side was not captured.
fn need(facts: &Facts<'_>) -> Option<String> {
    let repeats = |f: &&Flow| f.noted(NoteKind::DataRepeat).filter(|n| n.way == Way::Request).count() >= 3 && !f.state.is_complete();
    let half = facts.flows().filter(repeats).find(|f| f.director.is_some_and(|d| f.request.sent_by(d).is_none()));
    half.map(|f| format!("captures on all interfaces of {}", facts.name(f.director)))
}

/// In the connection table: established connections of servers that are in no service.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::forgotten(site, checks, Protocol::Tcp, |host, servers, count| {
        let summary = format!(
            "{} of {servers}, which is in no service any more: their packets vanish, and their clients wait.",
            crate::net::plural(count, "established connection")
        );
        proven(host, Severity::Degraded, summary, format!("{count} in ESTABLISHED to {servers}"), "ipvsadm -Lnc; ipvsadm -Ln")
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, dr_with};
    use super::super::super::testing::{ACK, Conn, PSH, RST, SYN, SYN_ACK, World};
    use super::*;

    fn open(w: &mut World) -> Conn {
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.carry(&c, false, SYN, b"", "client director web1");
        w.carry(&c, true, SYN_ACK, b"", "web1 director client");
        w.carry(&c, false, ACK, b"", "client director web1");
        w.carry(&c, false, PSH, b"first", "client director web1");
        w.carry(&c, true, PSH, b"answer", "web1 director client");
        c
    }

    #[test]
    fn connections_of_a_removed_server() {
        let with = |state: &str, key: &str| {
            let line = format!("tcp 10.9.0.7:40001 10.0.0.100:80 10.0.0.13:80 {state} 700");
            let template = "tcp 10.9.0.7:0 10.0.0.100:80 10.0.0.13:80 NONE 50";
            dr_with("director", |d| d.set("net.ipv4.vs.expire_nodest_conn", key).connections(&[&line, template]))
        };
        let found = sketch::expect(&with("ESTABLISHED", "0"), &SVC012, Severity::Degraded, Confidence::Certain, "director");
        assert!(found.remedy[0].command.contains("net.ipv4.vs.expire_nodest_conn=1"), "{:?}", found.remedy);
        sketch::passes(&with("FIN_WAIT", "0"), &SVC012, "director");
        sketch::passes(&with("ESTABLISHED", "1"), &SVC012, "director");
        let alive = ["tcp 10.9.0.7:40001 10.0.0.100:80 10.0.0.11:80 ESTABLISHED 700"];
        sketch::passes(&dr_with("director", |d| d.set("net.ipv4.vs.expire_nodest_conn", "0").connections(&alive)), &SVC012, "director");
        sketch::cannot_judge(&dr_with("director", |d| d.with(|h| h.ipvs.as_mut().unwrap().connections = None)), &SVC012, "director");
    }

    #[test]
    fn packets_vanish_in_mid_connection() {
        let mut w = World::nat();
        let c = open(&mut w);
        for pause in [2.0, 0.4, 0.8, 1.6, 3.2] {
            w.wait(pause);
            w.carry(&c, false, PSH, b"first", "client director");
        }
        let found = w.expect(&SVC012, Confidence::Likely, "director");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[1][..]));
        // Without the far side nobody can say that nothing left.
        w.without(&["director.int", "web1", "web2"]).deny(&SVC012);
    }

    #[test]
    fn a_reset_or_a_lost_packet_is_no_blackhole() {
        let mut w = World::nat();
        let c = open(&mut w);
        w.wait(2.0);
        w.carry(&c, false, PSH, b"first", "client director");
        w.carry(&c, true, RST, b"", "director client");
        w.wait(2.0);
        w.carry(&c, false, PSH, b"first", "client director");
        w.deny(&SVC012);
        let mut w = World::nat();
        let c = open(&mut w);
        w.wait(2.0);
        w.carry(&c, false, PSH, b"first", "client director");
        w.wait(0.4);
        w.carry(&c, false, PSH, b"first", "client director web1");
        w.deny(&SVC012);
    }

    #[test]
    fn packets_that_are_too_large_are_another_story() {
        let mut w = World::nat();
        let c = open(&mut w);
        for pause in [2.0, 0.4, 0.8, 1.6] {
            w.wait(pause);
            w.carry(&c, false, PSH, &[b'x'; 1400], "client director");
        }
        w.deny(&SVC012);
    }

    #[test]
    fn the_capture_began_too_late() {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let other = World::tcp("10.1.0.100:50001", "10.1.0.1:80").dnat("director", "10.2.0.12:80");
        w.talk(&other, "client director web2", "web2 director client");
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80");
        for pause in [2.0, 0.4, 0.8, 1.6] {
            w.wait(pause);
            w.carry(&c, false, PSH, b"first", "client director");
        }
        let found = w.expect(&SVC012, Confidence::Likely, "director");
        assert!(found.alternatives.contains(&"NAT008"));
    }
}
