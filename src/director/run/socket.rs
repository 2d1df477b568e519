//! One packet socket, as safe code cannot open it.
//!
//! nix, rustix and socket2 have no safe way to bind to an interface (`struct sockaddr_ll`) nor for the options of AF_PACKET
//! (packet(7)): promiscuous membership, the virtio header, outgoing frames. Those few calls are here, and nothing else; reading, writing
//! and polling are nix's. Each block hands the kernel a pointer to a plain C structure that lives on the stack for as long as the call,
//! with its true size, and no pointer comes back. This is the only file in which `unsafe` may stand.
#![allow(unsafe_code)]

use super::super::link::Offload;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Length of `struct virtio_net_hdr`, which stands before each frame.
const VNET: usize = 10;
/// `PACKET_VNET_HDR` and `PACKET_IGNORE_OUTGOING` of `<linux/if_packet.h>`.
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Room for a super-packet with its headers.
const LONGEST: usize = VNET + 18 + 65_600;

/// A packet socket bound to one interface.
pub(super) struct PacketSocket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

fn set<T>(fd: BorrowedFd<'_>, option: libc::c_int, value: &T) -> Result<(), Errno> {
    // SAFETY: `value` is a C structure (or integer) of exactly the length that is passed, and outlives the call, which only reads it.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, option, std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t)
    };
    Errno::result(result).map(drop)
}

impl PacketSocket {
    /// Opens a socket on the interface with this index, which gets every frame that comes in there.
    pub(super) fn open(index: u32) -> Result<PacketSocket, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Without a protocol nothing comes in before the socket is bound: no frames of other interfaces slip in.
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
        set(fd.as_fd(), PACKET_VNET_HDR, &1i32)?;
        // Before Linux 4.20 there is no such option; frames with the own MAC are left out anyway.
        let _ = set(fd.as_fd(), PACKET_IGNORE_OUTGOING, &1i32);
        let membership = libc::packet_mreq {
            mr_ifindex: index as libc::c_int,
            mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set(fd.as_fd(), libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index as libc::c_int,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: `address` is a whole `sockaddr_ll`, its true length is passed, and the kernel only reads it.
        let result =
            unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
        Errno::result(result)?;
        let room = nix::sys::socket::sockopt::RcvBuf;
        // The more the better; the kernel gives what it may.
        let _ = nix::sys::socket::setsockopt(&fd, room, &(8 << 20));
        Ok(PacketSocket { fd, buffer: vec![0; LONGEST], out: Vec::with_capacity(LONGEST) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next frame; `None` when there is none.
    pub(super) fn receive(&mut self) -> Result<Option<(Offload, &[u8])>, Errno> {
        match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(len) => match self.buffer[..len].split_first_chunk::<VNET>() {
                Some((offload, frame)) => Ok(Some((*offload, frame))),
                None => Ok(None),
            },
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sends a frame.
    pub(super) fn send(&mut self, frame: &[u8], offload: &Offload) -> Result<(), Errno> {
        self.out.clear();
        self.out.extend(offload);
        self.out.extend(frame);
        send(self.fd.as_raw_fd(), &self.out, MsgFlags::empty()).map(drop)
    }
}
