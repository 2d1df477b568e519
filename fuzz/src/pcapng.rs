use super::readers;

/// A section header and an Ethernet interface, little-endian.
const SECTION: [u8; 48] = [
    0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 28, 0, 0, 0, //
    1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0, 20, 0, 0, 0,
];

pub fn run(bytes: &[u8]) {
    readers::read(&[&SECTION, bytes].concat());
    readers::read(&[&SECTION[..28], bytes].concat());
    readers::read(&[&SECTION[..4], bytes].concat());
}
