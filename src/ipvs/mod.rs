//! The IPVS model without a kernel: services, real servers, roles, and the texts that ipvsadm reads and prints.
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

mod conn;
mod entries;
mod list;
mod role;
mod save;
mod service;

pub use conn::{Connection, list_connections, parse_connections};
pub use entries::{Entry, entries};
pub use list::{Listed, ListedServer, Listing, list};
pub use role::Role;
pub use save::{Command, ParseError, Rules, parse, parse_command, read, to_text};
pub use service::{ForwardingMethod, Match, RealServer, SCHEDULERS, TunnelChecksum, TunnelOptions, TunnelType, VirtualService};
