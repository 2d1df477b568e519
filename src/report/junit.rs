//! JUnit's XML, as CI systems read it: <https://github.com/testmoapp/junitxml>.

use super::suite::{End, Suite};
use std::io::{self, Write};

/// Writes a suite as a JUnit file.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(suite: &Suite, out: &mut dyn Write) -> io::Result<()> {
    let count = |of: fn(&End) -> bool| suite.checks.iter().filter(|check| of(&check.end)).count();
    let failures = count(|end| matches!(end, End::Failed(..)));
    let errors = count(|end| matches!(end, End::Error(_)));
    let skipped = count(|end| matches!(end, End::NotYet(..)));
    let seconds: f64 = suite.checks.iter().map(|check| check.seconds).sum();
    let tests = suite.checks.len();
    let totals = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{seconds:.3}\"");
    let name = escaped(&suite.name);
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(out, "<testsuites name=\"{name}\" {totals}>")?;
    writeln!(out, "  <testsuite name=\"{name}\" {totals}>")?;
    for check in &suite.checks {
        write!(out, "    <testcase name=\"{}\" classname=\"{name}\" time=\"{:.3}\"", escaped(&check.name), check.seconds)?;
        match &check.end {
            End::Passed(_) => writeln!(out, "/>")?,
            // JUnit has no word for "known to be missing"; this one is neither green nor red.
            End::NotYet(_, why) => writeln!(out, ">\n      <skipped message=\"{}\"/>\n    </testcase>", escaped(why))?,
            End::Failed(line, full) => {
                writeln!(out, ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>", escaped(line), escaped(full))?;
            }
            End::Error(what) => writeln!(out, ">\n      <error message=\"{}\"/>\n    </testcase>", escaped(what))?,
        }
    }
    writeln!(out, "  </testsuite>\n</testsuites>")
}

/// Text for an attribute or an element. Characters that XML 1.0 forbids even escaped are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&apos;",
            // As they are they would become blanks in an attribute.
            '\n' => out += "&#10;",
            '\t' => out += "&#9;",
            '\r' => out += "&#13;",
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::suite::Check;
    use super::*;

    #[test]
    fn a_suite() {
        let check = |name: &str, end| Check { name: name.to_string(), seconds: 0.0124, end };
        let suite = Suite {
            name: "lvscope replay".to_string(),
            checks: vec![
                check("a", End::Passed("1 flow".to_string())),
                check("b<\u{1b}\u{0}>", End::Failed("1 \"difference\"".to_string(), "- x\n+ y & z\u{7}".to_string())),
                check("c", End::Error("no such file".to_string())),
                check("d", End::NotYet("no fault".to_string(), "NAT001 not found yet".to_string())),
            ],
        };
        let mut out = Vec::new();
        write(&suite, &mut out).unwrap();
        let expect = "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites name=\"lvscope replay\" tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\" time=\"0.050\">
  <testsuite name=\"lvscope replay\" tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\" time=\"0.050\">
    <testcase name=\"a\" classname=\"lvscope replay\" time=\"0.012\"/>
    <testcase name=\"b&lt;&gt;\" classname=\"lvscope replay\" time=\"0.012\">
      <failure message=\"1 &quot;difference&quot;\">- x&#10;+ y &amp; z</failure>
    </testcase>
    <testcase name=\"c\" classname=\"lvscope replay\" time=\"0.012\">
      <error message=\"no such file\"/>
    </testcase>
    <testcase name=\"d\" classname=\"lvscope replay\" time=\"0.012\">
      <skipped message=\"NAT001 not found yet\"/>
    </testcase>
  </testsuite>
</testsuites>
";
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }
}
