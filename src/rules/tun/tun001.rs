//! A real server that does not unpack the director's tunnel.

use super::super::facts::ids;
use super::super::site::proven;
use super::super::{Checks, Site};
use super::super::{Facts, rule};
use super::{decapsulator, protocol_number, refused, refused_outer, vip, wrapped};
use crate::finding::{Confidence, Finding, Outcome, Remedy, Severity};
use crate::packet::TunnelKind;
use crate::trace::{Flow, FlowError, Method, Way};

rule! {
    /// # What it sees
    /// The outer packet (IP in IP, from DIP to RIP) arrives at the real server, which answers the director with ICMP protocol unreachable
    /// (no tunnel module) or port unreachable (the module, but no device for this tunnel). The director passes it on to the client, which
    /// sees its connection refused at once.
    ///
    /// # Why it breaks
    /// The real server has no tunnel device that takes these packets: the module `ipip` is not loaded, `tunl0` is down, or the only device
    /// has another remote address.
    ///
    /// # Confirm it by hand
    /// On the real server: `ip -d tunnel show`; `lsmod | grep ipip`; `ip addr show tunl0`.
    ///
    /// # Remedy
    /// Load the module, bring its device up, and put the VIP on it, quiet for ARP; loose `rp_filter` on it, or the next thing to fail is
    /// TUN002.
    ///
    /// # When it is not a fault
    /// GRE and GUE have their own modules and devices (TUN009).
    ///
    /// # Reproduce
    /// A TUN service; on the real servers `ip link set tunl0 down; modprobe -r ipip`.
    ///
    /// # References
    /// kernel `net/ipv4/tunnel4.c`, `tunnel4_rcv`; `net/ipv4/ip_input.c`, `ip_protocol_deliver_rcu`; LVS-HOWTO, chapter LVS-TUN.
    TUN001 "rs-no-decap" check hosts
}

fn check(facts: &Facts<'_>) -> Outcome {
    let ipip = |f: &Flow, _: &FlowError| wrapped(f).is_none_or(|(_, (kind, ..))| kind == TunnelKind::IpIp);
    let mut found: Vec<Finding> = refused(facts, ipip).iter().filter_map(|flows| finding(facts, flows)).collect();
    if found.is_empty() {
        found.extend(heard_by_client(facts));
    }
    Outcome::or_need(found, facts.unwatched_server(&[Method::Tunnel]))
}

fn finding(facts: &Facts<'_>, flows: &[&Flow]) -> Option<Finding> {
    let flow = *flows.first()?;
    let error = refused_outer(flow)?;
    let (hop, (kind, ..)) = wrapped(flow)?;
    let name = facts.name(flow.server_host);
    let (module, device) = decapsulator(flow);
    let (vip, length) = (vip(flow), if flow.service.addr.is_ipv6() { 128 } else { 32 });
    let ip = if length == 128 { "ip -6" } else { "ip" };
    let summary = format!("{name} does not unpack the director's tunnel: it refuses {}.", protocol_number(kind));
    let quiet = match length {
        32 => format!("sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2 net.ipv4.conf.{device}.rp_filter=2; "),
        _ => String::new(),
    };
    let mended = Remedy::new(
        name,
        format!("modprobe {module}; ip link set {device} up; {quiet}{ip} addr add {vip}/{length} dev {device}"),
        format!(
            "{module} in /etc/modules-load.d/lvs.conf, the settings in /etc/sysctl.d/90-lvs.conf, {vip}/{length} on {device} in the network's configuration"
        ),
        format!("{ip} addr del {vip}/{length} dev {device}; ip link set {device} down; modprobe -r {module}"),
    );
    let severity = if facts.others_serve(flow) { Severity::Degraded } else { Severity::Broken };
    // The servers' own word about the outer packet leaves nothing open but which part is missing. Where the module is loaded, a device for
    // another director is refused by the same words as none.
    let confidence = if error.code == 3 { Confidence::Likely } else { Confidence::Certain };
    let found = Finding::new(name, severity, confidence, summary, facts.error(error)).and([facts.seen(hop)]);
    let found = if error.code == 3 { found.unless(&["TUN006"], format!("on {name}: `ip -d link show type ipip`")) } else { found };
    Some(found.mend([mended]).on(ids(flows)))
}

/// Protocol unreachable about a plain TCP or UDP packet: every host knows those, so a director must have translated a server's word about
/// its tunnel.
fn heard_by_client(facts: &Facts<'_>) -> Option<Finding> {
    let word = |e: &&FlowError| !e.tunnelled && e.about == Way::Request && (e.type_number, e.code) == (3, 2);
    let flows: Vec<&Flow> = facts.flows().filter(|f| !f.state.is_complete() && f.errors.iter().any(|e| word(&e))).collect();
    let flow = *flows.first()?;
    let error = flow.errors.iter().find(word)?;
    let subject = flow.service.to_string();
    let summary = format!("A real server of {} does not unpack the director's tunnel: the client hears \"protocol unreachable\".", subject);
    let mended = Remedy::new(
        "each real server",
        "modprobe ipip; ip link set tunl0 up",
        "ipip in /etc/modules-load.d/lvs.conf, tunl0 in the network's configuration",
        "ip link set tunl0 down; modprobe -r ipip",
    );
    let found = Finding::new(subject, Severity::Broken, Confidence::Likely, summary, facts.error(error)).mend([mended]).on(ids(&flows));
    Some(found.unless(&["TUN009"], "a capture at the director: which real server says it, and about which tunnel"))
}

/// On the real server: no tunnel device that is up.
fn hosts(site: &Site<'_>, checks: &mut Checks) {
    for duty in site.duties(&[crate::ipvs::ForwardingMethod::Tunnel]) {
        let host = site.host(duty.member);
        let Some(links) = host.links.as_deref() else {
            checks.needs(&host.name, "its links");
            continue;
        };
        if let Some(device) = links.iter().find(|l| l.is_tunnel() && l.is_up()) {
            checks.passed(&host.name, format!("{} takes packets out of the tunnel", device.name));
            continue;
        }
        let (down, vip) = (links.iter().find(|l| l.is_tunnel()), duty.vip.map_or_else(|| "VIP".to_string(), |a| a.to_string()));
        let what = down.map_or("there is no tunnel device".to_string(), |l| format!("the tunnel device {} is down", l.name));
        let name = down.map_or("tunl0", |l| l.name.as_str());
        let summary = format!("Packets for {} come in a tunnel, and {what}: they are refused.", duty.service);
        let length = if vip.contains(':') { 128 } else { 32 };
        let load = if down.is_none() { "modprobe ipip; " } else { "" };
        // It may be there already, and then cannot be added.
        let held = duty.vip.is_some_and(|vip| host.addresses().iter().any(|a| a.link == name && a.addr.addr() == vip));
        let address = if held { String::new() } else { format!("ip addr add {vip}/{length} dev {name}; ") };
        let remedy = crate::finding::Remedy::new(
            &host.name,
            format!("{load}ip link set {name} up; {address}sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
            "ipip in /etc/modules-load.d/ipip.conf, the address on that device in the network's configuration, and the setting in /etc/sysctl.d/90-lvs.conf",
            format!("ip link set {name} down"),
        );
        checks.failed(&host.name, proven(host, Severity::Broken, summary, what, "ip -d link show type ipip").mend([remedy]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::svc::svc004::SVC004;
    use super::super::super::testing::{Conn, World};
    use super::*;

    fn tunnel(port: u16) -> Conn {
        World::tcp(&format!("10.1.0.100:{port}"), "10.2.0.100:80").tunnel("director", 4, "10.2.0.99", "10.2.0.11")
    }

    fn refusing(code: u8) -> World {
        let mut w = World::dr();
        let c = tunnel(40001);
        w.syn(&c, "client router director web1", 1);
        w.icmp_about_tunnel(&c, (3, code, 0), "10.2.0.11", "10.2.0.99", "director", "web1 director");
        w.icmp(&c, false, (3, code, 0), "10.2.0.100", "10.1.0.100", "client", "director router client");
        w
    }

    #[test]
    fn the_server_refuses_the_outer_packet() {
        for code in [2, 3] {
            let w = refusing(code);
            let found = w.expect(&TUN001, if code == 3 { Confidence::Likely } else { Confidence::Certain }, "web1");
            assert!(found.remedy[0].command.starts_with("modprobe ipip; ip link set tunl0 up;"), "{}", found.remedy[0].command);
            w.deny(&SVC004);
            // The protocol is known: there may be a device for somebody else.
            assert_eq!(found.alternatives.as_slice(), if code == 3 { &["TUN006"][..] } else { &[] });
            // The director's captures suffice.
            w.without(&["client", "router", "web1", "web2"]).finding(&TUN001);
            // So do the real server's.
            refusing(code).without(&["client", "router", "director", "web2"]).finding(&TUN001);
        }
    }

    #[test]
    fn the_client_alone_hears_of_a_protocol() {
        let w = refusing(2).without(&["router", "director", "web1", "web2"]);
        w.expect(&TUN001, Confidence::Likely, "10.2.0.100:80");
    }

    #[test]
    fn a_refused_port_behind_the_tunnel_is_no_refused_tunnel() {
        let mut w = World::dr();
        let c = World::udp("10.1.0.100:40001", "10.2.0.100:53").tunnel("director", 4, "10.2.0.99", "10.2.0.11");
        w.carry(&c, false, 0, b"question", "client router director web1");
        w.icmp(&c, false, (3, 3, 0), "10.2.0.100", "10.1.0.100", "web1", "web1 router client");
        w.deny(&TUN001);
    }

    #[test]
    fn a_tunnel_that_is_unpacked_is_right() {
        let mut w = World::dr().tunnel_device("web1.tunl0");
        let c = tunnel(40001);
        w.talk(&c, "client router director web1", "web1 router client");
        w.deny(&TUN001);
        w.healthy();
    }
}
