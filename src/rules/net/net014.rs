//! The link behind a director takes smaller packets than the one in front of it.

use super::super::facts::{by_director, ids};
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::trace::{Flow, Method};

rule! {
    /// # What it sees
    /// The director says ICMP "fragmentation needed" to a client, with the VIP as its source, and names an MTU. The request that it quotes
    /// is dropped.
    ///
    /// # Why it breaks
    /// With direct routing and NAT nothing is added to a packet, so what came in should fit out again. It does not where the interface towards the
    /// real servers has the smaller MTU (a VLAN, a VXLAN, jumbo frames on one side only). A client that understands the message sends
    /// smaller packets from then on and loses one round trip; one that never gets it hangs (TUN005).
    ///
    /// # Confirm it by hand
    /// On the director: `ip route get RIP` and `ip link`: the MTU of the interface in front and of the one behind.
    ///
    /// # Remedy
    /// The same MTU on both sides, on switches and real servers, too.
    ///
    /// # When it is not a fault
    /// Path MTU discovery is made for this: clients that go on with smaller packets are served. "Fragmentation needed" from a router about
    /// an answer is passed on to the real server by the director, and is no fault either. Captured frames longer than the MTU are the work
    /// of the network card (CAP002).
    ///
    /// # Reproduce
    /// A DR or NAT service with `ip link set IF mtu 1400` on the director; a POST of some kilobytes.
    ///
    /// # References
    /// RFC 1191; kernel `net/netfilter/ipvs/ip_vs_xmit.c`, `ensure_mtu_is_adequate`.
    NET014 "dr-mtu-mismatch" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    // What a tunnel takes from a packet is TUN004.
    let methods = [Method::DirectRouting, Method::Nat, Method::FullNat];
    let told: Vec<&Flow> = methods.into_iter().flat_map(|method| facts.balanced(method)).filter(|f| facts.too_big(f).is_some()).collect();
    by_director(told).into_values().filter_map(|flows| finding(facts, &flows)).collect::<Vec<_>>().into()
}

fn finding<'a>(facts: &Facts<'a>, flows: &[&'a Flow]) -> Option<Finding> {
    let flow = *flows.first()?;
    let (error, mtu) = facts.too_big(flow)?;
    let name = facts.name(flow.director);
    let server = facts.server_address(flow);
    let summary = match flows.iter().any(|f| facts.stuck(f).is_some()) {
        true => format!("Behind {name} packets of {mtu} bytes at most pass; a client goes on sending longer ones."),
        false => format!("Behind {name} packets of {mtu} bytes at most pass; clients are told so, and send shorter ones."),
    };
    let sent = flow.director.and_then(|d| flow.request.sent_by(d)).map(|hop| facts.seen_with(hop, "shorter packets pass"));
    // What the client may send: a plain Ethernet frame, or a jumbo one where plain ones fit already.
    let front = if mtu < 1500 { 1500 } else { 9000 };
    let mended = Remedy::new(
        name,
        format!("ip link set IF mtu {front}"),
        format!("the MTU of the interface towards {server} in netplan, networkd, NetworkManager or its ifcfg file (MTU={front})"),
        format!("ip link set IF mtu {mtu}"),
    );
    Some(Finding::new(name, Severity::Note, Confidence::Certain, summary, facts.error(error)).and(sent).mend([mended]).on(ids(flows)))
}

/// On a director: the link towards the real servers takes less than the one by which requests come.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let Some(outer) = service.vip().and_then(|vip| host.link(&host.address(vip)?.link)).filter(|l| l.speaks_arp()) else { continue };
        for d in service.destinations.iter().filter(|d| d.forwarding() == Some(crate::ipvs::ForwardingMethod::DirectRouting)) {
            let inner = host.way(&crate::host::Ask::to(d.address.addr)).ok().and_then(|w| host.link(w.link()?));
            let Some(inner) = inner.filter(|l| l.speaks_arp() && l.mtu > 0 && outer.mtu > 0) else { continue };
            if inner.mtu >= outer.mtu {
                checks.passed(&host.name, format!("MTU {} towards real servers", inner.mtu));
                continue;
            }
            let summary = format!(
                "Requests may come with {} bytes at {}, and only {} leave by {}: longer ones are refused.",
                outer.mtu, outer.name, inner.mtu, inner.name
            );
            let remedy = crate::finding::Remedy::new(
                &host.name,
                format!("ip link set {} mtu {}", inner.name, outer.mtu),
                "the same MTU on every interface and switch of that network",
                format!("ip link set {} mtu {}", inner.name, inner.mtu),
            );
            let found = proven(host, Severity::Risky, summary, format!("{} mtu {}", inner.name, inner.mtu), "ip link")
                .and([crate::finding::Evidence::host(&host.name, format!("{} mtu {}", outer.name, outer.mtu), "ip link")])
                .mend([remedy]);
            checks.failed(&host.name, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ACK, Conn, PSH, SYN_ACK, World};
    use super::super::super::tun::tun005::TUN005;
    use super::*;

    const THERE: &str = "client router director web1";
    const BACK: &str = "web1 router client";

    fn opened() -> (World, Conn) {
        let mut w = World::dr();
        let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
        w.syn(&c, THERE, 1);
        w.carry(&c, true, SYN_ACK, b"", BACK);
        w.carry(&c, false, ACK, b"", THERE);
        (w, c)
    }

    #[test]
    fn a_client_that_understands_is_served() {
        let (mut w, c) = opened();
        w.carry(&c, false, PSH, &[b'x'; 1460], "client router director");
        w.icmp(&c, false, (3, 4, 1400), "10.2.0.100", "10.1.0.100", "director", "director router client");
        w.carry(&c, false, PSH, &[b'x'; 1348], THERE);
        w.carry(&c, true, PSH, b"200 OK", BACK);
        let found = w.expect(&NET014, Confidence::Certain, "director");
        assert_eq!(found.severity, Severity::Note);
        assert!(found.summary.contains("1400"), "{}", found.summary);
        assert_eq!((&*found.remedy[0].command, &*found.remedy[0].undo), ("ip link set IF mtu 1500", "ip link set IF mtu 1400"));
        w.deny(&TUN005);
        w.healthy();
    }

    #[test]
    fn a_routers_word_about_an_answer_is_no_matter() {
        let (mut w, c) = opened();
        w.carry(&c, false, PSH, b"GET /", THERE);
        w.carry(&c, true, PSH, &[b'x'; 1460], "web1 router");
        w.icmp(&c, true, (3, 4, 1400), "10.2.0.1", "10.2.0.100", "router", "router director web1");
        w.carry(&c, true, PSH, &[b'x'; 1348], BACK);
        w.deny(&NET014);
        w.healthy();
    }

    #[test]
    fn a_director_that_translates() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 1);
        w.carry(&c, true, SYN_ACK, b"", "web1 director client");
        w.carry(&c, false, PSH, &[b'x'; 1460], "client director");
        w.icmp(&c, false, (3, 4, 1400), "10.1.0.1", "10.1.0.100", "director", "director client");
        w.carry(&c, false, PSH, &[b'x'; 1348], "client director web1");
        w.carry(&c, true, PSH, b"200 OK", "web1 director client");
        w.expect(&NET014, Confidence::Certain, "director");
        w.healthy();
    }

    #[test]
    fn merged_segments_are_no_mismatch() {
        let (mut w, c) = opened();
        // Longer than any MTU in front of the director, two packets behind it.
        w.carry(&c, false, PSH, &[b'x'; 2920], "client router director");
        w.carry(&c, false, PSH, &[b'x'; 2920], "director web1");
        w.carry(&c, true, PSH, b"200 OK", BACK);
        w.deny(&NET014);
        w.healthy();
    }
}
