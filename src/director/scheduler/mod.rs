//! Which real server gets the next connection: one file a scheduler, named as the administrator types it.
//!
//! The trait is the kernel's table `struct ip_vs_scheduler`, reduced to what remains without locks. The list of real servers is the
//! kernel's too: the newest stands first, and of equals the one that stands earlier wins. There are no floats: `h1/w1 > h2/w2` is
//! written `h1*w2 > h2*w1`. Weight 0 is quiesced: no new connections.

mod cache;
mod dh;
mod fo;
mod hash;
mod lblc;
mod lblcr;
mod lc;
mod mh;
mod nq;
mod ovf;
mod rr;
mod sed;
mod sh;
mod twos;
mod wlc;
mod wrr;

use super::pool::{Dest, DestId, Pool};
use super::settings::Kernel;
use crate::net::{Endpoint, Timestamp};
use std::cell::RefCell;

/// What a scheduler is asked.
pub struct Request<'a> {
    /// Where real servers are looked up.
    pub pool: &'a Pool,
    /// The service's real servers, newest first.
    pub list: &'a [DestId],
    /// Who wants to connect.
    pub client: Endpoint,
    /// What it dialled.
    pub dialled: Endpoint,
    /// Flags of the service (`-b`).
    pub flags: Flags,
    /// Whose arithmetic.
    pub kernel: Kernel,
    /// When.
    pub now: Timestamp,
    /// For `twos`.
    pub random: &'a RefCell<Random>,
    /// Why, in words; only when somebody asked.
    pub why: Option<&'a RefCell<Vec<String>>>,
}

impl<'a> Request<'a> {
    fn each(&self) -> impl Iterator<Item = (DestId, &'a Dest)> + use<'a> {
        let pool = self.pool;
        self.list.iter().map(move |id| (*id, &pool[*id]))
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if let Some(why) = self.why {
            why.borrow_mut().push(text());
        }
    }
}

/// Scheduler flags of a service: `IP_VS_SVC_F_SCHED1` to `3`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// `sh-fallback`, `mh-fallback`, `flag-1`.
    pub fallback: bool,
    /// `sh-port`, `mh-port`, `flag-2`.
    pub port: bool,
    /// `flag-3`.
    pub third: bool,
}

impl Flags {
    /// From the words of `-b`.
    pub fn from_words(words: &[String]) -> Flags {
        let has = |names: &[&str]| words.iter().any(|w| names.contains(&w.as_str()));
        Flags {
            fallback: has(&["sh-fallback", "mh-fallback", "flag-1"]),
            port: has(&["sh-port", "mh-port", "flag-2"]),
            third: has(&["flag-3"]),
        }
    }
}

/// What happened to the list of real servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A real server was added; it stands first now.
    Added,
    /// Weight, thresholds or method of one changed.
    Updated,
    /// This one is gone; it stood at this place.
    Removed(DestId, usize),
}

/// A scheduler of one service.
pub trait Scheduler: Send {
    /// Picks a real server; `None` when there is none for this client.
    fn schedule(&mut self, request: &Request<'_>) -> Option<DestId>;

    /// The list changed.
    fn changed(&mut self, _pool: &Pool, _list: &[DestId], _change: Change) {}
}

/// A new scheduler, by the name that the administrator types.
pub fn new(name: &str, pool: &Pool, list: &[DestId]) -> Option<Box<dyn Scheduler>> {
    let mut scheduler: Box<dyn Scheduler> = match name {
        "rr" => Box::<rr::RoundRobin>::default(),
        "wrr" => Box::new(wrr::WeightedRoundRobin::new(pool, list)),
        "lc" => Box::new(lc::LeastConnection),
        "wlc" => Box::new(wlc::WeightedLeastConnection),
        "lblc" => Box::<lblc::LocalityLeastConnection>::default(),
        "lblcr" => Box::<lblcr::LocalityReplication>::default(),
        "dh" => Box::<dh::DestinationHash>::default(),
        "sh" => Box::<sh::SourceHash>::default(),
        "sed" => Box::new(sed::ShortestExpectedDelay),
        "nq" => Box::new(nq::NeverQueue),
        "fo" => Box::new(fo::FailOver),
        "ovf" => Box::new(ovf::Overflow),
        "mh" => Box::<mh::MaglevHash>::default(),
        "twos" => Box::new(twos::PowerOfTwo),
        _ => return None,
    };
    scheduler.changed(pool, list, Change::Updated);
    Some(scheduler)
}

/// A seeded source of random numbers: splitmix64, the same numbers for the same seed everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next one.
    pub fn next_u32(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

/// `10.0.0.1:80`, or the address alone where the port is the client's (fwmark services).
fn name(dest: &Dest) -> String {
    if dest.rule.port == 0 { dest.rule.addr.to_string() } else { dest.endpoint().to_string() }
}

/// Why a real server is out of the question.
fn state(dest: &Dest) -> &'static str {
    match (dest.overloaded, dest.weight()) {
        (true, _) => " (overloaded: over its upper threshold)",
        (_, 0) => " (weight 0: quiesced)",
        _ => "",
    }
}

/// The least loaded of the list, each load divided by its weight: what `wlc`, `lblc` and `lblcr` have in common.
fn least_loaded<'a>(request: &Request<'_>, each: impl Iterator<Item = (DestId, &'a Dest)>) -> Option<DestId> {
    let mut least: Option<(DestId, i64, i64)> = None;
    for (id, dest) in each {
        let load = dest.overhead();
        request.say(|| {
            format!("{}: ({}·256 + {})/{} = {load}/{}{}", name(dest), dest.active, dest.inactive, dest.weight(), dest.weight(), state(dest))
        });
        if dest.overloaded {
            continue;
        }
        match least {
            None if dest.weight() > 0 => least = Some((id, load, dest.weight())),
            // A weight of 0 can never win: the left side is 0.
            Some((_, least_load, least_weight)) if least_load * dest.weight() > load * least_weight => {
                least = Some((id, load, dest.weight()))
            }
            _ => {}
        }
    }
    request.say(|| match least {
        Some((id, load, weight)) => format!("least is {load}/{weight}: {}", name(&request.pool[id])),
        None => "nobody is left".to_string(),
    });
    least.map(|(id, ..)| id)
}

/// The shortest expected delay of one server: `(active + 1) / weight`, compared without floats.
fn shorter((load, weight): (i64, i64), (than, than_weight): (i64, i64)) -> bool {
    than * weight > load * than_weight
}

#[cfg(test)]
mod tests;
