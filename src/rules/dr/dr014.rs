//! A test from the director itself, which cannot work.

use super::super::facts::{ids, plural};
use super::super::remedy::look;
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::ipvs::Role;
use crate::trace::{Flow, Hop, HostId, NoteKind};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// A request whose source and destination are one and the same address, the VIP, on its way to a real server; in a tunnel, inside the
    /// outer packet. The real server is silent.
    ///
    /// # Why it breaks
    /// A host that asks for an address of its own takes that address as the source, too. IPVS hands such a request of the director itself to
    /// a real server like any other, but the real server has the VIP as well: to it the packet comes from its own address, and the kernel
    /// drops it as a martian. With NAT the real server has no such address, and the test works.
    ///
    /// # Confirm it by hand
    /// On the director: `ip route get VIP` says `local VIP dev lo src VIP`. The same test from a client works.
    ///
    /// # Remedy
    /// Test from a client. Of a single real server `lvscope probe service`, on the director, tells whether it serves the VIP. Another source
    /// on the director is of no use: the answer, from the VIP, is a martian to the director then.
    ///
    /// # When it is not a fault
    /// It is none: clients elsewhere are served. Health checks on the director ask the real servers' own addresses.
    ///
    /// # Reproduce
    /// A DR service; on the director `curl http://VIP/`.
    ///
    /// # References
    /// kernel `net/ipv4/fib_frontend.c`, `__fib_validate_source`, and `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_local_request4`; keepalived
    /// issue 2213.
    DR014 "testing-from-the-director" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut tests: BTreeMap<(HostId, std::net::IpAddr), Vec<(&Flow, &Hop)>> = BTreeMap::new();
    // Of a request that NAT hands back to its own sender, only the second half may have been captured (NAT011).
    let is_real = |addr| facts.flows().any(|f| f.real_server.is_some_and(|server| server.addr == addr));
    for flow in facts.flows().filter(|f| !f.is_answered()) {
        let Some(hop) = facts.from_itself(flow).filter(|hop| !is_real(hop.dst.addr)) else { continue };
        let Some(from) = hop.from.filter(|from| may_direct(facts, flow, *from)) else { continue };
        tests.entry((from, hop.dst.addr)).or_default().push((flow, hop));
    }
    tests.into_iter().filter_map(|((director, _), flows)| finding(facts, director, &flows)).collect::<Vec<_>>().into()
}

/// A director, or somebody of whom nothing else is known and who hands it to its real server himself: what comes from further away, somebody
/// made up.
fn may_direct(facts: &Facts<'_>, flow: &Flow, host: HostId) -> bool {
    let neighbour = || matches!(facts.role(Some(host)), Role::Unknown | Role::Client) && flow.request.links().count() == 1;
    balances(facts, host) || neighbour()
}

/// A director by what it does, or by its name.
fn balances(facts: &Facts<'_>, host: HostId) -> bool {
    facts.is_director(host) || facts.role(Some(host)) == Role::Director || facts.is_called(host) == Role::Director
}

fn finding(facts: &Facts<'_>, director: HostId, flows: &[(&Flow, &Hop)]) -> Option<Finding> {
    let (flow, sent) = *flows.first()?;
    let name = facts.name(Some(director));
    // Where it balances, or answers for the address, it is the one who has it.
    let known = balances(facts, director) || facts.answers_for(director, sent.dst.addr);
    let confidence = if known { Confidence::Certain } else { Confidence::Likely };
    let tests = plural(flows.len(), "connection");
    let summary = format!(
        "{name} itself asks for {} ({tests}), with that address as the source too: real servers have it as well, and drop such packets.",
        sent.dst
    );
    let arrives = flow.request.hops.iter().rev().find(|hop| hop.at.is_some() && hop.at == hop.to && !std::ptr::eq(*hop, sent));
    let server = arrives.and_then(|hop| Some((hop.to?, hop)));
    Some(
        Finding::new(name, Severity::Note, confidence, summary, facts.seen(sent))
            .and(server.map(|(_, hop)| facts.seen(hop)))
            .and(facts.repeats(flow, sent, NoteKind::SynRepeat))
            .and(server.map(|(host, hop)| facts.nothing_from(host, hop)))
            .mend([look(name, format!("ip route get {}", sent.dst.addr), format!("test {} from a client", sent.dst))])
            .on(ids(&flows.iter().map(|(f, _)| *f).collect::<Vec<_>>())),
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::*;

    const VIP: &str = "10.2.0.100:80";

    fn served() -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            w.who_has("director", "int", rip, &[web]);
            w.talk(
                &World::tcp(&format!("10.1.0.100:{port}"), VIP),
                &format!("client router director {web}"),
                &format!("{web} router client"),
            );
        }
        w
    }

    fn asked(mut w: World) -> World {
        for (port, web) in [(50001, "web1"), (50002, "web2")] {
            w.syn(&World::tcp(&format!("10.2.0.100:{port}"), VIP), &format!("director {web}"), 3);
        }
        w
    }

    #[test]
    fn asked_from_the_director() {
        let w = asked(served());
        let found = w.expect(&DR014, Confidence::Certain, "director");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Note, &[3, 4][..]));
        assert_eq!(found.remedy[0].permanent, "test 10.2.0.100:80 from a client");
        w.healthy();
        // On the real servers alone.
        asked(served()).without(&["client", "router", "director"]).healthy();
        // Nobody else asked: no real server is to blame.
        let w = asked(World::dr());
        w.expect(&DR014, Confidence::Certain, "director");
        assert_eq!(asked(World::dr()).unnamed().finding(&DR014).confidence, Confidence::Likely);
        w.healthy();
        w.without(&["client", "router", "director", "web2"]).healthy();
    }

    #[test]
    fn who_is_asked_by_others_is_judged() {
        let mut w = served();
        w.syn(&World::tcp("10.1.0.100:40003", VIP), "client router director web2", 3);
        w.deny(&DR014);
        // A client without an answer beside the director's test: of the second nothing follows, of the first all that follows otherwise.
        let mut w = asked(World::dr());
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, web) in [(40001, "web1"), (40002, "web2")] {
            w.syn(&World::tcp(&format!("10.1.0.100:{port}"), VIP), &format!("client router director {web}"), 3);
        }
        let blamed: Vec<_> = w.diagnose().findings.into_iter().filter(|f| f.severity == Severity::Broken).collect();
        assert!(blamed.iter().all(|f| f.flows.iter().all(|flow| *flow > 2)) && !blamed.is_empty(), "{blamed:#?}");
        w.finding(&DR014);
    }

    /// Made up by somebody beyond the router.
    #[test]
    fn a_forged_source_is_no_test() {
        let mut w = served();
        w.syn(&World::tcp("10.2.0.100:50001", VIP), "client router director web1", 3);
        w.deny(&DR014);
    }
}
