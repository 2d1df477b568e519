//! What a rule may look at, and the questions that rules ask all day.

use crate::finding::Evidence;
use crate::net::{Endpoint, Protocol, Timestamp};
use crate::trace::{
    Claim, ClaimKind, Flow, FlowError, FlowNote, FlowState, Hints, Hop, HostId, Method, NoteKind, PacketKind, Path, Question, Trace, Way,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything that is known: what packets tell, and what the user said.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The flows, hosts and claims that packets tell of.
    pub trace: &'a Trace,
    /// Services and rules that the user named.
    pub hints: &'a Hints,
}

/// An answer comes within a second, or the question is asked again.
pub(super) const PATIENCE: i64 = 1_000_000_000;

impl<'a> Facts<'a> {
    /// The flows, or examples of each kind where there are thousands.
    pub fn flows(&self) -> impl Iterator<Item = &'a Flow> + use<'a> {
        self.trace.flows.iter()
    }

    /// Flows that a director handed on by `method`.
    pub fn balanced(&self, method: Method) -> impl Iterator<Item = &'a Flow> + use<'a> {
        self.trace.flows.iter().filter(move |flow| flow.method == method)
    }

    /// A host's name, or `?`.
    pub fn name(&self, host: Option<HostId>) -> &'a str {
        self.trace.host_name(host)
    }

    /// Names of several hosts, each once, in order: `web1, web2`.
    pub fn names(&self, hosts: impl IntoIterator<Item = HostId>) -> String {
        let mut names: Vec<&str> = hosts.into_iter().map(|host| self.name(Some(host))).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }

    /// How long the capture at a hop's point went on after that hop, in nanoseconds.
    pub fn watched(&self, hop: &Hop) -> i64 {
        self.trace.points[hop.point as usize].last - hop.time
    }

    /// True when an answer to this hop should have been seen by now at the same point: the capture went on for long enough, or the question
    /// was repeated there, and the capture itself lost nothing.
    pub fn waited(&self, flow: &Flow, hop: &Hop) -> bool {
        let repeated = flow.notes.iter().any(|note| note.point == hop.point && note.kind == NoteKind::SynRepeat)
            || (flow.protocol == Protocol::Udp && hop.packets > 1);
        (repeated || self.watched(hop) >= PATIENCE) && self.trace.points[hop.point as usize].dropped.unwrap_or(0) == 0
    }

    /// Where a host's silence can be seen: the hop at its own interface, or at a mirror port that also shows what the host sends.
    pub fn reached(&self, path: &'a Path, host: HostId) -> Option<&'a Hop> {
        path.received_by(host).or_else(|| path.towards(host).find(|hop| hop.at_sender.is_none() && self.speaks_at(host, hop.point)))
    }

    /// True when any frame of the host was seen at the point.
    pub fn speaks_at(&self, host: HostId, point: u32) -> bool {
        let claims = &self.trace.claims;
        let macs = &self.trace.hosts[host].macs;
        claims.claims.iter().any(|c| c.point == point && macs.contains(&c.mac))
            || claims.questions.iter().any(|q| q.point == point && macs.contains(&q.mac))
            || self.flows().any(|f| {
                [&f.request, &f.reply]
                    .into_iter()
                    .flat_map(|p| p.hops.iter().chain(&p.strays))
                    .any(|h| h.point == point && h.from == Some(host))
            })
    }

    /// The hop at which a server received the request, if it then stayed silent: no packet of the connection, no ICMP error, no question for
    /// a neighbour through which it could answer.
    pub fn silent_server(&self, flow: &'a Flow) -> Option<&'a Hop> {
        let server = flow.server_host?;
        let hop = self
            .reached(&flow.request, server)
            .or_else(|| flow.request.hops.iter().find(|hop| hop.at == Some(server) && hop.dst_mac.is_none()))?;
        let answered = flow.is_answered() || flow.errors.iter().any(|e| e.from == Some(server));
        let silent = flow.state == FlowState::Unanswered && !answered && self.waited(flow, hop);
        (silent && !self.asks_in_vain(server, hop).any(|_| true)).then_some(hop)
    }

    /// Questions of a host at a hop's point, asked after that hop, to which nobody answered there.
    pub fn asks_in_vain(&self, host: HostId, hop: &Hop) -> impl Iterator<Item = &'a Question> + use<'a> {
        let (point, since) = (hop.point, hop.time);
        self.unanswered_questions(host).filter(move |q| q.point == point && q.times.last.1 >= since)
    }

    /// Questions of a host that nobody answered at the point where they were heard.
    pub fn unanswered_questions(&self, host: HostId) -> impl Iterator<Item = &'a Question> + use<'a> {
        let trace = self.trace;
        let macs = &trace.hosts[host].macs;
        let answered = move |q: &Question| {
            let claims = trace.claims.claims.iter().filter(|c| c.point == q.point && c.addr == q.target);
            claims.into_iter().any(|c| c.kind != ClaimKind::Probe && c.times.last.1 + 2 * PATIENCE >= q.times.since())
        };
        trace.claims.questions.iter().filter(move |q| macs.contains(&q.mac) && !answered(q))
    }

    /// Who claims an address, host by host, in whatever way but by a mere probe.
    pub fn claimants(&self, addr: IpAddr) -> BTreeMap<HostId, Vec<&'a Claim>> {
        let mut claimants: BTreeMap<HostId, Vec<&Claim>> = BTreeMap::new();
        for claim in self.trace.claims.claims.iter().filter(|c| c.addr == addr && c.kind != ClaimKind::Probe) {
            if let Some(host) = self.trace.host_of(claim.mac) {
                claimants.entry(host).or_default().push(claim);
            }
        }
        claimants
    }

    /// The addresses of virtual services: of balanced flows, and those that the user named.
    pub fn vips(&self) -> Vec<IpAddr> {
        let balanced = self.flows().filter(|f| f.director.is_some()).filter_map(|f| f.vip).map(|vip| vip.addr);
        let named = self.hints.services.iter().map(|e| e.addr);
        let ruled = self.hints.rules.iter().filter_map(|rule| match rule.matches {
            crate::ipvs::Match::Endpoint(_, e) => Some(e.addr),
            crate::ipvs::Match::Mark(..) => None,
        });
        let mut vips: Vec<IpAddr> = balanced.chain(named).chain(ruled).collect();
        vips.sort_unstable();
        vips.dedup();
        vips
    }

    /// Hosts that packets were handed to by a director.
    pub fn is_real_server(&self, host: HostId) -> bool {
        self.flows().any(|f| f.director.is_some() && f.server_host == Some(host) && f.director != Some(host))
    }

    /// Hosts that balance.
    pub fn is_director(&self, host: HostId) -> bool {
        self.flows().any(|f| f.director == Some(host))
    }

    /// An address of `host` on the link where it speaks to others with the MAC of `hop`, other than `not`; or a word for it.
    pub fn address_on(&self, host: Option<HostId>, mac: Option<crate::net::MacAddr>, not: &[IpAddr], word: &str) -> String {
        let claims = self.trace.claims.claims.iter().filter(|c| Some(c.mac) == mac && c.kind != ClaimKind::Probe && !not.contains(&c.addr));
        let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        let claimed = claims.map(|c| c.addr).find(|a| !link_local(a));
        let known = || host.and_then(|h| self.trace.hosts[h].addresses.iter().rev().copied().find(|a| !not.contains(a) && !link_local(a)));
        claimed.or_else(known).map_or_else(|| word.to_string(), |a| a.to_string())
    }

    /// A hop as evidence: who to whom, and what kind of packet.
    pub fn seen(&self, hop: &Hop) -> Evidence {
        Evidence::frame(hop.point, hop.frame, hop.time, self.describe(hop))
    }

    /// `192.168.2.100:40002 > 192.168.224.11:80 SYN`, with the tunnel in front where there is one.
    pub fn describe(&self, hop: &Hop) -> String {
        let word = kind_word(hop);
        match hop.outer {
            Some((kind, src, dst)) => format!("{kind} {src} > {dst}: {} > {} {word}", hop.src, hop.dst),
            None => format!("{} > {} {word}", hop.src, hop.dst),
        }
    }

    /// Repeats of the client's SYN at the hop's point, as evidence: `the same SYN again after 1.0 s and 3.1 s`.
    pub fn repeats(&self, flow: &Flow, hop: &Hop, kind: NoteKind) -> Option<Evidence> {
        let notes: Vec<&FlowNote> = flow.noted(kind).filter(|n| n.point == hop.point && (n.src, n.dst) == (hop.src, hop.dst)).collect();
        let after: Vec<String> = notes.iter().take(3).map(|n| seconds(n.time - hop.time)).collect();
        let word = match kind {
            NoteKind::SynAckRepeat => "SYN-ACK",
            NoteKind::SynRepeat => "SYN",
            _ => "packet",
        };
        (!notes.is_empty()).then(|| {
            Evidence::frames(hop.point, notes.iter().map(|n| n.frame).collect(), format!("the same {word} again after {}", list(&after)))
        })
    }

    /// That nothing came from a host in the time that the point went on watching.
    pub fn nothing_from(&self, host: HostId, hop: &Hop) -> Evidence {
        Evidence::absence(hop.point, format!("nothing sent by {} in the {} that follow", self.name(Some(host)), seconds(self.watched(hop))))
    }

    /// A note as evidence.
    pub fn noted(&self, note: &FlowNote, what: &str) -> Evidence {
        Evidence::frame(note.point, note.frame, note.time, format!("{} > {} {what}", note.src, note.dst))
    }

    /// An ICMP error as evidence.
    pub fn error(&self, error: &FlowError) -> Evidence {
        let what = format!("{} > {} ICMP {}", error.src, error.dst, error_words(error));
        Evidence::Frames { point: error.point, frames: error.frames.clone(), time: Some(error.time), what }
    }

    /// A claim as evidence.
    pub fn claim(&self, claim: &Claim) -> Evidence {
        let what = match (claim.kind, claim.about) {
            (ClaimKind::Reply, _) => format!("{} is at {}", claim.addr, claim.mac),
            (ClaimKind::Sender, Some(about)) => format!("who has {about}, tell {} (from {})", claim.addr, claim.mac),
            (ClaimKind::Probe, _) => format!("is {} taken? (from {})", claim.addr, claim.mac),
            _ => format!("{} announces {}", claim.mac, claim.addr),
        };
        Evidence::Frames { point: claim.point, frames: claim.times.frames(), time: Some(claim.times.since()), what }
    }

    /// A question as evidence.
    pub fn question(&self, question: &Question) -> Evidence {
        let tell = question.asker.map_or_else(String::new, |asker| format!(", tell {asker}"));
        let what = format!("who has {}{tell}: asked {} times, no answer", question.target, question.times.count);
        Evidence::Frames { point: question.point, frames: question.times.frames(), time: Some(question.times.since()), what }
    }

    /// Flows of the same service that came to the same server host and were served.
    pub fn served_elsewhere(&self, flow: &Flow) -> bool {
        self.flows().any(|f| f.id != flow.id && f.server_host == flow.server_host && f.vip == flow.vip && f.state.is_complete())
    }

    /// True when `addr`, as a server sees its client, is on the server's own link: it asked for it by ARP there, or was asked by it.
    pub fn is_on_link(&self, addr: IpAddr, hop: &Hop) -> bool {
        let claims = &self.trace.claims;
        claims.claims.iter().any(|c| c.addr == addr && Some(c.mac) != hop.dst_mac && self.shares_link(c.point, hop))
            && !self.is_translated_client(addr)
    }

    /// Whether a point hears the same link as the hop's point: it is the same one, or it saw the same frame.
    fn shares_link(&self, point: u32, hop: &Hop) -> bool {
        point == hop.point
            || self.trace.claims.claims.iter().any(|c| c.point == point && Some(c.mac) == hop.dst_mac)
            || self.trace.claims.questions.iter().any(|q| q.point == point && Some(q.mac) == hop.dst_mac)
    }

    fn is_translated_client(&self, _addr: IpAddr) -> bool {
        false
    }
}

/// `1.0 s`, `340 ms`, `20 µs`.
pub(super) fn seconds(nanos: i64) -> String {
    match nanos.unsigned_abs() {
        n if n >= 950_000_000 => format!("{:.1} s", n as f64 / 1e9),
        n if n >= 950_000 => format!("{:.0} ms", n as f64 / 1e6),
        n => format!("{:.0} µs", n as f64 / 1e3),
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    match items[..] {
        [] => String::new(),
        [one] => one.to_string(),
        [ref head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

fn kind_word(hop: &Hop) -> &'static str {
    match hop.first {
        PacketKind::Syn => "SYN",
        PacketKind::SynAck => "SYN-ACK",
        PacketKind::Reset => "RST",
        PacketKind::Fin => "FIN",
        PacketKind::Data => "data",
        PacketKind::Ack => "ACK",
    }
}

fn error_words(error: &FlowError) -> String {
    use crate::packet::IcmpKind;
    match error.kind {
        IcmpKind::TooBig { mtu } => format!("fragmentation needed, mtu {mtu}"),
        IcmpKind::TimeExceeded => "time exceeded".to_string(),
        IcmpKind::Redirect { gateway } => format!("redirect to {gateway}"),
        _ => match (error.type_number, error.code) {
            (3, 0) => "net unreachable".to_string(),
            (3, 1) | (1, 3) => "host unreachable".to_string(),
            (3, 2) => "protocol unreachable".to_string(),
            (3, 3) | (1, 4) => "port unreachable".to_string(),
            (3, 9 | 10 | 13) | (1, 1) => "administratively prohibited".to_string(),
            (t, c) => format!("type {t} code {c}"),
        },
    }
}

/// The flows of each server, by host.
pub(super) fn by_server<'a>(flows: impl IntoIterator<Item = &'a Flow>) -> BTreeMap<HostId, Vec<&'a Flow>> {
    let mut servers: BTreeMap<HostId, Vec<&Flow>> = BTreeMap::new();
    for flow in flows {
        if let Some(server) = flow.server_host {
            servers.entry(server).or_default().push(flow);
        }
    }
    servers
}

/// Numbers of flows.
pub(super) fn ids(flows: &[&Flow]) -> Vec<u32> {
    flows.iter().map(|flow| flow.id).collect()
}

/// An endpoint's address, or a word for it.
pub(super) fn addr_or(endpoint: Option<Endpoint>, word: &str) -> String {
    endpoint.map_or_else(|| word.to_string(), |e| e.addr.to_string())
}

/// Time as evidence has it.
pub(super) fn at(hop: &Hop) -> Timestamp {
    hop.time
}

/// The direction in words.
pub(super) fn way_word(way: Way) -> &'static str {
    match way {
        Way::Request => "request",
        Way::Reply => "answer",
    }
}
