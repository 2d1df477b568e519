//! What topology and hosts say about each wire, worked out once: flows ask it for every sighting.

use super::host::Hosts;
use super::path::HostId;
use super::store::Store;
use super::topology::Topology;

/// Whose frames a wire carries, seen from which end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The host that sends.
    pub(super) from: Option<HostId>,
    /// The host that the frames are for.
    pub(super) to: Option<HostId>,
    /// The host that the capture point is on.
    pub(super) at: Option<HostId>,
    /// The capture point is at the sender's end (`true`), at the receiver's, or at neither as far as known.
    pub(super) at_sender: Option<bool>,
    /// The capture point neither sent nor received these frames.
    pub(super) bystander: bool,
}

/// The place of each wire.
pub(super) fn places(store: &Store, topology: &Topology, hosts: &Hosts) -> Vec<Place> {
    let place = |wire: &super::wire::Wire| Place {
        from: hosts.of_mac(wire.src),
        to: hosts.of_mac(wire.dst),
        at: hosts.of_point(wire.point),
        at_sender: topology.end_of(wire),
        bystander: topology.is_bystander(wire),
    };
    store.wires.iter().map(|(wire, _)| place(wire)).collect()
}
