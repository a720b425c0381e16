//! Keys, as they are pressed: read on a thread of its own, for the terminal is waited for.

use std::io;
use std::thread;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The thread looks so often whether anybody still wants keys.
const LOOK: Duration = Duration::from_millis(100);
/// Keys that wait to be taken.
const WAITING_MAX: usize = 16;

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Press {
    /// The pane in that place.
    Pane(usize),
    NextPane,
    NextColumn,
    TurnRound,
    Pause,
    Up,
    Down,
    /// The terminal has another size.
    Redraw,
    End,
}

/// Begins to read; it ends when the receiver is dropped.
pub(super) fn follow() -> Receiver<io::Result<Press>> {
    let (sender, presses) = channel(WAITING_MAX);
    thread::spawn(move || read(&sender));
    presses
}

fn read(sender: &Sender<io::Result<Press>>) {
    while !sender.is_closed() {
        let event = match event::poll(LOOK) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let press = match event {
            Ok(event) => meaning(&event).map(Ok),
            Err(error) => Some(Err(error)),
        };
        let is_error = matches!(press, Some(Err(_)));
        if let Some(press) = press
            && (sender.blocking_send(press).is_err() || is_error)
        {
            return;
        }
    }
}

fn meaning(event: &Event) -> Option<Press> {
    let key = match event {
        Event::Resize(..) => return Some(Press::Redraw),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, KeyCode::Char('c' | 'd')).then_some(Press::End);
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Some(Press::End),
        KeyCode::Char('s') => Some(Press::NextColumn),
        KeyCode::Char('r') => Some(Press::TurnRound),
        KeyCode::Char('p' | ' ') => Some(Press::Pause),
        KeyCode::Char(digit @ '1'..='9') => Some(Press::Pane(digit.to_digit(10)? as usize - 1)),
        KeyCode::Tab | KeyCode::Right => Some(Press::NextPane),
        KeyCode::Up | KeyCode::Char('k') => Some(Press::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Press::Down),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn keys_mean_what_the_last_line_says() {
        let press = |code, modifiers| meaning(&Event::Key(KeyEvent::new(code, modifiers)));
        let plain = |letter| press(KeyCode::Char(letter), KeyModifiers::NONE);
        assert_eq!(plain('q'), Some(Press::End));
        assert_eq!(plain('3'), Some(Press::Pane(2)));
        assert_eq!(plain('x'), None);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Press::End));
        assert_eq!(press(KeyCode::Char('s'), KeyModifiers::CONTROL), None);
        assert_eq!(press(KeyCode::Tab, KeyModifiers::NONE), Some(Press::NextPane));
    }
}
