//! Snapshot files: a host as JSON.

use crate::host::{Host, SCHEMA};
use std::fs;
use std::path::Path;

/// Reads a snapshot.
///
/// # Errors
/// When it is not one, is cut short, or of a later version; the text says which, with the file's name.
pub fn read_host(path: &Path) -> Result<Host, String> {
    let name = path.display();
    let text = fs::read_to_string(path)
        .map_err(|e| format!("{name}: cannot be read: {}", e.to_string().split(" (os error").next().unwrap_or_default()))?;
    parse_host(&text).map_err(|why| format!("{name}: {why}"))
}

/// Reads a snapshot's text.
///
/// # Errors
/// When it is not one.
pub fn parse_host(text: &str) -> Result<Host, String> {
    /// Of a file of any version this much is there.
    #[derive(serde::Deserialize)]
    struct Version {
        schema: u64,
    }
    let damaged = |e: serde_json::Error| match e.classify() {
        serde_json::error::Category::Eof => format!("the snapshot is cut short at line {}, column {}", e.line(), e.column()),
        _ => format!("not a snapshot of a host: {e}"),
    };
    let Version { schema } = serde_json::from_str(text).map_err(damaged)?;
    if schema != u64::from(SCHEMA) {
        return Err(format!(
            "a snapshot of schema {schema}; this lvscope reads schema {SCHEMA}: use the version that wrote it, or a later one"
        ));
    }
    let mut host: Host = match escapes(text) {
        false => serde_json::from_str(text).map_err(damaged)?,
        true => {
            let mut value: serde_json::Value = serde_json::from_str(text).map_err(damaged)?;
            tame(&mut value);
            serde_json::from_value(value).map_err(damaged)?
        }
    };
    // Findings list hosts with commas between them.
    host.name = host.name.replace(", ", "-");
    Ok(host)
}

/// Whether there may be characters in a text that do something to a terminal: in JSON they are escaped, those of C1 apart.
fn escapes(text: &str) -> bool {
    ["\\u", "\\n", "\\r", "\\t", "\\b", "\\f"].iter().any(|escape| text.contains(escape)) || text.contains(is_wild)
}

/// What a terminal acts on instead of showing it: control characters, and those that turn the direction of text.
fn is_wild(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t' && c != '\r' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A file that somebody sent must not paint the terminal on which it is read.
fn tame(value: &mut serde_json::Value) {
    let tamed = |text: &str| text.replace(|c: char| c.is_control() || is_wild(c), "\u{fffd}");
    match value {
        serde_json::Value::String(text) => *text = tamed(text),
        serde_json::Value::Array(items) => items.iter_mut().for_each(tame),
        serde_json::Value::Object(map) => {
            let items = std::mem::take(map).into_iter().map(|(key, mut value)| {
                tame(&mut value);
                (tamed(&key), value)
            });
            *map = items.collect();
        }
        _ => {}
    }
}

/// A snapshot as text: a line for each item of a section, so that two of them can be compared.
pub fn host_text(host: &Host) -> String {
    let value = serde_json::to_value(host).unwrap_or_default();
    let mut sections = Vec::new();
    // The kernel's own order of keys is that of the types; a map would sort them.
    for key in KEYS {
        let Some(section) = value.get(key) else { continue };
        let lines = |open: char, items: Vec<String>, close: char| match items.is_empty() {
            true => format!("{open}{close}"),
            false => format!("{open}\n    {}\n  {close}", items.join(",\n    ")),
        };
        let text = match section {
            serde_json::Value::Array(items) => lines('[', items.iter().map(ToString::to_string).collect(), ']'),
            serde_json::Value::Object(map) => {
                lines('{', map.iter().map(|(k, v)| format!("{}: {v}", serde_json::Value::from(k.as_str()))).collect(), '}')
            }
            other => other.to_string(),
        };
        sections.push(format!("  \"{key}\": {text}"));
    }
    format!("{{\n{}\n}}\n", sections.join(",\n"))
}

/// The sections in their order. A test holds them to the type.
const KEYS: [&str; 22] = [
    "schema",
    "tool",
    "name",
    "taken",
    "kernel",
    "netns",
    "left_out",
    "links",
    "addresses",
    "routes",
    "rules",
    "neighbours",
    "proxies",
    "sockets",
    "sysctls",
    "ipvs",
    "netfilter",
    "conntrack",
    "counters",
    "saved",
    "managers",
    "modules",
];

/// Writes a snapshot.
///
/// # Errors
/// When it cannot be written.
pub fn write_host(host: &Host, path: &Path) -> std::io::Result<()> {
    fs::write(path, host_text(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut host = Host::new("web1");
        host.leave_out("ipvs", "not loaded");
        assert_eq!(parse_host(&host_text(&host)), Ok(host.clone()));
        let keys: Vec<String> = serde_json::to_value(&host).unwrap().as_object().unwrap().keys().cloned().collect();
        assert!(keys.len() == KEYS.len() && keys.iter().all(|key| KEYS.contains(&key.as_str())), "{keys:?}");
    }

    /// A file is not trusted with the terminal.
    #[test]
    fn control_characters_are_tamed() {
        let mut host = Host::new("we\u{1b}[31mb\n1, x");
        host.leave_out("ipvs", "a\u{9b}31m\u{202e}b");
        host.counters = Some([("\u{7}".to_string(), 1)].into());
        let read = parse_host(&host_text(&host)).unwrap();
        assert_eq!(read.name, "we\u{fffd}[31mb\u{fffd}1-x");
        assert_eq!(read.left_out[0].why, "a\u{fffd}31m\u{fffd}b");
        assert_eq!(read.counters.unwrap().keys().collect::<Vec<_>>(), ["\u{fffd}"]);
        // Written as it is, without an escape.
        let text = host_text(&Host::new("web1")).replace("web1", "w\u{9b}1 é");
        assert_eq!(parse_host(&text).unwrap().name, "w\u{fffd}1 é");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |text: &str| parse_host(text).unwrap_err();
        assert!(wrong(r#"{"schema": 1, "name": "we"#).contains("cut short"), "{}", wrong(r#"{"schema": 1, "name": "we"#));
        assert!(wrong(r#"{"schema": 2, "name": 7}"#).contains("schema 2"));
        assert!(wrong("[]").contains("not a snapshot") && wrong(r#"{"schema": 1}"#).contains("name"));
        assert!(wrong(r#"{"schema":1,"name":"a","addresses":[{"link":"lo","addr":"10.0.0.1/99"}]}"#).contains("10.0.0.1/99"));
        assert_eq!(parse_host(r#"{"schema":1,"name":"a","later":{"x":1}}"#).map(|h| h.name), Ok("a".to_string()));
    }
}
