//! Answers leave by the way of the real server's address, and not of the VIP's.

use super::super::remedy::set;
use super::super::site::{elsewhere, proven};
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Evidence, Need, Outcome, Severity};
use crate::host::{Answer, Ask, Host};
use crate::ipvs::ForwardingMethod;
use std::net::IpAddr;

rule! {
    /// # What it sees
    /// A director of LVS-NAT with `net.ipv4.vs.snat_reroute` at 0, and policy rules by which the VIP's packets take another way than those of a
    /// real server.
    ///
    /// # Why it breaks
    /// The kernel looks for the way of an answer while the real server's address still is its source. IPVS then puts the VIP in, and looks again
    /// only if `snat_reroute` is set, as it is by default. Without that the answer leaves by the real server's way: by the wrong uplink, whose
    /// provider drops a foreign source, or whose firewall never saw the request.
    ///
    /// # Confirm it by hand
    /// On the director: `ip route get CLIENT from VIP` against `ip route get CLIENT from RIP iif IF`; `tcpdump` on both uplinks.
    ///
    /// # Remedy
    /// `sysctl -w net.ipv4.vs.snat_reroute=1`.
    ///
    /// # When it is not a fault
    /// With one uplink, or with rules for the real servers' network that lead the same way.
    ///
    /// # Reproduce
    /// A NAT director with two uplinks, `ip rule add from VIP table 100`, and `snat_reroute=0`.
    ///
    /// # References
    /// kernel `Documentation/networking/ipvs-sysctl.rst`, snat_reroute; `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_route_me_harder`.
    NAT014 "policy-routing-snat-reroute" check hosts
}

/// Of an answer by the wrong uplink other rules tell (NET015).
fn check(_: &Facts<'_>) -> Outcome {
    Outcome::NotJudged(Need("a snapshot of the director".to_string()))
}

/// In settings, and in two look-ups.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    const KEY: &str = "net.ipv4.vs.snat_reroute";
    for (host, service) in site.directed() {
        let Some(vip) = service.vip() else { continue };
        for destination in service.destinations.iter().filter(|d| d.forwarding() == Some(ForwardingMethod::Nat)) {
            let rip = destination.address.addr;
            match (host.sysctl(KEY), host.rules.as_deref()) {
                (None, _) => checks.needs(&host.name, KEY),
                (Some(1..), _) => checks.passed(&host.name, "answers are routed with the VIP as their source"),
                (Some(_), None) => checks.needs(&host.name, "its policy rules"),
                (Some(_), Some(_)) => {
                    let client = elsewhere(vip.is_ipv6());
                    let (own, other) = (host.way(&Ask { from: Some(vip), ..Ask::to(client) }).ok(), forwarded(host, rip, client));
                    match (own, other) {
                        (Some(own), Some(other)) if leads(&own) != leads(&other) => {
                            let summary = format!(
                                "Answers of {} are routed as from the real server ({}), and not as from the VIP ({}).",
                                service.name(),
                                other.words(),
                                own.words()
                            );
                            let found = proven(host, Severity::Risky, summary, format!("{KEY}=0"), format!("sysctl {KEY}"))
                                .and([Evidence::host(&host.name, own.words(), format!("ip route get {client} from {vip}"))])
                                .mend([set(host, &[(KEY.to_string(), "1")])]);
                            checks.failed(&host.name, found);
                        }
                        _ => checks.passed(&host.name, "VIP and real servers have the same way out"),
                    }
                }
            }
        }
    }
}

/// The way of an answer while it has the real server's address: it came by the link to that.
fn forwarded<'h>(host: &'h Host, rip: IpAddr, client: IpAddr) -> Option<Answer<'h>> {
    let iif = host.way(&Ask::to(rip)).ok()?.link().map(str::to_string);
    host.way(&Ask { from: Some(rip), iif, ..Ask::to(client) }).ok()
}

fn leads(way: &Answer<'_>) -> (Vec<IpAddr>, Option<String>) {
    (way.gateways(), way.link().map(str::to_string))
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::*;
    use crate::finding::Confidence;
    use crate::host::{NextHop, Route, Rule};

    fn site(reroute: &str, policy: bool) -> [Sketch; 1] {
        let rules = "-A -t 10.9.0.80:80 -s rr\n-a -t 10.9.0.80:80 -r 10.0.0.11:80 -m\n";
        let director = Sketch::new("director").card("a", "10.9.0.2/24").card("b", "10.8.0.2/24").card("int", "10.0.0.1/24");
        let director = director.addr("a", "10.9.0.80/32").via("default", "10.8.0.1", "b").ipvs(rules);
        [director.set("net.ipv4.vs.snat_reroute", reroute).with(|h| {
            let lookup =
                |priority, from: Option<&str>, table| Rule { priority, from: from.map(|f| f.parse().unwrap()), table, ..Rule::default() };
            let mut all = vec![lookup(0, None, 255), lookup(32766, None, 254)];
            if policy {
                all.push(lookup(100, Some("10.9.0.80/32"), 100));
                let hops = vec![NextHop { link: Some("a".into()), gateway: Some("10.9.0.1".parse().unwrap()), dead: false }];
                h.routes.as_mut().unwrap().push(Route { table: 100, hops, ..Route::default() });
            }
            all.sort_by_key(|rule| rule.priority);
            h.rules = Some(all);
        })]
    }

    #[test]
    fn by_the_wrong_uplink() {
        let found = sketch::expect(&site("0", true), &NAT014, Severity::Risky, Confidence::Certain, "director");
        assert_eq!(found.remedy[0].command, "sysctl -w net.ipv4.vs.snat_reroute=1");
        sketch::passes(&site("1", true), &NAT014, "director");
        sketch::passes(&site("0", false), &NAT014, "director");
        sketch::cannot_judge(&site("", true), &NAT014, "director");
    }
}
