//! `case.toml`: what a case is, read strictly and written so that a person may go on writing in it.

use super::expectation::Expectation;
use crate::ipvs::Role;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::fmt;

/// A case in its own words. Everything may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// What the case shows, in a line.
    pub title: String,
    /// What was done, what a client saw.
    pub story: String,
    /// Where the evidence comes from.
    pub provenance: Provenance,
    /// What each host is, by its name.
    #[serde(deserialize_with = "roles")]
    pub roles: BTreeMap<String, Role>,
    /// Names of capture points whose files are not called `HOST.IFACE.pcap`: point, file.
    pub points: BTreeMap<String, String>,
    /// What has to come out; absent in a case that nobody has judged yet.
    pub expect: Option<Expectation>,
}

/// Where the evidence of a case comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Provenance {
    /// The kernel that forwarded the packets.
    pub kernel: String,
    /// What captured them.
    pub tool: String,
    /// The scenario that was played.
    pub scenario: String,
    /// Recorded or made, where, and how.
    pub source: String,
}

/// What is wrong in a `case.toml`, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// Line, from 1; 0 when the error is about the whole file.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.what),
            line => write!(f, "line {line}, column {}: {}", self.column, self.what),
        }
    }
}

impl std::error::Error for ManifestError {}

fn roles<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Role>, D::Error> {
    /// A role as a word.
    struct Word(Role);
    impl<'de> Deserialize<'de> for Word {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            String::deserialize(from)?.parse().map(Word).map_err(de::Error::custom)
        }
    }
    Ok(BTreeMap::<String, Word>::deserialize(from)?.into_iter().map(|(host, Word(role))| (host, role)).collect())
}

/// Reads TOML of any kind, with line and column of the first mistake.
///
/// # Errors
/// The first thing in it that is no TOML, or that `T` does not know.
pub fn read_toml<T: de::DeserializeOwned>(text: &str) -> Result<T, ManifestError> {
    toml::from_str(text).map_err(|e: toml::de::Error| {
        let Some(span) = e.span() else { return ManifestError { line: 0, column: 0, what: e.message().to_string() } };
        // The value that holds the mistake; our own messages quote the word itself.
        let word = e.message().split('\'').nth(1).filter(|word| !word.is_empty());
        let within = word.and_then(|word| text.get(span.start..)?.find(word)).unwrap_or(0);
        let before = text.get(..span.start + within).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ManifestError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what: e.message().trim().replace('\n', ", "),
        }
    })
}

impl Manifest {
    /// Reads a `case.toml`.
    ///
    /// # Errors
    /// The first thing in it that is no TOML, or that lvscope does not know.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        read_toml(text)
    }

    /// The text of a `case.toml`.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let mut say = |key: &str, value: &str| {
            if !value.is_empty() {
                out += &format!("{key} = {}\n", quoted(value));
            }
        };
        say("title", &self.title);
        say("story", &self.story);
        let Provenance { kernel, tool, scenario, source } = &self.provenance;
        let provenance = [("kernel", kernel), ("tool", tool), ("scenario", scenario), ("source", source)];
        let provenance = provenance.map(|(key, value)| (key.to_string(), value.clone())).into_iter().filter(|(_, value)| !value.is_empty());
        out += &table("provenance", provenance);
        out += &table("roles", self.roles.iter().map(|(host, role)| (key(host), role.to_string())));
        out += &table("points", self.points.iter().map(|(point, file)| (key(point), file.clone())));
        if let Some(expect) = &self.expect {
            out += "\n";
            out += &expect.to_text("");
        }
        out.trim_start_matches('\n').to_string()
    }

    /// `text`, a `case.toml`, with another expectation. All else in it stays as it is, comments and order too; of the expectation's own
    /// comments those stay that stand right under `[expect]`.
    ///
    /// # Errors
    /// When `text` is no `case.toml`.
    pub fn with_expectation(text: &str, expect: Expectation) -> Result<String, ManifestError> {
        let wanted = Manifest { expect: Some(expect.clone()), ..Self::parse(text)? };
        let spliced = splice(text, &expect);
        // TOML can be written in ways that a look at its lines misses (`expect.findings = [...]`, an inline table): then all is written anew.
        Ok(if Self::parse(&spliced).is_ok_and(|read| read == wanted) { spliced } else { wanted.to_text() })
    }
}

/// Puts the expectation where `[expect]` was, or at the end.
fn splice(text: &str, expect: &Expectation) -> String {
    let (mut before, mut after, mut notes) = (String::new(), String::new(), String::new());
    let (mut inside, mut met, mut in_notes) = (false, false, false);
    for line in text.split_inclusive('\n') {
        let start = line.trim_start();
        if start.starts_with('[') && !start.trim_end().ends_with(',') {
            let name = start.trim_start_matches('[').trim_start();
            let own = name.strip_prefix("expect").is_some_and(|rest| rest.trim_start().starts_with([']', '.']));
            in_notes = own && !met && !start.starts_with("[[");
            (inside, met) = (own, met || own);
        } else if inside && in_notes {
            if start.starts_with('#') {
                notes += line;
            } else {
                in_notes = false;
            }
        }
        match (inside, met) {
            (true, _) => {}
            (false, false) => before += line,
            (false, true) => after += line,
        }
    }
    let mut out = before.trim_end().to_string();
    if !out.is_empty() {
        out += "\n\n";
    }
    out += &expect.to_text(&notes);
    if !after.trim().is_empty() {
        out += "\n";
        out += &after;
    }
    out
}

fn table(name: &str, entries: impl Iterator<Item = (String, String)>) -> String {
    let lines: Vec<String> = entries.map(|(key, value)| format!("{key} = {}\n", quoted(&value))).collect();
    if lines.is_empty() { String::new() } else { format!("\n[{name}]\n{}", lines.concat()) }
}

/// A string as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// A key, bare where TOML allows that.
fn key(text: &str) -> String {
    let bare = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare { text.to_string() } else { quoted(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# written by hand
title = \"a \\\"case\\\"\"   # with a quote

[roles]
lb-1 = \"director\" # not called director
\"web.1\" = \"real-server\"

# what has to come out
[expect]
# seen on site
findings = [
  \"NAT001\",
  \"NAT002 broken likely\", # both
]
may = [\"NET008\"]

[[expect.flows]]
service = \"10.0.0.1:80\"
request = [
  \"lb-1.eth0\",
]

[points]
\"lb-1.eth0\" = \"d.pcap\"
";

    #[test]
    fn read() {
        let manifest = Manifest::parse(TEXT).unwrap();
        assert_eq!(manifest.title, "a \"case\"");
        assert_eq!(manifest.roles["lb-1"], Role::Director);
        assert_eq!(manifest.points["lb-1.eth0"], "d.pcap");
        let expect = manifest.expect.as_ref().unwrap();
        assert_eq!(expect.findings[1].to_string(), "NAT002 broken likely");
        assert_eq!(expect.flows.as_ref().unwrap()[0].count, 1);
        assert_eq!(Manifest::parse(&manifest.to_text()).unwrap(), manifest, "{}", manifest.to_text());
    }

    #[test]
    fn errors_say_where_and_what_is_known() {
        let cases = [
            (
                "title = \"x\"\ntitel = \"y\"\n",
                "line 2, column 1: unknown field `titel`, expected one of `title`, `story`, `provenance`, `roles`, `points`, `expect`",
            ),
            (
                "[roles]\nweb1 = \"realserver\"\n",
                "line 2, column 9: unknown role 'realserver' (known: client router director real-server unknown)",
            ),
            (
                "[expect]\nfindings = [\"NAT001 borken\"]\n",
                "line 2, column 21: unknown word 'borken' after NAT001 (known: note risky degraded broken possible likely certain)",
            ),
            ("[expect]\nfindings = [\"nat1\"]\n", "line 2, column 14: 'nat1' is not a code such as NAT001"),
            ("[expect]\nmay = [\n  \"ARP001\",\n  \"nat1\",\n]\n", "line 4, column 4: 'nat1' is not a code such as NAT001"),
            ("title = \n", "line 1, column 9: string values must be quoted, expected literal string"),
            (
                "[[expect.flows]]\nservise = \"1\"\n",
                "line 2, column 1: unknown field `servise`, expected one of `count`, `clients`, `protocol`, `service`, `vip`, `real_server`, `method`, `state`, `request`, `reply`",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(Manifest::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_new_expectation_leaves_the_rest_alone() {
        let expect = Expectation { findings: vec!["NAT001 broken certain".parse().unwrap()], ..Expectation::default() };
        let text = Manifest::with_expectation(TEXT, expect.clone()).unwrap();
        let kept = ["# written by hand", "# with a quote", "# not called director", "# what has to come out", "# seen on site", "[points]"];
        for kept in kept {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        assert!(!text.contains("NAT002") && !text.contains("10.0.0.1"), "{text}");
        assert_eq!(Manifest::parse(&text).unwrap().expect, Some(expect.clone()));
        assert_eq!(Manifest::with_expectation(&text, expect.clone()).unwrap(), text, "a second time changes nothing");
        // Written otherwise: comments go, content stays.
        let dotted = "title = \"t\"\nexpect.findings = [\"NAT002\"]\n[roles]\nc = \"client\"\n";
        let text = Manifest::with_expectation(dotted, expect.clone()).unwrap();
        let read = Manifest::parse(&text).unwrap();
        assert_eq!((read.title.as_str(), read.roles.len(), read.expect), ("t", 1, Some(expect)));
    }

    #[test]
    fn an_expectation_where_there_was_none() {
        for text in ["", "title = \"t\"", "# only a comment\n"] {
            let blessed = Manifest::with_expectation(text, Expectation::default()).unwrap();
            assert!(blessed.starts_with(text.trim_end()), "{blessed}");
            assert!(Manifest::parse(&blessed).unwrap().expect.is_some());
        }
    }
}
