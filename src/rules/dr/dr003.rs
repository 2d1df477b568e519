//! A real server's gateway is the director.

use super::super::answers::answer_through;
use super::super::facts::{by_server, ids};
use super::super::remedy::replace_default_route;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{DIRECT, answered_directly, vip};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::trace::{Flow, NoteKind, Way};

rule! {
    /// # What it sees
    /// The real server's SYN-ACK, with the VIP as its source, goes to the director's MAC. It arrives there, and nothing leaves: no packet,
    /// no ICMP error.
    ///
    /// # Why it breaks
    /// The director owns the VIP. To its kernel a packet that arrives with one of its own addresses as source is martian, and is dropped
    /// before any table is asked.
    ///
    /// # Confirm it by hand
    /// On the director: with `net.ipv4.conf.all.log_martians=1` the kernel log says `martian source CLIENT from VIP`; the column
    /// `in_martian_src` of `/proc/net/stat/rt_cache` counts up, `IPReversePathFilter` does not.
    ///
    /// # Remedy
    /// The real servers' default route through the router, never through the director.
    ///
    /// # When it is not a fault
    /// A director that is set up to pass these answers on: forwarding on, `accept_local=1`, and `rp_filter` 0 or 2 on the interface by which
    /// they arrive. Then they are seen leaving.
    ///
    /// # Reproduce
    /// A DR service; on a real server `ip route replace default via DIRECTOR`.
    ///
    /// # References
    /// kernel `net/ipv4/fib_frontend.c`, `__fib_validate_source`; LVS-HOWTO chapter LVS-DR.
    DR003 "rs-gateway-is-director" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let stuck: Vec<&Flow> = answered_directly(facts).filter(|f| ends_at_director(f) && !f.state.is_complete()).collect();
    let found: Vec<Finding> = by_server(stuck)
        .into_iter()
        .filter_map(|(server, flows)| {
            let (flow, name, director) = (flows[0], facts.name(Some(server)), facts.name(flows[0].director));
            let sent = flow.reply.first()?;
            let swallowed = facts.swallowed(flow, Way::Reply);
            if swallowed.is_none() && !flow.notes.iter().any(|n| matches!(n.kind, NoteKind::SynRepeat | NoteKind::SynAckRepeat)) {
                return None;
            }
            let confidence = if swallowed.is_some() { Confidence::Certain } else { Confidence::Likely };
            let router = flow.request.towards(flow.director?).find_map(|hop| Some((hop.from?, hop.src_mac)));
            let gateway = facts.address_on(router.map(|r| r.0), router.and_then(|r| r.1), &[flow.client.addr, flow.service.addr], "ROUTER");
            let before = facts.address_on(flow.director, sent.dst_mac, &[], &vip(flow));
            let silence = swallowed.map(|s| facts.nowhere(&s.watched, &format!("no packet from {} leaves {director}", sent.src)));
            let summary =
                format!("{name} sends its answers to {director}, which owns {} and drops packets that claim to come from it.", vip(flow));
            Some(
                Finding::new(name, Severity::Broken, confidence, summary, facts.seen_with(sent, &facts.to_whom(sent)))
                    .and(facts.repeats(flow, sent, NoteKind::SynAckRepeat))
                    .and(silence.into_iter().flatten())
                    .mend([replace_default_route(name, &gateway, &before)])
                    .on(ids(&flows)),
            )
        })
        .collect();
    Outcome::or_need(found, facts.unwatched_server(&DIRECT))
}

/// The answer's way goes from the server to the director and no further.
fn ends_at_director(flow: &Flow) -> bool {
    let director = flow.director;
    let sent = flow.reply.first().is_some_and(|hop| hop.from == flow.server_host && hop.to == director);
    sent && flow.reply.last().is_some_and(|hop| hop.to == director) && flow.server_host != director
}

/// On the hosts: the way to those who asked leads through a director that has the virtual address, too.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.answers(checks, "DR003", |host, duty, story| {
        let vip = duty.vip.map_or_else(|| "the VIP".to_string(), |a| a.to_string());
        let gateway = site.router_of(duty);
        let summary = format!(
            "Answers to {} leave {}, which is the director: it owns {vip}, too, and drops packets from its own address.",
            story.source, story.way
        );
        story.fault(host, Severity::Broken, summary).mend([answer_through(host, duty, &gateway)])
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::*;

    fn world() -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, web) in [(40001, "web1"), (40002, "web2")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
            for _ in 0..3 {
                w.syn(&c, &format!("client router director {web}"), 1);
                w.carry(&c, true, SYN_ACK, b"", &format!("{web} director"));
                w.wait(1.0);
            }
        }
        w
    }

    #[test]
    fn answers_end_at_the_director() {
        let diagnosis = world().diagnose();
        let found: Vec<&Finding> = diagnosis.findings.iter().filter(|f| f.code == "DR003").collect();
        assert_eq!(found.iter().map(|f| f.subject.as_str()).collect::<Vec<_>>(), ["web1", "web2"]);
        assert_eq!(found[0].remedy[0].command, "ip route replace default via 10.2.0.1");
        assert!(found.iter().all(|f| f.confidence >= Confidence::Likely));
    }

    #[test]
    fn a_director_that_passes_them_on_is_set_up_for_it() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, web) in [(40001, "web1"), (40002, "web2")] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
            w.talk(&c, &format!("client router director {web}"), &format!("{web} director router client"));
        }
        w.deny(&DR003);
        w.healthy();
    }
}
