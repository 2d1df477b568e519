//! What has no netlink: settings, counters.

use crate::host::Sysctls;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Reads a text of /proc. Bytes that are no UTF-8 are replaced.
pub(super) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// Settings that matter to a virtual server. `/proc/sys/net` is that of the calling thread's network namespace.
pub(super) fn sysctls() -> Sysctls {
    let mut found = Sysctls::default();
    for family in ["ipv4", "ipv6"] {
        for device in names(&format!("/proc/sys/net/{family}/conf")) {
            for key in names(&format!("/proc/sys/net/{family}/conf/{device}")) {
                put(&mut found, &["net", family, "conf", &device, &key]);
            }
        }
    }
    for folder in ["net/ipv4/vs", "net/ipv4"] {
        let parts: Vec<&str> = folder.split('/').collect();
        for key in names(&format!("/proc/sys/{folder}")) {
            put(&mut found, &[parts.as_slice(), &[key.as_str()]].concat());
        }
    }
    for key in names("/proc/sys/net/netfilter").iter().filter(|k| k.starts_with("nf_conntrack")) {
        put(&mut found, &["net", "netfilter", key]);
    }
    for key in names("/proc/sys/net/bridge") {
        put(&mut found, &["net", "bridge", &key]);
    }
    found
}

fn names(folder: &str) -> Vec<String> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect()
}

/// One setting. Some can be written only, some are folders: those are none.
fn put(into: &mut Sysctls, parts: &[&str]) {
    // As sysctl(8) writes them: a dot inside a name is a slash.
    let name = parts.iter().map(|p| p.replace('.', "/")).collect::<Vec<String>>().join(".");
    if !Sysctls::matters(&name) {
        return;
    }
    if let Ok(text) = read(format!("/proc/sys/{}", parts.join("/"))) {
        into.0.insert(name, text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// Counters of the protocols under their names in nstat(8), those that counted.
pub(super) fn counters() -> Option<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for file in ["snmp", "netstat"] {
        if let Ok(text) = read(format!("/proc/thread-self/net/{file}")) {
            pairs(&text, &mut found);
        }
    }
    if let Ok(text) = read("/proc/thread-self/net/snmp6") {
        lines(&text, &mut found);
    }
    (!found.is_empty()).then_some(found)
}

/// Modules that matter to a virtual server. Those that are built into the kernel have a folder in /sys alone, and only where they have
/// settings, as `ip_vs_ftp` has.
pub(super) fn modules() -> Result<Vec<String>, String> {
    let loaded = read("/proc/modules").unwrap_or_default();
    let loaded = loaded.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_string);
    let mut found: Vec<String> = loaded.chain(names("/sys/module")).filter(|name| crate::host::is_module_of_note(name)).collect();
    found.sort_unstable();
    found.dedup();
    match found.is_empty() && fs::metadata("/proc/modules").is_err() && fs::metadata("/sys/module").is_err() {
        true => Err("/proc/modules and /sys/module cannot be read".to_string()),
        false => Ok(found),
    }
}

/// IPv6 has a line for each.
fn lines(text: &str, into: &mut BTreeMap<String, u64>) {
    for (name, number) in text.lines().filter_map(|line| line.split_once(char::is_whitespace)) {
        if let Ok(number @ 1..) = number.trim().parse() {
            into.insert(name.to_string(), number);
        }
    }
}

/// The others have two: names and numbers.
fn pairs(text: &str, into: &mut BTreeMap<String, u64>) {
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks_exact(2) {
        let (Some((prefix, names)), Some((_, numbers))) = (pair[0].split_once(": "), pair[1].split_once(": ")) else { continue };
        let numbers = numbers.split_whitespace().map(str::parse::<u64>);
        for (name, number) in names.split_whitespace().zip(numbers) {
            if let Ok(number @ 1..) = number {
                into.insert(format!("{prefix}{name}"), number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_counted() {
        let mut found = BTreeMap::new();
        pairs("Ip: InReceives OutNoRoutes\nIp: 7 0\nTcpExt: IPReversePathFilter\nTcpExt: 3\n", &mut found);
        lines("Ip6InReceives                   \t7\nIp6OutNoRoutes                  \t2\nIp6InNoRoutes \t0\nrubbish\n", &mut found);
        let names: Vec<(&str, u64)> = found.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(names, [("Ip6InReceives", 7), ("Ip6OutNoRoutes", 2), ("IpInReceives", 7), ("TcpExtIPReversePathFilter", 3)]);
    }
}
