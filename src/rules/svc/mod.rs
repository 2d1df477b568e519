//! Services, scheduling, persistence, and the table of connections: what goes wrong with a path that is right.

pub(super) mod svc004;

use super::Facts;
use crate::trace::{Flow, FlowState, PacketKind};

/// Connections that a director handed on and that the real server itself refused: a reset or a port unreachable from its own MAC.
pub(super) fn refusals<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a Flow> + use<'a> {
    let handed = |f: &&Flow| f.director.is_some() && f.server_host.is_some() && f.server_host != f.director;
    facts.flows().filter(handed).filter(|f| f.state == FlowState::Refused).filter(|f| {
        let reset = f.reply.first().is_some_and(|hop| hop.first == PacketKind::Reset && hop.from == f.server_host);
        reset || f.errors.iter().any(|e| e.refuses() && e.from == f.server_host && (e.type_number, e.code) != (3, 2))
    })
}
