//! WINDOW: frames in and out. Capture files of every common kind, read once, in a stream, merged by time; pcapng written; live
//! capture; and the wire itself.
//!
//! libpcap's own reader is not used for files: it loses interface numbers, names and comments, and refuses files whose interfaces have
//! different link types or snap lengths.

mod file;
mod filter;
mod input;
#[cfg(feature = "live")]
mod live;
mod merge;
#[cfg(test)]
mod oddities;
mod pcap;
mod pcapng;
mod place;
mod recording;
mod sink;
#[cfg(feature = "live")]
mod syntax;
mod wire;
mod write;

pub use file::{Burst, CaptureFile, Damage, Drops, Interface, OpenError};
pub use filter::{Filter, FilterError};
#[cfg(feature = "live")]
pub use live::{Live, LiveError, LiveOptions, Tap};
pub use merge::Merged;
pub use pcap::Records;
pub use place::{Place, PlaceError, interfaces, within};
pub use recording::{Head, Recording, Rotate};
pub use sink::Sink;
pub use wire::{Arrival, BATCH, Batch, LARGEST, Outbox, VNET_HEADER, Wire, WireError, WireOptions};
pub use write::{Described, PcapngWriter};
