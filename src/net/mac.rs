//! Ethernet (EUI-48) addresses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// An Ethernet address, printed as `52:54:00:00:02:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// `00:00:00:00:00:00`: what the loopback device puts into its headers.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// The group bit (IEEE 802): broadcast and multicast addresses have it, the address of one interface does not.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// An address that can belong to one interface: not a group, not all zero.
    pub fn is_unicast(self) -> bool {
        !self.is_group() && self != Self::ZERO
    }

    /// The virtual router id of a VRRP address, `00:00:5e:00:01:VRID` (RFC 5798, section 7.3; `:02:` for IPv6).
    pub fn vrid(self) -> Option<u8> {
        match self.0 {
            [0, 0, 0x5e, 0, 1 | 2, vrid] => Some(vrid),
            _ => None,
        }
    }

    /// The link-local IPv6 address that an interface with this MAC gives itself (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b':'; 17];
        for (i, byte) in self.0.iter().enumerate() {
            text[i * 3] = HEX[usize::from(byte >> 4)];
            text[i * 3 + 1] = HEX[usize::from(byte & 15)];
        }
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    /// Six hexadecimal bytes with colons (or dashes) between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| matches!(p.len(), 1 | 2));
            *byte = part
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or_else(|| format!("'{text}' is not a MAC address such as 52:54:00:00:02:01"))?;
        }
        match parts.next() {
            None => Ok(MacAddr(bytes)),
            Some(_) => Err(format!("'{text}' has more than six bytes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mac = MacAddr([0x52, 0x54, 0, 0xab, 2, 0xff]);
        assert_eq!(mac.to_string(), "52:54:00:ab:02:ff");
        assert_eq!("52:54:0:ab:2:ff".parse(), Ok(mac));
        assert!("52:54:0:ab:2".parse::<MacAddr>().is_err());
        assert!("52:54:0:ab:2:ff:1".parse::<MacAddr>().is_err());
        assert!("52:54:0:ab:2:+f".parse::<MacAddr>().is_ok() == u8::from_str_radix("+f", 16).is_ok());
    }

    #[test]
    fn kinds() {
        assert!(MacAddr::BROADCAST.is_group() && !MacAddr::ZERO.is_unicast());
        assert!(MacAddr([0x33, 0x33, 0, 0, 0, 1]).is_group());
        assert_eq!(MacAddr([0, 0, 0x5e, 0, 1, 51]).vrid(), Some(51));
        assert_eq!(MacAddr([0, 0, 0x5e, 0, 3, 51]).vrid(), None);
    }

    #[test]
    fn link_local_addresses() {
        let of = |mac: &str| mac.parse::<MacAddr>().unwrap().link_local().to_string();
        assert_eq!(of("52:54:00:12:34:56"), "fe80::5054:ff:fe12:3456");
        assert_eq!(of("00:25:96:ff:fe:01"), "fe80::225:96ff:feff:fe01");
    }
}
