//! The director has forgotten a connection that was silent for too long.

use super::super::facts::{is_initial, seconds};
use super::super::ha::{Orphan, orphans};
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::Role;
use crate::net::Protocol;
use crate::trace::{Flow, FlowNote, HostId, NoteKind, Way};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// A connection is silent for minutes (by default 900 s), then the client sends again, and the director itself resets it: the VIP as
    /// source, its own MAC, a fresh TTL. The real server was not asked and still believes the connection to be open.
    ///
    /// # Why it breaks
    /// IPVS forgets an established connection after its timeout. The next packet fits no entry and is not a SYN, so it is delivered to the
    /// director's own stack, which knows no such connection either.
    ///
    /// # Confirm it by hand
    /// On the director: `ipvsadm -l --timeout`; compare with the application's keepalive (Linux: 7200 s).
    ///
    /// # Remedy
    /// A longer timeout than the keepalive, or a keepalive shorter than the timeout (`net.ipv4.tcp_keepalive_time=600` on clients or
    /// servers whose programs use keepalive).
    ///
    /// # When it is not a fault
    /// When the director was replaced or restarted in between (HA004): then connections are reset without a long silence too.
    ///
    /// # Reproduce
    /// `ipvsadm --set 150 0 0`; open a connection, wait three minutes, send.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_proto_tcp.c`, `tcp_timeouts`; ipvsadm(8), `--set`.
    SVC013 "idle-timeout-reset" check hosts
}

/// The timeout that the kernel starts with, less what a trace's coarse times may be off, in milliseconds.
const DEFAULT: u32 = 895_000;
/// The answer to the packet that came after the silence.
const AT_ONCE: i64 = 2_000_000_000;

/// A connection that its director resets when it goes on.
struct Forgotten<'a> {
    flow: &'a Flow,
    /// For how long it was silent, in nanoseconds.
    silence: i64,
    /// The client's packet after that.
    after: Option<&'a FlowNote>,
    reset: &'a FlowNote,
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut forgotten: Vec<Forgotten> = facts.flows().filter_map(|f| reset(facts, f)).collect();
    // Shorter silences, after which somebody must have shortened the timeout.
    let short = orphans(facts).into_iter().filter(|o| o.is_its_own() && o.may_be_old());
    let short = short.map(|Orphan { flow, silent, reset, .. }| Forgotten { flow, silence: silent, after: None, reset });
    let known: Vec<u32> = forgotten.iter().map(|f| f.flow.id).collect();
    forgotten.extend(short.filter(|f| !known.contains(&f.flow.id)));
    let mut stories: BTreeMap<HostId, Vec<Forgotten>> = BTreeMap::new();
    for one in forgotten {
        if let Some(director) = one.flow.director {
            stories.entry(director).or_default().push(one);
        }
    }
    let found: Vec<Finding> = stories.iter().map(|(director, all)| finding(facts, *director, all)).collect();
    Outcome::or_need(found, need(facts))
}

fn finding(facts: &Facts<'_>, director: HostId, all: &[Forgotten<'_>]) -> Finding {
    let one = &all[0];
    let name = facts.name(Some(director));
    let silence = seconds(one.silence);
    let (confidence, how) = match one.silence < i64::from(DEFAULT) * 1_000_000 {
        false => (Confidence::Likely, "it has forgotten it (900 s by default)"),
        true => (Confidence::Possible, "it has forgotten it (its timeout may have been shortened)"),
    };
    let summary = format!("{name} resets a connection itself after {silence} of silence: {how}.");
    let before = one.flow.request.sent_by(director).map(|hop| facts.seen_with(hop, "handed on, before"));
    let proof = facts.noted(one.reset, &format!("RST from {name} itself, TTL {}", one.reset.ttl));
    let found = match one.after {
        Some(after) => {
            let first = facts.noted(after, &format!("after {silence} of silence"));
            Finding::new(name, Severity::Degraded, confidence, summary, first).and([proof])
        }
        None => Finding::new(name, Severity::Degraded, confidence, summary, proof),
    };
    let mend = Remedy::new(
        name,
        "ipvsadm --set 7500 120 300",
        "the same at boot; or TCP keepalive under 900 s in the application",
        "ipvsadm --set 900 120 300",
    );
    found
        .and(before)
        .unless(&["HA004"], format!("on {name}: `ipvsadm -l --timeout`; whether the director was restarted or replaced meanwhile"))
        .mend([mend])
        .on(all.iter().map(|f| f.flow.id))
}

/// The client's packet after a silence, and the director's reset.
fn reset<'a>(facts: &Facts<'_>, flow: &'a Flow) -> Option<Forgotten<'a>> {
    let director = flow.director.filter(|d| flow.protocol == Protocol::Tcp && Some(*d) != flow.server_host)?;
    let from_server = |n: &FlowNote| n.from.is_some() && n.from == flow.server_host;
    if flow.noted(NoteKind::Reset).any(|n| n.way == Way::Reply && from_server(n)) {
        return None;
    }
    // Forwarded packets have a TTL that nobody begins with, and the same one as other answers over that link.
    let forwarded = |n: &FlowNote| {
        flow.reply.hops.iter().any(|hop| hop.from == Some(director) && hop.ttl == n.ttl && hop.seen.has(crate::trace::PacketKind::SynAck))
    };
    let own = |n: &&FlowNote| n.way == Way::Reply && n.from == Some(director) && is_initial(n.ttl) && !forwarded(n);
    let (silent, reset) = flow.noted(NoteKind::AfterSilence).filter(|n| n.way == Way::Request).find_map(|silent| {
        let since = facts.trace.common_time(silent.point, silent.time);
        let after = |n: &&FlowNote| (-1_000_000..AT_ONCE).contains(&(facts.trace.common_time(n.point, n.time) - since));
        let reset = flow.noted(NoteKind::Reset).filter(own).find(after)?;
        Some((silent, reset))
    })?;
    // It was not handed on either.
    let passed = flow.noted(NoteKind::AfterSilence).any(|n| n.way == Way::Request && n.from == Some(director));
    let silence = i64::from(silent.len) * 1_000_000;
    (!passed).then_some(Forgotten { flow, silence, after: Some(silent), reset })
}

/// A reset after a long silence, seen only where its origin does not show.
fn need(facts: &Facts<'_>) -> Option<String> {
    let late = |f: &&Flow| {
        let silent = f.noted(NoteKind::AfterSilence).any(|n| n.way == Way::Request && n.len >= DEFAULT);
        f.director.is_none() && silent && f.noted(NoteKind::Reset).any(|n| n.way == Way::Reply)
    };
    facts.flows().any(|f| late(&f)).then(|| "captures on the director, on both of its sides".to_string())
}

/// What the kernel begins with, in seconds.
const USUAL: u32 = 900;

/// On directors: a timeout that somebody has shortened, or connections that will soon have been silent for too long.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (at, host) in site.playing(Role::Director) {
        let Some(table) = host.ipvs.as_ref().filter(|t| t.services.iter().any(|s| s.protocol != Some(Protocol::Udp))) else { continue };
        let Some(timeout) = table.timeouts.map(|t| t.tcp) else {
            checks.needs(&host.name, "the timeouts of IPVS");
            continue;
        };
        // A program that wants it sends something after so long; who asks for it, nobody tells.
        let alive = |member: usize| site.host(member).sysctl("net.ipv4.tcp_keepalive_time");
        let servers = site.duties.iter().filter(|d| d.director == Some(at)).filter_map(|d| Some((site.host(d.member), alive(d.member)?)));
        let slow = servers.max_by_key(|(_, alive)| *alive);
        if slow.is_some_and(|(_, alive)| alive < i64::from(timeout)) {
            checks.passed(&host.name, format!("connections are forgotten after {timeout} s of silence, later than keepalives come"));
            continue;
        }
        let silent = table.connections.iter().flatten().filter(|c| c.protocol == Protocol::Tcp && c.state == "ESTABLISHED");
        let silent = silent.filter(|c| c.client.port != 0 && c.expires < timeout / 4).count() as u64;
        let (short, soon) = (timeout < USUAL, silent > 0);
        if !short && !soon {
            checks.passed(&host.name, format!("connections are forgotten after {timeout} s of silence; none is silent for long"));
            continue;
        }
        let what = match soon {
            true => format!("{} for three quarters of that already", crate::net::plural(silent, "silent connection")),
            false => format!("the kernel's own timeout is {USUAL} s"),
        };
        let summary = format!("It forgets a connection after {timeout} s of silence and resets it when it goes on; {what}.");
        let later = slow.map_or(7500, |(_, alive)| alive + 300);
        let (fin, udp) = table.timeouts.map_or((120, 300), |t| (t.tcp_fin, t.udp));
        let remedy = Remedy::new(
            &host.name,
            format!("ipvsadm --set {later} {fin} {udp}"),
            format!("the same at boot; or keepalive within {timeout} s in the programs (net.ipv4.tcp_keepalive_time)"),
            format!("ipvsadm --set {timeout} {fin} {udp}"),
        );
        let mut found = proven(host, Severity::Risky, summary, format!("tcp {timeout}"), "ipvsadm -L --timeout").mend([remedy]);
        found = found.and(slow.map(|(server, alive)| {
            crate::finding::Evidence::host(
                &server.name,
                format!("net.ipv4.tcp_keepalive_time={alive}"),
                "sysctl net.ipv4.tcp_keepalive_time",
            )
        }));
        if soon {
            found = found.and([crate::finding::Evidence::host(
                &host.name,
                format!("{silent} in ESTABLISHED with less than {} s left", timeout / 4),
                "ipvsadm -Lnc",
            )]);
        }
        // Whether those who are silent will ever go on is not known.
        found.confidence = Confidence::Possible;
        checks.failed(&host.name, found);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ha::ha004::HA004;
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::super::super::testing::{ACK, Conn, PSH, RST, SYN, SYN_ACK, World};
    use super::*;

    fn nat() -> Conn {
        World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80")
    }

    fn open(w: &mut World, c: &Conn, there: &str, back: &str) {
        w.carry(c, false, SYN, b"", there);
        w.carry(c, true, SYN_ACK, b"", back);
        w.carry(c, false, ACK, b"", there);
        w.carry(c, false, PSH, b"first", there);
        w.carry(c, true, PSH, b"answer", back);
        w.carry(c, false, ACK, b"", there);
    }

    fn forgotten(silence: f64) -> World {
        let mut w = World::nat();
        let c = nat();
        open(&mut w, &c, "client director web1", "web1 director client");
        w.wait(silence);
        w.carry(&c, false, ACK, b"", "client director");
        let unknown = World::tcp("10.1.0.100:40001", "10.1.0.1:80");
        w.carry(&unknown, true, RST, b"", "director client");
        w
    }

    #[test]
    fn a_timeout_and_who_is_silent() {
        let tcp = |seconds: u32| move |d: Sketch| d.with(|h| h.ipvs.as_mut().unwrap().timeouts.as_mut().unwrap().tcp = seconds);
        sketch::passes(&sketch::dr(), &SVC013, "director");
        let found = sketch::expect(&dr_with("director", tcp(60)), &SVC013, Severity::Risky, Confidence::Possible, "director");
        assert_eq!(
            (found.remedy[0].command.as_str(), found.remedy[0].undo.as_str()),
            ("ipvsadm --set 7500 120 300", "ipvsadm --set 60 120 300")
        );
        let line = |left: u32| format!("tcp 10.9.0.7:40001 10.0.0.100:80 10.0.0.11:80 ESTABLISHED {left}");
        let silent = |left: u32| dr_with("director", |d| d.connections(&[&line(left)]));
        sketch::expect(&silent(100), &SVC013, Severity::Risky, Confidence::Possible, "director");
        sketch::passes(&silent(800), &SVC013, "director");
        let mut alive = silent(100);
        for web in &mut alive[2..4] {
            *web = web.clone().set("net.ipv4.tcp_keepalive_time", "600");
        }
        sketch::passes(&alive, &SVC013, "director");
        sketch::cannot_judge(&dr_with("director", |d| d.with(|h| h.ipvs.as_mut().unwrap().timeouts = None)), &SVC013, "director");
    }

    #[test]
    fn a_reset_after_a_quarter_of_an_hour() {
        let w = forgotten(1000.0);
        let found = w.expect(&SVC013, Confidence::Likely, "director");
        assert_eq!((found.severity, found.alternatives.as_slice()), (Severity::Degraded, &["HA004"][..]));
        for silence in [200.0, 20.0] {
            forgotten(silence).expect(&SVC013, Confidence::Possible, "director");
            forgotten(silence).deny(&HA004);
        }
        // So soon nothing is forgotten because of its age.
        forgotten(2.0).deny(&SVC013);
        let found = forgotten(2.0).expect(&HA004, Confidence::Possible, "director");
        assert_eq!((found.severity, found.alternatives.as_slice()), (Severity::Degraded, &["SVC013", "SVC012"][..]));
    }

    #[test]
    fn with_direct_routing() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        open(&mut w, &c, "client router director web1", "web1 router client");
        w.wait(1000.0);
        w.carry(&c, false, ACK, b"", "client router director");
        w.carry(&c, true, RST, b"", "director router client");
        w.expect(&SVC013, Confidence::Likely, "director");
    }

    #[test]
    fn a_reset_of_the_server_is_its_own() {
        let mut w = World::nat();
        let c = nat();
        open(&mut w, &c, "client director web1", "web1 director client");
        w.wait(1000.0);
        w.carry(&c, false, ACK, b"", "client director web1");
        w.carry(&c, true, RST, b"", "web1 director client");
        w.deny(&SVC013);
    }

    #[test]
    fn a_long_silence_that_ends_well() {
        let mut w = World::nat();
        let c = nat();
        open(&mut w, &c, "client director web1", "web1 director client");
        w.wait(1000.0);
        w.carry(&c, false, PSH, b"later", "client director web1");
        w.carry(&c, true, ACK, b"", "web1 director client");
        w.deny(&SVC013);
        w.healthy();
    }
}
