//! The director is a real server itself, and nothing there listens at the virtual address.

use super::super::remedy::look;
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Finding, Outcome, Severity};
use crate::host::{Destination, Host, Service};
use crate::ipvs::ForwardingMethod;
use crate::net::{Endpoint, Protocol};

rule! {
    /// # What it sees
    /// A destination of the director's table that is an address of the director itself, and no socket of the director that takes what IPVS
    /// delivers there. In packets: some connections are handed on and served, and others, in between, the director itself refuses.
    ///
    /// # Why it breaks
    /// What IPVS delivers to its own host it does not rewrite, with direct routing and tunnels: the packet keeps the VIP and its port, and a
    /// program that listens at another address of the director never sees it. With NAT the packet is for the destination's address and port;
    /// to 127.0.0.1 the kernel translates nothing that comes from outside.
    ///
    /// # Confirm it by hand
    /// On the director: `ss -lntp 'sport = :PORT'`; `ipvsadm -Ln` shows such a destination as `Local`, or, since Linux 2.6.37, with its method.
    ///
    /// # Remedy
    /// Let the program listen at the VIP, or at every address; with NAT at the destination's address, which is none of 127.0.0.0/8.
    ///
    /// # When it is not a fault
    /// With weight 0, or while something else takes the port.
    ///
    /// # Reproduce
    /// A DR service with the director's own address among its real servers, and a program there that listens at that address alone.
    ///
    /// # References
    /// kernel `net/netfilter/ipvs/ip_vs_xmit.c`, `__ip_vs_get_out_rt` and `ip_vs_nat_xmit`; LVS-HOWTO, chapter Localnode.
    DR022 "local-node-bind" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let found = facts.losses("DR022").into_iter().map(|loss| {
        let (name, service) = (facts.name(Some(loss.host)), loss.service());
        let summary = format!(
            "{name} hands some connections for {service} on and refuses others itself: it seems to be one of its own real servers."
        );
        let settle = format!("on {name}: `ipvsadm -Ln`, `ss -ltn 'sport = :{}'`", loss.hop.dst.port);
        loss.finding(facts, summary, &settle).mend([listen(name, loss.hop.dst)])
    });
    found.collect::<Vec<Finding>>().into()
}

fn listen(host: &str, at: Endpoint) -> crate::finding::Remedy {
    look(
        host,
        format!("ss -lntup 'sport = :{}'", at.port),
        format!("let the program that serves it listen at {at} or at every address, and restart it"),
    )
}

/// In the director's table, and among its sockets.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let Some(protocol) = service.protocol else { continue };
        for destination in service.destinations.iter().filter(|d| d.weight > 0 && (host.has(d.address.addr) || d.method == "local")) {
            let at = match destination.forwarding() {
                Some(ForwardingMethod::Nat) => destination.address,
                _ => service.address.unwrap_or(destination.address),
            };
            if at.port == 0 {
                continue;
            }
            let is_nat = destination.forwarding() == Some(ForwardingMethod::Nat);
            if is_nat && at.addr.is_loopback() {
                let summary = format!(
                    "{} is translated to {at}, which the kernel does for nobody outside: its connections are dropped.",
                    service.name()
                );
                checks.failed(
                    &host.name,
                    found(host, service, destination, summary, format!("-r {at} -m")).mend([elsewhere(host, service, destination)]),
                );
                continue;
            }
            let Some(sockets) = host.sockets.as_deref() else {
                checks.needs(&host.name, format!("its listening sockets: {}", host.why_absent("sockets")));
                continue;
            };
            if sockets.iter().any(|s| s.accepts(protocol, at)) {
                checks.passed(&host.name, format!("something listens at {at}"));
                continue;
            }
            let is_partial = host.left_out.iter().any(|l| l.section == "sockets") && protocol != Protocol::Tcp;
            if is_partial || !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
                checks.needs(&host.name, format!("its {protocol} sockets"));
                continue;
            }
            let others: Vec<String> =
                sockets.iter().filter(|s| s.protocol == protocol && s.local.port == at.port).map(|s| s.local.to_string()).collect();
            let listens = if others.is_empty() {
                format!("nothing listens at port {}", at.port)
            } else {
                format!("listens at {}", others.join(", "))
            };
            let summary = format!(
                "The director is a real server of {} itself ({}), and nothing there listens at {at}: it refuses.",
                service.name(),
                destination.address.addr
            );
            checks.failed(&host.name, found(host, service, destination, summary, listens).mend([listen(&host.name, at)]));
        }
    }
}

fn found(host: &Host, service: &Service, own: &Destination, summary: String, fact: String) -> Finding {
    let others = service.destinations.iter().any(|d| d.weight > 0 && d.address != own.address);
    let severity = if others { Severity::Degraded } else { Severity::Broken };
    proven(host, severity, summary, fact, "ss -lntu; ipvsadm -Ln")
}

/// The same destination under an address that may be translated to.
fn elsewhere(host: &Host, service: &Service, own: &Destination) -> crate::finding::Remedy {
    let (option, port) = (service.option(), own.address.port);
    let address = host.main_address().map_or_else(|| format!("DIP:{port}"), |addr| Endpoint::new(addr, port).to_string());
    let swap = |from: &str, to: &str| format!("ipvsadm -a {option} -r {to} -m -w {}; ipvsadm -d {option} -r {from}", own.weight);
    let now = own.address.to_string();
    crate::finding::Remedy::new(
        &host.name,
        swap(&now, &address),
        "the same address in keepalived.conf, or in the saved rules (`ipvsadm -Sn`); the program has to listen there",
        swap(&address, &now),
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::super::super::svc::svc027::SVC027;
    use super::super::super::testing::{REFUSE, World};
    use super::*;
    use crate::finding::Confidence;

    fn site(method: &str, own: &str, change: impl Fn(Sketch) -> Sketch) -> [Sketch; 5] {
        let rules =
            format!("-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g\n-a -t 10.0.0.100:80 -r {own}:80 {method}\n");
        dr_with("director", |d| change(d.ipvs(&rules)))
    }

    #[test]
    fn where_the_directors_own_program_listens() {
        let dr = |listens: &'static str| site("-g", "10.0.0.10", move |d| d.listens(listens));
        let found = sketch::expect(&dr("10.0.0.10:80"), &DR022, Severity::Degraded, Confidence::Certain, "director");
        assert!(found.summary.contains("nothing there listens at 10.0.0.100:80"), "{}", found.summary);
        sketch::expect(&dr("10.0.0.100:81"), &DR022, Severity::Degraded, Confidence::Certain, "director");
        for fine in ["0.0.0.0:80", "10.0.0.100:80", "[::]:80"] {
            sketch::passes(&dr(fine), &DR022, "director");
        }
        // Translated, it is the destination's own address.
        sketch::passes(&site("-m", "10.0.0.10", |d| d.listens("10.0.0.10:80")), &DR022, "director");
        let found = sketch::expect(
            &site("-m", "127.0.0.1", |d| d.listens("0.0.0.0:80")),
            &DR022,
            Severity::Degraded,
            Confidence::Certain,
            "director",
        );
        assert!(found.remedy[0].command.starts_with("ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.10:80 -m -w 1; ipvsadm -d "));
        sketch::cannot_judge(&site("-g", "10.0.0.10", |d| d.with(|h| h.sockets = None)), &DR022, "director");
        // Of real servers elsewhere it says nothing.
        assert!(sketch::audit(&sketch::dr()).checks.iter().all(|c| c.code != "DR022"));
    }

    fn refused_between(ports: &[(u16, bool)]) -> World {
        let mut w = World::dr();
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        for (port, served) in ports {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80");
            match served {
                true => w.talk(&c, "client router director web1", "web1 router client"),
                false => {
                    w.syn(&c, "client router director", 1);
                    w.carry(&c, true, REFUSE, b"", "director router client");
                }
            }
            w.wait(1.0);
        }
        w
    }

    #[test]
    fn every_second_connection_is_refused_by_the_director() {
        let w = refused_between(&[(40001, true), (40002, false), (40003, true), (40004, false)]);
        let found = w.expect(&DR022, Confidence::Likely, "director");
        assert_eq!((found.severity, found.flows.as_slice()), (Severity::Degraded, &[2, 4][..]));
        w.deny(&SVC027);
    }

    /// A service that is taken away, comes late, or is loaded anew was not there while it refused.
    #[test]
    fn a_service_that_comes_or_goes() {
        for ports in ["++-", "-++", "+--+"] {
            let ports: Vec<(u16, bool)> = (40001..).zip(ports.chars().map(|c| c == '+')).collect();
            let w = refused_between(&ports);
            w.deny(&DR022);
            w.finding(&SVC027);
        }
    }
}
