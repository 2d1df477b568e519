//! The IPVS model without a kernel: services, real servers, roles, and the text that `ipvsadm -S` writes.
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

mod conn;
mod role;
mod save;
mod service;

pub use conn::{Entry, entries};
pub use role::Role;
pub use save::{ParseError, parse, to_text};
pub use service::{ForwardingMethod, Match, RealServer, SCHEDULERS, VirtualService};
