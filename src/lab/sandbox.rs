//! Becoming a machine of one's own: a user namespace in which this process is root, and a network namespace in it.
//!
//! Must come first in the process: the kernel refuses a new user namespace to a process with several threads (kernel/fork.c,
//! `check_unshare_flags`: EINVAL). As real root no user namespace is needed.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use std::fmt;

/// Why there can be no lab here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxError {
    attempted: &'static str,
    errno: Errno,
}

/// Puts this process into namespaces of its own. What it does to interfaces from here on, no other process sees.
///
/// # Errors
/// Where namespaces are forbidden; the message says which setting forbids them.
pub fn enter() -> Result<(), SandboxError> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    if uid.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(());
    }
    let failed = |attempted| move |errno| SandboxError { attempted, errno };
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(failed("make a user and a network namespace"))?;
    let write = |file: &str, text: String| std::fs::write(file, text).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)));
    // Without that line a user may not map groups (user_namespaces(7)).
    write("/proc/self/setgroups", "deny".into()).map_err(failed("write /proc/self/setgroups"))?;
    write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(failed("write /proc/self/uid_map"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(failed("write /proc/self/gid_map"))
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.attempted, self.errno.desc())?;
        let hint = match (self.attempted, self.errno) {
            // It has nothing to do with disks.
            (_, Errno::ENOSPC | Errno::EUSERS) => {
                "as many namespaces as allowed exist, or none is: see `sysctl user.max_user_namespaces user.max_net_namespaces`"
            }
            (_, Errno::EINVAL) => "the process has several threads already",
            ("write /proc/self/uid_map" | "write /proc/self/setgroups", Errno::EPERM | Errno::EACCES) => {
                "AppArmor forbids what unprivileged user namespaces are for: run it as root, or `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
            }
            (_, Errno::EROFS) => "/proc is read-only, as in many containers: run it outside, or in a privileged one",
            (_, Errno::EPERM) => {
                "user namespaces are forbidden here (`sysctl kernel.unprivileged_userns_clone`, or a container's seccomp profile): run it as root"
            }
            _ => return Ok(()),
        };
        write!(f, " ({hint})")
    }
}

impl std::error::Error for SandboxError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_it_is_named() {
        let text = |attempted, errno| SandboxError { attempted, errno }.to_string();
        assert!(text("make a user and a network namespace", Errno::ENOSPC).contains("max_user_namespaces"));
        assert!(text("write /proc/self/uid_map", Errno::EPERM).contains("apparmor_restrict_unprivileged_userns"));
        assert!(text("make a user and a network namespace", Errno::EPERM).contains("as root"));
    }
}
