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
        let mut answer = Answer { seq: self.seq, dump, ..Answer::default() };
        loop {
            let (messages, _) = match self.handle.recv::<u16, Buffer>() {
                Ok(received) => received,
                Err(e) if is_interruption(&e) => continue,
                Err(e) => return Err(e.into()),
            };
            for message in messages {
                if answer.take(&message.map_err(NetlinkError::other)?)? {
                    return Ok((answer.replies, answer.interrupted));
                }
            }
        }
    }
}

/// A signal came while the kernel was waited for: the answer is still to come.
fn is_interruption(e: &SocketError) -> bool {
    matches!(e, SocketError::Io(e) if e.kind() == std::io::ErrorKind::Interrupted)
}

/// An answer as it comes in, message by message.
#[derive(Default)]
struct Answer {
    seq: u32,
    dump: bool,
    replies: Vec<Reply>,
    interrupted: bool,
}

impl Answer {
    /// Takes a message; true when it is the last one.
    fn take(&mut self, message: &Nlmsghdr<u16, Buffer>) -> Result<bool, NetlinkError> {
        // An answer to what was given up before is not an answer to this.
        if *message.nl_seq() != self.seq {
            return Ok(false);
        }
        self.interrupted |= message.nl_flags().contains(NlmF::DUMP_INTR);
        let kind = *message.nl_type();
        let last = kind == u16::from(Nlmsg::Done);
        match message.nl_payload() {
            NlPayload::Err(e) => return Err(NetlinkError::number(*e.error(), words(e.ext_ack()))),
            NlPayload::DumpExtAck(e) if *e.error() != 0 => return Err(NetlinkError::number(*e.error(), words(e.ext_ack()))),
            NlPayload::Ack(_) if !self.dump => return Ok(true),
            // A dump that fails at its end says so there, whatever its flags.
            NlPayload::Payload(body) if last => {
                let number = body.as_ref().first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                return if number < 0 { Err(NetlinkError::number(number, String::new())) } else { Ok(true) };
            }
            NlPayload::Payload(body) => self.replies.push(Reply { kind, body: body.as_ref().to_vec() }),
            _ => {}
        }
        Ok(last)
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

#[cfg(test)]
mod tests {
    use super::*;
    use neli::FromBytes;

    const MULTI: u16 = 0x2;
    const INTERRUPTED: u16 = 0x10;
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    const ROUTE: u16 = 24;

    /// A message as the kernel sends it.
    fn message(kind: u16, flags: u16, seq: u32, body: &[u8]) -> Nlmsghdr<u16, Buffer> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(seq.to_ne_bytes());
        bytes.extend(7_u32.to_ne_bytes());
        bytes.extend(body);
        Nlmsghdr::from_bytes(&mut Cursor::new(bytes)).expect("a message")
    }

    /// What comes of messages: how many answers, and whether they are inconsistent; or the error's number. `None` if more is waited for.
    fn outcome(dump: bool, messages: &[Nlmsghdr<u16, Buffer>]) -> Option<Result<(usize, bool), i32>> {
        let mut answer = Answer { seq: 9, dump, ..Answer::default() };
        for message in messages {
            match answer.take(message) {
                Ok(true) => return Some(Ok((answer.replies.len(), answer.interrupted))),
                Ok(false) => {}
                Err(e) => return Some(Err(e.errno)),
            }
        }
        None
    }

    /// The request that an error quotes: its header, of 16 bytes.
    fn request() -> Vec<u8> {
        [&16_u32.to_ne_bytes()[..], &[0; 12]].concat()
    }

    fn number(n: i32) -> Vec<u8> {
        n.to_ne_bytes().to_vec()
    }

    #[test]
    fn a_whole_dump() {
        let route = || message(ROUTE, MULTI, 9, &[1; 12]);
        assert_eq!(outcome(true, &[route(), route(), message(DONE, MULTI, 9, &number(0))]), Some(Ok((2, false))));
        assert_eq!(outcome(true, &[route(), route()]), None, "the end has not come");
        // What was left of an earlier one.
        assert_eq!(
            outcome(true, &[message(DONE, MULTI, 8, &number(0)), route(), message(DONE, MULTI, 9, &number(0))]),
            Some(Ok((1, false)))
        );
    }

    #[test]
    fn a_dump_that_fails_is_not_empty() {
        for flags in [MULTI, 0] {
            assert_eq!(outcome(true, &[message(DONE, flags, 9, &number(-22))]), Some(Err(22)), "flags {flags}");
        }
        let route = message(ROUTE, MULTI, 9, &[1; 12]);
        assert_eq!(outcome(true, &[route, message(DONE, MULTI, 9, &number(-105))]), Some(Err(105)), "at its end");
        let refused = [number(-1), request()].concat();
        assert_eq!(outcome(true, &[message(ERROR, 0, 9, &refused)]), Some(Err(1)));
    }

    #[test]
    fn a_dump_that_changed_meanwhile_is_told() {
        let route = message(ROUTE, MULTI | INTERRUPTED, 9, &[1; 12]);
        assert_eq!(outcome(true, &[route, message(DONE, MULTI, 9, &number(0))]), Some(Ok((1, true))));
        assert_eq!(outcome(true, &[message(DONE, MULTI | INTERRUPTED, 9, &number(0))]), Some(Ok((0, true))));
    }

    #[test]
    fn an_acknowledgement_ends_a_change_and_no_dump() {
        let done = [number(0), request()].concat();
        assert_eq!(outcome(false, &[message(ERROR, 0, 9, &done)]), Some(Ok((0, false))));
        assert_eq!(outcome(true, &[message(ERROR, 0, 9, &done)]), None);
    }

    #[test]
    fn signals_are_no_answers() {
        let error = |kind: std::io::ErrorKind| SocketError::from(std::io::Error::from(kind));
        assert!(is_interruption(&error(std::io::ErrorKind::Interrupted)) && !is_interruption(&error(std::io::ErrorKind::PermissionDenied)));
    }
}
