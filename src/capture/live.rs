//! Live capture by libpcap, on several interfaces at once and in several network namespaces. Beside `filter`, the only place that knows the
//! `pcap` crate.
//!
//! One thread, one poll(2) over all interfaces: libpcap's own time-out does not run before the first packet, so a blocking read on an idle
//! link would not notice that it has to end. Frames wait in the kernel's ring for at most [`RETIRE`].

use super::Drops;
use super::place::{Place, PlaceError, within};
use crate::net::Timestamp;
use crate::packet::{Frame, LinkType};
use ::pcap::{Active, Capture, Error, Precision};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrStorage, getsockname};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// How to capture.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    /// At most so many bytes of a packet.
    pub snap_len: u32,
    /// Bytes of the kernel's ring, for each interface.
    pub buffer: usize,
    /// Frames for other hosts too.
    pub promiscuous: bool,
    /// In tcpdump's language.
    pub filter: Option<String>,
}

/// After so long the kernel hands over a part of its ring that is not full.
const RETIRE: Duration = Duration::from_millis(20);
/// Packets that are taken from one interface before the next has its turn.
const BURST: usize = 4096;

/// A place that cannot be captured at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveError {
    /// There is no such place.
    Place(PlaceError),
    /// A right is missing.
    Denied,
    /// The interface is down.
    Down,
    /// In libpcap's words.
    Other(String),
}

impl fmt::Display for LiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LiveError::Place(e) => write!(f, "{e}"),
            LiveError::Denied => f.write_str("CAP_NET_RAW is missing"),
            LiveError::Down => f.write_str("the interface is down"),
            LiveError::Other(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for LiveError {}

/// An interface that is being captured on.
pub struct Tap {
    /// Where.
    pub place: Place,
    /// What its packets begin with.
    pub link_type: LinkType,
    /// Packets that came.
    pub packets: u64,
    /// Why nothing more comes.
    pub lost: Option<String>,
    capture: Capture<Active>,
    /// What was counted before it was lost and came back.
    before: Drops,
    /// libpcap reads the interface's own drops from /sys, which may show another namespace's interface of that name.
    sees_card: bool,
}

impl Tap {
    /// Begins to capture at a place.
    ///
    /// # Errors
    /// When there is no such interface, it is down, a right is missing, or the filter makes no sense there.
    pub fn open(place: &Place, options: &LiveOptions) -> Result<Tap, LiveError> {
        place.exists().map_err(LiveError::Place)?;
        let opened =
            within(place.netns.as_deref(), || open(&place.interface, options).map(|capture| (capture, sees_card(&place.interface))));
        let (capture, sees_card) = opened.map_err(LiveError::Place)?.map_err(in_words)?;
        // Raw IP has another number inside libpcap than in files (DLT_RAW 12, LINKTYPE_RAW 101).
        let link_type = match capture.get_datalink().0 {
            12 => LinkType::RAW,
            other => LinkType(u16::try_from(other).unwrap_or(u16::MAX)),
        };
        Ok(Tap { place: place.clone(), link_type, packets: 0, lost: None, capture, before: Drops::default(), sees_card })
    }

    /// True when its interface was deleted: the kernel takes it from the socket then (`net/packet/af_packet.c`, `packet_notifier`). libpcap
    /// is told once, when the interface goes down; if that is still there when it looks, it hears of nothing more.
    fn is_gone(&self) -> bool {
        let bound = getsockname::<SockaddrStorage>(self.capture.as_fd().as_raw_fd());
        bound.is_ok_and(|bound| bound.as_link_addr().is_some_and(|link| link.ifindex() == usize::MAX))
    }

    /// What was counted until now.
    pub fn counted(&mut self) -> Drops {
        let now = match self.capture.stats() {
            Ok(stat) => Drops {
                received: Some(stat.received.into()),
                by_interface: self.sees_card.then_some(stat.if_dropped.into()),
                by_os: Some(stat.dropped.into()),
            },
            Err(_) => Drops::default(),
        };
        let sum = |before: Option<u64>, now: Option<u64>| before.map_or(now, |before| Some(before + now.unwrap_or(0)));
        Drops {
            received: sum(self.before.received, now.received),
            by_interface: sum(self.before.by_interface, now.by_interface),
            by_os: sum(self.before.by_os, now.by_os),
        }
    }
}

fn open(interface: &str, options: &LiveOptions) -> Result<Capture<Active>, Error> {
    let mut capture = Capture::from_device(interface)?
        .snaplen(i32::try_from(options.snap_len).unwrap_or(i32::MAX))
        .buffer_size(i32::try_from(options.buffer).unwrap_or(i32::MAX))
        .promisc(options.promiscuous)
        .timeout(RETIRE.as_millis() as i32)
        .precision(Precision::Nano)
        .open()?
        .setnonblock()?;
    if let Some(filter) = &options.filter {
        capture.filter(filter, true)?;
    }
    Ok(capture)
}

fn sees_card(interface: &str) -> bool {
    let shown = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).ok().and_then(|text| text.trim().parse().ok());
    shown.is_some() && shown == nix::net::if_::if_nametoindex(interface).ok()
}

fn in_words(e: Error) -> LiveError {
    let words = e.to_string();
    let words = words.strip_prefix("libpcap error: ").unwrap_or(&words);
    match words {
        w if w.contains("Operation not permitted") || w.contains("ermission") || w.contains("CAP_NET_RAW") => LiveError::Denied,
        w if w.contains("not up") => LiveError::Down,
        other => LiveError::Other(other.to_string()),
    }
}

/// Interfaces that are captured on together.
pub struct Live {
    /// Each of them, also those that have been lost.
    pub taps: Vec<Tap>,
    frames: u64,
    /// When those that are lost were looked for.
    looked: Instant,
    /// When it was looked whether all are still there.
    checked: Instant,
}

/// How often.
const LOOK: Duration = Duration::from_secs(1);

impl Live {
    /// Of open ones.
    pub fn new(taps: Vec<Tap>) -> Self {
        Live { taps, frames: 0, looked: Instant::now(), checked: Instant::now() }
    }

    /// True as long as something can still come.
    pub fn is_alive(&self) -> bool {
        self.taps.iter().any(|tap| tap.lost.is_none())
    }

    /// Looks, now and then, for interfaces that were lost; says which are back. They go on as what they were.
    pub fn revive(&mut self, options: &LiveOptions) -> Vec<usize> {
        let mut back = Vec::new();
        if self.looked.elapsed() < LOOK || self.taps.iter().all(|tap| tap.lost.is_none()) {
            return back;
        }
        self.looked = Instant::now();
        for (at, tap) in self.taps.iter_mut().enumerate().filter(|(_, tap)| tap.lost.is_some()) {
            let before = tap.counted();
            // A file has one link type for each interface.
            if let Ok(found) = Tap::open(&tap.place, options)
                && found.link_type == tap.link_type
            {
                *tap = Tap { packets: tap.packets, before, ..found };
                back.push(at);
            }
        }
        back
    }

    /// Waits for frames and takes those that are there, until `take` has had enough (false). Says how many it took; an interface that is lost
    /// now says so in [`Tap::lost`], and the others go on.
    ///
    /// # Errors
    /// When waiting is impossible.
    pub fn turn(&mut self, patience: Duration, mut take: impl FnMut(&Frame<'_>) -> bool) -> Result<u64, Errno> {
        if self.checked.elapsed() >= LOOK {
            self.checked = Instant::now();
            for tap in self.taps.iter_mut().filter(|tap| tap.lost.is_none() && tap.is_gone()) {
                tap.lost = Some("the interface disappeared".to_string());
            }
        }
        {
            let alive = self.taps.iter().filter(|tap| tap.lost.is_none());
            let mut fds: Vec<PollFd<'_>> = alive.map(|tap| PollFd::new(tap.capture.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)) {
                Ok(0) | Err(Errno::EINTR) => return Ok(0),
                Ok(_) => {}
                Err(errno) => return Err(errno),
            }
        }
        let before = self.frames;
        for (at, tap) in (0..).zip(&mut self.taps).filter(|(_, tap)| tap.lost.is_none()) {
            for _ in 0..BURST {
                let packet = match tap.capture.next_packet() {
                    Ok(packet) => packet,
                    Err(Error::TimeoutExpired | Error::NoMorePackets) => break,
                    Err(e) => {
                        tap.lost = Some(in_words(e).to_string());
                        break;
                    }
                };
                self.frames += 1;
                tap.packets += 1;
                let frame = Frame {
                    bytes: packet.data,
                    wire_len: packet.header.len,
                    link_type: tap.link_type,
                    // With nanosecond precision the field holds nanoseconds.
                    time: Timestamp::new(packet.header.ts.tv_sec, packet.header.ts.tv_usec),
                    number: self.frames,
                    interface: at,
                    heading: None,
                };
                if !take(&frame) {
                    return Ok(self.frames - before);
                }
            }
        }
        Ok(self.frames - before)
    }

    /// Takes what the kernel still holds: to be called once nothing more is wanted.
    ///
    /// # Errors
    /// As [`Live::turn`].
    pub fn drain(&mut self, mut take: impl FnMut(&Frame<'_>) -> bool) -> Result<(), Errno> {
        let until = Instant::now() + RETIRE * 3;
        let mut wanted = true;
        while wanted && self.is_alive() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.turn(left, |frame| {
                wanted = take(frame);
                wanted
            })?;
        }
        Ok(())
    }
}
