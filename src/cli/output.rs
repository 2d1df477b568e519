//! Where results and complaints go: results to standard output, everything else to standard error.

use super::Color;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

/// Standard output, buffered, with what is known of the terminal.
pub(super) struct Output {
    to: BufWriter<Stdout>,
    /// Columns to fill.
    pub(super) width: usize,
}

/// Columns where there is no terminal to ask.
const WIDTH: usize = 80;
/// Lines longer than this are hard to read on any terminal.
const WIDEST: usize = 140;

impl Output {
    /// Decides once about colour and width. `NO_COLOR` goes before everything but `--color always`.
    pub(super) fn new(color: Color) -> Self {
        let terminal = io::stdout().is_terminal();
        let wanted = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let refused =
                    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
                terminal && !refused
            }
        };
        colored::control::set_override(wanted);
        let seen = terminal_size::terminal_size().filter(|_| terminal).map(|(width, _)| usize::from(width.0));
        let said = || std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
        let width = seen.or_else(said).unwrap_or(WIDTH).clamp(WIDTH / 2, WIDEST);
        Output { to: BufWriter::with_capacity(1 << 16, io::stdout()), width }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// `lvscope: …` on standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "lvscope: {text}");
}
