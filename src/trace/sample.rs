//! What identifies a packet on both sides of a rewrite.
//!
//! Addresses and ports may change on the way, sequence numbers and payload do not. So a few packets of each conversation leave a
//! [`Sample`] here: a key made of what survives, and beside it weaker marks that survive mostly (IP-ID, TCP options). Two conversations
//! with samples under one key may be one flow; [`super::correlate`] decides.
//!
//! | protocol | key |
//! |---|---|
//! | TCP with its handshake | initial sequence number of the client |
//! | TCP, begun before the capture | sequence and acknowledgement number of a packet |
//! | SCTP | initiate tag of the client |
//! | UDP | payload length and its first bytes |
//! | ICMP echo | identifier, sequence number and payload |
//!
//! Memory is bounded: samples live in two generations, and when the newer one is full the older one is judged and dropped.

use super::table::NONE;
use super::tuple::mix;
use crate::packet::TcpOptions;
use hashbrown::HashTable;

/// A packet that may be recognised elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) key: u64,
    pub(super) conversation: u32,
    /// The next sample under the same key in this generation.
    pub(super) next: u32,
    /// What else is the same, mostly: TCP timestamp, window and options of a SYN. 0: nothing to compare.
    pub(super) signature: u32,
    /// IP-ID; 0 tells nothing (Linux sends 0 on SYN-ACKs).
    pub(super) id: u16,
    /// Sent by side B of its conversation.
    pub(super) from_b: bool,
}

/// Samples of one stretch of the capture.
#[derive(Clone, Default)]
pub(super) struct Generation {
    pub(super) samples: Vec<Sample>,
    heads: HashTable<u32>,
}

impl Generation {
    /// The samples under one key.
    pub(super) fn chain(&self, key: u64) -> impl Iterator<Item = &Sample> {
        let mut at = self.heads.find(key, |&at| self.samples[at as usize].key == key).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let sample = self.samples.get(at as usize)?;
            at = sample.next;
            Some(sample)
        })
    }

    /// Each key once, in the order in which they came: what came together lies together in memory, here and in the table.
    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        self.samples.iter().filter(|sample| sample.next == NONE).map(|sample| sample.key)
    }

    fn add(&mut self, sample: Sample) {
        let at = self.samples.len() as u32;
        let samples = &self.samples;
        match self.heads.find_mut(sample.key, |&at| samples[at as usize].key == sample.key) {
            Some(head) => {
                let next = std::mem::replace(head, at);
                self.samples.push(Sample { next, ..sample });
            }
            None => {
                self.samples.push(Sample { next: NONE, ..sample });
                let samples = &self.samples;
                self.heads.insert_unique(sample.key, at, |&at| samples[at as usize].key);
            }
        }
    }
}

/// All samples that are still waiting for their counterpart.
#[derive(Clone, Default)]
pub(super) struct Samples {
    pub(super) old: Generation,
    pub(super) new: Generation,
}

/// Samples in a generation.
const GENERATION: usize = 1 << 18;
/// Samples of one conversation.
pub(super) const PER_CONVERSATION: u8 = 24;

impl Samples {
    /// Adds one, unless the same conversation left the same one already. True when it was added.
    pub(super) fn add(&mut self, sample: Sample) -> bool {
        let same = |s: &Sample| s.conversation == sample.conversation && s.id == sample.id && s.signature == sample.signature;
        if self.new.chain(sample.key).take(16).any(same) {
            return false;
        }
        self.new.add(sample);
        true
    }

    /// Brings what is there under these keys into the cache, all at once, like [`super::table::Table::warm`].
    pub(super) fn warm(&self, keys: impl Iterator<Item = u64>) {
        let touched = keys.fold(0, |touched, key| self.new.chain(key).next().map_or(touched, |sample| touched ^ sample.next));
        std::hint::black_box(touched);
    }

    /// True when the older generation must be judged and given up.
    pub(super) fn is_full(&self) -> bool {
        self.new.samples.len() >= GENERATION
    }

    /// Follows conversations to their new numbers; what those left that are gone goes too.
    pub(super) fn renumber(&mut self, moved: &[u32]) {
        for generation in [&mut self.old, &mut self.new] {
            for sample in std::mem::take(generation).samples {
                if let Some(conversation) = moved.get(sample.conversation as usize).copied().filter(|at| *at != NONE) {
                    generation.add(Sample { conversation, ..sample });
                }
            }
        }
    }

    /// Gives up the older generation.
    pub(super) fn turn(&mut self) {
        self.old = std::mem::take(&mut self.new);
    }
}

/// A key for the handshake of a connection whose client began with this number (TCP ISN, SCTP initiate tag).
pub(super) fn handshake_key(protocol: u8, client_isn: u32) -> u64 {
    mix(u64::from(protocol), u64::from(client_isn) | 1 << 40)
}

/// A key for a TCP packet in the middle of a connection. `None` for numbers that say nothing.
pub(super) fn midstream_key(seq: u32, ack: u32) -> Option<u64> {
    (seq > 1 && ack > 1).then(|| mix(u64::from(seq) << 32 | u64::from(ack), 2 << 40))
}

/// A digest of what a packet carries: its payload's length and first bytes. As many of them as every usual snap length keeps, so that it
/// is the same number at every capture point; `None` when fewer were captured.
pub(super) fn payload_digest(payload: &[u8], payload_len: u32) -> Option<u64> {
    let head = payload.get(..payload_len.min(DIGESTED as u32) as usize)?;
    let mut digest = mix(u64::from(payload_len), 3);
    for chunk in head.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        digest = mix(digest, u64::from_le_bytes(word));
    }
    Some(digest)
}

/// Payload bytes that a digest is made of, at most.
pub(super) const DIGESTED: usize = 24;

/// A key for an ICMP echo.
pub(super) fn echo_key(reply: bool, id: u16, seq: u16, digest: u64) -> u64 {
    mix(digest, 4 | u64::from(reply) << 8 | u64::from(id) << 16 | u64::from(seq) << 32)
}

/// What of a SYN survives translation beside its sequence number: timestamp, window, scale. The MSS does not count: routers clamp it.
/// 0 where there is no timestamp, for then the rest is the same for every connection of a host.
pub(super) fn syn_signature(options: &TcpOptions, window: u16) -> u32 {
    let Some((value, _)) = options.timestamps else { return 0 };
    let rest = u64::from(window) | u64::from(options.window_scale.unwrap_or(255)) << 16 | u64::from(options.sack_permitted) << 24;
    (mix(u64::from(value), rest) as u32).max(1)
}
