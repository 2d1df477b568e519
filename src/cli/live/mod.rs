//! Packets as they come: interfaces and pipes feed one tracer, and now and then somebody looks at what it has become.

pub(super) mod diagnose;
mod forgotten;
mod pipes;
mod play;
mod recent;
#[cfg(feature = "live")]
mod taps;
mod tell;

pub(super) use forgotten::Forgotten;
pub(super) use recent::Recent;
pub(super) use tell::Teller;

use super::Failure;
use super::captures::{Captures, Known, Traced};
use super::output::complain;
use crate::case::{SourceFile, is_stream};
use crate::net::{plural, thousands};
use crate::packet::Frame;
use crate::report::Input;
use crate::trace::{Hints, Options, Trace, Tracer};
use clap::Args;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So often it is looked at; and so long Ctrl-C may wait.
pub(super) const LOOK: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(40);
/// Conversations that are kept; of more, those that ended the longest ago are forgotten, down to half.
const MOST: usize = 20_000;
/// After so long without a packet nothing new can be concluded.
const QUIET: Duration = Duration::from_secs(12);

/// Interfaces on the command line, for commands that otherwise read files.
#[derive(Args)]
pub(super) struct Taps {
    /// Look at packets as they come, on this interface; may stand several times (`web1/eth0`: in that network namespace; `all`)
    #[arg(short = 'i', long = "interface", value_name = "IF")]
    pub(super) interfaces: Vec<String>,
    /// With -i: in this network namespace, by name or process; several take the interfaces in each of them
    #[arg(long, value_name = "NAME|PID", requires = "interfaces")]
    pub(super) netns: Vec<String>,
    /// With -i: end after this time (30s, 5m)
    #[arg(long, value_parser = super::capture::units::time, value_name = "TIME", requires = "interfaces")]
    pub(super) duration: Option<Duration>,
    /// With -i: keep the packets in this pcapng file, too
    #[arg(short = 'w', long = "write", value_name = "FILE", requires = "interfaces")]
    pub(super) write: Option<PathBuf>,
}

/// What the threads that read share with the one that looks.
struct Shared {
    tracer: Mutex<Tracer>,
    /// Ctrl-C, or enough.
    stop: AtomicBool,
    /// Packets taken in, and at most so many.
    packets: AtomicU64,
    most: u64,
    /// Inputs from which something can still come.
    open: AtomicUsize,
    inputs: Mutex<Vec<Input>>,
    trouble: Arc<AtomicBool>,
    /// Packets are kept for a while.
    keeps_recent: bool,
    recent: Arc<Mutex<Recent>>,
    /// What there is to say while the terminal belongs to a picture.
    said: Option<Arc<Mutex<Vec<String>>>>,
}

impl Shared {
    /// Says something to the user: now, or where the picture can show it.
    fn say(&self, text: &str) {
        match &self.said {
            Some(said) => said.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_string()),
            None => complain(text),
        }
    }

    fn tracer(&self) -> MutexGuard<'_, Tracer> {
        self.tracer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inputs(&self) -> MutexGuard<'_, Vec<Input>> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a packet, and perhaps keeps it; false when it was the last one wanted.
    fn took(&self, point: u32, frame: &Frame<'_>) -> bool {
        if self.keeps_recent {
            self.recent.lock().unwrap_or_else(PoisonError::into_inner).push(point, frame);
        }
        let enough = self.packets.fetch_add(1, Ordering::Relaxed) + 1 >= self.most;
        if enough {
            self.stop.store(true, Ordering::Relaxed);
        }
        !enough && !self.stopped()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Held by a thread that reads: should it come to grief, nobody waits for it.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.trouble.store(true, Ordering::Relaxed);
            self.0.open.store(0, Ordering::Release);
        }
    }
}

/// What the commands that trace packets are given: captures or interfaces, and what the user knows of the services.
#[derive(Args)]
pub(super) struct Given {
    #[command(flatten)]
    pub(super) captures: Captures,
    #[command(flatten)]
    taps: Taps,
    #[command(flatten)]
    known: Known,
}

impl Given {
    pub(super) fn hints(&self) -> Result<Hints, Failure> {
        self.known.hints()
    }
}

/// What to read, and how.
pub(super) struct Source<'a> {
    pub(super) given: &'a Given,
    /// Keep every packet, for journeys.
    pub(super) packets: bool,
    /// Keep the latest packets, for a picture that has the terminal.
    pub(super) recent: bool,
    /// Play recordings, so many times faster than they were made; 0: at once. Without it they are not read here.
    pub(super) play: Option<f64>,
}

/// A trace that grows.
pub(super) struct Session {
    shared: Arc<Shared>,
    /// What was named on the command line.
    from: Vec<String>,
    /// Every packet is kept.
    packets: bool,
    /// Ends by itself then.
    until: Option<Instant>,
    begun: Instant,
    /// Packets at the last look, and when they last were more.
    seen: u64,
    grew: Instant,
    /// Threads that write what they read: to be waited for at the end.
    writers: Vec<std::thread::JoinHandle<()>>,
}

impl Session {
    /// Begins to read what the command line names, if it is interfaces or streams alone; `None` when it is files.
    pub(super) fn begin(source: Source<'_>, hints: &Hints) -> Result<Option<Session>, Failure> {
        let Source { given: Given { taps, captures, .. }, packets, recent, play } = source;
        let live = !taps.interfaces.is_empty();
        if live {
            if taps.write.as_deref() == Some(std::path::Path::new("-")) {
                return Err(Failure::usage("-w -: standard output is for the report; `lvscope capture -w -` writes packets there"));
            }
            captures.only_a_filter()?;
        }
        let (files, filter) = if live { (Vec::new(), captures.filter()?) } else { captures.sorted()? };
        if !live && (files.is_empty() || (play.is_none() && !files.iter().all(is_stream))) {
            return Ok(None);
        }
        let shared = Arc::new(Shared {
            tracer: Mutex::new(Tracer::new(Options { hints: hints.clone(), packets, ..Options::default() })),
            stop: AtomicBool::new(captures.count() == Some(0)),
            packets: AtomicU64::new(0),
            most: captures.count().unwrap_or(u64::MAX),
            open: AtomicUsize::new(0),
            inputs: Mutex::new(Vec::new()),
            trouble: Arc::default(),
            keeps_recent: recent,
            recent: Arc::default(),
            said: recent.then(Arc::default),
        });
        let now = Instant::now();
        let until = taps.duration.map(|time| now + time);
        let from = match live {
            true => taps.interfaces.clone(),
            false => files.iter().map(|arg| arg.point.clone().unwrap_or_else(|| base_name(&arg.path))).collect(),
        };
        let mut session = Session { shared, from, packets, until, begun: now, seen: 0, grew: now, writers: Vec::new() };
        if live {
            session.tap(taps, filter.map(|filter| filter.to_string()))?;
        } else if files.iter().all(is_stream) {
            pipes::begin(files, filter, &session.shared);
        } else {
            play::begin(files, filter, play.unwrap_or(0.0), &session.shared)?;
        }
        session.heed_interrupts();
        Ok(Some(session))
    }

    #[cfg(feature = "live")]
    fn tap(&mut self, taps: &Taps, filter: Option<String>) -> Result<(), Failure> {
        self.writers.push(taps::begin(taps, filter, &self.shared)?);
        Ok(())
    }

    #[cfg(not(feature = "live"))]
    fn tap(&mut self, _: &Taps, _: Option<String>) -> Result<(), Failure> {
        Err(Failure::usage(
            "cannot look at interfaces: this lvscope was built without libpcap (cargo feature `live`); pipe `tcpdump -w -` in",
        ))
    }

    fn heed_interrupts(&self) {
        let shared = Arc::clone(&self.shared);
        let _ = ctrlc::set_handler(move || {
            if shared.stop.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        });
    }

    /// Ends it.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// True when nothing more comes, or nothing more is wanted.
    pub(super) fn is_over(&self) -> bool {
        let late = self.until.is_some_and(|until| Instant::now() >= until);
        late || self.shared.stopped() || self.shared.open.load(Ordering::Acquire) == 0
    }

    /// Waits for so long at least, and until there is something to look at; or until it is over: true.
    pub(super) fn wait(&mut self, rest: Duration) -> bool {
        self.wait_or(rest, &AtomicBool::new(false))
    }

    /// The same, ended by a flag of somebody else's, too.
    pub(super) fn wait_or(&mut self, rest: Duration, quit: &AtomicBool) -> bool {
        let since = Instant::now();
        while !self.is_over() && !quit.load(Ordering::Relaxed) {
            if since.elapsed() >= rest && self.has_news() {
                return false;
            }
            std::thread::sleep(TICK);
        }
        true
    }

    /// Packets have come since the last look, or not long before it: time passes, and silence tells.
    pub(super) fn has_news(&mut self) -> bool {
        let packets = self.shared.packets.load(Ordering::Relaxed);
        if packets != self.seen {
            (self.seen, self.grew) = (packets, Instant::now());
        }
        packets > 0 && self.grew.elapsed() < QUIET
    }

    /// Ends the reading: what is written is whole then.
    pub(super) fn end(&mut self) {
        self.stop();
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }

    /// What the packets until now tell.
    pub(super) fn look(&self) -> Trace {
        let copy = self.shared.tracer().so_far();
        copy.finish()
    }

    /// Forgets what is too much, as this trace has it.
    pub(super) fn forget(&self, trace: &Trace, forgotten: &mut Forgotten) {
        if trace.conversations() > MOST {
            let spent = trace.spent(MOST / 2);
            forgotten.count(trace, &spent);
            self.shared.tracer().forget(&spent);
        }
    }

    /// Takes in everything until it is over.
    pub(super) fn until_end(mut self) -> Traced {
        let mut forgotten = Forgotten::default();
        while !self.wait(LOOK) {
            // What every packet's way is made of cannot be given away.
            if !self.packets && self.shared.tracer().conversations() > MOST && self.is_happening() {
                self.forget(&self.look(), &mut forgotten);
            }
        }
        self.end();
        if forgotten.total() > 0 {
            complain(&format!("memory is for the latest connections: {} before them let go", plural(forgotten.total(), "connection")));
        }
        Traced { trace: self.look(), inputs: self.inputs(), unreadable: self.had_trouble() }
    }

    /// The inputs, as a report tells of them.
    pub(super) fn inputs(&self) -> Vec<Input> {
        self.shared.inputs().clone()
    }

    /// Something could not be read.
    pub(super) fn had_trouble(&self) -> bool {
        self.shared.trouble.load(Ordering::Relaxed)
    }

    /// True when packets come about as fast as they were sent, or their sender makes a pause: not a recording that is poured through a pipe.
    pub(super) fn is_happening(&self) -> bool {
        let span = self.shared.tracer().span();
        let passed = i64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let pause = self.grew.elapsed() >= LOOK && self.shared.packets.load(Ordering::Relaxed) == self.seen;
        pause || span <= passed.saturating_mul(2).saturating_add(5_000_000_000)
    }

    /// The latest packets, if they are kept.
    pub(super) fn recent(&self) -> Arc<Mutex<Recent>> {
        Arc::clone(&self.shared.recent)
    }

    /// Set when something could not be read.
    pub(super) fn trouble(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.trouble)
    }

    /// What there was to say, where it must not be written to the terminal.
    pub(super) fn said(&self) -> Arc<Mutex<Vec<String>>> {
        self.shared.said.clone().unwrap_or_default()
    }

    /// Where packets come from, in a few words.
    pub(super) fn from(&self) -> String {
        match &self.from[..] {
            [] => String::new(),
            [.., _] if self.from.len() > 3 => plural(self.from.len() as u64, "input"),
            few => few.join(" "),
        }
    }
}

/// What became of an input, as the report tells of it.
fn input(source: SourceFile) -> Input {
    Input {
        damage: source.unreadable.or_else(|| source.damage.first().map(ToString::to_string)),
        file: source.name,
        frames: source.frames,
        points: source.points,
    }
}

fn base_name(path: &std::path::Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Complains about an input that could not be read.
fn complain_of(source: &SourceFile, shared: &Shared) {
    if let Some(why) = &source.unreadable {
        shared.say(&format!("{}: {why}", source.name));
    } else if let Some(damage) = source.damage.first() {
        shared.say(&format!("{}: {damage}; {} packets before it were read", source.name, thousands(source.frames)));
    }
}
