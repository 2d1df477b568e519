//! One capture file, of whatever format.

use super::input::Input;
use super::pcap::{PcapFormat, Records};
use super::pcapng::PcapngFormat;
use crate::net::{Timestamp, thousands};
use crate::packet::{Frame, Heading, LinkType};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The longest packet that is believed, in bytes. libpcap stops at 262,144; Linux hosts with "BIG TCP" show frames of 512 KiB.
pub(super) const MAX_PACKET: u32 = 1024 * 1024;

/// An interface that a file's packets were captured on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What its packets begin with.
    pub link_type: LinkType,
    /// At most this many bytes of a packet were kept; 0 means no limit.
    pub snap_len: u32,
    /// Its name on the capturing host (pcapng).
    pub name: Option<String>,
    /// Free text about it (pcapng).
    pub description: Option<String>,
    /// Comments in its description (pcapng).
    pub comment: Option<String>,
    /// The capture filter, as text (pcapng).
    pub filter: Option<String>,
    /// Operating system of the capturing host (pcapng).
    pub os: Option<String>,
    /// How many packets were lost while capturing (pcapng).
    pub drops: Option<Drops>,
}

impl Interface {
    pub(super) fn new(link_type: LinkType, snap_len: u32) -> Self {
        Interface { link_type, snap_len, name: None, description: None, comment: None, filter: None, os: None, drops: None }
    }
}

/// Counters of an interface statistics block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Drops {
    /// Packets received.
    pub received: Option<u64>,
    /// Packets dropped by the interface or its driver.
    pub by_interface: Option<u64>,
    /// Packets dropped by the operating system: the capture buffer was full.
    pub by_os: Option<u64>,
}

impl Drops {
    /// Packets lost in all.
    pub fn total(&self) -> u64 {
        self.by_interface.unwrap_or(0).saturating_add(self.by_os.unwrap_or(0))
    }
}

/// What is wrong with a file, and where. Everything before it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Offset in the file, or in the uncompressed stream of a compressed one.
    pub offset: u64,
    /// The packet that could not be read, counted from 1.
    pub packet: u64,
    /// What was found.
    pub what: String,
    /// The file simply ends too early, as one that was copied while being written.
    pub cut_short: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.cut_short { "cut short" } else { "damaged" };
        write!(f, "{state} at byte {} (packet {}): {}", thousands(self.offset), thousands(self.packet), self.what)
    }
}

/// Why a file could not be opened as a capture.
#[derive(Debug)]
pub enum OpenError {
    /// The operating system said no.
    Io(io::Error),
    /// There is not a single byte in it.
    Empty,
    /// It does not begin as any capture format does; the text says what it looks like.
    NotACapture(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io(e) => write!(f, "cannot be read: {}", os_words(e)),
            OpenError::Empty => f.write_str("is empty; a capture, even one without packets, has a file header. Did tcpdump start?"),
            OpenError::NotACapture(what) => write!(f, "is not a capture file: {what}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// The error without Rust's "(os error 2)".
fn os_words(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

enum Format {
    Pcap(PcapFormat),
    Pcapng(PcapngFormat),
}

/// The record that `advance` found, still in the input's window.
#[derive(Clone, Copy, Default)]
pub(super) struct Record {
    /// Where the packet begins in the window, and its captured length.
    pub(super) at: usize,
    pub(super) len: usize,
    /// Bytes of the window to drop before the next record.
    pub(super) consume: usize,
    pub(super) wire_len: u32,
    pub(super) time: Timestamp,
    pub(super) interface: u32,
    pub(super) link_type: u16,
    pub(super) heading: Option<Heading>,
}

/// What reading one record came to.
pub(super) enum Step {
    /// The record has been filled in.
    Packet,
    /// A clean end.
    End,
    Damaged(Box<Flaw>),
}

/// What is wrong with the bytes at hand.
pub(super) struct Flaw {
    what: String,
    cut_short: bool,
}

impl Step {
    /// The file ends inside something.
    pub(super) fn cut(what: String) -> Self {
        Step::Damaged(Box::new(Flaw { what, cut_short: true }))
    }

    /// The bytes cannot be what they should be.
    pub(super) fn damaged(what: String) -> Self {
        Step::Damaged(Box::new(Flaw { what, cut_short: false }))
    }
}

/// Packets of one file that come before those of all others.
pub enum Burst<'b, 'a> {
    /// One.
    One(Frame<'a>),
    /// At least one, all on the file's only interface.
    Window(&'b mut Records<'a>),
}

/// A capture file, read from front to back: pcap or pcapng, plain or compressed.
pub struct CaptureFile {
    name: String,
    input: Input,
    format: Format,
    /// Size of the file on disk, where known.
    size: Option<u64>,
    interfaces: Vec<Interface>,
    frames: u64,
    record: Record,
    /// `record` is a packet that has been read and not passed yet.
    at_packet: bool,
    damage: Vec<Damage>,
    ended: bool,
}

impl CaptureFile {
    /// Opens `path`; `-` is standard input.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or does not begin as a capture does.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if path.as_os_str() == "-" {
            return Self::from_reader("-", Box::new(io::stdin()));
        }
        let file = File::open(path).map_err(OpenError::Io)?;
        let meta = file.metadata().map_err(OpenError::Io)?;
        if meta.is_dir() {
            return Err(OpenError::NotACapture("it is a directory; to replay a case folder use `lvscope replay`".to_string()));
        }
        let mut opened = Self::from_reader(&path.display().to_string(), Box::new(file))?;
        opened.size = meta.is_file().then_some(meta.len());
        Ok(opened)
    }

    /// Reads a capture from any stream; `name` is what it is called in messages.
    ///
    /// # Errors
    /// As for [`CaptureFile::open`].
    pub fn from_reader(name: &str, reader: Box<dyn Read + Send>) -> Result<Self, OpenError> {
        let mut input = Input::new(reader).map_err(OpenError::Io)?;
        let mut interfaces = Vec::new();
        if !input.ensure(4) {
            return Err(match input.error.take() {
                Some(e) if input.compression.is_none() => OpenError::Io(e),
                Some(e) => {
                    OpenError::NotACapture(format!("it begins as {} data but does not unpack: {e}", input.compression.unwrap_or_default()))
                }
                None if input.data().is_empty() && input.compression.is_none() => OpenError::Empty,
                None => OpenError::NotACapture(format!("it has only {} bytes", input.data().len())),
            });
        }
        let mut damage = Vec::new();
        let format = if PcapngFormat::recognises(input.data()) {
            Format::Pcapng(PcapngFormat::default())
        } else if PcapFormat::recognises(input.data()) {
            match PcapFormat::open(&mut input) {
                Ok((format, interface)) => {
                    interfaces.push(interface);
                    Format::Pcap(format)
                }
                Err(what) => {
                    damage.push(Damage { offset: input.data().len() as u64, packet: 1, what, cut_short: true });
                    Format::Pcap(PcapFormat::default())
                }
            }
        } else {
            input.ensure(64);
            return Err(OpenError::NotACapture(looks_like(input.data())));
        };
        let ended = !damage.is_empty();
        let record = Record { link_type: interfaces.first().map_or(0, |interface: &Interface| interface.link_type.0), ..Record::default() };
        Ok(CaptureFile {
            name: name.to_string(),
            input,
            format,
            size: None,
            interfaces,
            frames: 0,
            record,
            at_packet: false,
            damage,
            ended,
        })
    }

    /// The name it was opened under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Goes on to the next packet; false at the end, clean or not.
    #[inline]
    pub fn advance(&mut self) -> bool {
        if self.at_packet {
            self.input.consume(self.record.consume);
            self.at_packet = false;
        }
        if self.ended {
            return false;
        }
        let step = match &mut self.format {
            Format::Pcap(format) => format.step(&mut self.input, &mut self.record),
            Format::Pcapng(format) => format.step(&mut self.input, &mut self.interfaces, &mut self.record),
        };
        if let Step::Packet = step {
            self.frames += 1;
            self.at_packet = true;
            return true;
        }
        self.end(step)
    }

    /// Hands over the packet that `advance` went to, and with it, where the format is a common one, all others that are whole in the
    /// window. What `take` leaves is lost.
    #[inline(always)]
    pub(super) fn hand_over<T>(&mut self, take: impl FnOnce(&[Interface], Burst<'_, '_>) -> T) -> Option<T> {
        let records = match &self.format {
            // It was counted already, and begins the window.
            Format::Pcap(format) if self.at_packet => format.records(self.input.data(), self.frames - 1, self.record.link_type),
            _ => None,
        };
        let Some(mut records) = records else {
            return self.frame().map(|frame| take(&self.interfaces, Burst::One(frame)));
        };
        let taken = take(&self.interfaces, Burst::Window(&mut records));
        let (left, frames) = (records.rest.len(), records.frames);
        self.frames = frames;
        self.input.consume(self.input.data().len() - left);
        self.at_packet = false;
        Some(taken)
    }

    #[cold]
    fn end(&mut self, step: Step) -> bool {
        self.ended = true;
        let at = |input: &Input| input.offset();
        if let Some(e) = self.input.error.take() {
            let what = match self.input.compression {
                Some(kind) => format!("the {kind} data does not unpack further: {e}"),
                None => format!("reading failed: {}", os_words(&e)),
            };
            let cut_short = e.kind() == io::ErrorKind::UnexpectedEof;
            self.damage.push(Damage { offset: at(&self.input), packet: self.frames + 1, what, cut_short });
        } else if let Step::Damaged(flaw) = step {
            let Flaw { what, cut_short } = *flaw;
            self.damage.push(Damage { offset: at(&self.input), packet: self.frames + 1, what, cut_short });
        }
        false
    }

    /// The packet that `advance` went to.
    #[inline]
    pub fn frame(&self) -> Option<Frame<'_>> {
        let record = &self.record;
        if !self.at_packet {
            return None;
        }
        Some(Frame {
            bytes: self.input.data().get(record.at..record.at + record.len)?,
            wire_len: record.wire_len,
            link_type: LinkType(record.link_type),
            time: record.time,
            number: self.frames,
            interface: record.interface,
            heading: record.heading,
        })
    }

    /// The time of the packet that `advance` went to.
    #[inline]
    pub fn time(&self) -> Option<Timestamp> {
        self.at_packet.then_some(self.record.time)
    }

    /// The interfaces described so far, over all sections of a pcapng file.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Packets read so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// What was wrong with it, known when `advance` has returned false.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// Counts the bytes of the file that have been read, as they are on disk, for a progress bar.
    pub fn meter(&self) -> Arc<AtomicU64> {
        self.input.meter()
    }

    /// Its size on disk in bytes, where that is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }
}

/// What a file that is no capture might be, for the error message.
fn looks_like(data: &[u8]) -> String {
    let head = &data[..data.len().min(64)];
    let hint = match head {
        [b'{', ..] => "it looks like JSON; a host snapshot goes with --host",
        [b'-', b'A', b' ', ..] => "it looks like an `ipvsadm -Sn` dump; that goes with --ipvs",
        [b'P', b'K', 3, 4, ..] => "it is a zip archive; unpack it first",
        [b'B', b'Z', b'h', ..] => "it is bzip2; unpack it first (gzip and zstd are read as they are)",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "it is xz; unpack it first (gzip and zstd are read as they are)",
        [0x7f, b'E', b'L', b'F', ..] => "it is a program",
        _ if head.iter().all(|b| matches!(b, 9 | 10 | 13 | 32..=126)) => "it is text; captures are binary: tcpdump -w FILE",
        [0x0a, 0x0d, 0x0d, ..] => "its pcapng section header is damaged",
        _ => "",
    };
    let magic: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
    if hint.is_empty() {
        format!("it begins with {}; a pcap file begins with d4 c3 b2 a1, a pcapng file with 0a 0d 0d 0a", magic.join(" "))
    } else {
        hint.to_string()
    }
}
