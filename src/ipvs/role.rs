//! What a machine is to a virtual server.

use std::fmt;

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
