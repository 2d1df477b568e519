//! What the director puts on its wires, and what their network cards still have to do to it.

use std::ops::Range;

/// Checksums and lengths that a network card was to see to: the `virtio_net_hdr` of AF_PACKET.
pub type Offload = [u8; 10];

/// Everything is done: the card sends the frame as it is.
pub(super) const DONE: Offload = [0; 10];

/// The flag of a frame whose checksum covers the pseudo-header alone so far (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
pub(super) const NEEDS_CHECKSUM: u8 = 1;

/// A frame to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Which port.
    pub port: usize,
    /// The frame, or its beginning.
    pub bytes: Vec<u8>,
    /// Where in the frame that came stands what follows, unchanged.
    pub rest: Range<usize>,
    /// What the card still has to do.
    pub offload: Offload,
    /// It is a real server's answer.
    pub answer: bool,
}

impl Sent {
    /// A frame of the director's own: nothing of it came from anybody.
    pub(super) fn own(port: usize, bytes: Vec<u8>) -> Self {
        Sent { port, bytes, rest: 0..0, offload: DONE, answer: false }
    }

    /// Makes it whole, with the frame that came.
    pub fn join(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame.get(std::mem::take(&mut self.rest)).unwrap_or_default());
    }
}

/// Its checksum is the card's work.
pub(super) fn is_partial(offload: &Offload) -> bool {
    offload[0] & NEEDS_CHECKSUM != 0
}

/// Bytes of data in each segment, of a packet that is several in one.
pub(super) fn merged(offload: &Offload) -> Option<usize> {
    (offload[1] != 0).then(|| usize::from(u16::from_le_bytes([offload[4], offload[5]])))
}

/// The card finds the checksum and the headers' end by their offsets from the frame's beginning: further on by so much, behind new headers.
pub(super) fn moved(mut offload: Offload, by: u16) -> Offload {
    for at in [2, 6] {
        let value = u16::from_le_bytes([offload[at], offload[at + 1]]);
        if value != 0 {
            offload[at..at + 2].copy_from_slice(&value.saturating_add(by).to_le_bytes());
        }
    }
    offload
}
