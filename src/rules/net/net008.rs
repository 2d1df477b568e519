//! A packet filter, or SELinux, on a host of the path.

use super::super::facts::ids;
use super::super::remedy::look;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::rejection;
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::trace::{Flow, FlowNote, FlowState, Hop, HostId, Method, NoteKind, PacketKind};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// A host rejects requests with ICMP "administratively prohibited", or TCP with "port unreachable", which no kernel without a filter
    /// does. Or the request arrives at a real server and nothing comes back, while the same server serves other connections of the same
    /// kind. Or a router that forwards other connections drops these. Or the answer arrives at the client itself, which goes on asking.
    ///
    /// # Why it breaks
    /// Rules often allow RIP:80 and forget VIP:80, which is what arrives with direct routing and tunnels; or they allow TCP and forget
    /// protocol 4, the outer packet of a tunnel. SELinux may keep the program from the port.
    ///
    /// # Confirm it by hand
    /// On the host: `nft list ruleset` or `iptables-save -c`, and watch the counters of rules that drop; `firewall-cmd --list-all`;
    /// `ausearch -m avc -ts recent`.
    ///
    /// # Remedy
    /// Accept the address and port that arrive there (with NAT the RIP, otherwise the VIP), and protocol 4 or 47 in front of a tunnel.
    ///
    /// # When it is not a fault
    /// When this client is to be kept out. Silence of a server has many causes (NAT001, DR001, DR004, DR018, TUN002); where packets suggest
    /// another one, that one is reported, with NET008 among its alternatives.
    ///
    /// # Reproduce
    /// A healthy service; on one real server `iptables -A INPUT -p tcp --dport 80 -j REJECT`.
    ///
    /// # References
    /// iptables-extensions(8), REJECT; RFC 1812 section 5.2.7.1 (codes 9, 10, 13); firewalld.zone(5).
    NET008 "host-firewall-or-selinux" check hosts
}

const RULES: &str = "nft list ruleset; iptables-save -c";

fn check(facts: &Facts<'_>) -> Outcome {
    let mut found = rejected(facts);
    for silence in facts.silences("NET008") {
        let names = silence.names(facts);
        let finding = silence.finding(facts, Severity::Broken, "`nft list ruleset` (counters of drops), `ausearch -m avc -ts recent`");
        found.push(finding.mend([look(&names, RULES, format!("then accept {} in INPUT, and save the rules", silence.hop.dst))]));
    }
    for loss in facts.losses("NET008") {
        let name = facts.name(Some(loss.host));
        let summary = format!("{name} forwards other connections, and drops requests for {}.", loss.service());
        let finding = loss.finding(facts, summary, &format!("on {name}: `nft list ruleset` (counters of drops in FORWARD), or a snapshot"));
        found.push(finding.mend([look(name, RULES, format!("then accept {} in FORWARD, and save the rules", loss.service()))]));
    }
    found.extend(deaf_clients(facts));
    let methods = [Method::Nat, Method::FullNat, Method::DirectRouting, Method::Tunnel];
    Outcome::or_need(found, facts.unwatched_server(&methods))
}

/// Requests that a filter rejects and says so.
fn rejected(facts: &Facts<'_>) -> Vec<Finding> {
    let mut hosts: BTreeMap<HostId, Vec<&Flow>> = BTreeMap::new();
    for flow in facts.flows().filter(|f| !f.state.is_complete()) {
        if let Some(host) = rejection(facts, flow).and_then(|error| error.from) {
            hosts.entry(host).or_default().push(flow);
        }
    }
    let finding = |(host, flows): (HostId, Vec<&Flow>)| {
        let (flow, name) = (flows[0], facts.name(Some(host)));
        let error = rejection(facts, flow)?;
        let chain = if Some(host) == flow.server_host || flow.director == Some(host) { "INPUT" } else { "FORWARD" };
        let what = error.quoted_dst;
        let summary = format!("A packet filter on {name} rejects requests for {what}.");
        let arrived = facts.reached(&flow.request, host).map(|hop| facts.seen(hop));
        let mended = look(name, RULES, format!("then accept {what} in {chain}, in front of the rule that rejects, and save the rules"));
        let severity = if facts.others_serve(flow) { Severity::Degraded } else { Severity::Broken };
        // What a filter rejects in front of every director may be rejected rightly, where it is not a service that others reach.
        let hop = flow.request.last()?;
        let confidence = match flow.director {
            Some(_) => Confidence::Certain,
            None if facts.concerns_a_service(flow, hop) && !facts.serves_other_port(flow, hop) => Confidence::Likely,
            None => Confidence::Possible,
        };
        let proof = Finding::new(name, severity, confidence, summary, facts.error(error));
        Some(proof.and(arrived).mend([mended]).on(ids(&flows)))
    };
    hosts.into_iter().filter_map(finding).collect()
}

/// Clients at whose own interface right answers arrive, and that ask again as if there had been none.
fn deaf_clients(facts: &Facts<'_>) -> Vec<Finding> {
    let mut clients: BTreeMap<HostId, Vec<(&Flow, &Hop)>> = BTreeMap::new();
    for flow in facts.flows().filter(|f| f.state == FlowState::Unanswered && f.from_start) {
        let Some(client) = flow.client_host else { continue };
        let Some(answer) = flow.reply.received_by(client).filter(|hop| hop.src == flow.service && hop.first == PacketKind::SynAck) else {
            continue;
        };
        let again = |n: &&FlowNote| n.from == Some(client) && n.point == answer.point && n.time > answer.time;
        if flow.noted(NoteKind::SynRepeat).filter(again).count() > 0 && flow.noted(NoteKind::SynAckRepeat).any(|n| n.point == answer.point)
        {
            clients.entry(client).or_default().push((flow, answer));
        }
    }
    let finding = |(client, flows): (HostId, Vec<(&Flow, &Hop)>)| {
        let (name, (flow, answer)) = (facts.name(Some(client)), flows[0]);
        let summary = format!("Answers of {} arrive at {name}, which drops them and asks again.", flow.service);
        let chain = format!("then accept answers of {} in INPUT, and save the rules", flow.service.addr);
        Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.seen(answer))
            .and(facts.repeats(flow, answer, NoteKind::SynAckRepeat))
            .and(flow.noted(NoteKind::SynRepeat).find(|n| n.time > answer.time).map(|n| facts.noted(n, "the SYN again, after the answer")))
            .unless(&[], format!("on {name}: `nft list ruleset` (counters), `nstat -az TcpInCsumErrors IPReversePathFilter`"))
            .mend([look(name, RULES, chain)])
            .on(flows.iter().map(|(f, _)| f.id))
    };
    clients.into_iter().map(finding).collect()
}

/// On real servers: what their filters do to requests.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    use crate::host::Fate;
    for duty in &site.duties {
        let host = site.host(duty.member);
        let Some((protocol, at)) = duty.accepts else { continue };
        let tunnel = || host.links().iter().find(|l| l.is_tunnel() && l.is_up()).map(|l| l.name.as_str());
        let device = if duty.method == crate::ipvs::ForwardingMethod::Tunnel { tunnel() } else { duty.arrives(host) };
        match super::super::site::input_fate(host, duty, device) {
            None => checks.needs(&host.name, format!("its packet filters: {}", host.why_absent("netfilter"))),
            Some(Fate::Unsure(rule)) => checks.needs(&host.name, format!("whether this rule holds: {}", rule.text)),
            Some(fate @ Fate::Dropped(..)) => {
                let words = super::super::site::filter_words(&fate).unwrap_or_default();
                let family = if at.addr.is_ipv6() { "ip6tables" } else { "iptables" };
                let rule = format!("INPUT -p {protocol} -d {} --dport {}", at.addr, at.port);
                let summary = format!("Its own filter drops requests for {at}.");
                let remedy = crate::finding::Remedy::new(
                    &host.name,
                    format!("{family} -I {rule} -j ACCEPT"),
                    format!("the same rule where the firewall is kept ({family}-save, firewalld, nftables.conf)"),
                    format!("{family} -D {rule} -j ACCEPT"),
                );
                checks.failed(&host.name, proven(host, Severity::Broken, summary, words, format!("{family}-save")).mend([remedy]));
            }
            Some(_) => checks.passed(&host.name, format!("its filters let {at} through")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::svc::svc004::SVC004;
    use super::super::super::testing::{SYN_ACK, World};
    use super::super::net001::NET001;
    use super::*;

    fn nat(port: u16) -> super::super::super::testing::Conn {
        World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", "10.2.0.11:80")
    }

    #[test]
    fn a_server_rejects() {
        for code in [3, 10, 13] {
            let mut w = World::nat();
            let c = nat(40001);
            w.syn(&c, "client director web1", 1);
            w.icmp(&c, false, (3, code, 0), "10.2.0.11", "10.1.0.100", "web1", "web1 director");
            w.icmp(&c, false, (3, code, 0), "10.1.0.1", "10.1.0.100", "client", "director client");
            let found = w.expect(&NET008, Confidence::Certain, "web1");
            assert!(found.alternatives.is_empty() && found.severity == Severity::Broken);
            w.deny(&SVC004);
            // While another serves, some connections go well.
            let other = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("director", "10.2.0.12:80");
            w.talk(&other, "client director web2", "web2 director client");
            assert_eq!(w.expect(&NET008, Confidence::Certain, "web1").severity, Severity::Degraded);
        }
    }

    #[test]
    fn silent_towards_some() {
        let mut w = World::nat();
        w.talk(&nat(40001), "client director web1", "web1 director client");
        w.syn(&nat(40002), "client director web1", 3);
        let found = w.expect(&NET008, Confidence::Possible, "web1");
        assert_eq!(found.flows, [2]);
        // A single SYN that is answered when it comes again is loss.
        let mut w = World::nat();
        w.talk(&nat(40001), "client director web1", "web1 director client");
        w.syn(&nat(40002), "client director web1", 1);
        w.wait(1.0);
        w.talk(&nat(40002), "client director web1", "web1 director client");
        w.deny(&NET008);
    }

    #[test]
    fn a_client_that_does_not_take_answers() {
        let story = |times: usize| {
            let mut w = World::nat();
            for _ in 0..times {
                w.syn(&nat(40001), "client director web1", 1);
                w.carry(&nat(40001), true, SYN_ACK, b"", "web1 director client");
                w.wait(1.0);
            }
            w
        };
        let found = story(3).expect(&NET008, Confidence::Likely, "client");
        assert!(found.remedy[0].permanent.contains("answers of 10.1.0.1"), "{}", found.remedy[0].permanent);
        // Its capture ends before it could go on, or is not there.
        story(1).deny(&NET008);
        story(3).without(&["client"]).deny(&NET008);
        // The second one is taken: the first was lost behind the capture.
        let mut w = story(2);
        w.talk(&nat(40001), "client director web1", "web1 director client");
        w.deny(&NET008);
    }

    #[test]
    fn a_router_drops_one_service() {
        let mut w = World::dr();
        w.talk(&World::tcp("10.1.0.100:40001", "10.2.0.100:22"), "client router director", "director router client");
        w.syn(&World::tcp("10.1.0.100:40002", "10.2.0.100:80"), "client router", 3);
        w.expect(&NET008, Confidence::Likely, "router");
        w.deny(&NET001);
    }

    #[test]
    fn what_is_no_service_may_be_dropped_and_rejected_rightly() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w.syn(&World::tcp("10.1.0.100:40002", "198.51.100.7:443"), "client router", 3);
        let rejected = World::tcp("10.1.0.100:40003", "10.2.0.11:22");
        w.syn(&rejected, "client router", 1);
        w.icmp(&rejected, false, (3, 10, 0), "10.1.0.1", "10.1.0.100", "client", "router client");
        let loud: Vec<_> =
            w.diagnose().findings.into_iter().filter(|f| f.severity >= Severity::Degraded && f.confidence > Confidence::Possible).collect();
        assert!(loud.is_empty(), "{loud:#?}");
    }

    #[test]
    fn a_director_without_servers_is_no_filter() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80");
        w.syn(&c, "client director", 1);
        w.icmp(&c, false, (3, 3, 0), "10.1.0.1", "10.1.0.100", "director", "director client");
        w.deny(&NET008);
    }

    #[test]
    fn a_server_without_the_service_is_no_filter() {
        let mut w = World::nat();
        let c = World::udp("10.1.0.100:40001", "10.1.0.1:53").dnat("director", "10.2.0.11:53");
        w.carry(&c, false, 0, b"question", "client director web1");
        w.icmp(&c, false, (3, 3, 0), "10.2.0.11", "10.1.0.100", "web1", "web1 director");
        w.icmp(&c, false, (3, 3, 0), "10.1.0.1", "10.1.0.100", "client", "director client");
        w.deny(&NET008);
    }
}
