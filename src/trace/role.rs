//! What a host is: by what it did in the flows, and where that leaves it open, by the name that the user gave it.

use super::flow::{Flow, Method};
use super::host::{Hosts, TracedHost};
use super::path::HostId;
use crate::ipvs::Role;

/// The role that a name asserts. Packets go before names; a name counts where packets leave it open.
pub fn role_of_name(name: &str) -> Role {
    let word = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '_').to_ascii_lowercase();
    match word.as_str() {
        "director" | "dir" | "lvs" | "lb" | "ld" | "ipvs" | "balancer" | "loadbalancer" | "load-balancer" | "vs" | "keepalived" => {
            Role::Director
        }
        "router" | "rtr" | "gw" | "gateway" | "firewall" | "fw" => Role::Router,
        "web" | "rs" | "real" | "realserver" | "real-server" | "backend" | "server" | "app" => Role::RealServer,
        "client" | "cli" => Role::Client,
        _ => Role::Unknown,
    }
}

impl TracedHost {
    /// The role that the user's name for it asserts.
    pub fn called(&self) -> Role {
        if self.named { role_of_name(&self.name) } else { Role::Unknown }
    }
}

impl Hosts {
    /// The role that the user's name for a host asserts.
    pub(super) fn called(&self, host: Option<HostId>) -> Role {
        host.and_then(|h| self.list.get(h)).map_or(Role::Unknown, TracedHost::called)
    }

    /// Says what each host is, from what it did in the flows.
    pub(super) fn give_roles(&mut self, flows: &[Flow]) {
        let mut rank: Vec<Role> = vec![Role::Unknown; self.list.len()];
        let weight = |role: Role| match role {
            Role::Director => 4,
            Role::RealServer => 3,
            Role::Router => 2,
            Role::Client => 1,
            Role::Unknown => 0,
        };
        let mut say = |host: Option<HostId>, role: Role| {
            if let Some(slot) = host.and_then(|h| rank.get_mut(h))
                && weight(role) > weight(*slot)
            {
                *slot = role;
            }
        };
        for flow in flows {
            // Everybody opens connections now and then: a director to look after its servers, a server to ask for the time.
            if matches!(self.called(flow.client_host), Role::Unknown | Role::Client) {
                say(flow.client_host, Role::Client);
            }
            say(flow.director, Role::Director);
            // What is served without a director may be any server anywhere, unless the address is a virtual one that it holds, or its name.
            let named = self.called(flow.server_host) == Role::RealServer;
            let serves = match flow.method {
                Method::Unknown => false,
                Method::Direct => named || flow.real_server != flow.vip,
                _ => true,
            };
            if serves {
                say(flow.server_host, Role::RealServer);
            }
            for router in &flow.routers {
                say(Some(*router), Role::Router);
            }
            // Who hands on answers alone is a router, too, unless its name says that more is to be expected of it.
            for hop in flow.reply.links().skip(1) {
                say(hop.from.filter(|_| self.called(hop.from) == Role::Unknown), Role::Router);
            }
        }
        for (host, role) in self.list.iter_mut().zip(rank) {
            host.role = if role == Role::Unknown { host.called() } else { role };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["director", "lvs1", "lb-02", "LVS"] {
            assert_eq!(role_of_name(name), Role::Director, "{name}");
        }
        for (name, role) in [("router", Role::Router), ("web1", Role::RealServer), ("", Role::Unknown), ("album", Role::Unknown)] {
            assert_eq!(role_of_name(name), role, "{name}");
        }
    }
}
