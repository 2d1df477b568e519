//! Captures of every interface of every host, while the lab is played.

use super::build::{Host, Network};
use super::tunnel;
use crate::capture::{LARGEST, PcapngWriter, Wire, WireOptions};
use crate::net::Timestamp;
use crate::netlink::{Family, Socket};
use crate::packet::LinkType;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// `ARPHRD_ETHER`, linux/if_arp.h; other interfaces of the lab show IP packets.
const ETHERNET: u16 = 1;
/// What is still on its way when recording ends.
const LINGER: Duration = Duration::from_millis(20);

/// Captures that are being made, until it is dropped.
pub struct Recording {
    stop: Arc<AtomicBool>,
    points: Vec<Point>,
}

struct Point {
    name: String,
    link_type: LinkType,
    /// Bytes in front of the IP packet that are the lab's own.
    skip: usize,
    thread: JoinHandle<Vec<(Timestamp, Vec<u8>)>>,
}

/// Begins to capture on all interfaces but lo, of all hosts or of those named.
///
/// # Errors
/// When an interface cannot be opened.
pub fn begin(network: &Network) -> io::Result<Recording> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut points = Vec::new();
    for host in &network.hosts {
        for (wire, ethernet) in open(host)? {
            let name = format!("{}.{}", host.name, wire.name());
            let stop = stop.clone();
            // A tunnel device shows packets without a link header.
            let tunnel = wire.name() == tunnel::NAME;
            let link_type = if ethernet && !tunnel { LinkType::ETHERNET } else { LinkType::RAW };
            let skip = if ethernet && tunnel { 14 } else { 0 };
            points.push(Point { name, link_type, skip, thread: std::thread::spawn(move || listen(wire, &stop)) });
        }
    }
    Ok(Recording { stop, points })
}

fn open(host: &Host) -> io::Result<Vec<(Wire, bool)>> {
    let opened = host.wire().run(|| -> io::Result<_> {
        let links = Socket::open(Family::Route).and_then(|mut socket| socket.links()).map_err(io::Error::other)?;
        let mut wires = Vec::new();
        for link in links.iter().filter(|link| link.name != "lo" && link.is_up()) {
            let options = WireOptions { promiscuous: true, buffer: 4 << 20, ..WireOptions::default() };
            let wire = Wire::open(&link.name, options).map_err(io::Error::other)?;
            wires.push((wire, link.hardware == ETHERNET));
        }
        Ok(wires)
    });
    opened.map_err(io::Error::from)?
}

fn listen(mut wire: Wire, stop: &AtomicBool) -> Vec<(Timestamp, Vec<u8>)> {
    let (mut frames, mut buffer) = (Vec::new(), vec![0; LARGEST]);
    loop {
        match wire.receive(&mut buffer, LINGER) {
            Ok(Some(arrival)) => frames.push((arrival.time, buffer[..arrival.len].to_vec())),
            Ok(None) if stop.load(Ordering::Relaxed) => return frames,
            Ok(None) => {}
            // Gone, or down for a while: what was seen stays.
            Err(_) if stop.load(Ordering::Relaxed) => return frames,
            Err(_) => std::thread::sleep(LINGER),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for point in self.points.drain(..) {
            let _ = point.thread.join();
        }
    }
}

impl Recording {
    /// Ends it and writes `HOST.IFACE.pcapng` for each interface into a folder.
    ///
    /// # Errors
    /// Those of writing.
    pub fn end(mut self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut files = Vec::new();
        for point in std::mem::take(&mut self.points) {
            let frames = point.thread.join().map_err(|_| io::Error::other("a capturing thread panicked"))?;
            let path = folder.join(format!("{}.pcapng", point.name));
            let mut writer = PcapngWriter::new(BufWriter::new(File::create(&path)?), concat!("lvscope ", env!("CARGO_PKG_VERSION")))?;
            let interface = writer.interface(&point.name, point.link_type)?;
            for (time, bytes) in &frames {
                writer.frame(interface, *time, bytes.get(point.skip..).unwrap_or_default(), None)?;
            }
            writer.finish()?;
            files.push(path);
        }
        Ok(files)
    }
}
