//! Answers without a connection that were given, and did not arrive: TCP says so by asking again, UDP and echoes say nothing.

use super::assemble::Assembler;
use super::claims::{ClaimKind, Claims};
use super::host::Hosts;
use super::path::HostId;
use super::place::Place;
use super::store::Store;
use super::table::Leg;

/// What a capture point took down of its host's frames at all. A capture may be limited to one direction; what it then misses proves
/// nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Ear {
    sent: bool,
    received: bool,
}

/// By capture point.
pub(super) fn ears(store: &Store, places: &[Place], hosts: &Hosts, claims: &Claims, points: usize) -> Vec<Ear> {
    let mut ears = vec![Ear::default(); points];
    for ((wire, _), place) in store.wires.iter().zip(places) {
        match place.at_sender {
            Some(true) => ears[wire.point as usize].sent = true,
            Some(false) if place.to.is_some() => ears[wire.point as usize].received = true,
            _ => {}
        }
    }
    for claim in claims.claims.iter().filter(|c| c.kind == ClaimKind::Reply) {
        let own = hosts.of_point(claim.point).is_some_and(|host| hosts.of_mac(Some(claim.mac)) == Some(host));
        let ear = &mut ears[claim.point as usize];
        *(if own { &mut ear.sent } else { &mut ear.received }) = true;
    }
    ears
}

impl Assembler {
    /// The answer was seen somewhere, and not where it had to come by: at the captured client itself, or as the translating host would have
    /// sent it on.
    pub(super) fn went_astray(&self, members: &[u32]) -> bool {
        let legs = || {
            let of = |c: u32| self.store.legs(c).map(move |leg| (c, self.store.conversation(c).from_client(leg.seen.from_b()), leg));
            members.iter().flat_map(move |c| of(*c)).filter(|(_, _, leg)| !self.places[leg.wire as usize].bystander)
        };
        let place = |leg: &Leg| self.places[leg.wire as usize];
        let point = |leg: &Leg| self.store.wire(leg.wire).point;
        let received = |host: HostId, leg: &Leg| place(leg).to == Some(host) && place(leg).at_sender == Some(false);
        let Some(since) = legs().filter(|(_, request, _)| !request).map(|(_, _, leg)| (point(leg), leg.first_time())).min_by_key(|at| at.1)
        else {
            return false;
        };
        let given = self.topology.clocks.common(since.0, since.1);
        legs().filter(|(_, request, _)| *request).any(|(c, _, leg)| {
            let at = point(leg);
            let (place, ear) = (place(leg), self.ears[at as usize]);
            if self.ends[at as usize] - given < super::assemble::PATIENCE {
                return false;
            }
            let answered_at =
                |host| legs().any(|(_, request, leg)| !request && (point(leg) == at || self.places[leg.wire as usize].at == Some(host)));
            let asks = |host| place.from == Some(host) && place.at_sender == Some(true) && ear.received;
            let hands_on = |host| legs().any(|(_, request, leg)| request && self.places[leg.wire as usize].to == Some(host));
            if let Some(host) = place.from.filter(|host| asks(*host) && !hands_on(*host)) {
                return !answered_at(host);
            }
            // Where it was translated, the answer leaves in the words of the question, or it does not leave.
            let Some(host) = place.to.filter(|host| received(*host, leg) && ear.sent) else { return false };
            let translated = |(d, request, leg): (u32, bool, &Leg)| d != c && request && self.places[leg.wire as usize].from == Some(host);
            let came_back = |(d, request, leg): (u32, bool, &Leg)| d != c && !request && received(host, leg);
            legs().any(translated) && legs().any(came_back) && !legs().any(|(d, request, _)| d == c && !request)
        })
    }
}
