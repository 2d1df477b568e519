//! Whether a real server speaks of its virtual address by ARP: settings and filters at each of its cards.

use super::super::site::{Duty, elsewhere, proven};
use super::super::{Checks, Site};
use crate::finding::{Evidence, Finding, Severity};
use crate::host::{ArpQuestion, Ask, Fate, FilterRule, Hook, Host, Sysctls};
use crate::ipvs::ForwardingMethod;
use std::net::IpAddr;

/// A card at which questions for the virtual address may arrive.
pub(super) struct Voice<'a> {
    /// The card.
    link: &'a str,
    /// Answers for the virtual address.
    answers: bool,
    /// Asks with it as sender.
    announces: bool,
    /// The filter rule that keeps it from answering.
    muted_by: Option<&'a FilterRule>,
}

const DIRECT: &[ForwardingMethod] = &[ForwardingMethod::DirectRouting, ForwardingMethod::Tunnel];

/// A level of arp_ignore at which an address on another device is not answered for.
fn is_silent(level: i64) -> bool {
    matches!(level, 1 | 2 | 8)
}

/// The cards of a host; an error names what is not known.
fn voices<'a>(host: &'a Host, vip: IpAddr) -> Result<Vec<Voice<'a>>, String> {
    if host.links.is_none() || host.addresses.is_none() {
        return Err("the host's links and addresses".to_string());
    }
    let has_own = |link: &str| host.addresses().iter().any(|a| a.link == link && a.addr.addr().is_ipv4() && a.addr.addr() != vip);
    // A port of a bridge or bond has no say: its master has.
    let cards = host.links().iter().filter(|l| l.speaks_arp() && l.is_up() && l.master.is_none() && has_own(&l.name));
    let mut voices = Vec::new();
    for card in cards {
        let level = |key| host.effective(key, &card.name).ok_or_else(|| format!("net.ipv4.conf.{{all,{}}}.{key}", card.name));
        level("arp_ignore")?;
        level("arp_announce")?;
        let other = neighbour(host, &card.name, vip);
        let question = ArpQuestion { sender: None, target: Some(vip), device: &card.name };
        let own = ArpQuestion { sender: Some(vip), target: None, device: &card.name };
        let (mut answers, mut announces, mut muted_by) =
            (host.answers_arp(vip, other, &card.name) == Some(true), host.arp_sender(Some(vip), other, &card.name) == Some(vip), None);
        if (answers || announces)
            && let Some(filter) = host.netfilter.as_ref()
        {
            match filter.arp_fate(Hook::Input, &question) {
                Fate::Dropped(_, rule) => (answers, muted_by) = (false, rule),
                Fate::Unsure(rule) => return Err(format!("whether this ARP filter holds: {}", rule.text)),
                _ => {}
            }
            match filter.arp_fate(Hook::Output, &own) {
                Fate::Dropped(..) | Fate::Mangled(_) => (answers, announces) = (false, false),
                Fate::Unsure(rule) => return Err(format!("whether this ARP filter holds: {}", rule.text)),
                Fate::Passes => {}
            }
        }
        voices.push(Voice { link: &card.name, answers, announces, muted_by });
    }
    Ok(voices)
}

/// Somebody on the link of a card: a gateway there, or one who might be.
fn neighbour(host: &Host, link: &str, vip: IpAddr) -> IpAddr {
    let hops = host.routes.iter().flatten().flat_map(|r| &r.hops).filter(|hop| hop.link.as_deref() == Some(link));
    let network = host.addresses().iter().find(|a| a.link == link && a.is_global() && !a.addr.is_host() && a.addr.addr().is_ipv4());
    let within = |addr: &IpAddr| network.is_none_or(|a| a.addr.contains(*addr));
    let gateway = hops.filter_map(|hop| hop.gateway).find(|addr| addr.is_ipv4() && within(addr));
    // The next address but one, or two, is another one than its own and the VIP.
    let might = |a: &crate::host::Address| match a.addr.addr() {
        IpAddr::V4(own) => [2_u32, 1, 3].iter().map(|bits| IpAddr::from((u32::from(own) ^ bits).to_be_bytes())).find(|addr| *addr != vip),
        IpAddr::V6(_) => None,
    };
    gateway.or_else(|| network.and_then(might)).unwrap_or_else(|| elsewhere(false))
}

/// What is wrong: the rule whose fault it is, and the setting.
fn cause(host: &Host, vip: IpAddr, voices: &[Voice<'_>]) -> Option<(&'static str, &'static str)> {
    let held = host.address(vip).map_or("lo", |a| a.link.as_str());
    let set_in_vain = |key: &str, good: fn(i64) -> bool| {
        let at = |device: &str| host.sysctls.as_ref().and_then(|s| s.at4(device, key)).is_some_and(good);
        at("lo") || at(held)
    };
    if let Some(voice) = voices.iter().find(|v| v.answers) {
        let level = host.effective("arp_ignore", voice.link).unwrap_or(0);
        return Some(match () {
            () if level > 2 => ("ARP004", "arp_ignore"),
            () if set_in_vain("arp_ignore", is_silent) => ("ARP003", "arp_ignore"),
            () => ("ARP001", "arp_ignore"),
        });
    }
    let voice = voices.iter().find(|v| v.announces)?;
    Some(match voice.muted_by {
        Some(_) => ("ARP005", "arp_announce"),
        None if set_in_vain("arp_announce", |level| level == 2) => ("ARP003", "arp_announce"),
        None => ("ARP002", "arp_announce"),
    })
}

/// Looks for one of these faults on every real server that has a virtual address beside its cards.
pub(super) fn look(site: &Site<'_>, checks: &mut Checks, code: &'static str) {
    // One story a host, however many addresses it tells of.
    let mut leaks: Vec<(usize, &'static str, Vec<IpAddr>)> = Vec::new();
    for duty in site.duties(DIRECT) {
        let host = site.host(duty.member);
        let Some(vip) = duty.vip.filter(|vip| vip.is_ipv4() && host.has(*vip)) else { continue };
        // On a card it is answered for, whatever is set (DR010).
        if host.address(vip).and_then(|a| host.link(&a.link)).is_some_and(crate::host::Link::speaks_arp) {
            continue;
        }
        if let Some(why) = unasked(site, duty, vip) {
            checks.needs(&host.name, why);
            continue;
        }
        match voices(host, vip) {
            Err(what) => checks.needs(&host.name, what),
            Ok(voices) => match cause(host, vip, &voices) {
                Some((found, key)) if found == code => match leaks.iter_mut().find(|(at, k, _)| (*at, *k) == (duty.member, key)) {
                    Some((.., vips)) if vips.contains(&vip) => {}
                    Some((.., vips)) => vips.push(vip),
                    None => leaks.push((duty.member, key, vec![vip])),
                },
                Some((other, _)) => checks.passed(&host.name, format!("see {other}")),
                None => {
                    let cards: Vec<String> = voices.iter().map(|v| format!("silent at {}", v.link)).collect();
                    checks.passed(&host.name, format!("ARP for {vip}: {}", cards.join(", ")));
                }
            },
        }
    }
    for (at, key, vips) in leaks {
        let host = site.host(at);
        if let Ok(voices) = voices(host, vips[0]) {
            checks.failed(&host.name, finding(host, &vips, &voices, code, key));
        }
    }
    site.need_servers(checks, DIRECT);
}

/// Why nobody would ask for the virtual address where a real server is: its director has that on a card of another network than the one by
/// which it reaches the server, or has it beside its cards and routers lead to it by another address; and no router is known to ask there.
/// Cards of two networks may still share a wire: packets would tell.
pub(in crate::rules) fn unasked(site: &Site<'_>, duty: &Duty, vip: IpAddr) -> Option<String> {
    let (host, rip, at) = (site.host(duty.member), duty.rip?, duty.director?);
    let director = site.host(at);
    let near = |host: &Host, link: Option<&str>, addr: IpAddr| {
        let mut nets = host.addresses().iter().filter(|a| !a.addr.is_host() && link.is_none_or(|link| a.link == link));
        nets.any(|a| a.addr.contains(addr))
    };
    let holder = director.link(&director.address(vip)?.link)?;
    let way = director.way(&Ask::to(rip)).ok()?;
    let here = way.gateways().is_empty() && way.link() == Some(holder.name.as_str());
    if near(host, None, vip) || way.is_local() || holder.speaks_arp() && here {
        return None;
    }
    let others = || site.fleet.members.iter().enumerate().filter(|(other, _)| *other != at && *other != duty.member);
    let ways = || others().filter_map(|(_, m)| Some((&m.host, m.host.way(&Ask::to(vip)).ok().filter(|way| !way.is_local())?)));
    if ways().any(|(other, way)| way.gateways().is_empty() && way.link().is_some() && near(other, way.link(), rip)) {
        return None;
    }
    let who = &director.name;
    if holder.speaks_arp() {
        return Some(format!("a capture there: does anybody ask for {vip}, which {who} has on {}, in another network?", holder.name));
    }
    let routed = ways().any(|(other, way)| way.gateways().iter().any(|g| director.address(*g).is_some() && near(other, way.link(), *g)));
    routed.then(|| format!("a capture there: does anybody ask for {vip}, which is routed to {who}?"))
}

/// Addresses in words: `192.168.224.13`, `192.168.224.13 and 4 more`.
fn named(vips: &[IpAddr]) -> String {
    match vips {
        [] => "the virtual address".to_string(),
        [one] => one.to_string(),
        [a, b] => format!("{a} and {b}"),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    }
}

fn finding(host: &Host, vips: &[IpAddr], voices: &[Voice<'_>], code: &str, key: &'static str) -> Finding {
    let (vip, held) = (named(vips), vips.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0])));
    let speaking: Vec<&Voice> = voices.iter().filter(|v| if key == "arp_ignore" { v.answers } else { v.announces }).collect();
    let links = super::super::facts::list(&speaking.iter().map(|v| v.link).collect::<Vec<_>>());
    let first = speaking.first().map_or("eth0", |v| v.link);
    let level = host.effective(key, first).unwrap_or(0);
    let also = speaking.iter().any(|v| v.announces) && key == "arp_ignore";
    let mut summary = match (code, key) {
        ("ARP003", "arp_ignore") => {
            format!(
                "ARP requests for {vip} arrive on {links}, where arp_ignore is {level}: it is set where it has no effect, and they are answered."
            )
        }
        ("ARP003", _) => format!(
            "ARP questions leave by {links}, where arp_announce is {level}: it is set where it has no effect, and they name {vip} as sender."
        ),
        ("ARP004", _) => format!("arp_ignore is {level} on {links}, which does not keep it from answering ARP for {vip}: 1 or 2 does."),
        ("ARP005", _) => {
            format!(
                "arptables drops questions for {vip} and lets this host ask with {vip} as sender: the answers to those are dropped, too."
            )
        }
        ("ARP002", _) => format!(
            "arp_announce is {level} on {links}: it asks for neighbours with {vip} as sender, and they take its MAC for the director's."
        ),
        _ => {
            format!("arp_ignore is {level} on {links}: ARP requests for {vip} are answered, and clients reach this host past the director.")
        }
    };
    if also {
        summary += " It also asks with it as sender (arp_announce).";
    }
    let severity = if code == "ARP002" { Severity::Degraded } else { Severity::Broken };
    let fact = |key: &str| {
        Evidence::host(
            &host.name,
            format!("{}: {key} {} counts", host.behind(key, first), host.effective(key, first).unwrap_or(0)),
            "sysctl",
        )
    };
    let mut found = proven(
        host,
        severity,
        summary,
        host.address(held).map_or_else(|| format!("{held} has a local route"), |a| format!("{} on {}", a.addr, a.link)),
        format!("ip addr show to {held}"),
    )
    .and([fact(key)])
    .and(also.then(|| fact("arp_announce")));
    if code == "ARP003" {
        let at = host.address(held).map_or("lo", |a| a.link.as_str());
        let vain = |device: &str| {
            let value = host.sysctls.as_ref()?.at4(device, key).filter(|v| *v != 0)?;
            let name = Sysctls::name4(device, key);
            Some(Evidence::host(&host.name, format!("{name}={value}: no effect at {links}"), "sysctl"))
        };
        let mut devices = vec!["lo", at];
        devices.dedup();
        found = found.and(devices.into_iter().filter_map(vain));
    }
    let muted = speaking.iter().find_map(|v| v.muted_by);
    found = found.and(muted.map(|rule| Evidence::host(&host.name, rule.text.clone(), "arptables-save")));
    let all = |key: &str| Sysctls::name4("all", key);
    let remedy = super::super::remedy::set(host, &[(all("arp_ignore"), "1"), (all("arp_announce"), "2")]);
    found.mend([remedy])
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::{self, Sketch};
    use super::super::arp001::ARP001;
    use crate::finding::{Confidence, Severity};

    /// The VIP on the director's first card, the real server behind another; it says what it does to everybody.
    fn site(own: &str, rip_card: &str, router: Option<&str>) -> Vec<Sketch> {
        let rip = own.split('/').next().unwrap_or_default();
        let rules = format!("-A -t 203.0.113.80:80 -s rr\n-a -t 203.0.113.80:80 -r {rip}:80 -g\n");
        let director = Sketch::new("director").card("front", "203.0.113.2/24").addr("front", "203.0.113.80/32");
        let director = if rip_card == "front" { director.addr("front", "172.31.5.2/24") } else { director.card("back", "172.31.5.2/24") };
        let web = Sketch::new("web1").card("eth0", own).addr("lo", "203.0.113.80/32").via("default", "172.31.5.1", "eth0");
        let mut all = vec![director.ipvs(&rules), web.listens("0.0.0.0:80")];
        let front = router.map(|second| Sketch::new("router").card("front", "203.0.113.1/24").addr(second, "172.31.5.1/24"));
        all.extend(front);
        all
    }

    #[test]
    fn nobody_asks_in_another_network() {
        sketch::cannot_judge(&site("172.31.5.11/24", "back", None), &ARP001, "web1");
        let behind = Sketch::new("router").card("front", "203.0.113.1/24").card("back", "172.31.5.1/24");
        let mut all = site("172.31.5.11/24", "back", None);
        all.push(behind);
        sketch::cannot_judge(&all, &ARP001, "web1");
    }

    /// A route leads to the director's own address; without the router's word it would be one more address of the wire.
    #[test]
    fn nobody_asks_for_a_routed_address() {
        let rules = "-A -t 192.0.2.80:80 -s rr\n-a -t 192.0.2.80:80 -r 203.0.113.11:80 -g\n";
        let director = Sketch::new("director").card("eth0", "203.0.113.2/24").addr("lo", "192.0.2.80/32").ipvs(rules);
        let web = Sketch::new("web1").card("eth0", "203.0.113.11/24").addr("lo", "192.0.2.80/32").via("default", "203.0.113.1", "eth0");
        let router = Sketch::new("router").card("int", "203.0.113.1/24");
        let web = web.listens("0.0.0.0:80");
        let routed = router.clone().via("192.0.2.80/32", "203.0.113.2", "int");
        sketch::cannot_judge(&[director.clone(), web.clone(), routed], &ARP001, "web1");
        let asks = router.addr("int", "192.0.2.1/24");
        for all in [vec![director.clone(), web.clone(), asks], vec![director, web]] {
            sketch::expect(&all, &ARP001, Severity::Broken, Confidence::Certain, "web1");
        }
    }

    /// Two networks on one wire, as the director has them, or as the router does.
    #[test]
    fn somebody_asks_on_the_same_wire() {
        for all in [
            site("172.31.5.11/24", "front", None),
            site("172.31.5.11/24", "back", Some("front")),
            // In the VIP's own network, whatever the director's cards are.
            site("203.0.113.11/24", "front", None),
        ] {
            sketch::expect(&all, &ARP001, Severity::Broken, Confidence::Certain, "web1");
        }
    }
}
