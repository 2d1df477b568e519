//! Time as a capture recorded it; never "now".

use std::fmt;
use std::ops::{Add, Sub};

/// Nanoseconds since 1970-01-01T00:00:00Z, on the clock of the host that captured.
///
/// Printed as the time of day in UTC with microseconds, as `tcpdump -n` does. Arithmetic saturates: a damaged file may hold
/// any number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// From whole seconds and nanoseconds.
    pub fn new(seconds: i64, nanos: i64) -> Self {
        Timestamp(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// Seconds since the epoch, for JSON. Loses digits below about 200 ns.
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

/// Shift by nanoseconds.
impl Add<i64> for Timestamp {
    type Output = Timestamp;
    fn add(self, nanos: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(nanos))
    }
}

/// The distance in nanoseconds.
impl Sub for Timestamp {
    type Output = i64;
    fn sub(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.div_euclid(1_000).rem_euclid(86_400_000_000);
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        write!(f, "{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_day() {
        assert_eq!(Timestamp::new(1_763_815_267, 114_000_999).to_string(), "12:41:07.114000");
        assert_eq!(Timestamp(-1).to_string(), "23:59:59.999999");
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!(Timestamp::new(i64::MAX, i64::MAX), Timestamp(i64::MAX));
        assert_eq!(Timestamp(i64::MAX) + 1, Timestamp(i64::MAX));
        assert_eq!(Timestamp(i64::MAX) - Timestamp(i64::MIN), i64::MAX);
        let _ = (Timestamp(i64::MIN).to_string(), Timestamp(i64::MAX).to_string());
    }
}
