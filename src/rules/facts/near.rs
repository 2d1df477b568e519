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
