//! Which programs run that see to virtual services: they take dead servers out, move addresses, load tables.

use super::proc;
use crate::host::MANAGERS;
use std::fs;

/// The number of the machine's own PID namespace (`PROC_PID_INIT_INO`).
const FIRST: &str = "pid:[4026531836]";

/// Managers of the calling thread's network namespace.
pub(super) fn managers() -> Result<Vec<String>, String> {
    let place = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    let own = place("thread-self");
    let (mut found, mut processes) = (Vec::new(), 0_usize);
    for entry in fs::read_dir("/proc").map_err(|_| "/proc cannot be read".to_string())?.flatten() {
        let Some(pid) = entry.file_name().to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())).map(str::to_string) else {
            continue;
        };
        let Ok(name) = proc::read(format!("/proc/{pid}/comm")) else { continue };
        processes += 1;
        let Some(known) = MANAGERS.iter().find(|known| name.trim() == **known) else { continue };
        // Where one may not look which namespace it is in, it may be this one.
        let elsewhere = place(&pid).zip(own.as_ref()).is_some_and(|(its, own)| its != *own);
        if !elsewhere && !found.iter().any(|f| f == known) {
            found.push((*known).to_string());
        }
    }
    // What is seen is there; what is not seen may be out of sight.
    if found.is_empty() {
        let inside = fs::read_link("/proc/self/ns/pid").is_ok_and(|at| at.as_os_str() != FIRST);
        if inside {
            return Err("programs outside this container cannot be seen from within".to_string());
        }
        if processes == 0 || fs::metadata("/proc/1/comm").is_err() {
            return Err("processes of others are hidden here (hidepid): root sees them".to_string());
        }
    }
    Ok(found)
}
