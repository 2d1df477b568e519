//! A netlink socket: requests with their acknowledgements, and dumps that are whole or an error.
//!
//! A dump can fail where it seems to end: the error stands in `NLMSG_DONE` (net/netlink/af_netlink.c, `netlink_dump_done`), and taken for an
//! end it would make an empty list, which reads like health. A table that changed meanwhile marks the dump as inconsistent
//! (`NLM_F_DUMP_INTR`): then it is asked again.

use super::NetlinkError;
use neli::consts::nl::{NlmF, Nlmsg};
use neli::consts::socket::NlFamily;
use neli::err::SocketError;
use neli::nl::{NlPayload, Nlmsghdr, NlmsghdrBuilder};
use neli::socket::synchronous::NlSocketHandle;
use neli::types::Buffer;
use neli::utils::Groups;
use neli::{Size, ToBytes};
use std::io::Cursor;
use std::os::fd::AsRawFd;

/// Which part of the kernel is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Links, addresses, routes, rules, neighbours.
    Route,
    /// Families by name: IPVS, ethtool.
    Generic,
    /// Sockets.
    SockDiag,
    /// nf_tables and connection tracking.
    Netfilter,
}

/// A message from the kernel.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its type.
    pub kind: u16,
    /// Fixed header and attributes.
    pub body: Vec<u8>,
}

// linux/netfilter/nfnetlink.h
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

/// How often an inconsistent dump is asked for again before it is given up.
const TRIES: usize = 10;

/// A socket in the network namespace of the thread that opened it.
pub struct Socket {
    handle: NlSocketHandle,
    seq: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no such family, or the process no right to sockets.
    pub fn open(family: Family) -> Result<Self, NetlinkError> {
        let protocol = match family {
            Family::Route => NlFamily::Route,
            Family::Generic => NlFamily::Generic,
            Family::SockDiag => NlFamily::SockOrInetDiag,
            Family::Netfilter => NlFamily::Netfilter,
        };
        let attempt = || -> Result<NlSocketHandle, SocketError> {
            let handle = NlSocketHandle::connect(protocol, None, Groups::empty())?;
            // Older kernels lack both; errors are then numbers only, and dumps are filtered here.
            let _ = handle.enable_ext_ack(true);
            let _ = handle.enable_strict_checking(true);
            Ok(handle)
        };
        let handle = attempt().map_err(|e| NetlinkError::from(e).attempting(format!("open a netlink socket ({family:?})")))?;
        Ok(Socket { handle, seq: 0 })
    }

    /// Changes something: waits until the kernel has done it.
    ///
    /// # Errors
    /// What the kernel refused, with its words.
    pub fn change(&mut self, kind: u16, flags: NlmFlags, body: &[u8]) -> Result<(), NetlinkError> {
        self.send(kind, flags.0 | NlmF::ACK, body)?;
        self.replies(false).map(|_| ())
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// What the kernel refused; `said` tells when there was no answer at all.
    pub fn ask(&mut self, kind: u16, body: &[u8]) -> Result<Reply, NetlinkError> {
        self.send(kind, NlmF::REQUEST | NlmF::ACK, body)?;
        let (replies, _) = self.replies(false)?;
        replies.into_iter().next().ok_or_else(|| NetlinkError::other("the kernel acknowledged, and answered nothing"))
    }

    /// Asks for all of a kind.
    ///
    /// # Errors
    /// When the dump fails, also at its end, or is inconsistent every time.
    pub fn dump(&mut self, kind: u16, body: &[u8]) -> Result<Vec<Reply>, NetlinkError> {
        for _ in 0..TRIES {
            self.send(kind, NlmF::REQUEST | NlmF::DUMP, body)?;
            let (replies, interrupted) = self.replies(true)?;
            if !interrupted {
                return Ok(replies);
            }
        }
        Err(NetlinkError::other(format!("the table changed during each of {TRIES} dumps")))
    }

    /// Changes several things at once, all or none: `messages` between the begin and the end of an nfnetlink batch of a subsystem.
    ///
    /// # Errors
    /// What the kernel refused first.
    pub(super) fn batch(&mut self, subsystem: u16, messages: &[(u16, NlmFlags, Vec<u8>)]) -> Result<(), NetlinkError> {
        // struct nfgenmsg, with the subsystem in the network's order (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch).
        let [high, low] = subsystem.to_be_bytes();
        let frame = [0, 0, high, low];
        let mut bytes = self.message(NFNL_MSG_BATCH_BEGIN, NlmF::REQUEST, &frame)?;
        let first = self.seq + 1;
        for (kind, flags, body) in messages {
            bytes.extend(self.message(*kind, flags.0 | NlmF::ACK, body)?);
        }
        let last = self.seq;
        bytes.extend(self.message(NFNL_MSG_BATCH_END, NlmF::REQUEST, &frame)?);
        let sent = nix::sys::socket::send(self.handle.as_raw_fd(), &bytes, nix::sys::socket::MsgFlags::empty());
        sent.map_err(|errno| NetlinkError::number(errno as i32, String::new()))?;
        for seq in first..=last {
            self.seq = seq;
            self.replies(false)?;
        }
        self.seq = last + 1;
        Ok(())
    }

    fn send(&mut self, kind: u16, flags: NlmF, body: &[u8]) -> Result<(), NetlinkError> {
        let bytes = self.message(kind, flags, body)?;
        let sent = nix::sys::socket::send(self.handle.as_raw_fd(), &bytes, nix::sys::socket::MsgFlags::empty());
        sent.map(|_| ()).map_err(|errno| NetlinkError::number(errno as i32, String::new()))
    }

    /// The bytes of the next message.
    fn message(&mut self, kind: u16, flags: NlmF, body: &[u8]) -> Result<Vec<u8>, NetlinkError> {
        self.seq = self.seq.wrapping_add(1).max(1);
        let message = NlmsghdrBuilder::default()
            .nl_type(kind)
            .nl_flags(flags | NlmF::REQUEST)
            .nl_seq(self.seq)
            .nl_payload(NlPayload::Payload(Buffer::from(body)))
            .build()
            .map_err(NetlinkError::other)?;
        let mut bytes = Cursor::new(vec![0; message.padded_size()]);
        message.to_bytes(&mut bytes).map_err(NetlinkError::other)?;
        Ok(bytes.into_inner())
    }

    /// The answers to the last request, and whether they are inconsistent.
    fn replies(&mut self, dump: bool) -> Result<(Vec<Reply>, bool), NetlinkError> {
        let (mut replies, mut interrupted) = (Vec::new(), false);
        loop {
            let (messages, _) = match self.handle.recv::<u16, Buffer>() {
                Ok(received) => received,
                Err(SocketError::Io(e)) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            for message in messages {
                let message: Nlmsghdr<u16, Buffer> = message.map_err(NetlinkError::other)?;
                // An answer to what was given up before is not an answer to this.
                if *message.nl_seq() != self.seq {
                    continue;
                }
                interrupted |= message.nl_flags().contains(NlmF::DUMP_INTR);
                let kind = *message.nl_type();
                match message.nl_payload() {
                    NlPayload::Err(e) => return Err(NetlinkError::number(*e.error(), words(e.ext_ack()))),
                    NlPayload::DumpExtAck(e) if *e.error() != 0 => {
                        return Err(NetlinkError::number(*e.error(), words(e.ext_ack())));
                    }
                    NlPayload::Ack(_) if !dump => return Ok((replies, interrupted)),
                    _ if kind == u16::from(Nlmsg::Done) => return Ok((replies, interrupted)),
                    NlPayload::Payload(body) => replies.push(Reply { kind, body: body.as_ref().to_vec() }),
                    _ => {}
                }
            }
        }
    }
}

type Words = neli::types::GenlBuffer<neli::consts::nl::NlmsgerrAttr, Buffer>;

/// What the kernel says beside an error's number.
fn words(ext_ack: &Words) -> String {
    let said = ext_ack.iter().find(|attr| *attr.nla_type().nla_type() == neli::consts::nl::NlmsgerrAttr::Msg);
    let text = said.map(|attr| String::from_utf8_lossy(attr.nla_payload().as_ref()).into_owned()).unwrap_or_default();
    text.trim_end_matches(['\0', '.']).to_string()
}

/// How a change is meant.
#[derive(Clone, Copy, Debug)]
pub struct NlmFlags(NlmF);

impl NlmFlags {
    /// Change or delete what is there.
    pub const CHANGE: Self = NlmFlags(NlmF::REQUEST);

    /// Add; fail when it is there.
    pub fn add() -> Self {
        NlmFlags(NlmF::CREATE | NlmF::EXCL)
    }

    /// Make sure that it is there.
    pub fn make_sure() -> Self {
        NlmFlags(NlmF::CREATE)
    }

    /// Add behind the others.
    pub fn append() -> Self {
        NlmFlags(NlmF::CREATE | NlmF::APPEND)
    }

    /// Add before the others.
    pub fn insert() -> Self {
        NlmFlags(NlmF::CREATE)
    }

    /// Add, or replace what is there.
    pub fn replace() -> Self {
        NlmFlags(NlmF::CREATE | NlmF::REPLACE)
    }
}

impl From<SocketError> for NetlinkError {
    fn from(e: SocketError) -> Self {
        match e {
            SocketError::Io(e) => NetlinkError::number(e.raw_os_error().unwrap_or(0), String::new()),
            e => NetlinkError::other(e),
        }
    }
}
