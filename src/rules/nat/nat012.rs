//! FTP's second connection, which the director does not know to belong to the first.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Facts, Site, rule};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::host::{Host, Service};
use crate::ipvs::ForwardingMethod;
use crate::net::{Endpoint, Protocol};
use crate::trace::{Flow, HostId, Method};
use std::collections::BTreeMap;

rule! {
    /// # What it sees
    /// A client that has a control connection to port 21 of a virtual service, and then in vain asks for a high port of the virtual address, or of
    /// the real server's own; or a real server whose data connection from port 20 comes to nothing. On the director: a service for port 21 by
    /// NAT without the module `ip_vs_ftp`, or by direct routing or tunnel without persistence.
    ///
    /// # Why it breaks
    /// FTP opens a connection for each file, to an address and port that stand in the text of the first one. With NAT the text names the real
    /// server's own address; `ip_vs_ftp` reads it, rewrites it, and awaits the connection. With direct routing and tunnels the client comes to
    /// a high port of the virtual address, which only a persistent service for port 21 takes, to the same real server.
    ///
    /// # Confirm it by hand
    /// On the director: `lsmod | grep ip_vs_ftp`; `ipvsadm -Ln`. Log in and list a folder: the login works, the list hangs or is refused.
    ///
    /// # Remedy
    /// NAT: `modprobe ip_vs_ftp`. Direct routing and tunnels: a persistent service for port 21.
    ///
    /// # When it is not a fault
    /// Where the FTP server names the virtual address (vsftpd `pasv_address`) and its ports have a service of their own, and `ip_vs_ftp` is not
    /// loaded: the module would take the named address for the server's own, and hand the data connection on to the director's own
    /// address. What is encrypted (FTPS) no module reads; there that is the way.
    ///
    /// # Reproduce
    /// A NAT service for port 21, `modprobe -r ip_vs_ftp` on the director, and a client in passive mode.
    ///
    /// # References
    /// ipvsadm(8), section NOTES; kernel `net/netfilter/ipvs/ip_vs_ftp.c`; `ip_vs_core.c`, `ip_vs_leave`.
    NAT012 "ftp-data-port" check hosts
}

const MODULE: &str = "ip_vs_ftp";
const CONTROL: u16 = 21;

/// A data connection and its control connection.
type Pair<'a> = (&'a Flow, &'a Flow);

fn check(facts: &Facts<'_>) -> Outcome {
    let mut stories: BTreeMap<(Option<HostId>, Endpoint), Vec<Pair>> = BTreeMap::new();
    for flow in facts.flows() {
        if let Some(control) = facts.ftp_control(flow) {
            stories.entry((control.director, control.vip.unwrap_or(control.service))).or_default().push((flow, control));
        }
    }
    stories.into_iter().filter_map(|((director, vip), pairs)| finding(facts, director, vip, &pairs)).collect::<Vec<_>>().into()
}

fn finding(facts: &Facts<'_>, director: Option<HostId>, vip: Endpoint, pairs: &[Pair<'_>]) -> Option<Finding> {
    let (flow, control) = *pairs.first()?;
    let (name, asked, first) = (facts.name(director), flow.request.first()?, control.request.first()?);
    let reads = pairs.iter().any(|(flow, _)| flow.service.addr == vip.addr && handed_to_itself(facts, director, flow));
    let told = match (Some(flow.service.addr) == control.real_server.map(|server| server.addr), flow.client.addr == control.client.addr) {
        (true, _) => "the real server's own address",
        (false, true) => "a port of the virtual address that has no service",
        (false, false) => "the client, from an address that it does not know",
    };
    let summary = format!(
        "FTP to {vip} logs in, and its data connection to {} comes to nothing: {told}. {name} does not know that they belong together.",
        flow.service
    );
    let summary = match reads {
        true => format!(
            "FTP to {vip} logs in, and its data connection to {} comes to nothing: the server named the virtual address, and {name} hands \
             it on to that address, by the module {MODULE}.",
            flow.service
        ),
        false => summary,
    };
    let nat = matches!(control.method, Method::Nat | Method::FullNat);
    let remedy = if reads {
        unload(name)
    } else if nat {
        load(name)
    } else {
        persist(name, &super::super::svc::option_of(vip), "rr")
    };
    let end = flow.reply.first().map(|hop| facts.seen_with(hop, "refused")).or_else(|| flow.errors.first().map(|e| facts.error(e)));
    let flows: Vec<&Flow> = pairs.iter().map(|(flow, _)| *flow).collect();
    let settle = format!("on {name}: `lsmod | grep {MODULE}`, `ipvsadm -Ln`, or a snapshot");
    Some(
        Finding::new(name, Severity::Degraded, Confidence::Likely, summary, facts.seen_with(first, "the control connection"))
            .and([facts.seen_with(asked, "data")])
            .and(end)
            .unless(if reads { &[] } else { &["SVC027"] }, settle)
            .mend([remedy])
            .on(ids(&flows)),
    )
}

/// A data connection for the virtual address that the director asks the servers' network for: the module read the address as a server's.
fn handed_to_itself(facts: &Facts<'_>, director: Option<HostId>, flow: &Flow) -> bool {
    let Some((director, hop)) = director.zip(facts.at_director(flow).or_else(|| flow.request.last())) else { return false };
    let asks = facts.asks_in_vain(director, flow, hop).any(|q| q.target == flow.service.addr);
    let gives_up = || flow.errors.iter().any(|e| (e.type_number, e.code) == (3, 1) && e.from == Some(director));
    asks || gives_up()
}

fn unload(host: &str) -> Remedy {
    let keep = format!(
        "{MODULE} out of /etc/modules-load.d; or FTP servers that name their own address (no pasv_address), which the module translates"
    );
    Remedy::new(host, format!("modprobe -r {MODULE}"), keep, format!("modprobe {MODULE}"))
}

fn load(host: &str) -> Remedy {
    Remedy::new(host, format!("modprobe {MODULE}"), format!("{MODULE} in /etc/modules-load.d/lvs.conf"), format!("modprobe -r {MODULE}"))
}

fn persist(host: &str, option: &str, scheduler: &str) -> Remedy {
    Remedy::new(
        host,
        format!("ipvsadm -E {option} -s {scheduler} -p 300"),
        "persistence_timeout 300 in keepalived.conf, or the saved rules (`ipvsadm -Sn`)",
        format!("ipvsadm -E {option} -s {scheduler}"),
    )
}

/// In the director's table, and among its modules.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for (host, service) in site.directed() {
        let Some(vip) = service.address.filter(|at| at.port == CONTROL && service.protocol == Some(Protocol::Tcp)) else { continue };
        let usable: Vec<_> = service.destinations.iter().filter(|d| d.weight > 0).collect();
        let nat = usable.iter().any(|d| d.forwarding() == Some(ForwardingMethod::Nat));
        if has_ports_of_its_own(host, vip) && nat && host.modules.iter().flatten().any(|m| m == MODULE) {
            checks.needs(&host.name, format!("whether servers name {}: with {MODULE} they must not", vip.addr));
            continue;
        }
        if has_ports_of_its_own(host, vip) {
            checks.passed(&host.name, format!("other services take data connections for {}", vip.addr));
            continue;
        }
        if nat {
            match host.modules.as_deref() {
                None => checks.needs(&host.name, format!("whether the module {MODULE} is loaded: `lsmod`")),
                Some(modules) if modules.iter().any(|m| m == MODULE) => checks.passed(&host.name, format!("{MODULE} is loaded")),
                Some(_) => {
                    let summary =
                        format!("{} is FTP by NAT, and the module {MODULE} is not loaded: logins work, files do not.", service.name());
                    let found = failed(host, summary, format!("no module {MODULE}"), "lsmod");
                    checks.failed(&host.name, found.mend([load(&host.name)]));
                }
            }
        } else if service.persistence.is_none() && !usable.is_empty() {
            let summary =
                format!("{} is FTP and not persistent: clients log in, and their passive data connections are refused.", service.name());
            let fact = format!("{} -s {}, without -p", service.option(), service.scheduler);
            let found = failed(host, summary, fact, "ipvsadm -Sn");
            checks.failed(&host.name, found.mend([persist(&host.name, &service.option(), &service.scheduler)]));
        } else {
            checks.passed(&host.name, "data connections follow their control connection");
        }
    }
}

/// What FTP servers are told to name, the table does not show; so it is no certainty.
fn failed(host: &Host, summary: String, fact: String, source: &str) -> Finding {
    let mut found = proven(host, Severity::Degraded, summary, fact, source);
    found.confidence = Confidence::Likely;
    found.unless(&[], "a transfer in passive mode, from a client; `pasv_address` and its like on the real servers")
}

/// Services for every port or for high ports of the address, or by mark.
fn has_ports_of_its_own(host: &Host, vip: Endpoint) -> bool {
    let takes = |s: &Service| {
        s.fwmark.is_some()
            || s.address.is_some_and(|at| at.addr == vip.addr && (at.port == 0 || at.port > 1023)) && s.protocol == Some(Protocol::Tcp)
    };
    host.ipvs.iter().flat_map(|table| &table.services).any(takes)
}

#[cfg(test)]
mod tests {
    use super::super::super::net::net016::NET016;
    use super::super::super::sketch::{self, Sketch, dr_with};
    use super::super::super::svc::svc027::SVC027;
    use super::super::super::testing::{REFUSE, World};
    use super::*;

    const NAT: &str = "-A -t 10.0.0.100:21 -s rr\n-a -t 10.0.0.100:21 -r 10.0.0.11:21 -m\n";

    #[test]
    fn a_helper_for_nat_and_persistence_for_the_others() {
        let with = |rules: &str, modules: Option<&[&str]>| {
            let rules = rules.to_string();
            let modules = modules.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
            dr_with("director", move |d: Sketch| d.ipvs(&rules).with(|h| h.modules = modules))
        };
        let found = sketch::expect(&with(NAT, Some(&["ip_vs", "ip_vs_rr"])), &NAT012, Severity::Degraded, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "modprobe ip_vs_ftp");
        sketch::passes(&with(NAT, Some(&["ip_vs", "ip_vs_ftp"])), &NAT012, "director");
        sketch::cannot_judge(&with(NAT, None), &NAT012, "director");
        let direct = NAT.replace("-m", "-g");
        let found = sketch::expect(&with(&direct, None), &NAT012, Severity::Degraded, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "ipvsadm -E -t 10.0.0.100:21 -s rr -p 300");
        sketch::passes(&with(&direct.replace("-s rr", "-s rr -p 300"), None), &NAT012, "director");
        // Ports that the servers are told to use.
        let range = format!("{NAT}-A -t 10.0.0.100:50000 -s rr\n-a -t 10.0.0.100:50000 -r 10.0.0.11:50000 -m\n");
        sketch::passes(&with(&range, Some(&[])), &NAT012, "director");
        assert!(sketch::audit(&sketch::dr()).checks.iter().all(|c| c.code != "NAT012"));
    }

    fn logged_in() -> World {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        let control = World::tcp("10.1.0.100:40001", "10.1.0.1:21").dnat("director", "10.2.0.11:21");
        w.talk(&control, "client director web1", "web1 director client");
        w
    }

    #[test]
    fn a_data_connection_that_is_refused() {
        let mut w = logged_in();
        let data = World::tcp("10.1.0.100:40002", "10.1.0.1:50123");
        w.syn(&data, "client director", 1);
        w.carry(&data, true, REFUSE, b"", "director client");
        let found = w.expect(&NAT012, Confidence::Likely, "director");
        assert_eq!((found.flows.as_slice(), found.remedy[0].command.as_str()), (&[2][..], "modprobe ip_vs_ftp"));
        w.deny(&SVC027);
    }

    /// The server named itself, and nobody leads there.
    #[test]
    fn a_data_connection_to_the_server_itself() {
        let mut w = logged_in();
        w.syn(&World::tcp("10.1.0.100:40002", "10.2.0.11:50123"), "client director", 3);
        w.wait(2.0);
        let found = w.expect(&NAT012, Confidence::Likely, "director");
        assert!(found.summary.contains("own address"), "{}", found.summary);
        let loud: Vec<_> = w.diagnose().findings.into_iter().filter(|f| f.severity >= Severity::Degraded).collect();
        assert_eq!(loud.len(), 1, "{loud:#?}");
    }

    /// As recorded on a kernel with the module loaded, whose server was told to name the virtual address.
    #[test]
    fn the_module_reads_what_was_not_meant_for_it() {
        let mut w = logged_in();
        let data = World::tcp("10.1.0.100:40002", "10.1.0.1:50123");
        w.syn(&data, "client director", 1);
        for _ in 0..3 {
            w.who_has("director", "int", "10.1.0.1", &[]);
            w.wait(1.0);
        }
        let found = w.expect(&NAT012, Confidence::Likely, "director");
        assert_eq!(found.remedy[0].command, "modprobe -r ip_vs_ftp");
        w.deny(&SVC027);
        // And on hosts nobody knows which it is.
        let range = format!("{NAT}-A -t 10.0.0.100:50000 -s rr\n-a -t 10.0.0.100:50000 -r 10.0.0.11:50000 -m\n");
        let loaded = dr_with("director", move |d: Sketch| d.ipvs(&range).with(|h| h.modules = Some(vec!["ip_vs_ftp".into()])));
        sketch::cannot_judge(&loaded, &NAT012, "director");
    }

    #[test]
    fn an_active_one_with_the_servers_address() {
        let mut w = logged_in();
        let data = World::tcp("10.2.0.11:20", "10.1.0.100:45000");
        w.syn(&data, "web1 director client", 3);
        w.expect(&NAT012, Confidence::Likely, "director");
        w.deny(&NET016);
    }

    #[test]
    fn what_is_no_ftp() {
        // Somebody else asks, or long after, or it is answered.
        let mut w = logged_in();
        let other = World::tcp("10.1.0.101:40002", "10.1.0.1:50123");
        w.syn(&other, "client director", 1);
        w.carry(&other, true, REFUSE, b"", "director client");
        w.deny(&NAT012);
        let mut w = logged_in();
        w.wait(60.0);
        let late = World::tcp("10.1.0.100:40002", "10.1.0.1:50123");
        w.syn(&late, "client director", 1);
        w.carry(&late, true, REFUSE, b"", "director client");
        w.deny(&NAT012);
        let mut w = logged_in();
        let data = World::tcp("10.1.0.100:40002", "10.1.0.1:50123").dnat("director", "10.2.0.11:50123");
        w.talk(&data, "client director web1", "web1 director client");
        w.deny(&NAT012);
        w.healthy();
    }
}
