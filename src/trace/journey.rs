//! Every packet's way, for those who ask for it (`trace --packets`).

use super::assemble::Assembler;
use super::flow::Way;
use super::path::Rewrite;
use super::table::Sighting as Seen;

/// One packet, at each place where it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Journey {
    /// Number of its flow.
    pub flow: u32,
    /// Its direction.
    pub way: Way,
    /// Where it was seen, in the order travelled.
    pub sightings: Vec<Sighting>,
    /// What changed on the way.
    pub rewrites: Vec<Rewrite>,
}

/// A packet at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Number of the capture point.
    pub point: u32,
    /// Frame number there.
    pub frame: u64,
}

/// The packets of a trace, when they are wanted.
pub(super) struct Journal {
    wanted: bool,
}

impl Journal {
    pub(super) fn new(wanted: bool) -> Self {
        Journal { wanted }
    }

    #[inline]
    pub(super) fn wanted(&self) -> bool {
        self.wanted
    }

    pub(super) fn add(&mut self, _seen: &Seen, _digest: Option<u64>) {}

    pub(super) fn journeys(&self, _assembler: &Assembler) -> impl Iterator<Item = Journey> {
        std::iter::empty()
    }
}
