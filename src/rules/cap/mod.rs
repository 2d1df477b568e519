//! What captures make of packets: artefacts that look like faults and are none. Each rule says so where its artefact was seen, and matters
//! for reading the report or the capture itself.
//!
//! Three artefacts of the catalogue raise nothing, because they leave no sign of their own; the tests below hold the trace to them: IP-IDs
//! are no key (CAP011), sequence numbers of proxies differ (CAP017), and frames of one file may be out of order (CAP018).

pub(super) mod cap001;
pub(super) mod cap002;
pub(super) mod cap003;
pub(super) mod cap004;
pub(super) mod cap005;
pub(super) mod cap006;
pub(super) mod cap007;
pub(super) mod cap008;
pub(super) mod cap009;
pub(super) mod cap010;
pub(super) mod cap012;
pub(super) mod cap013;
pub(super) mod cap014;
pub(super) mod cap015;
pub(super) mod cap016;

use super::Facts;
use crate::finding::{Confidence, Evidence, Finding, Outcome, Severity};
use crate::trace::{Flow, Hop, Path};

/// A note: nothing is wrong, and this is why it looks so.
fn note(subject: impl Into<String>, summary: impl Into<String>, proof: Evidence) -> Finding {
    Finding::new(subject, Severity::Note, Confidence::Certain, summary, proof)
}

/// One note, or none.
fn at_most_one(found: Option<Finding>) -> Outcome {
    found.into_iter().collect::<Vec<_>>().into()
}

/// Both ways of every flow.
fn paths<'a>(facts: &Facts<'a>) -> impl Iterator<Item = (&'a Flow, &'a Path)> + use<'a> {
    facts.flows().flat_map(|flow| [(flow, &flow.request), (flow, &flow.reply)])
}

/// Hops that follow each other on a way.
fn pairs<'a>(facts: &Facts<'a>) -> impl Iterator<Item = (&'a Flow, &'a Hop, &'a Hop)> + use<'a> {
    paths(facts).flat_map(|(flow, path)| path.hops.windows(2).map(move |pair| (flow, &pair[0], &pair[1])))
}

/// The name of a capture point.
fn point<'a>(facts: &Facts<'a>, number: u32) -> &'a str {
    facts.trace.points.get(number as usize).map_or("?", |point| point.name.as_str())
}

/// Names of several points, the first few.
fn points(facts: &Facts<'_>, numbers: impl IntoIterator<Item = u32>) -> String {
    let mut names: Vec<&str> = numbers.into_iter().map(|number| point(facts, number)).collect();
    names.sort_unstable();
    names.dedup();
    match names.len() {
        0..=4 => names.join(", "),
        more => format!("{} and {} more", names[..3].join(", "), more - 3),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;

    /// CAP011: packets with the same IP-ID, addresses and time are not one packet; SYN-ACKs all have 0.
    #[test]
    fn ip_ids_join_nothing() {
        let mut w = World::nat();
        for (port, web) in [(40001, 1), (40002, 2)] {
            let c = World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("director", &format!("10.2.0.1{web}:80"));
            w.talk(&c, &format!("client director web{web}"), &format!("web{web} director client"));
        }
        let trace = w.trace();
        assert_eq!(trace.flow_count(), 2);
        let servers: Vec<String> = trace.flows.iter().filter_map(|f| f.real_server).map(|rs| rs.to_string()).collect();
        assert_eq!(servers, ["10.2.0.11:80", "10.2.0.12:80"]);
    }

    /// CAP017: behind a proxy a connection has other sequence numbers. It is another connection, and nobody is accused.
    #[test]
    fn a_proxy_makes_two_connections() {
        let mut w = World::nat();
        let outside = World::tcp("10.1.0.100:40001", "10.1.0.1:80");
        let inside = World::tcp("10.2.0.1:50001", "10.2.0.11:80");
        w.talk(&outside, "client director", "director client");
        w.talk(&inside, "director web1", "web1 director");
        assert_eq!(w.trace().flow_count(), 2);
        w.healthy();
    }
}
