//! A page of text: a width, and ways to fill it. Colour is put on last, so that it never counts as width.

use std::io::{self, Write};
use textwrap::core::display_width;
use textwrap::{Options, WordSplitter};

/// A page that text goes to.
pub struct Page<'w> {
    out: &'w mut dyn Write,
    /// Columns.
    pub(super) width: usize,
    /// MAC addresses instead of host names.
    pub(super) macs: bool,
}

impl<'w> Page<'w> {
    /// A page of `width` columns; `macs`: with link-level addresses, as tcpdump's `-e`.
    pub fn new(out: &'w mut dyn Write, width: usize, macs: bool) -> Self {
        Page { out, width: width.max(40), macs }
    }

    /// One line as it is.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", text.trim_end())
    }

    /// An empty line.
    pub(super) fn gap(&mut self) -> io::Result<()> {
        writeln!(self.out)
    }

    /// Text, wrapped between words: the first line begins with `first`, the others with `rest`.
    pub(super) fn wrapped(&mut self, first: &str, rest: &str, text: &str) -> io::Result<()> {
        self.painted(first, rest, text, str::to_string)
    }

    /// The same, each line painted when its place is known.
    pub(super) fn painted(&mut self, first: &str, rest: &str, text: &str, paint: impl Fn(&str) -> String) -> io::Result<()> {
        // Blanks stand in for the indents while the lines are filled, so that paint on them takes no room.
        let (one, others) = (" ".repeat(display_width(first)), " ".repeat(display_width(rest)));
        let options = Options::new(self.width.max(one.len().max(others.len()) + 20))
            .initial_indent(&one)
            .subsequent_indent(&others)
            .break_words(false)
            .word_splitter(WordSplitter::NoHyphenation);
        for (at, line) in textwrap::wrap(text, options).iter().enumerate() {
            let (indent, blanks) = if at == 0 { (first, &one) } else { (rest, &others) };
            self.line(&format!("{indent}{}", paint(line.strip_prefix(blanks.as_str()).unwrap_or(line))))?;
        }
        Ok(())
    }

    /// A command, wrapped so that all its lines together can be pasted into a shell: each but the last ends in a backslash. What stands in
    /// quotes stays in one line, and a remark at the end gets lines of its own.
    pub(super) fn command(&mut self, first: &str, rest: &str, text: &str, paint: impl Fn(&str) -> String) -> io::Result<()> {
        const HELD: char = '\u{a0}';
        let (command, remark) = match text.split_once(" # ") {
            Some((command, remark)) => (command.trim_end(), Some(remark)),
            None => (text, None),
        };
        let mut quote = None;
        let held: String = command
            .chars()
            .map(|c| {
                match quote {
                    None if c == '\'' || c == '"' => quote = Some(c),
                    Some(open) if open == c => quote = None,
                    _ => {}
                }
                if c == ' ' && quote.is_some() { HELD } else { c }
            })
            .collect();
        // Room for the backslash.
        let width = self.width.saturating_sub(display_width(first).max(display_width(rest)) + 2).max(20);
        let options = Options::new(width).break_words(false).word_splitter(WordSplitter::NoHyphenation);
        let lines = textwrap::wrap(&held, options);
        for (at, line) in lines.iter().enumerate() {
            let indent = if at == 0 { first } else { rest };
            let line = paint(&line.replace(HELD, " "));
            self.line(&format!("{indent}{line}{}", if at + 1 < lines.len() { " \\" } else { "" }))?;
        }
        match remark {
            Some(remark) => self.painted(&format!("{rest}# "), &format!("{rest}# "), remark, paint),
            None => Ok(()),
        }
    }

    /// `left` at the left and `right` at the right of one line; below each other when they do not fit.
    pub(super) fn apart(&mut self, left: (&str, String), right: (&str, String)) -> io::Result<()> {
        let gap = self.width.saturating_sub(display_width(left.0) + display_width(right.0));
        if gap >= 2 {
            return self.line(&format!("{}{}{}", left.1, " ".repeat(gap), right.1));
        }
        self.line(&left.1)?;
        self.line(&format!("    {}", right.1))
    }
}

/// `text`, filled with blanks up to `width`.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(display_width(text))))
}

/// `text`, cut to `width` with an ellipsis.
pub(super) fn cut(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_string();
    }
    let mut short = String::new();
    for c in text.chars() {
        if display_width(&short) + 1 >= width {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(width: usize, fill: impl Fn(&mut Page<'_>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        fill(&mut Page::new(&mut out, width, false)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn wraps_and_hangs() {
        let text = page(40, |p| p.wrapped("- ", "  ", "one two three four five six seven eight nine ten"));
        assert_eq!(text, "- one two three four five six seven\n  eight nine ten\n");
        let apart = |w| {
            page(w, |p| {
                p.apart(("left side of it all", "left side of it all".into()), ("the right side of it", "the right side of it".into()))
            })
        };
        assert_eq!(apart(50).lines().count(), 1);
        assert_eq!(apart(40).lines().count(), 2);
    }

    #[test]
    fn commands_can_be_pasted() {
        let plain = |line: &str| line.to_string();
        let text = page(40, |p| p.command("now ", "    ", "iptables -t mangle -A FORWARD -j TCPMSS --clamp-mss-to-pmtu", plain));
        assert_eq!(text, "now iptables -t mangle -A FORWARD -j \\\n    TCPMSS --clamp-mss-to-pmtu\n");
        let short = page(40, |p| p.command("now ", "    ", "ipvsadm -C  # all of it", plain));
        assert_eq!(short, "now ipvsadm -C\n    # all of it\n");
        let quoted = page(40, |p| p.command("now ", "    ", "nft add rule inet filter input 'ip saddr 10.0.0.1 tcp dport 80 drop'", plain));
        assert_eq!(quoted.lines().last(), Some("    'ip saddr 10.0.0.1 tcp dport 80 drop'"));
    }

    #[test]
    fn cuts_by_columns() {
        assert_eq!([cut("abcdef", 6), cut("abcdef", 4), pad("ab", 4)], ["abcdef", "abc…", "ab  "]);
    }
}
