//! A client on the real servers' own network.

use super::super::facts::Lone;
use super::super::remedy::{self, ip_for, set};
use super::super::site::Duty;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{Bypass, bypassed, dead_ends};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::host::{Ask, Host, Sysctls};
use crate::trace::{Flow, Hop, Method, Question};
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// The real server sends its SYN-ACK directly to the client's MAC: both are on one link. It arrives with the real server's address. The
    /// client, which dialled the VIP, resets it or ignores it. Clients behind routers work at the same time. Or it only believes so, for its
    /// prefix is too short, and asks its link for the client in vain.
    ///
    /// # Why it breaks
    /// The real server has a connected route to the client's network and needs no gateway, so the answer bypasses the director, and nobody
    /// puts the VIP back.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip route get CLIENT` shows no `via`.
    ///
    /// # Remedy
    /// Use direct routing for such clients, or move them, or let the director translate their source as well: `sysctl -w
    /// net.ipv4.vs.conntrack=1` and a MASQUERADE rule with `-m ipvs`. A route that sends the answers back through the director also needs
    /// `send_redirects=0` there, for `all` and for the interface: else it advises the real servers of the short way, and they take it.
    ///
    /// # When it is not a fault
    /// Only a test from the wrong place, when no real client will ever be there.
    ///
    /// # Reproduce
    /// A NAT service, and a client with an address of the real servers' network.
    ///
    /// # References
    /// LVS-HOWTO chapter LVS-NAT, "one network NAT"; kernel `Documentation/networking/ipvs-sysctl.rst`, `conntrack`.
    NAT003 "client-on-server-subnet" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let strays = bypassed(facts, Bypass::Client);
    let found = strays.iter().map(|b| {
        let (names, clients) = (b.names(facts), b.clients());
        let verb = if b.servers.len() == 1 { "answers" } else { "answer" };
        let summary = format!("{names} {verb} {clients} directly, on their common link, past the director.");
        let director = facts.name(b.flows[0].director);
        let vip = b.flows[0].vip.map_or_else(|| "VIP".to_string(), |vip| vip.addr.to_string());
        let rule = format!("POSTROUTING -m ipvs --vaddr {vip} -j MASQUERADE");
        b.finding(facts, Severity::Broken, Confidence::Certain, summary).mend([Remedy::new(
            director,
            format!("sysctl -w net.ipv4.vs.conntrack=1; iptables -t nat -A {rule}"),
            "both in /etc/sysctl.d/ and the saved iptables rules; or use direct routing, or move the client",
            format!("iptables -t nat -D {rule}; sysctl -w net.ipv4.vs.conntrack=0"),
        )])
    });
    let mut found: Vec<Finding> = found.collect();
    found.extend(dead_ends(facts, true).into_values().map(|(flows, question)| no_neighbour(facts, &flows, question)));
    found.extend(facts.lone_detours(true).iter().map(|(lone, answer)| alone(facts, lone, answer)));
    Outcome::or_need(found, facts.unwatched_server(&[Method::Nat]))
}

/// A server whose network is wider than its link: it takes clients for neighbours that are none.
fn no_neighbour(facts: &Facts<'_>, flows: &[&Flow], question: &Question) -> Finding {
    let (flow, gateway, client) = (flows[0], super::gateway(facts, flows[0]), question.target);
    let name = facts.name(flow.server_host);
    let summary =
        format!("{name} takes {client} for a neighbour: it asks its link for it, in vain, instead of answering through {gateway}.");
    let handed = flow.server_host.and_then(|s| facts.reached(&flow.request, s));
    let ip = ip_for(&client.to_string());
    Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.question(question))
        .and(handed.map(|hop| facts.seen(hop)))
        .unless(&["NAT006", "ARP011"], format!("on {name}: `{ip} route get {client}`, `{ip} addr show`"))
        .mend([remedy::no_neighbour(name, &client.to_string(), &gateway)])
        .on(flows.iter().map(|f| f.id))
}

/// A server that was captured alone: who handed it the request is no director for certain.
fn alone(facts: &Facts<'_>, lone: &Lone<'_>, answer: &Hop) -> Finding {
    let (name, from, client) = (facts.name(Some(lone.host)), facts.name(lone.hop.from), answer.dst.addr);
    let summary = format!("{name} gets requests from {from} and answers {client} directly, on their common link; it goes on asking.");
    let rule = format!("POSTROUTING -m ipvs --vaddr VIP -s {client} -j MASQUERADE");
    Finding::new(name, Severity::Broken, Confidence::Possible, summary, facts.seen_with(answer, &facts.to_whom(answer)))
        .and([facts.seen(lone.hop)])
        .unless(&["NAT011", "NET008"], format!("a capture on {from}: does it balance, and who translates the answers back?"))
        .mend([Remedy::new(
            from,
            format!("sysctl -w net.ipv4.vs.conntrack=1; iptables -t nat -A {rule}"),
            "both in /etc/sysctl.d/ and the saved iptables rules; or use direct routing, or move the client",
            format!("iptables -t nat -D {rule}; sysctl -w net.ipv4.vs.conntrack=0"),
        )])
        .on([lone.flow.id])
}

/// On the host: those who asked are on its own link.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    site.answers(checks, "NAT003", |host, duty, story| {
        let gateway = site.gateway_of(duty);
        let summary = format!("Answers to {} ({}) go straight to it on the link, past the director.", story.source, story.by);
        let undone = "the connected route comes back with `ip link set IF down; ip link set IF up`";
        let way = Remedy::new(
            &host.name,
            format!("{} route replace {} via {gateway}", ip_for(&gateway), story.source),
            "the same route in the interface's configuration; better: clients on another network, or DR",
            format!("{} route del {} via {gateway}; {undone}", ip_for(&gateway), story.source),
        );
        let silent = no_redirects(site, host, duty, story.source);
        story.fault(host, Severity::Broken, summary).mend(silent.into_iter().chain([way]))
    });
}

/// Keeps the server on the way round: the director would advise it of the short one, for the answer leaves there by where it came in.
/// Nothing says so to IPv6 (`ip6_forward`, net/ipv6/ip6_output.c), so there the server must not listen.
fn no_redirects(site: &Site<'_>, server: &Host, duty: &Duty, client: IpAddr) -> Option<Remedy> {
    let director = site.host(duty.director?);
    let link = |host: &Host, to: IpAddr| host.way(&Ask::to(to)).ok().and_then(|way| way.link().map(str::to_string));
    if client.is_ipv6() {
        let key = format!("net.ipv6.conf.{}.accept_redirects", link(server, client)?.replace('.', "/"));
        return Some(set(server, &[(key, "0")]));
    }
    let inside = link(director, duty.rip?)?;
    (director.effective("send_redirects", &inside) != Some(0))
        .then(|| set(director, &["all", inside.as_str()].map(|at| (Sysctls::name4(at, "send_redirects"), "0"))))
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::super::super::testing::{RST, SYN, SYN_ACK, World};
    use super::super::nat001::NAT001;
    use super::super::nat002::NAT002;
    use super::*;

    fn flat() -> World {
        World::new()
            .plug("client.eth0", "lan", "10.2.0.100")
            .plug("director.eth0", "lan", "10.2.0.1")
            .plug("web1.eth0", "lan", "10.2.0.11")
            .plug("web2.eth0", "lan", "10.2.0.12")
    }

    #[test]
    fn the_answer_goes_to_the_client_itself() {
        let mut w = flat();
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.2.0.100:{port}"), "10.2.0.1:80").dnat("director", &format!("{rip}:80"));
            w.syn(&c, &format!("client director {web}"), 1);
            w.carry(&c, true, SYN_ACK, b"", &format!("{web} client"));
            let back = World::tcp(&format!("10.2.0.100:{port}"), &format!("{rip}:80"));
            w.carry(&back, false, RST, b"", &format!("client {web}"));
            w.syn(&c, &format!("client director {web}"), 1);
        }
        let found = w.expect(&NAT003, Confidence::Certain, "web1, web2");
        assert_eq!(found.remedy[0].host, "director");
        w.clone().unnamed().diagnose().findings.iter().find(|f| f.code == "NAT003").expect("also without names");
        // A server alone only lets one think of it.
        let mut alone = w.clone().without(&["client", "director", "web2"]);
        alone.who_has("web1", "lan", "10.2.0.100", &["client"]);
        alone.expect(&NAT003, Confidence::Possible, "web1");
    }

    /// Where the director advises of the short way, a route round it alone mends nothing (measured with the kernel's IPVS).
    #[test]
    fn a_way_back_through_the_director_is_not_talked_away() {
        let site = |redirects: &str| {
            let director = Sketch::new("director")
                .card("eth0", "192.0.2.1/24")
                .card("eth1", "10.2.0.1/24")
                .ipvs("-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.2.0.11:80 -m -w 1\n")
                .connections(&["tcp 10.2.0.100:40001 192.0.2.1:80 10.2.0.11:80 SYN_RECV 60"])
                .set("net.ipv4.conf.eth1.forwarding", "1")
                .set("net.ipv4.conf.eth1.send_redirects", redirects);
            [director, Sketch::new("web1").card("eth0", "10.2.0.11/24").via("0.0.0.0/0", "10.2.0.1", "eth0").listens("0.0.0.0:80")]
        };
        let commands = |redirects: &str| -> Vec<String> {
            let found = sketch::expect(&site(redirects), &NAT003, Severity::Broken, Confidence::Certain, "web1");
            found.remedy.iter().map(|r| format!("{}$ {}", r.host, r.command)).collect()
        };
        let round = "web1$ ip route replace 10.2.0.100 via 10.2.0.1";
        assert_eq!(commands("1"), ["director$ sysctl -w net.ipv4.conf.eth1.send_redirects=0", round]);
        assert_eq!(commands("0"), [round]);
    }

    #[test]
    fn answers_that_a_director_masquerades_come_back() {
        let mut w = flat();
        for (port, web, rip) in [(40001, "web1", "10.2.0.11"), (40002, "web2", "10.2.0.12")] {
            let c = World::tcp(&format!("10.2.0.100:{port}"), "10.2.0.1:80")
                .dnat("director", &format!("{rip}:80"))
                .snat("director", &format!("10.2.0.1:{port}"));
            w.talk(&c, &format!("client director {web}"), &format!("{web} director client"));
        }
        w.deny(&NAT003);
        w.healthy();
    }

    #[test]
    fn a_client_that_is_taken_for_a_neighbour() {
        let mut w = World::nat();
        w.announce("client", "ext", "10.1.0.100");
        w.who_has("web1", "int", "10.2.0.1", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        for _ in 0..3 {
            w.carry(&c, false, SYN, b"", "client director web1");
            w.who_has("web1", "int", "10.1.0.100", &[]);
            w.wait(1.0);
        }
        let found = w.expect(&NAT003, Confidence::Likely, "web1");
        assert_eq!(found.remedy[0].command, "ip route replace 10.1.0.100 via 10.2.0.1");
        w.deny(&NAT002);
        w.deny(&NAT001);
    }
}
