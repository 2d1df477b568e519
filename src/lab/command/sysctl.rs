//! `sysctl -w key=value`, by /proc/sys/net of the calling thread's network namespace.

use std::path::{Path, PathBuf};

/// Sets what the words say.
pub(super) fn run(words: &[&str]) -> Result<(), String> {
    let settings = match words {
        ["-w" | "-qw", rest @ ..] => rest,
        rest => rest,
    };
    if settings.is_empty() || settings.iter().any(|word| word.starts_with('-')) {
        return Err("only `sysctl -w KEY=VALUE …` is understood".into());
    }
    for setting in settings {
        let (key, value) = setting.split_once('=').ok_or_else(|| format!("{setting}: KEY=VALUE is expected"))?;
        write(&path_of(key), value)?;
    }
    Ok(())
}

/// `echo value > /proc/sys/net/…`.
pub(super) fn write_file(file: &str, value: &str) -> Result<(), String> {
    write(Path::new(file), value)
}

/// A dot within an interface's name is written as a slash (sysctl(8)).
fn path_of(key: &str) -> PathBuf {
    let path: String = key
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    Path::new("/proc/sys").join(path)
}

/// Only what belongs to a network namespace: anything else would be the whole machine's.
fn write(path: &Path, value: &str) -> Result<(), String> {
    let within = path.starts_with("/proc/sys/net") && path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
    if !within {
        return Err(format!("{}: only /proc/sys/net belongs to a host of the lab", path.display()));
    }
    std::fs::write(path, value.trim()).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => format!("{}: this kernel has no such setting", path.display()),
        _ => format!("{}: {e}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths() {
        assert_eq!(path_of("net.ipv4.conf.all.arp_ignore"), Path::new("/proc/sys/net/ipv4/conf/all/arp_ignore"));
        assert_eq!(path_of("net.ipv4.conf.eth0/1.rp_filter"), Path::new("/proc/sys/net/ipv4/conf/eth0.1/rp_filter"));
    }

    #[test]
    fn the_machine_is_left_alone() {
        for words in [&["-w", "kernel.panic=1"][..], &["-w", "net/../kernel.panic=1"], &["-p"], &["net.ipv4.ip_forward"]] {
            assert!(run(words).is_err(), "{words:?}");
        }
        assert!(write_file("/etc/passwd", "x").is_err());
        assert!(write_file("/proc/sys/net/../kernel/panic", "1").is_err());
    }
}
