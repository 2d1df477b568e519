//! A source translation on the director that only works for part of the connections.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::trace::{Flow, Method, Rewrite};

rule! {
    /// # What it sees
    /// The director translates the source of some requests and not of others of the same service; answers to the others do not come back
    /// through it.
    ///
    /// # Why it breaks
    /// A MASQUERADE or SNAT rule on the director makes answers come back by themselves. But with `net.ipv4.vs.conntrack=0` IPVS marks its
    /// packets as untracked, and the nat table never sees them: the rule has no effect, or only on connections that were there before.
    ///
    /// # Confirm it by hand
    /// On the director: `sysctl net.ipv4.vs.conntrack`; `iptables -t nat -L POSTROUTING -v -n`: does the rule count?
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.vs.conntrack=1`, and the rule with `-m ipvs`.
    ///
    /// # When it is not a fault
    /// Rules for part of the clients on purpose, while the answers to the others come back through the director.
    ///
    /// # Reproduce
    /// A one-armed NAT service with a MASQUERADE rule; change `net.ipv4.vs.conntrack` to 0.
    ///
    /// # References
    /// kernel `Documentation/networking/ipvs-sysctl.rst`: conntrack; `net/netfilter/ipvs/ip_vs_xmit.c`, `ip_vs_nat_send_or_cont`.
    NAT009 "snat-rule-has-no-effect" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let translated = |f: &Flow| {
        let sent = f.director.and_then(|d| f.request.sent_by(d));
        sent.is_some_and(|hop| hop.rewrites.contains(&Rewrite::SrcIp))
    };
    let plain: Vec<&Flow> = facts.balanced(Method::Nat).filter(|f| !translated(f) && !f.state.is_complete() && bypasses(f)).collect();
    let Some(flow) = plain.first().copied() else { return Outcome::Clear };
    let other = facts.flows().find(|f| f.director == flow.director && f.vip == flow.vip && f.state.is_complete() && translated(f));
    let (Some(other), Some(sent)) = (other, flow.director.and_then(|d| flow.request.sent_by(d))) else { return Outcome::Clear };
    let name = facts.name(flow.director);
    let summary = format!("{name} translates the source of some requests and not of others; answers to those pass it by.");
    let right = other.director.and_then(|d| other.request.sent_by(d)).map(|hop| facts.seen_with(hop, "source translated"));
    let found = Finding::new(name, Severity::Broken, Confidence::Likely, summary, facts.seen_with(sent, "source left alone"))
        .and(right)
        .unless(&["NAT003", "NAT006"], format!("on {name}: `sysctl net.ipv4.vs.conntrack`, `iptables -t nat -S POSTROUTING`"))
        .mend([Remedy::new(
            name,
            "sysctl -w net.ipv4.vs.conntrack=1",
            "net.ipv4.vs.conntrack = 1 in /etc/sysctl.d/90-lvs.conf; the rule with `-m ipvs` in the saved rules",
            "sysctl -w net.ipv4.vs.conntrack=0",
        )])
        .on(ids(&plain));
    vec![found].into()
}

/// Its server answers past the director.
fn bypasses(flow: &Flow) -> bool {
    flow.reply.first().is_some_and(|hop| hop.from == flow.server_host && hop.to.is_some() && hop.to != flow.director)
}

/// On the director: a rule that would translate the source, while IPVS hides its packets from it.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let client = super::super::site::elsewhere(service.v6);
        for d in service.destinations.iter().filter(|d| d.forwarding() == Some(crate::ipvs::ForwardingMethod::Nat)) {
            let Some(rule) = site.director_snat(host, service, d.address, client) else { continue };
            // A rule for everything that leaves is there for other traffic.
            let meant = rule.ipvs || rule.dst.is_some();
            match host.sysctl("net.ipv4.vs.conntrack") {
                _ if !meant => {}
                None => checks.needs(&host.name, "net.ipv4.vs.conntrack"),
                Some(0) => {
                    let summary = format!(
                        "A rule is to translate the source of what is handed on for {}, and never sees it: net.ipv4.vs.conntrack is 0.",
                        service.name()
                    );
                    let found = proven(host, Severity::Broken, summary, "net.ipv4.vs.conntrack=0", "sysctl")
                        .and([crate::finding::Evidence::host(&host.name, rule.text.clone(), "iptables-save -t nat")])
                        .mend([super::super::remedy::set(host, &[("net.ipv4.vs.conntrack".to_string(), "1")])]);
                    checks.failed(&host.name, found);
                }
                Some(_) => checks.passed(&host.name, "net.ipv4.vs.conntrack is 1"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SYN_ACK, World};
    use super::*;

    fn world() -> World {
        let mut w = World::new().plug("client.eth0", "lan", "10.2.0.100").plug("director.eth0", "lan", "10.2.0.1").plug(
            "web1.eth0",
            "lan",
            "10.2.0.11",
        );
        for port in [40001, 40002] {
            let c = World::tcp(&format!("10.2.0.100:{port}"), "10.2.0.1:80")
                .dnat("director", "10.2.0.11:80")
                .snat("director", &format!("10.2.0.1:{port}"));
            w.talk(&c, "client director web1", "web1 director client");
        }
        w
    }

    #[test]
    fn some_sources_are_left_alone() {
        let mut w = world();
        let c = World::tcp("10.2.0.100:40003", "10.2.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 client");
        w.syn(&c, "client director web1", 2);
        let found = w.expect(&NAT009, Confidence::Likely, "director");
        assert_eq!(found.flows, [3]);
        // It worked for the same client before: where it lives is no fault.
        w.deny(&super::super::nat003::NAT003);
    }

    #[test]
    fn all_sources_are_translated() {
        world().deny(&NAT009);
        world().healthy();
    }
}
