use super::readers;
use flate2::{Compression, write::GzEncoder};
use std::io::Write;

pub fn run(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    match how % 4 {
        0 => readers::read(rest),
        1 => readers::read(&[&[0x1f, 0x8b, 8], rest].concat()),
        2 => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(rest).expect("memory takes it");
            readers::read(&gzip.finish().expect("memory takes it"));
        }
        _ => readers::read(&[&[0x28, 0xb5, 0x2f, 0xfd], rest].concat()),
    }
}
