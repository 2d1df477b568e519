//! The service listens on the real server's own address and not on the VIP.

use super::super::facts::{by_server, ids};
use super::super::site::proven;
use super::super::svc::refusals;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::dr007::checked_elsewhere;
use super::vip;
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::trace::{Flow, Method};

rule! {
    /// # What it sees
    /// The real server answers the SYN at once with an RST, from the VIP. All real servers of the service do so, or the same server takes
    /// connections to its own address and that port.
    ///
    /// # Why it breaks
    /// With direct routing and tunnels requests arrive with the VIP as destination. A program that listens on the real server's own address
    /// only does not get them, and the kernel refuses. Health checks to the own address are green all the time.
    ///
    /// # Confirm it by hand
    /// On the real server: `ss -ltn` shows `RIP:80` instead of `0.0.0.0:80`, `*:80` or `VIP:80`.
    ///
    /// # Remedy
    /// Let the program listen on all addresses, or on the VIP as well.
    ///
    /// # When it is not a fault
    /// When the program does not run at all (SVC004); or the table names another port (DR007).
    ///
    /// # Reproduce
    /// A DR service; on the real servers a listener on the own address only.
    ///
    /// # References
    /// kernel `net/ipv4/inet_hashtables.c`, `__inet_lookup_listener`.
    DR012 "service-not-bound-to-vip" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let direct = |f: &&Flow| matches!(f.method, Method::DirectRouting | Method::Tunnel) && checked_elsewhere(facts, f).is_none();
    let refused: Vec<&Flow> = refusals(facts).filter(direct).collect();
    let found: Vec<Finding> = groups(facts, &refused).into_iter().filter_map(|group| finding(facts, &group)).collect();
    found.into()
}

/// Refused flows of servers that listen on their own address for sure; and those of services that all servers refuse.
fn groups<'a>(facts: &Facts<'a>, refused: &[&'a Flow]) -> Vec<Vec<&'a Flow>> {
    let (sure, open): (Vec<&Flow>, Vec<&Flow>) = refused.iter().partition(|f| on_own_address(facts, f).is_some());
    let all_refuse = |f: &&Flow| is_bound_elsewhere(facts, f);
    let mut groups: Vec<Vec<&Flow>> = by_server(sure).into_values().collect();
    let open: Vec<&Flow> = open.into_iter().filter(all_refuse).collect();
    groups.extend((!open.is_empty()).then_some(open));
    groups
}

/// True when the likelier reading of a refusal is this rule's and not that the service is down: several servers, and all refuse.
pub(in crate::rules) fn is_bound_elsewhere(facts: &Facts<'_>, flow: &Flow) -> bool {
    if !matches!(flow.method, Method::DirectRouting | Method::Tunnel) {
        return false;
    }
    let of_service = || facts.flows().filter(|f| f.vip == flow.vip && f.director.is_some());
    let servers = by_server(refusals(facts).filter(|f| f.vip == flow.vip)).len();
    on_own_address(facts, flow).is_some() || (servers > 1 && of_service().all(|f| !f.state.is_complete()))
}

/// A connection to the same server's own address and that port, which was accepted.
fn on_own_address<'a>(facts: &Facts<'a>, flow: &Flow) -> Option<&'a Flow> {
    let accepted = |f: &&Flow| {
        f.state.is_complete()
            && f.director.is_none()
            && f.request.last().is_some_and(|hop| hop.to == flow.server_host)
            && f.service.port == flow.service.port
    };
    let own = |f: &&Flow| accepted(f) && Some(f.service.addr) != flow.vip.map(|vip| vip.addr);
    // What died meanwhile was there before, and what was started later is there now: between two refusals it was there all the time.
    let same = |f: &&Flow| f.server_host == flow.server_host && f.vip == flow.vip;
    let times: Vec<_> = refusals(facts).filter(same).map(|f| f.first).collect();
    let served = facts.flows().filter(same).any(|f| f.state.is_complete());
    let mut meanwhile = facts.flows().filter(own).filter(|f| times.iter().any(|t| *t <= f.first) && times.iter().any(|t| *t >= f.first));
    meanwhile.next().or_else(|| facts.flows().find(own).filter(|_| !served))
}

fn finding(facts: &Facts<'_>, flows: &[&Flow]) -> Option<Finding> {
    let flow = *flows.first()?;
    let names = facts.names(flows.iter().filter_map(|f| f.server_host));
    let reset = flow.reply.first()?;
    let accepted = on_own_address(facts, flow);
    let confidence = if accepted.is_some() { Confidence::Certain } else { Confidence::Likely };
    let summary = match accepted {
        Some(own) => format!("{names} takes connections to {}, and refuses them to the VIP.", own.service),
        None => format!(
            "All real servers refuse {}: {names} do not listen on the VIP.",
            flow.vip.map_or_else(String::new, |vip| vip.to_string())
        ),
    };
    let received = flow.server_host.and_then(|s| facts.reached(&flow.request, s)).map(|hop| facts.seen(hop));
    let proof = accepted.and_then(|f| f.reply.first()).map(|hop| facts.seen_with(hop, "its own address is served"));
    let found = Finding::new(&names, Severity::Broken, confidence, summary, facts.seen(reset)).and(received).and(proof);
    let alternatives: &[&str] = if accepted.is_some() { &[] } else { &["SVC004", "DR007"] };
    let mended = Remedy::new(
        &names,
        format!("ss -ltn 'sport = :{}'", flow.service.port),
        format!("listen on 0.0.0.0 or on {} in the program's configuration, then restart it", vip(flow)),
        "the program's configuration as it was",
    );
    Some(found.unless(alternatives, format!("on {names}: `ss -ltn`, or a snapshot")).mend([mended]).on(ids(flows)))
}

/// On the host: something listens at the port, but not at the virtual address.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    super::super::svc::listening(site, checks, "DR012", |host, duty, at, others| {
        let summary =
            format!("Nothing listens at {at}, which is what {} asks for; the port is served at other addresses only.", duty.method_name());
        let remedy = crate::finding::Remedy::new(
            &host.name,
            format!("ss -lntup 'sport = :{}'", at.port),
            format!("let the server that it shows listen at {at} or at every address (Listen, bind), and restart it"),
            "the old configuration",
        );
        proven(host, Severity::Broken, summary, format!("listens at {}", others.join(", ")), "ss -lnt").mend([remedy])
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::svc::svc004::SVC004;
    use super::super::super::testing::{REFUSE, World};
    use super::*;

    fn refused(w: &mut World, port: u16, web: &str) {
        let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.syn(&c, &format!("client router director {web}"), 1);
        w.carry(&c, true, REFUSE, b"", &format!("{web} router client"));
    }

    #[test]
    fn all_servers_refuse() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        refused(&mut w, 40001, "web1");
        refused(&mut w, 40002, "web2");
        let found = w.expect(&DR012, Confidence::Likely, "web1, web2");
        assert!(found.alternatives.contains(&"SVC004"));
        w.deny(&SVC004);
    }

    #[test]
    fn the_own_address_is_served() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        refused(&mut w, 40001, "web1");
        let check = World::tcp("10.2.0.100:50001", "10.2.0.11:80");
        w.talk(&check, "director web1", "web1 director");
        let found = w.expect(&DR012, Confidence::Certain, "web1");
        assert!(found.alternatives.is_empty());
        w.deny(&SVC004);
    }

    #[test]
    fn one_server_of_two_is_down() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        refused(&mut w, 40001, "web1");
        let c = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web2", "web2 router client");
        w.deny(&DR012);
    }

    /// Its own address was served while the VIP was, too: it went down as a whole.
    #[test]
    fn a_server_that_died_meanwhile() {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
        w.talk(&c, "client router director web1", "web1 router client");
        w.talk(&World::tcp("10.2.0.100:50001", "10.2.0.11:80"), "director web1", "web1 director");
        refused(&mut w, 40002, "web1");
        w.deny(&DR012);
        w.finding(&SVC004);
        // While it refuses the VIP, before and after.
        w.talk(&World::tcp("10.2.0.100:50002", "10.2.0.11:80"), "director web1", "web1 director");
        w.deny(&DR012);
        refused(&mut w, 40003, "web1");
        w.expect(&DR012, Confidence::Certain, "web1");
    }
}
