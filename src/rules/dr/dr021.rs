//! The network drops what a director hands on, or what real servers answer as the VIP.

use super::super::facts::Between;
use super::super::remedy::look;
use super::super::{Facts, rule};
use crate::finding::{Finding, Outcome};
use crate::trace::{FlowState, Method, Way};

rule! {
    /// # What it sees
    /// The director's own interface shows the request leave to the MAC of the real server, and the capture on the real server does not
    /// have it, though other frames of the director arrive there. Or the real server's interface shows the answer leave with the VIP as
    /// its source, and the next hop, captured too, never gets it.
    ///
    /// # Why it breaks
    /// Clouds and hypervisors know which addresses belong to which port, and drop everything else: frames for an address that the port
    /// does not have, answers from it. Direct routing consists of such frames; LVS-NAT hands on packets whose source is the client.
    ///
    /// # Confirm it by hand
    /// `tcpdump -eni eth0 'host VIP'` on both ends at once: the frame is on the first, and not on the second.
    ///
    /// # Remedy
    /// Tell the network: allowed address pairs with the VIP, or no port security (OpenStack Neutron); no source and destination check (AWS,
    /// for NAT and tunnels; direct routing is not possible there); forged transmits and promiscuous mode (vSphere). Or use tunnels: their
    /// outer addresses are the hosts' own.
    ///
    /// # When it is not a fault
    /// When the capture on the receiver had a filter, or was taken on another interface. A network that carries nothing at all between the
    /// two is another fault (NET009).
    ///
    /// # Reproduce
    /// `lvscope lab run dr-fabric-in`; a bridge with `nft add rule bridge … ip daddr VIP drop`.
    ///
    /// # References
    /// OpenStack Networking: allowed address pairs, port security; Amazon VPC: source/destination checking; vSphere: forged transmits.
    DR021 "fabric-anti-spoofing" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found: Vec<Finding> = facts.lost_between("DR021").iter().map(|lost| finding(facts, lost)).collect();
    Outcome::or_need(found, need(facts))
}

fn finding(facts: &Facts<'_>, lost: &Between<'_>) -> Finding {
    let ((from, to), first) = (lost.ends(facts), &lost.pairs[0]);
    let (what, service) = match lost.way {
        Way::Request => ("requests for", first.hop.dst),
        Way::Reply => ("answers from", first.hop.src),
    };
    let summary = format!("The network drops {what} {service} between {from} and {to}: they leave, and do not arrive.");
    let translates = lost.flows.iter().find(|f| matches!(f.method, Method::Nat | Method::FullNat)).and_then(|f| f.director);
    // Whose port it is that has packets of an address which is not its own: with NAT the director's, those of clients; else the real
    // servers', those of the VIP.
    let (host, foreign, settings) = match (translates, lost.way) {
        (Some(director), way) => {
            let client = if way == Way::Request { first.hop.src.addr } else { first.hop.dst.addr };
            (facts.name(Some(director)).to_string(), client, "no source/destination check, no port security: it hands on what is clients'")
        }
        (None, Way::Request) => (to, service.addr, "allowed address pairs; no source/destination check"),
        (None, Way::Reply) => (from, service.addr, "allowed address pairs; no source/destination check"),
    };
    let own = |point: u32| facts.name(facts.trace.host_at(point)) == host;
    let device = [first.hop.point, first.at].into_iter().find(|p| own(*p)).unwrap_or(first.at);
    let seen = format!("tcpdump -eni {} host {foreign}", facts.device(device));
    let allow = format!("then allow {foreign} at the port of {host} in the cloud or hypervisor ({settings})");
    lost.finding(facts, &host, summary, &["NET009"]).mend([look(&host, seen, allow)])
}

/// A request that was last seen leaving, towards a host on which nobody looked.
fn need(facts: &Facts<'_>) -> Option<String> {
    let open = |f: &&crate::trace::Flow| f.state == FlowState::Unanswered && !f.is_answered();
    let to = facts
        .flows()
        .filter(open)
        .filter_map(|f| f.request.last())
        .filter(|hop| hop.at_sender == Some(true))
        .find_map(|hop| hop.to.filter(|to| facts.trace.hosts[*to].points.is_empty()))?;
    Some(format!("a capture on {}", facts.name(Some(to))))
}

#[cfg(test)]
mod tests {
    use super::super::super::net::net009::NET009;
    use super::super::super::testing::{Conn, SYN, SYN_ACK, World};
    use super::*;
    use crate::finding::{Confidence, Severity};

    fn conn(port: u16) -> Conn {
        World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80")
    }

    /// Everybody has heard everybody.
    fn neighbours(mut w: World) -> World {
        for (host, target, owner) in [
            ("router", "10.2.0.100", "director"),
            ("director", "10.2.0.11", "web1"),
            ("director", "10.2.0.12", "web2"),
            ("web1", "10.2.0.1", "router"),
            ("web2", "10.2.0.1", "router"),
        ] {
            w.who_has(host, "int", target, &[owner]);
        }
        w
    }

    fn requests(cut_off: &[&str]) -> World {
        let mut w = neighbours(cut_off.iter().fold(World::dr(), |w, host| w.cut_off(&format!("{host}.eth0"))));
        w.syn(&conn(40001), "client router director web1", 3);
        w.syn(&conn(40002), "client router director web2", 3);
        w
    }

    #[test]
    fn requests_leave_and_do_not_arrive() {
        let w = requests(&["web1", "web2"]);
        let found = w.expect(&DR021, Confidence::Likely, "web1, web2");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Broken, &[1, 2][..]));
        assert!(found.summary.contains("requests for 10.2.0.100:80 between director and web1, web2"), "{}", found.summary);
        w.deny(&NET009);
        // Of one of them the capture shows that they came.
        let found = requests(&["web2"]).expect(&DR021, Confidence::Likely, "web2");
        assert_eq!(found.flows, [2]);
        // Nobody looked, or the capture lost some.
        requests(&["web1", "web2"]).without(&["web1", "web2"]).deny(&DR021);
        requests(&["web1", "web2"]).lossy("web1.eth0", 7).lossy("web2.eth0", 1).deny(&DR021);
    }

    #[test]
    fn answers_leave_and_do_not_arrive() {
        let mut w = neighbours(World::dr().cut_off("router.int"));
        for (n, web) in ["web1", "web2"].iter().enumerate() {
            let c = conn(40001 + n as u16);
            for _ in 0..3 {
                w.carry(&c, false, SYN, b"", &format!("client router director {web}"));
                w.carry(&c, true, SYN_ACK, b"", &format!("{web} router"));
                w.wait(1.0);
            }
        }
        let found = w.expect(&DR021, Confidence::Likely, "web1, web2");
        assert!(found.summary.contains("answers from 10.2.0.100:80 between web1, web2 and router"), "{}", found.summary);
    }

    #[test]
    fn loss_is_no_policy() {
        let mut w = neighbours(World::dr());
        w.talk(&conn(40001), "client router director web1", "web1 router client");
        w.syn(&conn(40002), "client router director", 3);
        w.deny(&DR021);
        let mut once = neighbours(World::dr().cut_off("web1.eth0"));
        once.syn(&conn(40001), "client router director web1", 1);
        once.wait(3.0);
        once.deny(&DR021);
    }

    /// With NAT it is the client's address that the director's port does not have.
    #[test]
    fn what_a_nat_director_hands_on_is_not_its_own() {
        let mut w = World::nat().cut_off("web1.eth0");
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.syn(&c, "client director web1", 3);
        let found = w.expect(&DR021, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "tcpdump -eni int host 10.1.0.100");
        assert!(found.remedy[0].permanent.contains("allow 10.1.0.100 at the port of director"), "{:?}", found.remedy);
    }
}
