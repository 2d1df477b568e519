//! WINDOW: netlink spoken once: sockets, dumps that fail or are interrupted, attributes. The only room with neli, which opens the sockets.
//!
//! A dump that fails must never look like an empty one. The kernel may report an error inside the message that ends a dump, or say
//! that what it lists changed meanwhile (`NLM_F_DUMP_INTR`): the first is an error here, the second is asked again.

mod attr;
mod socket;

pub use attr::{Attrs, Body, text};
pub use socket::{Error, Family, Generic, Message, Socket};
