//! The view as cells of a screen of any size. Pure: the same view on the same area gives the same cells.

use super::view::{Alone, Row, Tone, View};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

const KEYS: &str = "↑↓ connection  ⏎ its way  d findings  f failed  e export  p pause  ? help  q end";

/// Draws everything.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, view: &View, color: bool) {
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return;
    }
    let mut canvas = Canvas { buffer, area, y: area.top(), color };
    canvas.title(view);
    if area.height > 2 {
        let body = area.height - 2;
        match view.alone {
            Alone::Nothing => canvas.panels(view, body),
            _ => canvas.rows(&view.whole, view.scrolled.min(view.whole.len().saturating_sub(usize::from(body))), body, None),
        }
    }
    canvas.foot(view);
}

struct Canvas<'b> {
    buffer: &'b mut Buffer,
    area: Rect,
    /// The next line.
    y: u16,
    color: bool,
}

impl Canvas<'_> {
    /// A line of text, cut at the edge.
    fn line(&mut self, text: &str, style: Style) {
        if self.y < self.area.bottom() {
            self.buffer.set_stringn(self.area.left(), self.y, text, usize::from(self.area.width), style);
            self.y += 1;
        }
    }

    fn style(&self, tone: Tone) -> Style {
        let style = Style::new();
        match (self.color, tone) {
            (_, Tone::Plain) => style,
            (_, Tone::Faint) => style.add_modifier(Modifier::DIM),
            (false, Tone::Bad) => style.add_modifier(Modifier::BOLD),
            (false, _) => style,
            (true, Tone::Good) => style.fg(Color::Green),
            (true, Tone::Bad) => style.fg(Color::Red),
            (true, Tone::Doubtful) => style.fg(Color::Yellow),
        }
    }

    fn title(&mut self, view: &View) {
        let width = usize::from(self.area.width);
        let state = format!(" {}", view.state);
        let room = width.saturating_sub(state.chars().count());
        let text: String = format!("{:<room$}", view.title).chars().take(room).chain(state.chars()).collect();
        self.line(&text, Style::new().add_modifier(Modifier::REVERSED));
    }

    fn foot(&mut self, view: &View) {
        if self.area.height > 1 {
            self.y = self.area.bottom() - 1;
            let alone = "↑↓ scroll  e export  Esc back  q end";
            let keys = if view.alone == Alone::Nothing { KEYS } else { alone };
            match &view.message {
                Some(message) => self.line(message, Style::new().add_modifier(Modifier::BOLD)),
                None => self.line(keys, Style::new().add_modifier(Modifier::DIM)),
            }
        }
    }

    /// The head of a panel: its name, and what it says of all of its lines.
    fn head(&mut self, name: &str, more: &str) {
        let y = self.y;
        self.line(name, Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED));
        let at = self.area.left().saturating_add(name.chars().count() as u16 + 2);
        if y < self.area.bottom() && at < self.area.right() {
            self.buffer.set_stringn(at, y, more, usize::from(self.area.right() - at), Style::new().add_modifier(Modifier::DIM));
        }
    }

    /// Some of the rows, from one on; of one that is selected the whole line is marked.
    fn rows(&mut self, rows: &[Row], from: usize, most: u16, selected: Option<usize>) {
        let end = self.y.saturating_add(most);
        for (at, row) in rows.iter().enumerate().skip(from).take(usize::from(most)) {
            let mut style = self.style(row.tone);
            if selected == Some(at) {
                style = style.add_modifier(Modifier::REVERSED);
            }
            self.line(&row.text, style);
        }
        self.y = end.min(self.area.bottom());
    }

    fn panels(&mut self, view: &View, body: u16) {
        let wanted =
            [view.services.len(), view.findings.len().max(1), view.flows.len().max(1), view.ladder.len(), view.claims.len().max(1)];
        let heights = share(body, wanted);
        let none = |text: &str| vec![Row { text: format!("  {text}"), tone: Tone::Faint }];
        for (panel, height) in heights.into_iter().enumerate().filter(|(_, height)| *height > 0) {
            let height = height - 1;
            let quiet;
            let (name, more, rows) = match panel {
                0 => ("services", String::new(), &view.services),
                1 => ("findings", String::new(), &view.findings),
                2 => ("connections", view.states.clone(), &view.flows),
                3 => ("the way", String::new(), &view.ladder),
                _ => ("who has the VIP", String::new(), &view.claims),
            };
            let more = match (more.is_empty(), rows.len().saturating_sub(usize::from(height))) {
                (false, _) | (true, 0) => more,
                (true, hidden) => format!("and {hidden} more"),
            };
            let rows = match (rows.is_empty(), panel) {
                (true, 1) => {
                    quiet = none("nothing is found wrong");
                    &quiet
                }
                (true, 2) => {
                    quiet = none("none yet");
                    &quiet
                }
                (true, 4) => {
                    quiet = none("nobody was asked, and nobody said so");
                    &quiet
                }
                _ => rows,
            };
            self.head(name, &more);
            match panel {
                2 => {
                    let at = view.selected.unwrap_or(0);
                    // The chosen one stays in sight.
                    let from = at.saturating_sub(usize::from(height) / 2).min(rows.len().saturating_sub(usize::from(height)));
                    self.rows(rows, from, height, view.selected);
                }
                _ => self.rows(rows, 0, height, None),
            }
        }
    }
}

/// Lines for each panel, its head included: what it needs if there is room for all, else in turn one more for each that still lacks some,
/// the more important ones first. A panel that would have its head alone has none.
fn share(body: u16, wanted: [usize; 5]) -> [u16; 5] {
    /// How many lines at least, for a panel to be of use.
    const LEAST: [u16; 5] = [3, 2, 3, 4, 2];
    let mut heights = [0u16; 5];
    let mut left = body;
    for panel in [0, 1, 2, 3, 4] {
        let least = LEAST[panel].min(wanted[panel] as u16 + 1);
        if wanted[panel] > 0 && left >= least {
            heights[panel] = least;
            left -= least;
        }
    }
    while left > 0 {
        let before = left;
        for panel in [3, 2, 4, 3, 0, 1] {
            if left > 0 && heights[panel] > 0 && usize::from(heights[panel]) <= wanted[panel] {
                heights[panel] += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::super::view::{Choice, Moment, key, listed, view};
    use super::*;
    use crate::case::{Case, Limits, read};
    use crate::host::Fleet;
    use crate::rules::{Facts, diagnose};
    use crate::trace::{Hints, Options};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::path::Path;

    fn moment(case: &str) -> Moment {
        colored::control::set_override(false);
        let case = Case::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(case)).unwrap();
        let trace = read(&case.captures, Options::default(), Limits::default(), |_| {}).trace;
        let diagnosis = diagnose(&Facts { trace: &trace, hints: &Hints::default(), fleet: &Fleet::default() });
        Moment { trace, diagnosis, gone: Vec::new(), from: "eth0 lo".into(), state: "live", forgotten: 0 }
    }

    /// The screen as text, and its cells.
    fn screen(view: &View, width: u16, height: u16) -> (String, Buffer) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame.buffer_mut(), Rect::new(0, 0, width, height), view, true)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_string();
        ((0..height).map(line).collect::<Vec<_>>().join("\n") + "\n", buffer)
    }

    fn snapshot(name: &str, found: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots").join(format!("{name}.txt"));
        if std::env::var_os("LVSCOPE_BLESS").is_some() {
            std::fs::write(&path, found).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "{name} differs\n--- wanted\n{wanted}\n--- found\n{found}");
    }

    #[test]
    fn screens() {
        let broken = moment("faults/dr-arp-leak");
        for (width, height) in [(80, 24), (120, 44)] {
            let (text, _) = screen(&view(&broken, &Choice::default(), usize::from(width)), width, height);
            snapshot(&format!("watch-{width}x{height}"), &text);
        }
        let alone = Choice { alone: Alone::Flow, ..Choice::default() };
        snapshot("watch-flow", &screen(&view(&broken, &alone, 80), 80, 24).0);
        snapshot("watch-help", &screen(&view(&broken, &Choice { alone: Alone::Help, ..Choice::default() }, 80), 80, 24).0);
    }

    #[test]
    fn everything_asked_for_is_in_sight_on_a_small_terminal() {
        let broken = moment("faults/dr-arp-leak");
        let (text, buffer) = screen(&view(&broken, &Choice::default(), 80), 80, 24);
        let service = &broken.trace.flows[0].service.to_string();
        for wanted in [service.as_str(), "web1", "ARP001", "192.168.224.13 is at", "q end", "the way", "▶", "complete"] {
            assert!(text.contains(wanted), "{wanted} is missing:\n{text}");
        }
        let coloured = buffer.content().iter().filter(|cell| matches!(cell.fg, Color::Red | Color::Yellow)).count();
        assert!(coloured > 10, "what is wrong is seen at once");
    }

    #[test]
    fn the_chosen_one_is_marked_and_in_sight() {
        let fine = moment("healthy/nat-ok");
        let flows = listed(&fine.trace, false);
        for flow in &flows {
            let choice = Choice { selected: Some(key(flow)), ..Choice::default() };
            let (_, buffer) = screen(&view(&fine, &choice, 80), 80, 24);
            let marked: String = (1..24u16)
                .filter(|y| buffer[(0, *y)].modifier.contains(Modifier::REVERSED))
                .flat_map(|y| (0..80).map(move |x| (x, y)))
                .map(|at| buffer[at].symbol().to_string())
                .collect();
            assert!(marked.contains(&flow.client.to_string()), "{marked}");
        }
        assert_eq!(listed(&fine.trace, true).len(), 0);
    }

    #[test]
    fn health_checks_are_told_from_services() {
        let checked = moment("faults/nat6-rs-checked");
        let rows = view(&checked, &Choice::default(), 120).services;
        let of_checks = rows.iter().filter(|row| row.text.contains("health checks by director"));
        let of_services = rows.iter().filter(|row| row.text.contains("LVS-NAT"));
        assert_eq!((of_checks.count() > 0, of_services.count()), (true, 1), "{:?}", rows.iter().map(|r| &r.text).collect::<Vec<_>>());
    }

    #[test]
    fn no_size_is_too_small() {
        let moments = [moment("faults/dr-arp-leak"), moment("healthy/tun-ok")];
        for moment in &moments {
            for alone in [Alone::Nothing, Alone::Flow, Alone::Findings, Alone::Help] {
                for (width, height) in (0..30u16).flat_map(|w| (0..26u16).map(move |h| (w, h))).chain([(500, 200), (1, 300), (300, 1)]) {
                    let choice =
                        Choice { alone, scrolled: 7, message: width.is_multiple_of(3).then(|| "✓ written".into()), ..Choice::default() };
                    let view = view(moment, &choice, usize::from(width));
                    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
                    draw(&mut buffer, Rect::new(0, 0, width, height), &view, false);
                    // Nor one that does not fit.
                    draw(&mut buffer, Rect::new(3, 2, 90, 40), &view, true);
                }
            }
        }
        draw(&mut Buffer::empty(Rect::new(0, 0, 80, 24)), Rect::new(0, 0, 80, 24), &View::default(), true);
    }

    #[test]
    fn lines_are_shared_out() {
        for body in 0..80u16 {
            for wanted in [[0; 5], [1, 1, 1, 1, 1], [40, 40, 40, 40, 40], [2, 1, 300, 12, 3]] {
                let heights = share(body, wanted);
                assert!(heights.iter().sum::<u16>() <= body, "{body} {wanted:?}: {heights:?}");
                assert!(heights.iter().zip(wanted).all(|(h, w)| *h != 1 && usize::from(*h) <= w + 1), "{body} {wanted:?}: {heights:?}");
            }
        }
    }
}
