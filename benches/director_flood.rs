//! Sends 64-byte UDP frames of many flows for some seconds, or counts what comes, and prints packets and processor seconds; sends as much as
//! goes by TCP, or takes it and prints bytes.
//!
//! director_flood send ADDRESS:PORT FLOWS SECONDS | count ADDRESS:PORT SECONDS | stream ADDRESS:PORT SECONDS | sink ADDRESS:PORT
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// User and system time of this process, in seconds: a packet that the kernel forwards in its sender's context counts here.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let words: Vec<&str> = stat.rsplit(") ").next().expect("a name").split(' ').collect();
    (words[11].parse::<f64>().expect("utime") + words[12].parse::<f64>().expect("stime")) / 100.0
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let word = |at: usize| words.get(at).map(String::as_str).unwrap_or_default();
    let seconds = |at: usize| Duration::from_secs_f64(word(at).parse().expect("seconds"));
    let (mut packets, begin) = (0u64, Instant::now());
    match word(1) {
        "send" => {
            let flows: usize = word(3).parse().expect("flows");
            let sockets: Vec<UdpSocket> = (0..flows)
                .map(|_| {
                    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
                    socket.connect(word(2)).expect("an address");
                    socket
                })
                .collect();
            // 14 + 20 + 8 + 22 = 64 bytes.
            while begin.elapsed() < seconds(4) {
                for socket in &sockets {
                    packets += u64::from(socket.send(&[0; 22]).is_ok());
                }
            }
        }
        "stream" => {
            let mut stream = TcpStream::connect(word(2)).expect("a connection");
            let data = vec![0; 256 << 10];
            while begin.elapsed() < seconds(3) {
                stream.write_all(&data).expect("a reader");
            }
            return;
        }
        "sink" => {
            let (mut stream, _) = TcpListener::bind(word(2)).expect("the port").accept().expect("a client");
            let (mut bytes, mut buffer) = (0, vec![0; 256 << 10]);
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                bytes += len as u64;
            }
            println!("{bytes}");
            return;
        }
        _ => {
            let socket = UdpSocket::bind(word(2)).expect("the port");
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            let mut buffer = [0; 64];
            while begin.elapsed() < seconds(3) {
                packets += u64::from(socket.recv(&mut buffer).is_ok());
            }
        }
    }
    println!("{packets} {:.2}", processor());
}
