//! A real server of a NAT service answers through another gateway than the director.

use super::super::answers::answer_through;
use super::super::facts::{Lone, ids};
use super::super::remedy::replace_default_route;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Bypass, bypassed, dead_ends, gateway};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::trace::{Flow, Hop, Method, Question};

rule! {
    /// # What it sees
    /// The real server answers, but sends its SYN-ACK to the MAC of another router. The director never sees it; the client either gets a
    /// SYN-ACK from an address that it does not know, and resets it, or gets nothing. Or: the real server asks by ARP for a gateway that is
    /// not the director, and nobody answers.
    ///
    /// # Why it breaks
    /// In NAT mode only the director can put the VIP back into the answer. An answer that takes another way arrives with the real server's
    /// address. The client's own connection attempt goes on unanswered, so it times out rather than being refused.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get CLIENT` names a next hop that is no address of the director. On the director: `ipvsadm -lnc` shows
    /// SYN_RECV, `ipvsadm -ln --stats` shows packets in and none out.
    ///
    /// # Remedy
    /// The default route of the real servers through the director: through the floating inside address where there are two directors.
    ///
    /// # When it is not a fault
    /// FULLNAT, or a director that also translates the source: answers then go to the director's address by themselves. A one-armed director
    /// whose table says masquerading by mistake looks alike (NAT007).
    ///
    /// # Reproduce
    /// A NAT service; on a real server `ip route replace default via OTHER_ROUTER`.
    ///
    /// # References
    /// LVS-HOWTO chapter LVS-NAT; kernel `net/netfilter/ipvs/ip_vs_core.c`, `handle_response`.
    NAT002 "rs-gateway-not-director" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let strays = bypassed(facts, Bypass::Router);
    let mut found: Vec<Finding> = strays
        .iter()
        .map(|b| {
            let (names, next, gateway) = (b.names(facts), b.next(facts), b.gateway(facts));
            let verb = if b.servers.len() == 1 { "sends its" } else { "send their" };
            let summary =
                format!("{names} {verb} answers to {next} instead of the director ({gateway}), which alone can translate them back.");
            b.finding(facts, Severity::Broken, Confidence::Certain, summary).mend([replace_default_route(
                &names,
                &gateway,
                &b.next_address(facts),
            )])
        })
        .collect();
    found.extend(facts.lone_detours(false).iter().map(|(lone, answer)| alone(facts, lone, answer)));
    found.extend(dead_ends(facts, false).into_values().map(|(flows, question)| dead_end(facts, &flows, question)));
    Outcome::or_need(found, facts.unwatched_server(&[Method::Nat]))
}

/// A server that was captured alone: who handed it the request is no director for certain.
fn alone(facts: &Facts<'_>, lone: &Lone<'_>, answer: &Hop) -> Finding {
    let (name, from, next) = (facts.name(Some(lone.host)), facts.name(lone.hop.from), facts.name(answer.to));
    let gateway = facts.address_on(lone.hop.from, lone.hop.src_mac, &[], "DIP");
    let before = facts.address_on(answer.to, answer.dst_mac, &[], "the gateway before");
    let summary = format!("{name} gets requests from {from} and answers through {next}; the client goes on asking.");
    Finding::new(name, Severity::Broken, Confidence::Possible, summary, facts.seen_with(answer, &facts.to_whom(answer)))
        .and([facts.seen(lone.hop)])
        .unless(&["NAT006", "NET008"], format!("a capture on {from}: does it balance, and who translates the answers back?"))
        .mend([replace_default_route(name, &gateway, &before)])
        .on([lone.flow.id])
}

fn dead_end(facts: &Facts<'_>, flows: &[&Flow], question: &Question) -> Finding {
    let (flow, gateway) = (flows[0], gateway(facts, flows[0]));
    let name = facts.name(flow.server_host);
    let summary =
        format!("{name} wants to answer through {}, which does not exist here, instead of the director ({gateway}).", question.target);
    let handed = flow.server_host.and_then(|s| facts.reached(&flow.request, s));
    Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.question(question))
        .and(handed.map(|hop| facts.seen(hop)))
        .unless(&["ARP011"], format!("on {name}: `ip route get {}`, or a snapshot", flow.client.addr))
        .mend([replace_default_route(name, &gateway, &question.target.to_string())])
        .on(ids(flows))
}

/// On the host: the next hop towards those who asked is no address of a director.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.answers(checks, "NAT002", |host, duty, story| {
        let gateway = site.gateway_of(duty);
        let summary = format!(
            "Answers to {} leave {}, past the director ({gateway}), which alone can put {} back into them.",
            story.source, story.way, duty.service
        );
        story.fault(host, Severity::Broken, summary).mend([answer_through(host, duty, &gateway)])
    });
    if !site.knows_directors() {
        for duty in site.duties(&[crate::ipvs::ForwardingMethod::Nat]) {
            checks.needs(&site.host(duty.member).name, "a snapshot of the director, or --peer director=ADDRESS");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::*;

    fn world() -> World {
        World::nat().plug("gw.int", "int", "10.2.0.254").plug("gw.ext", "ext", "10.1.0.254")
    }

    #[test]
    fn a_translation_by_somebody_unseen_is_not_the_directors() {
        // Direct routing behind a router that translates; neither of them was captured.
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.syn(&c, "client router director web1", 1);
        w.carry(&c, true, 0x14, b"", "web1 router client");
        w.without(&["router", "director"]).deny(&NAT002);
    }

    /// No connection gets through, and the client resets answers of servers that it never asked: one connection all the same.
    #[test]
    fn the_client_resets_what_it_did_not_ask_for() {
        let mut w = world();
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("{rip}:80"));
            w.who_has("director", "int", rip, &[web]);
            w.syn(&c, &format!("client director {web}"), 1);
            w.carry(&c, true, SYN_ACK, b"", &format!("{web} gw client"));
            let past = World::tcp(&format!("10.1.0.100:{port}"), &format!("{rip}:80"));
            w.carry(&past, false, super::super::super::testing::RST, b"", &format!("client gw {web}"));
            w.syn(&c, &format!("client director {web}"), 2);
        }
        assert_eq!(w.expect(&NAT002, Confidence::Certain, "web1, web2").remedy[0].command, "ip route replace default via 10.2.0.1");
    }

    #[test]
    fn answers_go_to_another_router() {
        let mut w = world();
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("{rip}:80"));
            w.who_has("director", "int", rip, &[web]);
            w.syn(&c, &format!("client director {web}"), 1);
            w.carry(&c, true, SYN_ACK, b"", &format!("{web} gw client"));
            w.syn(&c, &format!("client director {web}"), 2);
        }
        let found = w.expect(&NAT002, Confidence::Certain, "web1, web2");
        assert_eq!(found.remedy[0].command, "ip route replace default via 10.2.0.1");
        assert_eq!(found.flows, [1, 2]);
        // The director's and the servers' captures are enough: the MACs say it.
        assert_eq!(w.clone().without(&["client", "gw"]).diagnose().findings[0].code, "NAT002");
        // A server alone only lets one think of it.
        w.without(&["client", "gw", "director", "web2"]).expect(&NAT002, Confidence::Possible, "web1");
    }

    #[test]
    fn nobody_answers_for_the_gateway() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.syn(&c, "client director web1", 1);
        for _ in 0..3 {
            w.who_has("web1", "int", "10.2.0.254", &[]);
            w.wait(1.0);
        }
        w.syn(&c, "client director web1", 2);
        let found = w.expect(&NAT002, Confidence::Likely, "web1");
        assert_eq!(found.alternatives, ["ARP011"]);
        assert!(found.summary.contains("10.2.0.254"));
    }

    #[test]
    fn an_answer_through_the_director_is_right_whatever_else_is_wrong() {
        let mut w = world();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 director");
        w.syn(&c, "client director web1", 2);
        w.deny(&NAT002);
    }
}
