//! Servers and clients: questions of a given size, answers of a given size, and what the client saw.
//!
//! A question begins with a line that says how long it is, how long the answer has to be, and after how many milliseconds it is wanted,
//! `ASK 100 1000 0`, and goes on with filling.

use super::build::Host;
use super::ftp::{self, Shelf};
use super::scenario::{Serve, Traffic};
use crate::net::{Endpoint, Protocol};
use nix::sys::socket::Backlog;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What became of a question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Saw {
    /// The whole answer.
    Answer,
    /// Nothing: no connection within the patience of the client.
    NoConnection,
    /// A connection, and then not the whole answer within the patience of the client.
    NoAnswer,
    /// A reset instead of a connection.
    Refused,
    /// A reset in the middle.
    Reset,
    /// An ICMP error, or no route.
    Unreachable,
}

impl fmt::Display for Saw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Saw::Answer => "answered",
            Saw::NoConnection => "no connection (timed out)",
            Saw::NoAnswer => "connected, no whole answer (timed out)",
            Saw::Refused => "refused",
            Saw::Reset => "reset",
            Saw::Unreachable => "unreachable",
        })
    }
}

/// A server that runs until it is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) const TURN: Duration = Duration::from_millis(5);
/// A datagram is sent again after so long, as resolvers do.
const AGAIN: Duration = Duration::from_millis(400);
/// A question longer than this is nobody's here.
const MOST: usize = 64 << 20;
/// Nor is an answer wanted later than this.
const LONGEST: Duration = Duration::from_secs(60);

/// Starts a server on a host; it listens when this returns.
///
/// # Errors
/// When the address is not the host's, or the port is taken.
pub fn serve(host: &Host, serve: Serve, ipv6: bool) -> io::Result<Server> {
    let any = if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let at = SocketAddr::new(serve.addr.unwrap_or(any), serve.port);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = match serve.protocol {
        Protocol::Udp => {
            let socket = host.namespace.run(|| UdpSocket::bind(at)).map_err(io::Error::from)??;
            socket.set_read_timeout(Some(TURN))?;
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !stopped.load(Ordering::Relaxed) {
                    if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        let (_, answer, delay) = wanted(&buffer[..len]).unwrap_or_default();
                        std::thread::sleep(delay);
                        let answer = answer.min(65_000);
                        let _ = socket.send_to(&filling(answer), from);
                    }
                }
            })
        }
        _ => {
            let listener = host.namespace.run(|| TcpListener::bind(at)).map_err(io::Error::from)??;
            listener.set_nonblocking(true)?;
            if let Some(room) = serve.room {
                // Told once more, a listening socket takes the new number.
                let room = Backlog::new(i32::from(room)).map_err(io::Error::from)?;
                nix::sys::socket::listen(&listener, room).map_err(io::Error::from)?;
            }
            let files = match serve.ftp {
                None => None,
                Some(named) => {
                    let at = SocketAddr::new(any, named.map_or(0, |named| named.port));
                    Some(Arc::new(Shelf::open(host.namespace.run(|| TcpListener::bind(at)).map_err(io::Error::from)??, named)?))
                }
            };
            let slow = Duration::from_millis(serve.slow_ms);
            std::thread::spawn(move || {
                let mut talks: Vec<JoinHandle<()>> = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            let (stopped, files) = (stopped.clone(), files.clone());
                            talks.push(std::thread::spawn(move || match files {
                                None => drop(answer(stream, &stopped)),
                                Some(files) => drop(ftp::serve(stream, &files, &stopped)),
                            }));
                            std::thread::sleep(slow);
                        }
                        Err(_) => std::thread::sleep(TURN),
                    }
                }
                talks.into_iter().for_each(|talk| drop(talk.join()));
            })
        }
    };
    Ok(Server { stop, thread: Some(thread) })
}

/// Answers questions on one connection until its other side closes it.
fn answer(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    let mut asked = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => asked.extend_from_slice(&buffer[..len]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && !stop.load(Ordering::Relaxed) => {}
            Err(e) => return Err(e),
        }
        if let Some((question, answer, delay)) = wanted(&asked).filter(|(question, ..)| asked.len() >= *question) {
            asked.drain(..question);
            std::thread::sleep(delay);
            stream.write_all(&filling(answer))?;
        } else if asked.starts_with(b"GET ") && asked.windows(4).any(|end| end == b"\r\n\r\n") {
            // For those who look around with a browser's words.
            let body = format!("{}\n", stream.local_addr()?);
            return stream.write_all(format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        }
    }
}

/// Length of question and answer, and when the answer is wanted.
fn wanted(asked: &[u8]) -> Option<(usize, usize, Duration)> {
    let end = asked.iter().position(|&b| b == b'\n')?;
    let line = std::str::from_utf8(&asked[..end]).ok()?;
    let mut numbers = line.strip_prefix("ASK ")?.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    let (question, answer, delay): (usize, usize, usize) = (next()?, next()?, next()?);
    let delay = Duration::from_millis(delay as u64);
    (question <= MOST && answer <= MOST && delay <= LONGEST).then_some((question.max(end + 1), answer, delay))
}

fn question(traffic: &Traffic) -> Vec<u8> {
    let mut text = format!("ASK {} {} {}\n", traffic.request, traffic.answer, traffic.delay_ms).into_bytes();
    text.extend(filling(traffic.request.saturating_sub(text.len())));
    text
}

/// Bytes that are not all the same, so that a part of them is told from another.
pub(super) fn filling(len: usize) -> Vec<u8> {
    (0..len).map(|at| b'a' + ((at / 7 + at) % 26) as u8).collect()
}

/// Asks all that a client has to ask, from the calling thread's network namespace.
pub fn talk(traffic: &Traffic) -> Vec<Saw> {
    std::thread::scope(|scope| {
        let begin = |nth: u32| {
            std::thread::sleep(Duration::from_millis(traffic.every_ms) * nth);
            one(traffic)
        };
        let all: Vec<_> = (0..traffic.connections).map(|nth| scope.spawn(move || begin(nth))).collect();
        all.into_iter().map(|talk| talk.join().unwrap_or(Saw::NoConnection)).collect()
    })
}

fn one(traffic: &Traffic) -> Saw {
    let patience = Duration::from_millis(traffic.patience_ms);
    let seen = match traffic.protocol {
        Protocol::Udp => ask_udp(traffic, patience),
        _ if traffic.ftp => ftp::fetch(traffic, patience),
        _ => ask_tcp(traffic, patience),
    };
    seen.unwrap_or_else(|(e, connected)| match e.kind() {
        ErrorKind::ConnectionRefused => Saw::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Saw::Reset,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Saw::Unreachable,
        _ if connected => Saw::NoAnswer,
        _ => Saw::NoConnection,
    })
}

fn ask_tcp(traffic: &Traffic, patience: Duration) -> Result<Saw, (io::Error, bool)> {
    let begun = Instant::now();
    let left = |begun: Instant| patience.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address(traffic.to), patience).map_err(|e| (e, false))?;
    if traffic.request == 0 {
        return Ok(Saw::Answer);
    }
    let within = |e| (e, true);
    stream.set_write_timeout(Some(left(begun))).map_err(within)?;
    for turn in 0..questions(traffic) {
        if turn > 0 {
            std::thread::sleep(Duration::from_millis(traffic.pause_ms));
        }
        let begun = Instant::now();
        stream.write_all(&question(traffic)).map_err(within)?;
        let (mut got, mut buffer) = (0, [0; 16_384]);
        while got < traffic.answer {
            stream.set_read_timeout(Some(left(begun))).map_err(within)?;
            match stream.read(&mut buffer).map_err(within)? {
                0 => return Ok(Saw::Reset),
                len => got += len,
            }
            if begun.elapsed() >= patience && got < traffic.answer {
                return Ok(Saw::NoAnswer);
            }
        }
    }
    Ok(Saw::Answer)
}

fn ask_udp(traffic: &Traffic, patience: Duration) -> Result<Saw, (io::Error, bool)> {
    let own = if traffic.to.addr.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let first = |e| (e, false);
    let socket = UdpSocket::bind(SocketAddr::new(own, 0)).map_err(first)?;
    socket.connect(address(traffic.to)).map_err(first)?;
    let mut buffer = vec![0; 65_536];
    socket.set_read_timeout(Some(patience.min(AGAIN).max(TURN))).map_err(first)?;
    for turn in 0..questions(traffic) {
        if turn > 0 {
            std::thread::sleep(Duration::from_millis(traffic.pause_ms));
        }
        let begun = Instant::now();
        loop {
            socket.send(&question(traffic)).map_err(first)?;
            match socket.recv(&mut buffer) {
                Ok(_) => break,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && begun.elapsed() < patience => {}
                Err(e) => return Err((e, turn > 0)),
            }
        }
    }
    Ok(Saw::Answer)
}

/// How many questions are asked on one connection, or from one port.
fn questions(traffic: &Traffic) -> u32 {
    if traffic.pause_ms > 0 { 3 } else { 1 }
}

pub(super) fn address(to: Endpoint) -> SocketAddr {
    SocketAddr::new(to.addr, to.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_says_how_long_it_is() {
        assert_eq!(wanted(b"ASK 100 1000 5\nabc"), Some((100, 1000, Duration::from_millis(5))));
        assert_eq!(wanted(b"ASK 1 2 0\n"), Some((10, 2, Duration::ZERO)));
        for bad in [&b"ASK 100 1000 0"[..], b"GET / HTTP/1.0\n", b"ASK x y 0\n", b"ASK 99999999999 1 0\n", b"ASK 1 1 99999999\n", b"\xff\n"]
        {
            assert_eq!(wanted(bad), None);
        }
    }
}
