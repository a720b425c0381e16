//! How quickly what one client asks is taken up.
//!
//! Operations are bounded by how many are in flight. What is answered at once is not, and costs the node
//! all the same: questions (the record, of tens of kilobytes, or the status) and refusals. So each client
//! has an allowance of time, which fills as time passes; such an answer takes from it, and one that has
//! none left is read no further until it has. QUIC's flow control tells it to wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::pace::Rate;

/// What a question takes: 50 a second. One process may ask for many (whoever names a table that is not
/// there asks for the record).
pub(super) const QUESTION: Duration = Duration::from_millis(20);
/// And so many of all clients together, each in its turn.
pub(super) const QUESTIONS: Rate = Rate { per_second: 500, burst: 1_000 };
/// What a refusal takes: 1,000 a second, which is more than a client sees that comes back when told.
pub(super) const REFUSAL: Duration = Duration::from_millis(1);
/// What an allowance holds after a quiet time: 400 questions, or 8,000 refusals.
const SAVED_MAX: Duration = Duration::from_secs(8);

/// The allowance of one client.
#[derive(Debug)]
pub(super) struct Allowance {
    since: Instant,
    /// When it would be full again, in microseconds since then.
    full_us: AtomicU64,
}

impl Allowance {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, full_us: AtomicU64::new(0) }
    }

    /// Takes from it, more than there is where need be.
    pub(super) fn take(&self, cost: Duration, now: Instant) {
        let (now_us, cost_us) = (self.passed_us(now), microseconds(cost));
        let taken = |full_us: u64| Some(full_us.max(now_us).saturating_add(cost_us));
        let _ = self.full_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
    }

    /// How long until something is left of it; zero where something is.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let until_us = self.full_us.load(Ordering::Relaxed).saturating_sub(microseconds(SAVED_MAX));
        Duration::from_micros(until_us.saturating_sub(self.passed_us(now)))
    }

    fn passed_us(&self, now: Instant) -> u64 {
        microseconds(now.saturating_duration_since(self.since))
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// So many questions are taken up by then, of a client that asks without end.
    fn asked(allowance: &Allowance, now: Instant) -> u32 {
        let mut count = 0;
        while allowance.wait(now).is_zero() {
            allowance.take(QUESTION, now);
            count += 1;
        }
        count
    }

    #[test]
    fn a_burst_is_taken_up_at_once_and_then_so_many_a_second() {
        let start = Instant::now();
        let allowance = Allowance::new(start);
        assert_eq!(asked(&allowance, start), 401);
        assert_eq!(allowance.wait(start), QUESTION);
        assert_eq!(asked(&allowance, start + QUESTION), 1);
        assert_eq!(asked(&allowance, start + SECOND), 49);
        assert_eq!(asked(&allowance, start + 60 * SECOND), 401, "a burst, and no more than that");
    }

    #[test]
    fn refusals_take_from_it_too() {
        let start = Instant::now();
        let allowance = Allowance::new(start);
        for _ in 0..10_000 {
            allowance.take(REFUSAL, start);
        }
        assert_eq!(allowance.wait(start), 2 * SECOND, "as all of them had been taken up before");
        assert_eq!(allowance.wait(start + 2 * SECOND), Duration::ZERO);
    }
}
