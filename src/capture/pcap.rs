//! The pcap format: <https://www.tcpdump.org/manpages/pcap-savefile.5.html> and its old and modified kin.

use super::file::{Interface, MAX_PACKET, Record, Step};
use super::input::Input;
use crate::net::{Timestamp, thousands};
use crate::packet::{Frame, LinkType};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Alexey Kuznetzov's "modified" format of old Linux distributions: record headers of 24 bytes.
const KUZNETZOV: u32 = 0xa1b2_cd34;
/// Before version 2.3 the two lengths of a record were the other way round; in 2.3 both orders exist (libpcap, sf-pcap.c).
const ORDER_CHANGED_IN: (u16, u16) = (2, 3);

#[derive(Default)]
pub(super) struct PcapFormat {
    big_endian: bool,
    nanoseconds: bool,
    modified: bool,
    lengths: Lengths,
    /// Bytes of frame check sequence at the end of each packet.
    fcs: u32,
}

/// The packets that are whole in a window, one after the other. What ends them (the end of the window or of the file, damage) is for
/// [`PcapFormat::step`] to tell apart.
pub struct Records<'a> {
    /// What of the window is still to come.
    pub(super) rest: &'a [u8],
    /// Packets of the file passed.
    pub(super) frames: u64,
    link_type: LinkType,
    big_endian: bool,
    scale: i64,
}

impl<'a> Records<'a> {
    /// The bytes that all of them lie in.
    pub fn window(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Frame<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Frame<'a>> {
        let (&[s0, s1, s2, s3, f0, f1, f2, f3, a0, a1, a2, a3, b0, b1, b2, b3], rest) = self.rest.split_first_chunk::<16>()?;
        let word = |bytes: [u8; 4]| if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        let (seconds, fraction) = (word([s0, s1, s2, s3]), word([f0, f1, f2, f3]));
        let (captured, original) = (word([a0, a1, a2, a3]), word([b0, b1, b2, b3]));
        if captured > MAX_PACKET {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(captured as usize)?;
        // The next record's headers are on their way into the innermost cache while this one is being read.
        if let Some(next) = rest.first_chunk::<80>() {
            std::hint::black_box(next[0] ^ next[79]);
        }
        self.rest = rest;
        self.frames += 1;
        let nanos = i64::from(seconds) * 1_000_000_000 + i64::from(fraction) * self.scale;
        let (wire_len, link_type, time) = (original.max(captured), self.link_type, Timestamp(nanos));
        Some(Frame { bytes, wire_len, link_type, time, number: self.frames, interface: 0, heading: None })
    }
}

#[derive(Default, Clone, Copy)]
enum Lengths {
    #[default]
    CapturedFirst,
    OriginalFirst,
    /// Whichever is not larger is the captured one.
    Either,
}

fn magic(data: &[u8]) -> Option<(u32, bool)> {
    let bytes = data.first_chunk::<4>()?;
    [(u32::from_le_bytes(*bytes), false), (u32::from_be_bytes(*bytes), true)]
        .into_iter()
        .find(|(magic, _)| matches!(*magic, MICROSECONDS | NANOSECONDS | KUZNETZOV))
}

impl PcapFormat {
    pub(super) fn recognises(data: &[u8]) -> bool {
        magic(data).is_some()
    }

    /// Reads the file header; the error is what is wrong with it.
    pub(super) fn open(input: &mut Input) -> Result<(Self, Interface), String> {
        if !input.ensure(24) {
            return Err(format!("the file header has 24 bytes, {} are there", input.data().len()));
        }
        let data = input.data();
        let (magic, big_endian) = magic(data).unwrap_or((MICROSECONDS, false));
        let mut format = PcapFormat { big_endian, nanoseconds: magic == NANOSECONDS, modified: magic == KUZNETZOV, ..Self::default() };
        let version = (format.u16(data, 4), format.u16(data, 6));
        format.lengths = match version {
            ORDER_CHANGED_IN => Lengths::Either,
            (543, 0) => Lengths::OriginalFirst, // DG/UX
            version if version < ORDER_CHANGED_IN => Lengths::OriginalFirst,
            _ => Lengths::CapturedFirst,
        };
        let (snap_len, network) = (format.u32(data, 16), format.u32(data, 20));
        if network & 0x0400_0000 != 0 {
            format.fcs = (network >> 28) * 2;
        }
        input.consume(24);
        Ok((format, Interface::new(LinkType(network as u16), snap_len)))
    }

    fn u16(&self, data: &[u8], at: usize) -> u16 {
        let bytes = [data[at], data[at + 1]];
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    fn u32(&self, data: &[u8], at: usize) -> u32 {
        let bytes = [data[at], data[at + 1], data[at + 2], data[at + 3]];
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// The packets that are whole in the window; `frames` were read before. `None` for rare formats, which go record by record.
    pub(super) fn records<'a>(&self, data: &'a [u8], frames: u64, link_type: u16) -> Option<Records<'a>> {
        if self.modified || !matches!(self.lengths, Lengths::CapturedFirst) || self.fcs != 0 {
            return None;
        }
        let scale = if self.nanoseconds { 1 } else { 1000 };
        Some(Records { rest: data, frames, link_type: LinkType(link_type), big_endian: self.big_endian, scale })
    }

    #[inline]
    pub(super) fn step(&mut self, input: &mut Input, record: &mut Record) -> Step {
        let header = if self.modified { 24 } else { 16 };
        if !input.ensure(header) {
            return match input.data().len() {
                0 => Step::End,
                n => Step::cut(format!("the record header has {header} bytes, {n} are there")),
            };
        }
        let Some(&[s0, s1, s2, s3, f0, f1, f2, f3, a0, a1, a2, a3, b0, b1, b2, b3]) = input.data().first_chunk::<16>() else {
            return Step::End;
        };
        let word = |bytes: [u8; 4]| if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        let (first, second) = (word([a0, a1, a2, a3]), word([b0, b1, b2, b3]));
        let (captured, original) = match self.lengths {
            Lengths::CapturedFirst => (first, second),
            Lengths::OriginalFirst => (second, first),
            Lengths::Either => (first.min(second), first.max(second)),
        };
        if captured > MAX_PACKET {
            return Step::damaged(format!("the record says {} bytes", thousands(captured.into())));
        }
        let end = header + captured as usize;
        if !input.ensure(end) {
            let there = input.data().len() - header;
            return Step::cut(format!("the record says {} bytes, {} are there", thousands(captured.into()), thousands(there as u64)));
        }
        let (seconds, fraction) = (i64::from(word([s0, s1, s2, s3])), i64::from(word([f0, f1, f2, f3])));
        let scale = if self.nanoseconds { 1 } else { 1000 };
        let wire_len = original.max(captured).saturating_sub(self.fcs);
        // Interface, link type and heading are those of the file: they were set when it was opened.
        record.at = header;
        record.len = captured.min(wire_len) as usize;
        record.consume = end;
        record.wire_len = wire_len;
        record.time = Timestamp(seconds * 1_000_000_000 + fraction * scale);
        Step::Packet
    }
}
