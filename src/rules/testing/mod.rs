//! A small world of hosts and links, in which rules are tested: packets are carried along a route, link by link, and seen at every
//! interface on the way, as captures of the real thing would show them.
//!
//! A test plugs hosts together ([`hosts`]), says what it has of captures ([`capture`]), lets hosts look for each other ([`neighbours`]) and
//! connections pass ([`conn`], [`traffic`]), and holds rules to what they say of it ([`verdict`]). The kernel decides nothing here; the
//! test says what each host does. What the real kernel does is in the recorded cases (`fixtures/`).

mod capture;
mod conn;
mod hosts;
mod neighbours;
mod traffic;
mod verdict;
mod wire;

pub(in crate::rules) use conn::{ACK, Conn, PSH, REFUSE, RST, SYN, SYN_ACK};

use crate::host::Fleet;
use crate::ipvs;
use crate::net::Endpoint;
use crate::trace::Hints;
use capture::Quirk;
use hosts::{Interface, Stacked};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Hosts, links, a clock, and what was captured.
#[derive(Clone)]
pub(in crate::rules) struct World {
    interfaces: Vec<Interface>,
    frames: BTreeMap<String, Vec<(i64, Vec<u8>)>>,
    now: i64,
    ids: BTreeMap<u16, u16>,
    hidden: Vec<String>,
    anonymous: bool,
    quirks: BTreeMap<String, Quirk>,
    flooding: Vec<String>,
    stacked: Vec<Stacked>,
    pub(in crate::rules) hints: Hints,
    /// Snapshots.
    pub(in crate::rules) fleet: Fleet,
}

impl World {
    pub(in crate::rules) fn new() -> Self {
        World {
            interfaces: Vec::new(),
            frames: BTreeMap::new(),
            now: 1_700_000_000_000_000_000,
            ids: BTreeMap::new(),
            hidden: Vec::new(),
            anonymous: false,
            quirks: BTreeMap::new(),
            flooding: Vec::new(),
            stacked: Vec::new(),
            hints: Hints::default(),
            fleet: Fleet::default(),
        }
    }

    /// The user gave `--ipvs` with this text.
    pub(in crate::rules) fn ipvs(mut self, rules: &str) -> Self {
        self.hints.rules = ipvs::parse(rules).expect("rules");
        self
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(in crate::rules) fn end(text: &str) -> Endpoint {
    text.parse().expect("ADDRESS:PORT")
}
