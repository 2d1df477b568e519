//! WINDOW: the kernel's answers and configuration files → [`Host`](crate::host::Host). Read-only, always.
//!
//! Each section is read by itself: what cannot be read is left out with its reason, and the others are read all the same.

mod ipvs;
mod links;
mod nft;
mod proc;
mod processes;
mod routes;
mod saved;
mod sockets;
mod tracking;

pub use saved::{Files, saved};

use crate::host::Host;
use crate::netlink::{Family, NetlinkError as Error, Socket};
use nix::sched::{CloneFlags, setns};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
    let Some(netns) = &wanted.netns else { return here(wanted) };
    let file = namespace(netns)?;
    // A thread of its own: the rest of the program stays where it is.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| format!("cannot enter the network namespace {netns}: {}", e.desc()))?;
            here(wanted)
        });
        thread.join().unwrap_or_else(|_| Err("the collecting thread has ended unexpectedly".to_string()))
    })
}

fn namespace(name: &str) -> Result<File, String> {
    let path = match name.parse::<u32>() {
        Ok(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        Err(_) if name.contains('/') => PathBuf::from(name),
        Err(_) => Path::new("/var/run/netns").join(name),
    };
    File::open(&path).map_err(|e| format!("{}: cannot be opened: {}", path.display(), reason(&e)))
}

fn reason(e: &std::io::Error) -> String {
    e.to_string().split(" (os error").next().unwrap_or_default().to_string()
}

/// What is said of a kernel without IPVS.
pub const NOT_LOADED: &str = "IPVS is not loaded in this kernel (modprobe ip_vs)";

fn here(wanted: &Wanted) -> Result<Host, String> {
    let own = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_else(|| "localhost".to_string());
    let mut host = Host::new(wanted.name.clone().unwrap_or_else(|| wanted.netns.clone().unwrap_or(own)));
    host.netns.clone_from(&wanted.netns);
    host.taken = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_secs()).ok());
    host.kernel = proc::read("/proc/sys/kernel/osrelease").ok().map(|t| t.trim().to_string());
    let mut route = Socket::open(Family::Route).map_err(|e| format!("cannot ask the kernel for its network: {e}"))?;
    let mut names = HashMap::new();
    match links::links(&mut route) {
        Ok(found) => {
            names = found.iter().map(|l| (l.index, l.name.clone())).collect();
            host.links = Some(found);
        }
        Err(e) => host.leave_out("links", e.to_string()),
    }
    section(&mut host, "addresses", links::addresses(&mut route, &names), |h, v| h.addresses = Some(v));
    section(&mut host, "routes", routes::routes(&mut route, &names), |h, v| h.routes = Some(v));
    section(&mut host, "rules", routes::rules(&mut route), |h, v| h.rules = Some(v));
    section(&mut host, "neighbours", links::neighbours(&mut route, &names), |h, v| h.neighbours = Some(v));
    section(&mut host, "proxies", links::proxies(&mut route, &names), |h, v| h.proxies = Some(v));
    section(&mut host, "sockets", sockets::sockets(&names), |h, v| h.sockets = Some(v));
    if let Err(e) = links::features(host.links.as_deref_mut().unwrap_or_default()) {
        host.leave_out("links.features", e);
    }
    match proc::sysctls() {
        sysctls if sysctls.0.is_empty() => host.leave_out("sysctls", "/proc/sys/net cannot be read"),
        sysctls => host.sysctls = Some(sysctls),
    }
    match ipvs::table() {
        Ok(Some(table)) => {
            if table.connections.is_none() {
                host.leave_out("ipvs.connections", "/proc/net/ip_vs_conn cannot be read: root is needed");
            }
            host.ipvs = Some(table);
        }
        Ok(None) => host.leave_out("ipvs", NOT_LOADED),
        Err(e) => host.leave_out("ipvs", denied(&e)),
    }
    match nft::filters() {
        Ok(found) => host.netfilter = Some(found),
        Err(e) => host.leave_out("netfilter", denied(&e)),
    }
    match tracking::tracking() {
        Ok(Some((table, partly))) => {
            partly.into_iter().for_each(|why| host.leave_out("conntrack.connections", why));
            host.conntrack = Some(table);
        }
        Ok(None) => host.leave_out("conntrack", "this kernel tracks no connections"),
        Err(e) => host.leave_out("conntrack", denied(&e)),
    }
    host.counters = proc::counters();
    if host.counters.is_none() {
        host.leave_out("counters", "/proc/net/snmp cannot be read");
    }
    match processes::managers() {
        Ok(found) => host.managers = Some(found),
        Err(why) => host.leave_out("managers", why),
    }
    match proc::modules() {
        Ok(found) => host.modules = Some(found),
        Err(why) => host.leave_out("modules", why),
    }
    match wanted.netns.is_some() {
        true => host.leave_out("saved", "configuration files belong to the machine, not to this network namespace"),
        false => host.saved = Some(saved(Files::Root(Path::new("/")))),
    }
    Ok(host)
}

fn section<T>(host: &mut Host, name: &str, read: Result<T, Error>, put: impl FnOnce(&mut Host, T)) {
    match read {
        Ok(found) => put(host, found),
        Err(e) => host.leave_out(name, e.to_string()),
    }
}

/// An error, and what to do where a permission is missing.
fn denied(e: &Error) -> String {
    match e.errno {
        1 | 13 => format!("{e}: CAP_NET_ADMIN is needed (run as root)"),
        _ => e.to_string(),
    }
}
