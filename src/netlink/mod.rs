//! WINDOW: netlink, spoken once, read and write. The only room with neli.
//!
//! A [`Socket`] speaks one family in the network namespace of the thread that opened it, and stays there. Messages are a fixed header and
//! [`Attributes`]; the modules beside it know their numbers.

mod attributes;
mod error;
mod genetlink;
pub mod nftables;
pub mod rtnetlink;
mod socket;
mod view;

pub use attributes::{Attribute, Attributes, attributes};
pub use error::NetlinkError;
pub use genetlink::Generic;
pub use socket::{Family, Reply, Socket};
pub use view::{Attrs, text};
