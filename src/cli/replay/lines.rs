//! What `replay` prints for people: a line a case, under it where it differs, a summary at the end.

use super::{Played, Tally};
use crate::case::{self, Line};
use crate::net::plural;
use crate::report::End;
use colored::{ColoredString, Colorize};
use std::io::{self, Write};
use std::time::Duration;
use textwrap::core::display_width;

/// The column of names is this wide at most; longer names push the rest of their line.
const WIDEST: usize = 36;

/// What stands under a case is set in by this.
const INDENT: &str = "    ";

pub(super) struct Lines<'w> {
    out: &'w mut dyn Write,
    width: usize,
    /// Columns of names.
    widest: usize,
}

impl<'w> Lines<'w> {
    pub(super) fn new(out: &'w mut dyn Write, width: usize, widest: usize) -> Self {
        Lines { out, width, widest: widest.clamp(12, WIDEST) }
    }

    /// `✓ faults/nat-rs-no-gateway   NAT001, 2 flows   12 ms`, and what there is to say below.
    pub(super) fn case(&mut self, played: &Played, end: &End) -> io::Result<()> {
        let (mark, words) = match end {
            End::Passed(words) => ("✓".green(), words.clone()),
            End::NotYet(words, why) => ("~".yellow(), format!("{words}; {why}")),
            End::Failed(words, _) => ("✗".red(), words.clone()),
            End::Error(what) => {
                writeln!(self.out, "{} {}", "✗".red(), played.name)?;
                return self.wrapped(INDENT, INDENT, what, |text| text.normal());
            }
        };
        let words = if played.blessed { format!("blessed: {words}") } else { words };
        let took = format!("{} ms", played.took.as_millis());
        let name = format!("{}{}", played.name, " ".repeat(self.widest.saturating_sub(display_width(&played.name))));
        let room = self.width.saturating_sub(2 + display_width(&name) + 2 + 2 + took.len());
        if display_width(&words) <= room {
            let gap = " ".repeat(room - display_width(&words));
            writeln!(self.out, "{mark} {name}  {words}{gap}  {}", took.dimmed())?;
        } else {
            let gap = " ".repeat(self.width.saturating_sub(2 + display_width(&name) + took.len()).max(2));
            writeln!(self.out, "{mark} {name}{gap}{}", took.dimmed())?;
            self.wrapped(INDENT, INDENT, &words, |text| text.normal())?;
        }
        self.details(played)
    }

    /// Where it differs from what was expected, and what was left out of account.
    fn details(&mut self, played: &Played) -> io::Result<()> {
        let Ok(replayed) = &played.result else { return Ok(()) };
        for difference in replayed.differences.iter().flatten() {
            self.wrapped(INDENT, "      ", &difference.about, |text| text.bold())?;
            for line in &difference.lines {
                let (mark, text) = match line {
                    Line::Expected(text) => ("    - ", text),
                    Line::Found(text) => ("    + ", text),
                    Line::Same(text) => ("      ", text),
                };
                self.wrapped(mark, "        ", text, |text| match line {
                    Line::Expected(_) => text.red(),
                    Line::Found(_) => text.green(),
                    Line::Same(_) => text.normal(),
                })?;
            }
        }
        if replayed.differences.is_none() && !played.blessed {
            self.wrapped(INDENT, INDENT, "Nobody has said yet what has to come out; --bless writes down what does.", |text| text.normal())?;
        }
        for note in &replayed.notes {
            self.wrapped("    note: ", "          ", note, |text| text.dimmed())?;
        }
        Ok(())
    }

    pub(super) fn summary(&mut self, tally: &Tally, only: Option<&str>, took: Duration) -> io::Result<()> {
        let Tally { fine, not_yet, different, unjudged, unreadable, blessed } = tally;
        let all = fine + not_yet + different + unjudged + unreadable;
        if all == 0 {
            let word = only.map(|word| format!(" with '{word}' in its path")).unwrap_or_default();
            let text = format!("no case found{word}: a case is a folder with a {} and captures", case::MANIFEST);
            return self.wrapped("", "", &text, |text| text.normal());
        }
        let counts = [
            (*not_yet, "with a fault not found yet"),
            (*different, "different"),
            (*unjudged, "without expectation"),
            (*unreadable, "unreadable"),
            (*blessed, "blessed"),
        ];
        let rest: String = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
        let text = format!("{}: {fine} as expected{rest} · {:.1} s", plural(all, "case"), took.as_secs_f64());
        self.wrapped("", "  ", &text, |text| text.normal())
    }

    fn wrapped(&mut self, first: &str, rest: &str, text: &str, paint: impl Fn(&str) -> ColoredString) -> io::Result<()> {
        let room = self.width.saturating_sub(display_width(first).max(display_width(rest))).max(20);
        for (at, line) in textwrap::wrap(text, textwrap::Options::new(room)).iter().enumerate() {
            writeln!(self.out, "{}{}", if at == 0 { first } else { rest }, paint(line))?;
        }
        Ok(())
    }
}
