//! A test from a place where it cannot work.

use super::super::remedy::look;
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Severity};
use crate::trace::{Flow, HostId, PacketKind};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// The router translates its outer address to the VIP for connections that come in by its outer interface. This one was opened on the
    /// router itself, or came from inside: from a real server, the director, a host on their network. The router refuses it itself, or
    /// translates it, and the answer goes to the client directly, from an address that it did not dial.
    ///
    /// # Why it breaks
    /// A DNAT rule with `-i` knows only packets from outside, and packets that the router makes itself pass no PREROUTING chain at all. A
    /// client inside whose request is translated is the real server's neighbour: the answer does not pass the router, which alone could
    /// translate it back.
    ///
    /// # Confirm it by hand
    /// The same test from outside works.
    ///
    /// # Remedy
    /// Test from outside, or dial the VIP from inside. Where clients inside must use the outer address: a DNAT rule without `-i`, and a
    /// MASQUERADE rule for them.
    ///
    /// # When it is not a fault
    /// It is none: clients outside are served.
    ///
    /// # Reproduce
    /// A DR service behind a translating router; `curl http://OUTER/` on a host of the servers' network.
    ///
    /// # References
    /// iptables(8): the chains that packets pass; kernel `net/netfilter/nf_nat_core.c`.
    NET005 "test-from-wrong-place" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    let mut tests: BTreeMap<(HostId, Option<HostId>), Vec<&Flow>> = BTreeMap::new();
    for flow in facts.flows() {
        if let Some(router) = facts.tested_from_inside(flow) {
            tests.entry((router, flow.client_host)).or_default().push(flow);
        }
    }
    tests.into_iter().filter_map(|((router, client), flows)| finding(facts, router, client, &flows)).collect::<Vec<_>>().into()
}

fn finding(facts: &Facts<'_>, router: HostId, client: Option<HostId>, flows: &[&Flow]) -> Option<Finding> {
    let flow = *flows.first()?;
    let router = facts.name(Some(router));
    let who = client.map_or_else(|| flow.client.addr.to_string(), |host| facts.name(Some(host)).to_string());
    let asked = flow.request.first()?;
    let ends = match flow.reply.first() {
        Some(hop) if hop.first == PacketKind::Reset => Some(facts.seen_with(hop, "the router itself refuses")),
        Some(hop) => Some(facts.seen_with(hop, &facts.to_whom(hop))),
        None => None,
    };
    let translated = facts.flows().filter(|f| f.service == flow.service).filter_map(|f| facts.translation(f)).next();
    let vip = translated.map(|(_, _, after)| after.dst).or(flow.vip.filter(|vip| *vip != flow.service));
    let vip = vip.map_or_else(|| "VIP".to_string(), |vip| vip.to_string());
    let summary = format!("{who} tests {} from inside: {router} translates it for clients outside only.", flow.service);
    let confidence = if translated.is_some() { Confidence::Certain } else { Confidence::Likely };
    Some(
        Finding::new(&who, Severity::Note, confidence, summary, facts.seen(asked))
            .and(ends)
            .and(translated.map(|(_, before, _)| facts.seen_with(before, "from outside: translated")))
            .mend([look(
                &who,
                format!("curl -m 5 http://{vip}/"),
                format!("from inside dial {vip}, or test {} from outside", flow.service),
            )])
            .on(super::super::facts::ids(flows)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::dr::dr005::DR005;
    use super::super::super::testing::{REFUSE, RST, SYN_ACK, World};
    use super::super::net002::NET002;
    use super::*;

    fn served_outside() -> World {
        let mut w = World::dr().plug("admin.eth0", "int", "10.2.0.50");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w
    }

    #[test]
    fn refused_inside() {
        let mut w = served_outside();
        let c = World::tcp("10.2.0.50:50001", "10.1.0.1:80");
        w.syn(&c, "admin router", 1);
        w.carry(&c, true, REFUSE, b"", "router admin");
        let found = w.expect(&NET005, Confidence::Certain, "admin");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Note, &[2][..]));
        w.deny(&NET002);
    }

    #[test]
    fn answered_past_the_router() {
        let mut w = served_outside();
        let c = World::tcp("10.2.0.50:50001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "admin router director web1", 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 admin");
        w.carry(&World::tcp("10.2.0.50:50001", "10.2.0.100:80"), false, RST, b"", "admin web1");
        w.syn(&c, "admin router director web1", 2);
        w.expect(&NET005, Confidence::Certain, "admin");
        w.deny(&DR005);
    }

    #[test]
    fn a_real_server_tests_the_outer_address() {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        let test = World::tcp("10.2.0.11:50001", "10.1.0.1:80");
        w.syn(&test, "web1 router", 1);
        w.carry(&test, true, REFUSE, b"", "router web1");
        w.expect(&NET005, Confidence::Likely, "web1");
        w.deny(&NET002);
    }

    #[test]
    fn a_refused_client_outside_is_no_test_from_inside() {
        let mut w = served_outside();
        let c = World::tcp("10.1.0.100:40002", "10.1.0.1:81");
        w.syn(&c, "client router", 1);
        w.carry(&c, true, REFUSE, b"", "router client");
        w.deny(&NET005);
    }
}
