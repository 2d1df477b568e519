//! WINDOW: the kernel's answers and configuration files → [`Host`](crate::host::Host). Read-only, always.

use crate::host::Host;

/// What to collect.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Look into this network namespace: a name of `ip netns`, or a process.
    pub netns: Option<String>,
    /// The host's name; its own when none is given.
    pub name: Option<String>,
}

/// Collects this machine's facts.
///
/// # Errors
/// When the namespace cannot be entered, or the kernel answers nothing at all.
pub fn collect(wanted: &Wanted) -> Result<Host, String> {
    let _ = wanted;
    Err("not yet".to_string())
}
