//! WINDOW: netlink, spoken once, read and write. The only room with neli.
//!
//! A [`Socket`] speaks one family in the network namespace of the thread that opened it, and stays there. Messages are a fixed header and
//! [`Attributes`]; the modules beside it know their numbers.

mod attributes;
mod error;
pub mod nftables;
pub mod rtnetlink;
mod socket;

pub use attributes::{Attribute, Attributes, attributes};
pub use error::NetlinkError;
pub use socket::{Family, Reply, Socket};
