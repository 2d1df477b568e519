//! How numbers and spans of time are written, everywhere the same.

/// `48212` → `48,212`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let head = digits.len() % 3;
    let mut out = digits[..head].to_string();
    for group in digits.as_bytes()[head..].chunks(3) {
        if !out.is_empty() {
            out.push(',');
        }
        out.extend(group.iter().map(|b| char::from(*b)));
    }
    out
}

/// Nanoseconds as `1.0 s`, `340 ms`, `20 µs`.
pub fn span(nanos: i64) -> String {
    match nanos.unsigned_abs() {
        n if n >= 950_000_000 => format!("{:.1} s", n as f64 / 1e9),
        n if n >= 950_000 => format!("{:.0} ms", n as f64 / 1e6),
        n => format!("{:.0} µs", n as f64 / 1e3),
    }
}

/// `1 time`, `3 times`; regular plurals only.
pub fn plural(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{} {word}s", thousands(count)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (48_212, "48,212"), (2_147_483_647, "2,147,483,647")] {
            assert_eq!(thousands(n), text);
        }
        assert_eq!([span(1_020_000_000), span(999_000_000), span(340_000_000), span(20_000)], ["1.0 s", "1.0 s", "340 ms", "20 µs"]);
        assert_eq!([plural(1, "time"), plural(3, "time"), plural(1200, "packet")], ["1 time", "3 times", "1,200 packets"]);
    }
}
