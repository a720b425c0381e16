//! How the writer follows the tables.

use std::thread;
use std::time::Duration;

use quoit_storage::engine::Pressure;

/// How long a batch is held back while the tables fall behind, and how often they are looked at once they have.
const PAUSE: Duration = Duration::from_millis(1);

/// Slows the writer while the tables fall behind, and stops it a while where they have. Refusing at once would
/// fail all that came meanwhile, and leave the outcome of what other replicas took unknown.
#[derive(Default)]
pub(super) struct Pace {
    /// The tables did not catch up in time, and have not since: nobody waits for them.
    has_given_up: bool,
}

impl Pace {
    /// Waits before a batch, as the tables ask; where they stopped the writer, while that `is_worth_it`.
    pub(super) fn keep(&mut self, pressure: impl Fn() -> Pressure, is_worth_it: impl Fn() -> bool) {
        let calm = loop {
            match pressure() {
                Pressure::Halt if self.has_given_up => return,
                Pressure::Halt if is_worth_it() => thread::sleep(PAUSE),
                Pressure::Halt => {
                    tracing::warn!(
                        "flushes and compactions do not keep up: writes are refused until they do"
                    );
                    self.has_given_up = true;
                }
                calm => break calm,
            }
        };
        self.has_given_up = false;
        if calm == Pressure::Slow {
            thread::sleep(PAUSE);
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
        let mut pace = Pace::default();
        pace.keep(pressure, || true);
        assert_eq!(looks.get(), 20);
        assert!(!pace.has_given_up);
    }

    #[test]
    fn tables_that_do_not_catch_up_are_waited_for_once() {
        let mut pace = Pace::default();
        let looks = Cell::new(0);
        let looked = || {
            looks.set(looks.get() + 1);
            looks.get() <= 5
        };
        pace.keep(|| Pressure::Halt, looked);
        assert!(pace.has_given_up && looks.get() == 6);
        pace.keep(|| Pressure::Halt, looked);
        assert_eq!(looks.get(), 6, "refused at once from now on");
        pace.keep(|| Pressure::None, looked);
        assert!(!pace.has_given_up, "and waited for again");
    }
}
