//! Many frames a system call: recvmmsg(2) and sendmmsg(2).

use super::{Arrival, LARGEST, VNET_HEADER, Wire, WireError, put_tag, tag_of};
use crate::net::Timestamp;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, LinkAddr, MsgFlags, MultiHeaders, recvmmsg, sendmmsg};
use nix::sys::time::TimeSpec;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;

/// Frames that one call takes or gives.
pub const BATCH: usize = 64;

/// Room for as many frames as one call takes, each as long as they come.
pub struct Batch {
    headers: MultiHeaders<LinkAddr>,
    space: Vec<u8>,
    taken: Vec<(usize, Arrival)>,
}

impl Default for Batch {
    fn default() -> Self {
        // The kernel gives pages only to what is written to.
        Batch { headers: fresh(), space: vec![0; BATCH * LARGEST], taken: Vec::with_capacity(BATCH) }
    }
}

fn fresh() -> MultiHeaders<LinkAddr> {
    MultiHeaders::preallocate(BATCH, Some(cmsg_space!(TimeSpec, [u32; 5])))
}

impl Batch {
    /// Bytes of the frames that were taken.
    pub fn bytes(&self) -> usize {
        self.taken.iter().map(|(_, arrival)| arrival.len).sum()
    }

    /// The frames that were taken, with what came with them; of a wire with `vnet_header`, that header is the first.
    pub fn frames(&self) -> impl Iterator<Item = (Arrival, &[u8])> {
        self.taken.iter().map(|(slot, arrival)| (*arrival, &self.space[slot * LARGEST..][..arrival.len]))
    }
}

impl Wire {
    /// Takes frames that are waiting, `at_most` so many and no more than [`BATCH`], and says how many the kernel gave: with less than asked for
    /// none was left.
    ///
    /// # Errors
    /// As [`Wire::receive`].
    pub fn receive_many(&self, batch: &mut Batch, at_most: usize) -> Result<usize, WireError> {
        let Batch { headers, space, taken } = batch;
        taken.clear();
        let mut tags: Vec<(usize, [u8; 4])> = Vec::new();
        let (mut given, mut cut) = (0, false);
        {
            let mut parts: Vec<[IoSliceMut<'_>; 1]> = Vec::with_capacity(at_most.min(BATCH));
            parts.extend(space.chunks_mut(LARGEST).take(at_most).map(|slot| [IoSliceMut::new(slot)]));
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            let messages = match recvmmsg(self.fd.as_raw_fd(), headers, parts.iter_mut(), flags, None) {
                Ok(messages) => messages,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
                Err(errno) => return Err(self.failed("receive from", errno)),
            };
            for (slot, message) in messages.enumerate() {
                given += 1;
                let (index, kind) = message.address.map_or((self.index, 0), |a| (a.ifindex(), a.as_ref().sll_pkttype));
                let outgoing = kind == libc::PACKET_OUTGOING;
                if index != self.index || (outgoing && self.inbound_only) {
                    continue;
                }
                let mut time = Timestamp(0);
                let mut tagged = false;
                match message.cmsgs() {
                    Ok(controls) => {
                        for control in controls {
                            match control {
                                ControlMessageOwned::ScmTimestampns(at) => time = Timestamp::new(at.tv_sec(), at.tv_nsec()),
                                ControlMessageOwned::Unknown(unknown) if unknown.cmsg_header.cmsg_type == libc::PACKET_AUXDATA => {
                                    tagged = tag_of(&unknown.data_bytes).map(|tag| tags.push((taken.len(), tag))).is_some();
                                }
                                _ => {}
                            }
                        }
                    }
                    // The kernel wrote over how much room there is.
                    Err(_) => cut = true,
                }
                let (whole, head) = (message.bytes, if self.vnet { VNET_HEADER } else { 0 });
                let on_wire = whole.saturating_sub(head) + if tagged { 4 } else { 0 };
                let wire_len = u32::try_from(on_wire).unwrap_or(u32::MAX);
                taken.push((slot, Arrival { time, len: whole.min(LARGEST), wire_len, outgoing }));
            }
        }
        let head = if self.vnet { VNET_HEADER } else { 0 };
        for (at, tag) in tags {
            if let Some((slot, arrival)) = taken.get_mut(at) {
                arrival.len = put_tag(&mut space[*slot * LARGEST..][..LARGEST], head, arrival.len, tag);
            }
        }
        if cut {
            *headers = fresh();
        }
        Ok(given)
    }
}

/// Headers for sending many frames a call.
pub struct Outbox(MultiHeaders<LinkAddr>);

impl Default for Outbox {
    fn default() -> Self {
        Outbox(MultiHeaders::preallocate(BATCH, None))
    }
}

impl Outbox {
    /// Sends frames, each in so many parts, any of which may be empty; with `vnet_header`, the header is the first bytes. `lost` is told of
    /// each that the interface does not take, with its place and why; the others are sent all the same.
    pub fn send<const PARTS: usize>(&mut self, wire: &Wire, frames: &[[&[u8]; PARTS]], mut lost: impl FnMut(usize, Errno)) {
        let addresses: [Option<LinkAddr>; BATCH] = [None; BATCH];
        let none: [ControlMessage<'_>; 0] = [];
        let mut at = 0;
        while at < frames.len() {
            let rest = &frames[at..frames.len().min(at + BATCH)];
            let mut parts: Vec<[IoSlice<'_>; PARTS]> = Vec::with_capacity(rest.len());
            parts.extend(rest.iter().map(|frame| frame.map(IoSlice::new)));
            let to = &addresses[..rest.len()];
            let sent = sendmmsg(wire.fd.as_raw_fd(), &mut self.0, &parts, to, none, MsgFlags::empty()).map(Iterator::count);
            match sent {
                // None taken and no error there is not; but no frame is worth a loop without an end.
                Ok(count) => at += count.max(1),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    lost(at, errno);
                    at += 1;
                }
            }
        }
    }
}
