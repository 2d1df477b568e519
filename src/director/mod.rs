//! The built-in director: what IPVS decides and does with packets, in user space.
//!
//! The engine is a pure state machine: time and a packet in, a verdict out. Thin adapters drive it: a script ([`Simulator`]), a capture
//! file, and AF_PACKET. It copies the kernel to the arithmetic; each file names the kernel's file that it follows.
#![deny(clippy::disallowed_methods, clippy::print_stdout)]

mod balancer;
mod connection;
mod engine;
mod fault;
mod forward;
mod fragments;
mod link;
mod listing;
mod pool;
mod route;
pub mod run;
mod scheduler;
mod settings;
mod simulate;
mod stats;
mod survey;

pub use balancer::{Balancer, Dial, Refusal, Reloaded, Scheduled, Service};
pub use connection::{Conn, ConnId, Direction, Event, Key, Table};
pub use engine::{Arrived, Engine, Forwarded, MarkRule, Reason, Verdict};
pub use fault::{FAULTS, Faults};
pub use link::{Director, Fate, Offload, Outcome, Port, Sent, Tally};
pub use pool::{Dest, DestId, Pool};
pub use route::{Route, Routes};
pub use settings::{Kernel, SETTINGS, Settings};
pub use simulate::{Picked, Simulator};
pub use stats::{Counters, Rates, Stats};
pub use survey::{Survey, as_arrived};
