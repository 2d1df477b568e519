//! Captures written: pcapng, <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html>, with nanoseconds.

use super::Drops;
use crate::net::Timestamp;
use crate::packet::LinkType;
use std::io::{self, Write};

/// Writes frames into a pcapng file.
pub struct PcapngWriter<W: Write> {
    to: W,
    interfaces: u32,
    /// The block that is being put together; kept for its memory.
    body: Vec<u8>,
}

/// What is said of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Its name, perhaps with its host's in front: `web1.eth0`.
    pub name: String,
    /// Where it is.
    pub description: Option<String>,
    /// The capture filter, in tcpdump's language.
    pub filter: Option<String>,
    /// Operating system of the host.
    pub os: Option<String>,
    /// At most this many bytes of a packet are kept; 0 means no limit.
    pub snap_len: u32,
}

impl<W: Write> PcapngWriter<W> {
    /// Begins a file; `application` says who writes.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn new(to: W, application: &str) -> io::Result<Self> {
        Self::begin(to, application, None, None)
    }

    /// Begins a file that says on which operating system it was made, and something about itself.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn begin(to: W, application: &str, os: Option<&str>, comment: Option<&str>) -> io::Result<Self> {
        let mut writer = PcapngWriter { to, interfaces: 0, body: Vec::new() };
        let body = &mut writer.body;
        body.extend(0x1a2b_3c4du32.to_le_bytes());
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes());
        text(body, 1, comment);
        text(body, 3, os);
        option(body, 4, application.as_bytes());
        body.extend([0; 4]);
        writer.block(0x0a0d_0d0a)?;
        Ok(writer)
    }

    /// Describes the next interface by its name alone; they are numbered from 0.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn interface(&mut self, name: &str, link_type: LinkType) -> io::Result<u32> {
        self.describe(link_type, &Described { name: name.to_string(), ..Described::default() })
    }

    /// Describes the next interface; they are numbered from 0.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn describe(&mut self, link_type: LinkType, what: &Described) -> io::Result<u32> {
        let body = &mut self.body;
        body.extend(link_type.0.to_le_bytes());
        body.extend([0; 2]);
        body.extend(what.snap_len.to_le_bytes());
        option(body, 2, what.name.as_bytes());
        text(body, 3, what.description.as_deref());
        // Time stamps in units of 10^-9 s.
        option(body, 9, &[9]);
        if let Some(filter) = &what.filter {
            // 0: the filter is a text.
            option(body, 11, &[&[0], filter.as_bytes()].concat());
        }
        text(body, 12, what.os.as_deref());
        body.extend([0; 4]);
        self.block(1)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a frame, perhaps with a comment.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn frame(&mut self, interface: u32, time: Timestamp, bytes: &[u8], comment: Option<&str>) -> io::Result<()> {
        self.packet(interface, time, bytes, bytes.len() as u32, comment)
    }

    /// Writes a frame of which perhaps not all was captured.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn packet(&mut self, interface: u32, time: Timestamp, bytes: &[u8], wire_len: u32, comment: Option<&str>) -> io::Result<()> {
        let body = &mut self.body;
        body.extend(interface.to_le_bytes());
        stamp(body, time);
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend(wire_len.to_le_bytes());
        body.extend(bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        if let Some(comment) = comment {
            option(body, 1, comment.as_bytes());
            body.extend([0; 4]);
        }
        self.block(6)
    }

    /// Writes what an interface has counted until now.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn statistics(&mut self, interface: u32, time: Timestamp, counted: Drops, comment: Option<&str>) -> io::Result<()> {
        let body = &mut self.body;
        body.extend(interface.to_le_bytes());
        stamp(body, time);
        text(body, 1, comment);
        for (code, value) in [(4, counted.received), (5, counted.by_interface), (7, counted.by_os)] {
            if let Some(value) = value {
                option(body, code, &value.to_le_bytes());
            }
        }
        body.extend([0; 4]);
        self.block(5)
    }

    /// Where it writes to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.to
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }

    fn block(&mut self, kind: u32) -> io::Result<()> {
        let len = (12 + self.body.len()) as u32;
        self.to.write_all(&kind.to_le_bytes())?;
        self.to.write_all(&len.to_le_bytes())?;
        self.to.write_all(&self.body)?;
        self.to.write_all(&len.to_le_bytes())?;
        self.body.clear();
        Ok(())
    }
}

fn stamp(body: &mut Vec<u8>, time: Timestamp) {
    let nanos = time.0.max(0) as u64;
    body.extend(((nanos >> 32) as u32).to_le_bytes());
    body.extend((nanos as u32).to_le_bytes());
}

fn text(body: &mut Vec<u8>, code: u16, value: Option<&str>) {
    if let Some(value) = value.filter(|v| !v.is_empty()) {
        option(body, code, value.as_bytes());
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(0xffff)];
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::super::CaptureFile;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = PcapngWriter::new(Vec::new(), "lvscope").unwrap();
        assert_eq!(writer.interface("ext", LinkType::ETHERNET).unwrap(), 0);
        let described = Described {
            name: "int0".into(),
            description: Some("int0 of web1".into()),
            filter: Some("tcp port 80".into()),
            os: Some("Linux 6.1".into()),
            snap_len: 96,
        };
        assert_eq!(writer.describe(LinkType::RAW, &described).unwrap(), 1);
        let time = Timestamp::new(1_763_000_000, 123_456_789);
        writer.frame(1, time, &[7; 61], Some("of #12")).unwrap();
        writer.packet(0, time + 1, &[8; 60], 1514, None).unwrap();
        let counted = Drops { received: Some(9), by_interface: None, by_os: Some(3) };
        writer.statistics(1, time + 2, counted, Some("it went down")).unwrap();
        let bytes = writer.finish().unwrap();
        let mut file = CaptureFile::from_reader("x", Box::new(io::Cursor::new(bytes))).unwrap();
        assert!(file.advance());
        let frame = file.frame().unwrap();
        assert_eq!((frame.time, frame.interface, frame.bytes), (time, 1, &[7; 61][..]));
        assert!(file.advance());
        let frame = file.frame().unwrap();
        assert_eq!((frame.bytes, frame.wire_len), (&[8; 60][..], 1514));
        assert!(!file.advance());
        assert!(file.damage().is_empty());
        let read = &file.interfaces()[1];
        assert_eq!((read.name.as_deref(), read.filter.as_deref(), read.snap_len), (Some("int0"), Some("tcp port 80"), 96));
        assert_eq!((read.description.as_deref(), read.os.as_deref()), (Some("int0 of web1"), Some("Linux 6.1")));
        assert_eq!((read.link_type, read.drops), (LinkType::RAW, Some(counted)));
    }
}
