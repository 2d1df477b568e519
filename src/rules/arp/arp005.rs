//! arptables on a real server lets the questions out with the VIP as sender, and drops the answers.

use super::super::facts::{ids, plural};
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::ipvs::Role;
use crate::trace::{Claim, ClaimKind, Flow, HostId, Question};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// A real server asks for its gateway with the VIP as sender. The answer arrives, and the real server asks again and again as if it had
    /// not, and sends no answer to any client.
    ///
    /// # Why it breaks
    /// `arptables -A INPUT -d VIP -j DROP` (or the same in nftables) keeps the real server from answering for the VIP, but it also drops every
    /// answer that is addressed to the VIP. Without the second rule, which puts the real server's own address into its questions, it can
    /// resolve nobody once its neighbour cache is cold: everything works until then.
    ///
    /// # Confirm it by hand
    /// On the real server: `arptables-save`, `nft list ruleset`: is there a rule that mangles the sender of packets from the VIP in OUTPUT?
    /// Are the chains named as this version of arptables names them, and does the rule survive a reboot?
    ///
    /// # Remedy
    /// The missing rule; or, simpler, `arp_ignore=1` and `arp_announce=2` instead of both rules.
    ///
    /// # When it is not a fault
    /// When answers are lost on their way: then the real server's own interface does not show them. A half of the rules that leaks instead
    /// looks like ARP001 or ARP002; packets cannot tell it from missing sysctls.
    ///
    /// # Reproduce
    /// A DR service; on a real server `arptables -A INPUT -d VIP -j DROP`, `arp_announce=0`, `ip neigh flush dev eth0`.
    ///
    /// # References
    /// arptables(8); Red Hat, Load Balancer Administration: direct routing and arptables; kernel `net/ipv4/arp.c`, `arp_rcv`.
    ARP005 "arptables-half-configured" check hosts
}

/// A real server that asks with the VIP as sender, is answered, and asks on.
pub(super) struct Deaf<'a> {
    pub(super) host: HostId,
    question: &'a Question,
    answer: &'a Claim,
    flows: Vec<&'a Flow>,
}

/// Real servers that do not hear the answers to questions that they ask with a service's address.
pub(super) fn deaf<'a>(hood: &super::Neighbourhood<'a>) -> Vec<Deaf<'a>> {
    let facts = hood.facts;
    let services = facts.service_addresses();
    let mut found: BTreeMap<HostId, Deaf> = BTreeMap::new();
    for question in &facts.trace.claims.questions {
        let Some(vip) = question.asker.filter(|a| a.is_ipv4() && services.contains(a)) else { continue };
        let Some(host) = facts.trace.host_of(question.mac).filter(|h| hood.standing(*h, vip) != Role::Director) else { continue };
        // Only at the asker's own interface can it be seen that the answer arrived.
        if question.times.count < 3 || question.unicast || facts.trace.host_at(question.point) != Some(host) || found.contains_key(&host) {
            continue;
        }
        let answers = |c: &&Claim| {
            (c.kind, c.addr, c.about, c.point) == (ClaimKind::Reply, question.target, question.asker, question.point)
                && c.mac != question.mac
                && c.times.count >= 2
        };
        let Some(answer) = facts.trace.claims.claims.iter().find(answers) else { continue };
        let asked_on = question.times.first.iter().filter(|(_, t)| *t > answer.times.since()).count() >= 2;
        let waits = |f: &&Flow| f.request.hops.iter().any(|h| h.to == Some(host) && h.dst.addr == vip);
        let flows: Vec<&Flow> = facts.flows().filter(waits).collect();
        let mute = !flows.is_empty() && flows.iter().all(|f| f.reply.hops.iter().chain(&f.reply.strays).all(|h| h.from != Some(host)));
        if asked_on && mute {
            found.insert(host, Deaf { host, question, answer, flows });
        }
    }
    found.into_values().collect()
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found: Vec<Finding> = deaf(&facts.neighbourhood()).iter().map(|d| finding(facts, d)).collect();
    let watched = (0..facts.trace.hosts.len()).any(|h| facts.is_real_server(h) && !facts.trace.hosts[h].points.is_empty());
    Outcome::or_need(found, (!watched).then(|| "a capture on a real server, or its `arptables-save`".to_string()))
}

fn finding(facts: &Facts<'_>, deaf: &Deaf<'_>) -> Finding {
    let (name, question) = (facts.name(Some(deaf.host)), deaf.question);
    let vip = question.asker.map_or_else(|| "VIP".to_string(), |a| a.to_string());
    let own = facts.trace.hosts[deaf.host].addresses.iter().find(|a| a.is_ipv4() && a.to_string() != vip);
    let rip = own.map_or_else(|| "RIP".to_string(), |a| a.to_string());
    let times = plural(question.times.count as usize, "time");
    let summary =
        format!("{name} asked {times} for {} as {vip}, does not take the answers that arrive, and answers no client.", question.target);
    let what = format!("who has {}, tell {vip}: asked {times}", question.target);
    let asked = crate::finding::Evidence::frames(question.point, question.times.frames(), what);
    let rule = |action: &str| format!("arptables -{action} OUTPUT -s {vip} -j mangle --mangle-ip-s {rip}");
    let mended =
        Remedy::new(name, rule("A"), "`arptables-save` to the file that the arptables service loads, and that service enabled", rule("D"));
    Finding::new(name, Severity::Broken, Confidence::Likely, summary, asked)
        .and([facts.claim(deaf.answer)])
        .and(deaf.flows.first().and_then(|f| facts.reached(&f.request, deaf.host)).map(|hop| facts.seen(hop)))
        .unless(&["ARP002", "NET008"], format!("on {name}: `arptables-save`, `nft list ruleset`, `ip neigh show {}`", question.target))
        .mend([mended])
        .on(ids(&deaf.flows))
}

/// On the host: settings and filters at each card.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::voice::look(site, checks, "ARP005");
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::World;
    use super::super::arp002::ARP002;
    use super::*;

    fn world(asks: usize, served: bool) -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let good = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&good, "client router director web1", "web1 router client");
        w.who_has("director", "int", "10.2.0.12", &["web2"]);
        let c = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, "client router director web2", 1);
        for _ in 0..asks {
            w.who_has_tell("web2", "int", "10.2.0.1", "10.2.0.100".parse().expect("an address"), &["router"]);
            w.wait(1.0);
        }
        match served {
            true => w.talk(&c, "client router director web2", "web2 router client"),
            false => w.syn(&c, "client router director web2", 2),
        }
        w
    }

    #[test]
    fn answers_arrive_and_are_not_taken() {
        let w = world(3, false);
        let found = w.expect(&ARP005, Confidence::Likely, "web2");
        assert_eq!(found.remedy[0].command, "arptables -A OUTPUT -s 10.2.0.100 -j mangle --mangle-ip-s 10.2.0.12");
        assert_eq!(found.flows, [2]);
        w.deny(&ARP002);
        w.deny(&super::super::super::dr::dr001::DR001);
    }

    #[test]
    fn who_goes_on_to_serve_has_heard() {
        world(3, true).deny(&ARP005);
        world(1, true).deny(&ARP005);
    }

    #[test]
    fn from_elsewhere_it_cannot_be_seen() {
        world(3, false).without(&["web2", "web1"]).deny(&ARP005);
    }
}
