//! Snapshots of hosts on the command line, and what the user says of hosts.

use super::Failure;
use crate::case::read_host;
use crate::host::{Fleet, Host};
use crate::ipvs::Role;
use crate::net::Endpoint;
use crate::trace::role_of_name;
use clap::Args;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Snapshots beside captures.
#[derive(Args)]
pub(super) struct Snapshots {
    /// A snapshot of a host (`lvscope snapshot`), or a folder of them: its facts settle what packets leave open
    #[arg(long = "host", value_name = "SNAPSHOT")]
    host: Vec<PathBuf>,
}

impl Snapshots {
    pub(super) fn fleet(&self, services: &[Endpoint]) -> Result<Fleet, Failure> {
        let hosts = read(&self.host)?.into_iter().map(|(_, host)| host).collect();
        Ok(Fleet::new(hosts, role_of_name, |_| None, services))
    }
}

/// Reads snapshots: files, and all of a folder that are called so.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<(String, Host)>, Failure> {
    let mut hosts = Vec::new();
    for path in paths {
        for file in files(path)? {
            let host = read_host(&file).map_err(Failure::input)?;
            hosts.push((file.display().to_string(), host));
        }
    }
    name_apart(&mut hosts);
    Ok(hosts)
}

/// Machines that all call themselves `localhost` are told apart by their files' names: findings speak of hosts by name.
fn name_apart(hosts: &mut [(String, Host)]) {
    let mut of_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, (_, host)) in hosts.iter().enumerate() {
        of_name.entry(host.name.clone()).or_default().push(at);
    }
    let mut taken: HashSet<String> = of_name.keys().cloned().collect();
    for (name, alike) in of_name.into_iter().filter(|(_, alike)| alike.len() > 1) {
        let stem = |at: usize| {
            let file = Path::new(&hosts[at].0).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            file.strip_suffix(".host.json").or(file.strip_suffix(".json")).unwrap_or(&file).replace(", ", "-")
        };
        let stems: Vec<String> = alike.iter().map(|at| stem(*at)).collect();
        for (number, (at, stem)) in alike.into_iter().zip(stems).enumerate() {
            // The first may keep the name, if its file has it too; of two files of one name the later is numbered.
            let mut wanted = if stem.is_empty() { name.clone() } else { stem };
            let mut count = 2;
            while taken.contains(&wanted) && !(number == 0 && wanted == name) {
                wanted = format!("{name}~{count}");
                count += 1;
            }
            taken.insert(wanted.clone());
            hosts[at].1.name = wanted;
        }
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let wrong = |e: &std::io::Error| Failure::input(format!("{}: cannot be read: {}", path.display(), super::captures::reason(e)));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| wrong(&e))? {
        let file = entry.map_err(|e| wrong(&e))?.path();
        if file.to_string_lossy().ends_with(".host.json") {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Failure::input(format!("{}: no snapshot in this folder; they are called HOST.host.json", path.display())));
    }
    Ok(found)
}

/// The part that a host plays.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Part {
    Director,
    RealServer,
    Router,
    Client,
}

impl From<Part> for Role {
    fn from(part: Part) -> Self {
        match part {
            Part::Director => Role::Director,
            Part::RealServer => Role::RealServer,
            Part::Router => Role::Router,
            Part::Client => Role::Client,
        }
    }
}

/// `ROLE`, or `HOST=ROLE`.
pub(super) fn part(text: &str) -> Result<(Option<String>, Role), String> {
    let (host, role) = match text.split_once('=') {
        Some((host, role)) => (Some(host.to_string()), role),
        None => (None, text),
    };
    let part = <Part as clap::ValueEnum>::from_str(role, true)
        .map_err(|_| format!("'{role}' is not one of director, real-server, router, client"))?;
    Ok((host, part.into()))
}

/// `ROLE=ADDRESS`.
pub(super) fn peer(text: &str) -> Result<(Role, IpAddr), String> {
    let (Some(role), address) =
        part(text.split_once('=').map_or(text, |(role, _)| role)).map(|(_, role)| (Some(role), text.split_once('=').map(|(_, a)| a)))?
    else {
        return Err("ROLE=ADDRESS is wanted".to_string());
    };
    let address = address.ok_or_else(|| format!("'{text}' is not ROLE=ADDRESS, such as director=192.168.224.10"))?;
    Ok((role, address.parse().map_err(|_| format!("'{address}' is not an address"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_one_name() {
        let named = |files: &[(&str, &str)]| {
            let mut hosts: Vec<(String, Host)> = files.iter().map(|(file, name)| ((*file).to_string(), Host::new(*name))).collect();
            name_apart(&mut hosts);
            hosts.into_iter().map(|(_, host)| host.name).collect::<Vec<_>>()
        };
        assert_eq!(named(&[("a/web1.host.json", "localhost"), ("web2.host.json", "localhost"), ("x", "db")]), ["web1", "web2", "db"]);
        assert_eq!(named(&[("a/web1.host.json", "web1"), ("b/web1.host.json", "web1")]), ["web1", "web1~2"]);
        assert_eq!(named(&[("a/db.host.json", "web1"), ("b/db.host.json", "web1"), ("c", "db")]), ["web1~2", "web1~3", "db"]);
        assert_eq!(named(&[("web1.host.json", "web1"), ("web2.host.json", "web2")]), ["web1", "web2"]);
    }
}
