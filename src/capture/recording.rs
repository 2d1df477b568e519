//! A live capture on disk: one file, or a row of them of which the oldest are deleted.

use super::{Described, Drops, PcapngWriter, Sink};
use crate::net::Timestamp;
use crate::packet::{Frame, LinkType};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// When to begin a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotate {
    /// When it has so many bytes.
    Size(u64),
    /// When it is so old.
    Age(Duration),
}

/// What stands at the beginning of each file.
#[derive(Clone, Debug)]
pub struct Head {
    /// The program.
    pub application: String,
    /// The operating system.
    pub os: String,
    /// What is to be known of the file: the host.
    pub comment: String,
    /// The interfaces, in the order of their numbers.
    pub interfaces: Vec<(LinkType, Described)>,
}

/// Files that are being written.
pub struct Recording {
    writer: PcapngWriter<Sink>,
    head: Head,
    path: PathBuf,
    rotate: Option<Rotate>,
    keep: Option<usize>,
    /// Finished files, the oldest first.
    old: VecDeque<PathBuf>,
    number: u32,
    begun: Instant,
}

impl Recording {
    /// Begins. With `rotate`, `web1.pcapng` becomes `web1_00001.pcapng` and so on, of which the newest `keep` stay.
    ///
    /// # Errors
    /// Those of the system.
    pub fn begin(path: &Path, head: Head, rotate: Option<Rotate>, keep: Option<usize>) -> io::Result<Recording> {
        let number = 1;
        let writer = file(&numbered(path, rotate, number), &head)?;
        Ok(Recording { writer, head, path: path.to_path_buf(), rotate, keep, old: VecDeque::new(), number, begun: Instant::now() })
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// A full disk, a reader that is gone; the file then ends with a whole block.
    pub fn frame(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        self.writer.packet(frame.interface, frame.time, frame.bytes, frame.wire_len, None)?;
        match self.writer.get_mut().is_full() {
            true => self.writer.get_mut().deliver(),
            false => Ok(()),
        }
    }

    /// Hands over what is there.
    ///
    /// # Errors
    /// As [`Recording::frame`].
    pub fn deliver(&mut self) -> io::Result<()> {
        self.writer.get_mut().deliver()
    }

    /// True when a new file is due; then call [`Recording::turn_over`].
    pub fn is_due(&mut self) -> bool {
        match self.rotate {
            Some(Rotate::Size(size)) => self.writer.get_mut().len() >= size,
            Some(Rotate::Age(age)) => self.begun.elapsed() >= age,
            None => false,
        }
    }

    /// Ends this file, with what was counted, and begins the next.
    ///
    /// # Errors
    /// As [`Recording::frame`].
    pub fn turn_over(&mut self, now: Timestamp, counted: &[(Drops, Option<String>)]) -> io::Result<()> {
        self.count(now, counted)?;
        self.deliver()?;
        self.old.push_back(numbered(&self.path, self.rotate, self.number));
        while self.keep.is_some_and(|keep| self.old.len() >= keep) {
            if let Some(oldest) = self.old.pop_front() {
                std::fs::remove_file(oldest)?;
            }
        }
        self.number += 1;
        self.writer = file(&numbered(&self.path, self.rotate, self.number), &self.head)?;
        self.begun = Instant::now();
        Ok(())
    }

    /// Ends it, with what was counted.
    ///
    /// # Errors
    /// As [`Recording::frame`].
    pub fn end(mut self, now: Timestamp, counted: &[(Drops, Option<String>)]) -> io::Result<()> {
        self.count(now, counted)?;
        self.deliver()
    }

    fn count(&mut self, now: Timestamp, counted: &[(Drops, Option<String>)]) -> io::Result<()> {
        for (at, (drops, comment)) in (0..).zip(counted) {
            self.writer.statistics(at, now, *drops, comment.as_deref())?;
        }
        Ok(())
    }
}

fn file(path: &Path, head: &Head) -> io::Result<PcapngWriter<Sink>> {
    let mut writer = PcapngWriter::begin(Sink::open(path)?, &head.application, Some(&head.os), Some(&head.comment))?;
    for (link_type, described) in &head.interfaces {
        writer.describe(*link_type, described)?;
    }
    // A reader of a pipe learns at once what will come.
    writer.get_mut().deliver()?;
    Ok(writer)
}

fn numbered(path: &Path, rotate: Option<Rotate>, number: u32) -> PathBuf {
    if rotate.is_none() {
        return path.to_path_buf();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}_{number:05}{extension}"))
}

#[cfg(test)]
mod tests {
    use super::super::CaptureFile;
    use super::*;

    #[test]
    fn the_oldest_go() {
        let folder = std::env::temp_dir().join(format!("lvscope-recording-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let described = Described { name: "eth0".into(), ..Described::default() };
        let head = Head {
            application: "lvscope".into(),
            os: "Linux".into(),
            comment: "web1".into(),
            interfaces: vec![(LinkType::ETHERNET, described)],
        };
        let mut recording = Recording::begin(&folder.join("web1.pcapng"), head, Some(Rotate::Size(2000)), Some(2)).unwrap();
        let frame = |number| Frame { time: Timestamp(1), number, ..Frame::whole(LinkType::ETHERNET, &[7; 500]) };
        let counted = [(Drops { received: Some(1), by_interface: None, by_os: Some(0) }, None)];
        for number in 0..20 {
            recording.frame(&frame(number)).unwrap();
            if recording.is_due() {
                recording.turn_over(Timestamp(2), &counted).unwrap();
            }
        }
        recording.end(Timestamp(2), &counted).unwrap();
        let mut names: Vec<String> =
            std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[0].starts_with("web1_0000") && names[0].ends_with(".pcapng"), "{names:?}");
        for name in names {
            let mut file = CaptureFile::open(&folder.join(name)).unwrap();
            let mut frames = 0;
            while file.advance() {
                frames += 1;
            }
            assert!(file.damage().is_empty() && frames <= 4 && file.interfaces()[0].drops.is_some());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
