//! A scenario's topology as text: segments, who is plugged into them, and what was set.

use super::command;
use super::scenario::{HostPlan, Scenario};
use std::fmt::Write;

/// Draws it.
pub fn draw(scenario: &Scenario) -> String {
    let mut out = format!("{}: {}\n", scenario.name, scenario.title);
    let width =
        scenario.hosts.iter().flat_map(|host| host.interfaces.iter().map(|i| host.name.len() + i.name.len() + 1)).max().unwrap_or(0);
    for segment in scenario.segments() {
        let plugs: Vec<(&HostPlan, &str)> = scenario
            .hosts
            .iter()
            .flat_map(|host| host.interfaces.iter().filter(|i| i.segment == segment).map(move |i| (host, i.name.as_str())))
            .collect();
        let _ = writeln!(out, "\n{segment}");
        for (at, (host, interface)) in plugs.iter().enumerate() {
            let branch = if at + 1 == plugs.len() { "└──" } else { "├──" };
            let plug = format!("{}.{interface}", host.name);
            let _ = writeln!(out, "{}", format!("{branch} {plug:<width$}  {}", addresses(host, interface).join(" ")).trim_end());
        }
    }
    out.push('\n');
    for host in &scenario.hosts {
        let mut said: Vec<String> = addresses(host, "lo").into_iter().map(|a| format!("{a} on lo")).collect();
        said.extend(addresses(host, super::tunnel::NAME).into_iter().map(|a| format!("{a} on {}", super::tunnel::NAME)));
        said.extend(routes(host));
        said.extend(host.serve.iter().map(|serve| match serve.addr {
            Some(addr) => format!("serves {} {addr}:{}", serve.protocol, serve.port),
            None => format!("serves {} {}", serve.protocol, serve.port),
        }));
        let _ = writeln!(
            out,
            "{:<width$}  {}: {}",
            host.name,
            host.role,
            if said.is_empty() { "nothing else".into() } else { said.join(", ") }
        );
        for rule in host.setup.iter().filter(|c| c.starts_with("ipvsadm") || c.contains("tables ")) {
            let _ = writeln!(out, "{:<width$}    {rule}", "");
        }
    }
    for (host, commands) in &scenario.breaks {
        for command in commands {
            let _ = writeln!(out, "then {host}: {command}");
        }
    }
    for event in &scenario.events {
        let _ = writeln!(out, "after {} ms {}: {}", event.after_ms, event.host, event.run);
    }
    out
}

fn addresses(host: &HostPlan, device: &str) -> Vec<String> {
    let words = host.setup.iter().filter_map(|line| command::words(line).ok());
    words
        .filter_map(|words| match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["ip", "addr", "add", addr, "dev", on, ..] | ["ip", "-6", "addr", "add", addr, "dev", on, ..] if on == device => {
                Some(addr.to_string())
            }
            _ => None,
        })
        .collect()
}

fn routes(host: &HostPlan) -> impl Iterator<Item = String> {
    host.setup.iter().filter_map(|line| {
        let (_, rest) = line.split_once("route add ")?;
        let (to, via) = rest.split_once(" via ")?;
        Some(format!("{to} via {via}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::catalogue;

    #[test]
    fn the_course_notes() {
        let drawn = draw(&catalogue::open("nat-rs-no-gateway").unwrap());
        for line in [
            "├── client.eth0   192.168.2.100/24\n",
            "└── web2.eth0     192.168.224.12/24\n",
            "real-server: default via 192.168.224.10, serves tcp 80\n",
            "then web1: ip route del default\n",
        ] {
            assert!(drawn.contains(line), "{line}{drawn}");
        }
    }
}
