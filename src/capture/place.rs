//! Where to capture: an interface, and the network namespace that it is in.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

/// An interface of this network namespace, or of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A name of `ip netns`, a process, or a path.
    pub netns: Option<String>,
    /// The interface's name.
    pub interface: String,
}

impl fmt::Display for Place {
    /// `eth0`, or `web1.eth0` in the namespace web1: as capture points are called.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.netns {
            Some(netns) => write!(f, "{}.{}", short(netns), self.interface),
            None => f.write_str(&self.interface),
        }
    }
}

/// A namespace's last word: `/run/docker/netns/web1` is web1, `/proc/77/ns/net` is netns-77.
fn short(netns: &str) -> String {
    match netns.strip_suffix("/ns/net").unwrap_or(netns).rsplit('/').next().unwrap_or(netns) {
        number if number.parse::<u32>().is_ok() => format!("netns-{number}"),
        name => name.to_string(),
    }
}

/// Why there is nothing to capture at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceError {
    /// The namespace cannot be entered.
    Namespace(String),
    /// There is no such interface there; those that there are, the likeliest first.
    Unknown(Vec<String>),
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlaceError::Namespace(why) => f.write_str(why),
            PlaceError::Unknown(near) if near.is_empty() => f.write_str("no such interface"),
            PlaceError::Unknown(near) => write!(f, "no such interface (there are: {})", near.join(" ")),
        }
    }
}

impl std::error::Error for PlaceError {}

/// Does something in a network namespace, on a thread of its own; without one, here.
///
/// # Errors
/// When the namespace is not there, or may not be entered.
pub fn within<T: Send>(netns: Option<&str>, work: impl FnOnce() -> T + Send) -> Result<T, PlaceError> {
    let Some(name) = netns else { return Ok(work()) };
    let path = match name.parse::<u32>() {
        Ok(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        Err(_) if name.contains('/') => PathBuf::from(name),
        Err(_) => Path::new("/var/run/netns").join(name),
    };
    let failed =
        |what: &str, why: String| PlaceError::Namespace(format!("{what} the network namespace {name} ({}): {why}", path.display()));
    let file = File::open(&path).map_err(|e| failed("cannot open", e.to_string().split(" (os").next().unwrap_or_default().into()))?;
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let denied = "CAP_SYS_ADMIN is missing: run as root";
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| {
                failed("cannot enter", if e == nix::errno::Errno::EPERM { denied.to_string() } else { e.desc().to_lowercase() })
            })?;
            Ok(work())
        });
        done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The interfaces of the calling thread's namespace, and whether each is up.
pub fn interfaces() -> Vec<(String, bool)> {
    let mut all: Vec<(String, bool)> = Vec::new();
    for found in getifaddrs().into_iter().flatten() {
        if !all.iter().any(|(name, _)| *name == found.interface_name) {
            all.push((found.interface_name, found.flags.contains(InterfaceFlags::IFF_UP)));
        }
    }
    all
}

impl Place {
    /// Is there such an interface?
    ///
    /// # Errors
    /// With those that there are.
    pub fn exists(&self) -> Result<(), PlaceError> {
        let all = within(self.netns.as_deref(), interfaces)?;
        // What libpcap makes of all of them together.
        if self.interface == "any" || all.is_empty() || all.iter().any(|(name, _)| *name == self.interface) {
            return Ok(());
        }
        let mut near: Vec<String> = all.into_iter().map(|(name, _)| name).collect();
        near.sort_by_key(|name| distance(name, &self.interface));
        near.truncate(8);
        Err(PlaceError::Unknown(near))
    }
}

/// How many letters have to be changed, added or left out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_apart() {
        assert_eq!([distance("eth0", "eth0"), distance("eth0", "eth1"), distance("ens3", "eth0"), distance("", "lo")], [0, 1, 3, 2]);
    }

    #[test]
    fn places_are_called_like_points() {
        let place = |netns: Option<&str>| Place { netns: netns.map(str::to_string), interface: "eth0".into() }.to_string();
        assert_eq!(
            [place(None), place(Some("web1")), place(Some("77")), place(Some("/proc/77/ns/net")), place(Some("/run/netns/lb"))],
            ["eth0", "web1.eth0", "netns-77.eth0", "netns-77.eth0", "lb.eth0"]
        );
    }

    #[test]
    fn the_nearest_name_comes_first() {
        let wrong = Place { netns: None, interface: "lo9".into() };
        let Err(PlaceError::Unknown(near)) = wrong.exists() else { panic!("there is no lo9") };
        assert_eq!(near.first().map(String::as_str), Some("lo"));
    }
}
