//! A case as a folder: which files are captures, which are rules, and what `case.toml` says of them.

use super::evidence::CaptureArg;
use super::expectation::Expectation;
use super::manifest::{Manifest, ManifestError};
use super::snapshot::read_host;
use crate::host::Fleet;
use crate::ipvs::{VirtualService, parse};
use crate::trace::role_of_name;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file that makes a folder a case.
pub const MANIFEST: &str = "case.toml";
/// The director's rules, as `ipvsadm -Sn` prints them.
const RULES: &str = "ipvs.rules";
/// How captures are called.
const CAPTURES: [&str; 4] = [".pcap", ".pcapng", ".cap", ".dmp"];
const COMPRESSED: [&str; 3] = [".gz", ".zst", ".zstd"];

/// A folder of evidence, and what has to come out of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where it is.
    pub folder: PathBuf,
    /// What its `case.toml` says; all empty where there is none.
    pub manifest: Manifest,
    /// Its captures, in the order of their names.
    pub captures: Vec<CaptureArg>,
    /// The director's rules, where they are there.
    pub rules: Vec<VirtualService>,
    /// Snapshots of its hosts.
    pub fleet: Fleet,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// Why a folder is no case that can be replayed.
#[derive(Debug)]
pub enum CaseError {
    /// The operating system said no.
    Io(PathBuf, io::Error),
    /// `case.toml` is wrong.
    Manifest(PathBuf, ManifestError),
    /// The rules are wrong.
    Rules(PathBuf, crate::ipvs::ParseError),
    /// `[points]` names a file that is not there.
    NoSuchCapture(PathBuf, String),
    /// There is no capture in it.
    NoCaptures(PathBuf),
    /// A capture cannot be read.
    Capture(String, String),
}

impl fmt::Display for CaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaseError::Io(path, e) => {
                let text = e.to_string();
                write!(f, "{}: {}", path.display(), text.split(" (os error").next().unwrap_or_default())
            }
            CaseError::Manifest(path, e) => write!(f, "{} {}{e}", path.display(), if e.line == 0 { ": " } else { "" }),
            CaseError::Rules(path, e) => write!(f, "{} {e}", path.display()),
            CaseError::NoSuchCapture(path, name) => write!(f, "{}: [points] names {name}, which is not in the folder", path.display()),
            CaseError::NoCaptures(path) => {
                write!(
                    f,
                    "{}: no capture in it; captures are called HOST.IFACE.pcap or .pcapng, with .gz or .zst if need be",
                    path.display()
                )
            }
            CaseError::Capture(name, what) => write!(f, "{name} {what}"),
        }
    }
}

impl std::error::Error for CaseError {}

impl Case {
    /// Opens a folder with captures. It need not have a `case.toml`: then it is a case that nobody has judged.
    ///
    /// # Errors
    /// When it cannot be read, has no captures, or its `case.toml` or rules are wrong.
    pub fn open(folder: &Path) -> Result<Case, CaseError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |e| CaseError::Io(path, e)
        };
        let at = folder.join(MANIFEST);
        let manifest = match fs::read_to_string(&at) {
            Ok(text) => Manifest::parse(&text).map_err(|e| CaseError::Manifest(at.clone(), e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound && folder.is_dir() => Manifest::default(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CaseError::Io(folder.to_path_buf(), e)),
            Err(e) => return Err(CaseError::Io(at, e)),
        };
        let mut case = Case {
            folder: folder.to_path_buf(),
            manifest,
            captures: Vec::new(),
            rules: Vec::new(),
            fleet: Fleet::default(),
            notes: Vec::new(),
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(io(folder))? {
            names.push(entry.map_err(io(folder))?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        if let Some(absent) = case.manifest.points.values().find(|file| !names.contains(file)) {
            return Err(CaseError::NoSuchCapture(at, absent.clone()));
        }
        let mut hosts = Vec::new();
        for name in &names {
            let path = folder.join(name);
            let named = case.manifest.points.iter().find(|(_, file)| *file == name).map(|(point, _)| point.clone());
            if named.is_some() || is_capture(name) {
                case.captures.push(CaptureArg { path, point: named });
            } else if name == RULES {
                let text = fs::read_to_string(&path).map_err(io(&path))?;
                case.rules = parse(&text).map_err(|e| CaseError::Rules(path, e))?;
            } else if name.ends_with(".host.json") {
                match read_host(&path) {
                    Ok(host) => hosts.push(host),
                    Err(why) => case.notes.push(why),
                }
            }
        }
        let roles = &case.manifest.roles;
        case.fleet = Fleet::new(hosts, role_of_name, |name| roles.get(name).copied(), &[]);
        if case.captures.is_empty() {
            return Err(CaseError::NoCaptures(folder.to_path_buf()));
        }
        Ok(case)
    }

    /// Writes an expectation into the case's `case.toml`; one is made where there was none. True when that changed it.
    ///
    /// # Errors
    /// When it cannot be written, or has been made unreadable since.
    pub fn bless(&self, expect: Expectation) -> Result<bool, CaseError> {
        let path = self.folder.join(MANIFEST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(CaseError::Io(path, e)),
        };
        if self.manifest.expect.as_ref() == Some(&expect) {
            return Ok(false);
        }
        let blessed = Manifest::with_expectation(&text, expect).map_err(|e| CaseError::Manifest(path.clone(), e))?;
        fs::write(&path, blessed).map_err(|e| CaseError::Io(path, e))?;
        Ok(true)
    }
}

fn is_capture(name: &str) -> bool {
    let bare = COMPRESSED.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    !name.starts_with('.') && CAPTURES.iter().any(|end| bare.len() > end.len() && bare.ends_with(end))
}

/// The cases under a path, at any depth, in the order of their names: the path itself where it is a case (or its `case.toml`, or a folder
/// with captures that is to become one), else every folder in it that has a `case.toml`.
///
/// # Errors
/// When a folder cannot be read.
pub fn find(path: &Path) -> Result<Vec<PathBuf>, CaseError> {
    if path.file_name().is_some_and(|name| name == MANIFEST) && path.is_file() {
        return Ok(vec![path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()]);
    }
    let mut cases = Vec::new();
    below(path, &mut cases)?;
    if cases.is_empty() && entries(path)?.iter().any(|(name, is_dir)| !is_dir && is_capture(name)) {
        cases.push(path.to_path_buf());
    }
    Ok(cases)
}

fn below(folder: &Path, cases: &mut Vec<PathBuf>) -> Result<(), CaseError> {
    let entries = entries(folder)?;
    if entries.iter().any(|(name, is_dir)| name == MANIFEST && !is_dir) {
        cases.push(folder.to_path_buf());
        return Ok(());
    }
    for (name, _) in entries.iter().filter(|(name, is_dir)| *is_dir && !name.starts_with('.')) {
        below(&folder.join(name), cases)?;
    }
    Ok(())
}

/// Name, and whether it is a folder. Symbolic links are not followed: they may lead in a circle.
fn entries(folder: &Path) -> Result<Vec<(String, bool)>, CaseError> {
    let io = |e| CaseError::Io(folder.to_path_buf(), e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let is_dir = entry.file_type().map_err(io)?.is_dir();
        entries.push((entry.file_name().to_string_lossy().into_owned(), is_dir));
    }
    entries.sort_unstable();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_captures() {
        for yes in ["web1.eth0.pcap", "a.pcapng", "web1.eth0.pcap.gz", "d.pcapng.zst", "x.cap"] {
            assert!(is_capture(yes), "{yes}");
        }
        for no in ["case.toml", ".pcap", "web1.host.json", "pcap", "notes.pcap.txt", ".hidden.pcap", "a.gz"] {
            assert!(!is_capture(no), "{no}");
        }
    }
}
