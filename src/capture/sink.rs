//! Where a live capture goes: a file, a pipe, standard output. Blocks are handed over whole, so that a killed process leaves a readable file,
//! and a disk that fills up one that ends with a whole block.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Collects blocks until [`Sink::deliver`].
pub struct Sink {
    to: To,
    pending: Vec<u8>,
    written: u64,
}

enum To {
    File(File),
    Standard(io::Stdout),
}

/// Enough to make a system call worth it.
const FULL: usize = 256 << 10;

impl Sink {
    /// Opens a file, or standard output for `-`. What was in the file is gone.
    ///
    /// # Errors
    /// Those of the system: no such folder, a read-only place.
    pub fn open(path: &Path) -> io::Result<Sink> {
        let to = match path.as_os_str() == "-" {
            true => To::Standard(io::stdout()),
            false => To::File(File::create(path)?),
        };
        Ok(Sink { to, pending: Vec::with_capacity(FULL * 2), written: 0 })
    }

    /// True when it is time to deliver.
    pub fn is_full(&self) -> bool {
        self.pending.len() >= FULL
    }

    /// Bytes that it has taken.
    pub fn len(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Nothing has been written to it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands over what is there; must stand between two blocks. Where that fails half-way, a file is cut back to its last whole block.
    ///
    /// # Errors
    /// `StorageFull`, `BrokenPipe` when a reader is gone, and others.
    pub fn deliver(&mut self) -> io::Result<()> {
        let (mut done, mut result) = (0, Ok(()));
        while done < self.pending.len() && result.is_ok() {
            let rest = &self.pending[done..];
            let step = match &mut self.to {
                To::File(file) => file.write(rest),
                To::Standard(out) => out.write(rest).and_then(|n| out.flush().map(|()| n)),
            };
            match step {
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => result = Err(e),
            }
        }
        if let (Err(_), To::File(file)) = (&result, &self.to) {
            done = whole_blocks(&self.pending, done);
            // A pipe cannot be cut; its reader sees a block that ends too early, and says so.
            let _ = file.set_len(self.written + done as u64);
        }
        self.written += done as u64;
        self.pending.clear();
        result
    }
}

/// How many of the first `limit` bytes are whole blocks.
fn whole_blocks(bytes: &[u8], limit: usize) -> usize {
    let mut end = 0;
    while let Some(len) = bytes.get(end + 4..).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b) as usize) {
        if len < 12 || end + len > limit {
            break;
        }
        end += len;
    }
    end
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.deliver()
    }
}

#[cfg(test)]
mod tests {
    use super::super::PcapngWriter;
    use super::*;
    use crate::net::Timestamp;
    use crate::packet::LinkType;

    #[test]
    fn cut_back_to_whole_blocks() {
        let mut writer = PcapngWriter::new(Vec::new(), "lvscope").unwrap();
        writer.interface("eth0", LinkType::ETHERNET).unwrap();
        let mut ends = vec![0];
        for n in 0..5 {
            ends.push(writer.get_mut().len());
            writer.frame(0, Timestamp(1), &[7; 60][..50 + n], None).unwrap();
        }
        let bytes = writer.finish().unwrap();
        ends.push(bytes.len());
        for limit in 0..=bytes.len() {
            let cut = whole_blocks(&bytes, limit);
            // The section header and the description are blocks too.
            assert!(cut <= limit && (ends.contains(&cut) || cut < ends[1]), "{limit}: {cut}");
            assert!(ends.iter().filter(|end| **end <= limit).all(|end| *end <= cut), "{limit}: {cut}");
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_nothing_more() {
        // Where there is no such device nothing is tested.
        let Ok(mut sink) = Sink::open(Path::new("/dev/full")) else { return };
        sink.write_all(&[0; 64]).unwrap();
        assert_eq!(sink.deliver().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(sink.is_empty());
    }
}
