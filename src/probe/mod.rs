//! WINDOW: active questions on the wire. Who answers for an address? Does this real server serve the virtual address?
//!
//! Only to addresses that the user names, a few packets a second at most; `cli` says what will be sent before anything is.

mod local;
mod path;
mod resolution;
mod service;

pub use local::{Local, LocalError};
pub use path::{Answer, Attempt, End as AttemptEnd, Kind, PathProbe, Signature, signatures};
pub use resolution::{Claimant, Pace, Resolution, Voice};
pub use service::{Method, Outcome, ServiceProbe, Wrap};

use crate::capture::{Arrival, LARGEST, Wire, WireError, WireOptions};
use crate::net::Timestamp;
use crate::packet::{Frame, LinkType, Packet, dissect};
use std::time::{Duration, Instant};

/// A wire on which questions are asked.
struct Ear {
    wire: Wire,
    buffer: Vec<u8>,
}

impl Ear {
    fn open(interface: &str) -> Result<Ear, WireError> {
        let wire = Wire::open(interface, WireOptions { promiscuous: true, ..WireOptions::default() })?;
        Ok(Ear { wire, buffer: vec![0; LARGEST] })
    }

    fn say(&self, frame: &[u8]) -> Result<(), WireError> {
        self.wire.send(&[frame])
    }

    /// Hears what others send until a moment, or until `hear` has had enough (false).
    fn listen(&mut self, until: Instant, mut hear: impl FnMut(&Packet<'_>, Timestamp) -> bool) -> Result<bool, WireError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            let patience = left.max(Duration::from_millis(1));
            let Some(Arrival { time, len, wire_len, outgoing }) = self.wire.receive(&mut self.buffer, patience)? else { continue };
            if outgoing {
                continue;
            }
            let bytes = &self.buffer[..len.min(self.buffer.len())];
            let frame = Frame { wire_len, time, ..Frame::whole(LinkType::ETHERNET, bytes) };
            if !hear(&dissect(&frame), time) {
                return Ok(false);
            }
        }
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
