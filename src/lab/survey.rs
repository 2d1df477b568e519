//! Snapshots of the lab's hosts, as `lvscope snapshot` would take them there.

use super::balance::Account;
use super::build::{Host, Network};
use crate::collect::{Files, NOT_LOADED, Wanted, collect, saved};
use crate::host::{self, IpvsTable, Service};
use crate::ipvs::{Connection, Listed};
use std::io;
use std::net::Ipv4Addr;

/// All hosts as they are now. `account`: what a host's built-in director knows of its connections.
///
/// # Errors
/// When a kernel answers nothing at all.
pub fn survey(network: &Network, account: impl Fn(&str) -> Option<Account>) -> io::Result<Vec<host::Host>> {
    network.hosts.iter().map(|of| one(of, account(&of.name))).collect()
}

fn one(of: &Host, account: Option<Account>) -> io::Result<host::Host> {
    let wanted = Wanted { netns: None, name: Some(of.name.clone()) };
    let collected = of.namespace.run(|| collect(&wanted)).map_err(io::Error::from)?;
    let mut host = collected.map_err(|e| io::Error::other(format!("{}: {e}", of.name)))?;
    // The files of the machine that the lab runs on are none of its hosts'.
    let files = of.files().0.clone();
    host.saved = (!files.is_empty()).then(|| saved(Files::These(&files)));
    if files.is_empty() {
        host.leave_out("saved", "this host of the lab has no configuration files");
    }
    // So are the programs that run on it.
    host.managers = None;
    host.leave_out("managers", "the hosts of the lab are namespaces: programs run beside them");
    stand_in(&mut host, &of.tunnels(), &of.dummies());
    if of.wires.is_some() {
        // The machine's modules say nothing of it.
        let modules = host.modules.get_or_insert_default();
        modules.retain(|module| !module.starts_with("ip_vs"));
        modules.extend((!of.unloaded()).then(|| "ip_vs".to_string()));
    }
    if of.wires.is_some() && of.unloaded() {
        host.ipvs = None;
        host.leave_out("ipvs", NOT_LOADED);
    } else if of.wires.is_some() {
        // Its director is the built-in one, of which the kernel knows nothing.
        host.left_out.retain(|section| section.section != "ipvs");
        let mut services: Vec<Service> = of.rules().iter().map(Service::from).collect();
        // The kernel names the newest first.
        services.iter_mut().for_each(|service| service.destinations.reverse());
        count(&mut services, account.iter().flat_map(|account| &account.services));
        let known = |c: Connection| host::Connection {
            protocol: c.protocol,
            client: c.client,
            service: c.service,
            destination: c.server,
            state: c.state,
            expires: u32::try_from(c.expires).unwrap_or(u32::MAX),
        };
        let connections: Option<Vec<_>> = account.map(|all| all.connections.into_iter().map(known).collect());
        let count = connections.as_ref().map(|all| all.len() as u64);
        let [tcp, tcp_fin, udp] = of.settings().timeouts;
        let timeouts = Some(host::Timeouts { tcp, tcp_fin, udp });
        let daemons = Some(Vec::new());
        host.ipvs = Some(IpvsTable { services, timeouts, connection_count: count, connections, daemons, ..IpvsTable::default() });
        let settings = host.sysctls.get_or_insert_default();
        of.settings().listed().for_each(|(name, value)| drop(settings.0.insert(format!("net.ipv4.vs.{name}"), value.to_string())));
        // It tracks nothing for netfilter.
        settings.0.insert("net.ipv4.vs.conntrack".to_string(), "0".to_string());
    }
    Ok(host)
}

/// How many connections each real server has.
fn count<'a>(services: &mut [Service], listed: impl Iterator<Item = &'a Listed>) {
    for known in listed {
        let of = Service::from(&known.service);
        let same = |s: &&mut Service| (s.protocol, s.address, s.fwmark, s.v6) == (of.protocol, of.address, of.fwmark, of.v6);
        for destination in services.iter_mut().filter(same).flat_map(|s| &mut s.destinations) {
            if let Some(server) = known.servers.iter().find(|server| server.server.endpoint() == destination.address) {
                (destination.active, destination.inactive) = (Some(server.active), Some(server.inactive));
                destination.persistent = Some(server.persistent);
            }
        }
    }
}

/// Where the lab stands in for a kernel module, the host looks as it would with the module.
fn stand_in(host: &mut host::Host, tunnels: &[(String, Option<(Ipv4Addr, Ipv4Addr)>)], dummies: &[String]) {
    for link in host.links.iter_mut().flatten().filter(|link| dummies.contains(&link.name)) {
        link.kind = Some("dummy".into());
        link.flags.retain(|flag| flag != "MULTICAST" && flag != "NO-CARRIER");
        link.flags.push("NOARP".into());
    }
    for (name, ends) in tunnels {
        let Some(link) = host.links.iter_mut().flatten().find(|link| link.name == *name) else { continue };
        (link.kind, link.hardware, link.mac) = (Some("ipip".into()), "ipip".into(), None);
        link.remote = ends.map(|(_, remote)| remote.into());
    }
    if !tunnels.is_empty() {
        // The stand-in keeps outer packets from a kernel that does not know them.
        let outer = |rule: &host::FilterRule| rule.protocol.as_ref().is_some_and(|(protocol, _)| protocol.number() == 4);
        let raw = host.netfilter.iter_mut().flat_map(|n| &mut n.chains).filter(|chain| chain.table == "raw");
        raw.for_each(|chain| chain.rules.retain(|rule| !outer(rule)));
    }
}
