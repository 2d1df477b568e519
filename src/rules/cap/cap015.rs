//! Connections that began before the capture.

use super::super::facts::plural;
use super::super::{Facts, rule};
use super::{at_most_one, note};
use crate::finding::{Finding, Outcome};
use crate::net::Protocol;
use crate::trace::Flow;

rule! {
    /// # What it sees
    /// TCP connections of which no SYN was captured.
    ///
    /// # Why it breaks
    /// It does not: they were open when the capture began, or the SYN was filtered out. Nothing is said about how they began. They are
    /// joined across rewrites by sequence numbers and payload; which side is the client is told by the ports.
    ///
    /// # Confirm it by hand
    /// `tcpdump -r FILE 'tcp[tcpflags] & tcp-syn != 0'`.
    ///
    /// # Remedy
    /// None. Start the capture before the connections.
    ///
    /// # When it is not a fault
    /// Never is it one.
    ///
    /// # Reproduce
    /// A long download; start the capture in the middle.
    ///
    /// # References
    /// tcpdump(1); pcap-filter(7).
    CAP015 "mid-stream-start" check
}

fn check(facts: &Facts<'_>) -> Outcome {
    at_most_one(finding(facts))
}

fn finding(facts: &Facts<'_>) -> Option<Finding> {
    let late: Vec<&Flow> = facts.flows().filter(|f| !f.from_start && f.protocol == Protocol::Tcp).collect();
    let first = late.iter().find_map(|f| f.request.first().or_else(|| f.reply.first()))?;
    let mut groups: Vec<usize> = late.iter().map(|f| f.group).collect();
    groups.dedup();
    groups.sort_unstable();
    groups.dedup();
    let count: usize = groups.iter().filter_map(|g| facts.trace.groups.get(*g)).map(|g| g.count as usize).sum();
    let (was, clients) = if count == 1 { ("was", late[0].client.addr.to_string()) } else { ("were", "clients".to_string()) };
    let summary =
        format!("{} of {clients} {was} open before the capture began: how they began is not judged.", plural(count, "connection"));
    Some(note(clients_of(&late), summary, facts.seen_with(first, "the first of it that was captured")).on(late.iter().map(|f| f.id)))
}

fn clients_of(flows: &[&Flow]) -> String {
    let mut services: Vec<String> = flows.iter().map(|f| f.service.to_string()).collect();
    services.sort_unstable();
    services.dedup();
    services.truncate(3);
    services.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ACK, PSH, SYN, SYN_ACK, World};
    use super::*;
    use crate::finding::Confidence;

    #[test]
    fn the_beginning_is_missing() {
        let mut w = World::nat();
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        let (there, back) = ("client director web1", "web1 director client");
        w.carry(&c, false, SYN, b"", there);
        w.carry(&c, true, SYN_ACK, b"", back);
        w.carry(&c, false, ACK, b"", there);
        w.deny(&CAP015);
        w.begin_here();
        w.carry(&c, false, PSH, b"GET /", there);
        w.carry(&c, true, PSH, b"200 OK", back);
        w.carry(&c, false, ACK, b"", there);
        w.expect(&CAP015, Confidence::Certain, "10.1.0.1:80");
        w.healthy();
    }
}
