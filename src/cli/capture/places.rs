//! Interfaces and network namespaces on the command line.

use crate::capture::{Place, interfaces, within};
use crate::cli::Failure;

/// The namespaces to look in: those named, or this one.
pub(super) fn namespaces(netns: &[String]) -> Vec<Option<&str>> {
    if netns.is_empty() { vec![None] } else { netns.iter().map(|name| Some(name.as_str())).collect() }
}

/// The places that are meant: each interface in each namespace, `web1/eth0` in that one alone, `all` for those that are up.
pub(in crate::cli) fn places(wanted: &[String], netns: &[String]) -> Result<Vec<Place>, Failure> {
    let mut places: Vec<Place> = Vec::new();
    let mut add = |place: Place| {
        if !places.contains(&place) {
            places.push(place)
        }
    };
    for netns in namespaces(netns) {
        for word in wanted {
            let (netns, interface) = match word.rsplit_once('/') {
                Some((netns, interface)) => (Some(netns), interface),
                None => (netns, word.as_str()),
            };
            if interface != "all" {
                add(Place { netns: netns.map(str::to_string), interface: interface.to_string() });
                continue;
            }
            let found = within(netns, interfaces).map_err(|e| Failure::input(e.to_string()))?;
            for (name, _) in found.into_iter().filter(|(name, up)| *up && name != "lo") {
                add(Place { netns: netns.map(str::to_string), interface: name });
            }
        }
    }
    if !places.is_empty() {
        return Ok(places);
    }
    let there = within(namespaces(netns)[0], interfaces).unwrap_or_default();
    let up: Vec<String> = there.into_iter().filter(|(_, up)| *up).map(|(name, _)| name).collect();
    let up = if up.is_empty() { "none".to_string() } else { up.join(" ") };
    Err(match wanted.is_empty() {
        true => Failure::usage(format!("no interface given: name them with -i (up are: {up})")),
        false => Failure::input(format!("no interface to capture on (up are: {up})")),
    })
}
