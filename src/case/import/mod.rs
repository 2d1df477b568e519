//! Facts of hosts that somebody sent as text: the output of `ip -j`, `sysctl -a`, `ss`, `iptables-save`, `ipvsadm`, one file each.
//!
//! The layout is `HOST.WHAT.json` or `HOST.WHAT.txt`; the host's name may have dots. [`KNOWN`] lists what is read, from which command.
//! What is not there, is left out of the snapshot with the command that would have told.

mod iproute;
mod iptables;
mod text;
mod tracking;

use crate::host::{Connection, Host, IpvsTable, Netfilter, Service};
use crate::ipvs;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files that are read, and the command that writes each.
pub const KNOWN: &[(&str, &str)] = &[
    ("addr.json", "ip -j -d addr"),
    ("route-all.json", "ip -j route show table all"),
    ("route.json", "ip -j route"),
    ("route6.json", "ip -j -6 route"),
    ("neigh.json", "ip -j neigh"),
    ("neigh6.json", "ip -j -6 neigh"),
    ("proxy.json", "ip -j neigh show proxy"),
    ("proxy6.json", "ip -j -6 neigh show proxy"),
    ("processes.txt", "ps -eo comm"),
    ("rule.txt", "ip rule"),
    ("rule6.txt", "ip -6 rule"),
    ("sysctl.txt", "sysctl -a"),
    ("ss-ltn.txt", "ss -ltn"),
    ("ss-lun.txt", "ss -lun"),
    ("iptables.txt", "iptables-save -c"),
    ("ip6tables.txt", "ip6tables-save -c"),
    ("arptables.txt", "arptables-save"),
    ("ipvsadm-Sn.txt", "ipvsadm -Sn"),
    ("ipvsadm-ln.txt", "ipvsadm -Ln"),
    ("ipvsadm-lnc.txt", "ipvsadm -Lnc"),
    ("ipvsadm-timeout.txt", "ipvsadm -L --timeout"),
    ("proc-ip_vs_conn.txt", "cat /proc/net/ip_vs_conn"),
    ("nstat.txt", "nstat -az"),
    ("conntrack.txt", "conntrack -L"),
    ("uname.txt", "uname -r"),
    ("lsmod.txt", "lsmod"),
];

/// Connections that a snapshot keeps: enough for every client network.
pub const CONNECTIONS: usize = 4096;

/// Why nothing could be imported.
#[derive(Debug)]
pub struct ImportError(pub String);

impl std::fmt::Display for ImportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ImportError {}

/// What came of an import.
pub struct Imported {
    /// The hosts, by name.
    pub hosts: Vec<Host>,
    /// What could not be understood, and was left out.
    pub notes: Vec<String>,
}

/// Reads a folder of texts.
///
/// # Errors
/// When the folder cannot be read, or none of its files is called as expected.
pub fn import(folder: &Path) -> Result<Imported, ImportError> {
    let say = |path: &Path, e: &std::io::Error| {
        ImportError(format!("{}: {}", path.display(), e.to_string().split(" (os error").next().unwrap_or_default()))
    };
    let mut files: BTreeMap<String, BTreeMap<&'static str, PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|e| say(folder, &e))? {
        let path = entry.map_err(|e| say(folder, &e))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let known = KNOWN.iter().find_map(|(what, _)| Some((name.strip_suffix(what)?.strip_suffix('.')?, *what)));
        if let Some((host, what)) = known.filter(|(host, _)| !host.is_empty()) {
            files.entry(host.to_string()).or_default().insert(what, path);
        }
    }
    if files.is_empty() {
        let names = ["HOST.addr.json", "HOST.sysctl.txt", "HOST.iptables.txt", "HOST.ipvsadm-Sn.txt"];
        return Err(ImportError(format!("{}: no file of a host in it; they are called {} …", folder.display(), names.join(", "))));
    }
    let mut imported = Imported { hosts: Vec::new(), notes: Vec::new() };
    for (name, files) in files {
        let mut texts: BTreeMap<&str, String> = BTreeMap::new();
        for (what, path) in files {
            // Texts from a terminal need not be UTF-8.
            let bytes = fs::read(&path).map_err(|e| say(&path, &e))?;
            texts.insert(what, String::from_utf8_lossy(&bytes).into_owned());
        }
        imported.hosts.push(host(&name, &texts, &mut imported.notes));
    }
    Ok(imported)
}

/// Puts a host together from its texts.
fn host(name: &str, texts: &BTreeMap<&str, String>, notes: &mut Vec<String>) -> Host {
    let mut host = Host::new(name);
    let get = |what: &str| texts.get(what).map(String::as_str);
    let mut bad = |what: &str, why: String| notes.push(format!("{name}.{what}: {why}"));
    if let Some(text) = get("addr.json") {
        match iproute::links(text) {
            Ok((links, addresses)) => (host.links, host.addresses) = (Some(links), Some(addresses)),
            Err(why) => bad("addr.json", why),
        }
    }
    let mut routes = Vec::new();
    let all = get("route-all.json");
    let sources = if all.is_some() { vec!["route-all.json"] } else { vec!["route.json", "route6.json"] };
    for what in sources {
        match get(what).map(iproute::routes) {
            None => {}
            Some(Ok(read)) => {
                routes.extend(read);
                host.routes = Some(Vec::new());
            }
            Some(Err(why)) => bad(what, why),
        }
    }
    if host.routes.is_some() {
        host.routes = Some(routes);
    }
    if all.is_none() && host.routes.is_some() {
        host.leave_out("routes", "only table main was sent: `ip -j route show table all` shows all of them");
    }
    for what in ["neigh.json", "neigh6.json"] {
        match get(what).map(iproute::neighbours) {
            None => {}
            Some(Ok(read)) => host.neighbours.get_or_insert_default().extend(read),
            Some(Err(why)) => bad(what, why),
        }
    }
    for what in ["proxy.json", "proxy6.json"] {
        match get(what).map(iproute::proxies) {
            None => {}
            Some(Ok(read)) => host.proxies.get_or_insert_default().extend(read),
            Some(Err(why)) => bad(what, why),
        }
    }
    host.managers = get("processes.txt").map(crate::host::managers_of);
    host.modules = get("lsmod.txt").map(crate::host::modules_of);
    for (what, v6) in [("rule.txt", false), ("rule6.txt", true)] {
        if let Some(text) = get(what) {
            host.rules.get_or_insert_default().extend(text::rules(text, v6));
        }
    }
    host.sysctls = get("sysctl.txt").map(text::sysctls);
    host.kernel = get("uname.txt").map(|t| t.trim().to_string());
    for (what, protocol) in [("ss-ltn.txt", crate::net::Protocol::Tcp), ("ss-lun.txt", crate::net::Protocol::Udp)] {
        match get(what) {
            Some(text) => host.sockets.get_or_insert_default().extend(text::sockets(text, protocol)),
            None if get("ss-ltn.txt").is_some() => host.leave_out("sockets", "UDP sockets were not sent: `ss -lun` shows them"),
            None => {}
        }
    }
    host.netfilter = netfilter(&get);
    host.ipvs = table(&get, &mut bad);
    host.counters = get("nstat.txt").map(text::counters);
    host.conntrack = get("conntrack.txt").map(tracking::tracking);
    leave_out(&mut host);
    host
}

fn netfilter<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Option<Netfilter> {
    let mut found = Netfilter::default();
    let mut any = false;
    for (what, family) in [("iptables.txt", "ip"), ("ip6tables.txt", "ip6"), ("arptables.txt", "arp")] {
        match get(what) {
            Some(text) => {
                any = true;
                found.chains.extend(iptables::chains(text, family));
            }
            // Nearly nobody has rules for ARP; who has them sends them.
            None if family == "arp" => {}
            None => found.unread.push(family.to_string()),
        }
    }
    any.then_some(found)
}

fn table<'a>(get: &impl Fn(&str) -> Option<&'a str>, bad: &mut impl FnMut(&str, String)) -> Option<IpvsTable> {
    let mut table = IpvsTable::default();
    match ipvs::parse(get("ipvsadm-Sn.txt")?) {
        Ok(rules) => table.services = rules.iter().map(Service::from).collect(),
        Err(e) => {
            bad("ipvsadm-Sn.txt", e.to_string());
            return None;
        }
    }
    if let Some(text) = get("ipvsadm-ln.txt") {
        text::connections_of(text, &mut table);
        // `IP Virtual Server version 1.2.1 (size=4096)`
        let size = text.lines().next().and_then(|line| line.split_once("(size="));
        table.size = size.and_then(|(_, rest)| rest.split(')').next()?.trim().parse().ok());
    }
    table.timeouts = get("ipvsadm-timeout.txt").and_then(text::timeouts);
    if let Some(text) = get("proc-ip_vs_conn.txt").or_else(|| get("ipvsadm-lnc.txt")) {
        let all: Vec<Connection> = ipvs::entries(text).map(Connection::from).collect();
        table.connection_count = Some(all.len() as u64);
        table.connections = Some(all.into_iter().take(CONNECTIONS).collect());
    }
    Some(table)
}

/// Says of every absent section which command would have told.
fn leave_out(host: &mut Host) {
    let absent = [
        ("links", host.links.is_none(), "ip -j -d addr"),
        ("addresses", host.addresses.is_none(), "ip -j -d addr"),
        ("routes", host.routes.is_none(), "ip -j route show table all"),
        ("rules", host.rules.is_none(), "ip rule"),
        ("neighbours", host.neighbours.is_none(), "ip -j neigh"),
        ("proxies", host.proxies.is_none(), "ip -j neigh show proxy, ip -j -6 neigh show proxy"),
        ("managers", host.managers.is_none(), "ps -eo comm"),
        ("modules", host.modules.is_none(), "lsmod"),
        ("sockets", host.sockets.is_none(), "ss -ltn, ss -lun"),
        ("sysctls", host.sysctls.is_none(), "sysctl -a"),
        ("ipvs", host.ipvs.is_none(), "ipvsadm -Sn"),
        ("netfilter", host.netfilter.is_none(), "iptables-save -c, arptables-save"),
        ("conntrack", host.conntrack.is_none(), "conntrack -L"),
        ("counters", host.counters.is_none(), "nstat -az"),
        ("saved", host.saved.is_none(), ""),
    ];
    for (section, _, command) in absent.iter().filter(|(_, absent, _)| *absent) {
        let why = match *command {
            "" => "configuration files are not part of what was sent".to_string(),
            command => format!("it was not sent: `{command}`"),
        };
        host.leave_out(section, why);
    }
}
