//! Evidence in words.

use super::Facts;
use crate::finding::Evidence;
use crate::trace::{Claim, ClaimKind, Flow, FlowError, FlowNote, Hop, HostId, NoteKind, Path, Question};

impl Facts<'_> {
    /// A hop as evidence: who to whom, and what kind of packet.
    pub fn seen(&self, hop: &Hop) -> Evidence {
        Evidence::frame(hop.point, hop.frame, hop.time, self.describe(hop))
    }

    /// The same, with what is remarkable about it.
    pub fn seen_with(&self, hop: &Hop, what: &str) -> Evidence {
        Evidence::frame(hop.point, hop.frame, hop.time, format!("{}, {what}", self.describe(hop)))
    }

    /// `192.168.2.100:40002 > 192.168.224.11:80 SYN`, with the tunnel in front where there is one.
    pub fn describe(&self, hop: &Hop) -> String {
        let word = hop.first.word();
        match hop.outer {
            Some((kind, src, dst)) => format!("{kind} {src} > {dst}: {} > {} {word}", hop.src, hop.dst),
            None => format!("{} > {} {word}", hop.src, hop.dst),
        }
    }

    /// The name of the interface by which a host receives the packets of `path`, as its capture point has it; or `IF`.
    pub fn interface(&self, host: Option<HostId>, path: &Path) -> String {
        let at_host = path.hops.iter().find(|hop| hop.to == host && host.is_some() && self.trace.host_at(hop.point) == host);
        let name = at_host.and_then(|hop| self.trace.points[hop.point as usize].name.strip_prefix(self.name(host))?.strip_prefix('.'));
        name.filter(|name| !name.contains('.')).unwrap_or("IF").to_string()
    }

    /// The name of the interface that a capture point is on, as the point has it; or `IF`.
    pub fn device(&self, point: u32) -> &str {
        let known = &self.trace.points[point as usize];
        let name = known.host.as_ref().and_then(|host| known.name.strip_prefix(host.as_str())?.strip_prefix('.'));
        name.filter(|name| !name.contains('.')).unwrap_or("IF")
    }

    /// The interface of a host that a packet comes in by, if it was captured there and the point has its name; or `IF`.
    pub fn entrance(&self, host: crate::trace::HostId, hop: &Hop) -> &str {
        if self.trace.host_at(hop.point) == Some(host) { self.device(hop.point) } else { "IF" }
    }

    /// `to the MAC of web1`, or the MAC itself where its host has no name.
    pub fn to_whom(&self, hop: &Hop) -> String {
        match (hop.to, hop.dst_mac) {
            (Some(host), Some(mac)) => format!("to the MAC of {} ({mac})", self.name(Some(host))),
            (None, Some(mac)) => format!("to {mac}"),
            (_, None) => "to an unknown MAC".to_string(),
        }
    }

    /// Repeats of a packet at the hop's point, as evidence: `the same SYN again after 1.0 s and 3.1 s`.
    pub fn repeats(&self, flow: &Flow, hop: &Hop, kind: NoteKind) -> Option<Evidence> {
        // At a host with one interface the packet stands twice: as it comes, and as it goes on.
        let same = |n: &&FlowNote| (n.point, n.src, n.dst, n.from) == (hop.point, hop.src, hop.dst, hop.from);
        let notes: Vec<&FlowNote> = flow.noted(kind).filter(same).collect();
        let after: Vec<String> = notes.iter().take(3).map(|n| seconds(n.time - hop.time)).collect();
        let word = match kind {
            NoteKind::SynAckRepeat => "SYN-ACK",
            NoteKind::SynRepeat => "SYN",
            _ => "packet",
        };
        let frames = notes.iter().map(|n| n.frame).collect();
        (!notes.is_empty()).then(|| Evidence::frames(hop.point, frames, format!("the same {word} again after {}", list(&after))))
    }

    /// That nothing came from a host in the time that the point went on watching.
    pub fn nothing_from(&self, host: HostId, hop: &Hop) -> Evidence {
        Evidence::absence(hop.point, format!("nothing sent by {} in the {} that follow", self.name(Some(host)), seconds(self.watched(hop))))
    }

    /// That a packet was not seen at other points.
    pub fn nowhere(&self, points: &[u32], what: &str) -> Vec<Evidence> {
        points.iter().map(|point| Evidence::absence(*point, what.to_string())).collect()
    }

    /// A note as evidence.
    pub fn noted(&self, note: &FlowNote, what: &str) -> Evidence {
        Evidence::frame(note.point, note.frame, note.time, format!("{} > {} {what}", note.src, note.dst))
    }

    /// An ICMP error as evidence.
    pub fn error(&self, error: &FlowError) -> Evidence {
        let what = format!("{} > {} ICMP {}", error.src, error.dst, error.words());
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
        let times = plural(question.times.count as usize, "time");
        let what = format!("who has {}{tell}: asked {times}, no answer", question.target);
        Evidence::Frames { point: question.point, frames: question.times.frames(), time: Some(question.times.since()), what }
    }
}

/// `1.0 s`, `340 ms`, `20 µs`.
pub(in crate::rules) fn seconds(nanos: i64) -> String {
    match nanos.unsigned_abs() {
        n if n >= 950_000_000 => format!("{:.1} s", n as f64 / 1e9),
        n if n >= 950_000 => format!("{:.0} ms", n as f64 / 1e6),
        n => format!("{:.0} µs", n as f64 / 1e3),
    }
}

/// `1 time`, `3 times`.
pub(in crate::rules) fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// `a`, `a and b`, `a, b and c`.
pub(in crate::rules) fn list<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    match items[..] {
        [] => String::new(),
        [one] => one.to_string(),
        [ref head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_lists() {
        assert_eq!(
            [seconds(1_020_000_000), seconds(999_000_000), seconds(340_000_000), seconds(20_000)],
            ["1.0 s", "1.0 s", "340 ms", "20 µs"]
        );
        assert_eq!([list(&["a"]), list(&["a", "b"]), list(&["a", "b", "c"])], ["a", "a and b", "a, b and c"]);
        assert_eq!([plural(1, "time"), plural(3, "time")], ["1 time", "3 times"]);
    }
}
