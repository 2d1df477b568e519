//! What a real server says to its neighbours besides its service: whether it takes connections to its own address, whether it has a way
//! for packets that go further. A director's health checks, a server that asks for the time: every network has such traffic, and it tells
//! apart what silence alone does not.

use super::{Facts, is_initial};
use crate::packet::LinkType;
use crate::trace::{Flow, FlowState, Hop, HostId};

impl<'a> Facts<'a> {
    /// Connections that a neighbour on the server's own link opened to the server itself, not to a service that a director hands on.
    fn calls(&self, server: HostId, not: &Flow) -> impl Iterator<Item = (&'a Flow, &'a Hop)> + use<'a> {
        let (id, vip) = (not.id, not.vip.map(|vip| vip.addr));
        self.flows().filter(move |f| f.id != id && f.director.is_none() && f.from_start && Some(f.service.addr) != vip).filter_map(
            move |f| {
                let hop = f.request.last().filter(|hop| hop.to == Some(server))?;
                // With the TTL that hosts set, and over one link: from a neighbour.
                (f.request.links().count() == 1 && is_initial(hop.ttl)).then_some((f, hop))
            },
        )
    }

    /// What the server did with a neighbour's connection to its own address, at the port where it received a request, at about the same
    /// time: it answered, or received it and was silent. `None` where nobody tried.
    pub(in crate::rules) fn own_address_answers(&self, flow: &Flow, hop: &Hop) -> Option<bool> {
        let server = flow.server_host?;
        let alike = |(f, h): &(&Flow, &Hop)| f.protocol == flow.protocol && h.dst.port == hop.dst.port && h.dst.addr != hop.src.addr;
        let told = self.calls(server, flow).filter(alike).filter_map(|(f, h)| {
            let silent =
                f.state == FlowState::Unanswered && f.errors.is_empty() && self.waited(f, h) && !self.wants_to_answer(server, f, h);
            let received = || self.trace.host_at(h.point) == Some(server) || self.speaks_at(server, h.point);
            let answered = f.is_answered();
            (answered || (silent && received())).then(|| ((f.first - flow.first).abs(), answered))
        });
        told.min_by_key(|(apart, _)| *apart).map(|(_, answered)| answered)
    }

    /// True when the host was seen to send a packet of a connection to a neighbour's own address.
    pub(in crate::rules) fn answers_neighbours(&self, host: HostId) -> bool {
        self.sends(host, |facts, hop, next| facts.trace.hosts[next].addresses.contains(&hop.dst.addr))
    }

    /// True when a host was seen to send to an address that is not its neighbour's: it has a route for that.
    pub(in crate::rules) fn sends_off_link(&self, host: HostId) -> bool {
        self.sends(host, |facts, hop, next| !facts.trace.hosts[next].addresses.contains(&hop.dst.addr))
    }

    fn sends(&self, host: HostId, which: impl Fn(&Self, &Hop, HostId) -> bool) -> bool {
        let hops = |f: &'a Flow| f.request.hops.iter().chain(&f.reply.hops);
        self.flows().flat_map(hops).any(|hop| hop.from == Some(host) && hop.to.is_some_and(|next| which(self, hop, next)))
    }

    /// True when the same server serves another port of the same virtual address, for clients as near or as far: it has the address, and a
    /// way back.
    pub(in crate::rules) fn serves_beside(&self, flow: &Flow, on_link: bool) -> bool {
        let Some(vip) = flow.vip else { return false };
        let other = |f: &&Flow| {
            f.director.is_some()
                && f.server_host == flow.server_host
                && f.protocol == flow.protocol
                && f.vip.is_some_and(|v| v.addr == vip.addr && v.port != vip.port)
                && f.state.is_complete()
        };
        self.flows().filter(other).any(|f| f.request.last().is_some_and(|h| self.is_source_on_link(f, h) == on_link))
    }

    /// True when a host speaks with two MACs, or was captured at two cards that hear different networks.
    pub(in crate::rules) fn has_two_cards(&self, host: HostId) -> bool {
        let known = &self.trace.hosts[host];
        let card = |p: &&u32| {
            let point = &self.trace.points[**p as usize];
            let device = self.device(**p);
            point.frames > 0
                && point.link_type == LinkType::ETHERNET
                && !["IF", "lo", "any"].contains(&device)
                && !device.starts_with("tun")
        };
        let cards: Vec<u32> = known.points.iter().filter(card).copied().collect();
        let hood = self.neighbourhood();
        known.macs.len() > 1 || cards.iter().any(|a| cards.iter().any(|b| !hood.on_one_link(*a, *b)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::dr::{dr001::DR001, dr002::DR002, dr004::DR004, dr018::DR018};
    use super::super::super::nat::nat001::NAT001;
    use super::super::super::net::net008::NET008;
    use super::super::super::testing::{Conn, World};
    use crate::finding::Confidence::Likely;

    /// A silent real server behind NAT, of which the director has asked before.
    fn nat() -> World {
        let mut w = World::nat();
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.syn(&World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80"), "client director web1", 3);
        w
    }

    #[test]
    fn a_health_check_tells_a_filter_from_a_missing_gateway() {
        let check = World::tcp("10.2.0.1:50001", "10.2.0.11:80");
        let (mut alive, mut dead, mut other) = (nat(), nat(), nat());
        alive.talk(&check, "director web1", "web1 director");
        assert!(alive.expect(&NAT001, Likely, "web1").alternatives.contains(&"NET008"));
        dead.syn(&check, "director web1", 3);
        assert!(dead.expect(&NET008, Likely, "web1").alternatives.contains(&"NAT001"));
        dead.deny(&NAT001);
        // Another port says nothing of this one.
        other.syn(&World::tcp("10.2.0.1:50001", "10.2.0.11:443"), "director web1", 3);
        other.expect(&NAT001, Likely, "web1");
    }

    /// It asks for the director because the director asked it something, not to answer the client.
    #[test]
    fn a_question_for_who_checks_it_is_no_answer_to_the_client() {
        let check = World::tcp("10.2.0.1:50001", "10.2.0.11:80");
        let (mut w, mut wants) = (nat(), nat());
        for (w, checked) in [(&mut w, true), (&mut wants, false)] {
            let late = World::tcp("10.1.0.100:40002", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
            w.syn(&late, "client director web1", 1);
            if checked {
                w.syn(&check, "director web1", 1);
            }
            w.who_has("web1", "int", "10.2.0.1", &["director"]);
            if checked {
                w.talk(&check, "director web1", "web1 director");
            }
            w.syn(&late, "client director web1", 3);
        }
        w.expect(&NAT001, Likely, "web1");
        wants.deny(&NAT001);
    }

    fn far(port: u16) -> Conn {
        World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("router", "10.2.0.100:80")
    }

    fn near(port: u16) -> Conn {
        World::tcp(&format!("10.2.0.50:{port}"), "10.2.0.100:80")
    }

    /// web1 is silent towards a client far away, web2 serves; a director with an address of its own, and a client among the servers.
    fn dr() -> World {
        let mut w = World::dr().plug("desk.eth0", "int", "10.2.0.50");
        w.who_has("router", "int", "10.2.0.100", &["director"]);
        w.who_has("director", "int", "10.2.0.11", &["web1"]);
        w.who_has("desk", "int", "10.2.0.100", &["director"]);
        w.talk(&far(40001), "client router director web2", "web2 router client");
        w.syn(&far(40002), "client router director web1", 3);
        w
    }

    #[test]
    fn a_client_of_the_servers_own_network_tells_a_route_from_an_address() {
        let (mut served, mut silent) = (dr(), dr());
        served.who_has("web1", "int", "10.2.0.50", &["desk"]);
        served.talk(&near(40003), "desk director web1", "web1 desk");
        served.expect(&DR004, Likely, "web1");
        served.deny(&DR001);
        silent.syn(&near(40003), "desk director web1", 3);
        let found = silent.expect(&DR001, Likely, "web1");
        assert!(!found.alternatives.contains(&"DR004"), "{:?}", found.alternatives);
    }

    #[test]
    fn neighbours_that_are_answered_are_not_local() {
        let mut w = dr();
        w.talk(&World::tcp("10.2.0.50:50001", "10.2.0.11:80"), "desk web1", "web1 desk");
        let found = w.expect(&DR001, Likely, "web1");
        assert!(!found.alternatives.contains(&"DR002"), "{:?}", found.alternatives);
    }

    #[test]
    fn who_reaches_far_and_not_near_has_its_network_on_lo() {
        let mut w = dr();
        w.syn(&World::tcp("10.2.0.50:50001", "10.2.0.11:80"), "desk web1", 3);
        w.expect(&NET008, Likely, "web1");
        w.syn(&World::udp("10.2.0.11:50001", "198.51.100.1:123"), "web1 router", 1);
        w.expect(&DR002, Likely, "web1");
        // What goes to a neighbour shows that it is none of its own addresses.
        w.syn(&World::udp("10.2.0.11:50002", "10.2.0.50:514"), "web1 desk", 1);
        w.expect(&NET008, Likely, "web1");
        w.deny(&DR002);
    }

    #[test]
    fn another_port_of_the_vip_shows_the_address_and_the_way_back() {
        let mut w = dr();
        let other = World::tcp("10.1.0.100:40003", "10.1.0.1:443").dnat("router", "10.2.0.100:443");
        w.talk(&other, "client router director web1", "web1 router client");
        let found = w.expect(&NET008, Likely, "web1");
        assert!(!found.alternatives.contains(&"DR001"), "{:?}", found.alternatives);
        w.deny(&DR001);
    }

    /// A second card is one that is in use.
    #[test]
    fn two_cards_by_their_captures() {
        let mut w = dr().plug("web1.eth1", "other", "10.3.0.11").plug("gate.eth0", "other", "10.3.0.1");
        w.talk(&World::tcp("10.3.0.1:50001", "10.3.0.11:22"), "gate web1", "web1 gate");
        w.expect(&DR018, Likely, "web1");
        dr().plug("web1.eth1", "other", "10.3.0.11").expect(&DR001, Likely, "web1");
    }
}
