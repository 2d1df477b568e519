//! The bytes of a capture file: any stream, decompressed when it is gzip or zstd, with a window that grows only as far as one block.

use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Read in pieces of this size: the data stays in the L2 cache until it is decoded, which is why a plain `read` loop beats mmap
/// (docs/performance.md).
const WINDOW: usize = 128 * 1024;

/// A sliding window over a stream. `data()` is what has been read and not consumed.
pub(super) struct Input {
    reader: Box<dyn Read + Send>,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    offset: u64,
    raw_read: Arc<AtomicU64>,
    /// "gzip", "zstd" or nothing.
    pub(super) compression: Option<&'static str>,
    /// The error that ended the stream early.
    pub(super) error: Option<io::Error>,
}

impl Input {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> io::Result<Self> {
        let raw_read = Arc::new(AtomicU64::new(0));
        let mut raw = Counting { reader, count: Arc::clone(&raw_read) };
        let mut magic = [0; 4];
        let mut have = 0;
        while have < magic.len() {
            match raw.read(&mut magic[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let whole = Cursor::new(magic[..have].to_vec()).chain(raw);
        let (reader, compression): (Box<dyn Read + Send>, _) = match magic {
            [0x1f, 0x8b, ..] => (Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::new(whole))), Some("gzip")),
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => (Box::new(Zstd::new(Box::new(whole))), Some("zstd")),
            _ => (Box::new(whole), None),
        };
        Ok(Input { reader, buf: vec![0; WINDOW], start: 0, end: 0, offset: 0, raw_read, compression, error: None })
    }

    /// Counts the bytes of the file itself that have been read so far, compressed ones as they are.
    pub(super) fn meter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.raw_read)
    }

    /// Offset in the (uncompressed) stream of the first byte of `data()`.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Makes at least `n` bytes available; false when the stream ends before.
    #[inline]
    pub(super) fn ensure(&mut self, n: usize) -> bool {
        self.end - self.start >= n || self.fill(n)
    }

    #[cold]
    fn fill(&mut self, n: usize) -> bool {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < n {
            if self.end == self.buf.len() {
                // By doubling, as data really arrives: a file cannot make us reserve what it does not contain.
                self.buf.resize(self.buf.len() * 2, 0);
            }
            match self.reader.read(&mut self.buf[self.end..]) {
                Ok(0) => return false,
                Ok(read) => self.end += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.error = Some(e);
                    return false;
                }
            }
        }
        true
    }

    /// Drops `n` bytes of `data()`; they must be there.
    #[inline]
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        self.offset += n as u64;
    }

    /// Drops `n` bytes that need not have been read yet; false when the stream ends before.
    pub(super) fn skip(&mut self, mut n: u64) -> bool {
        loop {
            let have = (self.end - self.start) as u64;
            if n <= have {
                self.consume(n as usize);
                return true;
            }
            self.consume(have as usize);
            n -= have;
            if !self.ensure(1) {
                return false;
            }
        }
    }
}

struct Counting<R> {
    reader: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A zstd stream of any number of frames, skippable ones among them (RFC 8878, section 3); ruzstd decodes one frame at a time.
struct Zstd {
    state: ZstdState,
}

type Source = Box<dyn Read + Send>;

enum ZstdState {
    Between(Source),
    Inside(Box<ruzstd::decoding::StreamingDecoder<Source, ruzstd::decoding::FrameDecoder>>),
    Done,
}

impl Zstd {
    fn new(source: Source) -> Self {
        Zstd { state: ZstdState::Between(source) }
    }
}

impl Read for Zstd {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, ZstdState::Done) {
                ZstdState::Done => return Ok(0),
                ZstdState::Between(source) => match next_zstd_frame(source)? {
                    Some(state) => self.state = state,
                    None => return Ok(0),
                },
                ZstdState::Inside(mut decoder) => match decoder.read(buf)? {
                    0 => self.state = ZstdState::Between(decoder.into_inner()),
                    n => {
                        self.state = ZstdState::Inside(decoder);
                        return Ok(n);
                    }
                },
            }
        }
    }
}

fn next_zstd_frame(mut source: Source) -> io::Result<Option<ZstdState>> {
    let mut first = [0; 4];
    let mut have = 0;
    while have < 4 {
        match source.read(&mut first[have..])? {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => have += n,
        }
    }
    if matches!(first, [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
        let mut len = [0; 4];
        source.read_exact(&mut len)?;
        let len = u64::from(u32::from_le_bytes(len));
        if io::copy(&mut source.by_ref().take(len), &mut io::sink())? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        return Ok(Some(ZstdState::Between(source)));
    }
    let source: Source = Box::new(Cursor::new(first).chain(source));
    let decoder = ruzstd::decoding::StreamingDecoder::new(source).map_err(io::Error::other)?;
    Ok(Some(ZstdState::Inside(Box::new(decoder))))
}
