//! The pcapng format: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>.

use super::file::{Drops, Interface, MAX_PACKET, Record, Step};
use super::input::Input;
use crate::net::{Timestamp, thousands};
use crate::packet::{Heading, LinkType};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
/// Blocks that are looked into may be this long, in bytes; others are skipped whatever their length.
const MAX_BLOCK: u32 = 16 * 1024 * 1024;

/// State of a pcapng stream: the byte order and the interfaces of the section being read.
#[derive(Default)]
pub(super) struct PcapngFormat {
    big_endian: bool,
    in_section: bool,
    /// Number in the file of the section's first interface.
    first_interface: usize,
    clocks: Vec<Clock>,
    last_time: Timestamp,
}

/// How the timestamps of an interface count.
#[derive(Clone, Copy)]
struct Clock {
    resolution: Resolution,
    /// Seconds to add (`if_tsoffset`).
    offset: i64,
    fcs: u32,
}

/// Units a second, `if_tsresol`.
#[derive(Clone, Copy)]
enum Resolution {
    /// 10^n.
    Decimal(u8),
    /// 2^n.
    Binary(u8),
}

impl Clock {
    fn time(&self, units: u64) -> Timestamp {
        let nanos = match self.resolution {
            Resolution::Decimal(6) => i64::try_from(units).unwrap_or(i64::MAX).saturating_mul(1000),
            Resolution::Decimal(9) => i64::try_from(units).unwrap_or(i64::MAX),
            Resolution::Decimal(n) if n < 9 => saturate(u128::from(units) * 10u128.pow(u32::from(9 - n))),
            Resolution::Decimal(n) => 10u64.checked_pow(u32::from(n - 9)).map_or(0, |unit| saturate(u128::from(units / unit))),
            Resolution::Binary(n) => saturate((u128::from(units) * 1_000_000_000) >> n),
        };
        Timestamp::new(self.offset, nanos)
    }
}

fn saturate(value: u128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A block of the window: its type, its length in all.
struct Block {
    kind: u32,
    len: usize,
}

impl PcapngFormat {
    pub(super) fn recognises(data: &[u8]) -> bool {
        data.starts_with(&SECTION_HEADER.to_be_bytes())
    }

    fn u16(&self, data: &[u8], at: usize) -> u16 {
        let bytes = [data[at], data[at + 1]];
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    #[inline]
    fn u32(&self, data: &[u8], at: usize) -> u32 {
        let bytes = [data[at], data[at + 1], data[at + 2], data[at + 3]];
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn u64(&self, data: &[u8]) -> Option<u64> {
        let bytes = *data.first_chunk::<8>()?;
        Some(if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    /// Goes on to the next packet block, taking in the blocks between.
    pub(super) fn step(&mut self, input: &mut Input, interfaces: &mut Vec<Interface>, found: &mut Record) -> Step {
        loop {
            let block = match self.next_block(input) {
                Ok(Some(block)) => block,
                Ok(None) => return Step::End,
                Err(step) => return step,
            };
            let body = 8..block.len - 4;
            let record = match block.kind {
                ENHANCED_PACKET => self.enhanced(&input.data()[body], interfaces),
                SIMPLE_PACKET => self.simple(&input.data()[body], interfaces),
                OBSOLETE_PACKET => self.obsolete(&input.data()[body], interfaces),
                _ => {
                    if let Err(what) = self.other(block.kind, &input.data()[body], interfaces) {
                        return Step::damaged(what);
                    }
                    input.consume(block.len);
                    continue;
                }
            };
            return match record {
                Ok(mut record) => {
                    record.at += 8;
                    record.consume = block.len;
                    self.last_time = record.time;
                    *found = record;
                    Step::Packet
                }
                Err(what) => Step::damaged(what),
            };
        }
    }

    /// The next block that matters, whole in the window; blocks of unknown type are skipped unread.
    fn next_block(&mut self, input: &mut Input) -> Result<Option<Block>, Step> {
        loop {
            if !input.ensure(12) {
                return match input.data().len() {
                    0 => Ok(None),
                    n => Err(Step::cut(format!("a block has at least 12 bytes, {n} are there"))),
                };
            }
            let data = input.data();
            if Self::recognises(data) {
                self.big_endian = match data[8..12] {
                    [0x1a, 0x2b, 0x3c, 0x4d] => true,
                    [0x4d, 0x3c, 0x2b, 0x1a] => false,
                    _ => return Err(Step::damaged("a section header without a byte-order magic".to_string())),
                };
            } else if !self.in_section {
                return Err(Step::damaged("no section header".to_string()));
            }
            let (kind, len) = (self.u32(data, 0), self.u32(data, 4));
            if len < 12 || len % 4 != 0 {
                return Err(Step::damaged(format!("a block (type 0x{kind:08x}) says {} bytes", thousands(len.into()))));
            }
            let known = matches!(
                kind,
                SECTION_HEADER | INTERFACE_DESCRIPTION | OBSOLETE_PACKET | SIMPLE_PACKET | INTERFACE_STATISTICS | ENHANCED_PACKET
            );
            if !known {
                if !input.skip(len.into()) {
                    return Err(Step::cut(format!(
                        "a block (type 0x{kind:08x}) says {} bytes and the file ends inside it",
                        thousands(len.into())
                    )));
                }
                continue;
            }
            if len > MAX_BLOCK {
                return Err(Step::damaged(format!("a block (type 0x{kind:08x}) says {} bytes", thousands(len.into()))));
            }
            let len = len as usize;
            if !input.ensure(len) {
                return Err(Step::cut(format!(
                    "a block (type 0x{kind:08x}) says {} bytes, {} are there",
                    thousands(len as u64),
                    thousands(input.data().len() as u64)
                )));
            }
            let trailer = self.u32(input.data(), len - 4) as usize;
            if trailer != len {
                return Err(Step::damaged(format!(
                    "a block (type 0x{kind:08x}) says {} bytes in front and {} at its end",
                    thousands(len as u64),
                    thousands(trailer as u64)
                )));
            }
            return Ok(Some(Block { kind, len }));
        }
    }

    /// Blocks that are no packets.
    #[cold]
    fn other(&mut self, kind: u32, body: &[u8], interfaces: &mut Vec<Interface>) -> Result<(), String> {
        match kind {
            SECTION_HEADER => {
                let version = body.get(4..8).map_or(0, |v| self.u16(v, 0));
                if version != 1 {
                    return Err(format!("a section of pcapng version {version}, which is not known"));
                }
                self.in_section = true;
                self.first_interface = interfaces.len();
                self.clocks.clear();
            }
            INTERFACE_DESCRIPTION => {
                if body.len() < 8 {
                    return Err(format!("an interface description of {} bytes", body.len()));
                }
                let (interface, clock) = self.interface(body);
                interfaces.push(interface);
                self.clocks.push(clock);
            }
            INTERFACE_STATISTICS if body.len() >= 12 => {
                let drops = self.drops(&body[12..]);
                if let Some(interface) = interfaces.get_mut(self.first_interface.saturating_add(self.u32(body, 0) as usize)) {
                    interface.drops = Some(drops);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn interface(&self, body: &[u8]) -> (Interface, Clock) {
        let mut interface = Interface::new(LinkType(self.u16(body, 0)), self.u32(body, 4));
        let mut clock = Clock { resolution: Resolution::Decimal(6), offset: 0, fcs: 0 };
        for (code, value) in self.options(&body[8..]) {
            match (code, value) {
                (1, _) => interface.comment = Some(text(value)),
                (2, _) => interface.name = Some(text(value)).filter(|name| !name.is_empty()),
                (3, _) => interface.description = Some(text(value)),
                (9, [n, ..]) => clock.resolution = if n & 0x80 != 0 { Resolution::Binary(n & 0x7f) } else { Resolution::Decimal(*n) },
                (11, [0, filter @ ..]) => interface.filter = Some(text(filter)),
                (12, _) => interface.os = Some(text(value)),
                (13, [len, ..]) => clock.fcs = u32::from(*len),
                (14, _) => clock.offset = self.u64(value).map_or(0, |offset| offset as i64),
                _ => {}
            }
        }
        (interface, clock)
    }

    fn drops(&self, options: &[u8]) -> Drops {
        let mut drops = Drops::default();
        for (code, value) in self.options(options) {
            match code {
                4 => drops.received = self.u64(value),
                5 => drops.by_interface = self.u64(value),
                7 => drops.by_os = self.u64(value),
                _ => {}
            }
        }
        drops
    }

    /// Code and value of each option; ends at the first that makes no sense.
    fn options<'a>(&self, mut rest: &'a [u8]) -> impl Iterator<Item = (u16, &'a [u8])> {
        std::iter::from_fn(move || {
            if rest.len() < 4 {
                return None;
            }
            let (code, len) = (self.u16(rest, 0), usize::from(self.u16(rest, 2)));
            let value = rest.get(4..4 + len).filter(|_| code != 0)?;
            rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
            Some((code, value))
        })
    }

    #[inline]
    fn enhanced(&self, body: &[u8], interfaces: &[Interface]) -> Result<Record, String> {
        if body.len() < 20 {
            return Err(format!("a packet block of {} bytes", body.len()));
        }
        let units = u64::from(self.u32(body, 4)) << 32 | u64::from(self.u32(body, 8));
        let (captured, original) = (self.u32(body, 12), self.u32(body, 16));
        let mut record = self.record(self.u32(body, 0), Some(units), 20, captured, original, body, interfaces)?;
        let data_end = 20 + (captured as usize).next_multiple_of(4);
        if body.len() > data_end + 4 {
            self.packet_flags(&body[data_end..], &mut record);
        }
        Ok(record)
    }

    /// `epb_flags`: the direction, and the length of a frame check sequence.
    fn packet_flags(&self, options: &[u8], record: &mut Record) {
        for (code, value) in self.options(options) {
            if code == 2 && value.len() >= 4 {
                let flags = self.u32(value, 0);
                record.heading = match flags & 3 {
                    1 => Some(Heading::In),
                    2 => Some(Heading::Out),
                    _ => None,
                };
            }
        }
    }

    /// Without a timestamp, for the section's first interface, as long as the block or its snap length allows. It is given the time of
    /// the packet before.
    fn simple(&self, body: &[u8], interfaces: &[Interface]) -> Result<Record, String> {
        if body.len() < 4 {
            return Err(format!("a simple packet block of {} bytes", body.len()));
        }
        let original = self.u32(body, 0);
        let limit = interfaces.get(self.first_interface).map_or(0, |interface| interface.snap_len);
        let captured = if limit == 0 { original } else { original.min(limit) };
        self.record(0, None, 4, captured, original, body, interfaces)
    }

    fn obsolete(&self, body: &[u8], interfaces: &[Interface]) -> Result<Record, String> {
        if body.len() < 20 {
            return Err(format!("an obsolete packet block of {} bytes", body.len()));
        }
        let units = u64::from(self.u32(body, 4)) << 32 | u64::from(self.u32(body, 8));
        self.record(self.u16(body, 0).into(), Some(units), 20, self.u32(body, 12), self.u32(body, 16), body, interfaces)
    }

    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the fields that the three packet blocks share, in their order")]
    fn record(
        &self,
        id: u32,
        units: Option<u64>,
        at: usize,
        captured: u32,
        original: u32,
        body: &[u8],
        interfaces: &[Interface],
    ) -> Result<Record, String> {
        let number = self.first_interface.saturating_add(id as usize);
        let Some(clock) = self.clocks.get(id as usize).filter(|_| number < interfaces.len()) else {
            return Err(format!("the packet names interface {id}; its section describes {}", self.clocks.len()));
        };
        if captured > MAX_PACKET || captured as usize > body.len() - at {
            return Err(format!(
                "the packet says {} bytes in a block of {}",
                thousands(captured.into()),
                thousands(body.len() as u64 + 12)
            ));
        }
        let wire_len = original.max(captured).saturating_sub(clock.fcs);
        Ok(Record {
            at,
            len: captured.min(wire_len) as usize,
            consume: 0,
            wire_len,
            time: units.map_or(self.last_time, |units| clock.time(units)),
            interface: number as u32,
            link_type: interfaces[number].link_type.0,
            heading: None,
        })
    }
}

/// Option text, without the NUL padding that some writers count into its length.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_string()
}
