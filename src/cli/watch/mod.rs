//! `lvscope watch`: what happens, on a terminal, while it happens.

mod draw;
mod export;
mod keys;
mod screen;
mod view;

use super::live::{Forgotten, Given, LOOK, Recent, Session, Source, Teller};
use super::output::complain;
use super::{FINE, Failure, INPUT};
use crate::host::Fleet;
use crate::rules::{self, Facts};
use crate::trace::Hints;
use clap::Args;
use keys::{Deed, press};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::layout::Rect;
use screen::Screen;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use view::{Choice, Moment, listed, selected, view};

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope watch -i eth0 --service 192.168.2.59:80
  lvscope watch -i all 'host 192.168.2.100 or arp'
  ssh director lvscope capture -i all -w - | lvscope watch director=-
  lvscope watch --speed 4 *.pcap

Recordings are played as fast as they were made; idle times are cut short.
Keys: arrows choose a connection, Enter shows its way, d the findings, e writes
it into files, ? all keys, q ends.")]
pub(super) struct Watch {
    #[command(flatten)]
    given: Given,
    /// Play recordings so many times faster; 0: at once
    #[arg(long, default_value_t = 1.0, value_parser = speed, value_name = "FACTOR")]
    speed: f64,
}

fn speed(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|speed: &f64| speed.is_finite() && *speed >= 0.0)
        .ok_or_else(|| format!("'{text}' is not a factor such as 1, 10 or 0.5"))
}

/// A key is waited for so long before the screen is looked after.
const TICK: Duration = Duration::from_millis(50);

pub(super) fn run(args: &Watch) -> Result<u8, Failure> {
    if !io::stdout().is_terminal() {
        return Err(Failure::usage(
            "watch draws on a terminal, and standard output is none; `lvscope diagnose` writes into a pipe or a file",
        ));
    }
    let hints = args.given.hints()?;
    // Before the session sets its own: here a signal ends the program, the end of the input does not.
    let quit = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&quit);
    let _ = ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed));
    let source = Source { given: &args.given, packets: false, recent: true, play: Some(args.speed) };
    let Some(session) = Session::begin(source, &hints)? else {
        return Err(Failure::usage("nothing to watch: name interfaces (-i), captures, or `-` for standard input"));
    };
    let recent = session.recent();
    let (trouble, said) = (session.trouble(), session.said());
    let latest: Arc<Mutex<Option<Arc<Moment>>>> = Arc::default();
    let looker = {
        let (latest, quit) = (Arc::clone(&latest), Arc::clone(&quit));
        std::thread::spawn(move || {
            let _alive = Alive(&quit);
            look(session, &hints, &latest, &quit);
        })
    };
    let screen = Screen::open().map_err(|e| Failure::input(format!("cannot draw on this terminal: {e}")))?;
    let ended = Watching { choice: Choice::default(), latest: &latest, shown: None, paused: false, recent: &recent, said: &said, heard: 0 }
        .until_quit(screen, &quit);
    quit.store(true, Ordering::Relaxed);
    let panicked = looker.join().is_err();
    said.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|text| complain(text));
    ended.map_err(|e| Failure::input(format!("the terminal is gone: {e}")))?;
    if panicked {
        complain("the packets were not watched to the end: an error inside lvscope, see above");
    }
    Ok(if panicked || trouble.load(Ordering::Relaxed) { INPUT } else { FINE })
}

/// Ends the picture when the looker comes to grief: its message stands on the terminal, which must not be drawn over.
struct Alive<'a>(&'a AtomicBool);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Looks at the trace again and again.
fn look(mut session: Session, hints: &Hints, latest: &Mutex<Option<Arc<Moment>>>, quit: &AtomicBool) {
    let (mut teller, mut forgotten) = (Teller::default(), Forgotten::default());
    let from = session.from();
    let mut rest = Duration::ZERO;
    let fleet = Fleet::default();
    while !quit.load(Ordering::Relaxed) {
        let over = session.wait_or(rest, quit);
        let begun = Instant::now();
        if over {
            session.end();
        }
        let trace = session.look();
        let diagnosis = rules::diagnose(&Facts { trace: &trace, hints, fleet: &fleet });
        teller.news(&diagnosis, begun, false);
        session.forget(&trace, &mut forgotten);
        let gone = teller.gone(&diagnosis).cloned().collect();
        let state = if over { "ended" } else { "live" };
        let moment = Moment { trace, diagnosis, gone, from: from.clone(), state, forgotten: forgotten.total() };
        *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(moment));
        if over {
            break;
        }
        rest = LOOK.max(begun.elapsed() * 2);
    }
    session.end();
}

struct Watching<'a> {
    choice: Choice,
    latest: &'a Mutex<Option<Arc<Moment>>>,
    shown: Option<Arc<Moment>>,
    paused: bool,
    recent: &'a Arc<Mutex<Recent>>,
    /// What the threads that read have to say, and how much of it was shown.
    said: &'a Mutex<Vec<String>>,
    heard: usize,
}

impl Watching<'_> {
    fn until_quit(mut self, mut screen: Screen, quit: &AtomicBool) -> io::Result<()> {
        let color = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let mut stale = true;
        while !quit.load(Ordering::Relaxed) {
            if !self.paused {
                let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let same = matches!((&latest, &self.shown), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
                if latest.is_some() && !same {
                    self.shown = latest;
                    stale = true;
                }
            }
            if let Some(text) = self.said.lock().unwrap_or_else(PoisonError::into_inner).get(self.heard) {
                self.choice.message = Some(text.clone());
                self.heard += 1;
                stale = true;
            }
            if std::mem::take(&mut stale) {
                screen.0.draw(|frame| {
                    let area = frame.area();
                    draw::draw(frame.buffer_mut(), area, &self.view(area), color);
                })?;
            }
            if !event::poll(TICK)? {
                continue;
            }
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    stale = true;
                    let rows = usize::from(screen.0.size()?.height);
                    match press(key, &mut self.choice, self.shown.as_deref(), rows) {
                        Deed::Quit => break,
                        Deed::Export => self.choice.message = Some(self.export()),
                        Deed::Pause => self.paused = !self.paused,
                        Deed::Draw => {}
                        Deed::Nothing => stale = false,
                    }
                }
                Event::Resize(..) => stale = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn view(&self, area: Rect) -> view::View {
        let mut shown = match &self.shown {
            Some(moment) => view(moment, &self.choice, usize::from(area.width)),
            None => view::View { title: "waiting for packets".into(), ..view::View::default() },
        };
        if self.paused {
            shown.state = "paused".into();
        }
        shown
    }

    fn export(&self) -> String {
        let Some(moment) = &self.shown else { return "nothing to write yet".into() };
        let flows = listed(&moment.trace, self.choice.failed_only);
        let Some(flow) = selected(&flows, &self.choice).and_then(|at| flows.get(at)) else { return "no connection is chosen".into() };
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        export::export(Path::new("."), moment, flow, &recent).unwrap_or_else(|e| format!("cannot write: {}", super::captures::reason(&e)))
    }
}
