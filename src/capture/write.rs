//! Captures written: pcapng, <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html>, with nanoseconds.

use crate::net::Timestamp;
use crate::packet::LinkType;
use std::io::{self, Write};

/// Writes frames into a pcapng file.
pub struct PcapngWriter<W: Write> {
    to: W,
    interfaces: u32,
}

impl<W: Write> PcapngWriter<W> {
    /// Begins a file; `application` says who writes.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn new(to: W, application: &str) -> io::Result<Self> {
        let mut writer = PcapngWriter { to, interfaces: 0 };
        let mut body = 0x1a2b_3c4du32.to_le_bytes().to_vec();
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, 4, application.as_bytes());
        body.extend([0; 4]);
        writer.block(0x0a0d_0d0a, &body)?;
        Ok(writer)
    }

    /// Describes the next interface; they are numbered from 0.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn interface(&mut self, name: &str, link_type: LinkType) -> io::Result<u32> {
        let mut body = link_type.0.to_le_bytes().to_vec();
        body.extend([0; 2]);
        body.extend(0u32.to_le_bytes());
        option(&mut body, 2, name.as_bytes());
        // Time stamps in units of 10^-9 s.
        option(&mut body, 9, &[9]);
        body.extend([0; 4]);
        self.block(1, &body)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a frame, perhaps with a comment.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn frame(&mut self, interface: u32, time: Timestamp, bytes: &[u8], comment: Option<&str>) -> io::Result<()> {
        let nanos = time.0.max(0) as u64;
        let mut body = interface.to_le_bytes().to_vec();
        body.extend(((nanos >> 32) as u32).to_le_bytes());
        body.extend((nanos as u32).to_le_bytes());
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend(bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        if let Some(comment) = comment {
            option(&mut body, 1, comment.as_bytes());
            body.extend([0; 4]);
        }
        self.block(6, &body)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let len = (12 + body.len()) as u32;
        self.to.write_all(&kind.to_le_bytes())?;
        self.to.write_all(&len.to_le_bytes())?;
        self.to.write_all(body)?;
        self.to.write_all(&len.to_le_bytes())
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
        assert_eq!(writer.interface("int0", LinkType::ETHERNET).unwrap(), 1);
        let time = Timestamp::new(1_763_000_000, 123_456_789);
        writer.frame(1, time, &[7; 61], Some("of #12")).unwrap();
        writer.frame(0, time + 1, &[8; 60], None).unwrap();
        let bytes = writer.finish().unwrap();
        let mut file = CaptureFile::from_reader("x", Box::new(io::Cursor::new(bytes))).unwrap();
        assert!(file.advance());
        let frame = file.frame().unwrap();
        assert_eq!((frame.time, frame.interface, frame.bytes), (time, 1, &[7; 61][..]));
        assert!(file.advance());
        assert_eq!(file.frame().unwrap().bytes, &[8; 60]);
        assert!(!file.advance());
        assert!(file.damage().is_empty());
        assert_eq!(file.interfaces()[1].name.as_deref(), Some("int0"));
    }
}
