//! What a machine is to a virtual server.

use std::fmt;
use std::str::FromStr;

/// The part that a host plays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Role {
    /// Opens connections.
    Client,
    /// Forwards packets, may translate addresses, does not balance.
    Router,
    /// Runs IPVS.
    Director,
    /// Serves.
    RealServer,
    /// Not known.
    #[default]
    Unknown,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Client => "client",
            Role::Router => "router",
            Role::Director => "director",
            Role::RealServer => "real-server",
            Role::Unknown => "unknown",
        })
    }
}

/// All of them.
const ALL: [Role; 5] = [Role::Client, Role::Router, Role::Director, Role::RealServer, Role::Unknown];

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        ALL.into_iter().find(|role| role.to_string() == text).ok_or_else(|| {
            let words: Vec<String> = ALL.iter().map(ToString::to_string).collect();
            format!("unknown role '{text}' (known: {})", words.join(" "))
        })
    }
}
