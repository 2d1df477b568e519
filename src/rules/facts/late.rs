//! Servers that take a SYN for nothing and answer when the client repeats it.

use super::Facts;
use crate::net::Protocol;
use crate::trace::{Flow, FlowNote, Hop, HostId, NoteKind, PacketKind};
use std::collections::BTreeMap;

/// A connection that a server answered at the second try or later.
pub(in crate::rules) struct Late<'a> {
    pub(in crate::rules) flow: &'a Flow,
    /// The SYN, at the server's own interface.
    pub(in crate::rules) asked: &'a Hop,
    /// The SYN-ACK there.
    pub(in crate::rules) answer: &'a Hop,
}

impl<'a> Facts<'a> {
    /// Connections whose first SYN a server received and did not take, by server: it answers the one that came again, as the timestamp shows
    /// which it echoes. Not a SYN-ACK that got lost, nor where the server first had to find the neighbour to whom the answer goes.
    pub(in crate::rules) fn late_answers(&self) -> BTreeMap<HostId, Vec<Late<'a>>> {
        let mut found: BTreeMap<HostId, Vec<Late>> = BTreeMap::new();
        for flow in self.flows().filter(|f| f.protocol == Protocol::Tcp && f.from_start) {
            let Some((server, late)) = self.late_answer(flow) else { continue };
            found.entry(server).or_default().push(late);
        }
        found
    }

    fn late_answer(&self, flow: &'a Flow) -> Option<(HostId, Late<'a>)> {
        let server = flow.server_host.filter(|server| Some(*server) != flow.director)?;
        let own = |point: u32| self.trace.host_at(point) == Some(server);
        let asked = flow.request.received_by(server).filter(|hop| own(hop.point) && self.is_whole(hop.point))?;
        let sent = |hop: &&Hop| hop.from == Some(server) && hop.point == asked.point && hop.first == PacketKind::SynAck;
        let answer = flow.reply.hops.iter().find(sent)?;
        let late = |n: &FlowNote| n.point == asked.point && n.frame == answer.frame;
        (flow.noted(NoteKind::LateSynAck).any(late) && !self.wants_to_answer(server, flow, asked))
            .then_some((server, Late { flow, asked, answer }))
    }
}
