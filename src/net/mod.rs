//! The words everyone speaks: addresses, endpoints, prefixes, times. Imports no other room.
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

mod endpoint;
mod five_tuple;
mod mac;
mod prefix;
mod serial;
mod text;
mod time;

pub use endpoint::Endpoint;
pub use five_tuple::{FiveTuple, Protocol};
pub use mac::MacAddr;
pub use prefix::Prefix;
pub use text::{plural, span, thousands};
pub use time::Timestamp;
