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
    serde_json::from_str(text).map_err(damaged)
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
const KEYS: [&str; 21] = [
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
