//! Snapshots of the lab's hosts, as `lvscope snapshot` would take them there.

use super::build::{Host, Network};
use super::tunnel;
use crate::collect::{Wanted, collect};
use crate::host::{self, IpvsTable, Service};
use std::io;

/// All hosts as they are now.
///
/// # Errors
/// When a kernel answers nothing at all.
pub fn survey(network: &Network) -> io::Result<Vec<host::Host>> {
    network.hosts.iter().map(one).collect()
}

fn one(of: &Host) -> io::Result<host::Host> {
    let wanted = Wanted { netns: None, name: Some(of.name.clone()) };
    let collected = of.namespace.run(|| collect(&wanted)).map_err(io::Error::from)?;
    let mut host = collected.map_err(|e| io::Error::other(format!("{}: {e}", of.name)))?;
    // The files of the machine that the lab runs on are none of its hosts'.
    host.saved = None;
    host.leave_out("saved", "hosts of the lab have no configuration files");
    stand_in(&mut host);
    if of.wires.is_some() {
        // Its director is the built-in one, of which the kernel knows nothing.
        host.left_out.retain(|section| section.section != "ipvs");
        let mut services: Vec<Service> = of.rules().iter().map(Service::from).collect();
        // The kernel names the newest first.
        services.iter_mut().for_each(|service| service.destinations.reverse());
        host.ipvs = Some(IpvsTable { services, ..IpvsTable::default() });
    }
    Ok(host)
}

/// Where the lab stands in for a kernel module, the host looks as it would with the module.
fn stand_in(host: &mut host::Host) {
    let Some(link) = host.links.iter_mut().flatten().find(|link| link.name == tunnel::NAME) else { return };
    if link.kind.as_deref() == Some("veth") {
        (link.kind, link.hardware, link.mac) = (Some("ipip".into()), "ipip".into(), None);
        // The stand-in keeps outer packets from a kernel that does not know them.
        let outer = |rule: &host::FilterRule| rule.protocol.as_ref().is_some_and(|(protocol, _)| protocol.number() == 4);
        let raw = host.netfilter.iter_mut().flat_map(|n| &mut n.chains).filter(|chain| chain.table == "raw");
        raw.for_each(|chain| chain.rules.retain(|rule| !outer(rule)));
    }
}
