//! A NAT director on one wire tells its real servers of a shorter way.

use super::super::facts::ids;
use super::super::remedy::sysctl;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::packet::IcmpKind;
use crate::trace::{Flow, FlowError, Hop, HostId, Method, Way};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// An ICMP redirect from the director to a real server, about an answer: "for this client there is a better first hop". From then on the
    /// real server asks by ARP for the client itself, and its answers no longer pass the director. The connection freezes in the middle.
    ///
    /// # Why it breaks
    /// The director forwards the answer out of the interface by which it came, notices that, and advises the short cut. Once taken, nobody
    /// puts the VIP back into the answers. Typical where the VIP's network and the real servers' are two addresses of one interface.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get CLIENT` prints `cache <redirected>`. On the director: `sysctl net.ipv4.conf.all.send_redirects`,
    /// and the same for the interface: redirects are sent unless both are 0.
    ///
    /// # Remedy
    /// No redirects from the director, for `all` and for the interface; then `ip route flush cache` on the real servers. Two interfaces or
    /// two VLANs are better.
    ///
    /// # When it is not a fault
    /// Redirects to clients about their requests: only answers must come back through the director.
    ///
    /// # Reproduce
    /// Everything on one bridge, the real servers' default route through the director, `send_redirects=1` there.
    ///
    /// # References
    /// kernel `Documentation/networking/ip-sysctl.rst`: send_redirects, shared_media; LVS-HOWTO chapter LVS-NAT.
    NAT004 "one-arm-icmp-redirect" check hosts
}

/// A flow, and the director's advice about its answers.
type Advice<'a> = (&'a Flow, &'a FlowError);

fn check(facts: &Facts<'_>) -> Outcome {
    let mut advised: BTreeMap<(Option<HostId>, bool), Vec<Advice>> = BTreeMap::new();
    for flow in facts.balanced(Method::Nat) {
        let about_reply = |e: &&FlowError| matches!(e.kind, IcmpKind::Redirect { .. }) && e.about == Way::Reply && e.from == flow.director;
        if let (Some(_), Some(redirect)) = (flow.server_host, flow.errors.iter().find(about_reply)) {
            advised.entry((flow.director, harmed(flow))).or_default().push((flow, redirect));
        }
    }
    let found: Vec<Finding> = advised.into_iter().map(|((_, harmed), told)| finding(facts, harmed, &told)).collect();
    found.into()
}

/// True when a server follows the advice, or the connection failed.
fn harmed(flow: &Flow) -> bool {
    past(flow).is_some() || !flow.state.is_complete()
}

/// What the server then sends past the director.
fn past(flow: &Flow) -> Option<&Hop> {
    flow.reply.strays.iter().find(|h| h.from.is_some() && h.from == flow.server_host && h.to != flow.director)
}

fn finding(facts: &Facts<'_>, broken: bool, told: &[Advice<'_>]) -> Finding {
    let (flow, redirect) = told[0];
    let (director, name) = (facts.name(flow.director), facts.names(told.iter().filter_map(|(f, _)| f.server_host)));
    let past = told.iter().find_map(|(f, _)| past(f));
    let is_server = |mac: crate::net::MacAddr| facts.trace.host_of(mac).is_some_and(|h| told.iter().any(|(f, _)| f.server_host == Some(h)));
    let asked = facts
        .trace
        .claims
        .questions
        .iter()
        .find(|q| is_server(q.mac) && told.iter().any(|(f, _)| f.reply.first().is_some_and(|h| h.dst.addr == q.target)));
    let (severity, effect) = match broken {
        true => (Severity::Broken, "whose answers then pass the director by."),
        false => (Severity::Risky, "whose answers will pass the director by as soon as the advice is followed."),
    };
    let interface = facts.interface(flow.director, &flow.reply);
    let key = format!("net.ipv4.conf.{interface}.send_redirects");
    let summary = format!("{director} advises {name} by ICMP redirect to answer {} directly, {effect}", flow.client.addr);
    Finding::new(director, severity, Confidence::Certain, summary, facts.error(redirect))
        .and(asked.map(|q| facts.question(q)))
        .and(past.map(|hop| facts.seen_with(hop, &facts.to_whom(hop))))
        .mend([
            sysctl(director, &[("net.ipv4.conf.all.send_redirects", "0", "1"), (&key, "0", "1")]),
            crate::finding::Remedy::new(
                &name,
                "ip route flush cache",
                "net.ipv4.conf.all.accept_redirects=0 in /etc/sysctl.d/90-lvs.conf",
                "nothing to undo",
            ),
        ])
        .on(ids(&told.iter().map(|(f, _)| *f).collect::<Vec<_>>()))
}

/// On a director with one arm: replies leave by the card at which they came, and redirects are on.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&[crate::ipvs::ForwardingMethod::Nat]) {
        let (Some(at), Some(rip)) = (duty.director, duty.rip.filter(std::net::IpAddr::is_ipv4)) else { continue };
        let (host, server) = (site.host(at), site.host(duty.member));
        if site.stories(duty).is_ok_and(|stories| stories.iter().any(|s| s.code == Some("NAT007"))) {
            continue;
        }
        let Some(inside) = host.way(&crate::host::Ask::to(rip)).ok().and_then(|w| w.link().map(str::to_string)) else { continue };
        let back = |source: std::net::IpAddr| host.way(&crate::host::Ask::to(source)).is_ok_and(|w| w.link() == Some(inside.as_str()));
        let through = |source: std::net::IpAddr| server.way(&duty.answer(source)).is_ok_and(|w| !w.gateways().is_empty());
        let Some(source) = duty.sources.iter().find(|s| host.address(s.addr).is_none() && back(s.addr) && through(s.addr)) else {
            checks.passed(&host.name, "replies leave by another card, or to nobody yet");
            continue;
        };
        match host.effective("send_redirects", &inside) {
            None => checks.needs(&host.name, "net.ipv4.conf.*.send_redirects"),
            Some(0) => checks.passed(&host.name, format!("no redirects at {inside}")),
            Some(_) => {
                let summary = format!(
                    "Replies to {} come and leave by {inside}: the director sends redirects, and the real servers then answer past it.",
                    source.addr
                );
                let keys = ["all", inside.as_str()].map(|at| (crate::host::Sysctls::name4(at, "send_redirects"), "0"));
                let found = proven(host, Severity::Degraded, summary, host.behind("send_redirects", &inside), "sysctl")
                    .mend([super::super::remedy::set(host, &keys)]);
                checks.failed(&host.name, found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ACK, PSH, SYN_ACK, World};
    use super::*;

    fn one_wire() -> World {
        World::new()
            .plug("client.eth0", "lan", "10.1.0.100")
            .plug("director.eth0", "lan", "10.1.0.1")
            .plug("web1.eth0", "lan", "10.2.0.11")
            .plug("web2.eth0", "lan", "10.2.0.12")
    }

    #[test]
    fn the_server_follows_the_redirect() {
        let mut w = one_wire();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 director client");
        w.icmp(&c, true, (5, 1, 0x0a01_0064), "10.1.0.1", "10.2.0.11", "web1", "director web1");
        w.carry(&c, false, ACK, b"", "client director web1");
        w.carry(&c, false, PSH, b"GET /", "client director web1");
        w.who_has("web1", "lan", "10.1.0.100", &["client"]);
        w.carry(&c, true, PSH, b"200 OK", "web1 client");
        w.wait(1.0);
        w.carry(&c, true, PSH, b"200 OK", "web1 client");
        let found = w.expect(&NAT004, Confidence::Certain, "director");
        assert_eq!(found.severity, Severity::Broken);
        assert_eq!(found.evidence().len(), 3);
        assert!(found.remedy[0].command.contains("net.ipv4.conf.eth0.send_redirects=0"));
    }

    #[test]
    fn redirects_that_nobody_follows_are_a_risk() {
        let mut w = one_wire();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.icmp(&c, true, (5, 1, 0x0a01_0064), "10.1.0.1", "10.2.0.11", "web1", "director web1");
        assert_eq!(w.expect(&NAT004, Confidence::Certain, "director").severity, Severity::Risky);
    }

    /// The stray answer was not captured, but the client waits for one.
    #[test]
    fn a_connection_that_stops_at_the_redirect() {
        let mut w = one_wire();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 director");
        w.icmp(&c, true, (5, 1, 0x0a01_0064), "10.1.0.1", "10.2.0.11", "web1", "director web1");
        w.wait(1.0);
        w.syn(&c, "client director web1", 1);
        assert_eq!(w.expect(&NAT004, Confidence::Certain, "director").severity, Severity::Broken);
    }

    /// Another router may advise the server as it likes.
    #[test]
    fn the_advice_of_somebody_else() {
        let mut w = one_wire().plug("gw.eth0", "lan", "10.2.0.254");
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.icmp(&c, true, (5, 1, 0x0a01_0064), "10.2.0.254", "10.2.0.11", "web1", "gw web1");
        w.deny(&NAT004);
    }

    #[test]
    fn one_director_is_one_fault() {
        let mut w = one_wire();
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("{rip}:80"));
            w.talk(&c, &format!("client director {web}"), &format!("{web} director client"));
            w.icmp(&c, true, (5, 1, 0x0a01_0064), "10.1.0.1", rip, web, &format!("director {web}"));
        }
        let found = w.expect(&NAT004, Confidence::Certain, "director");
        assert_eq!((found.flows.as_slice(), found.remedy[1].host.as_str()), (&[1, 2][..], "web1, web2"));
    }

    #[test]
    fn a_redirect_about_a_request_is_no_matter() {
        let mut w = one_wire();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.talk(&c, "client director web1", "web1 director client");
        w.icmp(&c, false, (5, 1, 0x0a01_0002), "10.1.0.1", "10.1.0.100", "client", "director client");
        w.deny(&NAT004);
        w.healthy();
    }
}
