//! `capture --plan`: what to run on which host.

use super::report::Open;
use super::{Known, scope};
use crate::cli::output::Output;
use crate::cli::{FINE, Failure, NOTHING};
use crate::host::{Fleet, Host};
use crate::ipvs::Role;
use crate::net::Endpoint;
use crate::trace::role_of_name;
use std::io::Write;
use std::net::IpAddr;

/// A host on which to capture.
struct Stop {
    name: String,
    what: String,
    interfaces: Vec<String>,
}

pub(super) fn print(service: Option<Endpoint>, known: &Known, out: &mut Output) -> Result<u8, Failure> {
    let Some(service) = service else {
        return Err(Failure::usage("--plan: of which service? --service VIP:PORT, or --report with what diagnose --json wrote"));
    };
    let servers = servers(service, known);
    if servers.is_empty() && known.hosts.is_empty() {
        return Err(Failure {
            code: NOTHING,
            text: format!("nothing is known of {service}: give its rules (--ipvs, `ipvsadm -Sn` on the director) or snapshots (--host)"),
        });
    }
    commands(service, known, out)?;
    Ok(FINE)
}

fn commands(service: Endpoint, known: &Known, out: &mut Output) -> std::io::Result<()> {
    let stops = stops(service, &servers(service, known), known);
    let filter = scope::filter(service, &known.rules);
    writeln!(out, "To see {service} at each hop, run on each host:")?;
    for stop in &stops {
        let interfaces: Vec<String> = stop.interfaces.iter().map(|name| format!("-i {name}")).collect();
        writeln!(out, "\n# {}: {}", stop.name, stop.what)?;
        writeln!(out, "lvscope capture {} -w {}.pcapng '{filter}'", interfaces.join(" "), stop.name)?;
    }
    let files: Vec<String> = stops.iter().map(|stop| format!("{}.pcapng", stop.name)).collect();
    writeln!(out, "\n# then let clients connect, end each with Ctrl-C, bring the files together")?;
    writeln!(out, "lvscope diagnose {}", files.join(" "))
}

/// What a report left open, service by service.
pub(super) fn of_report(open: &[Open], out: &mut Output) -> Result<u8, Failure> {
    let Some(first) = open.first() else {
        return Err(Failure { code: NOTHING, text: "the report tells of no service: there is nothing to plan for".to_string() });
    };
    if first.doubts.is_empty() {
        writeln!(out, "# no finding of the report is in doubt; to see more all the same:\n")?;
    } else {
        writeln!(out, "# left open:")?;
    }
    for doubt in &first.doubts {
        writeln!(out, "#   {doubt}")?;
    }
    for service in open {
        if servers(service.service, &service.known).is_empty() && open.len() > 1 {
            continue;
        }
        writeln!(out)?;
        commands(service.service, &service.known, out)?;
    }
    Ok(FINE)
}

fn servers(service: Endpoint, known: &Known) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for rule in known.rules.iter().filter(|rule| scope::is_for(rule, service)) {
        for server in &rule.real_servers {
            if !found.contains(&server.addr) {
                found.push(server.addr);
            }
        }
    }
    found
}

fn stops(service: Endpoint, servers: &[IpAddr], known: &Known) -> Vec<Stop> {
    let mut stops = Vec::new();
    let fleet = Fleet::new(known.hosts.clone(), role_of_name, |_| None, &[service]);
    for member in &fleet.members {
        let what = match member.role {
            Role::Unknown => "what it does is not known".to_string(),
            role => role.to_string(),
        };
        stops.push(Stop { name: member.host.name.clone(), what, interfaces: cards(&member.host) });
    }
    if !fleet.members.iter().any(|member| member.role == Role::Director) {
        stops.insert(0, Stop { name: "director".into(), what: format!("the director of {service}"), interfaces: vec!["all".into()] });
    }
    for (number, server) in (1..).zip(servers) {
        if !known.hosts.iter().any(|host| host.has(*server)) {
            let name = known.names.iter().find(|(addr, _)| addr == server).map_or_else(|| format!("rs{number}"), |(_, name)| name.clone());
            stops.push(Stop { name, what: format!("real server {server}"), interfaces: vec!["all".into()] });
        }
    }
    // Who was captured already comes last: perhaps it is the others alone that are missing.
    stops.sort_by_key(|stop| known.seen.iter().any(|point| point.split('.').next() == Some(&stop.name)));
    stops
}

/// Interfaces on which something of a service can be seen.
fn cards(host: &Host) -> Vec<String> {
    let up: Vec<String> = host.links().iter().filter(|link| link.is_up() && !link.is_loopback()).map(|link| link.name.clone()).collect();
    // Many: those of containers and bridges' ports; the host knows better which are up.
    if up.is_empty() || up.len() > 6 { vec!["all".into()] } else { up }
}
