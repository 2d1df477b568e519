//! TCP headers and options.

use super::dissect::Dissector;
use super::transport::Transport;
use crate::net::Endpoint;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tcp<'a> {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Window as in the header, not scaled.
    pub window: u16,
    /// Checksum as captured; [`super::checksum_state`] says what it is worth.
    pub checksum: u16,
    /// Option bytes as far as captured; [`Tcp::options`] reads them.
    pub option_bytes: &'a [u8],
}

/// The flag bits of a TCP header (RFC 9293, section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: TcpFlags = TcpFlags(1);
    /// Synchronize sequence numbers.
    pub const SYN: TcpFlags = TcpFlags(2);
    /// Reset the connection.
    pub const RST: TcpFlags = TcpFlags(4);
    /// Push.
    pub const PSH: TcpFlags = TcpFlags(8);
    /// The acknowledgement field counts.
    pub const ACK: TcpFlags = TcpFlags(16);

    /// True when all bits of `other` are set.
    pub fn has(self, other: TcpFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// SYN without ACK: a client opens a connection.
    pub fn opens(self) -> bool {
        self.0 & 0x16 == 0x02
    }

    /// SYN with ACK: a server accepts.
    pub fn accepts(self) -> bool {
        self.0 & 0x16 == 0x12
    }
}

impl fmt::Display for TcpFlags {
    /// tcpdump's letters: `[S]`, `[S.]`, `[P.]`, `[none]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("[none]");
        }
        let letters = [(1, 'F'), (2, 'S'), (4, 'R'), (8, 'P'), (32, 'U'), (64, 'E'), (128, 'W'), (16, '.')];
        let text: String = letters.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, letter)| letter).collect();
        write!(f, "[{text}]")
    }
}

/// The options of a TCP header that this tool uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Maximum segment size in bytes.
    pub mss: Option<u16>,
    /// Window scale shift count.
    pub window_scale: Option<u8>,
    /// Selective acknowledgements permitted.
    pub sack_permitted: bool,
    /// Timestamp value and echo reply (RFC 7323).
    pub timestamps: Option<(u32, u32)>,
    /// The client's own endpoint, as an LVS FULLNAT balancer inserts it.
    pub toa: Option<Toa>,
}

/// "TCP option address": the client behind a FULLNAT balancer. Option kind 254, length 8 for IPv4 and 20 for IPv6: port, then
/// address (iqiyi/dpvs, `include/ipvs/proto_tcp.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Toa(pub Endpoint);

impl<'a> Tcp<'a> {
    /// Reads the options as far as they were captured and make sense.
    pub fn options(&self) -> TcpOptions {
        TcpOptions::read(self.option_bytes)
    }

    /// Kind and body of each option, unknown ones too, until the bytes end or make no sense.
    pub fn raw_options(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        raw_options(self.option_bytes)
    }
}

/// Kind and body of each option, until the bytes end or make no sense.
pub fn raw_options(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            match *rest {
                [1, ref after @ ..] => rest = after,
                [kind, len, ..] if kind != 0 && len >= 2 && rest.len() >= usize::from(len) => {
                    let (option, after) = rest.split_at(usize::from(len));
                    rest = after;
                    return Some((kind, &option[2..]));
                }
                _ => return None,
            }
        }
    })
}

impl TcpOptions {
    /// Reads option bytes as far as they make sense (RFC 9293, RFC 7323, RFC 2018).
    pub fn read(bytes: &[u8]) -> TcpOptions {
        let mut options = TcpOptions::default();
        for (kind, body) in raw_options(bytes) {
            match (kind, body) {
                (2, [a, b]) => options.mss = Some(u16::from_be_bytes([*a, *b])),
                (3, [shift]) => options.window_scale = Some(*shift),
                (4, []) => options.sack_permitted = true,
                (8, [a, b, c, d, e, f, g, h]) => {
                    options.timestamps = Some((u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h])));
                }
                (254, body) => options.toa = toa(body),
                _ => {}
            }
        }
        options
    }
}

fn toa(body: &[u8]) -> Option<Toa> {
    let ([p0, p1], addr) = body.split_first_chunk::<2>()?;
    let addr = match addr.len() {
        4 => IpAddr::V4(Ipv4Addr::from(*addr.first_chunk::<4>()?)),
        16 => IpAddr::V6(Ipv6Addr::from(*addr.first_chunk::<16>()?)),
        _ => return None,
    };
    Some(Toa(Endpoint::new(addr, u16::from_be_bytes([*p0, *p1]))))
}

impl<'a> Dissector<'a> {
    pub(super) fn tcp(&mut self, bytes: &'a [u8], len: usize) {
        let Some(h) = bytes.first_chunk::<20>() else {
            return self.cut_tcp(bytes, len);
        };
        let header_len = usize::from(h[12] >> 4) * 4;
        if header_len < 20 || header_len > len {
            return self.cut_transport("TCP", bytes, len, true);
        }
        let header_end = header_len.min(bytes.len());
        self.packet.transport = Transport::Tcp(Tcp {
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            flags: TcpFlags(h[13]),
            window: u16::from_be_bytes([h[14], h[15]]),
            checksum: u16::from_be_bytes([h[16], h[17]]),
            option_bytes: &bytes[20..header_end],
        });
        self.packet.payload = &bytes[header_end..];
        self.packet.payload_len = (len - header_len) as u32;
        self.packet.segment = bytes;
        if header_end < header_len {
            self.stop("TCP options", super::StopReason::Truncated, bytes);
        }
    }

    /// A header cut by the snap length: with 14 bytes the flags are there, which is enough to follow the connection.
    fn cut_tcp(&mut self, bytes: &'a [u8], len: usize) {
        self.cut_transport("TCP", bytes, len, true);
        let Some(h) = bytes.first_chunk::<14>() else { return };
        self.packet.transport = Transport::Tcp(Tcp {
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            flags: TcpFlags(h[13]),
            window: bytes.get(14..16).map_or(0, |w| u16::from_be_bytes([w[0], w[1]])),
            checksum: bytes.get(16..18).map_or(0, |c| u16::from_be_bytes([c[0], c[1]])),
            option_bytes: &[],
        });
        self.packet.payload_len = len.saturating_sub(usize::from(h[12] >> 4) * 4) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// etherparse reads the same.
        #[test]
        fn options_as_etherparse_reads_them(bytes in proptest::collection::vec(prop_oneof![0u8..10, any::<u8>()], 0..40)) {
            use etherparse::TcpOptionElement as Element;
            let ours = TcpOptions::read(&bytes);
            let mut theirs = TcpOptions { toa: ours.toa, ..TcpOptions::default() };
            let mut understood = true;
            for element in etherparse::TcpOptionsIterator::from_slice(&bytes) {
                match element {
                    Ok(Element::MaximumSegmentSize(mss)) => theirs.mss = Some(mss),
                    Ok(Element::WindowScale(shift)) => theirs.window_scale = Some(shift),
                    Ok(Element::SelectiveAcknowledgementPermitted) => theirs.sack_permitted = true,
                    Ok(Element::Timestamp(value, echo)) => theirs.timestamps = Some((value, echo)),
                    Ok(_) => {}
                    // It gives up at an option that it does not know; ours goes on behind it.
                    Err(_) => understood = false,
                }
            }
            if understood {
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn toa_of_both_families() {
        let v4 = [254, 8, 0x9c, 0x41, 192, 0, 2, 7];
        assert_eq!(TcpOptions::read(&v4).toa, Some(Toa("192.0.2.7:40001".parse().unwrap())));
        let mut v6 = vec![1, 1, 254, 20, 0, 80];
        v6.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(TcpOptions::read(&v6).toa, Some(Toa("[2001:db8::7]:80".parse().unwrap())));
        assert_eq!(TcpOptions::read(&[254, 4, 0, 80]).toa, None);
    }
}
