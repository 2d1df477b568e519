//! A socket to the kernel: a question, and all of its answers.

use super::{Attrs, Body};
use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use std::fmt;
use std::io;

/// A protocol of netlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes, rules, neighbours.
    Route,
    /// Sockets.
    SockDiag,
    /// nftables, connection tracking.
    Netfilter,
    /// Families by name: IPVS, ethtool.
    Generic,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// The socket itself fails.
    Io(io::Error),
    /// The kernel refuses, perhaps with words.
    Kernel(io::Error, Option<String>),
    /// What is listed changed each time it was asked.
    Unsteady,
    /// An answer that is none.
    Malformed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |e: &io::Error| e.to_string().split(" (os error").next().unwrap_or_default().to_string();
        match self {
            Error::Io(e) => write!(f, "netlink socket: {}", plain(e)),
            Error::Kernel(e, Some(words)) => write!(f, "{} ({words})", plain(e)),
            Error::Kernel(e, None) => f.write_str(&plain(e)),
            Error::Unsteady => f.write_str("it changed each time that it was asked for; ask again"),
            Error::Malformed => f.write_str("the kernel's answer cannot be understood"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The kernel's error number.
    pub fn number(&self) -> Option<i32> {
        match self {
            Error::Kernel(e, _) => e.raw_os_error(),
            _ => None,
        }
    }
}

/// A message: its type, and what follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: u16,
    /// Its body.
    pub body: Vec<u8>,
}

const HEADER: usize = 16;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kernel's error is told in words: attribute 1 behind the error.
const ERROR_TEXT: u16 = 1;
/// So often an interrupted dump is begun anew.
const TRIES: u32 = 8;
/// The kernel fills at most 32 KiB of a dump at once.
const BUFFER: usize = 1 << 16;

/// A socket.
pub struct Socket {
    socket: NlSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

enum Step {
    More,
    Done,
    Interrupted,
}

impl Socket {
    /// Opens one, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel does not have the protocol, or permits no socket.
    pub fn open(family: Family) -> Result<Self, Error> {
        let family = match family {
            Family::Route => NlFamily::Route,
            Family::SockDiag => NlFamily::SockOrInetDiag,
            Family::Netfilter => NlFamily::Netfilter,
            Family::Generic => NlFamily::Generic,
        };
        let socket = NlSocket::connect(family, None, Groups::empty()).map_err(Error::Io)?;
        socket.block().map_err(Error::Io)?;
        // Only errors get shorter without it.
        let _ = socket.enable_ext_ack(true);
        Ok(Socket { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Asks for everything of a kind.
    ///
    /// # Errors
    /// When the kernel refuses, or what it lists does not hold still.
    pub fn dump(&mut self, kind: u16, body: &Body) -> Result<Vec<Message>, Error> {
        for _ in 0..TRIES {
            let mut messages = Vec::new();
            if self.exchange(kind, DUMP, body, &mut messages)? {
                return Ok(messages);
            }
        }
        Err(Error::Unsteady)
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn get(&mut self, kind: u16, body: &Body) -> Result<Vec<Message>, Error> {
        let mut messages = Vec::new();
        self.exchange(kind, ACK, body, &mut messages)?;
        Ok(messages)
    }

    /// True when the answer is whole; false when it was interrupted.
    fn exchange(&mut self, kind: u16, flags: u16, body: &Body, into: &mut Vec<Message>) -> Result<bool, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Vec::with_capacity(HEADER + body.bytes().len());
        request.extend(u32::try_from(HEADER + body.bytes().len()).unwrap_or(u32::MAX).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((REQUEST | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend(0u32.to_ne_bytes());
        request.extend(body.bytes());
        patiently(|| self.socket.send(&request, Msg::empty())).map_err(Error::Io)?;
        let mut whole = true;
        loop {
            let read = patiently(|| self.socket.recv(&mut self.buffer, Msg::empty()).map(|(read, _)| read)).map_err(Error::Io)?;
            let bytes = self.buffer.get(..read).ok_or(Error::Malformed)?;
            if bytes.is_empty() {
                return Err(Error::Malformed);
            }
            match messages(bytes, self.sequence, into)? {
                Step::More => {}
                Step::Done => return Ok(whole),
                Step::Interrupted => whole = false,
            }
            // The end may come in the same datagram as the news that it is not whole: read on only while there is more.
            if !whole && ended(self.buffer.get(..read).unwrap_or_default(), self.sequence) {
                return Ok(false);
            }
        }
    }
}

/// A signal may interrupt the call; then it is made again.
fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn header(bytes: &[u8]) -> Option<(usize, u16, u16, u32)> {
    let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let half = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
    Some((usize::try_from(number(0)?).ok()?, half(4)?, half(6)?, number(8)?))
}

/// Takes a datagram apart.
fn messages(mut bytes: &[u8], sequence: u32, into: &mut Vec<Message>) -> Result<Step, Error> {
    let mut interrupted = false;
    while !bytes.is_empty() {
        let (len, kind, flags, of) = header(bytes).ok_or(Error::Malformed)?;
        let body = bytes.get(HEADER..len).ok_or(Error::Malformed)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        // An answer to an earlier question, which was given up.
        if of != sequence {
            continue;
        }
        interrupted |= flags & DUMP_INTR != 0;
        match kind {
            NLMSG_ERROR | NLMSG_DONE => {
                let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
                if code != 0 {
                    return Err(refusal(code, kind, body, flags));
                }
                return Ok(if interrupted { Step::Interrupted } else { Step::Done });
            }
            _ => into.push(Message { kind, body: body.to_vec() }),
        }
    }
    Ok(if interrupted { Step::Interrupted } else { Step::More })
}

/// The datagram holds the end of the answer.
fn ended(mut bytes: &[u8], sequence: u32) -> bool {
    while let Some((len, kind, _, of)) = header(bytes) {
        if of == sequence && matches!(kind, NLMSG_ERROR | NLMSG_DONE) {
            return true;
        }
        match bytes.get(len.next_multiple_of(4).max(HEADER)..) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    false
}

/// An error, with the kernel's words where it has any. In an error message they stand behind the header of the question (or, unless the
/// question was capped, the whole of it); in the end of a dump right behind the number.
fn refusal(code: i32, kind: u16, body: &[u8], flags: u16) -> Error {
    const CAPPED: u16 = 0x100;
    let question = body.get(4..).and_then(header).map_or(0, |(len, ..)| len);
    let at = match kind {
        NLMSG_DONE => 4,
        _ if flags & CAPPED != 0 => 4 + HEADER,
        _ => 4 + question.next_multiple_of(4).max(HEADER),
    };
    let words = Attrs::after(body, at).text(ERROR_TEXT).filter(|w| !w.is_empty());
    Error::Kernel(io::Error::from_raw_os_error(code.checked_neg().unwrap_or(i32::MAX)), words)
}

/// A family of generic netlink.
pub struct Generic {
    socket: Socket,
    id: u16,
    version: u8,
}

impl Generic {
    /// Looks it up; `None` when the kernel does not have it.
    ///
    /// # Errors
    /// When that cannot be asked.
    pub fn open(name: &str, version: u8) -> Result<Option<Self>, Error> {
        const CONTROL: u16 = 16;
        const GET_FAMILY: u8 = 3;
        let mut socket = Socket::open(Family::Generic)?;
        let body = Body::new(&[GET_FAMILY, 1, 0, 0]).put_text(2, name);
        match socket.get(CONTROL, &body) {
            Ok(found) => {
                let id = found.first().and_then(|m| Attrs::after(&m.body, 4).u16(1)).ok_or(Error::Malformed)?;
                Ok(Some(Generic { socket, id, version }))
            }
            // ENOENT.
            Err(e) if e.number() == Some(2) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The beginning of a question.
    pub fn body(&self, command: u8) -> Body {
        Body::new(&[command, self.version, 0, 0])
    }

    /// Asks for everything of a kind.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&mut self, body: &Body) -> Result<Vec<Message>, Error> {
        self.socket.dump(self.id, body)
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn get(&mut self, body: &Body) -> Result<Vec<Message>, Error> {
        self.socket.get(self.id, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    }

    fn taken(bytes: &[u8]) -> (Result<bool, String>, usize) {
        let mut into = Vec::new();
        let step = messages(bytes, 7, &mut into);
        (step.map(|s| matches!(s, Step::Done)).map_err(|e| e.to_string()), into.len())
    }

    /// Under strict checking a failed dump ends with an error in its last message, not with an error message.
    #[test]
    fn an_error_in_the_end_is_an_error() {
        let good = [message(24, 2, 7, &[1; 8]), message(NLMSG_DONE, 2, 7, &0i32.to_ne_bytes())].concat();
        assert_eq!(taken(&good), (Ok(true), 1));
        let bad = message(NLMSG_DONE, 2, 7, &(-22i32).to_ne_bytes());
        assert_eq!(taken(&bad), (Err("Invalid argument".to_string()), 0));
        let mut words = (-1i32).to_ne_bytes().to_vec();
        words.extend(Body::default().put_text(1, "not for you").bytes());
        assert_eq!(taken(&message(NLMSG_DONE, 2, 7, &words)).0, Err("Operation not permitted (not for you)".to_string()));
    }

    #[test]
    fn an_interrupted_dump_is_not_whole() {
        let bytes = [message(24, 2 | DUMP_INTR, 7, &[1; 8]), message(NLMSG_DONE, 2, 7, &0i32.to_ne_bytes())].concat();
        let mut into = Vec::new();
        assert!(matches!(messages(&bytes, 7, &mut into), Ok(Step::Interrupted)));
        assert!(ended(&bytes, 7) && !ended(&bytes[..24], 7));
    }

    #[test]
    fn strangers_and_damage() {
        assert_eq!(taken(&message(24, 0, 6, &[1; 8])), (Ok(false), 0), "an answer to another question");
        let bytes = message(24, 0, 7, &[1; 8]);
        for len in 1..bytes.len() {
            assert!(taken(&bytes[..len]).0.is_err(), "{len}");
        }
    }
}
