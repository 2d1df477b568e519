//! Connections to a service, opened by this host's own kernel, and how their answers come back: after what time, from which address and MAC, with
//! which TTL, and by whose clock. What differs between them tells the real servers apart, where anything does.

use super::Ear;
use crate::capture::WireError;
use crate::net::{Endpoint, MacAddr, Timestamp};
use crate::packet::{Packet, Transport};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, bind, connect, getsockname, getsockopt,
    socket, sockopt,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// One connection that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// This host's end.
    pub from: Option<Endpoint>,
    /// What the kernel made of it.
    pub end: End,
    /// The first answers that were heard: mostly one.
    pub answers: Vec<Answer>,
}

/// What became of an attempt, as a program sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was open, and was closed again.
    Open,
    /// Reset.
    Refused,
    /// No answer in time.
    Silence,
    /// Another error: `EHOSTUNREACH` and the like.
    Failed(Errno),
}

/// A packet that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it was.
    pub kind: Kind,
    /// Its source; the port is 0 in an ICMP error.
    pub src: Endpoint,
    /// The MAC that sent it over the last link.
    pub mac: Option<MacAddr>,
    /// Its TTL as it arrived.
    pub ttl: u8,
    /// After so many nanoseconds.
    pub after: i64,
    /// The sender's TCP clock, less the time that has passed: about the same number for all answers of one server, in milliseconds.
    pub clock: Option<u32>,
}

/// What an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYN-ACK.
    Accepts,
    /// RST.
    Refuses,
    /// An ICMP error: type and code.
    Error(u8, u8),
}

/// So many answers of one attempt are kept.
const ANSWERS: usize = 4;
/// After an answer another one may come: from who answers too.
const LINGER: Duration = Duration::from_millis(30);

/// Opens connections one by one.
pub struct PathProbe {
    ear: Ear,
    to: Endpoint,
    begun: Timestamp,
}

impl PathProbe {
    /// Listens on the interface on the way to the service.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, and when the interface is down.
    pub fn open(interface: &str, to: Endpoint) -> Result<PathProbe, WireError> {
        Ok(PathProbe { ear: Ear::open(interface)?, to, begun: super::now() })
    }

    /// Opens one connection, waits for it at most so long, and closes it.
    ///
    /// # Errors
    /// When listening is impossible.
    pub fn attempt(&mut self, wait: Duration) -> Result<Attempt, WireError> {
        let begun = super::now();
        let (socket, from) = match dial(self.to) {
            Ok(dialled) => dialled,
            Err(errno) => return Ok(Attempt { from: None, end: ended(errno), answers: Vec::new() }),
        };
        let mut answers: Vec<Answer> = Vec::new();
        let until = Instant::now() + wait;
        let mut end = None;
        while end.is_none() && Instant::now() < until {
            let slice = (Instant::now() + LINGER).min(until);
            let (to, first) = (self.to, self.begun);
            self.ear.listen(slice, |packet, time| {
                let answer = heard(packet, from, to, (time - begun).max(0), (time - first).max(0));
                let again = |a: &Answer| answers.iter().any(|known| (known.src, known.mac, known.kind) == (a.src, a.mac, a.kind));
                if let Some(answer) = answer.filter(|answer| answers.len() < ANSWERS && !again(answer)) {
                    answers.push(answer);
                }
                true
            })?;
            end = state(&socket);
        }
        // Closed in peace: the server keeps nothing.
        drop(socket);
        Ok(Attempt { from: Some(from), end: end.unwrap_or(End::Silence), answers })
    }
}

fn ended(errno: Errno) -> End {
    match errno {
        Errno::ECONNREFUSED | Errno::ECONNRESET => End::Refused,
        Errno::ETIMEDOUT => End::Silence,
        errno => End::Failed(errno),
    }
}

/// What the kernel knows of it; nothing as long as it waits.
fn state(socket: &OwnedFd) -> Option<End> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(0) | Err(_) => None,
        Ok(_) => match getsockopt(socket, sockopt::SocketError) {
            Ok(0) => Some(End::Open),
            Ok(errno) => Some(ended(Errno::from_raw(errno))),
            Err(errno) => Some(ended(errno)),
        },
    }
}

/// Begins a connection; its own end is known before the first packet goes.
fn dial(to: Endpoint) -> Result<(OwnedFd, Endpoint), Errno> {
    let family = if to.addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    let fd = socket.as_raw_fd();
    match to.addr {
        IpAddr::V4(addr) => {
            bind(fd, &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)))?;
            begin(fd, &SockaddrIn::from(SocketAddrV4::new(addr, to.port)))?;
        }
        IpAddr::V6(addr) => {
            bind(fd, &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)))?;
            begin(fd, &SockaddrIn6::from(SocketAddrV6::new(addr, to.port, 0, 0)))?;
        }
    }
    let name: SockaddrStorage = getsockname(fd)?;
    let v4 = name.as_sockaddr_in().map(|name| Endpoint::new(IpAddr::V4(name.ip()), name.port()));
    let v6 = name.as_sockaddr_in6().map(|name| Endpoint::new(IpAddr::V6(name.ip()), name.port()));
    Ok((socket, v4.or(v6).ok_or(Errno::EAFNOSUPPORT)?))
}

fn begin(fd: i32, to: &impl SockaddrLike) -> Result<(), Errno> {
    match connect(fd, to) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// An answer to the connection from `from` to `to`: also one that comes from elsewhere than it should.
fn heard(packet: &Packet<'_>, from: Endpoint, to: Endpoint, after: i64, passed: i64) -> Option<Answer> {
    let ip = packet.ip()?;
    let (mac, ttl) = (packet.link.src, ip.ttl);
    match &packet.transport {
        Transport::Tcp(tcp) if Endpoint::new(ip.dst, tcp.dst_port) == from => {
            let kind = match tcp.flags {
                flags if flags.accepts() => Kind::Accepts,
                flags if flags.has(crate::packet::TcpFlags::RST) => Kind::Refuses,
                _ => return None,
            };
            // Linux counts milliseconds.
            let clock = tcp.options().timestamps.map(|(value, _)| value.wrapping_sub((passed / 1_000_000) as u32));
            Some(Answer { kind, src: Endpoint::new(ip.src, tcp.src_port), mac, ttl, after, clock })
        }
        Transport::Icmp(message) if message.is_error() => {
            let about = message.quoted.as_ref()?.five_tuple()?;
            let ours = about.src == from && about.dst == to;
            let kind = Kind::Error(message.type_number, message.code);
            ours.then_some(Answer { kind, src: Endpoint::new(ip.src, 0), mac, ttl, after, clock: None })
        }
        _ => None,
    }
}

/// What tells one server's answers from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    /// The MAC, where answers come straight from the server: not where a gateway is on the way.
    pub mac: Option<MacAddr>,
    /// Number of its clock, from 1.
    pub clock: Option<u32>,
    /// TTL.
    pub ttl: u8,
}

/// Clocks of one machine differ by less: answers are stamped and heard within so many milliseconds.
const SAME_CLOCK: u32 = 1500;

/// The server of each answer, as far as it can be told. `straight`: no gateway is on the way, so that MACs count.
///
/// Linux hides its clock behind an offset, which was one for each pair of hosts, and in newer kernels is another for each connection
/// (`secure_tcp_ts_off`). So clocks count only where they come up again and again.
pub fn signatures(answers: &[Answer], straight: bool) -> Vec<Signature> {
    let mut clocks: Vec<u32> = Vec::new();
    let mut number = |clock: u32| {
        let near = |known: &u32| known.wrapping_sub(clock).cast_signed().unsigned_abs() < SAME_CLOCK;
        let at = clocks.iter().position(near).unwrap_or_else(|| {
            clocks.push(clock);
            clocks.len() - 1
        });
        at as u32 + 1
    };
    let mut found: Vec<Signature> =
        answers.iter().map(|a| Signature { mac: a.mac.filter(|_| straight), clock: a.clock.map(&mut number), ttl: a.ttl }).collect();
    if clocks.len() * 2 > answers.len() {
        found.iter_mut().for_each(|signature| signature.clock = None);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::build::{IpFields, TcpFields, ethernet, icmp, ip, syn_options, tcp};
    use crate::packet::{Frame, LinkType, TcpFlags, dissect};

    const ME: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const RS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn ends() -> (Endpoint, Endpoint) {
        ("10.0.0.9:40000".parse().unwrap(), "10.0.0.80:80".parse().unwrap())
    }

    fn judged(bytes: &[u8]) -> Option<Answer> {
        heard(&dissect(&Frame::whole(LinkType::ETHERNET, bytes)), ends().0, ends().1, 7, 2_000_000)
    }

    fn segment(src: &str, flags: u8) -> Vec<u8> {
        let (src, me): (Endpoint, Endpoint) = (src.parse().unwrap(), ends().0);
        let fields = TcpFields { flags: TcpFlags(flags), options: &syn_options(1460, 5_000, 0), ..TcpFields::default() };
        ethernet(RS, ME, &[], &ip(src.addr, me.addr, 6, IpFields { ttl: 63, ..IpFields::default() }, &tcp(src, me, &fields, &[])))
    }

    #[test]
    fn answers_are_heard_wherever_they_come_from() {
        let answer = judged(&segment("10.0.0.80:80", 0x12)).unwrap();
        let wanted = Answer { kind: Kind::Accepts, src: ends().1, mac: Some(RS), ttl: 63, after: 7, clock: Some(4_998) };
        assert_eq!(answer, wanted);
        assert_eq!(judged(&segment("10.0.0.11:8080", 0x12)).map(|a| a.src.to_string()), Some("10.0.0.11:8080".into()), "past the director");
        assert_eq!(judged(&segment("10.0.0.80:80", 0x14)).map(|a| a.kind), Some(Kind::Refuses));
        assert_eq!(judged(&segment("10.0.0.80:80", 0x10)), None);
        let (me, to) = ends();
        let syn = ip(me.addr, to.addr, 6, IpFields::default(), &tcp(me, to, &TcpFields::default(), &[]));
        let router: IpAddr = "10.0.0.1".parse().unwrap();
        let error = ethernet(RS, ME, &[], &ip(router, me.addr, 1, IpFields::default(), &icmp(router, me.addr, 3, 1, 0, &syn[..28])));
        assert_eq!(judged(&error).map(|a| (a.kind, a.src.addr)), Some((Kind::Error(3, 1), router)));
    }

    #[test]
    fn servers_are_told_apart_by_what_differs() {
        let answer = |mac: u8, clock: u32| Answer {
            kind: Kind::Accepts,
            src: ends().1,
            mac: Some(MacAddr([2, 0, 0, 0, 0, mac])),
            ttl: 64,
            after: 1,
            clock: Some(clock),
        };
        let all = [answer(1, 100), answer(2, 900_000), answer(1, 102), answer(1, u32::MAX - 50)];
        let count = |straight| {
            let mut found = signatures(&all, straight);
            found.sort();
            found.dedup();
            found.len()
        };
        // Counters go round.
        assert_eq!([count(true), count(false)], [2, 2]);
        // Another clock each time is no server each time.
        let random: Vec<Answer> = (1..7).map(|n| answer(1, n * 700_000_000)).collect();
        let first = signatures(&random, true)[0];
        assert!(first.clock.is_none() && signatures(&random, true).iter().all(|s| *s == first));
        let other = [answer(1, 7), answer(2, 7)];
        assert_eq!(signatures(&other, false)[0], signatures(&other, false)[1]);
        assert_ne!(signatures(&other, true)[0], signatures(&other, true)[1]);
    }

    /// A real socket on the loopback device: the kernel's own word for what happened.
    #[test]
    fn the_kernel_says_what_became_of_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let (socket, from) = dial(to).unwrap();
        assert!(from.port != 0 && from.addr.is_loopback());
        let until = Instant::now() + Duration::from_secs(5);
        while state(&socket).is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(state(&socket), Some(End::Open));
        drop(listener);
        let refused = dial(to).map(|(socket, _)| state(&socket));
        assert!(matches!(refused, Err(Errno::ECONNREFUSED) | Ok(Some(End::Refused))), "{refused:?}");
    }
}
