//! What connection tracking knows: translations as they are made, and what it could not place.

use crate::net::{Endpoint, Protocol};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The table of tracked connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// How many connections there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Those that are translated or were never answered, at most so many as a snapshot keeps.
    pub connections: Vec<Tracked>,
    /// What was counted (`conntrack -S`), of all CPUs together: `invalid`, `drop`, `early_drop`, `insert_failed` …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, u64>,
}

/// A tracked connection. Without a translation answers come from where requests go to, and go to where they come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where its first packet came from.
    pub from: Endpoint,
    /// Where that was to go.
    pub to: Endpoint,
    /// Where answers come from: to where it was translated.
    pub answers_from: Endpoint,
    /// Where answers go to: as whom it was translated.
    pub answers_to: Endpoint,
    /// The state of a TCP connection: `ESTABLISHED`, `SYN_SENT` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// No answer was ever seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreplied: bool,
}

/// Connections that a snapshot keeps.
const KEPT: usize = 2048;

impl Tracked {
    /// Its addresses or ports are changed.
    pub fn is_translated(&self) -> bool {
        (self.from, self.to) != (self.answers_to, self.answers_from)
    }
}

impl Tracking {
    /// Counts a connection, and keeps it if it tells something.
    pub fn add(&mut self, connection: Tracked) {
        *self.count.get_or_insert(0) += 1;
        if self.connections.len() < KEPT && (connection.is_translated() || connection.unreplied) {
            self.connections.push(connection);
        }
    }

    /// Adds to a counter; what never counted is left out.
    pub fn counted(&mut self, name: &str, times: u64) {
        if times > 0 {
            *self.counters.entry(name.to_string()).or_default() += times;
        }
    }

    /// What a counter has counted.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_something_is_kept() {
        let end = |text: &str| text.parse::<Endpoint>().unwrap();
        let plain = Tracked {
            protocol: Protocol::Tcp,
            from: end("10.0.0.7:4000"),
            to: end("10.0.0.13:80"),
            answers_from: end("10.0.0.13:80"),
            answers_to: end("10.0.0.7:4000"),
            state: None,
            unreplied: false,
        };
        let mut table = Tracking::default();
        table.add(plain.clone());
        table.add(Tracked { unreplied: true, ..plain.clone() });
        // A port that was in use is a translation, too.
        table.add(Tracked { answers_to: end("10.0.0.7:1024"), ..plain });
        assert_eq!((table.count, table.connections.len()), (Some(3), 2));
    }
}
