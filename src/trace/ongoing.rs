//! A trace of packets that keep coming: looked at while it grows, and kept from growing for ever.
//!
//! There is no second way of tracing. [`Tracer::so_far`] copies the tables, and the copy is finished as any trace is; the original goes on.
//! What bounds memory is that the flows which ended, or were quiet, the longest ago are taken out of the tables
//! ([`Trace::spent`], [`Tracer::forget`]), each with all its conversations, so that no half of a flow is left behind.

use super::Trace;
use super::table::NONE;
use super::tracer::Tracer;
use crate::net::Timestamp;

/// Flows that can be forgotten, and their conversations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Their numbers in the trace that named them.
    pub flows: Vec<u32>,
    conversations: Vec<u32>,
}

/// Who has just ended may still send a straggler.
const LINGER: i64 = 3_000_000_000;

impl Tracer {
    /// What has been seen until now, to be finished elsewhere while this goes on.
    pub fn so_far(&mut self) -> Tracer {
        self.look_up();
        self.clone()
    }

    /// Conversations in the tables.
    pub fn conversations(&self) -> usize {
        self.table.conversations.len()
    }

    /// From the first packet to the last, in nanoseconds.
    pub fn span(&self) -> i64 {
        let seen = || self.points.points.iter().filter(|p| p.frames > 0);
        seen().map(|p| p.first).min().zip(seen().map(|p| p.last).max()).map_or(0, |(first, last)| last - first)
    }

    /// Says that a point has been looking from `since` until `now`, whether anything came or not: silence counts only where somebody looked.
    pub fn looked(&mut self, point: u32, since: Timestamp, now: Timestamp) {
        if let Some(point) = self.points.points.get_mut(point as usize) {
            point.first = point.first.min(since);
            point.last = point.last.max(now);
        }
    }

    /// Forgets flows that an earlier copy of this tracer called spent.
    pub fn forget(&mut self, spent: &Spent) {
        self.look_up();
        let mut kept = vec![true; self.table.conversations.len()];
        for gone in &spent.conversations {
            if let Some(kept) = kept.get_mut(*gone as usize) {
                *kept = false;
            }
        }
        let (table, errors) = (&self.table, &mut self.errors.errors);
        errors.retain(|error| table.find(error.quoted).is_none_or(|c| kept[c as usize]));
        let moved = self.table.retain(&kept);
        self.samples.renumber(&moved);
        let told = std::mem::take(&mut self.told_clients);
        let new = |(c, client)| moved.get(c as usize).filter(|at| **at != NONE).map(|at| (*at, client));
        self.told_clients = told.into_iter().filter_map(new).collect();
        let tuples = self.table.conversations.iter().map(|c| c.tuple).chain(self.errors.errors.iter().map(|e| e.quoted));
        let ends = tuples.flat_map(|tuple| [tuple.source(), tuple.destination()]);
        self.addresses.keep(ends.chain(self.told_clients.values().copied()));
    }
}

impl Trace {
    /// Conversations in the tables: what memory grows with.
    pub fn conversations(&self) -> usize {
        (0..self.assembler.store.flows() as u32).map(|flow| self.assembler.store.members(flow).len()).sum()
    }

    /// The flows to forget so that at most `most` conversations stay: first those that ended, then those that have been quiet, the longest
    /// ago first; where that is not enough, others in that order.
    pub fn spent(&self, most: usize) -> Spent {
        let store = &self.assembler.store;
        let mut all = self.conversations();
        let mut spent = Spent::default();
        if all <= most {
            return spent;
        }
        let latest = |flow: u32| store.members(flow).iter().map(|c| store.last_time(*c)).max().unwrap_or(i64::MIN);
        let now = (0..store.flows() as u32).map(latest).max().unwrap_or(i64::MIN);
        let mut order: Vec<(bool, i64, u32)> = (0..store.flows() as u32)
            .map(|flow| {
                let last = latest(flow);
                let over = store.members(flow).iter().any(|c| store.conversation(*c).has_ended());
                (!(over && last.saturating_add(LINGER) < now), last, flow)
            })
            .collect();
        order.sort_unstable();
        for (_, _, flow) in order {
            if all <= most {
                break;
            }
            all -= store.members(flow).len();
            spent.conversations.extend(store.members(flow));
            spent.flows.push(flow + 1);
        }
        spent
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CapturePoint, FlowState, Options, Source};
    use super::*;
    use crate::net::{Endpoint, MacAddr};
    use crate::packet::build::{IpFields, TcpFields, ethernet, ip, tcp};
    use crate::packet::{Frame, LinkType, TcpFlags};

    const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn tracer() -> Tracer {
        let mut tracer = Tracer::new(Options::default());
        let source = Source {
            file: 0,
            file_name: "live".into(),
            given: Some("client.eth0".into()),
            interface_name: None,
            one_of_several: false,
            part: false,
            link_type: LinkType::ETHERNET,
            snap_len: 0,
        };
        tracer.point(&source);
        tracer
    }

    struct Wire(Tracer, u64);

    impl Wire {
        /// One segment; `at` in milliseconds.
        fn send(&mut self, at: i64, ends: (Endpoint, Endpoint), forth: bool, seq: u32, ack: u32, flags: TcpFlags) {
            let ((src, dst), (from, to)) = match forth {
                true => (ends, (CLIENT, SERVER)),
                false => ((ends.1, ends.0), (SERVER, CLIENT)),
            };
            let fields = TcpFields { seq, ack, flags, ..TcpFields::default() };
            let bytes = ethernet(to, from, &[], &ip(src.addr, dst.addr, 6, IpFields::default(), &tcp(src, dst, &fields, &[])));
            self.1 += 1;
            let frame = Frame { time: Timestamp(at * 1_000_000), number: self.1, ..Frame::whole(LinkType::ETHERNET, &bytes) };
            self.0.observe(0, &frame);
        }

        fn connection(&mut self, at: i64, port: u16, closed: bool) {
            let ends = ends(port);
            let flags = |bits: u8| TcpFlags(bits);
            let isn = u32::from(port) * 1000;
            self.send(at, ends, true, isn, 0, flags(0x02));
            self.send(at + 1, ends, false, 77, isn + 1, flags(0x12));
            self.send(at + 2, ends, true, isn + 1, 78, flags(0x10));
            if closed {
                self.send(at + 3, ends, true, isn + 1, 78, flags(0x11));
                self.send(at + 4, ends, false, 78, isn + 2, flags(0x11));
            }
        }
    }

    fn ends(port: u16) -> (Endpoint, Endpoint) {
        (format!("10.0.0.9:{port}").parse().unwrap(), "10.0.0.80:80".parse().unwrap())
    }

    #[test]
    fn a_copy_is_what_a_trace_would_be() {
        let mut wire = Wire(tracer(), 0);
        wire.connection(1_000, 40_000, true);
        let early = wire.0.so_far().finish();
        wire.connection(2_000, 40_001, false);
        let late = wire.0.so_far().finish();
        assert_eq!((early.flow_count(), late.flow_count()), (1, 2));
        let whole = wire.0.finish();
        let states = |trace: &Trace| trace.all_flows().map(|f| (f.client, f.state, f.first, f.last)).collect::<Vec<_>>();
        assert_eq!(states(&late), states(&whole));
        assert_eq!(states(&whole)[..1], states(&early)[..]);
    }

    #[test]
    fn what_ended_is_forgotten_first() {
        let mut wire = Wire(tracer(), 0);
        for n in 0..50u16 {
            wire.connection(1_000 + i64::from(n) * 10, 40_000 + n, n.is_multiple_of(2));
        }
        wire.connection(60_000, 50_000, true);
        let trace = wire.0.so_far().finish();
        let spent = trace.spent(20);
        let forgotten: Vec<Endpoint> = spent.flows.iter().filter_map(|id| trace.flow(*id)).map(|f| f.client).collect();
        assert_eq!(forgotten.len(), 31);
        let closed = |e: &Endpoint| e.port.is_multiple_of(2);
        assert!(forgotten[..25].iter().all(closed) && forgotten.iter().all(|e| e.port != 50_000), "{forgotten:?}");
        wire.0.forget(&spent);
        let left = wire.0.so_far().finish();
        assert_eq!((left.flow_count(), left.conversations()), (20, 20));
        // Those that stay go on as if nothing had happened, and a port may be used again.
        let (last, again) = (ends(40_049), ends(40_000));
        wire.send(61_000, last, true, 40_049_001, 78, TcpFlags(0x11));
        wire.send(61_001, last, false, 78, 40_049_002, TcpFlags(0x11));
        wire.send(61_002, again, true, 5, 0, TcpFlags(0x02));
        let trace = wire.0.finish();
        let state = |port: u16| trace.all_flows().filter(|f| f.client.port == port).map(|f| f.state).collect::<Vec<_>>();
        assert_eq!((state(40_049), state(40_000).len(), trace.flow_count()), (vec![FlowState::Closed], 1, 21));
        assert_eq!(trace.all_flows().map(|f| f.id).collect::<Vec<_>>(), (1..=21).collect::<Vec<_>>());
    }

    #[test]
    fn memory_stays_bounded_and_nothing_is_mixed_up() {
        let mut wire = Wire(tracer(), 0);
        let mut forgotten = 0;
        for round in 0..40i64 {
            for n in 0..100u16 {
                wire.connection(round * 10_000 + i64::from(n) * 10, 20_000 + n + 100 * (round % 7) as u16, !n.is_multiple_of(3));
            }
            let trace = wire.0.so_far().finish();
            assert!(trace.all_flows().all(|f| f.state.is_complete() && f.request.hops.len() == 1), "round {round}");
            let spent = trace.spent(150);
            forgotten += spent.flows.len();
            wire.0.forget(&spent);
            assert!(wire.0.table.conversations.len() <= 150 && wire.0.table.legs.len() <= 300);
        }
        assert!(forgotten >= 3_800, "{forgotten}");
    }

    /// Each client of IPv6 has an address of its own; those that are forgotten make room for others, and nobody gets another's address.
    #[test]
    fn clients_of_ipv6_are_forgotten() {
        let mut wire = Wire(tracer(), 0);
        let client = |n: i64| -> Endpoint { format!("[2001:db8:{:x}::{:x}]:40000", n % 7, n + 1).parse().unwrap() };
        let server: Endpoint = "[2001:db8:99::80]:80".parse().unwrap();
        for round in 0..40i64 {
            for n in 0..100i64 {
                let (number, at) = (round * 100 + n, round * 10_000 + n * 10);
                let ends = (client(number), server);
                wire.send(at, ends, true, 1000, 0, TcpFlags(0x02));
                wire.send(at + 1, ends, false, 77, 1001, TcpFlags(0x12));
                wire.send(at + 2, ends, true, 1001, 78, TcpFlags(0x10));
                if number % 3 > 0 {
                    wire.send(at + 3, ends, true, 1001, 78, TcpFlags(0x11));
                    wire.send(at + 4, ends, false, 78, 1002, TcpFlags(0x11));
                }
            }
            let trace = wire.0.so_far().finish();
            assert!(trace.all_flows().all(|f| f.state.is_complete() && f.service == server), "round {round}");
            let latest: Vec<Endpoint> = trace.all_flows().filter(|f| f.first.0 >= round * 10_000 * 1_000_000).map(|f| f.client).collect();
            assert_eq!(latest, (round * 100..round * 100 + 100).map(client).collect::<Vec<_>>(), "round {round}");
            wire.0.forget(&trace.spent(150));
            assert!(wire.0.addresses.len() <= 252, "{} addresses in round {round}", wire.0.addresses.len());
        }
    }

    #[test]
    fn looking_counts_without_packets() {
        let mut tracer = tracer();
        tracer.looked(0, Timestamp(5), Timestamp(9));
        tracer.looked(7, Timestamp(5), Timestamp(9));
        let CapturePoint { first, last, frames, .. } = tracer.points.points[0];
        assert_eq!((first, last, frames), (Timestamp(5), Timestamp(9), 0));
    }
}
