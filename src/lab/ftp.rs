//! FTP as far as LVS is concerned (RFC 959): a control connection, and a second one for the file, to the address and port that the server
//! names in the text of the first (`PASV`).

use super::scenario::Traffic;
use super::traffic::{Saw, TURN, address, filling};
use crate::net::Endpoint;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where a server hands out its files: one port for all who ask.
pub(super) struct Shelf {
    data: Mutex<TcpListener>,
    /// What it is told to name instead of its own address and port (vsftpd, pasv_address).
    named: Option<Endpoint>,
    port: u16,
}

/// How long a server waits for the second connection.
const WAIT: Duration = Duration::from_secs(5);

impl Shelf {
    pub(super) fn open(data: TcpListener, named: Option<Endpoint>) -> io::Result<Shelf> {
        data.set_nonblocking(true)?;
        let port = data.local_addr()?.port();
        Ok(Shelf { data: Mutex::new(data), named, port })
    }

    /// The next one who comes for a file.
    fn next(&self, stop: &AtomicBool) -> io::Result<TcpStream> {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        loop {
            match data.accept() {
                Ok((stream, _)) => return Ok(stream),
                Err(e) if e.kind() == ErrorKind::WouldBlock && begun.elapsed() < WAIT && !stop.load(Ordering::Relaxed) => {
                    std::thread::sleep(TURN);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Speaks with one client until it goes. The name of a file is its length.
pub(super) fn serve(stream: TcpStream, files: &Shelf, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    let own = Endpoint::new(stream.local_addr()?.ip().to_canonical(), files.port);
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    out.write_all(b"220 ready\r\n")?;
    let mut line = String::new();
    loop {
        match lines.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && !stop.load(Ordering::Relaxed) => continue,
            Err(e) => return Err(e),
        }
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("USER", _) => out.write_all(b"230 logged in\r\n")?,
            ("PASV", _) => out.write_all(passive(files.named.unwrap_or(own)).as_bytes())?,
            ("RETR", length) => {
                out.write_all(b"150 here it comes\r\n")?;
                let mut data = files.next(stop)?;
                data.set_nonblocking(false)?;
                data.set_write_timeout(Some(Duration::from_millis(500)))?;
                data.write_all(&filling(length.parse().unwrap_or(0).min(64 << 20)))?;
                drop(data);
                out.write_all(b"226 done\r\n")?;
            }
            ("QUIT", _) => return out.write_all(b"221 bye\r\n"),
            _ => out.write_all(b"502 what?\r\n")?,
        }
        line.clear();
    }
}

/// `227 Entering Passive Mode (192,0,2,1,195,81).`
fn passive(at: Endpoint) -> String {
    let IpAddr::V4(addr) = at.addr else { return "425 only IPv4\r\n".to_string() };
    let [a, b, c, d] = addr.octets();
    let [high, low] = at.port.to_be_bytes();
    format!("227 Entering Passive Mode ({a},{b},{c},{d},{high},{low}).\r\n")
}

/// Where a server says that its file is to be had.
fn named(line: &str) -> Option<SocketAddr> {
    let numbers = line.split_once('(')?.1.split_once(')')?.0;
    let bytes: Vec<u8> = numbers.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [a, b, c, d, high, low] = bytes[..] else { return None };
    Some(SocketAddr::new(IpAddr::from([a, b, c, d]), u16::from_be_bytes([high, low])))
}

/// Fetches a file in passive mode; whether the control connection stood when it failed.
pub(super) fn fetch(traffic: &Traffic, patience: Duration) -> Result<Saw, (io::Error, bool)> {
    let begun = Instant::now();
    let left = || patience.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
    let within = |e| (e, true);
    let control = TcpStream::connect_timeout(&address(traffic.to), patience).map_err(|e| (e, false))?;
    let mut lines = BufReader::new(control.try_clone().map_err(within)?);
    let mut hear = |wanted: &str| -> io::Result<String> {
        control.set_read_timeout(Some(left()))?;
        let mut line = String::new();
        match lines.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ if line.starts_with(wanted) => Ok(line),
            _ => Err(io::Error::other(line)),
        }
    };
    let mut out = control.try_clone().map_err(within)?;
    let mut say = |line: &str| out.write_all(line.as_bytes()).map_err(within);
    hear("220").map_err(within)?;
    say("USER anonymous\r\n")?;
    hear("230").map_err(within)?;
    say("PASV\r\n")?;
    let to = named(&hear("227").map_err(within)?).ok_or_else(|| within(io::Error::other("no address in 227")))?;
    let mut data = TcpStream::connect_timeout(&to, left()).map_err(within)?;
    say(&format!("RETR {}\r\n", traffic.answer))?;
    hear("150").map_err(within)?;
    let (mut got, mut buffer) = (0, [0; 16_384]);
    while got < traffic.answer {
        data.set_read_timeout(Some(left())).map_err(within)?;
        match data.read(&mut buffer).map_err(within)? {
            0 => return Ok(Saw::Reset),
            len => got += len,
        }
    }
    hear("226").map_err(within)?;
    Ok(Saw::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_second_connection() {
        let said = passive("192.0.2.1:50001".parse().unwrap());
        assert_eq!(said, "227 Entering Passive Mode (192,0,2,1,195,81).\r\n");
        assert_eq!(named(&said), Some("192.0.2.1:50001".parse().unwrap()));
        for bad in ["227 x", "227 (1,2,3,4,5)", "227 (1,2,3,4,5,600)", "227 (1,2,3,4,5,6", ")("] {
            assert_eq!(named(bad), None, "{bad}");
        }
    }
}
