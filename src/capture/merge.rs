//! Several files as one stream in the order of time, without loading them.

use super::file::{Burst, CaptureFile, Interface};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// Merges files by time. Within a file the order of the file is kept, also where its times run backwards.
pub struct Merged {
    files: Vec<CaptureFile>,
    /// The next packet of each file that has one: its time, and the file.
    heads: BinaryHeap<Reverse<(i64, usize)>>,
    current: Option<usize>,
}

impl Merged {
    /// Begins to read all `files`.
    pub fn new(mut files: Vec<CaptureFile>) -> Self {
        let mut heads = BinaryHeap::new();
        for (i, file) in files.iter_mut().enumerate() {
            if file.advance() {
                heads.push(Reverse((file.time().map_or(0, |time| time.0), i)));
            }
        }
        Merged { files, heads, current: None }
    }

    /// Goes on to the next packet of all files: the number of its file. [`CaptureFile::frame`] of that file is the packet.
    #[inline]
    pub fn advance(&mut self) -> Option<usize> {
        if let Some(i) = self.current.take()
            && let Some(mut head) = self.heads.peek_mut()
        {
            let file = &mut self.files[i];
            if file.advance() {
                *head = Reverse((file.time().map_or(0, |time| time.0), i));
            } else {
                PeekMut::pop(head);
            }
        }
        let Reverse((_, i)) = self.heads.peek()?;
        self.current = Some(*i);
        self.current
    }

    /// Hands over all packets in the order of time, with the number of their file and the interfaces described there so far, until `take`
    /// says false. Gives the files back, for their damage and their counts.
    #[inline(always)]
    pub fn for_each(mut self, mut take: impl FnMut(usize, &[Interface], Burst<'_, '_>) -> bool) -> Vec<CaptureFile> {
        while let Some(i) = self.advance() {
            let file = &mut self.files[i];
            let more = if self.heads.len() == 1 {
                // Nobody is left to be merged with: as many as are at hand, in one go.
                file.hand_over(|interfaces, burst| take(i, interfaces, burst))
            } else {
                file.frame().map(|frame| take(i, file.interfaces(), Burst::One(frame)))
            };
            if more == Some(false) {
                break;
            }
        }
        self.files
    }

    /// Gives the files back; what is left in them is not read.
    pub fn into_files(self) -> Vec<CaptureFile> {
        self.files
    }

    /// The files, in the order given.
    pub fn files(&self) -> &[CaptureFile] {
        &self.files
    }
}
