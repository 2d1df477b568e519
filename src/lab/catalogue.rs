//! The scenarios that come with the program.

use super::scenario::{Scenario, ScenarioError};
use std::borrow::Cow;

macro_rules! sheets {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("scenarios/", $folder, $name, ".toml")))),*]
    };
}

/// Healthy set-ups that scenarios stand on.
static BASES: &[(&str, &str)] = sheets!("base/": "dr" "dr-routed" "nat");

/// Faults, and what looks like them and is none.
static SCENARIOS: &[(&str, &str)] = sheets!("": "dr-arp-leak" "dr-lo-mask" "dr-no-gateway" "dr-no-vip" "dr-ok" "dr-rip-only" "dr-routed-ok" "dr-snat-ok" "nat-client-on-server-net" "nat-no-forwarding" "nat-ok" "nat-rs-no-gateway" "nat-rs-wrong-gateway" "nat-server-down");

/// The text of a base: one of ours, or a file that ends with `.toml`.
pub(super) fn base(name: &str) -> Option<Cow<'static, str>> {
    match BASES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Some(Cow::Borrowed(*text)),
        None if name.ends_with(".toml") => std::fs::read_to_string(name).ok().map(Cow::Owned),
        None => None,
    }
}

/// The names of the bases.
pub(super) fn bases() -> impl Iterator<Item = &'static str> {
    BASES.iter().map(|(name, _)| *name)
}

/// The names of all scenarios, in reading order.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|(name, _)| *name)
}

/// A scenario by its name, or from a file that ends with `.toml`.
///
/// # Errors
/// When there is none, or it is wrong.
pub fn open(name: &str) -> Result<Scenario, ScenarioError> {
    if let Some((name, text)) = SCENARIOS.iter().find(|(known, _)| *known == name) {
        return Scenario::read(name, text);
    }
    let failed = |what: String| ScenarioError { name: name.to_string(), what };
    if !name.ends_with(".toml") {
        let near = names().filter(|known| known.contains(name) || name.contains(known)).collect::<Vec<_>>().join(" ");
        let hint = if near.is_empty() { "`lvscope lab list` lists them".to_string() } else { format!("perhaps: {near}") };
        return Err(failed(format!("there is no such scenario ({hint})")));
    }
    let text = std::fs::read_to_string(name).map_err(|e| failed(e.to_string()))?;
    let stem = std::path::Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Scenario::read(&stem, &text).map_err(|e| ScenarioError { name: name.to_string(), what: e.what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_sheet_is_in_the_catalogue() {
        for (folder, known) in [("src/lab/scenarios", SCENARIOS), ("src/lab/scenarios/base", BASES)] {
            let files = std::fs::read_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
            let files: BTreeSet<String> = files
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .filter_map(|name| name.strip_suffix(".toml").map(str::to_string))
                .collect();
            assert_eq!(files, known.iter().map(|(name, _)| name.to_string()).collect());
        }
    }

    #[test]
    fn every_scenario_can_be_read() {
        for name in names() {
            let scenario = open(name).unwrap_or_else(|e| panic!("{e}"));
            assert!(!scenario.title.is_empty() && !scenario.traffic.is_empty(), "{name}");
            assert!(scenario.is_healthy() || !scenario.client_sees.is_empty(), "{name}: what does the client see?");
            for code in scenario.codes.iter().chain(&scenario.may) {
                assert!(crate::rules::name_of(code).is_some(), "{name}: there is no code {code}");
            }
        }
    }

    #[test]
    fn a_name_that_is_not_there() {
        assert!(open("nat-rs-no-gate").expect_err("none").to_string().contains("perhaps: nat-rs-no-gateway"));
        assert!(open("no/such.toml").is_err());
    }
}
