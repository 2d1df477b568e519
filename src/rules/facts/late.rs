//! Servers that take a SYN for nothing and answer when the client repeats it.

use super::Facts;
use crate::net::{Protocol, Timestamp};
use crate::trace::{Flow, Hop, HostId, NoteKind, PacketKind};
use std::collections::BTreeMap;

/// The first repetition of a SYN comes after one second (RFC 6298; kernel `TCP_TIMEOUT_INIT`); an answer so late is to that.
const REPEATED: i64 = 900_000_000;

/// A connection that a server answered at the second try or later.
pub(in crate::rules) struct Late<'a> {
    pub(in crate::rules) flow: &'a Flow,
    /// The SYN, at the server's own interface.
    pub(in crate::rules) asked: &'a Hop,
    /// The SYN-ACK there.
    pub(in crate::rules) answer: &'a Hop,
}

impl<'a> Facts<'a> {
    /// Connections whose first SYN a server received and did not answer, by server. Only at an interface by which it answers, too, and not
    /// where it first had to find the neighbour to whom the answer goes.
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
        let again = |time: Timestamp| (REPEATED..=answer.time - asked.time).contains(&(time - asked.time));
        let repeated = flow.noted(NoteKind::SynRepeat).any(|n| n.point == asked.point && again(n.time));
        (repeated && !self.wants_to_answer(server, flow, asked)).then_some((server, Late { flow, asked, answer }))
    }
}
