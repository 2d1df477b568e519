//! The Test Anything Protocol, version 14: <https://testanything.org/tap-version-14-specification.html>.

use super::suite::{End, Suite};
use std::io::{self, Write};

/// Writes a suite as TAP.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(suite: &Suite, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "TAP version 14\n1..{}", suite.checks.len())?;
    for (check, number) in suite.checks.iter().zip(1..) {
        let name = escaped(&check.name);
        match &check.end {
            End::Passed(_) => writeln!(out, "ok {number} - {name}")?,
            // A harness counts a failure under this directive as no failure, and shows it.
            End::NotYet(_, why) => writeln!(out, "not ok {number} - {name} # TODO {}", escaped(why))?,
            End::Failed(line, full) => {
                writeln!(out, "not ok {number} - {name}")?;
                diagnostic(line, full, out)?;
            }
            End::Error(what) => {
                writeln!(out, "not ok {number} - {name}")?;
                diagnostic(what, "", out)?;
            }
        }
    }
    Ok(())
}

/// A YAML block. The message is quoted with doubled `'`, which is all that a single-quoted YAML string needs.
fn diagnostic(message: &str, full: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "  ---\n  message: '{}'", plain(message).replace('\'', "''"))?;
    if !full.is_empty() {
        // The indentation is said, because the first line may begin with blanks of its own.
        writeln!(out, "  difference: |2")?;
        for line in full.lines() {
            writeln!(out, "    {}", plain(line))?;
        }
    }
    writeln!(out, "  ...")
}

/// One line, without control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A description in which `#` begins no directive.
fn escaped(text: &str) -> String {
    plain(text).replace('\\', "\\\\").replace('#', "\\#")
}

#[cfg(test)]
mod tests {
    use super::super::suite::Check;
    use super::*;

    #[test]
    fn a_suite() {
        let check = |name: &str, end| Check { name: name.to_string(), seconds: 0.0, end };
        let suite = Suite {
            name: String::new(),
            checks: vec![
                check("a # skip", End::Passed(String::new())),
                check("b", End::Failed("it's wrong".to_string(), "findings\n  - x\n  + y\u{1b}".to_string())),
                check("c", End::Error("gone".to_string())),
                check("d", End::NotYet(String::new(), "NAT001 not found yet".to_string())),
            ],
        };
        let mut out = Vec::new();
        write(&suite, &mut out).unwrap();
        let expect = "TAP version 14\n1..4\nok 1 - a \\# skip\nnot ok 2 - b\n  ---\n  message: 'it''s wrong'\n  difference: |2\n    \
            findings\n      - x\n      + y \n  ...\nnot ok 3 - c\n  ---\n  message: 'gone'\n  ...\nnot ok 4 - d # TODO NAT001 not found yet\n";
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }
}
