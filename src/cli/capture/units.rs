//! Sizes and times on the command line: `100M`, `30s`.

use crate::capture::Rotate;
use std::time::Duration;

/// `500ms`, `30s`, `5m`, `1h`; a bare number is seconds.
pub(in crate::cli) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time such as 30s, 5m or 1h");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).filter(|ms| *ms > 0).map(Duration::from_millis).ok_or_else(wrong)
}

/// A size (`100M`, `64k`, `1G`, perhaps with a B) or a time.
pub(super) fn rotation(text: &str) -> Result<Rotate, String> {
    let wrong = || format!("'{text}' is neither a size such as 100M nor a time such as 10m");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let bytes: u64 = match unit {
        "k" | "K" | "kB" | "KB" => 1 << 10,
        "M" | "MB" => 1 << 20,
        "G" | "GB" => 1 << 30,
        _ => return time(text).map(Rotate::Age).map_err(|_| wrong()),
    };
    number.checked_mul(bytes).filter(|size| *size > 0).map(Rotate::Size).ok_or_else(wrong)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..at].parse().ok()?, &text[at..]))
}

/// The longest that a packet can be, as tcpdump has it.
pub(super) const WHOLE: u32 = 262_144;

/// How much of a packet is kept. As with tcpdump, 0 is all of it.
pub(super) fn snap_len(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Ok(WHOLE),
        Ok(len @ 64..=WHOLE) => Ok(len),
        _ => Err(format!("'{text}' is not a length from 64 to {WHOLE}, or 0 for whole packets")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(time("90").unwrap(), Duration::from_secs(90));
        assert_eq!(
            [time("250ms").unwrap().as_millis(), time("5m").unwrap().as_millis(), time("2h").unwrap().as_millis()],
            [250, 300_000, 7_200_000]
        );
        assert_eq!([rotation("100M").unwrap(), rotation("1k").unwrap()], [Rotate::Size(100 << 20), Rotate::Size(1024)]);
        assert_eq!(rotation("10m").unwrap(), Rotate::Age(Duration::from_secs(600)));
        assert_eq!((snap_len("0"), snap_len("64"), snap_len("262144")), (Ok(WHOLE), Ok(64), Ok(WHOLE)));
        assert!(["63", "262145", "-1", ""].iter().all(|wrong| snap_len(wrong).is_err()));
        for wrong in ["", "s", "5x", "0", "-1s", "99999999999999999999h", "18446744073709551615h"] {
            assert!(time(wrong).is_err() && rotation(wrong).is_err(), "{wrong}");
        }
    }
}
