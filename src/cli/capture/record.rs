//! The capture itself: from the taps to a file or to the terminal, until something ends it.

use super::Capture;
use crate::capture::{Described, Drops, Head, Live, LiveError, LiveOptions, Place, PlaceError, Recording, Tap};
use crate::cli::captures::reason;
use crate::cli::output::{Output, complain};
use crate::cli::show::Written;
use crate::cli::{FINE, Failure, Format, INPUT};
use crate::net::{Timestamp, plural, thousands};
use crate::packet::Frame;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// So long may Ctrl-C wait, and a packet for being written.
const TICK: Duration = Duration::from_millis(100);
/// How often drops are looked at.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Capture, places: &[Place], filter: Option<String>, out: &mut Output) -> Result<u8, Failure> {
    if args.write.as_deref() == Some(Path::new("-")) && io::stdout().is_terminal() {
        return Err(Failure::usage("-w -: standard output is a terminal; pipe it into a program, or give a file's name"));
    }
    if args.rotate.is_some() && args.write.as_deref() == Some(Path::new("-")) {
        return Err(Failure::usage("--rotate needs a file, not standard output"));
    }
    let options =
        LiveOptions { snap_len: args.snap_len, buffer: args.buffer as usize * 1024, promiscuous: !args.own, filter: filter.clone() };
    let (taps, mut trouble) = open(places, &options)?;
    let mut target = match &args.write {
        None => Target::Screen,
        Some(path) => {
            let failed = |e: io::Error| Failure::input(format!("cannot write {}: {}", path.display(), reason(&e)));
            Target::File(Box::new(
                Recording::begin(path, head(&taps, &options), args.rotate, args.keep.map(|n| n as usize)).map_err(failed)?,
            ))
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let _ = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    let names: Vec<String> = taps.iter().map(|tap| tap.place.to_string()).collect();
    let to = args.write.as_ref().map(|path| format!(" into {}", path.display())).unwrap_or_default();
    complain(&format!("capturing on {}{to}; Ctrl-C ends it", names.join(" ")));
    let mut live = Live::new(taps);
    let end = Run { args, options: &options, names: &names, stop: &stop, left: args.count.unwrap_or(u64::MAX) }.until_end(
        &mut live,
        &mut target,
        out,
    );
    let counted: Vec<Drops> = live.taps.iter_mut().map(Tap::counted).collect();
    let mut written = Ok(());
    if let (Target::File(recording), true) = (target, end.is_ok()) {
        written = recording.end(now(), &with_comments(&live, &counted));
    }
    summary(&live, &counted);
    let why = end.err().or(written.err().map(End::Output));
    let name = args.write.clone().unwrap_or_else(|| PathBuf::from("-"));
    let name = name.display();
    match why {
        None => {}
        Some(End::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe && args.write.is_none() => {}
        Some(End::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => {
            complain(&format!("the reader of {name} is gone: the capture has ended"))
        }
        Some(End::Output(e)) => {
            return Err(Failure::input(format!(
                "cannot write {name}: {}; the capture has ended, what is in the file can be read",
                reason(&e)
            )));
        }
        Some(End::Input(what)) => return Err(Failure::input(what)),
    }
    trouble |= live.taps.iter().any(|tap| tap.lost.is_some());
    Ok(if trouble { INPUT } else { FINE })
}

/// Opens what can be opened. A right that is missing, or nothing at all, ends it; else the others are captured on.
pub(in crate::cli) fn open(places: &[Place], options: &LiveOptions) -> Result<(Vec<Tap>, bool), Failure> {
    let (mut taps, mut wrong) = (Vec::new(), Vec::new());
    for place in places {
        match Tap::open(place, options) {
            Ok(tap) => taps.push(tap),
            Err(LiveError::Denied) => {
                let program = std::env::current_exe().map_or_else(|_| "lvscope".to_string(), |path| path.display().to_string());
                return Err(Failure::input(format!(
                    "cannot capture on {place}: CAP_NET_RAW is missing; run as root, or once: setcap cap_net_raw,cap_net_admin+ep {program}"
                )));
            }
            Err(e @ LiveError::Place(PlaceError::Unknown(_))) => return Err(Failure::input(format!("cannot capture on {place}: {e}"))),
            Err(LiveError::Down) => {
                wrong.push(format!("cannot capture on {place}: it is down (ip link set {} up)", place.interface));
            }
            Err(e) => wrong.push(format!("cannot capture on {place}: {e}")),
        }
    }
    if taps.is_empty() {
        return Err(Failure::input(wrong.join("\nlvscope: ")));
    }
    wrong.iter().for_each(|text| complain(text));
    Ok((taps, !wrong.is_empty()))
}

pub(in crate::cli) fn head(taps: &[Tap], options: &LiveOptions) -> Head {
    let os = nix::sys::utsname::uname()
        .map(|name| format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()))
        .unwrap_or_else(|_| "Linux".to_string());
    let host = nix::unistd::gethostname().map_or_else(|_| "localhost".to_string(), |name| name.to_string_lossy().into_owned());
    let described = |tap: &Tap| {
        let place = &tap.place;
        let netns = place.netns.as_ref().map(|name| format!(", network namespace {name}")).unwrap_or_default();
        let described = Described {
            name: place.to_string(),
            description: Some(format!("{} on {host}{netns}", place.interface)),
            filter: options.filter.clone(),
            os: Some(os.clone()),
            snap_len: options.snap_len,
        };
        (tap.link_type, described)
    };
    Head {
        application: concat!("lvscope ", env!("CARGO_PKG_VERSION")).to_string(),
        comment: format!("captured on {host}"),
        interfaces: taps.iter().map(described).collect(),
        os,
    }
}

enum Target {
    Screen,
    File(Box<Recording>),
}

/// What ends a capture before its time.
enum End {
    Output(io::Error),
    Input(String),
}

struct Run<'a> {
    args: &'a Capture,
    options: &'a LiveOptions,
    names: &'a [String],
    stop: &'a AtomicBool,
    /// Packets that are still wanted.
    left: u64,
}

impl Run<'_> {
    fn until_end(mut self, live: &mut Live, target: &mut Target, out: &mut Output) -> Result<(), End> {
        let until = self.args.duration.map(|time| Instant::now() + time);
        let (mut look, mut warned) = (Instant::now() + LOOK, false);
        let mut lost = vec![false; live.taps.len()];
        let wait = |errno: nix::errno::Errno| End::Input(format!("cannot wait for packets: {}", errno.desc().to_lowercase()));
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if self.stop.load(Ordering::Relaxed) || left.is_some_and(|left| left.is_zero()) || self.left == 0 || !live.is_alive() {
                break;
            }
            let mut result = Ok(());
            live.turn(left.map_or(TICK, |left| left.min(TICK)), |frame| {
                result = self.take(frame, target, out);
                result.is_ok() && self.left > 0
            })
            .map_err(wait)?;
            result.and_then(|()| deliver(target, out)).map_err(End::Output)?;
            for (tap, said) in live.taps.iter().zip(&mut lost) {
                if let (Some(why), false) = (&tap.lost, *said) {
                    *said = true;
                    complain(&format!("{}: {why}; captured until then: {}", tap.place, plural(tap.packets, "packet")));
                }
            }
            for at in live.revive(self.options) {
                lost[at] = false;
                complain(&format!("{}: is back, and captured again", live.taps[at].place));
            }
            if let Target::File(recording) = target
                && recording.is_due()
            {
                let counted: Vec<Drops> = live.taps.iter_mut().map(Tap::counted).collect();
                recording.turn_over(now(), &with_comments(live, &counted)).map_err(End::Output)?;
            }
            if !warned && Instant::now() >= look {
                look = Instant::now() + LOOK;
                for tap in &mut live.taps {
                    let dropped = tap.counted().by_os.unwrap_or(0);
                    if dropped > 0 {
                        warned = true;
                        complain(&format!(
                            "{}: {} dropped so far; a filter, -s 128 or a larger -B helps",
                            tap.place,
                            plural(dropped, "packet")
                        ));
                    }
                }
            }
        }
        let mut result = Ok(());
        if self.left > 0 {
            live.drain(|frame| {
                result = self.take(frame, target, out);
                result.is_ok() && self.left > 0
            })
            .map_err(wait)?;
        }
        result.and_then(|()| deliver(target, out)).map_err(End::Output)
    }

    fn take(&mut self, frame: &Frame<'_>, target: &mut Target, out: &mut Output) -> io::Result<()> {
        self.left -= 1;
        match target {
            Target::File(recording) => recording.frame(frame),
            Target::Screen => {
                let mut written = Written::new(out, Format::Table);
                written.packet(self.names.get(frame.interface as usize).map_or("?", String::as_str), "", frame);
                written.end()
            }
        }
    }
}

fn deliver(target: &mut Target, out: &mut Output) -> io::Result<()> {
    match target {
        Target::File(recording) => recording.deliver(),
        Target::Screen => out.flush(),
    }
}

pub(in crate::cli) fn with_comments(live: &Live, counted: &[Drops]) -> Vec<(Drops, Option<String>)> {
    live.taps.iter().zip(counted).map(|(tap, drops)| (*drops, tap.lost.clone())).collect()
}

fn summary(live: &Live, counted: &[Drops]) {
    let mut text = String::new();
    let width = live.taps.iter().map(|tap| tap.place.to_string().len()).max().unwrap_or(0).max(9);
    text += &format!("{:<width$}  {:>10}  {:>10}\n", "interface", "packets", "dropped");
    for (tap, drops) in live.taps.iter().zip(counted) {
        let lost = tap.lost.as_ref().map(|why| format!("  {why}")).unwrap_or_default();
        text += &format!("{:<width$}  {:>10}  {:>10}{lost}\n", tap.place.to_string(), thousands(tap.packets), thousands(drops.total()));
    }
    let _ = io::stderr().write_all(text.as_bytes());
}

pub(in crate::cli) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
