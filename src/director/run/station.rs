//! The director's place among its wires: frames in by the batch, frames out by the batch, one look at the clock for each batch.
//!
//! `director run` and the lab turn the same wheel. In the lab the host's own kernel stands behind the director, as the kernel's other hooks
//! stand behind IPVS: what is no connection's goes on to it, and what it sends goes out again.

use crate::capture::{BATCH, Batch, Outbox, VNET_HEADER, Wire, WireError};
use crate::director::{Director, Fate, Offload, Reason, Sent, Tally};
use crate::net::Timestamp;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the host's own kernel does around the director.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Interfaces that forward IPv4, and IPv6: answers of real servers pass the FORWARD hook, which on others no packet comes to.
    pub forwards: Vec<[bool; 2]>,
    /// Addresses that the kernel takes for its own: requests to others never come to the INPUT hook (`ip_vs_ops4` in ip_vs_core.c).
    pub local: Vec<IpAddr>,
}

/// The wires, and what is under way on them.
pub struct Station {
    outside: Vec<Wire>,
    /// To the host's own kernel, by port; none when nobody stands behind the director.
    kernel: Vec<Wire>,
    delay: Option<Duration>,
    held: VecDeque<(Instant, Sent)>,
    batch: Batch,
    outbox: Outbox,
    sent: Vec<Sent>,
    /// Frames that the interfaces did not take, not told of yet.
    untaken: u64,
    ready: Vec<bool>,
    /// Frames to be asked for at once, by port.
    asked: Vec<usize>,
    pace: Pace,
}

/// Batches from one wire before the next one has its turn.
const ROUNDS: usize = 8;
/// Frames of more bytes than this were merged, or are jumbo frames.
const LARGE: usize = 4096;
/// So many large frames are taken at once: no more than the processor's cache holds until they are sent.
const FEW: usize = 4;

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

impl Station {
    /// With a wire for each port of the director. `delay`: answers are held back so long.
    pub fn new(outside: Vec<Wire>, kernel: Vec<Wire>, delay: Option<Duration>) -> Station {
        let ready = vec![false; outside.len() + kernel.len()];
        let asked = vec![BATCH; outside.len()];
        Station {
            outside,
            kernel,
            delay,
            held: VecDeque::new(),
            batch: Batch::default(),
            outbox: Outbox::default(),
            sent: Vec::new(),
            untaken: 0,
            ready,
            asked,
            pace: Pace::default(),
        }
    }

    /// Waits until a frame comes, `also` can be read, or it is time for something; true when `also` can be read.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn wait(&mut self, also: Option<BorrowedFd<'_>>, until: Instant) -> Result<bool, Errno> {
        if let Some(pause) = self.pace.pause() {
            std::thread::sleep(pause);
        }
        let until = self.held.front().map_or(until, |(due, _)| until.min(*due));
        let patience = until.saturating_duration_since(Instant::now());
        // poll(2) counts milliseconds; less than one would be none.
        let timeout = PollTimeout::try_from(patience + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let wires = self.outside.iter().chain(&self.kernel).map(|wire| wire.as_fd());
        let mut fds: Vec<PollFd<'_>> = wires.chain(also).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => fds.clear(),
            Err(errno) => return Err(errno),
        }
        // An error of an interface shows when it is read.
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        for (at, ready) in self.ready.iter_mut().enumerate() {
            *ready = fds.get(at).is_some_and(is_ready);
        }
        Ok(also.is_some() && fds.last().is_some_and(is_ready))
    }

    /// Takes what came, and sends what comes of it. `lost` is told of frames that could not be sent, with their length.
    ///
    /// # Errors
    /// When a wire cannot be read, with its port; the others have their turn the next time.
    pub fn turn(
        &mut self,
        director: &mut Director,
        around: Option<&Surroundings>,
        mut lost: impl FnMut(usize, Errno),
    ) -> Result<(), (usize, WireError)> {
        let (mut taken, mut bytes) = (0, 0);
        for port in 0..self.outside.len() {
            for _ in 0..ROUNDS {
                if !self.ready[port] {
                    break;
                }
                let asked = self.asked[port];
                let given = self.outside[port].receive_many(&mut self.batch, asked).map_err(|e| (port, e))?;
                let size = self.batch.bytes();
                (taken, bytes) = (taken + given, bytes + size);
                self.ready[port] = given == asked;
                self.asked[port] = if size > given * LARGE { FEW } else { BATCH };
                self.serve(port, director, around, &mut lost);
            }
        }
        for port in 0..self.kernel.len() {
            if !self.ready[self.outside.len() + port] {
                continue;
            }
            taken += self.kernel[port].receive_many(&mut self.batch, BATCH).map_err(|e| (port, e))?;
            bytes += self.batch.bytes();
            let frames: Vec<[&[u8]; 2]> = self.batch.frames().map(|(_, bytes)| [bytes, &[]]).collect();
            if let Some(wire) = self.outside.get(port) {
                self.outbox.send(wire, &frames, |_, _| {});
            }
        }
        while self.held.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            self.sent.extend(self.held.pop_front().map(|(_, sent)| sent));
        }
        self.send(Vec::new(), &mut lost);
        self.pace.took(taken, bytes);
        Ok(())
    }

    /// One batch of a wire.
    fn serve(&mut self, port: usize, director: &mut Director, around: Option<&Surroundings>, lost: &mut impl FnMut(usize, Errno)) {
        let Station { outside, batch, sent, kernel, outbox, held, delay, untaken, .. } = self;
        let now = now();
        let mut others: Vec<[&[u8]; 2]> = Vec::new();
        // What follows each frame that is sent, in the one that came.
        let mut rests: Vec<&[u8]> = vec![&[]; sent.len()];
        for (_, bytes) in batch.frames() {
            let Some((offload, frame)) = bytes.split_first_chunk::<VNET_HEADER>() else { continue };
            let offload: &Offload = offload;
            let before = sent.len();
            let Some(around) = around else {
                director.take(port, frame, offload, now, sent);
                rests.extend(sent[before..].iter().map(|one| frame.get(one.rest.clone()).unwrap_or_default()));
                continue;
            };
            let stranger = destination(frame).is_some_and(|dst| director.engine.balancer.is_vip(dst) && !around.local.contains(&dst));
            let fate = if stranger { None } else { director.take(port, frame, offload, now, sent) };
            // Who has an address, the kernel says.
            let forwards = around.forwards.get(port).copied().unwrap_or_default();
            let goes = |one: &Sent| !is_neighbour_answer(&one.bytes) && (!one.answer || forwards[usize::from(is_ipv6(&one.bytes))]);
            let new: Vec<Sent> = sent.drain(before..).filter(goes).collect();
            sent.extend(new);
            rests.extend(sent[before..].iter().map(|one| frame.get(one.rest.clone()).unwrap_or_default()));
            if matches!(fate, None | Some(Fate::Local | Fate::Pass)) {
                others.push([bytes, &[]]);
            }
        }
        if let Some(wire) = kernel.get(port) {
            outbox.send(wire, &others, |_, _| {});
        }
        if let Some(delay) = *delay {
            let due = Instant::now() + delay;
            // What is held back outlives the frames that came.
            for (one, rest) in sent.iter_mut().zip(&mut rests) {
                one.bytes.extend_from_slice(std::mem::take(rest));
            }
            let (late, at_once): (Vec<Sent>, Vec<Sent>) = sent.drain(..).partition(|one| one.answer);
            held.extend(late.into_iter().map(|one| (due, one)));
            *sent = at_once;
        }
        *untaken += flush(outside, outbox, sent, &rests, lost);
    }

    /// Sends these frames, and what is waiting to be sent.
    pub fn send(&mut self, frames: Vec<Sent>, mut lost: impl FnMut(usize, Errno)) {
        self.sent.extend(frames);
        self.untaken += flush(&self.outside, &mut self.outbox, &mut self.sent, &[], &mut lost);
    }

    /// Adds what the wires lost since the last time: frames that nobody read in time, and frames that they did not take.
    pub fn count_losses(&mut self, tally: &mut Tally) {
        let unread = self.outside.iter().filter_map(|wire| wire.counters().ok()).map(|(_, dropped)| u64::from(dropped)).sum();
        for (reason, count) in [(Reason::Unread, unread), (Reason::Untaken, std::mem::take(&mut self.untaken))] {
            if count > 0 {
                *tally.dropped.entry(reason).or_default() += count;
            }
        }
    }
}

/// Sends frames, each with what follows it, if anything does. How many were not taken, but for those that `lost` was told of?
fn flush(wires: &[Wire], outbox: &mut Outbox, sent: &mut Vec<Sent>, rests: &[&[u8]], lost: &mut impl FnMut(usize, Errno)) -> u64 {
    let mut untaken = 0;
    let rests = rests.iter().copied().chain(std::iter::repeat(&[][..]));
    for (port, wire) in wires.iter().enumerate() {
        let mut frames: Vec<[&[u8]; 3]> = Vec::with_capacity(sent.len());
        let own = sent.iter().zip(rests.clone()).filter(|(one, _)| one.port == port);
        frames.extend(own.map(|(one, rest)| [&one.offload[..], &one.bytes[..], rest]));
        outbox.send(wire, &frames, |at, errno| match errno {
            // A full queue loses a packet, as on any router; so does a link that is down.
            Errno::EAGAIN | Errno::ENOBUFS | Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV => untaken += 1,
            errno => lost(frames[at][1..].iter().map(|part| part.len()).sum(), errno),
        });
    }
    sent.clear();
    untaken
}

/// When many frames come one by one, each costs a wake-up. Then the director waits a moment until there is a handful, as network cards do
/// with their interrupts; a frame is late by no more than that moment. Large frames are worth a wake-up each, and with them a moment is much
/// that their sender might have sent.
#[derive(Default)]
struct Pace {
    since: Option<Instant>,
    taken: usize,
    bytes: usize,
    crowded: bool,
}

impl Pace {
    /// The rate is looked at so often.
    const WINDOW: Duration = Duration::from_millis(2);
    /// More than 30,000 frames a second are a crowd.
    const CROWD: usize = 60;
    const MOMENT: Duration = Duration::from_micros(150);

    fn took(&mut self, frames: usize, bytes: usize) {
        self.taken += frames;
        self.bytes += bytes;
        let since = *self.since.get_or_insert_with(Instant::now);
        let lasted = since.elapsed();
        if lasted >= Self::WINDOW {
            let windows = (lasted.as_micros() / Self::WINDOW.as_micros()).max(1);
            self.crowded = self.taken as u128 / windows >= Self::CROWD as u128 && self.bytes <= self.taken * LARGE;
            (self.since, self.taken, self.bytes) = (Some(Instant::now()), 0, 0);
        }
    }

    fn pause(&self) -> Option<Duration> {
        self.crowded.then_some(Self::MOMENT)
    }
}

fn is_ipv6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
}

/// Where an IP packet without VLAN tag goes to.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(IpAddr::from(*frame.get(30..34)?.first_chunk::<4>()?)),
        [0x86, 0xdd] => Some(IpAddr::from(*frame.get(38..54)?.first_chunk::<16>()?)),
        _ => None,
    }
}

/// An ARP reply or a neighbour advertisement.
fn is_neighbour_answer(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x06]) => frame.get(20..22) == Some(&[0, 2]),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&58) && frame.get(54) == Some(&136),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::MacAddr;
    use crate::packet::build;

    #[test]
    fn words_between_neighbours_are_told_apart() {
        let (mac, addr) = (MacAddr([2, 0, 0, 0, 0, 1]), "10.0.0.1".parse().unwrap());
        let arp = |operation| build::arp(MacAddr::BROADCAST, operation, (mac, addr), (mac, addr), &[]);
        assert!(is_neighbour_answer(&arp(2)) && !is_neighbour_answer(&arp(1)) && !is_neighbour_answer(&[]));
        assert_eq!(destination(&arp(1)), None);
        let mut frame = vec![0; 34];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[30..34].copy_from_slice(&[10, 0, 0, 9]);
        assert_eq!(destination(&frame), Some("10.0.0.9".parse().unwrap()));
        assert_eq!(destination(&frame[..33]), None);
    }

    #[test]
    fn only_a_crowd_is_waited_for() {
        let mut pace = Pace::default();
        let mut pause = |frames: usize, size: usize| {
            pace.since = pace.since.map(|_| Instant::now() - Pace::WINDOW);
            pace.took(frames, frames * size);
            pace.pause()
        };
        assert_eq!(pause(10_000, 64), None, "the rate is not known yet");
        assert!(pause(0, 64).is_some());
        assert_eq!(pause(Pace::CROWD / 4, 64), None);
        assert!(pause(1_000, 1514).is_some());
        assert_eq!(pause(1_000, 65_550), None, "large ones are not waited for");
    }
}
