//! How the writer follows the tables.

use std::thread;
use std::time::{Duration, Instant};

use quoit_storage::engine::Pressure;

/// How long a batch is held back while the tables fall behind, and how often they are looked at once they have.
const PAUSE: Duration = Duration::from_millis(1);
/// The tables may stop the writer for so long; then writes are refused. Most flushes take less, even where the
/// processor is short, and a client waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Slows the writer while the tables fall behind, and stops it a while where they have. Refusing at once would
/// fail all that came meanwhile, and leave the outcome of what other replicas took unknown.
pub(super) struct Pace {
    patience: Duration,
    /// The tables did not catch up in time, and have not since.
    has_given_up: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { patience: PATIENCE, has_given_up: false }
    }

    /// Waits before a batch, as the tables ask.
    pub(super) fn keep(&mut self, pressure: impl Fn() -> Pressure) {
        let began = Instant::now();
        loop {
            match pressure() {
                Pressure::Halt if self.has_given_up => return,
                Pressure::Halt if began.elapsed() >= self.patience => self.has_given_up = true,
                Pressure::Halt => thread::sleep(PAUSE),
                Pressure::Slow => {
                    self.has_given_up = false;
                    return thread::sleep(PAUSE);
                }
                Pressure::None => {
                    self.has_given_up = false;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_writer_waits_for_tables_that_catch_up() {
        let looks = Cell::new(0);
        let pressure = || {
            looks.set(looks.get() + 1);
            if looks.get() < 20 { Pressure::Halt } else { Pressure::Slow }
        };
        let mut pace = Pace { patience: Duration::from_secs(3_600), has_given_up: false };
        pace.keep(pressure);
        assert_eq!(looks.get(), 20);
        assert!(!pace.has_given_up);
    }

    #[test]
    fn tables_that_do_not_catch_up_are_waited_for_once() {
        let mut pace = Pace { patience: Duration::from_millis(5), has_given_up: false };
        let began = Instant::now();
        pace.keep(|| Pressure::Halt);
        assert!(pace.has_given_up && began.elapsed() >= pace.patience);
        let looks = Cell::new(0);
        pace.keep(|| {
            looks.set(looks.get() + 1);
            Pressure::Halt
        });
        assert_eq!(looks.get(), 1, "refused at once from now on");
        pace.keep(|| Pressure::None);
        assert!(!pace.has_given_up, "and waited for again");
    }
}
