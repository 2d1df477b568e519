//! Faults on request: a director that is broken in a known way.

use crate::net::MacAddr;
use std::str::FromStr;

/// What is to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Every so many-th SYN-ACK of a real server is lost (1: all).
    pub drop_syn_ack: Option<u32>,
    /// Requests go to this MAC instead of the real server's.
    pub wrong_mac: Option<MacAddr>,
    /// Requests keep their TTL, as before Linux 4.10.
    pub keep_ttl: bool,
    /// Merged packets longer than the MTU are refused, as in RHEL 6.
    pub old_mtu_test: bool,
    /// Translated packets have a wrong checksum.
    pub wrong_checksum: bool,
    /// Answers are held back, in milliseconds.
    pub delay_answer: Option<u32>,
    /// Answers leave with the real server's address.
    pub keep_answer: bool,
}

/// The faults there are, for messages.
pub const FAULTS: [&str; 7] =
    ["drop-syn-ack=N", "wrong-mac=MAC", "keep-ttl", "old-mtu-test", "wrong-checksum", "delay-answer=MS", "keep-answer"];

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Faults, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let number = || value.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(|| format!("'{value}' is not a number that {name} takes"));
        let mut faults = Faults::default();
        match name {
            "drop-syn-ack" => faults.drop_syn_ack = Some(number()?),
            "wrong-mac" => faults.wrong_mac = Some(value.parse()?),
            "keep-ttl" => faults.keep_ttl = true,
            "old-mtu-test" => faults.old_mtu_test = true,
            "wrong-checksum" => faults.wrong_checksum = true,
            "delay-answer" => faults.delay_answer = Some(number()?),
            "keep-answer" => faults.keep_answer = true,
            _ => return Err(format!("unknown fault '{name}' (known: {})", FAULTS.join(" "))),
        }
        Ok(faults)
    }
}

impl Faults {
    /// Both.
    pub fn and(self, other: Faults) -> Faults {
        Faults {
            drop_syn_ack: other.drop_syn_ack.or(self.drop_syn_ack),
            wrong_mac: other.wrong_mac.or(self.wrong_mac),
            keep_ttl: self.keep_ttl || other.keep_ttl,
            old_mtu_test: self.old_mtu_test || other.old_mtu_test,
            wrong_checksum: self.wrong_checksum || other.wrong_checksum,
            delay_answer: other.delay_answer.or(self.delay_answer),
            keep_answer: self.keep_answer || other.keep_answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let both = "keep-ttl".parse::<Faults>().unwrap().and("drop-syn-ack=3".parse().unwrap());
        assert_eq!((both.keep_ttl, both.drop_syn_ack), (true, Some(3)));
        for wrong in ["drop-syn-ack=0", "drop-syn-ack", "wrong-mac=x", "ttl"] {
            assert!(wrong.parse::<Faults>().is_err(), "{wrong}");
        }
    }
}
