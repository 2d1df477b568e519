//! Frames longer than anything on the wire.

use super::super::{Facts, rule};
use super::{at_most_one, note, paths, points};
use crate::finding::{Finding, Outcome};
use crate::net::Protocol;
use crate::trace::{Flow, Hop, Way};

rule! {
    /// # What it sees
    /// TCP segments with more payload than the receiver's MSS allows, at some points; at others the same bytes in several segments.
    ///
    /// # Why it breaks
    /// It does not. The sender's kernel hands large segments to its card, which cuts them (TSO); the receiver's card or kernel joins what
    /// arrives (GRO). The capture sits in between. What went over the wire is not visible there.
    ///
    /// # Confirm it by hand
    /// `ethtool -k IF | grep -E 'segmentation|receive-offload'`.
    ///
    /// # Remedy
    /// None. To see real segments: `ethtool -K IF tso off gso off gro off` while capturing.
    ///
    /// # When it is not a fault
    /// On a director an old kernel may fail to send on what GRO has joined: ICMP fragmentation needed to the sender, slow uploads (DR020).
    ///
    /// # Reproduce
    /// A long download with offloads on, as they are by default.
    ///
    /// # References
    /// kernel `Documentation/networking/segmentation-offloads.rst`.
    CAP002 "gro-tso-superframe" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let long: Vec<(&Flow, &Hop, u16)> = paths(facts)
        .filter(|(flow, _)| flow.protocol == Protocol::Tcp)
        .flat_map(|(flow, path)| {
            let way = if std::ptr::eq(path, &flow.request) { Way::Request } else { Way::Reply };
            let limit = limit(flow, way);
            path.hops.iter().filter_map(move |hop| limit.filter(|limit| hop.longest > *limit).map(|limit| (flow, hop, limit)))
        })
        .collect();
    let (flow, hop, limit) = *long.first()?;
    let where_seen = points(facts, long.iter().map(|(_, hop, _)| hop.point));
    let summary = format!("Segments at {where_seen} are longer than the MSS: joined or not yet cut by the network card, not sent so.");
    let what = format!("from this frame on; the longest segment has {} bytes, the MSS is {limit}", at_least(hop.longest));
    let cut = [&flow.request, &flow.reply]
        .into_iter()
        .flat_map(|path| &path.hops)
        .find(|other| (other.src, other.seen) == (hop.src, hop.seen) && other.longest > 0 && other.longest <= limit);
    let cut = cut.map(|other| facts.seen_with(other, &format!("here the longest has {} bytes", other.longest)));
    Some(note(where_seen.clone(), summary, facts.seen_with(hop, &what)).and(cut).on(long.iter().map(|(flow, ..)| flow.id)))
}

fn at_least(longest: u16) -> String {
    if longest == u16::MAX { format!("at least {longest}") } else { longest.to_string() }
}

/// The most that a segment of one direction may carry: what the other side announced, wherever that was seen unclamped.
fn limit(flow: &Flow, way: Way) -> Option<u16> {
    let other = if way == Way::Request { &flow.reply } else { &flow.request };
    other.hops.iter().filter_map(|hop| hop.mss).max()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ACK, PSH, SYN, SYN_ACK, World};
    use super::*;
    use crate::finding::Confidence;

    fn download(bytes: usize) -> World {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.carry(&c, false, SYN, b"", "client director web1");
        w.carry(&c, true, SYN_ACK, b"", "web1 director client");
        w.carry(&c, false, ACK, b"", "client director web1");
        w.carry(&c, true, PSH, &vec![b'x'; bytes], "web1 director client");
        w
    }

    #[test]
    fn longer_than_the_mss() {
        let w = download(14_600);
        let found = w.expect(&CAP002, Confidence::Certain, "client.eth0, director.ext, director.int, web1.eth0");
        assert!(found.summary.contains("MSS"));
        w.healthy();
    }

    #[test]
    fn as_long_as_the_mss() {
        download(1460).deny(&CAP002);
    }
}
