//! What a key does.

use super::view::{Alone, Choice, Moment, key, listed, selected};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What is to be done about a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    /// Draw anew.
    Draw,
    /// Write the chosen connection into files.
    Export,
    /// Stop the picture, or let it go on.
    Pause,
    Quit,
    Nothing,
}

/// Changes the choice as the key says; `rows` is how many lines the screen has.
pub(super) fn press(event: KeyEvent, choice: &mut Choice, moment: Option<&Moment>, rows: usize) -> Deed {
    choice.message = None;
    let page = rows.saturating_sub(4).max(1) as isize;
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return match event.code {
            KeyCode::Char('c' | 'd') => Deed::Quit,
            KeyCode::Char('l') => Deed::Draw,
            _ => Deed::Nothing,
        };
    }
    match event.code {
        KeyCode::Char('q') => return Deed::Quit,
        KeyCode::Esc if choice.alone == Alone::Nothing => return Deed::Quit,
        KeyCode::Esc | KeyCode::Backspace => show(choice, Alone::Nothing),
        KeyCode::Char('e') => return Deed::Export,
        KeyCode::Char('p' | ' ') => return Deed::Pause,
        KeyCode::Char('?' | 'h') => toggle(choice, Alone::Help),
        KeyCode::Char('d') => toggle(choice, Alone::Findings),
        KeyCode::Enter => toggle(choice, Alone::Flow),
        KeyCode::Char('f') => choice.failed_only = !choice.failed_only,
        KeyCode::Up | KeyCode::Char('k') => step(choice, moment, -1),
        KeyCode::Down | KeyCode::Char('j') => step(choice, moment, 1),
        KeyCode::PageUp => step(choice, moment, -page),
        KeyCode::PageDown => step(choice, moment, page),
        KeyCode::Home | KeyCode::Char('g') => step(choice, moment, isize::MIN),
        KeyCode::End | KeyCode::Char('G') => step(choice, moment, isize::MAX),
        _ => return Deed::Nothing,
    }
    Deed::Draw
}

fn show(choice: &mut Choice, alone: Alone) {
    (choice.alone, choice.scrolled) = (alone, 0);
}

fn toggle(choice: &mut Choice, alone: Alone) {
    show(choice, if choice.alone == alone { Alone::Nothing } else { alone });
}

/// Scrolls what is alone, or chooses another connection.
fn step(choice: &mut Choice, moment: Option<&Moment>, by: isize) {
    /// No page is longer.
    const LONGEST: usize = 100_000;
    if choice.alone != Alone::Nothing {
        choice.scrolled = choice.scrolled.saturating_add_signed(by).min(LONGEST);
        return;
    }
    let Some(moment) = moment else { return };
    let flows = listed(&moment.trace, choice.failed_only);
    let Some(at) = selected(&flows, choice) else { return };
    let to = at.saturating_add_signed(by).min(flows.len() - 1);
    choice.selected = flows.get(to).map(key);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(choice: &mut Choice, code: KeyCode) -> Deed {
        press(KeyEvent::new(code, KeyModifiers::NONE), choice, None, 24)
    }

    #[test]
    fn keys_do_what_they_say() {
        let mut choice = Choice::default();
        assert_eq!(pressed(&mut choice, KeyCode::Enter), Deed::Draw);
        assert_eq!(choice.alone, Alone::Flow);
        for code in [KeyCode::Down, KeyCode::PageDown, KeyCode::Up] {
            pressed(&mut choice, code);
        }
        assert_eq!(choice.scrolled, 20);
        pressed(&mut choice, KeyCode::Home);
        assert_eq!(choice.scrolled, 0);
        pressed(&mut choice, KeyCode::End);
        assert_eq!(pressed(&mut choice, KeyCode::Esc), Deed::Draw);
        assert_eq!((choice.alone, choice.scrolled), (Alone::Nothing, 0));
        assert_eq!(pressed(&mut choice, KeyCode::Esc), Deed::Quit);
        assert_eq!(press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &mut choice, None, 24), Deed::Quit);
        assert_eq!([pressed(&mut choice, KeyCode::Char('e')), pressed(&mut choice, KeyCode::Char('p'))], [Deed::Export, Deed::Pause]);
        assert_eq!(pressed(&mut choice, KeyCode::F(7)), Deed::Nothing);
        for _ in 0..2 {
            pressed(&mut choice, KeyCode::Char('f'));
        }
        assert!(!choice.failed_only);
    }
}
