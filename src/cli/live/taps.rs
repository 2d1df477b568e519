//! Interfaces: one thread takes what comes on all of them.

use super::{Alive, Shared, Taps};
use crate::capture::{Drops, Live, LiveOptions, Recording, Tap};
use crate::cli::Failure;
use crate::cli::capture::{head, now, open, places, with_comments};
use crate::cli::captures::reason;
use crate::cli::output::complain;
use crate::net::{Timestamp, plural};
use crate::report::Input;
use crate::trace::Source;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);
/// What was on the wire so long ago has been handed over: the kernel holds a frame for 20 ms at most.
const HANDED_OVER: i64 = 100_000_000;
/// Bytes of the kernel's ring for each interface: enough for the moments in which the tables are copied.
const RING: usize = 16 << 20;

/// Opens the interfaces, and reads them until the end.
pub(super) fn begin(args: &Taps, filter: Option<String>, shared: &Arc<Shared>) -> Result<JoinHandle<()>, Failure> {
    let options = LiveOptions { snap_len: 262_144, buffer: RING, promiscuous: true, filter };
    let (taps, trouble) = open(&places(&args.interfaces, &args.netns)?, &options)?;
    shared.trouble.store(trouble, Ordering::Relaxed);
    let recording = match &args.write {
        None => None,
        Some(path) => {
            let failed = |e: std::io::Error| Failure::input(format!("cannot write {}: {}", path.display(), reason(&e)));
            Some(Recording::begin(path, head(&taps, &options), None, None).map_err(failed)?)
        }
    };
    let file = args.write.as_ref().map_or_else(|| "live".to_string(), |path| path.display().to_string());
    let points: Vec<u32> = taps.iter().map(|tap| shared.tracer().point(&source(tap, &file, taps.len() > 1))).collect();
    *shared.inputs() = vec![Input { file: file.clone(), frames: 0, damage: None, points: points.clone() }];
    shared.open.store(1, Ordering::Release);
    let names: Vec<String> = taps.iter().map(|tap| tap.place.to_string()).collect();
    let to = args.write.as_ref().map(|path| format!(", also into {}", path.display())).unwrap_or_default();
    complain(&format!("looking at {}{to}; Ctrl-C ends it", names.join(" ")));
    let reader = Reader { live: Live::new(taps), points, recording, file, dropped: Vec::new(), options, shared: Arc::clone(shared) };
    Ok(std::thread::spawn(move || reader.run()))
}

/// An interface of this machine is a point on this host; in a network namespace the host is called after that.
fn source(tap: &Tap, file: &str, several: bool) -> Source {
    let name = match &tap.place.netns {
        Some(_) => tap.place.to_string(),
        None => {
            let host = nix::unistd::gethostname().map_or_else(|_| "localhost".to_string(), |name| name.to_string_lossy().into_owned());
            format!("{}.{}", host.split('.').next().unwrap_or("localhost"), tap.place.interface)
        }
    };
    Source {
        file: 0,
        file_name: file.to_string(),
        given: Some(name),
        interface_name: None,
        one_of_several: several,
        part: false,
        link_type: tap.link_type,
        snap_len: 0,
    }
}

struct Reader {
    live: Live,
    points: Vec<u32>,
    recording: Option<Recording>,
    file: String,
    /// Told to the tracer already.
    dropped: Vec<u64>,
    options: LiveOptions,
    shared: Arc<Shared>,
}

impl Reader {
    fn run(mut self) {
        let _alive = Alive(Arc::clone(&self.shared));
        let since = now();
        let mut lost = vec![false; self.live.taps.len()];
        let mut looked = since;
        while !self.shared.stopped() && self.live.is_alive() {
            if !self.turn(Some(TICK)) {
                break;
            }
            for (tap, said) in self.live.taps.iter().zip(&mut lost) {
                if let (Some(why), false) = (&tap.lost, *said) {
                    *said = true;
                    self.shared.say(&format!("{}: {why}; seen until then: {}", tap.place, plural(tap.packets, "packet")));
                    self.shared.trouble.store(true, Ordering::Relaxed);
                }
            }
            for at in self.live.revive(&self.options) {
                lost[at] = false;
                self.shared.say(&format!("{}: is back", self.live.taps[at].place));
            }
            let time = now();
            if time - looked >= HANDED_OVER {
                looked = time;
                self.tell(since, Timestamp(time.0 - HANDED_OVER));
            }
        }
        if !self.shared.stopped() || self.shared.packets.load(Ordering::Relaxed) < self.shared.most {
            self.turn(None);
        }
        self.tell(since, Timestamp(now().0 - HANDED_OVER));
        self.keep();
        self.shared.open.store(0, Ordering::Release);
    }

    /// Takes what is there; without `patience`, what is left.
    fn turn(&mut self, patience: Option<Duration>) -> bool {
        let Reader { live, points, recording, file, shared, .. } = self;
        let (mut tracer, mut taken, mut written) = (None, 0u64, Ok(()));
        let mut take = |frame: &crate::packet::Frame<'_>| {
            // Only now: while nothing comes, others may look.
            let tracer = tracer.get_or_insert_with(|| shared.tracer());
            let point = points.get(frame.interface as usize).copied().unwrap_or_default();
            tracer.observe(point, frame);
            if let (Some(recording), Ok(())) = (recording.as_mut(), &written) {
                written = recording.frame(frame);
            }
            taken += 1;
            shared.took(point, frame) || (patience.is_none() && shared.packets.load(Ordering::Relaxed) < shared.most)
        };
        let result = match patience {
            Some(patience) => live.turn(patience, &mut take).map(|_| ()),
            None => live.drain(&mut take),
        };
        drop(tracer);
        if let Some(input) = shared.inputs().first_mut() {
            input.frames += taken;
        }
        if let (Some(recording), Ok(())) = (recording.as_mut(), &written) {
            written = recording.deliver();
        }
        if let Err(e) = written {
            shared.say(&format!("cannot write {file}: {}; what is in it can be read, and looking goes on without it", reason(&e)));
            shared.trouble.store(true, Ordering::Relaxed);
            *recording = None;
        }
        if let Err(errno) = result {
            shared.say(&format!("cannot wait for packets: {}", errno.desc().to_lowercase()));
            shared.trouble.store(true, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Tells the tracer how long each point has looked, and what it lost.
    fn tell(&mut self, since: Timestamp, until: Timestamp) {
        self.dropped.resize(self.points.len(), 0);
        let mut tracer = self.shared.tracer();
        for ((tap, point), told) in self.live.taps.iter_mut().zip(&self.points).zip(&mut self.dropped) {
            if tap.lost.is_none() {
                tracer.looked(*point, since, until.max(since));
            }
            let dropped = tap.counted().total();
            if dropped > *told {
                tracer.dropped(*point, dropped - *told);
                *told = dropped;
            }
        }
    }

    /// Ends the file.
    fn keep(&mut self) {
        let counted: Vec<Drops> = self.live.taps.iter_mut().map(Tap::counted).collect();
        if let Some(recording) = self.recording.take()
            && let Err(e) = recording.end(now(), &with_comments(&self.live, &counted))
        {
            self.shared.say(&format!("cannot write {}: {}; what is in it can be read", self.file, reason(&e)));
        }
    }
}
