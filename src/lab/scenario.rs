//! What is played: hosts, what is wrong with them, traffic, and what has to be found. A few lines of TOML on top of a base.

use super::catalogue;
use crate::case::{ManifestError, read_toml};
use crate::ipvs::Role;
use crate::net::{Endpoint, MacAddr, Protocol};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// A scenario, complete with what its base says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// The fault, in a line.
    pub title: String,
    /// What was done and why it matters.
    pub story: String,
    /// What the client sees.
    pub client_sees: String,
    /// Codes of which the first is the true cause; none: it is healthy, and nobody may be accused.
    pub codes: Vec<String>,
    /// Codes that may be found beside them.
    pub may: Vec<String>,
    /// Hosts speak IPv6 too.
    pub ipv6: bool,
    /// The hosts.
    pub hosts: Vec<HostPlan>,
    /// Commands that break it, by host, after everything was set up.
    pub breaks: BTreeMap<String, Vec<String>>,
    /// Who talks to whom.
    pub traffic: Vec<Traffic>,
    /// What hosts say to each other besides: health checks, the time, names. What becomes of it is nobody's concern.
    pub background: Vec<Traffic>,
    /// Who talks to whom once it is mended; none: the same again. Where the fault is the test itself, a better one.
    pub instead: Vec<Traffic>,
    /// What happens meanwhile.
    pub events: Vec<Event>,
    /// Faults of the built-in directors.
    pub director_faults: Vec<String>,
    /// Commands that mend it, by host: what an administrator does after a remedy that only looks.
    pub mend: BTreeMap<String, Vec<String>>,
    /// Configuration files, by host and path. Hosts without any are not asked for theirs.
    pub files: BTreeMap<String, BTreeMap<String, String>>,
    /// Only the kernel's own IPVS shows it: the built-in director does not do what it takes.
    pub needs_kernel: bool,
    /// What to put for the words in capitals that a printed remedy has where packets do not tell: `RIP`, `GATEWAY`.
    pub blanks: BTreeMap<String, String>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPlan {
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(deserialize_with = "parsed")]
    pub role: Role,
    /// Its interfaces.
    #[serde(default)]
    pub interfaces: Vec<InterfacePlan>,
    /// Commands that set it up.
    #[serde(default)]
    pub setup: Vec<String>,
    /// What it serves.
    #[serde(default)]
    pub serve: Vec<Serve>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfacePlan {
    /// Its name.
    pub name: String,
    /// The segment that it is plugged into.
    pub segment: String,
    /// Its MAC address; without one it is made of the host's and interface's number.
    #[serde(default, deserialize_with = "maybe_parsed")]
    pub mac: Option<MacAddr>,
}

/// A server: `tcp 80`, `udp 192.168.224.11:53`, `ftp 21`, `ftp 21 as 192.168.2.59:50001`, `tcp 80 slow 400 room 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Serve {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address that it listens on; `None`: all.
    pub addr: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// FTP: a file for each who asks, by a second connection. The address and port that it names for that; `None`: its own.
    pub ftp: Option<Option<Endpoint>>,
    /// Milliseconds from one new connection that it takes to the next.
    pub slow_ms: u64,
    /// Connections that may wait for it to take them; `None`: as many as the system lets.
    pub room: Option<u8>,
}

/// Connections of a client.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// The host that opens them.
    pub from: String,
    /// What is dialled.
    #[serde(deserialize_with = "parsed")]
    pub to: Endpoint,
    /// TCP or UDP.
    #[serde(default = "tcp", deserialize_with = "parsed")]
    pub protocol: Protocol,
    /// How many.
    #[serde(default = "four")]
    pub connections: u32,
    /// Bytes of each question; 0 with TCP: a connection that is opened and closed, as health checkers do.
    #[serde(default = "hundred")]
    pub request: usize,
    /// Bytes of each answer.
    #[serde(default = "thousand")]
    pub answer: usize,
    /// Milliseconds from the beginning of one to that of the next.
    #[serde(default = "every")]
    pub every_ms: u64,
    /// Milliseconds that the server takes for an answer.
    #[serde(default)]
    pub delay_ms: u64,
    /// How long the client waits, in milliseconds.
    #[serde(default = "patience")]
    pub patience_ms: u64,
    /// When the first begins, in milliseconds.
    #[serde(default)]
    pub after_ms: u64,
    /// Milliseconds between question and question on a connection that stays open; 0: one question.
    #[serde(default)]
    pub pause_ms: u64,
    /// FTP in passive mode: what is dialled is the control connection, and the answer a file.
    #[serde(default)]
    pub ftp: bool,
}

/// Something that happens while traffic flows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When, in milliseconds after the first packet.
    pub after_ms: u64,
    /// Where.
    pub host: String,
    /// What is run there.
    pub run: String,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}
fn four() -> u32 {
    4
}
fn hundred() -> usize {
    100
}
fn thousand() -> usize {
    1000
}
fn every() -> u64 {
    20
}
/// Long enough that a SYN is sent again.
fn patience() -> u64 {
    1300
}

fn parsed<'de, D: serde::Deserializer<'de>, T: std::str::FromStr<Err: fmt::Display>>(from: D) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|e| serde::de::Error::custom(format!("'{text}': {e}")))
}

fn maybe_parsed<'de, D: serde::Deserializer<'de>, T: std::str::FromStr<Err: fmt::Display>>(from: D) -> Result<Option<T>, D::Error> {
    parsed(from).map(Some)
}

impl TryFrom<String> for Serve {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no server (such as 'tcp 80' or 'udp 192.168.224.11:53')");
        let words: Vec<&str> = text.split(' ').collect();
        let (mut ftp, mut slow_ms, mut room) = (None, 0, None);
        match words[..] {
            ["ftp", _] => ftp = Some(None),
            ["ftp", _, "as", named] => ftp = Some(Some(named.parse().map_err(|_| wrong())?)),
            ["tcp", _, "slow", ms] => slow_ms = ms.parse().map_err(|_| wrong())?,
            ["tcp", _, "slow", ms, "room", for_how_many] => {
                slow_ms = ms.parse().map_err(|_| wrong())?;
                room = Some(for_how_many.parse().map_err(|_| wrong())?);
            }
            [_, _] => {}
            _ => return Err(wrong()),
        }
        let protocol = if ftp.is_some() { Protocol::Tcp } else { words[0].parse().map_err(|_| wrong())? };
        if let Ok(port) = words[1].parse() {
            return Ok(Serve { protocol, addr: None, port, ftp, slow_ms, room });
        }
        let place: Endpoint = words[1].parse().map_err(|_| wrong())?;
        Ok(Serve { protocol, addr: Some(place.addr), port: place.port, ftp, slow_ms, room })
    }
}

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Sheet {
    base: Option<String>,
    title: String,
    story: String,
    client_sees: String,
    codes: Vec<String>,
    may: Vec<String>,
    ipv6: Option<bool>,
    #[serde(rename = "host")]
    hosts: Vec<HostPlan>,
    #[serde(rename = "setup")]
    more_setup: BTreeMap<String, Vec<String>>,
    #[serde(rename = "break")]
    breaks: BTreeMap<String, Vec<String>>,
    serve: BTreeMap<String, Vec<Serve>>,
    traffic: Vec<Traffic>,
    background: Vec<Traffic>,
    /// Without what the base has in the background.
    quiet: bool,
    instead: Vec<Traffic>,
    #[serde(rename = "event")]
    events: Vec<Event>,
    director_faults: Vec<String>,
    mend: BTreeMap<String, Vec<String>>,
    blanks: BTreeMap<String, String>,
    files: BTreeMap<String, BTreeMap<String, String>>,
    needs_kernel: bool,
}

/// A scenario that cannot be played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError {
    /// The scenario, or the file.
    pub name: String,
    /// What is wrong, and where.
    pub what: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.what)
    }
}

impl std::error::Error for ScenarioError {}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// Unknown fields and bad values with line and column; hosts that are not there by name.
    pub fn read(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let failed = |what: String| ScenarioError { name: name.to_string(), what };
        let mut scenario = Self::stacked(name, text, 0)?;
        scenario.name = name.to_string();
        let hosts: Vec<&str> = scenario.hosts.iter().map(|host| host.name.as_str()).collect();
        let named = scenario
            .breaks
            .keys()
            .chain(scenario.mend.keys())
            .chain(scenario.files.keys())
            .chain(scenario.traffic.iter().chain(&scenario.instead).chain(&scenario.background).map(|t| &t.from))
            .chain(scenario.events.iter().map(|e| &e.host));
        for host in named {
            if !hosts.contains(&host.as_str()) {
                return Err(failed(format!("there is no host '{host}' (there are: {})", hosts.join(" "))));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = hosts.iter().find(|host| !seen.insert(**host)) {
            return Err(failed(format!("two hosts are called '{twice}'")));
        }
        if hosts.is_empty() {
            return Err(failed("there are no hosts: name a base, or write [[host]]".into()));
        }
        Ok(scenario)
    }

    fn stacked(name: &str, text: &str, depth: u8) -> Result<Scenario, ScenarioError> {
        let failed = |what: String| ScenarioError { name: name.to_string(), what };
        let sheet: Sheet = read_toml(text).map_err(|e: ManifestError| failed(e.to_string()))?;
        let mut scenario = match &sheet.base {
            None => Scenario::default(),
            Some(_) if depth > 4 => return Err(failed("bases upon bases upon bases".into())),
            Some(base) => {
                let text = catalogue::base(base).ok_or_else(|| {
                    failed(format!("there is no base '{base}' (there are: {})", catalogue::bases().collect::<Vec<_>>().join(" ")))
                })?;
                Self::stacked(base, &text, depth + 1)?
            }
        };
        let own = |new: String, old: &mut String| {
            if !new.is_empty() {
                *old = new;
            }
        };
        own(sheet.title, &mut scenario.title);
        own(sheet.story, &mut scenario.story);
        own(sheet.client_sees, &mut scenario.client_sees);
        (scenario.codes, scenario.may) = (sheet.codes, sheet.may);
        scenario.ipv6 = sheet.ipv6.unwrap_or(scenario.ipv6);
        for host in sheet.hosts {
            match scenario.hosts.iter_mut().find(|old| old.name == host.name) {
                Some(old) => *old = host,
                None => scenario.hosts.push(host),
            }
        }
        for (host, commands) in sheet.more_setup {
            scenario.host_mut(&host).ok_or_else(|| failed(format!("[setup]: there is no host '{host}'")))?.setup.extend(commands);
        }
        for (host, serve) in sheet.serve {
            scenario.host_mut(&host).ok_or_else(|| failed(format!("[serve]: there is no host '{host}'")))?.serve = serve;
        }
        for (host, commands) in sheet.breaks {
            scenario.breaks.entry(host).or_default().extend(commands);
        }
        if !sheet.traffic.is_empty() {
            scenario.traffic = sheet.traffic;
        }
        if sheet.quiet {
            scenario.background.clear();
        }
        scenario.background.extend(sheet.background);
        scenario.instead.extend(sheet.instead);
        scenario.events.extend(sheet.events);
        scenario.director_faults.extend(sheet.director_faults);
        scenario.mend.extend(sheet.mend);
        scenario.blanks.extend(sheet.blanks);
        for (host, files) in sheet.files {
            scenario.files.entry(host).or_default().extend(files);
        }
        scenario.needs_kernel |= sheet.needs_kernel;
        Ok(scenario)
    }

    /// True when nothing is wrong with it.
    pub fn is_healthy(&self) -> bool {
        self.codes.is_empty()
    }

    /// Why it cannot be played with the built-in director, or with the kernel's.
    pub fn refuses(&self, builtin: bool) -> Option<String> {
        match builtin {
            true => self.needs_kernel.then(|| format!("{} takes the kernel's IPVS (--director kernel)", self.name)),
            false if self.breaks.values().flatten().any(|command| command.starts_with("modprobe -r ")) => {
                Some(format!("{}: the kernel's modules are the whole machine's", self.name))
            }
            false if !self.director_faults.is_empty() => Some(format!("{}: faults are the built-in director's alone", self.name)),
            false => None,
        }
    }

    /// The host of a name.
    pub fn host(&self, name: &str) -> Option<&HostPlan> {
        self.hosts.iter().find(|host| host.name == name)
    }

    fn host_mut(&mut self, name: &str) -> Option<&mut HostPlan> {
        self.hosts.iter_mut().find(|host| host.name == name)
    }

    /// Segments, each once, in the order in which they are named.
    pub fn segments(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for interface in self.hosts.iter().flat_map(|host| &host.interfaces) {
            if !all.contains(&interface.segment.as_str()) {
                all.push(&interface.segment);
            }
        }
        all
    }

    /// The MAC address of a host's interface: locally administered, with the numbers of both.
    pub fn mac(&self, host: usize, interface: usize) -> MacAddr {
        let given = self.hosts.get(host).and_then(|h| h.interfaces.get(interface)).and_then(|i| i.mac);
        given.unwrap_or(MacAddr([0x02, 0x6c, 0x76, 0x73, host as u8 + 1, interface as u8]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_shown_where_it_is() {
        let error = |text: &str| Scenario::read("mine", text).expect_err("a mistake").to_string();
        assert!(error("titel = 'x'").starts_with("mine: line 1, column 1: unknown field `titel`"), "{}", error("titel = 'x'"));
        assert_eq!(error("title = 'x'"), "mine: there are no hosts: name a base, or write [[host]]");
        assert!(error("base = 'nta'").starts_with("mine: there is no base 'nta' (there are: "));
        assert_eq!(
            error("base = 'nat'\n[break]\nweb9 = ['ip route del default']"),
            "mine: there is no host 'web9' (there are: client director web1 web2)"
        );
        assert!(error("[[host]]\nname = 'a'\nrole = 'boss'").starts_with("mine: line 3, column 9: 'boss': unknown role"));
        assert!(error("base = 'nat'\n[serve]\nweb1 = ['tcp http']").starts_with("mine: line 3, column 10: 'tcp http' is no server"));
    }

    #[test]
    fn servers_in_words() {
        let read = |text: &str| Serve::try_from(text.to_string());
        assert_eq!(read("ftp 21").unwrap().ftp, Some(None));
        assert_eq!(read("ftp 21 as 10.0.0.9:50001").unwrap().ftp, Some(Some("10.0.0.9:50001".parse().unwrap())));
        assert_eq!(read("tcp 10.0.0.9:80 slow 400").map(|s| (s.port, s.slow_ms)), Ok((80, 400)));
        assert_eq!(read("tcp 80 slow 400 room 1").map(|s| (s.slow_ms, s.room)), Ok((400, Some(1))));
        for bad in [
            "ftp",
            "tcp 80 fast",
            "tcp 80 room 1",
            "tcp 80 slow 4 room x",
            "udp 53 slow 4",
            "ftp 21 as here",
            "tcp 80 slow much",
            "http 80",
            "",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_scenario_stands_on_its_base() {
        let text = "base = 'nat'\ncodes = ['NAT001']\n[break]\nweb1 = ['ip route del default']\n";
        let scenario = Scenario::read("mine", text).unwrap();
        assert_eq!((scenario.hosts.len(), scenario.segments(), scenario.traffic.len()), (4, vec!["outer", "inner"], 1));
        assert_eq!(scenario.breaks["web1"], ["ip route del default"]);
        assert!(!scenario.is_healthy());
    }
}
