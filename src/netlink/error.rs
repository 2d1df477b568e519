//! What the kernel refused, in its own words.

use nix::errno::Errno;
use std::fmt;

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkError {
    /// What was attempted: `add route 0.0.0.0/0 via 10.0.0.1`.
    pub attempted: String,
    /// The error number, positive; 0 when the failure was not the kernel's.
    pub errno: i32,
    /// What the kernel said beside the number (extended acknowledgement), or what else went wrong.
    pub said: String,
}

impl NetlinkError {
    /// An error by its number.
    pub(super) fn number(errno: i32, said: String) -> Self {
        NetlinkError { attempted: String::new(), errno: errno.abs(), said }
    }

    /// A failure beside the kernel's answers.
    pub(super) fn other(said: impl fmt::Display) -> Self {
        NetlinkError { attempted: String::new(), errno: 0, said: said.to_string() }
    }

    /// Says what was attempted.
    pub fn attempting(self, what: impl Into<String>) -> Self {
        NetlinkError { attempted: what.into(), ..self }
    }

    /// Whether it is this error number (`libc::ENOENT` and so on).
    pub fn is(&self, errno: i32) -> bool {
        self.errno == errno
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.attempted.is_empty() {
            write!(f, "{}: ", self.attempted)?;
        }
        match (self.errno, self.said.as_str()) {
            (0, said) => f.write_str(said),
            (errno, "") => f.write_str(Errno::from_raw(errno).desc()),
            (errno, said) => write!(f, "{said} ({})", Errno::from_raw(errno).desc()),
        }
    }
}

impl std::error::Error for NetlinkError {}
