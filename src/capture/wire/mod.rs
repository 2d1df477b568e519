//! The wire itself: frames in and out of an interface, by packet(7), without libpcap.
//!
//! For the director, which has to give packets back with the checksum and segmentation that they came with (`PACKET_VNET_HDR`), for the lab and
//! for active questions. A socket is in the network namespace of the thread that opened it and may be moved to another thread.

mod batch;
mod options;

pub use batch::{BATCH, Batch, Outbox};

use crate::net::Timestamp;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, getsockopt, recvmsg, sendmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How a wire is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct WireOptions {
    /// Frames for other hosts too.
    pub promiscuous: bool,
    /// A `virtio_net_hdr` before each frame: checksums and segmentation stay with whoever does them.
    pub vnet_header: bool,
    /// Not the frames that this host sends.
    pub inbound_only: bool,
    /// Nobody asks when a frame came ([`Arrival::time`] is 0): the kernel need not look at its clock for each.
    pub untimed: bool,
    /// Bytes of buffer in the kernel; 0 leaves the system's default. More than `net.core.rmem_max` is given to nobody.
    pub buffer: usize,
}

/// Bytes of a `virtio_net_hdr`.
pub const VNET_HEADER: usize = 10;
/// Room for the largest packet that segmentation offload makes, its header, and a VLAN tag.
pub const LARGEST: usize = 65_536 + VNET_HEADER + 64;

/// An open interface.
pub struct Wire {
    fd: OwnedFd,
    index: usize,
    name: String,
    vnet: bool,
    inbound_only: bool,
    control: Vec<u8>,
}

/// What came with a frame.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When the kernel saw it.
    pub time: Timestamp,
    /// Bytes of the buffer that hold it, its `virtio_net_hdr` included.
    pub len: usize,
    /// Bytes that it had on the wire, without that header; larger when it did not fit.
    pub wire_len: u32,
    /// This host sent it.
    pub outgoing: bool,
}

/// A wire that cannot be opened or used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    /// What was attempted.
    pub attempted: String,
    /// Why it failed.
    pub errno: Errno,
    /// Interfaces that there are, where the one asked for is not.
    pub known: Vec<String>,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.attempted)?;
        match self.errno {
            Errno::ENODEV if !self.known.is_empty() => write!(f, "no such interface (there are: {})", self.known.join(" ")),
            Errno::EPERM => f.write_str("CAP_NET_RAW is missing: run it as root, or once `setcap cap_net_raw+ep` on the program"),
            errno => f.write_str(errno.desc()),
        }
    }
}

impl std::error::Error for WireError {}

impl Wire {
    /// Opens an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// Without CAP_NET_RAW there, and when there is no such interface.
    pub fn open(interface: &str, wanted: WireOptions) -> Result<Wire, WireError> {
        let attempted = format!("open interface {interface}");
        let failed = |errno| WireError { attempted: attempted.clone(), errno, known: Vec::new() };
        let all: Vec<_> = getifaddrs().map_err(failed)?.collect();
        let found = all.iter().find_map(|i| (i.interface_name == interface).then(|| i.address.as_ref()?.as_link_addr().copied())?);
        let Some(address) = found else {
            let mut known: Vec<String> = all.into_iter().map(|i| i.interface_name).collect();
            known.sort_unstable();
            known.dedup();
            return Err(WireError { known, ..failed(Errno::ENODEV) });
        };
        Self::open_at(&address, interface, wanted).map_err(failed)
    }

    fn open_at(address: &LinkAddr, name: &str, wanted: WireOptions) -> Result<Wire, Errno> {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        if wanted.buffer > 0 {
            // With CAP_NET_ADMIN beyond the limit, else up to it.
            setsockopt(&fd, sockopt::RcvBufForce, &wanted.buffer).or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &wanted.buffer))?;
        }
        if wanted.vnet_header {
            setsockopt(&fd, options::VnetHeader, &true)?;
        }
        if wanted.inbound_only {
            // Before Linux 4.20 there is no such option; such frames are then passed over below.
            let _ = setsockopt(&fd, options::IgnoreOutgoing, &true);
        }
        setsockopt(&fd, options::Auxdata, &true)?;
        if !wanted.untimed {
            setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        }
        let index = address.ifindex();
        if wanted.promiscuous {
            let mreq = libc::packet_mreq {
                mr_ifindex: i32::try_from(index).unwrap_or(0),
                mr_type: libc::PACKET_MR_PROMISC as u16,
                mr_alen: 0,
                mr_address: [0; 8],
            };
            setsockopt(&fd, options::AddMembership, &mreq)?;
        }
        // The protocol of getifaddrs' address is 0: the socket keeps its own, which is all (net/packet/af_packet.c, packet_bind).
        bind(fd.as_raw_fd(), address)?;
        let control = cmsg_space!(TimeSpec, [u32; 5]);
        Ok(Wire { fd, index, name: name.to_string(), vnet: wanted.vnet_header, inbound_only: wanted.inbound_only, control })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's number.
    pub fn index(&self) -> u32 {
        u32::try_from(self.index).unwrap_or(0)
    }

    /// Waits for a frame; `None` when the time is over.
    ///
    /// # Errors
    /// `ENETDOWN` when the interface went down, `ENXIO` or `ENODEV` when it is gone.
    pub fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> Result<Option<Arrival>, WireError> {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(errno) => return Err(self.failed("wait for frames of", errno)),
        }
        self.receive_now(buffer)
    }

    /// Takes the next frame, if one is waiting.
    ///
    /// # Errors
    /// As [`Wire::receive`].
    pub fn receive_now(&mut self, buffer: &mut [u8]) -> Result<Option<Arrival>, WireError> {
        loop {
            match self.take(buffer) {
                // Frames of other interfaces that came between opening and binding, and own ones that nobody wants.
                Ok(None) => continue,
                Ok(arrival) => return Ok(arrival),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
                Err(errno) => return Err(self.failed("receive from", errno)),
            }
        }
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<Option<Arrival>, Errno> {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let message = recvmsg::<LinkAddr>(self.fd.as_raw_fd(), &mut parts, Some(&mut self.control), flags)?;
        let (index, kind) = message.address.map_or((self.index, 0), |a| (a.ifindex(), a.as_ref().sll_pkttype));
        let (mut time, mut tag) = (Timestamp(0), None);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(at) => time = Timestamp::new(at.tv_sec(), at.tv_nsec()),
                ControlMessageOwned::Unknown(unknown) if unknown.cmsg_header.cmsg_type == libc::PACKET_AUXDATA => {
                    tag = tag_of(&unknown.data_bytes)
                }
                _ => {}
            }
        }
        let outgoing = kind == libc::PACKET_OUTGOING;
        if index != self.index || (outgoing && self.inbound_only) {
            return Ok(None);
        }
        let head = if self.vnet { VNET_HEADER } else { 0 };
        let whole = message.bytes;
        let mut len = whole.min(buffer.len());
        let mut wire_len = u32::try_from(whole.saturating_sub(head)).unwrap_or(u32::MAX);
        if let Some(tag) = tag {
            len = put_tag(buffer, head, len, tag);
            wire_len += 4;
        }
        Ok(Some(Arrival { time, len, wire_len, outgoing }))
    }

    /// Sends a frame, which may come in parts; with `vnet_header`, the header is the first.
    ///
    /// # Errors
    /// `EMSGSIZE` for a frame longer than the interface takes, `ENETDOWN` when it is down, `ENOBUFS` when its queue is full.
    pub fn send(&self, parts: &[&[u8]]) -> Result<(), WireError> {
        let parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        match sendmsg::<LinkAddr>(self.fd.as_raw_fd(), &parts, &[], MsgFlags::empty(), None) {
            Ok(_) => Ok(()),
            Err(errno) => Err(self.failed("send to", errno)),
        }
    }

    /// Frames seen and dropped by this socket since the last question.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&self) -> Result<(u32, u32), WireError> {
        let stats = getsockopt(&self.fd, options::Statistics).map_err(|errno| self.failed("count frames of", errno))?;
        Ok((stats.tp_packets, stats.tp_drops))
    }

    fn failed(&self, what: &str, errno: Errno) -> WireError {
        WireError { attempted: format!("{what} interface {}", self.name), errno, known: Vec::new() }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The VLAN tag that the kernel took out of a frame, protocol and tag (`struct tpacket_auxdata`).
fn tag_of(auxdata: &[u8]) -> Option<[u8; 4]> {
    let status = u32::from_ne_bytes(*auxdata.first_chunk()?);
    let word = |at: usize| auxdata.get(at..).and_then(|b| b.first_chunk()).map(|b| u16::from_ne_bytes(*b));
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = word(18).filter(|_| status & libc::TP_STATUS_VLAN_TPID_VALID != 0).unwrap_or(0x8100);
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), word(16)?.to_be_bytes());
    Some([a, b, c, d])
}

/// Puts a tag back behind the MAC addresses; what then does not fit is cut off the end.
fn put_tag(buffer: &mut [u8], head: usize, len: usize, tag: [u8; 4]) -> usize {
    let at = head + 12;
    if len < at {
        return len;
    }
    let end = (len + 4).min(buffer.len());
    if let Some(rest) = end.checked_sub(4).filter(|&rest| rest >= at) {
        buffer.copy_within(at..rest, at + 4);
        buffer[at..at + 4].copy_from_slice(&tag);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_put_back() {
        let mut buffer: Vec<u8> = (0..30).collect();
        let len = put_tag(&mut buffer, 0, 20, [0x81, 0, 0, 7]);
        assert_eq!((len, &buffer[8..18]), (24, &[8, 9, 10, 11, 0x81, 0, 0, 7, 12, 13][..]));
        let mut full: Vec<u8> = (0..20).collect();
        assert_eq!(put_tag(&mut full, 0, 20, [0x81, 0, 0, 7]), 20);
        assert_eq!(full[16..], [12, 13, 14, 15]);
        for head in [0, VNET_HEADER] {
            for len in 0..24 {
                let mut buffer = vec![0; 24];
                assert!(put_tag(&mut buffer, head, len, [1; 4]) <= 24);
            }
        }
    }

    #[test]
    fn a_tag_is_told_by_auxdata() {
        let mut auxdata = [0u8; 20];
        auxdata[16..18].copy_from_slice(&7u16.to_ne_bytes());
        assert_eq!(tag_of(&auxdata), None);
        auxdata[..4].copy_from_slice(&libc::TP_STATUS_VLAN_VALID.to_ne_bytes());
        assert_eq!(tag_of(&auxdata), Some([0x81, 0, 0, 7]));
        assert_eq!(tag_of(&auxdata[..3]), None);
    }

    #[test]
    fn an_unknown_interface_is_named_with_those_that_are() {
        let error = Wire::open("no-such-if0", WireOptions::default()).err().expect("no such interface");
        assert!(error.to_string().starts_with("open interface no-such-if0: no such interface (there are: "), "{error}");
    }
}
