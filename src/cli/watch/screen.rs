//! The terminal, lent and given back: after the last key, after a signal, and after a panic.

use std::io;

/// The terminal, drawn on; as it was when this is dropped, and before a panic's message is printed, in whatever thread that happens.
pub(super) struct Screen(pub(super) ratatui::DefaultTerminal);

impl Screen {
    pub(super) fn open() -> io::Result<Screen> {
        colored::control::set_override(false);
        match ratatui::try_init() {
            Ok(terminal) => Ok(Screen(terminal)),
            Err(e) => {
                // It may have got half-way.
                ratatui::restore();
                Err(e)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Names the thread that comes to grief in the other process.
    const WHERE: &str = "LVSCOPE_TEST_PANIC_IN";

    /// Not a test of its own: what [`a_panic_gives_the_terminal_back`] runs on a terminal of its own.
    #[test]
    fn draws_and_panics() {
        let Ok(thread) = std::env::var(WHERE) else { return };
        let mut screen = Screen::open().expect("a terminal");
        screen.0.draw(|frame| frame.render_widget("drawn", frame.area())).expect("drawn");
        let grief = || -> () { panic!("something came to grief") };
        if thread == "another" {
            assert!(std::thread::spawn(grief).join().is_err());
        } else {
            grief();
        }
    }

    /// The alternate screen is left, the cursor is back and the line discipline is as before; the message stands on the ordinary screen.
    #[test]
    fn a_panic_gives_the_terminal_back() {
        if !Command::new("script").arg("--version").output().is_ok_and(|out| out.status.success()) {
            eprintln!("no script(1) here: no terminal to draw on");
            return;
        }
        let away = tempfile::tempdir().unwrap();
        let file = |name: &str| away.path().join(name);
        let this = std::env::current_exe().unwrap();
        for thread in ["the same", "another"] {
            let (before, after) = (file("before"), file("after"));
            let command = format!(
                "stty rows 24 cols 80; stty -a > {}; '{}' --exact cli::watch::screen::tests::draws_and_panics --nocapture; stty -a > {}",
                before.display(),
                this.display(),
                after.display()
            );
            let out = Command::new("script")
                .args(["-qec", &command, "/dev/null"])
                .env("TERM", "xterm")
                .env(WHERE, thread)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let screen = String::from_utf8_lossy(&out.stdout);
            let place = |what: &str| screen.find(what).unwrap_or_else(|| panic!("{thread} thread: no {what:?} in {screen:?}"));
            let (opened, drawn, closed, message) =
                (place("\u{1b}[?1049h"), place("drawn"), place("\u{1b}[?1049l"), place("something came to grief"));
            assert!(opened < drawn && drawn < closed && closed < message, "{thread} thread: {screen:?}");
            assert!(screen.rfind("\u{1b}[?25h") > Some(opened), "{thread} thread: the cursor is there again: {screen:?}");
            let modes = |path| std::fs::read_to_string(path).unwrap();
            assert_eq!(modes(before), modes(after), "{thread} thread");
            assert!(modes(file("before")).contains("icanon"), "a terminal was asked");
        }
    }
}
