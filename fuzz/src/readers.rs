//! A capture read packet by packet and in one go: both have to come to the same.

use lvscope::capture::{Burst, CaptureFile, Interface, Merged};
use lvscope::packet::Frame;
use std::io::Cursor;

/// More is not read of a compressed capture: a few bytes may stand for gigabytes.
const MOST: u64 = 20_000;

fn item(frame: &Frame<'_>) -> (u32, i64, u32, Vec<u8>) {
    (frame.interface, frame.time.0, frame.wire_len, frame.bytes.to_vec())
}

pub fn read(bytes: &[u8]) {
    let open = || CaptureFile::from_reader("fuzz", Box::new(Cursor::new(bytes.to_vec())));
    let mut file = match open() {
        Ok(file) => file,
        Err(e) => return assert!(!e.to_string().is_empty()),
    };
    let mut stepped = Vec::new();
    while file.advance() {
        let frame = file.frame().expect("there is a packet");
        assert!((frame.interface as usize) < file.interfaces().len());
        if file.frames() > MOST {
            return;
        }
        stepped.push(item(&frame));
    }
    assert_eq!(file.frames(), stepped.len() as u64);
    for damage in file.damage() {
        assert!(!damage.to_string().is_empty());
    }
    let Ok(again) = open() else { panic!("opened once and not twice") };
    let mut drained = Vec::new();
    let closed = Merged::new(vec![again]).for_each(|_, _: &[Interface], burst| {
        match burst {
            Burst::One(frame) => drained.push(item(&frame)),
            Burst::Window(records) => drained.extend(records.map(|frame| item(&frame))),
        }
        true
    });
    assert!(stepped == drained, "packet by packet and in one go differ");
    assert_eq!(closed[0].damage(), file.damage());
}
